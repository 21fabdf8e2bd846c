//! A `Poller` of one's own: `epoll(7)` with `EPOLLONESHOT`, as many a reactor uses it.
//!
//! One `epoll_ctl` arms a descriptor, its next event disarms it. That is `Mode::OneShot`; what waits for what, and which
//! event is out of date, is the business of the adaptor, `Readiness`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use towpath_loop::backend::Wake;
use towpath_loop::backend::readiness::{Event, Mode, Poller};

/// The waker's key: no descriptor has it.
const WAKE: u64 = u64::MAX;
/// How many events one system call takes over.
const BATCH: usize = 256;

/// Ends a `wait`. A write from any thread makes the eventfd readable, also before the `wait` has begun.
struct Waker(OwnedFd);

impl Wake for Waker {
    fn wake(&self) {
        // It fails only where the counter is full, and then it is readable as it is.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// An epoll instance whose watches end with their first event.
pub struct OneShot {
    epoll: OwnedFd,
    waker: Arc<Waker>,
    ready: Vec<epoll::Event>,
    syscalls: u64,
}

impl OneShot {
    /// A new one with its waker, both close-on-exec.
    pub fn new() -> io::Result<OneShot> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        // Edge-triggered: every write is reported, and the counter need not be read.
        let wakes = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &waker.0, epoll::EventData::new_u64(WAKE), wakes)?;
        Ok(OneShot { epoll, waker: Arc::new(waker), ready: Vec::with_capacity(BATCH), syscalls: 0 })
    }
}

impl Poller for OneShot {
    fn name(&self) -> &'static str {
        "custom_poller"
    }

    fn mode(&self) -> Mode {
        Mode::OneShot
    }

    fn add(&mut self, fd: RawFd, key: u64, interest: u16) -> io::Result<()> {
        // SAFETY: the number is only passed to the kernel, which says EBADF if nothing is open under it.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let data = epoll::EventData::new_u64(key);
        // The bits of poll(2) and of epoll are the same ones.
        let interest = epoll::EventFlags::from_bits_retain(interest.into()) | epoll::EventFlags::ONESHOT;
        self.syscalls += 1;
        // Armed before, as a rule; the kernel forgets a descriptor only when it is closed, or after `remove`.
        match epoll::modify(&self.epoll, fd, data, interest) {
            Err(Errno::NOENT) => {
                self.syscalls += 1;
                Ok(epoll::add(&self.epoll, fd, data, interest)?)
            }
            result => Ok(result?),
        }
    }

    fn remove(&mut self, fd: RawFd) {
        self.syscalls += 1;
        // SAFETY: as in `add`.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        // It may have been closed already: then there is nothing to remove.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        // A `wait` may end early, so what is too long for the kernel need not be waited for.
        let mut timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs().min(86_400) as i64,
            tv_nsec: time.subsec_nanos().into(),
        });
        loop {
            self.syscalls += 1;
            self.ready.clear();
            let room = rustix::buffer::spare_capacity(&mut self.ready);
            match epoll::wait(&self.epoll, room, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &self.ready {
                let (key, flags) = (event.data.u64(), event.flags);
                if key != WAKE {
                    events.push(Event { key, bits: flags.bits() as u16 });
                }
            }
            // All that is ready now is served before any of it again. Once each: what was reported is disarmed.
            if self.ready.len() < self.ready.capacity() {
                return Ok(());
            }
            timeout = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}
