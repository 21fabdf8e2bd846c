//! Towpath's event loop alone, with callbacks.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use towpath_loop::{BackendKind, Config, Failed, IoBuf, Loop, Socket, op};

use crate::conversation::{Conversation, Step};
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

pub fn run(options: &Options, backend: BackendKind) -> Serving {
    let loop_ = Config::new().backend(backend).build()?;
    if options.service == Service::Udp {
        let socket = Socket::from(OwnedFd::from(sockets::datagram()?));
        datagram(&loop_, socket, vec![0; BUFFER]);
    } else {
        let listener = Socket::from(OwnedFd::from(sockets::listener()?));
        accept(&loop_, listener, options.service);
    }
    loop_.run()?;
    Err(io::Error::other("nothing is in flight any more"))
}

/// Serves the next connection, and those after it.
fn accept(loop_: &Loop, listener: Socket, service: Service) {
    loop_.submit(op::accept(listener.clone()), move |loop_, outcome| {
        if let Ok((socket, _)) = outcome {
            let (conversation, buf) = (Conversation::new(service), vec![0; BUFFER]);
            proceed(loop_, Box::new(Connection { socket, conversation, buf }), Step::Receive);
        }
        accept(loop_, listener, service);
    });
}

struct Connection {
    socket: Socket,
    conversation: Conversation,
    /// Empty while an operation has it.
    buf: Vec<u8>,
}

/// Takes one step of a connection, which is dropped, and so closed, where it ends or fails.
fn proceed(loop_: &Loop, mut connection: Box<Connection>, step: Step) {
    match step {
        Step::Receive => {
            let (socket, buf) = (connection.socket.clone(), mem::take(&mut connection.buf));
            loop_.submit(op::recv(socket, buf), move |loop_, outcome| {
                let Ok((n, buf)) = outcome else { return };
                connection.buf = buf;
                let step = connection.conversation.received(&mut connection.buf[..n]);
                proceed(loop_, connection, step);
            });
        }
        Step::Echo(len) => {
            let socket = connection.socket.clone();
            let front = Front { buf: mem::take(&mut connection.buf), len };
            loop_.submit(op::send(socket, front).all(true), move |loop_, outcome| {
                let Ok((_, front)) = outcome else { return };
                connection.buf = front.buf;
                sent(loop_, connection);
            });
        }
        Step::Send(bytes) => send(loop_, connection, bytes),
        Step::SendDigest(bytes) => send(loop_, connection, bytes),
        Step::Close => {}
    }
}

fn send(loop_: &Loop, connection: Box<Connection>, bytes: impl IoBuf + 'static) {
    loop_.submit(op::send(connection.socket.clone(), bytes).all(true), move |loop_, outcome| {
        if outcome.is_ok() {
            sent(loop_, connection);
        }
    });
}

fn sent(loop_: &Loop, mut connection: Box<Connection>) {
    let step = connection.conversation.sent();
    proceed(loop_, connection, step);
}

/// Sends the next datagram back, and those after it.
fn datagram(loop_: &Loop, socket: Socket, buf: Vec<u8>) {
    loop_.submit(op::recv_from(socket.clone(), buf), move |loop_, outcome| match outcome {
        Ok(received) => {
            let (len, buf) = received.received;
            let reply = op::send_to(socket.clone(), Front { buf, len }, received.from);
            loop_.submit(reply, move |loop_, outcome| {
                // Datagrams may be lost.
                let front = outcome.map_or_else(|failed| failed.buf, |(_, front)| Some(front));
                datagram(loop_, socket, front.map_or_else(|| vec![0; BUFFER], |front| front.buf));
            });
        }
        Err(failed) => eprintln!("{failed}"),
    });
}

/// The first bytes of a buffer.
struct Front {
    buf: Vec<u8>,
    len: usize,
}

// SAFETY: the vector owns its bytes, which stay where they are, initialised and unchanged, while it is left alone.
unsafe impl IoBuf for Front {
    type Done = (usize, Front);
    type Error = Failed<Front>;

    fn bytes(&self) -> (*const u8, usize) {
        (self.buf.as_ptr(), self.len)
    }

    fn done(self, n: usize) -> (usize, Front) {
        (n, self)
    }

    fn failed(self, n: usize, error: io::Error) -> Failed<Front> {
        Failed { error, transferred: n, buf: Some(self) }
    }
}
