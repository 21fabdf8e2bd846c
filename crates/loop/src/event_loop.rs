//! The loop: takes operations, hands them to its backend, delivers completions.
//!
//! Everything mutable is in one [`Core`], borrowed for as long as the loop's own code runs and never while anybody
//! else's does: callbacks, destructors and wake-ups run between borrows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Completion};
use crate::config::Config;
use crate::core::{Core, Gather, Settled};
use crate::fork::Birth;
use crate::inspect::InFlight;
use crate::instant::Instant;
use crate::mpsc::{Consumer, inbox};
use crate::op::{Detach, Operation, Outcome};
use crate::operation::{Kind, OPERATIONS, OpId, Request, Support};
use crate::progress;
use crate::remote::{Errand, Message, Remote, Shared};
use crate::slots::{Phase, Sink, Why};
use crate::stats::Stats;
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
    pub(crate) shared: Arc<Shared>,
    /// `None` once the loop is shutting down.
    inbox: RefCell<Option<Consumer<Message>>>,
    /// What other threads want run here, taken out of the inbox.
    mail: RefCell<VecDeque<Errand>>,
    ticking: Cell<bool>,
    closed: Cell<bool>,
    stopped: Cell<bool>,
    /// Whether somebody polls the descriptor that [`with_fd`](Loop::with_fd) gives.
    embedded: Cell<bool>,
    birth: Birth,
}

impl Loop {
    /// A new loop on the best backend that there is, or the one that `TOWPATH_BACKEND` names: see
    /// [`Config::build`], also for the errors.
    pub fn new() -> io::Result<Loop> {
        Config::new().build()
    }

    /// A new loop on a backend of your own: see the examples `custom_poller` and `custom_backend` in the repository.
    ///
    /// # Errors
    /// The system's, from the set-up of its inbox.
    pub fn with_backend(backend: Box<dyn Backend>) -> io::Result<Loop> {
        Loop::assemble(backend, usize::MAX)
    }

    pub(crate) fn assemble(backend: Box<dyn Backend>, limit: usize) -> io::Result<Loop> {
        let (inbox, consumer) = inbox();
        let shared = Arc::new(Shared::new(inbox, backend.waker()));
        let birth = Birth::now()?;
        Ok(Loop(Rc::new(Inner {
            core: RefCell::new(Core::new(backend, limit, shared.clone())),
            shared,
            inbox: RefCell::new(Some(consumer)),
            mail: RefCell::default(),
            ticking: Cell::new(false),
            closed: Cell::new(false),
            stopped: Cell::new(false),
            embedded: Cell::new(false),
            birth,
        })))
    }

