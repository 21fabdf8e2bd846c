//! Cancellation: a request that every wait honours, until the task ends.
//!
//! A task is cancelled through its handle, or a part of it by a deadline around that part. Either way the waits inside
//! fail with an error that [`is_canceled`](crate::is_canceled) recognises, again and again, so that the task finds its
//! way out by ordinary error handling. Scopes form a chain on the task's stack, innermost first; a [`shield`] hides
//! what is outside of it.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use towpath_loop::{Instant, Loop, OpId, op};

use crate::context;
use crate::task::Header;

/// One link of the chain, in the frame of `timeout` or `shield`.
pub(crate) struct Scope {
    outer: *const Scope,
    kind: Kind,
}

enum Kind {
    Shield,
    Deadline { at: Instant, fired: Cell<bool> },
}

/// Whether waits of `task`, which is the current one, fail now.
pub(crate) fn is_canceled(task: &Header) -> bool {
    let mut scope = task.local.scope.get();
    while !scope.is_null() {
        // SAFETY: scopes are in frames of the current task that have not returned: `with_scope` unlinks them.
        let link = unsafe { &*scope };
        match &link.kind {
            Kind::Shield => return false,
            Kind::Deadline { at, fired } => {
                if fired.get() || (no_timers(task) && Instant::now() >= *at) {
                    return true;
                }
            }
        }
        scope = link.outer;
    }
    task.is_canceled()
}

/// Whether the current task may see no timer fire: a thread that blocks outside its loop does not, nor does a task that
/// waits in place because it unwinds.
fn no_timers(task: &Header) -> bool {
    !task.has_stack() || std::thread::panicking()
}

/// The earliest deadline around the current wait of `task`, which is the current one.
pub(crate) fn deadline(task: &Header) -> Instant {
    let mut scope = task.local.scope.get();
    let mut earliest = Instant::NEVER;
    while !scope.is_null() {
        // SAFETY: as in `is_canceled`.
        let link = unsafe { &*scope };
        match &link.kind {
            Kind::Shield => break,
            Kind::Deadline { at, .. } => earliest = earliest.min(*at),
        }
        scope = link.outer;
    }
    earliest
}

/// Why a task was cancelled, as whoever cancelled it has said.
pub(crate) type Reason = Arc<dyn Error + Send + Sync>;

/// What makes the waits of the current task fail, and is the outermost of all that would.
pub(crate) fn cancellation(task: &Header) -> Option<Cancellation> {
    let mut found = None;
    let mut scope = task.local.scope.get();
    while !scope.is_null() {
        // SAFETY: as in `is_canceled`.
        let link = unsafe { &*scope };
        match &link.kind {
            Kind::Shield => return found,
            Kind::Deadline { at, fired } => {
                if fired.get() || (no_timers(task) && Instant::now() >= *at) {
                    found = Some(Cancellation(Cause::Deadline(*at)));
                }
            }
        }
        scope = link.outer;
    }
    if task.is_canceled() {
        found = Some(Cancellation(Cause::Request(task.reason().cloned())));
    }
    found
}

/// Why the current task was cancelled, if that is so and a reason was given.
pub(crate) fn reason() -> Option<Reason> {
    context::with_who_waits(|task| {
        // Most have none, and that is known at once.
        task.reason()?;
        match cancellation(task)?.0 {
            Cause::Request(reason) => reason,
            Cause::Deadline(_) => None,
        }
    })
    .flatten()
}

/// What the waits of the current task fail with.
#[cold]
pub(crate) fn error() -> io::Error {
    towpath_loop::canceled(reason())
}

/// Why waits fail: see [`thread::cancellation`](crate::thread::cancellation).
#[derive(Clone, Debug)]
pub struct Cancellation(Cause);

#[derive(Clone, Debug)]
enum Cause {
    Request(Option<Reason>),
    Deadline(Instant),
}

impl Cancellation {
    /// The reason that was given, if the task was [cancelled with one](crate::thread::JoinHandle::cancel_with).
    pub fn reason(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        match &self.0 {
            Cause::Request(reason) => reason.as_deref(),
            Cause::Deadline(_) => None,
        }
    }

    /// The deadline that has passed, if it is one.
    pub fn deadline(&self) -> Option<Instant> {
        match self.0 {
            Cause::Request(_) => None,
            Cause::Deadline(at) => Some(at),
        }
    }
}

impl fmt::Display for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Request(None) => f.write_str("cancelled"),
            Cause::Request(Some(reason)) => write!(f, "cancelled: {reason}"),
            Cause::Deadline(_) => f.write_str("the deadline has passed"),
        }
    }
}

/// Runs `f` with a scope around it.
fn with_scope<R>(kind: Kind, f: impl FnOnce(&Scope, &Header) -> R) -> R {
    struct Unlink<'a>(&'a Header, *const Scope);
    impl Drop for Unlink<'_> {
        fn drop(&mut self) {
            self.0.local.scope.set(self.1);
        }
    }
    let task = context::current();
    let scope = Scope { outer: task.local.scope.get(), kind };
    // Unlinked when this frame is left, by a panic as well.
    let _unlink = Unlink(&task, scope.outer);
    task.local.scope.set(&raw const scope);
    f(&scope, &task)
}

/// Runs `f` so that cancellation of the task, and deadlines outside, do not reach its waits: for clean-up that has to
/// wait. What was cancelled meanwhile fails at the next wait after it.
///
/// ```
/// # use std::time::Duration;
/// # use towpath::thread;
/// towpath::shield(|| thread::sleep(Duration::from_millis(1)));
/// ```
pub fn shield<R>(f: impl FnOnce() -> R) -> R {
    with_scope(Kind::Shield, |_, _| f())
}

