//! What a loop knows: the operations in flight, the timers, the backend, and what has completed.
//!
//! An operation's life is [`Core::begin`] → backend → [`Completions`] → [`Core::settle`] → delivery, whichever way it is
//! waited for. The [loop](crate::Loop) borrows the core for as long as its own code runs, never while others' does.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use self::rest::advance;
use crate::backend::{Backend, Chained, Completions, Submitted};
use crate::event_loop::Loop;
use crate::instant::Instant;
use crate::offload::Offload;
use crate::op::{Begin, Extent, Operation, Options, Outcome, Started};
use crate::operation::{Kind, NOT_READY, OPERATIONS, OpId, Request, Support};
use crate::prefetch::prefetch;
use crate::remote::Shared;
use crate::slots::{PayloadType, Phase, Sink, Slot, Slots, Why};
use crate::stats::Stats;
use crate::timer::Wheel;
use crate::wait::Waiting;

pub(crate) mod group;
mod rest;
mod splice;

/// All the state of a loop.
pub(crate) struct Core {
    shared: Arc<Shared>,
    pub(crate) slots: Slots,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) wheel: Wheel,
    pub(crate) done: Completions,
    /// How many of `done` have been seen by [`Core::absorb`].
    pub(crate) absorbed: usize,
    /// The time when the backend last returned.
    pub(crate) now: u64,
    pub(crate) limit: usize,
    /// Whether many timers were due at once when last looked.
    crowded: bool,
    closing: Vec<Closing>,
    /// What the pool carries out.
    pub(crate) offload: Offload,
    /// How many operations in flight do not keep the loop running.
    pub(crate) background: usize,
    /// How many do not count for the limit.
    uncounted: usize,
    /// A chain on its way to the backend; kept for its memory.
    chain: Vec<Chained>,
    /// Deadlines of streams that are held back.
    pub(crate) held: Vec<(OpId, u64)>,
    /// How far transfers are whose progress somebody wants to know.
    pub(crate) reports: VecDeque<(OpId, usize)>,
    pub(crate) stats: Stats,
}

/// So many timers that are due at once make the next ones wait for each other, at most for [`CROWD_WAITS`] nanoseconds.
const CROWD: usize = 64;
const CROWD_WAITS: u64 = 500_000;

/// A close that waits for the operations on its descriptor.
struct Closing {
    id: OpId,
    identity: u64,
    remaining: usize,
}

/// An operation that has left the core: where its outcome goes.
pub(crate) struct Settled {
    pub(crate) id: OpId,
    pub(crate) sink: Sink,
    pub(crate) removed: bool,
    pub(crate) outcome: Outcome,
}

/// What a wait is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gather {
    /// Everything: completions at hand and the inbox keep it from sleeping.
    All,
    /// A frame: only news about operations.
    Frames,
}

