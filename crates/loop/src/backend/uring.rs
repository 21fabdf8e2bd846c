//! The io_uring backend: operations go to the kernel whole, completions come back.
//!
//! # A ring
//!
//! Two queues in memory shared with the kernel. We write *entries* (what to do, and a name of 64 bits) to the
//! submission queue; `io_uring_enter(2)` makes the kernel take them, and sleeps if we like. When an operation is over,
//! the kernel writes its name and result to the completion queue, which we read without a system call.
//!
//! ```text
//!   submit ──entry──▶ [ submission queue ]──▶┐
//!      └─if full──▶ backlog ─┘               │ enter: take entries, run due work, sleep    (one a tick)
//!   wait ◀─result── [ completion queue ] ◀───┘
//! ```
//!
//! # How a submit goes
//!
//! The kernel said at set-up which opcodes it has ([`setup`]), a restricted ring also which it takes ([`restrict`]). An operation that it has becomes an entry ([`sqe`]),
//! named by its [`OpId`], and that is all. One that it lacks is made here by a system call that does not block
//! ([`attempt`]); if it would have blocked, a poll for the direction takes its place in the ring, under the same
//! name, and the call is made again when the poll completes.
//!
//! Entries reach the kernel in the order of their submission, always. When the queue is full it is handed over early;
//! while the kernel has completions that it found no room for, it gets nothing more, and entries wait in the
//! `backlog` until `wait` has made room. So the kernel's own overflow list stays short, and nothing (a cancel least
//! of all) is refused.
//!
//! # How a wait goes
//!
//! One enter hands over what is queued and sleeps until there is a completion; with a backlog it takes one enter for
//! each queueful. It does not sleep if there are completions already, and where there is nothing to hand over, no
//! work due and no wish to sleep, it is left out. Then the completion queue is read to its end.
//!
//! # What a result becomes
//!
//! Almost always itself. `EAGAIN` and `EINTR`, which the kernel reports where it could not or would not wait, lead to
//! another try, unless the operation was to be cancelled: then nothing has been transferred, and the result is
//! `ECANCELED`. So every operation keeps its request at hand, in a slot found by the id's index.
//!
//! What a poll announces again and again, and is not so, is left alone for a millisecond in between: an unconnected Unix socket
//! polls as writable although the receiver's queue is full.
//!
//! A [zero-copy send](zero_copy) has two completions, and its result is reported with the second.
//!
//! # What is not believed
//!
//! A completion for an operation that the ring does not have, and a stream's bytes in a buffer that cannot be theirs. No
//! kernel should say such a thing; if one does, it is not to become a result that is told twice, or memory that two use
//! (`hostile` tries).
//!
//! # Threads and processes
//!
//! Only the thread that made the ring may use it (`SINGLE_ISSUER`); [`Uring`] is not `Send`. The queues are not
//! mapped in forked children, where the backend must be forgotten rather than dropped.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue};

use self::bell::Bell;
use self::lanes::{LaneId, Lanes};
use self::queue::Queue;
use self::ring::Ring;
use self::waker::Waker;
use super::attempt::attempt;
use super::clock::monotonic_now;
use super::warm::Warm;
use super::{Backend, Chained, Completions, Submitted, Wake};
use crate::buffers::Pool;
use crate::operation::{Elsewhere, Kind, NOT_READY, OPERATIONS, OpId, Request, Support};

mod bell;
mod chain;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod lanes;
mod queue;
mod restrict;
mod ring;
mod setup;
mod sqe;
mod streams;
#[cfg(test)]
mod tests;
mod waker;
mod zero_copy;

pub(crate) use self::setup::Options;

/// The name of the waker's poll.
const WAKER: u64 = OpId::RESERVED;
/// The name of every cancel. What they report is of no interest: the target's own completion says it all.
const CANCEL: u64 = OpId::RESERVED + 1;

/// So many transfers are tried after a wait that brought hardly anything. Few, for there may be many more to come, which
/// are cheaper together.
const TRIES: u8 = 8;
/// After so many completions there may be work that the kernel has put off.
const DEFERRED: usize = 16;

