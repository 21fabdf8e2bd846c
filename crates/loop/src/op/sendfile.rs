//! From a file to a socket without a detour through the process.

use std::{fmt, io};

use rustix::fs::{OFlags, fcntl_getfl};

use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::backend::attempt::borrow;
use crate::descriptor::{Nature, Target};
use crate::operation::{CURSOR, Request};
pub use crate::progress::Progress;
use crate::progress::Reporter;

/// A send of a file: see [`sendfile`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct SendFile<'s, P = ()> {
    socket: Target<'s>,
    file: Target<'s>,
    at: Option<u64>,
    len: usize,
    reporter: Reporter<P>,
    options: Options,
}

/// Sends up to `len` bytes of a file to a stream socket; the outcome is the number of bytes, 0 at the end of the file.
///
/// Each step sends what the socket has room for. Without [`all`](SendFile::all) the operation is one step;
/// [`progress`](SendFile::progress) tells of each.
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
    let reporter = Reporter::new(());
    SendFile { socket: socket.into(), file: file.into(), at: None, len, reporter, options: Options::NONE }
}

impl<'s> SendFile<'s> {
    /// Calls `f` after each part that was sent, with the number of bytes so far; for the last time before the outcome is
    /// delivered. It is called where callbacks are, on the loop's thread, and for the last part by whoever waits; not when
    /// nobody wants the outcome any more.
    ///
    /// ```
    /// # use std::os::fd::{AsFd, OwnedFd};
    /// # use towpath_loop::{Socket, op};
    /// # let (here, _there) = std::os::unix::net::UnixStream::pair()?;
    /// # let here = Socket::from(OwnedFd::from(here));
    /// # let file = std::fs::File::open("/proc/self/exe")?;
    /// let mut sent = 0;
    /// op::sendfile(&here, file.as_fd(), 1000).all(true).progress(|bytes| sent = bytes).wait()?;
    /// assert_eq!(sent, 1000);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn progress<F: FnMut(usize)>(self, f: F) -> SendFile<'s, F> {
        let SendFile { socket, file, at, len, reporter: _, options } = self;
        SendFile { socket, file, at, len, reporter: Reporter::new(f), options }
    }
}

impl<P: Progress> SendFile<'_, P> {
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
        let (n, result) = crate::wait::wait(self.options, |begin| self.start(begin)).bytes();
        self.reporter.finish(n);
        (n, result)
    }

    fn request(&mut self) -> Result<Request, i32> {
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
        Ok(Request::SendFile { handle, file, at, len: self.len, progress: self.reporter.request() })
    }
}

impl<P> fmt::Debug for SendFile<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (socket, file) = (&self.socket, &self.file);
        f.debug_struct("SendFile").field("socket", socket).field("file", file).finish_non_exhaustive()
    }
}

// SAFETY: the request points to the reporter in `self` at most, and both targets keep their descriptors open.
unsafe impl<P: Progress> Operation for SendFile<'_, P> {
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
    fn finish(mut self, outcome: Outcome) -> Self::Output {
        let (n, result) = outcome.bytes();
        self.reporter.finish(n);
        result.map(|()| n)
    }
    fn discard(self, _: Outcome) {
        // Nobody wants to know.
    }
}

impl<P: Progress + 'static> Detach for SendFile<'_, P> {
    type Owned = SendFile<'static, P>;
    fn detach(self) -> SendFile<'static, P> {
        let SendFile { socket, file, at, len, reporter, options } = self;
        SendFile { socket: socket.detach(), file: file.detach(), at, len, reporter, options }
    }
}

ways_to_wait!(SendFile<'s, P: Progress> => SendFile<'static, P>);
