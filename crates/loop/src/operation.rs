//! What can be asked of the loop, described once.
//!
//! A [`Request`] is an operation stripped of its Rust types: numbers and addresses, ready for a kernel. The typed
//! builders (`recv`, `accept`, …) make one, every [`Backend`](crate::backend::Backend) carries one out, and
//! [`OPERATIONS`] says for each [`Kind`] how each backend does so. A new operation is a variant here, a row in the
//! table, a builder, and one arm in each backend that does it natively.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use crate::addr::SockAddr;
use crate::backend::signal::Watcher;
use crate::core::group::Head;
pub use crate::flow::Flow;
use crate::progress::Report;

mod table;

pub use table::{Description, Direction, Elsewhere, Kind, OPERATIONS, Opcode, Support};

/// Names one operation of one loop, for ever: the slot may be used again, the generation tells the uses apart.
///
/// Safe to keep and to cancel with at any time, also long after the operation has completed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct OpId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl OpId {
    /// The id as the one word that kernels hand back with a completion. Never [`OpId::RESERVED`] or above.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.index) << 32) | u64::from(self.generation)
    }

    /// The reverse of [`to_bits`](OpId::to_bits).
    pub fn from_bits(bits: u64) -> OpId {
        OpId { index: (bits >> 32) as u32, generation: bits as u32 }
    }

    /// Words from here on are no operation's id: a backend may use them for its own bookkeeping.
    pub const RESERVED: u64 = (u32::MAX as u64) << 32;
}

/// The directory that relative paths start in where none is given.
pub(crate) const CURRENT_DIR: Handle = Handle { fd: libc::AT_FDCWD, identity: 0 };

/// A descriptor as backends see it: the number, and an identity that the number alone does not have.
///
/// The kernel gives a closed descriptor's number to the next one opened. `identity` does not repeat, so a backend
/// that keeps something per number (a registration, a readiness) can tell whether it still speaks of the same
/// object. Identity 0 is a foreign descriptor, whose life the loop does not know: keep nothing for it between
/// operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// The descriptor's number.
    pub fd: RawFd,
    /// Which of the objects that have had this number; 0 if unknown.
    pub identity: u64,
}

