//! The few memory calls a stack needs: reserve, give pages back, ask which pages are there.
//!
//! Everything else in the crate does arithmetic on addresses; only this file and [`guard`](crate::guard) ask the
//! kernel to change a mapping.

use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The size of a page, in bytes: a power of two.
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

/// Rounds `bytes` up to whole pages; `None` when that overflows.
pub(crate) fn round_to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(page_size())
}

/// Reserved, readable and writable address space, unmapped when dropped.
///
/// Nothing is resident until it is touched. It is mapped read-write at once, rather than opened up page by page,
/// because a system call that is handed a pointer into an inaccessible page fails with `EFAULT` instead of taking
/// the page fault that would open it.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is a range of addresses of the process, not of a thread; `Mapping` never reads or writes what is
// in it, and unmapping takes `&mut self` (`Drop`).
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` only gives out the two numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `len` bytes, a multiple of the page size.
    ///
    /// Fails with the kernel's error: `ENOMEM` under `RLIMIT_AS`, at `vm.max_map_count`, or under strict overcommit.
    pub(crate) fn reserve(len: usize) -> io::Result<Mapping> {
        let flags = MapFlags::PRIVATE;
        // NORESERVE: a stack's size is a limit, not a plan; hardly any of it is ever touched.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let flags = flags | MapFlags::NORESERVE | MapFlags::STACK;
        // OpenBSD kills a process whose stack pointer is outside MAP_STACK memory. (FreeBSD's flag of that name means
        // "grow by itself", which is not wanted.)
        #[cfg(target_os = "openbsd")]
        let flags = flags | MapFlags::STACK;

        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice overlaps nothing.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let start = NonNull::new(start.cast::<u8>()).expect("mmap returned a null mapping");
        let mapping = Mapping { start, len };

        // A huge page under a stack would cost 2 MiB for the one page that is used. Not every kernel has huge pages
        // to refuse, so a failure means there is nothing to do.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // SAFETY: the range is the mapping just made; the advice changes no contents.
        unsafe {
            libc::madvise(start.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE);
        }
        Ok(mapping)
    }

    /// The lowest address, page-aligned.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are exactly what `reserve` mapped, nobody else unmaps it, and the owner of a
        // `Mapping` (a slab) drops it only after the last stack in it is gone.
        let result = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        // Splitting a merged mapping can fail at `vm.max_map_count`. Address space is then lost, nothing else.
        debug_assert!(result.is_ok(), "munmap failed: {result:?}");
    }
}

/// Gives the physical pages of `[start, start + len)` back to the kernel; they read as zero when touched again.
///
/// Best effort: locked memory (`mlockall`) stays where it is.
///
/// # Safety
///
/// The range must be whole pages of one [`Mapping`] whose contents nobody needs any more.
pub(crate) unsafe fn discard(start: NonNull<u8>, len: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const ADVICE: libc::c_int = libc::MADV_DONTNEED;
    // Elsewhere DONTNEED keeps the contents and so the memory.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const ADVICE: libc::c_int = libc::MADV_FREE;
    // SAFETY: the caller promises that the range is ours and its contents are dead.
    unsafe {
        libc::madvise(start.as_ptr().cast(), len, ADVICE);
    }
}

/// What part of a range is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residency {
    /// Distance from the lowest resident page to the end of the range, in bytes; 0 when nothing is resident.
    pub(crate) high_water: usize,
    /// Bytes in resident pages.
    pub(crate) resident: usize,
}

/// Asks the kernel which pages of `[start, start + len)` are resident. Neither reads nor touches the memory, so that
/// it may be in use by anybody.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn residency(start: NonNull<u8>, len: usize) -> Residency {
    let page = page_size();
    let mut found = Residency::default();
    let mut state = [0_u8; 512];
    let mut offset = 0;
    while offset < len {
        let chunk = (len - offset).min(state.len() * page);
        // SAFETY: `mincore` writes one byte a page, and `chunk` is at most `state.len()` pages; it accepts any
        // address and reports those that are not mapped as an error.
        let failed =
            unsafe { libc::mincore(start.as_ptr().wrapping_add(offset).cast(), chunk, state.as_mut_ptr()) }
                != 0;
        if failed {
            return found;
        }
        for (index, _) in state[..chunk.div_ceil(page)].iter().enumerate().filter(|(_, s)| **s & 1 != 0) {
            if found.resident == 0 {
                found.high_water = len - offset - index * page;
            }
            found.resident += page;
        }
        offset += chunk;
    }
    found
}

/// Nothing is known about residency here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn residency(_start: NonNull<u8>, _len: usize) -> Residency {
    Residency::default()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn residency_follows_what_is_touched_and_discarded() {
        let page = page_size();
        let mapping = Mapping::reserve(1024 * page).unwrap();
        assert_eq!(residency(mapping.start(), mapping.len()), Residency::default());

        // Far enough down that more than one `mincore` call is needed.
        for index in [100, 1023] {
            // SAFETY: both pages lie inside the mapping, which only this test uses.
            unsafe { mapping.start().add(index * page).write_volatile(1) };
        }
        let touched = residency(mapping.start(), mapping.len());
        assert_eq!(touched, Residency { high_water: 924 * page, resident: 2 * page });

        // SAFETY: whole pages of our own mapping, whose contents do not matter.
        unsafe { discard(mapping.start(), mapping.len()) };
        assert_eq!(residency(mapping.start(), mapping.len()), Residency::default());
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn an_impossible_reservation_is_an_error() {
        let error = Mapping::reserve(1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    }
}
