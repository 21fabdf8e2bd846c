//! A lock that one has at a time.
//!
//! One word says whether it is locked and whether somebody waits; who waits is in a queue. An unlock wakes the first, which
//! has to take the lock for itself: whoever runs just then may come before it, which is what makes short critical sections
//! cheap. One who was woken and finds the lock taken looks for a moment whether it becomes free, and then goes back to the
//! front; the next unlock leaves the lock locked and hands it over. Until then nobody else is woken: to wake somebody on
//! another thread takes much longer than most critical sections, and each of those who come would only find it taken. (Unless
//! it is a future that was woken, which may not be polled for long.)

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

#[cfg(not(loom))]
use towpath_loop::monotonic_now;

use super::LockTimeoutError;
use super::poison::{Flag, Taken};
use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::{self, const_fn};
use crate::wait::{Arm, Entered, Limit, Node, Queue, Waiter, Waiting, Wake, block};
use crate::why::{Reason, Why};

const LOCKED: usize = 1;
/// Somebody is in the queue, or was when its lock was last held.
const AWAITED: usize = 2;
/// A task or thread has been woken, and has not tried yet to take the lock.
const WOKEN: usize = 4;
/// How often one who was woken looks whether the lock is free, before going back into the queue.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 30 };
/// For how long it stays away before, in nanoseconds, if it comes to a lock that is taken. Whoever has it may be taking it again and
/// again, which is the faster the longer its memory stays in one cache.
#[cfg(not(loom))]
const AWAY: u64 = 5_000;

/// The lock without what it protects.
pub(super) struct RawMutex {
    state: AtomicUsize,
    queue: std_or_loom::Lock<Queue<Turn>>,
}

/// What a node says of its waiter.
pub(super) struct Turn {
    /// It was woken before, and found the lock taken.
    overtaken: bool,
    /// It has been handed the lock.
    owner: bool,
    /// It has been woken, and nobody else is until it has tried.
    woken: bool,
}

impl RawMutex {
    const_fn! {
        pub(super) const fn new() -> RawMutex {
            RawMutex { state: AtomicUsize::new(0), queue: std_or_loom::Lock::new(Queue::new()) }
        }
    }

    #[inline]
    pub(super) fn try_lock(&self) -> bool {
        // Not read first: the exchange would have to wait for what was read.
        let mut state = 0;
        while state & LOCKED == 0 {
            let locked = state | LOCKED;
            match self.state.compare_exchange_weak(state, locked, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Waits as long as it takes.
    #[inline]
    pub(super) fn lock(&self) {
        if !self.try_lock() {
            let locked = block(&mut self.locking(), Limit::STUBBORN);
            debug_assert!(locked.is_ok());
        }
    }

    /// Takes it, if it is free soon, for one who was woken. Whether or not it does, others may be woken from now on.
    fn lock_woken(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        if state & LOCKED != 0 {
            stay_away();
        }
        let mut looks = 0;
        loop {
            let free = state & LOCKED == 0;
            if !free && looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
                state = self.state.load(Ordering::Relaxed);
                continue;
            }
            let new = (state | LOCKED) - WOKEN;
            match self.state.compare_exchange_weak(state, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return free,
                Err(now) => state = now,
            }
        }
    }

    /// # Safety
    /// The caller has it locked.
    #[inline]
    pub(super) unsafe fn unlock(&self) {
        if self.state.compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            self.unlock_for_another();
        }
    }

    #[cold]
    fn unlock_for_another(&self) {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & WOKEN != 0 {
            // Who comes next is on the way.
            match self.state.compare_exchange_weak(
                state,
                state - LOCKED,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
        let mut queue = std_or_loom::lock(&self.queue);
        // While it is locked and the queue is, nobody else writes the state. And nobody who has been claimed may find it
        // locked once more by whoever unlocks.
        let wake = match queue.claim() {
            None => {
                self.state.store(0, Ordering::Release);
                Wake::NOBODY
            }
            Some(mut next) => {
                let acts = next.acts_at_once();
                let turn = next.data();
                turn.owner = turn.overtaken;
                turn.woken = !turn.owner && acts;
                let locked = match turn {
                    Turn { owner: true, .. } => LOCKED,
                    Turn { woken: true, .. } => WOKEN,
                    _ => 0,
                };
                let awaited = if next.is_last() { 0 } else { AWAITED };
                self.state.store(locked | awaited, Ordering::Release);
                next.complete()
            }
        };
        drop(queue);
        wake.wake();
    }

    #[inline]
    pub(super) fn locking(&self) -> Locking<'_> {
        Locking { mutex: self, node: Node::new(Turn { overtaken: false, owner: false, woken: false }) }
    }
}

fn stay_away() {
    #[cfg(not(loom))]
    {
        let until = monotonic_now() + AWAY;
        while monotonic_now() < until {
            std::hint::spin_loop();
        }
    }
}

/// Waits for the lock.
pub(super) struct Locking<'a> {
    mutex: &'a RawMutex,
    node: Node<Turn>,
}

// SAFETY: `leave` takes the node out; a claim has taken it out before.
unsafe impl Arm for Locking<'_> {
    type Output = ();

