//! Waiting in blocking style, for one thing.

use std::io;

use towpath_loop::Instant;

use super::{Arm, Entered, Waiter};
use crate::cancel::{self, Alarm};
use crate::context::{self, Current};
use crate::worker::Worker;

/// How long a wait may last.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    /// Whether it ends when the task is cancelled.
    pub(crate) cancellable: bool,
}

impl Limit {
    /// Until it is done, or the task is cancelled.
    pub(crate) const NONE: Limit = Limit { until: Instant::NEVER, cancellable: true };
    /// Until it is done.
    pub(crate) const STUBBORN: Limit = Limit { until: Instant::NEVER, cancellable: false };

    pub(crate) fn after(duration: std::time::Duration) -> Limit {
        Limit { until: Instant::now() + duration, cancellable: true }
    }
}

/// Why nothing came of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GaveUp {
    TimedOut,
    Canceled,
}

impl From<GaveUp> for io::Error {
    fn from(reason: GaveUp) -> io::Error {
        match reason {
            GaveUp::TimedOut => io::ErrorKind::TimedOut.into(),
            GaveUp::Canceled => cancel::error(),
        }
    }
}

/// Does what the arm is for, waiting for it if need be.
///
/// A task that is cancelled gets nothing (where the limit says that it can be), also if it need not wait.
#[inline(always)]
pub(crate) fn block<A: Arm>(arm: &mut A, limit: Limit) -> Result<A::Output, GaveUp> {
    // SAFETY: used in this frame, which is the task's.
    let current = unsafe { Current::get() };
    if limit.cancellable {
        // One who never waits must not keep the others from running, nor one who is refused again and again.
        context::with_worker(Worker::charge);
        if cancel::is_canceled(&current) {
            return Err(GaveUp::Canceled);
        }
    }
    if limit.until == Instant::NEVER {
        wait(arm, limit, &current)
    } else {
        wait_in_time(arm, limit, &current)
    }
}

/// Kept apart from waits without a time, which have nothing to clean up.
fn wait_in_time<A: Arm>(arm: &mut A, limit: Limit, current: &Current) -> Result<A::Output, GaveUp> {
    // Nothing is armed for a wait that is none.
    if let Some(output) = arm.attempt() {
        return Ok(output);
    }
    let _alarm = Alarm::wake_at(limit.until, current);
    wait(arm, limit, current)
}

#[inline(always)]
fn wait<A: Arm>(arm: &mut A, limit: Limit, current: &Current) -> Result<A::Output, GaveUp> {
    loop {
        let waiter = Waiter::of(current, true);
        // SAFETY: both stay where they are, in frames that are left only after the arm has left its queue or was claimed.
        match unsafe { arm.enter(&waiter, 0, true) } {
            Entered::Done(output) => return Ok(output),
            Entered::Queued => {
                // SAFETY: made for `current`, which is who runs.
                if !unsafe { waiter.wait(current, arm.why(), limit.until, limit.cancellable) } {
                    arm.leave();
                    let canceled = limit.cancellable && cancel::is_canceled(current);
                    return Err(if canceled { GaveUp::Canceled } else { GaveUp::TimedOut });
                }
                if let Some(output) = arm.finish() {
                    return Ok(output);
                }
            }
            Entered::Ready => unreachable!("an arm that is alone is done if it can be"),
        }
    }
}
