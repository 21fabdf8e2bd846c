//! Buffers that a stream of receives fills, one for each piece that arrives.
//!
//! A receive that brings its own buffer keeps it for as long as it waits. Buffers of a pool are taken when there is
//! something to put into them, so a few hundred serve any number of connections that are mostly silent.
//!
//! # Whose a buffer is
//!
//! Each of the pool's buffers is at any moment in one of three hands: in the pool's list of free ones; with the kernel,
//! in a ring registered with an io_uring, from which it picks; or lent, to a [`Chunk`] or a completion that is on its way
//! to be one. Only the holder of a lent buffer reads or writes it. A chunk that is dropped gives it back to whichever of
//! the other two the pool uses at that time.
//!
//! # The ring
//!
//! `struct io_uring_buf_ring`: an array of entries (address, length, number) in memory that both sides see, a power of two
//! of them. We write an entry and then move the tail past it, with release ordering; the kernel takes from a head that
//! only it knows. The kernel takes them in the order in which they were given back, so all that are in the ring are used in
//! turn; that the caches hold them, there are few at first, and more when they run out. The tail lies in the first entry, where that has a field which nobody else uses. As there are as many
//! entries as buffers, it cannot overflow.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use io_uring::types::BufRingEntry;

use crate::buf::{Failed, IoBuf};
use crate::remote::Shared;

/// Buffers for [streams of receives](crate::op::recv_multi), which several streams of one loop may share.
///
/// A handle; clones are the same pool. Its memory lives until the last handle, stream and [`Chunk`] is gone, whether
/// the loop still exists or not (on a ring, also until the next pool is registered, or the ring goes).
///
/// When all buffers are in use, the streams that need one stop receiving, and go on when a chunk is dropped. Nothing is
/// lost meanwhile: what has arrived stays in the sockets.
///
/// ```
/// # use towpath_loop::BufferPool;
/// let small = BufferPool::with_capacity(16, 512)?; // 16 buffers of 512 bytes
/// assert_eq!((small.count(), small.size(), small.free()), (16, 512, 16));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct BufferPool(pub(crate) Rc<Pool>);

impl BufferPool {
    /// 256 buffers of 4 KiB.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new() -> io::Result<BufferPool> {
        BufferPool::with_capacity(256, 4096)
    }

    /// `count` buffers of `size` bytes.
    ///
    /// # Errors
    /// `InvalidInput` where `count` is no power of two or above 32 768, or a size is zero or too large to be addressed;
    /// `OutOfMemory`.
    pub fn with_capacity(count: usize, size: usize) -> io::Result<BufferPool> {
        Pool::new(count, size).map(|pool| BufferPool(Rc::new(pool)))
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        self.0.lent.len()
    }

    /// How many bytes each of them holds: the most that one chunk can have.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// How many buffers are not lent to chunks, delivered or about to be.
    pub fn free(&self) -> usize {
        self.0.available()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("count", &self.count())
            .field("size", &self.size())
            .field("free", &self.free())
            .finish()
    }
}

/// A piece of a stream: bytes in a buffer of a [`BufferPool`], which is given back when this is dropped.
///
/// Can be sent as it is, without being copied: it is an owned buffer ([`IoBuf`]).
pub struct Chunk {
    pool: Rc<Pool>,
    id: u16,
    len: u32,
}

impl Chunk {
    /// The first `len` bytes of the lent buffer `id`.
    pub(crate) fn new(pool: &Rc<Pool>, id: u16, len: usize) -> Chunk {
        debug_assert!(len <= pool.size && pool.lent[usize::from(id)].get());
        Chunk { pool: pool.clone(), id, len: len as u32 }
    }
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is lent to this chunk alone; it was zeroed when it was made, so all of it is initialised.
        unsafe { std::slice::from_raw_parts(self.pool.place(self.id), self.len as usize) }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the chunk is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pool.place(self.id), self.len as usize) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.give_back(self.id);
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chunk").field(&&**self).finish()
    }
}

