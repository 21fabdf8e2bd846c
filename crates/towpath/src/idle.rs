//! Which workers sleep, so that whoever queues a task that has not started wakes one of them, and only then.
//!
//! ```text
//!   worker:   says that it sleeps ── fence ── looks for tasks ── sleeps
//!   spawner:  queues a task       ── fence ── looks for sleepers ── wakes one
//! ```
//!
//! Of two that do this at the same time, at least one sees the other: no task stays queued while all sleep.

use crate::std_or_loom::atomic::{AtomicU64, Ordering, fence};

/// More workers than bits in the mask would not all be woken.
pub(crate) const WORKERS_MAX: usize = 64;

/// A bit for each worker that sleeps, or is about to.
pub(crate) struct Idle(AtomicU64);

impl Idle {
    pub(crate) fn new() -> Idle {
        Idle(AtomicU64::new(0))
    }

    /// Says that a worker is about to sleep. False if, as `has_work` says, there is something for it to do.
    pub(crate) fn begin(&self, index: usize, has_work: impl FnOnce() -> bool) -> bool {
        // Relaxed, here and below: the fences order all that has to be.
        self.0.fetch_or(1 << index, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if has_work() {
            self.end(index);
            return false;
        }
        true
    }

    /// Says that a worker is awake again.
    pub(crate) fn end(&self, index: usize) {
        self.0.fetch_and(!(1 << index), Ordering::Relaxed);
    }

    /// Whether that many workers sleep, or are about to.
    pub(crate) fn sleepers(&self) -> usize {
        self.0.load(Ordering::Relaxed).count_ones() as usize
    }

    /// There is something new to do: the worker for the caller to wake, if any sleeps. `preferred` if that one does.
    /// No two callers are given the same sleep of a worker.
    pub(crate) fn pick(&self, preferred: usize) -> Option<usize> {
        fence(Ordering::SeqCst);
        self.pick_after_fence(preferred)
    }

    /// [`pick`](Idle::pick), where what is new to do was made known with a full fence behind it.
    #[inline]
    pub(crate) fn pick_after_fence(&self, preferred: usize) -> Option<usize> {
        // SeqCst, at no cost on x86, since that fence may have been a SeqCst operation.
        let mut idle = self.0.load(Ordering::SeqCst);
        while idle != 0 {
            let pick = if idle & (1 << preferred) != 0 { preferred } else { idle.trailing_zeros() as usize };
            let before = self.0.fetch_and(!(1 << pick), Ordering::Relaxed);
            if before & (1 << pick) != 0 {
                return Some(pick);
            }
            // Woken by somebody else, for something else that it may be busy with for long.
            idle = before;
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_sleep_is_ended_by_one_and_the_preferred_worker_comes_first() {
        let idle = Idle::new();
        assert_eq!(idle.pick(0), None);
        for worker in [3, 63, 7] {
            assert!(idle.begin(worker, || false));
        }
        assert_eq!([(); 4].map(|()| idle.pick(63)), [Some(63), Some(3), Some(7), None]);
    }

    #[test]
    fn a_worker_that_has_work_or_is_awake_again_is_not_picked() {
        let idle = Idle::new();
        assert!(!idle.begin(0, || true));
        assert!(idle.begin(1, || false));
        idle.end(1);
        assert_eq!(idle.pick(0), None);
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use loom::thread;

    use super::*;
    use crate::mail::Mailbox;
    use crate::std_or_loom::model::{check, mailbox};
    use crate::task::TaskRef;

    struct Workers {
        mailboxes: Vec<Arc<Mailbox>>,
        idle: Idle,
        is_over: AtomicBool,
    }

    fn task() -> TaskRef {
        // SAFETY: it borrows nothing, and is `Send`.
        unsafe { TaskRef::new(None, || ()) }.0
    }

    impl Workers {
        fn new(count: usize) -> Arc<Workers> {
            let mailboxes = (0..count).map(|_| mailbox()).collect();
            Arc::new(Workers { mailboxes, idle: Idle::new(), is_over: AtomicBool::new(false) })
        }

        /// As `Shared::spawn` from a thread that is no worker.
        fn inject(&self, target: usize) {
            assert!(self.mailboxes[target].inject(task()).is_ok());
            self.notify(target);
        }

        /// As `Worker::spawn` on that worker.
        fn spawn(&self, index: usize) {
            // SAFETY: in these models only one thread acts for a worker.
            unsafe { self.mailboxes[index].spawned.push(task()) };
            if let Some(wake) = self.idle.pick_after_fence(index) {
                self.mailboxes[wake].remote.wake();
            }
        }

        fn notify(&self, target: usize) {
            if let Some(wake) = self.idle.pick(target) {
                self.mailboxes[wake].remote.wake();
            }
        }

        /// As `Worker::run`, for one that starts `tasks` tasks and is then busy for ever.
        fn work(&self, index: usize, tasks: usize) {
            let mine = &self.mailboxes[index];
            let mut started = 0;
            loop {
                // SAFETY: this thread acts for the worker.
                while let Some(task) =
                    mine.pop_injected().or_else(|| mine.pop_bound()).or_else(|| unsafe { mine.spawned.pop() })
                {
                    // SAFETY: it came out of the queue, once.
                    unsafe { task.run() };
                    started += 1;
                    if started == tasks {
                        return;
                    }
                }
                if self.is_over.load(Relaxed) {
                    return;
                }
                let mut others = self.mailboxes.iter().filter(|other| !Arc::ptr_eq(other, mine));
                // SAFETY: as above.
                if others.any(|other| unsafe { other.steal_into(&mine.spawned) }) {
                    if mine.unstarted() > 1 {
                        self.notify(index);
                    }
                    continue;
                }
                // What comes after this wakes it, what has come before is seen.
                let any = || self.mailboxes.iter().any(|mailbox| mailbox.stealable() > 0);
                if mine.unstarted() == 0 && self.idle.begin(index, any) {
                    mine.remote.wait();
                    self.idle.end(index);
                }
            }
        }

        /// As `Shared::bind`.
        fn bind(&self, target: usize, task: TaskRef) -> Result<(), TaskRef> {
            self.mailboxes[target].bind(task)?;
            self.mailboxes[target].remote.wake();
            Ok(())
        }

        /// As the beginning of `Runtime::end`.
        fn end(&self) {
            self.is_over.store(true, Relaxed);
            self.mailboxes.iter().for_each(|mailbox| mailbox.remote.wake());
        }

        /// As `Worker::run` and `Worker::shut_down`.
        fn work_to_the_end(&self, index: usize) {
            self.work(index, usize::MAX);
            // SAFETY: as in `work`.
            let spawned = std::iter::from_fn(|| unsafe { self.mailboxes[index].spawned.pop() });
            self.mailboxes[index].close().into_iter().chain(spawned).for_each(|task| refuse(&task));
        }
    }

    fn refuse(task: &TaskRef) {
        // SAFETY: it came out of a queue, once, or into none.
        unsafe { task.refuse(Box::new(crate::Canceled)) }
    }

    #[test]
    fn loom_a_worker_that_falls_asleep_starts_what_is_queued() {
        check(4, || {
            let workers = Workers::new(1);
            let spawner = thread::spawn({
                let workers = workers.clone();
                move || (0..2).for_each(|_| workers.inject(0))
            });
            workers.work(0, 2);
            spawner.join().unwrap();
        });
    }

    /// The worker in whose mailbox the task is put is not there.
    #[test]
    fn loom_a_worker_that_falls_asleep_steals_what_is_queued_elsewhere() {
        check(None, || {
            let workers = Workers::new(2);
            let spawner = thread::spawn({
                let workers = workers.clone();
                move || workers.spawn(0)
            });
            workers.work(1, 1);
            spawner.join().unwrap();
        });
    }

    /// Two tasks, two workers that take one and no more: neither task waits while a worker sleeps.
    #[test]
    fn loom_two_spawns_wake_two_workers() {
        check(2, || {
            let workers = Workers::new(2);
            let threads = [0, 1].map(|n| {
                let workers = workers.clone();
                thread::spawn(move || match n {
                    0 => workers.inject(0),
                    _ => workers.work(1, 1),
                })
            });
            let worker = thread::spawn({
                let workers = workers.clone();
                move || workers.work(0, 1)
            });
            workers.inject(0);
            threads.into_iter().chain([worker]).for_each(|thread| thread.join().unwrap());
        });
    }

    /// Both are stolen by a worker that then starts one and no more: another one that fell asleep while they were on
    /// their way, and so in no queue, is woken.
    #[test]
    fn loom_tasks_that_are_being_stolen_are_not_overlooked() {
        check(3, || {
            let workers = Workers::new(3);
            (0..3).for_each(|_| assert!(workers.mailboxes[0].inject(task()).is_ok()));
            let thief = thread::spawn({
                let workers = workers.clone();
                move || workers.work(1, 1)
            });
            workers.work(2, 2);
            thief.join().unwrap();
        });
    }

    #[test]
    fn loom_no_sleep_is_ended_twice() {
        check(None, || {
            let idle = Arc::new(Idle::new());
            assert!(idle.begin(0, || false) && idle.begin(1, || false));
            let other = thread::spawn({
                let idle = idle.clone();
                move || idle.pick(0)
            });
            let picked = [idle.pick(0), other.join().unwrap()];
            assert!(picked == [Some(0), Some(1)] || picked == [Some(1), Some(0)], "{picked:?}");
        });
    }

    /// Nobody else may start it, so its own worker is woken, however deep it sleeps.
    #[test]
    fn loom_a_worker_that_falls_asleep_starts_what_is_bound_to_it() {
        check(3, || {
            let workers = Workers::new(2);
            let spawner = thread::spawn({
                let workers = workers.clone();
                move || (0..2).for_each(|_| assert!(workers.bind(0, task()).is_ok()))
            });
            workers.work(0, 2);
            spawner.join().unwrap();
        });
    }

    /// Tasks come from a foreign thread while a runtime ends: each is run or refused, so that whoever joins it learns of its end,
    /// and the worker ends.
    #[test]
    fn loom_what_comes_during_a_shutdown_is_run_or_refused() {
        check(3, || {
            let workers = Workers::new(1);
            // SAFETY: they borrow nothing, and are `Send`.
            let tasks = [(); 2].map(|()| unsafe { TaskRef::new(None, || ()) });
            let [injected, bound] = tasks.each_ref().map(|(task, _)| task.clone());
            let spawner = thread::spawn({
                let workers = workers.clone();
                move || {
                    match workers.mailboxes[0].inject(injected) {
                        Ok(()) => workers.notify(0),
                        Err(task) => refuse(&task),
                    }
                    if let Err(task) = workers.bind(0, bound) {
                        refuse(&task);
                    }
                }
            });
            let ends = thread::spawn({
                let workers = workers.clone();
                move || workers.end()
            });
            workers.work_to_the_end(0);
            spawner.join().unwrap();
            ends.join().unwrap();
            assert!(tasks.iter().all(|(_, handle)| handle.join.is_finished()));
            assert_eq!(workers.mailboxes[0].unstarted(), 0);
        });
    }

    /// One worker ends with tasks that another one is about to take.
    #[test]
    fn loom_what_is_stolen_during_a_shutdown_is_run_or_refused() {
        check(2, || {
            let workers = Workers::new(2);
            // SAFETY: as above.
            let tasks = [(); 2].map(|()| unsafe { TaskRef::new(None, || ()) });
            for (task, _) in &tasks {
                assert!(workers.mailboxes[0].inject(task.clone()).is_ok());
            }
            let other = thread::spawn({
                let workers = workers.clone();
                move || workers.work_to_the_end(1)
            });
            workers.end();
            workers.work_to_the_end(0);
            other.join().unwrap();
            assert!(tasks.iter().all(|(_, handle)| handle.join.is_finished()));
        });
    }
}
