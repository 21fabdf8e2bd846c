//! A handle of a scope's task does not leave the scope.

fn main() {
    let text = String::from("text");
    let task = towpath::thread::scope(|s| s.spawn(|| text.len()));
    drop(text);
    let _ = task.join();
}
