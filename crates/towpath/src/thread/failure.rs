//! Why there is no result of a task.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ThreadId;
use crate::context;
use crate::dump::{self, Backtrace, Who};
use crate::panics::{self, Sight};
use crate::task::Header;

/// Why there is no result of a task: of one that [`JoinHandle::wait`](super::JoinHandle::wait) waits for, or of a
/// [`Group`](super::Group)'s.
///
/// One of a group with `io::Error`s becomes an `io::Error` by `?`.
#[derive(Debug)]
pub enum Failure<E> {
    /// What it returned, in a group.
    Failed(E),
    /// It panicked; or was refused a stack, the payload being an [`io::Error`] then.
    Panicked(Panic),
    /// It was cancelled before it started, or its runtime ended first.
    Canceled,
}

impl<E> Failure<E> {
    /// The failure of `task`, which has ended, by the payload that joining it gives.
    pub(super) fn of(task: &Header, payload: Box<dyn Any + Send>) -> Failure<E> {
        if payload.is::<crate::Canceled>() {
            return Failure::Canceled;
        }
        Failure::Panicked(Panic::of(task, payload))
    }

    /// With another kind of what it returned.
    pub(super) fn map<F>(self, f: impl FnOnce(E) -> F) -> Failure<F> {
        match self {
            Failure::Failed(error) => Failure::Failed(f(error)),
            Failure::Panicked(panic) => Failure::Panicked(panic),
            Failure::Canceled => Failure::Canceled,
        }
    }
}

/// A task's panic: what it said, and as much of where it was as is known.
///
/// Displayed it is one line, which names the task. With `{:#}` the backtrace follows, if there is one.
pub struct Panic(Box<Inner>);

struct Inner {
    payload: Mutex<Box<dyn Any + Send>>,
    task: ThreadId,
    name: Option<Box<str>>,
    spawned_at: &'static Location<'static>,
    message: Option<Box<str>>,
    sight: Option<Sight>,
    /// With names, once it was asked for.
    backtrace: OnceLock<Arc<Backtrace>>,
    started: bool,
}

impl Panic {
    /// That of `task`, which has ended or caught it.
    pub(super) fn of(task: &Header, payload: Box<dyn Any + Send>) -> Panic {
        Panic(Box::new(Inner {
            task: ThreadId::of(task.id),
            name: task.name().map(Box::from),
            spawned_at: task.site,
            message: panics::message(&*payload).map(Box::from),
            sight: task.sight_of(&*payload),
            backtrace: OnceLock::new(),
            started: task.has_started(),
            payload: Mutex::new(payload),
        }))
    }

    /// The payload, as [`JoinHandle::join`](super::JoinHandle::join) gives it.
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.0.payload.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics with it here.
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(self.into_payload())
    }

    /// The task that panicked.
    pub fn task(&self) -> ThreadId {
        self.0.task
    }

    /// Its name, if it had one.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Where it was spawned.
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.0.spawned_at
    }

    /// What it said, if that is a text, as almost always.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// File, line and column of the panic, if the runtime [was to report](crate::Builder::report_panics) that. Not of one that
    /// was raised by [`resume_unwind`](std::panic::resume_unwind), which no hook sees, unless the task raised again what it
    /// had caught.
    pub fn place(&self) -> Option<&str> {
        self.0.sight.as_ref()?.place.as_deref()
    }

    /// By which calls it came there, on the same condition as [`place`](Panic::place), and if the environment asks for
    /// backtraces: by `RUST_LIB_BACKTRACE` or else `RUST_BACKTRACE`, as for [`std::backtrace::Backtrace::capture`].
    ///
    /// The first call looks the names up, which takes what reading the program's debug information takes, and in a task holds the
    /// worker for so long.
    pub fn backtrace(&self) -> Option<&Backtrace> {
        let addresses = &self.0.sight.as_ref()?.addresses;
        if addresses.is_empty() {
            return None;
        }
        let look = || dump::resolve(addresses);
        // More stack than a task may have.
        Some(self.0.backtrace.get_or_init(|| {
            context::with_task(|task| match task {
                Some(task) => context::on_a_large_stack(task, look),
                None => look(),
            })
        }))
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&format_args!("{self}")).finish()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, spawned at {}, ", Who(self.task(), self.name()), self.spawned_at())?;
        if !self.0.started {
            let payload = self.0.payload.lock().unwrap_or_else(PoisonError::into_inner);
            f.write_str("could not start")?;
            return match payload.downcast_ref::<io::Error>() {
                Some(error) => write!(f, ": {error}"),
                None => Ok(()),
            };
        }
        f.write_str("panicked")?;
        if let Some(place) = self.place() {
            write!(f, " at {place}")?;
        }
        if let Some(message) = self.message() {
            write!(f, ": {message}")?;
        }
        if !f.alternate() {
            return Ok(());
        }
        match self.backtrace() {
            Some(backtrace) => write!(f, "\n{}", backtrace.to_string().trim_end()),
            None => Ok(()),
        }
    }
}

impl Error for Panic {}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(error) => error.fmt(f),
            Failure::Panicked(panic) => panic.fmt(f),
            Failure::Canceled => crate::Canceled.fmt(f),
        }
    }
}

impl<E: Error> Error for Failure<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Failed(error) => error.source(),
            Failure::Panicked(_) | Failure::Canceled => None,
        }
    }
}

impl From<Failure<io::Error>> for io::Error {
    fn from(failure: Failure<io::Error>) -> io::Error {
        match failure {
            Failure::Failed(error) => error,
            Failure::Panicked(panic) => io::Error::other(panic),
            Failure::Canceled => crate::wait::GaveUp::Canceled.into(),
        }
    }
}
