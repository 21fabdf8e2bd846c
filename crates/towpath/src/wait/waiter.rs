//! The one who waits: claimed at most once, then woken.

use std::fmt;
use std::mem::{self, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::task;

use towpath_loop::Instant;

use crate::context;
use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::{Lock, give_way, lock};
use crate::task::{Header, TaskRef};
use crate::why::Why;
use crate::worker::Worker;

const WAITING: usize = 0;
/// It gave up.
const GONE: usize = 1;
/// Somebody is writing what it gets.
const CLAIMED: usize = 2;
/// It has been given what it gets.
const DONE: usize = 3;
/// The rest of the state, above these: which arm was claimed.
const KINDS: usize = 4;

/// Who waits. In the frame or the future that waits, and alive until its nodes have left their queues.
pub struct Waiter {
    state: AtomicUsize,
    /// It is in one queue at most.
    alone: bool,
    who: Who,
}

enum Who {
    /// A task, or a thread in the role of one, which lives while it waits.
    Task(NonNull<Header>),
    Future(Lock<Option<task::Waker>>),
}

// SAFETY: a header may be shared between threads.
unsafe impl Send for Waiter {}
// SAFETY: as above.
unsafe impl Sync for Waiter {}

impl Waiter {
    /// For the task or thread that calls, which must be `task`. `alone`: it is going to be in one queue at most.
    #[inline]
    pub(crate) fn of(task: &Header, alone: bool) -> Waiter {
        Waiter { state: AtomicUsize::new(WAITING), alone, who: Who::Task(NonNull::from(task)) }
    }

    /// For a future, to be polled before it can be woken.
    pub(crate) fn future(waker: &task::Waker) -> Waiter {
        Waiter {
            state: AtomicUsize::new(WAITING),
            alone: false,
            who: Who::Future(Lock::new(Some(waker.clone()))),
        }
    }

    /// Whether it is a task or a thread. In models, which have none, futures are always polled.
    pub(crate) fn is_task(&self) -> bool {
        cfg!(loom) || matches!(self.who, Who::Task(_))
    }

    /// Claims it for one of its arms. If this succeeds the caller must [`complete`](Waiter::complete) it soon, without
    /// waiting for anything.
    #[inline]
    pub(crate) fn claim(&self, index: usize) -> bool {
        let claimed = index * KINDS + CLAIMED;
        if self.alone
            && let Who::Task(task) = &self.who
            // SAFETY: not completed, so that it waits, and lives.
            && context::is_home_of(unsafe { task.as_ref() })
        {
            // It gives up on this thread, and another claim needs the lock that the caller has: a locked instruction saved.
            let waits = self.state.load(Ordering::Relaxed) == WAITING;
            if waits {
                self.state.store(claimed, Ordering::Relaxed);
            }
            return waits;
        }
        // Acquire: what the waiter wrote into its nodes is read next. (They were queued under a lock; a claim from elsewhere
        // may not have that.)
        self.state.compare_exchange(WAITING, claimed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// It has been given what it gets. It may be gone when this returns, which is why no reference is taken; what is returned
    /// must be woken, after the caller has let go of its locks.
    ///
    /// # Safety
    /// The caller has claimed it, and not completed it yet.
    #[inline]
    pub(crate) unsafe fn complete(this: *const Waiter) -> Wake {
        // SAFETY: it waits until it is completed.
        let wake = match unsafe { &(*this).who } {
            // A task that lives on this thread cannot run before the caller has woken it.
            // SAFETY: not completed, so that it waits, and lives.
            Who::Task(task) if context::is_home_of(unsafe { task.as_ref() }) => Wake(Target::Here(*task)),
            // SAFETY: as above.
            Who::Task(task) => Wake(Target::Task(unsafe { TaskRef::from_alive(*task) })),
            Who::Future(waker) => Wake(lock(waker).take().map_or(Target::Nobody, Target::Waker)),
        };
        // SAFETY: as above. Only whoever claimed it writes this.
        let state = unsafe { (*this).state.load(Ordering::Relaxed) };
        debug_assert_eq!(state % KINDS, CLAIMED);
        // SAFETY: as above; with this it goes.
        unsafe { (*this).state.store(state - CLAIMED + DONE, Ordering::Release) };
        wake
    }

    /// The arm for which it was claimed and given something.
    #[inline]
    pub(crate) fn done(&self) -> Option<usize> {
        let state = self.state.load(Ordering::Acquire);
        (state % KINDS == DONE).then_some(state / KINDS)
    }

    /// Gives up. False if it has been claimed: then it is given something, or has been.
    #[inline]
    pub(crate) fn give_up(&self) -> bool {
        self.state.compare_exchange(WAITING, GONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Waits until it is done; false if it gave up, being cancelled (where `cancellable`) or late.
    ///
    /// # Safety
    /// `task`, which calls, is the one that it was made for.
    #[inline(always)]
    pub(crate) unsafe fn wait(&self, task: &Header, why: Why, until: Instant, cancellable: bool) -> bool {
        if context::wait_until(task, why, until, cancellable, || self.done().is_some()) {
            return true;
        }
        if self.give_up() {
            return false;
        }
        // Who claimed it is about to complete it.
        context::wait_until(task, why, Instant::NEVER, false, || self.done().is_some())
    }

    /// For a future that is polled: whether it is done. If not, `waker` is woken when it is.
    pub(crate) fn poll(&self, waker: &task::Waker) -> bool {
        let Who::Future(place) = &self.who else { unreachable!("a task is not polled") };
        // Whoever claims it takes the waker, to wake it.
        let known = lock(place).as_ref().map(|known| known.will_wake(waker));
        let waits = match known {
            Some(true) => true,
            None => false,
            Some(false) => {
                // Cloned and dropped without the lock: that runs somebody else's code.
                let mut new = Some(waker.clone());
                let mut place = lock(place);
                let waits = place.is_some();
                if waits {
                    mem::swap(&mut *place, &mut new);
                }
                drop(place);
                waits
            }
        };
        if !waits {
            self.await_completion();
        }
        !waits
    }

    /// For a future that is dropped: whether it was given something.
    pub(crate) fn end(&self) -> bool {
        if self.give_up() {
            return false;
        }
        self.await_completion();
        true
    }

    /// Whoever has claimed it has a few instructions left to do, with the lock of a queue held.
    fn await_completion(&self) {
        let mut looks = 0;
        while self.done().is_none() {
            give_way(&mut looks);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}

/// Somebody to be woken, or nobody.
#[must_use]
pub(crate) struct Wake(Target);

enum Target {
    Nobody,
    /// A task of this thread.
    Here(NonNull<Header>),
    Task(TaskRef),
    Waker(task::Waker),
}

impl Wake {
    pub(crate) const NOBODY: Wake = Wake(Target::Nobody);

    #[inline(always)]
    pub(crate) fn wake(self) {
        match self.0 {
            Target::Nobody => {}
            Target::Here(task) => {
                // SAFETY: it is suspended on this thread, and nothing of the user's has run since it was seen alive: see
                // `WakeList::wake_all`.
                let task = unsafe { task.as_ref() };
                context::with_worker(|worker: &Worker| worker.make_next(task));
            }
            Target::Task(_) | Target::Waker(_) => self.wake_elsewhere(),
        }
    }

    #[inline(never)]
    fn wake_elsewhere(self) {
        match self.0 {
            Target::Task(task) => task.wake(),
            Target::Waker(waker) => call(waker),
            Target::Nobody | Target::Here(_) => unreachable!("they are no others"),
        }
    }
}

/// Calls a waker, whose panic goes no further than to the panic hook. Whoever wakes has nothing to do with it, and may be
/// about to leave more queues, or to unwind already.
fn call(waker: task::Waker) {
    if cfg!(loom) {
        // There it is the model's.
        return waker.wake();
    }
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        // Which may panic as well when it is dropped.
        mem::forget(payload);
    }
}

/// Some who are to be woken, once a lock has been let go of.
pub(crate) struct WakeList {
    wakes: [MaybeUninit<Wake>; WakeList::CAPACITY],
    len: usize,
}

impl WakeList {
    /// So many at a time: a queue's lock is not held for longer, and nothing is allocated.
    const CAPACITY: usize = 32;

    pub(crate) fn new() -> WakeList {
        WakeList { wakes: [const { MaybeUninit::uninit() }; WakeList::CAPACITY], len: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == WakeList::CAPACITY
    }

    pub(crate) fn push(&mut self, wake: Wake) {
        self.wakes[self.len].write(wake);
        self.len += 1;
    }

    pub(crate) fn wake_all(&mut self) {
        let wakes = &mut self.wakes[..mem::take(&mut self.len)];
        let mut wake = |wanted: fn(&Target) -> bool| {
            for wake in wakes.iter_mut() {
                // SAFETY: the first `len` are there.
                let wake = unsafe { wake.assume_init_mut() };
                if wanted(&wake.0) {
                    mem::replace(wake, Wake::NOBODY).wake();
                }
            }
        };
        // First those whose life hangs on that nobody's code runs before: to wake a task of another thread may be to drop the last
        // reference to it, and with it a reason of the user's. Wakers last, which do what they like.
        wake(|target| matches!(target, Target::Here(_)));
        wake(|target| matches!(target, Target::Task(_)));
        wake(|target| matches!(target, Target::Waker(_)));
    }
}

impl Drop for WakeList {
    fn drop(&mut self) {
        self.wake_all();
    }
}
