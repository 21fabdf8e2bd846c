//! Operations on open files: reading, writing, and what else is done to a descriptor.

use std::fmt;
use std::io;

use super::message::Header;
use super::vectors::{IoVecs, IoVecsMut, Vectors, are_empty};
use super::{Begin, Detach, Operation, Options, Outcome, Started, extents, limits, on_target, ways_to_wait};
use crate::buf::{IoBuf, IoBufMut};
use crate::descriptor::{File, Nature, Target};
use crate::operation::{CURSOR, Handle, Range, Request};

/// The largest offset that a file can have.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// Where in a file an operation begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position(pub(super) Option<u64>);

impl Position {
    /// The offset as kernels want it.
    fn get(self) -> Result<u64, i32> {
        match self.0 {
            None => Ok(CURSOR),
            Some(at) if at <= OFFSET_MAX => Ok(at),
            Some(_) => Err(libc::EINVAL),
        }
    }
}

/// Which way a transfer has to wait.
pub(super) fn way(target: &Target<'_>, position: Position) -> Result<(Handle, Nature, u64), i32> {
    let (handle, at) = (target.handle()?, position.get()?);
    match (target.nature()?, at) {
        (nature, CURSOR) => Ok((handle, nature, at)),
        // The ring would overlook the offset.
        (Nature::Pipe | Nature::Socket, _) => Err(libc::ESPIPE),
        // What has positions does not wait for others.
        (Nature::Device | Nature::Disk, at) => Ok((handle, Nature::Disk, at)),
    }
}

macro_rules! file_transfer {
    (
        $(#[$struct_doc:meta])* $type:ident<$bound:path>; $(#[$fn_doc:meta])* $name:ident;
        |$buf:ident| $bytes:expr; file: $file:ident, stream: $stream:ident, socket: $socket:ident, $flags:expr
    ) => {
        $(#[$struct_doc])*
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s, B> {
            target: Target<'s>,
            buf: B,
            position: Position,
            vectors: Vectors,
            options: Options,
        }

        $(#[$fn_doc])*
        pub fn $name<'s, B: $bound>(target: impl Into<Target<'s>>, buf: B) -> $type<'s, B> {
            let (position, vectors) = (Position(None), Vectors::default());
            $type { target: target.into(), buf, position, vectors, options: Options::NONE }
        }

        impl<B: $bound> $type<'_, B> {
            limits!();
            extents!();

            /// Begins at this offset, in bytes, and leaves the file's cursor alone. Beyond `i64::MAX` it is refused with
            /// `InvalidInput` (`EINVAL`); on a pipe or a socket, with `ESPIPE`.
            pub fn at(mut self, offset: u64) -> Self {
                self.position = Position(Some(offset));
                self
            }
        }

        impl<B> fmt::Debug for $type<'_, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("target", &self.target)
                    .field("at", &self.position.0)
                    .finish_non_exhaustive()
            }
        }

        // SAFETY: the request points to the vector in `self`, and that to the buffer, which by `IoBuf` stays valid and
        // nobody else's while `self` is left alone; `target` keeps the descriptor open.
        unsafe impl<B: $bound> Operation for $type<'_, B> {
            type Output = Result<B::Done, B::Error>;
            fn options(&self) -> Options {
                self.options
            }
            fn is_pure(&self) -> bool {
                true
            }
            fn start(&mut self, _: &Begin<'_>) -> Started {
                let (handle, nature, at) = match way(&self.target, self.position) {
                    Ok(way) => way,
                    Err(errno) => return Started::failed(errno),
                };
                let $buf = &mut self.buf;
                let (buf, len) = $bytes;
                if len == 0 {
                    return Started::Done(0);
                }
                Started::Request(match nature {
                    Nature::Socket => Request::$socket { handle, buf, len, flags: $flags(&self.target) },
                    Nature::Disk => {
                        let vectors = self.vectors.one(buf, len);
                        Request::$file { handle, vectors, count: 1, at }
                    }
                    Nature::Pipe | Nature::Device => {
                        let vectors = self.vectors.one(buf, len);
                        Request::$stream { handle, vectors, count: 1, at }
                    }
                })
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                match outcome.bytes() {
                    (n, Ok(())) => Ok(self.buf.done(n)),
                    (n, Err(error)) => Err(self.buf.failed(n, error)),
                }
            }
        }

        impl<B: $bound + 'static> Detach for $type<'_, B> {
            type Owned = $type<'static, B>;
            fn detach(self) -> $type<'static, B> {
                let $type { target, buf, position, vectors, options } = self;
                $type { target: target.detach(), buf, position, vectors, options }
            }
        }

        ways_to_wait!($type<'s, B: $bound> => $type<'static, B>);
    };
}

