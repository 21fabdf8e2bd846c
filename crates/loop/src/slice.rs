//! A part of an owned buffer, as a buffer.
//!
//! What is borrowed is cut with `&buf[range]`. An owned buffer has to travel whole, so that it can be freed: a [`Slice`]
//! is the buffer, and which of its bytes are meant.

use std::fmt;
use std::io;
use std::ops::{Bound, Deref, DerefMut, Range, RangeBounds};

use crate::buf::{Failed, IoBuf, IoBufMut};

/// A part of an owned buffer: see [`IoBuf::slice`].
///
/// Derefs to its bytes, if the buffer's can be looked at.
#[derive(Clone)]
pub struct Slice<B> {
    buf: B,
    range: Range<usize>,
}

impl<B: IoBuf> Slice<B> {
    pub(crate) fn new(buf: B, range: impl RangeBounds<usize>) -> Slice<B> {
        let len = buf.bytes().1;
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => len,
        };
        assert!(start <= end && end <= len, "bytes {start}..{end} of a buffer of {len}");
        Slice { buf, range: start..end }
    }

    /// The part of `len` bytes that is meant. No more than there is, whatever a foreign buffer says the second time.
    fn part(&self, len: usize) -> Range<usize> {
        self.range.start.min(len)..self.range.end.min(len)
    }
}

impl<B> Slice<B> {
    /// Which bytes of the buffer these are.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The whole buffer.
    pub fn get_ref(&self) -> &B {
        &self.buf
    }

    /// The whole buffer, given back.
    pub fn into_inner(self) -> B {
        self.buf
    }
}

impl<B: AsRef<[u8]>> Deref for Slice<B> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf.as_ref()[self.range()]
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> DerefMut for Slice<B> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.buf.as_mut()[range]
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Slice<B> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> AsMut<[u8]> for Slice<B> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<B> fmt::Debug for Slice<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slice").field("range", &self.range).finish_non_exhaustive()
    }
}

// SAFETY: these are bytes of the buffer, for which its own implementation promises the same.
unsafe impl<B: IoBuf> IoBuf for Slice<B> {
    type Done = (usize, Slice<B>);
    type Error = Failed<Slice<B>>;
    fn bytes(&self) -> (*const u8, usize) {
        let (first, len) = self.buf.bytes();
        let part = self.part(len);
        // SAFETY: within the buffer's bytes, or just behind the last.
        (unsafe { first.add(part.start) }, part.len())
    }
    fn done(self, n: usize) -> Self::Done {
        (n, self)
    }
    fn failed(self, n: usize, error: io::Error) -> Self::Error {
        Failed { error, transferred: n, buf: Some(self) }
    }
}

// SAFETY: as above.
unsafe impl<B: IoBufMut> IoBufMut for Slice<B> {
    fn bytes_mut(&mut self) -> (*mut u8, usize) {
        let (first, len) = self.buf.bytes_mut();
        let part = self.part(len);
        // SAFETY: as above.
        (unsafe { first.add(part.start) }, part.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_all_kinds() {
        let of = |range: (Bound<usize>, Bound<usize>)| Slice::new(vec![0, 1, 2, 3], range).to_vec();
        use Bound::{Excluded, Included, Unbounded};
        assert_eq!(of((Unbounded, Unbounded)), [0, 1, 2, 3]);
        assert_eq!(of((Included(1), Excluded(3))), [1, 2]);
        assert_eq!(of((Excluded(1), Included(3))), [2, 3]);
        assert_eq!(of((Included(4), Unbounded)), []);
        assert_eq!(of((Unbounded, Excluded(0))), []);
    }

    #[test]
    fn what_is_not_in_the_buffer_is_refused() {
        let refused = |range: Range<usize>| std::panic::catch_unwind(|| vec![0; 4].slice(range)).is_err();
        assert!(
            refused(0..5)
                && refused(5..5)
                && refused(Range { start: 3, end: 2 })
                && refused(usize::MAX..usize::MAX)
        );
        assert!(std::panic::catch_unwind(|| vec![0; 4].slice(0..=usize::MAX)).is_err());
        assert!(!refused(4..4));
    }

    #[test]
    fn slices_of_slices_count_from_their_own_start() {
        let mut inner = vec![0, 1, 2, 3, 4, 5].slice(1..5).slice(1..=2);
        assert_eq!((inner.range(), &inner[..]), (1..3, &[2, 3][..]));
        inner[0] = 9;
        assert_eq!(inner.bytes(), (inner.as_ptr(), 2));
        assert_eq!(inner.bytes_mut().1, 2);
        assert_eq!(inner.into_inner().into_inner(), [0, 1, 9, 3, 4, 5]);
        assert_eq!(Box::<[u8]>::from([7, 8]).slice(1..).get_ref()[0], 7);
    }

    #[test]
    fn a_buffer_that_shrinks_is_not_overrun() {
        struct Shrinks(std::cell::Cell<usize>);
        // SAFETY: the bytes are static.
        unsafe impl IoBuf for Shrinks {
            type Done = usize;
            type Error = io::Error;
            fn bytes(&self) -> (*const u8, usize) {
                (b"12345678".as_ptr(), self.0.replace(2))
            }
            fn done(self, n: usize) -> usize {
                n
            }
            fn failed(self, _: usize, error: io::Error) -> io::Error {
                error
            }
        }
        let slice = Slice::new(Shrinks(8.into()), 1..8);
        assert_eq!(slice.bytes().1, 1);
        assert_eq!(Slice::new(Shrinks(8.into()), 3..8).bytes().1, 0);
    }
}
