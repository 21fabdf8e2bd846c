//! Poisoning: whether somebody panicked with a lock held.

use std::fmt;
use std::io;
use std::sync::{LockResult, PoisonError};
use std::thread;

use crate::std_or_loom::atomic::{AtomicBool, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::GaveUp;

pub(super) struct Flag(AtomicBool);

/// Whether a panic was under way when the lock was taken: then a later look cannot blame its owner.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    panicking: bool,
}

impl Flag {
    const_fn! {
        pub(super) const fn new() -> Flag {
            Flag(AtomicBool::new(false))
        }
    }

    /// The lock has been taken, with this result.
    #[inline]
    pub(super) fn guard<G>(&self, guard: impl FnOnce(Taken) -> G) -> LockResult<G> {
        let guard = guard(Taken { panicking: thread::panicking() });
        if self.get() { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }

    /// The lock is about to be given up.
    #[inline]
    pub(super) fn done(&self, taken: &Taken) {
        if !taken.panicking && thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Why a lock was not had in time, or only in an unsound state.
pub enum LockTimeoutError<G> {
    /// It was had, and somebody panicked with it held.
    Poisoned(PoisonError<G>),
    /// The time is over.
    TimedOut,
    /// The task was cancelled, or is past a deadline around the call.
    Canceled,
}

impl<G> LockTimeoutError<G> {
    pub(super) fn result(locked: Result<LockResult<G>, GaveUp>) -> Result<G, LockTimeoutError<G>> {
        match locked {
            Ok(result) => result.map_err(LockTimeoutError::Poisoned),
            Err(GaveUp::TimedOut) => Err(LockTimeoutError::TimedOut),
            Err(GaveUp::Canceled) => Err(LockTimeoutError::Canceled),
        }
    }
}

impl<G> fmt::Debug for LockTimeoutError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockTimeoutError::Poisoned(_) => "Poisoned(..)",
            LockTimeoutError::TimedOut => "TimedOut",
            LockTimeoutError::Canceled => "Canceled",
        })
    }
}

impl<G> fmt::Display for LockTimeoutError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockTimeoutError::Poisoned(_) => "poisoned lock: another task failed inside",
            LockTimeoutError::TimedOut => "the lock was not free in time",
            LockTimeoutError::Canceled => "the task was cancelled",
        })
    }
}

impl<G> std::error::Error for LockTimeoutError<G> {}

impl<G> From<LockTimeoutError<G>> for io::Error {
    /// [`is_canceled`](crate::is_canceled) knows a cancelled wait by it.
    fn from(error: LockTimeoutError<G>) -> io::Error {
        match error {
            LockTimeoutError::Poisoned(_) => io::Error::other("poisoned lock: another task failed inside"),
            LockTimeoutError::TimedOut => GaveUp::TimedOut.into(),
            LockTimeoutError::Canceled => GaveUp::Canceled.into(),
        }
    }
}
