//! The runtime: its workers, from start to shut-down.

use std::io;
use std::marker::PhantomData;
use std::ops::Add;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use towpath_loop::Loop;

use crate::cells::Depot;
use crate::context;
use crate::dump::{self, Dump, Part};
use crate::idle::Idle;
use crate::mail::Mailbox;
use crate::metrics::{Counters, Metrics};
use crate::sigquit::Watch;
use crate::task::{Rare, TaskRef};
use crate::trace;
use crate::warning::{self, Hook, Leftover};
use crate::watchdog::{Watchdog, Watched};
use crate::worker::Worker;

mod builder;

pub use builder::Builder;

/// What the workers of one runtime share.
pub(crate) struct Shared {
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) counters: Vec<Arc<Counters>>,
    /// What the watchdog is told, if there is one.
    pub(crate) watched: Option<Arc<Watched>>,
    pub(crate) stack_size: usize,
    /// Memory for tasks.
    pub(crate) depot: Arc<Depot>,
    idle: Idle,
    /// Worker 0 is only there while `Runtime::run` is.
    first_is_there: AtomicBool,
    shutting_down: AtomicBool,
    pub(crate) backend: &'static str,
    stealing_paused: AtomicUsize,
    /// Which of the process's runtimes it is, for dumps.
    pub(crate) number: AtomicUsize,
    pub(crate) hook: Hook,
    /// How long tasks have to end, in nanoseconds.
    shutdown_limit: AtomicU64,
}

impl Shared {
    /// Says that a worker is about to sleep. False if there is a task for it to start.
    pub(crate) fn begin_idle(&self, index: usize) -> bool {
        self.idle.begin(index, || self.has_stealable())
    }

    /// Whether there are tasks that any worker may start.
    pub(crate) fn has_stealable(&self) -> bool {
        self.mailboxes.iter().any(|mailbox| mailbox.stealable() > 0)
    }

    pub(crate) fn end_idle(&self, index: usize) {
        self.idle.end(index);
    }

    /// A task was put into a mailbox: wakes its worker if that sleeps, or else one that can steal it.
    pub(crate) fn notify(&self, target: usize) {
        if let Some(wake) = self.idle.pick(target) {
            self.mailboxes[wake].remote.wake();
        }
    }

    /// [`notify`](Shared::notify), of a task that worker `index` has put into its own [`Queue`](crate::steal::Queue).
    #[inline]
    pub(crate) fn notify_of_own(&self, index: usize) {
        if let Some(wake) = self.idle.pick_after_fence(index) {
            self.mailboxes[wake].remote.wake();
        }
    }

    /// Queues a task that may start on any worker.
    #[inline]
    pub(crate) fn spawn(&self, task: TaskRef) {
        let mut task = Some(task);
        context::with_worker(|worker| {
            if std::ptr::eq(&*worker.shared, self)
                && let Some(task) = task.take()
            {
                worker.spawn(task);
            }
        });
        if let Some(task) = task {
            self.inject(self.least_loaded().0, task);
        }
    }

    /// Queues a task in the mailbox of worker `target`.
    pub(crate) fn inject(&self, target: usize, task: TaskRef) {
        match self.mailboxes[target].inject(task) {
            Ok(()) => self.notify(target),
            // SAFETY: it has not run, and this was the reference that could have started it.
            Err(task) => unsafe { task.refuse(Box::new(crate::Canceled)) },
        }
    }

    /// Queues a task that must start on worker `target`.
    pub(crate) fn bind(&self, target: usize, task: TaskRef) {
        match self.mailboxes[target].bind(task) {
            Ok(()) => self.mailboxes[target].remote.wake(),
            // SAFETY: as above.
            Err(task) => unsafe { task.refuse(Box::new(crate::Canceled)) },
        }
    }

