//! What can be asked of the loop, described once.
//!
//! A [`Request`] is an operation stripped of its Rust types: numbers and addresses, ready for a kernel. The typed
//! builders (`recv`, `accept`, …) make one, every [`Backend`](crate::backend::Backend) carries one out, and
//! [`OPERATIONS`] says for each [`Kind`] how each backend does so. A new operation is a variant here, a row in the
//! table, a builder, and one arm in each backend that does it natively.

use std::os::fd::RawFd;

use crate::addr::SockAddr;

/// Names one operation of one loop, for ever: the slot may be used again, the generation tells the uses apart.
///
/// Safe to keep and to cancel with at any time, also long after the operation has completed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct OpId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl OpId {
    /// The id as the one word that kernels hand back with a completion. Never [`OpId::RESERVED`] or above.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.index) << 32) | u64::from(self.generation)
    }

    /// The reverse of [`to_bits`](OpId::to_bits).
    pub fn from_bits(bits: u64) -> OpId {
        OpId { index: (bits >> 32) as u32, generation: bits as u32 }
    }

    /// Words from here on are no operation's id: a backend may use them for its own bookkeeping.
    pub const RESERVED: u64 = (u32::MAX as u64) << 32;
}

/// A descriptor as backends see it: the number, and an identity that the number alone does not have.
///
/// The kernel gives a closed descriptor's number to the next one opened. `identity` does not repeat, so a backend
/// that keeps something per number (a registration, a readiness) can tell whether it still speaks of the same
/// object. Identity 0 is a foreign descriptor, whose life the loop does not know: keep nothing for it between
/// operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// The descriptor's number.
    pub fd: RawFd,
    /// Which of the objects that have had this number; 0 if unknown.
    pub identity: u64,
}

/// An operation as backends see it.
///
/// The pointers are valid, and nobody else uses what they point to, from `submit` until the completion is pushed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the parameters of the system call of that name")]
pub enum Request {
    /// Nothing; done on the next tick. Carried out by the loop.
    Nop,
    /// Done when its deadline has passed. Carried out by the loop.
    Timer,
    /// Done when somebody says so: a job on the blocking pool, an event. Carried out by the loop.
    External,
    /// `socket(2)`; the result is the new descriptor, non-blocking and close-on-exec.
    Socket { domain: i32, kind: i32, protocol: i32 },
    /// `bind(2)`.
    Bind { handle: Handle, addr: *const SockAddr },
    /// `listen(2)`.
    Listen { handle: Handle, backlog: i32 },
    /// `accept4(2)`; the result is the new descriptor, non-blocking and close-on-exec. `addr` may be null.
    Accept { handle: Handle, addr: *mut SockAddr },
    /// `connect(2)`, until it is established or has failed.
    Connect { handle: Handle, addr: *const SockAddr },
    /// `recv(2)`; the result is the number of bytes, 0 at the end of a stream.
    Recv { handle: Handle, buf: *mut u8, len: usize, flags: i32 },
    /// `send(2)`, never raising SIGPIPE; the result is the number of bytes.
    Send { handle: Handle, buf: *const u8, len: usize, flags: i32 },
    /// `recvmsg(2)`.
    RecvMsg { handle: Handle, msg: *mut libc::msghdr, flags: i32 },
    /// `sendmsg(2)`, never raising SIGPIPE.
    SendMsg { handle: Handle, msg: *const libc::msghdr, flags: i32 },
    /// `shutdown(2)`.
    Shutdown { handle: Handle, how: i32 },
    /// `close(2)`. Whatever the result, the descriptor is gone.
    Close { handle: Handle },
    /// Waits until one of `events` (the `POLL*` bits of `poll(2)`) holds; the result is the bits that hold.
    Poll { handle: Handle, events: u16 },
}

// SAFETY: a request is plain data. Its pointers are used only by the backend of the loop that accepted it, on that
// loop's thread, under the contract of `Backend::submit`; moving the numbers elsewhere does nothing.
unsafe impl Send for Request {}

