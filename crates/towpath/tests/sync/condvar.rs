//! L7, L14: the condition variable.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use towpath::sync::{Arc, Condvar, Mutex};
use towpath::thread;
use towpath::time::{Deadline, timeout};

use crate::common::{LONG, Log, assert_canceled, assert_timed_out, duo, ms, scaled, solo, until, waiting};
use crate::parties::{self, Party, block_on, poll_once};

/// L7: a store with room for a few, used by parties of all kinds, each of which also waits in ways that end early: what is
/// notified to one who gives up goes to another, or all would stand still.
pub fn l07_no_notification_is_lost() {
    const ROOM: usize = 2;
    let each = scaled(60_000) / 3;
    duo(move || {
        let store = Arc::new((Mutex::new(Vec::new()), Condvar::new(), Condvar::new()));
        let sum = Arc::new(AtomicUsize::new(0));
        let (shared, summed) = (store.clone(), sum.clone());
        // Three who put things in, and three who take them out.
        parties::all(6, move |party, n| {
            let (items, room, filled) = &*shared;
            let puts = n < 3;
            let (mine, others) = if puts { (room, filled) } else { (filled, room) };
            let idle = |items: &mut Vec<usize>| if puts { items.len() == ROOM } else { items.is_empty() };
            for step in 0..each {
                let mut guard = items.lock().unwrap();
                while idle(&mut guard) {
                    guard = match party {
                        Party::Future if step % 2 == 0 => {
                            // Given up as soon as it waits, or when it waits for the lock.
                            let mut waiting = Box::pin(mine.wait_async(guard));
                            let polled = poll_once(waiting.as_mut());
                            let polled = if step % 4 == 0 { poll_once(waiting.as_mut()) } else { polled };
                            drop(waiting);
                            match polled {
                                Poll::Ready(guard) => guard.unwrap(),
                                Poll::Pending => {
                                    std::thread::yield_now();
                                    items.lock().unwrap()
                                }
                            }
                        }
                        Party::Future => block_on(mine.wait_async(guard)).unwrap(),
                        _ if step % 3 == 0 => {
                            let limit = Duration::from_nanos((step * 9_973 + n * 13) as u64 % 200_000);
                            mine.wait_timeout(guard, limit).unwrap().0
                        }
                        _ if step % 3 == 1 => mine.wait_while(guard, |items| idle(items)).unwrap(),
                        _ => mine.wait(guard).unwrap(),
                    };
                }
                if puts {
                    guard.push(step);
                } else {
                    summed.fetch_add(guard.pop().unwrap(), SeqCst);
                }
                if step % 2 == 0 {
                    drop(guard);
                }
                others.notify_one();
            }
        });
        assert_eq!(sum.load(SeqCst), 3 * (each * (each - 1) / 2));
        assert!(store.0.try_lock().expect("it is free").is_empty());
    });
}

/// L7: who has waited for the longest is woken first; a notification that nobody waits for is lost, by design.
pub fn l07_in_order_and_not_kept() {
    solo(|| {
        let shared = Arc::new((Mutex::new(()), Condvar::new()));
        let log = Log::new();
        shared.1.notify_one();
        shared.1.notify_all();
        let waiters: Vec<_> = (0..4)
            .map(|n| {
                let (shared, log) = (shared.clone(), log.clone());
                waiting(move || {
                    let _guard = shared.1.wait(shared.0.lock().unwrap()).unwrap();
                    log.add(n);
                })
            })
            .collect();
        thread::yield_now();
        assert!(log.all().is_empty(), "notified before they waited");
        for n in 0..2 {
            shared.1.notify_one();
            until(|| log.len() > n);
            thread::yield_now();
            assert_eq!(log.all(), (0..=n).collect::<Vec<_>>());
        }
        shared.1.notify_all();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(log.all(), [0, 1, 2, 3]);
    });
}

/// L7, as documented: a task that is cancelled waits on until it is notified, or its time is over; then the lock is its.
pub fn l07_cancelling_ends_no_wait() {
    solo(|| {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let waiter = waiting({
            let shared = shared.clone();
            move || *shared.1.wait(shared.0.lock().unwrap()).unwrap()
        });
        waiter.cancel();
        for _ in 0..3 {
            thread::yield_now();
            assert!(!waiter.is_finished());
        }
        *shared.0.lock().unwrap() = 7;
        shared.1.notify_one();
        assert_eq!(waiter.join().unwrap(), 7);
        let timed = waiting({
            let shared = shared.clone();
            move || shared.1.wait_timeout(shared.0.lock().unwrap(), ms(5)).unwrap().1.timed_out()
        });
        timed.cancel();
        assert!(timed.join().unwrap());
        assert!(shared.0.try_lock().is_ok());
    });
}