/// The error's inside when a [`timeout`] or [`deadline`](deadline_at) passed.
#[derive(Debug)]
struct Elapsed(Option<Duration>);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => write!(f, "timed out after {duration:?}"),
            None => f.write_str("the deadline has passed"),
        }
    }
}

impl std::error::Error for Elapsed {}

/// Runs `f`, and makes its waits fail once `duration` has passed.
///
/// If `f` then returns such a failure, the result is an error of kind `TimedOut` that names the duration. A success is
/// kept even if it came late, and any other error is passed on. Deadlines nest: the one that fired turns the failure
/// into its own error, and cancellation from outside passes through as what it is.
///
/// ```
/// # use std::{io, time::Duration};
/// use towpath::{thread, time::timeout};
///
/// let late = timeout(Duration::from_millis(1), || thread::try_sleep(Duration::from_secs(60)));
/// assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
/// ```
///
/// # Errors
/// `TimedOut`, and what `f` returns.
pub fn timeout<T>(duration: Duration, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    limit(Instant::now() + duration, Some(duration), f)
}

/// [`timeout`], with the moment instead of the duration.
///
/// # Errors
/// As [`timeout`].
pub fn deadline_at<T>(at: Instant, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    limit(at, None, f)
}

fn limit<T>(at: Instant, duration: Option<Duration>, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (result, fired) = run_until(at, f)?;
    match result {
        Err(error) if fired && crate::is_canceled(&error) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, Elapsed(duration)))
        }
        result => result,
    }
}

/// Runs `f` with a deadline around it. Its result, and whether it was this deadline that made waits fail, if any did.
fn run_until<R>(at: Instant, f: impl FnOnce() -> R) -> io::Result<(R, bool)> {
    let fired = Cell::new(at <= Instant::now());
    with_scope(Kind::Deadline { at, fired }, |scope, task| {
        let Kind::Deadline { fired, .. } = &scope.kind else { unreachable!("just made") };
        let result = {
            let _alarm =
                if fired.get() || at == Instant::NEVER { None } else { Some(Alarm::arm(at, fired, task)?) };
            f()
        };
        Ok((result, is_mine(scope, task)))
    })
}

/// A deadline around code that need not return an [`io::Result`], and that can be asked afterwards.
///
/// ```
/// # use std::time::Duration;
/// use towpath::{thread, time::Deadline};
///
/// let outer = Deadline::after(Duration::from_secs(60));
/// let inner = Deadline::after(Duration::from_millis(1));
/// let mut rounds = 0;
/// outer.run(|| {
///     inner.run(|| {
///         while thread::try_sleep(Duration::from_micros(100)).is_ok() {
///             rounds += 1;
///         }
///     })
/// });
/// assert!(inner.has_fired() && !outer.has_fired());
/// ```
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    fired: Cell<bool>,
}

impl Deadline {
    /// One that passes after `duration`, counted from this call.
    pub fn after(duration: Duration) -> Deadline {
        Deadline::at(Instant::now() + duration)
    }

    /// One that passes at a time.
    pub fn at(at: Instant) -> Deadline {
        Deadline { at, fired: Cell::new(false) }
    }

    /// When it passes.
    pub fn instant(&self) -> Instant {
        self.at
    }

    /// Runs `f`, and makes its waits fail once the deadline has passed: as [`timeout`], whose error it leaves to the caller.
    ///
    /// # Panics
    /// As `f` does; on a plain thread also if that can have no loop.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        let (result, fired) = run_until(self.at, f).expect("a loop for the thread");
        self.fired.set(self.fired.get() || fired);
        result
    }

    /// Whether it had passed when a [`run`](Deadline::run) came to its end, and nothing further out makes waits fail as well:
    /// then what failed inside for being cancelled failed because of it.
    pub fn has_fired(&self) -> bool {
        self.fired.get()
    }
}

/// Whether it was this scope that made a wait inside fail, rather than something outside of it. Of several, the
/// outermost is what the caller can do least about: cancellation beats deadlines, an outer deadline an inner one.
fn is_mine(scope: &Scope, task: &Header) -> bool {
    let fired = match &scope.kind {
        Kind::Deadline { at, fired } => fired.get() || (no_timers(task) && Instant::now() >= *at),
        Kind::Shield => false,
    };
    if !fired {
        return false;
    }
    // What is outside, as the code after this scope will see it.
    let inner = task.local.scope.replace(scope.outer);
    let outside = is_canceled(task);
    task.local.scope.set(inner);
    !outside
}

/// A timer that wakes the task; removed when it is dropped.
pub(crate) struct Alarm {
    loop_: Loop,
    id: OpId,
}

impl Alarm {
    /// Wakes the task that runs at that time, if there is one; a thread sees to its time itself.
    #[inline(always)]
    pub(crate) fn wake_at(at: Instant, task: &Header) -> Option<Alarm> {
        if at == Instant::NEVER || !task.has_stack() {
            return None;
        }
        let loop_ = Loop::current().expect("a task runs on a worker, which has a loop");
        let task = task.to_ref();
        let id = loop_.submit_uncounted(op::timer_at(at), move |_, _| task.wake());
        Some(Alarm { loop_, id })
    }

    /// Sets a flag in the caller's frame as well, which drops the alarm before it goes.
    fn arm(at: Instant, fired: &Cell<bool>, task: &Header) -> io::Result<Alarm> {
        let loop_ = Loop::current()?;
        let flag: *const Cell<bool> = fired;
        let task = task.to_ref();
        let id = loop_.submit_uncounted(op::timer_at(at), move |_, outcome| {
            if outcome.is_ok() {
                // SAFETY: the frame of `limit` removes this operation before it goes, on this thread.
                unsafe { (*flag).set(true) };
                task.wake();
            }
        });
        Ok(Alarm { loop_, id })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.loop_.remove(self.id);
    }
}
