//! Descriptors with an identity, which their number alone does not have.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::fs::FileType;
use rustix::net::SocketType;

use crate::operation::Handle;

/// A descriptor that operations can share, of whatever it is: what a [`Socket`] and a [`File`] have in common.
///
/// Closed when the last clone, and the last operation on it, is gone. Every way of waiting that outlives its call
/// keeps a clone, so that the number cannot be closed, and given to another object, under an operation in flight.
/// Cloning costs one atomic increment; it is the same descriptor, not a duplicate.
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    identity: u64,
    /// Set by an explicit close while operations still hold clones: no new operation begins.
    closed: AtomicBool,
    /// What it refers to, as a [`Nature`]; 0 until somebody wants to know.
    nature: AtomicU8,
    /// What comes through it, as a [`Traffic`]; 0 likewise.
    traffic: AtomicU8,
}

/// What comes through a descriptor that is asked for a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Traffic {
    /// Bytes of a connection over the internet's protocols.
    Internet = 1,
    /// Bytes of another connection, or it is no socket.
    Other = 2,
    /// Datagrams: zero bytes are no end.
    Datagrams = 3,
}

/// What may be known instead of a [`Traffic`]: that it is a connection, over whatever protocols.
const SOME_CONNECTION: u8 = 4;

impl Traffic {
    fn of(fd: BorrowedFd<'_>) -> Traffic {
        use rustix::net::{AddressFamily, sockopt};
        match sockopt::socket_type(fd) {
            Ok(SocketType::STREAM | SocketType::SEQPACKET) => match sockopt::socket_domain(fd) {
                Ok(AddressFamily::INET | AddressFamily::INET6) => Traffic::Internet,
                _ => Traffic::Other,
            },
            Ok(_) => Traffic::Datagrams,
            Err(_) => Traffic::Other,
        }
    }

    /// Of a new socket (`AF_*`, `SOCK_*`).
    pub(crate) fn of_new(domain: i32, kind: i32) -> Traffic {
        match kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
            libc::SOCK_STREAM | libc::SOCK_SEQPACKET => Traffic::with(domain),
            _ => Traffic::Datagrams,
        }
    }

    /// Of a connection with a peer of this family.
    pub(crate) fn with(family: i32) -> Traffic {
        match family {
            libc::AF_INET | libc::AF_INET6 => Traffic::Internet,
            _ => Traffic::Other,
        }
    }
}

/// How reading and writing have to wait for what a descriptor refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Nature {
    /// A regular file, a directory, a disk: always "ready", and slow all the same.
    Disk = 1,
    /// A pipe: waits by readiness, and has no positions.
    Pipe = 2,
    /// Likewise, and has calls of its own.
    Socket = 3,
    /// A terminal, another device, an event counter: waits by readiness; some have positions.
    Device = 4,
}

impl Nature {
    fn of(fd: BorrowedFd<'_>) -> Result<Nature, i32> {
        let stat = rustix::fs::fstat(fd).map_err(rustix::io::Errno::raw_os_error)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory | FileType::BlockDevice | FileType::Symlink => {
                Nature::Disk
            }
            FileType::Fifo => Nature::Pipe,
            FileType::Socket => Nature::Socket,
            _ => Nature::Device,
        })
    }
}

