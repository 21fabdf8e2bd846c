//! Asking the processor for memory that is needed soon. With thousands of operations in flight most of what a completion
//! touches has long left the caches, and the time it takes to come back is most of what a runtime adds to the kernel's.

/// A cache line, on nearly every processor.
const LINE: usize = 64;

/// Asks for `lines` cache lines from `address` on. Any address will do: this never faults.
#[doc(hidden)]
#[inline(always)]
pub fn prefetch(address: *const u8, lines: usize) {
    for line in 0..lines {
        let address = address.wrapping_add(line * LINE);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction is a hint; every x86-64 has it, and it does not fault.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        // Elsewhere the intrinsic is not stable.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }
}
