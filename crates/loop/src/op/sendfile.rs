//! From a file to a socket without a detour through the process.

use std::io;

use rustix::fs::{OFlags, fcntl_getfl};

use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::backend::attempt::borrow;
use crate::descriptor::{Nature, Target};
use crate::operation::{CURSOR, Request};

/// A send of a file: see [`sendfile`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct SendFile<'s> {
    socket: Target<'s>,
    file: Target<'s>,
    at: Option<u64>,
    len: usize,
    options: Options,
}

/// Sends up to `len` bytes of a file to a stream socket; the outcome is the number of bytes, 0 at the end of the file.
///
/// Each step sends what the socket has room for. Without [`all`](SendFile::all) the operation is one step, so that whoever
/// wants to know how far it is submits them one after the other.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::fd::{AsFd, OwnedFd};
/// use std::os::unix::net::UnixStream;
/// use towpath_loop::{Socket, op};
///
/// let (here, mut there) = UnixStream::pair()?;
/// let here = Socket::from(OwnedFd::from(here));
/// let file = std::fs::File::open("/proc/self/exe")?;
/// assert_eq!(op::sendfile(&here, file.as_fd(), 4).at(0).all(true).wait()?, 4);
/// let mut magic = [0; 4];
/// there.read_exact(&mut magic)?;
/// assert_eq!(&magic, b"\x7fELF");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// On every backend `sendfile(2)`, and readiness to write. What is not in memory is read from the disk meanwhile, by the
/// loop's thread: where that takes long, read the file in the pool instead. What is on its way is the file's own memory,
/// so that who writes to the file meanwhile may change it. Never raises SIGPIPE.
///
/// # Errors
/// `InvalidInput` for a socket in blocking mode (one of ours never is), for a source that cannot be mapped (a pipe, a
/// socket), and for an offset beyond `i64::MAX`.
pub fn sendfile<'s>(socket: impl Into<Target<'s>>, file: impl Into<Target<'s>>, len: usize) -> SendFile<'s> {
    SendFile { socket: socket.into(), file: file.into(), at: None, len, options: Options::NONE }
}

impl SendFile<'_> {
    limits!();

    /// Begins at this offset, and leaves the file's cursor alone.
    pub fn at(mut self, offset: u64) -> Self {
        self.at = Some(offset);
        self
    }

    /// Goes on until `len` bytes are sent, the file ends, or there is an error. A limit covers the whole transfer.
    pub fn all(mut self, all: bool) -> Self {
        self.options.set_all(all);
        self
    }

    /// [Waits](Operation::wait), and tells how many bytes were sent also where it failed.
    pub fn wait_counted(mut self) -> (usize, io::Result<()>) {
        crate::wait::wait(self.options, |begin| self.start(begin)).bytes()
    }

    fn request(&self) -> Result<Request, i32> {
        let (handle, file) = (self.socket.handle()?, self.file.handle()?.fd);
        let at = match self.at {
            None => CURSOR,
            Some(at) => i64::try_from(at).map_err(|_| libc::EINVAL)? as u64,
        };
        // The call has no flag that keeps it from blocking.
        let mode = fcntl_getfl(borrow(handle)?).map_err(rustix::io::Errno::raw_os_error)?;
        if self.socket.nature()? != Nature::Socket || !mode.contains(OFlags::NONBLOCK) {
            return Err(libc::EINVAL);
        }
        Ok(Request::SendFile { handle, file, at, len: self.len })
    }
}

// SAFETY: the request has no pointers, and both targets keep their descriptors open.
unsafe impl Operation for SendFile<'_> {
    type Output = io::Result<usize>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.request() {
            Ok(Request::SendFile { len: 0, .. }) => Started::Done(0),
            Ok(request) => Started::Request(request),
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        let (n, result) = outcome.bytes();
        result.map(|()| n)
    }
}

impl Detach for SendFile<'_> {
    type Owned = SendFile<'static>;
    fn detach(self) -> SendFile<'static> {
        let SendFile { socket, file, at, len, options } = self;
        SendFile { socket: socket.detach(), file: file.detach(), at, len, options }
    }
}

ways_to_wait!(SendFile<'s> => SendFile<'static>);