file_transfer! {
    /// A read: see [`read`].
    Read<IoBufMut>;
    /// Reads into a buffer, from its start; the outcome is the number of bytes, 0 at the end of the file or stream, and for
    /// an empty buffer.
    ///
    /// Without [`at`](Read::at) it reads at the file's cursor and moves it; of several such reads at once the order is
    /// not defined on files. At an offset, a read is short only at the end of the file (or beyond `TRANSFER_MAX` bytes).
    ///
    /// What a file has in memory is read at once, without a thread or a turn of the ring (`RWF_NOWAIT`, where the file
    /// system knows it). Pipes, terminals and sockets wait by readiness, and order is kept, as for [`recv`](super::recv);
    /// their blocking mode does not matter, and is left alone, since others may share it: standard input, say.
    ///
    /// A terminal is read when it is ready, which in its usual mode means when a line is complete; not before, so that a read
    /// that is cancelled, or out of time, has taken nothing from who shares the terminal. Its ends are the system's: 0 where
    /// somebody typed the end of file or hung up, `EIO` for the controlling side (`ptmx`) when nobody has the other one open any
    /// more. A background process that reads its terminal is stopped (`SIGTTIN`), or gets `EIO`, as with `read(2)`.
    ///
    /// io_uring: `IORING_OP_READV` (5.1); elsewhere `preadv(2)` in the pool, or for streams `preadv2(2)` with
    /// `RWF_NOWAIT` and readiness to read.
    ///
    /// ```
    /// # use towpath_loop::{File, op};
    /// let file = File::from(std::fs::File::open("/proc/self/cmdline")?);
    /// let mut buf = [0; 16];
    /// let n = op::read(&file, &mut buf).at(0).wait()?;
    /// assert!(n > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    read;
    |buf| buf.bytes_mut(); file: Read, stream: ReadStream, socket: Recv, |_: &Target<'_>| 0
}

file_transfer! {
    /// A write: see [`write()`].
    Write<IoBuf>;
    /// Writes from a buffer; the outcome is the number of bytes.
    ///
    /// Without [`at`](Write::at) it writes at the file's cursor and moves it. A file opened to append is appended to
    /// wherever the write was meant to go. A write into a pipe that nobody reads is `BrokenPipe`, and raises `SIGPIPE`
    /// as `write(2)` does; Rust programs ignore that signal unless told otherwise. (A socket raises none.)
    ///
    /// io_uring: `IORING_OP_WRITEV` (5.1); elsewhere `pwritev(2)` in the pool, or for streams `pwritev2(2)` with
    /// `RWF_NOWAIT` and readiness to write.
    write;
    |buf| { let (buf, len) = buf.bytes(); (buf.cast_mut(), len) }; file: Write, stream: WriteStream, socket: Send, |target: &Target<'_>| target.sending(0)
}

