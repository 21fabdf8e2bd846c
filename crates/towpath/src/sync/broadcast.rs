//! A channel whose messages go to every receiver.
//!
//! It keeps the latest `capacity` messages. Sending never waits: a receiver that falls further behind misses the oldest, and
//! is told how many those were.
//!
//! ```
//! use towpath::sync::broadcast::{self, RecvError};
//!
//! let (sender, mut first) = broadcast::channel(2);
//! let mut second = sender.subscribe();
//! sender.send("one").unwrap();
//! assert_eq!(first.recv(), Ok("one"));
//! sender.send("two").unwrap();
//! sender.send("three").unwrap();
//! assert_eq!(second.recv(), Err(RecvError::Lagged(1)));
//! assert_eq!(second.recv(), Ok("two"));
//! drop(sender);
//! assert_eq!((first.recv(), first.recv()), (Ok("two"), Ok("three")));
//! assert_eq!(first.recv(), Err(RecvError::Closed));
//! ```
//!
//! Between tasks, plain threads and futures. A task that is cancelled, or past a deadline around the call, gets `Closed`, as
//! with [`mpmc`](super::mpmc#cancellation); it has missed nothing then.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use std::sync::mpsc::SendError;

use crate::std_or_loom::{Lock, lock};
use crate::wait::{Arm, Crowd, GaveUp, Limit, Waiting, block};
use crate::why::Reason;

/// A channel that keeps the latest `capacity` messages.
///
/// # Panics
/// If `capacity` is 0.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a broadcast channel keeps at least one message");
    let state = State { messages: VecDeque::new(), tail: 0, receivers: 1, senders: 1 };
    let shared = Arc::new(Shared {
        capacity,
        state: Lock::new(state),
        crowd: Crowd::new(const { &Reason::object("a broadcast") }),
    });
    (Sender(shared.clone()), Receiver { shared, next: 0 })
}

struct Shared<T> {
    capacity: usize,
    /// Locked within the crowd's lock, or alone.
    state: Lock<State<T>>,
    crowd: Crowd,
}

struct State<T> {
    /// The latest ones; the last is the one before `tail`.
    messages: VecDeque<Slot<T>>,
    /// The number of the next message. All numbers may come round.
    tail: u64,
    receivers: usize,
    senders: usize,
}

struct Slot<T> {
    /// `None` once all have received it.
    message: Option<Arc<T>>,
    /// Receivers that have not received it.
    missing: usize,
}

/// An end that sends. Cloned, it is the same end.
pub struct Sender<T>(Arc<Shared<T>>);

/// An end that receives all messages from when it was made.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    next: u64,
}

/// Why no message was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// There is none, and no sender left; or the task is cancelled.
    Closed,
    /// So many messages were missed. The next call goes on with the oldest that is there.
    Lagged(u64),
}

/// Why no message was received at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryRecvError {
    /// There is none.
    Empty,
    /// There is none, and no sender left.
    Closed,
    /// As [`RecvError::Lagged`].
    Lagged(u64),
}

/// Why no message was received in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvTimeoutError {
    /// There was none.
    Timeout,
    /// As [`RecvError::Closed`].
    Closed,
    /// As [`RecvError::Lagged`].
    Lagged(u64),
}

impl<T> State<T> {
    /// The message with number `next`, which is moved on.
    fn receive(&mut self, next: &mut u64) -> Result<Arc<T>, TryRecvError> {
        let behind = self.tail.wrapping_sub(*next);
        let kept = self.messages.len();
        let there = match usize::try_from(behind) {
            Ok(0) if self.senders == 0 => return Err(TryRecvError::Closed),
            Ok(0) => return Err(TryRecvError::Empty),
            Ok(behind) if behind <= kept => behind,
            _ => {
                let missed = behind - kept as u64;
                *next = next.wrapping_add(missed);
                return Err(TryRecvError::Lagged(missed));
            }
        };
        *next = next.wrapping_add(1);
        Ok(self.take(kept - there))
    }

