//! Channels that many send to and many receive from, as `std::sync::mpmc` is going to be: each message goes to one receiver.
//!
//! [`channel`] holds any number of messages; [`sync_channel`] at most so many, and whoever sends waits for room, with a bound
//! of 0 for a receiver. Both ends can be cloned, shared, and used by tasks, plain threads and futures at once. Messages of one
//! sender arrive in the order in which it sent them; those who wait, on either side, are served in the order in which they
//! came.
//!
//! # Cancellation
//! A task that is cancelled, or past a deadline around the call, waits no more: it gets what it would get from a channel whose
//! other end is gone, also if it need not have waited, so that a loop over messages ends. [`is_canceled`] tells the two apart.
//! Nothing is lost by it: a message is received or stays, and what was not sent is given back.
//!
//! # Memory
//! A message is moved into the channel's buffer, or straight to a receiver that waits for it. Waiting allocates nothing; a
//! buffer grows up to its bound, and does not shrink.
//!
//! ```
//! use towpath::sync::mpmc;
//! use towpath::thread;
//!
//! let (jobs, queue) = mpmc::sync_channel(4);
//! let workers: Vec<_> = (0..3)
//!     .map(|_| {
//!         let queue = queue.clone();
//!         thread::spawn(move || queue.iter().sum::<u64>())
//!     })
//!     .collect();
//! for n in 1..=100 {
//!     jobs.send(n).unwrap();
//! }
//! drop(jobs);
//! assert_eq!(workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u64>(), 5050);
//! ```
//!
//! [`is_canceled`]: crate::thread::is_canceled

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::context;
use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::wait::{GaveUp, Limit, Waiting, block};
use crate::worker::Worker;

mod core;
mod iter;

pub(crate) use self::core::{Channel, Receiving, Sending};
pub use self::iter::{IntoIter, Iter, TryIter};
pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

/// A channel that holds as many messages as there is memory for: sending never waits.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    new(None)
}

/// A channel that holds at most `bound` messages. With 0 it holds none: whoever sends waits for somebody who receives.
pub fn sync_channel<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    new(Some(bound))
}

fn new<T>(bound: Option<usize>) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        channel: Channel::new(bound),
        senders: AtomicUsize::new(1),
        receivers: AtomicUsize::new(1),
    });
    (Sender(shared.clone()), Receiver(shared))
}

/// A channel, and how many are at its ends.
struct Shared<T> {
    channel: Channel<T>,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

/// The end that sends. Cloned, it is the same end.
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that receives. Cloned, it is the same end: a message goes to one of them.
pub struct Receiver<T>(Arc<Shared<T>>);

/// Why a message was not sent in time. It is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendTimeoutError<T> {
    /// There was no room for it.
    Timeout(T),
    /// There is nobody to receive it, or the task is cancelled.
    Disconnected(T),
}

