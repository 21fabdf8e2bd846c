//! What goes to a loop through a `Remote` crosses threads.

use std::rc::Rc;
use towpath_loop::Remote;

fn post(remote: &Remote, mine: Rc<i32>) {
    let _ = remote.run(move |_| drop(mine));
}

fn main() {
    let _ = post;
}
