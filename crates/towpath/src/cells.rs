//! Memory of tasks that are gone, kept by their worker for the next ones.
//!
//! Spawning is allocating and freeing blocks of few sizes, often thousands before the first comes back, which is more
//! than an allocator keeps at hand.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Sizes are rounded up to a multiple of this.
const STEP: usize = 16;
/// Larger blocks are left to the allocator.
const CLASSES: usize = 64;
/// Bytes that a worker keeps at most.
const KEPT_MAX: usize = 4 << 20;

/// A free block, in itself.
struct Free {
    next: *mut Free,
}

/// One worker's free blocks.
pub(crate) struct Cells {
    /// By size: multiples of [`STEP`].
    free: [Cell<Option<NonNull<Free>>>; CLASSES],
    kept: Cell<usize>,
}

impl Default for Cells {
    fn default() -> Cells {
        Cells { free: [const { Cell::new(None) }; CLASSES], kept: Cell::new(0) }
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
    if let Some(cells) = cells
        && let Some((class, layout)) = class(layout)
        && let Some(block) = cells.free[class].get()
    {
        // SAFETY: a free block holds a `Free`, and this one is ours now.
        cells.free[class].set(NonNull::new(unsafe { block.as_ref().next }));
        cells.kept.set(cells.kept.get() - layout.size());
        return block.cast();
    }
    fresh(layout)
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
        Some(cells) if cells.kept.get() + layout.size() <= KEPT_MAX => {
            let next = cells.free[class].get().map_or(ptr::null_mut(), NonNull::as_ptr);
            let block = block.cast::<Free>();
            // SAFETY: the block is nobody's, and larger than a `Free`.
            unsafe { block.write(Free { next }) };
            cells.free[class].set(Some(block));
            cells.kept.set(cells.kept.get() + layout.size());
        }
        // SAFETY: the caller's promise; `fresh` made it with this layout.
        _ => unsafe { dealloc(block.as_ptr(), layout) },
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        for (class, list) in self.free.iter().enumerate() {
            let layout = Layout::from_size_align((class + 1) * STEP, 16).expect("made before");
            let mut next = list.take();
            while let Some(block) = next {
                // SAFETY: as in `take` and `give`.
                unsafe {
                    next = NonNull::new(block.as_ref().next);
                    dealloc(block.as_ptr().cast(), layout);
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_by_size_and_there_is_a_limit() {
        let cells = Cells::default();
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        let (small, large, huge, aligned) =
            (layout(100, 8), layout(300, 8), layout(5000, 8), layout(100, 128));
        let blocks = [small, large, huge, aligned].map(|layout| take(Some(&cells), layout));
        for (block, layout) in blocks.iter().zip([small, large, huge, aligned]) {
            assert!(block.as_ptr().addr().is_multiple_of(layout.align()));
            // SAFETY: taken above.
            unsafe { give(Some(&cells), *block, layout) };
        }
        assert_eq!(cells.kept.get(), 112 + 304, "the huge and the aligned one went back to the allocator");
        assert_eq!(take(Some(&cells), layout(97, 16)), blocks[0], "of the same class");
        assert_eq!(take(Some(&cells), layout(304, 1)), blocks[1]);
        for (block, layout) in [(blocks[0], small), (blocks[1], large)] {
            // SAFETY: as above.
            unsafe { give(None, block, layout) };
        }
        let many: Vec<_> = (0..KEPT_MAX / 304 + 10).map(|_| take(None, large)).collect();
        for block in many {
            // SAFETY: as above.
            unsafe { give(Some(&cells), block, large) };
        }
        assert!(cells.kept.get() <= KEPT_MAX && cells.kept.get() > KEPT_MAX - 304);
    }
}
