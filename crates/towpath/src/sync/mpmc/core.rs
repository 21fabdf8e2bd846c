//! A channel without its ends: messages, and those who wait on either side, under one lock.
//!
//! ```text
//!   somebody waits to receive ⇒ there is no message, and nobody waits to send
//!   somebody waits to send    ⇒ there is no room
//! ```

use std::collections::VecDeque;
use std::sync::mpsc::{RecvError, SendError, TryRecvError, TrySendError};

use crate::std_or_loom::{Lock, lock};
use crate::wait::{Arm, Entered, Node, Queue, Waiter, Wake, WakeList};
use crate::why::{Reason, Why};

pub(crate) struct Channel<T> {
    /// How many messages there may be; `None` for as many as there is memory for.
    bound: Option<usize>,
    state: Lock<State<T>>,
}

struct State<T> {
    messages: VecDeque<T>,
    /// Each with its message, which is taken.
    senders: Queue<Option<T>>,
    /// Each with the place for its message.
    receivers: Queue<Option<T>>,
    /// An end is gone, with all who were there.
    senders_gone: bool,
    receivers_gone: bool,
}

impl<T> Channel<T> {
    pub(crate) fn new(bound: Option<usize>) -> Channel<T> {
        let state = State {
            messages: VecDeque::new(),
            senders: Queue::new(),
            receivers: Queue::new(),
            senders_gone: false,
            receivers_gone: false,
        };
        Channel { bound, state: Lock::new(state) }
    }

    pub(crate) fn bound(&self) -> Option<usize> {
        self.bound
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.state).messages.len()
    }

    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut message = Some(message);
        let sent = self.send(&mut lock(&self.state), &mut message);
        let wake = match sent {
            Some(Ok(wake)) => wake,
            Some(Err(SendError(message))) => return Err(TrySendError::Disconnected(message)),
            None => return Err(TrySendError::Full(message.expect("it was not sent"))),
        };
        wake.wake();
        Ok(())
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let received = self.receive(&mut lock(&self.state));
        match received {
            Some(Ok((message, wake))) => {
                wake.wake();
                Ok(message)
            }
            Some(Err(RecvError)) => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Sends the message, if it need not wait. Who is to be woken then.
    #[inline(always)]
    fn send(&self, state: &mut State<T>, message: &mut Option<T>) -> Option<Result<Wake, SendError<T>>> {
        if state.receivers_gone {
            return Some(Err(SendError(message.take().expect("a message is sent once"))));
        }
        if let Some(mut receiver) = state.receivers.claim() {
            *receiver.data() = message.take();
            return Some(Ok(receiver.complete()));
        }
        if self.bound.is_some_and(|bound| state.messages.len() >= bound) {
            return None;
        }
        state.messages.push_back(message.take().expect("a message is sent once"));
        Some(Ok(Wake::NOBODY))
    }

    /// Receives a message, if it need not wait for one. Who is to be woken then.
    #[inline(always)]
    fn receive(&self, state: &mut State<T>) -> Option<Result<(T, Wake), RecvError>> {
        let message = state.messages.pop_front();
        // One that was given back may have been one too many.
        let room = message.is_none() || self.bound.is_none_or(|bound| state.messages.len() < bound);
        let sender = if room { state.senders.claim() } else { None };
        let (sent, wake) = match sender {
            Some(mut sender) => (sender.data().take(), sender.complete()),
            None => (None, Wake::NOBODY),
        };
        match message {
            Some(message) => {
                if let Some(sent) = sent {
                    state.messages.push_back(sent);
                }
                Some(Ok((message, wake)))
            }
            None => match sent {
                Some(message) => Some(Ok((message, wake))),
                None if state.senders_gone => Some(Err(RecvError)),
                None => None,
            },
        }
    }

    /// A message that was received and is not wanted: to the next who waits, or to the front.
    fn give_back(&self, message: T) {
        let mut state = lock(&self.state);
        if state.receivers_gone {
            // Dropped without the lock.
            drop(state);
            return drop(message);
        }
        let wake = match state.receivers.claim() {
            Some(mut receiver) => {
                *receiver.data() = Some(message);
                receiver.complete()
            }
            None => {
                state.messages.push_front(message);
                Wake::NOBODY
            }
        };
        drop(state);
        wake.wake();
    }

    /// The last sender is gone: those who wait get nothing.
    pub(crate) fn no_more_senders(&self) {
        self.release(|state| {
            state.senders_gone = true;
            state.receivers.claim().map(|receiver| receiver.complete())
        });
    }

    /// The last receiver is gone: those who wait keep their messages, and those that wait are dropped.
    pub(crate) fn no_more_receivers(&self) {
        self.release(|state| {
            state.receivers_gone = true;
            state.senders.claim().map(|sender| sender.complete())
        });
        let messages = std::mem::take(&mut lock(&self.state).messages);
        drop(messages);
    }

    /// Wakes whomever `next` names, until that is nobody.
    fn release(&self, mut next: impl FnMut(&mut State<T>) -> Option<Wake>) {
        let mut wakes = WakeList::new();
        loop {
            let mut state = lock(&self.state);
            while !wakes.is_full()
                && let Some(wake) = next(&mut state)
            {
                wakes.push(wake);
            }
            drop(state);
            let more = wakes.is_full();
            wakes.wake_all();
            if !more {
                return;
            }
        }
    }

    #[inline]
    pub(crate) fn sending(&self, message: T) -> Sending<'_, T> {
        Sending { channel: self, node: Node::new(Some(message)) }
    }

    #[inline]
    pub(crate) fn receiving(&self) -> Receiving<'_, T> {
        Receiving { channel: self, node: Node::new(None) }
    }
}

