use towpath::thread::{self, ScopedGroup};

fn main() {
    let group: ScopedGroup<'_, usize> = thread::scope(|s| s.group());
    drop(group);
}
