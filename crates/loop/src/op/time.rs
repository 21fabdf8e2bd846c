//! Intervals, and timers on other clocks than the loop's.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::{Begin, Detach, Operation, Options, Outcome, Started, ways_to_wait};
use crate::backend::standard::clear_of_standard;
use crate::descriptor::Descriptor;
use crate::instant::Instant;
use crate::operation::Request;

/// What an [`Interval`] does with ticks that nobody waited for in time: when the next one is due already.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MissedTicks {
    /// Gives them all, one at once after the other, until it has caught up.
    #[default]
    Burst,
    /// Goes on one period from now: the ticks are moved.
    Delay,
    /// Goes on with the next tick that is not past: the ticks keep to their times, and some are left out.
    Skip,
}

/// Ticks at regular moments: see [`interval`]. Clones tick together: a tick goes to one of them.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When the next tick is due.
    next: Arc<AtomicU64>,
    period: Duration,
    missed: MissedTicks,
}

/// Ticks now, and then after each `period`, counted from this call. A period of zero is one of a nanosecond.
///
/// ```
/// use std::time::Duration;
/// use towpath_loop::op::{MissedTicks, interval};
///
/// let mut interval = interval(Duration::from_millis(2)).missed(MissedTicks::Skip);
/// let first = interval.tick().wait()?; // at once
/// assert_eq!(interval.tick().wait()? - first, Duration::from_millis(2));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn interval(period: Duration) -> Interval {
    interval_at(Instant::now(), period)
}

/// Ticks at `start`, and then after each `period`: see [`interval`].
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    let next = Arc::new(AtomicU64::new(start.0));
    Interval { next, period: period.max(Duration::from_nanos(1)), missed: MissedTicks::default() }
}

impl Interval {
    /// What to do with ticks that nobody waited for in time.
    pub fn missed(mut self, missed: MissedTicks) -> Interval {
        self.missed = missed;
        self
    }

    /// The wait for the next tick; the outcome is the moment for which that was planned. Cancelled, or not waited for, the
    /// tick is still to come. Of several waits at a time each gets the same tick.
    ///
    /// On every backend: a [timer](super::timer()).
    pub fn tick(&mut self) -> Tick {
        Tick { at: Instant(self.next.load(Ordering::Relaxed)), interval: self.clone() }
    }

    /// Starts anew: the next tick is one period from now.
    pub fn reset(&mut self) {
        self.next.store((Instant::now() + self.period).0, Ordering::Relaxed);
    }

    /// The time between two ticks.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// When the tick after that of `at` is due, which came at `now`.
    fn after(&self, at: Instant, now: Instant) -> Instant {
        let next = at + self.period;
        if now < next {
            return next;
        }
        match self.missed {
            MissedTicks::Burst => next,
            MissedTicks::Delay => now + self.period,
            MissedTicks::Skip => {
                let past = u64::try_from((now - at).as_nanos() % self.period.as_nanos()).unwrap_or(0);
                Instant(now.0 - past) + self.period
            }
        }
    }
}

/// The wait for a tick: see [`Interval::tick`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Tick {
    interval: Interval,
    at: Instant,
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl Operation for Tick {
    type Output = io::Result<Instant>;
    fn options(&self) -> Options {
        Options { deadline: self.at, ..Options::NONE }
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        Started::Request(Request::Timer)
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value()?;
        let next = self.interval.after(self.at, Instant::now());
        self.interval.next.fetch_max(next.0, Ordering::Relaxed);
        Ok(self.at)
    }
    fn discard(self, _: Outcome) {
        // Nobody got the tick.
    }
}

impl Detach for Tick {
    type Owned = Tick;
    fn detach(self) -> Tick {
        self
    }
}

ways_to_wait!(Tick => Tick);

/// A clock that a timer can go by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Clock {
    /// The loop's own, which stands still while the system sleeps, and nobody sets: `CLOCK_MONOTONIC`.
    Monotonic,
    /// The same, but going on while the system sleeps: `CLOCK_BOOTTIME`.
    Boot,
    /// The time of day, which may be set forward and back: `CLOCK_REALTIME`, since 1970.
    Real,
}

