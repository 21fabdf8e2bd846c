//! The loop's time: nanoseconds of its backend's monotonic clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the monotonic clock of a loop's backend.
///
/// Unlike [`std::time::Instant`] it saturates instead of panicking, and a simulated backend can make it stand still
/// or jump. Moments of loops on the same kind of clock compare; all of the real backends read `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(pub(crate) u64);

impl Instant {
    /// Never: the moment that no clock reaches.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// The time now, on the clock of this thread's [current loop](crate::Loop::current) if it has one, otherwise on
    /// the system's monotonic clock. Not cached.
    pub fn now() -> Instant {
        crate::current::now()
    }

    /// How much later this is than `earlier`; zero if it is not.
    pub fn saturating_duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long ago this was; zero if it is still to come.
    pub fn elapsed(self) -> Duration {
        Instant::now().saturating_duration_since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates at [`Instant::NEVER`].
    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Saturates at zero.
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}
