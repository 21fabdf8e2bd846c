//! Telling how far a transfer is, between its parts.
//!
//! The loop notes each part but the last ([`Core::settle`](crate::core::Core::settle)), and tells of it at the end of its tick,
//! when it holds nothing of its own. The last part is told by the operation itself, when it is over. What is told is kept by
//! the operation, and taken out of it while foreign code runs, which may end the operation.

use std::ptr::NonNull;

use crate::operation::ProgressRef;

/// Who is told how many bytes have been transferred so far: a closure, or `()`, which does not want to know.
pub trait Progress {
    #[doc(hidden)]
    const WANTED: bool;
    #[doc(hidden)]
    fn tell(&mut self, bytes: usize);
}

impl Progress for () {
    const WANTED: bool = false;
    fn tell(&mut self, _: usize) {}
}

impl<F: FnMut(usize)> Progress for F {
    const WANTED: bool = true;
    fn tell(&mut self, bytes: usize) {
        self(bytes);
    }
}

/// The head of a [`Reporter`], whose type the loop does not know.
#[derive(Debug)]
pub(crate) struct Report {
    tell: unsafe fn(NonNull<Report>, usize, &dyn Fn() -> bool),
}

/// What an operation keeps to tell of its progress.
#[repr(C)]
pub(crate) struct Reporter<P> {
    head: Report,
    /// How many bytes have been told.
    told: usize,
    /// Elsewhere while it is called.
    progress: Option<P>,
}

impl<P: Progress> Reporter<P> {
    pub(crate) fn new(progress: P) -> Reporter<P> {
        Reporter { head: Report { tell: tell_as::<P> }, told: 0, progress: Some(progress) }
    }

    /// For the request of the operation, which does not move until that is over.
    pub(crate) fn request(&mut self) -> Option<ProgressRef> {
        P::WANTED.then(|| ProgressRef(NonNull::from(self).cast()))
    }

    /// The operation is over: what was not told before.
    pub(crate) fn finish(&mut self, bytes: usize) {
        if bytes > self.told
            && let Some(progress) = &mut self.progress
        {
            self.told = bytes;
            progress.tell(bytes);
        }
    }
}

/// Tells how far an operation is. `in_flight`: whether it still is.
///
/// # Safety
/// The reference is that of an operation in flight, which nobody else uses now.
pub(crate) unsafe fn tell(ProgressRef(report): ProgressRef, bytes: usize, in_flight: &dyn Fn() -> bool) {
    // SAFETY: the caller's promise.
    unsafe { (report.as_ref().tell)(report, bytes, in_flight) }
}

/// # Safety
/// As [`tell`], of a reporter of this type.
unsafe fn tell_as<P: Progress>(report: NonNull<Report>, bytes: usize, in_flight: &dyn Fn() -> bool) {
    let reporter = report.cast::<Reporter<P>>().as_ptr();
    // SAFETY: the caller's promise: `report` is the head of a reporter, by whose address it was made. No reference to it is
    // kept while foreign code runs.
    let taken = unsafe {
        (*reporter).told = bytes;
        (*reporter).progress.take()
    };
    let Some(mut progress) = taken else { return };
    progress.tell(bytes);
    if in_flight() {
        // SAFETY: as above, since the operation is in flight.
        unsafe { (*reporter).progress = Some(progress) };
    }
}