/// An operation as backends see it.
///
/// The pointers are valid, and nobody else uses what they point to, from `submit` until the completion is pushed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the parameters of the system call of that name")]
pub enum Request {
    /// Nothing; done on the next tick. Carried out by the loop.
    Nop,
    /// Done when its deadline has passed. Carried out by the loop.
    Timer,
    /// Done when somebody says so: a job on the blocking pool, an event. Carried out by the loop.
    External,
    /// Several operations as one; done when all of them are. Carried out by the loop.
    Group(GroupRef),
    /// `socket(2)`; the result is the new descriptor, non-blocking and close-on-exec.
    Socket { domain: i32, kind: i32, protocol: i32 },
    /// `bind(2)`.
    Bind { handle: Handle, addr: *const SockAddr },
    /// `listen(2)`.
    Listen { handle: Handle, backlog: i32 },
    /// `accept4(2)`; the result is the new descriptor, non-blocking and close-on-exec. `addr` may be null.
    Accept { handle: Handle, addr: *mut SockAddr },
    /// `connect(2)`, until it is established or has failed.
    Connect { handle: Handle, addr: *const SockAddr },
    /// `recv(2)`; the result is the number of bytes, 0 at the end of a stream.
    Recv { handle: Handle, buf: *mut u8, len: usize, flags: i32 },
    /// `send(2)`, never raising SIGPIPE; the result is the number of bytes.
    Send { handle: Handle, buf: *const u8, len: usize, flags: i32 },
    /// `recvmsg(2)`. Behind the message's vectors are `more`, with which the loop goes on.
    RecvMsg { handle: Handle, msg: *mut libc::msghdr, flags: i32, more: usize },
    /// `sendmsg(2)`, never raising SIGPIPE. `more`: as above.
    SendMsg { handle: Handle, msg: *const libc::msghdr, flags: i32, more: usize },
    /// A [`Send`](Request::Send) without a copy, where the kernel can: it reads `buf` until the completion, which may be long
    /// after the bytes are in the socket's queue. What went without one is added to `uncopied`.
    SendZc { handle: Handle, buf: *const u8, len: usize, flags: i32, uncopied: *mut usize },
    /// A [`SendMsg`](Request::SendMsg), likewise.
    SendMsgZc { handle: Handle, msg: *const libc::msghdr, flags: i32, more: usize, uncopied: *mut usize },
    /// `sendfile(2)` to the socket `handle`, never raising SIGPIPE; the result is the number of bytes, 0 at the end of
    /// the file. From `at`, or the file's cursor ([`CURSOR`]).
    SendFile { handle: Handle, file: RawFd, at: u64, len: usize, progress: Option<ProgressRef> },
    /// `splice(2)` between pipes, and between a pipe and a socket in non-blocking mode, never raising SIGPIPE; the result is
    /// the number of bytes, 0 at the end of the source, or [`NOT_READY`].
    Splice { from: Handle, to: Handle, args: *mut Splice },
    /// The same where one end may take its time whatever readiness says: a file on a disk, a device.
    SpliceFile { from: Handle, to: Handle, args: *mut Splice },
    /// `shutdown(2)`.
    Shutdown { handle: Handle, how: i32 },
    /// `close(2)`. Whatever the result, the descriptor is gone.
    Close { handle: Handle },
    /// Waits until one of `events` (the `POLL*` bits of `poll(2)`) holds; the result is the bits that hold.
    Poll { handle: Handle, events: u16 },
    /// `preadv(2)`, or at [`CURSOR`] `readv(2)`, from what readiness says nothing about: a file on a disk. Of more than
    /// [`VECTORS_MAX`] vectors, into the first so many; likewise below.
    Read { handle: Handle, vectors: *mut libc::iovec, count: usize, at: u64 },
    /// `pwritev(2)`, or at [`CURSOR`] `writev(2)`, to what readiness says nothing about.
    Write { handle: Handle, vectors: *mut libc::iovec, count: usize, at: u64 },
    /// The same as [`Read`](Request::Read), from what is waited for by readiness: a pipe, a terminal.
    ReadStream { handle: Handle, vectors: *mut libc::iovec, count: usize, at: u64 },
    /// The same as [`Write`](Request::Write), to what is waited for by readiness.
    WriteStream { handle: Handle, vectors: *mut libc::iovec, count: usize, at: u64 },
    /// `fsync(2)`, or `fdatasync(2)`.
    Sync { handle: Handle, data_only: bool },
    /// `ftruncate(2)`.
    SetLen { handle: Handle, len: u64 },
    /// `fallocate(2)`.
    Allocate { handle: Handle, mode: i32, offset: u64, len: u64 },
    /// `openat(2)`, close-on-exec; the result is the new descriptor. May take as long as it likes: a FIFO waits for its
    /// other end.
    Open { dir: Handle, path: *const c_char, how: *const OpenHow },
    /// `openat2(2)`, likewise.
    OpenResolved { dir: Handle, path: *const c_char, how: *const OpenHow },
    /// `statx(2)`.
    Stat { dir: Handle, path: *const c_char, flags: i32, mask: u32, out: *mut libc::statx },
    /// `faccessat2(2)`.
    Access { dir: Handle, path: *const c_char, mode: i32, flags: i32 },
    /// `fchmodat(2)`; `fchmod(2)` of `dir` itself if `path` is null.
    SetPermissions { dir: Handle, path: *const c_char, mode: u32 },
    /// `fchownat(2)`.
    SetOwner { dir: Handle, path: *const c_char, owner: u32, group: u32, flags: i32 },
    /// `utimensat(2)`; of `dir` itself if `path` is null.
    SetTimes { dir: Handle, path: *const c_char, times: *const [libc::timespec; 2], flags: i32 },
    /// `renameat2(2)`.
    Rename { dir: Handle, path: *const c_char, to: *const Entry, flags: u32 },
    /// `linkat(2)`.
    HardLink { dir: Handle, path: *const c_char, to: *const Entry, flags: i32 },
    /// `symlinkat(2)`: `path` will lead to `original`.
    Symlink { dir: Handle, path: *const c_char, original: *const c_char },
    /// `unlinkat(2)`.
    Remove { dir: Handle, path: *const c_char, flags: i32 },
    /// `mkdirat(2)`.
    CreateDir { dir: Handle, path: *const c_char, mode: u32 },
    /// `readlinkat(2)`; the result is the number of bytes.
    ReadLink { dir: Handle, path: *const c_char, buf: *mut u8, len: usize },
    /// `realpath(3)`, into `PATH_MAX` bytes; the result is the number of bytes without the final zero.
    RealPath { path: *const c_char, buf: *mut u8 },
    /// `getdents64(2)`; the result is the number of bytes, 0 at the end of the directory.
    ReadDir { handle: Handle, buf: *mut u8, len: usize },
    /// `copy_file_range(2)`, or a read and a write; the result is the number of bytes, 0 at the end of the source.
    CopyRange { args: *mut Range },
    /// Opens a file or (`O_DIRECTORY`) a directory, reads it to its end, closes it. The result is 0.
    ReadEntire { args: *mut Entire },
    /// Opens a file as `how` says, writes all of `bytes`, closes it. The result is 0.
    WriteEntire { args: *mut Entire },
    /// `pipe2(2)`, close-on-exec.
    Pipe { fds: *mut [RawFd; 2], flags: i32 },
    /// A stream of `accept4(2)`: every connection is a part, as that of [`Accept`](Request::Accept).
    AcceptMulti { handle: Handle, flow: *const Flow },
    /// A stream of `recv(2)`: every piece is a part, in a buffer of the flow's; ends with 0 at the end of the stream.
    RecvMulti { handle: Handle, flow: *const Flow },
    /// Takes a signal out of a watcher; the result is its number. Where there is none, one may have come when `handle`, the
    /// watcher's eventfd, is readable.
    Signal { handle: Handle, watcher: &'static Watcher },
    /// `waitid(2)` for the end of the process behind a pidfd, without reaping it. The result is 0.
    WaitChild { handle: Handle },
    /// The same for a process by its number.
    WaitProcess { pid: i32 },
}

// It is copied to wherever an operation is kept.
const _: () = assert!(size_of::<Request>() <= 48);

/// The most vectors that one system call takes on Linux (`IOV_MAX`).
pub const VECTORS_MAX: usize = 1024;

/// The offset that means the file's own cursor.
pub const CURSOR: u64 = u64::MAX;

/// What a splice results in that would have to wait for one of its ends, or for both, and has moved nothing. No kernel
/// returns this. The loop waits for the two, and then submits the same request once more.
pub const NOT_READY: i32 = i32::MIN + 3;

/// The `struct open_how` of `openat2(2)`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "as in the kernel's header")]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

/// A name in a directory: the second one that an operation needs.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the parameters of a system call")]
pub struct Entry {
    pub dir: Handle,
    pub path: *const c_char,
}

/// What is copied where by [`Request::CopyRange`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the parameters of the system call")]
pub struct Range {
    pub from: Handle,
    pub from_at: u64,
    pub to: Handle,
    pub to_at: u64,
    pub len: usize,
}

/// What is moved by [`Request::Splice`] and [`Request::SpliceFile`].
#[derive(Debug)]
pub struct Splice {
    /// Where to begin in the source: an offset, or [`CURSOR`].
    pub from_at: u64,
    /// Where to begin in the destination.
    pub to_at: u64,
    /// How many bytes at most.
    pub len: usize,
    /// The `SPLICE_F_*` flags.
    pub flags: u32,
    /// The loop's own: what it waits for.
    pub(crate) wait: SpliceWait,
}

/// How far the loop is with waiting for the ends of a splice.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SpliceWait {
    /// The end that is polled, if one is: the source is read, the destination written.
    pub(crate) end: Option<Direction>,
    /// How often in a row it was not ready after all.
    pub(crate) vain: u8,
    /// An end may block although both are ready, unless it is polled before.
    pub(crate) blocks: bool,
}

