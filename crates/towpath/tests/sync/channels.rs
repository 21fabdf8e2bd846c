//! L9 and its kin: channels with any number of ends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use towpath::sync::mpmc::{self, SendTimeoutError};
use towpath::sync::mpsc::{self, RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use towpath::sync::{Arc, Mutex};
use towpath::{shield, thread, time};

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, crowd, poll_once};

/// Every bound that differs: rendezvous, one, a few, none.
const BOUNDS: [Option<usize>; 5] = [Some(0), Some(1), Some(7), Some(usize::MAX), None];

fn channel<T>(bound: Option<usize>) -> (mpmc::Sender<T>, mpmc::Receiver<T>) {
    match bound {
        Some(bound) => mpmc::sync_channel(bound),
        None => mpmc::channel(),
    }
}

/// L9: three senders and three receivers of all kinds; each message arrives once, those of one sender in order.
pub fn l09_each_message_once_and_in_order() {
    let each = scaled(300_000);
    for bound in BOUNDS {
        duo(move || {
            let (sender, receiver) = channel::<(usize, usize)>(bound);
            let seen = Arc::new(Mutex::new(vec![Vec::new(); 3]));
            let ends = Mutex::new(Some((sender, receiver)));
            let (sender, receiver) = ends.lock().unwrap().take().unwrap();
            let senders: [_; 3] = std::array::from_fn(|_| Mutex::new(Some(sender.clone())));
            let receivers: [_; 3] = std::array::from_fn(|_| Mutex::new(Some(receiver.clone())));
            drop((sender, receiver));
            let gathered = seen.clone();
            parties::all(6, move |party, n| {
                if n < 3 {
                    let sender = senders[n].lock().unwrap().take().unwrap();
                    for k in 0..each {
                        match party {
                            Party::Future => block_on(sender.send_async((n, k))).unwrap(),
                            Party::Thread if k % 2 == 0 => sender.send_timeout((n, k), LONG).unwrap(),
                            _ => sender.send((n, k)).unwrap(),
                        }
                    }
                } else {
                    let receiver = receivers[n - 3].lock().unwrap().take().unwrap();
                    let mut got = vec![Vec::new(); 3];
                    loop {
                        let message = match party {
                            Party::Future => block_on(receiver.recv_async()).ok(),
                            Party::Thread => receiver.recv_timeout(LONG).ok(),
                            Party::Task => receiver.recv().ok(),
                        };
                        let Some((from, k)) = message else { break };
                        assert!(got[from].last().is_none_or(|last| *last < k), "out of order");
                        got[from].push(k);
                    }
                    for (all, got) in gathered.lock().unwrap().iter_mut().zip(got) {
                        all.extend(got);
                    }
                }
            });
            for got in seen.lock().unwrap().iter_mut() {
                got.sort();
                assert!(got.iter().copied().eq(0..each), "{bound:?}: {} of {each}", got.len());
            }
        });
    }
}

/// L9: a thousand senders that wait get their messages back when the receiver goes; what was in the buffer is dropped.
pub fn l09_senders_get_their_messages_back() {
    for bound in [0, 1, 5] {
        solo(move || {
            let (sender, receiver) = mpsc::sync_channel(bound);
            let dropped = Rc::new(Cell::new(0));
            struct Counted(usize, Rc<Cell<usize>>);
            impl Drop for Counted {
                fn drop(&mut self) {
                    self.1.set(self.1.get() + 1);
                }
            }
            for n in 0..bound {
                sender.send(Counted(n, dropped.clone())).unwrap();
            }
            let message = Counted(0, dropped.clone());
            let Err(TrySendError::Full(message)) = sender.try_send(message) else { panic!("it is full") };
            let tasks: Vec<_> = (0..1000)
                .map(|n| {
                    let (sender, message) = (sender.clone(), Counted(n, dropped.clone()));
                    waiting(move || sender.send(message).map_err(|SendError(message)| message.0).unwrap_err())
                })
                .collect();
            drop(receiver);
            for (n, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.join().unwrap(), n);
            }
            assert_eq!(dropped.get(), 1000 + bound);
            assert!(matches!(sender.try_send(message), Err(TrySendError::Disconnected(_))));
        });
    }
}

