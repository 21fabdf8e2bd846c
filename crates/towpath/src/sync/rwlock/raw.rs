//! The lock without what it protects.
//!
//! One word counts the readers, and says whether it is written and whether somebody waits; who waits is in one of two
//! queues. The lock is handed over: who is woken has it.

use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::{self, const_fn, lock};
use crate::wait::{Arm, Entered, Node, Queue, Waiter, WakeList};
use crate::why::{Reason, Why};

const WRITTEN: usize = 1;
/// Somebody waits for their turn. Set and cleared under the queues' lock, and only there: set while anybody is in a queue, but
/// for readers who are being let in.
const AWAITED: usize = 2;
/// One who reads. Their number is the rest of the word.
const READER: usize = 4;
/// Guards that are forgotten are counted for ever; those who wait have room above this.
const MOST: usize = usize::MAX / 2;

/// The lock without what it protects.
pub(super) struct RawRwLock {
    state: AtomicUsize,
    queues: std_or_loom::Lock<Queues>,
}

/// Each who waits has the number of its arrival.
struct Queues {
    readers: Queue<u64>,
    writers: Queue<u64>,
    arrivals: u64,
}

impl Queues {
    fn are_empty(&self) -> bool {
        self.readers.is_empty() && self.writers.is_empty()
    }
}

#[derive(Clone, Copy)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    /// Whether somebody in this state of the lock, or ahead in a queue, keeps it out.
    #[inline]
    fn is_barred(self, state: usize) -> bool {
        match self {
            Access::Read => state & (WRITTEN | AWAITED) != 0,
            Access::Write => state != 0,
        }
    }

    /// What it adds to the state.
    #[inline]
    fn taken(self) -> usize {
        match self {
            Access::Read => READER,
            Access::Write => WRITTEN,
        }
    }
}

impl RawRwLock {
    const_fn! {
        pub(super) const fn new() -> RawRwLock {
            let queues = Queues { readers: Queue::new(), writers: Queue::new(), arrivals: 0 };
            RawRwLock { state: AtomicUsize::new(0), queues: std_or_loom::Lock::new(queues) }
        }
    }

    #[inline]
    pub(super) fn try_lock(&self, access: Access) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while !access.is_barred(state) {
            assert!(state <= MOST, "too many readers");
            let taken = state + access.taken();
            match self.state.compare_exchange_weak(state, taken, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// # Safety
    /// The caller has it locked for this access.
    #[inline]
    pub(super) unsafe fn unlock(&self, access: Access) {
        match access {
            Access::Read => {
                if self.state.fetch_sub(READER, Ordering::Release) == READER | AWAITED {
                    self.serve();
                }
            }
            Access::Write => {
                if self.state.compare_exchange(WRITTEN, 0, Ordering::Release, Ordering::Relaxed).is_err() {
                    self.unlock_for_others();
                }
            }
        }
    }

    #[cold]
    fn unlock_for_others(&self) {
        let _reads = Share(self);
        // SAFETY: the caller has it written; as a reader it is what `_reads` gives up.
        unsafe { self.downgrade() }
    }

    /// The writer becomes a reader, and the readers who wait join it.
    ///
    /// # Safety
    /// The caller has it written.
    pub(super) unsafe fn downgrade(&self) {
        if self.state.compare_exchange(WRITTEN, READER, Ordering::Release, Ordering::Relaxed).is_err() {
            {
                let _queues = lock(&self.queues);
                // While it is written and the queues are locked, nobody else writes the state.
                self.state.store(READER | AWAITED, Ordering::Release);
            }
            self.admit();
        }
    }

    /// Lets all readers in who wait now. The caller reads, which keeps writers out meanwhile.
    fn admit(&self) {
        let mut wakes = WakeList::new();
        let mut queues = lock(&self.queues);
        let mut present = queues.arrivals;
        loop {
            if queues.writers.is_empty() {
                // All who wait go in, and who comes from now on need not wait.
                present = queues.arrivals;
                self.state.fetch_and(!AWAITED, Ordering::Relaxed);
            }
            while !wakes.is_full()
                && let Some(next) = queues.readers.claim_if(|arrival| *arrival <= present)
            {
                self.state.fetch_add(READER, Ordering::Relaxed);
                wakes.push(next.complete());
            }
            drop(queues);
            if !wakes.is_full() {
                return;
            }
            wakes.wake_all();
            queues = lock(&self.queues);
        }
    }

    /// Lets those in who can go in, after the last reader has left, or somebody has left a queue.
    #[cold]
    fn serve(&self) {
        let _reads = {
            let mut queues = lock(&self.queues);
            let state = self.state.load(Ordering::Acquire);
            if state & WRITTEN != 0 || state & AWAITED == 0 {
                if queues.are_empty() {
                    self.state.fetch_and(!AWAITED, Ordering::Relaxed);
                }
                return;
            }
            let Queues { readers, writers, .. } = &mut *queues;
            if state < READER
                && let Some(next) = writers.claim()
            {
                // Nobody is in, and nobody goes past those who wait, so that nobody else writes the state.
                let awaited = if next.is_last() && readers.is_empty() { 0 } else { AWAITED };
                self.state.store(WRITTEN | awaited, Ordering::Relaxed);
                let wake = next.complete();
                drop(queues);
                return wake.wake();
            }
            if !writers.is_empty() {
                return;
            }
            self.state.fetch_add(READER, Ordering::Relaxed);
            Share(self)
        };
        self.admit();
    }

    #[inline]
    pub(super) fn locking(&self, access: Access) -> Locking<'_> {
        Locking { lock: self, access, node: Node::new(0) }
    }
}

/// The lock, read.
struct Share<'a>(&'a RawRwLock);

