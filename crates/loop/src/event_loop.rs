//! The loop: takes operations, hands them to its backend, delivers completions.
//!
//! Everything mutable is in one [`Core`], borrowed for as long as the loop's own code runs and never while anybody
//! else's does: callbacks, destructors and wake-ups run between borrows. An operation's life is
//! [`Core::begin`] → backend → [`Completions`] → [`Core::settle`] → delivery, whichever way it is waited for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Completions, Submitted};
use crate::config::Config;
use crate::fork::Birth;
use crate::instant::Instant;
use crate::mpsc::{Consumer, inbox};
use crate::op::{Begin, Detach, Operation, Options, Outcome, Started};
use crate::operation::{Kind, OPERATIONS, OpId, Request, Support};
use crate::prefetch::prefetch;
use crate::remote::{Errand, Message, Remote, Shared};
use crate::slots::{Flags, PayloadType, Phase, Sink, Slots};
use crate::stats::Stats;
use crate::timer::Wheel;
use crate::wait::Waiting;

/// An event loop: operations in, completions out.
///
/// A handle to a loop of this thread; clones are the same loop. When the last one goes, the loop cancels all that
/// is in flight, waits until the kernel has let go of it, and drops the callbacks uncalled.
///
/// ```
/// use std::time::Duration;
/// use towpath_loop::{Loop, op};
///
/// let loop_ = Loop::new()?;
/// loop_.submit(op::timer(Duration::from_millis(1)), |loop_, result| {
///     assert!(result.is_ok());
///     loop_.submit(op::next_tick(), |_, _| println!("later"));
/// });
/// loop_.run()?; // until nothing is in flight
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Loop(pub(crate) Rc<Inner>);

pub(crate) struct Inner {
    pub(crate) core: RefCell<Core>,
    shared: Arc<Shared>,
    /// `None` once the loop is shutting down.
    inbox: RefCell<Option<Consumer<Message>>>,
    /// What other threads want run here, taken out of the inbox.
    mail: RefCell<VecDeque<Errand>>,
    ticking: Cell<bool>,
    closed: Cell<bool>,
    stopped: Cell<bool>,
    birth: Birth,
}

/// All the state of a loop.
pub(crate) struct Core {
    pub(crate) slots: Slots,
    backend: Box<dyn Backend>,
    wheel: Wheel,
    done: Completions,
    /// How many of `done` have been seen by [`Core::absorb`].
    absorbed: usize,
    /// The time when the backend last returned.
    now: u64,
    limit: usize,
    /// Whether many timers were due at once when last looked.
    crowded: bool,
    closing: Vec<Closing>,
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
struct Settled {
    id: OpId,
    sink: Sink,
    removed: bool,
    outcome: Outcome,
}

impl Loop {
    /// A new loop on the best backend that there is, or the one that `TOWPATH_BACKEND` names: see
    /// [`Config::build`], also for the errors.
    pub fn new() -> io::Result<Loop> {
        Config::new().build()
    }

    /// A new loop on a backend of your own.
    ///
    /// # Errors
    /// The system's, from the set-up of its inbox.
    pub fn with_backend(backend: Box<dyn Backend>) -> io::Result<Loop> {
        Loop::assemble(backend, usize::MAX)
    }

    pub(crate) fn assemble(backend: Box<dyn Backend>, limit: usize) -> io::Result<Loop> {
        let now = backend.now();
        let (inbox, consumer) = inbox();
        let shared = Arc::new(Shared::new(inbox, backend.waker()));
        let birth = Birth::now()?;
        Ok(Loop(Rc::new(Inner {
            core: RefCell::new(Core {
                slots: Slots::default(),
                wheel: Wheel::new(now),
                backend,
                done: Completions::default(),
                absorbed: 0,
                now,
                limit,
                crowded: false,
                closing: Vec::new(),
                stats: Stats::default(),
            }),
            shared,
            inbox: RefCell::new(Some(consumer)),
            mail: RefCell::default(),
            ticking: Cell::new(false),
            closed: Cell::new(false),
            stopped: Cell::new(false),
            birth,
        })))
    }

