//! The runtime: its workers, from start to shut-down.

use std::io;
use std::marker::PhantomData;
use std::ops::Add;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use towpath_loop::{BackendKind, Loop};

use crate::context;
use crate::dump::{self, Dump};
use crate::idle::{Idle, WORKERS_MAX};
use crate::mail::Mailbox;
use crate::metrics::{Counters, Metrics};
use crate::task::{Options, TaskRef};
use crate::watchdog::{Watchdog, Watched};
use crate::worker::Worker;

/// What the workers of one runtime share.
pub(crate) struct Shared {
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) counters: Vec<Arc<Counters>>,
    /// What the watchdog is told, if there is one.
    pub(crate) watched: Option<Arc<Watched>>,
    pub(crate) stack_size: usize,
    idle: Idle,
    /// Worker 0 is only there while `Runtime::run` is.
    first_is_there: AtomicBool,
    shutting_down: AtomicBool,
    pub(crate) backend: &'static str,
    stealing_paused: AtomicUsize,
}

/// Beyond this no machine has room for more than a few.
const STACK_MAX: usize = 1 << 40;

impl Shared {
    /// Says that a worker is about to sleep. False if there is a task for it to start.
    pub(crate) fn begin_idle(&self, index: usize) -> bool {
        self.idle.begin(index, || self.mailboxes.iter().any(|mailbox| mailbox.unstarted() > 0))
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

    pub(crate) fn may_steal(&self) -> bool {
        self.stealing_paused.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }
}

/// Builds a [`Runtime`].
///
/// ```
/// // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local; see `Builder::build`.
/// let runtime = unsafe { towpath::Runtime::builder().workers(1).build() }?;
/// assert_eq!(runtime.run(|| 6 * 7), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    workers: Option<usize>,
    stack_size: usize,
    shutdown_limit: Duration,
    watchdog: Option<Duration>,
    loop_config: towpath_loop::Config,
}

impl Builder {
    /// How many workers there are, the thread that calls [`Runtime::run`] included; at least 1, at most 64. By default
    /// as many as [`std::thread::available_parallelism`], which honours affinity and cgroup quota.
    pub fn workers(mut self, workers: usize) -> Builder {
        self.workers = Some(workers);
        self
    }

    /// The backend of the workers' loops; by default the best one that there is: see [`towpath_loop::Config::build`].
    pub fn backend(mut self, backend: BackendKind) -> Builder {
        self.loop_config = self.loop_config.backend(backend);
        self
    }

