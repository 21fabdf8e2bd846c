//! Passes connections on to another address: `cargo run --release --example proxy -- 127.0.0.1:7000 127.0.0.1:7001`. Ctrl-C ends
//! it, and so does the end of its input.
//!
//! In callback style. Each connection has two directions, each with a pipe, through which `splice` moves the bytes without
//! bringing them into the process: from the one socket into the pipe, from the pipe into the other. Where the system does not
//! let it, a buffer takes the pipe's place.
//!
//! The end of one direction is passed on, and the other goes on; an error or a reset ends both, and is passed on as a reset.
//! Whoever reads slowly holds up who writes to it, and nobody else.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;
use towpath_loop::{File, IoBuf, Loop, SockAddr, Socket, is_canceled, op};

mod common;

/// The most that is on its way in one direction: as much as a pipe holds.
const SIZE: usize = 64 * 1024;
/// How long the target may take to accept.
const PATIENCE: Duration = Duration::from_secs(10);

/// One direction of a connection.
struct Direction {
    from: Socket,
    to: Socket,
}

impl Direction {
    /// Moves bytes through the pipe until there are no more.
    fn splice(self, loop_: &Loop, (out, into): (File, File)) {
        loop_.submit(op::splice(self.from.clone(), into.clone(), SIZE), move |loop_, moved| match moved {
            Ok(0) => self.end(loop_),
            Ok(n) => {
                loop_.submit(op::splice(out.clone(), self.to.clone(), n).all(true), move |loop_, moved| {
                    match moved {
                        Ok(_) => self.splice(loop_, (out, into)),
                        Err(error) => self.give_up(loop_, &error),
                    }
                });
            }
            // Not for these sockets, or not for us.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::PermissionDenied | ErrorKind::Unsupported
                ) =>
            {
                self.copy(loop_, vec![0; SIZE]);
            }
            Err(error) => self.give_up(loop_, &error),
        });
    }

    /// Likewise, through a buffer.
    fn copy(self, loop_: &Loop, buf: Vec<u8>) {
        loop_.submit(op::recv(self.from.clone(), buf), |loop_, received| match received {
            Ok((0, _)) => self.end(loop_),
            Ok((n, buf)) => {
                loop_.submit(op::send(self.to.clone(), buf.slice(..n)).all(true), |loop_, sent| match sent {
                    Ok((_, sent)) => self.copy(loop_, sent.into_inner()),
                    Err(failed) => self.give_up(loop_, &failed.error),
                });
            }
            Err(failed) => self.give_up(loop_, &failed.error),
        });
    }

    /// Passes the end on. The sockets close when the other direction has come to its end as well.
    fn end(self, loop_: &Loop) {
        loop_.submit(op::shutdown(self.to, Shutdown::Write), |_, _| {}); // Fails if it is gone already.
    }

    /// Ends both directions: what is in flight in the other one is cancelled by the close.
    fn give_up(self, loop_: &Loop, error: &io::Error) {
        if is_canceled(error) {
            return; // The other direction has done it.
        }
        for socket in [self.from, self.to] {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO)); // A close is a reset, then.
            loop_.submit(op::close(socket), |_, _| {});
        }
    }
}

fn accept(loop_: &Loop, listener: Socket, target: SocketAddr) {
    loop_.submit(op::accept(listener.clone()), move |loop_, accepted| {
        match accepted {
            Ok((client, _)) => dial(loop_, client, target),
            Err(error) if is_canceled(&error) => return,
            // Out of descriptors, say. The loop has paused before it told, so this does not spin.
            Err(error) => eprintln!("accept: {error}"),
        }
        accept(loop_, listener, target);
    });
}

/// Connects a client with the target. If that is not to be, the client's connection closes with its socket.
fn dial(loop_: &Loop, client: Socket, target: SocketAddr) {
    let target = SockAddr::from(target);
    loop_.submit(op::socket(target.family(), libc::SOCK_STREAM, 0), move |loop_, made| match made {
        Ok(server) => {
            loop_.submit(op::connect(server.clone(), target).timeout(PATIENCE), move |loop_, connected| {
                match connected {
                    Ok(()) => relay(loop_, client, server),
                    Err(error) => eprintln!("target: {error}"),
                }
            });
        }
        Err(error) => eprintln!("target: {error}"),
    });
}

fn relay(loop_: &Loop, client: Socket, server: Socket) {
    for socket in [&client, &server] {
        let _ = SockRef::from(socket).set_tcp_nodelay(true); // Whoever sends little at a time has a reason.
    }
    for (from, to) in [(client.clone(), server.clone()), (server, client)] {
        let direction = Direction { from, to };
        loop_.submit(op::pipe(), |loop_, made| match made {
            Ok(pipe) => direction.splice(loop_, pipe),
            Err(error) => {
                eprintln!("pipe: {error}");
                direction.give_up(loop_, &error);
            }
        });
    }
}

fn main() -> io::Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [listen, target] = &args[..] else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "usage: proxy LISTEN TARGET"));
    };
    let target = target.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
    let loop_ = Loop::new()?;
    let listener = TcpListener::bind(listen)?;
    let addr = listener.local_addr()?;
    common::stop_when_told(&loop_)?;
    accept(&loop_, OwnedFd::from(listener).into(), target);
    println!("listening on {addr} with {}", loop_.backend());
    loop_.run()
}
