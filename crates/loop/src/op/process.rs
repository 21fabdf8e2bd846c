//! Operations that wait for what becomes of processes: a signal to this one, the end of a child.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::backend::signal::Registration;
use crate::child::Child;
use crate::operation::Request;

/// A wait for a signal: see [`Signals::received`](crate::Signals::received).
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Received {
    registration: Arc<Registration>,
    options: Options,
}

pub(crate) fn received(registration: Arc<Registration>) -> Received {
    Received { registration, options: Options::NONE }
}

impl Received {
    limits!();
}

// SAFETY: the request has no pointers but to what is there for ever; the registration keeps the descriptor open.
unsafe impl Operation for Received {
    type Output = io::Result<i32>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let registration = &self.registration;
        Started::Request(Request::Signal { handle: registration.handle(), watcher: registration.watcher() })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value()
    }
    fn discard(self, outcome: Outcome) {
        // What came for nobody is for the next one.
        if let Ok(signal) = outcome.value() {
            self.registration.watcher().put(signal);
        }
    }
}

impl Detach for Received {
    type Owned = Received;
    fn detach(self) -> Received {
        self
    }
}

ways_to_wait!(Received => Received);

/// A wait for the end of a child: see [`wait_child`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct WaitChild {
    child: Child,
    options: Options,
}

/// Waits until a child has ended, and reaps it; the outcome is how it ended, for every wait, also those that come later.
///
/// Cancel-safe: a wait that is cancelled, or that nobody wants any more, leaves the child to be waited for.
///
/// io_uring: `IORING_OP_WAITID` (6.7); elsewhere readiness of its pidfd, then `waitid(2)`. Where there are no pidfds, a thread
/// of the blocking pool waits.
///
/// ```
/// use std::process::Command;
/// use towpath_loop::{Child, op};
///
/// let child = Child::new(Command::new("true").spawn()?)?;
/// assert!(op::wait_child(&child).wait()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// `ECHILD` if somebody else has reaped it, or `SIGCHLD` is ignored, so that the system has.
pub fn wait_child(child: &Child) -> WaitChild {
    WaitChild { child: child.clone(), options: Options::NONE }
}

impl WaitChild {
    limits!();
}

// SAFETY: the request has no pointers; the child keeps its descriptor open.
unsafe impl Operation for WaitChild {
    type Output = io::Result<ExitStatus>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        self.child.request().map_or(Started::Done(0), Started::Request)
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.value() {
            // Another wait may have reaped it since this one began.
            Err(error) if error.raw_os_error() != Some(libc::ECHILD) => Err(error),
            _ => self.child.try_wait()?.ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN)),
        }
    }
    fn discard(self, _: Outcome) {
        // It has ended, and is there for whoever wants to know.
    }
}

impl Detach for WaitChild {
    type Owned = WaitChild;
    fn detach(self) -> WaitChild {
        self
    }
}

ways_to_wait!(WaitChild => WaitChild);
