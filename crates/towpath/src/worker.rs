//! A worker: one thread, one loop, and the tasks that live there.
//!
//! The run queue holds started tasks that are ready; it belongs to this thread and needs no synchronisation. Tasks that
//! other threads make ready come through the [`Mailbox`], and so do tasks that nobody has started, which idle workers
//! may take away. In between, the loop's completions make tasks ready.
//!
//! ```text
//!    ┌────────────────────── run until the main task is over ──────────────────────┐
//!    │ a round of ready tasks → start unstarted ones → mail → tick of the loop     │
//!    │ (ticks that wait only when nothing is ready, after a look at the others)    │
//!    └─────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use towpath_coro::{Coroutine, StackPool, State};
use towpath_loop::{Instant, Loop, prefetch};

use crate::cells::Cells;
use crate::context;
use crate::dump::{Part, Place};
use crate::linger::{self, Linger};
pub(crate) use crate::mail::Mailbox;
use crate::metrics::{Counters, Tally, count};
use crate::runtime::Shared;
use crate::task::{Header, TaskRef};
use crate::trace;

/// What a task may do without waiting before it is looked how long that took: so many messages, or a few operations, which take
/// longer...
const LOOK_EVERY: u32 = 32;
const OPERATION: u32 = 8;
/// ...whether for longer than others should wait for their turn; and how many looks there are at most.
const SLICE: Duration = Duration::from_micros(50);
const LOOKS: u32 = 128;
const BUDGET: u32 = LOOKS * LOOK_EVERY - 1;
/// So many tasks in a row run before those that are ready for longer, each woken by the one before.
const NEXT_IN_A_ROW: u32 = 16;
/// How long tasks may run before the loop is polled again, where polling is cheap. Measured by looking at the clock every
/// few switches.
const POLL_EVERY: Duration = Duration::from_micros(100);
/// And where it is not, as with `poll(2)` on thousands of descriptors: so many times as long as the poll took, at most
/// [`POLL_EVERY_MAX`].
const POLL_SHARE: u32 = 4;
const POLL_EVERY_MAX: Duration = Duration::from_millis(10);
/// The most switches between two looks at the clock.
const CLOCK_EVERY_MAX: u32 = 64;
/// So many ready tasks are resumed in a row while others wait to be started.
const RESUMES: u32 = 64;
/// So many tasks are started in a row while others are ready. One at a time would make whoever spawns and joins them wait
/// for each.
const STARTS: u32 = 16;
/// From so many ready tasks on it pays to ask for the memory of the next ones in advance.
const MANY: usize = 16;
/// One in so many times a task that is to be started is looked for in the reverse order.
const INJECTED_EVERY: u32 = 32;
/// After so many spawns a worker looks at how many tasks the others have. An even number keeps pairs together.
const LOOK_AROUND_EVERY: u32 = 16;
/// After so many ticks a worker that always has something to do looks all the same whether tasks wait elsewhere, for a
/// worker that may be blocked.
const STEAL_EVERY: u64 = 64;

/// Whose turn it is, ready tasks' or new ones', and for how many of them.
#[derive(Clone, Copy)]
struct Turn {
    starting: bool,
    left: u32,
}

/// A worker, on the thread that it is.
pub(crate) struct Worker {
    pub(crate) index: usize,
    /// The system's number of the thread that it is, which is asked for once.
    pub(crate) thread: i32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) counters: Arc<Counters>,
    tally: Tally,
    pub(crate) loop_: Loop,
    pub(crate) cells: Cells,
    /// Counts of the mailbox's `Arc` that no task has: what ended tasks had, for new ones.
    homes: Cell<usize>,
    /// The other worker, if any, to which this run of spawned tasks goes; and how many tasks that were.
    elsewhere: Cell<Option<usize>>,
    spawns: Cell<u32>,
    /// Nothing is started any more.
    closed: Cell<bool>,
    /// How often a task was looked for that is to be started.
    starts: Cell<u32>,
    /// How many of the next ones are taken newest first.
    newest_first: Cell<u32>,
    /// Not counted: a task that ends while it is in here leaves its reference behind, see `retire`.
    ready: UnsafeCell<VecDeque<NonNull<Header>>>,
    /// The first task that was woken by the one that ran last. It comes before the run queue: what the two share is in the
    /// caches, and whoever fills a buffer finds it empty again. As little counted as those.
    next: Cell<Option<NonNull<Header>>>,
    /// How many may still come in this way before the run queue has its turn.
    next_left: Cell<u32>,
    /// Tasks that have not started and may not start elsewhere.
    pub(crate) local: RefCell<VecDeque<TaskRef>>,
    /// All tasks that have started here and not finished.
    pub(crate) live: RefCell<Vec<TaskRef>>,
    stacks: RefCell<StackPool>,
    /// Operations that the task which runs may still complete without waiting, and when it was first looked how long it runs.
    budget: Cell<u32>,
    runs_since: Cell<Instant>,
    /// Switches until the next look at the clock, and how many that was.
    clock_in: Cell<u32>,
    clock_every: Cell<u32>,
    polled: Cell<Instant>,
    poll_every: Cell<Duration>,
    ticks: Cell<u64>,
    linger: Linger,
    turn: Cell<Turn>,
    /// What is found of a task that is asked where it is, and the stack that it has.
    pub(crate) addresses: RefCell<Vec<usize>>,
    pub(crate) asked_stack: Cell<(usize, usize)>,
}

