//! A borrowed buffer: another thread is not waited for.

use towpath_loop::{Remote, Socket, op};

fn lend(remote: &Remote, socket: &Socket) {
    let mut buf = [0; 64];
    let _ = remote.submit(op::recv(socket, &mut buf[..]), |_, _| ());
}

fn main() {
    let _ = lend;
}
