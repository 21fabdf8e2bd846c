//! Events for `tracing`, if the feature is on; nothing otherwise.
//!
//! The target is `towpath`. Of every task there is `started` and then `ended` (TRACE), or `panicked` (ERROR); of the watchdog
//! `stall` and `deadlock` (WARN). They are events rather than spans: a span that is entered belongs to the thread, and
//! several tasks share that. For the same reason a subscriber must not wait as a task does, and a task must not keep
//! the guard of an entered span while it waits.

#[cfg(feature = "tracing")]
mod events {
    use std::any::Any;

    use crate::panics;
    use crate::task::Header;
    use crate::warning::Warning;

    pub(crate) fn started(task: &Header, worker: usize) {
        tracing::trace!(target: "towpath", task = task.id, name = task.name(), worker, at = %task.site, "started");
    }

    pub(crate) fn ended(task: &Header, panic: Option<&Box<dyn Any + Send>>) {
        let Some(payload) = panic else {
            return tracing::trace!(target: "towpath", task = task.id, name = task.name(), "ended");
        };
        let panic = panics::message(&**payload).unwrap_or("a value that is no text");
        let place = task.place_of(&**payload);
        let (name, place) = (task.name(), place.as_deref());
        tracing::error!(target: "towpath", task = task.id, name, at = %task.site, panic, place, "panicked");
    }

    pub(crate) fn warned(warning: &Warning) {
        match warning {
            Warning::Stall(stall) => {
                let (task, name) = (stall.task.number(), stall.name.as_deref());
                let backtrace = stall.backtrace.as_ref().map(|backtrace| backtrace.to_string());
                let worker = stall.worker;
                tracing::warn!(target: "towpath", task, name, worker, held = ?stall.held, backtrace, "stall");
            }
            Warning::Deadlock(deadlock) => {
                tracing::warn!(target: "towpath", tasks = deadlock.dump.tasks.len(), dump = %deadlock.dump, "deadlock");
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod events {
    use std::any::Any;

    use crate::task::Header;
    use crate::warning::Warning;

    #[inline(always)]
    pub(crate) fn started(_: &Header, _: usize) {}

    #[inline(always)]
    pub(crate) fn ended(_: &Header, _: Option<&Box<dyn Any + Send>>) {}

    #[inline(always)]
    pub(crate) fn warned(_: &Warning) {}
}

pub(crate) use events::{ended, started, warned};
