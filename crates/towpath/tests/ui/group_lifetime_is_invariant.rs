use towpath::thread::{Group, ScopedGroup};

fn shorter<'a>(group: Group<usize>) -> ScopedGroup<'a, usize> {
    group
}

fn main() {
    let text = String::from("text");
    let mut group = shorter(Group::new());
    group.spawn(|| Ok(text.len()));
    std::mem::forget(group);
}
