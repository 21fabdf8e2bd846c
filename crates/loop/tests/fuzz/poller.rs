//! A `Poller` that cannot be trusted: it tells of descriptors that were removed or never added, of things that did not
//! happen, of the same thing over and over, and of what did happen later than it might; and it refuses to watch.
//!
//! Underneath it is poll(2), so what has happened is told some time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use towpath_loop::backend::Wake;
use towpath_loop::backend::readiness::{Event, Mode, Poller};

struct Waker(OwnedFd);

impl Wake for Waker {
    fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// The poller. Once its bytes are used up it is honest.
pub struct Hostile {
    bytes: Rc<RefCell<Vec<u8>>>,
    mode: Mode,
    watched: BTreeMap<RawFd, (u64, u16)>,
    /// All keys that there ever were.
    keys: Vec<u64>,
    waker: Arc<Waker>,
    waits: Cell<u64>,
}

impl Hostile {
    pub fn new(mode: Mode, bytes: &[u8]) -> Hostile {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        Hostile {
            bytes: Rc::new(RefCell::new(bytes.to_vec())),
            mode,
            watched: BTreeMap::new(),
            keys: Vec::new(),
            waker: Arc::new(Waker(event)),
            waits: Cell::new(0),
        }
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.borrow_mut().pop()
    }

    fn lies(&self, events: &mut Vec<Event>) {
        const BITS: [u16; 8] = [0, 0x1, 0x4, 0x5, 0x8, 0x10, 0x2000, 0xffff];
        for _ in 0..self.byte().unwrap_or(0) % 4 {
            let (what, bits) = (self.byte().unwrap_or(0), BITS[usize::from(self.byte().unwrap_or(0) % 8)]);
            let key = match what % 4 {
                0 => u64::from(what) << 32 | u64::from(what),
                1 => u64::MAX - u64::from(what),
                _ if self.keys.is_empty() => 3,
                _ => self.keys[usize::from(self.byte().unwrap_or(0)) % self.keys.len()],
            };
            events.push(Event { key, bits });
            if what >= 200 {
                events.push(Event { key, bits });
            }
        }
    }
}

impl Poller for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn add(&mut self, fd: RawFd, key: u64, interest: u16) -> io::Result<()> {
        self.keys.push(key);
        self.watched.insert(fd, (key, interest));
        Ok(())
    }

    fn remove(&mut self, fd: RawFd) {
        self.watched.remove(&fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.waits.set(self.waits.get() + 1);
        self.lies(events);
        let honest = self.byte().is_none_or(|byte| byte >= 100);
        if !honest {
            // It comes back early, having seen nothing.
            return Ok(());
        }
        let watched: Vec<_> = self.watched.iter().map(|(fd, watch)| (*fd, *watch)).collect();
        // SAFETY: numbers for poll(2), which says POLLNVAL of those that are not open.
        let borrow = |fd: RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
        let mut fds: Vec<_> = watched
            .iter()
            .map(|(fd, (_, interest))| {
                PollFd::from_borrowed_fd(borrow(*fd), PollFlags::from_bits_retain(*interest))
            })
            .collect();
        fds.push(PollFd::from_borrowed_fd(self.waker.0.as_fd(), PollFlags::IN));
        let sleep = if events.is_empty() { timeout } else { Some(Duration::ZERO) };
        let time = sleep.map(|time| Timespec {
            tv_sec: time.as_secs().min(3600) as i64,
            tv_nsec: time.subsec_nanos().into(),
        });
        let _ = poll(&mut fds, time.as_ref());
        let _ = rustix::io::read(&self.waker.0, &mut [0; 8]);
        for (polled, (fd, (key, _))) in fds.iter().zip(&watched) {
            let bits = polled.revents();
            if bits.contains(PollFlags::NVAL) {
                self.watched.remove(fd);
            } else if !bits.is_empty() {
                events.push(Event { key: *key, bits: bits.bits() });
                if self.mode == Mode::OneShot {
                    self.watched.remove(fd);
                }
            }
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn syscalls(&self) -> u64 {
        self.waits.get()
    }
}
