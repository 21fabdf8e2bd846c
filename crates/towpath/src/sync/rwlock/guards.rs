//! Who has the lock.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{LockResult, PoisonError};

use super::RwLock;
use super::raw::{Access, RawRwLock};
use crate::sync::poison::Taken;

/// The lock, held for reading until this is dropped.
#[must_use = "if unused the RwLock will immediately unlock"]
pub struct RwLockReadGuard<'a, T: ?Sized + 'a> {
    /// Not a reference, which would have to be good until the end of a function that takes the guard and drops it. Not
    /// `Send`, as `std`'s guard.
    value: NonNull<T>,
    lock: &'a RawRwLock,
}

// SAFETY: sharing it shares `&T`.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}

/// The lock, held for writing until this is dropped.
#[must_use = "if unused the RwLock will immediately unlock"]
pub struct RwLockWriteGuard<'a, T: ?Sized + 'a> {
    lock: &'a RwLock<T>,
    taken: Taken,
    /// Not `Send`, as `std`'s.
    _thread: PhantomData<*const ()>,
}

// SAFETY: sharing it shares `&T`.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<'a, T: ?Sized> RwLockReadGuard<'a, T> {
    /// It is locked for reading.
    #[inline]
    pub(crate) fn new(lock: &'a RwLock<T>) -> LockResult<RwLockReadGuard<'a, T>> {
        // SAFETY: a cell's place is not null.
        let value = unsafe { NonNull::new_unchecked(lock.value.get()) };
        let guard = RwLockReadGuard { value, lock: &lock.raw };
        if lock.poison.get() { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }
}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// It is locked for writing.
    #[inline]
    pub(crate) fn new(lock: &'a RwLock<T>) -> LockResult<RwLockWriteGuard<'a, T>> {
        lock.poison.guard(|taken| RwLockWriteGuard { lock, taken, _thread: PhantomData })
    }

    /// Goes on reading what was written: nobody else writes in between. Those who wait to read are let in.
    ///
    /// ```
    /// use towpath::sync::{RwLock, RwLockWriteGuard};
    ///
    /// let lock = RwLock::new(1);
    /// let mut writer = lock.write().unwrap();
    /// *writer = 2;
    /// let reader = RwLockWriteGuard::downgrade(writer);
    /// assert_eq!((*reader, *lock.read().unwrap()), (2, 2));
    /// ```
    pub fn downgrade(s: Self) -> RwLockReadGuard<'a, T> {
        let lock = s.lock;
        mem::forget(s);
        let (Ok(guard) | Err(guard)) = RwLockReadGuard::new(lock).map_err(PoisonError::into_inner);
        // SAFETY: the guard that was forgotten had it written.
        unsafe { lock.raw.downgrade() };
        guard
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: locked for reading.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: locked for writing.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: locked for writing, by this guard, which the caller has alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this guard has it locked for reading.
        unsafe { self.lock.unlock(Access::Read) }
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.poison.done(&self.taken);
        // SAFETY: this guard has it locked for writing.
        unsafe { self.lock.raw.unlock(Access::Write) }
    }
}
impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
