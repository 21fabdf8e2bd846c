//! The driver's readiness: raw epoll, so that it favours no runtime.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::sys::check;

/// How long nothing may happen before a server counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Reports when something becomes readable or writable, once for each change.
pub const EDGE: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
pub const READABLE: u32 = libc::EPOLLIN as u32;
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;

pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is involved.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: it is new, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    fn control(&self, op: libc::c_int, fd: &impl AsRawFd, events: u32, token: usize) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token as u64 };
        // SAFETY: the kernel only reads the event.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    pub fn add(&self, fd: &impl AsRawFd, events: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// Waits, and leaves how many events there are; [`Epoll::token`] has them. None in `timeout` is 0.
    pub fn wait_for(&mut self, timeout: Duration) -> io::Result<usize> {
        let (at, len) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        let millis = timeout.as_millis() as libc::c_int;
        loop {
            // SAFETY: the kernel writes at most `len` events to the vector, which holds so many.
            match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), at, len, millis) }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|count| count as usize),
            }
        }
    }

    /// Waits; that nothing happens is an error.
    pub fn wait(&mut self) -> io::Result<usize> {
        match self.wait_for(PATIENCE)? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no progress for {PATIENCE:?}"))),
            count => Ok(count),
        }
    }

    /// The token of one of the events.
    pub fn token(&self, index: usize) -> usize {
        self.events[index].u64 as usize
    }
}
