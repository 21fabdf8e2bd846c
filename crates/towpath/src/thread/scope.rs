//! Tasks that borrow from the frame that spawns them.
//!
//! `scope` returns only when all of its tasks have ended, also where it panics. That makes borrowing sound although
//! frames of tasks can be leaked: a frame that is leaked keeps what is borrowed from it for ever.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use towpath_loop::Instant;

use super::children::Children;
use super::{Builder, Failure, JoinHandle, Panic, Result, Thread};
use crate::cancel;
use crate::context::{self, Current};
use crate::task::TaskRef;
use crate::trace;
use crate::why::Why;
use crate::worker::Worker;

/// A scope to spawn tasks in: see [`scope`].
pub struct Scope<'scope, 'env: 'scope> {
    data: Arc<Data>,
    /// Invariant in both lifetimes, as in `std`: neither may be shortened or stretched.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

pub(super) struct Data {
    running: AtomicUsize,
    /// What one of those that nobody joined has panicked with.
    panicked: OnceLock<String>,
    owner: TaskRef,
    /// For cancellation to be passed on.
    tasks: Children,
}

/// Counts a task of the scope down when it is gone: its closure has run, or was dropped, and everything that it borrowed
/// is let go.
struct Running(Arc<Data>);

impl Drop for Running {
    fn drop(&mut self) {
        // Release: what the task did to what it borrowed happens before the scope returns.
        if self.0.running.fetch_sub(1, Ordering::Release) == 1 {
            self.0.owner.wake();
        }
    }
}

/// Runs `f` with a scope in which tasks can be spawned that borrow from around it, and waits until all have ended, as
/// [`std::thread::scope`] does for threads.
///
/// If the current task is cancelled, so are the tasks of the scope; the scope still waits for them.
///
/// ```
/// use towpath::thread;
///
/// let mut numbers = vec![1, 2, 3];
/// let sum = thread::scope(|s| {
///     let sum = s.spawn(|| numbers.iter().sum::<i32>());
///     s.spawn(|| assert_eq!(numbers.len(), 3));
///     sum.join().unwrap()
/// });
/// numbers.push(sum);
/// assert_eq!(numbers, [1, 2, 3, 6]);
/// ```
///
/// # Panics
/// As `f` does, or if a task of the scope panicked and was not joined.
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let owner = context::current();
    let scope = Scope {
        data: Arc::new(Data {
            running: AtomicUsize::new(0),
            panicked: OnceLock::new(),
            owner: owner.clone(),
            tasks: Children::default(),
        }),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    let data = &scope.data;
    // Acquire: see `Running`.
    let over = || data.running.load(Ordering::Acquire) == 0;
    let why = Why::SCOPE;
    if !over() {
        context::with_worker(Worker::start_newest_first);
    }
    if !context::wait_until(&owner, why, Instant::NEVER, true, over) {
        data.tasks.cancel(cancel::reason());
        while !context::wait_until(&owner, why, Instant::NEVER, false, over) {}
    }
    match (result, data.panicked.get()) {
        (Err(panic), _) => resume_unwind(panic),
        (Ok(_), Some(panic)) => panic!("a scoped task panicked: {panic}"),
        (Ok(result), None) => result,
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Spawns a task of this scope.
    ///
    /// # Panics
    /// If the system refuses a thread, outside of any runtime.
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        Builder::new().spawn_scoped(self, f).expect("failed to spawn a thread")
    }

    pub(super) fn data(&'scope self) -> &'scope Arc<Data> {
        &self.data
    }

    /// Cancels the tasks of this scope, also those that are spawned in it from now on.
    pub fn cancel(&self) {
        self.data.tasks.cancel(None);
    }

    /// [`cancel`](Scope::cancel), and says why: see [`JoinHandle::cancel_with`].
    pub fn cancel_with(&self, reason: impl Into<Box<dyn Error + Send + Sync>>) {
        self.data.tasks.cancel(Some(reason.into().into()));
    }
}

impl Builder {
    /// Spawns a task of a scope with these options.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        // SAFETY: `scope` is not left before its tasks are gone.
        unsafe { scope.data.spawn(self, f) }
    }
}