    /// One receiver has received, or will not receive, a message.
    fn take(&mut self, index: usize) -> Arc<T> {
        let slot = &mut self.messages[index];
        slot.missing -= 1;
        let message = if slot.missing == 0 { slot.message.take() } else { slot.message.clone() };
        while self.messages.front().is_some_and(|oldest| oldest.message.is_none()) {
            self.messages.pop_front();
        }
        message.expect("it is there until all have received it")
    }
}

impl<T> Sender<T> {
    /// Sends a message to all receivers, without waiting; also in a task that is cancelled. How many there are.
    ///
    /// # Errors
    /// With the message, if there is no receiver.
    pub fn send(&self, message: T) -> Result<usize, SendError<T>> {
        let mut message = Some(Arc::new(message));
        let mut receivers = 0;
        // Dropped without the locks.
        let mut oldest = None;
        self.0.crowd.wake_all_if(|| {
            let mut state = lock(&self.0.state);
            receivers = state.receivers;
            if receivers > 0 {
                if state.messages.len() == self.0.capacity {
                    oldest = state.messages.pop_front();
                }
                state.messages.push_back(Slot { message: message.take(), missing: receivers });
                state.tail = state.tail.wrapping_add(1);
            }
            receivers > 0
        });
        drop(oldest);
        match message {
            None => Ok(receivers),
            Some(message) => Err(SendError(Arc::into_inner(message).expect("nobody has received it"))),
        }
    }

    /// One more receiver, of all that is sent from now on.
    pub fn subscribe(&self) -> Receiver<T> {
        subscribe(&self.0)
    }

    /// How many receivers there are.
    pub fn receiver_count(&self) -> usize {
        lock(&self.0.state).receivers
    }

    /// How many messages are kept for receivers that have not received them yet.
    pub fn len(&self) -> usize {
        lock(&self.0.state).messages.len()
    }

    /// Whether all have received all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Shared<T> {
    /// Waits for something to receive with number `next`, or the end.
    fn receiving(&self, next: u64) -> impl Arm<Output = ()> {
        self.crowd.until(move || {
            let state = lock(&self.state);
            state.tail != next || state.senders == 0
        })
    }
}

impl<T: Clone> Shared<T> {
    fn try_receive(&self, next: &mut u64) -> Result<T, TryRecvError> {
        let message = lock(&self.state).receive(next)?;
        Ok(Arc::unwrap_or_clone(message))
    }

    /// What there is after the wait for it.
    fn receive(&self, next: &mut u64) -> Result<T, RecvError> {
        self.try_receive(next).map_err(|error| match error {
            TryRecvError::Lagged(missed) => RecvError::Lagged(missed),
            TryRecvError::Closed => RecvError::Closed,
            TryRecvError::Empty => unreachable!("nobody else receives for it"),
        })
    }
}

fn subscribe<T>(shared: &Arc<Shared<T>>) -> Receiver<T> {
    let mut state = lock(&shared.state);
    state.receivers += 1;
    Receiver { shared: shared.clone(), next: state.tail }
}

impl<T: Clone> Receiver<T> {
    /// Receives the next message, waiting until there is one. Cancel-safe.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv(&mut self) -> Result<T, RecvError> {
        match block(&mut self.shared.receiving(self.next), Limit::NONE) {
            Ok(()) => self.shared.receive(&mut self.next),
            Err(_) => Err(RecvError::Closed),
        }
    }

    /// Receives the next message if there is one.
    ///
    /// # Errors
    /// See [`TryRecvError`].
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.shared.try_receive(&mut self.next)
    }

    /// Receives the next message, waiting at most for `limit` until there is one. Cancel-safe.
    ///
    /// # Errors
    /// See [`RecvTimeoutError`].
    pub fn recv_timeout(&mut self, limit: Duration) -> Result<T, RecvTimeoutError> {
        match block(&mut self.shared.receiving(self.next), Limit::after(limit)) {
            Ok(()) => self.shared.receive(&mut self.next).map_err(|error| match error {
                RecvError::Closed => RecvTimeoutError::Closed,
                RecvError::Lagged(missed) => RecvTimeoutError::Lagged(missed),
            }),
            Err(GaveUp::TimedOut) => Err(RecvTimeoutError::Timeout),
            Err(GaveUp::Canceled) => Err(RecvTimeoutError::Closed),
        }
    }

    /// Receives the next message, as a future. Cancel-safe: dropped, it has received none.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub async fn recv_async(&mut self) -> Result<T, RecvError> {
        Waiting::new(self.shared.receiving(self.next)).await;
        self.shared.receive(&mut self.next)
    }

    /// The wait, and what is to be done after it.
    pub(crate) fn receiving(
        &mut self,
    ) -> (impl Arm<Output = ()>, impl FnMut(()) -> Result<T, RecvError> + use<'_, T>) {
        let Receiver { shared, next } = self;
        (shared.receiving(*next), |()| shared.receive(next))
    }
}