/// L7: what can be cancelled is: the lock is free then, and a notification that came at that moment counts, or is the next one's.
pub fn l07_cancelled_as_it_is_notified() {
    solo(|| {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let waits = |shared: &Arc<(Mutex<i32>, Condvar)>| {
            let shared = shared.clone();
            move || Ok(*shared.1.wait_while_cancellable(shared.0.lock().unwrap(), |n| *n == 0)?)
        };
        let waiter = waiting(waits(&shared));
        waiter.cancel();
        assert_canceled(waiter.join().unwrap());
        assert!(shared.0.try_lock().is_ok());
        // A deadline is told as what it is; one that is over does not even wait.
        for limit in [ms(2), ms(0)] {
            assert_timed_out(timeout(limit, waits(&shared)));
            assert!(shared.0.try_lock().is_ok());
        }
        // What is the case already needs no wait, and so is not refused.
        *shared.0.lock().unwrap() = 1;
        let done = Deadline::after(ms(0)).run(waits(&shared));
        assert_eq!(done.unwrap(), 1);
    });
    duo(|| {
        for round in 0..scaled(40_000) {
            // How many have come, and what there is to be taken.
            let shared = Arc::new((Mutex::new((0, 0)), Condvar::new()));
            let takes = |shared: &Arc<(Mutex<(i32, i32)>, Condvar)>| {
                let shared = shared.clone();
                thread::spawn(move || -> io::Result<()> {
                    let mut state = shared.0.lock().unwrap();
                    state.0 += 1;
                    state = shared.1.wait_while_cancellable(state, |state| state.1 == 0)?;
                    state.1 -= 1;
                    Ok(())
                })
            };
            let tasks = [takes(&shared), takes(&shared)];
            until(|| shared.0.lock().unwrap().0 == 2);
            shared.0.lock().unwrap().1 = 1;
            let notifies = thread::spawn({
                let shared = shared.clone();
                move || shared.1.notify_one()
            });
            tasks[round % 2].cancel();
            // One takes it, whether it was notified or told by the one who gave up.
            until(|| shared.0.lock().unwrap().1 == 0);
            notifies.join().unwrap();
            tasks.iter().for_each(|task| task.cancel());
            let done = tasks.map(|task| task.join().unwrap());
            assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
            done.into_iter().filter(|done| done.is_err()).for_each(assert_canceled);
        }
    });
}

/// L7: futures that are dropped before they are polled, while they wait, when they have been notified, and while they wait
/// for the lock then: each time the lock is free, and the next in the queue has what was not used.
pub fn l07_a_dropped_future_passes_it_on() {
    let (lock, condvar) = (Mutex::new(()), Condvar::new());
    drop(condvar.wait_async(lock.lock().unwrap()));
    assert!(lock.try_lock().is_ok(), "never polled");
    for stage in 0..3 {
        let mut first = Box::pin(condvar.wait_async(lock.lock().unwrap()));
        assert!(poll_once(first.as_mut()).is_pending());
        let mut second = Box::pin(condvar.wait_async(lock.lock().unwrap()));
        assert!(poll_once(second.as_mut()).is_pending());
        let guard = lock.try_lock().expect("both wait without it");
        match stage {
            0 => {
                drop(first);
                condvar.notify_one();
            }
            1 => {
                condvar.notify_one();
                drop(first);
            }
            _ => {
                condvar.notify_one();
                assert!(poll_once(first.as_mut()).is_pending(), "the lock is held");
                drop(first);
            }
        }
        drop(guard);
        assert!(poll_once(second.as_mut()).is_ready(), "stage {stage}");
        assert!(lock.try_lock().is_ok());
    }
    // One that has used it does not pass it on.
    let mut first = Box::pin(condvar.wait_async(lock.lock().unwrap()));
    assert!(poll_once(first.as_mut()).is_pending());
    let mut second = Box::pin(condvar.wait_async(lock.lock().unwrap()));
    assert!(poll_once(second.as_mut()).is_pending());
    condvar.notify_one();
    assert!(poll_once(first.as_mut()).is_ready() && poll_once(second.as_mut()).is_pending());
}

