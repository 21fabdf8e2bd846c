//! Towpath's event loop alone, with callbacks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use towpath_loop::{BackendKind, BufferPool, Chunk, Config, Failed, IoBuf, Loop, OpId, Socket, op};

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
        accept(&loop_, listener, options.service)?;
    }
    loop_.run()?;
    Err(io::Error::other("nothing is in flight any more"))
}

/// Serves every connection that comes.
fn accept(loop_: &Loop, listener: Socket, service: Service) -> io::Result<()> {
    // A sink gives each chunk back at once; others keep it until they have answered.
    let pool = match service {
        Service::Sink => BufferPool::with_capacity(16, BUFFER)?,
        _ => BufferPool::with_capacity(4096, 4096)?,
    };
    loop_.submit_stream(op::accept_multi(listener), move |loop_, socket| {
        if let Some(Ok(socket)) = socket {
            serve(loop_, socket, &pool, service);
        }
        ControlFlow::Continue(())
    });
    Ok(())
}

/// A connection; it is dropped, and so closed, when its stream of receives has ended and its last send is over.
struct Connection {
    socket: Socket,
    conversation: RefCell<Conversation>,
    /// What came while something was being sent.
    unread: RefCell<VecDeque<Chunk>>,
    sending: Cell<bool>,
    /// The peer has said all; not answered yet.
    ended: Cell<bool>,
    receiving: Cell<Option<OpId>>,
}

fn serve(loop_: &Loop, socket: Socket, pool: &BufferPool, service: Service) {
    let connection = Rc::new(Connection {
        socket,
        conversation: RefCell::new(Conversation::new(service)),
        unread: RefCell::default(),
        sending: Cell::new(false),
        ended: Cell::new(false),
        receiving: Cell::new(None),
    });
    let receives = op::recv_multi(&connection.socket, pool);
    let this = connection.clone();
    let id = loop_.submit_stream(receives, move |loop_, chunk| {
        match chunk {
            Some(Ok(chunk)) if this.sending.get() => this.unread.borrow_mut().push_back(chunk),
            Some(Ok(chunk)) => received(loop_, &this, chunk),
            Some(Err(_)) => return ControlFlow::Break(()),
            None if this.sending.get() => this.ended.set(true),
            None => end(loop_, &this),
        }
        ControlFlow::Continue(())
    });
    connection.receiving.set(Some(id));
}

fn received(loop_: &Loop, connection: &Rc<Connection>, mut chunk: Chunk) {
    let step = connection.conversation.borrow_mut().received(&mut chunk);
    match step {
        Step::Echo(len) if len == chunk.len() => send(loop_, connection, chunk),
        step => proceed(loop_, connection, step),
    }
}

fn end(loop_: &Loop, connection: &Rc<Connection>) {
    let step = connection.conversation.borrow_mut().received(&mut []);
    proceed(loop_, connection, step);
}

/// Takes one step that is no echo.
fn proceed(loop_: &Loop, connection: &Rc<Connection>, step: Step) {
    match step {
        Step::Receive => {}
        Step::Echo(_) => unreachable!("an echo is of all that was received"),
        Step::Send(bytes) => send(loop_, connection, bytes),
        Step::SendDigest(bytes) => send(loop_, connection, bytes),
        Step::Close => {
            if let Some(id) = connection.receiving.take() {
                loop_.remove(id);
            }
        }
    }
}

fn send(loop_: &Loop, connection: &Rc<Connection>, bytes: impl IoBuf + 'static) {
    connection.sending.set(true);
    let this = connection.clone();
    let bytes = op::send(&connection.socket, bytes).all(true);
    loop_.submit(bytes, move |loop_, outcome| {
        if outcome.is_err() {
            return proceed(loop_, &this, Step::Close);
        }
        drop(outcome);
        this.sending.set(false);
        let step = this.conversation.borrow_mut().sent();
        proceed(loop_, &this, step);
        while !this.sending.get() {
            let Some(chunk) = this.unread.borrow_mut().pop_front() else { break };
            received(loop_, &this, chunk);
        }
        if !this.sending.get() && this.ended.take() {
            end(loop_, &this);
        }
    });
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
