//! Memory of tasks that are gone, kept for the next ones.
//!
//! Spawning is allocating and freeing blocks of few sizes, often thousands before the first comes back, which is more
//! than an allocator keeps at hand. And a task that was stolen is freed where it ran, while whoever spawned it goes on
//! allocating; by way of an allocator that costs both a lock that the other one wants. So a worker has two batches
//! of blocks of each size, and what does not fit goes, a whole batch at a time, to a depot that the workers share:
//!
//! ```text
//!   give ──► ┌─────────┐ full ► ┌───────┐ full ► ┌───────────────────────┐
//!            │ current │        │ spare │        │ depot: batches, and a │
//!   take ◄── └─────────┘ ◄ empty└───────┘ ◄ empty│ lock                  │ ◄─► allocator, beyond a limit
//!                                                └───────────────────────┘
//! ```

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

use crate::std_or_loom::{Lock, lock};

/// Sizes are rounded up to a multiple of this.
const STEP: usize = 16;
/// Larger blocks are left to the allocator.
const CLASSES: usize = 64;
/// So many blocks travel together.
const BATCH: usize = 64;
/// Bytes in the depot, at most, for each worker.
const KEPT_MAX: usize = 4 << 20;

/// A free block, in itself.
struct Free {
    next: *mut Free,
    /// In the first block of a batch that is in the depot.
    next_batch: *mut Free,
}

const _: () = assert!(size_of::<Free>() <= STEP);

/// The size of the blocks of a class.
fn size(class: usize) -> usize {
    (class + 1) * STEP
}

/// Gives the allocator a chain of blocks.
///
/// # Safety
/// They are nobody else's, and of that class.
unsafe fn free_all(class: usize, mut block: *mut Free) {
    let layout = Layout::from_size_align(size(class), STEP).expect("made before");
    while !block.is_null() {
        // SAFETY: the caller's promise; `fresh` made it with this layout.
        unsafe {
            let next = (*block).next;
            dealloc(block.cast(), layout);
            block = next;
        }
    }
}

/// What the workers of a runtime have left over.
pub(crate) struct Depot {
    max: usize,
    /// Full batches, each naming the next. They belong to the lock; whether there is one is looked at without it.
    batches: [AtomicPtr<Free>; CLASSES],
    /// The bytes that they are.
    kept: Lock<usize>,
}

impl Depot {
    pub(crate) fn new(workers: usize) -> Depot {
        let batches = [const { AtomicPtr::new(ptr::null_mut()) }; CLASSES];
        Depot { max: workers * KEPT_MAX, batches, kept: Lock::new(0) }
    }

    /// A batch; null if there is none.
    fn take(&self, class: usize) -> *mut Free {
        let shelf = &self.batches[class];
        if shelf.load(Relaxed).is_null() {
            return ptr::null_mut();
        }
        let mut kept = lock(&self.kept);
        let batch = shelf.load(Relaxed);
        if !batch.is_null() {
            // SAFETY: a batch that is here is nobody else's, and its first block names the next.
            shelf.store(unsafe { (*batch).next_batch }, Relaxed);
            *kept -= BATCH * size(class);
        }
        batch
    }

    /// # Safety
    /// It is a full batch of that class, and nobody else's.
    unsafe fn give(&self, class: usize, batch: *mut Free) {
        let mut kept = lock(&self.kept);
        if *kept + BATCH * size(class) > self.max {
            drop(kept);
            // SAFETY: passed on to the caller.
            return unsafe { free_all(class, batch) };
        }
        let shelf = &self.batches[class];
        // SAFETY: the caller's promise.
        unsafe { (*batch).next_batch = shelf.load(Relaxed) };
        shelf.store(batch, Relaxed);
        *kept += BATCH * size(class);
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        for class in 0..CLASSES {
            loop {
                match self.take(class) {
                    batch if batch.is_null() => break,
                    // SAFETY: it was in the depot.
                    batch => unsafe { free_all(class, batch) },
                }
            }
        }
    }
}

/// A worker's blocks of one size.
struct Blocks {
    current: Cell<*mut Free>,
    len: Cell<usize>,
    /// Null, or a full batch.
    spare: Cell<*mut Free>,
}

/// One worker's free blocks.
pub(crate) struct Cells {
    /// By size: multiples of [`STEP`].
    blocks: [Blocks; CLASSES],
    depot: Arc<Depot>,
}

impl Cells {
    pub(crate) fn new(depot: Arc<Depot>) -> Cells {
        let none = || Cell::new(ptr::null_mut());
        let blocks = [(); CLASSES].map(|()| Blocks { current: none(), len: Cell::new(0), spare: none() });
        Cells { blocks, depot }
    }

    #[inline]
    fn pop(&self, class: usize) -> Option<NonNull<u8>> {
        let blocks = &self.blocks[class];
        if blocks.len.get() == 0 {
            self.refill(class);
        }
        let block = NonNull::new(blocks.current.get())?;
        // SAFETY: a free block holds a `Free`, and this one is ours now.
        blocks.current.set(unsafe { block.as_ref().next });
        blocks.len.set(blocks.len.get() - 1);
        Some(block.cast())
    }

    #[cold]
    fn refill(&self, class: usize) {
        let blocks = &self.blocks[class];
        let mut batch = blocks.spare.replace(ptr::null_mut());
        if batch.is_null() {
            batch = self.depot.take(class);
        }
        blocks.current.set(batch);
        blocks.len.set(if batch.is_null() { 0 } else { BATCH });
    }

