//! Operations that move no bytes: making, binding, accepting, connecting, closing, waiting.

use std::io;
use std::net;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use super::{Begin, Detach, Operation, Options, Outcome, Started, after, limits, on_target, ways_to_wait};
use crate::addr::SockAddr;
use crate::descriptor::{Descriptor, Socket, Target, Traffic};
use crate::instant::Instant;
use crate::operation::{Handle, Request};

/// A new socket: see [`socket()`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct NewSocket {
    domain: i32,
    kind: i32,
    protocol: i32,
}

/// Makes a socket (`AF_*`, `SOCK_*`, `IPPROTO_*`), non-blocking and close-on-exec.
///
/// io_uring: `IORING_OP_SOCKET` (5.19); elsewhere `socket(2)` at once.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> NewSocket {
    NewSocket { domain, kind, protocol }
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl Operation for NewSocket {
    type Output = io::Result<Socket>;
    fn options(&self) -> Options {
        Options::NONE
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        Started::Request(Request::Socket { domain: self.domain, kind: self.kind, protocol: self.protocol })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(|fd| Socket::adopt_known(fd, Traffic::of_new(self.domain, self.kind)))
    }
}

impl Detach for NewSocket {
    type Owned = NewSocket;
    fn detach(self) -> NewSocket {
        self
    }
}

ways_to_wait!(NewSocket => NewSocket);

on_target! {
    /// A bind: see [`bind`].
    Bind;
    /// Binds a socket to a local address.
    ///
    /// io_uring: `IORING_OP_BIND` (6.11); elsewhere `bind(2)` at once.
    bind(addr: SockAddr);
    |this, handle| Request::Bind { handle, addr: &raw const this.addr }
}

on_target! {
    /// A listen: see [`listen`].
    Listen;
    /// Makes a bound socket accept connections, `backlog` of them before anybody asks.
    ///
    /// io_uring: `IORING_OP_LISTEN` (6.11); elsewhere `listen(2)` at once.
    listen(backlog: i32);
    |this, handle| Request::Listen { handle, backlog: this.backlog }
}

on_target! {
    /// A connect: see [`connect`].
    Connect;
    /// Connects a socket, until the connection stands or is refused.
    ///
    /// A connect that was cancelled or timed out leaves the socket in a state that no system defines: close it.
    ///
    /// io_uring: `IORING_OP_CONNECT` (5.5); elsewhere a non-blocking `connect(2)`, then readiness to write.
    connect(addr: SockAddr);
    |this, handle| Request::Connect { handle, addr: &raw const this.addr }
}

on_target! {
    /// A shutdown: see [`shutdown`].
    Shutdown;
    /// Shuts one or both directions of a connection.
    ///
    /// Everywhere `shutdown(2)` at once, after the sends before it: io_uring would hand it to a kernel thread.
    shutdown(how: net::Shutdown);
    |this, handle| Request::Shutdown {
        handle,
        how: match this.how {
            net::Shutdown::Read => libc::SHUT_RD,
            net::Shutdown::Write => libc::SHUT_WR,
            net::Shutdown::Both => libc::SHUT_RDWR,
        },
    }
}

/// An accept: see [`accept`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Accept<'s> {
    target: Target<'s>,
    addr: SockAddr,
    options: Options,
}

/// Accepts one connection: the socket, non-blocking and close-on-exec, and the peer's address.
///
/// A connection that was reset before it could be accepted is passed over. Out of descriptors (or memory), the error
/// is reported after a pause of 10 ms, so that accepting in a loop cannot spin. An accept that is removed or whose
/// future is dropped closes the connection that may still come of it.
///
/// io_uring: `IORING_OP_ACCEPT` (5.5); elsewhere `accept4(2)`, and readiness to read while there is none.
pub fn accept<'s>(listener: impl Into<Target<'s>>) -> Accept<'s> {
    Accept { target: listener.into(), addr: SockAddr::empty(), options: Options::NONE }
}

impl Accept<'_> {
    limits!();
}

// SAFETY: the request points into `self` only, and `target` keeps the descriptor open.
unsafe impl Operation for Accept<'_> {
    type Output = io::Result<(Socket, SockAddr)>;
    fn options(&self) -> Options {
        self.options
    }
    fn is_pure(&self) -> bool {
        true
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.target.handle() {
            Ok(handle) => Started::Request(Request::Accept { handle, addr: &raw mut self.addr }),
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(|fd| (Socket::adopt_known(fd, Traffic::with(self.addr.family())), self.addr))
    }
}

impl Detach for Accept<'_> {
    type Owned = Accept<'static>;
    fn detach(self) -> Accept<'static> {
        Accept { target: self.target.detach(), addr: self.addr, options: self.options }
    }
}

ways_to_wait!(Accept<'s> => Accept<'static>);

/// A close: see [`close`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Close {
    descriptor: Option<Descriptor>,
    /// The descriptor and its identity, once nobody else has it: ours until the close is carried out.
    fd: Option<(OwnedFd, u64)>,
}

