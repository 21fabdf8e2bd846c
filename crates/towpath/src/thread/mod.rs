//! Tasks, under the names that `std::thread` has for threads.
//!
//! A task is a stack of its own and a place in a worker's run queue. It may start on any worker; once started it stays
//! on that thread, so its frames may hold what is not `Send`. It runs until it waits: code that computes for long should
//! [`yield_now`] at times, or run in [`blocking`].
//!
//! Called from a plain thread outside any runtime, [`spawn`] and [`scope`](scope()) start threads instead, and the rest
//! concerns the thread: a library can use this module without knowing who calls it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use towpath_loop::{Instant, op};

use crate::cancel;
use crate::context;
use crate::task::TaskRef;
use crate::why::Why;
use crate::worker::Worker;

mod children;
mod failure;
mod group;
mod local;
mod placement;
mod scope;
mod spawn;

pub use crate::cancel::Cancellation;
pub use failure::{Failure, Panic};
pub(crate) use group::Collect;
pub use group::{Group, ScopedGroup};
pub(crate) use local::Locals;
pub use local::{AccessError, LocalKey};
pub use placement::Placement;
pub use scope::{Scope, ScopedJoinHandle, scope};
pub(crate) use spawn::spawn_on;
pub use spawn::{Builder, spawn, spawn_local};
pub use std::thread::{Result, available_parallelism, panicking};

/// Owns the right to join a task. Dropping it detaches the task, which goes on.
pub struct JoinHandle<T> {
    /// `None` once joined.
    task: Option<TaskRef>,
    /// The thread that stands in for the task, whose thread-locals go after the result is there.
    thread: Option<Box<std::thread::JoinHandle<()>>>,
    _result: PhantomData<T>,
}

// SAFETY: the handle takes, or drops, the result on its own thread, which is all that it does with a `T`.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: a shared handle gives no access to the result.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    pub(crate) fn new(task: TaskRef) -> JoinHandle<T> {
        JoinHandle { task: Some(task), thread: None, _result: PhantomData }
    }

    fn task(&self) -> &TaskRef {
        self.task.as_ref().expect("only `end` takes it")
    }

    /// Waits until the task has ended and returns what it returned.
    ///
    /// The wait itself is not cut short when the current task is cancelled, for there would be no handle left to come
    /// back with; to pass cancellation on, [`cancel`](JoinHandle::cancel) it or use a [`scope`](scope()).
    ///
    /// # Errors
    /// The payload of the panic that ended it; an [`io::Error`] as payload if the system refused it a stack,
    /// [`Canceled`](crate::Canceled) if it was cancelled before it started or its runtime ended first.
    ///
    /// # Panics
    /// If a task joins itself.
    pub fn join(self) -> Result<T> {
        self.end(None).0
    }

    /// [`join`](JoinHandle::join), with an error that can be told to people: which task, what happened, and where, as far as
    /// that is [reported](crate::Builder::report_panics).
    ///
    /// ```
    /// use towpath::thread::{Builder, Failure};
    ///
    /// let task = Builder::new().name("rent".into()).spawn(|| assert_eq!(2 + 2, 5, "wrong sum"))?;
    /// let failure = task.wait().unwrap_err();
    /// println!("{failure}");
    /// let Failure::Panicked(panic) = failure else { panic!("it was cancelled") };
    /// assert_eq!(panic.name(), Some("rent"));
    /// assert!(panic.message().unwrap().contains("wrong sum"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Panicked`](Failure::Panicked) or [`Canceled`](Failure::Canceled), when `join` gives a payload.
    ///
    /// # Panics
    /// As `join`.
    pub fn wait(self) -> std::result::Result<T, Failure<Infallible>> {
        let (result, task) = self.end(None);
        result.map_err(|payload| Failure::of(&task, payload))
    }

    /// Waits until the task has ended, and calls `on_cancel` if the current one is cancelled meanwhile.
    fn end(mut self, on_cancel: Option<&dyn Fn()>) -> (Result<T>, TaskRef) {
        let task = self.task.take().expect("only `end` takes it");
        wait_for(&task, on_cancel);
        if let Some(thread) = self.thread.take() {
            // As good as over. What it could still panic with is not the task's.
            let _ = thread.join();
        }
        // SAFETY: it has finished, the handle is for a `T`, and was taken out of `self` above.
        (unsafe { task.take() }, task)
    }

    /// Cancels the task: every wait of it that is not [shielded](crate::shield) fails from now on with an error that
    /// [`is_canceled`](crate::is_canceled) recognises. One that has not started never runs.
    pub fn cancel(&self) {
        self.task().cancel();
    }

    /// [`cancel`](JoinHandle::cancel), and says why: a text or an error, which [`cancellation`] tells the task, and which is in
    /// the errors of its waits, to be displayed. Of several requests the first one counts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use towpath::thread;
    ///
    /// let task = thread::spawn(|| thread::try_sleep(Duration::from_secs(60)));
    /// task.cancel_with("the server is going down");
    /// if let Ok(slept) = task.join() {
    ///     let error = slept.unwrap_err();
    ///     assert!(towpath::is_canceled(&error));
    ///     assert_eq!(error.to_string(), "cancelled: the server is going down");
    /// } // or else it was cancelled before it started
    /// ```
    pub fn cancel_with(&self, reason: impl Into<Box<dyn Error + Send + Sync>>) {
        self.task().cancel_with(Some(reason.into().into()));
    }

    /// Whether the task has ended: joining would not wait.
    pub fn is_finished(&self) -> bool {
        self.task().join.is_finished()
    }

    /// The task's handle for everything else.
    pub fn thread(&self) -> &Thread {
        Thread::from_ref(self.task())
    }

    /// Its end wakes `waiter` from now on. False if it has ended.
    pub(crate) fn start_waiting(&self, waiter: TaskRef) -> bool {
        self.task().join.start_waiting(waiter)
    }

    /// Its end wakes nobody, or has done so.
    pub(crate) fn stop_waiting(&self) {
        self.task().join.stop_waiting();
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take()
            && task.join.detach()
        {
            // SAFETY: it has finished, and with this handle goes the only one who could take the result.
            unsafe { task.drop_result() };
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").finish_non_exhaustive()
    }
}

