//! The descriptor for those who poll the ring from another loop.
//!
//! Where completion work is deferred (`DEFER_TASKRUN`) the ring's own descriptor will not do: it polls as readable
//! when there is work, but nobody who sleeps in poll(2) or epoll_wait(2) is woken for it. An eventfd registered with
//! the ring is signalled in that case too. But work that another eventfd has caused, as our own waker's, signals it
//! only once: the kernel notes that a signal is on its way and forgets to note that it has arrived. Registering anew
//! starts with a clean note. (Both measured on Linux 6.18.)
//!
//! That costs three system calls a wait, hence only once somebody has asked for the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::ring::Ring;
use crate::backend::Wake;
use crate::backend::eventfd::EventFd;

/// An eventfd that the kernel rings when there is something to reap.
pub(super) struct Bell(Arc<EventFd>);

impl Bell {
    /// Hangs it on the ring; it rings already if there is something now.
    pub(super) fn new(ring: &Ring) -> io::Result<Bell> {
        let bell = Bell(EventFd::new()?);
        ring.register_bell(bell.fd())?;
        if ring.has_news() {
            bell.0.wake();
        }
        Ok(bell)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// To be done at the end of a wait: from here on it rings for what is new, and at once for what is `left` over.
    pub(super) fn reset(&self, ring: &Ring, left: bool, syscalls: &mut u64) -> io::Result<()> {
        *syscalls += 3;
        ring.unregister_bell()?;
        ring.register_bell(self.fd())?;
        self.0.drain();
        // What came before this look shows, what comes after it rings.
        if left || ring.has_news() {
            *syscalls += 1;
            self.0.wake();
        }
        Ok(())
    }
}
