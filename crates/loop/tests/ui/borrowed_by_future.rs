//! A borrowed buffer: a future may be forgotten.

use towpath_loop::{Socket, op};

async fn lend(socket: &Socket) {
    let mut buf = [0; 64];
    op::recv(socket, &mut buf[..]).await.unwrap();
}

fn main() {
    let _ = lend;
}
