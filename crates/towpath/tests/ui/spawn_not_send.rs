//! A task may start on any worker, so its closure must be `Send`.

use std::rc::Rc;

fn main() {
    let shared = Rc::new(1);
    towpath::thread::spawn(move || println!("{shared}"));
}
