//! Meeting, again and again.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::{Crowd, GaveUp, Limit, Waiting, block};
use crate::why::Reason;

/// Lets several wait for each other, as `std::sync::Barrier`: when the last of them has come, all go on, and it can be used
/// for the next meeting.
///
/// What each did before it came is seen by all when they go on.
///
/// # Giving up
/// [`wait`](Barrier::wait) is not cancellable, for its signature is `std`'s. With [`wait_timeout`](Barrier::wait_timeout), and
/// as a future that is dropped, one may leave before the others have come. It is no longer counted then: the meeting takes
/// place when somebody else has come for it, or it has come back. Whether it has left or met the others is decided once.
///
/// ```
/// use towpath::sync::{Arc, Barrier};
/// use towpath::thread;
///
/// let barrier = Arc::new(Barrier::new(3));
/// let tasks: Vec<_> = (0..3)
///     .map(|_| {
///         let barrier = barrier.clone();
///         thread::spawn(move || barrier.wait().is_leader())
///     })
///     .collect();
/// let leaders = tasks.into_iter().map(|task| task.join().unwrap());
/// assert_eq!(leaders.filter(|leads| *leads).count(), 1);
/// ```
pub struct Barrier {
    size: usize,
    /// How many have come to this meeting. Changed under the crowd's lock.
    arrived: AtomicUsize,
    /// The number of the meeting that is to come. Changed under the crowd's lock.
    meeting: AtomicUsize,
    crowd: Crowd,
}

/// Whether one was the last to come, as `std::sync::BarrierWaitResult`.
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// Whether it is the one of the meeting's parties that leads: the last to come.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    const_fn! {
        /// For meetings of `n`. If that is 0 or 1, nobody waits.
        #[must_use]
        pub const fn new(n: usize) -> Barrier {
            Barrier {
                size: n,
                arrived: AtomicUsize::new(0),
                meeting: AtomicUsize::new(0),
                crowd: Crowd::new(const { &Reason::object("barrier") }),
            }
        }
    }

    /// Waits until all have come. Not cancellable: see [`wait_timeout`](Barrier::wait_timeout) for what is.
    pub fn wait(&self) -> BarrierWaitResult {
        self.meet(Limit::STUBBORN).expect("it cannot give up")
    }

    /// Waits until all have come, at most for `limit`.
    ///
    /// # Errors
    /// If the task is cancelled; `TimedOut`. The caller is not counted then.
    pub fn wait_timeout(&self, limit: Duration) -> io::Result<BarrierWaitResult> {
        Ok(self.meet(Limit::after(limit))?)
    }

    /// Waits until all have come, as a future. It comes when it is first polled, and leaves if it is dropped before it is ready
    /// (unless all have come at that moment).
    pub async fn wait_async(&self) -> BarrierWaitResult {
        if let Some(arrival) = self.arrive() {
            Waiting::new(self.crowd.until(|| arrival.is_over())).await;
            return BarrierWaitResult(false);
        }
        BarrierWaitResult(true)
    }

    fn meet(&self, limit: Limit) -> Result<BarrierWaitResult, GaveUp> {
        // One who is cancelled does not come.
        block(&mut self.crowd.until(|| true), limit)?;
        let Some(arrival) = self.arrive() else { return Ok(BarrierWaitResult(true)) };
        let waited = block(&mut self.crowd.until(|| arrival.is_over()), limit);
        if arrival.leave() {
            waited?;
        }
        Ok(BarrierWaitResult(false))
    }

    /// Comes to the meeting. `None`: as the last, who lets the others go.
    fn arrive(&self) -> Option<Arrival<'_>> {
        let mut meeting = 0;
        let is_last = self.crowd.wake_all_if(|| {
            meeting = self.meeting.load(Ordering::Relaxed);
            let arrived = self.arrived.load(Ordering::Relaxed) + 1;
            let all = arrived >= self.size;
            self.arrived.store(if all { 0 } else { arrived }, Ordering::Relaxed);
            if all {
                self.meeting.store(meeting.wrapping_add(1), Ordering::Release);
            }
            all
        });
        (!is_last).then_some(Arrival { barrier: self, meeting })
    }
}

/// One who has come, and leaves if this is dropped before the meeting.
struct Arrival<'a> {
    barrier: &'a Barrier,
    meeting: usize,
}

impl Arrival<'_> {
    fn is_over(&self) -> bool {
        self.barrier.meeting.load(Ordering::Acquire) != self.meeting
    }

    /// False if the meeting is over.
    fn leave(self) -> bool {
        ManuallyDrop::new(self).uncount()
    }

    fn uncount(&self) -> bool {
        let Barrier { arrived, crowd, .. } = self.barrier;
        !self.is_over()
            && crowd.alone(|| {
                let leaves = !self.is_over();
                if leaves {
                    arrived.store(arrived.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
                }
                leaves
            })
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.uncount();
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").finish_non_exhaustive()
    }
}

impl fmt::Debug for BarrierWaitResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarrierWaitResult").field("is_leader", &self.is_leader()).finish()
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, poll_once};

    /// Two meetings: at the second each sees what the other did before the first, and one leads.
    #[test]
    fn loom_two_meet_twice() {
        check(3, || {
            let shared = Arc::new((Barrier::new(2), [UnsafeCell::new(0), UnsafeCell::new(0)]));
            let party = |shared: &(Barrier, [UnsafeCell<usize>; 2]), n: usize| {
                // SAFETY: its own, and the other looks after the first meeting.
                shared.1[n].with_mut(|value| unsafe { *value = 1 });
                let leads = block_on(shared.0.wait_async()).is_leader();
                // SAFETY: written before the meeting, and not again.
                assert_eq!(shared.1[1 - n].with(|value| unsafe { *value }), 1);
                block_on(shared.0.wait_async());
                leads
            };
            let other = thread::spawn({
                let shared = shared.clone();
                move || party(&shared, 1)
            });
            let leads = party(&shared, 0);
            assert_ne!(leads, other.join().unwrap());
        });
    }

    /// One who gives up at any moment was there when the others met, or is not counted.
    #[test]
    fn loom_one_who_gives_up_is_not_counted() {
        check(3, || {
            let barrier = Arc::new(Barrier::new(2));
            let quitter = thread::spawn({
                let barrier = barrier.clone();
                move || {
                    let mut waiting = Box::pin(barrier.wait_async());
                    poll_once(waiting.as_mut()).is_ready()
                }
            });
            let mut waiting = Box::pin(barrier.wait_async());
            let mut met = poll_once(waiting.as_mut()).is_ready();
            let quitter_met = quitter.join().unwrap();
            met = met || poll_once(waiting.as_mut()).is_ready();
            assert!(met || !quitter_met);
            drop(waiting);
            for _ in 0..2 {
                assert_eq!(barrier.arrived.load(Ordering::Relaxed), 0);
                assert!(poll_once(Box::pin(barrier.wait_async()).as_mut()).is_pending());
            }
        });
    }
}