/// The backend. The module's documentation tells how it works.
pub(crate) struct Uring {
    ring: Ring,
    /// What the ring has not been given yet. Everything passes through here.
    backlog: Queue,
    /// The operations in flight, by the index of their ids.
    slots: Vec<Slot>,
    /// Whose turn it is on each descriptor.
    lanes: Lanes,
    warm: Warm,
    /// How many more transfers may be tried before the next wait: see [`Backend::attempt`].
    tries: u8,
    /// Streams that have to rest, or that the kernel refused.
    resting: VecDeque<OpId>,
    /// The pools that are registered with the ring, by their groups.
    pools: Vec<Option<Rc<Pool>>>,
    /// Cancelled before their turn came: the kernel never saw them. Reported by the next wait.
    unbegun: Vec<OpId>,
    /// How each kind of operation is carried out.
    ways: [Support; OPERATIONS.len()],
    waker: Waker,
    /// For those who poll from outside, once there are any; `None` inside if the kernel would not.
    bell: OnceCell<Option<Bell>>,
    /// Whether completion work is deferred to our enters.
    deferred: bool,
    /// The longest chain for the kernel to carry out by itself; 0 if it cannot.
    chain_limit: usize,
    /// Keeps successful cancels silent, where the kernel can.
    cancel_flags: squeue::Flags,
    syscalls: u64,
    /// Not `Send`: the ring belongs to one thread.
    one_thread: PhantomData<*mut ()>,
}

/// What is known of an operation.
struct Slot {
    request: Request,
    generation: u32,
    stage: Stage,
    lane: LaneId,
    /// The number of its entry in the queue.
    entry: u64,
    /// Its end was asked for: it is not to be tried again.
    cancelled: bool,
    /// In a [chain], with others before it that are not over.
    behind: bool,
    /// In the ring, and all the same waiting for its turn in the lane.
    queued: bool,
    /// Who comes after it in a chain.
    next: Option<OpId>,
    /// A stream that the kernel was asked to end, for it has to rest.
    pausing: bool,
    /// A stream of which the kernel has told what cannot be: it was asked to end it.
    broken: bool,
    /// A stream that has brought something since it last went on.
    fed: bool,
    /// What came of a zero-copy send whose buffer the kernel still has.
    held: i32,
    /// A poll said that it could go on, and it could not.
    vain: bool,
}

/// What it takes to begin an operation, of a backend whose completions are being read.
struct Parts<'a> {
    slots: &'a mut [Slot],
    lanes: &'a mut Lanes,
    ways: &'a mut [Support],
    backlog: &'a mut Queue,
    syscalls: &'a mut u64,
}

/// What a completion queue entry says.
struct Cqe {
    name: u64,
    result: i32,
    flags: u32,
}

impl Cqe {
    fn new(name: u64, result: i32, flags: u32) -> Cqe {
        /// No error has a larger number.
        const MAX_ERRNO: i32 = 4095;
        // What a notification tells in this place is its sign.
        Cqe { name, result: result.max(-MAX_ERRNO), flags }
    }
}

/// What it takes to read completions.
struct Reader<'a> {
    parts: Parts<'a>,
    resting: &'a mut VecDeque<OpId>,
    waker: &'a Waker,
    cancel_flags: squeue::Flags,
}

/// Where an operation is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Stage {
    /// Nowhere: the slot is free.
    Free,
    /// Not begun: another transfer of that descriptor comes first.
    Waiting,
    /// In the ring, as itself.
    Native,
    /// In the ring, as a poll: it would have blocked.
    Polling,
    /// A [zero-copy send](zero_copy) that is over, but that the kernel still reads the buffer.
    Held,
    /// A stream in the ring, as itself.
    Multishot,
    /// A stream in the ring, as a poll.
    Watching,
    /// A stream that has its turn, and has to rest.
    Resting,
}

/// What follows from a result.
enum Next {
    Done(i32),
    /// Ask the kernel again.
    Again,
    /// Make the system call now; poll if it would block.
    Attempt {
        resumed: bool,
    },
    /// Wait for readiness, then make the system call.
    Poll,
}