// SAFETY: the chunk holds its buffer alone, in memory that does not move, and the bytes change only through it.
unsafe impl IoBuf for Chunk {
    type Done = (usize, Chunk);
    type Error = Failed<Chunk>;
    fn bytes(&self) -> (*const u8, usize) {
        (self.as_ptr(), self.len())
    }
    fn done(self, n: usize) -> Self::Done {
        (n, self)
    }
    fn failed(self, n: usize, error: io::Error) -> Self::Error {
        Failed { error, transferred: n, buf: Some(self) }
    }
}

/// The buffers, and whose they are.
pub(crate) struct Pool {
    memory: Memory,
    /// Where in it the first buffer is.
    first: usize,
    size: usize,
    /// From one buffer to the next: not so that all begin where the cache has the same place for them.
    stride: usize,
    /// Which buffers are lent.
    lent: Box<[Cell<bool>]>,
    available: Cell<usize>,
    /// Those to be taken from here: neither lent nor in a ring.
    free: RefCell<Vec<u16>>,
    ring: RefCell<Option<Ring>>,
    /// The loop that uses them.
    home: OnceCell<Weak<Shared>>,
}

/// Where a kernel finds free buffers.
struct Ring {
    entries: Memory,
    tail: u16,
    group: u16,
    /// How many buffers are in it, as far as completions have told.
    filled: usize,
    /// How many buffers are in it or were taken from it.
    used: usize,
}

/// How many buffers are in a ring at first.
const FEW: usize = 16;

