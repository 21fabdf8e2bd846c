//! Synchronisation between tasks, plain threads and futures, in any mixture.
//!
//! [`Mutex`] and its kin have the names, signatures and documented behaviour of `std::sync`; what waits is the task, though,
//! and the thread below it goes on with others. On a plain thread the same call blocks the thread, and each wait has a form
//! for futures, whose name ends in `_async`, that any executor can poll. Waiting allocates nothing.
//!
//! # Cancellation and time
//!
//! Where a signature has room to say so, a wait ends with an error when its task is cancelled, when the time of a
//! [`timeout`](crate::time::timeout) around it is over, or its own: the forms whose name ends in `_timeout`. Nothing is lost
//! by that: a lock, permit or item that came at the same moment is taken, or goes to the next in the queue. Where there is no
//! room, as in [`Mutex::lock`], the wait goes on: it is as if it was [shielded](crate::shield), and a runtime that ends waits for
//! it until its limit. [`Condvar::wait_cancellable`] is the form for what may have to be waited for long.
//!
//! # Threads and wakers
//!
//! A plain thread that waits is parked meanwhile, as it is by `std`'s channels: a token that somebody gave it with
//! `std::thread::Thread::unpark` for a purpose of their own may be gone afterwards, and there may be one that nobody gave it.
//!
//! Wakers of futures are called by whoever lets them go on, without any lock held, after the tasks that are woken at the same time. If
//! one panics, the panic hook tells so, and that is all: it is not a panic of the one who calls it.

/// The ways to wait for what a primitive's `waiting` waits for.
macro_rules! ways_to_wait {
    ($until:literal) => {
        #[doc = concat!("Waits until ", $until, ".")]
        ///
        /// # Errors
        /// If the task is cancelled.
        pub fn wait(&self) -> io::Result<()> {
            Ok(block(&mut self.waiting(), Limit::NONE)?)
        }

        #[doc = concat!("Waits until ", $until, ", at most for `limit`.")]
        ///
        /// # Errors
        /// If the task is cancelled; `TimedOut`.
        pub fn wait_timeout(&self, limit: Duration) -> io::Result<()> {
            Ok(block(&mut self.waiting(), Limit::after(limit))?)
        }

        #[doc = concat!("Waits until ", $until, ", as a future. Cancel-safe: dropped, it leaves nothing behind.")]
        pub fn wait_async(&self) -> impl Future<Output = ()> {
            Waiting::new(self.waiting())
        }
    };
}

mod barrier;
pub mod broadcast;
mod condvar;
mod event;
mod latch;
mod lazy_lock;
pub mod mpmc;
pub mod mpsc;
mod mutex;
mod notify;
mod once;
mod once_lock;
pub mod oneshot;
mod poison;
mod rwlock;
mod semaphore;
pub mod watch;

pub use barrier::{Barrier, BarrierWaitResult};
pub use condvar::{Condvar, WaitTimeoutResult};
pub use event::Event;
pub use latch::Latch;
pub use lazy_lock::LazyLock;
pub use mutex::{Mutex, MutexGuard};
pub use notify::Notify;
pub use once::{Once, OnceState};
pub use once_lock::OnceLock;
pub use poison::LockTimeoutError;
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{Semaphore, SemaphorePermit};
pub use std::sync::{Arc, LockResult, PoisonError, TryLockError, TryLockResult, Weak, atomic};