    /// The worker with the fewest tasks, and how many it has.
    pub(crate) fn least_loaded(&self) -> (usize, usize) {
        let load = |index: usize| {
            let mailbox = &self.mailboxes[index];
            (index, mailbox.live.load(Ordering::Relaxed) + mailbox.unstarted())
        };
        let first = usize::from(!self.first_is_there.load(Ordering::Relaxed));
        (first..self.mailboxes.len()).map(load).min_by_key(|(_, load)| *load).unwrap_or((0, 0))
    }

    /// Whether the first worker's thread is in [`Runtime::run`].
    pub(crate) fn is_first_there(&self) -> bool {
        self.first_is_there.load(Ordering::Relaxed)
    }

    /// Keeps the workers from stealing as long as the value lives that is returned. Meanwhile workers with nothing to do,
    /// while others have tasks to start, do not sleep, so that they steal afterwards.
    pub(crate) fn pause_stealing(&self) -> impl Drop {
        struct Resume<'a>(&'a AtomicUsize);
        impl Drop for Resume<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        // Before the workers are asked, which is an exchange between threads: each answers knowing of this.
        self.stealing_paused.fetch_add(1, Ordering::AcqRel);
        Resume(&self.stealing_paused)
    }

    /// Whether only other threads can make anything happen here, as far as can be seen from outside: all workers sleep, nothing
    /// is queued or in flight, and there are tasks.
    pub(crate) fn is_stuck(&self) -> bool {
        let live = || self.mailboxes.iter().any(|mailbox| mailbox.live.load(Ordering::Relaxed) > 0);
        self.idle.sleepers() == self.mailboxes.len()
            && self.counters.iter().all(|counters| counters.in_flight() == 0)
            && self.mailboxes.iter().all(|mailbox| mailbox.unstarted() == 0)
            && live()
    }

    fn shutdown_limit(&self) -> Duration {
        Duration::from_nanos(self.shutdown_limit.load(Ordering::Relaxed))
    }

    pub(crate) fn may_steal(&self) -> bool {
        self.stealing_paused.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }
}

/// The life of a worker's thread. Returns the tasks that would not end.
fn work(
    index: usize,
    config: &towpath_loop::Config,
    ready: &mpsc::Sender<io::Result<towpath_loop::Remote>>,
    started: &mpsc::Receiver<Arc<Shared>>,
) -> Option<Part> {
    let loop_ = match config.build() {
        Ok(loop_) => loop_,
        Err(error) => {
            let _ = ready.send(Err(error));
            return None;
        }
    };
    let _ = ready.send(Ok(loop_.remote()));
    // The builder failed elsewhere.
    let shared = started.recv().ok()?;
    let worker = Worker::new(index, shared, loop_).expect("a stack pool that reserves nothing yet");
    with_worker(&worker, || {
        if let Err(error) = worker.run(|| worker.shared.is_shutting_down()) {
            eprintln!("towpath: worker {index} cannot wait for events any more: {error}");
        }
        end(&worker)
    })
}

/// Makes this thread a worker, with the worker's loop as its current one, while `f` runs.
fn with_worker<R>(worker: &Worker, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Loop>);
    impl Drop for Restore {
        fn drop(&mut self) {
            Loop::take_current();
            if let Some(before) = self.0.take() {
                before.make_current();
            }
        }
    }
    let _restore = Restore(worker.loop_.make_current());
    worker.counters.set_thread(worker.thread);
    let result = context::enter(worker, f);
    worker.counters.set_thread(0);
    result
}

/// Ends a worker: its tasks, then what its loop has in flight. No thread ends with the kernel still writing.
fn end(worker: &Worker) -> Option<Part> {
    let left = worker.shut_down(worker.shared.shutdown_limit());
    worker.loop_.close();
    left
}

