//! The waker of every backend here: an `eventfd(2)`.
//!
//! A wake adds to the kernel's counter, and so survives until somebody looks: a wake that comes before the `wait` is
//! not lost. Futexes and user-space flags alone cannot promise that across a sleep in the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::Wake;
use super::standard::clear_of_standard;

/// A counter in the kernel that polls as readable while it is not zero.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A new one at zero, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` or `ENOMEM`, as the kernel says.
    pub(crate) fn new() -> io::Result<Arc<EventFd>> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(EventFd { fd: clear_of_standard(fd)? }))
    }

    /// Puts the counter back to zero. Needed where it is watched level-triggered, as by `poll(2)`; an edge-triggered
    /// watch reports every [`wake`](Wake::wake), whatever the counter.
    pub(crate) fn drain(&self) {
        let mut counter = [0; 8];
        // One read takes the whole counter. Would-block says that it was zero already; nothing else can happen.
        let _ = rustix::io::read(&self.fd, &mut counter);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Wake for EventFd {
    /// One `write(2)`, which is async-signal-safe. It would block only where the counter is full, after 2^64 wakes that
    /// nobody drained.
    fn wake(&self) {
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(event: &EventFd) -> bool {
        let mut fds = [PollFd::new(event, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn wakes_add_up_and_drain_takes_them_all() {
        let event = EventFd::new().unwrap();
        assert!(!readable(&event));
        event.drain();
        event.wake();
        event.wake();
        assert!(readable(&event));
        event.drain();
        assert!(!readable(&event));
    }

    #[test]
    fn a_full_counter_does_not_block_and_stays_readable() {
        let event = EventFd::new().unwrap();
        rustix::io::write(&event.fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.wake();
        assert!(readable(&event));
    }
}
