//! Connections: a multishot receive on each, and one send at a time.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, Fixed};
use io_uring::{SubmissionQueue, Submitter, cqueue, opcode, squeue};

use super::buffers::{Buffers, GROUP};
use super::{push, ring, wait};
use crate::conversation::{Conversation, Step};
use crate::protocol::Service;
use crate::{Serving, sockets};

/// The most connections at a time, if so many descriptors are permitted.
const CONNECTIONS: u64 = 32 << 10;

/// What completes: in the low bits of `user_data`, with the connection's number above.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const OTHER: u64 = 3;

fn receive_data(at: usize) -> u64 {
    (at as u64) << 2 | RECEIVE
}

pub fn run(service: Service) -> Serving {
    let listener = sockets::listener()?;
    let mut ring = ring()?;
    let (submitter, sq, mut cq) = ring.split();
    submitter.register_files_sparse(sockets::raise_limit().min(CONNECTIONS) as u32)?;
    // A sink gives each back at once. Others keep them until they have answered.
    let buffers = Buffers::register(&submitter, if service == Service::Sink { 16 } else { 4096 })?;
    let mut server = Server {
        service,
        submitter,
        sq,
        buffers,
        connections: Vec::new(),
        starved: Vec::new(),
        listener: Fd(listener.as_raw_fd()),
    };
    server.accept()?;
    loop {
        wait(&server.submitter, &mut server.sq)?;
        cq.sync();
        for completion in &mut cq {
            let at = (completion.user_data() >> 2) as usize;
            match completion.user_data() & 3 {
                ACCEPT => server.accepted(&completion)?,
                RECEIVE => server.received(at, &completion)?,
                SEND => server.sent(at, completion.result())?,
                _ => {}
            }
        }
        if server.buffers.any() {
            for at in mem::take(&mut server.starved) {
                server.receive_again(at)?;
            }
        }
    }
}

struct Server<'r> {
    service: Service,
    submitter: Submitter<'r>,
    sq: SubmissionQueue<'r>,
    buffers: Buffers,
    /// By number in the ring's table.
    connections: Vec<Option<Connection>>,
    /// Those whose receive ended because there was no buffer.
    starved: Vec<usize>,
    listener: Fd,
}

struct Connection {
    conversation: Conversation,
    /// What is being sent.
    out: Option<Out>,
    /// What came meanwhile, and the buffers that it is in.
    pending: VecDeque<(u16, *mut [u8])>,
    /// A receive is in flight, or will be again when there are buffers.
    receiving: bool,
    /// The peer has said all.
    ended: bool,
    /// It is only kept until nothing is in flight.
    over: bool,
}

/// Bytes being sent: in one of the ring's buffers, static, or a digest.
struct Out {
    bytes: *const [u8],
    buffer: Option<u16>,
    /// Where the digest is.
    _digest: Vec<u8>,
}