impl Uring {
    /// Makes a ring and tries it out.
    ///
    /// # Errors
    /// With the system's code: `ENOSYS` (too old a kernel), `EPERM` or `EACCES` (switched off, or a sandbox), `EINVAL`,
    /// `ENOMEM`, `EMFILE` and the like. Whatever is forbidden shows here, not at the first operation.
    pub(crate) fn new(options: &Options) -> io::Result<Uring> {
        let made = setup::make(options)?;
        let mut uring = Uring {
            ring: made.ring,
            backlog: Queue::default(),
            slots: Vec::new(),
            lanes: Lanes::default(),
            warm: Warm::default(),
            tries: 0,
            resting: VecDeque::new(),
            pools: Vec::new(),
            unbegun: Vec::new(),
            ways: made.ways,
            waker: Waker::new(made.multishot)?,
            bell: OnceCell::new(),
            deferred: made.deferred,
            chain_limit: made.chain_limit,
            cancel_flags: if made.skip_success {
                squeue::Flags::SKIP_SUCCESS
            } else {
                squeue::Flags::empty()
            },
            syscalls: made.syscalls + 2,
            one_thread: PhantomData,
        };
        uring.backlog.push(uring.waker.arm().user_data(WAKER));
        Ok(uring)
    }

    /// Hands over what is queued, without waiting. Where the kernel takes nothing, `wait` will try again and report
    /// the error if it lasts.
    fn flush(&mut self) {
        // Where completions have overflown, old kernels refuse (EBUSY) and new ones let their list grow without end.
        while !self.ring.overflown() {
            self.refill();
            if self.ring.pending() == 0 {
                return;
            }
            self.syscalls += 1;
            if !matches!(self.ring.submit(), Ok(1..)) {
                return;
            }
        }
    }

    /// Moves what is queued into the ring, as far as there is room.
    fn refill(&mut self) {
        loop {
            let entries = self.backlog.first(self.ring.room() as usize);
            let count = entries.len();
            // SAFETY: what entries of operations point to is valid until their completion, by the contract of `submit`;
            // the others (polls, cancels) point to nothing.
            if count == 0 || !unsafe { self.ring.push(entries) } {
                return;
            }
            self.backlog.pop(count);
        }
    }