    /// Begins an operation; `callback` gets its outcome later, on this thread, from [`tick`](Loop::tick) or
    /// [`run`](Loop::run), never from inside this call. Owned buffers come back with the outcome.
    ///
    /// Allocates nothing while the operation and the callback fit a slot (a callback of four words always does,
    /// beside an operation on one buffer).
    pub fn submit<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Detach,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        self.submit_owned(op.detach(), callback)
    }

    /// Asks for the end of an operation. It completes all the same: with [`is_canceled`](crate::is_canceled), or
    /// with its real result if that came first. True if it was in flight.
    ///
    /// Any id will do at any time: one whose operation is over is not found, whoever uses its slot now.
    pub fn cancel(&self, id: OpId) -> bool {
        !self.is_child() && self.0.core.borrow_mut().cancel(id, |flags| flags.canceled = true)
    }

    /// Ends an operation silently: its callback is dropped uncalled, once the kernel has let go of the operation (a
    /// timer's at once). What it may still bring about (an accepted connection, an opened file) is closed. True if it
    /// was in flight.
    pub fn remove(&self, id: OpId) -> bool {
        if self.is_child() {
            return false;
        }
        let mut core = self.0.core.borrow_mut();
        let Some(slot) = core.slots.get(id) else { return false };
        slot.flags.removed = true;
        if slot.phase != Phase::Loop || !matches!(slot.request, Request::Timer) {
            core.cancel(id, |flags| flags.canceled = true);
            return true;
        }
        // Nobody but the loop knows of it, and most timers end like this.
        core.stats.canceled += 1;
        let settled = core.settle(id, -libc::ECANCELED);
        drop(core);
        if let Some(settled) = settled {
            self.hand_over(settled, true);
        }
        true
    }

    /// Whether [`max_operations`](Config::max_operations) are in flight: the next one would be refused.
    pub fn is_full(&self) -> bool {
        let core = self.0.core.borrow();
        core.slots.len() >= core.limit
    }