/// A number of workers that run tasks, each with an event loop.
///
/// The thread that calls [`run`](Runtime::run) is one of them while it does. Dropping the runtime cancels its tasks,
/// waits until they have ended, and leaks what would not end, after naming it on stderr.
///
/// ```no_run
/// use std::io::{self, Read, Write};
/// use towpath::{net::TcpListener, thread};
///
/// fn main() -> io::Result<()> {
///     // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
///     let runtime = unsafe { towpath::Runtime::new() }?;
///     runtime.run(|| {
///         let listener = TcpListener::bind("127.0.0.1:7000")?;
///         for stream in listener.incoming() {
///             let mut stream = stream?;
///             thread::spawn(move || {
///                 let mut buf = [0; 4096];
///                 while let Ok(n @ 1..) = stream.read(&mut buf) {
///                     if stream.write_all(&buf[..n]).is_err() {
///                         break;
///                     }
///                 }
///             });
///         }
///         Ok(())
///     })
/// }
/// ```
///
/// It stays on the thread that built it, whose worker it holds:
///
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<towpath::Runtime>();
/// ```
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<towpath::Runtime>();
/// ```
pub struct Runtime {
    worker: Worker,
    threads: Vec<JoinHandle<Option<Part>>>,
    ended: bool,
    shared: Arc<Shared>,
    /// Goes last: it watches while the others end.
    _watchdog: Option<Watchdog>,
    _sigquit: Option<Watch>,
    /// Worker 0 and its loop belong to this thread.
    _here: PhantomData<*mut ()>,
}

impl Runtime {
    /// A runtime with the defaults: see [`Builder`].
    ///
    /// # Safety
    /// See [`Builder::build`].
    ///
    /// # Errors
    /// See [`Builder::build`].
    pub unsafe fn new() -> io::Result<Runtime> {
        // SAFETY: the caller's promise.
        unsafe { Runtime::builder().build() }
    }

    /// Options for a runtime.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Runs `f` as a task on the calling thread, which is a worker meanwhile, and returns what it returns. Other tasks
    /// go on on the other workers afterwards; those that live on this one wait for the next `run`.
    ///
    /// # Panics
    /// As `f` does. Inside a task, or inside another runtime's `run`.
    #[track_caller]
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        assert!(context::with_worker(|_| ()).is_none(), "Runtime::run was called inside a runtime");
        let options = Rare::with(Some("main".into()), None);
        // SAFETY: this function does not return before the task has finished, so what `f` and its result borrow
        // outlives it; it starts here and its result is taken here.
        let (task, handle) = unsafe { TaskRef::new(options, f) };
        // Until this function returns.
        let around = trace::Aside::put();
        around.lend(&task);
        self.shared.first_is_there.store(true, Ordering::Relaxed);
        with_worker(&self.worker, || {
            self.worker.start(task);
            if let Err(error) = self.worker.run(|| handle.join.is_finished()) {
                // The task may borrow from the caller's frame, which therefore must not be left.
                eprintln!("towpath: worker 0 cannot wait for events any more: {error}");
                std::process::abort();
            }
        });
        self.shared.first_is_there.store(false, Ordering::Relaxed);
        if self.shared.mailboxes[0].stealable() > 0 {
            // This worker may have been the one that was woken for them.
            self.shared.notify(0);
        }
        // SAFETY: it has finished, with a `T`, and the handle is only here.
        match unsafe { handle.take::<T>() } {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Ends the runtime as dropping it does, but waits for `limit` instead of
    /// [`shutdown_limit`](Builder::shutdown_limit), and returns what has not ended instead of printing it.
    ///
    /// Every task is cancelled: its waits fail, until it has found its way out. Tasks that have not started never do. A task
    /// that waits for nothing, ignores the errors of its waits, or waits where there is no room for one, as in
    /// [`Condvar::wait`](crate::sync::Condvar::wait), does not end.
    ///
    /// ```
    /// use std::time::Duration;
    /// use towpath::{sync::oneshot, thread};
    ///
    /// # // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local.
    /// let runtime = unsafe { towpath::Runtime::builder().workers(1).build() }?;
    /// runtime.run(|| {
    ///     let (here, begun) = oneshot::channel();
    ///     thread::spawn(|| {
    ///         here.send(()).unwrap();
    ///         towpath::shield(thread::park)
    ///     });
    ///     begun.recv().unwrap();
    /// });
    /// let leftover = runtime.shutdown(Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(leftover.tasks.len(), 1);
    /// assert_eq!(leftover.tasks[0].state.to_string(), "waiting for unpark");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The tasks that had not ended after `limit`, with what they did then, and where. They are leaked with their stacks; what
    /// they have lent to the kernel has been taken back.
    pub fn shutdown(mut self, limit: Duration) -> Result<(), Leftover> {
        self.shared.shutdown_limit.store(nanos(limit), Ordering::Relaxed);
        self.end()
    }

    fn end(&mut self) -> Result<(), Leftover> {
        self.ended = true;
        self.shared.shutting_down.store(true, Ordering::Release);
        for mailbox in &self.shared.mailboxes {
            mailbox.remote.wake();
        }
        let _around = trace::Aside::put();
        let mut left = Vec::from_iter(with_worker(&self.worker, || end(&self.worker)));
        let mut lost_workers = 0;
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(part) => left.extend(part),
                Err(_) => lost_workers += 1,
            }
        }
        if left.is_empty() && lost_workers == 0 {
            return Ok(());
        }
        Err(Leftover { tasks: dump::names_of(left), lost_workers })
    }

    /// [`Handle::metrics`].
    pub fn metrics(&self) -> Metrics {
        self.handle().metrics()
    }

    /// A handle to spawn from anywhere.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.ended
            && let Err(leftover) = self.end()
        {
            warning::say(&leftover);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.handle().fmt(f)
    }
}