/// The results of waits with a limit: notified, late, and the condition's.
pub fn l07_timeouts() {
    solo(|| {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let (lock, condvar) = &*shared;
        for limit in [ms(0), ms(2)] {
            let (guard, result) = condvar.wait_timeout(lock.lock().unwrap(), limit).unwrap();
            assert!(result.timed_out() && *guard == 0);
            drop(guard);
            let (guard, result) =
                condvar.wait_timeout_while(lock.lock().unwrap(), limit, |n| *n == 0).unwrap();
            assert!(result.timed_out() && *guard == 0);
            drop(guard);
            let (_guard, result) =
                condvar.wait_timeout_while(lock.lock().unwrap(), limit, |n| *n != 0).unwrap();
            assert!(!result.timed_out());
        }
        for limit in [LONG, Duration::MAX] {
            let steps = thread::spawn({
                let shared = shared.clone();
                move || {
                    for _ in 0..3 {
                        *shared.0.lock().unwrap() += 1;
                        shared.1.notify_one();
                        thread::yield_now();
                    }
                }
            });
            let (mut guard, result) =
                condvar.wait_timeout_while(lock.lock().unwrap(), limit, |n| *n < 3).unwrap();
            assert!(!result.timed_out() && *guard == 3);
            *guard = 0;
            drop(guard);
            steps.join().unwrap();
        }
        // With no time to wait it gives way to others all the same.
        let done = Arc::new(AtomicBool::new(false));
        let setter = thread::spawn({
            let done = done.clone();
            move || done.store(true, SeqCst)
        });
        while !done.load(SeqCst) {
            let _ = condvar.wait_timeout(lock.lock().unwrap(), ms(0)).unwrap();
        }
        setter.join().unwrap();
    });
}

/// One condition variable, two locks at the same time.
pub fn l07_with_two_locks() {
    solo(|| {
        let shared = Arc::new(([Mutex::new(()), Mutex::new(())], Condvar::new()));
        let waiters = [0, 1].map(|n| {
            let shared = shared.clone();
            waiting(move || drop(shared.1.wait(shared.0[n].lock().unwrap()).unwrap()))
        });
        shared.1.notify_all();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

/// Who waits learns that the lock was poisoned meanwhile, and has it.
pub fn l07_poisoning() {
    solo(|| {
        let shared = Arc::new((Mutex::new(1), Condvar::new()));
        let waiter = |timed: bool| {
            let shared = shared.clone();
            waiting(move || {
                let (lock, condvar) = &*shared;
                let guard = lock.lock().unwrap_or_else(|error| error.into_inner());
                if timed {
                    let (guard, result) = condvar.wait_timeout(guard, LONG).unwrap_err().into_inner();
                    assert!(!result.timed_out());
                    *guard
                } else {
                    *condvar.wait(guard).unwrap_err().into_inner()
                }
            })
        };
        let waiters = [waiter(false), waiter(true)];
        let mut future = Box::pin(shared.1.wait_async(shared.0.lock().unwrap()));
        assert!(poll_once(future.as_mut()).is_pending());
        let panicked = thread::spawn({
            let shared = shared.clone();
            move || {
                let mut guard = shared.0.lock().unwrap();
                *guard = 2;
                std::panic::panic_any(());
            }
        });
        assert!(panicked.join().is_err());
        shared.1.notify_all();
        waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), 2));
        assert!(matches!(poll_once(future.as_mut()), Poll::Ready(Err(_))));
    });
}

/// As the wait begins, the lock goes to a future whose waker panics: the panic comes out of the wait, which is over.
pub fn l07_a_waker_that_panics() {
    let waker = parties::waker(|| panic!("the waker"));
    let (lock, condvar) = (Mutex::new(()), Condvar::new());
    let waits = || {
        let guard = lock.lock().unwrap();
        let mut locking = Box::pin(lock.lock_async());
        assert!(locking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        (guard, locking)
    };
    let (guard, locking) = waits();
    let (guard, result) = condvar.wait_timeout(guard, ms(1)).unwrap();
    assert!(result.timed_out());
    drop(guard);
    assert!(poll_once(pin!(locking)).is_ready(), "the lock was given up");
    let (guard, locking) = waits();
    let mut waiting = pin!(condvar.wait_async(guard));
    assert!(poll_once(waiting.as_mut()).is_pending());
    assert!(poll_once(pin!(locking)).is_ready(), "the lock was given up");
    condvar.notify_one();
    assert!(poll_once(waiting).is_ready());
}

/// L14: a hundred thousand are notified at once.
pub fn l14_many_waiters() {
    let count = scaled(100_000);
    duo(move || {
        let shared = Arc::new((Mutex::new((0, false)), Condvar::new()));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let mut guard = shared.0.lock().unwrap();
                    guard.0 += 1;
                    drop(shared.1.wait_while(guard, |state| !state.1).unwrap());
                })
            })
            .collect();
        until(|| shared.0.lock().unwrap().0 == count);
        shared.0.lock().unwrap().1 = true;
        shared.1.notify_all();
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
}
