//! Channels with one receiver, with the names, signatures and documented behaviour of `std::sync::mpsc`.
//!
//! They are those of [`mpmc`], whose page tells of waiting, cancellation and memory, with a receiver that cannot
//! be cloned.
//!
//! ```
//! use towpath::sync::mpsc;
//! use towpath::thread;
//!
//! let (sender, receiver) = mpsc::channel();
//! for n in 0..3 {
//!     let sender = sender.clone();
//!     thread::spawn(move || sender.send(n).unwrap());
//! }
//! drop(sender);
//! let mut all: Vec<i32> = receiver.iter().collect();
//! all.sort();
//! assert_eq!(all, [0, 1, 2]);
//! ```

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::RefUnwindSafe;
use std::time::Duration;

use super::mpmc;
pub use super::mpmc::{RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError};

/// A channel that holds as many messages as there is memory for: sending never waits.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpmc::channel();
    (Sender(sender), Receiver { inner: receiver, _not_sync: PhantomData })
}

/// A channel that holds at most `bound` messages. With 0 it holds none: whoever sends waits for somebody who receives.
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let (sender, receiver) = mpmc::sync_channel(bound);
    (SyncSender(sender), Receiver { inner: receiver, _not_sync: PhantomData })
}

/// The end of a [`channel`] that sends.
pub struct Sender<T>(mpmc::Sender<T>);

/// The end of a [`sync_channel`] that sends.
pub struct SyncSender<T>(mpmc::Sender<T>);

/// The end that receives.
pub struct Receiver<T> {
    inner: mpmc::Receiver<T>,
    /// As `std`'s.
    _not_sync: PhantomData<Cell<()>>,
}

impl<T> RefUnwindSafe for Receiver<T> {}

impl<T> Sender<T> {
    /// Sends a message, without waiting; also in a task that is cancelled.
    ///
    /// # Errors
    /// With the message, if the receiver is gone.
    #[inline]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message)
    }

    pub(crate) fn inner(&self) -> &mpmc::Sender<T> {
        &self.0
    }
}

impl<T> SyncSender<T> {
    /// Sends a message, waiting until there is room for it. Cancel-safe: what was not sent is given back.
    ///
    /// # Errors
    /// With the message, if the receiver is gone, or the task is cancelled.
    #[inline]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message)
    }

    /// Sends a message if there is room for it, or a receiver that waits for it.
    ///
    /// # Errors
    /// With the message: `Full`, or `Disconnected` if the receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(message)
    }

    /// Sends a message, waiting at most for `limit` until there is room for it.
    ///
    /// # Errors
    /// With the message: `Timeout`, or as [`send`](SyncSender::send).
    pub fn send_timeout(&self, message: T, limit: Duration) -> Result<(), SendTimeoutError<T>> {
        self.0.send_timeout(message, limit)
    }

    /// Sends a message, as a future. Dropped before it is ready, it drops the message, unsent.
    ///
    /// # Errors
    /// With the message, if the receiver is gone.
    pub fn send_async(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> {
        self.0.send_async(message)
    }

    pub(crate) fn inner(&self) -> &mpmc::Sender<T> {
        &self.0
    }
}

impl<T> Receiver<T> {
    /// Receives a message, waiting until there is one. Cancel-safe: a message is received, or stays.
    ///
    /// # Errors
    /// If there is no message and no sender left, or the task is cancelled.
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        self.inner.recv()
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    /// `Empty`, or `Disconnected` if there is no sender left either.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.inner.try_recv()
    }

    /// Receives a message, waiting at most for `limit` until there is one.
    ///
    /// # Errors
    /// `Timeout`; `Disconnected` where [`recv`](Receiver::recv) fails.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        self.inner.recv_timeout(limit)
    }

    /// Receives a message, as a future. Dropped, it takes none.
    ///
    /// # Errors
    /// If there is no message and no sender left.
    pub fn recv_async(&self) -> impl Future<Output = Result<T, RecvError>> {
        self.inner.recv_async()
    }

    /// The messages, as they come, until there is no sender left, or the task is cancelled.
    pub fn iter(&self) -> Iter<'_, T> {
        self.inner.iter()
    }

    /// The messages that are there.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        self.inner.try_iter()
    }

    pub(crate) fn inner(&self) -> &mpmc::Receiver<T> {
        &self.inner
    }
}

pub use super::mpmc::{IntoIter, Iter, TryIter};

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;
    fn into_iter(self) -> IntoIter<T> {
        self.inner.into_iter()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(self.0.clone())
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> SyncSender<T> {
        SyncSender(self.0.clone())
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for SyncSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