/// L9: receivers that wait learn that the last sender is gone, after all messages.
pub fn l09_receivers_learn_of_the_end() {
    solo(|| {
        for bound in BOUNDS {
            let (sender, receiver) = channel(bound);
            let tasks: Vec<_> = (0..100)
                .map(|_| {
                    let receiver = receiver.clone();
                    waiting(move || receiver.recv())
                })
                .collect();
            sender.send(1).unwrap();
            let second = sender.clone();
            drop(sender);
            second.send(2).unwrap();
            drop(second);
            let got: Vec<_> = tasks.into_iter().map(|task| task.join().unwrap()).collect();
            assert_eq!(got[..3], [Ok(1), Ok(2), Err(RecvError)]);
            assert!(got[2..].iter().all(Result::is_err));
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        }
        // What is in the buffer outlives the senders.
        let (sender, receiver) = mpsc::channel();
        (0..3).for_each(|n| sender.send(n).unwrap());
        drop(sender);
        assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    });
}

/// L9: a bound is kept: so many go in without a receiver, and no more.
pub fn l09_bounds() {
    solo(|| {
        for bound in [0, 1, 7] {
            let (sender, receiver) = mpmc::sync_channel(bound);
            for n in 0..bound {
                sender.try_send(n).unwrap();
            }
            assert_eq!((sender.len(), sender.is_full(), sender.capacity()), (bound, true, Some(bound)));
            assert_eq!(sender.try_send(bound), Err(TrySendError::Full(bound)));
            assert_eq!(sender.send_timeout(bound, ms(1)), Err(SendTimeoutError::Timeout(bound)));
            let waits = waiting({
                let sender = sender.clone();
                move || sender.send(bound)
            });
            thread::yield_now();
            assert!(!waits.is_finished() && receiver.len() == bound);
            // The one who waits comes after those that are there, and before those who come.
            assert_eq!(receiver.recv(), Ok(0));
            sender.try_send(bound + 1).expect_err("the room is taken");
            waits.join().unwrap().unwrap();
            assert_eq!(receiver.try_iter().collect::<Vec<_>>(), (1..=bound).collect::<Vec<_>>());
            assert_eq!(receiver.recv_timeout(ms(1)), Err(RecvTimeoutError::Timeout));
        }
        // Rendezvous: a try meets only who waits.
        let (sender, receiver) = mpmc::sync_channel(0);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        let waits = waiting(move || receiver.recv());
        sender.try_send(5).unwrap();
        assert_eq!(waits.join().unwrap(), Ok(5));
        let (sender, receiver) = mpmc::channel();
        assert!(sender.same_channel(&sender.clone()) && receiver.same_channel(&receiver.clone()));
        sender.send(()).unwrap();
        assert!(!sender.is_full() && !receiver.is_empty() && receiver.capacity().is_none());
    });
}

/// L4 for channels: cancelled or late as a message comes or room is made, nobody loses a message or sends it twice.
pub fn l04_cancelled_as_a_message_comes() {
    let rounds = scaled(1_000_000) / 8;
    for bound in [Some(0), Some(1), None] {
        duo(move || {
            let (sender, receiver) = channel(bound);
            for round in 0..rounds {
                let receives = thread::spawn({
                    let receiver = receiver.clone();
                    move || {
                        receiver.recv_timeout(if round % 5 == 0 { Duration::from_micros(2) } else { LONG })
                    }
                });
                let sends = thread::spawn({
                    let sender = sender.clone();
                    move || sender.send_timeout(round, LONG)
                });
                match round % 4 {
                    0 => receives.cancel(),
                    1 => sends.cancel(),
                    2 => thread::yield_now(),
                    _ => {}
                }
                // Of one that never started nothing is known but that.
                let received =
                    |task: thread::JoinHandle<_>| task.join().unwrap_or(Err(RecvTimeoutError::Timeout));
                let sent = |task: thread::JoinHandle<_>| {
                    task.join().unwrap_or(Err(SendTimeoutError::Timeout(round)))
                };
                // Whoever was not cancelled may wait for the other one for ever.
                let (sent, received) = if round % 4 == 1 {
                    let sent = sent(sends);
                    if sent.is_err() {
                        receives.cancel();
                    }
                    (sent, received(receives))
                } else {
                    let received = received(receives);
                    if received.is_err() {
                        sends.cancel();
                    }
                    (sent(sends), received)
                };
                let rest = receiver.try_recv();
                match (sent, received, rest) {
                    (Ok(()), Ok(n), Err(TryRecvError::Empty)) | (Ok(()), Err(_), Ok(n)) => {
                        assert_eq!(n, round)
                    }
                    (Err(_), Err(_), Err(TryRecvError::Empty)) => {}
                    other => panic!("round {round} of {bound:?}: {other:?}"),
                }
            }
        });
    }
}