fn next_identity() -> u64 {
    // 0 is for descriptors of which nothing is known. A counter of 64 bits does not come round.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Descriptor {
    /// Takes over a descriptor as it is.
    pub(crate) fn new(fd: OwnedFd) -> Descriptor {
        let (closed, nature, traffic) = (AtomicBool::new(false), AtomicU8::new(0), AtomicU8::new(0));
        Descriptor(Arc::new(Inner { fd, identity: next_identity(), closed, nature, traffic }))
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { fd: self.0.fd.as_raw_fd(), identity: self.0.identity }
    }

    /// Whether [`close`](crate::op::close) was called on this or a clone of it.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Whether nobody else has it, nor can get it from anybody.
    pub(crate) fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(crate) fn mark_closed(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// The descriptor itself, if this is the only clone.
    pub(crate) fn try_into_fd(self) -> Result<OwnedFd, Descriptor> {
        Arc::try_unwrap(self.0).map(|inner| inner.fd).map_err(Descriptor)
    }

    /// The descriptor itself if this is the only clone, else a duplicate of it.
    ///
    /// # Errors
    /// As `dup(2)`, `EMFILE` foremost.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.try_into_fd().or_else(|shared| shared.as_fd().try_clone_to_owned())
    }

    /// Asks the system once: it does not change while the descriptor lives.
    fn nature(&self) -> Result<Nature, i32> {
        Ok(match self.0.nature.load(Ordering::Relaxed) {
            1 => Nature::Disk,
            2 => Nature::Pipe,
            3 => Nature::Socket,
            4 => Nature::Device,
            _ => {
                let nature = Nature::of(self.as_fd())?;
                self.0.nature.store(nature as u8, Ordering::Relaxed);
                nature
            }
        })
    }

    /// Likewise.
    fn traffic(&self) -> Traffic {
        match self.0.traffic.load(Ordering::Relaxed) {
            1 => Traffic::Internet,
            2 => Traffic::Other,
            3 => Traffic::Datagrams,
            // Unknown, or in part.
            _ => {
                let traffic = Traffic::of(self.as_fd());
                self.0.traffic.store(traffic as u8, Ordering::Relaxed);
                traffic
            }
        }
    }

    /// Whether it is known to have a connection's bytes, or messages, without asking.
    fn is_connection(&self) -> bool {
        let known = self.0.traffic.load(Ordering::Relaxed);
        known != 0 && known != Traffic::Datagrams as u8
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

/// Declares a kind of descriptor by its name.
macro_rules! descriptor {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $type(Descriptor);

        impl $type {
            /// Whether [`close`](crate::op::close) was called on this or a clone of it.
            pub fn is_closed(&self) -> bool {
                self.0.is_closed()
            }

            /// The descriptor itself if this is the only clone, else a duplicate of it.
            ///
            /// # Errors
            /// As `dup(2)`, `EMFILE` foremost.
            pub fn into_fd(self) -> io::Result<OwnedFd> {
                self.0.into_fd()
            }

            /// A new descriptor out of a result that says so.
            pub(crate) fn adopt(result: i32) -> $type {
                // SAFETY: the operation's result is a descriptor that the kernel has just made for it; it is reported
                // once.
                $type(Descriptor::new(unsafe { OwnedFd::from_raw_fd(result) }))
            }
        }

        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl AsRawFd for $type {
            fn as_raw_fd(&self) -> RawFd {
                self.0.as_raw_fd()
            }
        }

        impl FromRawFd for $type {
            unsafe fn from_raw_fd(fd: RawFd) -> $type {
                // SAFETY: the caller promises that `fd` is open and nobody else's.
                $type::from(unsafe { OwnedFd::from_raw_fd(fd) })
            }
        }

        impl From<$type> for Descriptor {
            fn from(it: $type) -> Descriptor {
                it.0
            }
        }

        impl<'s> From<&'s $type> for Target<'s> {
            fn from(it: &'s $type) -> Target<'s> {
                Target::Borrowed(&it.0)
            }
        }

        impl From<$type> for Target<'_> {
            fn from(it: $type) -> Self {
                Target::Shared(it.0)
            }
        }
    };
}

descriptor! {
    /// A socket that operations can share: see [`Descriptor`].
    Socket
}

descriptor! {
    /// An open file that operations can share, in the wide sense of Unix: a regular file, a directory, a pipe, a
    /// terminal. See [`Descriptor`].
    ///
    /// Its mode is left alone: what blocks, blocks a thread of the pool or waits by readiness, never the loop.
    File
}

impl From<OwnedFd> for Socket {
    /// Takes the descriptor over. A socket is made non-blocking, and stays so when it is given up again: an accept or a
    /// connect would otherwise block the loop.
    fn from(fd: OwnedFd) -> Socket {
        let kind = rustix::net::sockopt::socket_type(&fd);
        let socket = Socket(Descriptor::new(fd));
        // What is no socket has no operation that could block, and its mode may be shared with another process.
        if let Ok(kind) = kind {
            // A socket takes every mode.
            let _ = rustix::io::ioctl_fionbio(&socket, true);
            let known = match kind {
                SocketType::STREAM | SocketType::SEQPACKET => SOME_CONNECTION,
                _ => Traffic::Datagrams as u8,
            };
            socket.0.0.traffic.store(known, Ordering::Relaxed);
        }
        socket
    }
}