/// Closes a socket or a file. Operations on it that are in flight on the same loop are cancelled and complete first; new ones
/// fail with `EBADF`. The descriptor's number is free for others only when the last clone is gone.
///
/// Dropping the last clone closes as well, without telling of an error.
///
/// io_uring: `IORING_OP_CLOSE` (5.6); elsewhere `close(2)` at once.
///
/// # Errors
/// The system's, once; the descriptor is gone all the same, also where the loop is full (`QuotaExceeded`). `EBADF` if it
/// was closed before.
pub fn close(descriptor: impl Into<Descriptor>) -> Close {
    Close { descriptor: Some(descriptor.into()), fd: None }
}

// SAFETY: the request has no pointers; the descriptor is open until the request is carried out, and not used afterwards.
unsafe impl Operation for Close {
    type Output = io::Result<()>;
    fn options(&self) -> Options {
        Options::NONE
    }
    /// Others on the same descriptor are to go on until it is its turn.
    fn is_pure(&self) -> bool {
        self.descriptor.as_ref().is_some_and(Descriptor::is_unique)
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        if let Some((fd, identity)) = &self.fd {
            return Started::Request(Request::Close {
                handle: Handle { fd: fd.as_raw_fd(), identity: *identity },
            });
        }
        let descriptor = self.descriptor.take().expect("an operation starts once");
        if descriptor.is_closed() {
            return Started::failed(libc::EBADF);
        }
        let identity = descriptor.handle().identity;
        match descriptor.try_into_fd() {
            Ok(fd) => {
                let handle = Handle { fd: fd.as_raw_fd(), identity };
                self.fd = Some((fd, identity));
                Started::Request(Request::Close { handle })
            }
            Err(shared) => {
                shared.mark_closed();
                self.descriptor = Some(shared);
                Started::CloseShared { identity }
            }
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        if !matches!(outcome.result, Outcome::CANCELED | Outcome::TIMED_OUT) {
            // Carried out, so gone, whatever came of it; what was not, goes with `self`.
            self.fd.map(|(fd, _)| fd.into_raw_fd());
        }
        outcome.value().map(drop)
    }
}

impl Detach for Close {
    type Owned = Close;
    fn detach(self) -> Close {
        self
    }
}

ways_to_wait!(Close => Close);

/// A wait for readiness: see [`poll`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Poll<'s> {
    target: Target<'s>,
    events: u16,
    options: Options,
}

/// Waits until one of `events` (`POLLIN`, `POLLOUT`, … of `poll(2)`) holds for a descriptor, for instance one that a
/// foreign library drives; the outcome is the bits that hold, errors and hang-ups included.
///
/// io_uring: `IORING_OP_POLL_ADD` (5.1); elsewhere the poller itself.
pub fn poll<'s>(target: impl Into<Target<'s>>, events: i16) -> Poll<'s> {
    Poll { target: target.into(), events: events as u16, options: Options::NONE }
}

impl Poll<'_> {
    limits!();
}

// SAFETY: the request has no pointers, and `target` keeps the descriptor open.
unsafe impl Operation for Poll<'_> {
    type Output = io::Result<i16>;
    fn options(&self) -> Options {
        self.options
    }
    fn is_pure(&self) -> bool {
        true
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.target.handle() {
            Ok(handle) => Started::Request(Request::Poll { handle, events: self.events }),
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(|bits| bits as i16)
    }
}

impl Detach for Poll<'_> {
    type Owned = Poll<'static>;
    fn detach(self) -> Poll<'static> {
        Poll { target: self.target.detach(), events: self.events, options: self.options }
    }
}

ways_to_wait!(Poll<'s> => Poll<'static>);

/// A wait for a moment: see [`timer`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Timer {
    at: Instant,
}

/// Waits for `duration`, counted from this call. Never early; with zero, until the next tick.
/// Timers that are due at the same nanosecond end in the order in which they were begun. Where dozens are due at each look,
/// the next ones wait for each other, up to half a millisecond.
///
/// On every backend: the loop's timer wheel, whose next moment bounds the backend's wait.
pub fn timer(duration: Duration) -> Timer {
    timer_at(after(duration))
}

/// Waits until `at`: see [`timer`]. [`Instant::NEVER`] waits to be cancelled.
pub fn timer_at(at: Instant) -> Timer {
    Timer { at }
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl Operation for Timer {
    type Output = io::Result<()>;
    fn options(&self) -> Options {
        Options { deadline: self.at, ..Options::NONE }
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        Started::Request(Request::Timer)
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(drop)
    }
}

impl Detach for Timer {
    type Owned = Timer;
    fn detach(self) -> Timer {
        self
    }
}

ways_to_wait!(Timer => Timer);

/// The next tick: see [`next_tick`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct NextTick(());

/// Completes on the next tick, after what has completed before.
///
/// On every backend: the loop's own queue.
pub fn next_tick() -> NextTick {
    NextTick(())
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl Operation for NextTick {
    type Output = io::Result<()>;
    fn options(&self) -> Options {
        Options::NONE
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        Started::Request(Request::Nop)
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(drop)
    }
}

impl Detach for NextTick {
    type Owned = NextTick;
    fn detach(self) -> NextTick {
        self
    }
}

ways_to_wait!(NextTick => NextTick);
