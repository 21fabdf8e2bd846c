//! L18: intervals, clocks, timers that are moved or kept in the background.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use towpath_harness::{Rng, sys};
use towpath_loop::op::{self, Clock, Interval, MissedTicks};
use towpath_loop::{Event, Instant, Loop};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A2: what is in the background does not keep the loop running, but goes on while something else does.
pub fn a02_background_timer() {
    let loop_ = new_loop();
    let fired = Rc::new(Cell::new(0));
    let count = |n: u32| {
        let fired = fired.clone();
        move |_: &Loop, outcome: std::io::Result<()>| {
            outcome.unwrap();
            fired.set(fired.get() + n);
        }
    };
    let id = loop_.submit(op::timer(MS), count(1));
    assert!(loop_.set_background(id, true));
    loop_.run().unwrap();
    assert_eq!((fired.get(), loop_.in_flight()), (0, 1), "run returns at once");
    loop_.submit(op::timer(3 * MS), count(10));
    loop_.run().unwrap();
    assert_eq!((fired.get(), loop_.in_flight()), (11, 0));
    assert!(!loop_.set_background(id, true), "it is over");
    // In a group, with members that begin later; and back again.
    let (fate, fated) = Fate::new();
    let event = Event::new();
    let group = op::gather((op::timer(MS).soft(), op::gather((event.notified(), op::next_tick()))));
    let id = loop_.submit(group, move |_, _| fated.call());
    assert!(loop_.set_background(id, true));
    loop_.run().unwrap();
    loop_.submit(op::timer(2 * MS), |_, _| ());
    loop_.run().unwrap();
    loop_.run().unwrap();
    assert_eq!((fate.called(), loop_.in_flight()), (0, 3));
    assert!(loop_.set_background(id, false));
    event.notify();
    loop_.run().unwrap();
    assert_eq!((fate.calls(), loop_.in_flight()), (1, 0));
    // Cancelled and removed, they are not counted any more.
    for remove in [false, true] {
        let id = loop_.submit(op::timer(DAY), |_, outcome| assert!(canceled(outcome)));
        assert!(loop_.set_background(id, true));
        if remove {
            loop_.remove(id)
        } else {
            loop_.cancel(id)
        };
        loop_.run().unwrap();
        poke(&loop_);
        assert_eq!(loop_.in_flight(), 0);
    }
}

/// B7: a timer that was begun can be moved, sooner or later, and fires once.
pub fn b07_moved_timers_fire_once() {
    let loop_ = new_loop();
    let mut rng = Rng::new(7);
    let fired = Rc::new(Cell::new(0));
    let start = Instant::now();
    for _ in 0..1000 {
        let due = Rc::new(Cell::new(start));
        let (fired, at) = (fired.clone(), due.clone());
        let id = loop_.submit(op::timer(DAY), move |loop_, outcome| {
            outcome.unwrap();
            assert!(loop_.clock() >= at.get(), "early");
            fired.set(fired.get() + 1);
        });
        for _ in 0..3 {
            due.set(start + Duration::from_nanos(rng.below(20_000_000)));
            assert!(loop_.reset(id, due.get()));
        }
    }
    loop_.run().unwrap();
    assert_eq!(fired.get(), 1000);
    // Too late; and the time-out of something else.
    let id = loop_.submit(op::timer(Duration::ZERO), |loop_, _| loop_.stop());
    loop_.run().unwrap();
    assert!(!loop_.reset(id, Instant::now() + DAY));
    let (socket, _peer) = half_unix();
    let id = loop_.submit(op::recv(&socket, vec![0; 8]).timeout(DAY), |_, outcome| assert_timed_out(outcome));
    assert!(loop_.reset(id, Instant::now() + MS));
    loop_.run().unwrap();
    let id = loop_.submit(op::timer(DAY), |_, outcome| assert!(canceled(outcome)));
    assert!(loop_.reset(id, Instant::NEVER) && loop_.cancel(id));
    assert!(!loop_.reset(id, Instant::now()), "it is to end already");
    loop_.run().unwrap();
}

