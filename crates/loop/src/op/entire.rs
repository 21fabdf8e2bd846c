//! Whole files and directories: opened, read or written, and closed, as one operation.

use std::fmt;
use std::io;
use std::path::Path;

use super::directory::Entries;
use super::place::Place;
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::buf::IoBuf;
use crate::descriptor::Target;
use crate::operation::{CURRENT_DIR, Entire, OpenHow, Request, Step};

/// Why a whole file could not be read or written, and which step failed.
///
/// Turns into its [`io::Error`] with `?`.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepError {
    /// The step that failed, or that was under way when the operation was cancelled.
    pub step: Step,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Open => "open",
            Step::Stat => "stat",
            Step::Read => "read",
            Step::Write => "write",
        };
        write!(f, "{step}: {}", self.error)
    }
}

impl std::error::Error for StepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<StepError> for io::Error {
    fn from(failed: StepError) -> io::Error {
        failed.error
    }
}

fn entire(flags: i32, mode: u32) -> Entire {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: mode.into(), resolve: 0 };
    Entire {
        dir: CURRENT_DIR,
        path: std::ptr::null(),
        how,
        bytes: (std::ptr::null(), 0),
        read: Vec::new(),
        limit: usize::MAX,
        step: Step::Open,
    }
}

/// A read of a whole file: see [`read_entire`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct ReadEntire<'s> {
    place: Place<'s>,
    args: Entire,
    options: Options,
}

/// Reads a file from its beginning to its end.
///
/// On every backend a thread of the pool opens it, asks for its size, and reads it.
///
/// # Errors
/// Of the step that failed. `EFBIG` (`FileTooLarge`) beyond the [limit](ReadEntire::limit), `ENOMEM` where there is no memory.
///
/// ```
/// # use towpath_loop::{op, operation::Step};
/// let cpus = op::read_entire("/proc/cpuinfo").limit(1 << 20).wait()?;
/// assert!(!cpus.is_empty());
/// assert_eq!(op::read_entire("/no/such/file").wait().unwrap_err().step, Step::Open);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_entire<'s>(path: impl AsRef<Path>) -> ReadEntire<'s> {
    ReadEntire { place: Place::path(path), args: entire(libc::O_RDONLY, 0), options: Options::NONE }
}

impl<'s> ReadEntire<'s> {
    limits!();

    /// Lets a relative path start in this directory instead of the current one.
    pub fn at(mut self, dir: impl Into<Target<'s>>) -> Self {
        self.place.start_in(dir.into());
        self
    }

    /// The most bytes to read: a longer file is an error, with no more memory used than that.
    pub fn limit(mut self, bytes: usize) -> Self {
        self.args.limit = bytes;
        self
    }
}

// SAFETY: the request points into `self` and to its path; the place keeps the directory open.
unsafe impl Operation for ReadEntire<'_> {
    type Output = Result<Vec<u8>, StepError>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.place.get() {
            Ok((dir, path)) => {
                (self.args.dir, self.args.path) = (dir, path);
                Started::Request(Request::ReadEntire { args: &raw mut self.args })
            }
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.value() {
            Ok(_) => Ok(self.args.read),
            Err(error) => Err(StepError { step: self.args.step, error }),
        }
    }
}

impl Detach for ReadEntire<'_> {
    type Owned = ReadEntire<'static>;
    fn detach(self) -> ReadEntire<'static> {
        ReadEntire { place: self.place.detach(), args: self.args, options: self.options }
    }
}

ways_to_wait!(ReadEntire<'s> => ReadEntire<'static>);

/// A read of a whole directory: see [`read_entire_dir`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct ReadEntireDir<'s>(ReadEntire<'s>);

/// Lists a directory: all its entries, in the order that the file system has them in.
///
/// Entries that are made or removed meanwhile may turn up or not; those that stay turn up once.
///
/// On every backend a thread of the pool opens and reads it.
///
/// # Errors
/// Of the step that failed; `NotADirectory` if it is something else. `EFBIG` (`FileTooLarge`) beyond the
/// [limit](ReadEntireDir::limit).
///
/// ```
/// # use towpath_loop::op;
/// let entries = op::read_entire_dir("/proc/self/task").wait()?;
/// assert_eq!(entries.iter().filter(|entry| entry.name() == "self").count(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_entire_dir<'s>(path: impl AsRef<Path>) -> ReadEntireDir<'s> {
    let args = entire(libc::O_RDONLY | libc::O_DIRECTORY, 0);
    ReadEntireDir(ReadEntire { place: Place::path(path), args, options: Options::NONE })
}

