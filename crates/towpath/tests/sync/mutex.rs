//! L1–L4, L14: the lock.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use towpath::sync::{Arc, LockTimeoutError, Mutex, TryLockError};
use towpath::{is_canceled, thread};

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, crowd, poll_once};

/// L1: of ten million increments by six parties none is lost.
pub fn l01_mutual_exclusion() {
    let each = scaled(10_000_000) / 6;
    duo(move || {
        let counter = Arc::new(Mutex::new(0_usize));
        let shared = counter.clone();
        parties::all(6, move |party, n| {
            for step in 0..each {
                let mut guard = match party {
                    Party::Future => block_on(shared.lock_async()).unwrap(),
                    _ if (step + n) % 3 == 0 => shared.lock_timeout(LONG).unwrap(),
                    _ => shared.lock().unwrap(),
                };
                let before = *guard;
                if step % 64 == 0 {
                    // Held over a switch: the others wait, and their threads go on.
                    thread::yield_now();
                }
                *guard = before + 1;
            }
        });
        assert_eq!(*counter.lock().unwrap(), each * 6);
        assert!(counter.try_lock().is_ok() && !counter.is_poisoned());
    });
}

/// L1: those who wait are served in the order in which they came.
pub fn l01_fifo_among_those_who_wait() {
    solo(|| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let guard = order.lock().unwrap();
        assert!(matches!(order.try_lock(), Err(TryLockError::WouldBlock)));
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let order = order.clone();
                waiting(move || order.lock().unwrap().push(n))
            })
            .collect();
        drop(guard);
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

/// L1, as documented: one who was woken and found the lock taken gets it with the next unlock.
pub fn l01_a_woken_waiter_is_overtaken_once() {
    solo(|| {
        let lock = Arc::new(Mutex::new(Vec::new()));
        let mut guard = lock.lock().unwrap();
        let waiter = waiting({
            let lock = lock.clone();
            move || lock.lock().unwrap().push("waiter")
        });
        // Each time: unlock, which wakes the waiter if it is not, and lock again before it has run.
        for _ in 0..3 {
            drop(guard);
            guard = lock.lock().unwrap();
            guard.push("other");
            thread::yield_now();
        }
        drop(guard);
        waiter.join().unwrap();
        assert_eq!(*lock.lock().unwrap(), ["other", "waiter", "other", "other"]);
    });
}

/// L1: a panic poisons, for all that look, until it is cleared; the value can be had all the same.
pub fn l01_poisoning() {
    solo(|| {
        let lock = Arc::new(Mutex::new(1));
        let shared = lock.clone();
        let panicked = thread::spawn(move || {
            let _guard = shared.lock().unwrap();
            std::panic::panic_any(());
        });
        assert!(panicked.join().is_err());
        assert!(lock.is_poisoned());
        assert_eq!(*lock.lock().unwrap_err().into_inner(), 1);
        assert!(matches!(lock.try_lock(), Err(TryLockError::Poisoned(_))));
        assert!(matches!(lock.lock_timeout(LONG), Err(LockTimeoutError::Poisoned(_))));
        assert!(block_on(lock.lock_async()).is_err());
        lock.clear_poison();
        *lock.lock().unwrap() += 1;
        // A guard that is dropped by a panic, but was taken during it, does not poison.
        struct LocksInDrop(Arc<Mutex<i32>>);
        impl Drop for LocksInDrop {
            fn drop(&mut self) {
                *self.0.lock().unwrap() += 1;
            }
        }
        let in_drop = LocksInDrop(lock.clone());
        let panicked = thread::spawn(move || {
            let _in_drop = in_drop;
            std::panic::panic_any(());
        });
        assert!(panicked.join().is_err());
        assert!(!lock.is_poisoned());
        assert_eq!(Arc::into_inner(lock).unwrap().into_inner().unwrap(), 3);
    });
}

