//! Buffers that a kernel may use after the call that handed them over has returned.
//!
//! A borrowed buffer can only be lent to an operation that is waited for in place: the frame that owns it is frozen
//! until then. The other ways of waiting take the buffer itself and give it back with the result. [`IoBuf`] and
//! [`IoBufMut`] say which types can be a buffer, and [`IoBuf::Done`] what comes back.

use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::slice::Slice;

/// Bytes at an address that does not change while the value stays where it is.
///
/// # Safety
/// From a call of [`bytes`](IoBuf::bytes) on, until the value is next used (moving it once the operation is over
/// counts as a use), the returned memory stays valid and initialised, and nothing but the holder of the pointer
/// changes it, whatever other values exist.
pub unsafe trait IoBuf: Sized {
    /// What a successful transfer of `n` bytes gives back: `n` for a borrowed buffer, `(n, buffer)` for an owned one.
    type Done;
    /// What a failed one gives back: the error, and with it an owned buffer.
    type Error: From<io::Error> + Into<io::Error>;

    /// Where the bytes are, and how many.
    fn bytes(&self) -> (*const u8, usize);
    /// Gives the buffer back after success.
    fn done(self, n: usize) -> Self::Done;
    /// Gives the buffer back after failure; `n` bytes were transferred before it.
    fn failed(self, n: usize, error: io::Error) -> Self::Error;

    /// These bytes of an owned buffer, as a buffer that [gives](Slice::into_inner) the whole one back. What is borrowed is
    /// cut with `&buf[range]`.
    ///
    /// ```
    /// # use std::os::{fd::OwnedFd, unix::net::UnixStream};
    /// # use towpath_loop::{Socket, op};
    /// use towpath_loop::IoBuf;
    /// # let (a, b) = UnixStream::pair()?;
    /// # let (socket, peer) = (Socket::from(OwnedFd::from(a)), Socket::from(OwnedFd::from(b)));
    ///
    /// let message = b"GET /".to_vec();
    /// let (n, sent) = op::send(&socket, message.slice(..3)).wait()?;
    /// let (n, sent) = op::send(&socket, sent.into_inner().slice(n..)).wait()?;
    /// assert_eq!((n, sent.into_inner()), (2, b"GET /".to_vec()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the buffer has no such bytes, as slicing does.
    fn slice(self, range: impl RangeBounds<usize>) -> Slice<Self>
    where
        Self: IoBuf<Done = (usize, Self), Error = Failed<Self>>,
    {
        Slice::new(self, range)
    }
}

/// An [`IoBuf`] that may be written to.
///
/// # Safety
/// As [`IoBuf`], and the memory may be written until then; nothing else reads or writes it.
pub unsafe trait IoBufMut: IoBuf {
    /// Where the bytes are, and how many.
    fn bytes_mut(&mut self) -> (*mut u8, usize);
}

/// A transfer that failed, with everything it held.
///
/// Turns into its [`io::Error`] with `?`.
pub struct Failed<B> {
    /// Why.
    pub error: io::Error,
    /// How many bytes had been transferred by then (only an [`all`](crate::op::Recv::all) transfer can be past zero).
    pub transferred: usize,
    /// The buffer, given back. `None` only where the operation was refused before it took the buffer.
    pub buf: Option<B>,
}

impl<B> From<Failed<B>> for io::Error {
    fn from(failed: Failed<B>) -> io::Error {
        failed.error
    }
}

impl<B> From<io::Error> for Failed<B> {
    fn from(error: io::Error) -> Failed<B> {
        Failed { error, transferred: 0, buf: None }
    }
}

impl<B> std::fmt::Debug for Failed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failed")
            .field("error", &self.error)
            .field("transferred", &self.transferred)
            .finish_non_exhaustive()
    }
}

impl<B> std::fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (after {} bytes)", self.error, self.transferred)
    }
}

impl<B> std::error::Error for Failed<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

// SAFETY: the borrow keeps the bytes alive and unchanged for its lifetime.
unsafe impl IoBuf for &[u8] {
    type Done = usize;
    type Error = io::Error;
    fn bytes(&self) -> (*const u8, usize) {
        (self.as_ptr(), self.len())
    }
    fn done(self, n: usize) -> usize {
        n
    }
    fn failed(self, _: usize, error: io::Error) -> io::Error {
        error
    }
}

// SAFETY: the exclusive borrow keeps the bytes alive and nobody else's for its lifetime.
unsafe impl IoBuf for &mut [u8] {
    type Done = usize;
    type Error = io::Error;
    fn bytes(&self) -> (*const u8, usize) {
        (self.as_ptr(), self.len())
    }
    fn done(self, n: usize) -> usize {
        n
    }
    fn failed(self, _: usize, error: io::Error) -> io::Error {
        error
    }
}

// SAFETY: as above, and an exclusive borrow may be written through.
unsafe impl IoBufMut for &mut [u8] {
    fn bytes_mut(&mut self) -> (*mut u8, usize) {
        (self.as_mut_ptr(), self.len())
    }
}

// SAFETY: as for slices; the bytes of an array reference are its referent.
unsafe impl<const N: usize> IoBuf for &[u8; N] {
    type Done = usize;
    type Error = io::Error;
    fn bytes(&self) -> (*const u8, usize) {
        (self.as_ptr(), N)
    }
    fn done(self, n: usize) -> usize {
        n
    }
    fn failed(self, _: usize, error: io::Error) -> io::Error {
        error
    }
}

// SAFETY: as for slices; the bytes of an array reference are its referent.
unsafe impl<const N: usize> IoBuf for &mut [u8; N] {
    type Done = usize;
    type Error = io::Error;
    fn bytes(&self) -> (*const u8, usize) {
        (self.as_ptr(), N)
    }
    fn done(self, n: usize) -> usize {
        n
    }
    fn failed(self, _: usize, error: io::Error) -> io::Error {
        error
    }
}

// SAFETY: as for slices; the bytes of an array reference are its referent.
unsafe impl<const N: usize> IoBufMut for &mut [u8; N] {
    fn bytes_mut(&mut self) -> (*mut u8, usize) {
        (self.as_mut_ptr(), N)
    }
}

macro_rules! owned {
    ($($(#[$why:meta])* $type:ty $(, const $n:ident)?;)*) => {$(
        // SAFETY: the value owns its bytes (or shares them immutably), and they do not move while the value itself
        // is neither moved nor used.
        unsafe impl$(<const $n: usize>)? IoBuf for $type {
            type Done = (usize, Self);
            type Error = Failed<Self>;
            fn bytes(&self) -> (*const u8, usize) {
                let bytes: &[u8] = self.as_ref();
                (bytes.as_ptr(), bytes.len())
            }
            fn done(self, n: usize) -> (usize, Self) {
                (n, self)
            }
            fn failed(self, n: usize, error: io::Error) -> Failed<Self> {
                Failed { error, transferred: n, buf: Some(self) }
            }
        }
    )*};
}

owned! {
    Vec<u8>;
    Box<[u8]>;
    String;
    Arc<[u8]>;
    [u8; N], const N;
}

macro_rules! owned_mut {
    ($($type:ty $(, const $n:ident)?;)*) => {$(
        // SAFETY: as for `IoBuf`, and the value owns its bytes alone.
        unsafe impl$(<const $n: usize>)? IoBufMut for $type {
            fn bytes_mut(&mut self) -> (*mut u8, usize) {
                let bytes: &mut [u8] = self.as_mut();
                (bytes.as_mut_ptr(), bytes.len())
            }
        }
    )*};
}

owned_mut! {
    Vec<u8>;
    Box<[u8]>;
    [u8; N], const N;
}
