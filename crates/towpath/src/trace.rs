//! The runtime for `tracing`, if the feature is on; nothing otherwise.
//!
//! The target is `towpath`. Of every task there is a span, `task` (DEBUG), inside of the one in which it was spawned. Of events
//! there are `started` and then `ended` (TRACE), or `panicked` (ERROR); of the watchdog `stall` and `deadlock` (WARN).
//!
//! Which spans are entered is the thread's affair, for subscribers, and tasks share threads: a task that waits inside of a span
//! would leave it to the others. So a worker puts it aside when a task suspends: it asks the subscriber for the current
//! span and exits that, until there is none, and enters them again, in order, before the task goes on. Subscribers see what they
//! see of an instrumented future.
//!
//! ```text
//!   task A: enter U …… suspends │ exit U │ task B: …… no span but its own …… │ enter U │ …… exit U
//! ```
//!
//! That is right for subscribers that tell the current span, as those of `tracing-subscriber` do; one that does not sees what it
//! would see of threads that interleave. What belongs to the thread beside spans stays with the thread: so a subscriber that was set
//! for a scope (`with_default`) must not be in force while its task waits.
//!
//! A subscriber is somebody else's code. Around a switch it is called on the worker's stack, outside of tasks: the task is named
//! after it was called, and no more before it is called again, so that a wait in there is one of the thread. And no panic of its
//! comes out of here: it would unwind a worker.

#[cfg(feature = "tracing")]
mod spans {
    use std::any::Any;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tracing::dispatcher::get_default;
    use tracing::level_filters::LevelFilter;
    use tracing::{Id, Span};

    use crate::panics;
    use crate::task::Header;
    use crate::warning::Warning;

    /// Deeper is nobody; and a subscriber that exits no span must not keep a worker for ever.
    const DEEPEST: usize = 1000;

    /// The spans of a task that is suspended.
    #[derive(Default)]
    pub(crate) struct Spans {
        /// Its own.
        task: Cell<Option<Span>>,
        /// Those that it was in, innermost first. Empty while it runs.
        entered: Cell<Vec<Id>>,
        /// That it panicked was told.
        panicked: Cell<bool>,
    }

    impl Drop for Spans {
        fn drop(&mut self) {
            self.close();
        }
    }

    impl Spans {
        fn close(&self) {
            self.entered.take();
            if let Some(span) = self.task.take() {
                call(|| drop(span));
            }
        }
    }

    /// Calls the subscriber. Its panics have been reported by the panic hook, and end here; `None` then.
    #[inline]
    fn call<R>(f: impl FnOnce() -> R) -> Option<R> {
        // Nor may the payload's destructor do what a panic may not.
        catch_unwind(AssertUnwindSafe(f)).map_err(std::mem::forget).ok()
    }

