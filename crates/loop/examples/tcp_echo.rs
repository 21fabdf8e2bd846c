//! A TCP echo server in callback style: `cargo run --example tcp_echo -- 127.0.0.1:7000`. Ctrl-C ends it, and so does
//! the end of its input.
//!
//! Each callback begins the next step: accept, receive, send what was received, receive again. A buffer travels with
//! the operations, in and out again; a socket closes with the last handle to it.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use towpath_loop::{Loop, Socket, is_canceled, op};

mod common;

const SIZE: usize = 16 * 1024;

fn accept(loop_: &Loop, listener: Socket) {
    loop_.submit(op::accept(listener.clone()), |loop_, accepted| {
        match accepted {
            Ok((socket, _peer)) => receive(loop_, socket, vec![0; SIZE]),
            Err(error) if is_canceled(&error) => return,
            // Out of descriptors, say. The loop has paused before it told, so this does not spin.
            Err(error) => eprintln!("accept: {error}"),
        }
        accept(loop_, listener);
    });
}

fn receive(loop_: &Loop, socket: Socket, buf: Vec<u8>) {
    loop_.submit(op::recv(socket.clone(), buf), |loop_, received| match received {
        Ok((0, _)) => {} // The peer has said all; the socket goes here.
        Ok((n, mut buf)) => {
            buf.truncate(n);
            send(loop_, socket, buf);
        }
        Err(failed) => eprintln!("recv: {failed}"),
    });
}

fn send(loop_: &Loop, socket: Socket, buf: Vec<u8>) {
    loop_.submit(op::send(socket.clone(), buf).all(true), |loop_, sent| match sent {
        Ok((_, mut buf)) => {
            buf.resize(SIZE, 0);
            receive(loop_, socket, buf);
        }
        Err(failed) => eprintln!("send: {failed}"),
    });
}

/// Serves on this loop, until it is told to end.
pub fn serve(loop_: &Loop) -> io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into()))?;
    println!("listening on {} with {}", listener.local_addr()?, loop_.backend());
    common::stop_when_told(loop_)?;
    accept(loop_, OwnedFd::from(listener).into());
    loop_.run()
}

#[allow(dead_code, reason = "the examples of custom pollers and backends serve the same")]
fn main() -> io::Result<()> {
    serve(&Loop::new()?) // The loop goes here: it cancels what is in flight, and waits until the kernel has let go.
}