impl Data {
    /// Spawns a task of the scope.
    ///
    /// # Safety
    /// The scope is there, for `'scope`; `f` and its result are `Send`, and outlive that.
    #[track_caller]
    pub(super) unsafe fn spawn<'scope, F: FnOnce() -> T, T>(
        self: &'scope Arc<Data>,
        builder: Builder,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        let me = context::current();
        // The scopes around the owner are its own to look at.
        let late = std::ptr::eq(&*self.owner, &*me) && cancel::is_canceled(&me);
        let canceled = self.tasks.canceled().or(late.then(cancel::reason));
        let builder = if canceled.is_some() { builder.canceled(canceled) } else { builder };
        self.running.fetch_add(1, Ordering::Relaxed);
        let body = Body { f, running: Running(self.clone()) };
        // SAFETY: `scope` does not return before `running` is dropped, which the closure owns and passes on to the result:
        // both are gone by then. Both are `Send`.
        let handle = unsafe { builder.launch(move || body.run()) }?;
        self.tasks.add(handle.task());
        Ok(ScopedJoinHandle { handle, data: self, _scope: PhantomData })
    }
}

/// A scoped task's closure. Fields are dropped in this order, also where it never runs: the scope is held open until
/// all that the closure borrowed is let go.
struct Body<F> {
    f: F,
    running: Running,
}

impl<T, F: FnOnce() -> T> Body<F> {
    fn run(self) -> Scoped<T> {
        let Body { f, running } = self;
        let result = catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
            // SAFETY: used in this frame, which is the task's.
            let task = unsafe { Current::get() };
            trace::panicked(&task, &*payload);
            Panic::of(&task, payload)
        });
        Scoped { result: Some(result), running }
    }
}

/// How a scoped task ended.
type Ended<T> = std::result::Result<T, Panic>;

/// Holds the scope open until it is joined or dropped, since it may borrow.
struct Scoped<T> {
    /// `None` once joined.
    result: Option<Ended<T>>,
    running: Running,
}

impl<T> Drop for Scoped<T> {
    fn drop(&mut self) {
        if let Some(Err(panic)) = &self.result {
            // Nobody will be told by a join, so the scope tells.
            self.running.0.panicked.get_or_init(|| panic.to_string());
        }
        // Before `running`.
        self.result = None;
    }
}

/// Owns the right to join a task of a scope.
pub struct ScopedJoinHandle<'scope, T> {
    handle: JoinHandle<Scoped<T>>,
    data: &'scope Data,
    _scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the task has ended and returns what it returned: see [`JoinHandle::join`]. If the owner of the scope
    /// is cancelled while it waits here, so are the tasks of the scope.
    ///
    /// # Errors
    /// As [`JoinHandle::join`].
    pub fn join(self) -> Result<T> {
        self.end().0?.map_err(|panic| panic.into_payload())
    }

    /// [`join`](ScopedJoinHandle::join), with an error that can be told to people: see [`JoinHandle::wait`].
    ///
    /// # Errors
    /// As [`JoinHandle::wait`].
    pub fn wait(self) -> std::result::Result<T, Failure<Infallible>> {
        match self.end() {
            (Ok(ended), _) => ended.map_err(Failure::Panicked),
            (Err(payload), task) => Err(Failure::of(&task, payload)),
        }
    }

    /// Waits, and returns how it ended; or else, if it never began, why.
    fn end(self) -> (Result<Ended<T>>, TaskRef) {
        let ScopedJoinHandle { handle, data, .. } = self;
        let is_owner = std::ptr::eq(&*context::current(), &*data.owner);
        let cancel = || data.tasks.cancel(cancel::reason());
        let (ended, task) = handle.end(is_owner.then_some(&cancel));
        (ended.map(|mut scoped| scoped.result.take().expect("joined once")), task)
    }

    /// Cancels the task: see [`JoinHandle::cancel`].
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// Cancels the task, and says why: see [`JoinHandle::cancel_with`].
    pub fn cancel_with(&self, reason: impl Into<Box<dyn Error + Send + Sync>>) {
        self.handle.cancel_with(reason);
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    pub(super) fn task(&self) -> &TaskRef {
        self.handle.task()
    }

    /// The task's handle for everything else.
    pub fn thread(&self) -> &Thread {
        self.handle.thread()
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.data.running.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle").finish_non_exhaustive()
    }
}
