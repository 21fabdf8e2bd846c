//! Telling others to look again.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use crate::std_or_loom::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::{Arm, Crowd, Entered, Limit, Until, Waiter, Waiting, block};
use crate::why::{Reason, Why};

/// Wakes one of those who wait, or all of them, and carries no data: as `tokio::sync::Notify`.
///
/// [`notify_one`](Notify::notify_one) is kept if nobody waits: it is one permit, however often it is called, and whoever
/// comes next takes it and goes on. [`notify_waiters`](Notify::notify_waiters) is not kept. What was done before a
/// notification is seen by whom it wakes.
///
/// Cancel-safe: one who gives up does not keep the permit that it was given; it goes to the next, or is kept.
///
/// First come, first served.
///
/// ```
/// use std::collections::VecDeque;
/// use towpath::sync::{Arc, Mutex, Notify};
/// use towpath::thread;
///
/// # fn main() -> std::io::Result<()> {
/// let shared = Arc::new((Mutex::new(VecDeque::new()), Notify::new()));
/// let reader = thread::spawn({
///     let shared = shared.clone();
///     move || loop {
///         if let Some(item) = shared.0.lock().unwrap().pop_front() {
///             return std::io::Result::Ok(item);
///         }
///         shared.1.notified()?;
///     }
/// });
/// shared.0.lock().unwrap().push_back(7);
/// shared.1.notify_one();
/// assert_eq!(reader.join().unwrap()?, 7);
/// # Ok(())
/// # }
/// ```
pub struct Notify {
    /// Given under the crowd's lock, if nobody waits.
    permit: AtomicBool,
    /// How often all were woken.
    rounds: AtomicUsize,
    crowd: Crowd,
}

impl Notify {
    const_fn! {
        /// With no permit.
        #[must_use]
        pub const fn new() -> Notify {
            Notify {
                permit: AtomicBool::new(false),
                rounds: AtomicUsize::new(0),
                crowd: Crowd::new(const { &Reason::object("notification") }),
            }
        }
    }

    /// Wakes the one who has waited for the longest time; if nobody waits, the next who comes need not wait.
    pub fn notify_one(&self) {
        // An exchange, for who takes it does not lock: this comes after whoever took the last one, in the eyes of all.
        self.crowd.wake_one(|| _ = self.permit.swap(true, Ordering::Release));
    }

    /// Wakes all who wait now. A future waits since it was made, whether it has been polled or not.
    pub fn notify_waiters(&self) {
        self.crowd.wake_all(|| _ = self.rounds.fetch_add(1, Ordering::Release));
    }

    /// Waits for a notification.
    ///
    /// # Errors
    /// If the task is cancelled.
    pub fn notified(&self) -> io::Result<()> {
        block(&mut self.waiting(), Limit::NONE)?;
        Ok(())
    }

    /// Waits for a notification, at most for `limit`.
    ///
    /// # Errors
    /// If the task is cancelled; `TimedOut`.
    pub fn notified_timeout(&self, limit: Duration) -> io::Result<()> {
        block(&mut self.waiting(), Limit::after(limit))?;
        Ok(())
    }

    /// Waits for a notification, as a future. From now on it is woken by [`notify_waiters`](Notify::notify_waiters), though it
    /// is in the queue for a permit only once it is polled. So that none is missed, make it, look at what you wait for, then
    /// await it.
    pub fn notified_async(&self) -> impl Future<Output = ()> {
        let waiting = Waiting::new(self.waiting());
        async { drop(waiting.await) }
    }

    pub(crate) fn waiting(&self) -> impl Arm {
        let round = self.rounds.load(Ordering::Acquire);
        let is_notified = move || self.is_past(round) || self.permit.load(Ordering::Relaxed);
        Notified { notify: self, round, until: self.crowd.until(is_notified) }
    }

    fn is_past(&self, round: usize) -> bool {
        self.rounds.load(Ordering::Acquire) != round
    }
}

