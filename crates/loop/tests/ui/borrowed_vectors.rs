//! Borrowed buffers in a vectored operation are borrowed as well.

use std::io::IoSlice;
use towpath_loop::{Loop, Socket, op};

fn lend(loop_: &Loop, socket: &Socket) {
    let buf = [0; 64];
    let slices = [IoSlice::new(&buf)];
    drop(loop_.start(op::send_vectored(socket, &slices[..])));
}

fn main() {
    let _ = lend;
}