    /// # Safety
    /// It is a block of that class, and nobody uses it any more.
    #[inline]
    unsafe fn push(&self, class: usize, block: NonNull<Free>) {
        let blocks = &self.blocks[class];
        if blocks.len.get() == BATCH {
            self.make_room(class);
        }
        // SAFETY: the block is nobody's, and large enough.
        unsafe { block.write(Free { next: blocks.current.get(), next_batch: ptr::null_mut() }) };
        blocks.current.set(block.as_ptr());
        blocks.len.set(blocks.len.get() + 1);
    }

    #[cold]
    fn make_room(&self, class: usize) {
        let blocks = &self.blocks[class];
        let full = blocks.spare.replace(blocks.current.replace(ptr::null_mut()));
        blocks.len.set(0);
        if !full.is_null() {
            // SAFETY: the spare batch is a full one, and was this worker's alone.
            unsafe { self.depot.give(class, full) };
        }
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        for (class, blocks) in self.blocks.iter().enumerate() {
            for chain in [&blocks.current, &blocks.spare] {
                // SAFETY: this worker's own.
                unsafe { free_all(class, chain.get()) };
            }
        }
    }
}

/// Which list a block of this layout belongs to, and the layout that it really has.
#[inline]
fn class(layout: Layout) -> Option<(usize, Layout)> {
    let class = layout.size().div_ceil(STEP);
    if layout.align() > 16 || class == 0 || class > CLASSES {
        return None;
    }
    Some((class - 1, Layout::from_size_align(class * STEP, 16).ok()?))
}

/// A block from the allocator.
fn fresh(layout: Layout) -> NonNull<u8> {
    let layout = class(layout).map_or(layout, |(_, layout)| layout);
    // SAFETY: a task's header has a size.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// A block for a task: one of `cells`, if the caller is on a worker and that has one.
///
/// # Panics
/// As every allocation: aborts if there is no memory.
#[inline]
pub(crate) fn take(cells: Option<&Cells>, layout: Layout) -> NonNull<u8> {
    match (cells, class(layout)) {
        (Some(cells), Some((class, layout))) => cells.pop(class).unwrap_or_else(|| fresh(layout)),
        _ => fresh(layout),
    }
}

/// Gives a block back.
///
/// # Safety
/// It came from [`take`] with the same layout (with whatever `cells`), and nobody uses it any more.
#[inline]
pub(crate) unsafe fn give(cells: Option<&Cells>, block: NonNull<u8>, layout: Layout) {
    let Some((class, layout)) = class(layout) else {
        // SAFETY: the caller's promise; without a class it has just this layout.
        return unsafe { dealloc(block.as_ptr(), layout) };
    };
    match cells {
        // SAFETY: the caller's promise.
        Some(cells) => unsafe { cells.push(class, block.cast()) },
        // SAFETY: the caller's promise; `fresh` made it with this layout.
        None => unsafe { dealloc(block.as_ptr(), layout) },
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    fn cells(workers: usize) -> Vec<Cells> {
        let depot = Arc::new(Depot::new(workers));
        (0..workers).map(|_| Cells::new(depot.clone())).collect()
    }

    fn kept(cells: &Cells) -> usize {
        *lock(&cells.depot.kept)
    }

    #[test]
    fn blocks_come_back_by_size() {
        let cells = &cells(1)[0];
        let (small, large, huge, aligned) =
            (layout(100, 8), layout(300, 8), layout(5000, 8), layout(100, 128));
        let blocks = [small, large, huge, aligned].map(|layout| take(Some(cells), layout));
        for (block, layout) in blocks.iter().zip([small, large, huge, aligned]) {
            assert!(block.as_ptr().addr().is_multiple_of(layout.align()));
            // SAFETY: taken above.
            unsafe { give(Some(cells), *block, layout) };
        }
        let lens: Vec<_> = cells.blocks.iter().map(|blocks| blocks.len.get()).collect();
        assert_eq!(lens.iter().sum::<usize>(), 2, "the huge and the aligned one went back to the allocator");
        assert_eq!(take(Some(cells), layout(97, 16)), blocks[0], "of the same class");
        assert_eq!(take(Some(cells), layout(304, 1)), blocks[1]);
        for (block, layout) in [(blocks[0], small), (blocks[1], large)] {
            // SAFETY: as above.
            unsafe { give(None, block, layout) };
        }
    }

    #[test]
    fn what_one_worker_frees_another_one_takes_and_there_is_a_limit() {
        let size = layout(304, 16);
        let [here, there] = &cells(2)[..] else { unreachable!() };
        // Two batches stay where they are; the third and the fourth come when there is no room for them.
        let blocks: Vec<_> = (0..4 * BATCH).map(|_| take(Some(here), size)).collect();
        for block in &blocks {
            // SAFETY: taken above.
            unsafe { give(Some(there), *block, size) };
        }
        assert_eq!(kept(here), 2 * BATCH * 304);
        let mut again: Vec<_> = (0..2 * BATCH).map(|_| take(Some(here), size)).collect();
        assert!(again.iter().all(|block| blocks.contains(block)));
        assert_eq!(kept(here), 0);
        again.extend((0..2 * BATCH).map(|_| take(Some(there), size)));
        again.sort();
        again.dedup();
        assert_eq!(again.len(), 4 * BATCH, "each of them once");

        again.extend((0..4 * KEPT_MAX / 304).map(|_| take(Some(here), size)));
        for block in again {
            // SAFETY: taken above.
            unsafe { give(Some(there), block, size) };
        }
        assert!(kept(here) <= 2 * KEPT_MAX && kept(here) > 2 * KEPT_MAX - 304 * BATCH);
    }
}
