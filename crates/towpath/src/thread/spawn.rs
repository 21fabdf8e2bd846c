//! Spawning: tasks where there is a runtime, threads where there is none.

use std::io;
use std::marker::PhantomData;

use super::local;
use super::{JoinHandle, Placement};
use crate::cancel::Reason;
use crate::context;
use crate::runtime::{Handle, Shared};
use crate::task::{Rare, TaskRef};

/// Spawns a task, on the runtime of the current one; outside of any, a thread.
///
/// # Panics
/// If the system refuses a thread. A task whose stack the system refuses panics in its own name: see
/// [`JoinHandle::join`].
#[inline]
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: used while the worker runs this very code.
    match unsafe { context::runtime() } {
        Some(runtime) => spawn_on(runtime, None, f),
        None => Builder::new().spawn(f).expect("failed to spawn a thread"),
    }
}

/// Spawns a task on this very worker, which therefore need not be `Send`.
///
/// # Panics
/// Outside of a runtime.
#[track_caller]
pub fn spawn_local<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    Builder::new().spawn_local(f).expect("spawn_local needs a runtime")
}

/// Options for a task, as [`std::thread::Builder`].
#[derive(Debug, Default)]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<usize>,
    placement: Placement,
    inherits_nothing: bool,
    /// It is cancelled before anybody can start it, for that reason.
    canceled: Option<Option<Reason>>,
}

impl Builder {
    /// The defaults.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Names the task: in panics' and overflows' messages, and for [`Thread::name`](super::Thread::name).
    pub fn name(mut self, name: String) -> Builder {
        self.name = Some(name);
        self
    }

    /// The size of the task's stack in bytes, instead of the runtime's default.
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = Some(bytes);
        self
    }

    /// Whether the task begins with copies of the task-locals that are [inherited](crate::task_local!#inheritance); by default
    /// it does.
    pub fn inherit_locals(mut self, inherit: bool) -> Builder {
        self.inherits_nothing = !inherit;
        self
    }

    /// On which worker the task is to start, and live: see [`Placement`].
    pub fn placement(mut self, placement: Placement) -> Builder {
        self.placement = placement;
        self
    }

    /// Spawns as [`spawn`] does.
    ///
    /// # Errors
    /// The system's, if it refuses a thread (outside of any runtime). `InvalidInput` if the name holds a NUL byte, or for a
    /// worker that there is not; `Unsupported` for a placement that is not possible here: see [`Placement`].
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: both are `'static` and `Send`.
        unsafe { self.launch(f) }
    }

    /// Spawns on another runtime, or this one, from anywhere: see [`Handle::spawn`](crate::Handle::spawn).
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_on<F, T>(self, runtime: &Handle, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: both are `'static` and `Send`.
        unsafe { self.launch_on(&runtime.shared, f) }
    }

    /// Spawns on the runtime of the current task, or else a thread.
    ///
    /// # Safety
    /// What `f` and its result borrow outlives both, and both are `Send`.
    #[track_caller]
    pub(super) unsafe fn launch<F: FnOnce() -> T, T>(self, f: F) -> io::Result<JoinHandle<T>> {
        // SAFETY: used while the worker runs this very code; the caller's promise.
        unsafe {
            match context::runtime() {
                Some(runtime) => self.launch_on(runtime, f),
                None => {
                    self.check(None)?;
                    spawn_thread(self, f)
                }
            }
        }
    }

    /// # Safety
    /// As [`launch`](Builder::launch).
    #[track_caller]
    unsafe fn launch_on<F: FnOnce() -> T, T>(self, runtime: &Shared, f: F) -> io::Result<JoinHandle<T>> {
        self.check(Some(runtime))?;
        let placement = self.placement;
        // SAFETY: the caller's promise.
        let (task, handle) = unsafe { self.task(f) };
        placement.put(runtime, task);
        Ok(JoinHandle::new(handle))
    }

    /// For what comes to a group or a scope that is cancelled: `None` if that is not.
    pub(super) fn canceled(mut self, reason: Option<Option<Reason>>) -> Builder {
        self.canceled = reason;
        self
    }

    /// The task, before anybody knows of it.
    ///
    /// # Safety
    /// As [`TaskRef::new`].
    #[track_caller]
    unsafe fn task<F: FnOnce() -> T, T>(self, f: F) -> (TaskRef, TaskRef) {
        // First, for to clone is to run foreign code.
        let locals = if self.inherits_nothing { None } else { local::inherited() };
        let options = Rare::with(self.name.map(String::into_boxed_str), self.stack_size);
        // SAFETY: the caller's promise.
        let (task, handle) = unsafe { TaskRef::new(options, f) };
        task.inherit(locals);
        if let Some(reason) = self.canceled {
            task.cancel_with(reason);
        }
        (task, handle)
    }

    /// Whether these options can be had on the runtime of the current task, or else of a thread.
    pub(super) fn check_here(&self) -> io::Result<()> {
        // SAFETY: used while the worker runs this very code.
        self.check(unsafe { context::runtime() })
    }

    fn check(&self, runtime: Option<&Shared>) -> io::Result<()> {
        if self.name.as_ref().is_some_and(|name| name.contains('\0')) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a task's name holds no NUL byte"));
        }
        self.placement.check(runtime)
    }

    /// Spawns as [`spawn_local`] does.
    ///
    /// # Errors
    /// `Unsupported` outside of a runtime; `InvalidInput` if the name holds a NUL byte.
    #[track_caller]
    pub fn spawn_local<F, T>(mut self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        // Here, whatever else was asked for.
        self.placement = Placement::Any;
        self.check(None)?;
        if context::with_worker(|_| ()).is_none() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "spawn_local needs a runtime"));
        }
        // SAFETY: both are `'static`. The task is queued for this worker only, and the handle is `Send` only if `T` is.
        let (task, handle) = unsafe { self.task(f) };
        context::with_worker(|worker| worker.start_later(task));
        Ok(JoinHandle::new(handle))
    }
}

#[inline]
#[track_caller]
pub(crate) fn spawn_on<F, T>(runtime: &Shared, options: Option<Box<Rare>>, f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let locals = local::inherited();
    // SAFETY: both are `'static` and `Send`.
    let (task, handle) = unsafe { TaskRef::new(options, f) };
    task.inherit(locals);
    runtime.spawn(task);
    JoinHandle::new(handle)
}

/// Starts a thread in place of a task.
///
/// # Safety
/// What `f` and its result borrow outlives the thread and the handle, and both may be sent to it.
#[track_caller]
unsafe fn spawn_thread<F: FnOnce() -> T, T>(builder: Builder, f: F) -> io::Result<JoinHandle<T>> {
    let (name, stack_size) = (builder.name.clone(), builder.stack_size);
    // SAFETY: the caller's promise.
    let (task, handle) = unsafe { builder.task(f) };
    let mut builder = std::thread::Builder::new();
    if let Some(name) = name {
        builder = builder.name(name);
    }
    if let Some(size) = stack_size {
        builder = builder.stack_size(size);
    }
    let body = Unrefused(Some(task));
    let thread = builder.spawn(move || {
        let mut body = body;
        let task = body.0.take().expect("a body runs once");
        context::run_on_thread(&task);
    })?;
    Ok(JoinHandle { task: Some(handle), thread: Some(Box::new(thread)), _result: PhantomData })
}

/// A task that was to run on a thread; if the thread never came to be, its closure is dropped.
struct Unrefused(Option<TaskRef>);

impl Drop for Unrefused {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            // SAFETY: it did not run: whoever runs it takes it out.
            unsafe { task.refuse(Box::new(crate::Canceled)) }
        }
    }
}
