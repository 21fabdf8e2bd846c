//! B: sleeping and deadlines, at the level of tasks.

use std::cell::Cell;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use towpath::thread::{self, try_sleep};
use towpath::time::{deadline_at, timeout};
use towpath_harness::Rng;
use towpath_loop::op;

use crate::common::*;

/// B1: many tasks sleep for as long as they like: none is early, and none is kept waiting while its worker wakes others that are
/// due later.
pub fn b01_many_sleepers() {
    thread_local!(static LATEST: Cell<Option<Instant>> = const { Cell::new(None) });
    let mut behind = duo(|| {
        let mut rng = Rng::new(1);
        let tasks: Vec<_> = (0..scaled(100_000))
            .map(|_| {
                let duration = Duration::from_micros(rng.below(100_000));
                thread::spawn(move || {
                    let begun = Instant::now();
                    try_sleep(duration).unwrap();
                    let took = begun.elapsed();
                    assert!(took >= duration, "{duration:?} took {took:?}");
                    let due = begun + duration;
                    let latest = LATEST.get().map_or(due, |latest| latest.max(due));
                    LATEST.set(Some(latest));
                    latest - due
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect::<Vec<_>>()
    });
    let p99 = percentile(&mut behind, 0.99);
    assert!(p99 < ms(1), "{p99:?}");
}

/// H11, C18: a loop that takes no more operations keeps its deadlines all the same, and these take no room.
pub fn h11_deadlines_at_the_limit() {
    let loop_ = towpath_loop::Config::new().max_operations(2).build().unwrap();
    loop_.make_current();
    let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
    let here = towpath_loop::Socket::from(std::os::fd::OwnedFd::from(here));
    let recv = || op::recv(&here, &mut [0; 8]).wait();
    let first = loop_.start(op::recv(&here, vec![0; 8]));
    for nested in [false, true] {
        assert_timed_out(timeout(ms(5), || if nested { timeout(LONG, recv) } else { recv() }));
    }
    let second = loop_.start(op::recv(&here, vec![0; 8]));
    assert!(loop_.is_full());
    // What waits by itself ends in time; what would be one operation more is refused, and that is told.
    let begun = Instant::now();
    assert_timed_out(timeout(ms(5), thread::try_park));
    assert!(begun.elapsed() >= ms(5));
    assert_eq!(kind(timeout(LONG, recv)), std::io::ErrorKind::QuotaExceeded);
    drop((first, second));
    loop_.run().unwrap();
    assert!(!loop_.is_full() && loop_.in_flight() == 0);
    drop(towpath_loop::Loop::take_current());
}

/// B2: equal deadlines end their waits in the order in which those began.
pub fn b02_equal_deadlines_in_order() {
    solo(|| {
        let (log, at) = (Log::new(), towpath::Instant::now() + ms(30));
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let log = log.clone();
                waiting(move || {
                    assert_timed_out(deadline_at(at, || try_sleep(LONG)));
                    log.add(n);
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(log.all(), (0..50).collect::<Vec<_>>());
    });
}

/// B3: sleeping for no time returns, lets others run, and starves no I/O.
pub fn b03_zero_sleep() {
    solo(|| {
        try_sleep(Duration::ZERO).unwrap();
        let (stream, mut peer) = half();
        let reader = waiting(move || (&stream).read(&mut [0; 8]));
        peer.write_all(b"x").unwrap();
        let begun = Instant::now();
        while !reader.is_finished() {
            try_sleep(Duration::ZERO).unwrap();
            assert_quick(begun, Duration::from_secs(1));
        }
        assert_eq!(reader.join().unwrap().unwrap(), 1);
    });
}

/// B4: the longest waits never end by themselves, and can be cancelled.
pub fn b04_longest_waits() {
    solo(|| {
        for longest in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_millis(u64::MAX)] {
            let sleeper = waiting(move || try_sleep(longest));
            let limited = waiting(move || timeout(longest, || try_sleep(Duration::MAX)));
            let parked = waiting(move || thread::park_timeout(longest));
            let slept = waiting(move || thread::sleep(longest));
            try_sleep(ms(5)).unwrap();
            for task in [&sleeper, &limited] {
                assert!(!task.is_finished(), "{longest:?}");
                task.cancel();
            }
            assert!(!parked.is_finished() && !slept.is_finished(), "{longest:?}");
            parked.thread().unpark();
            slept.cancel();
            assert_canceled(sleeper.join().unwrap());
            assert_canceled(limited.join().unwrap());
            parked.join().unwrap();
            slept.join().unwrap();
            // What does not wait is not disturbed.
            assert_eq!(timeout(longest, || Ok(1)).unwrap(), 1);
        }
        let never = towpath::Instant::now() + Duration::MAX;
        assert_eq!(deadline_at(never, || try_sleep(ms(1)).map(|()| 2)).unwrap(), 2);
    });
    // On plain threads as well.
    let me = thread::current();
    me.unpark();
    thread::park_timeout(Duration::MAX);
    assert_eq!(timeout(Duration::MAX, || try_sleep(ms(1)).map(|()| 3)).unwrap(), 3);
}

/// B9: a worker that sleeps until later wakes for what another thread wants earlier.
pub fn b09_earlier_timer_from_another_thread() {
    let runtime = runtime(2);
    let later = runtime.handle().spawn(|| try_sleep(LONG));
    for _ in 0..20 {
        let (begun, duration) = (Instant::now(), ms(5));
        runtime.handle().spawn(move || try_sleep(duration)).join().unwrap().unwrap();
        assert!(begun.elapsed() >= duration);
        assert_quick(begun, ms(500));
    }
    later.cancel();
    assert_canceled(later.join().unwrap());
}

/// B13: time that is spent computing is not taken off a sleep that begins afterwards.
pub fn b13_computing_makes_no_sleep_early() {
    solo(|| {
        for _ in 0..5 {
            let begun = Instant::now();
            while begun.elapsed() < ms(50) {
                std::hint::spin_loop();
            }
            let begun = Instant::now();
            try_sleep(ms(10)).unwrap();
            assert!(begun.elapsed() >= ms(10));
            let begun = Instant::now();
            std::thread::sleep(ms(20));
            let inner = Instant::now();
            assert_timed_out(timeout(ms(10), || try_sleep(LONG)));
            assert!(inner.elapsed() >= ms(10), "{:?}", begun.elapsed());
        }
    });
}

/// B14: the shortest sleeps are not early, and not long.
pub fn b14_short_sleeps() {
    let check = || {
        for duration in [Duration::from_nanos(1), Duration::from_micros(100), Duration::from_micros(1500)] {
            for _ in 0..20 {
                let begun = Instant::now();
                try_sleep(duration).unwrap();
                assert!(begun.elapsed() >= duration);
                let begun = Instant::now();
                thread::park_timeout(duration);
                assert!(begun.elapsed() >= duration);
                let begun = Instant::now();
                assert_timed_out(timeout(duration, || try_sleep(LONG)));
                assert!(begun.elapsed() >= duration);
                assert_quick(begun, ms(300));
            }
        }
    };
    solo(check);
    std::thread::spawn(check).join().unwrap();
}
