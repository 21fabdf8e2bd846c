//! Where a task's end meets whoever joins it: finished, awaited, given up, in any order and on any threads.

use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::task::TaskRef;

/// The result is there.
const FINISHED: u8 = 1;
/// Somebody waits: `waiter` is theirs to be woken.
const AWAITED: u8 = 2;
/// The handle is gone; nobody will take the result.
const DETACHED: u8 = 4;

/// The state of a join.
pub(crate) struct JoinCell {
    state: AtomicU8,
    /// The handle's while `AWAITED` is not set, written by it; then the end's, which takes it. But for an end that came
    /// before the bit: that does not look at it any more.
    waiter: UnsafeCell<Option<TaskRef>>,
}

// SAFETY: `waiter` changes hands with the AWAITED bit, by acquire and release.
unsafe impl Sync for JoinCell {}

/// What is to be done about a result that has just been stored.
pub(crate) enum Finish {
    /// Nobody waits yet: it is kept for the handle.
    Kept,
    /// Nobody ever will: drop it.
    Detached,
    /// Wake this one.
    Wake(TaskRef),
}

impl JoinCell {
    pub(crate) fn new() -> JoinCell {
        JoinCell { state: AtomicU8::new(0), waiter: UnsafeCell::new(None) }
    }

    /// The result has been stored.
    pub(crate) fn finish(&self) -> Finish {
        let before = self.state.fetch_or(FINISHED, Ordering::AcqRel);
        if before & DETACHED != 0 {
            Finish::Detached
        } else if before & AWAITED != 0 {
            // SAFETY: the bit was set before FINISHED, so the handle touches the cell no more: see `start_waiting`.
            let waiter = self.waiter.with_mut(|waiter| unsafe { (*waiter).take() });
            Finish::Wake(waiter.expect("AWAITED comes with a waiter"))
        } else {
            Finish::Kept
        }
    }

    /// Whether the result is there.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.load(Ordering::Acquire) & FINISHED != 0
    }

    /// Registers the one who waits. False if there is nothing to wait for any more.
    /// Only the handle's owner calls this, and only while not registered.
    pub(crate) fn start_waiting(&self, waiter: TaskRef) -> bool {
        // SAFETY: AWAITED is not set, so the cell is the handle owner's, who is here.
        self.waiter.with_mut(|place| unsafe { *place = Some(waiter) });
        let before = self.state.fetch_or(AWAITED, Ordering::AcqRel);
        if before & FINISHED != 0 {
            // SAFETY: `finish` ran before the bit was set and did not look at the cell.
            self.waiter.with_mut(|place| unsafe { *place = None });
            return false;
        }
        true
    }

    /// The handle goes, without having taken the result. True if the result is there, for the caller to drop.
    pub(crate) fn detach(&self) -> bool {
        self.state.fetch_or(DETACHED, Ordering::AcqRel) & FINISHED != 0
    }
}