impl Server<'_> {
    /// Queues an operation of a connection.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: what is sent is static, in a buffer that is given back after it was sent, or in the connection, which
        // stays until then. No other operation here has pointers.
        unsafe { push(&self.submitter, &mut self.sq, entry) }
    }

    fn accept(&mut self) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(self.listener).allocate_file_index(true);
        self.push(&accept.build().user_data(ACCEPT))
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(completion.flags()) {
            self.accept()?;
        }
        // Else it was reset, or the table is full.
        if let Ok(at) = usize::try_from(completion.result()) {
            self.connections.resize_with(self.connections.len().max(at + 1), || None);
            self.connections[at] = Some(Connection::new(self.service));
            self.receive(at)?;
        }
        Ok(())
    }

    fn receive(&mut self, at: usize) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(Fixed(at as u32), GROUP);
        self.push(&receive.build().user_data(receive_data(at)))
    }

    /// There are buffers again.
    fn receive_again(&mut self, at: usize) -> io::Result<()> {
        let connection = self.connections[at].as_mut().expect("it stays while it is to receive");
        if connection.over {
            connection.receiving = false;
            self.give_up(at)
        } else {
            self.receive(at)
        }
    }

    fn received(&mut self, at: usize, completion: &cqueue::Entry) -> io::Result<()> {
        let (result, flags) = (completion.result(), completion.flags());
        let connection = self.connections[at].as_mut().expect("it stays while it receives");
        if let Some(id) = cqueue::buffer_select(flags) {
            connection.pending.push_back((id, self.buffers.take(id, result.max(0) as usize)));
        }
        connection.ended |= result == 0;
        connection.receiving = cqueue::more(flags);
        if !connection.receiving && !connection.over {
            if result == -libc::ENOBUFS {
                connection.receiving = true;
                if self.starved.is_empty() {
                    self.buffers.grow();
                }
                self.starved.push(at);
                return Ok(());
            }
            if result > 0 {
                connection.receiving = true;
                self.receive(at)?;
            }
        }
        let connection = self.connections[at].as_mut().expect("it is still there");
        match connection.out {
            _ if result < 0 || connection.over => self.give_up(at),
            Some(_) => Ok(()),
            None => self.proceed(at, Step::Receive),
        }
    }

    /// Takes steps until there is something to wait for.
    fn proceed(&mut self, at: usize, mut step: Step) -> io::Result<()> {
        loop {
            let connection = self.connections[at].as_mut().expect("it has something in flight");
            step = match step {
                Step::Receive => {
                    let Some((id, data)) = connection.pending.pop_front() else {
                        if !connection.ended {
                            return Ok(());
                        }
                        step = connection.conversation.received(&mut []);
                        continue;
                    };
                    // SAFETY: the buffer is ours until it is given back.
                    let step = connection.conversation.received(unsafe { &mut *data });
                    if let Step::Echo(_) = step {
                        return self.send(at, Out { bytes: data, buffer: Some(id), _digest: Vec::new() });
                    }
                    self.buffers.give(id);
                    step
                }
                Step::Send(bytes) => return self.send(at, Out { bytes, buffer: None, _digest: Vec::new() }),
                Step::SendDigest(digest) => {
                    let digest = digest.to_vec();
                    return self
                        .send(at, Out { bytes: &raw const digest[..], buffer: None, _digest: digest });
                }
                // An echo was dealt with above.
                Step::Echo(_) | Step::Close => return self.give_up(at),
            }
        }
    }

    fn send(&mut self, at: usize, out: Out) -> io::Result<()> {
        let send = opcode::Send::new(Fixed(at as u32), out.bytes.cast(), out.bytes.len() as u32);
        // Short only where there is an error.
        let send = send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.connections[at].as_mut().expect("it has something to say").out = Some(out);
        self.push(&send.build().user_data((at as u64) << 2 | SEND))
    }

    fn sent(&mut self, at: usize, result: i32) -> io::Result<()> {
        let connection = self.connections[at].as_mut().expect("it stays while it sends");
        let out = connection.out.take().expect("something was sent");
        if let Some(id) = out.buffer {
            self.buffers.give(id);
        }
        if connection.over || usize::try_from(result) != Ok(out.bytes.len()) {
            return self.give_up(at);
        }
        let step = connection.conversation.sent();
        self.proceed(at, step)
    }

    /// Ends a connection, as soon as nothing is in flight on it.
    fn give_up(&mut self, at: usize) -> io::Result<()> {
        let connection = self.connections[at].as_mut().expect("it is given up once");
        for (id, _) in connection.pending.drain(..) {
            self.buffers.give(id);
        }
        let is_first = !mem::replace(&mut connection.over, true);
        if !connection.receiving && connection.out.is_none() {
            self.connections[at] = None;
            let close = opcode::Close::new(Fixed(at as u32)).build().flags(squeue::Flags::SKIP_SUCCESS);
            return self.push(&close.user_data(OTHER));
        }
        if is_first {
            // A send needs no such push: it fails as the receive did. Nor would a shutdown do, which is carried out
            // when the number may already be another connection's.
            let cancel = opcode::AsyncCancel::new(receive_data(at)).build();
            return self.push(&cancel.user_data(OTHER));
        }
        Ok(())
    }
}

impl Connection {
    fn new(service: Service) -> Connection {
        let (conversation, pending) = (Conversation::new(service), VecDeque::new());
        Connection { conversation, out: None, pending, receiving: true, ended: false, over: false }
    }
}
