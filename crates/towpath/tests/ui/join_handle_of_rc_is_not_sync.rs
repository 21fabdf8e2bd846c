//! Nor may its handle be shared with another.

use std::rc::Rc;

fn main() {
    let task = towpath::thread::spawn_local(|| Rc::new(1));
    std::thread::scope(|s| {
        s.spawn(|| task.is_finished());
    });
}
