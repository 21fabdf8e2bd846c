//! L13, L14: meetings.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use towpath::sync::{Arc, Barrier};
use towpath::{is_canceled, thread};

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, poll_once};

/// L13: meeting after meeting, with parties of all kinds, some of which leave and come again first: at each all are there,
/// and one leads.
pub fn l13_meetings_again_and_again() {
    const PARTIES: usize = 6;
    let meetings = scaled(100_000) / 10;
    duo(move || {
        let barrier = Arc::new(Barrier::new(PARTIES));
        let came = Arc::new(AtomicUsize::new(0));
        let led = Arc::new(AtomicUsize::new(0));
        let (shared, counted, leaders) = (barrier.clone(), came.clone(), led.clone());
        parties::all(PARTIES, move |party, n| {
            for meeting in 0..meetings {
                counted.fetch_add(1, SeqCst);
                let limit = Duration::from_nanos((meeting * 97 + n * 13) as u64 % 20_000);
                let result = match party {
                    Party::Future => block_on(shared.wait_async()),
                    _ if meeting % 3 == n % 3 => shared.wait_timeout(limit).unwrap_or_else(|error| {
                        assert_eq!(error.kind(), ErrorKind::TimedOut);
                        shared.wait()
                    }),
                    _ => shared.wait(),
                };
                leaders.fetch_add(usize::from(result.is_leader()), SeqCst);
                assert!(counted.load(SeqCst) >= (meeting + 1) * PARTIES, "not all are there");
            }
        });
        assert_eq!(led.load(SeqCst), meetings);
        assert_eq!(came.load(SeqCst), meetings * PARTIES);
        // Nobody is counted for the next.
        for _ in 1..PARTIES {
            assert!(poll_once(Box::pin(barrier.wait_async()).as_mut()).is_pending());
        }
    });
}

/// L13, as documented: who gives up is not counted, in whichever way; who is not cancellable waits on.
pub fn l13_one_who_gives_up_is_not_counted() {
    solo(|| {
        let barrier = Arc::new(Barrier::new(3));
        let come = || {
            let barrier = barrier.clone();
            waiting(move || barrier.wait_timeout(LONG).map(|result| result.is_leader()))
        };
        for how in 0..3 {
            let first = waiting({
                let barrier = barrier.clone();
                move || barrier.wait().is_leader()
            });
            first.cancel();
            match how {
                0 => {
                    let quitter = come();
                    quitter.cancel();
                    assert!(is_canceled(&quitter.join().unwrap().unwrap_err()));
                }
                1 => {
                    let error = barrier.wait_timeout(ms(1)).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::TimedOut);
                }
                _ => {
                    let mut future = Box::pin(barrier.wait_async());
                    assert!(poll_once(future.as_mut()).is_pending());
                    drop(future);
                    drop(barrier.wait_async());
                }
            }
            let second = come();
            thread::yield_now();
            assert!(!first.is_finished() && !second.is_finished(), "two are not three");
            // The last need not wait, and has no time to.
            assert!(barrier.wait_timeout(ms(0)).unwrap().is_leader());
            assert!(!first.join().unwrap() && !second.join().unwrap().unwrap());
        }
        // One who is cancelled does not come, though it would be the last.
        let others = [come(), come()];
        let canceled = waiting({
            let barrier = barrier.clone();
            move || {
                while thread::try_sleep(ms(1)).is_ok() {}
                barrier.wait_timeout(LONG).map(|_| ())
            }
        });
        thread::yield_now();
        canceled.cancel();
        assert!(is_canceled(&canceled.join().unwrap().unwrap_err()));
        assert!(others.iter().all(|task| !task.is_finished()));
        assert!(block_on(barrier.wait_async()).is_leader());
        others.into_iter().for_each(|task| assert!(!task.join().unwrap().unwrap()));
        for size in [0, 1] {
            let alone = Barrier::new(size);
            assert!(alone.wait().is_leader() && alone.wait().is_leader());
        }
    });
}

/// L13: cancelled as the last one comes, a task has met the others, or they wait for another.
pub fn l13_cancelled_as_they_meet() {
    let rounds = scaled(1_000_000) / 4;
    duo(move || {
        let barrier = Arc::new(Barrier::new(2));
        for round in 0..rounds {
            let task = thread::spawn({
                let barrier = barrier.clone();
                move || barrier.wait_timeout(LONG).is_ok()
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            task.cancel();
            let met = barrier.wait_timeout(ms(0)).is_ok();
            assert_eq!(task.join().unwrap_or(false), met, "round {round}");
        }
    });
}

/// L14: a hundred thousand meet.
pub fn l14_many_meet() {
    let count = scaled(100_000);
    duo(move || {
        let barrier = Arc::new(Barrier::new(count));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let barrier = barrier.clone();
                thread::spawn(move || (0..2).filter(|_| barrier.wait().is_leader()).count())
            })
            .collect();
        assert_eq!(tasks.into_iter().map(|task| task.join().unwrap()).sum::<usize>(), 2);
    });
}