impl Socket {
    /// [`adopt`](Socket::adopt) of one of which this is known.
    pub(crate) fn adopt_known(result: i32, traffic: Traffic) -> Socket {
        let socket = Socket::adopt(result);
        socket.0.0.traffic.store(traffic as u8, Ordering::Relaxed);
        socket
    }
}

impl From<OwnedFd> for File {
    /// Takes the descriptor over, as it is.
    fn from(fd: OwnedFd) -> File {
        File(Descriptor::new(fd))
    }
}

impl From<std::fs::File> for File {
    /// Takes the file over, as it is.
    fn from(file: std::fs::File) -> File {
        OwnedFd::from(file).into()
    }
}

/// What an operation works on: a [`Socket`] or [`File`], borrowed or shared, or somebody else's descriptor.
///
/// Made by `From`, so that builders take any of them. A borrowed foreign descriptor is duplicated if the
/// operation outlives the call that began it.
#[derive(Debug)]
pub enum Target<'s> {
    /// A descriptor of ours, borrowed for the call.
    Borrowed(&'s Descriptor),
    /// A descriptor of ours, shared with the operation.
    Shared(Descriptor),
    /// A descriptor of which nothing is known but that it is open now.
    Foreign(BorrowedFd<'s>),
    /// A foreign descriptor that could not be duplicated, and why (an `errno`).
    #[doc(hidden)]
    Lost(i32),
}

impl<'s> From<&'s Descriptor> for Target<'s> {
    fn from(descriptor: &'s Descriptor) -> Target<'s> {
        Target::Borrowed(descriptor)
    }
}

impl From<Descriptor> for Target<'_> {
    fn from(descriptor: Descriptor) -> Self {
        Target::Shared(descriptor)
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
        let descriptor = match self {
            Target::Borrowed(descriptor) => descriptor,
            Target::Shared(descriptor) => descriptor,
            Target::Foreign(fd) => return Ok(Handle { fd: fd.as_raw_fd(), identity: 0 }),
            Target::Lost(errno) => return Err(*errno),
        };
        if descriptor.is_closed() { Err(libc::EBADF) } else { Ok(descriptor.handle()) }
    }

    /// How reading and writing it have to wait.
    pub(crate) fn nature(&self) -> Result<Nature, i32> {
        match self {
            Target::Borrowed(descriptor) => descriptor.nature(),
            Target::Shared(descriptor) => descriptor.nature(),
            Target::Foreign(fd) => Nature::of(*fd),
            Target::Lost(errno) => Err(*errno),
        }
    }

    /// What comes through it.
    pub(crate) fn traffic(&self) -> Traffic {
        match self {
            Target::Borrowed(descriptor) => descriptor.traffic(),
            Target::Shared(descriptor) => descriptor.traffic(),
            Target::Foreign(fd) => Traffic::of(*fd),
            Target::Lost(_) => Traffic::Other,
        }
    }

    /// The flags of a send, for a kernel that could go wrong over a datagram when it waits by itself: `MSG_DONTWAIT`, unless
    /// it is known to go through a connection.
    ///
    /// A datagram to a Unix socket (or a netlink one) whose queue is full has been read from its buffer when the kernel finds
    /// out, and io_uring goes on from there once there is room: with an empty one (seen on 6.18).
    pub(crate) fn sending(&self, flags: i32) -> i32 {
        let connection = match self {
            Target::Borrowed(descriptor) => descriptor.is_connection(),
            Target::Shared(descriptor) => descriptor.is_connection(),
            Target::Foreign(_) | Target::Lost(_) => false,
        };
        if connection { flags } else { flags | libc::MSG_DONTWAIT }
    }

    /// The same target, independent of any borrow.
    pub(crate) fn detach(self) -> Target<'static> {
        match self {
            Target::Borrowed(descriptor) => Target::Shared(descriptor.clone()),
            Target::Shared(descriptor) => Target::Shared(descriptor),
            Target::Foreign(fd) => match fd.try_clone_to_owned() {
                Ok(fd) => Target::Shared(Descriptor::new(fd)),
                Err(error) => Target::Lost(error.raw_os_error().unwrap_or(libc::EBADF)),
            },
            Target::Lost(errno) => Target::Lost(errno),
        }
    }
}