/// A handle to a runtime, for any thread.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// The runtime of the current task, if it is one's.
    pub fn try_current() -> Option<Handle> {
        context::with_worker(|worker| Handle { shared: worker.shared.clone() })
    }

    /// [Spawns](crate::thread::spawn) on this runtime, from anywhere. After its end the task is refused: joining gives
    /// [`Canceled`](crate::Canceled).
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> crate::thread::JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        crate::thread::spawn_on(&self.shared, None, f)
    }

    /// Shows all tasks of this runtime: see [`dump`](crate::dump::dump()).
    pub fn dump(&self) -> Dump {
        dump::of_runtime(&self.shared)
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// The name of its loops' backend, as in `TOWPATH_BACKEND`.
    pub fn backend(&self) -> &'static str {
        self.shared.backend
    }

    /// What its workers have done so far, together.
    ///
    /// Reading takes nothing from the workers, and counting next to nothing: do it as often as you like.
    ///
    /// ```
    /// # // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local.
    /// # let runtime = unsafe { towpath::Runtime::builder().workers(2).build() }?;
    /// let handle = runtime.handle();
    /// runtime.run(|| towpath::thread::spawn(|| ()).join().unwrap());
    /// assert!(handle.metrics().switches >= 2);
    /// assert_eq!(handle.metrics().tasks, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn metrics(&self) -> Metrics {
        let sum = (0..self.workers()).filter_map(|index| self.worker_metrics(index)).reduce(Add::add);
        let stalls = self.shared.watched.as_ref().map_or(0, |watched| watched.stalls.load(Ordering::Relaxed));
        Metrics { stalls, ..sum.unwrap_or_default() }
    }

    /// [`metrics`](Handle::metrics) of one worker, of which the first is 0; `None` if there are not so many. Stalls are
    /// only counted for all together.
    pub fn worker_metrics(&self, worker: usize) -> Option<Metrics> {
        let mailbox = self.shared.mailboxes.get(worker)?;
        let tasks = mailbox.live.load(Ordering::Relaxed) + mailbox.unstarted();
        Some(self.shared.counters[worker].read(tasks))
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("workers", &self.workers()).field("backend", &self.backend()).finish()
    }
}