    /// [`submit`](Loop::submit) of an operation without borrows.
    pub(crate) fn submit_owned<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Operation + 'static,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        let mut core = self.0.core.borrow_mut();
        if self.is_child() {
            // The parent's ring must not be touched. No tick will ever deliver it either.
            core.limit = 0;
        }
        core.begin_payload(op, callback, &self.0.shared)
    }

    /// Completes an operation that waits for something outside. False if it is over.
    pub(crate) fn complete_external(&self, id: OpId, result: i32) -> bool {
        self.0.core.borrow_mut().complete_external(id, result)
    }

    /// [Cancels](Loop::cancel) all that is in flight.
    pub fn cancel_all(&self) {
        if self.is_child() {
            return;
        }
        let mut core = self.0.core.borrow_mut();
        for id in core.slots.select(|_| true) {
            core.cancel(id, |flags| flags.canceled = true);
        }
    }

    /// Delivers what has completed; if nothing has, waits until something does, at most for `wait` (`None`: as long
    /// as it takes; zero: not at all). Returns how many completions were delivered, which can be none.
    ///
    /// All that one wait brings in is delivered before this returns, also after [`stop`](Loop::stop). What callbacks
    /// submit is for the next tick, even where it completes at once, so they cannot starve I/O. If a callback
    /// panics, the panic comes out here and the rest is delivered by the next tick.
    ///
    /// # Errors
    /// `ResourceDeadlock` from inside a callback of the same loop, in a task of the worker whose loop it is (there,
    /// wait for operations in blocking style), and after [`close`](Loop::close); `Unsupported` in a forked child, to
    /// which the loop does not belong; the system's, if its wait fails.
    pub fn tick(&self, wait: Option<Duration>) -> io::Result<usize> {
        if crate::current::is_tasks_loop(self) {
            // The worker below ticks it; a callback that waits would suspend the tick with the task.
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        let _ticking = self.enter_tick()?;
        self.gather(wait, Gather::All)?;
        let errands = self.0.mail.borrow().len();
        for _ in 0..errands {
            let errand = self.0.mail.borrow_mut().pop_front();
            if let Some(errand) = errand {
                errand(self);
            }
        }
        let due = self.0.core.borrow().done.len();
        for _ in 0..due {
            self.deliver_next(false);
        }
        Ok(due)
    }

    /// Ticks until nothing is in flight or [`stop`](Loop::stop) is called. With nothing in flight it returns at
    /// once.
    ///
    /// # Errors
    /// As [`tick`](Loop::tick).
    pub fn run(&self) -> io::Result<()> {
        while !self.0.stopped.replace(false) {
            if self.in_flight() > 0 {
                self.tick(None)?;
                continue;
            }
            // Nothing to wait for, but there may be something in the inbox.
            self.tick(Some(Duration::ZERO))?;
            if self.in_flight() == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ticks until `flag` is true; also with nothing in flight, since the flag may be another thread's to set (which
    /// then [wakes](Remote::wake) the loop).
    ///
    /// # Errors
    /// As [`tick`](Loop::tick).
    pub fn run_until(&self, flag: impl Fn() -> bool) -> io::Result<()> {
        while !flag() {
            self.tick(None)?;
        }
        Ok(())
    }

    /// Makes [`run`](Loop::run) return: the one under way, once the completions at hand are delivered, or else the
    /// next one, at once. What is in flight stays so.
    pub fn stop(&self) {
        self.0.stopped.set(true);
    }

    /// How many operations are in flight, or completed and not delivered yet.
    pub fn in_flight(&self) -> usize {
        self.0.core.borrow().slots.len()
    }

    /// The time as of the last wait: what callbacks of one tick agree on.
    pub fn now(&self) -> Instant {
        Instant(self.0.core.borrow().now)
    }

    /// The time right now, on the backend's clock.
    pub fn clock(&self) -> Instant {
        Instant(self.0.core.borrow().backend.now())
    }

    /// A handle for other threads.
    pub fn remote(&self) -> Remote {
        Remote::new(self.0.shared.clone())
    }

    /// The name of its backend, as in `TOWPATH_BACKEND`.
    pub fn backend(&self) -> &'static str {
        self.0.core.borrow().backend.name()
    }

    /// How each operation is carried out, in the order of [`OPERATIONS`].
    pub fn capabilities(&self) -> Vec<(Kind, Support)> {
        let core = self.0.core.borrow();
        OPERATIONS.iter().map(|row| (row.kind, core.support(row.kind))).collect()
    }

    /// A count of what the loop has done.
    pub fn stats(&self) -> Stats {
        let core = self.0.core.borrow();
        let (pool_threads, pool_queued) = crate::pool::load();
        Stats {
            pool_threads,
            pool_queued,
            in_flight: core.slots.len(),
            timers: core.wheel.len(),
            syscalls: core.backend.syscalls(),
            rings: self.0.shared.rings(),
            ..core.stats
        }
    }

    /// Calls `f` with a descriptor that polls as readable when a [tick](Loop::tick) would find something, for
    /// driving this loop from another one; `None` if the backend has none. Tick once with a zero wait before
    /// polling, and poll no longer than until [`next_deadline`](Loop::next_deadline).
    pub fn with_fd<R>(&self, f: impl FnOnce(Option<BorrowedFd<'_>>) -> R) -> R {
        let fd = self.0.core.borrow().backend.as_fd().map(|fd| fd.as_raw_fd());
        // SAFETY: the backend keeps its descriptor open, and `self` keeps the backend, until `f` has returned.
        f(fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) }))
    }

    /// When the next timer or time-out is due, or a little earlier.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.core.borrow().wheel.next().map(Instant)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Whether both are handles to one loop.
    pub(crate) fn is(&self, other: &Loop) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn is_child(&self) -> bool {
        self.0.birth.is_child()
    }

    pub(crate) fn is_ticking(&self) -> bool {
        self.0.ticking.get() || self.0.closed.get()
    }

    /// Waits for completions and hands over those that somebody waits for in blocking style; callbacks stay queued.
    /// For runtimes: what a task does instead of suspending while it unwinds, when nobody else's code may run.
    ///
    /// # Errors
    /// As [`tick`](Loop::tick).
    pub fn tick_frames(&self, wait: Option<Duration>) -> io::Result<()> {
        let _ticking = self.enter_tick()?;
        if !self.deliver_frames() {
            self.gather(wait, Gather::Frames)?;
            self.deliver_frames();
        }
        Ok(())
    }

    /// Delivers what frames wait for, keeps the rest queued. True if there was anything for a frame.
    fn deliver_frames(&self) -> bool {
        let mut any = false;
        let due = {
            let mut core = self.0.core.borrow_mut();
            core.absorb();
            core.done.len()
        };
        for _ in 0..due {
            let mut core = self.0.core.borrow_mut();
            let Some((id, result)) = core.done.queue.pop_front() else { break };
            core.absorbed -= 1;
            let to_frame = core.slots.get(id).is_none_or(|slot| matches!(slot.sink, Sink::Waiting(_)));
            if !to_frame {
                core.done.queue.push_back((id, result));
                core.absorbed += 1;
                continue;
            }
            let settled = core.settle(id, result);
            drop(core);
            if let Some(settled) = settled {
                self.hand_over(settled, false);
                any = true;
            }
        }
        any
    }

    /// Takes the inbox out. News about operations count at once, errands are for the next tick.
    fn take_mail(&self) {
        let mut inbox = self.0.inbox.borrow_mut();
        for message in inbox.iter_mut().flat_map(Consumer::drain) {
            match message {
                Message::Run(errand) => self.0.mail.borrow_mut().push_back(errand),
                Message::Complete(id, result) => {
                    self.complete_external(id, result);
                }
                Message::Notify(id, news) => {
                    if self.complete_external(id, news.count()) {
                        news.delivered();
                    }
                }
            }
        }
    }

    fn enter_tick(&self) -> io::Result<Ticking<'_>> {
        if self.is_child() {
            return Err(forked());
        }
        if self.0.closed.get() {
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        if self.0.ticking.replace(true) {
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        Ok(Ticking(&self.0.ticking))
    }

    /// One wait of the backend, and the timers that it let pass.
    fn gather(&self, wait: Option<Duration>, what: Gather) -> io::Result<()> {
        let mut core = self.0.core.borrow_mut();
        let mut timeout = core.timeout(wait, what);
        if what == Gather::All && !self.0.mail.borrow().is_empty() {
            timeout = Some(Duration::ZERO);
        }
        let sleeps = timeout != Some(Duration::ZERO);
        let inbox = self.0.inbox.borrow();
        if sleeps && !inbox.as_ref().is_none_or(Consumer::prepare_sleep) {
            timeout = Some(Duration::ZERO);
        }
        let Core { backend, done, .. } = &mut *core;
        let result = backend.wait(timeout, done);
        if sleeps && let Some(inbox) = &*inbox {
            inbox.awake();
        }
        result?;
        core.stats.ticks += 1;
        core.now = core.backend.now();
        // What has completed is beyond the reach of its deadline.
        core.absorb();
        core.expire();
        drop(core);
        drop(inbox);
        self.take_mail();
        Ok(())
    }

    /// Delivers the oldest completion. With `discard`, callbacks are dropped instead of called.
    fn deliver_next(&self, discard: bool) {
        let settled = {
            let mut core = self.0.core.borrow_mut();
            let Some((id, result)) = core.done.queue.pop_front() else { return };
            core.absorbed = core.absorbed.saturating_sub(1);
            core.prefetch_ahead();
            core.settle(id, result)
        };
        if let Some(settled) = settled {
            self.hand_over(settled, discard);
        }
    }

    /// Runs code that is not ours, so no borrow of the core is held.
    fn hand_over(&self, settled: Settled, discard: bool) {
        let Settled { id, sink, removed, outcome } = settled;
        match sink {
            Sink::None => unreachable!("an operation in flight has a sink"),
            Sink::Waiting(waiting) => {
                self.0.core.borrow_mut().slots.vacate(id);
                // SAFETY: the frame that holds it stays frozen until this very call (`Waiting`'s contract), and the
                // slot's single use of the pointer is over with `vacate`.
                unsafe { Waiting::complete(waiting, outcome) }
            }
            Sink::Payload { kind, place, .. } => {
                let run = if removed || discard { kind.discard } else { kind.deliver };
                // SAFETY: `place` holds the payload that `kind` was made for; settling an id happens once, so it is
                // moved out once.
                unsafe { run(place.as_ptr(), self, id, outcome) }
            }
        }
    }

    /// Ends the loop while there still are handles to it: cancels all that is in flight, waits until the kernel has
    /// let go of it, and drops callbacks uncalled. What their destructors submit is cancelled as well. From then on
    /// the loop cannot be ticked, and operations are never completed. Dropping the last handle does this by itself.
    pub fn close(&self) {
        if self.is_child() {
            return;
        }
        self.0.closed.set(true);
        // What comes from now on goes back to its sender; what came before is dropped undone.
        let inbox = self.0.inbox.borrow_mut().take();
        let mut unread: VecDeque<Message> = inbox.map(Consumer::close).into_iter().flatten().collect();
        unread.extend(self.0.mail.take().into_iter().map(Message::Run));
        let mut panic = None;
        while let Some(message) = unread.pop_front() {
            panic = panic.or(catch_unwind(AssertUnwindSafe(|| drop(message))).err());
        }
        let mut failures = 0;
        while self.in_flight() > 0 {
            {
                let mut core = self.0.core.borrow_mut();
                for id in core.slots.select(|slot| slot.phase != Phase::Ready && !slot.flags.canceled) {
                    core.cancel(id, |flags| flags.canceled = true);
                }
                let wait = if core.done.is_empty() { None } else { Some(Duration::ZERO) };
                let Core { backend, done, .. } = &mut *core;
                match backend.wait(wait, done) {
                    Ok(()) => core.absorb(),
                    // Without waiting nothing can be reaped, and freeing what the kernel may write to is worse than
                    // leaking it.
                    Err(error) => {
                        failures += 1;
                        if failures == 100 {
                            eprintln!(
                                "towpath: the event loop can wait no more with operations in flight: {error}"
                            );
                            std::process::abort();
                        }
                    }
                }
            }
            while !self.0.core.borrow().done.is_empty() {
                // A destructor that panics does not stop the reaping.
                let delivered = catch_unwind(AssertUnwindSafe(|| self.deliver_next(true)));
                panic = panic.or(delivered.err());
            }
        }
        if let Some(panic) = panic
            && !std::thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// What a wait is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gather {
    /// Everything: completions at hand and the inbox keep it from sleeping.
    All,
    /// A frame: only news about operations.
    Frames,
}

/// The flag that a tick is under way, taken down also by a panic.
struct Ticking<'a>(&'a Cell<bool>);

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The error of a loop used in a forked child.
pub(crate) fn forked() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a loop belongs to the process that made it, not to its forked children",
    )
}

