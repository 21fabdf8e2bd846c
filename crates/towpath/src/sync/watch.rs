//! A value that some set and others watch: they see the latest, and can wait for the next.
//!
//! ```
//! use towpath::sync::watch;
//! use towpath::thread;
//!
//! # fn main() -> Result<(), watch::RecvError> {
//! let (level, mut watcher) = watch::channel(1);
//! assert_eq!(*watcher.borrow(), 1);
//! thread::spawn(move || level.send(2));
//! watcher.changed()?;
//! assert_eq!(*watcher.borrow_and_update(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Between tasks, plain threads and futures. A watcher that is slow misses what was between, never the last. A task that is
//! cancelled, or past a deadline around the call, gets the error for a sender that is gone, as with
//! [`mpmc`](super::mpmc#cancellation); it has missed nothing then.
//!
//! The value is in an [`RwLock`]: who sets it waits for those who look at it, and the other way round.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError};

use super::{RwLock, RwLockReadGuard};
use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::wait::{Arm, Crowd, GaveUp, Limit, Waiting, block};
use crate::why::Reason;

/// A value to be watched, which is seen by the receiver already.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(value),
        version: AtomicUsize::new(0),
        senders: AtomicUsize::new(1),
        receivers: AtomicUsize::new(1),
        watchers: Crowd::new(const { &Reason::object("a change") }),
        closers: Crowd::new(const { &Reason::object("the last watcher to go") }),
    });
    (Sender(shared.clone()), Receiver { shared, seen: 0 })
}

struct Shared<T> {
    value: RwLock<T>,
    /// How often it was set. Written with the value locked.
    version: AtomicUsize,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    /// Receivers that wait for a change.
    watchers: Crowd,
    /// Senders that wait until there is no receiver.
    closers: Crowd,
}

impl<T> Shared<T> {
    fn borrow(&self) -> Ref<'_, T> {
        // One who panicked while changing it has not set it: what there is counts.
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn version(&self) -> usize {
        self.version.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.senders.load(Ordering::Acquire) == 0
    }

    /// Waits until it is set once more than `seen`, or the end.
    fn changing(&self, seen: usize) -> impl Arm<Output = ()> {
        self.watchers.until_found(move || self.version() != seen || self.is_over())
    }

    /// The wait is over.
    fn update(&self, seen: &mut usize) -> Result<(), RecvError> {
        let version = self.version();
        if version == std::mem::replace(seen, version) { Err(RecvError) } else { Ok(()) }
    }

    fn changed(&self, seen: &mut usize) -> Result<(), RecvError> {
        block(&mut self.changing(*seen), Limit::NONE).map_err(|_| RecvError)?;
        self.update(seen)
    }
}

/// The value, which nobody sets while this is there.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// An end that sets. Cloned, it is the same end.
pub struct Sender<T>(Arc<Shared<T>>);

/// An end that watches. Cloned, it has seen what the other has.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: usize,
}

impl<T> Sender<T> {
    /// Sets the value, for all who watch. Also in a task that is cancelled.
    ///
    /// # Errors
    /// With the value, which is not set, if nobody watches: see [`send_replace`](Sender::send_replace).
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.is_closed() {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    /// Sets the value, also if nobody watches. What it was before.
    pub fn send_replace(&self, value: T) -> T {
        let mut value = value;
        self.send_modify(|place| std::mem::swap(place, &mut value));
        value
    }

    /// Changes the value, also if nobody watches.
    ///
    /// # Panics
    /// As `change` does; nobody is told of what it did by then.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value, and says so to all who watch if `change` does. True if it does.
    ///
    /// # Panics
    /// As [`send_modify`](Sender::send_modify).
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut value) {
            return false;
        }
        self.0.version.store(self.0.version().wrapping_add(1), Ordering::Release);
        drop(value);
        self.0.watchers.wake_all(|| ());
        true
    }

    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    /// One more that watches, and has seen what there is.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver { shared: self.0.clone(), seen: self.0.version() }
    }

    /// How many watch.
    pub fn receiver_count(&self) -> usize {
        self.0.receivers.load(Ordering::Acquire)
    }

    /// Whether nobody watches.
    pub fn is_closed(&self) -> bool {
        self.receiver_count() == 0
    }

    /// Waits until nobody watches.
    ///
    /// # Errors
    /// If the task is cancelled.
    pub fn closed(&self) -> io::Result<()> {
        Ok(block(&mut self.closing(), Limit::NONE)?)
    }

    /// Waits until nobody watches, as a future.
    pub fn closed_async(&self) -> impl Future<Output = ()> {
        Waiting::new(self.closing())
    }

    fn closing(&self) -> impl Arm<Output = ()> {
        self.0.closers.until(|| self.is_closed())
    }
}

