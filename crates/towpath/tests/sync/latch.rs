//! L12, L14: counting down.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use towpath::sync::{Arc, Latch};
use towpath::{is_canceled, thread};

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, poll_once};

/// L12: whoever goes on finds all of them there, time after time, whatever kind they are of.
pub fn l12_all_have_arrived() {
    const PARTIES: usize = 6;
    let rounds = scaled(200_000) / 10;
    duo(move || {
        let latches: Arc<Vec<_>> = Arc::new((0..rounds).map(|_| Latch::new(PARTIES)).collect());
        let arrived = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (latches.clone(), arrived.clone());
        parties::all(PARTIES, move |party, n| {
            for (round, latch) in shared.iter().enumerate() {
                counted.fetch_add(1, SeqCst);
                match party {
                    Party::Future => {
                        latch.count_down(1);
                        // One who gives up is in nobody's way.
                        let _ = poll_once(Box::pin(latch.wait_async()).as_mut());
                        block_on(latch.wait_async());
                    }
                    _ if (round + n) % 3 == 0 => {
                        latch.count_down(1);
                        latch.wait_timeout(LONG).unwrap();
                    }
                    _ => latch.arrive_and_wait().unwrap(),
                }
                let arrived = counted.load(SeqCst);
                assert!(arrived >= (round + 1) * PARTIES, "{arrived} in round {round}");
            }
        });
        assert!(latches.iter().all(|latch| latch.count() == 0));
    });
}

/// L12: several at once, more than are left, none at all; time-outs and cancellation.
pub fn l12_counting() {
    solo(|| {
        let latch = Arc::new(Latch::new(5));
        latch.count_down(0);
        assert_eq!(latch.count(), 5);
        latch.count_down(3);
        assert_eq!(latch.wait_timeout(ms(1)).unwrap_err().kind(), ErrorKind::TimedOut);
        let wait = || {
            let latch = latch.clone();
            waiting(move || latch.wait())
        };
        let (waiter, canceled) = (wait(), wait());
        canceled.cancel();
        assert!(is_canceled(&canceled.join().unwrap().unwrap_err()));
        let arrives = waiting({
            let latch = latch.clone();
            move || latch.arrive_and_wait()
        });
        assert!(latch.count() == 1 && !arrives.is_finished() && !waiter.is_finished());
        latch.count_down(usize::MAX);
        latch.count_down(1);
        assert_eq!(latch.count(), 0);
        waiter.join().unwrap().unwrap();
        arrives.join().unwrap().unwrap();
        latch.wait().unwrap();
        Latch::new(0).wait().unwrap();
        assert_eq!(format!("{latch:?}"), "Latch { count: 0, .. }");
    });
}

/// L14: a hundred thousand go on when the last of them has come.
pub fn l14_many_waiters() {
    let count = scaled(100_000);
    duo(move || {
        let latch = Arc::new(Latch::new(count));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let latch = latch.clone();
                thread::spawn(move || latch.arrive_and_wait())
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap().unwrap());
    });
}