/// A task that is cancelled gets nothing, and a loop over messages ends; what does not wait, and what is shielded, goes on.
pub fn cancelled_tasks() {
    solo(|| {
        let (sender, receiver) = mpmc::sync_channel(4);
        let (results, outcome) = mpsc::channel();
        sender.send(0).unwrap();
        let task = waiting({
            let (sender, receiver) = (sender.clone(), receiver.clone());
            move || {
                let got: Vec<i32> = receiver.iter().collect();
                assert!(thread::is_canceled());
                assert_eq!(sender.send(1), Err(SendError(1)), "there is room");
                assert_eq!(receiver.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
                assert_eq!(sender.send_timeout(2, LONG), Err(SendTimeoutError::Disconnected(2)));
                shield(|| sender.send(3)).unwrap();
                results.send(got).unwrap();
            }
        });
        assert_eq!(receiver.len(), 0);
        task.cancel();
        task.join().unwrap();
        assert_eq!(outcome.recv().unwrap(), [0]);
        assert_eq!(receiver.recv(), Ok(3));
        // A deadline around it.
        let late = time::timeout(ms(2), || {
            receiver.recv().map_err(|_| std::io::Error::from_raw_os_error(libc::ECANCELED))
        });
        assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        assert!(!thread::is_canceled());
    });
}

/// A future that is dropped takes no message, whenever that is; what it was given goes to the next.
pub fn futures_that_are_dropped() {
    for bound in BOUNDS {
        let (sender, receiver) = channel(bound);
        let mut first = Box::pin(receiver.recv_async());
        let mut second = Box::pin(receiver.recv_async());
        assert!(poll_once(first.as_mut()).is_pending() && poll_once(second.as_mut()).is_pending());
        sender.try_send(1).unwrap();
        drop(first);
        assert_eq!(block_on(second), Ok(1), "{bound:?}");
        // With nobody else there it stays, before what comes later.
        let mut third = Box::pin(receiver.recv_async());
        assert!(poll_once(third.as_mut()).is_pending());
        sender.try_send(2).unwrap();
        drop(third);
        if bound.is_none() {
            sender.send(3).unwrap();
        }
        assert_eq!(receiver.try_recv(), Ok(2));
        // A message that was not sent is dropped with its future.
        let message = Arc::new(());
        let (sender, _receiver) = mpmc::sync_channel(0);
        let mut sends = Box::pin(sender.send_async(message.clone()));
        assert!(poll_once(sends.as_mut()).is_pending());
        drop(sends);
        assert_eq!(Arc::strong_count(&message), 1);
    }
}

/// L14: a hundred thousand wait for messages; those of one sender, which then goes, are for as many of them.
pub fn l14_many_waiters() {
    let count = scaled(100_000);
    duo(move || {
        let (sender, receiver) = mpmc::channel();
        let tasks = crowd(count, &receiver, |receiver| receiver.recv().is_ok());
        (0..count / 2).for_each(|n| sender.send(n).unwrap());
        drop(sender);
        let got = tasks.into_iter().map(|task| task.join().unwrap()).filter(|got| *got).count();
        assert_eq!(got, count / 2);
    });
}
