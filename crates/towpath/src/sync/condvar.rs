//! Waiting for what a lock protects to change.
//!
//! Who waits joins a crowd before it gives up the lock, so that whoever changes something under the lock, and notifies then,
//! finds it there. Once woken, it locks again.

use std::fmt;
use std::mem;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use towpath_loop::Instant;

use super::mutex::RawMutex;
use super::{LockTimeoutError, MutexGuard};
use crate::context;
use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::{Arm, Crowd, Entered, Limit, Until, Waiter, Waiting, block};
use crate::why::{Reason, Why};
use crate::worker::Worker;

/// A condition variable, as `std::sync::Condvar`, for [`Mutex`](super::Mutex): lets a task, thread or future wait for a
/// change of what the lock protects, while others have the lock.
///
/// One who waits may be woken without having been notified, and something may happen between its wake-up and its having the
/// lock. So look at the condition again, or use [`wait_while`](Condvar::wait_while). Notifications are not kept: if nobody
/// waits, nothing happens.
///
/// One condition variable may be used with several locks, also at the same time: `std`'s may panic then, this does not.
///
/// # Cancellation
/// Where the signatures are `std`'s, waiting is not cancellable: a task that is cancelled waits on until it is notified, as if it
/// was [shielded](crate::shield), and a runtime that ends waits for it until its limit. Whoever cancels it should also notify it,
/// or it should wait by [`wait_cancellable`](Condvar::wait_cancellable). [`wait_timeout`](Condvar::wait_timeout) ends when
/// its time is over, and [`wait_async`](Condvar::wait_async) when its future is dropped. No notification is lost by that: one
/// that came at the same moment counts, or goes to the next who waits.
///
/// # Fairness
/// [`notify_one`](Condvar::notify_one) wakes the one who has waited for the longest time. How they get the lock is the lock's
/// affair.
///
/// ```
/// use towpath::sync::{Arc, Condvar, Mutex};
/// use towpath::thread;
///
/// let shared = Arc::new((Mutex::new(false), Condvar::new()));
/// let setter = thread::spawn({
///     let shared = shared.clone();
///     move || {
///         *shared.0.lock().unwrap() = true;
///         shared.1.notify_one();
///     }
/// });
/// let ready = shared.1.wait_while(shared.0.lock().unwrap(), |ready| !*ready).unwrap();
/// assert!(*ready);
/// # drop(ready);
/// setter.join().unwrap();
/// ```
pub struct Condvar {
    /// How many wait, or have just been woken. Whoever has changed something under the lock sees those who waited for it.
    waiting: AtomicUsize,
    crowd: Crowd,
}

