//! A borrowed buffer: a ticket may be kept.

use towpath_loop::{Loop, Socket, op};

fn lend(loop_: &Loop, socket: &Socket) {
    let buf = [0; 64];
    drop(loop_.start(op::send(socket, &buf[..])));
}

fn main() {
    let _ = lend;
}