    #[inline(always)]
    fn why(&self) -> Why {
        const MUTEX: &Reason = &Reason::object("mutex");
        Why::object(MUTEX, self.mutex)
    }

    #[inline]
    fn attempt(&mut self) -> Option<()> {
        self.mutex.try_lock().then_some(())
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<()> {
        let mut queue = std_or_loom::lock(&self.mutex.queue);
        let mut state = self.mutex.state.load(Ordering::Relaxed);
        loop {
            let (new, free) =
                (state | if state & LOCKED == 0 { LOCKED } else { AWAITED }, state & LOCKED == 0);
            if free && !alone {
                return Entered::Ready;
            }
            if new != state
                && let Err(now) =
                    self.mutex.state.compare_exchange_weak(state, new, Ordering::Acquire, Ordering::Relaxed)
            {
                state = now;
                continue;
            }
            if free {
                return Entered::Done(());
            }
            break;
        }
        let overtaken = self.node.data().overtaken;
        // SAFETY: passed on to the caller.
        unsafe { queue.push(&self.node, waiter, index, overtaken) };
        Entered::Queued
    }

    fn leave(&mut self) {
        std_or_loom::lock(&self.mutex.queue).remove(&self.node);
    }

    fn finish(&mut self) -> Option<()> {
        let turn = self.node.data();
        turn.overtaken = !turn.owner;
        let done = turn.owner || mem::take(&mut turn.woken) && self.mutex.lock_woken();
        done.then_some(())
    }

    fn give_back(&mut self, (): ()) {
        // SAFETY: it was given to this arm.
        unsafe { self.mutex.unlock() }
    }
}

/// A mutual exclusion primitive, as `std::sync::Mutex`: tasks, threads and futures that wait for it take turns.
///
/// It is poisoned by a panic of whoever has it locked, as `std`'s is. A guard stays with its thread, as it does there,
/// so that it may be held while its task waits for something else; the others then wait for it, and their threads go on
/// with other tasks. A task that locks what it has locked itself waits for ever.
///
/// # Fairness
/// One who comes along while the lock is free takes it, also while others wait: that keeps short critical sections cheap. One
/// who waits and was woken looks for some microseconds whether nobody has it just then; after that the next unlock gives it the
/// lock. Otherwise they are served in the order in which they came.
///
/// # Memory
/// Two machine words, a flag and a small lock beside the value. Waiting allocates nothing.
///
/// ```
/// use towpath::sync::{Arc, Mutex};
/// use towpath::thread;
///
/// let total = Arc::new(Mutex::new(0));
/// let adders: Vec<_> = (1..=4)
///     .map(|n| {
///         let total = total.clone();
///         thread::spawn(move || *total.lock().unwrap() += n)
///     })
///     .collect();
/// adders.into_iter().for_each(|adder| adder.join().unwrap());
/// assert_eq!(*total.lock().unwrap(), 10);
/// ```
pub struct Mutex<T: ?Sized> {
    raw: RawMutex,
    poison: Flag,
    value: UnsafeCell<T>,
}

// SAFETY: who has it locked is the only one who reaches the value; that can be any thread, hence `T: Send`.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}
impl<T: ?Sized> UnwindSafe for Mutex<T> {}
impl<T: ?Sized> RefUnwindSafe for Mutex<T> {}

/// The lock, held until this is dropped.
#[must_use = "if unused the Mutex will immediately unlock"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    taken: Taken,
    /// Not `Send`, as `std`'s.
    _thread: PhantomData<*const ()>,
}

