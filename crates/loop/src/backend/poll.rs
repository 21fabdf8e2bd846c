//! Readiness from `poll(2)`: for where nothing better is allowed, and to check the better ones against.
//!
//! The kernel keeps nothing between two calls, so the array of descriptors is ours. It holds only those that
//! something waits for: a standing hang-up on an idle connection is not looked at, and costs nothing. Adding and
//! removing are O(1); each wait is O(descriptors waited for), which is the nature of the call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::Wake;
use super::eventfd::EventFd;
use super::readiness::{Event, Mode, Poller};

/// "Not in the array", in [`Poll::places`].
const NOWHERE: u32 = u32::MAX;

/// How long a wait is at most where it can look at only a part of the descriptors at a time.
const CROWDED: Duration = Duration::from_millis(5);

/// The `poll(2)` poller of [`Readiness`](super::readiness::Readiness).
pub struct Poll {
    /// What the kernel is shown. The first is the waker.
    fds: Vec<libc::pollfd>,
    /// The keys of `fds`, beside it.
    keys: Vec<u64>,
    /// Where each descriptor's number stands in `fds`.
    places: Vec<u32>,
    waker: Arc<EventFd>,
    syscalls: u64,
}

impl Poll {
    /// A new one with its waker, which is its only descriptor.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` or `ENOMEM`, as the kernel says.
    pub fn new() -> io::Result<Poll> {
        let waker = EventFd::new()?;
        let first = libc::pollfd { fd: waker.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        Ok(Poll { fds: vec![first], keys: vec![u64::MAX], places: Vec::new(), waker, syscalls: 0 })
    }

    /// One `ppoll(2)` over a part of the array. `Ok(n)`: so many of them have something in `revents`.
    fn look(&mut self, from: usize, to: usize, timeout: Option<Duration>) -> io::Result<usize> {
        self.syscalls += 1;
        let part = &mut self.fds[from..to];
        let time = timeout.map(|time| libc::timespec {
            // 68 years; a `wait` may return early.
            tv_sec: time.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: time.subsec_nanos() as libc::c_long,
        });
        let pointer = time.as_ref().map_or(std::ptr::null(), |time| &raw const *time);
        // SAFETY: `part` is `part.len()` whole pollfds, ours alone; `time` outlives the call; a null signal mask
        // leaves the mask as it is. The kernel checks the numbers.
        let count =
            unsafe { libc::ppoll(part.as_mut_ptr(), part.len() as libc::nfds_t, pointer, std::ptr::null()) };
        match count {
            0.. => Ok(count as usize),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Looks at all descriptors where the kernel refuses so many at once, because RLIMIT_NOFILE was lowered.
    fn look_in_parts(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let part = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        if part == 0 || part >= self.fds.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut count = 0;
        for from in (0..self.fds.len()).step_by(part) {
            count += self.look(from, self.fds.len().min(from + part), Some(Duration::ZERO))?;
        }
        if count == 0 {
            // The first part has the waker in it. The others are looked at again before long.
            count = self.look(0, part, Some(timeout.map_or(CROWDED, |time| time.min(CROWDED))))?;
        }
        Ok(count)
    }

    fn take_out(&mut self, place: usize) {
        let gone = self.fds.swap_remove(place);
        self.keys.swap_remove(place);
        self.places[gone.fd as usize] = NOWHERE;
        if let Some(moved) = self.fds.get(place) {
            self.places[moved.fd as usize] = place as u32;
        }
    }
}

impl Poller for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn mode(&self) -> Mode {
        Mode::OneShot
    }

    fn add(&mut self, fd: RawFd, key: u64, interest: u16) -> io::Result<()> {
        let Ok(number) = usize::try_from(fd) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        if number >= self.places.len() {
            self.places.resize(number + 1, NOWHERE);
        }
        let entry = libc::pollfd { fd, events: interest as libc::c_short, revents: 0 };
        match self.places[number] {
            NOWHERE => {
                self.places[number] = self.fds.len() as u32;
                self.fds.push(entry);
                self.keys.push(key);
            }
            place => {
                self.fds[place as usize] = entry;
                self.keys[place as usize] = key;
            }
        }
        Ok(())
    }

    fn remove(&mut self, fd: RawFd) {
        let place = usize::try_from(fd).ok().and_then(|number| self.places.get(number));
        if let Some(&place) = place.filter(|place| **place != NOWHERE) {
            self.take_out(place as usize);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut left = match self.look(0, self.fds.len(), timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match self.look_in_parts(timeout) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if left > 0 && self.fds[0].revents != 0 {
            self.fds[0].revents = 0;
            self.waker.drain();
            self.syscalls += 1;
            left -= 1;
        }
        // From the end, so that what fills a gap has been looked at already. POLLNVAL is reported like all else: the
        // system call that follows says what is wrong, and the number is not asked for again.
        let mut place = self.fds.len();
        while left > 0 && place > 1 {
            place -= 1;
            let bits = self.fds[place].revents as u16;
            if bits != 0 {
                events.push(Event { key: self.keys[place], bits });
                self.take_out(place);
                left -= 1;
            }
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    /// None: there is nothing in the kernel that another loop could watch.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_is_reported_once_and_the_others_keep_their_places() {
        let mut poll = Poll::new().unwrap();
        let pairs: Vec<_> = (0..9).map(|_| UnixStream::pair().unwrap()).collect();
        for (key, (near, _)) in pairs.iter().enumerate() {
            poll.add(near.as_raw_fd(), key as u64, libc::POLLIN as u16).unwrap();
        }
        poll.remove(pairs[4].0.as_raw_fd());
        poll.remove(pairs[4].0.as_raw_fd());
        for key in [1, 4, 8] {
            (&pairs[key].1).write_all(b"x").unwrap();
        }
        let mut events = Vec::new();
        poll.wait(None, &mut events).unwrap();
        let mut keys: Vec<_> = events.iter().map(|event| event.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 8]);
        events.clear();
        poll.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty(), "each was reported already");
        for key in [0, 2, 3, 5, 6, 7] {
            (&pairs[key].1).write_all(b"x").unwrap();
        }
        poll.wait(None, &mut events).unwrap();
        assert_eq!(events.len(), 6);
        assert_eq!(poll.fds.len(), 1, "only the waker is left");
    }

    #[test]
    fn the_same_descriptor_is_replaced_and_a_closed_one_is_reported() {
        let mut poll = Poll::new().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        poll.add(near.as_raw_fd(), 1, libc::POLLIN as u16).unwrap();
        poll.add(near.as_raw_fd(), 2, libc::POLLOUT as u16).unwrap();
        // A number that no open descriptor of this process has: beyond the limit.
        let nobody = 1 << 20;
        poll.add(nobody, 3, libc::POLLIN as u16).unwrap();
        assert_eq!(poll.add(-1, 4, 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let mut events = Vec::new();
        poll.wait(None, &mut events).unwrap();
        events.sort_unstable_by_key(|event| event.key);
        assert_eq!(events[0], Event { key: 2, bits: libc::POLLOUT as u16 });
        assert_eq!(events[1], Event { key: 3, bits: libc::POLLNVAL as u16 });
        assert_eq!(events.len(), 2);
    }

    /// Set in the process that this test starts: the limit is the whole process's.
    const CHILD: &str = "TOWPATH_TEST_CROWDED";

    #[test]
    fn more_descriptors_than_the_limit_allows_are_looked_at_in_parts() {
        if std::env::var_os(CHILD).is_none() {
            let name = std::thread::current().name().unwrap().to_owned();
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", &name]).env(CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
            return;
        }
        let mut poll = Poll::new().unwrap();
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (key, (near, _)) in pairs.iter().enumerate() {
            poll.add(near.as_raw_fd(), key as u64, libc::POLLIN as u16).unwrap();
        }
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let low = Rlimit { current: Some(10), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, low).unwrap();
        let mut events = Vec::new();
        poll.wait(Some(Duration::from_millis(1)), &mut events).unwrap();
        assert!(events.is_empty());
        poll.waker().wake();
        poll.wait(None, &mut events).unwrap();
        for key in [3, 55, 99] {
            (&pairs[key].1).write_all(b"x").unwrap();
        }
        poll.wait(None, &mut events).unwrap();
        let mut keys: Vec<_> = events.iter().map(|event| event.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [3, 55, 99]);
    }
}