    /// The stack size of tasks that do not ask for another, in bytes; 256 KiB by default. Only what is touched costs
    /// memory.
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = bytes;
        self
    }

    /// How long dropping the runtime waits for cancelled tasks to end, 10 s by default. What has not ended then is
    /// named on stderr and leaked.
    pub fn shutdown_limit(mut self, limit: Duration) -> Builder {
        self.shutdown_limit = limit;
        self
    }

    /// Watches over the workers: a task that neither waits nor yields for `threshold` is named on stderr, once each
    /// time, and counted by [`Metrics::stalls`]. Off by default. It takes a thread, which looks at the workers four
    /// times per `threshold` (at most once per millisecond).
    pub fn watchdog(mut self, threshold: Duration) -> Builder {
        self.watchdog = Some(threshold);
        self
    }

    /// Starts the workers, all but the one that [`Runtime::run`] makes of its caller.
    ///
    /// # Safety
    /// The one promise of a program that uses Towpath: nothing that its tasks run, however deep, relies on the frames of
    /// one thread ending in the reverse order of their beginning. Tasks of one worker interleave on one thread, so a
    /// library that keeps the address of a stack frame in a thread-local and restores the one before on return can be
    /// left with the address of a frame that is gone. `scoped-tls` is the known case. Ordinary thread-locals, and
    /// everything in `std`, are fine.
    ///
    /// And the runtime is dropped on this thread as an ordinary value: not from a thread-local's destructor, where its
    /// tasks would be resumed inside thread-locals that are gone, and not forgotten, which would let the thread end with
    /// operations in flight into its locals. `docs/SOUNDNESS.md` has the whole argument.
    ///
    /// # Errors
    /// Those of [`towpath_loop::Config::build`] and of starting threads; `InvalidInput` for a number of workers or a
    /// stack size that cannot be.
    pub unsafe fn build(self) -> io::Result<Runtime> {
        let workers = match self.workers {
            Some(workers) => workers,
            None => thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
        };
        if workers == 0 || workers > WORKERS_MAX {
            let what = format!("a runtime has 1 to {WORKERS_MAX} workers, not {workers}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if self.stack_size > STACK_MAX {
            let what = format!("a stack of {} bytes: no address space holds many of them", self.stack_size);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let loop_ = self.loop_config.build()?;
        let backend = loop_.backend();
        let mut threads = Vec::new();
        let shared = workers > 1;
        let mut mailboxes = vec![Arc::new(Mailbox::new(loop_.remote(), shared))];
        let mut starts = Vec::new();
        for index in 1..workers {
            let (ready, is_ready) = mpsc::channel();
            let (start, started) = mpsc::channel();
            let config = self.loop_config.clone();
            let limit = self.shutdown_limit;
            let builder = thread::Builder::new().name(format!("towpath-worker-{index}"));
            // If anything fails below, dropping `start` ends the threads begun so far.
            threads.push(builder.spawn(move || work(index, &config, limit, &ready, &started))?);
            let remote = is_ready.recv().map_err(io::Error::other)??;
            mailboxes.push(Arc::new(Mailbox::new(remote, shared)));
            starts.push(start);
        }
        let shared = Arc::new(Shared {
            counters: mailboxes.iter().map(|_| Arc::default()).collect(),
            watched: self.watchdog.map(|_| Arc::default()),
            mailboxes,
            stack_size: self.stack_size,
            idle: Idle::new(),
            first_is_there: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            backend,
            stealing_paused: AtomicUsize::new(0),
        });
        dump::register(&shared);
        let watchdog = match (&shared.watched, self.watchdog) {
            (Some(watched), Some(threshold)) => {
                Some(Watchdog::start(shared.clone(), watched.clone(), threshold)?)
            }
            _ => None,
        };
        let worker = Worker::new(0, shared.clone(), loop_)?;
        for start in starts {
            // A thread that has gone already shows when it is joined.
            let _ = start.send(shared.clone());
        }
        let limit = self.shutdown_limit;
        Ok(Runtime { worker, threads, limit, shared, _watchdog: watchdog, _here: PhantomData })
    }
}

/// The life of a worker's thread. Returns the labels of the tasks that would not end.
fn work(
    index: usize,
    config: &towpath_loop::Config,
    limit: Duration,
    ready: &mpsc::Sender<io::Result<towpath_loop::Remote>>,
    started: &mpsc::Receiver<Arc<Shared>>,
) -> Vec<String> {
    let loop_ = match config.build() {
        Ok(loop_) => loop_,
        Err(error) => {
            let _ = ready.send(Err(error));
            return Vec::new();
        }
    };
    let _ = ready.send(Ok(loop_.remote()));
    // The builder failed elsewhere.
    let Ok(shared) = started.recv() else { return Vec::new() };
    let worker = Worker::new(index, shared, loop_).expect("a stack pool that reserves nothing yet");
    with_worker(&worker, || {
        if let Err(error) = worker.run(|| worker.shared.is_shutting_down()) {
            eprintln!("towpath: worker {index} cannot wait for events any more: {error}");
        }
        end(&worker, limit)
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
    context::enter(worker, f)
}

/// Ends a worker: its tasks, then what its loop has in flight. No thread ends with the kernel still writing.
fn end(worker: &Worker, limit: Duration) -> Vec<String> {
    let labels = worker.shut_down(limit);
    worker.loop_.close();
    labels
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
    threads: Vec<JoinHandle<Vec<String>>>,
    limit: Duration,
    shared: Arc<Shared>,
    /// Goes last: it watches while the others end.
    _watchdog: Option<Watchdog>,
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
        Builder {
            workers: None,
            stack_size: towpath_coro::DEFAULT_STACK_SIZE,
            shutdown_limit: Duration::from_secs(10),
            watchdog: None,
            loop_config: towpath_loop::Config::new(),
        }
    }

    /// Runs `f` as a task on the calling thread, which is a worker meanwhile, and returns what it returns. Other tasks
    /// go on on the other workers afterwards; those that live on this one wait for the next `run`.
    ///
    /// # Panics
    /// As `f` does. Inside a task, or inside another runtime's `run`.
    #[track_caller]
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        assert!(context::with_worker(|_| ()).is_none(), "Runtime::run was called inside a runtime");
        let options = Some(Box::new(Options { name: Some("main".into()), stack_size: None }));
        // SAFETY: this function does not return before the task has finished, so what `f` and its result borrow
        // outlives it; it starts here and its result is taken here.
        let (task, handle) = unsafe { TaskRef::new(options, f) };
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
        if self.shared.mailboxes[0].unstarted() > 0 {
            // This worker may have been the one that was woken for them.
            self.shared.notify(0);
        }
        // SAFETY: it has finished, with a `T`, and the handle is only here.
        match unsafe { handle.take::<T>() } {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
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
        self.shared.shutting_down.store(true, Ordering::Release);
        for mailbox in &self.shared.mailboxes {
            mailbox.remote.wake();
        }
        let mut left = with_worker(&self.worker, || end(&self.worker, self.limit));
        for thread in self.threads.drain(..) {
            left.extend(thread.join().unwrap_or_else(|_| vec!["a worker that panicked".into()]));
        }
        if !left.is_empty() {
            /// More than these nobody reads.
            const NAMED: usize = 20;
            let more = left.len().saturating_sub(NAMED);
            eprintln!(
                "towpath: {} tasks did not end when they were cancelled: {}{}",
                left.len(),
                left[..left.len() - more].join(", "),
                if more > 0 { format!(" and {more} more") } else { String::new() }
            );
        }
    }
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
