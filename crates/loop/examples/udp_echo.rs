//! A UDP echo server in callback style: `cargo run --example udp_echo -- 127.0.0.1:7000`. Ctrl-C ends it, and so does
//! the end of its input.
//!
//! Several receives are in flight, each with a buffer of its own, so that the next datagram need not wait until the
//! last answer has gone out.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use towpath_loop::{Loop, SockAddr, Socket, is_canceled, op};

mod common;

const IN_FLIGHT: usize = 8;
/// No datagram is longer.
const SIZE: usize = 64 * 1024;

fn receive(loop_: &Loop, socket: Socket, buf: Vec<u8>) {
    loop_.submit(op::recv_from(socket.clone(), buf), |loop_, received| match received {
        Ok(datagram) => {
            let (n, mut buf) = datagram.received;
            buf.truncate(n);
            answer(loop_, socket, buf, datagram.from);
        }
        Err(failed) if is_canceled(&failed.error) => {}
        Err(failed) => {
            eprintln!("recv_from: {failed}");
            loop_.stop();
        }
    });
}

fn answer(loop_: &Loop, socket: Socket, buf: Vec<u8>, to: SockAddr) {
    loop_.submit(op::send_to(socket.clone(), buf, to), move |loop_, sent| {
        let buf = match sent {
            Ok((_, buf)) => Some(buf),
            // No way to this peer; the others are waiting.
            Err(failed) => {
                eprintln!("send_to {to:?}: {failed}");
                failed.buf
            }
        };
        let mut buf = buf.unwrap_or_default();
        buf.resize(SIZE, 0);
        receive(loop_, socket, buf);
    });
}

fn main() -> io::Result<()> {
    let loop_ = Loop::new()?;
    let socket = UdpSocket::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into()))?;
    println!("listening on {} with {}", socket.local_addr()?, loop_.backend());
    common::stop_when_told(&loop_)?;
    let socket = Socket::from(OwnedFd::from(socket));
    for _ in 0..IN_FLIGHT {
        receive(&loop_, socket.clone(), vec![0; SIZE]);
    }
    loop_.run()
}
