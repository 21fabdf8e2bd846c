//! The lock of a queue: held for some dozens of instructions, and never across a wait.
//!
//! It spins, since an unlock is a plain store then; `std`'s lock has to exchange, in case somebody sleeps, and that is a
//! fifth of what it costs to hand a message over. Whoever finds it locked for long [gives way](give_way).
//!
//! Where two processors want it all the time, it is the slower the more often it changes hands, for what it protects moves from
//! cache to cache with it. So whoever finds it locked, and it was so a moment ago, stays away for long enough to let the other
//! one do a dozen things in a row.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use towpath_loop::monotonic_now;

use crate::std_or_loom::give_way;

/// It is wanted all the time if it is found locked within so many microseconds after somebody had to wait for it.
const MOMENT: u32 = 4;
/// The first time for which one stays away then, in nanoseconds. It doubles, up to the second.
const AWAY: u64 = 1_500;
const AWAY_MAX: u64 = 8 * AWAY;
/// For how many looks that counts: one who stays away gives way to those who can run after some 20 microseconds.
const LOOKS_AWAY: u32 = 15;

pub(crate) struct Lock<T> {
    locked: AtomicBool,
    /// When somebody last got it after a wait, in microseconds.
    waited: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: only who has locked it reaches the value.
unsafe impl<T: Send> Sync for Lock<T> {}
impl<T> UnwindSafe for Lock<T> {}
impl<T> RefUnwindSafe for Lock<T> {}

/// Shared only where the value may be.
pub(crate) struct Locked<'a, T>(&'a Lock<T>, PhantomData<&'a mut T>);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Lock<T> {
        Lock { locked: AtomicBool::new(false), waited: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    #[inline(always)]
    pub(crate) fn lock(&self) -> Locked<'_, T> {
        if self.locked.swap(true, Ordering::Acquire) {
            self.wait();
        }
        Locked(self, PhantomData)
    }

    #[cold]
    fn wait(&self) {
        let since = micros(monotonic_now()).wrapping_sub(self.waited.load(Ordering::Relaxed));
        let (mut looks, mut away) = (0_u32, AWAY);
        loop {
            if since < MOMENT {
                let until = monotonic_now() + away;
                while monotonic_now() < until {
                    std::hint::spin_loop();
                }
                away = (away * 2).min(AWAY_MAX);
                looks = looks.saturating_add(LOOKS_AWAY);
            }
            give_way(&mut looks);
            // Read before it is locked, not to hold it for longer.
            let now = micros(monotonic_now());
            if !self.locked.load(Ordering::Relaxed) && !self.locked.swap(true, Ordering::Acquire) {
                return self.waited.store(now, Ordering::Relaxed);
            }
        }
    }
}

fn micros(nanos: u64) -> u32 {
    (nanos / 1000) as u32
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: it is locked.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Locked<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: it is locked, by who has this.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Locked<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_none_for_ever() {
        let lock = Lock::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..10_000 {
                        let mut locked = lock.lock();
                        let value = *locked;
                        if n % 1000 == 0 {
                            // Held while others run, so that these come to every stage of waiting.
                            std::thread::sleep(std::time::Duration::from_micros(50));
                        }
                        *locked = value + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 40_000);
    }

    #[test]
    fn a_panic_unlocks_it() {
        let lock = Lock::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _locked = lock.lock();
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        assert_eq!(*lock.lock(), 1);
    }
}
