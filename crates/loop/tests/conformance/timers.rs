//! B: timers. Never early, in order, cheap, and no obstacle to anything else.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::{Rng, sys};
use towpath_loop::{Instant, Loop, Socket, is_canceled, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// B1: 100 000 timers within 100 ms: all fire, none early, nearly all in time.
pub fn b01_many_random_timers() {
    const N: usize = 100_000;
    let loop_ = new_loop();
    let mut rng = Rng::new(1);
    let lateness = Rc::new(RefCell::new(Vec::with_capacity(N)));
    let fired = Rc::new(Cell::new(0));
    // Beginning so many takes a while, and those that are due by then would be late through no fault of the loop: the
    // 100 ms begin later.
    let lead = Duration::from_millis(200);
    // In this order: what is early by the second clock is early by the first.
    let std_start = StdInstant::now() + lead;
    let start = Instant::now() + lead;
    let yardstick = Yardstick::start();
    for _ in 0..N {
        let delay = Duration::from_nanos(rng.below(100_000_000));
        let due = std_start + delay;
        let (lateness, fired) = (lateness.clone(), fired.clone());
        loop_.submit(op::timer_at(start + delay), move |_, outcome| {
            let now = StdInstant::now();
            outcome.unwrap();
            assert!(now >= due, "{:?} early", due - now);
            fired.set(fired.get() + 1);
            lateness.borrow_mut().push(now - due);
        });
    }
    loop_.run().unwrap();
    assert_eq!(fired.get(), N);
    // On a machine with nothing else to do it is well below 5 ms; a neighbour's time slice is longer.
    let limit = yardstick.allow(20 * MS, Duration::ZERO);
    let p99 = percentile(&mut lateness.borrow_mut(), 0.99);
    assert!(p99 < limit, "99 % within {p99:?}, limit {limit:?}");
}

/// B2: equal deadlines fire in the order of their beginning, whatever is cancelled between them.
pub fn b02_equal_deadlines_in_order() {
    let loop_ = new_loop();
    for delay in [Duration::ZERO, Duration::from_micros(300), 7 * MS, 70 * MS] {
        let at = Instant::now() + delay;
        let log = Log::new();
        let mut doomed = Vec::new();
        for index in 0..1000 {
            let log = log.clone();
            let id = loop_.submit(op::timer_at(at), move |_, outcome| {
                if !canceled(outcome) {
                    log.add(index)
                }
            });
            if index % 7 == 3 {
                doomed.push(id);
            }
        }
        for id in doomed {
            loop_.cancel(id);
        }
        loop_.run().unwrap();
        assert_eq!(log.all(), (0..1000).filter(|index| index % 7 != 3).collect::<Vec<_>>());
    }
}

/// B3: zero and past deadlines: on the next tick, not inline, after I/O that was there, and not for ever in its way.
pub fn b03_zero_and_past_deadlines() {
    let loop_ = new_loop();
    let past = Instant::now();
    while past.elapsed() < MS {}
    for at in [op::timer(Duration::ZERO), op::timer_at(past)] {
        let (fate, fated) = Fate::new();
        loop_.submit(at, move |_, outcome| {
            outcome.unwrap();
            fated.call();
        });
        assert_eq!(fate.called(), 0, "inline");
        poke(&loop_);
        assert_eq!(fate.calls(), 1, "not on the next tick");
    }
    // The data were there, and the read began, before the timer.
    let (socket, mut peer) = half_unix();
    let log = Log::new();
    for _ in 0..100 {
        peer.write_all(b"x").unwrap();
        let (one, two) = (log.clone(), log.clone());
        loop_.submit(op::recv(&socket, vec![0; 8]), move |_, _| one.add("read"));
        loop_.submit(op::timer(Duration::ZERO), move |_, _| two.add("timer"));
        loop_.run().unwrap();
        assert_eq!(log.all(), ["read", "timer"]);
        log.take();
    }
}

/// B4: the greatest durations saturate: no panic, not early, and they can be cancelled.
pub fn b04_extreme_durations() {
    let loop_ = current_loop();
    assert_eq!(Instant::now() + Duration::MAX, Instant::NEVER);
    assert_eq!(Instant::NEVER + Duration::MAX, Instant::NEVER);
    assert_eq!(Instant::now() - Instant::NEVER, Duration::ZERO);
    let (socket, mut peer) = half_unix();
    let years = |n: u64| Duration::from_secs(n * 365 * 24 * 3600);
    let durations = [
        Duration::MAX,
        Duration::from_millis(u64::MAX),
        Duration::from_nanos(u64::MAX),
        years(68),
        years(580),
    ];
    let tickets: Vec<_> = durations.iter().map(|duration| loop_.start(op::timer(*duration))).collect();
    let at = [Instant::NEVER, Instant::now() + years(300)];
    let more: Vec<_> = at.iter().map(|at| loop_.start(op::timer_at(*at))).collect();
    for wait in durations {
        // Each of these must sleep, and wake for the nearer timer; the wait's own limit is as extreme.
        let near = loop_.start(op::timer(2 * MS));
        let begun = StdInstant::now();
        let before = loop_.stats().completed;
        while loop_.stats().completed == before {
            loop_.tick(Some(wait)).unwrap();
        }
        near.take().unwrap().unwrap();
        assert!(begun.elapsed() >= 2 * MS - Duration::from_micros(50));
        // A time-out as extreme on something else.
        peer.write_all(b"x").unwrap();
        assert_eq!(op::recv(&socket, &mut [0; 8]).timeout(wait).wait().unwrap(), 1);
    }
    for mut ticket in tickets.into_iter().chain(more) {
        assert!(ticket.try_take().is_none(), "fired");
        assert!(loop_.cancel(ticket.id()));
        assert!(is_canceled(&error(ticket.take().unwrap())));
    }
    drop(Loop::take_current());
}

/// B5: a timer that starts itself again with no delay leaves room for other timers and for I/O.
pub fn b05_restarting_timer_starves_nobody() {
    fn again(loop_: &Loop, left: u64, rounds: Rc<Cell<u64>>) {
        rounds.set(rounds.get() + 1);
        if left > 0 {
            loop_.submit(op::timer(Duration::ZERO), move |loop_, _| again(loop_, left - 1, rounds));
        }
    }
    fn echo(loop_: &Loop, socket: Socket, served: Rc<Cell<u64>>) {
        let to = socket.clone();
        loop_.submit(op::recv(&socket, vec![0; 1]), move |loop_, outcome| {
            let (n, byte) = outcome.unwrap();
            if n > 0 {
                loop_.submit(op::send(&to, byte), |_, _| ());
                served.set(served.get() + 1);
                echo(loop_, to, served);
            }
        });
    }
    fn every_ms(loop_: &Loop, fired: Rc<Cell<u64>>, rounds: Rc<Cell<u64>>, last: u64) {
        loop_.submit(op::timer(MS), move |loop_, _| {
            fired.set(fired.get() + 1);
            if rounds.get() < last {
                every_ms(loop_, fired, rounds, last);
            }
        });
    }
    let loop_ = new_loop();
    let n = scaled(1_000_000);
    let (rounds, served, fired) = <(Rc<Cell<u64>>, Rc<Cell<u64>>, Rc<Cell<u64>>)>::default();
    let (socket, mut peer) = half_unix();
    echo(&loop_, socket, served.clone());
    every_ms(&loop_, fired.clone(), rounds.clone(), n);
    let client = std::thread::spawn(move || {
        let mut worst = Duration::ZERO;
        for _ in 0..100 {
            let begun = StdInstant::now();
            peer.write_all(b"x").unwrap();
            peer.read_exact(&mut [0]).unwrap();
            worst = worst.max(begun.elapsed());
        }
        (worst, sys::cpu_wait())
    });
    let (begun, yardstick) = (StdInstant::now(), Yardstick::start());
    again(&loop_, n, rounds.clone());
    loop_.run().unwrap();
    let took = begun.elapsed();
    let (worst, waited) = client.join().unwrap();
    let limit = yardstick.allow(10 * MS, waited);
    assert_eq!((rounds.get(), served.get()), (n + 1, 100));
    assert!(worst < limit, "an echo took {worst:?}, limit {limit:?}");
    // A 1 ms timer may be late by a round, and by what the machine does.
    assert!(
        fired.get() as u128 >= took.saturating_sub(limit).as_millis() / 20,
        "{} in {took:?}",
        fired.get()
    );
}

/// B6: cancelled in the turn in which it expires: one outcome, and the one that `cancel` told.
pub fn b06_cancel_races_expiry() {
    let loop_ = new_loop();
    for delay in [Duration::ZERO, Duration::from_micros(20)] {
        for round in 0..500 {
            let at = Instant::now() + delay;
            let outcomes = Log::new();
            let ids = Rc::new(RefCell::new(Vec::new()));
            let told = Rc::new(Cell::new(false));
            for index in 0..3 {
                let (outcomes, all, told) = (outcomes.clone(), ids.clone(), told.clone());
                let id = loop_.submit(op::timer_at(at), move |loop_, outcome| {
                    outcomes.add((index, canceled(outcome)));
                    if index == 0 {
                        told.set(loop_.cancel(all.borrow()[1]));
                    }
                });
                ids.borrow_mut().push(id);
            }
            if round % 2 == 0 {
                // Its time has come, but no tick has seen it.
                while Instant::now() <= at {}
                let told = loop_.cancel(ids.borrow()[2]);
                loop_.run().unwrap();
                assert!(told && outcomes.all().contains(&(2, true)), "{:?}", outcomes.all());
            } else {
                loop_.run().unwrap();
                assert!(outcomes.all().contains(&(2, false)));
            }
            assert_eq!(outcomes.len(), 3);
            assert!(
                outcomes.all().contains(&(1, told.get())),
                "cancel said {}, {:?}",
                told.get(),
                outcomes.all()
            );
        }
    }
}

/// B8: 100 000 timers, made and cancelled over and over: no growth, and no more than a little dearer each.
pub fn b08_insert_and_cancel() {
    fn turn(loop_: &Loop, count: u64, rng: &mut Rng) -> Duration {
        let begun = sys::thread_cpu_time();
        let ids: Vec<_> = (0..count)
            .map(|_| loop_.submit(op::timer(Duration::from_nanos(rng.bits() >> 16)), |_, _| ()))
            .collect();
        for id in ids {
            loop_.cancel(id);
        }
        loop_.run().unwrap();
        sys::thread_cpu_time() - begun
    }
    let loop_ = new_loop();
    let mut rng = Rng::new(8);
    turn(&loop_, 100_000, &mut rng);
    let small = (0..5).map(|_| turn(&loop_, 10_000, &mut rng)).min().unwrap();
    sys::release_free_memory();
    let before = sys::resident();
    let large = (0..scaled(100).max(5)).map(|_| turn(&loop_, 100_000, &mut rng)).min().unwrap();
    sys::release_free_memory();
    let after = sys::resident();
    assert!(after < before + (2 << 20), "{before} bytes became {after}");
    assert!(large < 20 * small, "10 000 took {small:?}, 100 000 took {large:?}");
    assert_eq!((loop_.stats().timers, loop_.in_flight()), (0, 0));
    // The loop's own memory goes with it: the harness looks.
}

/// B9: an earlier timer from another thread ends the sleep for a later one.
pub fn b09_earlier_timer_from_another_thread() {
    let loop_ = new_loop();
    let remote = loop_.remote();
    let (late, early) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let mut ticket = loop_.start(op::timer(Duration::from_secs(60)));
    let tid = sys::tid();
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        for _ in 0..20 {
            sys::wait_until_asleep(tid);
            let (send, begun) = (send.clone(), StdInstant::now());
            remote.submit(op::timer(5 * MS), move |_, _| send.send(begun.elapsed()).unwrap()).unwrap();
            // The next one when this one has fired.
            while !remote_is_idle(&remote) {}
        }
    });
    fn remote_is_idle(remote: &towpath_loop::Remote) -> bool {
        let (send, receive) = std::sync::mpsc::channel();
        remote.run(move |loop_| send.send(loop_.in_flight()).unwrap()).unwrap();
        receive.recv().unwrap() == 1
    }
    while early.get() < 20 {
        loop_.tick(None).unwrap();
        while let Ok(took) = receive.try_recv() {
            assert!(took >= 5 * MS && took < towpath_harness::patience(Duration::from_secs(1)), "{took:?}");
            early.set(early.get() + 1);
        }
    }
    // The thread's last questions.
    while !thread.is_finished() {
        loop_.tick(Some(MS)).unwrap();
    }
    thread.join().unwrap();
    late.set(ticket.try_take().is_some());
    assert!(!late.get());
}