impl Clock {
    /// The time on this clock. Where it begins is its own affair, but for [`Clock::Real`].
    pub fn now(self) -> Duration {
        let id = match self {
            Clock::Monotonic => return Duration::from_nanos(Instant::now().0),
            Clock::Boot => ClockId::Boottime,
            Clock::Real => ClockId::Realtime,
        };
        let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
        // Before 1970: as if it were then.
        u64::try_from(tv_sec).map_or(Duration::ZERO, |secs| Duration::new(secs, tv_nsec as u32))
    }
}

/// A wait for a moment of a clock: see [`timer_on`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct ClockTimer {
    clock: Clock,
    at: Duration,
    options: Options,
    /// A timerfd, once it has begun.
    timer: Option<Descriptor>,
}

/// Waits until `clock` shows `at`. Never early by that clock, however it is set meanwhile.
///
/// On every backend: for [`Clock::Monotonic`] the loop's timer wheel; for the others a `timerfd` of its own, which is polled.
///
/// ```
/// use std::time::Duration;
/// use towpath_loop::op::{Clock, timer_on};
///
/// let at = Clock::Boot.now() + Duration::from_millis(1);
/// timer_on(Clock::Boot, at).wait()?;
/// assert!(Clock::Boot.now() >= at);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// The system's, if it has no descriptor for the timer (`EMFILE`, `ENFILE`, `ENOMEM`).
pub fn timer_on(clock: Clock, at: Duration) -> ClockTimer {
    let mut options = Options::NONE;
    if clock == Clock::Monotonic {
        options.limit(Instant(0) + at);
    }
    ClockTimer { clock, at, options, timer: None }
}

/// Waits until the time of day is `at`: [`timer_on`] by [`Clock::Real`].
pub fn alarm(at: SystemTime) -> ClockTimer {
    timer_on(Clock::Real, at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// A timerfd that becomes readable when `clock` shows `at`.
fn timerfd(clock: TimerfdClockId, at: Duration) -> rustix::io::Result<Descriptor> {
    let fd = clear_of_standard(timerfd_create(clock, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?)?;
    // Zero would disarm it. What the kernel cannot represent does not come either.
    let at = at.clamp(Duration::from_nanos(1), Duration::from_secs(i64::MAX as u64 / 1_000_000_000));
    let it_value = Timespec { tv_sec: at.as_secs() as i64, tv_nsec: at.subsec_nanos().into() };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(fd.as_fd(), TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value })?;
    Ok(Descriptor::new(fd))
}

// SAFETY: the request has no pointers, and `timer` keeps the descriptor open.
unsafe impl Operation for ClockTimer {
    type Output = io::Result<()>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let clock = match self.clock {
            Clock::Monotonic => return Started::Request(Request::Timer),
            Clock::Boot => TimerfdClockId::Boottime,
            Clock::Real => TimerfdClockId::Realtime,
        };
        match timerfd(clock, self.at) {
            Ok(timer) => {
                let handle = self.timer.insert(timer).handle();
                Started::Request(Request::Poll { handle, events: libc::POLLIN as u16 })
            }
            Err(error) => Started::failed(error.raw_os_error()),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(drop)
    }
}

impl Detach for ClockTimer {
    type Owned = ClockTimer;
    fn detach(self) -> ClockTimer {
        self
    }
}

ways_to_wait!(ClockTimer => ClockTimer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_given_moved_or_left_out() {
        let at = |nanos| Instant(nanos);
        let interval = |missed| interval_at(at(0), Duration::from_nanos(100)).missed(missed);
        // A tick at 1000 that came at: in time, late but not too late, when the next is due, after two and a half periods.
        let came = [1000, 1099, 1100, 1250];
        let next = |missed| came.map(|now| interval(missed).after(at(1000), at(now)).0);
        assert_eq!(next(MissedTicks::Burst), [1100, 1100, 1100, 1100]);
        assert_eq!(next(MissedTicks::Delay), [1100, 1100, 1200, 1350]);
        assert_eq!(next(MissedTicks::Skip), [1100, 1100, 1200, 1300]);
        let far = interval_at(Instant::NEVER, Duration::MAX).missed(MissedTicks::Skip);
        assert_eq!(far.after(Instant::NEVER, Instant::NEVER), Instant::NEVER);
        let zero = interval_at(at(5), Duration::ZERO).missed(MissedTicks::Skip);
        assert_eq!(zero.after(at(5), at(9)), at(10));
    }
}