/// B10, as far as it goes without a second clock: timers on each clock, by that clock, never early.
pub fn b10_clocks() {
    let loop_ = current_loop();
    for clock in [Clock::Monotonic, Clock::Boot, Clock::Real] {
        for delay in [Duration::ZERO, 2 * MS] {
            let at = clock.now() + delay;
            op::timer_on(clock, at).wait().unwrap();
            assert!(clock.now() >= at, "{clock:?} {delay:?}");
        }
        // Long past, and for ever; with others under way.
        op::timer_on(clock, Duration::ZERO).wait().unwrap();
        let far = loop_.start(op::timer_on(clock, Duration::MAX));
        let soon = loop_.start(op::timer_on(clock, clock.now() + MS));
        soon.take().unwrap().unwrap();
        let id = far.id();
        assert!(loop_.cancel(id));
        assert!(canceled(far.take().unwrap()));
        let raced = op::race((op::timer_on(clock, clock.now() + DAY), op::timer(MS))).wait();
        assert_eq!(raced.winner, Some(1));
    }
    let at = SystemTime::now() + 2 * MS;
    op::alarm(at).wait().unwrap();
    assert!(SystemTime::now() >= at);
    op::alarm(SystemTime::UNIX_EPOCH - DAY).wait().unwrap();
    drop(Loop::take_current());
}

/// The time of day, set: put back when dropped, as if nothing had been.
struct ClockSet {
    real: Duration,
    since: std::time::Instant,
}

impl ClockSet {
    fn new(to: impl Fn(Duration) -> Duration) -> std::io::Result<ClockSet> {
        let set = ClockSet { real: Clock::Real.now(), since: std::time::Instant::now() };
        set_clock(to(set.real)).map(|()| set)
    }
}

impl Drop for ClockSet {
    fn drop(&mut self) {
        set_clock(self.real + self.since.elapsed()).expect("it was set before");
    }
}

