//! What belongs to a thread: its loop, and how its tasks wait.

use std::cell::{Cell, RefCell};
use std::io;

use crate::event_loop::Loop;
use crate::instant::Instant;
use crate::wait::Suspend;

thread_local! {
    static LOOP: RefCell<Option<Loop>> = const { RefCell::new(None) };
    static HOOK: Cell<Option<&'static dyn Suspend>> = const { Cell::new(None) };
}

impl Loop {
    /// This thread's loop, made with [`Loop::new`] at the first call. It lives as long as the thread or the last
    /// handle.
    ///
    /// # Errors
    /// As [`Loop::new`]; `Other` while the thread's locals are being torn down.
    pub fn current() -> io::Result<Loop> {
        get()
    }

    /// Makes this loop the thread's current one, and returns the one before.
    pub fn make_current(&self) -> Option<Loop> {
        LOOP.with(|current| current.borrow_mut().replace(self.clone()))
    }

    /// Takes the thread's current loop away from it. The next [`current`](Loop::current) makes a new one.
    pub fn take_current() -> Option<Loop> {
        LOOP.try_with(|current| current.borrow_mut().take()).ok().flatten()
    }
}

/// Sets how waits on this thread suspend the task that they are called from, and returns the hook before.
///
/// For runtimes: `None`, the default, makes waits drive the thread's [current loop](Loop::current).
pub fn set_hook(hook: Option<&'static dyn Suspend>) -> Option<&'static dyn Suspend> {
    HOOK.replace(hook)
}

pub(crate) fn hook() -> Option<&'static dyn Suspend> {
    HOOK.get()
}

/// Whether a task runs here whose worker drives this loop.
pub(crate) fn is_tasks_loop(loop_: &Loop) -> bool {
    hook().is_some_and(|hook| hook.current().is_some())
        && LOOP
            .try_with(|current| current.borrow().as_ref().is_some_and(|current| current.is(loop_)))
            .unwrap_or(false)
}

/// A clone, so that no borrow of the thread's cell is held while a task is suspended.
pub(crate) fn get() -> io::Result<Loop> {
    let current = LOOP.try_with(|current| current.borrow().clone());
    match current {
        Ok(Some(loop_)) => Ok(loop_),
        Ok(None) => {
            let loop_ = Loop::new()?;
            loop_.make_current();
            Ok(loop_)
        }
        Err(_) => Err(io::Error::other("this thread is ending: its event loop is gone")),
    }
}

pub(crate) fn now() -> Instant {
    let current = LOOP.try_with(|current| current.borrow().as_ref().map(Loop::clock));
    match current {
        Ok(Some(now)) => now,
        _ => Instant(crate::backend::clock::monotonic_now()),
    }
}
