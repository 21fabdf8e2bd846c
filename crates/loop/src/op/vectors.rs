//! Several buffers in one operation, and the array that describes them to a kernel.

use std::io::{self, IoSlice, IoSliceMut};

use super::Extent;
use crate::buf::{Failed, IoBufMut};

/// Several buffers, as [`IoBuf`](crate::IoBuf) is one: borrowed slices, or a `Vec` of owned buffers.
///
/// # Safety
/// As [`IoBuf`](crate::IoBuf), for all of the buffers and for the array that describes them.
pub unsafe trait IoVecs: Sized {
    /// See [`IoBuf::Done`](crate::IoBuf::Done).
    type Done;
    /// See [`IoBuf::Error`](crate::IoBuf::Error).
    type Error: From<io::Error> + Into<io::Error>;

    /// The array that describes the buffers; made in `room` if there is none yet.
    fn vectors(&mut self, room: &mut Vec<libc::iovec>) -> (*mut libc::iovec, usize);
    /// See [`IoBuf::done`](crate::IoBuf::done).
    fn done(self, n: usize) -> Self::Done;
    /// See [`IoBuf::failed`](crate::IoBuf::failed).
    fn failed(self, n: usize, error: io::Error) -> Self::Error;
}

/// [`IoVecs`] that may be written to.
///
/// # Safety
/// As [`IoBufMut`](crate::IoBufMut), for all of the buffers.
pub unsafe trait IoVecsMut: IoVecs {}

macro_rules! borrowed_vectors {
    ($type:ty) => {
        // SAFETY: the borrow keeps the buffers alive for its lifetime; std promises that these slices have the layout
        // of an `iovec`.
        unsafe impl IoVecs for $type {
            type Done = usize;
            type Error = io::Error;
            fn vectors(&mut self, _: &mut Vec<libc::iovec>) -> (*mut libc::iovec, usize) {
                (self.as_ptr().cast_mut().cast(), self.len())
            }
            fn done(self, n: usize) -> usize {
                n
            }
            fn failed(self, _: usize, error: io::Error) -> io::Error {
                error
            }
        }
    };
}

borrowed_vectors!(&[IoSlice<'_>]);
borrowed_vectors!(&mut [IoSliceMut<'_>]);
// SAFETY: the slices are exclusive borrows.
unsafe impl IoVecsMut for &mut [IoSliceMut<'_>] {}

// SAFETY: the vector owns its buffers, each an `IoBuf` that stays where it is while the vector is left alone.
unsafe impl<B: IoBufMut> IoVecs for Vec<B> {
    type Done = (usize, Self);
    type Error = Failed<Self>;
    fn vectors(&mut self, room: &mut Vec<libc::iovec>) -> (*mut libc::iovec, usize) {
        room.clear();
        room.extend(self.iter_mut().map(|buf| {
            let (base, len) = buf.bytes_mut();
            libc::iovec { iov_base: base.cast(), iov_len: len }
        }));
        (room.as_mut_ptr(), room.len())
    }
    fn done(self, n: usize) -> (usize, Self) {
        (n, self)
    }
    fn failed(self, n: usize, error: io::Error) -> Failed<Self> {
        Failed { error, transferred: n, buf: Some(self) }
    }
}

// SAFETY: as above, and the buffers may be written.
unsafe impl<B: IoBufMut> IoVecsMut for Vec<B> {}

/// The array that describes the buffers of one transfer, at the place that a kernel reads it from.
#[derive(Default)]
pub(super) struct Vectors {
    one: Option<libc::iovec>,
    many: Vec<libc::iovec>,
}

// SAFETY: the pointers are written by `start` and only mean something between `start` and `finish`, during which the
// value does not move, to another thread least of all.
unsafe impl Send for Vectors {}

impl Vectors {
    pub(super) fn one(&mut self, buf: *mut u8, len: usize) -> *mut libc::iovec {
        self.one.insert(libc::iovec { iov_base: buf.cast(), iov_len: len })
    }

    /// Those of several buffers. What is to transfer [all](Extent::All) gets an array of its own, which is changed on the way,
    /// without empty buffers: of a step that moves nothing one would think that it has come to the end.
    pub(super) fn several(&mut self, buffers: &mut impl IoVecs, extent: Extent) -> (*mut libc::iovec, usize) {
        let (first, count) = buffers.vectors(&mut self.many);
        if extent != Extent::All || count == 0 {
            return (first, count);
        }
        if !std::ptr::eq(first, self.many.as_ptr()) {
            // SAFETY: these describe `count` buffers, by `IoVecs`; they are the buffers' own, not ours.
            let vectors = unsafe { std::slice::from_raw_parts(first, count) };
            self.many.clear();
            self.many.extend_from_slice(vectors);
        }
        self.many.retain(|vector| vector.iov_len > 0);
        (self.many.as_mut_ptr(), self.many.len())
    }
}

/// Whether there is no byte in any of these buffers.
///
/// # Safety
/// `vectors` are `count` descriptions of buffers.
pub(super) unsafe fn are_empty(vectors: *const libc::iovec, count: usize) -> bool {
    // SAFETY: the caller's promise.
    count == 0 || unsafe { std::slice::from_raw_parts(vectors, count) }.iter().all(|it| it.iov_len == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(vectors: (*mut libc::iovec, usize)) -> Vec<usize> {
        // SAFETY: as `several` gives them.
        unsafe { std::slice::from_raw_parts(vectors.0, vectors.1) }.iter().map(|it| it.iov_len).collect()
    }

    #[test]
    fn all_of_them_are_described_in_an_array_that_may_be_changed() {
        let mut vectors = Vectors::default();
        let parts = [&b"one"[..], b"", b"three"].map(IoSlice::new);
        let mut borrowed = &parts[..];
        let once = vectors.several(&mut borrowed, Extent::Once);
        assert_eq!((once.0.cast_const().cast(), lens(once)), (parts.as_ptr(), vec![3, 0, 5]));
        let all = vectors.several(&mut borrowed, Extent::All);
        assert_ne!(all.0.cast_const().cast(), parts.as_ptr());
        assert_eq!(lens(all), [3, 5]);
        let mut owned = vec![vec![0; 2], vec![], vec![0; 4]];
        assert_eq!(lens(vectors.several(&mut owned, Extent::Once)), [2, 0, 4]);
        assert_eq!(lens(vectors.several(&mut owned, Extent::All)), [2, 4]);
        assert_eq!(vectors.several(&mut &parts[..0], Extent::All).1, 0);
    }
}