impl<T> Sender<T> {
    /// Sends a message, waiting until there is room for it. Where there is no bound it does not wait, and is not cancelled.
    ///
    /// Cancel-safe: what was not sent is given back.
    ///
    /// # Errors
    /// With the message, if there is no receiver left, or the task is cancelled.
    #[inline]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        if self.capacity().is_none() {
            return self.send_unbounded(message);
        }
        let mut sending = self.sending(message);
        match block(&mut sending, Limit::NONE) {
            Ok(result) => result,
            Err(_) => Err(SendError(sending.into_message())),
        }
    }

    fn send_unbounded(&self, message: T) -> Result<(), SendError<T>> {
        // One who sends and sends must not keep the others from running.
        context::with_worker(Worker::charge);
        match self.try_send(message) {
            Err(TrySendError::Disconnected(message)) => Err(SendError(message)),
            Err(TrySendError::Full(_)) => unreachable!("it has no bound"),
            Ok(()) => Ok(()),
        }
    }

    /// Sends a message if there is room for it, or somebody who waits for it.
    ///
    /// # Errors
    /// With the message: `Full`, or `Disconnected` if there is no receiver left.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.channel.try_send(message)
    }

    /// Sends a message, waiting at most for `limit` until there is room for it. Cancel-safe, as [`send`](Sender::send).
    ///
    /// # Errors
    /// With the message: `Timeout`, or as `send`.
    pub fn send_timeout(&self, message: T, limit: Duration) -> Result<(), SendTimeoutError<T>> {
        let mut sending = self.sending(message);
        match block(&mut sending, Limit::after(limit)) {
            Ok(result) => result.map_err(|SendError(message)| SendTimeoutError::Disconnected(message)),
            Err(GaveUp::TimedOut) => Err(SendTimeoutError::Timeout(sending.into_message())),
            Err(GaveUp::Canceled) => Err(SendTimeoutError::Disconnected(sending.into_message())),
        }
    }

    /// Sends a message, as a future. Dropped before it is ready, it drops the message, unsent.
    ///
    /// # Errors
    /// With the message, if there is no receiver left.
    pub fn send_async(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> {
        Waiting::new(self.sending(message))
    }

    pub(crate) fn sending(&self, message: T) -> Sending<'_, T> {
        self.0.channel.sending(message)
    }

    /// How many messages are in its buffer.
    pub fn len(&self) -> usize {
        self.0.channel.len()
    }

    /// Whether there are none in its buffer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a message would have to wait.
    pub fn is_full(&self) -> bool {
        self.0.channel.bound().is_some_and(|bound| self.len() >= bound)
    }

    /// How many it holds; `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.0.channel.bound()
    }

    /// Whether both are ends of one channel.
    pub fn same_channel(&self, other: &Sender<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Receiver<T> {
    /// Receives a message, waiting until there is one.
    ///
    /// Cancel-safe: a message is received, or stays.
    ///
    /// # Errors
    /// If there is no message and no sender left, or the task is cancelled.
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        block(&mut self.receiving(), Limit::NONE).unwrap_or(Err(RecvError))
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    /// `Empty`, or `Disconnected` if there is no sender left either.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.channel.try_recv()
    }

    /// Receives a message, waiting at most for `limit` until there is one. Cancel-safe, as [`recv`](Receiver::recv).
    ///
    /// # Errors
    /// `Timeout`; `Disconnected` where `recv` fails.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        match block(&mut self.receiving(), Limit::after(limit)) {
            Ok(result) => result.map_err(RecvTimeoutError::from),
            Err(GaveUp::TimedOut) => Err(RecvTimeoutError::Timeout),
            Err(GaveUp::Canceled) => Err(RecvTimeoutError::Disconnected),
        }
    }

    /// Receives a message, as a future. Dropped, it takes none: one that was on its way goes to the next receiver.
    ///
    /// # Errors
    /// If there is no message and no sender left.
    pub fn recv_async(&self) -> impl Future<Output = Result<T, RecvError>> {
        Waiting::new(self.receiving())
    }

    #[inline]
    pub(crate) fn receiving(&self) -> Receiving<'_, T> {
        self.0.channel.receiving()
    }

    /// The messages, as they come, until there is no sender left, or the task is cancelled.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self }
    }

    /// The messages that are there.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { receiver: self }
    }

    /// How many messages are in its buffer.
    pub fn len(&self) -> usize {
        self.0.channel.len()
    }

    /// Whether there are none in its buffer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many it holds; `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.0.channel.bound()
    }

    /// Whether both are ends of one channel.
    pub fn same_channel(&self, other: &Receiver<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One more of them.
fn count(ends: &AtomicUsize) {
    // As `Arc`: a count that comes round would close a channel that is in use.
    if ends.fetch_add(1, Ordering::Relaxed) > isize::MAX as usize {
        std::process::abort();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        count(&self.0.senders);
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        count(&self.0.receivers);
        Receiver(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.channel.no_more_senders();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.0.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.channel.no_more_receivers();
        }
    }
}

impl<T> UnwindSafe for Sender<T> {}
impl<T> RefUnwindSafe for Sender<T> {}
impl<T> UnwindSafe for Receiver<T> {}
impl<T> RefUnwindSafe for Receiver<T> {}

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

impl<T> fmt::Debug for SendTimeoutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendTimeoutError::Timeout(_) => "Timeout(..)",
            SendTimeoutError::Disconnected(_) => "Disconnected(..)",
        })
    }
}

impl<T> fmt::Display for SendTimeoutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendTimeoutError::Timeout(_) => "timed out waiting on channel",
            SendTimeoutError::Disconnected(_) => "sending on a closed channel",
        })
    }
}

impl<T> std::error::Error for SendTimeoutError<T> {}