impl Core {
    pub(crate) fn new(backend: Box<dyn Backend>, limit: usize, shared: Arc<Shared>) -> Core {
        let now = backend.now();
        let pooled = std::array::from_fn(|index| backend.support(OPERATIONS[index].kind) == Support::Pool);
        Core {
            offload: Offload::new(shared.clone(), pooled),
            shared,
            slots: Slots::default(),
            wheel: Wheel::new(now),
            backend,
            done: Completions::default(),
            absorbed: 0,
            now,
            limit,
            crowded: false,
            closing: Vec::new(),
            background: 0,
            uncounted: 0,
            chain: Vec::new(),
            held: Vec::new(),
            reports: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Begins an operation whose outcome goes to a callback; `counted` for the limit, or not.
    pub(crate) fn begin_payload<O, F>(&mut self, op: O, callback: F, counted: bool) -> OpId
    where
        O: Operation + 'static,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        let options = op.options();
        let id = self.slots.take();
        if !counted {
            self.uncounted += 1;
            self.slots.at(id.index).flags.uncounted = true;
        }
        let place = self.slots.place(id, payload_type::<O, F>(), Payload { op, callback });
        // SAFETY: just written, at the place that it keeps; nobody else refers to it yet.
        let op = unsafe { &mut (*place.as_ptr()).op };
        let started = self.admit(id, 0, |begin| op.start(begin));
        if let Some(result) = self.begin(id, started, options) {
            self.finish_later(id, result);
        }
        id
    }

    /// Begins an operation that a frozen frame waits for. `Some` if it is over already and nothing is in flight.
    pub(crate) fn begin_waiting(
        &mut self,
        start: impl FnOnce(&Begin<'_>) -> Started,
        options: Options,
        waiting: NonNull<Waiting>,
    ) -> Result<OpId, Outcome> {
        let id = self.slots.next();
        let all = options.extent == Extent::All;
        let (mut tried, mut progress) = (false, 0);
        let other = match self.admit(id, 1, start) {
            Started::Request(request) => {
                // Straight to its place, field by field: what was just written in small pieces is slow to read in large ones,
                // which is how a processor copies.
                let request = self.slots.prepare(id, request);
                // SAFETY: as in [`dispatch`]; the frame that the request points to has not been left.
                match unsafe { self.backend.attempt(request) } {
                    // These are held back, or wait some other way, which takes a slot.
                    Some(result) if is_exhaustion(result) && matches!(request, Request::Accept { .. }) => {}
                    Some(result) if is_unwatchable(request, result) => {}
                    Some(result) => {
                        let mut rest = false;
                        if all && result > 0 {
                            // SAFETY: as above.
                            (progress, rest) = unsafe { advance(request, result as usize) };
                        }
                        if !rest {
                            self.stats.submitted += 1;
                            self.stats.completed += 1;
                            return Err(Outcome { result: if progress > 0 { 0 } else { result }, progress });
                        }
                    }
                    None => tried = true,
                }
                self.slots.take_prepared(id);
                None
            }
            other => {
                let taken = self.slots.take();
                debug_assert_eq!(id, taken);
                Some(other)
            }
        };
        let slot = self.slots.at(id.index);
        slot.sink = Sink::Waiting(waiting);
        slot.progress = progress;
        if progress > 0 && slot.request.progress().is_some() {
            self.reports.push_back((id, progress));
        }
        let begun = match other {
            None => self.begin_request(id, options, tried),
            Some(other) => self.begin(id, other, options),
        };
        let Some(result) = begun else { return Ok(id) };
        match self.settle(id, result) {
            // An `all` transfer that goes on, or an accept held back.
            None => Ok(id),
            Some(settled) => {
                self.slots.vacate(id);
                Err(settled.outcome)
            }
        }
    }

    /// Fills the request of a new slot in, unless there are too many already; `more` of them are about to be taken.
    pub(crate) fn admit(
        &mut self,
        id: OpId,
        more: usize,
        start: impl FnOnce(&Begin<'_>) -> Started,
    ) -> Started {
        if !self.has_room(more) {
            Started::failed(libc::EDQUOT)
        } else {
            start(&Begin { id, shared: &self.shared })
        }
    }

    /// Whether there may be so many more operations.
    #[inline]
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.slots.len() - self.uncounted + more <= self.limit
    }

    /// Starts what a slot was taken for. `Some` if it is over already.
    pub(crate) fn begin(&mut self, id: OpId, started: Started, options: Options) -> Option<i32> {
        let slot = self.slots.at(id.index);
        match started {
            Started::Done(result) => {
                self.stats.submitted += 1;
                Some(result)
            }
            Started::Request(request) => {
                slot.request = request;
                self.begin_request(id, options, false)
            }
            Started::CloseShared { identity } => {
                slot.request = Request::External;
                let result = self.begin_request(id, options, false);
                self.close_shared(id, identity);
                result
            }
            Started::Group(group) => {
                slot.request = Request::Group(group);
                let result = self.begin_request(id, options, false);
                debug_assert_eq!(result, None, "the loop has it");
                self.begin_group(id, group)
            }
        }
    }

    /// Starts the request in a slot; `tried`: the backend has just been asked to do it at once. `Some` if it is over already.
    #[inline]
    fn begin_request(&mut self, id: OpId, options: Options, tried: bool) -> Option<i32> {
        self.stats.submitted += 1;
        if options.deadline != Instant::NEVER {
            self.wheel.arm(&mut self.slots, id.index, options.deadline.0);
        }
        let slot = self.slots.at(id.index);
        slot.flags.extent = options.extent;
        dispatch(&mut *self.backend, &mut self.offload, id, slot, tried)
    }

    /// Queues a completion that is known already.
    pub(crate) fn finish_later(&mut self, id: OpId, result: i32) {
        make_ready(self.slots.at(id.index), result);
        self.done.push(id, result);
        // Those before it may be new from the backend; absorbing one twice does no harm, missing one would.
    }

    /// Marks what has completed: from here on it cannot be cancelled.
    pub(crate) fn absorb(&mut self) {
        for at in self.absorbed..self.done.len() {
            let completion = self.done.queue[at];
            if completion.is_part() {
                continue;
            }
            if let Some(slot) = self.slots.get(completion.id) {
                make_ready(slot, completion.result);
                if let Sink::Waiting(waiting) = slot.sink {
                    // The frame that will be written to.
                    prefetch(waiting.as_ptr().cast(), 1);
                }
            }
        }
        self.absorbed = self.done.len();
    }

    /// Asks for what a completion goes to that is delivered soon.
    #[inline]
    pub(crate) fn prefetch_ahead(&mut self) {
        const AHEAD: usize = 4;
        // A few stay where they are, in the caches.
        const MANY: usize = 16;
        if self.done.queue.len() < MANY {
            return;
        }
        let completion = self.done.queue[AHEAD];
        match self.slots.get(completion.id).map(|slot| slot.sink) {
            // SAFETY: its frame waits for the completion, which has not been delivered.
            Some(Sink::Waiting(waiting)) => prefetch(unsafe { waiting.as_ref() }.task().cast(), 3),
            Some(Sink::Payload { place, .. }) => prefetch(place.as_ptr(), 2),
            Some(Sink::None | Sink::Member { .. }) | None => {}
        }
    }

    pub(crate) fn cancel(&mut self, id: OpId, why: Why) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        if slot.phase == Phase::Ready {
            // Over, unless there is more to do, or it comes back from a chain not begun: then it will not be.
            let goes_on = slot.flags.extent == Extent::All
                || slot.flags.polling
                || slot.flags.unfinished
                || matches!(slot.sink, Sink::Member { .. });
            if goes_on {
                slot.flags.mark(why);
            }
            return goes_on;
        }
        let asked = slot.flags.ended();
        slot.flags.mark(why);
        if let (Phase::Loop, Request::Group(group)) = (slot.phase, slot.request) {
            self.stats.canceled += u64::from(!asked);
            self.cancel_members(group, why);
            return true;
        }
        if asked {
            return true;
        }
        self.stats.canceled += 1;
        match slot.phase {
            // It will not be begun, or ended when its turn comes.
            Phase::Linked => {}
            Phase::Backend => {
                let polling = slot.flags.polling;
                let request = if polling { readiness_of(&slot.request) } else { slot.request };
                let word = slot.word;
                self.backend.cancel(id, word, &request);
            }
            Phase::Loop => self.finish_later(id, -libc::ECANCELED),
            Phase::Pool => self.cancel_offloaded(id, 0),
            Phase::Free | Phase::Starting | Phase::Ready => unreachable!("{:?} is not in flight", slot.phase),
        }
        true
    }

    /// Ends what is with the pool, or interrupts it, until it is over: the signal may come just before a system call that it
    /// should have interrupted. `before`: how often it has been by now.
    fn cancel_offloaded(&mut self, id: OpId, before: u32) {
        /// The first pause between two signals, which doubles up to 128 ms.
        const PAUSE: u64 = 1_000_000;
        if self.offload.cancel(id.index) {
            return self.finish_later(id, -libc::ECANCELED);
        }
        self.slots.at(id.index).word = before + 1;
        self.wheel.disarm(&mut self.slots, id.index);
        let pause = PAUSE << before.min(7);
        self.wheel.arm(&mut self.slots, id.index, self.backend.now().saturating_add(pause));
    }

    /// Whether anything is in flight that is not in the background.
    pub(crate) fn keeps_running(&self) -> bool {
        self.slots.len() > self.background
    }

    /// Moves the deadline of an operation in flight. False if it is over or about to be, or held back.
    pub(crate) fn reset(&mut self, id: OpId, at: Instant) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        let held_back = slot.phase == Phase::Loop && matches!(slot.request, Request::Accept { .. });
        if !matches!(slot.phase, Phase::Backend | Phase::Loop | Phase::Pool)
            || slot.flags.ended()
            || held_back
        {
            return false;
        }
        self.wheel.disarm(&mut self.slots, id.index);
        if at != Instant::NEVER {
            self.wheel.arm(&mut self.slots, id.index, at.0);
        }
        true
    }

