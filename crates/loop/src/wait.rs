//! Blocking style: begin an operation and wait for it where one stands.
//!
//! Inside a task of a runtime, the [`Suspend`] hook that the runtime has put into this thread lets other tasks run
//! meanwhile. On a plain thread the wait drives a loop that the thread keeps. Either way the calling frame is frozen
//! until the operation has completed, which is what makes it sound to lend the kernel a borrowed buffer:
//! [`wait`] does not return, and cannot unwind, between the two.

use std::cell::{Cell, UnsafeCell};
use std::error::Error;
use std::marker::PhantomPinned;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::current;
use crate::event_loop::Loop;
use crate::op::{Begin, Options, Outcome, Started};
use crate::operation::OpId;

/// How a runtime suspends the task that runs on this thread.
///
/// Set for a thread with [`set_hook`](crate::set_hook). Only `wait` calls it, on that thread.
///
/// # Safety
/// `suspend` returns to the same frame on the same thread, or never. `current` returns a wake-up that stays valid
/// until the task has returned from the wait for which it was asked.
pub unsafe trait Suspend: Sync {
    /// Who is about to wait.
    fn current(&self) -> Waiter;
    /// Lets others run until the current task is woken. May return early.
    fn suspend(&self);
    /// Whether the current task, or outside tasks this thread, should give up waiting: cancelled (or past a deadline)
    /// and not shielded.
    fn is_canceled(&self) -> bool;
    /// Why, if that was said. Asked when an error is made, see [`canceled`](crate::canceled).
    fn reason(&self) -> Option<Arc<dyn Error + Send + Sync>> {
        None
    }
    /// An operation of the current task completed without waiting: a chance to let others run all the same.
    fn completed_inline(&self);
}

/// Who waits: a task, or the thread itself.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// The task that runs on this thread right now, as something to wake; `None` outside tasks.
    pub task: Option<Wakeup>,
    /// What [`Suspend::is_canceled`] says.
    pub canceled: bool,
}

/// Wakes one task, on its own thread.
#[derive(Clone, Copy, Debug)]
pub struct Wakeup {
    /// What `wake` is called with.
    pub data: *const (),
    /// Makes the task runnable. Called on the task's thread, at most once for each wait.
    pub wake: unsafe fn(*const ()),
}

/// The frozen frame's side of an operation: where its outcome is written.
pub(crate) struct Waiting {
    outcome: UnsafeCell<Option<Outcome>>,
    wakeup: Cell<Option<Wakeup>>,
    _pinned: PhantomPinned,
}

impl Waiting {
    fn new(wakeup: Option<Wakeup>) -> Waiting {
        Waiting { outcome: UnsafeCell::new(None), wakeup: Cell::new(wakeup), _pinned: PhantomPinned }
    }

    /// Writes the outcome and wakes the frame.
    ///
    /// # Safety
    /// `this` is alive: its frame waits for this call. It may be gone when the call returns.
    pub(crate) unsafe fn complete(this: NonNull<Waiting>, outcome: Outcome) {
        // SAFETY: the frame is frozen, and on this thread: nobody else looks at the cell now.
        let wakeup = unsafe {
            *this.as_ref().outcome.get() = Some(outcome);
            this.as_ref().wakeup.take()
        };
        if let Some(Wakeup { data, wake }) = wakeup {
            // SAFETY: by `Suspend`'s contract the wake-up is valid while the task waits, which it does.
            unsafe { wake(data) }
        }
    }

    /// The task that is woken, if one is: where its data are.
    pub(crate) fn task(&self) -> *const () {
        self.wakeup.get().map_or(std::ptr::null(), |wakeup| wakeup.data)
    }

    fn outcome(&self) -> Option<Outcome> {
        // SAFETY: only this thread writes it, from `complete`, which is not running now.
        unsafe { (*self.outcome.get()).take() }
    }
}

