//! What a local task returns stays on its thread.

use std::rc::Rc;

fn main() {
    let task = towpath::thread::spawn_local(|| Rc::new(1));
    std::thread::spawn(move || task.join());
}
