//! What belongs to a thread: its loop, and how its tasks wait.

use std::cell::Cell;
use std::io;

use crate::event_loop::Loop;
use crate::instant::Instant;
use crate::wait::Suspend;

thread_local! {
    static LOOP: Cell<Option<Loop>> = const { Cell::new(None) };
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
        LOOP.with(|current| current.replace(Some(self.clone())))
    }

    /// Takes the thread's current loop away from it. The next [`current`](Loop::current) makes a new one.
    pub fn take_current() -> Option<Loop> {
        LOOP.try_with(Cell::take).ok().flatten()
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

/// A clone of what is in the cell.
#[inline]
fn look(current: &Cell<Option<Loop>>) -> Option<Loop> {
    let found = current.take();
    current.set(found.clone());
    found
}

/// Whether a task runs here whose worker drives this loop.
pub(crate) fn is_tasks_loop(loop_: &Loop) -> bool {
    hook().is_some_and(|hook| hook.current().task.is_some())
        && LOOP.try_with(look).is_ok_and(|current| current.is_some_and(|current| current.is(loop_)))
}

/// A clone, so that the thread may change its mind while a task is suspended.
#[inline]
pub(crate) fn get() -> io::Result<Loop> {
    match LOOP.try_with(look) {
        Ok(Some(loop_)) => Ok(loop_),
        Ok(None) => make(),
        Err(_) => Err(io::Error::other("this thread is ending: its event loop is gone")),
    }
}

#[cold]
fn make() -> io::Result<Loop> {
    let loop_ = Loop::new()?;
    loop_.make_current();
    Ok(loop_)
}

pub(crate) fn now() -> Instant {
    match LOOP.try_with(look) {
        Ok(Some(loop_)) => loop_.clock(),
        _ => Instant(crate::backend::clock::monotonic_now()),
    }
}
