//! Hand-written on edge-triggered epoll, without a runtime: one thread, non-blocking calls until they would block.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::conversation::{Conversation, Step};
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

/// How many steps one connection takes before others have their turn.
const TURN: usize = 32;

const EVENTS: usize = 1024;

pub fn run(options: &Options) -> Serving {
    let poller = Poller::new()?;
    match options.service {
        Service::Udp => datagrams(&poller, &sockets::datagram()?),
        service => streams(&poller, &sockets::listener()?, service),
    }
}

struct Poller(OwnedFd);

impl Poller {
    fn new() -> io::Result<Poller> {
        // SAFETY: the call has no pointers, and its result is a descriptor that nobody else knows.
        unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Poller(OwnedFd::from_raw_fd(fd))) }
        }
    }

    fn add(&self, fd: RawFd, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: the event is valid for the call.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits for events, or only looks.
    fn wait<'e>(
        &self,
        events: &'e mut [libc::epoll_event],
        block: bool,
    ) -> io::Result<&'e [libc::epoll_event]> {
        let (room, limit) = (events.len() as i32, if block { -1 } else { 0 });
        // SAFETY: there is room for as many events as it says.
        match unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, limit) } {
            n @ 0.. => Ok(&events[..n as usize]),
            _ => match io::Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => Ok(&[]),
                error => Err(error),
            },
        }
    }
}

fn datagrams(poller: &Poller, socket: &UdpSocket) -> Serving {
    socket.set_nonblocking(true)?;
    poller.add(socket.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET)?;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }];
    let mut buf = vec![0; BUFFER];
    loop {
        poller.wait(&mut events, true)?;
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            // Datagrams may be lost.
            let _ = socket.send_to(&buf[..n], from);
        }
    }
}

fn streams(poller: &Poller, listener: &TcpListener, service: Service) -> Serving {
    listener.set_nonblocking(true)?;
    poller.add(listener.as_raw_fd(), libc::EPOLLIN)?;
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    // By descriptor. An event of one that is gone may reach the next with its number, which it does no harm.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut unfinished: Vec<usize> = Vec::new();
    loop {
        let mut turns = mem::take(&mut unfinished);
        for event in poller.wait(&mut events, turns.is_empty())? {
            if event.u64 == listener.as_raw_fd() as u64 {
                accept(poller, listener, service, &mut connections);
                continue;
            }
            let at = event.u64 as usize;
            if let Some(connection) = &mut connections[at] {
                connection.ready |= event.events as i32;
                turns.push(at);
            }
        }
        for at in turns {
            match connections[at].as_mut().map(Connection::turn) {
                Some(Ok(Turn::Waiting)) | None => {}
                Some(Ok(Turn::Unfinished)) => unfinished.push(at),
                Some(Ok(Turn::Over) | Err(_)) => connections[at] = None,
            }
        }
    }
}

/// Accepts what there is.
fn accept(
    poller: &Poller,
    listener: &TcpListener,
    service: Service,
    connections: &mut Vec<Option<Connection>>,
) {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    loop {
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) };
        if fd < 0 {
            // Whatever it is: if a connection is still there, the next wait says so.
            return;
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let stream = unsafe { TcpStream::from_raw_fd(fd) };
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        if poller.add(fd, events).is_ok() {
            let at = fd as usize;
            connections.resize_with(connections.len().max(at + 1), || None);
            connections[at] = Some(Connection::new(stream, service));
        }
    }
}

struct Connection {
    stream: TcpStream,
    conversation: Conversation,
    buf: Vec<u8>,
    step: Step,
    /// How much of the step has been sent.
    sent: usize,
    /// The events of `epoll` that hold, as far as is known.
    ready: i32,
}

enum Turn {
    /// Until the next event.
    Waiting,
    /// Others are to have theirs.
    Unfinished,
    Over,
}

impl Connection {
    fn new(stream: TcpStream, service: Service) -> Connection {
        let (conversation, buf) = (Conversation::new(service), vec![0; BUFFER]);
        Connection { stream, conversation, buf, step: Step::Receive, sent: 0, ready: 0 }
    }

    fn turn(&mut self) -> io::Result<Turn> {
        for _ in 0..TURN {
            let bytes = match &self.step {
                Step::Receive => {
                    if self.ready & (libc::EPOLLIN | libc::EPOLLRDHUP) == 0 {
                        return Ok(Turn::Waiting);
                    }
                    let n = match (&self.stream).read(&mut self.buf) {
                        Ok(n) => n,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            self.ready &= !libc::EPOLLIN;
                            return Ok(Turn::Waiting);
                        }
                        Err(error) => return Err(error),
                    };
                    // That was all. What comes next, comes with an event.
                    if n < self.buf.len() {
                        self.ready &= !libc::EPOLLIN;
                    }
                    self.step = self.conversation.received(&mut self.buf[..n]);
                    continue;
                }
                Step::Echo(n) => &self.buf[..*n],
                Step::Send(bytes) => bytes,
                Step::SendDigest(bytes) => &bytes[..],
                Step::Close => return Ok(Turn::Over),
            };
            match (&self.stream).write(&bytes[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waiting),
                Err(error) => return Err(error),
            }
            if self.sent == bytes.len() {
                self.sent = 0;
                self.step = self.conversation.sent();
            }
        }
        Ok(Turn::Unfinished)
    }
}