impl Pool {
    fn new(count: usize, size: usize) -> io::Result<Pool> {
        const LINE: usize = 64;
        let stride = i32::try_from(size).map_or(0, |_| size.next_multiple_of(LINE) + LINE);
        let total = count.checked_mul(stride).filter(|total| *total > 0 && size > 0);
        // The alignment is by hand: asked for more than its own, the allocator would write the zeros that a fresh mapping
        // has for nothing, and touch all of it.
        let room = total.and_then(|total| total.checked_add(LINE));
        let Some(layout) = room.and_then(|room| Layout::from_size_align(room, 16).ok()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if !count.is_power_of_two() || count > 1 << 15 {
            let why = "the number of buffers must be a power of two, at most 32768";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let memory = Memory::zeroed(layout)?;
        Ok(Pool {
            first: (memory.start.as_ptr() as usize).next_multiple_of(LINE) - memory.start.as_ptr() as usize,
            memory,
            size,
            stride,
            lent: vec![Cell::new(false); count].into(),
            available: Cell::new(count),
            // The lowest first, so that a pool with little to do stays within little memory.
            free: RefCell::new((0..count as u16).rev().collect()),
            ring: RefCell::new(None),
            home: OnceCell::new(),
        })
    }

    /// Makes this the pool of one loop, for ever. False if it is another one's.
    pub(crate) fn belongs_to(&self, shared: &Arc<Shared>) -> bool {
        std::ptr::eq(self.home.get_or_init(|| Arc::downgrade(shared)).as_ptr(), Arc::as_ptr(shared))
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn available(&self) -> usize {
        self.available.get()
    }

    /// Where a buffer is.
    pub(crate) fn place(&self, id: u16) -> *mut u8 {
        assert!(usize::from(id) < self.lent.len());
        // SAFETY: the allocation has room for as many buffers at this distance, from the first on, and `id` is one of them.
        unsafe { self.memory.start.as_ptr().add(self.first + usize::from(id) * self.stride) }
    }

    /// Lends a buffer; `None` if there is none that the kernel does not have.
    pub(crate) fn take(&self) -> Option<u16> {
        let id = self.free.borrow_mut().pop()?;
        self.lend(id);
        Some(id)
    }

    /// Whether the kernel may have taken this buffer out of the ring: there is such a one, and it is nobody's.
    pub(crate) fn is_in_ring(&self, id: u16) -> bool {
        let filled = self.ring.borrow().as_ref().is_some_and(|ring| ring.filled > 0);
        filled && self.lent.get(usize::from(id)).is_some_and(|lent| !lent.get())
    }

    /// The kernel has taken this buffer out of the ring: lends it.
    pub(crate) fn picked(&self, id: u16) {
        if let Some(ring) = &mut *self.ring.borrow_mut() {
            ring.filled -= 1;
        }
        self.lend(id);
    }

    fn lend(&self, id: u16) {
        let was_lent = self.lent[usize::from(id)].replace(true);
        debug_assert!(!was_lent, "buffer {id} is lent twice");
        self.available.set(self.available.get() - 1);
    }

    /// A buffer is lent no more.
    pub(crate) fn give_back(&self, id: u16) {
        let was_lent = self.lent[usize::from(id)].replace(false);
        debug_assert!(was_lent, "buffer {id} was not lent");
        self.available.set(self.available.get() + 1);
        match &mut *self.ring.borrow_mut() {
            Some(ring) => self.provide(ring, id),
            None => self.free.borrow_mut().push(id),
        }
    }

    /// The group that a ring knows the buffers by.
    pub(crate) fn group(&self) -> Option<u16> {
        self.ring.borrow().as_ref().map(|ring| ring.group)
    }

    /// Puts the free buffers into a ring; `register` is told where it is and how many entries it has.
    ///
    /// # Errors
    /// As `register`; then everything is as it was.
    pub(crate) fn register(
        &self,
        group: u16,
        register: impl FnOnce(u64, u16) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = self.lent.len();
        let layout = Layout::array::<BufRingEntry>(count)
            .and_then(|layout| layout.align_to(rustix::param::page_size()))
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        let entries = Memory::zeroed(layout)?;
        register(entries.start.as_ptr() as u64, count as u16)?;
        *self.ring.borrow_mut() = Some(Ring { entries, tail: 0, group, filled: 0, used: 0 });
        self.fill();
        Ok(())
    }

    /// The kernel has found the ring empty: puts more buffers in, if there are any, so that it has twice as many from now
    /// on.
    pub(crate) fn fill(&self) {
        let (mut ring, mut free) = (self.ring.borrow_mut(), self.free.borrow_mut());
        let Some(ring) = &mut *ring else { return };
        if ring.filled == 0 {
            let more = ring.used.max(FEW).min(free.len());
            ring.used += more;
            let rest = free.len() - more;
            for id in free.drain(rest..).rev() {
                self.provide(ring, id);
            }
        }
    }

    /// Takes the buffers that are not lent back from the ring, after the kernel has let go of it.
    pub(crate) fn withdraw(&self) {
        if self.ring.take().is_some() {
            let free = (0..self.lent.len() as u16).rev().filter(|id| !self.lent[usize::from(*id)].get());
            *self.free.borrow_mut() = free.collect();
        }
    }

    fn provide(&self, ring: &mut Ring, id: u16) {
        let start = ring.entries.start.as_ptr().cast::<BufRingEntry>();
        let at = usize::from(ring.tail) & (self.lent.len() - 1);
        ring.tail = ring.tail.wrapping_add(1);
        ring.filled += 1;
        // SAFETY: the entry is within the allocation. It was handed to the kernel at most once a round before, and taken
        // since: there are never more buffers free than entries. So it is ours; the fields that are set are not the one
        // in which the tail lies. The tail is a 16-bit word that both sides access atomically.
        unsafe {
            let entry = &mut *start.add(at);
            entry.set_addr(self.place(id) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
            AtomicU16::from_ptr(BufRingEntry::tail(start).cast_mut()).store(ring.tail, Ordering::Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Whoever registered it holds a handle until it is withdrawn.
        debug_assert!(self.ring.get_mut().is_none());
    }
}

/// An allocation.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn zeroed(layout: Layout) -> io::Result<Memory> {
        debug_assert!(layout.size() > 0);
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { start, layout })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and this is its only owner.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sizes_are_refused() {
        for (count, size) in [(0, 16), (3, 16), (1 << 16, 16), (16, 0), (16, usize::MAX), (2, 1 << 31)] {
            let error = BufferPool::with_capacity(count, size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{count} × {size}");
        }
    }

    #[test]
    fn buffers_are_lent_once_and_come_back_wherever_they_belong() {
        let pool = BufferPool::with_capacity(4, 8).unwrap().0;
        let ids: Vec<u16> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((ids.len(), pool.available()), (4, 0));
        pool.give_back(ids[1]);
        assert_eq!(pool.take(), Some(ids[1]));
        pool.give_back(ids[0]);
        pool.give_back(ids[1]);

        pool.register(7, |start, entries| {
            assert_eq!((start as usize % rustix::param::page_size(), entries), (0, 4));
            Ok(())
        })
        .unwrap();
        assert_eq!(
            (pool.group(), pool.take(), pool.available()),
            (Some(7), None, 2),
            "the kernel has the free ones"
        );
        let tail = |pool: &Pool| {
            let ring = pool.ring.borrow();
            let start = ring.as_ref().unwrap().entries.start.as_ptr().cast::<BufRingEntry>();
            // SAFETY: the ring's first entry.
            unsafe { *BufRingEntry::tail(start) }
        };
        assert_eq!(tail(&pool), 2);
        pool.give_back(ids[2]);
        pool.picked(ids[0]);
        pool.give_back(ids[0]);
        assert_eq!((tail(&pool), pool.available()), (4, 3));

        pool.withdraw();
        let mut left: Vec<u16> = std::iter::from_fn(|| pool.take()).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2, 3].into_iter().filter(|id| *id != ids[3]).collect::<Vec<_>>());
    }

    #[test]
    fn a_ring_has_few_buffers_until_they_run_out() {
        let pool = BufferPool::with_capacity(64, 8).unwrap().0;
        pool.register(0, |_, _| Ok(())).unwrap();
        let filled = |pool: &Pool| pool.ring.borrow().as_ref().unwrap().filled;
        assert_eq!(filled(&pool), 16);
        let fill = |pool: &Pool| {
            pool.fill();
            filled(pool)
        };
        assert_eq!(fill(&pool), 16, "it is not empty");
        (0..16).for_each(|id| pool.picked(id));
        assert_eq!(fill(&pool), 16);
        (16..32).for_each(|id| pool.picked(id));
        assert_eq!(fill(&pool), 32);
        (32..64).for_each(|id| pool.picked(id));
        assert_eq!((fill(&pool), pool.available()), (0, 0));
        pool.give_back(5);
        assert_eq!(fill(&pool), 1);
        pool.withdraw();
        (0..64).filter(|id| *id != 5).for_each(|id| pool.give_back(id));
        assert_eq!(std::iter::from_fn(|| pool.take()).count(), 64);
    }

    #[test]
    fn a_ring_that_is_refused_changes_nothing() {
        let pool = BufferPool::with_capacity(2, 8).unwrap().0;
        let refused = pool.register(0, |_, _| Err(io::ErrorKind::Unsupported.into()));
        assert!(refused.is_err() && pool.group().is_none());
        assert!(pool.take().is_some() && pool.take().is_some());
    }

    #[test]
    fn a_chunk_outlives_the_pools_handle() {
        let pool = BufferPool::with_capacity(1, 8).unwrap();
        let id = pool.0.take().unwrap();
        let mut chunk = Chunk::new(&pool.0, id, 5);
        drop(pool);
        chunk.copy_from_slice(b"hello");
        assert_eq!((&*chunk, chunk.bytes().1), (&b"hello"[..], 5));
    }
}