impl<'s> ReadEntireDir<'s> {
    /// Ends the operation with `TimedOut` if it takes longer: see [`ReadEntire::timeout`].
    pub fn timeout(self, duration: std::time::Duration) -> Self {
        ReadEntireDir(self.0.timeout(duration))
    }

    /// Ends the operation with `TimedOut` if it is not over by then: see [`ReadEntire::deadline`].
    pub fn deadline(self, deadline: crate::Instant) -> Self {
        ReadEntireDir(self.0.deadline(deadline))
    }

    /// Lets a relative path start in this directory instead of the current one.
    pub fn at(self, dir: impl Into<Target<'s>>) -> Self {
        ReadEntireDir(self.0.at(dir))
    }

    /// The most bytes to use: about 24 and the length of its name for each entry.
    pub fn limit(self, bytes: usize) -> Self {
        ReadEntireDir(self.0.limit(bytes))
    }
}

// SAFETY: as `ReadEntire`, which it is.
unsafe impl Operation for ReadEntireDir<'_> {
    type Output = Result<Entries, StepError>;
    fn options(&self) -> Options {
        self.0.options()
    }
    fn start(&mut self, begin: &Begin<'_>) -> Started {
        self.0.start(begin)
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        self.0.finish(outcome).map(Entries::new)
    }
}

impl Detach for ReadEntireDir<'_> {
    type Owned = ReadEntireDir<'static>;
    fn detach(self) -> ReadEntireDir<'static> {
        ReadEntireDir(self.0.detach())
    }
}

ways_to_wait!(ReadEntireDir<'s> => ReadEntireDir<'static>);

/// A write of a whole file: see [`write_entire`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct WriteEntire<'s, B> {
    place: Place<'s>,
    buf: B,
    args: Entire,
    options: Options,
}

/// Makes a file with these bytes in it, or replaces what is in it. An owned buffer comes back with success.
///
/// Not in one step: whoever reads it meanwhile finds a part, and so does everybody if it fails or is cancelled.
///
/// On every backend a thread of the pool opens and writes it.
///
/// # Errors
/// Of the step that failed.
pub fn write_entire<'s, B: IoBuf>(path: impl AsRef<Path>, buf: B) -> WriteEntire<'s, B> {
    let args = entire(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o666);
    WriteEntire { place: Place::path(path), buf, args, options: Options::NONE }
}

impl<'s, B> WriteEntire<'s, B> {
    limits!();

    /// Lets a relative path start in this directory instead of the current one.
    pub fn at(mut self, dir: impl Into<Target<'s>>) -> Self {
        self.place.start_in(dir.into());
        self
    }

    /// The permissions of a file that is made, as the process's umask allows; 0o666 unless told otherwise.
    pub fn mode(mut self, mode: u32) -> Self {
        self.args.how.mode = u64::from(mode & 0o7777);
        self
    }

    /// Fails with `AlreadyExists` if the file is there.
    pub fn create_new(mut self) -> Self {
        self.args.how.flags |= libc::O_EXCL as u64;
        self
    }
}

impl<B> fmt::Debug for WriteEntire<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteEntire").field("place", &self.place).finish_non_exhaustive()
    }
}

// SAFETY: the request points into `self`, to its path, and to the buffer, which by `IoBuf` stays valid while `self` is
// left alone; the place keeps the directory open.
unsafe impl<B: IoBuf> Operation for WriteEntire<'_, B> {
    type Output = Result<B::Done, StepError>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        match self.place.get() {
            Ok((dir, path)) => {
                (self.args.dir, self.args.path, self.args.bytes) = (dir, path, self.buf.bytes());
                Started::Request(Request::WriteEntire { args: &raw mut self.args })
            }
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.value() {
            Ok(_) => {
                let n = self.buf.bytes().1;
                Ok(self.buf.done(n))
            }
            Err(error) => Err(StepError { step: self.args.step, error }),
        }
    }
}

impl<B: IoBuf + 'static> Detach for WriteEntire<'_, B> {
    type Owned = WriteEntire<'static, B>;
    fn detach(self) -> WriteEntire<'static, B> {
        WriteEntire { place: self.place.detach(), buf: self.buf, args: self.args, options: self.options }
    }
}

ways_to_wait!(WriteEntire<'s, B: IoBuf> => WriteEntire<'static, B>);
