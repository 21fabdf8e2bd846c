//! L8: the channel for one message.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use towpath::sync::oneshot::{self, Receiver, RecvError, RecvTimeoutError, SendError, Sender, TryRecvError};
use towpath::sync::{Arc, Mutex};
use towpath::{shield, thread};

use crate::common::{LONG, duo, ms, scaled, solo, until, waiting};
use crate::parties::{self, Party, block_on, poll_once};

fn send_futures() {
    fn is_send<F: Send>(_: fn(&'static Receiver<i32>, &'static Sender<i32>) -> F) {}
    is_send(|receiver, _| receiver.recv_async());
    is_send(|_, sender| sender.closed_async());
}

/// L8: an end that goes is seen by the other; what was not sent comes back, and a message that was sent stays.
pub fn l08_ends_that_go() {
    send_futures();
    solo(|| {
        let (sender, receiver) = oneshot::channel::<i32>();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(ms(1)), Err(RecvTimeoutError::Timeout));
        drop(sender);
        assert_eq!(receiver.recv(), Err(RecvError));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(receiver.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));

        let (sender, receiver) = oneshot::channel();
        assert!(!sender.is_closed());
        drop(receiver);
        assert!(sender.is_closed());
        sender.closed().unwrap();
        assert_eq!(sender.send("back"), Err(SendError("back")));

        let (sender, receiver) = oneshot::channel();
        sender.send("kept").unwrap();
        assert_eq!(receiver.recv(), Ok("kept"));
        assert_eq!(receiver.recv(), Err(RecvError), "a second time");

        // Those who wait learn of it as well.
        let (sender, receiver) = oneshot::channel::<i32>();
        let receives = waiting(move || receiver.recv());
        drop(sender);
        assert_eq!(receives.join().unwrap(), Err(RecvError));
        let (sender, receiver) = oneshot::channel::<i32>();
        let watches = waiting(move || sender.closed());
        drop(receiver);
        watches.join().unwrap().unwrap();

        // A message that nobody received is dropped with the receiver.
        let message = Arc::new(());
        let (sender, receiver) = oneshot::channel();
        sender.send(message.clone()).unwrap();
        assert_eq!(Arc::strong_count(&message), 2);
        drop(receiver);
        assert_eq!(Arc::strong_count(&message), 1);
    });
}

/// L8: all kinds of parties on either side, racing, and receivers that go: each message is received, or given back, or
/// dropped with its receiver.
pub fn l08_sending_races_receiving() {
    let rounds = scaled(200_000);
    duo(move || {
        let board: Arc<[Mutex<Vec<_>>; 3]> = Arc::default();
        let (received, returned) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let token = Arc::new(7);
        let (kept, ends, counts) = (token.clone(), board.clone(), [received.clone(), returned.clone()]);
        parties::all(6, move |party, n| {
            for round in 0..rounds {
                if n < 3 {
                    let (sender, receiver) = oneshot::channel();
                    ends[n].lock().unwrap().push(receiver);
                    match sender.send(token.clone()) {
                        Ok(()) => {}
                        Err(SendError(_)) => drop(counts[1].fetch_add(1, SeqCst)),
                    }
                } else {
                    until(|| !ends[n - 3].lock().unwrap().is_empty());
                    let receiver = ends[n - 3].lock().unwrap().pop().unwrap();
                    if round % 3 == 0 {
                        continue;
                    }
                    let message = match party {
                        Party::Task => receiver.recv(),
                        Party::Thread => receiver.recv_timeout(LONG).map_err(|_| RecvError),
                        Party::Future => block_on(receiver.recv_async()),
                    };
                    assert_eq!(*message.unwrap(), 7);
                    counts[0].fetch_add(1, SeqCst);
                }
            }
        });
        assert_eq!(received.load(SeqCst), 3 * (rounds - rounds.div_ceil(3)));
        assert!(returned.load(SeqCst) <= 3 * rounds.div_ceil(3));
        // Once the tasks' frames are gone.
        until(|| Arc::strong_count(&kept) == 1);
    });
}

/// L4 for answers: cancelled, late or dropped as it comes, the message is there still.
pub fn l04_cancelled_as_it_is_sent() {
    let rounds = scaled(200_000);
    duo(move || {
        for round in 0..rounds {
            let (sender, receiver) = oneshot::channel();
            let receiver = Arc::new(receiver);
            let receives = thread::spawn({
                let receiver = receiver.clone();
                move || {
                    let limit = if round % 3 == 0 { Duration::from_micros(2) } else { LONG };
                    receiver.recv_timeout(limit).is_ok()
                }
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            sender.send(round).unwrap();
            receives.cancel();
            let received = receives.join().unwrap_or(false);
            assert_eq!(receiver.try_recv().is_ok(), !received);
        }
    });
}

/// A future that is dropped leaves the message; a cancelled task gets none, and can tell why.
pub fn cancelled_and_dropped() {
    solo(|| {
        let (sender, receiver) = oneshot::channel();
        {
            let mut receiving = Box::pin(receiver.recv_async());
            assert!(poll_once(receiving.as_mut()).is_pending());
            sender.send(1).unwrap();
        }
        assert_eq!(receiver.recv(), Ok(1));
        let (sender, receiver) = oneshot::channel();
        let task = waiting(move || {
            assert_eq!(receiver.recv(), Err(RecvError));
            assert!(thread::is_canceled());
            shield(|| receiver.recv())
        });
        task.cancel();
        thread::yield_now();
        sender.send(2).unwrap();
        assert_eq!(task.join().unwrap(), Ok(2));
    });
}