    /// Hands over what is queued and brings completions forth; sleeps, if `sleep` says how long, where there are none
    /// yet. How many entries the kernel took.
    fn enter(&mut self, sleep: Option<Option<Duration>>) -> io::Result<u32> {
        let sleep = sleep.filter(|_| self.ring.completions().is_empty());
        if sleep.is_none() && self.ring.pending() == 0 && !self.ring.due() {
            return Ok(0);
        }
        self.syscalls += 1;
        let result = match sleep {
            Some(timeout) => self.ring.sleep(timeout),
            None => self.ring.reap(),
        };
        match result {
            Ok(taken) => Ok(taken),
            Err(error) => match error.raw_os_error() {
                // The time is over, a signal came, or there is no room or memory at the moment.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Reads the completion queue to its end. What has to go to the kernel once more is put on the backlog, and how
    /// many were read is returned.
    fn drain(&mut self, done: &mut Completions) -> usize {
        let (ring, mut reader) = self.reader();
        let completions = ring.completions();
        let count = completions.len();
        for completion in completions {
            let completion = Cqe::new(completion.user_data(), completion.result(), completion.flags());
            reader.read(&completion, done);
        }
        count
    }

    /// Reports what was cancelled before its turn came.
    fn report_unbegun(&mut self, done: &mut Completions) {
        while let Some(id) = self.unbegun.pop() {
            done.push(id, -libc::ECANCELED);
            let Uring { slots, lanes, ways, backlog, syscalls, .. } = self;
            if let Some(next) = lanes.leave(id, slots[id.index as usize].lane) {
                advance(next, &mut Parts { slots, lanes, ways, backlog, syscalls }, done);
            }
        }
    }

    /// The completion queue's side of the backend, and the rest of it.
    fn reader(&mut self) -> (&mut Ring, Reader<'_>) {
        let Uring { ring, backlog, slots, lanes, resting, ways, waker, cancel_flags, syscalls, .. } = self;
        let parts = Parts { slots, lanes, ways, backlog, syscalls };
        (ring, Reader { parts, resting, waker, cancel_flags: *cancel_flags })
    }
}

impl Reader<'_> {
    /// Takes note of one completion. What it says of an operation that the ring does not have at all, because it is over
    /// or not there yet, is not believed.
    #[inline]
    fn read(&mut self, completion: &Cqe, done: &mut Completions) {
        let Reader { parts, resting, waker, cancel_flags } = self;
        match completion.name {
            CANCEL => {}
            WAKER => {
                if !cqueue::more(completion.flags) {
                    waker.clear(parts.syscalls);
                    parts.backlog.push(waker.arm().user_data(WAKER));
                }
            }
            name => {
                let id = OpId::from_bits(name);
                let left = parts.backlog.left();
                let slot = parts.slots.get_mut(id.index as usize).filter(|slot| slot.is_in_ring(id, left));
                let Some(slot) = slot else { return };
                if slot.stage >= Stage::Multishot {
                    let Parts { slots, backlog, ways, syscalls, .. } = parts;
                    let mut rest =
                        streams::Rest { backlog, resting, ways, syscalls, done, flags: *cancel_flags };
                    let slot = &mut slots[id.index as usize];
                    let (over, lane) = (slot.take_part(id, completion, &mut rest), slot.lane);
                    if let Some(result) = over {
                        done.push(id, result);
                        if let Some(next) = parts.lanes.leave(id, lane) {
                            advance(next, parts, done);
                        }
                    }
                    return;
                }
                let mut result = completion.result;
                if slot.stage == Stage::Held {
                    if cqueue::more(completion.flags) {
                        return;
                    }
                    result = slot.let_go(result);
                } else if cqueue::more(completion.flags) && slot.is_zero_copy() {
                    return zero_copy::hold(id, result, parts, done);
                }
                match slot.settle(result, parts.syscalls) {
                    Ok(result) => {
                        done.push(id, result);
                        parts.lanes.note(&slot.request, result);
                        if slot.next.is_some() || slot.queued || slot.behind {
                            chain::give_way(id, parts, done);
                        } else {
                            let next = parts.lanes.leave(id, slot.lane);
                            if let Some(next) = next {
                                advance(next, parts, done);
                            }
                        }
                    }
                    Err(entry) => slot.entry = parts.backlog.push(entry.user_data(name)),
                }
            }
        }
    }
}

impl Slot {
    fn free() -> Slot {
        Slot {
            request: Request::Nop,
            generation: 0,
            stage: Stage::Free,
            lane: LaneId::NONE,
            entry: 0,
            cancelled: false,
            behind: false,
            queued: false,
            next: None,
            pausing: false,
            broken: false,
            fed: false,
            held: 0,
            vain: false,
        }
    }

    /// Whether it is `id` that is here and the ring has it: it was handed over, and is not on its way there again.
    #[inline]
    fn is_in_ring(&self, id: OpId, left: u64) -> bool {
        let stage = !matches!(self.stage, Stage::Free | Stage::Waiting | Stage::Resting);
        self.generation == id.generation && stage && self.entry < left
    }

    /// Begins the operation: queues the entry that carries it out, or returns its result.
    ///
    /// # Safety
    /// As for [`Backend::submit`].
    #[inline]
    unsafe fn begin(
        &mut self,
        id: OpId,
        ways: &[Support],
        backlog: &mut Queue,
        syscalls: &mut u64,
    ) -> Option<i32> {
        if ways[self.request.kind() as usize] == Support::Native
            && let Some(entry) = sqe::transfer(&self.request)
        {
            // Most are.
            self.stage = Stage::Native;
            self.entry = backlog.push(entry.user_data(id.to_bits()));
            return None;
        }
        // SAFETY: passed on from this function's own contract.
        match unsafe { self.begin_other(ways, syscalls) } {
            Ok(result) => Some(result),
            Err(entry) => {
                self.entry = backlog.push(entry.user_data(id.to_bits()));
                None
            }
        }
    }

    /// # Safety
    /// As for `begin`.
    unsafe fn begin_other(&mut self, ways: &[Support], syscalls: &mut u64) -> Result<i32, squeue::Entry> {
        if self.request.flow().is_some() {
            // SAFETY: passed on from this function's own contract.
            return Err(unsafe { self.begin_stream(ways) });
        }
        if ways[self.request.kind() as usize] == Support::Native {
            self.stage = Stage::Native;
            // SAFETY: as above.
            return Err(unsafe { sqe::entry(&self.request) });
        }
        // SAFETY: as above.
        let result = unsafe { attempt(&self.request, false, syscalls) };
        self.tried(result)
    }

    /// Takes note of a completion from the ring: the operation's result, or the entry with which it goes on.
    #[inline]
    fn settle(&mut self, result: i32, syscalls: &mut u64) -> Result<i32, squeue::Entry> {
        if self.stage == Stage::Native && result >= 0 {
            // Most are.
            self.stage = Stage::Free;
            return Ok(result);
        }
        self.settle_other(result, syscalls)
    }

    fn settle_other(&mut self, result: i32, syscalls: &mut u64) -> Result<i32, squeue::Entry> {
        let result = match self.next(result) {
            Next::Done(result) => Some(result),
            Next::Again => {
                // SAFETY: the operation has not completed, so its submitter's promise holds.
                return Err(unsafe { sqe::entry(&self.request) });
            }
            Next::Attempt { resumed } => {
                // SAFETY: as above.
                let result = unsafe { attempt(&self.request, resumed, syscalls) };
                // Once is no habit: somebody else may have been quicker.
                if resumed && result.is_none() && std::mem::replace(&mut self.vain, true) {
                    return Err(opcode::Timeout::new(&raw const sqe::REST).build());
                }
                result
            }
            Next::Poll => None,
        };
        self.tried(result)
    }

    /// An attempt was made: its result, or the poll for the next one.
    fn tried(&mut self, result: Option<i32>) -> Result<i32, squeue::Entry> {
        match result {
            Some(result) => {
                self.stage = Stage::Free;
                Ok(result)
            }
            None => {
                self.stage = Stage::Polling;
                Err(readiness(&self.request))
            }
        }
    }

    fn next(&self, result: i32) -> Next {
        let ready = matches!(self.request.kind().describe().elsewhere, Elsewhere::Ready(_));
        let errno = match -result {
            // The kernel's own words for "interrupted", which are not meant to come out: ERESTARTSYS and its kin.
            512..=514 | 516 => libc::EINTR,
            errno => errno,
        };
        match (self.stage, errno) {
            // The number is free, whatever else went wrong.
            (Stage::Native, libc::EINTR) if matches!(self.request, Request::Close { .. }) => Next::Done(0),
            // These transferred nothing, so this is true.
            (_, libc::EINTR | libc::EAGAIN) if self.cancelled => Next::Done(-libc::ECANCELED),
            (Stage::Polling, _) if self.cancelled => Next::Done(-libc::ECANCELED),
            (Stage::Polling, _) if result >= 0 => Next::Attempt { resumed: true },
            // ETIME: it has rested.
            (Stage::Polling, libc::EINTR | libc::EAGAIN | libc::ETIME) => Next::Poll,
            (Stage::Native, errno) if zero_copy::is_refused(&self.request, errno) => {
                if self.cancelled {
                    Next::Done(-libc::ECANCELED)
                } else {
                    Next::Attempt { resumed: false }
                }
            }
            // The connection was reset before anybody accepted it: there may be another one behind it.
            (_, libc::ECONNABORTED) if matches!(self.request, Request::Accept { .. }) => {
                if self.cancelled {
                    Next::Done(-libc::ECANCELED)
                } else {
                    Next::Again
                }
            }
            // A Unix listener's queue is full, and no event will tell when it is not. BSD's word for it.
            (_, libc::EAGAIN) if matches!(self.request, Request::Connect { .. }) => {
                Next::Done(-libc::ECONNREFUSED)
            }
            (_, libc::EAGAIN) if matches!(self.request, Request::SpliceFile { .. }) => Next::Done(NOT_READY),
            // Begun, and going on by itself.
            (_, libc::EINTR | libc::EINPROGRESS | libc::EALREADY)
                if matches!(self.request, Request::Connect { .. }) =>
            {
                Next::Poll
            }
            // An old kernel did not want to wait on a non-blocking descriptor.
            (_, libc::EAGAIN) if ready => Next::Poll,
            (_, libc::EINTR) if ready => Next::Attempt { resumed: false },
            // Held back by a lease, say: the answer to somebody who did not want to wait.
            (_, libc::EAGAIN) if matches!(self.request, Request::Open { .. }) => Next::Done(result),
            (_, libc::EINTR | libc::EAGAIN) => Next::Again,
            _ => Next::Done(result),
        }
    }
}

/// The slot of an operation that is about to begin.
fn slot_for(slots: &mut Vec<Slot>, id: OpId) -> &mut Slot {
    let index = id.index as usize;
    if index >= slots.len() {
        slots.resize_with(index + 1, Slot::free);
    }
    let slot = &mut slots[index];
    debug_assert!(slot.stage == Stage::Free, "{id:?} meets an operation in flight");
    slot
}

/// It is an operation's turn: begins it, and if it is over at once, the one behind it.
fn advance(mut id: OpId, parts: &mut Parts<'_>, done: &mut Completions) {
    loop {
        let slot = &mut parts.slots[id.index as usize];
        if std::mem::take(&mut slot.queued) {
            // The kernel has begun it, behind another one of its chain.
            return;
        }
        // SAFETY: the operation has not completed, so its submitter's promise holds.
        let Some(result) = (unsafe { slot.begin(id, parts.ways, parts.backlog, parts.syscalls) }) else {
            return;
        };
        done.push(id, result);
        let Some(next) = parts.lanes.leave(id, slot.lane) else { return };
        id = next;
    }
}

/// The entry that ends an operation.
fn cancel(id: OpId, flags: squeue::Flags) -> squeue::Entry {
    opcode::AsyncCancel::new(id.to_bits()).build().flags(flags).user_data(CANCEL)
}

/// The poll for what a request would wait for.
fn readiness(request: &Request) -> squeue::Entry {
    let (Some(handle), Some(direction)) = (request.handle(), request.direction()) else {
        unreachable!("{:?} never blocks", request.kind())
    };
    let mut events = direction.events();
    // Urgent data lets no ordinary call go on; a poll that reported it would complete again and again.
    if !matches!(*request, Request::Recv { flags, .. } | Request::RecvMsg { flags, .. } if flags & libc::MSG_OOB != 0)
    {
        events &= !(libc::POLLPRI as u16);
    }
    sqe::poll(handle.fd, events)
}

// SAFETY: results are those of system calls, or the ring's, for the very request; a request is forgotten with its
// completion.
unsafe impl Backend for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    /// [`Unsupported`](Support::Unsupported) for what the loop carries out itself.
    fn support(&self, kind: Kind) -> Support {
        self.ways[kind as usize]
    }

    unsafe fn submit(&mut self, id: OpId, request: &Request) -> Submitted {
        if self.support(request.kind()) == Support::Direct {
            // What was asked for before a shutdown or a close is to happen before it.
            self.flush();
        }
        if let Request::RecvMulti { flow, .. } = *request {
            // SAFETY: valid by this function's contract.
            self.prepare(unsafe { &*flow }.pool());
        }
        let index = id.index as usize;
        let lane = lanes::lane_of(request);
        *slot_for(&mut self.slots, id) = Slot {
            request: *request,
            generation: id.generation,
            stage: Stage::Waiting,
            lane,
            ..Slot::free()
        };
        if !self.lanes.enter(id, lane, request) {
            return Submitted::Pending(0);
        }
        // SAFETY: passed on from this function's own contract.
        let begun = unsafe { self.slots[index].begin(id, &self.ways, &mut self.backlog, &mut self.syscalls) };
        let Some(result) = begun else { return Submitted::Pending(0) };
        // Nobody can have queued behind it yet.
        self.lanes.leave(id, lane);
        Submitted::Done(result)
    }

    fn chain_limit(&self) -> usize {
        self.chain_limit
    }

    unsafe fn submit_chain(&mut self, chain: &mut [Chained]) -> usize {
        // SAFETY: passed on from this function's own contract.
        unsafe { self.link(chain) }
    }

    /// For transfers that gain nothing by the ring.
    ///
    /// Receives from streams that have more than was asked for: the ring would serve one receive of each in turn, and by
    /// the time that it comes round again what is there has left the caches. And a few transfers after a wait that brought
    /// at most one completion: with nobody to share it, an enter costs as much as the call, and a suspension besides. And
    /// reads of files that are in memory.
    unsafe fn attempt(&mut self, request: &Request) -> Option<i32> {
        if let Request::Read { .. } = request {
            // SAFETY: passed on from this function's own contract.
            return unsafe { self.warm.attempt(request, &mut self.syscalls) };
        }
        let alone = self.tries > 0 && self.backlog.is_empty() && self.lanes.is_worth_a_try(request);
        if !alone && !self.lanes.has_more(request) {
            return None;
        }
        // SAFETY: passed on from this function's own contract.
        let result = unsafe { attempt(request, false, &mut self.syscalls) };
        self.lanes.note(request, result.unwrap_or(0));
        if alone {
            self.tries -= 1;
            self.lanes.note_try(request, result.is_some());
        }
        result
    }

    fn cancel(&mut self, id: OpId, _word: u32, _request: &Request) {
        let slot = &mut self.slots[id.index as usize];
        debug_assert!(
            slot.generation == id.generation && slot.stage != Stage::Free,
            "{id:?} is not in flight"
        );
        slot.cancelled = true;
        if slot.stage == Stage::Held {
            // It is done, and the kernel takes its time.
            return;
        }
        if slot.stage == Stage::Waiting {
            slot.stage = Stage::Free;
            self.lanes.give_up(id, slot.lane);
            self.unbegun.push(id);
            return;
        }
        if slot.stage == Stage::Resting || self.backlog.revoke(slot.entry) {
            slot.stage = Stage::Free;
            self.unbegun.push(id);
            self.revoke_followers(id.index as usize);
            return;
        }
        self.backlog.push(cancel(id, self.cancel_flags));
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Completions) -> io::Result<()> {
        let before = done.len();
        self.report_unbegun(done);
        let hurry = !self.resting.is_empty() && self.resume();
        loop {
            self.refill();
            let last = self.backlog.is_empty();
            let sleep = last && !hurry && done.len() == before && timeout != Some(Duration::ZERO);
            let taken = self.enter(sleep.then_some(timeout))?;
            let read = self.drain(done);
            if last || (taken == 0 && read == 0) {
                break;
            }
        }
        let brought = done.len() - before;
        self.tries = if brought <= 1 { TRIES } else { 0 };
        if brought >= DEFERRED && self.ring.due() {
            // The kernel does no more than some twenty pieces of deferred work unless asked for more. Those that are
            // ready now are all to be served before any of them again.
            self.syscalls += 1;
            if self.ring.reap_all().is_ok() {
                self.drain(done);
            }
        }
        // What goes on (a waker to arm, a poll to wait for) is with the kernel before anybody polls from outside. Rare.
        if !self.backlog.is_empty() {
            self.refill();
            self.flush();
        }
        if let Some(Some(bell)) = self.bell.get() {
            bell.reset(&self.ring, !self.backlog.is_empty(), &mut self.syscalls)?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        monotonic_now()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.handle()
    }

    /// From the first call on, every wait costs three more system calls (see [`bell`]). What was submitted since the
    /// last wait is not with the kernel yet: wait (with a time-out of zero) before polling it.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        if !self.deferred {
            return Some(self.ring.fd());
        }
        self.bell.get_or_init(|| Bell::new(&self.ring).ok()).as_ref().map(Bell::fd)
    }

    fn syscalls(&self) -> u64 {
        self.syscalls + self.ring.registering()
    }
}