macro_rules! file_vectored {
    (
        $(#[$struct_doc:meta])* $type:ident<$bound:path>; $(#[$fn_doc:meta])* $name:ident;
        file: $file:ident, stream: $stream:ident, socket: $socket:ident, $flags:expr
    ) => {
        $(#[$struct_doc])*
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s, V> {
            target: Target<'s>,
            buffers: V,
            position: Position,
            vectors: Vectors,
            header: Header,
            options: Options,
        }

        $(#[$fn_doc])*
        pub fn $name<'s, V: $bound>(target: impl Into<Target<'s>>, buffers: V) -> $type<'s, V> {
            let (position, vectors, header) = (Position(None), Vectors::default(), Header::new());
            $type { target: target.into(), buffers, position, vectors, header, options: Options::NONE }
        }

        impl<V: $bound> $type<'_, V> {
            limits!();
            extents!();

            /// Begins at this offset, in bytes, and leaves the file's cursor alone. Beyond `i64::MAX` it is refused with
            /// `InvalidInput` (`EINVAL`); on a pipe or a socket, with `ESPIPE`.
            pub fn at(mut self, offset: u64) -> Self {
                self.position = Position(Some(offset));
                self
            }
        }

        impl<V> fmt::Debug for $type<'_, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("target", &self.target)
                    .field("at", &self.position.0)
                    .finish_non_exhaustive()
            }
        }

        // SAFETY: the request points to the vectors, in `self` or of the buffers, and those to the buffers, which by
        // `IoVecs` stay valid while `self` is left alone; `target` keeps the descriptor open.
        unsafe impl<V: $bound> Operation for $type<'_, V> {
            type Output = Result<V::Done, V::Error>;
            fn options(&self) -> Options {
                self.options
            }
            fn is_pure(&self) -> bool {
                true
            }
            fn start(&mut self, _: &Begin<'_>) -> Started {
                let (handle, nature, at) = match way(&self.target, self.position) {
                    Ok(way) => way,
                    Err(errno) => return Started::failed(errno),
                };
                let (vectors, count) = self.vectors.several(&mut self.buffers, self.options.extent);
                // SAFETY: `vectors` are `count` descriptions of buffers, by `IoVecs`.
                if count == 0 || nature == Nature::Socket && unsafe { are_empty(vectors, count) } {
                    return Started::Done(0);
                }
                Started::Request(match nature {
                    Nature::Disk => Request::$file { handle, vectors, count, at },
                    Nature::Socket => {
                        let (msg, more) = self.header.fill((vectors, count), None);
                        Request::$socket { handle, msg, flags: $flags(&self.target), more }
                    }
                    Nature::Pipe | Nature::Device => {
                        Request::$stream { handle, vectors, count, at }
                    }
                })
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                match outcome.bytes() {
                    (n, Ok(())) => Ok(self.buffers.done(n)),
                    (n, Err(error)) => Err(self.buffers.failed(n, error)),
                }
            }
        }

        impl<V: $bound + 'static> Detach for $type<'_, V> {
            type Owned = $type<'static, V>;
            fn detach(self) -> $type<'static, V> {
                let $type { target, buffers, position, vectors, header, options } = self;
                $type { target: target.detach(), buffers, position, vectors, header, options }
            }
        }

        ways_to_wait!($type<'s, V: $bound> => $type<'static, V>);
    };
}

file_vectored! {
    /// A read into several buffers: see [`read_vectored`].
    ReadVectored<IoVecsMut>;
    /// Reads into several buffers, filling one after the other; otherwise as [`read`]. Of more than 1024 buffers, the
    /// first 1024 are used; with [`all`](ReadVectored::all), all of them.
    read_vectored; file: Read, stream: ReadStream, socket: RecvMsg, |_: &Target<'_>| 0
}

file_vectored! {
    /// A write from several buffers: see [`write_vectored`].
    WriteVectored<IoVecs>;
    /// Writes several buffers, one after the other; otherwise as [`write()`]. Of more than 1024 buffers, the first 1024 are used; with
    /// [`all`](WriteVectored::all), all of them.
    write_vectored; file: Write, stream: WriteStream, socket: SendMsg, |target: &Target<'_>| target.sending(0)
}

on_target! {
    /// A sync: see [`sync`].
    Sync;
    /// Waits until everything written to a file, and what describes it, is on its disk.
    ///
    /// io_uring: `IORING_OP_FSYNC` (5.1); elsewhere `fsync(2)` in the pool.
    sync();
    |this, handle| Request::Sync { handle, data_only: false }
}

on_target! {
    /// A sync of data: see [`sync_data`].
    SyncData;
    /// Waits until everything written to a file, and what is needed to read it again, is on its disk.
    ///
    /// io_uring: `IORING_OP_FSYNC` (5.1); elsewhere `fdatasync(2)` in the pool.
    sync_data();
    |this, handle| Request::Sync { handle, data_only: true }
}

on_target! {
    /// A change of length: see [`set_len`].
    SetLen;
    /// Cuts a file to `len` bytes, or extends it to that with zeroes. The cursor stays where it is. A length beyond
    /// `i64::MAX` is `InvalidInput`.
    ///
    /// io_uring: `IORING_OP_FTRUNCATE` (6.9); elsewhere `ftruncate(2)` in the pool.
    set_len(len: u64);
    |this, handle| match this.len {
        len @ ..=OFFSET_MAX => Request::SetLen { handle, len },
        _ => return Started::failed(libc::EINVAL),
    }
}

on_target! {
    /// An allocation of room: see [`allocate`].
    Allocate;
    /// Makes sure that a file's bytes from `offset` on have room on the disk. `mode` is that of `fallocate(2)`: 0 allocates
    /// and extends; `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_PUNCH_HOLE` and others do as they say. Offsets and lengths beyond
    /// `i64::MAX` are `InvalidInput`; `Unsupported` where the file system cannot.
    ///
    /// io_uring: `IORING_OP_FALLOCATE` (5.6); elsewhere `fallocate(2)` in the pool.
    allocate(offset: u64, len: u64, mode: i32);
    |this, handle| if this.offset.max(this.len) > OFFSET_MAX {
        return Started::failed(libc::EINVAL);
    } else {
        Request::Allocate { handle, mode: this.mode, offset: this.offset, len: this.len }
    }
}

