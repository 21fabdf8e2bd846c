//! The process's signal handler: whoever watches for a signal gets a bit and a ring.
//!
//! One handler for all signals that are watched. It runs the handler that it took the place of, then walks the watchers:
//! in each that wants the signal it sets a bit and, if the bit was not set, writes to the watcher's `eventfd(2)`. That is
//! all that it does, and all of it is async-signal-safe. What waits, waits for the eventfd, as for any descriptor.
//!
//! # What is where
//!
//! Watchers are found by a list that only grows: a watcher that is over is used again rather than freed, so that the
//! handler, on whichever thread, can walk without a lock. What must not be used again under it is the descriptor: who
//! gives a watcher up waits until no handler is inside (`Watcher::retire`).
//!
//! What a signal did before is kept with a count of who watches for it, and restored with the last one, if the handler
//! is still ours. If somebody has put another one over it, which presumably calls ours, ours stays below and does no more
//! than pass the signal on.
//!
//! The crate `signal-hook-registry` would do most of this; but it never restores, and its handler would run on the small
//! stack of the task that it interrupts (no `SA_ONSTACK`).

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::standard::clear_of_standard;
use crate::descriptor::Descriptor;
use crate::fork::Birth;
use crate::operation::Handle;

/// The highest number of a signal; a watcher has one bit for each.
const LAST: i32 = 64;

/// A fault of the program's own, on the thread that it happens on: returning from a handler repeats it. And what cannot
/// be handled at all.
const FORBIDDEN: [i32; 6] =
    [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// The newest watcher.
static WATCHERS: AtomicPtr<Watcher> = AtomicPtr::new(null_mut());
/// The handler that ours took the place of, by signal, as the handler reads it.
static PREVIOUS: [AtomicUsize; LAST as usize + 1] = [const { AtomicUsize::new(0) }; LAST as usize + 1];
/// The same, as it is restored, and how many watch. Whoever changes any of these three holds the lock.
static DISPOSITIONS: Mutex<[Disposition; LAST as usize + 1]> =
    Mutex::new([const { Disposition { watchers: 0, previous: None } }; LAST as usize + 1]);

struct Disposition {
    watchers: usize,
    /// `Some` while our handler is installed, on top or below another one.
    previous: Option<libc::sigaction>,
}

/// The signals that somebody waits for, and those that have come: what a [`Request::Signal`] waits for.
///
/// [`Request::Signal`]: crate::operation::Request::Signal
#[derive(Debug)]
pub struct Watcher {
    next: Option<&'static Watcher>,
    /// Which signals it is for; none while nobody has it.
    wanted: AtomicU64,
    /// Which have come and were not taken. While there are any, the descriptor is readable, or is about to be.
    pending: AtomicU64,
    /// The eventfd's number.
    fd: AtomicI32,
    /// The one taken last: the others come first.
    last: AtomicU32,
    /// How many handlers are looking at it.
    handlers: AtomicUsize,
    /// Whether somebody has it.
    taken: AtomicBool,
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

impl Watcher {
    /// Takes one signal that has come, in turn if there are several. `None`: wait until the request's descriptor is
    /// readable, and try again. For the backend that carries the request out.
    pub fn take(&self) -> Option<i32> {
        if let Some(signal) = self.next() {
            return Some(signal);
        }
        let mut count = [0_u8; 8];
        // SAFETY: eight bytes of our own, which is what an eventfd writes.
        unsafe { libc::read(self.fd.load(Relaxed), count.as_mut_ptr().cast(), count.len()) };
        // A bit that was set before the read may have lost its ring to it.
        let signal = self.next();
        if self.pending.load(SeqCst) != 0 {
            self.ring();
        }
        signal
    }

    fn next(&self) -> Option<i32> {
        let mut pending = self.pending.load(SeqCst);
        while pending != 0 {
            let last = self.last.load(Relaxed);
            let index = (pending.rotate_right(last).trailing_zeros() + last) % 64;
            match self.pending.compare_exchange_weak(pending, pending & !(1 << index), SeqCst, SeqCst) {
                Ok(_) => {
                    self.last.store(index + 1, Relaxed);
                    return Some(index as i32 + 1);
                }
                Err(now) => pending = now,
            }
        }
        None
    }

    /// A signal has come (again). Async-signal-safe.
    pub(crate) fn put(&self, signal: i32) {
        if self.pending.fetch_or(bit(signal), SeqCst) & bit(signal) == 0 {
            self.ring();
        }
    }

    fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // It would block only after 2^64 rings.
        // SAFETY: eight bytes of our own.
        unsafe { libc::write(self.fd.load(Relaxed), one.as_ptr().cast(), one.len()) };
    }

    /// From the handler.
    fn tell(&self, signal: i32) {
        // Before the look at `wanted`: see `retire`.
        self.handlers.fetch_add(1, SeqCst);
        if self.wanted.load(SeqCst) & bit(signal) != 0 {
            self.put(signal);
        }
        self.handlers.fetch_sub(1, SeqCst);
    }

    /// Makes it one for `wanted`, which ring at `fd`.
    fn arm(&self, wanted: u64, fd: i32) {
        self.pending.store(0, SeqCst);
        self.last.store(0, Relaxed);
        self.fd.store(fd, Relaxed);
        self.wanted.store(wanted, SeqCst);
    }

    /// Ends it. When this returns, no handler uses the descriptor any more.
    fn retire(&self, forked: bool) {
        self.wanted.store(0, SeqCst);
        // Whoever looks from now on finds nothing wanted; whoever looked before is counted. In a forked child those that
        // were counted may have stayed with the parent's threads, and there is no thread but this one.
        while !forked && self.handlers.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        self.fd.store(-1, Relaxed);
        self.taken.store(false, Release);
    }
}

fn watchers() -> impl Iterator<Item = &'static Watcher> {
    // SAFETY: null, or a watcher that was leaked before it was published.
    let newest = unsafe { WATCHERS.load(Acquire).as_ref() };
    std::iter::successors(newest, |watcher| watcher.next)
}

