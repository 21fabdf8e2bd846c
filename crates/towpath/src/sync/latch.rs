//! Counting down to zero, once.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::{Arm, Crowd, Limit, Waiting, block};
use crate::why::Reason;

/// A number that is counted down, and can be waited for to be zero. It stays zero: to meet again and again there is
/// [`Barrier`](super::Barrier).
///
/// What was done before each [`count_down`](Latch::count_down) is seen by whoever finds it at zero.
///
/// ```
/// use towpath::sync::{Arc, Latch};
/// use towpath::thread;
///
/// # fn main() -> std::io::Result<()> {
/// let ready = Arc::new(Latch::new(3));
/// for _ in 0..3 {
///     let ready = ready.clone();
///     thread::spawn(move || ready.count_down(1));
/// }
/// ready.wait()
/// # }
/// ```
pub struct Latch {
    left: AtomicUsize,
    crowd: Crowd,
}

impl Latch {
    const_fn! {
        /// With so many to be counted down; with none, nobody waits.
        #[must_use]
        pub const fn new(count: usize) -> Latch {
            Latch {
                left: AtomicUsize::new(count),
                crowd: Crowd::new(const { &Reason::object("latch") }),
            }
        }
    }

    /// Counts `n` down, or what is left, if that is less. Whoever makes it zero lets all go who wait.
    pub fn count_down(&self, n: usize) {
        let mut left = self.left.load(Ordering::Relaxed);
        while left > 0 && n > 0 {
            let less = left.saturating_sub(n);
            match self.left.compare_exchange_weak(left, less, Ordering::AcqRel, Ordering::Relaxed) {
                // Whoever is about to wait looks at it once more under the crowd's lock.
                Ok(_) if less == 0 => return self.crowd.wake_all(|| ()),
                Ok(_) => return,
                Err(now) => left = now,
            }
        }
    }

    /// How many are left to be counted down.
    pub fn count(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    ways_to_wait!("it is zero");

    /// Counts one down, and waits until it is zero.
    ///
    /// # Errors
    /// If the task is cancelled; it is counted all the same.
    pub fn arrive_and_wait(&self) -> io::Result<()> {
        self.count_down(1);
        self.wait()
    }

    pub(crate) fn waiting(&self) -> impl Arm<Output = ()> {
        self.crowd.until(|| self.count() == 0)
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch").field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::check;

    /// Whoever waits goes on when both have counted, and sees what they did before.
    #[test]
    fn loom_zero_lets_go_and_shows_what_was_before() {
        check(3, || {
            let shared = Arc::new((Latch::new(2), [UnsafeCell::new(0), UnsafeCell::new(0)]));
            let others = [0, 1].map(|n| {
                let shared = shared.clone();
                thread::spawn(move || {
                    // SAFETY: its own, and nobody reads it before.
                    shared.1[n].with_mut(|value| unsafe { *value = 1 });
                    shared.0.count_down(1);
                })
            });
            block_on(shared.0.wait_async());
            for value in &shared.1 {
                // SAFETY: written before the count, and not again.
                assert_eq!(value.with(|value| unsafe { *value }), 1);
            }
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }
}