impl Core {
    /// Begins an operation whose outcome goes to a callback.
    pub(crate) fn begin_payload<O, F>(&mut self, op: O, callback: F, shared: &Arc<Shared>) -> OpId
    where
        O: Operation + 'static,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        let options = op.options();
        let id = self.slots.take();
        let place = self.slots.place(id, payload_type::<O, F>(), Payload { op, callback });
        // SAFETY: just written, at the place that it keeps; nobody else refers to it yet.
        let op = unsafe { &mut (*place.as_ptr()).op };
        let started = self.admit(id, 0, shared, |begin| op.start(begin));
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
        waiting: std::ptr::NonNull<Waiting>,
        shared: &Arc<Shared>,
    ) -> Result<OpId, Outcome> {
        let id = self.slots.next();
        let started = self.admit(id, 1, shared, start);
        if let Started::Request(request) = &started
            && !options.all
        {
            // SAFETY: as in `dispatch`; the frame that the request points to has not been left.
            match unsafe { self.backend.attempt(request) } {
                // These are held back, which takes a slot.
                Some(result) if is_exhaustion(result) && matches!(request, Request::Accept { .. }) => {}
                Some(result) => {
                    self.stats.submitted += 1;
                    self.stats.completed += 1;
                    return Err(Outcome { result, progress: 0 });
                }
                None => {}
            }
        }
        let taken = self.slots.take();
        debug_assert_eq!(id, taken);
        self.slots.at(id.index).sink = Sink::Waiting(waiting);
        match self.begin(id, started, options) {
            None => Ok(id),
            Some(result) => match self.settle(id, result) {
                // An `all` transfer that goes on, or an accept held back.
                None => Ok(id),
                Some(settled) => {
                    self.slots.vacate(id);
                    Err(settled.outcome)
                }
            },
        }
    }

    /// Fills the request of a new slot in, unless there are too many already; `more` of them are about to be taken.
    fn admit(
        &mut self,
        id: OpId,
        more: usize,
        shared: &Arc<Shared>,
        start: impl FnOnce(&Begin<'_>) -> Started,
    ) -> Started {
        if self.slots.len() + more > self.limit {
            Started::failed(libc::EDQUOT)
        } else {
            start(&Begin { id, shared })
        }
    }

    /// Starts what a slot was taken for. `Some` if it is over already.
    fn begin(&mut self, id: OpId, started: Started, options: Options) -> Option<i32> {
        self.stats.submitted += 1;
        let request = match started {
            Started::Done(result) => return Some(result),
            Started::Request(request) => request,
            Started::CloseShared { .. } => Request::External,
        };
        let slot = self.slots.at(id.index);
        slot.request = request;
        slot.flags.all = options.all;
        if options.deadline != Instant::NEVER {
            self.wheel.arm(&mut self.slots, id.index, options.deadline.0);
        }
        let result = self.dispatch(id);
        if let Started::CloseShared { identity } = started {
            self.close_shared(id, identity);
        }
        result
    }

    /// Hands an operation to who carries it out. `Some` if it is over already.
    fn dispatch(&mut self, id: OpId) -> Option<i32> {
        let slot = self.slots.at(id.index);
        match slot.request {
            Request::Nop => Some(0),
            Request::Timer | Request::External => {
                slot.phase = Phase::Loop;
                None
            }
            request => {
                // SAFETY: what the request points to lives in the slot's payload, which stays where it is until
                // the operation is settled, or in a frame that is frozen until then; buffers belong to one of the
                // two. The descriptor is kept open by the `Target` beside them.
                match unsafe { self.backend.submit(id, &request) } {
                    Submitted::Done(result) => Some(result),
                    Submitted::Pending(word) => {
                        slot.phase = Phase::Backend;
                        slot.word = word;
                        None
                    }
                }
            }
        }
    }

    /// Queues a completion that is known already.
    fn finish_later(&mut self, id: OpId, result: i32) {
        self.slots.at(id.index).phase = Phase::Ready;
        self.done.push(id, result);
        // Those before it may be new from the backend; absorbing one twice does no harm, missing one would.
    }

    /// Marks what has completed: from here on it cannot be cancelled.
    fn absorb(&mut self) {
        for at in self.absorbed..self.done.len() {
            let (id, _) = self.done.queue[at];
            if let Some(slot) = self.slots.get(id) {
                slot.phase = Phase::Ready;
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
    fn prefetch_ahead(&mut self) {
        const AHEAD: usize = 4;
        let Some((id, _)) = self.done.queue.get(AHEAD) else { return };
        match self.slots.get(*id).map(|slot| slot.sink) {
            // SAFETY: its frame waits for the completion, which has not been delivered.
            Some(Sink::Waiting(waiting)) => prefetch(unsafe { waiting.as_ref() }.task().cast(), 3),
            Some(Sink::Payload { place, .. }) => prefetch(place.as_ptr(), 2),
            Some(Sink::None) | None => {}
        }
    }

    pub(crate) fn cancel(&mut self, id: OpId, mark: impl FnOnce(&mut Flags)) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        if slot.phase == Phase::Ready {
            // Over, unless there is a rest to transfer: that will not be begun.
            if slot.flags.all {
                mark(&mut slot.flags);
            }
            return slot.flags.all;
        }
        let asked = slot.flags.canceled || slot.flags.timed_out;
        mark(&mut slot.flags);
        if asked {
            return true;
        }
        self.stats.canceled += 1;
        match slot.phase {
            Phase::Backend => {
                let (word, request) = (slot.word, slot.request);
                self.backend.cancel(id, word, &request);
            }
            Phase::Loop => self.finish_later(id, -libc::ECANCELED),
            Phase::Free | Phase::Starting | Phase::Ready => unreachable!("{:?} is not in flight", slot.phase),
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
            _ => false,
        }
    }

    /// How long the backend may sleep.
    fn timeout(&self, wait: Option<Duration>, what: Gather) -> Option<Duration> {
        if what == Gather::All && !self.done.is_empty() {
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
    fn expire(&mut self) {
        let before = self.wheel.len();
        self.expire_each();
        self.crowded = before - self.wheel.len() >= CROWD;
    }

    fn expire_each(&mut self) {
        while let Some(index) = self.wheel.pop(&mut self.slots, self.now) {
            let slot = self.slots.at(index);
            let id = OpId { index, generation: slot.generation };
            match (slot.phase, &slot.request) {
                (Phase::Loop, Request::Timer) => self.finish_later(id, 0),
                // An accept held back: its error goes out now.
                (Phase::Loop, Request::Accept { .. }) => {
                    let result = slot.word as i32;
                    self.finish_later(id, result);
                }
                _ => {
                    self.cancel(id, |flags| flags.timed_out = true);
                }
            }
        }
    }

    /// Decides what a completion means. `None` if the operation goes on; else it has left the wheel, and its slot is
    /// the receiver's to vacate.
    #[inline]
    fn settle(&mut self, id: OpId, result: i32) -> Option<Settled> {
        match self.slots.get(id) {
            // As most are: a value, and nothing else was asked of it.
            Some(slot) if result >= 0 && slot.flags == Flags::default() && self.closing.is_empty() => {
                let settled =
                    Settled { id, sink: slot.sink, removed: false, outcome: Outcome { result, progress: 0 } };
                self.wheel.disarm(&mut self.slots, id.index);
                self.stats.completed += 1;
                Some(settled)
            }
            _ => self.settle_cold(id, result),
        }
    }

    fn settle_cold(&mut self, id: OpId, mut result: i32) -> Option<Settled> {
        loop {
            let Some(slot) = self.slots.get(id) else {
                debug_assert!(false, "a completion for {id:?}, which is over");
                return None;
            };
            let ended = slot.flags.canceled || slot.flags.timed_out;
            if slot.flags.all
                && result > 0
                && matches!(slot.phase, Phase::Ready | Phase::Starting | Phase::Backend)
            {
                slot.progress += result as usize;
                // SAFETY: the request's pointers are valid for as long as the operation is not settled.
                let rest = unsafe { advance(&mut slot.request, result as usize) };
                if rest && !ended {
                    result = self.dispatch(id)?;
                    continue;
                }
                result = if rest { -libc::ECANCELED } else { 0 };
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
        let identity = slot.request.handle().map_or(0, |handle| handle.identity);
        self.wheel.disarm(&mut self.slots, id.index);
        self.stats.completed += 1;
        if !self.closing.is_empty() {
            self.note_closing(identity);
        }
        Some(settled)
    }

    /// Keeps an accept that found no descriptor (or memory) from being tried again at once: whoever accepts in a loop
    /// would spin on the connection that stays ready. Its error goes out after a moment.
    fn hold_back(&mut self, id: OpId, result: i32) {
        const MOMENT: u64 = 10_000_000;
        let deadline = self.slots.at(id.index).node.deadline().unwrap_or(u64::MAX);
        self.wheel.disarm(&mut self.slots, id.index);
        self.wheel.arm(&mut self.slots, id.index, deadline.min(self.backend.now().saturating_add(MOMENT)));
        let slot = self.slots.at(id.index);
        slot.phase = Phase::Loop;
        slot.word = result as u32;
    }

    /// Begins to close a descriptor that operations are using: cancels those; when the last is over, `id` completes.
    fn close_shared(&mut self, id: OpId, identity: u64) {
        let mine = |slot: &crate::slots::Slot| {
            slot.request.handle().is_some_and(|handle| handle.identity == identity)
        };
        let users = self.slots.select(mine);
        for user in &users {
            self.cancel(*user, |flags| flags.canceled = true);
        }
        if users.is_empty() {
            self.complete_external(id, 0);
        } else {
            self.closing.push(Closing { id, identity, remaining: users.len() });
        }
    }

    fn note_closing(&mut self, identity: u64) {
        let Some(at) = self.closing.iter().position(|closing| closing.identity == identity) else { return };
        self.closing[at].remaining -= 1;
        if self.closing[at].remaining == 0 {
            let id = self.closing.swap_remove(at).id;
            self.complete_external(id, 0);
        }
    }

    fn support(&self, kind: Kind) -> Support {
        match kind {
            Kind::Nop | Kind::Timer => Support::Native,
            Kind::External => Support::Pool,
            kind => self.backend.support(kind),
        }
    }
}

/// Whether an accept failed for want of something that only time brings.
fn is_exhaustion(result: i32) -> bool {
    matches!(result.wrapping_neg(), libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
}

/// Moves a transfer's request past the `n` bytes that are done. False if nothing is left.
///
/// # Safety
/// The request's pointers are valid.
unsafe fn advance(request: &mut Request, n: usize) -> bool {
    match request {
        Request::Recv { buf, len, .. } => {
            debug_assert!(n <= *len);
            // SAFETY: the kernel transferred `n` of the `len` bytes at `buf`.
            *buf = unsafe { buf.add(n) };
            *len -= n;
            *len > 0
        }
        Request::Send { buf, len, .. } => {
            debug_assert!(n <= *len);
            // SAFETY: the kernel transferred `n` of the `len` bytes at `buf`.
            *buf = unsafe { buf.add(n) };
            *len -= n;
            *len > 0
        }
        _ => false,
    }
}

/// An operation and what is to be done with its outcome.
struct Payload<O, F> {
    op: O,
    callback: F,
}

fn payload_type<O, F>() -> &'static PayloadType
where
    O: Operation + 'static,
    F: FnOnce(&Loop, O::Output) + 'static,
{
    /// # Safety
    /// `place` holds a payload of these types, which is moved out and not used again.
    unsafe fn take<O, F>(place: *mut u8, loop_: &Loop, id: OpId) -> Payload<O, F> {
        // SAFETY: the caller's promise.
        let payload = unsafe { place.cast::<Payload<O, F>>().read() };
        loop_.0.core.borrow_mut().slots.vacate(id);
        payload
    }
    /// # Safety
    /// As `take`.
    unsafe fn deliver<O, F>(place: *mut u8, loop_: &Loop, id: OpId, outcome: Outcome)
    where
        O: Operation,
        F: FnOnce(&Loop, O::Output),
    {
        // SAFETY: the caller's promise.
        let Payload { op, callback } = unsafe { take::<O, F>(place, loop_, id) };
        callback(loop_, op.finish(outcome));
    }
    /// # Safety
    /// As `take`.
    unsafe fn discard<O: Operation, F>(place: *mut u8, loop_: &Loop, id: OpId, outcome: Outcome) {
        // SAFETY: the caller's promise.
        let Payload { op, callback } = unsafe { take::<O, F>(place, loop_, id) };
        op.discard(outcome);
        drop(callback);
    }
    const { &PayloadType { deliver: deliver::<O, F>, discard: discard::<O, F> } }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Everything in flight was reaped by `Loop::drop`; only a forked child gets here with anything left, and it
        // must touch neither the ring, which is its parent's, nor what the parent's kernel still writes to.
        debug_assert!(self.birth.is_child() || self.core.get_mut().slots.len() == 0);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) > 1 {
            return;
        }
        if self.is_child() {
            // The parent's ring and memory: leave both alone.
            std::mem::forget(self.0.clone());
            return;
        }
        self.close();
    }
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop")
            .field("backend", &self.backend())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// For tests of what happens after four billion uses of a slot.
#[doc(hidden)]
pub fn age_next_slot(loop_: &Loop, generation: u32) {
    let mut core = loop_.0.core.borrow_mut();
    let id = core.slots.take();
    core.slots.free(id);
    core.slots.age(id.index, generation);
}
