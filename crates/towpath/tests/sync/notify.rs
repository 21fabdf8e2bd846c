//! L12, L14: notifications.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use towpath::sync::{Arc, Notify};
use towpath::{is_canceled, thread};

use crate::common::{LONG, Log, duo, ms, scaled, solo, until, waiting};
use crate::parties::{self, Party, block_on, poll_once};

/// L12: however often it is notified, it is one permit; all together are no permit.
pub fn l12_one_permit_is_kept() {
    solo(|| {
        let notify = Notify::new();
        notify.notify_one();
        notify.notify_one();
        notify.notified().unwrap();
        assert_eq!(notify.notified_timeout(ms(1)).unwrap_err().kind(), ErrorKind::TimedOut);
        notify.notify_one();
        block_on(notify.notified_async());
        notify.notify_waiters();
        assert_eq!(notify.notified_timeout(ms(0)).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(poll_once(Box::pin(notify.notified_async()).as_mut()).is_pending());
    });
}

/// L12: first come, first served; who is called with all others leaves the permit alone.
pub fn l12_in_order() {
    solo(|| {
        let notify = Arc::new(Notify::new());
        let log = Log::new();
        let waiter = |n: usize| {
            let (notify, log) = (notify.clone(), log.clone());
            waiting(move || {
                notify.notified().unwrap();
                log.add(n);
            })
        };
        let waiters: Vec<_> = (0..4).map(waiter).collect();
        for n in 0..2 {
            notify.notify_one();
            until(|| log.len() > n);
            thread::yield_now();
            assert_eq!(log.all(), (0..=n).collect::<Vec<_>>());
        }
        // Made before the call, and polled after it; one that is made later waits.
        let mut early = Box::pin(notify.notified_async());
        notify.notify_waiters();
        let mut late = Box::pin(notify.notified_async());
        notify.notify_one();
        assert!(poll_once(early.as_mut()).is_ready() && poll_once(late.as_mut()).is_ready());
        assert!(poll_once(Box::pin(notify.notified_async()).as_mut()).is_pending());
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(log.all(), [0, 1, 2, 3]);
        let canceled = waiting({
            let notify = notify.clone();
            move || notify.notified().unwrap_err()
        });
        canceled.cancel();
        assert!(is_canceled(&canceled.join().unwrap()));
    });
}

/// L12: one permit goes round among parties of all kinds who wait for it, or not for long: at most one has it, and in the
/// end it is there.
pub fn l12_the_permit_is_neither_lost_nor_doubled() {
    let rounds = scaled(300_000);
    duo(move || {
        let notify = Arc::new(Notify::new());
        let had = Arc::new(AtomicUsize::new(0));
        notify.notify_one();
        let taken = AtomicBool::new(false);
        let (shared, counted) = (notify.clone(), had.clone());
        parties::all(6, move |party, n| {
            for round in 0..rounds {
                let limit = Duration::from_nanos((round * 97 + n * 13) as u64 % 5_000);
                let got = match party {
                    Party::Future if round % 2 == 0 => {
                        poll_once(Box::pin(shared.notified_async()).as_mut()).is_ready()
                    }
                    Party::Future => {
                        block_on(shared.notified_async());
                        true
                    }
                    _ if round % 3 == 0 => shared.notified().is_ok(),
                    _ => shared.notified_timeout(limit).is_ok(),
                };
                if got {
                    assert!(!taken.swap(true, SeqCst), "two have it");
                    counted.fetch_add(1, SeqCst);
                    if round % 16 == 0 {
                        thread::yield_now();
                    }
                    taken.store(false, SeqCst);
                    shared.notify_one();
                }
            }
        });
        assert!(had.load(SeqCst) >= 2 * rounds);
        notify.notified_timeout(LONG).unwrap();
        assert!(notify.notified_timeout(ms(0)).is_err());
    });
}

/// L12: cancelled as it is notified, a task has been, or the next one is.
pub fn l12_cancelled_as_it_is_notified() {
    let rounds = scaled(1_000_000) / 4;
    duo(move || {
        let notify = Arc::new(Notify::new());
        for round in 0..rounds {
            let waiters = [(); 2].map(|()| {
                let notify = notify.clone();
                thread::spawn(move || notify.notified())
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            if round % 3 == 0 {
                notify.notify_one();
                waiters[0].cancel();
            } else {
                waiters[0].cancel();
                notify.notify_one();
            }
            let [first, second] = waiters;
            // One that was cancelled before it started has no result.
            if let Ok(Ok(())) = first.join() {
                notify.notify_one();
            }
            second.join().unwrap().unwrap();
            assert!(poll_once(Box::pin(notify.notified_async()).as_mut()).is_pending(), "round {round}");
        }
    });
}

/// A future that is dropped when it has been notified alone passes it on; when all were, it does not.
pub fn l12_futures_that_are_dropped() {
    let notify = Notify::new();
    for stage in 0..3 {
        let mut first = Box::pin(notify.notified_async());
        let mut second = Box::pin(notify.notified_async());
        assert!(poll_once(first.as_mut()).is_pending() && poll_once(second.as_mut()).is_pending());
        match stage {
            0 => {
                notify.notify_one();
                drop(first);
            }
            1 => {
                drop(first);
                notify.notify_one();
            }
            _ => {
                notify.notify_waiters();
                drop(first);
            }
        }
        assert!(poll_once(second.as_mut()).is_ready());
        assert!(poll_once(Box::pin(notify.notified_async()).as_mut()).is_pending());
    }
    // With nobody to pass it on to, it is kept.
    let mut only = Box::pin(notify.notified_async());
    assert!(poll_once(only.as_mut()).is_pending());
    notify.notify_one();
    drop(only);
    assert!(poll_once(Box::pin(notify.notified_async()).as_mut()).is_ready());
}

/// L14: a hundred thousand are called at once, by one who is called with them.
pub fn l14_many_waiters() {
    let count = scaled(100_000);
    duo(move || {
        let notify = Arc::new(Notify::new());
        let called = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let (notify, called) = (notify.clone(), called.clone());
                thread::spawn(move || {
                    notify.notified().unwrap();
                    called.fetch_add(1, SeqCst);
                    notify.notify_waiters();
                })
            })
            .collect();
        until(|| {
            notify.notify_waiters();
            called.load(SeqCst) == count
        });
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
}