impl SpliceWait {
    /// Whether it is better left alone for a moment, since what the ends promise is not so.
    pub(crate) fn is_in_vain(self) -> bool {
        self.vain > 2
    }
}

/// A file that is read or written whole, by [`Request::ReadEntire`] and [`Request::WriteEntire`].
#[derive(Debug)]
pub struct Entire {
    /// The directory in which `path` starts.
    pub dir: Handle,
    /// Its path.
    pub path: *const c_char,
    /// How to open it.
    pub how: OpenHow,
    /// What to write.
    pub bytes: (*const u8, usize),
    /// Where to put what is read.
    pub read: Vec<u8>,
    /// The most bytes to read: more is `EFBIG`.
    pub limit: usize,
    /// Which step is under way, or failed.
    pub step: Step,
}

// SAFETY: as for `Request`: its pointers are used by who carries it out.
unsafe impl Send for Entire {}
// SAFETY: as above.
unsafe impl Send for Entry {}

/// A step of what is done to a whole file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "as it says")]
pub enum Step {
    Open,
    Stat,
    Read,
    Write,
}

/// A group of operations, as the loop keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupRef(pub(crate) NonNull<Head>);

/// Who wants to know how far a transfer is; the loop's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgressRef(pub(crate) NonNull<Report>);

