//! A task's result goes to whoever joins it.

use std::rc::Rc;

fn main() {
    towpath::thread::spawn(|| Rc::new(1));
}