fn set_clock(to: Duration) -> std::io::Result<()> {
    let time = libc::timespec { tv_sec: to.as_secs() as _, tv_nsec: to.subsec_nanos().into() };
    // SAFETY: `time` is a valid `timespec`.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// B10: somebody sets the time of day. What goes by another clock goes on as it did; what goes by it ends when it shows the
/// moment, sooner or later, and not before. It sets the machine's clock, by two seconds for a fraction of one: only where
/// that is asked for.
pub fn b10_the_clock_is_set() {
    const STEP: Duration = Duration::from_secs(2);
    if std::env::var_os("TOWPATH_SET_CLOCK").is_none() {
        towpath_harness::skip("it sets the machine's clock: TOWPATH_SET_CLOCK=1 lets it");
    }
    let loop_ = current_loop();
    let (socket, _peer) = half_unix();
    // Set forward by two seconds or back.
    let set = |forward: bool| {
        let to = |real: Duration| if forward { real + STEP } else { real - STEP };
        match ClockSet::new(to) {
            Ok(set) => set,
            Err(error) => towpath_harness::skip(&format!("the clock cannot be set: {error}")),
        }
    };
    let soon = towpath_harness::patience(Duration::from_secs(1));
    for forward in [true, false] {
        let begun = std::time::Instant::now();
        let alarm = Clock::Real.now() + if forward { STEP / 2 } else { 20 * MS };
        let mut alarmed = loop_.start(op::timer_on(Clock::Real, alarm));
        let far = loop_.start(op::timer_on(Clock::Real, Clock::Real.now() + DAY));
        let boot = loop_.start(op::timer_on(Clock::Boot, Clock::Boot.now() + 60 * MS));
        let plain = loop_.start(op::timer(60 * MS));
        let limited = loop_.start(op::recv(&socket, vec![0; 8]).timeout(60 * MS));
        poke(&loop_);
        let step = set(forward);
        if forward {
            alarmed.take().unwrap().unwrap();
            assert!(Clock::Real.now() >= alarm && begun.elapsed() < soon, "{:?}", begun.elapsed());
        } else {
            // Its moment has passed on every other clock.
            op::timer(100 * MS).wait().unwrap();
            assert!(alarmed.try_take().is_none(), "early by its clock");
            drop(step);
            alarmed.take().unwrap().unwrap();
            assert!(Clock::Real.now() >= alarm);
        }
        boot.take().unwrap().unwrap();
        plain.take().unwrap().unwrap();
        assert_timed_out(limited.take().unwrap());
        let took = begun.elapsed();
        assert!(took >= 60 * MS && took < soon + 100 * MS, "{took:?}");
        assert!(loop_.cancel(far.id()) && canceled(far.take().unwrap()));
    }
    drop(Loop::take_current());
}

/// Ticks on their moments, by each way to wait.
pub fn l18_interval() {
    let loop_ = current_loop();
    let period = MS / 2;
    let start = Instant::now() + MS;
    let mut interval = op::interval_at(start, period);
    let mut ticks = Vec::new();
    for round in 0..6 {
        let tick = match round % 2 {
            0 => interval.tick().wait(),
            _ => loop_.start(interval.tick()).take().unwrap(),
        };
        assert!(Instant::now() >= tick.as_ref().copied().unwrap(), "early");
        ticks.push(tick.unwrap());
    }
    assert_eq!(ticks, (0..6).map(|n| start + period * n).collect::<Vec<_>>());
    // As a callback that begins itself again.
    fn again(loop_: &Loop, mut interval: Interval, left: u32, log: Log<Instant>) {
        loop_.submit(interval.tick(), move |loop_, tick| {
            log.add(tick.unwrap());
            if left > 1 {
                again(loop_, interval, left - 1, log);
            }
        });
    }
    let log = Log::new();
    again(&loop_, interval.clone(), 4, log.clone());
    loop_.run().unwrap();
    assert_eq!(log.all(), (6..10).map(|n| start + period * n).collect::<Vec<_>>());
    // A tick that is cancelled is still to come.
    interval.reset();
    let ticket = loop_.start(interval.tick());
    let id = ticket.id();
    loop_.cancel(id);
    assert!(canceled(ticket.take().unwrap()));
    assert!(interval.tick().wait().unwrap() >= start + period * 10);
    drop(Loop::take_current());
}

/// B11: the process stands still for a while. Timers that are overdue fire once; ticks, as was asked for.
pub fn b11_stopped_process() {
    let loop_ = current_loop();
    let period = 10 * MS;
    let start = Instant::now();
    let mut intervals = [MissedTicks::Burst, MissedTicks::Delay, MissedTicks::Skip]
        .map(|missed| op::interval_at(start, period).missed(missed));
    for interval in &mut intervals {
        assert_eq!(interval.tick().wait().unwrap(), start);
    }
    let fired = Rc::new(Cell::new(0));
    for at in 0..50 {
        let fired = fired.clone();
        loop_.submit(op::timer_at(start + at * MS), move |_, _| fired.set(fired.get() + 1));
    }
    let begun = std::time::Instant::now();
    sys::stop_for(Duration::from_millis(200));
    let stood = begun.elapsed();
    assert!(stood >= Duration::from_millis(150), "it did not stop: {stood:?}");
    loop_.run().unwrap();
    assert_eq!(fired.get(), 50);
    let next = intervals.each_mut().map(|interval| {
        let first = interval.tick().wait().unwrap();
        (first - start, interval.tick().wait().unwrap() - first)
    });
    let [burst, delay, skip] = next;
    assert_eq!(burst, (period, period));
    assert_eq!(delay.0, period);
    assert!(delay.1 > 10 * period, "moved: {delay:?}");
    assert_eq!(skip.0, period);
    assert!(skip.1 > 10 * period && skip.1.as_nanos() % period.as_nanos() == 0, "left out: {skip:?}");
    drop(Loop::take_current());
}

/// B12: time-outs that are armed, cancelled and armed again leave nothing behind that ends a later sleep.
pub fn b12_no_stale_timeouts() {
    let loop_ = new_loop();
    let mut rng = Rng::new(12);
    for _ in 0..scaled(1_000_000) {
        let id = loop_.submit(op::timer(Duration::from_nanos(rng.below(30_000))), |_, _| ());
        if rng.once_in(2) {
            poke(&loop_);
        }
        loop_.remove(id);
    }
    loop_.run().unwrap();
    let before = loop_.stats().ticks;
    loop_.submit(op::timer(50 * MS), |_, outcome| outcome.unwrap());
    loop_.run().unwrap();
    let ticks = loop_.stats().ticks - before;
    assert!(ticks <= 4, "{ticks} ticks for one sleep");
}
