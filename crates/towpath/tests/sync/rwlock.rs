//! L6 and its kin: the lock of many readers or one writer.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Context;
use std::time::Duration;

use towpath::sync::{Arc, LockTimeoutError, RwLock, RwLockWriteGuard, TryLockError};
use towpath::{is_canceled, thread};

use crate::common::{LONG, Log, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, crowd, poll_once};

/// L6: many read or one writes, whoever they are; of the writes none is lost, and no read sees the half of one.
pub fn l06_readers_or_one_writer() {
    let each = scaled(2_000_000) / 6;
    duo(move || {
        let lock = Arc::new(RwLock::new((0_usize, 0_usize)));
        let shared = lock.clone();
        parties::all(6, move |party, n| {
            for step in 0..each {
                if (step + n) % 4 == 0 {
                    let mut guard = match party {
                        Party::Future => block_on(shared.write_async()).unwrap(),
                        _ if step % 3 == 0 => shared.write_timeout(LONG).unwrap(),
                        _ => shared.write().unwrap(),
                    };
                    guard.0 += 1;
                    if step % 64 == 0 {
                        thread::yield_now();
                    }
                    guard.1 += 1;
                    if step % 5 == 0 {
                        let read = RwLockWriteGuard::downgrade(guard);
                        let seen = *read;
                        if step % 20 == 0 {
                            thread::yield_now();
                        }
                        assert_eq!(seen, *read, "nobody writes while it is read");
                    }
                } else {
                    let guard = match party {
                        Party::Future => block_on(shared.read_async()).unwrap(),
                        _ if step % 3 == 0 => shared.read_timeout(LONG).unwrap(),
                        _ => shared.read().unwrap(),
                    };
                    assert_eq!(guard.0, guard.1);
                    if step % 64 == 1 {
                        thread::yield_now();
                    }
                }
            }
        });
        let writes: usize = (0..6).map(|n| (0..each).filter(|step| (step + n) % 4 == 0).count()).sum();
        assert_eq!(*lock.try_write().expect("it is free"), (writes, writes));
    });
}

/// L6, as documented: who waits to write keeps later readers out; those who waited for a write to end go in together, before
/// the next write; writers come in order.
pub fn l06_readers_and_writers_take_turns() {
    solo(|| {
        let lock = Arc::new(RwLock::new(()));
        let log = Log::new();
        let reads = |name: &'static str| {
            let (lock, log) = (lock.clone(), log.clone());
            waiting(move || {
                let _guard = lock.read().unwrap();
                log.add(name);
                thread::yield_now();
                log.add("read");
            })
        };
        let writes = |name: &'static str| {
            let (lock, log) = (lock.clone(), log.clone());
            waiting(move || {
                let _guard = lock.write().unwrap();
                log.add(name);
                thread::yield_now();
            })
        };
        let guard = lock.read().unwrap();
        let tasks = [writes("w1"), reads("r1"), writes("w2"), reads("r2"), writes("w3")];
        assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)), "past those who wait");
        assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
        assert!(matches!(lock.read_timeout(ms(1)), Err(LockTimeoutError::TimedOut)));
        assert!(matches!(lock.write_timeout(ms(1)), Err(LockTimeoutError::TimedOut)));
        assert_eq!(log.len(), 0);
        drop(guard);
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(log.all(), ["w1", "r1", "r2", "read", "read", "w2", "w3"]);
        assert!(lock.try_write().is_ok());
    });
}

/// L6: neither side starves, though each comes back all the time.
pub fn l06_nobody_starves() {
    solo(|| {
        let lock = Arc::new(RwLock::new(()));
        let turn = |write: bool| -> Result<(), std::io::Error> {
            if write {
                let _guard = lock.write_timeout(LONG)?;
                thread::yield_now();
            } else {
                let _guard = lock.read_timeout(LONG)?;
                thread::yield_now();
            }
            Ok(())
        };
        let turn = &turn;
        thread::scope(|scope| {
            for busy_writers in [false, true] {
                let crowd: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(move || -> std::io::Result<()> {
                            loop {
                                turn(busy_writers)?
                            }
                        })
                    })
                    .collect();
                for _ in 0..100 {
                    turn(!busy_writers).unwrap();
                }
                crowd.iter().for_each(|task| task.cancel());
                for task in crowd {
                    // One that was cancelled before it started has no result.
                    assert!(task.join().is_ok_and(|result| is_canceled(&result.unwrap_err())));
                }
            }
        });
        assert!(lock.try_write().is_ok());
    });
}