/// Carries one operation out and waits for it. `start` fills the request in; what it points to must stay where it is
/// until this returns, for which the caller's frame is the place.
///
/// Where the caller's task is cancelled, nothing is begun. Where it is cancelled during the wait, the operation is
/// cancelled and still awaited; a result that came all the same is returned.
pub(crate) fn wait(options: Options, start: impl FnOnce(&Begin<'_>) -> Started) -> Outcome {
    match current::get() {
        Ok(loop_) => wait_on(&loop_, options, start),
        Err(error) => Outcome::error(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// What an operation fails with that was cancelled: with the reason, if the current task was, and one was given.
#[cold]
pub(crate) fn canceled() -> std::io::Error {
    crate::canceled(current::hook().and_then(Suspend::reason))
}

fn wait_on(loop_: &Loop, options: Options, start: impl FnOnce(&Begin<'_>) -> Started) -> Outcome {
    if loop_.is_child() {
        return Outcome { result: Outcome::FORKED, progress: 0 };
    }
    let hook = current::hook();
    let waiter = hook.map_or(Waiter { task: None, canceled: false }, Suspend::current);
    if loop_.is_ticking() {
        // Inside a callback of the loop that would have to be driven.
        return Outcome::error(libc::EDEADLK);
    }
    if waiter.canceled {
        // A task that ignores its errors must not keep the others from running.
        if let (Some(hook), Some(_)) = (hook, waiter.task) {
            hook.completed_inline();
        }
        return Outcome::error(libc::ECANCELED);
    }
    let waiting = Waiting::new(waiter.task);
    let begun = begin(loop_, options, &waiting, start);
    let Some(hook) = hook.filter(|_| waiter.task.is_some()) else {
        return begun.map_or_else(|outcome| outcome, |id| drive(loop_, hook, &waiting, id));
    };
    match begun {
        Ok(id) => suspend(loop_, hook, &waiting, id),
        Err(outcome) => {
            hook.completed_inline();
            outcome
        }
    }
}

fn begin(
    loop_: &Loop,
    options: Options,
    waiting: &Waiting,
    start: impl FnOnce(&Begin<'_>) -> Started,
) -> Result<OpId, Outcome> {
    loop_.0.core.borrow_mut().begin_waiting(start, options, NonNull::from(waiting))
}

/// Lets other tasks run until the operation is over. Inlined: every frame that is left after a switch costs a
/// misprediction, see the runtime's way to suspend.
#[inline(always)]
fn suspend(loop_: &Loop, hook: &'static dyn Suspend, waiting: &Waiting, id: OpId) -> Outcome {
    let frozen = Frozen;
    let mut asked = false;
    let outcome = loop {
        if std::thread::panicking() {
            // Others would find `thread::panicking()` true in their frames: carry this one operation through here.
            if loop_.tick_frames(None).is_err() {
                std::process::abort();
            }
        } else {
            hook.suspend();
        }
        if let Some(outcome) = waiting.outcome() {
            break outcome;
        }
        if !asked && hook.is_canceled() {
            asked = true;
            loop_.cancel(id);
        }
    };
    std::mem::forget(frozen);
    outcome
}

/// Drives this thread's loop until the operation is over.
fn drive(loop_: &Loop, hook: Option<&'static dyn Suspend>, waiting: &Waiting, id: OpId) -> Outcome {
    let mut failures = 0;
    let mut asked = false;
    loop {
        // A callback of this loop that panics must not unwind through the frame that the kernel writes to: the
        // operation is ended first.
        let ticked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| loop_.tick(None)));
        if let Some(outcome) = waiting.outcome() {
            if let Err(panic) = ticked {
                std::panic::resume_unwind(panic);
            }
            return outcome;
        }
        match ticked {
            Ok(Ok(_)) if !asked && hook.is_some_and(Suspend::is_canceled) => {
                asked = true;
                loop_.cancel(id);
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) => {
                failures += 1;
                if failures == 100 {
                    // The backend cannot wait any more, and this frame must not be left.
                    eprintln!("towpath: the event loop can wait no more with a borrowed buffer in flight");
                    std::process::abort();
                }
            }
            Err(panic) => {
                loop_.cancel(id);
                let frozen = Frozen;
                while waiting.outcome().is_none() {
                    if loop_.tick_frames(None).is_err() {
                        std::process::abort();
                    }
                }
                std::mem::forget(frozen);
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Aborts when dropped: nothing may unwind while a frame is lent to the kernel.
struct Frozen;

impl Drop for Frozen {
    fn drop(&mut self) {
        eprintln!("towpath: a frame with an operation in flight was unwound");
        std::process::abort();
    }
}
