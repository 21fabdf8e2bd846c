//! Which workers sleep, so that whoever queues a task that has not started wakes one of them, and only then.
//!
//! ```text
//!   worker:   says that it sleeps ── fence ── looks for tasks ── sleeps
//!   spawner:  queues a task       ── fence ── looks for sleepers ── wakes one
//! ```
//!
//! Of two that do this at the same time, at least one sees the other: no task stays queued while all sleep.

use crate::sync::atomic::{AtomicU64, Ordering, fence};

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

    /// There is something new to do: the worker for the caller to wake, if any sleeps. `preferred` if that one does.
    /// No two callers are given the same sleep of a worker.
    pub(crate) fn pick(&self, preferred: usize) -> Option<usize> {
        fence(Ordering::SeqCst);
        let mut idle = self.0.load(Ordering::Relaxed);
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
