use towpath::thread::Group;

fn main() {
    let text = String::from("text");
    let mut group = Group::<usize>::new();
    group.spawn(|| Ok(text.len()));
    group.wait().unwrap();
}
