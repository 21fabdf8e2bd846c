//! Counting allocations, thread by thread: what others allocate meanwhile does not matter.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts. To be the `#[global_allocator]` of a test.
pub struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    COUNT.set(COUNT.get() + 1);
}

// SAFETY: the system's allocator does the work; counting allocates nothing, since the counter needs no initialisation and
// has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on from this function's own contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Rounds that may allocate.
pub const WARM_UP: usize = 300;
/// Rounds that are counted.
pub const ROUNDS: usize = 1000;

/// Runs many rounds on this thread.
///
/// # Panics
/// If any allocates, after some that may.
#[track_caller]
pub fn none(what: &str, round: impl FnMut()) {
    at_most(0, what, round);
}

/// Runs many rounds on this thread.
///
/// # Panics
/// If they allocate more than `each` a round, after some that may.
#[track_caller]
pub fn at_most(each: usize, what: &str, mut round: impl FnMut()) {
    (0..WARM_UP).for_each(|_| round());
    let before = COUNT.get();
    (0..ROUNDS).for_each(|_| round());
    let allocated = COUNT.get() - before;
    assert!(allocated <= each * ROUNDS, "{what}: {allocated} allocations in {ROUNDS} rounds");
}
