//! Who carries operations out, and the contract between them and the loop.
//!
//! A [`Backend`] is the loop's only door to the world: clock, sockets, wake-ups. There are two families here.
//! `uring` gives operations to the kernel and gets completions back. `readiness` tries the system call, waits until
//! it would not block, and tries again; it does so over any [`Poller`](readiness::Poller), of which there are two,
//! `epoll` and `poll`.
//!
//! # The contract
//!
//! Between [`submit`](Backend::submit) and the completion, what a request points to belongs to the backend.
//!
//! 1. **Every submitted operation completes exactly once**: either `submit` returns [`Submitted::Done`], or a later
//!    `wait` pushes its id to [`Completions`], never both and never twice. [`cancel`](Backend::cancel) is a request:
//!    its target still completes, with `-ECANCELED` or with the real result, and whichever it is must be true. Bytes
//!    reported as cancelled were not taken from the socket.
//! 2. **`wait` is the only place where an operation that was pending completes.** `submit` and `cancel` push
//!    nothing; what they learn goes out with the next `wait`, which then does not sleep.
//! 3. **Results are the kernel's**: a value of zero or more, or a negated `errno`. `EINTR` and `EAGAIN` never leave
//!    a backend. (A splice has [one result](crate::operation::NOT_READY) more.)
//! 4. **A descriptor's number is not its identity.** What a backend remembers about a number holds for one
//!    [`Handle::identity`](crate::operation::Handle) only, and an event that belongs to an earlier bearer of the
//!    number reaches nobody.
//! 5. **`wait` wakes up** when the time is over, when something completed, or after [`Wake::wake`], even where the
//!    wake came before the `wait`. It may also return early for no reason.
//! 6. **A stream** ([`Request::flow`]) also completes exactly once, and before that pushes any number of
//!    [parts](Completions::push_part), each of which then belongs to the loop: a descriptor, or bytes in a buffer of the
//!    flow's. It goes on by itself, whatever makes the kernel stop, without loss and in order, until it is over or
//!    cancelled. It rests while its [`Flow`] is closed or has no buffer; every `wait` looks whether it may go on, and
//!    does not sleep if so. One that always has more does not keep `wait` from serving others.
//! 7. **Nothing is in flight when a backend is dropped**: the loop has cancelled and reaped everything. (In a forked
//!    child it is not dropped at all.)

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::operation::{Flow, Kind, Link, OpId, Request, Support};

pub(crate) mod attempt;
pub(crate) mod clock;
pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod files;
pub(crate) mod parts;
pub(crate) mod poll;
pub mod readiness;
pub mod signal;
mod sigpipe;
pub(crate) mod standard;
pub(crate) mod uring;
pub(crate) mod warm;

/// What became of a submitted operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// It will be reported by a later [`Backend::wait`]. The word is the backend's own: it is handed back to
    /// [`Backend::cancel`], to find the operation without searching.
    Pending(u32),
    /// It is over already; the id will not be reported again.
    Done(i32),
}

/// One operation of a chain: see [`Backend::submit_chain`].
#[derive(Clone, Copy, Debug)]
pub struct Chained {
    /// Its id.
    pub id: OpId,
    /// What it is.
    pub request: Request,
    /// How the next one depends on it.
    pub link: Link,
    /// Whether it has succeeded only if it has transferred everything.
    pub all: bool,
    /// For the backend to fill in: what [`Submitted::Pending`] would have held.
    pub word: u32,
}

/// Carries operations out. The module's documentation is the contract.
///
/// # Safety
/// The loop believes what it is told: a descriptor that a socket or an accept results in is a new one and nobody else's,
/// a transfer moved as many bytes as it says and no more than it was asked to, and from a completion on the backend uses
/// nothing of what the request pointed to.
pub unsafe trait Backend {
    /// The name that `TOWPATH_BACKEND` knows it by.
    fn name(&self) -> &'static str;

    /// How it carries out operations of this kind, on this machine.
    fn support(&self, kind: Kind) -> Support;

    /// Begins an operation. `id` is unique among the operations in flight.
    ///
    /// Never fails for want of room: what does not fit into a kernel's queue waits here.
    /// The kinds that the loop carries out itself (`Nop`, `Timer`, `External`, `Group`) never arrive, nor do those that are
    /// supported by the [pool](Support::Pool): these are only [attempted](Backend::attempt).
    ///
    /// A transfer from or to a stream (`ReadStream`, `WriteStream`) that cannot be tried without blocking may end with
    /// `EOPNOTSUPP` or `EPERM`: the loop then polls, and leaves the transfer to the pool.
    ///
    /// # Safety
    /// Until this operation's completion, all that `request` points to stays valid, unmoved and otherwise unused,
    /// and the descriptor stays open.
    unsafe fn submit(&mut self, id: OpId, request: &Request) -> Submitted;

