//! L12, L14: the event.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use towpath::sync::{Arc, Event};
use towpath::thread;

use crate::common::{LONG, duo, ms, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, crowd, poll_once};

/// L12: setters, resetters and waiters of all kinds; nobody misses a set that nobody resets.
pub fn l12_set_and_reset() {
    let rounds = scaled(200_000);
    duo(move || {
        let (ping, pong) = (Arc::new(Event::new()), Arc::new(Event::new()));
        let turns = Arc::new(AtomicUsize::new(0));
        let (events, counted) = ([ping.clone(), pong.clone()], turns.clone());
        let wait = |party: Party, event: &Event| match party {
            Party::Future => block_on(event.wait_async()),
            Party::Thread => event.wait_timeout(LONG).unwrap(),
            Party::Task => event.wait().unwrap(),
        };
        // A task and a thread, then a thread and a future.
        for shift in [0, 1] {
            let (events, counted) = (events.clone(), counted.clone());
            ping.set();
            parties::all(2 + shift, move |party, n| {
                let Some(n) = n.checked_sub(shift) else { return };
                for _ in 0..rounds {
                    wait(party, &events[n]);
                    assert!(events[n].reset(), "nobody else resets it");
                    counted.fetch_add(1, SeqCst);
                    events[1 - n].set();
                }
            });
            assert!(ping.reset() && !pong.is_set());
        }
        assert_eq!(turns.load(SeqCst), 4 * rounds);
    });
}

/// L12: who waits when it is set goes on, though it is reset before it has run; who comes after the reset waits.
pub fn l12_reset_lets_go_those_who_waited() {
    solo(|| {
        let event = Arc::new(Event::new());
        let wait = || {
            let event = event.clone();
            waiting(move || event.wait().unwrap())
        };
        let early: Vec<_> = (0..100).map(|_| wait()).collect();
        event.set();
        event.reset();
        let late = wait();
        for waiter in early {
            waiter.join().unwrap();
        }
        thread::yield_now();
        assert!(!late.is_finished());
        assert_eq!(event.wait_timeout(ms(1)).unwrap_err().kind(), ErrorKind::TimedOut);
        let mut future = Box::pin(event.wait_async());
        assert!(poll_once(future.as_mut()).is_pending());
        event.set();
        event.reset();
        assert!(poll_once(future.as_mut()).is_ready());
        late.join().unwrap();
        event.set();
        event.set();
        event.wait().unwrap();
        assert!(event.reset() && !event.reset());
    });
}

/// L12: whether the time was over or the event was set is decided once, and nobody is left in the queue.
pub fn l12_timeout_or_wake() {
    let rounds = scaled(100_000);
    duo(move || {
        let event = Arc::new(Event::new());
        let setter = thread::spawn({
            let event = event.clone();
            move || {
                loop {
                    event.set();
                    event.reset();
                    if thread::try_sleep(Duration::from_micros(20)).is_err() {
                        return;
                    }
                }
            }
        });
        let (mut set, mut late) = (0, 0);
        for round in 0..rounds / 10 {
            match event.wait_timeout(Duration::from_micros(round as u64 % 60)) {
                Ok(()) => set += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TimedOut);
                    late += 1;
                }
            }
        }
        setter.cancel();
        setter.join().unwrap();
        assert_eq!(set + late, rounds / 10);
    });
}

/// L14: a hundred thousand are woken at once, by one who is woken with them.
pub fn l14_many_waiters() {
    let count = scaled(100_000);
    duo(move || {
        let event = Arc::new(Event::new());
        let tasks = crowd(count, &event, |event| {
            event.wait().unwrap();
            event.set();
        });
        event.set();
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
}