// SAFETY: sharing it shares `&T`.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    const_fn! {
        /// A lock that nobody has.
        #[inline]
        pub const fn new(value: T) -> Mutex<T> {
            Mutex { raw: RawMutex::new(), poison: Flag::new(), value: UnsafeCell::new(value) }
        }
    }

    /// The value, without the lock.
    ///
    /// # Errors
    /// With the value, if the lock is poisoned.
    pub fn into_inner(self) -> LockResult<T> {
        let poisoned = self.poison.get();
        let value = self.value.into_inner();
        if poisoned { Err(PoisonError::new(value)) } else { Ok(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks it, waiting until it is free. Not cancellable: see [`lock_timeout`](Mutex::lock_timeout) for what is.
    ///
    /// # Errors
    /// With the guard, if somebody has panicked with it locked.
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.raw.lock();
        self.locked()
    }

    /// Locks it, if it is free.
    ///
    /// # Errors
    /// `WouldBlock` if it is locked; with the guard, if it is poisoned.
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if self.raw.try_lock() { Ok(self.locked()?) } else { Err(TryLockError::WouldBlock) }
    }

    /// Locks it, waiting at most for `limit`.
    ///
    /// Cancel-safe: one who gives up never has the lock, and holds nobody up.
    ///
    /// # Errors
    /// If it was not free in time, or the task is cancelled; with the guard, if it is poisoned.
    pub fn lock_timeout(
        &self,
        limit: Duration,
    ) -> Result<MutexGuard<'_, T>, LockTimeoutError<MutexGuard<'_, T>>> {
        LockTimeoutError::result(block(&mut self.raw.locking(), Limit::after(limit)).map(|()| self.locked()))
    }

    /// Locks it, as a future. The guard is not `Send`.
    ///
    /// Cancel-safe: dropped, the future leaves the queue.
    ///
    /// # Errors
    /// With the guard, if it is poisoned.
    pub async fn lock_async(&self) -> LockResult<MutexGuard<'_, T>> {
        Waiting::new(self.raw.locking()).await;
        self.locked()
    }

    /// Waits for it, as an arm that says that it is [`locked`](Mutex::locked).
    pub(crate) fn locking(&self) -> impl Arm<Output = ()> {
        self.raw.locking()
    }

    /// It is locked.
    #[inline]
    pub(crate) fn locked(&self) -> LockResult<MutexGuard<'_, T>> {
        self.poison.guard(|taken| MutexGuard { mutex: self, taken, _thread: PhantomData })
    }

    /// Whether somebody has panicked with it locked.
    pub fn is_poisoned(&self) -> bool {
        self.poison.get()
    }

    /// It is sound again.
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// The value: nobody else can have it locked.
    ///
    /// # Errors
    /// With the value, if the lock is poisoned.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        let poisoned = self.poison.get();
        let value = self.value.get_mut();
        if poisoned { Err(PoisonError::new(value)) } else { Ok(value) }
    }
}

/// What is left of a guard whose lock is given up for a while.
pub(super) struct Released<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    taken: Taken,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// Takes it apart. It is still locked; to be unlocked by the caller.
    pub(super) fn release(self) -> Released<'a, T> {
        let guard = ManuallyDrop::new(self);
        Released { mutex: guard.mutex, taken: guard.taken }
    }
}

