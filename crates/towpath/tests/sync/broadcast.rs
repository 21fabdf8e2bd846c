//! L10: messages that all receive, and values that all watch.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use towpath::select::{changed, recv};
use towpath::sync::broadcast::{self, RecvError, RecvTimeoutError, SendError, TryRecvError};
use towpath::sync::{Arc, Mutex, mpsc, oneshot, watch};
use towpath::{select, shield, thread};

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, poll_once};

fn send_futures() {
    fn is_send<F: Send>(_: fn(&'static mut broadcast::Receiver<i32>) -> F) {}
    is_send(|receiver| receiver.recv_async());
    fn is_send_too<F: Send>(_: fn(&'static mut watch::Receiver<i32>) -> F) {}
    is_send_too(|receiver| receiver.changed_async());
}

/// L10: what was missed is counted exactly, whatever the pace; nothing is seen twice or out of order.
pub fn l10_lag_is_counted_exactly() {
    let total = scaled(300_000);
    for capacity in [1, 3, 64] {
        duo(move || {
            let (sender, receiver) = broadcast::channel(capacity);
            let receivers: [_; 4] = std::array::from_fn(|_| Mutex::new(Some(sender.subscribe())));
            let missed = Arc::new(AtomicUsize::new(0));
            let (sender, counted) = (Mutex::new(Some(sender)), missed.clone());
            drop(receiver);
            parties::all(5, move |party, n| {
                if n == 4 {
                    let sender = sender.lock().unwrap().take().unwrap();
                    for k in 0..total {
                        assert_eq!(sender.send(k).unwrap(), 4);
                    }
                    return;
                }
                let mut receiver = receivers[n].lock().unwrap().take().unwrap();
                let mut next = 0;
                loop {
                    let received = match party {
                        Party::Task => receiver.recv(),
                        Party::Thread => receiver.recv_timeout(LONG).map_err(|error| match error {
                            RecvTimeoutError::Lagged(missed) => RecvError::Lagged(missed),
                            RecvTimeoutError::Closed => RecvError::Closed,
                            RecvTimeoutError::Timeout => panic!("nothing came"),
                        }),
                        Party::Future => block_on(receiver.recv_async()),
                    };
                    match received {
                        Ok(k) => {
                            assert_eq!(k, next);
                            next += 1;
                        }
                        Err(RecvError::Lagged(count)) => {
                            assert!(count > 0);
                            next += count as usize;
                            counted.fetch_add(1, SeqCst);
                        }
                        Err(RecvError::Closed) => break,
                    }
                }
                assert_eq!(next, total, "seen or counted");
            });
        });
    }
}

/// L10: who is there receives, who comes later does not; the last one who receives has the message, not a copy.
pub fn l10_receivers_come_and_go() {
    send_futures();
    solo(|| {
        let (sender, mut first) = broadcast::channel(2);
        assert_eq!((sender.send(1), sender.receiver_count()), (Ok(1), 1));
        let mut second = sender.subscribe();
        assert_eq!(sender.send(2), Ok(2));
        assert_eq!((first.len(), second.len(), sender.len()), (2, 1, 2));
        assert_eq!(second.recv(), Ok(2));
        assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(second.recv_timeout(ms(1)), Err(RecvTimeoutError::Timeout));
        sender.send(3).unwrap();
        assert_eq!(first.recv(), Err(RecvError::Lagged(1)));
        assert_eq!(first.try_recv(), Ok(2));
        drop(first);
        assert_eq!(sender.len(), 1, "3 is for the second");
        let third = second.resubscribe();
        assert!(third.is_empty());
        drop((second, third));
        assert!(sender.is_empty());
        assert_eq!(sender.send(4), Err(SendError(4)));
        let mut late = sender.subscribe();
        let clone = sender.clone();
        drop(sender);
        let waits = waiting(move || (late.recv(), late.recv()));
        clone.send(5).unwrap();
        drop(clone);
        assert_eq!(waits.join().unwrap(), (Ok(5), Err(RecvError::Closed)));

        let message = Arc::new(());
        let (sender, mut one) = broadcast::channel(8);
        let mut two = sender.subscribe();
        sender.send(message.clone()).unwrap();
        let first = one.recv().unwrap();
        assert_eq!(Arc::strong_count(&message), 3);
        let second = two.recv().unwrap();
        assert_eq!(Arc::strong_count(&message), 3, "moved out, not cloned");
        drop((first, second));
        assert_eq!(Arc::strong_count(&message), 1);
    });
}

/// A panic of a message's `Clone` costs one receiver one message.
pub fn clones_that_panic() {
    #[derive(Debug)]
    struct Rare(bool);
    impl Clone for Rare {
        fn clone(&self) -> Rare {
            assert!(!self.0, "this one cannot be cloned");
            Rare(false)
        }
    }
    solo(|| {
        let (sender, mut receiver) = broadcast::channel(4);
        let mut other = sender.subscribe();
        sender.send(Rare(true)).unwrap();
        sender.send(Rare(false)).unwrap();
        let panicked = thread::spawn(move || {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| receiver.recv()));
            (panicked.is_err(), receiver.recv().is_ok())
        });
        assert_eq!(panicked.join().unwrap(), (true, true));
        assert!(other.recv().unwrap().0);
        assert!(!other.recv().unwrap().0);
    });
}

/// The last value is seen by all who watch, and what they see never goes back.
pub fn watching_the_last_value() {
    let total = scaled(300_000);
    duo(move || {
        let (sender, receiver) = watch::channel(0);
        let receivers: [_; 4] = std::array::from_fn(|_| Mutex::new(Some(receiver.clone())));
        let sender = Mutex::new(Some(sender));
        drop(receiver);
        parties::all(5, move |party, n| {
            if n == 4 {
                let sender = sender.lock().unwrap().take().unwrap();
                (1..=total).for_each(|k| sender.send(k).unwrap());
                return;
            }
            let mut receiver = receivers[n].lock().unwrap().take().unwrap();
            let mut last = 0;
            loop {
                let over = match party {
                    Party::Task => receiver.changed().is_err(),
                    Party::Thread => receiver.changed_timeout(LONG).is_err(),
                    Party::Future => block_on(receiver.changed_async()).is_err(),
                };
                if over {
                    break;
                }
                let value = *receiver.borrow_and_update();
                assert!(value >= last && value > 0, "{value} after {last}");
                last = value;
            }
            assert_eq!(last, total);
        });
    });
}

/// What a watcher and a setter can ask and do.
pub fn watch_in_full() {
    solo(|| {
        let (sender, mut receiver) = watch::channel(String::from("a"));
        assert_eq!(receiver.has_changed(), Ok(false), "what is there at the start is seen");
        assert_eq!(sender.send_replace("b".into()), "a");
        assert_eq!(receiver.has_changed(), Ok(true));
        assert_eq!((&**receiver.borrow(), receiver.has_changed()), ("b", Ok(true)));
        receiver.changed().unwrap();
        assert_eq!(receiver.has_changed(), Ok(false));
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(receiver.changed_timeout(ms(1)), Err(watch::RecvTimeoutError::Timeout));
        sender.send_modify(|value| value.push('c'));
        assert_eq!(*receiver.borrow_and_update(), "bc");
        receiver.mark_changed();
        receiver.changed().unwrap();

        // Two guards at a time, and a setter that waits for them.
        let (one, two) = (receiver.borrow(), sender.borrow());
        assert_eq!(*one, *two);
        let sets = waiting({
            let sender = sender.clone();
            move || sender.send("d".into())
        });
        assert!(!sets.is_finished());
        drop((one, two));
        sets.join().unwrap().unwrap();

        let mut waits = sender.subscribe();
        assert_eq!(sender.receiver_count(), 2);
        let waits = waiting(move || waits.wait_for(|value| value.len() == 3).map(|value| value.clone()));
        for value in ["x", "xx", "xxx", "y"] {
            sender.send(value.into()).unwrap();
            thread::yield_now();
        }
        assert_eq!(waits.join().unwrap(), Ok("xxx".into()));

        // A panic in the middle of a change: nobody is told, and nobody is locked out.
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            sender.send_modify(|_| std::panic::resume_unwind(Box::new(())))
        }));
        assert!(panicked.is_err());
        receiver.borrow_and_update();

        let closes = waiting({
            let sender = sender.clone();
            move || sender.closed()
        });
        let mut last = receiver.clone();
        drop(receiver);
        sender.send("end".into()).unwrap();
        drop(sender);
        // The task has another one.
        assert_eq!(last.wait_for(|value| value == "end").as_deref().map(String::as_str), Ok("end"));
        assert_eq!(last.has_changed(), Ok(false));
        drop(last);
        closes.join().unwrap().unwrap();

        let (sender, mut receiver) = watch::channel(1);
        sender.send(2).unwrap();
        drop(sender);
        assert_eq!(receiver.changed(), Ok(()), "the last change comes before the end");
        assert_eq!(receiver.changed(), Err(watch::RecvError));
        assert_eq!(receiver.has_changed(), Err(watch::RecvError));
        assert_eq!(receiver.wait_for(|value| *value == 3).map(|value| *value), Err(watch::RecvError));
        let (sender, receiver) = watch::channel(1);
        drop(receiver);
        assert_eq!(sender.send(2), Err(watch::SendError(2)));
        assert_eq!((sender.send_replace(3), *sender.borrow()), (1, 3));
    });
}