/// A watcher that nobody has.
fn vacant(_lock: &MutexGuard<'_, [Disposition; LAST as usize + 1]>) -> &'static Watcher {
    if let Some(watcher) = watchers().find(|watcher| !watcher.taken.swap(true, Acquire)) {
        return watcher;
    }
    let watcher = Box::leak(Box::new(Watcher {
        next: watchers().next(),
        wanted: AtomicU64::new(0),
        pending: AtomicU64::new(0),
        fd: AtomicI32::new(-1),
        last: AtomicU32::new(0),
        handlers: AtomicUsize::new(0),
        taken: AtomicBool::new(true),
    }));
    WATCHERS.store(watcher, Release);
    watcher
}

/// A watcher with its signals, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    watcher: &'static Watcher,
    bell: Descriptor,
    /// For which the handler has been installed.
    signals: u64,
    birth: Birth,
}

impl Registration {
    /// # Errors
    /// `InvalidInput` for what is no signal, or none that can be handled; the system's, for want of a descriptor.
    pub(crate) fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<Registration> {
        let mut wanted = 0;
        for signal in signals {
            if !(1..=LAST).contains(&signal) || FORBIDDEN.contains(&signal) {
                let why = format!("signal {signal} cannot be waited for");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            wanted |= bit(signal);
        }
        let birth = Birth::now()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Descriptor::new(clear_of_standard(bell)?);
        let mut dispositions = lock();
        let watcher = vacant(&dispositions);
        watcher.arm(wanted, bell.as_raw_fd());
        let mut registration = Registration { watcher, bell, signals: 0, birth };
        for signal in each(wanted) {
            if let Err(error) = dispositions[signal as usize].join(signal) {
                // Undoes what was done.
                drop(dispositions);
                drop(registration);
                return Err(error);
            }
            registration.signals |= bit(signal);
        }
        Ok(registration)
    }

    pub(crate) fn watcher(&self) -> &'static Watcher {
        self.watcher
    }

    pub(crate) fn handle(&self) -> Handle {
        self.bell.handle()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let forked = self.birth.is_child();
        if !forked {
            // In a child another thread may have held the lock, for ever. What it executes gets the defaults anyway.
            let mut dispositions = lock();
            for signal in each(self.signals) {
                dispositions[signal as usize].leave(signal);
            }
        }
        self.watcher.retire(forked);
    }
}

fn lock() -> MutexGuard<'static, [Disposition; LAST as usize + 1]> {
    DISPOSITIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn each(signals: u64) -> impl Iterator<Item = i32> {
    (1..=LAST).filter(move |signal| signals & bit(*signal) != 0)
}