    /// Whether an operation in flight keeps the loop running. False if it is over.
    pub(crate) fn set_background(&mut self, id: OpId, on: bool) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        let request = slot.request;
        let was = std::mem::replace(&mut slot.flags.background, on);
        self.background = self.background + usize::from(on) - usize::from(was);
        if let Request::Group(group) = request {
            self.set_members_background(group, on);
        }
        true
    }

    /// Completes an operation that waits for something outside. False if it is over: the news were not delivered.
    pub(crate) fn complete_external(&mut self, id: OpId, result: i32) -> bool {
        match self.slots.get(id) {
            Some(slot) if slot.phase == Phase::Loop && matches!(slot.request, Request::External) => {
                self.finish_later(id, result);
                true
            }
            Some(slot) if slot.phase == Phase::Pool => {
                self.offload.finished(id.index);
                self.finish_later(id, result);
                true
            }
            _ => false,
        }
    }

    /// How long the backend may sleep.
    pub(crate) fn timeout(&self, wait: Option<Duration>, what: Gather) -> Option<Duration> {
        if what == Gather::All && !(self.done.is_empty() && self.reports.is_empty()) {
            return Some(Duration::ZERO);
        }
        if wait == Some(Duration::ZERO) {
            return wait;
        }
        let Some(next) = self.wheel.next() else { return wait };
        let until = next.saturating_sub(self.backend.now());
        // A sleep of a microsecond costs more than it is long: where timers come by the dozen they are taken together.
        let until = Duration::from_nanos(if self.crowded { until.max(CROWD_WAITS) } else { until });
        Some(wait.map_or(until, |wait| wait.min(until)))
    }

    /// Ends what is due.
    pub(crate) fn expire(&mut self) {
        let before = self.wheel.len();
        self.expire_each();
        self.crowded = before - self.wheel.len() >= CROWD;
    }

    fn expire_each(&mut self) {
        while let Some(index) = self.wheel.pop(&mut self.slots, self.now) {
            let slot = self.slots.at(index);
            let id = OpId { index, generation: slot.generation };
            match (slot.phase, &slot.request) {
                (Phase::Pool, _) if slot.flags.canceled || slot.flags.timed_out => {
                    let before = slot.word;
                    self.cancel_offloaded(id, before);
                }
                (Phase::Loop, Request::Timer) => self.finish_later(id, 0),
                (Phase::Loop, Request::AcceptMulti { .. }) => self.accept_again(id),
                // An accept held back: its error goes out now.
                (Phase::Loop, Request::Accept { .. }) => {
                    let result = slot.word as i32;
                    self.finish_later(id, result);
                }
                _ => {
                    self.cancel(id, Why::TimedOut);
                }
            }
        }
    }

    /// Settles the completion that most are: a value, for a frame that asked for nothing else. `None` if it is another.
    #[inline]
    pub(crate) fn settle_waiting(&mut self, id: OpId, result: i32) -> Option<NonNull<Waiting>> {
        let slot = self.slots.get(id)?;
        let Sink::Waiting(waiting) = slot.sink else { return None };
        if result < 0 || !slot.flags.are_none() || !self.closing.is_empty() {
            return None;
        }
        slot.sink = Sink::None;
        if slot.node.is_armed() {
            self.wheel.disarm(&mut self.slots, id.index);
        }
        self.slots.free(id);
        self.stats.completed += 1;
        Some(waiting)
    }

    /// Decides what a completion means. `None` if the operation goes on; else it has left the wheel, and its slot is
    /// the receiver's to vacate.
    pub(crate) fn settle(&mut self, id: OpId, mut result: i32) -> Option<Settled> {
        loop {
            let Some(slot) = self.slots.get(id) else {
                debug_assert!(false, "a completion for {id:?}, which is over");
                return None;
            };
            let ended = slot.flags.ended();
            if result == -libc::ECANCELED
                && !ended
                && let Sink::Member { group, index } = slot.sink
                && self.is_ahead(group, index)
            {
                return self.come_back(group, index);
            }
            let slot = self.slots.at(id.index);
            slot.flags.unfinished = false;
            if std::mem::take(&mut slot.flags.polling) && result >= 0 {
                if !ended {
                    result = match slot.request.second_handle() {
                        Some(_) => splice::next_end(&mut *self.backend, &mut self.offload, id, slot)?,
                        None => hand_to_pool(&mut self.offload, id, slot)?,
                    };
                    continue;
                }
                result = -libc::ECANCELED;
            }
            if result == NOT_READY {
                if !ended {
                    result = splice::await_ends(&mut *self.backend, &mut self.offload, id, slot)?;
                    continue;
                }
                result = -libc::ECANCELED;
            }
            let unwatchable = !slot.flags.pooled && is_unwatchable(&slot.request, result);
            if unwatchable || lost_race(&slot.request, result) {
                if !ended {
                    result = poll_first(&mut *self.backend, &mut self.offload, id, slot)?;
                    continue;
                }
                // Nothing was transferred.
                result = -libc::ECANCELED;
            }
            if slot.flags.extent == Extent::All
                && result > 0
                && matches!(slot.phase, Phase::Ready | Phase::Starting | Phase::Backend)
            {
                // SAFETY: the request's pointers are valid for as long as the operation is not settled.
                let (moved, rest) = unsafe { advance(&mut slot.request, result as usize) };
                slot.progress += moved;
                if rest && !ended {
                    slot.flags.pooled = false;
                    let reports = slot.request.progress().is_some();
                    if reports {
                        self.reports.push_back((id, slot.progress));
                    }
                    result = dispatch(&mut *self.backend, &mut self.offload, id, slot, false)?;
                    if reports {
                        // One part is told before the next one is settled.
                        self.finish_later(id, result);
                        return None;
                    }
                    continue;
                }
                result = if rest { -libc::ECANCELED } else { 0 };
            }
            if !ended && Core::outlives(&slot.request, result) {
                self.hold_back(id, result);
                return None;
            }
            let held_back = slot.word == result as u32;
            if is_exhaustion(result) && matches!(slot.request, Request::Accept { .. }) && !ended && !held_back
            {
                self.hold_back(id, result);
                return None;
            }
            break;
        }
        let slot = self.slots.at(id.index);
        // The caller's own wish beats a deadline that passed as well.
        if result == -libc::ECANCELED && slot.flags.timed_out && !slot.flags.canceled {
            result = Outcome::TIMED_OUT;
        }
        let settled = Settled {
            id,
            sink: slot.sink,
            removed: slot.flags.removed,
            outcome: Outcome { result, progress: slot.progress },
        };
        let request = slot.request;
        self.background -= usize::from(slot.flags.background);
        self.uncounted -= usize::from(slot.flags.uncounted);
        self.wheel.disarm(&mut self.slots, id.index);
        self.stats.completed += 1;
        if !self.closing.is_empty() {
            self.note_closing(&request);
        }
        Some(settled)
    }

    /// Keeps an accept that found no descriptor (or memory) from being tried again at once: whoever accepts in a loop
    /// would spin on the connection that stays ready. Its error goes out after a moment.
    fn hold_back(&mut self, id: OpId, result: i32) {
        const MOMENT: u64 = 10_000_000;
        let slot = self.slots.at(id.index);
        let deadline = slot.node.deadline().unwrap_or(u64::MAX);
        if slot.flags.extent == Extent::Stream && deadline != u64::MAX {
            self.held.retain(|(held, _)| self.slots.get(*held).is_some());
            self.held.push((id, deadline));
        }
        self.wheel.disarm(&mut self.slots, id.index);
        self.wheel.arm(&mut self.slots, id.index, deadline.min(self.backend.now().saturating_add(MOMENT)));
        let slot = self.slots.at(id.index);
        slot.phase = Phase::Loop;
        slot.word = result as u32;
    }

    /// Begins to close a descriptor that operations are using: cancels those; when the last is over, `id` completes.
    fn close_shared(&mut self, id: OpId, identity: u64) {
        let users = self.slots.select(|slot| slot.request.uses(identity));
        for user in &users {
            self.cancel(*user, Why::Canceled);
        }
        if users.is_empty() {
            self.complete_external(id, 0);
        } else {
            self.closing.push(Closing { id, identity, remaining: users.len() });
        }
    }

    fn note_closing(&mut self, request: &Request) {
        for at in (0..self.closing.len()).rev() {
            if !request.uses(self.closing[at].identity) {
                continue;
            }
            self.closing[at].remaining -= 1;
            if self.closing[at].remaining == 0 {
                let id = self.closing.swap_remove(at).id;
                self.complete_external(id, 0);
            }
        }
    }

    /// Whether threads of the pool have anything of this loop's.
    pub(crate) fn has_offloaded(&self) -> bool {
        self.offload.is_busy()
    }

    /// From here on nothing goes to the pool: nobody would hear of it.
    pub(crate) fn close_offload(&mut self) {
        self.offload.close();
    }

    pub(crate) fn support(&self, kind: Kind) -> Support {
        match kind {
            Kind::Nop | Kind::Timer | Kind::Group => Support::Native,
            Kind::External => Support::Pool,
            kind => self.backend.support(kind),
        }
    }
}