    /// Begins an operation; `callback` gets its outcome later, on this thread, from [`tick`](Loop::tick) or
    /// [`run`](Loop::run), never from inside this call. Owned buffers come back with the outcome.
    ///
    /// Allocates nothing while the operation and the callback fit a slot (a callback of four words always does,
    /// beside an operation on one buffer), and no thread of the blocking pool has to carry it out.
    pub fn submit<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Detach,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        self.submit_owned(op.detach(), callback)
    }

    /// [`submit`](Loop::submit) of an operation that is not refused for want of room, nor takes any from others, whatever
    /// [`max_operations`](Config::max_operations) says. For the few that a runtime needs for itself: the timer behind a
    /// deadline, which must not fail because there is much to do.
    pub fn submit_uncounted<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Detach,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        self.begin_owned(op.detach(), callback, false)
    }

    /// Asks for the end of an operation. It completes all the same: with [`is_canceled`](crate::is_canceled), or
    /// with its real result if that came first. True if it was in flight.
    ///
    /// Any id will do at any time: one whose operation is over is not found, whoever uses its slot now.
    pub fn cancel(&self, id: OpId) -> bool {
        !self.is_child() && self.0.core.borrow_mut().cancel(id, Why::Canceled)
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
            core.cancel(id, Why::Canceled);
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
        !self.0.core.borrow().has_room(1)
    }

    /// Whether an operation in flight keeps [`run`](Loop::run) going, as it does unless told otherwise. With `true` it does
    /// not: a background timer, say, or the accept of a program that ends when its work is done. False if it is over.
    #[doc(alias = "unref")]
    pub fn set_background(&self, id: OpId, background: bool) -> bool {
        self.0.core.borrow_mut().set_background(id, background)
    }

    /// Moves a [`timer`](crate::op::timer()) that has not fired to another moment, sooner or later; it fires once, then. For
    /// any other operation that is in flight, the same for its [time-out](crate::op::Recv::timeout). False if it is over, or
    /// asked to end, or waits for its turn in a batch.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use towpath_loop::{Instant, Loop, op};
    /// let loop_ = Loop::new()?;
    /// let id = loop_.submit(op::timer(Duration::from_secs(86_400)), |_, outcome| assert!(outcome.is_ok()));
    /// assert!(loop_.reset(id, Instant::now() + Duration::from_millis(1)));
    /// loop_.run()?;
    /// assert!(!loop_.reset(id, Instant::NEVER));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reset(&self, id: OpId, at: Instant) -> bool {
        self.0.core.borrow_mut().reset(id, at)
    }

    /// [`submit`](Loop::submit) of an operation without borrows.
    pub(crate) fn submit_owned<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Operation + 'static,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        self.begin_owned(op, callback, true)
    }

    fn begin_owned<O, F>(&self, op: O, callback: F, counted: bool) -> OpId
    where
        O: Operation + 'static,
        F: FnOnce(&Loop, O::Output) + 'static,
    {
        let mut core = self.0.core.borrow_mut();
        let child = self.is_child();
        if child {
            // The parent's ring must not be touched. No tick will ever deliver it either.
            core.limit = 0;
        }
        core.begin_payload(op, callback, counted || child)
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
            core.cancel(id, Why::Canceled);
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
        let told = self.tell_progress();
        if self.0.embedded.get() {
            self.settle_descriptor(due + errands + told > 0);
        }
        Ok(due)
    }

    /// Tells how far transfers are, to those who want to know. How many.
    fn tell_progress(&self) -> usize {
        let due = self.0.core.borrow().reports.len();
        for _ in 0..due {
            let mut core = self.0.core.borrow_mut();
            let Some((id, bytes)) = core.reports.pop_front() else { break };
            let slot = core.slots.get(id).filter(|slot| !slot.flags.removed);
            let Some(progress) = slot.and_then(|slot| slot.request.progress()) else { continue };
            drop(core);
            let in_flight = || self.0.core.borrow_mut().slots.get(id).is_some();
            // SAFETY: the operation is in flight, so what its request points to is there, and nobody else uses it now; and it
            // is asked again after foreign code has run, which may have closed the loop.
            unsafe { progress::tell(progress, bytes, &in_flight) };
        }
        due
    }

    /// Ticks until nothing is in flight, but what is in the [background](Loop::set_background), or [`stop`](Loop::stop) is
    /// called. With nothing in flight it returns at once.
    ///
    /// # Errors
    /// As [`tick`](Loop::tick).
    pub fn run(&self) -> io::Result<()> {
        while !self.0.stopped.replace(false) {
            if self.0.core.borrow().keeps_running() {
                self.tick(None)?;
                continue;
            }
            // Nothing to wait for, but there may be something in the inbox.
            self.tick(Some(Duration::ZERO))?;
            if !self.0.core.borrow().keeps_running() {
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

    /// Calls `f` with each operation in flight, those of the loop's own callbacks and groups included: for looking into a
    /// program that runs. It takes time with the number of operations, and costs nothing when it is not called.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use towpath_loop::{Loop, op};
    /// let loop_ = Loop::new()?;
    /// loop_.submit(op::timer(Duration::from_secs(60)), |_, _| ());
    /// loop_.inspect(|operation| assert_eq!(operation.operation.name, "timer"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Panics
    /// If `f` uses the loop.
    pub fn inspect(&self, f: impl FnMut(InFlight)) {
        self.0.core.borrow_mut().inspect(f);
    }

    /// Calls `f` with a descriptor that polls as readable when a [tick](Loop::tick) would find something, for
    /// driving this loop from another one; `None` if the backend has none (`poll`): then tick at intervals. Tick once
    /// with a zero wait before polling, and poll no longer than until [`next_deadline`](Loop::next_deadline). The
    /// descriptor stays the same, and is the loop's: it may be watched, not read from.
    ///
    /// From the first call on, a tick that ran any callback makes the descriptor readable, so that another tick follows:
    /// it hands over what they submitted.
    pub fn with_fd<R>(&self, f: impl FnOnce(Option<BorrowedFd<'_>>) -> R) -> R {
        let fd = self.0.core.borrow().backend.as_fd().map(|fd| fd.as_raw_fd());
        if fd.is_some() && !self.0.embedded.replace(true) {
            self.settle_descriptor(true);
        }
        // SAFETY: the backend keeps its descriptor open, and `self` keeps the backend, until `f` has returned.
        f(fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) }))
    }

    /// For who polls the descriptor until the next tick: the loop is asleep meanwhile, so that other threads ring, unless
    /// there is something to do at once, which `stirred` and the queues tell.
    fn settle_descriptor(&self, stirred: bool) {
        let core = self.0.core.borrow();
        let asleep = || self.0.inbox.borrow().as_ref().is_none_or(Consumer::prepare_sleep);
        if stirred || !core.done.is_empty() || !asleep() {
            core.backend.waker().wake();
        }
    }

    /// When the next timer or time-out is due, or a little earlier; or when the loop has to look again at a descriptor that
    /// is announced as ready and is not.
    pub fn next_deadline(&self) -> Option<Instant> {
        let core = self.0.core.borrow();
        let due = core.backend.due().unwrap_or(u64::MAX);
        Some(Instant(core.wheel.next().unwrap_or(u64::MAX).min(due))).filter(|at| *at != Instant::NEVER)
    }

    /// Whether both are handles to one loop.
    pub(crate) fn is(&self, other: &Loop) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn is_child(&self) -> bool {
        self.0.birth.is_child()
    }

    /// Whether it cannot be driven: one of its callbacks runs, or it is closed.
    #[doc(hidden)]
    pub fn is_ticking(&self) -> bool {
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
            let Some(completion) = core.done.queue.pop_front() else { break };
            core.absorbed -= 1;
            let Completion { id, result, .. } = completion;
            let to_frame = core.is_for_frame(id);
            if !to_frame {
                core.done.queue.push_back(completion);
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
        let mut core = self.0.core.borrow_mut();
        let Some(completion) = core.done.queue.pop_front() else { return };
        let Completion { id, result, .. } = completion;
        core.absorbed = core.absorbed.saturating_sub(1);
        core.prefetch_ahead();
        if let Some(waiting) = core.settle_waiting(id, result) {
            drop(core);
            // SAFETY: as in `hand_over`.
            return unsafe { Waiting::complete(waiting, Outcome { result, progress: 0 }) };
        }
        if completion.is_part() {
            drop(core);
            return self.deliver_part(completion, discard);
        }
        let settled = core.settle(id, result);
        drop(core);
        if let Some(settled) = settled {
            self.hand_over(settled, discard);
        }
    }

    /// Cancels what threads of the pool have of this loop's, and waits until they are done with it: they report to the inbox,
    /// so that stays open until then.
    fn end_offloaded(&self) {
        while self.0.core.borrow().has_offloaded() {
            let mut core = self.0.core.borrow_mut();
            for id in core.slots.select(|slot| slot.phase == Phase::Pool && !slot.flags.canceled) {
                core.cancel(id, Why::Canceled);
            }
            if !core.has_offloaded() {
                // No thread had begun any of it: nobody would end the sleep.
                break;
            }
            drop(core);
            if self.gather(None, Gather::Frames).is_err() {
                // The threads do not need the backend to end; who else needs it will find out.
                std::thread::sleep(Duration::from_millis(1));
                self.take_mail();
                let mut core = self.0.core.borrow_mut();
                core.now = core.backend.now();
                core.expire();
            }
        }
        self.0.core.borrow_mut().close_offload();
    }

    /// Runs code that is not ours, so no borrow of the core is held.
    fn hand_over(&self, mut settled: Settled, discard: bool) {
        while let Sink::Member { .. } = settled.sink {
            // The last member of a group ends the group.
            match self.0.core.borrow_mut().member_over(settled) {
                Some(group) => settled = group,
                None => return,
            }
        }
        let Settled { id, sink, removed, outcome } = settled;
        match sink {
            Sink::Member { .. } => unreachable!("dealt with above"),
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
        self.end_offloaded();
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
                    core.cancel(id, Why::Canceled);
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
    loop_.0.core.borrow_mut().slots.age_next(generation);
}
