//! A lock that many have to read, or one to write.

mod guards;
mod raw;

use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

use self::raw::{Access, RawRwLock};
use super::LockTimeoutError;
use super::poison::Flag;
use crate::std_or_loom::const_fn;
use crate::wait::{Arm, Limit, Waiting, block};

pub use guards::{RwLockReadGuard, RwLockWriteGuard};

/// A reader-writer lock, as `std::sync::RwLock`: many may read at the same time, or one may write.
///
/// It is poisoned by a panic of one who writes, as `std`'s is, not by one who reads. Guards stay with their thread, and may
/// be held while their task waits for something else.
///
/// # Fairness
/// Readers and writers take turns, so that neither keep the other out. Once somebody waits, who comes later waits as well,
/// also to read. When a write ends, all who wait to read at that moment are let in together; when they are done, the next
/// writer, in the order in which they came. The lock is handed over to who is woken. One who waits to write and gives up lets
/// those in who waited because of it.
///
/// So one who reads and wants to read once more may wait for a writer that waits for it: that is a deadlock, here and with
/// `std`'s.
///
/// # Memory
/// Six machine words, a flag and a small lock beside the value. Waiting allocates nothing.
///
/// ```
/// use towpath::sync::{Arc, RwLock};
/// use towpath::thread;
///
/// let names = Arc::new(RwLock::new(vec!["a"]));
/// let readers: Vec<_> = (0..4)
///     .map(|_| {
///         let names = names.clone();
///         thread::spawn(move || names.read().unwrap().len())
///     })
///     .collect();
/// names.write().unwrap().push("b");
/// for reader in readers {
///     assert!([1, 2].contains(&reader.join().unwrap()));
/// }
/// ```
pub struct RwLock<T: ?Sized> {
    raw: RawRwLock,
    poison: Flag,
    value: UnsafeCell<T>,
}

// SAFETY: it owns the value, which can be taken out on any thread.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: those who read share the value, hence `T: Sync`; who writes is alone, on any thread, hence `T: Send`.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}
impl<T: ?Sized> UnwindSafe for RwLock<T> {}
impl<T: ?Sized> RefUnwindSafe for RwLock<T> {}

impl<T> RwLock<T> {
    const_fn! {
        /// A lock that nobody has.
        #[inline]
        pub const fn new(value: T) -> RwLock<T> {
            RwLock { raw: RawRwLock::new(), poison: Flag::new(), value: UnsafeCell::new(value) }
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

impl<T: ?Sized> RwLock<T> {
    /// Locks it for reading, waiting until nobody writes, and all who waited before have had their turn. Not cancellable:
    /// see [`read_timeout`](RwLock::read_timeout) for what is.
    ///
    /// # Errors
    /// With the guard, if somebody has panicked while writing.
    ///
    /// # Panics
    /// If there are too many guards: a quarter of what a `usize` can count, or more.
    #[inline]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        self.lock(Access::Read);
        RwLockReadGuard::new(self)
    }

    /// Locks it for reading, if nobody writes or waits.
    ///
    /// # Errors
    /// `WouldBlock` if somebody does; with the guard, if it is poisoned.
    #[inline]
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        if self.raw.try_lock(Access::Read) {
            Ok(RwLockReadGuard::new(self)?)
        } else {
            Err(TryLockError::WouldBlock)
        }
    }

    /// Locks it for reading, waiting at most for `limit`.
    ///
    /// Cancel-safe: one who gives up never has the lock, and holds nobody up.
    ///
    /// # Errors
    /// If it was not to be had in time, or the task is cancelled; with the guard, if it is poisoned.
    pub fn read_timeout(
        &self,
        limit: Duration,
    ) -> Result<RwLockReadGuard<'_, T>, LockTimeoutError<RwLockReadGuard<'_, T>>> {
        let locked = block(&mut self.raw.locking(Access::Read), Limit::after(limit));
        LockTimeoutError::result(locked.map(|()| RwLockReadGuard::new(self)))
    }

    /// Locks it for reading, as a future. The guard is not `Send`.
    ///
    /// Cancel-safe: dropped, the future leaves the queue.
    ///
    /// # Errors
    /// With the guard, if it is poisoned.
    pub async fn read_async(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        Waiting::new(self.raw.locking(Access::Read)).await;
        RwLockReadGuard::new(self)
    }

    /// Locks it for writing, waiting until nobody has it locked, and all who waited before have had their turn. Not
    /// cancellable: see [`write_timeout`](RwLock::write_timeout) for what is.
    ///
    /// # Errors
    /// With the guard, if somebody has panicked while writing.
    #[inline]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.lock(Access::Write);
        RwLockWriteGuard::new(self)
    }

