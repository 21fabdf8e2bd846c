//! What all tasks do right now: a picture of a program that runs on.
//!
//! ```
//! use towpath::{sync::oneshot, thread};
//!
//! # // SAFETY: this program has no crate that keeps a stack frame's address in a thread-local.
//! # let runtime = unsafe { towpath::Runtime::builder().workers(1).build() }?;
//! runtime.run(|| {
//!     let (here, begun) = oneshot::channel();
//!     let body = || {
//!         here.send(()).unwrap();
//!         thread::park();
//!     };
//!     let waits = thread::Builder::new().name("waits".into()).spawn(body).unwrap();
//!     begun.recv().unwrap();
//!     let dump = towpath::dump();
//!     let task = dump.tasks.iter().find(|task| task.name.as_deref() == Some("waits")).unwrap();
//!     assert_eq!(task.state.to_string(), "waiting for unpark");
//!     println!("{dump}");
//!     waits.thread().unpark();
//!     waits.join().unwrap();
//! });
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # How it is taken
//!
//! Every worker is asked through its loop's inbox, and answers between two ticks: which of its tasks are ready, which
//! wait, and for what, which the loop's slots and two words in each task tell. Then it resumes each suspended task for a
//! moment, to walk its own stack: the task comes back in the frame where it suspended, finds that it is only asked,
//! unwinds on the *worker's* stack (so that it takes no room of its own), and suspends again. None of its own code runs.
//! Addresses become names afterwards, on a thread of the [blocking](crate::blocking) pool, each address once.
//!
//! A task that lives from the beginning of a dump to its end is in it once: started tasks do not move, and those that have
//! not started are not stolen meanwhile.
//!
//! A worker that does nothing about it for a second, because a task holds it, is shown as busy, with the task that runs, where that
//! is (as the [watchdog](crate::Stall::backtrace) finds out), and the number of tasks that it has. What the others do cannot be
//! read without it.

mod backtrace;
mod collect;
mod display;

use std::os::fd::RawFd;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use backtrace::capture;
pub use backtrace::{Backtrace, Frame};
pub(crate) use collect::{Part, answer, names_of, of_runtime, register, resolve};
pub(crate) use display::{Who, write_tasks};

use crate::thread::ThreadId;

/// Shows every task of every runtime of this process, as a [`Dump`].
///
/// The tasks run on; see [how it is taken](self#how-it-is-taken). In a task it waits as any other wait does, but is not
/// cancelled; on another thread it blocks. It takes a few microseconds a task, and, the first time, what reading
/// the program's debug information takes.
pub fn dump() -> Dump {
    collect::all()
}

/// What all tasks do: see [`dump()`]. [`Display`](std::fmt::Display) writes it out for people, with `{:#}` also those
/// frames of the backtraces that are Towpath's.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dump {
    /// The workers of all runtimes.
    pub workers: Vec<Worker>,
    /// The tasks that live on workers that have answered, in the order in which they were spawned, roughly. Of a worker
    /// that has not, the task that runs, if it can be told.
    pub tasks: Vec<Task>,
    /// How long it took.
    pub took: Duration,
}

/// Where a worker is among all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub struct Place {
    /// The number of the runtime in this process, counted from 0.
    pub runtime: usize,
    /// The number of the worker in the runtime.
    pub worker: usize,
}

/// A worker in a [`Dump`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Worker {
    /// Which one.
    pub place: Place,
    /// The name of its loop's backend.
    pub backend: &'static str,
    /// How many tasks it has, started or not.
    pub tasks: usize,
    /// How many operations its loop had in flight at its last tick.
    pub in_flight: usize,
    /// What it was found doing.
    pub found: Found,
}

/// What a worker was found doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Found {
    /// It has answered: its tasks are in the dump.
    Answered,
    /// It has not answered, because this task holds it.
    Busy(ThreadId),
    /// It has not answered, and runs no task: it has come to its end, or is in the loop's callbacks.
    Silent,
    /// The thread of the first worker is not in [`Runtime::run`](crate::Runtime::run), so that its tasks do not run.
    Absent,
}

/// A task in a [`Dump`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Task {
    /// Its id.
    pub id: ThreadId,
    /// Its name, if it has one.
    pub name: Option<Box<str>>,
    /// Where it was spawned. `None` of one that runs on a worker that has not answered.
    pub spawned_at: Option<&'static Location<'static>>,
    /// The worker that it lives on, or will start on unless another one takes it.
    pub place: Place,
    /// What it does.
    pub state: State,
    /// How long ago it last ran, to a tick of its worker; zero if it never did.
    pub idle: Duration,
    /// Whether it has been cancelled.
    pub canceled: bool,
    /// Where it stands, innermost frame first. `None` if it has not started, or runs and cannot be asked. Tasks that stand at
    /// the same place share it.
    pub backtrace: Option<Arc<Backtrace>>,
}

/// What a task does.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// It is queued for its first turn.
    Unstarted,
    /// It is queued for its next turn.
    Ready,
    /// It runs.
    Running,
    /// It waits.
    Waiting(Wait),
}

/// What a task waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Wait {
    /// An operation's name, as its builder is called, or another kind of thing: `join`, `mutex`, `unpark`.
    pub what: &'static str,
    /// Which one of the kind.
    pub which: Which,
    /// When an operation is due, or its time is over, if it has a limit of its own.
    pub due_in: Option<Duration>,
}

/// Which one of a kind of things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Which {
    /// There is no more to tell.
    Unknown,
    /// The descriptor with this number.
    Descriptor(RawFd),
    /// This task.
    Task(ThreadId),
    /// The object at this address: those who wait for the same see the same.
    Object(usize),
}