impl<T> Receiver<T> {
    /// One more receiver, of all that is sent from now on.
    pub fn resubscribe(&self) -> Receiver<T> {
        subscribe(&self.shared)
    }

    /// How many messages it has not received yet, with those that it has missed.
    pub fn len(&self) -> u64 {
        lock(&self.shared.state).tail.wrapping_sub(self.next)
    }

    /// Whether it has received all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        lock(&self.0.state).senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let is_last = || {
            let mut state = lock(&self.0.state);
            state.senders -= 1;
            state.senders == 0
        };
        if is_last() {
            // Now it is true for all who wait.
            self.0.crowd.wake_all(|| ());
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut unread = Vec::new();
        let mut state = lock(&self.shared.state);
        state.receivers -= 1;
        let mut behind = state.tail.wrapping_sub(self.next).min(state.messages.len() as u64) as usize;
        while behind > 0 {
            let index = state.messages.len() - behind;
            unread.push(state.take(index));
            behind -= 1;
        }
        // Dropped without the lock.
        drop(state);
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Closed => f.write_str("receiving on a closed channel"),
            RecvError::Lagged(missed) => write!(f, "fell behind by {missed} messages"),
        }
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryRecvError::Empty => f.write_str("receiving on an empty channel"),
            TryRecvError::Closed => RecvError::Closed.fmt(f),
            TryRecvError::Lagged(missed) => RecvError::Lagged(*missed).fmt(f),
        }
    }
}

impl fmt::Display for RecvTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvTimeoutError::Timeout => f.write_str("timed out waiting on channel"),
            RecvTimeoutError::Closed => RecvError::Closed.fmt(f),
            RecvTimeoutError::Lagged(missed) => RecvError::Lagged(*missed).fmt(f),
        }
    }
}

impl std::error::Error for RecvError {}
impl std::error::Error for TryRecvError {}
impl std::error::Error for RecvTimeoutError {}

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// L10: the numbers of messages come round.
    #[test]
    fn numbers_come_round() {
        let (sender, mut receiver) = channel(4);
        let start = u64::MAX - 2;
        lock(&sender.0.state).tail = start;
        receiver.next = start;
        let mut slow = sender.subscribe();
        for n in 0..7 {
            sender.send(n).unwrap();
            assert_eq!(receiver.try_recv(), Ok(n));
        }
        assert_eq!(slow.len(), 7);
        assert_eq!(slow.try_recv(), Err(TryRecvError::Lagged(3)));
        assert_eq!((slow.try_recv(), slow.len()), (Ok(3), 3));
        drop(slow);
        assert!(sender.is_empty());
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::check;

    /// Two receivers, one of which goes meanwhile; the other gets all that it does not miss.
    #[test]
    fn loom_each_receives_all_or_is_told() {
        check(2, || {
            let (sender, mut receiver) = channel(1);
            let mut second = sender.subscribe();
            let goes = thread::spawn(move || _ = block_on(second.recv_async()));
            let sends = thread::spawn(move || (1..=2).for_each(|n| _ = sender.send(n)));
            let mut seen = 0;
            loop {
                match block_on(receiver.recv_async()) {
                    Ok(_) => seen += 1,
                    Err(RecvError::Lagged(missed)) => seen += missed,
                    Err(RecvError::Closed) => break,
                }
            }
            assert_eq!(seen, 2);
            goes.join().unwrap();
            sends.join().unwrap();
        });
    }
}