impl Disposition {
    /// One more watches.
    fn join(&mut self, signal: i32) -> io::Result<()> {
        let current = disposition(signal, None)?;
        let handler = current.sa_sigaction;
        let above = self.previous.is_some() && is_handler(handler);
        // Somebody else's handler above ours got there later, and calls ours; a default has swept ours away.
        if handler != ours() && !above {
            PREVIOUS[signal as usize].store(handler, SeqCst);
            let mut new = current;
            new.sa_sigaction = ours();
            // On a stack of its own where the thread has one: a task's may be small. What a stop of a child does, and
            // whether one has to be waited for, stays; and whether system calls go on, for a handler may be there to
            // interrupt them.
            let restart = if is_handler(handler) { current.sa_flags } else { libc::SA_RESTART };
            new.sa_flags = libc::SA_SIGINFO
                | libc::SA_ONSTACK
                | (restart & libc::SA_RESTART)
                | (current.sa_flags & (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT));
            disposition(signal, Some(&new))?;
            self.previous = Some(current);
        }
        self.watchers += 1;
        Ok(())
    }

    /// One fewer watches.
    fn leave(&mut self, signal: i32) {
        self.watchers -= 1;
        if self.watchers > 0 || disposition(signal, None).is_ok_and(|now| now.sa_sigaction != ours()) {
            return;
        }
        if let Some(previous) = self.previous.take() {
            // It was in force before, so it is accepted.
            let _ = disposition(signal, Some(&previous));
        }
    }
}

fn ours() -> libc::sighandler_t {
    on_signal as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as libc::sighandler_t
}

fn is_handler(action: libc::sighandler_t) -> bool {
    action != libc::SIG_DFL && action != libc::SIG_IGN
}

/// What a signal does, and makes it do something else.
fn disposition(signal: i32, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    // SAFETY: all-zero bytes are a sigaction.
    let mut old: libc::sigaction = unsafe { zeroed() };
    // SAFETY: both point to a sigaction, or nowhere; the handler is `on_signal`, which is async-signal-safe, or one that
    // was in force before.
    match unsafe { libc::sigaction(signal, new.map_or(null(), |new| new), &raw mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: this thread's own, always there. What was interrupted may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    let previous = PREVIOUS[signal as usize].load(SeqCst);
    if is_handler(previous) {
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: it was the handler of this signal, and is called as the kernel would call it: with three arguments,
        // of which one installed without SA_SIGINFO looks at the first.
        let previous = unsafe { std::mem::transmute::<usize, Handler>(previous) };
        previous(signal, info, context);
    }
    watchers().for_each(|watcher| watcher.tell(signal));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Sends a signal to a process: by its descriptor, or else by its number, which has to be its own.
pub(crate) fn send_signal(pidfd: Option<BorrowedFd<'_>>, pid: i32, signal: i32) -> io::Result<()> {
    let result = match pidfd {
        Some(fd) => {
            let info = null::<libc::siginfo_t>();
            // SAFETY: no information beside the signal, so no pointer is followed.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, info, 0) }
        }
        // SAFETY: no pointers.
        None => libc::c_long::from(unsafe { libc::kill(pid, signal) }),
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(registration: &Registration) -> bool {
        let mut fds = [PollFd::new(&registration.bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn signals_take_turns_and_ring_until_all_are_taken() {
        let registration = Registration::new([]).unwrap();
        let watcher = registration.watcher();
        assert_eq!((watcher.take(), readable(&registration)), (None, false));
        for signal in [1, 15, 64] {
            watcher.put(signal);
            watcher.put(signal);
        }
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.extend(watcher.take());
            watcher.put(1);
            assert!(readable(&registration));
        }
        assert_eq!(taken, [1, 15, 64, 1], "one that comes again and again lets the others pass");
        assert_eq!((watcher.take(), watcher.take(), readable(&registration)), (Some(1), None, false));
    }

    #[test]
    fn a_ring_is_not_lost_to_one_who_takes_another_signal() {
        let registration = Registration::new([]).unwrap();
        let watcher = registration.watcher();
        // Two waiters; both bits are set between the first one's look and its read of the counter.
        watcher.put(3);
        watcher.put(5);
        let mut count = [0; 8];
        rustix::io::read(&registration.bell, &mut count).unwrap();
        watcher.ring();
        assert_eq!(watcher.take(), Some(3));
        assert!(readable(&registration), "the second one has to be told");
    }

    #[test]
    fn watchers_are_used_again() {
        let first: *const Watcher = Registration::new([]).unwrap().watcher();
        let count = watchers().count();
        for _ in 0..100 {
            let _ = Registration::new([]).unwrap();
        }
        assert!(watchers().any(|watcher| std::ptr::eq(watcher, first)));
        // Other tests run beside this one.
        assert!(watchers().count() < count + 10);
    }
}
