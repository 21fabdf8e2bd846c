//! A channel for one message, sent once: an answer.
//!
//! ```
//! use towpath::sync::oneshot;
//! use towpath::thread;
//!
//! let (answer, question) = oneshot::channel();
//! thread::spawn(move || answer.send(42));
//! assert_eq!(question.recv(), Ok(42));
//! ```
//!
//! Between tasks, plain threads and futures. Sending never waits. A task that is cancelled, or past a deadline around the
//! call, gets what it would get if the sender were gone, as with [`mpmc`](super::mpmc#cancellation); the message stays.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError};

use crate::std_or_loom::atomic::{AtomicBool, Ordering};
use crate::std_or_loom::{Lock, lock};
use crate::wait::{Arm, Crowd, GaveUp, Limit, Waiting, block};
use crate::why::Reason;

/// A channel for one message.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        over: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        message: Lock::new(None),
        crowd: Crowd::new(const { &Reason::object("the other end of a oneshot") }),
    });
    (Sender(shared.clone()), Receiver(shared))
}

struct Shared<T> {
    /// The message was sent, or the sender is gone without.
    over: AtomicBool,
    /// The receiver is gone.
    closed: AtomicBool,
    message: Lock<Option<T>>,
    /// The one end that waits for the other.
    crowd: Crowd,
}

/// The end that sends.
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that receives.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Sends the message, without waiting; also in a task that is cancelled.
    ///
    /// # Errors
    /// With the message, if the receiver is gone.
    pub fn send(self, message: T) -> Result<(), SendError<T>> {
        let shared = &*self.0;
        let mut message = Some(message);
        shared.crowd.wake_all_if(|| {
            let open = !shared.closed.load(Ordering::Relaxed);
            if open {
                *lock(&shared.message) = message.take();
                shared.over.store(true, Ordering::Release);
            }
            open
        });
        message.map_or(Ok(()), |message| Err(SendError(message)))
    }

    /// Whether the receiver is gone: nobody wants the message.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Waits until the receiver is gone, so that work for an answer that nobody wants can stop.
    ///
    /// # Errors
    /// If the task is cancelled.
    pub fn closed(&self) -> io::Result<()> {
        Ok(block(&mut self.closing(), Limit::NONE)?)
    }

    /// Waits until the receiver is gone, as a future.
    pub fn closed_async(&self) -> impl Future<Output = ()> {
        Waiting::new(self.closing())
    }

    pub(crate) fn closing(&self) -> impl Arm<Output = ()> {
        self.0.crowd.until(|| self.is_closed())
    }
}

impl<T> Receiver<T> {
    /// Receives the message, waiting until it is sent. Cancel-safe: the message is received, or stays.
    ///
    /// # Errors
    /// If the sender is gone without, the message has been received before, or the task is cancelled.
    pub fn recv(&self) -> Result<T, RecvError> {
        block(&mut self.receiving(), Limit::NONE).map_err(|_| RecvError)?;
        self.take()
    }

    /// Receives the message if it has been sent.
    ///
    /// # Errors
    /// `Empty`; `Disconnected` if the sender is gone without, or the message has been received before.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        if !self.is_over() {
            return Err(TryRecvError::Empty);
        }
        self.take().map_err(|RecvError| TryRecvError::Disconnected)
    }

    /// Receives the message, waiting at most for `limit` until it is sent. Cancel-safe, as [`recv`](Receiver::recv).
    ///
    /// # Errors
    /// `Timeout`; `Disconnected` where `recv` fails.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        match block(&mut self.receiving(), Limit::after(limit)) {
            Ok(()) => Ok(self.take()?),
            Err(GaveUp::TimedOut) => Err(RecvTimeoutError::Timeout),
            Err(GaveUp::Canceled) => Err(RecvTimeoutError::Disconnected),
        }
    }

    /// Receives the message, as a future. Cancel-safe: dropped, it leaves the message.
    ///
    /// # Errors
    /// If the sender is gone without, or the message has been received before.
    pub async fn recv_async(&self) -> Result<T, RecvError> {
        Waiting::new(self.receiving()).await;
        self.take()
    }

    pub(crate) fn receiving(&self) -> impl Arm<Output = ()> {
        self.0.crowd.until(|| self.is_over())
    }

    fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// The message, after the wait for it.
    pub(crate) fn take(&self) -> Result<T, RecvError> {
        lock(&self.0.message).take().ok_or(RecvError)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if !self.0.over.load(Ordering::Relaxed) {
            self.0.crowd.wake_all(|| self.0.over.store(true, Ordering::Release));
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.crowd.wake_all(|| self.0.closed.store(true, Ordering::Release));
        // Dropped without the lock.
        let message = lock(&self.0.message).take();
        drop(message);
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
    use crate::std_or_loom::model::{check, poll_once};

    /// Sent or given back, received or left: the message is in one place.
    #[test]
    fn loom_one_end_sends_as_the_other_goes() {
        check(None, || {
            let (sender, receiver) = channel();
            let sends = thread::spawn(move || sender.send(Arc::new(7)));
            let received = poll_once(std::pin::pin!(receiver.recv_async()));
            drop(receiver);
            let message = match (received, sends.join().unwrap()) {
                (std::task::Poll::Ready(Ok(message)), Ok(())) => Some(message),
                (std::task::Poll::Pending, Err(SendError(message))) => Some(message),
                (std::task::Poll::Pending, Ok(())) => None,
                other => panic!("{other:?}"),
            };
            assert!(message.is_none_or(|message| Arc::strong_count(&message) == 1));
        });
    }

    #[test]
    fn loom_the_receiver_is_woken_by_a_message_and_by_none() {
        for sent in [true, false] {
            check(None, move || {
                let (sender, receiver) = channel();
                let other = thread::spawn(move || if sent { sender.send(7) } else { Ok(()) });
                let received = block_on(receiver.recv_async());
                assert_eq!(received, if sent { Ok(7) } else { Err(RecvError) });
                other.join().unwrap().unwrap();
            });
        }
    }
}