/// L2: whoever gives up does not have the lock, whoever has it did not give up, and in the end it is free.
pub fn l02_timeout_races_unlock() {
    let rounds = scaled(100_000);
    duo(move || {
        let lock = Arc::new(Mutex::new(0));
        let had = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (lock.clone(), had.clone());
        parties::all(4, move |party, n| {
            for round in 0..rounds {
                // From at once to a few microseconds: about as long as the others hold it.
                let limit = Duration::from_nanos((round * 97 + n * 13) as u64 % 5_000);
                let guard = match party {
                    Party::Future => {
                        let mut waiting = pin!(shared.lock_async());
                        match poll_once(waiting.as_mut()) {
                            Poll::Ready(guard) => Ok(guard.unwrap()),
                            Poll::Pending => Err(LockTimeoutError::TimedOut),
                        }
                    }
                    _ => shared.lock_timeout(limit),
                };
                match guard {
                    Ok(mut guard) => {
                        *guard += 1;
                        counted.fetch_add(1, SeqCst);
                        if round % 8 == 0 {
                            thread::yield_now();
                        }
                    }
                    Err(error) => assert!(matches!(error, LockTimeoutError::TimedOut), "{error:?}"),
                }
            }
        });
        assert_eq!(*lock.try_lock().expect("it is free"), had.load(SeqCst));
    });
}

/// L4: cancelled as it is handed the lock, a waiter takes it or passes it on.
pub fn l04_cancelled_as_it_is_handed_over() {
    let rounds = scaled(1_000_000) / 4;
    duo(move || {
        let lock = Arc::new(Mutex::new(0));
        for round in 0..rounds {
            let guard = lock.lock().unwrap();
            let waiters = [(); 2].map(|()| {
                let lock = lock.clone();
                thread::spawn(move || match lock.lock_timeout(LONG) {
                    Ok(mut guard) => {
                        *guard += 1;
                        true
                    }
                    Err(error) => {
                        assert!(matches!(error, LockTimeoutError::Canceled), "{error:?}");
                        assert!(is_canceled(&error.into()));
                        false
                    }
                })
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            let before = *guard;
            if round % 3 == 0 {
                drop(guard);
                waiters[0].cancel();
            } else {
                waiters[0].cancel();
                drop(guard);
            }
            let [first, second] = waiters.map(|waiter| waiter.join());
            // One that was cancelled before it started has no result.
            let had = [first.unwrap_or(false), second.unwrap()];
            assert!(had[1], "nobody cancelled the second");
            assert_eq!(
                *lock.try_lock().expect("it is free") - before,
                had.iter().filter(|had| **had).count()
            );
        }
    });
}

/// L14: a hundred thousand wait for one lock, and all get it.
pub fn l14_many_waiters() {
    let count = scaled(100_000);
    duo(move || {
        let lock = Arc::new(Mutex::new(0));
        let guard = lock.lock().unwrap();
        let tasks = crowd(count, &lock, |lock| *lock.lock().unwrap() += 1);
        drop(guard);
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(*lock.lock().unwrap(), count);
    });
}

/// A future that is dropped while it waits, or after it was given the lock, holds nobody up.
pub fn futures_that_are_dropped() {
    let lock = Mutex::new(());
    for handed_over in [false, true] {
        let guard = lock.lock().unwrap();
        let mut first = Box::pin(lock.lock_async());
        let mut second = Box::pin(lock.lock_async());
        assert!(poll_once(first.as_mut()).is_pending() && poll_once(second.as_mut()).is_pending());
        if handed_over {
            drop(guard);
            drop(first);
        } else {
            drop(first);
            drop(guard);
        }
        // Woken by the unlock, or by the first, which did not take it.
        assert!(poll_once(second.as_mut()).is_ready());
        assert!(lock.try_lock().is_ok());
    }
    // Never polled, and polled by two wakers.
    drop(lock.lock_async());
    let guard = lock.lock().unwrap();
    let mut waiting = Box::pin(lock.lock_async());
    assert!(poll_once(waiting.as_mut()).is_pending());
    std::thread::scope(|scope| {
        let polled = scope.spawn(|| poll_once(Box::pin(lock.lock_async()).as_mut()).is_pending());
        assert!(polled.join().unwrap());
    });
    drop(guard);
    drop(block_on(waiting).unwrap());
    let timed_out = lock.lock_timeout(ms(0)).is_ok();
    assert!(timed_out, "a free lock is had without time");
}