    /// Locks it for writing, if nobody has it locked or waits, or is just now unlocking it for one who waited.
    ///
    /// # Errors
    /// `WouldBlock` if somebody does; with the guard, if it is poisoned.
    #[inline]
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        if self.raw.try_lock(Access::Write) {
            Ok(RwLockWriteGuard::new(self)?)
        } else {
            Err(TryLockError::WouldBlock)
        }
    }

    /// Locks it for writing, waiting at most for `limit`.
    ///
    /// Cancel-safe: one who gives up never has the lock, and those who waited because of it go on.
    ///
    /// # Errors
    /// If it was not to be had in time, or the task is cancelled; with the guard, if it is poisoned.
    pub fn write_timeout(
        &self,
        limit: Duration,
    ) -> Result<RwLockWriteGuard<'_, T>, LockTimeoutError<RwLockWriteGuard<'_, T>>> {
        let locked = block(&mut self.raw.locking(Access::Write), Limit::after(limit));
        LockTimeoutError::result(locked.map(|()| RwLockWriteGuard::new(self)))
    }

    /// Locks it for writing, as a future. The guard is not `Send`.
    ///
    /// Cancel-safe: dropped, the future leaves the queue, and those who waited because of it go on.
    ///
    /// # Errors
    /// With the guard, if it is poisoned.
    pub async fn write_async(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        Waiting::new(self.raw.locking(Access::Write)).await;
        RwLockWriteGuard::new(self)
    }

    /// Waits to read, as an arm that says that it is locked.
    pub(crate) fn reading(&self) -> impl Arm<Output = ()> {
        self.raw.locking(Access::Read)
    }

    /// Waits to write, as an arm that says that it is locked.
    pub(crate) fn writing(&self) -> impl Arm<Output = ()> {
        self.raw.locking(Access::Write)
    }

    #[inline]
    fn lock(&self, access: Access) {
        if !self.raw.try_lock(access) {
            let locked = block(&mut self.raw.locking(access), Limit::STUBBORN);
            debug_assert!(locked.is_ok());
        }
    }

    /// Whether somebody has panicked while writing.
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
impl<T> From<T> for RwLock<T> {
    fn from(value: T) -> RwLock<T> {
        RwLock::new(value)
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> RwLock<T> {
        RwLock::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("RwLock");
        match self.try_read() {
            Ok(guard) => f.field("data", &&*guard),
            Err(TryLockError::Poisoned(error)) => f.field("data", &&**error.get_ref()),
            Err(TryLockError::WouldBlock) => f.field("data", &format_args!("<locked>")),
        };
        f.field("poisoned", &self.poison.get()).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::future::block_on;

    use super::*;
    use crate::std_or_loom::model::{self, check, poll_once};

    type Watched = model::Watched<RwLock<()>>;

    impl Watched {
        fn read(&self) -> usize {
            let _guard = block_on(self.lock.read_async()).unwrap();
            self.get()
        }

        fn write(&self) {
            let _guard = block_on(self.lock.write_async()).unwrap();
            self.add();
        }

        /// What was written, and that nobody has it locked or waits.
        fn rest(&self) -> usize {
            let _guard = self.lock.try_write().expect("free in the end");
            self.get()
        }
    }

    #[test]
    fn loom_many_read_or_one_writes() {
        check(2, || {
            let watched = Watched::new(RwLock::new(()));
            let reader = watched.spawn(|w| assert!(w.read() <= 2));
            let writer = watched.spawn(Watched::write);
            watched.write();
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(watched.rest(), 2);
        });
    }

    /// The last of two readers lets the writer in, whichever that is; a reader behind the writer comes after it.
    #[test]
    fn loom_the_last_reader_wakes_the_writer() {
        check(2, || {
            let watched = Watched::new(RwLock::new(()));
            let guard = watched.lock.try_read().unwrap();
            let reader = watched.spawn(|w| assert!(w.read() <= 1));
            let writer = watched.spawn(Watched::write);
            assert_eq!(watched.get(), 0);
            drop(guard);
            assert!(watched.read() <= 1);
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(watched.rest(), 1);
        });
    }

    /// A writer that gives up at any moment leaves nothing behind, and the reader behind it goes on.
    #[test]
    fn loom_a_writer_that_gives_up_holds_nobody_up() {
        check(3, || {
            let watched = Watched::new(RwLock::new(()));
            let guard = watched.lock.try_read().unwrap();
            let quitter = watched.spawn(|w| {
                let mut waiting = Box::pin(w.lock.write_async());
                let std::task::Poll::Ready(_guard) = poll_once(waiting.as_mut()) else { return 0 };
                w.add();
                1
            });
            let reader = watched.spawn(|w| assert!(w.read() <= 1));
            drop(guard);
            reader.join().unwrap();
            assert_eq!(quitter.join().unwrap(), watched.rest());
        });
    }

    /// It leaves nobody behind it waiting for those who read.
    #[test]
    fn loom_a_writer_that_gives_up_lets_readers_in() {
        check(3, || {
            let watched = Watched::new(RwLock::new(()));
            let guard = watched.lock.try_read().unwrap();
            let quitter = watched.spawn(|w| {
                assert!(poll_once(Box::pin(w.lock.write_async()).as_mut()).is_pending());
            });
            let reader = watched.spawn(|w| assert_eq!(w.read(), 0));
            reader.join().unwrap();
            quitter.join().unwrap();
            assert!(watched.lock.try_read().is_ok());
            drop(guard);
            watched.rest();
        });
    }

    /// A reader that gives up, with a writer behind.
    #[test]
    fn loom_a_reader_that_gives_up_holds_nobody_up() {
        check(3, || {
            let watched = Watched::new(RwLock::new(()));
            let guard = watched.lock.try_write().unwrap();
            let quitter = watched.spawn(|w| {
                let mut waiting = Box::pin(w.lock.read_async());
                if let std::task::Poll::Ready(_guard) = poll_once(waiting.as_mut()) {
                    assert!(w.get() <= 2);
                }
            });
            let writer = watched.spawn(Watched::write);
            watched.add();
            drop(guard);
            quitter.join().unwrap();
            writer.join().unwrap();
            assert_eq!(watched.rest(), 2);
        });
    }

    /// Nobody writes between a write and the reading on.
    #[test]
    fn loom_downgrading_lets_readers_in_and_no_writer() {
        check(2, || {
            let watched = Watched::new(RwLock::new(()));
            let guard = watched.lock.try_write().unwrap();
            let reader = watched.spawn(|w| assert!((1..=2).contains(&w.read())));
            let writer = watched.spawn(Watched::write);
            watched.add();
            let guard = RwLockWriteGuard::downgrade(guard);
            assert_eq!(watched.get(), 1);
            drop(guard);
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(watched.rest(), 2);
        });
    }
}
