//! Child processes whose exit can be waited for as an operation.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};

use crate::backend::signal::send_signal;
use crate::backend::standard::clear_of_standard;
use crate::descriptor::Descriptor;
use crate::operation::Request;

/// A child process, to be waited for with [`op::wait_child`](crate::op::wait_child) on any loop. Clones are the same child.
///
/// It is reaped when a wait, or [`try_wait`](Child::try_wait), tells of its end for the first time, once, by this type
/// alone; no other child is touched. Dropped unreaped it runs on, and is a zombie when it ends, as with `std`.
///
/// It is held by a pidfd (`pidfd_open(2)`, Linux 5.3), so that nothing here ever reaches another process that has got its
/// number. Where a sandbox forbids those, it is waited for by that number, which is its own until it is reaped.
#[derive(Clone, Debug)]
pub struct Child(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: Pid,
    /// `None` where the system has none.
    pidfd: Option<Descriptor>,
    /// Known once it is reaped. Whoever reaps or signals it holds the lock.
    status: Mutex<Option<ExitStatus>>,
}

impl Child {
    /// Takes a child over. Its pipes are to be taken out before; those left inside are closed.
    ///
    /// # Errors
    /// The system's, if it is no child of this process any more. (Where there is no descriptor left for a pidfd it is known by its
    /// number.)
    pub fn new(mut child: process::Child) -> io::Result<Child> {
        // Whoever has waited for it before has reaped it, and its number may be another's.
        let status = child.try_wait()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let pidfd = match status {
            Some(_) => None,
            None => match pidfd_open(pid, PidfdFlags::empty()).and_then(clear_of_standard) {
                Ok(fd) => Some(Descriptor::new(fd)),
                // By its number, then: whoever started it must be able to wait for it.
                Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => None,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => None,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Child(Arc::new(Inner { pid, pidfd, status: Mutex::new(status) })))
    }

    /// Its process number. Once it is reaped, the system may give the number to another process.
    pub fn id(&self) -> u32 {
        self.0.pid.as_raw_pid() as u32
    }

    /// How it ended, if it has: reaps it.
    ///
    /// # Errors
    /// `ECHILD` if somebody else has reaped it, or `SIGCHLD` is ignored, so that the system has.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut status = self.status();
        if status.is_none()
            && let Some(found) = wait_for(&self.0, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?
        {
            *status = Some(exit_status(&found));
        }
        Ok(*status)
    }

    /// Ends it with `SIGKILL`. As with `std`, no error if it has exited already.
    ///
    /// # Errors
    /// The system's: `EPERM` if the child has become another user's.
    pub fn kill(&self) -> io::Result<()> {
        match self.signal(libc::SIGKILL) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// Sends it a signal, by its number.
    ///
    /// # Errors
    /// `ESRCH` if it is reaped already, never reaching another process with its number (a child that has exited and is not
    /// reaped takes the signal without effect); `EINVAL` for what is no signal; `EPERM` if the child has become another user's.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // Nobody reaps it meanwhile, so the number is its own.
        let status = self.status();
        if status.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let pidfd = self.0.pidfd.as_ref().map(AsFd::as_fd);
        send_signal(pidfd, self.0.pid.as_raw_pid(), signal)
    }

    fn status(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        // Nothing between lock and unlock can panic.
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits for its end without reaping it; `None` if it is reaped.
    pub(crate) fn request(&self) -> Option<Request> {
        if self.status().is_some() {
            return None;
        }
        Some(match &self.0.pidfd {
            Some(pidfd) => Request::WaitChild { handle: pidfd.handle() },
            None => Request::WaitProcess { pid: self.0.pid.as_raw_pid() },
        })
    }
}

fn wait_for(child: &Inner, options: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
    let id = match &child.pidfd {
        Some(pidfd) => WaitId::PidFd(pidfd.as_fd()),
        None => WaitId::Pid(child.pid),
    };
    waitid(id, options)
}

/// As `wait(2)` has it.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let core = if status.dumped() { 0x80 } else { 0 };
    ExitStatus::from_raw(match status.terminating_signal() {
        Some(signal) => signal | core,
        None => (status.exit_status().unwrap_or(0) & 0xff) << 8,
    })
}