impl<'a, T: ?Sized> Released<'a, T> {
    pub(super) fn raw(&self) -> &'a RawMutex {
        &self.mutex.raw
    }

    /// It is locked again.
    pub(super) fn locked(self) -> LockResult<MutexGuard<'a, T>> {
        let guard = MutexGuard { mutex: self.mutex, taken: self.taken, _thread: PhantomData };
        if self.mutex.poison.get() { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: locked.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: locked, by this guard, which the caller has alone.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.poison.done(&self.taken);
        // SAFETY: this guard has it locked.
        unsafe { self.mutex.raw.unlock() }
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Mutex<T> {
        Mutex::new(value)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Mutex");
        match self.try_lock() {
            Ok(guard) => f.field("data", &&*guard),
            Err(TryLockError::Poisoned(error)) => f.field("data", &&**error.get_ref()),
            Err(TryLockError::WouldBlock) => f.field("data", &format_args!("<locked>")),
        };
        f.field("poisoned", &self.poison.get()).finish_non_exhaustive()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        fn poll<F: Future>(self: &Arc<Wakes>, future: Pin<&mut F>) -> Poll<F::Output> {
            future.poll(&mut Context::from_waker(&Waker::from(self.clone())))
        }

        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn futures_that_are_not_polled_hold_nobody_up_and_are_handed_the_lock_if_they_are_late() {
        let mutex = Mutex::new(());
        let wakes = [(); 3].map(|()| Arc::new(Wakes::default()));
        let counts = || wakes.each_ref().map(|wakes| wakes.count());
        let guard = mutex.lock().unwrap();
        let mut first = Box::pin(mutex.lock_async());
        let (mut second, mut third) = (pin!(mutex.lock_async()), pin!(mutex.lock_async()));
        assert!(wakes[0].poll(first.as_mut()).is_pending());
        assert!(wakes[1].poll(second.as_mut()).is_pending());
        assert!(wakes[2].poll(third.as_mut()).is_pending());
        drop(guard);
        assert_eq!(counts(), [1, 0, 0]);
        drop(mutex.lock().unwrap());
        assert_eq!(counts(), [1, 1, 0], "who knows when the first is polled");
        drop(first);
        assert_eq!(counts(), [1, 1, 1], "it gave up, and the next one is woken");
        let guard = mutex.lock().unwrap();
        assert!(wakes[1].poll(second.as_mut()).is_pending(), "overtaken");
        drop(guard);
        assert_eq!(counts(), [1, 2, 1]);
        assert!(mutex.try_lock().is_err(), "handed over");
        let Poll::Ready(guard) = wakes[1].poll(second.as_mut()) else {
            panic!("it has been handed the lock")
        };
        drop(guard);
        assert_eq!(counts(), [1, 2, 1]);
        assert!(wakes[2].poll(third.as_mut()).is_ready());
        drop(mutex.try_lock().unwrap());
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::future::block_on;

    use super::*;
    use crate::std_or_loom::model::{Watched, check, poll_once};

    impl Watched<Mutex<()>> {
        fn lock_and_add(&self) {
            let _guard = block_on(self.lock.lock_async()).unwrap();
            self.add();
        }

        /// What was added, and that nobody has it locked.
        fn rest(&self) -> usize {
            let _guard = self.lock.try_lock().expect("free in the end");
            self.get()
        }
    }

    #[test]
    fn loom_one_at_a_time_and_nobody_is_forgotten() {
        check(3, || {
            let watched = Watched::new(Mutex::new(()));
            let others = [(); 2].map(|()| watched.spawn(Watched::lock_and_add));
            watched.lock_and_add();
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(watched.rest(), 3);
        });
    }

    /// Somebody locks and unlocks it again and again while another one is on the way, so that unlocks wake nobody.
    #[test]
    fn loom_who_was_woken_is_overtaken_and_nobody_is_forgotten() {
        check(2, || {
            let watched = Watched::new(Mutex::new(()));
            let guard = watched.lock.try_lock().unwrap();
            let others = [(); 2].map(|()| watched.spawn(Watched::lock_and_add));
            drop(guard);
            (0..2).for_each(|_| drop(watched.lock.try_lock()));
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(watched.rest(), 2);
        });
    }

    /// One who gives up at any moment: as it is woken, handed the lock, or before.
    #[test]
    fn loom_one_who_gives_up_holds_nobody_up() {
        check(3, || {
            let watched = Watched::new(Mutex::new(()));
            let guard = watched.lock.try_lock().unwrap();
            let quitter = watched.spawn(|w| {
                let mut waiting = Box::pin(w.lock.lock_async());
                let std::task::Poll::Ready(_guard) = poll_once(waiting.as_mut()) else { return 0 };
                w.add();
                1
            });
            let other = watched.spawn(Watched::lock_and_add);
            drop(guard);
            other.join().unwrap();
            let added = quitter.join().unwrap();
            assert_eq!(watched.rest(), 1 + added);
        });
    }
}