/// Waits until a task has ended. Calls `on_cancel` if the current task is cancelled meanwhile.
fn wait_for(task: &TaskRef, on_cancel: Option<&dyn Fn()>) {
    if task.join.is_finished() {
        return;
    }
    let me = context::current();
    assert!(me.as_ptr() != task.as_ptr(), "a task cannot join itself");
    if !task.has_started() {
        context::with_worker(Worker::start_newest_first);
    }
    if task.join.start_waiting(me.clone()) {
        // Its end clears the registration, so there is nothing to take back.
        let over = || task.join.is_finished();
        let why = Why::join(task.id);
        if let Some(on_cancel) = on_cancel
            && !context::wait_until(&me, why, Instant::NEVER, true, over)
        {
            on_cancel();
        }
        context::wait_until(&me, why, Instant::NEVER, false, over);
    }
}

/// A handle to a task, or a thread, as [`std::thread::Thread`].
#[derive(Clone)]
#[repr(transparent)]
pub struct Thread(TaskRef);

impl Thread {
    fn from_ref(task: &TaskRef) -> &Thread {
        // SAFETY: `Thread` is a transparent wrapper.
        unsafe { &*std::ptr::from_ref(task).cast::<Thread>() }
    }

    /// Its id, never used again.
    pub fn id(&self) -> ThreadId {
        ThreadId(self.0.id)
    }

    /// Its name, if it was given one.
    pub fn name(&self) -> Option<&str> {
        self.0.name()
    }

    /// Gives it its token, and so ends its [`park`], the current or else the next one.
    pub fn unpark(&self) {
        self.0.unpark();
    }
}

// As `std`'s: a handle shows nothing of what a panic may have left half done.
impl std::panic::UnwindSafe for Thread {}
impl std::panic::RefUnwindSafe for Thread {}
impl<T> std::panic::UnwindSafe for JoinHandle<T> {}
impl<T> std::panic::RefUnwindSafe for JoinHandle<T> {}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A unique identifier of a task or thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ThreadId(u64);

