//! L4, L5: permits.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use towpath::sync::{Arc, Semaphore};
use towpath::{is_canceled, thread};

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, poll_once};

/// L4: cancelled as it is given permits, a waiter takes them or leaves them to the others.
pub fn l04_cancelled_as_it_is_given() {
    let rounds = scaled(1_000_000) / 4;
    duo(move || {
        let permits = Arc::new(Semaphore::new(3));
        let most = Arc::new(AtomicUsize::new(0));
        let shared = permits.clone();
        let seen = most.clone();
        parties::all(3, move |party, _| {
            for round in 0..rounds / 10 {
                let permit = match party {
                    Party::Future => block_on(shared.acquire_async(1 + round % 3)),
                    _ => shared.acquire(1 + round % 3),
                };
                let permit = permit.unwrap();
                let now = seen.fetch_add(permit.count(), SeqCst) + permit.count();
                assert!(now <= 3, "{now} at a time");
                if round % 16 == 0 {
                    thread::yield_now();
                }
                seen.fetch_sub(permit.count(), SeqCst);
            }
        });
        for round in 0..rounds {
            let all = permits.acquire(3).unwrap();
            let waiter = thread::spawn({
                let permits = permits.clone();
                move || match permits.acquire_timeout(2, LONG) {
                    Ok(permit) => permit.count(),
                    Err(error) => {
                        assert!(is_canceled(&error), "{error}");
                        0
                    }
                }
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            if round % 3 == 0 {
                drop(all);
                waiter.cancel();
            } else {
                waiter.cancel();
                drop(all);
            }
            let had = waiter.join().unwrap_or(0);
            assert!(had == 0 || had == 2);
            assert_eq!(permits.available_permits(), 3, "round {round}");
        }
    });
}

/// L5: more than there can be is an error; more than there are waits until they are added.
pub fn l05_impossible_numbers() {
    solo(|| {
        let permits = Semaphore::new(1);
        for result in [
            permits.acquire(Semaphore::MAX_PERMITS + 1).err(),
            permits.try_acquire(usize::MAX).err(),
            permits.acquire_timeout(usize::MAX, ms(1)).err(),
            block_on(permits.acquire_async(usize::MAX)).err(),
            permits.add_permits(usize::MAX).err(),
            permits.add_permits(Semaphore::MAX_PERMITS).err(),
        ] {
            assert_eq!(result.expect("refused").kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(permits.available_permits(), 1, "nothing was added");
        assert_eq!(permits.acquire_timeout(2, ms(1)).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(permits.try_acquire(2).unwrap_err().kind(), ErrorKind::WouldBlock);
        permits.add_permits(1).unwrap();
        assert_eq!(permits.acquire(2).unwrap().forget(), 2);
        assert_eq!(permits.available_permits(), 0);
        drop(permits.acquire(0).unwrap());
        assert!(std::panic::catch_unwind(|| Semaphore::new(usize::MAX)).is_err());
    });
}

/// L5: one who wants many gets them, though those who want one come all the time.
pub fn l05_big_waiters_are_not_starved() {
    solo(|| {
        let permits = Arc::new(Semaphore::new(10));
        let small: Vec<_> = (0..10)
            .map(|_| {
                let permits = permits.clone();
                waiting(move || -> std::io::Result<()> {
                    loop {
                        let _permit = permits.acquire(1)?;
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let big = permits.acquire_timeout(10, LONG).unwrap();
        assert_eq!(big.count(), 10);
        assert_eq!(permits.try_acquire(1).unwrap_err().kind(), ErrorKind::WouldBlock);
        small.iter().for_each(|task| task.cancel());
        drop(big);
        for task in small {
            assert!(is_canceled(&task.join().unwrap().unwrap_err()));
        }
    });
}

/// Who waits for little behind one who waits for much goes on when that one gives up.
pub fn a_big_waiter_that_leaves_lets_the_small_ones_by() {
    solo(|| {
        let permits = Arc::new(Semaphore::new(1));
        let mut big = Box::pin(permits.acquire_async(2));
        assert!(poll_once(big.as_mut()).is_pending());
        let small = waiting({
            let permits = permits.clone();
            move || permits.acquire(1).unwrap().count()
        });
        assert!(!small.is_finished());
        drop(big);
        assert_eq!(small.join().unwrap(), 1);
    });
}

/// Whoever waits is refused when it closes, and whoever comes.
pub fn closing_refuses_all() {
    solo(|| {
        let permits = Arc::new(Semaphore::new(1));
        let taken = permits.acquire(1).unwrap();
        let waiters: Vec<_> = (0..100)
            .map(|_| {
                let permits = permits.clone();
                waiting(move || permits.acquire(1).map(|_| ()).unwrap_err().kind())
            })
            .collect();
        permits.close();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), ErrorKind::BrokenPipe);
        }
        drop(taken);
        assert!(permits.is_closed());
        assert_eq!(permits.try_acquire(1).unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(block_on(permits.acquire_async(1)).unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}
