//! Signals, waited for as an operation.

use std::io;
use std::sync::Arc;

use crate::backend::signal::Registration;
use crate::op::{self, Received};

/// Some of the process's signals, to be waited for on any loop, any number of times.
///
/// From [`new`](Signals::new) on, a signal of the set no longer does what it does by default (end the process, mostly):
/// it is kept until somebody waits for it. Many of one number count as one. Every `Signals` gets each signal, however many
/// there are; of the operations that wait for one `Signals`, or a clone of it, which is the same, one gets it. A handler
/// that the program had before runs as well, and is in force again when the last `Signals` with that number, and the last
/// operation on it, is gone. (Unless somebody has installed another one over ours meanwhile: that one stays, and ours
/// passes signals on to the one before.) What was kept and not taken is gone with it, and a signal that the system has
/// accepted and not yet delivered when the last one goes does what it did before: a second Ctrl-C ends a program that
/// has stopped to listen.
///
/// The thread that the system picks for the signal runs a handler that sets a bit and writes to an `eventfd(2)`. Its system
/// call goes on afterwards where the system can (`SA_RESTART`).
///
/// A forked child inherits the handler, and its signals are its own; what it executes starts with the defaults.
///
/// ```
/// # use towpath_loop::Signals;
/// let signals = Signals::new([libc::SIGINT, libc::SIGUSR1])?;
/// // SAFETY: no pointers, and the signal is handled.
/// unsafe { libc::raise(libc::SIGUSR1) };
/// assert_eq!(signals.received().wait()?, libc::SIGUSR1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Signals(Arc<Registration>);

impl Signals {
    /// Begins to watch for `signals`, numbers as in `signal(7)`.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal, for `SIGKILL` and `SIGSTOP`, which cannot be handled, and for
    /// `SIGSEGV`, `SIGBUS`, `SIGFPE` and `SIGILL`, after which nothing can go on; the system's if it has no descriptor
    /// left. Nothing is watched then.
    pub fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<Signals> {
        Ok(Signals(Arc::new(Registration::new(signals)?)))
    }

    /// A wait for the next signal; the outcome is its number. Of several that have come, each gets its turn.
    ///
    /// Cancel-safe: a signal that came for a wait that nobody wants any more is there for the next one.
    ///
    /// On every backend: readiness of the `eventfd` that the handler writes to.
    pub fn received(&self) -> Received {
        op::received(self.0.clone())
    }
}
