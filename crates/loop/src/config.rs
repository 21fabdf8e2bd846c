//! Which backend carries a loop, and how large it is.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Once;

use crate::backend::Backend;
use crate::backend::epoll::Epoll;
use crate::backend::poll::Poll;
use crate::backend::readiness::Readiness;
use crate::backend::uring::{Options, Uring};
use crate::event_loop::Loop;

/// The backends that Towpath knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BackendKind {
    /// Linux `io_uring`: the kernel completes operations.
    IoUring,
    /// Linux `epoll`.
    Epoll,
    /// `poll(2)`, which every Unix has.
    Poll,
}

impl BackendKind {
    /// Those that can be on this system, best first. Whether the kernel permits one is another matter: see
    /// [`is_available`](BackendKind::is_available).
    pub const ALL: &[BackendKind] = &[BackendKind::IoUring, BackendKind::Epoll, BackendKind::Poll];

    /// The name that `TOWPATH_BACKEND` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::IoUring => "io_uring",
            BackendKind::Epoll => "epoll",
            BackendKind::Poll => "poll",
        }
    }

    /// Whether a loop can be made with it here and now: makes one and drops it.
    pub fn is_available(self) -> bool {
        Config::new().backend(self).build().is_ok()
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = io::Error;

    fn from_str(name: &str) -> io::Result<BackendKind> {
        if let Some(kind) = BackendKind::ALL.iter().find(|kind| kind.name() == name) {
            return Ok(*kind);
        }
        let known = BackendKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        Err(match name {
            "kqueue" | "iocp" | "sim" => io::Error::new(
                io::ErrorKind::Unsupported,
                format!("no {name} backend on this system (there are: {known})"),
            ),
            _ => io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no backend is called {name:?} (there are: {known})"),
            ),
        })
    }
}

/// Options for a [`Loop`]. `Config::new().build()` is [`Loop::new`].
#[derive(Clone, Debug, Default)]
pub struct Config {
    backend: Option<BackendKind>,
    uring: Options,
    max_operations: Option<usize>,
}

impl Config {
    /// The defaults: the best backend that there is, and as many operations as memory holds.
    pub fn new() -> Config {
        Config::default()
    }

    /// Uses this backend, or none: [`build`](Config::build) fails where it cannot be had. Overrides the environment.
    /// With anything but [`BackendKind::IoUring`], no `io_uring` system call is ever made.
    pub fn backend(mut self, backend: BackendKind) -> Config {
        self.backend = Some(backend);
        self
    }

    /// Refuses operations beyond `limit` in flight: they complete with `QuotaExceeded` without having been
    /// tried. Until that is delivered they take up room as well; ask [`Loop::is_full`] first.
    /// By default memory is the only bound.
    pub fn max_operations(mut self, limit: usize) -> Config {
        self.max_operations = Some(limit);
        self
    }

    /// The number of submissions that fit into an `io_uring` before it is handed over early (256). It bounds
    /// nothing else; other backends ignore it.
    pub fn ring_entries(mut self, entries: u32) -> Config {
        self.uring.entries = entries.max(1);
        self
    }

    /// The number of completions that an `io_uring` holds before the kernel keeps the rest aside. Other backends
    /// ignore it.
    pub fn ring_completions(mut self, entries: u32) -> Config {
        self.uring.cq_entries = Some(entries.max(1));
        self
    }

    /// Has the kernel refuse whatever this crate does not do with its `io_uring`: opcodes, flags of entries and registrations
    /// that it makes no use of on this system (`IORING_REGISTER_RESTRICTIONS`). Off by default. Other backends ignore it.
    ///
    /// A bug, or somebody who has got hold of the process, then cannot use this ring for anything else: not for the commands
    /// of drivers (`IORING_OP_URING_CMD`), or what next year's kernel adds. It keeps nobody from opening another
    /// ring: that takes a filter of system calls. What the ring does is the same, at the same speed; opening it takes three
    /// more system calls. A kernel that has a ring for us can restrict it; if it will not, the ring is
    /// refused like one that it does not allow at all.
    pub fn ring_restricted(mut self, on: bool) -> Config {
        self.uring.restricted = on;
        self
    }