impl<T> Receiver<T> {
    /// The value, which it has seen by this no more than before.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.borrow()
    }

    /// The value, which it has seen now.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.borrow();
        // Not written while the value is locked.
        self.seen = self.shared.version();
        value
    }

    /// Whether the value was set since it was last seen.
    ///
    /// # Errors
    /// If there is no sender left.
    pub fn has_changed(&self) -> Result<bool, RecvError> {
        // In this order: the last change comes before the end.
        let over = self.shared.is_over();
        let changed = self.shared.version() != self.seen;
        if over && !changed { Err(RecvError) } else { Ok(changed) }
    }

    /// Waits until the value is set once more than seen; it has been seen then. Cancel-safe.
    ///
    /// # Errors
    /// If it has been seen and there is no sender left, or the task is cancelled.
    pub fn changed(&mut self) -> Result<(), RecvError> {
        self.shared.changed(&mut self.seen)
    }

    /// [`changed`](Receiver::changed), waiting at most for `limit`.
    ///
    /// # Errors
    /// `Timeout`; `Disconnected` where `changed` fails.
    pub fn changed_timeout(&mut self, limit: Duration) -> Result<(), RecvTimeoutError> {
        match block(&mut self.shared.changing(self.seen), Limit::after(limit)) {
            Ok(()) => Ok(self.shared.update(&mut self.seen)?),
            Err(GaveUp::TimedOut) => Err(RecvTimeoutError::Timeout),
            Err(GaveUp::Canceled) => Err(RecvTimeoutError::Disconnected),
        }
    }

    /// [`changed`](Receiver::changed), as a future.
    ///
    /// # Errors
    /// If it has been seen and there is no sender left.
    pub async fn changed_async(&mut self) -> Result<(), RecvError> {
        Waiting::new(self.shared.changing(self.seen)).await;
        self.shared.update(&mut self.seen)
    }

    /// Waits until the value is as wanted; it has been seen then. Cancel-safe.
    ///
    /// # Errors
    /// If it is not and there is no sender left, or the task is cancelled.
    pub fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, RecvError> {
        let Receiver { shared, seen } = self;
        loop {
            let value = shared.borrow();
            *seen = shared.version();
            if wanted(&value) {
                return Ok(value);
            }
            drop(value);
            shared.changed(seen)?;
        }
    }

    /// Takes what there is for unseen: [`changed`](Receiver::changed) returns at once.
    pub fn mark_changed(&mut self) {
        self.seen = self.shared.version().wrapping_sub(1);
    }

    /// The wait, and what is to be done after it.
    pub(crate) fn changing(
        &mut self,
    ) -> (impl Arm<Output = ()>, impl FnMut(()) -> Result<(), RecvError> + use<'_, T>) {
        let Receiver { shared, seen } = self;
        (shared.changing(*seen), |()| shared.update(seen))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.watchers.wake_all(|| ());
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.shared.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.closers.wake_all(|| ());
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::check;

    /// However many changes are seen, the last is. (Nobody looks at the value meanwhile: its lock has models of its own.)
    #[test]
    fn loom_the_last_change_is_seen() {
        check(2, || {
            let (sender, mut receiver) = channel(0);
            let sets = thread::spawn(move || {
                sender.send(1).unwrap();
                sender.send(2).unwrap();
            });
            let mut seen = 0;
            while block_on(receiver.changed_async()).is_ok() {
                seen = receiver.seen;
            }
            assert_eq!(seen, 2);
            sets.join().unwrap();
            assert_eq!(*receiver.borrow(), 2);
        });
    }
}