/// The kind of a [`Request`]: a row of [`OPERATIONS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "see the variants of Request")]
#[repr(u8)]
pub enum Kind {
    Nop,
    Timer,
    External,
    Socket,
    Bind,
    Listen,
    Accept,
    Connect,
    Recv,
    Send,
    RecvMsg,
    SendMsg,
    Shutdown,
    Close,
    Poll,
}

/// The direction of readiness that an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Until reading (or accepting) would not block.
    Read,
    /// Until writing (or connecting) would not block.
    Write,
}

/// How an operation is carried out where the backend has no native way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// By the loop itself, on every backend: nothing reaches a kernel.
    Loop,
    /// By one system call that does not block.
    Direct,
    /// By trying the system call, waiting for this readiness while it would block, and trying again.
    Ready(Direction),
    /// By waiting for the readiness that the operation itself names.
    Wait,
}

/// How a backend carries out an operation, as [`Loop::capabilities`](crate::Loop::capabilities) reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Support {
    /// The kernel carries the whole operation out and reports its completion.
    Native,
    /// The loop waits for readiness and makes the system call.
    Readiness,
    /// The loop makes the system call at once: it does not block.
    Direct,
    /// A thread of the blocking pool makes the system call.
    Pool,
    /// Not on this backend.
    Unsupported,
}

/// One row of [`OPERATIONS`].
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Which operation.
    pub kind: Kind,
    /// Its name, as the builder is called.
    pub name: &'static str,
    /// The io_uring opcode that does it.
    pub uring: Option<Opcode>,
    /// The system call that does it elsewhere, or the reason why there is none.
    pub call: &'static str,
    /// How it is done elsewhere.
    pub elsewhere: Elsewhere,
}

/// An io_uring opcode.
#[derive(Clone, Copy, Debug)]
pub struct Opcode {
    /// The number that `IORING_REGISTER_PROBE` knows it by.
    pub code: u8,
    /// Its name in the kernel's header.
    pub name: &'static str,
    /// The first kernel with it. Documentation: the backend asks the kernel instead.
    pub since: &'static str,
}

/// Every operation, and how it is done: the one place to look it up. In the order of [`Kind`].
pub const OPERATIONS: &[Description] = {
    use Elsewhere::{Direct, Loop, Ready, Wait};
    use io_uring::opcode as op;
    const fn row(
        kind: Kind,
        name: &'static str,
        uring: Option<Opcode>,
        call: &'static str,
        elsewhere: Elsewhere,
    ) -> Description {
        Description { kind, name, uring, call, elsewhere }
    }
    const fn code(code: u8, name: &'static str, since: &'static str) -> Option<Opcode> {
        Some(Opcode { code, name, since })
    }
    &[
        row(Kind::Nop, "next_tick", None, "the loop's own queue", Loop),
        row(Kind::Timer, "timer", None, "the loop's timer wheel", Loop),
        row(Kind::External, "blocking, event", None, "the loop's inbox", Loop),
        row(Kind::Socket, "socket", code(op::Socket::CODE, "IORING_OP_SOCKET", "5.19"), "socket", Direct),
        row(Kind::Bind, "bind", code(op::Bind::CODE, "IORING_OP_BIND", "6.11"), "bind", Direct),
        row(Kind::Listen, "listen", code(op::Listen::CODE, "IORING_OP_LISTEN", "6.11"), "listen", Direct),
        row(
            Kind::Accept,
            "accept",
            code(op::Accept::CODE, "IORING_OP_ACCEPT", "5.5"),
            "accept4",
            Ready(Direction::Read),
        ),
        row(
            Kind::Connect,
            "connect",
            code(op::Connect::CODE, "IORING_OP_CONNECT", "5.5"),
            "connect",
            Ready(Direction::Write),
        ),
        row(
            Kind::Recv,
            "recv",
            code(op::Recv::CODE, "IORING_OP_RECV", "5.6"),
            "recv",
            Ready(Direction::Read),
        ),
        row(
            Kind::Send,
            "send",
            code(op::Send::CODE, "IORING_OP_SEND", "5.6"),
            "send",
            Ready(Direction::Write),
        ),
        row(
            Kind::RecvMsg,
            "recv_vectored, recv_from, recv_msg",
            code(op::RecvMsg::CODE, "IORING_OP_RECVMSG", "5.3"),
            "recvmsg",
            Ready(Direction::Read),
        ),
        row(
            Kind::SendMsg,
            "send_vectored, send_to, send_msg",
            code(op::SendMsg::CODE, "IORING_OP_SENDMSG", "5.3"),
            "sendmsg",
            Ready(Direction::Write),
        ),
        // IORING_OP_SHUTDOWN (5.11) always goes to a kernel thread, for a call that never blocks.
        row(Kind::Shutdown, "shutdown", None, "shutdown", Direct),
        row(Kind::Close, "close", code(op::Close::CODE, "IORING_OP_CLOSE", "5.6"), "close", Direct),
        row(Kind::Poll, "poll", code(op::PollAdd::CODE, "IORING_OP_POLL_ADD", "5.1"), "the poller", Wait),
    ]
};