/// Makes a task ready that lives on `home`. From any thread.
pub(crate) fn wake(home: &Mailbox, task: &Header) {
    let here = context::with_worker(|worker| {
        let here = ptr::eq(&*worker.mailbox, home);
        if here {
            worker.make_next(task);
        }
        here
    });
    if here != Some(true) {
        home.push_ready(task);
    }
}

/// What becomes of a task that comes when nothing is started any more.
fn refuse(task: TaskRef) {
    // SAFETY: it has not run, and this was the reference that could have started it.
    unsafe { task.refuse(Box::new(crate::Canceled)) };
}

/// A task that is gone lived on `home`.
#[inline]
pub(crate) fn leave(home: Arc<Mailbox>) {
    context::with_worker(move |worker| {
        if Arc::ptr_eq(&worker.mailbox, &home) {
            // Kept for the next one, which saves two locked instructions.
            worker.homes.set(worker.homes.get() + 1);
            std::mem::forget(home);
        }
    });
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, loop_: Loop) -> io::Result<Worker> {
        let stacks = StackPool::new(towpath_coro::Config::new().stack_size(shared.stack_size))?;
        Ok(Worker {
            index,
            thread: rustix::thread::gettid().as_raw_nonzero().get(),
            mailbox: shared.mailboxes[index].clone(),
            counters: shared.counters[index].clone(),
            tally: Tally::default(),
            cells: Cells::new(shared.depot.clone()),
            shared,
            homes: Cell::new(0),
            elsewhere: Cell::new(None),
            spawns: Cell::new(0),
            closed: Cell::new(false),
            starts: Cell::new(0),
            newest_first: Cell::new(0),
            ready: UnsafeCell::new(VecDeque::new()),
            next: Cell::new(None),
            next_left: Cell::new(NEXT_IN_A_ROW),
            local: RefCell::new(VecDeque::new()),
            live: RefCell::new(Vec::new()),
            stacks: RefCell::new(stacks),
            budget: Cell::new(BUDGET),
            runs_since: Cell::new(Instant::NEVER),
            clock_in: Cell::new(1),
            clock_every: Cell::new(1),
            polled: Cell::new(loop_.clock()),
            poll_every: Cell::new(POLL_EVERY),
            ticks: Cell::new(0),
            linger: Linger::new(),
            turn: Cell::new(Turn { starting: false, left: RESUMES }),
            addresses: RefCell::default(),
            asked_stack: Cell::new((0, 0)),
            loop_,
        })
    }

    /// Calls `f` with the run queue.
    #[inline(always)]
    fn with_ready<R>(&self, f: impl FnOnce(&mut VecDeque<NonNull<Header>>) -> R) -> R {
        // SAFETY: `Worker` is not `Sync`, and the closures below neither call out nor switch, so that no two of these
        // borrows overlap.
        f(unsafe { &mut *self.ready.get() })
    }

    /// Puts a task of this worker into the run queue, unless it is there: then false.
    #[inline(always)]
    pub(crate) fn make_ready(&self, task: &Header) -> bool {
        // One that has ended stays out: nothing would count for it, see `retire`.
        let queue = !task.local.finished.get() && !task.local.queued.replace(true);
        if queue {
            self.with_ready(|ready| ready.push_back(NonNull::from(task)));
        }
        queue
    }

    /// As [`make_ready`](Worker::make_ready), for a task that is woken by the one which runs: the first of them is next. Those
    /// that the loop's callbacks wake keep their places.
    #[inline(always)]
    pub(crate) fn make_next(&self, task: &Header) {
        if context::task().is_null() || self.next.get().is_some() {
            self.make_ready(task);
        } else if !task.local.finished.get() && !task.local.queued.replace(true) {
            self.next.set(Some(NonNull::from(task)));
        }
    }

    /// The task that is to run next.
    #[inline(always)]
    fn pop_ready(&self) -> Option<NonNull<Header>> {
        if let Some(task) = self.next.take() {
            let left = self.next_left.get();
            if left > 0 {
                self.next_left.set(left - 1);
                return Some(task);
            }
            self.with_ready(|ready| ready.push_back(task));
        }
        self.next_left.set(NEXT_IN_A_ROW);
        let task = self.with_ready(VecDeque::pop_front);
        self.prefetch_ahead();
        task
    }

    /// How many tasks are ready to run.
    fn count_ready(&self) -> usize {
        self.with_ready(|ready| ready.len()) + usize::from(self.next.get().is_some())
    }

    /// Counts a message or the like that did not have to wait; now and then lets the others run.
    #[inline(always)]
    pub(crate) fn charge(&self) {
        self.charge_for(1);
    }

    /// As [`charge`](Worker::charge), for an operation that completed without waiting.
    #[inline(always)]
    pub(crate) fn charge_operation(&self) {
        self.charge_for(OPERATION);
    }

    #[inline(always)]
    fn charge_for(&self, price: u32) {
        let before = self.budget.get();
        let left = before.saturating_sub(price);
        self.budget.set(left);
        if left / LOOK_EVERY != before / LOOK_EVERY || left == 0 {
            self.look_how_long_it_runs(left);
        }
    }

    #[cold]
    fn look_how_long_it_runs(&self, left: u32) {
        let now = self.loop_.clock();
        if left / LOOK_EVERY == LOOKS - 2 {
            // The first look. To read the clock at each switch would cost more than what most tasks do in between.
            self.runs_since.set(now);
        } else if left == 0 || now - self.runs_since.get() >= SLICE {
            // So is the loop due, perhaps.
            self.clock_in.set(1);
            context::yield_now();
        }
    }

    /// Runs tasks until `done` says so.
    pub(crate) fn run(&self, done: impl Fn() -> bool) -> io::Result<()> {
        let kept = Kept;
        let ran = self.run_until(done);
        std::mem::forget(kept);
        ran
    }

    fn run_until(&self, done: impl Fn() -> bool) -> io::Result<()> {
        while !done() {
            self.round(&done);
            if done() {
                break;
            }
            self.collect_mail();
            let has_work = self.has_work();
            let looks =
                !has_work || self.ticks.get().is_multiple_of(STEAL_EVERY) && self.mailbox.unstarted() == 0;
            let stolen = looks && self.steal();
            self.tick(!has_work && !stolen)?;
        }
        self.publish();
        Ok(())
    }

    /// Runs what is ready, and starts what is not started, in turns, until there is nothing of either or the loop is due.
    #[inline(always)]
    fn round(&self, done: &impl Fn() -> bool) {
        let mut turns_in_vain = 0;
        while turns_in_vain < 2 {
            // Kept in the worker, because a round can be as short as one switch.
            let Turn { starting, left } = self.turn.get();
            self.turn.set(Turn { starting, left: left.saturating_sub(1) });
            if left == 0 {
                self.turn.set(Turn { starting: !starting, left: if starting { RESUMES } else { STARTS } });
                continue;
            } else if starting && let Some(new) = self.pop_unstarted() {
                self.start(new);
            } else if !starting && let Some(task) = self.pop_ready() {
                self.resume(task);
            } else {
                turns_in_vain += 1;
                self.turn.set(Turn { starting, left: 0 });
                continue;
            }
            turns_in_vain = 0;
            if self.loop_is_due() || done() {
                return;
            }
        }
    }

    /// Asks for the memory of the tasks that are next, if there are so many that it may have left the caches.
    #[inline(always)]
    fn prefetch_ahead(&self) {
        self.with_ready(|ready| {
            if ready.len() < MANY {
                return;
            }
            prefetch(ready[2].as_ptr().cast(), 3);
            // SAFETY: tasks in the run queue are alive, see `resume`.
            let next = unsafe { ready[0].as_ref() };
            // The registers that the switch saved are below.
            prefetch(next.local.frame.get().wrapping_sub(64), 8);
        });
    }

    /// Whether tasks have run for long enough since the loop was polled.
    #[inline(always)]
    fn loop_is_due(&self) -> bool {
        let left = self.clock_in.get();
        if left > 1 {
            self.clock_in.set(left - 1);
            return false;
        }
        self.look_at_the_clock()
    }

    #[inline(never)]
    fn look_at_the_clock(&self) -> bool {
        // The clock costs as much as some switches: looked at often only where tasks run long.
        let elapsed = self.loop_.clock() - self.polled.get();
        let every = self.clock_every.get();
        let poll_every = self.poll_every.get();
        let every = match elapsed {
            e if e >= poll_every => (every / 2).max(1),
            e if e < poll_every / 4 => (every * 2).min(CLOCK_EVERY_MAX),
            _ => every,
        };
        self.clock_every.set(every);
        self.clock_in.set(every);
        elapsed >= poll_every
    }

    pub(crate) fn collect_mail(&self) {
        self.mailbox.take_ready(|task| {
            if self.make_ready(&task) {
                count(&self.tally.remote_wakes);
            }
        });
    }

    /// Queues a task that must start here.
    pub(crate) fn start_later(&self, task: TaskRef) {
        if self.closed.get() {
            return refuse(task);
        }
        self.local.borrow_mut().push_back(task);
    }

    /// The next task to start. Now and then the sources are asked in the reverse order, so that a task that spawns without
    /// end does not keep what comes from elsewhere waiting.
    fn pop_unstarted(&self) -> Option<TaskRef> {
        let starts = self.starts.get().wrapping_add(1);
        self.starts.set(starts);
        let reverse = starts.is_multiple_of(INJECTED_EVERY);
        let newest_first = self.newest_first.get();
        self.newest_first.set(newest_first.saturating_sub(1));
        // As often the oldest comes all the same: in its own turn, for in the reverse order others may always be before it.
        let newest = newest_first > 0 && !reverse && starts % INJECTED_EVERY != INJECTED_EVERY / 2;
        let queue = &self.mailbox.spawned;
        // SAFETY: this is the owner of the queue.
        let spawned = || unsafe { if newest { queue.pop_newest() } else { queue.pop() } };
        let local = || self.local.borrow_mut().pop_front();
        let bound = || self.mailbox.pop_bound();
        let injected = || self.mailbox.pop_injected();
        if reverse {
            injected().or_else(bound).or_else(local).or_else(spawned)
        } else {
            spawned().or_else(local).or_else(bound).or_else(injected)
        }
    }

    /// Somebody waits for tasks that may not have started. Where tasks spawn others and wait for them in their turn, the newest
    /// first is one branch after the other, instead of all leaves at once. Where others steal, these spread the branches anyway.
    pub(crate) fn start_newest_first(&self) {
        self.newest_first.set(STARTS);
    }

    /// Queues a new task that may start on any worker: here, so that what is spawned and joined at once stays in one
    /// cache; but where this worker clearly has more tasks than another, there, since a task that lives long stays where
    /// it starts.
    #[inline]
    pub(crate) fn spawn(&self, task: TaskRef) {
        if self.closed.get() {
            return refuse(task);
        }
        let alone = self.shared.mailboxes.len() == 1;
        if !alone && let Some(other) = self.better_place() {
            return self.shared.inject(other, task);
        }
        // SAFETY: this is the owner of the queue.
        unsafe { self.mailbox.spawned.push(task) };
        if !alone {
            self.shared.notify_of_own(self.index);
        }
    }

    /// Another worker, if that has clearly fewer tasks. Asked once for a run of spawns: what others have is in their caches, and
    /// tasks that are spawned one after the other have much to do with each other, more often than not.
    #[inline]
    fn better_place(&self) -> Option<usize> {
        let spawns = self.spawns.get();
        self.spawns.set((spawns + 1) % LOOK_AROUND_EVERY);
        if spawns == 0 {
            let (other, load) = self.shared.least_loaded();
            let here = self.mailbox.live.load(Ordering::Relaxed);
            let clearly = other != self.index && here > load + load / 4 + LOOK_AROUND_EVERY as usize;
            self.elsewhere.set(clearly.then_some(other));
        }
        self.elsewhere.get()
    }

    fn has_work(&self) -> bool {
        self.count_ready() > 0 || !self.local.borrow().is_empty() || self.mailbox.unstarted() > 0
    }

    /// Polls the loop, or waits for it where there is nothing else to do.
    fn tick(&self, wait: bool) -> io::Result<()> {
        if wait && self.linger.is_worth_it() && self.look_for_mail()? {
            return Ok(());
        }
        if wait && self.shared.begin_idle(self.index) {
            count(&self.tally.sleeps);
            // It may be long.
            self.publish();
            let (mail, polled) = (self.tally.remote_wakes.get(), self.polled.get());
            let ticked = self.wait(None);
            self.linger.slept(self.polled.get() - polled, self.tally.remote_wakes.get() != mail);
            self.shared.end_idle(self.index);
            ticked?;
        } else {
            let begun = self.loop_.clock();
            self.wait(Some(Duration::ZERO))?;
            let took = self.polled.get() - begun;
            self.poll_every.set((took * POLL_SHARE).clamp(POLL_EVERY, POLL_EVERY_MAX));
        }
        self.ticks.set(self.ticks.get() + 1);
        self.publish();
        Ok(())
    }

    /// Looks for something to do that others send, or have, instead of sleeping. True if there is something.
    fn look_for_mail(&self) -> io::Result<bool> {
        let begun = self.loop_.clock();
        if begun - self.polled.get() >= POLL_EVERY {
            // It may have found something every time for long: then this is all that the loop, and who looks at the counters, gets.
            self.wait(Some(Duration::ZERO))?;
            self.publish();
        }
        let any = || self.has_work() || self.mailbox.has_ready() || self.shared.has_stealable();
        while !any() && self.loop_.clock() - begun < linger::LOOK {
            std::hint::spin_loop();
        }
        self.collect_mail();
        self.linger.looked(any());
        Ok(any())
    }

    /// Ticks the loop and takes the mail in.
    fn wait(&self, wait: Option<Duration>) -> io::Result<()> {
        self.counters.no_task_runs();
        let ticked = self.tick_loop(wait);
        self.polled.set(self.loop_.clock());
        self.clock_in.set(self.clock_every.get());
        self.poll_every.set(POLL_EVERY);
        self.collect_mail();
        ticked
    }

    /// Ticks the loop. A callback of the user's that panics has been reported by the panic hook and ends there: it must
    /// not take the worker, and with it frames that tasks borrow from, along.
    fn tick_loop(&self, wait: Option<Duration>) -> io::Result<()> {
        match catch_unwind(AssertUnwindSafe(|| self.loop_.tick(wait))) {
            Ok(ticked) => ticked.map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Lets others see how this worker is doing.
    fn publish(&self) {
        let ready = self.count_ready();
        let (live, stacks) = (self.live.borrow().len(), self.stacks.borrow().opened());
        self.counters.publish(&self.loop_.stats(), &self.tally, live, ready, stacks);
    }

    /// Takes unstarted tasks from another worker. True if there were any.
    fn steal(&self) -> bool {
        if !self.shared.may_steal() {
            return false;
        }
        let all = &self.shared.mailboxes;
        let others = (1..all.len()).map(|step| &all[(self.index + step) % all.len()]);
        for other in others {
            // SAFETY: this is the owner of the queue that is stolen into.
            if unsafe { other.steal_into(&self.mailbox.spawned) } {
                // They were looked for because there were none here.
                let stolen = self.tally.stolen.get() + self.mailbox.spawned.len() as u64;
                self.tally.stolen.set(stolen);
                if self.mailbox.stealable() > 1 {
                    // More than this worker can start at once. While they were on their way nobody saw them, so that
                    // others may have fallen asleep.
                    self.shared.notify(self.index);
                }
                return true;
            }
        }
        false
    }

    /// Gives a task its stack, and its home here, and runs it for the first time.
    #[inline(never)]
    pub(crate) fn start(&self, task: TaskRef) {
        if task.is_canceled() {
            // SAFETY: it has not run, and with the scheduler's reference nobody can start it.
            return unsafe { task.refuse(Box::new(crate::Canceled)) };
        }
        let stack = match task.stack_size() {
            Some(size) => towpath_coro::Stack::new(size),
            None => self.stacks.borrow_mut().take(),
        };
        let stack = match stack {
            Ok(stack) => stack,
            Err(error) => {
                let error = io::Error::new(error.kind(), format!("no stack for {}: {error}", task.label()));
                // SAFETY: as above.
                return unsafe { task.refuse(Box::new(error) as Box<dyn Any + Send>) };
            }
        };
        task.settle(self.home());
        count(&self.tally.started);
        self.counters.resume(task.id);
        // Before it is among those that have a stack to be looked at.
        trace::started(&task, self.index);
        trace::resumes(&task);
        let body = task.as_ptr();
        let mut coroutine = Coroutine::new(stack, move |yielder, ()| {
            // SAFETY: `live` keeps the task until its coroutine has finished. Started once, here, where it is to live.
            unsafe {
                body.as_ref().local.yielder.set(yielder);
                Header::run(body);
            }
        });
        // For the message of an overflow.
        if let Some(name) = task.name() {
            coroutine.set_name(name);
            if let Some(watched) = &self.shared.watched {
                watched.started(task.id, name);
            }
        }
        // SAFETY: nobody else touches a task's coroutine, and it is not running.
        unsafe { *task.local.coroutine.get() = Some(coroutine) };
        {
            let mut live = self.live.borrow_mut();
            task.local.place.set(u32::try_from(live.len()).expect("fewer than 2^32 tasks"));
            live.push(task);
            self.mailbox.live.store(live.len(), Ordering::Relaxed);
        }
        // SAFETY: `live` holds it.
        self.switch_to(unsafe { body.as_ref() });
    }

    /// A count of the mailbox for a new task.
    #[inline]
    fn home(&self) -> Arc<Mailbox> {
        match self.homes.get().checked_sub(1) {
            Some(rest) => {
                self.homes.set(rest);
                // SAFETY: one of the counts that are kept.
                unsafe { Arc::from_raw(Arc::as_ptr(&self.mailbox)) }
            }
            None => self.mailbox.clone(),
        }
    }

    /// Runs a task of this worker until it suspends or ends.
    #[inline(always)]
    fn resume(&self, pointer: NonNull<Header>) {
        // SAFETY: tasks in the run queue are alive: `live` holds them, or the reference that `retire` left behind.
        let task = unsafe { pointer.as_ref() };
        task.local.queued.set(false);
        if task.local.finished.get() {
            // It ended while it was in the queue, see `retire`.
            count(&self.tally.stale);
            // SAFETY: the reference left behind.
            return drop(unsafe { TaskRef::from_raw(pointer) });
        }
        self.counters.resume(task.id);
        // On this stack no task may seem to run.
        trace::resumes(task);
        self.switch_to(task);
    }

    #[inline(always)]
    fn switch_to(&self, task: &Header) {
        self.budget.set(BUDGET);
        task.local.ran.set(self.polled.get());
        let before = context::set_task(task);
        // SAFETY: only this worker touches the coroutines of its tasks, one at a time, and never that of the task that
        // runs: tasks reach their yielder, not this.
        let coroutine = unsafe { &mut *task.local.coroutine.get() };
        let state = coroutine.as_mut().expect("a started task has a coroutine").resume(());
        context::set_task(before);
        match state {
            State::Suspended(()) => trace::suspends(task),
            State::Finished(result) => {
                // The body catches its panics; one that gets here is ours.
                debug_assert!(result.is_ok());
                self.retire(task);
            }
        }
    }

    /// Resumes a suspended task so that it says where it is, and no more: see `dump`.
    pub(crate) fn resume_to_ask(&self, task: &Header) {
        // SAFETY: as in `switch_to`: it has started, has not ended, and does not run.
        let coroutine = unsafe { &mut *task.local.coroutine.get() };
        let coroutine = coroutine.as_mut().expect("a started task has a coroutine");
        self.asked_stack.set((coroutine.stack().limit(), coroutine.stack().base()));
        let before = context::set_task(task);
        let state = coroutine.resume(());
        context::set_task(before);
        debug_assert!(matches!(state, State::Suspended(())));
    }

    /// Calls `f` with the tasks that are queued here to be started anywhere.
    pub(crate) fn for_each_unstarted(&self, mut f: impl FnMut(&TaskRef)) {
        // What is in the ring may be stolen meanwhile, by one who began before that was forbidden: taken out it cannot be.
        // SAFETY: this is the owner of the queue.
        let spawned: Vec<_> = std::iter::from_fn(|| unsafe { self.mailbox.spawned.pop() }).collect();
        spawned.iter().for_each(&mut f);
        let any = !spawned.is_empty();
        // SAFETY: as above.
        spawned.into_iter().for_each(|task| unsafe { self.mailbox.spawned.push(task) });
        if any && self.shared.mailboxes.len() > 1 {
            // Whoever fell asleep meanwhile saw none.
            self.shared.notify_of_own(self.index);
        }
        self.mailbox.for_each_injected(f);
    }

    /// A task has ended: its stack is free, and it lives here no more.
    #[inline(never)]
    fn retire(&self, task: &Header) {
        task.local.finished.set(true);
        // SAFETY: as in `switch_to`; it has finished.
        let coroutine = unsafe { (*task.local.coroutine.get()).take() };
        let stack = coroutine.expect("a started task has a coroutine").into_stack();
        if task.stack_size().is_none() {
            self.stacks.borrow_mut().give(stack);
        }
        if let (Some(watched), Some(_)) = (&self.shared.watched, task.name()) {
            watched.ended(task.id);
        }
        let mut live = self.live.borrow_mut();
        let place = task.local.place.get();
        let removed = live.swap_remove(place as usize);
        debug_assert!(ptr::eq(&*removed, task));
        if let Some(moved) = live.get(place as usize) {
            moved.local.place.set(place);
        }
        self.mailbox.live.store(live.len(), Ordering::Relaxed);
        drop(live);
        // Where nobody asks it any more where it stands.
        trace::suspends(task);
        trace::over(task);
        if task.local.queued.get() {
            // The run queue still names it: the reference goes with that.
            std::mem::forget(removed);
        }
    }

    /// Ends all that lives here: cancels it, runs it to its end, at most for `limit`. Returns what would not end, if anything;
    /// that is leaked, with its stacks.
    ///
    /// While this thread unwinds nothing is run: tasks would find `thread::panicking()` true. All is leaked then.
    pub(crate) fn shut_down(&self, limit: Duration) -> Option<Part> {
        let kept = Kept;
        let limit = self.loop_.clock() + limit;
        // From here on nothing is started: what is queued is refused, and so is what comes.
        self.closed.set(true);
        let local = self.local.take();
        // SAFETY: this is the owner of the queue.
        let spawned = std::iter::from_fn(|| unsafe { self.mailbox.spawned.pop() });
        self.mailbox.close().into_iter().chain(local).chain(spawned).for_each(refuse);
        let tasks = self.live.borrow().clone();
        tasks.iter().for_each(|task| task.cancel());
        drop(tasks);
        while !self.live.borrow().is_empty() {
            let now = self.loop_.clock();
            if now >= limit || std::thread::panicking() {
                break;
            }
            self.round(&|| false);
            self.collect_mail();
            let wait =
                if self.has_work() { Duration::ZERO } else { (limit - now).min(Duration::from_millis(100)) };
            if !self.live.borrow().is_empty() {
                // Where it fails the limit ends this.
                let _ = self.wait(Some(wait));
            }
        }
        let number = self.shared.number.load(Ordering::Relaxed);
        let place = Place { runtime: number, worker: self.index };
        let seen = (!self.live.borrow().is_empty()).then(|| self.describe(place));
        let left = std::mem::take(&mut *self.live.borrow_mut());
        for task in left {
            // Whoever wakes it from now on wakes nobody. The reference goes with the stack: leaked.
            task.local.finished.set(true);
            std::mem::forget(task);
        }
        // Nobody looks at the mail any more.
        self.mailbox.take_ready(drop);
        // References that ended tasks left behind go; leaked tasks are leaked with theirs.
        for pointer in self.with_ready(std::mem::take).into_iter().chain(self.next.take()) {
            // SAFETY: as in `resume`.
            let task = unsafe { pointer.as_ref() };
            task.local.queued.set(false);
            if task.local.coroutine_is_gone() {
                // SAFETY: as in `resume`.
                drop(unsafe { TaskRef::from_raw(pointer) });
            }
        }
        self.publish();
        std::mem::forget(kept);
        seen
    }
}

/// Aborts when dropped. All that tasks do is caught where it ends, so that what unwinds a worker is a mistake in here; and who
/// waits in queues, and what frames have borrowed, does not outlast one that goes with its tasks.
struct Kept;

impl Drop for Kept {
    fn drop(&mut self) {
        eprintln!("towpath: a worker panicked");
        std::process::abort();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for _ in 0..self.homes.take() {
            // SAFETY: one of the counts that are kept.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(&self.mailbox)) });
        }
    }
}