/// L6: a writer that gives up, in time or late, leaves nothing behind, and lets those in who waited because of it.
pub fn l06_a_writer_that_gives_up_lets_readers_in() {
    solo(|| {
        let lock = Arc::new(RwLock::new(0));
        for how in 0..3 {
            let guard = lock.read().unwrap();
            let reader = |lock: &Arc<RwLock<i32>>| {
                let lock = lock.clone();
                waiting(move || *lock.read().unwrap())
            };
            let shared = lock.clone();
            let mut future = Box::pin(lock.write_async());
            let writer = match how {
                0 => waiting(move || std::io::Error::from(shared.write_timeout(LONG).unwrap_err())),
                1 => waiting(move || std::io::Error::from(shared.write_timeout(ms(5)).unwrap_err())),
                _ => {
                    assert!(poll_once(future.as_mut()).is_pending());
                    waiting(|| std::io::ErrorKind::TimedOut.into())
                }
            };
            let readers: Vec<_> = (0..100).map(|_| reader(&lock)).collect();
            thread::yield_now();
            assert!(how == 1 || !readers[0].is_finished());
            if how == 0 {
                writer.cancel();
            }
            drop(future);
            let error = writer.join().unwrap();
            assert_eq!(is_canceled(&error), how == 0);
            // The lock is still being read.
            readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), 0));
            assert!(lock.try_read().is_ok() && lock.try_write().is_err());
            drop(guard);
            assert!(lock.try_write().is_ok());
        }
    });
}