/// A copy from file to file: see [`copy_range`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct CopyRange<'s> {
    from: Target<'s>,
    to: Target<'s>,
    from_at: Position,
    to_at: Position,
    len: usize,
    range: Range,
    options: Options,
}

/// Copies up to `len` bytes from one file to another, at their cursors unless told otherwise; the outcome is the number of
/// bytes, 0 at the end of the source.
///
/// The file system copies by itself, or shares what is the same, where it can; elsewhere the bytes go through a buffer of
/// 128 KiB. For regular files only: `InvalidInput` otherwise.
///
/// On every backend `copy_file_range(2)` in the pool.
pub fn copy_range<'s>(from: impl Into<Target<'s>>, to: impl Into<Target<'s>>, len: usize) -> CopyRange<'s> {
    let nowhere = Handle { fd: -1, identity: 0 };
    CopyRange {
        from: from.into(),
        to: to.into(),
        from_at: Position(None),
        to_at: Position(None),
        len,
        range: Range { from: nowhere, from_at: CURSOR, to: nowhere, to_at: CURSOR, len },
        options: Options::NONE,
    }
}

impl CopyRange<'_> {
    limits!();

    /// Reads at this offset, and leaves the source's cursor alone.
    pub fn from_at(mut self, offset: u64) -> Self {
        self.from_at = Position(Some(offset));
        self
    }

    /// Writes at this offset, and leaves the destination's cursor alone.
    pub fn to_at(mut self, offset: u64) -> Self {
        self.to_at = Position(Some(offset));
        self
    }

    /// Goes on until `len` bytes are copied, the source ends, or there is an error.
    pub fn all(mut self, all: bool) -> Self {
        self.options.set_all(all);
        self
    }

    fn range(&self) -> Result<Range, i32> {
        let (from, nature, from_at) = way(&self.from, self.from_at)?;
        let (to, to_nature, to_at) = way(&self.to, self.to_at)?;
        if (nature, to_nature) != (Nature::Disk, Nature::Disk) {
            return Err(libc::EINVAL);
        }
        Ok(Range { from, from_at, to, to_at, len: self.len })
    }
}

// SAFETY: the request points into `self` only, and both targets keep their descriptors open.
unsafe impl Operation for CopyRange<'_> {
    type Output = io::Result<usize>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.range() {
            Ok(Range { len: 0, .. }) => Started::Done(0),
            Ok(range) => {
                self.range = range;
                Started::Request(Request::CopyRange { args: &raw mut self.range })
            }
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        let (n, result) = outcome.bytes();
        result.map(|()| n)
    }
}

impl Detach for CopyRange<'_> {
    type Owned = CopyRange<'static>;
    fn detach(self) -> CopyRange<'static> {
        let CopyRange { from, to, from_at, to_at, len, range, options } = self;
        CopyRange { from: from.detach(), to: to.detach(), from_at, to_at, len, range, options }
    }
}

ways_to_wait!(CopyRange<'s> => CopyRange<'static>);

/// A new pipe: see [`pipe`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct Pipe {
    flags: i32,
    fds: [i32; 2],
}

/// Makes a pipe, non-blocking and close-on-exec: the end to read from, and the one to write to.
///
/// io_uring: `IORING_OP_PIPE` (6.16); elsewhere `pipe2(2)` at once.
pub fn pipe() -> Pipe {
    Pipe { flags: libc::O_NONBLOCK, fds: [-1; 2] }
}

impl Pipe {
    /// The flags of `pipe2(2)`, instead of `O_NONBLOCK`; `O_CLOEXEC` comes in any case. A pipe that another program will
    /// have should be in blocking mode: here the mode does not matter.
    pub fn flags(mut self, flags: i32) -> Pipe {
        self.flags = flags;
        self
    }
}

// SAFETY: the request points into `self` only.
unsafe impl Operation for Pipe {
    type Output = io::Result<(File, File)>;
    fn options(&self) -> Options {
        Options::NONE
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        Started::Request(Request::Pipe { fds: &raw mut self.fds, flags: self.flags })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(|_| (File::adopt(self.fds[0]), File::adopt(self.fds[1])))
    }
}

impl Detach for Pipe {
    type Owned = Pipe;
    fn detach(self) -> Pipe {
        self
    }
}

ways_to_wait!(Pipe => Pipe);
