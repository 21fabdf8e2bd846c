//! A ring of buffers from which the kernel picks one for each receive.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::protocol::BUFFER;

/// The one group of buffers.
pub const GROUP: u16 = 0;

/// Beside the bytes, a buffer has room for what comes with a datagram; and one that does not begin where the cache has
/// all the others.
const SIZE: usize = BUFFER + 320;

/// The buffers. They and the ring stay for good: the kernel may have hold of them.
pub struct Buffers {
    ring: *mut BufRingEntry,
    bytes: *mut u8,
    mask: u16,
    tail: u16,
    /// How many are in use at all: those are, one after the other, so the fewer the better for the cache.
    used: u16,
    /// How many of these the kernel has.
    free: u16,
}

impl Buffers {
    /// Registers up to `most` buffers, a power of two.
    pub fn register(submitter: &Submitter<'_>, most: u16) -> io::Result<Buffers> {
        let len = usize::from(most);
        let layout = Layout::array::<BufRingEntry>(len).and_then(|layout| layout.align_to(4096));
        let layout = layout.expect("a ring of some KiB");
        // SAFETY: the size is not zero.
        let ring = unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>();
        if ring.is_null() {
            handle_alloc_error(layout);
        }
        let bytes = vec![0; len * SIZE].leak().as_mut_ptr();
        // SAFETY: the ring has so many entries, on pages of its own, and is never freed.
        unsafe { submitter.register_buf_ring_with_flags(ring as u64, most, GROUP, 0) }?;
        let mut buffers = Buffers { ring, bytes, mask: most - 1, tail: 0, used: 0, free: 0 };
        buffers.grow();
        Ok(buffers)
    }

    /// There were too few: twice as many from now on, within the limit.
    pub fn grow(&mut self) {
        let before = self.used;
        self.used = (2 * before).clamp(16, self.mask + 1);
        (before..self.used).for_each(|id| self.give(id));
    }

    /// Whether the kernel has any.
    pub fn any(&self) -> bool {
        self.free > 0
    }

    /// The bytes that a completion has brought in this buffer, which is the caller's until it gives it back.
    pub fn take(&mut self, id: u16, len: usize) -> *mut [u8] {
        self.free -= 1;
        assert!(id <= self.mask && len <= SIZE);
        // SAFETY: there are `mask + 1` buffers.
        let start = unsafe { self.bytes.add(usize::from(id) * SIZE) };
        std::ptr::slice_from_raw_parts_mut(start, len)
    }

    /// Gives a buffer back to the kernel.
    pub fn give(&mut self, id: u16) {
        self.free += 1;
        // SAFETY: the indices are masked to what was allocated, and the kernel reads an entry only once the tail is
        // past it.
        unsafe {
            let entry = &mut *self.ring.add(usize::from(self.tail & self.mask));
            entry.set_addr(self.bytes.add(usize::from(id) * SIZE) as u64);
            entry.set_len(SIZE as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(self.ring).cast_mut()).store(self.tail, Ordering::Release);
        }
    }
}
