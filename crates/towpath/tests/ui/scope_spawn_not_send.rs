//! A scope's tasks may start on any worker.

use std::cell::Cell;

fn main() {
    let cell = Cell::new(1);
    towpath::thread::scope(|s| {
        s.spawn(|| cell.set(2));
    });
}
