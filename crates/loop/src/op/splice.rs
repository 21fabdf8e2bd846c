//! Between a pipe and something else without a detour through the process.

use std::io;

use rustix::fs::{OFlags, fcntl_getfl};

use super::file::{Position, way};
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::backend::attempt::borrow;
use crate::descriptor::{Nature, Target};
use crate::operation::{self, Handle, Request, SpliceWait};

/// A move of bytes through a pipe: see [`splice`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct Splice<'s> {
    from: Target<'s>,
    to: Target<'s>,
    from_at: Position,
    to_at: Position,
    args: operation::Splice,
    options: Options,
}

/// Moves up to `len` bytes from one descriptor to another, one of which is a pipe; the outcome is the number of bytes, 0 at
/// the end of the source.
///
/// The other one may be a pipe, a socket, a file or a device. The bytes do not pass through the process: what is on its way
/// may be the source's own memory, so that who writes to a file that is spliced from may change it.
///
/// Cancel-safe: what has left the source is in the destination, and the outcome tells how much it is. It has no order with
/// other operations on either descriptor, so let the one be over before the next one begins. Never raises `SIGPIPE`.
///
/// ```
/// use std::os::fd::AsFd;
/// use towpath_loop::{Socket, op};
/// # use std::io::Write;
/// # use std::os::fd::OwnedFd;
///
/// // From a socket to a file, through a pipe.
/// # let (here, mut there) = std::os::unix::net::UnixStream::pair()?;
/// # let here = Socket::from(OwnedFd::from(here));
/// # there.write_all(b"bytes")?;
/// # let file = std::fs::File::options().write(true).open("/dev/null")?;
/// let (out, into) = op::pipe().wait()?;
/// let n = op::splice(&here, &into, 1 << 16).wait()?;
/// assert_eq!(op::splice(&out, file.as_fd(), n).all(true).wait()?, n);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Between pipes, and between pipes and sockets: on every backend `splice(2)`, and readiness of both ends. (The ring's own
/// splice would keep one of the kernel's threads for as long as it waits.) With a file or device: io_uring `IORING_OP_SPLICE`
/// (5.7), elsewhere `splice(2)` in the pool, and readiness of the pipe while that is empty or full.
///
/// # Errors
/// `InvalidInput` (`EINVAL`) if neither is a pipe, both are ends of the same one, or the other cannot be spliced: a file
/// opened to append, say; `ESPIPE` for an offset in a pipe or a socket; `BrokenPipe`.
pub fn splice<'s>(from: impl Into<Target<'s>>, to: impl Into<Target<'s>>, len: usize) -> Splice<'s> {
    let nowhere = Position(None);
    let wait = SpliceWait::default();
    let args = operation::Splice { from_at: 0, to_at: 0, len, flags: 0, wait };
    Splice {
        from: from.into(),
        to: to.into(),
        from_at: nowhere,
        to_at: nowhere,
        args,
        options: Options::NONE,
    }
}

impl Splice<'_> {
    limits!();

    /// Takes the bytes from this offset of a file, and leaves its cursor alone.
    pub fn from_at(mut self, offset: u64) -> Self {
        self.from_at = Position(Some(offset));
        self
    }

    /// Puts the bytes at this offset of a file, and leaves its cursor alone.
    pub fn to_at(mut self, offset: u64) -> Self {
        self.to_at = Position(Some(offset));
        self
    }

    /// Goes on until `len` bytes are moved, the source ends, or there is an error. A limit covers the whole transfer.
    pub fn all(mut self, all: bool) -> Self {
        self.options.set_all(all);
        self
    }

    /// The flags (`SPLICE_F_*`) of the system call, `SPLICE_F_MORE` for one. Waiting is the loop's affair, so
    /// `SPLICE_F_NONBLOCK` changes nothing.
    pub fn flags(mut self, flags: u32) -> Self {
        self.args.flags = flags;
        self
    }

    /// [Waits](Operation::wait), and tells how many bytes were moved also where it failed.
    pub fn wait_counted(mut self) -> (usize, io::Result<()>) {
        crate::wait::wait(self.options, |begin| self.start(begin)).bytes()
    }

    fn request(&mut self) -> Result<Request, i32> {
        const KNOWN: u32 =
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;
        let (from, source, from_at) = way(&self.from, self.from_at)?;
        let (to, destination, to_at) = way(&self.to, self.to_at)?;
        if (source != Nature::Pipe && destination != Nature::Pipe) || self.args.flags & !KNOWN != 0 {
            return Err(libc::EINVAL);
        }
        (self.args.from_at, self.args.to_at) = (from_at, to_at);
        let blocks = blocks(from, source)? || blocks(to, destination)?;
        self.args.wait = SpliceWait { blocks, ..SpliceWait::default() };
        let args = &raw mut self.args;
        let slow = |nature| matches!(nature, Nature::Disk | Nature::Device);
        Ok(if blocks || slow(source) || slow(destination) {
            Request::SpliceFile { from, to, args }
        } else {
            Request::Splice { from, to, args }
        })
    }
}

/// Whether the call waits for this end whatever it is told: the flag against that is about pipes alone.
fn blocks(handle: Handle, nature: Nature) -> Result<bool, i32> {
    match nature {
        Nature::Disk | Nature::Pipe => Ok(false),
        Nature::Socket | Nature::Device => {
            let mode = fcntl_getfl(borrow(handle)?).map_err(rustix::io::Errno::raw_os_error)?;
            Ok(!mode.contains(OFlags::NONBLOCK))
        }
    }
}

// SAFETY: the request points into `self` only, and both targets keep their descriptors open.
unsafe impl Operation for Splice<'_> {
    type Output = io::Result<usize>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.request() {
            Ok(_) if self.args.len == 0 => Started::Done(0),
            Ok(request) => Started::Request(request),
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        let (n, result) = outcome.bytes();
        result.map(|()| n)
    }
}

impl Detach for Splice<'_> {
    type Owned = Splice<'static>;
    fn detach(self) -> Splice<'static> {
        let Splice { from, to, from_at, to_at, args, options } = self;
        Splice { from: from.detach(), to: to.detach(), from_at, to_at, args, options }
    }
}

ways_to_wait!(Splice<'s> => Splice<'static>);
