//! Guards: the inaccessible pages below a stack that turn an overflow into a fault.
//!
//! Two mechanisms. `MADV_GUARD_INSTALL` (Linux 6.13) marks page-table entries, so that a slab with thousands of guards
//! stays one mapping. Without it, `mprotect(PROT_NONE)` does the same, but splits the mapping in three, and a process
//! may have only `vm.max_map_count` of them: some 32 000 stacks by default.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{MprotectFlags, mprotect};

/// `MADV_GUARD_INSTALL`, younger than the `libc` crate's list.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// How to make a guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Page-table markers where the kernel has them, `mprotect` elsewhere.
    #[default]
    Best,
    /// `mprotect` in any case.
    Mprotect,
}

/// Makes `[start, start + len)` fault on any access, until it is unmapped.
///
/// # Errors
///
/// `ENOMEM` when `mprotect` is needed and the process has no mapping left. The pages are as they were.
///
/// # Safety
///
/// The range must be whole pages of one [`Mapping`](crate::memory::Mapping), unused by anybody.
pub(crate) unsafe fn install(start: NonNull<u8>, len: usize, kind: Kind) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if kind == Kind::Best {
        // SAFETY: passed on from the caller.
        if unsafe { markers::install(start, len) } {
            return Ok(());
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = kind;
    // SAFETY: passed on from the caller; the pages hold nothing that anybody could miss.
    unsafe { mprotect(start.as_ptr().cast(), len, MprotectFlags::empty())? };
    Ok(())
}

/// Guards as page-table markers.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod markers {
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Set once the kernel has refused. `Relaxed`, for it only saves a system call that would fail again.
    static REFUSED: AtomicBool = AtomicBool::new(false);

    /// Whether the guard is in place; `false` leaves it to `mprotect`.
    ///
    /// # Safety
    ///
    /// As [`install`](super::install).
    pub(super) unsafe fn install(start: NonNull<u8>, len: usize) -> bool {
        if REFUSED.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: the range is whole pages of an anonymous private mapping of ours whose contents nobody needs
        // (the caller's promise); kernels that do not know the advice change nothing.
        if unsafe { libc::madvise(start.as_ptr().cast(), len, super::MADV_GUARD_INSTALL) } == 0 {
            return true;
        }
        // EINVAL: an older kernel, or locked memory (`mlockall`), which stays so. Anything else may pass.
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            REFUSED.store(true, Ordering::Relaxed);
        }
        false
    }
}
