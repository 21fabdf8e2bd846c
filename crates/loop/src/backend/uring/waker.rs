//! Ending a wait from another thread: an eventfd that the ring polls.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::sqe;
use crate::backend::Wake;
use crate::backend::eventfd::EventFd;

/// The ring's side of it. The eventfd lives as long as somebody holds a handle, so that a late wake is harmless.
///
/// A multishot poll reports every write to the eventfd as a completion of its own (several between two ticks become
/// one), and the counter need never be read. The kernel ends such a poll when it finds no room for a completion;
/// then, and always on kernels without multishot, it is armed again.
pub(super) struct Waker {
    event: Arc<EventFd>,
    multishot: bool,
}

impl Waker {
    pub(super) fn new(multishot: bool) -> io::Result<Waker> {
        Ok(Waker { event: EventFd::new()?, multishot })
    }

    /// What wakes from elsewhere.
    pub(super) fn handle(&self) -> Arc<dyn Wake> {
        self.event.clone()
    }

    /// The entry that arms it, without a name yet. The poll holds the eventfd by itself.
    pub(super) fn arm(&self) -> squeue::Entry {
        let fd = self.event.as_fd().as_raw_fd();
        let events = libc::POLLIN as u16;
        if self.multishot {
            opcode::PollAdd::new(Fd(fd), u32::from(events)).multi(true).build()
        } else {
            sqe::poll(fd, events)
        }
    }

    /// Forgets the wakes so far, before arming again: a poll of a counter above zero would complete at once.
    ///
    /// No wake is lost: one before this ends the current wait, in which it happens; one after it is found by the new
    /// poll.
    pub(super) fn clear(&self, syscalls: &mut u64) {
        *syscalls += 1;
        self.event.drain();
    }

    /// The eventfd, for tests to look at its counter.
    #[cfg(test)]
    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }
}