/// Sends a message.
pub(crate) struct Sending<'a, T> {
    channel: &'a Channel<T>,
    node: Node<Option<T>>,
}

impl<T> Sending<'_, T> {
    /// The message, which was not sent.
    pub(crate) fn into_message(mut self) -> T {
        self.node.data().take().expect("it was not sent")
    }
}

// SAFETY: `leave` takes the node out; a claim has taken it out before.
unsafe impl<T> Arm for Sending<'_, T> {
    type Output = Result<(), SendError<T>>;

    #[inline(always)]
    fn why(&self) -> Why {
        const SEND: &Reason = &Reason::object("room in a channel");
        Why::object(SEND, self.channel)
    }

    #[inline]
    fn attempt(&mut self) -> Option<Self::Output> {
        let sent = self.channel.send(&mut lock(&self.channel.state), self.node.data())?;
        Some(sent.map(Wake::wake))
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<Self::Output> {
        let mut state = lock(&self.channel.state);
        if alone {
            if let Some(sent) = self.channel.send(&mut state, self.node.data()) {
                drop(state);
                return Entered::Done(sent.map(Wake::wake));
            }
        } else if self.channel.can_send(&state, waiter) {
            return Entered::Ready;
        }
        // SAFETY: passed on to the caller.
        unsafe { state.senders.push(&self.node, waiter, index, false) };
        Entered::Queued
    }

    fn leave(&mut self) {
        lock(&self.channel.state).senders.remove(&self.node);
    }

    fn finish(&mut self) -> Option<Self::Output> {
        // Whoever received it has taken it.
        Some(match self.node.data().take() {
            None => Ok(()),
            Some(message) => Err(SendError(message)),
        })
    }
}

/// Receives a message.
pub(crate) struct Receiving<'a, T> {
    channel: &'a Channel<T>,
    node: Node<Option<T>>,
}

// SAFETY: as above.
unsafe impl<T> Arm for Receiving<'_, T> {
    type Output = Result<T, RecvError>;

    #[inline(always)]
    fn why(&self) -> Why {
        const RECV: &Reason = &Reason::object("a message in a channel");
        Why::object(RECV, self.channel)
    }

    #[inline]
    fn attempt(&mut self) -> Option<Self::Output> {
        let received = self.channel.receive(&mut lock(&self.channel.state))?;
        Some(received.map(|(message, wake)| {
            wake.wake();
            message
        }))
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<Self::Output> {
        let mut state = lock(&self.channel.state);
        if alone {
            if let Some(received) = self.channel.receive(&mut state) {
                drop(state);
                return Entered::Done(received.map(|(message, wake)| {
                    wake.wake();
                    message
                }));
            }
        } else if self.channel.can_receive(&state, waiter) {
            return Entered::Ready;
        }
        // SAFETY: passed on to the caller.
        unsafe { state.receivers.push(&self.node, waiter, index, false) };
        Entered::Queued
    }

    fn leave(&mut self) {
        lock(&self.channel.state).receivers.remove(&self.node);
    }

    fn finish(&mut self) -> Option<Self::Output> {
        Some(self.node.data().take().ok_or(RecvError))
    }

    fn give_back(&mut self, output: Self::Output) {
        if let Ok(message) = output {
            self.channel.give_back(message);
        }
    }
}