    /// The longest chain that [`submit_chain`](Backend::submit_chain) takes. Zero: none, the loop then begins each
    /// operation when the one before it is over.
    fn chain_limit(&self) -> usize {
        0
    }

    /// Begins operations each of which is to begin when the one before it is over, as far as its [`Link`] lets it.
    /// Returns how many it took, from the first one on: none, or two at least. To the others nothing has happened.
    ///
    /// Each that it took completes by a later `wait`. One that was not begun completes with `-ECANCELED`: because of the
    /// link before it, or because the backend could not keep the chain together, for instance since the one before has to
    /// be tried again. The loop knows whether it was its turn, and if so submits it once more. Until then the loop does
    /// not [cancel](Backend::cancel) it.
    ///
    /// # Safety
    /// As for `submit`, for each.
    unsafe fn submit_chain(&mut self, chain: &mut [Chained]) -> usize {
        let _ = chain;
        0
    }

    /// Carries an operation out at once, where that is cheap and likely not to wait: its result, or `None` if it has to
    /// be [submitted](Backend::submit). Then the loop does that next, with the same request, or gives it to the pool. It asks
    /// on behalf of somebody who waits in place, and before it troubles the pool.
    ///
    /// # Safety
    /// As for `submit`, until this returns.
    unsafe fn attempt(&mut self, request: &Request) -> Option<i32> {
        let _ = request;
        None
    }

    /// Asks for the end of a pending operation; `word` is what [`Submitted::Pending`] held and `request` what was
    /// submitted. The operation completes all the same. The loop asks at most once for each operation, and only
    /// while it is pending.
    fn cancel(&mut self, id: OpId, word: u32, request: &Request);

    /// Hands over what was submitted, waits for something to complete, and pushes all that has.
    ///
    /// Waits at most `timeout` (`None`: as long as it takes; zero: not at all, but still reaps).
    /// An error means that nothing can be waited for any more; it is not an operation's error.
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Completions) -> io::Result<()>;

    /// When the next `wait` has something to do although nothing tells of it, by [`now`](Backend::now): for who polls
    /// [`as_fd`](Backend::as_fd) meanwhile. `None`: never.
    fn due(&self) -> Option<u64> {
        None
    }

    /// The time, in nanoseconds of a monotonic clock.
    fn now(&self) -> u64;

    /// The means to end a `wait` from any thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// A descriptor that polls as readable when a `wait` would find something, for embedding in another loop.
    /// `None` where there is none.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// How many system calls it has made so far.
    fn syscalls(&self) -> u64;
}

/// Ends a [`Backend::wait`] from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current `wait`, or else the next one, return at once. Async-signal-safe; never blocks. Does nothing
    /// when the backend is gone.
    fn wake(&self);
}

/// What has completed and was not delivered yet, in order of completion.
#[derive(Debug, Default)]
pub struct Completions {
    pub(crate) queue: std::collections::VecDeque<Completion>,
}

/// A completion, or a part of a stream that goes on.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The operation.
    pub id: OpId,
    /// A value of zero or more, or a negated `errno`.
    pub result: i32,
    /// 0: the operation is over. 1: a part without a buffer. Above: a part, in the buffer with this number less two.
    part: u32,
}

impl Completion {
    /// Whether the operation goes on: it is a stream, and this a part of it.
    pub fn is_part(&self) -> bool {
        self.part != 0
    }

    /// The buffer that a part came in.
    pub(crate) fn buffer(&self) -> Option<u16> {
        Some(self.part.checked_sub(2)? as u16)
    }
}

impl Completions {
    /// Reports that `id` has completed: `result` is a value of zero or more, or a negated `errno`.
    pub fn push(&mut self, id: OpId, result: i32) {
        self.queue.push_back(Completion { id, result, part: 0 });
    }

    /// Reports a part of the stream `id`, which goes on: a value as for [`push`](Completions::push), and the number of the
    /// buffer that it came in. Also tells the flow, so nobody else does.
    pub fn push_part(&mut self, id: OpId, result: i32, buffer: Option<u16>, flow: &Flow) {
        flow.spend();
        let part = buffer.map_or(1, |buffer| u32::from(buffer) + 2);
        self.queue.push_back(Completion { id, result, part });
    }

    /// What was pushed, oldest first: for a backend that wraps another one and wants to see what that has done.
    pub fn iter(&self) -> impl Iterator<Item = &Completion> {
        self.queue.iter()
    }

    /// How many wait to be delivered.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits to be delivered.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