    fn enter<'a>(mut spans: impl Iterator<Item = &'a Id>) {
        let enter_all = || {
            get_default(|subscriber| {
                for id in spans.by_ref() {
                    call(|| subscriber.enter(id));
                }
            });
        };
        call(enter_all);
    }

    /// A new task has been spawned here.
    pub(crate) fn spawned(task: &Header) {
        let span = call(
            || tracing::debug_span!(target: "towpath", "task", id = task.id, name = task.name(), at = %task.site),
        );
        if let Some(span) = span
            && let Some(id) = span.id()
        {
            let spans = &task.local.spans;
            spans.entered.set(vec![id]);
            spans.task.set(Some(span));
        }
    }

    /// A task is about to run, for the first time or again.
    #[inline]
    pub(crate) fn resumes(task: &Header) {
        let mut entered = task.local.spans.entered.take();
        if !entered.is_empty() {
            enter(entered.iter().rev());
            entered.clear();
            // With the memory that it has.
            task.local.spans.entered.set(entered);
        }
    }

    /// A task has run, to its next wait or to its end.
    #[inline]
    pub(crate) fn suspends(task: &Header) {
        let mut entered = task.local.spans.entered.take();
        exit_all(&mut entered);
        task.local.spans.entered.set(entered);
    }

    /// A task is over, or never began: its span as well, whoever still has a handle.
    #[inline]
    pub(crate) fn over(task: &Header) {
        task.local.spans.close();
    }

    /// Exits the spans that this thread is in.
    fn exit_all(entered: &mut Vec<Id>) {
        if LevelFilter::current() == LevelFilter::OFF {
            // There is no subscriber.
            return;
        }
        let exit_all = || {
            get_default(|subscriber| {
                while entered.len() < DEEPEST
                    && let Some(id) = subscriber.current_span().id()
                {
                    call(|| subscriber.exit(id));
                    entered.push(id.clone());
                }
            });
        };
        call(exit_all);
    }

    /// The spans of a thread that is a worker for some time: entered again when this is dropped.
    pub(crate) struct Aside(Vec<Id>);

    impl Aside {
        pub(crate) fn put() -> Aside {
            let mut entered = Vec::new();
            exit_all(&mut entered);
            Aside(entered)
        }

        /// A task of this thread begins inside of these spans.
        pub(crate) fn lend(&self, task: &Header) {
            let mut entered = task.local.spans.entered.take();
            entered.extend_from_slice(&self.0);
            task.local.spans.entered.set(entered);
        }
    }

    impl Drop for Aside {
        fn drop(&mut self) {
            enter(self.0.iter().rev());
        }
    }

    /// A task is about to begin. It is not among those of its worker yet.
    pub(crate) fn started(task: &Header, worker: usize) {
        let span = task.local.spans.task.take();
        let parent = span.as_ref().and_then(Span::id);
        task.local.spans.task.set(span);
        call(|| {
            tracing::trace!(target: "towpath", parent: parent, task = task.id, name = task.name(), worker, at = %task.site, "started");
        });
    }

    /// A task has run to its end. It says so itself.
    pub(crate) fn ended(task: &Header, panic: Option<&Box<dyn Any + Send>>) {
        match panic {
            Some(payload) => panicked(task, &**payload),
            None if task.local.spans.panicked.get() => {}
            None => {
                call(|| tracing::trace!(target: "towpath", task = task.id, name = task.name(), "ended"));
            }
        }
    }

    /// A task has panicked. It says so itself, where that is caught: before it [`ended`], which is not told then.
    pub(crate) fn panicked(task: &Header, payload: &(dyn Any + Send)) {
        task.local.spans.panicked.set(true);
        let panic = panics::message(payload).unwrap_or("a value that is no text");
        let place = task.place_of(payload);
        let (name, place) = (task.name(), place.as_deref());
        call(|| {
            tracing::error!(target: "towpath", task = task.id, name, at = %task.site, panic, place, "panicked");
        });
    }

    pub(crate) fn warned(warning: &Warning) {
        call(|| match warning {
            Warning::Stall(stall) => {
                let (task, name) = (stall.task.number(), stall.name.as_deref());
                let backtrace = stall.backtrace.as_ref().map(|backtrace| backtrace.to_string());
                let worker = stall.worker;
                tracing::warn!(target: "towpath", task, name, worker, held = ?stall.held, backtrace, "stall");
            }
            Warning::Deadlock(deadlock) => {
                tracing::warn!(target: "towpath", tasks = deadlock.dump.tasks.len(), dump = %deadlock.dump, "deadlock");
            }
        });
    }
}

#[cfg(not(feature = "tracing"))]
mod spans {
    use std::any::Any;

    use crate::task::Header;
    use crate::warning::Warning;

    #[derive(Default)]
    pub(crate) struct Spans(());

    pub(crate) struct Aside;

    impl Aside {
        #[inline(always)]
        pub(crate) fn put() -> Aside {
            Aside
        }

        #[inline(always)]
        pub(crate) fn lend(&self, _: &Header) {}
    }

    #[inline(always)]
    pub(crate) fn spawned(task: &Header) {
        let Spans(()) = task.local.spans;
    }

    #[inline(always)]
    pub(crate) fn resumes(_: &Header) {}

    #[inline(always)]
    pub(crate) fn suspends(_: &Header) {}

    #[inline(always)]
    pub(crate) fn over(_: &Header) {}

    #[inline(always)]
    pub(crate) fn started(_: &Header, _: usize) {}

    #[inline(always)]
    pub(crate) fn ended(_: &Header, _: Option<&Box<dyn Any + Send>>) {}

    #[inline(always)]
    pub(crate) fn panicked(_: &Header, _: &(dyn Any + Send)) {}

    #[inline(always)]
    pub(crate) fn warned(_: &Warning) {}
}

pub(crate) use spans::{Aside, Spans, ended, over, panicked, resumes, spawned, started, suspends, warned};