impl Kind {
    /// This kind's row of [`OPERATIONS`].
    #[inline]
    pub fn describe(self) -> &'static Description {
        &OPERATIONS[self as usize]
    }
}

impl Request {
    /// Which operation this is.
    #[inline]
    pub fn kind(&self) -> Kind {
        match self {
            Request::Nop => Kind::Nop,
            Request::Timer => Kind::Timer,
            Request::External => Kind::External,
            Request::Socket { .. } => Kind::Socket,
            Request::Bind { .. } => Kind::Bind,
            Request::Listen { .. } => Kind::Listen,
            Request::Accept { .. } => Kind::Accept,
            Request::Connect { .. } => Kind::Connect,
            Request::Recv { .. } => Kind::Recv,
            Request::Send { .. } => Kind::Send,
            Request::RecvMsg { .. } => Kind::RecvMsg,
            Request::SendMsg { .. } => Kind::SendMsg,
            Request::Shutdown { .. } => Kind::Shutdown,
            Request::Close { .. } => Kind::Close,
            Request::Poll { .. } => Kind::Poll,
        }
    }

    /// The descriptor that it works on, if any.
    #[inline]
    pub fn handle(&self) -> Option<Handle> {
        match *self {
            Request::Nop | Request::Timer | Request::External | Request::Socket { .. } => None,
            Request::Bind { handle, .. }
            | Request::Listen { handle, .. }
            | Request::Accept { handle, .. }
            | Request::Connect { handle, .. }
            | Request::Recv { handle, .. }
            | Request::Send { handle, .. }
            | Request::RecvMsg { handle, .. }
            | Request::SendMsg { handle, .. }
            | Request::Shutdown { handle, .. }
            | Request::Close { handle }
            | Request::Poll { handle, .. } => Some(handle),
        }
    }

    /// The readiness that it waits for where it is not native, if it can block at all.
    ///
    /// A [`Poll`](Request::Poll) waits for the directions that its events name; one that names writing only waits
    /// for [`Direction::Write`], any other for [`Direction::Read`] (errors and hang-ups end both).
    #[inline]
    pub fn direction(&self) -> Option<Direction> {
        match (self.kind().describe().elsewhere, self) {
            (Elsewhere::Ready(direction), _) => Some(direction),
            // It never blocks, but what was to be sent before it is sent before it.
            (_, Request::Shutdown { how, .. }) if *how != libc::SHUT_RD => Some(Direction::Write),
            (Elsewhere::Wait, Request::Poll { events, .. }) => {
                let read = (libc::POLLIN | libc::POLLPRI | libc::POLLRDHUP) as u16;
                let write_only = events & libc::POLLOUT as u16 != 0 && events & read == 0;
                Some(if write_only { Direction::Write } else { Direction::Read })
            }
            _ => None,
        }
    }
}

/// The most bytes that one call transfers on Linux (`MAX_RW_COUNT`). Longer requests are shortened to it, never
/// truncated by a cast.
pub const TRANSFER_MAX: usize = 0x7fff_f000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_kinds() {
        for (index, row) in OPERATIONS.iter().enumerate() {
            assert_eq!(row.kind as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn ids_survive_the_trip_through_a_kernel() {
        let id = OpId { index: 7, generation: u32::MAX };
        assert_eq!(OpId::from_bits(id.to_bits()), id);
        assert!(id.to_bits() < OpId::RESERVED);
    }
}
