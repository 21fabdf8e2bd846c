//! A borrowed buffer: a callback runs after the call has returned.

use towpath_loop::{Loop, Socket, op};

fn lend(loop_: &Loop, socket: &Socket) {
    let mut buf = [0; 64];
    loop_.submit(op::recv(socket, &mut buf[..]), |_, _| ());
}

fn main() {
    let _ = lend;
}
