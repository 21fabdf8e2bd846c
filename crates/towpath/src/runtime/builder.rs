//! Options for a runtime, and how one comes to be.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use towpath_loop::BackendKind;

use super::{Runtime, Shared, nanos, work};
use crate::cells::Depot;
use crate::dump;
use crate::idle::{Idle, WORKERS_MAX};
use crate::mail::Mailbox;
use crate::panics;
use crate::sigquit::Watch;
use crate::warning::{Hook, Warning};
use crate::watchdog::Watchdog;
use crate::worker::Worker;

/// Beyond this no machine has room for more than a few.
const STACK_MAX: usize = 1 << 40;

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
    dump_on_sigquit: bool,
    report_panics: bool,
    hook: Hook,
    loop_config: towpath_loop::Config,
}

impl Builder {
    /// The defaults.
    pub(super) fn new() -> Builder {
        Builder {
            workers: None,
            stack_size: towpath_coro::DEFAULT_STACK_SIZE,
            shutdown_limit: Duration::from_secs(10),
            watchdog: None,
            dump_on_sigquit: false,
            report_panics: false,
            hook: Hook::default(),
            loop_config: towpath_loop::Config::new(),
        }
    }

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

    /// Has the kernel refuse whatever the workers' loops do not use of their rings, where they are `io_uring`s: see
    /// [`towpath_loop::Config::ring_restricted`]. Off by default.
    ///
    /// ```
    /// let builder = towpath::Runtime::builder().workers(1).ring_restricted(true);
    /// # // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local.
    /// let runtime = unsafe { builder.build() }?;
    /// runtime.run(|| towpath::thread::sleep(std::time::Duration::from_millis(1)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ring_restricted(mut self, on: bool) -> Builder {
        self.loop_config = self.loop_config.ring_restricted(on);
        self
    }

    /// The stack size of tasks that do not ask for another, in bytes; 256 KiB by default. Only what is touched costs
    /// memory.
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = bytes;
        self
    }

    /// How long dropping the runtime waits for cancelled tasks to end, 10 s by default. What has not ended then is
    /// named on stderr, with what it does and where, and leaked. See also [`Runtime::shutdown`].
    pub fn shutdown_limit(mut self, limit: Duration) -> Builder {
        self.shutdown_limit = limit;
        self
    }

    /// Watches over the workers. A task that neither waits nor yields for `threshold` is a [`Stall`](crate::Stall): told once
    /// each time, with its backtrace, and counted by [`Metrics::stalls`](crate::Metrics::stalls). If all tasks wait for so long and nothing is in
    /// flight, that is a [`Deadlock`](crate::Deadlock), unless other threads end it: told once.
    ///
    /// Told to [`on_warning`](Builder::on_warning), or else on stderr. Off by default. It takes a thread, which looks at the
    /// workers four times per `threshold` (at most once per millisecond). To find out where a task is that runs, its thread is
    /// sent a signal, `SIGRTMAX - 1`, unless the program has a handler for that.
    pub fn watchdog(mut self, threshold: Duration) -> Builder {
        self.watchdog = Some(threshold);
        self
    }

    /// Tells `hook` what the [watchdog](Builder::watchdog) finds, in place of stderr. It is called on the watchdog's thread; what
    /// it does there for long keeps the watchdog from looking. If it panics, that is all.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use std::time::Duration;
    ///
    /// let (tell, told) = mpsc::channel();
    /// let builder = towpath::Runtime::builder().workers(1).watchdog(Duration::from_millis(20));
    /// let builder = builder.on_warning(move |warning| tell.send(warning.to_string()).unwrap());
    /// # // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local.
    /// let runtime = unsafe { builder.build() }?;
    /// // A blocking wait, where a task's own was meant.
    /// let warning = runtime.run(|| told.recv().unwrap());
    /// assert!(warning.contains("(main) has held worker 0"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn on_warning(mut self, hook: impl Fn(&Warning) + Send + Sync + 'static) -> Builder {
        self.hook = Hook(Some(Arc::new(hook)));
        self
    }

    /// Prints a [dump](crate::dump::dump()) of the runtime's tasks on stderr whenever the process gets a `SIGQUIT` (from
    /// `kill -QUIT`, or Ctrl-\\ at a terminal), and goes on. Off by default: then the signal ends the process, as it does by
    /// default. It takes a thread. A handler that the program had for the signal runs as well.
    pub fn dump_on_sigquit(mut self, on: bool) -> Builder {
        self.dump_on_sigquit = on;
        self
    }

    /// Notes where tasks panic, for whoever waits for them ([`Panic::place`](crate::thread::Panic::place) and
    /// [`backtrace`](crate::thread::Panic::backtrace), where `RUST_BACKTRACE` asks for that), and names the task on stderr before
    /// the panic's own message, which names the thread only. Off by default.
    ///
    /// This puts a hook before the [panic hook](std::panic::set_hook) that there is: for the whole process, once, for the tasks of
    /// all runtimes, and for good. A hook that is set later takes its place, unless that calls the one before.
    ///
    /// ```
    /// use towpath::thread::{self, Failure};
    ///
    /// # // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local.
    /// let runtime = unsafe { towpath::Runtime::builder().workers(1).report_panics(true).build() }?;
    /// let failure = runtime.run(|| thread::spawn(|| panic!("on purpose")).wait()).unwrap_err();
    /// let Failure::Panicked(panic) = failure else { panic!("{failure}") };
    /// assert!(panic.place().unwrap().contains(".rs:"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn report_panics(mut self, on: bool) -> Builder {
        self.report_panics = on;
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
        if self.report_panics {
            panics::install_hook();
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
            let builder = thread::Builder::new().name(format!("towpath-worker-{index}"));
            // If anything fails below, dropping `start` ends the threads begun so far.
            threads.push(builder.spawn(move || work(index, &config, &ready, &started))?);
            let remote = is_ready.recv().map_err(io::Error::other)??;
            mailboxes.push(Arc::new(Mailbox::new(remote, shared)));
            starts.push(start);
        }
        let shared = Arc::new(Shared {
            counters: mailboxes.iter().map(|_| Arc::default()).collect(),
            watched: self.watchdog.map(|_| Arc::default()),
            depot: Arc::new(Depot::new(mailboxes.len())),
            mailboxes,
            stack_size: self.stack_size,
            idle: Idle::new(),
            first_is_there: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            backend,
            stealing_paused: AtomicUsize::new(0),
            number: AtomicUsize::new(0),
            hook: self.hook.clone(),
            shutdown_limit: AtomicU64::new(nanos(self.shutdown_limit)),
        });
        dump::register(&shared);
        let watchdog = match (&shared.watched, self.watchdog) {
            (Some(watched), Some(threshold)) => {
                Some(Watchdog::start(shared.clone(), watched.clone(), threshold)?)
            }
            _ => None,
        };
        let sigquit = match self.dump_on_sigquit {
            true => Some(Watch::start(shared.clone(), self.loop_config)?),
            false => None,
        };
        let worker = Worker::new(0, shared.clone(), loop_)?;
        for start in starts {
            // A thread that has gone already shows when it is joined.
            let _ = start.send(shared.clone());
        }
        let (_watchdog, _sigquit) = (watchdog, sigquit);
        Ok(Runtime { worker, threads, ended: false, shared, _watchdog, _sigquit, _here: PhantomData })
    }
}