    /// Has a [restricted](Config::ring_restricted) ring refuse this opcode too, of which the backend knows nothing, so that
    /// tests reach what it does about that.
    #[doc(hidden)]
    pub fn refuse_opcode(mut self, opcode: u8) -> Config {
        self.uring.refused = self.uring.refused.with(opcode);
        self
    }

    /// Does as if the kernel's ring did not know this opcode, so that tests reach the ways around it.
    #[doc(hidden)]
    pub fn without_opcode(mut self, opcode: u8) -> Config {
        self.uring.without = self.uring.without.with(opcode);
        self
    }

    /// Does as if the kernel could not link operations, so that tests reach the way around it.
    #[doc(hidden)]
    pub fn without_links(mut self) -> Config {
        self.uring.without_links = true;
        self
    }

    /// Makes the loop.
    ///
    /// Without [`backend`](Config::backend), the environment variable `TOWPATH_BACKEND` decides (`io_uring`,
    /// `epoll`, `poll`). Without that, the first of `io_uring`, `epoll` and `poll` that the system permits; a refused
    /// `io_uring` is told once per process, on stderr.
    ///
    /// # Errors
    /// The system's, where a backend was asked for and cannot be had; `InvalidInput` for an unknown name in the
    /// environment, `Unsupported` for one of another system; `EMFILE`, `ENFILE` and the like if no backend could be
    /// opened.
    pub fn build(&self) -> io::Result<Loop> {
        let backend = match (self.backend, std::env::var("TOWPATH_BACKEND")) {
            (Some(kind), _) => self.forced(kind)?,
            (None, Ok(name)) if !name.is_empty() => self.forced(
                name.parse()
                    .map_err(|e: io::Error| io::Error::new(e.kind(), format!("TOWPATH_BACKEND: {e}")))?,
            )?,
            _ => self.best()?,
        };
        Loop::assemble(backend, self.max_operations.unwrap_or(usize::MAX))
    }

    fn open(&self, kind: BackendKind) -> io::Result<Box<dyn Backend>> {
        Ok(match kind {
            BackendKind::IoUring => Box::new(Uring::new(&self.uring)?),
            BackendKind::Epoll => Box::new(Readiness::new(Epoll::new()?)),
            BackendKind::Poll => Box::new(Readiness::new(Poll::new()?)),
        })
    }

    fn forced(&self, kind: BackendKind) -> io::Result<Box<dyn Backend>> {
        self.open(kind).map_err(|error| {
            // The system's error, with its code, is the source of this one.
            if kind == BackendKind::IoUring && refused(&error) {
                let hint = "io_uring was asked for, but this system refuses it (seccomp filter, kernel.io_uring_disabled, \
                            memlock limit or an old kernel); unset TOWPATH_BACKEND to fall back";
                return Refused { error, hint }.into();
            }
            error
        })
    }

    fn best(&self) -> io::Result<Box<dyn Backend>> {
        static TOLD: Once = Once::new();
        match self.open(BackendKind::IoUring) {
            Ok(backend) => Ok(backend),
            Err(error) if refused(&error) => {
                let backend = match self.open(BackendKind::Epoll) {
                    Err(error) if refused(&error) => self.open(BackendKind::Poll),
                    result => result,
                }?;
                TOLD.call_once(|| {
                    eprintln!("towpath: io_uring is not available ({error}); using {}", backend.name());
                });
                Ok(backend)
            }
            // Out of descriptors, say: no reason to think that another backend would do better.
            Err(error) => Err(error),
        }
    }
}

/// Whether the system will not have it, rather than cannot just now.
fn refused(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::NOSYS, Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::NOMEM];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// An error of the system with a hint for a person.
#[derive(Debug)]
struct Refused {
    error: io::Error,
    hint: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.hint, self.error)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> io::Error {
        io::Error::new(refused.error.kind(), refused)
    }
}