/// Whether a wait ended because its time was over, as `std::sync::WaitTimeoutResult`.
#[derive(Debug, PartialEq, Eq, Copy, Clone)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was over before it was notified. The condition may be true all the same.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    const_fn! {
        /// Nobody waits for it.
        #[must_use]
        #[inline]
        pub const fn new() -> Condvar {
            Condvar {
                waiting: AtomicUsize::new(0),
                crowd: Crowd::new(const { &Reason::object("condvar") }),
            }
        }
    }

    /// Unlocks, waits to be notified, and locks again.
    ///
    /// # Errors
    /// With the guard, if the lock is poisoned.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(guard, Instant::NEVER).0
    }

    /// Unlocks, waits and locks again, until `condition` is false.
    ///
    /// # Errors
    /// With the guard, if the lock is poisoned.
    pub fn wait_while<'a, T: ?Sized, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: F,
    ) -> LockResult<MutexGuard<'a, T>>
    where
        F: FnMut(&mut T) -> bool,
    {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Condvar::wait), but waits at most for `dur` to be notified; locking again may take longer.
    ///
    /// # Errors
    /// With the guard, if the lock is poisoned.
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        dur: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        match self.wait_until(guard, Instant::now() + dur) {
            (Ok(guard), result) => Ok((guard, result)),
            (Err(error), result) => Err(PoisonError::new((error.into_inner(), result))),
        }
    }

    /// As [`wait_while`](Condvar::wait_while), but ends when it has waited for `dur`: whether that was so tells the result.
    ///
    /// # Errors
    /// With the guard, if the lock is poisoned.
    pub fn wait_timeout_while<'a, T: ?Sized, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        dur: Duration,
        mut condition: F,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>
    where
        F: FnMut(&mut T) -> bool,
    {
        let until = Instant::now() + dur;
        loop {
            if !condition(&mut guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            guard = self.wait_timeout(guard, left)?.0;
        }
    }

    /// As [`wait`](Condvar::wait), but gives up if the task is cancelled, or past a deadline around this
    /// ([`time::timeout`](crate::time::timeout)). Then it has not got the lock.
    ///
    /// ```
    /// use towpath::sync::{Condvar, Mutex};
    /// use towpath::thread;
    ///
    /// static JOBS: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    /// static MORE: Condvar = Condvar::new();
    ///
    /// let worker = thread::spawn(|| -> std::io::Result<()> {
    ///     loop {
    ///         let mut jobs = MORE.wait_while_cancellable(JOBS.lock().unwrap(), |jobs| jobs.is_empty())?;
    ///         println!("{:?}", jobs.pop());
    ///     }
    /// });
    /// worker.cancel();
    /// if let Ok(ended) = worker.join() {
    ///     assert!(towpath::is_canceled(&ended.unwrap_err()));
    /// } // or else it was cancelled before it started
    /// ```
    ///
    /// # Errors
    /// If the task is cancelled, without the lock; with the guard, if the lock is poisoned.
    pub fn wait_cancellable<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
    ) -> Result<MutexGuard<'a, T>, LockTimeoutError<MutexGuard<'a, T>>> {
        let released = guard.release();
        // Whoever gives up has unlocked.
        let locked = block(&mut self.awaiting(released.raw()), Limit::NONE).map(|notification| {
            released.raw().lock();
            notification.heed();
            released.locked()
        });
        LockTimeoutError::result(locked)
    }

    /// As [`wait_while`](Condvar::wait_while), but gives up as [`wait_cancellable`](Condvar::wait_cancellable) does.
    ///
    /// # Errors
    /// As [`wait_cancellable`](Condvar::wait_cancellable).
    pub fn wait_while_cancellable<'a, T: ?Sized, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: F,
    ) -> Result<MutexGuard<'a, T>, LockTimeoutError<MutexGuard<'a, T>>>
    where
        F: FnMut(&mut T) -> bool,
    {
        while condition(&mut guard) {
            guard = self.wait_cancellable(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Condvar::wait), as a future. Like the guard, it is not `Send`.
    ///
    /// Cancel-safe: dropped, it leaves the lock unlocked, and passes on a notification that it was given.
    ///
    /// # Errors
    /// With the guard, if the lock is poisoned.
    pub async fn wait_async<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let released = guard.release();
        let notification = Waiting::new(self.awaiting(released.raw())).await;
        Waiting::new(released.raw().locking()).await;
        notification.heed();
        released.locked()
    }

    /// Wakes the one who has waited for the longest time, if somebody waits. The caller need not have the lock.
    pub fn notify_one(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.crowd.wake_one(|| ());
        }
    }

    /// Wakes all who wait now. The caller need not have the lock.
    pub fn notify_all(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.crowd.wake_all(|| ());
        }
    }

    fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        until: Instant,
    ) -> (LockResult<MutexGuard<'a, T>>, WaitTimeoutResult) {
        let released = guard.release();
        let notified = block(&mut self.awaiting(released.raw()), Limit { until, cancellable: false });
        if notified.is_err() {
            // One who comes back with no time to wait must not keep the others from running.
            context::with_worker(Worker::charge);
        }
        released.raw().lock();
        let result = WaitTimeoutResult(notified.map(Notification::heed).is_err());
        (released.locked(), result)
    }

    /// Unlocks `locked` when it waits.
    fn awaiting<'a>(&'a self, locked: &'a RawMutex) -> Awaiting<'a> {
        Awaiting { condvar: self, locked: Some(locked), queued: false, until: self.crowd.until(|| false) }
    }
}

/// Waits to be notified.
struct Awaiting<'a> {
    condvar: &'a Condvar,
    /// The lock, while this has it.
    locked: Option<&'a RawMutex>,
    /// It is counted as one who waits.
    queued: bool,
    until: Until<'a, fn() -> bool>,
}