/// B13: a callback that computes for 50 ms does not make timers that begin after it early.
pub fn b13_busy_callback_makes_no_timer_early() {
    let loop_ = new_loop();
    let log = Log::new();
    let to = log.clone();
    loop_.submit(op::next_tick(), move |loop_, _| {
        let begun = StdInstant::now();
        while begun.elapsed() < 50 * MS {}
        let begun = StdInstant::now();
        loop_.submit(op::timer(10 * MS), move |_, _| to.add(begun.elapsed()));
    });
    loop_.run().unwrap();
    assert!(log.all()[0] >= 10 * MS, "{:?}", log.all());
}

/// B14: timers shorter than a millisecond are not early, and not rounded to nothing.
pub fn b14_short_timers() {
    let _loop = current_loop();
    for duration in [1, 1_000, 100_000, 999_999, 1_000_001].map(Duration::from_nanos) {
        for _ in 0..50 {
            let begun = StdInstant::now();
            op::timer(duration).wait().unwrap();
            assert!(begun.elapsed() >= duration, "{duration:?} took {:?}", begun.elapsed());
            let (socket, _peer) = unix();
            let begun = StdInstant::now();
            assert_timed_out(op::recv(&socket, &mut [0; 8]).timeout(duration).wait());
            assert!(begun.elapsed() >= duration, "{duration:?} took {:?}", begun.elapsed());
        }
    }
    drop(Loop::take_current());
}