/// Cancelled tasks miss nothing; futures that are dropped have received nothing.
pub fn cancelled_and_dropped() {
    solo(|| {
        let (sender, mut receiver) = broadcast::channel(4);
        let mut other = sender.subscribe();
        assert!(poll_once(Box::pin(other.recv_async()).as_mut()).is_pending());
        let task = waiting(move || {
            assert_eq!(receiver.recv(), Err(RecvError::Closed));
            assert!(thread::is_canceled());
            shield(|| receiver.recv())
        });
        task.cancel();
        thread::yield_now();
        sender.send(1).unwrap();
        assert_eq!((task.join().unwrap(), other.recv()), (Ok(1), Ok(1)));

        let (sender, mut receiver) = watch::channel(0);
        let task = waiting(move || {
            assert_eq!(receiver.changed(), Err(watch::RecvError));
            shield(|| receiver.changed()).map(|()| *receiver.borrow())
        });
        task.cancel();
        thread::yield_now();
        sender.send(1).unwrap();
        assert_eq!(task.join().unwrap(), Ok(1));
    });
}

/// Receivers of all kinds in one select: each wins in its turn.
pub fn receivers_of_all_kinds() {
    solo(|| {
        for later in [false, true] {
            let (many, all) = mpsc::channel();
            let (answer, question) = oneshot::channel();
            let (news, mut reader) = broadcast::channel(2);
            let (level, mut watcher) = watch::channel(0);
            let mut answer = Some(answer);
            for turn in 0..4 {
                let say = || match turn {
                    0 => many.send("many").unwrap(),
                    1 => answer.take().unwrap().send("one").unwrap(),
                    2 => assert_eq!(news.send("all"), Ok(1)),
                    _ => level.send(7).unwrap(),
                };
                // Once it has been received, the answer's channel is at its end, which would win as well.
                let question = (turn <= 1).then_some(&question);
                let (_pending, never) = oneshot::channel();
                let won = thread::scope(|scope| {
                    if later {
                        scope.spawn(say);
                    } else {
                        scope.spawn(say).join().unwrap();
                    }
                    select! {
                        message = recv(&all) => (0, message.unwrap()),
                        message = recv(question.unwrap_or(&never)) => (1, message.unwrap()),
                        message = recv(&mut reader) => (2, message.unwrap()),
                        seen = changed(&mut watcher) => (3, seen.map(|()| "level").unwrap()),
                    }
                });
                assert_eq!(won.unwrap(), (turn, ["many", "one", "all", "level"][turn]), "later: {later}");
            }
            assert_eq!(*watcher.borrow(), 7);
        }
    });
}