impl<'a> Awaiting<'a> {
    fn unlock(&mut self) {
        if let Some(mutex) = self.locked.take() {
            // SAFETY: it was locked when this was made, by a guard that was taken apart.
            unsafe { mutex.unlock() }
        }
    }

    /// It is in the queue no more. What it was given.
    fn end(&mut self) -> Notification<'a> {
        let mut chosen = false;
        if mem::take(&mut self.queued) {
            self.condvar.waiting.fetch_sub(1, Ordering::Relaxed);
            chosen = self.until.was_chosen();
        }
        Notification { condvar: self.condvar, chosen }
    }
}

// SAFETY: `Until`'s, and nothing beside it is queued.
unsafe impl<'a> Arm for Awaiting<'a> {
    type Output = Notification<'a>;

    #[inline(always)]
    fn why(&self) -> Why {
        self.until.why()
    }

    fn attempt(&mut self) -> Option<Notification<'a>> {
        None
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<Notification<'a>> {
        self.condvar.waiting.fetch_add(1, Ordering::Relaxed);
        self.queued = true;
        // SAFETY: passed on to the caller.
        let entered = unsafe { self.until.enter(waiter, index, alone) };
        debug_assert!(matches!(entered, Entered::Queued), "it never is notified before");
        self.unlock();
        Entered::Queued
    }

    fn leave(&mut self) {
        self.until.leave();
        drop(self.end());
    }

    fn finish(&mut self) -> Option<Notification<'a>> {
        Some(self.end())
    }
}

impl Drop for Awaiting<'_> {
    /// If it never came to wait.
    fn drop(&mut self) {
        self.unlock();
    }
}

/// What one who was woken has been given. Dropped, it goes to the next, if it was for one.
struct Notification<'a> {
    condvar: &'a Condvar,
    chosen: bool,
}

impl Notification<'_> {
    fn heed(self) {
        mem::forget(self);
    }
}

impl Drop for Notification<'_> {
    fn drop(&mut self) {
        if self.chosen {
            self.condvar.notify_one();
        }
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, poll_once};
    use crate::sync::Mutex;

    /// How many may pass, each once.
    type Gate = Arc<(Mutex<usize>, Condvar)>;

    fn pass((lock, condvar): &(Mutex<usize>, Condvar)) {
        block_on(async {
            let mut left = lock.lock_async().await.unwrap();
            while *left == 0 {
                left = condvar.wait_async(left).await.unwrap();
            }
            *left -= 1;
        });
    }

    fn passer(gate: &Gate) -> thread::JoinHandle<()> {
        let gate = gate.clone();
        thread::spawn(move || pass(&gate))
    }

    fn open((lock, _): &(Mutex<usize>, Condvar), count: usize) {
        *block_on(lock.lock_async()).unwrap() += count;
    }

    #[test]
    fn loom_no_notification_is_missed() {
        check(2, || {
            let gate = Gate::default();
            let passers = [(); 2].map(|()| passer(&gate));
            open(&gate, 1);
            gate.1.notify_one();
            open(&gate, 1);
            gate.1.notify_one();
            passers.into_iter().for_each(|passer| passer.join().unwrap());
        });
    }

    #[test]
    fn loom_all_are_notified() {
        check(2, || {
            let gate = Gate::default();
            let passers = [(); 2].map(|()| passer(&gate));
            open(&gate, 2);
            gate.1.notify_all();
            passers.into_iter().for_each(|passer| passer.join().unwrap());
        });
    }

    /// One who gives up at any moment does not keep the only notification: it waits for it, or for the lock after it.
    #[test]
    fn loom_one_who_gives_up_passes_it_on() {
        check(2, || {
            let gate = Gate::default();
            let quitter = thread::spawn({
                let gate = gate.clone();
                move || {
                    let left = block_on(gate.0.lock_async()).unwrap();
                    if *left == 0 {
                        let mut waiting = Box::pin(gate.1.wait_async(left));
                        for _ in 0..2 {
                            if poll_once(waiting.as_mut()).is_ready() {
                                return gate.1.notify_one();
                            }
                        }
                    }
                }
            });
            let passer = passer(&gate);
            open(&gate, 1);
            gate.1.notify_one();
            quitter.join().unwrap();
            passer.join().unwrap();
        });
    }
}