/// How an operation of a batch depends on the one before it; said of the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Link {
    /// Not at all.
    #[default]
    None,
    /// The next one begins when this one has succeeded, and is cancelled if it has not.
    Soft,
    /// The next one begins when this one is over, whatever came of it.
    Hard,
}

// SAFETY: a request is plain data. Its pointers are used only by who carries it out, under the contract of
// `Backend::submit`: the backend of the loop that accepted it, on that loop's thread, or one thread of the blocking pool;
// moving the numbers elsewhere does nothing.
unsafe impl Send for Request {}

impl Request {
    /// Which operation this is.
    #[inline]
    pub fn kind(&self) -> Kind {
        match self {
            Request::Nop => Kind::Nop,
            Request::Timer => Kind::Timer,
            Request::External => Kind::External,
            Request::Group(_) => Kind::Group,
            Request::Socket { .. } => Kind::Socket,
            Request::Bind { .. } => Kind::Bind,
            Request::Listen { .. } => Kind::Listen,
            Request::Accept { .. } => Kind::Accept,
            Request::Connect { .. } => Kind::Connect,
            Request::Recv { .. } => Kind::Recv,
            Request::Send { .. } => Kind::Send,
            Request::RecvMsg { .. } => Kind::RecvMsg,
            Request::SendMsg { .. } => Kind::SendMsg,
            Request::SendZc { .. } => Kind::SendZc,
            Request::SendMsgZc { .. } => Kind::SendMsgZc,
            Request::SendFile { .. } => Kind::SendFile,
            Request::Splice { .. } => Kind::Splice,
            Request::SpliceFile { .. } => Kind::SpliceFile,
            Request::Shutdown { .. } => Kind::Shutdown,
            Request::Close { .. } => Kind::Close,
            Request::Poll { .. } => Kind::Poll,
            Request::Read { .. } => Kind::Read,
            Request::Write { .. } => Kind::Write,
            Request::ReadStream { .. } => Kind::ReadStream,
            Request::WriteStream { .. } => Kind::WriteStream,
            Request::Sync { .. } => Kind::Sync,
            Request::SetLen { .. } => Kind::SetLen,
            Request::Allocate { .. } => Kind::Allocate,
            Request::Open { .. } => Kind::Open,
            Request::OpenResolved { .. } => Kind::OpenResolved,
            Request::Stat { .. } => Kind::Stat,
            Request::Access { .. } => Kind::Access,
            Request::SetPermissions { .. } => Kind::SetPermissions,
            Request::SetOwner { .. } => Kind::SetOwner,
            Request::SetTimes { .. } => Kind::SetTimes,
            Request::Rename { .. } => Kind::Rename,
            Request::HardLink { .. } => Kind::HardLink,
            Request::Symlink { .. } => Kind::Symlink,
            Request::Remove { .. } => Kind::Remove,
            Request::CreateDir { .. } => Kind::CreateDir,
            Request::ReadLink { .. } => Kind::ReadLink,
            Request::RealPath { .. } => Kind::RealPath,
            Request::ReadDir { .. } => Kind::ReadDir,
            Request::CopyRange { .. } => Kind::CopyRange,
            Request::ReadEntire { .. } => Kind::ReadEntire,
            Request::WriteEntire { .. } => Kind::WriteEntire,
            Request::Pipe { .. } => Kind::Pipe,
            Request::AcceptMulti { .. } => Kind::AcceptMulti,
            Request::RecvMulti { .. } => Kind::RecvMulti,
            Request::Signal { .. } => Kind::Signal,
            Request::WaitChild { .. } => Kind::WaitChild,
            Request::WaitProcess { .. } => Kind::WaitProcess,
        }
    }

    /// The flow of a stream: of what reports parts before it completes.
    pub fn flow(&self) -> Option<*const Flow> {
        match *self {
            Request::AcceptMulti { flow, .. } | Request::RecvMulti { flow, .. } => Some(flow),
            _ => None,
        }
    }

    /// Who wants to know how far it is.
    pub(crate) fn progress(&self) -> Option<ProgressRef> {
        match *self {
            Request::SendFile { progress, .. } => progress,
            _ => None,
        }
    }