impl Drop for Share<'_> {
    fn drop(&mut self) {
        // SAFETY: whoever makes this has it locked for reading.
        unsafe { self.0.unlock(Access::Read) }
    }
}

/// Waits for the lock.
pub(super) struct Locking<'a> {
    lock: &'a RawRwLock,
    access: Access,
    node: Node<u64>,
}

impl Locking<'_> {
    fn queue<'a>(&self, queues: &'a mut Queues) -> &'a mut Queue<u64> {
        match self.access {
            Access::Read => &mut queues.readers,
            Access::Write => &mut queues.writers,
        }
    }
}

// SAFETY: `leave` takes the node out; a claim has taken it out before.
unsafe impl Arm for Locking<'_> {
    type Output = ();

    #[inline(always)]
    fn why(&self) -> Why {
        const READ: &Reason = &Reason::object("rwlock, to read");
        const WRITE: &Reason = &Reason::object("rwlock, to write");
        let reason = match self.access {
            Access::Read => READ,
            Access::Write => WRITE,
        };
        Why::object(reason, self.lock)
    }

    #[inline]
    fn attempt(&mut self) -> Option<()> {
        self.lock.try_lock(self.access).then_some(())
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<()> {
        let mut queues = lock(&self.lock.queues);
        let mut state = self.lock.state.load(Ordering::Relaxed);
        loop {
            let free = !self.access.is_barred(state);
            if free && !alone {
                return Entered::Ready;
            }
            let new = if free { state + self.access.taken() } else { state | AWAITED };
            match self.lock.state.compare_exchange_weak(state, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) if free => return Entered::Done(()),
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        queues.arrivals += 1;
        *self.node.data() = queues.arrivals;
        // SAFETY: passed on to the caller.
        unsafe { self.queue(&mut queues).push(&self.node, waiter, index, false) };
        Entered::Queued
    }

    fn leave(&mut self) {
        {
            let mut queues = lock(&self.lock.queues);
            self.queue(&mut queues).remove(&self.node);
        }
        // It may have been in the way of others.
        self.lock.serve();
    }

    fn finish(&mut self) -> Option<()> {
        Some(())
    }

    fn give_back(&mut self, (): ()) {
        // SAFETY: it was given to this arm.
        unsafe { self.lock.unlock(self.access) }
    }
}
