//! Descriptors with an identity, which their number alone does not have.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::operation::Handle;

/// A descriptor that operations can share: closed when the last clone, and the last operation on it, is gone.
///
/// Every way of waiting that outlives its call keeps a clone, so that the number cannot be closed, and given to
/// another object, under an operation in flight. Cloning costs one atomic increment; it is the same descriptor, not
/// a duplicate.
#[derive(Clone, Debug)]
pub struct Socket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    identity: u64,
    /// Set by an explicit close while operations still hold clones: no new operation begins.
    closed: AtomicBool,
}

fn next_identity() -> u64 {
    // 0 is for descriptors of which nothing is known. A counter of 64 bits does not come round.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Socket {
    pub(crate) fn handle(&self) -> Handle {
        Handle { fd: self.0.fd.as_raw_fd(), identity: self.0.identity }
    }

    /// Whether [`close`](crate::op::close) was called on this or a clone of it.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    pub(crate) fn mark_closed(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// The descriptor itself, if this is the only clone.
    pub(crate) fn try_into_fd(self) -> Result<OwnedFd, Socket> {
        Arc::try_unwrap(self.0).map(|inner| inner.fd).map_err(Socket)
    }

    /// The descriptor itself if this is the only clone, else a duplicate of it.
    ///
    /// # Errors
    /// As `dup(2)`, `EMFILE` foremost.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.try_into_fd().or_else(|shared| shared.as_fd().try_clone_to_owned())
    }
}

impl From<OwnedFd> for Socket {
    /// Takes the descriptor over. A socket is made non-blocking, and stays so when it is given up again: an accept or a
    /// connect would otherwise block the loop.
    fn from(fd: OwnedFd) -> Socket {
        // What is no socket has no operation that could block, and its mode may be shared with another process.
        if rustix::net::sockopt::socket_type(&fd).is_ok() {
            // A socket takes every mode.
            let _ = rustix::io::ioctl_fionbio(&fd, true);
        }
        Socket::new(fd)
    }
}

impl Socket {
    /// Takes over a descriptor that does not block, or of which nothing that could is asked.
    fn new(fd: OwnedFd) -> Socket {
        Socket(Arc::new(Inner { fd, identity: next_identity(), closed: AtomicBool::new(false) }))
    }
}

impl FromRawFd for Socket {
    unsafe fn from_raw_fd(fd: RawFd) -> Socket {
        // SAFETY: the caller promises that `fd` is open and nobody else's.
        Socket::from(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

/// What an operation works on: a [`Socket`], borrowed or shared, or somebody else's descriptor.
///
/// Made by `From`, so that builders take any of the three. A borrowed foreign descriptor is duplicated if the
/// operation outlives the call that began it.
#[derive(Debug)]
pub enum Target<'s> {
    /// A socket of ours, borrowed for the call.
    Borrowed(&'s Socket),
    /// A socket of ours, shared with the operation.
    Shared(Socket),
    /// A descriptor of which nothing is known but that it is open now.
    Foreign(BorrowedFd<'s>),
    /// A foreign descriptor that could not be duplicated, and why (an `errno`).
    #[doc(hidden)]
    Lost(i32),
}

impl<'s> From<&'s Socket> for Target<'s> {
    fn from(socket: &'s Socket) -> Target<'s> {
        Target::Borrowed(socket)
    }
}

impl From<Socket> for Target<'_> {
    fn from(socket: Socket) -> Self {
        Target::Shared(socket)
    }
}

impl<'s> From<BorrowedFd<'s>> for Target<'s> {
    fn from(fd: BorrowedFd<'s>) -> Target<'s> {
        Target::Foreign(fd)
    }
}

impl Target<'_> {
    /// The descriptor to work on, or the `errno` that says why there is none.
    #[inline]
    pub(crate) fn handle(&self) -> Result<Handle, i32> {
        let socket = match self {
            Target::Borrowed(socket) => socket,
            Target::Shared(socket) => socket,
            Target::Foreign(fd) => return Ok(Handle { fd: fd.as_raw_fd(), identity: 0 }),
            Target::Lost(errno) => return Err(*errno),
        };
        if socket.is_closed() { Err(libc::EBADF) } else { Ok(socket.handle()) }
    }

    /// The same target, independent of any borrow.
    pub(crate) fn detach(self) -> Target<'static> {
        match self {
            Target::Borrowed(socket) => Target::Shared(socket.clone()),
            Target::Shared(socket) => Target::Shared(socket),
            Target::Foreign(fd) => match fd.try_clone_to_owned() {
                Ok(fd) => Target::Shared(Socket::new(fd)),
                Err(error) => Target::Lost(error.raw_os_error().unwrap_or(libc::EBADF)),
            },
            Target::Lost(errno) => Target::Lost(errno),
        }
    }
}

/// A new descriptor out of a result that says so.
pub(crate) fn adopt(result: i32) -> Socket {
    // SAFETY: the operation's result is a descriptor that the kernel has just made for it; it is reported once.
    Socket::new(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Gives the raw descriptor up for a close operation.
pub(crate) fn release(fd: OwnedFd, identity: u64) -> Handle {
    Handle { fd: fd.into_raw_fd(), identity }
}
