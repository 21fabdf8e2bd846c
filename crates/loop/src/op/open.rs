//! Opening files.

use std::io;
use std::path::Path;

use super::place::{Place, on_place};
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::descriptor::{File, Target};
use crate::operation::{OpenHow, Request};

on_place! {
    /// An open: see [`open`].
    Open { access: Access, how: OpenHow } -> io::Result<File>;
    |this, dir, path| match this.access.flags(this.how) {
        Ok(how) => {
            this.how = how;
            let how = &raw const this.how;
            if this.how.resolve == 0 { Request::Open { dir, path, how } } else { Request::OpenResolved { dir, path, how } }
        }
        Err(errno) => return Started::failed(errno),
    }, by get;
    |_this, outcome| outcome.value().map(File::adopt)
}

/// What a file is opened for, as in [`std::fs::OpenOptions`].
#[derive(Clone, Copy, Default)]
struct Access {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    directory: bool,
    flags: i32,
}

impl Access {
    /// The kernel's parameters, or `EINVAL` where `std` has it as well.
    fn flags(self, how: OpenHow) -> Result<OpenHow, i32> {
        let access = match (self.read, self.write, self.append) {
            (true, false, false) => libc::O_RDONLY,
            (false, true, false) => libc::O_WRONLY,
            (true, true, false) => libc::O_RDWR,
            (false, _, true) => libc::O_WRONLY | libc::O_APPEND,
            (true, _, true) => libc::O_RDWR | libc::O_APPEND,
            (false, false, false) => return Err(libc::EINVAL),
        };
        let creation = match (self.create, self.truncate, self.create_new) {
            (_, _, true) => libc::O_CREAT | libc::O_EXCL,
            (true, truncate, false) => libc::O_CREAT | if truncate { libc::O_TRUNC } else { 0 },
            (false, truncate, false) => {
                if truncate {
                    libc::O_TRUNC
                } else {
                    0
                }
            }
        };
        let writes = self.write || self.append;
        if (creation != 0 && !writes)
            || (self.append && self.truncate && !self.create_new)
            // This would say EAGAIN for "not in the cache", and a loop has better ways not to wait.
            || how.resolve & libc::RESOLVE_CACHED != 0
        {
            return Err(libc::EINVAL);
        }
        let directory = if self.directory { libc::O_DIRECTORY } else { 0 };
        let flags = access | creation | directory | libc::O_CLOEXEC | (self.flags & !libc::O_ACCMODE);
        // A mode where nothing is made is an error to the stricter of the two calls.
        let makes = flags & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) != 0;
        Ok(OpenHow { flags: flags as u32 as u64, mode: if makes { how.mode & 0o7777 } else { 0 }, ..how })
    }
}

/// Opens a file, to read it unless told otherwise; close-on-exec. The options are those of [`std::fs::OpenOptions`].
///
/// Cancelled, or nobody wants it any more: a file that was opened all the same is closed. A FIFO waits for its other end,
/// and is cancelled like anything else.
///
/// io_uring: `IORING_OP_OPENAT`, or with [`resolve`](Open::resolve) `IORING_OP_OPENAT2` (both 5.6); elsewhere `openat(2)` or
/// `openat2(2)` in the pool.
///
/// ```
/// # use towpath_loop::op;
/// let file = op::open("/proc/self/status").wait()?;
/// let dir = op::open("/proc").wait()?;
/// let same = op::open("self/status").at(&dir).wait()?;
/// # drop((file, same));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn open<'s>(path: impl AsRef<Path>) -> Open<'s> {
    let access = Access { read: true, ..Access::default() };
    let how = OpenHow { mode: 0o666, ..OpenHow::default() };
    Open { place: Place::path(path), access, how, options: Options::NONE }
}

/// Opens a file to write it, makes it if it is not there, and cuts it to nothing if it is: [`open`] with `write`, `create`
/// and `truncate`.
pub fn create<'s>(path: impl AsRef<Path>) -> Open<'s> {
    open(path).read(false).write(true).create(true).truncate(true)
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: bool) -> Self {
            self.access.$name = $name;
            self
        }
    )*};
}

impl Open<'_> {
    choices! {
        /// To read it. On by default.
        read
        /// To write it.
        write
        /// To write at its end, always.
        append
        /// Cuts it to nothing. Needs `write`.
        truncate
        /// Makes it if it is not there. Needs `write` or `append`.
        create
        /// Makes it, and fails with `AlreadyExists` if it is there. Needs `write` or `append`.
        create_new
    }

    /// The permissions of a file that is made, as the process's umask allows; 0o666 unless told otherwise.
    pub fn mode(mut self, mode: u32) -> Self {
        self.how.mode = u64::from(mode);
        self
    }

    /// Fails with `NotADirectory` if it is something else than a directory.
    pub fn directory(mut self) -> Self {
        self.access.directory = true;
        self
    }

    /// Further flags (`O_*`), but for those that say whether it is read or written.
    pub fn custom_flags(mut self, flags: i32) -> Self {
        self.access.flags = flags;
        self
    }

    /// How the path may be resolved (`RESOLVE_*` of `openat2(2)`): `RESOLVE_BENEATH` keeps it inside of the directory that
    /// it starts in, whoever plants symbolic links there. `Unsupported` (`ENOSYS`) where the kernel has no `openat2`
    /// (before 5.6): it is never done in another way. `RESOLVE_CACHED` is refused with `InvalidInput`.
    pub fn resolve(mut self, flags: u64) -> Self {
        self.how.resolve = flags;
        self
    }
}
