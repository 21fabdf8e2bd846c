//! A value that is made once.

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use super::Once;
use crate::std_or_loom::const_fn;
use crate::wait::Limit;

/// A place that is written once, and read by all then, as `std::sync::OnceLock`.
///
/// What makes the value may wait: others who want it meanwhile wait as tasks, and their threads go on with other tasks. If it
/// needs the value itself, it waits for ever.
///
/// ```
/// use towpath::sync::OnceLock;
/// use towpath::thread;
///
/// static CONFIG: OnceLock<String> = OnceLock::new();
///
/// assert_eq!(CONFIG.get(), None);
/// let config = CONFIG.get_or_init(|| {
///     thread::sleep(std::time::Duration::from_millis(1));
///     "loaded".into()
/// });
/// assert_eq!(config, "loaded");
/// assert_eq!(CONFIG.set("else".into()), Err("else".into()));
/// ```
pub struct OnceLock<T> {
    once: Once,
    /// Written when `once` is done, and not while it is shared afterwards.
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the value is shared, and may have been made by another thread than the one that drops it.
unsafe impl<T: Sync + Send> Sync for OnceLock<T> {}
impl<T: RefUnwindSafe + UnwindSafe> RefUnwindSafe for OnceLock<T> {}
impl<T: UnwindSafe> UnwindSafe for OnceLock<T> {}

impl<T> OnceLock<T> {
    const_fn! {
        /// Without a value.
        #[inline]
        #[must_use]
        pub const fn new() -> OnceLock<T> {
            OnceLock { once: Once::new(), value: UnsafeCell::new(None) }
        }
    }

    /// The value, if it is there. Does not wait.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        if !self.once.is_completed() {
            return None;
        }
        // SAFETY: done, and so not written while it is shared.
        unsafe { &*self.value.get() }.as_ref()
    }

    /// The value, if it is there.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.value.get_mut().as_mut()
    }

    /// Waits for the value, which somebody else makes. Not cancellable: see [`wait_timeout`](OnceLock::wait_timeout) for what
    /// is.
    pub fn wait(&self) -> &T {
        self.once.wait_force();
        self.made()
    }

    /// As [`wait`](OnceLock::wait), at most for `limit`.
    ///
    /// # Errors
    /// If the task is cancelled; `TimedOut`.
    pub fn wait_timeout(&self, limit: Duration) -> io::Result<&T> {
        self.once.wait_within(Limit::after(limit), true)?;
        Ok(self.made())
    }

    /// As [`wait`](OnceLock::wait), as a future. Cancel-safe: dropped, it leaves nothing behind.
    pub async fn wait_async(&self) -> &T {
        self.once.until_done(true).await;
        self.made()
    }

    /// Puts a value in. May have to wait for somebody who is making one; in the end there is one.
    ///
    /// # Errors
    /// With the value, if another is there.
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        self.get_or_init(|| value.take().expect("called once"));
        value.map_or(Ok(()), Err)
    }

    /// The value, made by `f` if there is none. Of several that come at once, one makes it and the others wait for it; not
    /// cancellable.
    ///
    /// # Panics
    /// If `f` does. There is no value then, and the next may make one.
    #[inline]
    pub fn get_or_init<F: FnOnce() -> T>(&self, f: F) -> &T {
        match self.get() {
            Some(value) => value,
            None => self.make(f),
        }
    }

    #[cold]
    fn make<F: FnOnce() -> T>(&self, f: F) -> &T {
        self.once.call_once_force(|_| {
            let value = f();
            // SAFETY: whoever does it is the only one, and nobody looks before it is done.
            unsafe { *self.value.get() = Some(value) };
        });
        self.made()
    }

    /// The value, which is there.
    fn made(&self) -> &T {
        self.get().expect("it has been made")
    }

    /// The value, if there is one.
    #[inline]
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }

    /// Takes the value out, if there is one. There is none then.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        std::mem::take(self).into_inner()
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> OnceLock<T> {
        OnceLock::new()
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> OnceLock<T> {
        let cell = OnceLock::new();
        let _ = cell.set(value);
        cell
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> OnceLock<T> {
        self.get().cloned().map_or_else(OnceLock::new, OnceLock::from)
    }
}

impl<T: PartialEq> PartialEq for OnceLock<T> {
    fn eq(&self, other: &OnceLock<T>) -> bool {
        self.get() == other.get()
    }
}

impl<T: Eq> Eq for OnceLock<T> {}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_tuple("OnceLock");
        match self.get() {
            Some(value) => f.field(value),
            None => f.field(&format_args!("<uninit>")),
        };
        f.finish()
    }
}