    /// The descriptor that it works on, if any: for paths, the directory that they start in (`AT_FDCWD` for the current
    /// one).
    #[inline]
    pub fn handle(&self) -> Option<Handle> {
        match *self {
            Request::Nop
            | Request::Timer
            | Request::External
            | Request::Group(_)
            | Request::Socket { .. }
            | Request::RealPath { .. }
            | Request::CopyRange { .. }
            | Request::ReadEntire { .. }
            | Request::WriteEntire { .. }
            | Request::Pipe { .. }
            | Request::WaitProcess { .. } => None,
            Request::Bind { handle, .. }
            | Request::Listen { handle, .. }
            | Request::Accept { handle, .. }
            | Request::Connect { handle, .. }
            | Request::Recv { handle, .. }
            | Request::Send { handle, .. }
            | Request::RecvMsg { handle, .. }
            | Request::SendMsg { handle, .. }
            | Request::SendZc { handle, .. }
            | Request::SendMsgZc { handle, .. }
            | Request::SendFile { handle, .. }
            | Request::Splice { from: handle, .. }
            | Request::SpliceFile { from: handle, .. }
            | Request::Shutdown { handle, .. }
            | Request::Close { handle }
            | Request::Poll { handle, .. }
            | Request::Read { handle, .. }
            | Request::Write { handle, .. }
            | Request::ReadStream { handle, .. }
            | Request::WriteStream { handle, .. }
            | Request::Sync { handle, .. }
            | Request::SetLen { handle, .. }
            | Request::Allocate { handle, .. }
            | Request::ReadDir { handle, .. }
            | Request::AcceptMulti { handle, .. }
            | Request::RecvMulti { handle, .. }
            | Request::Signal { handle, .. }
            | Request::WaitChild { handle } => Some(handle),
            Request::Open { dir, .. }
            | Request::OpenResolved { dir, .. }
            | Request::Stat { dir, .. }
            | Request::Access { dir, .. }
            | Request::SetPermissions { dir, .. }
            | Request::SetOwner { dir, .. }
            | Request::SetTimes { dir, .. }
            | Request::Rename { dir, .. }
            | Request::HardLink { dir, .. }
            | Request::Symlink { dir, .. }
            | Request::Remove { dir, .. }
            | Request::CreateDir { dir, .. }
            | Request::ReadLink { dir, .. } => Some(dir),
        }
    }

    /// The other descriptor of what moves bytes from one to another, and waits for both.
    #[inline]
    pub fn second_handle(&self) -> Option<Handle> {
        match *self {
            Request::Splice { to, .. } | Request::SpliceFile { to, .. } => Some(to),
            _ => None,
        }
    }

    /// Whether it works on the descriptor with this identity, which is not 0.
    pub(crate) fn uses(&self, identity: u64) -> bool {
        [self.handle(), self.second_handle()].into_iter().flatten().any(|handle| handle.identity == identity)
    }

    /// The readiness that it waits for where it is not native, if it can block at all.
    ///
    /// A [`Poll`](Request::Poll) waits for the directions that its events name; one that names writing only waits
    /// for [`Direction::Write`], any other for [`Direction::Read`] (errors and hang-ups end both).
    #[inline]
    pub fn direction(&self) -> Option<Direction> {
        match (self.kind().describe().elsewhere, self) {
            (Elsewhere::Ready(direction), _) => Some(direction),
            // It never blocks, but what was to be sent before it is sent before it.
            (_, Request::Shutdown { how, .. }) if *how != libc::SHUT_RD => Some(Direction::Write),
            (Elsewhere::Wait, Request::Poll { events, .. }) => {
                let read = (libc::POLLIN | libc::POLLPRI | libc::POLLRDHUP) as u16;
                let write_only = events & libc::POLLOUT as u16 != 0 && events & read == 0;
                Some(if write_only { Direction::Write } else { Direction::Read })
            }
            _ => None,
        }
    }
}

/// The most bytes that one call transfers on Linux (`MAX_RW_COUNT`). Longer requests are shortened to it, never
/// truncated by a cast.
pub const TRANSFER_MAX: usize = 0x7fff_f000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_trip_through_a_kernel() {
        let id = OpId { index: 7, generation: u32::MAX };
        assert_eq!(OpId::from_bits(id.to_bits()), id);
        assert!(id.to_bits() < OpId::RESERVED);
    }
}