impl<T> Channel<T> {
    /// Whether [`send`](Channel::send) would come to a result, not counting who waits for the same `select`. What was seen of
    /// others who wait may be over at once.
    fn can_send(&self, state: &State<T>, waiter: &Waiter) -> bool {
        state.receivers_gone
            || state.receivers.has_other_than(waiter)
            || self.bound.is_none_or(|bound| state.messages.len() < bound)
    }

    /// As [`can_send`](Channel::can_send).
    fn can_receive(&self, state: &State<T>, waiter: &Waiter) -> bool {
        state.senders_gone || !state.messages.is_empty() || state.senders.has_other_than(waiter)
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, poll_once};
    use crate::wait::Waiting;

    /// One sends two messages, one receives two, one may take a message or leave in the middle of it.
    fn quits(bound: Option<usize>) {
        check(2, move || {
            let channel = Arc::new(Channel::new(bound));
            let sends = thread::spawn({
                let channel = channel.clone();
                move || {
                    for n in 1..=2 {
                        assert_eq!(block_on(Waiting::new(channel.sending(n))), Ok(()));
                    }
                    channel.no_more_senders();
                }
            });
            let quits = thread::spawn({
                let channel = channel.clone();
                move || {
                    let mut receiving = Box::pin(Waiting::new(channel.receiving()));
                    match poll_once(receiving.as_mut()) {
                        std::task::Poll::Ready(Ok(n)) => n,
                        _ => 0,
                    }
                }
            });
            let mut sum = 0;
            while let Ok(n) = block_on(Waiting::new(channel.receiving())) {
                sum += n;
            }
            sends.join().unwrap();
            sum += quits.join().unwrap();
            // One that was given back after this one had learnt of the end is there still.
            sum += channel.try_recv().unwrap_or(0);
            assert_eq!(sum, 3);
        });
    }

    #[test]
    fn loom_a_receiver_that_quits_takes_a_message_or_leaves_it() {
        for bound in [Some(0), Some(1), None] {
            quits(bound);
        }
    }

    #[test]
    fn loom_a_sender_that_quits_has_sent_or_not() {
        for bound in [0, 1] {
            check(2, move || {
                let channel = Arc::new(Channel::new(Some(bound)));
                let quits = thread::spawn({
                    let channel = channel.clone();
                    move || {
                        let mut sending = Box::pin(Waiting::new(channel.sending(1)));
                        let _ = poll_once(sending.as_mut());
                    }
                });
                let sends = thread::spawn({
                    let channel = channel.clone();
                    move || assert_eq!(block_on(Waiting::new(channel.sending(2))), Ok(()))
                });
                let first = block_on(Waiting::new(channel.receiving())).unwrap();
                quits.join().unwrap();
                if first == 1 {
                    assert_eq!(block_on(Waiting::new(channel.receiving())), Ok(2));
                }
                sends.join().unwrap();
                let rest = channel.try_recv();
                assert!(rest == Err(TryRecvError::Empty) || (first, rest) == (2, Ok(1)), "{first} {rest:?}");
            });
        }
    }

    #[test]
    fn loom_an_end_that_goes_lets_all_go() {
        check(2, || {
            let channel = Arc::new(Channel::<u8>::new(Some(0)));
            let waits = [0, 1].map(|_| {
                let channel = channel.clone();
                thread::spawn(move || assert_eq!(block_on(Waiting::new(channel.receiving())), Err(RecvError)))
            });
            channel.no_more_senders();
            waits.into_iter().for_each(|wait| wait.join().unwrap());
        });
    }
}
