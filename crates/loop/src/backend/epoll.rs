//! Readiness from `epoll(7)`, edge-triggered.
//!
//! A descriptor is added once, for both directions, and never again: the kernel reports every change from then on
//! and forgets the descriptor when it is closed. So an exchange on a warm connection costs no `epoll_ctl` at all. An
//! edge is reported once, which is why a hang-up that nobody waits for costs nothing either.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::Wake;
use super::eventfd::EventFd;
use super::readiness::{Event, Mode, Poller};
use super::standard::clear_of_standard;

/// How many events one system call takes over.
const BATCH: usize = 512;
/// How many one `wait` takes over. The kernel hands out the rest in turn, so that nobody starves.
const EVENTS_MAX: usize = 64 * BATCH;

/// The waker's key, which is no descriptor's.
const WAKE: u64 = u64::MAX;

/// What is watched for, always. Errors and hang-ups are reported unasked.
const INTEREST: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET;

// Events are reported in the bits of `poll(2)`, which epoll shares. Should a target differ, it needs a conversion.
const _: () = assert!(
    libc::EPOLLIN == libc::POLLIN as i32
        && libc::EPOLLOUT == libc::POLLOUT as i32
        && libc::EPOLLPRI == libc::POLLPRI as i32
        && libc::EPOLLERR == libc::POLLERR as i32
        && libc::EPOLLHUP == libc::POLLHUP as i32
        && libc::EPOLLRDHUP == libc::POLLRDHUP as i32
);

/// The kernel's 64-bit `timespec`, which `epoll_pwait2` takes on every architecture.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// The `epoll(7)` poller of [`Readiness`](super::readiness::Readiness).
pub struct Epoll {
    fd: OwnedFd,
    waker: Arc<EventFd>,
    buffer: Vec<libc::epoll_event>,
    /// Whether `epoll_pwait2` (Linux 5.11) is there, as far as we know.
    nanoseconds: bool,
    syscalls: u64,
}

impl Epoll {
    /// A new epoll instance, close-on-exec, with its waker.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` or `ENOMEM`, as the kernel says.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let fd = clear_of_standard(unsafe { OwnedFd::from_raw_fd(fd) })?;
        let waker = EventFd::new()?;
        let mut epoll =
            Epoll { fd, waker, buffer: Vec::with_capacity(BATCH), nanoseconds: true, syscalls: 0 };
        // Edge-triggered, so that every wake is reported and none need be read. Not for writing: it always can be.
        let wakes = libc::EPOLLIN | libc::EPOLLET;
        epoll.control(libc::EPOLL_CTL_ADD, epoll.waker.as_fd().as_raw_fd(), WAKE, wakes)?;
        Ok(epoll)
    }

    fn control(&mut self, call: i32, fd: RawFd, key: u64, interest: i32) -> io::Result<()> {
        self.syscalls += 1;
        let mut event = libc::epoll_event { events: interest as u32, u64: key };
        // SAFETY: `event` is a whole epoll_event that outlives the call; the kernel checks the number `fd`.
        if unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), call, fd, &raw mut event) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits with the finest clock there is; `Ok(n)` events are in the buffer's memory.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let buffer = self.buffer.as_mut_ptr();
        if let Some(time) = timeout.filter(|time| self.nanoseconds && !time.is_zero()) {
            let time = Timespec {
                // 68 years; a `wait` may return early.
                seconds: time.as_secs().min(i32::MAX as u64) as i64,
                nanoseconds: i64::from(time.subsec_nanos()),
            };
            self.syscalls += 1;
            // SAFETY: `buffer` has room for BATCH events (its capacity, from `new`) and is ours alone; `time` outlives
            // the call; a null signal mask leaves the mask as it is.
            let count = unsafe {
                let mask = std::ptr::null::<libc::sigset_t>();
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.fd.as_raw_fd(),
                    buffer,
                    BATCH as libc::c_int,
                    &raw const time,
                    mask,
                    0_usize,
                )
            };
            if count >= 0 {
                return Ok(count as usize);
            }
            let error = io::Error::last_os_error();
            // An old kernel, or a sandbox that refuses calls which it does not know.
            if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
                return Err(error);
            }
            self.nanoseconds = false;
        }
        self.syscalls += 1;
        // SAFETY: as above.
        let count = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), buffer, BATCH as libc::c_int, milliseconds(timeout))
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }
}

/// The time in whole milliseconds for `epoll_wait`, rounded up: a time-out may be late, never early.
fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    match timeout {
        None => -1,
        Some(time) => time.as_nanos().div_ceil(1_000_000).min(libc::c_int::MAX as u128) as libc::c_int,
    }
}

impl Poller for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn mode(&self) -> Mode {
        Mode::Edge
    }

    fn add(&mut self, fd: RawFd, key: u64, _interest: u16) -> io::Result<()> {
        match self.control(libc::EPOLL_CTL_ADD, fd, key, INTEREST) {
            // Known already, under an earlier key. A change of the entry also looks at its state afresh.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                match self.control(libc::EPOLL_CTL_MOD, fd, key, INTEREST) {
                    // Somebody closed and opened it between the two calls.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                        self.control(libc::EPOLL_CTL_ADD, fd, key, INTEREST)
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    fn remove(&mut self, fd: RawFd) {
        // ENOENT, EBADF: it was closed behind our back, and the kernel has forgotten it.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut timeout = timeout;
        loop {
            let count = match self.sleep(timeout) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            // SAFETY: the kernel has written `count` whole events, and `count` does not exceed BATCH, the capacity.
            unsafe { self.buffer.set_len(count) };
            for event in &self.buffer {
                let (key, bits) = (event.u64, event.events as u16);
                if key != WAKE {
                    events.push(Event { key, bits });
                }
            }
            // All that are ready now are served before any of them again: whoever is served may be ready at once.
            if count < BATCH || events.len() >= EVENTS_MAX {
                break;
            }
            timeout = Some(Duration::ZERO);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn milliseconds_are_rounded_up() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1_000))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1_001))), 2);
        assert_eq!(milliseconds(Some(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn without_pwait2_a_wait_is_not_early_either() {
        let mut epoll = Epoll::new().unwrap();
        epoll.nanoseconds = false;
        let mut events = Vec::new();
        for time in [Duration::from_nanos(1), Duration::from_micros(100), Duration::from_micros(1_500)] {
            let begun = Instant::now();
            epoll.wait(Some(time), &mut events).unwrap();
            assert!(begun.elapsed() >= time);
        }
        assert!(events.is_empty());
    }
}
