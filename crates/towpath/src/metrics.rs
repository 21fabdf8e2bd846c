//! Counts of what the workers do. Each is written by its worker alone, without synchronisation, and read by anybody.
//!
//! What changes with every switch is counted where it happens, by plain stores; the rest is kept by the worker for
//! itself, or follows from what it has anyway, and is published once a tick.

use std::cell::Cell;
use std::ops::Add;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use towpath_loop::Stats;

/// What one worker has done and does, for others to read. Only the worker writes it.
#[derive(Default)]
// Two cache lines, which processors fetch together: workers are not to take each other's.
#[repr(align(128))]
pub(crate) struct Counters {
    switches: AtomicU64,
    /// The id of the task that runs, 0 if none does.
    running: AtomicU64,
    /// The thread that is the worker, 0 if none is.
    thread: AtomicI32,
    /// Tasks that it has described for dumps.
    described: AtomicUsize,
    ticks: AtomicU64,
    syscalls: AtomicU64,
    operations: AtomicU64,
    in_flight: AtomicUsize,
    started: AtomicU64,
    finished: AtomicU64,
    stolen: AtomicU64,
    sleeps: AtomicU64,
    wakes: AtomicU64,
    remote_wakes: AtomicU64,
    stacks: AtomicUsize,
}

/// What a worker counts for itself.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) started: Cell<u64>,
    pub(crate) stolen: Cell<u64>,
    pub(crate) sleeps: Cell<u64>,
    /// Put into the run queue at another thread's wish.
    pub(crate) remote_wakes: Cell<u64>,
    /// Taken out of the run queue without a switch, having ended meanwhile.
    pub(crate) stale: Cell<u64>,
}

/// One more.
#[inline]
pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Counters {
    /// Lets others see what a worker with `live` tasks, of which `ready` are in its run queue, has counted.
    pub(crate) fn publish(&self, stats: &Stats, tally: &Tally, live: usize, ready: usize, stacks: usize) {
        let started = tally.started.get();
        self.ticks.store(stats.ticks, Ordering::Relaxed);
        self.syscalls.store(stats.syscalls, Ordering::Relaxed);
        self.operations.store(stats.submitted, Ordering::Relaxed);
        self.in_flight.store(stats.in_flight, Ordering::Relaxed);
        self.started.store(started, Ordering::Relaxed);
        self.finished.store(started - live as u64, Ordering::Relaxed);
        self.stolen.store(tally.stolen.get(), Ordering::Relaxed);
        self.sleeps.store(tally.sleeps.get(), Ordering::Relaxed);
        self.remote_wakes.store(tally.remote_wakes.get(), Ordering::Relaxed);
        self.stacks.store(stacks, Ordering::Relaxed);
        // What came into the run queue has left it, by a switch that was no start, or is in it.
        let switches = self.switches.load(Ordering::Relaxed);
        let queued = switches - started + tally.stale.get() + ready as u64;
        self.wakes.store(queued, Ordering::Relaxed);
    }

    /// A task is being resumed.
    #[inline(always)]
    pub(crate) fn resume(&self, task: u64) {
        // One writer: no read-modify-write.
        self.switches.store(self.switches.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.running.store(task, Ordering::Relaxed);
    }

    /// The worker looks after its loop. Not said between two tasks: that takes no time.
    pub(crate) fn no_task_runs(&self) {
        self.running.store(0, Ordering::Relaxed);
    }

    /// One more task has been described for a dump.
    pub(crate) fn has_described(&self) {
        self.described.store(self.described() + 1, Ordering::Relaxed);
    }

    /// How many tasks have been described for dumps: a worker of which this grows is not stuck.
    pub(crate) fn described(&self) -> usize {
        self.described.load(Ordering::Relaxed)
    }

    /// Which thread is the worker now.
    pub(crate) fn set_thread(&self, thread: i32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    pub(crate) fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The task that runs, and the number of its turn among all turns of the worker.
    pub(crate) fn running(&self) -> (u64, u64) {
        (self.running.load(Ordering::Relaxed), self.switches.load(Ordering::Relaxed))
    }

    /// As of now, for a worker with `tasks` tasks.
    pub(crate) fn read(&self, tasks: usize) -> Metrics {
        Metrics {
            switches: self.switches.load(Ordering::Relaxed),
            ticks: self.ticks.load(Ordering::Relaxed),
            syscalls: self.syscalls.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
            finished: self.finished.load(Ordering::Relaxed),
            stolen: self.stolen.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            wakes: self.wakes.load(Ordering::Relaxed),
            remote_wakes: self.remote_wakes.load(Ordering::Relaxed),
            stacks: self.stacks.load(Ordering::Relaxed),
            stalls: 0,
            tasks,
        }
    }
}

/// Counts of a runtime, or of one of its workers: see [`Handle::metrics`](crate::Handle::metrics).
///
/// All but `switches`, `stalls` and `tasks` are as of the worker's last tick.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Times that a task was resumed.
    pub switches: u64,
    /// Ticks of the loop.
    pub ticks: u64,
    /// System calls made by the loop.
    pub syscalls: u64,
    /// Operations begun.
    pub operations: u64,
    /// Operations in flight now, timers among them.
    pub in_flight: usize,
    /// Tasks that were started.
    pub started: u64,
    /// Tasks that were started and have ended.
    pub finished: u64,
    /// Tasks that were taken, not started, from another worker that had more to do.
    pub stolen: u64,
    /// Times that the worker had nothing to do and slept until something happened.
    pub sleeps: u64,
    /// Times that a task was put into the run queue: woken by whatever it waited for, or because it yielded.
    pub wakes: u64,
    /// Those of `wakes` that came from other threads.
    pub remote_wakes: u64,
    /// Stacks of the usual size that there is memory reserved for: those of living tasks, and those kept for the next.
    pub stacks: usize,
    /// Times that a task held its worker for longer than the [watchdog](crate::Builder::watchdog)'s threshold.
    pub stalls: u64,
    /// Tasks now, started or not.
    pub tasks: usize,
}

impl Add for Metrics {
    type Output = Metrics;

    /// Of two workers, or runtimes, together.
    fn add(self, other: Metrics) -> Metrics {
        Metrics {
            switches: self.switches + other.switches,
            ticks: self.ticks + other.ticks,
            syscalls: self.syscalls + other.syscalls,
            operations: self.operations + other.operations,
            in_flight: self.in_flight + other.in_flight,
            started: self.started + other.started,
            finished: self.finished + other.finished,
            stolen: self.stolen + other.stolen,
            sleeps: self.sleeps + other.sleeps,
            wakes: self.wakes + other.wakes,
            remote_wakes: self.remote_wakes + other.remote_wakes,
            stacks: self.stacks + other.stacks,
            stalls: self.stalls + other.stalls,
            tasks: self.tasks + other.tasks,
        }
    }
}
