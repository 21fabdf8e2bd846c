//! A `Backend` of one's own: it wraps another one, and sees that this keeps the contract.
//!
//! The module documentation of `towpath_loop::backend` has the contract, point by point. A wrapper sees both sides of the
//! seam, and can hold the inner backend to most of them. It panics at the first breach: it is for tests, of a
//! mechanism of your own for instance. On the way it counts, which tells what a program waits for.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use towpath_loop::OpId;
use towpath_loop::backend::{Backend, Completions, Submitted, Wake};
use towpath_loop::operation::{Kind, Request, Support};

/// How often operations of one kind came, by the name of their row in `OPERATIONS`.
#[derive(Default)]
pub struct Count {
    /// Over at once, in `attempt` or `submit`.
    pub at_once: u64,
    /// Pending, and completed by a `wait`.
    pub waited: u64,
    /// Asked to end.
    pub canceled: u64,
}

/// What was counted, for whoever holds a clone when the loop is gone.
pub type Counts = Arc<Mutex<BTreeMap<&'static str, Count>>>;

/// See the module.
pub struct Checked<B: Backend> {
    inner: B,
    pending: HashMap<OpId, Kind>,
    counts: Counts,
}

impl<B: Backend> Checked<B> {
    /// Holds `inner` to the contract, and counts into `counts`.
    pub fn new(inner: B, counts: Counts) -> Checked<B> {
        Checked { inner, pending: HashMap::new(), counts }
    }

    fn count(&self, kind: Kind, f: impl FnOnce(&mut Count)) {
        // Counting does not panic, so a poisoned map is a whole one.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        f(counts.entry(kind.describe().name).or_default());
    }
}

fn check(kind: Kind, result: i32) {
    let retry = result == -libc::EAGAIN || result == -libc::EINTR;
    assert!(
        !retry,
        "{kind:?} ended with {}: these never leave a backend",
        io::Error::from_raw_os_error(-result)
    );
}

// SAFETY: every request is passed on as it came, and every result as it is: what holds for the inner backend holds.
unsafe impl<B: Backend> Backend for Checked<B> {
    fn name(&self) -> &'static str {
        "custom_backend"
    }

    fn support(&self, kind: Kind) -> Support {
        self.inner.support(kind)
    }

    unsafe fn submit(&mut self, id: OpId, request: &Request) -> Submitted {
        let kind = request.kind();
        assert!(!self.pending.contains_key(&id), "{id:?} is in flight already");
        // SAFETY: this function's own contract.
        let submitted = unsafe { self.inner.submit(id, request) };
        match submitted {
            Submitted::Pending(_) => drop(self.pending.insert(id, kind)),
            Submitted::Done(result) => {
                check(kind, result);
                self.count(kind, |count| count.at_once += 1);
            }
        }
        submitted
    }

    unsafe fn attempt(&mut self, request: &Request) -> Option<i32> {
        // SAFETY: this function's own contract.
        let result = unsafe { self.inner.attempt(request) }?;
        check(request.kind(), result);
        self.count(request.kind(), |count| count.at_once += 1);
        Some(result)
    }

    fn cancel(&mut self, id: OpId, word: u32, request: &Request) {
        assert_eq!(self.pending.get(&id), Some(&request.kind()), "{id:?} is not pending");
        self.count(request.kind(), |count| count.canceled += 1);
        self.inner.cancel(id, word, request);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Completions) -> io::Result<()> {
        let before = done.len();
        let waited = self.inner.wait(timeout, done);
        for completion in done.iter().skip(before) {
            let (id, result) = (completion.id, completion.result);
            let kind = self.pending.get(&id).copied();
            let kind = kind.unwrap_or_else(|| panic!("{id:?} completed, and was not pending"));
            check(kind, result);
            if !completion.is_part() {
                self.pending.remove(&id);
                self.count(kind, |count| count.waited += 1);
            }
        }
        waited
    }

    fn due(&self) -> Option<u64> {
        self.inner.due()
    }

    fn now(&self) -> u64 {
        self.inner.now()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn syscalls(&self) -> u64 {
        self.inner.syscalls()
    }
}

impl<B: Backend> Drop for Checked<B> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.pending.is_empty(), "dropped with operations in flight: {:?}", self.pending);
        }
    }
}
