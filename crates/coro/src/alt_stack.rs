//! Alternate signal stacks: where the overflow handler runs, since the stack that overflowed has no room for it.
//!
//! std gives one to the main thread and to the threads it starts. Threads of C, or a `main` in C, have none.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::{self, ManuallyDrop};
use std::ptr;

use crate::guard;
use crate::memory::{Mapping, page_size, round_to_pages};

/// An alternate stack of this crate's making; taken down when its thread ends.
struct AltStack {
    /// Leaked if the stack cannot be taken down.
    mapping: ManuallyDrop<Mapping>,
}

thread_local! {
    /// Whether there is nothing left to do. Without a destructor, unlike the other one, so that looking is one load.
    static ENSURED: Cell<bool> = const { Cell::new(false) };
    /// `None` until checked; then what we had to make, if anything.
    static CHECKED: RefCell<Option<Option<AltStack>>> = const { RefCell::new(None) };
}

/// Sees to it that the calling thread has an alternate signal stack. One thread-local read after the first time.
///
/// # Errors
///
/// What `sigaltstack`, `mmap` and `mprotect` say.
#[inline(always)]
pub(crate) fn ensure() -> io::Result<()> {
    if ENSURED.get() { Ok(()) } else { ensure_cold() }
}

#[cold]
fn ensure_cold() -> io::Result<()> {
    CHECKED
        // A thread that is tearing down its thread-locals keeps what it has.
        .try_with(|checked| match checked.try_borrow_mut() {
            Ok(mut checked) if checked.is_none() => {
                *checked = Some(AltStack::make_if_missing()?);
                ENSURED.set(true);
                Ok(())
            }
            _ => Ok(()),
        })
        .unwrap_or(Ok(()))
}

impl AltStack {
    #[cold]
    fn make_if_missing() -> io::Result<Option<AltStack>> {
        let current = sigaltstack(None)?;
        if current.ss_flags & libc::SS_DISABLE == 0 {
            return Ok(None);
        }
        let page = page_size();
        let size = round_to_pages(minimum_size() + libc::SIGSTKSZ).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping::reserve(page + size)?;
        // SAFETY: the first page of a new mapping; the stack is above it.
        let bottom = unsafe {
            guard::install(mapping.start(), page, guard::Kind::Best)?;
            mapping.start().add(page)
        };
        sigaltstack(Some(&libc::stack_t { ss_sp: bottom.as_ptr().cast(), ss_flags: 0, ss_size: size }))?;
        Ok(Some(AltStack { mapping: ManuallyDrop::new(mapping) }))
    }
}

impl Drop for AltStack {
    fn drop(&mut self) {
        let start = self.mapping.start().as_ptr().addr();
        let Ok(current) = sigaltstack(None) else { return };
        // Somebody may have installed another one since. Ours must be out of use before it is unmapped: if it cannot
        // be (because this very code runs on it), a leak is better than a hole.
        if (start..start + self.mapping.len()).contains(&current.ss_sp.addr()) {
            // macOS looks at the size even when disabling.
            let none =
                libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: libc::SIGSTKSZ };
            if sigaltstack(Some(&none)).is_err() {
                return;
            }
        }
        // SAFETY: `drop` runs once, and nothing uses the field after it.
        unsafe { ManuallyDrop::drop(&mut self.mapping) };
    }
}

/// Bytes the kernel needs at least for a signal frame on this machine.
fn minimum_size() -> usize {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        /// Of the auxiliary vector; wide vector registers have outgrown the constant `MINSIGSTKSZ`.
        const AT_MINSIGSTKSZ: libc::c_ulong = 51;
        // SAFETY: `getauxval` reads a table; unknown entries give 0.
        let told = unsafe { libc::getauxval(AT_MINSIGSTKSZ) } as usize;
        told.max(libc::MINSIGSTKSZ)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    libc::MINSIGSTKSZ
}

/// Sets the calling thread's alternate stack, or only asks; returns the one before.
fn sigaltstack(new: Option<&libc::stack_t>) -> io::Result<libc::stack_t> {
    // SAFETY: an all-zero `stack_t` is valid: a pointer and integers.
    let mut old: libc::stack_t = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both pointers are valid or null. A stack that is set is a mapping that `AltStack` keeps until it has
    // been taken down or the thread is gone.
    if unsafe { libc::sigaltstack(new, &raw mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that std did not start.
    fn on_foreign_thread(f: fn()) {
        extern "C" fn start(f: *mut libc::c_void) -> *mut libc::c_void {
            // SAFETY: `f` is the function pointer passed to `pthread_create` below.
            let f: fn() = unsafe { mem::transmute(f) };
            f();
            ptr::null_mut()
        }
        // SAFETY: plain creation and joining of a thread; `start` does not unwind (a panic in `f` aborts).
        unsafe {
            let mut thread = mem::zeroed();
            assert_eq!(libc::pthread_create(&raw mut thread, ptr::null(), start, f as *mut libc::c_void), 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
        }
    }

    #[test]
    fn foreign_threads_get_one() {
        on_foreign_thread(|| {
            assert_ne!(sigaltstack(None).unwrap().ss_flags & libc::SS_DISABLE, 0, "has one already");
            ensure().unwrap();
            let ours = sigaltstack(None).unwrap();
            assert_eq!(ours.ss_flags & libc::SS_DISABLE, 0);
            assert!(ours.ss_size >= libc::SIGSTKSZ);
            ensure().unwrap();
            assert_eq!(sigaltstack(None).unwrap().ss_sp, ours.ss_sp);
        });
    }

    #[test]
    fn threads_of_std_keep_theirs() {
        let before = sigaltstack(None).unwrap();
        ensure().unwrap();
        assert_eq!(sigaltstack(None).unwrap().ss_sp, before.ss_sp);
    }
}