impl ThreadId {
    pub(crate) fn of(number: u64) -> ThreadId {
        ThreadId(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// The current task, or thread.
pub fn current() -> Thread {
    Thread(context::current())
}

/// Whether the current task should come to its end: it was [cancelled](JoinHandle::cancel), or is past a
/// [deadline](crate::time::timeout) around this call, and nothing [shields](crate::shield) it. Its waits fail then; this is for
/// code that does not wait, or cannot tell from an error.
pub fn is_canceled() -> bool {
    // SAFETY: used in this frame, which is the task's.
    let current = unsafe { context::Current::get() };
    cancel::is_canceled(&current)
}

/// What makes the current task's waits fail, if something does: a request, with its reason, or a deadline. Of several it is
/// the outermost, which the waits after all of them will fail for. See [`is_canceled`].
///
/// ```
/// use std::time::Duration;
/// use towpath::{thread, time::Deadline};
///
/// assert!(thread::cancellation().is_none());
/// let deadline = Deadline::after(Duration::ZERO);
/// let why = deadline.run(|| thread::cancellation().unwrap());
/// assert_eq!(why.deadline(), Some(deadline.instant()));
/// ```
pub fn cancellation() -> Option<Cancellation> {
    // SAFETY: used in this frame, which is the task's.
    let current = unsafe { context::Current::get() };
    cancel::cancellation(&current)
}

/// Lets other tasks of this worker run first.
#[inline]
pub fn yield_now() {
    if !context::yield_now() {
        std::thread::yield_now();
    }
}

/// Waits for at least `duration`; less only if the task is cancelled, as the next wait will tell. See [`try_sleep`].
pub fn sleep(duration: Duration) {
    // An error is cancellation, or the lack of a loop.
    if let Err(error) = try_sleep(duration)
        && !crate::is_canceled(&error)
    {
        std::thread::sleep(duration);
    }
}

/// Waits until a time has come; less only if the task is cancelled, as the next wait will tell.
pub fn sleep_until(deadline: Instant) {
    if let Err(error) = op::timer_at(deadline).wait()
        && !crate::is_canceled(&error)
    {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Waits for at least `duration`, or until the task is cancelled.
///
/// # Errors
/// [`is_canceled`](crate::is_canceled).
pub fn try_sleep(duration: Duration) -> io::Result<()> {
    op::timer(duration).wait()
}

/// Waits until the current task's token is there, and takes it: see [`Thread::unpark`]. Unlike `std`'s it does not
/// return for no reason; it does if the task is cancelled, and from then on always at once, as every wait. A loop around it
/// that only looks for its condition would then spin: use [`try_park`] there, or [`shield`](crate::shield) it.
pub fn park() {
    // Being cancelled is a reason to return.
    let _ = try_park();
}

/// [`park`], telling whether it was ended by the token.
///
/// ```
/// # use std::sync::Arc;
/// # use std::sync::atomic::{AtomicBool, Ordering};
/// # use towpath::thread;
/// let (ready, me) = (Arc::new(AtomicBool::new(false)), thread::current());
/// let flag = ready.clone();
/// thread::spawn(move || {
///     flag.store(true, Ordering::Release);
///     me.unpark();
/// });
/// while !ready.load(Ordering::Acquire) {
///     thread::try_park()?;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// [`is_canceled`](crate::is_canceled) if the task is cancelled, and the token is not there.
pub fn try_park() -> io::Result<()> {
    let me = context::current();
    match context::wait_until(&me, Why::PARK, Instant::NEVER, true, || me.take_token()) {
        true => Ok(()),
        false => Err(cancel::error()),
    }
}

/// [`park`], for at most `duration`.
pub fn park_timeout(duration: Duration) {
    // The timer wakes the task, whose wait then finds the time over.
    let _ = crate::time::timeout(duration, || {
        park();
        Ok(())
    });
}

/// Runs `f` on a thread of the process's pool and waits for it as a task; on a plain thread it just runs. For what would
/// block the worker: long computations, foreign calls.
///
/// # Errors
/// [`is_canceled`](crate::is_canceled) if the task is cancelled first: an `f` that has begun runs on, its result is
/// dropped; one that has not never runs. The system's error if the pool has no thread and can start none.
///
/// # Panics
/// As `f` does.
pub fn blocking<F, T>(f: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if !context::in_task() {
        return Ok(f());
    }
    op::blocking(f).wait().map_err(|error| match error {
        towpath_loop::op::JobError::Failed(error) => error,
        towpath_loop::op::JobError::Panicked(panic) => std::panic::resume_unwind(panic),
    })
}