/// L6: whoever gives up as it is let in has the lock or has not, and in the end it is free.
pub fn l06_cancelled_as_it_is_let_in() {
    let rounds = scaled(1_000_000) / 4;
    duo(move || {
        let lock = Arc::new(RwLock::new(0));
        for round in 0..rounds {
            let guard = lock.write().unwrap();
            let before = *guard;
            let writer = thread::spawn({
                let lock = lock.clone();
                move || match lock.write_timeout(LONG) {
                    Ok(mut guard) => {
                        *guard += 1;
                        1
                    }
                    Err(error) => {
                        assert!(matches!(error, LockTimeoutError::Canceled), "{error:?}");
                        0
                    }
                }
            });
            let reader = thread::spawn({
                let lock = lock.clone();
                move || lock.read_timeout(LONG).map(|guard| *guard).ok()
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            match round % 4 {
                0 => {
                    drop(guard);
                    writer.cancel();
                }
                1 => {
                    writer.cancel();
                    drop(guard);
                }
                2 => {
                    drop(guard);
                    reader.cancel();
                }
                _ => {
                    reader.cancel();
                    drop(RwLockWriteGuard::downgrade(guard));
                }
            }
            // One that was cancelled before it started has no result.
            let wrote = writer.join().unwrap_or(0);
            let _ = reader.join();
            assert_eq!(*lock.try_write().expect("it is free"), before + wrote);
            assert!(round % 4 < 2 || wrote == 1, "nobody cancelled it");
        }
    });
}

/// L2: with its time over or not, each has the lock or has not.
pub fn l02_timeout_races_unlock() {
    let rounds = scaled(100_000);
    duo(move || {
        let lock = Arc::new(RwLock::new(0));
        let had = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (lock.clone(), had.clone());
        parties::all(5, move |party, n| {
            for round in 0..rounds {
                let limit = Duration::from_nanos((round * 97 + n * 13) as u64 % 5_000);
                let late = if (round + n) % 3 == 0 {
                    let guard = match party {
                        Party::Future => match poll_once(Box::pin(shared.write_async()).as_mut()) {
                            std::task::Poll::Ready(guard) => Ok(guard.unwrap()),
                            std::task::Poll::Pending => Err(LockTimeoutError::TimedOut),
                        },
                        _ => shared.write_timeout(limit),
                    };
                    guard
                        .map(|mut guard| {
                            *guard += 1;
                            counted.fetch_add(1, SeqCst);
                            if round % 8 == 0 {
                                thread::yield_now();
                            }
                        })
                        .map_err(|error| matches!(error, LockTimeoutError::TimedOut))
                } else {
                    shared
                        .read_timeout(limit)
                        .map(|_| ())
                        .map_err(|error| matches!(error, LockTimeoutError::TimedOut))
                };
                assert!(late != Err(false));
            }
        });
        assert_eq!(*lock.try_write().expect("it is free"), had.load(SeqCst));
    });
}

/// L14: a hundred thousand readers are let in at once, between two writes.
pub fn l14_many_readers() {
    let count = scaled(100_000);
    duo(move || {
        let lock = Arc::new(RwLock::new(0));
        let mut guard = lock.write().unwrap();
        let tasks = crowd(count, &lock, |lock| *lock.read().unwrap());
        *guard = 1;
        drop(guard);
        *lock.write().unwrap() = 2;
        // Those that had not come to their wait when the first write ended may have read the second.
        tasks.into_iter().for_each(|task| assert_ne!(task.join().unwrap(), 0));
        assert!(lock.try_write().is_ok());
    });
}

/// L14: wakers that lock what they are woken for: readers who are being let in keep no later one out, unless somebody waits to
/// write.
pub fn l14_wakers_that_lock() {
    for writer_waits in [false, true] {
        let lock = Arc::new(RwLock::new(0));
        let (read, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let waker = parties::waker({
            let (lock, read, refused) = (lock.clone(), read.clone(), refused.clone());
            move || {
                assert!(lock.try_write().is_err());
                let result = if lock.try_read().is_ok() { &read } else { &refused };
                result.fetch_add(1, SeqCst);
            }
        });
        let mut context = Context::from_waker(&waker);
        let guard = lock.write().unwrap();
        let mut readers: Vec<_> = (0..100).map(|_| Box::pin(lock.read_async())).collect();
        readers.iter_mut().for_each(|reader| assert!(reader.as_mut().poll(&mut context).is_pending()));
        let mut writer = Box::pin(lock.write_async());
        assert!(!writer_waits || poll_once(writer.as_mut()).is_pending());
        drop(guard);
        let woken = if writer_waits { (0, 100) } else { (100, 0) };
        assert_eq!((read.load(SeqCst), refused.load(SeqCst)), woken);
        for mut reader in readers {
            assert!(reader.as_mut().poll(&mut context).is_ready());
        }
        assert!(poll_once(writer.as_mut()).is_ready());
        assert!(lock.try_write().is_ok());
    }
}

/// Writers poison, readers do not; the value can be had all the same.
pub fn l06_poisoning() {
    solo(|| {
        let lock = Arc::new(RwLock::new(1));
        let panics = |write: bool| {
            let lock = lock.clone();
            let task = thread::spawn(move || {
                let (_read, _write);
                if write {
                    _write = lock.write().unwrap();
                } else {
                    _read = lock.read().unwrap();
                }
                std::panic::panic_any(());
            });
            assert!(task.join().is_err());
        };
        panics(false);
        assert!(!lock.is_poisoned());
        assert_eq!(*lock.read().unwrap(), 1);
        panics(true);
        assert!(lock.is_poisoned());
        assert_eq!(*lock.read().unwrap_err().into_inner(), 1);
        assert!(lock.write().is_err());
        assert!(matches!(lock.try_read(), Err(TryLockError::Poisoned(_))));
        assert!(matches!(lock.try_write(), Err(TryLockError::Poisoned(_))));
        assert!(matches!(lock.read_timeout(LONG), Err(LockTimeoutError::Poisoned(_))));
        assert!(matches!(lock.write_timeout(LONG), Err(LockTimeoutError::Poisoned(_))));
        assert!(block_on(lock.read_async()).is_err() && block_on(lock.write_async()).is_err());
        assert_eq!(format!("{lock:?}"), "RwLock { data: 1, poisoned: true, .. }");
        // Every guard above was dropped, which did not make it worse.
        lock.clear_poison();
        let writer = lock.write().unwrap();
        assert_eq!(format!("{lock:?}"), "RwLock { data: <locked>, poisoned: false, .. }");
        drop(writer);
        let mut lock = Arc::into_inner(lock).unwrap();
        *lock.get_mut().unwrap() += 1;
        assert_eq!(lock.into_inner().unwrap(), 2);
        // Of what has no size of its own.
        let slice: &RwLock<[u8]> = &RwLock::new([1, 2, 3]);
        slice.write().unwrap()[1] = 0;
        assert_eq!(*slice.read().unwrap(), [1, 0, 3]);
    });
}