/// Waits for a notification.
struct Notified<'a, F> {
    notify: &'a Notify,
    /// The last that was before it.
    round: usize,
    /// Waits until there is one, but does not take it.
    until: Until<'a, F>,
}

/// How one was notified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// It has the permit.
    Permit,
    /// Like all who waited.
    Call,
}

// SAFETY: `Until`'s, and nothing beside it is queued.
unsafe impl<F: FnMut() -> bool> Arm for Notified<'_, F> {
    type Output = Given;

    #[inline(always)]
    fn why(&self) -> Why {
        self.until.why()
    }

    fn attempt(&mut self) -> Option<Given> {
        if self.notify.is_past(self.round) {
            return Some(Given::Call);
        }
        let permit = &self.notify.permit;
        let taken = permit.load(Ordering::Relaxed) && permit.swap(false, Ordering::Acquire);
        taken.then_some(Given::Permit)
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<Given> {
        loop {
            // SAFETY: passed on to the caller.
            match unsafe { self.until.enter(waiter, index, alone) } {
                Entered::Queued => return Entered::Queued,
                Entered::Ready => return Entered::Ready,
                // If nobody else has taken it since.
                Entered::Done(()) => {
                    if let Some(given) = self.attempt() {
                        return Entered::Done(given);
                    }
                }
            }
        }
    }

    fn leave(&mut self) {
        self.until.leave();
    }

    fn finish(&mut self) -> Option<Given> {
        Some(if self.until.was_chosen() { Given::Permit } else { Given::Call })
    }

    fn give_back(&mut self, given: Given) {
        if given == Given::Permit {
            self.notify.notify_one();
        }
    }
}

impl Default for Notify {
    fn default() -> Notify {
        Notify::new()
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("permit", &self.permit).finish_non_exhaustive()
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

    /// Whenever it comes, the notification arrives, and with it what was done before.
    #[test]
    fn loom_a_permit_is_kept_and_shows_what_was_before() {
        check(None, || {
            let shared = Arc::new((Notify::new(), UnsafeCell::new(0)));
            let notifier = thread::spawn({
                let shared = shared.clone();
                move || {
                    // SAFETY: nobody reads it before the notification.
                    shared.1.with_mut(|value| unsafe { *value = 7 });
                    shared.0.notify_one();
                }
            });
            block_on(shared.0.notified_async());
            // SAFETY: written before the notification, and not again.
            assert_eq!(shared.1.with(|value| unsafe { *value }), 7);
            notifier.join().unwrap();
            assert!(poll_once(Box::pin(shared.0.notified_async()).as_mut()).is_pending(), "it was one");
        });
    }

    /// One who gives up at any moment does not keep the only permit.
    #[test]
    fn loom_one_who_gives_up_passes_it_on() {
        check(3, || {
            let notify = Arc::new(Notify::new());
            let quitter = thread::spawn({
                let notify = notify.clone();
                move || {
                    let mut waiting = Box::pin(notify.notified_async());
                    if poll_once(waiting.as_mut()).is_ready() {
                        notify.notify_one();
                    }
                }
            });
            let waiter = thread::spawn({
                let notify = notify.clone();
                move || block_on(notify.notified_async())
            });
            notify.notify_one();
            quitter.join().unwrap();
            waiter.join().unwrap();
        });
    }

    /// Futures that were made before all are woken are woken, polled or not, and no permit is made by it.
    #[test]
    fn loom_all_who_were_there_are_woken() {
        check(3, || {
            let notify = Arc::new(Notify::new());
            let early = [notify.notified_async(), notify.notified_async()];
            let notifier = thread::spawn({
                let notify = notify.clone();
                move || notify.notify_waiters()
            });
            early.into_iter().for_each(block_on);
            notifier.join().unwrap();
            assert!(poll_once(Box::pin(notify.notified_async()).as_mut()).is_pending());
        });
    }
}