/// Whether an accept failed for want of something that only time brings.
pub(crate) fn is_exhaustion(result: i32) -> bool {
    matches!(result.wrapping_neg(), libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
}

/// Whether a transfer from or to a stream needs a thread, since it cannot be tried without blocking.
#[inline]
fn is_unwatchable(request: &Request, result: i32) -> bool {
    matches!(result.wrapping_neg(), libc::EOPNOTSUPP | libc::EPERM)
        && matches!(request, Request::ReadStream { .. } | Request::WriteStream { .. })
}

/// Notes that an operation's completion is queued, or what its submitter takes for one.
#[inline]
fn make_ready(slot: &mut Slot, result: i32) {
    slot.phase = Phase::Ready;
    if result < 0 {
        let unwatchable = !slot.flags.pooled && is_unwatchable(&slot.request, result);
        slot.flags.unfinished = result == NOT_READY || unwatchable || lost_race(&slot.request, result);
    }
}

/// Whether a stream was ready, and no more when the thread came to it, because somebody else was quicker.
fn lost_race(request: &Request, result: i32) -> bool {
    result == -libc::EAGAIN && matches!(request, Request::ReadStream { .. } | Request::WriteStream { .. })
}

/// The poll for what a transfer from or to a stream waits for, or a splice just now.
fn readiness_of(request: &Request) -> Request {
    if let Some(poll) = splice::poll(request) {
        return poll;
    }
    let (Some(handle), Some(direction)) = (request.handle(), request.direction()) else {
        unreachable!("{:?} waits for no readiness", request.kind())
    };
    Request::Poll { handle, events: direction.events() }
}

/// Hands an operation to who carries it out; `tried`: the backend has just been asked to do it at once. `Some` if it is over
/// already.
#[inline]
pub(crate) fn dispatch(
    backend: &mut dyn Backend,
    offload: &mut Offload,
    id: OpId,
    slot: &mut Slot,
    tried: bool,
) -> Option<i32> {
    match slot.request {
        Request::Nop => Some(0),
        Request::Timer | Request::External | Request::Group(_) => {
            slot.phase = Phase::Loop;
            None
        }
        Request::Splice { .. } | Request::SpliceFile { .. } => splice::begin(backend, offload, id, slot),
        request if offload.takes(request.kind()) => {
            // SAFETY: as below.
            let result = if tried { None } else { unsafe { backend.attempt(&request) } };
            if result.is_some() { result } else { hand_to_pool(offload, id, slot) }
        }
        // SAFETY: what the request points to lives in the slot's payload, which stays where it is until the operation is
        // settled, or in a frame that is frozen until then; buffers belong to one of the two. The descriptor is kept
        // open by the `Target` beside them.
        _ => match unsafe { backend.submit(id, &slot.request) } {
            Submitted::Done(result) if is_unwatchable(&slot.request, result) => {
                poll_first(backend, offload, id, slot)
            }
            Submitted::Done(result) => Some(result),
            Submitted::Pending(word) => {
                slot.phase = Phase::Backend;
                slot.word = word;
                None
            }
        },
    }
}

/// Has an operation carried out by the pool. `Some` if that is closed.
fn hand_to_pool(offload: &mut Offload, id: OpId, slot: &mut Slot) -> Option<i32> {
    if offload.is_closed() {
        return Some(-libc::ECANCELED);
    }
    slot.phase = Phase::Pool;
    slot.flags.pooled = true;
    offload.begin(id, slot.request);
    None
}

/// A stream that cannot be tried without blocking, as a terminal in its usual mode: waits until it is ready, and leaves the
/// rest to the pool, whose thread is then occupied for a moment only.
#[cold]
fn poll_first(backend: &mut dyn Backend, offload: &mut Offload, id: OpId, slot: &mut Slot) -> Option<i32> {
    // SAFETY: no pointers; the descriptor is kept open by the `Target` of the operation.
    match unsafe { backend.submit(id, &readiness_of(&slot.request)) } {
        // Ready, or of no kind that can be polled.
        Submitted::Done(result) if result >= 0 || is_unwatchable(&slot.request, result) => {
            hand_to_pool(offload, id, slot)
        }
        Submitted::Done(result) => Some(result),
        Submitted::Pending(word) => {
            slot.phase = Phase::Backend;
            slot.flags.polling = true;
            slot.word = word;
            None
        }
    }
}

/// An operation and what is to be done with its outcome.
struct Payload<O, F> {
    op: O,
    callback: F,
}

/// Moves a payload out of its place, and frees its slot.
///
/// # Safety
/// `place` holds a `P`, which is not used again.
pub(crate) unsafe fn take<P>(place: *mut u8, loop_: &Loop, id: OpId) -> P {
    // SAFETY: the caller's promise.
    let payload = unsafe { place.cast::<P>().read() };
    loop_.0.core.borrow_mut().slots.vacate(id);
    payload
}

fn payload_type<O, F>() -> &'static PayloadType
where
    O: Operation + 'static,
    F: FnOnce(&Loop, O::Output) + 'static,
{
    /// # Safety
    /// As [`take`], of a payload of these types.
    unsafe fn deliver<O, F>(place: *mut u8, loop_: &Loop, id: OpId, outcome: Outcome)
    where
        O: Operation,
        F: FnOnce(&Loop, O::Output),
    {
        // SAFETY: the caller's promise.
        let Payload { op, callback } = unsafe { take::<Payload<O, F>>(place, loop_, id) };
        callback(loop_, op.finish(outcome));
    }
    /// # Safety
    /// As [`take`], of a payload of these types.
    unsafe fn discard<O: Operation, F>(place: *mut u8, loop_: &Loop, id: OpId, outcome: Outcome) {
        // SAFETY: the caller's promise.
        let Payload { op, callback } = unsafe { take::<Payload<O, F>>(place, loop_, id) };
        op.discard(outcome);
        drop(callback);
    }
    const { &PayloadType { deliver: deliver::<O, F>, discard: discard::<O, F>, part: None } }
}
