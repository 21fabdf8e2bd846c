//! Operations on names in directories: making, moving, removing, and what belongs to a name.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::place::{Place, on_place};
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::descriptor::Target;
use crate::operation::{CURRENT_DIR, Entry, Request};

on_place! {
    /// A removal: see [`remove_file`] and [`remove_dir`].
    Remove { flags: i32 } -> io::Result<()>;
    |this, dir, path| Request::Remove { dir, path, flags: this.flags }, by get;
    |_this, outcome| outcome.value().map(drop)
}

/// Removes a name that is not a directory's; the file goes with its last name and the last that has it open.
///
/// io_uring: `IORING_OP_UNLINKAT` (5.11); elsewhere `unlinkat(2)` in the pool.
pub fn remove_file<'s>(path: impl AsRef<Path>) -> Remove<'s> {
    Remove { place: Place::path(path), flags: 0, options: Options::NONE }
}

/// Removes an empty directory.
///
/// io_uring: `IORING_OP_UNLINKAT` (5.11); elsewhere `unlinkat(2)` in the pool.
pub fn remove_dir<'s>(path: impl AsRef<Path>) -> Remove<'s> {
    Remove { place: Place::path(path), flags: libc::AT_REMOVEDIR, options: Options::NONE }
}

on_place! {
    /// A new directory: see [`create_dir`].
    CreateDir { mode: u32 } -> io::Result<()>;
    |this, dir, path| Request::CreateDir { dir, path, mode: this.mode }, by get;
    |_this, outcome| outcome.value().map(drop)
}

/// Makes a directory.
///
/// io_uring: `IORING_OP_MKDIRAT` (5.15); elsewhere `mkdirat(2)` in the pool.
pub fn create_dir<'s>(path: impl AsRef<Path>) -> CreateDir<'s> {
    CreateDir { place: Place::path(path), mode: 0o777, options: Options::NONE }
}

impl CreateDir<'_> {
    /// Its permissions, as the process's umask allows; 0o777 unless told otherwise.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
}

on_place! {
    /// A symbolic link: see [`symlink`].
    Symlink { original: Result<CString, i32> } -> io::Result<()>;
    |this, dir, path| match &this.original {
        Ok(original) => Request::Symlink { dir, path, original: original.as_ptr() },
        Err(errno) => return Started::failed(*errno),
    }, by get;
    |_this, outcome| outcome.value().map(drop)
}

/// Makes `link` a symbolic link to `original`, which need not be there.
///
/// io_uring: `IORING_OP_SYMLINKAT` (5.15); elsewhere `symlinkat(2)` in the pool.
pub fn symlink<'s>(original: impl AsRef<Path>, link: impl AsRef<Path>) -> Symlink<'s> {
    let original = CString::new(original.as_ref().as_os_str().as_bytes()).map_err(|_| libc::EINVAL);
    Symlink { place: Place::path(link), original, options: Options::NONE }
}

on_place! {
    /// A look at a symbolic link: see [`read_link`].
    ReadLink { buf: Vec<u8> } -> io::Result<PathBuf>;
    |this, dir, path| {
        // A symbolic link is shorter than this, by the kernel's own limit.
        this.buf.resize(libc::PATH_MAX as usize, 0);
        Request::ReadLink { dir, path, buf: this.buf.as_mut_ptr(), len: this.buf.len() }
    }, by get;
    |this, outcome| outcome.value().map(|len| path_of(this.buf, len))
}

/// The path that a symbolic link leads to, as it was written.
///
/// On every backend `readlinkat(2)` in the pool.
pub fn read_link<'s>(path: impl AsRef<Path>) -> ReadLink<'s> {
    ReadLink { place: Place::path(path), buf: Vec::new(), options: Options::NONE }
}

fn path_of(mut buf: Vec<u8>, len: i32) -> PathBuf {
    buf.truncate(len as usize);
    buf.shrink_to_fit();
    OsString::from_vec(buf).into()
}

/// A search for a path without detours: see [`real_path`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct RealPath {
    place: Place<'static>,
    buf: Vec<u8>,
    options: Options,
}

/// The absolute path of something that is there, without symbolic links, `.` and `..`.
///
/// On every backend `realpath(3)` in the pool.
pub fn real_path(path: impl AsRef<Path>) -> RealPath {
    RealPath { place: Place::path(path), buf: Vec::new(), options: Options::NONE }
}

impl RealPath {
    limits!();
}

// SAFETY: the request points to the path and buffer in `self`; the buffer has the room that `realpath` wants.
unsafe impl Operation for RealPath {
    type Output = io::Result<PathBuf>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        self.buf.resize(libc::PATH_MAX as usize, 0);
        match self.place.get() {
            Ok((_, path)) => Started::Request(Request::RealPath { path, buf: self.buf.as_mut_ptr() }),
            Err(errno) => Started::failed(errno),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        outcome.value().map(|len| path_of(self.buf, len))
    }
}

impl Detach for RealPath {
    type Owned = RealPath;
    fn detach(self) -> RealPath {
        self
    }
}

ways_to_wait!(RealPath => RealPath);

/// Declares an operation from one name to another.
macro_rules! from_name_to_name {
    ($(#[$doc:meta])* $type:ident; |$dir:ident, $path:ident, $to:ident, $flags:ident| $request:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s> {
            from: Place<'s>,
            to: Place<'s>,
            /// `to`, as the request points to it.
            entry: Entry,
            flags: i32,
            options: Options,
        }

        impl<'s> $type<'s> {
            fn new(from: &Path, to: &Path) -> $type<'s> {
                let entry = Entry { dir: CURRENT_DIR, path: std::ptr::null() };
                let (from, to) = (Place::path(from), Place::path(to));
                $type { from, to, entry, flags: 0, options: Options::NONE }
            }

            limits!();

            /// Lets the first path start in this directory, if it is relative, instead of the current one.
            pub fn from_at(mut self, dir: impl Into<Target<'s>>) -> Self {
                self.from.start_in(dir.into());
                self
            }

            /// Lets the second path start in this directory, if it is relative, instead of the current one.
            pub fn to_at(mut self, dir: impl Into<Target<'s>>) -> Self {
                self.to.start_in(dir.into());
                self
            }
        }

        // SAFETY: the request points into `self` and to its paths only; the places keep their descriptors open.
        unsafe impl Operation for $type<'_> {
            type Output = io::Result<()>;
            fn options(&self) -> Options {
                self.options
            }
            fn is_pure(&self) -> bool {
                true
            }
            fn start(&mut self, _: &Begin<'_>) -> Started {
                match (self.from.get(), self.to.get()) {
                    (Ok(($dir, $path)), Ok((to_dir, to_path))) => {
                        self.entry = Entry { dir: to_dir, path: to_path };
                        let ($to, $flags) = (&raw const self.entry, self.flags);
                        Started::Request($request)
                    }
                    (Err(errno), _) | (_, Err(errno)) => Started::failed(errno),
                }
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                outcome.value().map(drop)
            }
        }

        impl Detach for $type<'_> {
            type Owned = $type<'static>;
            fn detach(self) -> $type<'static> {
                let $type { from, to, entry, flags, options } = self;
                $type { from: from.detach(), to: to.detach(), entry, flags, options }
            }
        }

        ways_to_wait!($type<'s> => $type<'static>);
    };
}

from_name_to_name! {
    /// A renaming: see [`rename`].
    Rename;
    |dir, path, to, flags| Request::Rename { dir, path, to, flags: flags as u32 }
}

/// Gives something another name, in place of what has that name. Between file systems it fails with `CrossesDevices`.
///
/// io_uring: `IORING_OP_RENAMEAT` (5.11); elsewhere `renameat2(2)` in the pool.
pub fn rename<'s>(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Rename<'s> {
    Rename::new(from.as_ref(), to.as_ref())
}

impl Rename<'_> {
    /// Fails with `AlreadyExists` rather than replace anything; in one step. A file system that cannot says `InvalidInput`
    /// (`EINVAL`), and nothing has happened.
    pub fn no_replace(mut self) -> Self {
        self.flags |= libc::RENAME_NOREPLACE as i32;
        self
    }

    /// Lets the two change names; both have to be there. A file system that cannot says `InvalidInput` (`EINVAL`), and
    /// nothing has happened.
    pub fn exchange(mut self) -> Self {
        self.flags |= libc::RENAME_EXCHANGE as i32;
        self
    }
}

from_name_to_name! {
    /// A second name: see [`hard_link`].
    HardLink;
    |dir, path, to, flags| Request::HardLink { dir, path, to, flags }
}

/// Gives a file a second name, `link`, on the same file system. A symbolic link is itself given one.
///
/// io_uring: `IORING_OP_LINKAT` (5.15); elsewhere `linkat(2)` in the pool.
pub fn hard_link<'s>(original: impl AsRef<Path>, link: impl AsRef<Path>) -> HardLink<'s> {
    HardLink::new(original.as_ref(), link.as_ref())
}

impl HardLink<'_> {
    /// Whether a symbolic link is followed first. Off unless told otherwise.
    pub fn follow(mut self, follow: bool) -> Self {
        self.flags = if follow { libc::AT_SYMLINK_FOLLOW } else { 0 };
        self
    }
}

on_place! {
    /// A question for permission: see [`access`].
    Access { mode: i32, flags: i32 } -> io::Result<()>;
    |this, dir, path| Request::Access { dir, path, mode: this.mode, flags: this.flags }, by get;
    |_this, outcome| outcome.value().map(drop)
}

/// Asks whether the process may do this (`R_OK`, `W_OK`, `X_OK`; `F_OK`: whether it is there), as who it really is
/// (not as whom it acts): an error if not. The answer may be out of date when it comes.
///
/// On every backend `faccessat(2)` in the pool.
pub fn access<'s>(path: impl AsRef<Path>, mode: i32) -> Access<'s> {
    Access { place: Place::path(path), mode, flags: 0, options: Options::NONE }
}

impl Access<'_> {
    /// Asks as whom the process acts: what it could open.
    pub fn effective(mut self) -> Self {
        self.flags |= libc::AT_EACCESS;
        self
    }
}

on_place! {
    /// A change of permissions: see [`set_permissions`].
    SetPermissions { mode: u32 } -> io::Result<()>;
    |this, dir, path| Request::SetPermissions { dir, path, mode: this.mode }, by get_or_null;
    |_this, outcome| outcome.value().map(drop)
}

/// Sets the permission bits of a file, by path (symbolic links are followed) or of an open one.
///
/// On every backend `fchmodat(2)` or `fchmod(2)` in the pool.
pub fn set_permissions<'s>(place: impl Into<Place<'s>>, mode: u32) -> SetPermissions<'s> {
    SetPermissions { place: place.into(), mode, options: Options::NONE }
}

on_place! {
    /// A change of owner: see [`set_owner`].
    SetOwner { owner: u32, group: u32, follow: bool } -> io::Result<()>;
    |this, dir, path| Request::SetOwner {
        dir,
        path,
        owner: this.owner,
        group: this.group,
        flags: this.place.flags(this.follow),
    }, by get;
    |_this, outcome| outcome.value().map(drop)
}

/// Sets the owner and the group of a file, by path or of an open one; `None` leaves one as it is.
///
/// On every backend `fchownat(2)` in the pool.
pub fn set_owner<'s>(place: impl Into<Place<'s>>, owner: Option<u32>, group: Option<u32>) -> SetOwner<'s> {
    let (owner, group) = (owner.unwrap_or(u32::MAX), group.unwrap_or(u32::MAX));
    SetOwner { place: place.into(), owner, group, follow: true, options: Options::NONE }
}

impl SetOwner<'_> {
    /// Whether a symbolic link is followed. On unless told otherwise.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }
}

/// What a time stamp of a file is set to: see [`set_times`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileTime {
    /// The time when it is carried out.
    Now,
    /// As it is.
    Omit,
    /// This time, as precisely as the file system keeps it.
    At(SystemTime),
}

impl FileTime {
    fn timespec(self) -> libc::timespec {
        // All fields, also where the C library pads the structure.
        let mut spec = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW };
        match self {
            FileTime::Now => {}
            FileTime::Omit => spec.tv_nsec = libc::UTIME_OMIT,
            FileTime::At(time) => match time.duration_since(UNIX_EPOCH) {
                Ok(since) => {
                    spec.tv_sec = since.as_secs() as libc::time_t;
                    spec.tv_nsec = since.subsec_nanos() as _;
                }
                Err(before) => {
                    // Seconds downwards, nanoseconds upwards from there.
                    let before = before.duration();
                    let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                    spec.tv_sec = -(before.as_secs() as libc::time_t) - libc::time_t::from(nanos != 0);
                    spec.tv_nsec = nanos as _;
                }
            },
        }
        spec
    }
}

on_place! {
    /// A change of time stamps: see [`set_times`].
    SetTimes { times: [libc::timespec; 2], follow: bool } -> io::Result<()>;
    |this, dir, path| Request::SetTimes {
        dir,
        path,
        times: &raw const this.times,
        flags: if this.follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW },
    }, by get_or_null;
    |_this, outcome| outcome.value().map(drop)
}

/// Sets when a file was last read, and last written, by path or of an open one.
///
/// On every backend `utimensat(2)` or `futimens(3)` in the pool.
pub fn set_times<'s>(place: impl Into<Place<'s>>, accessed: FileTime, modified: FileTime) -> SetTimes<'s> {
    let times = [accessed.timespec(), modified.timespec()];
    SetTimes { place: place.into(), times, follow: true, options: Options::NONE }
}

impl SetTimes<'_> {
    /// Whether a symbolic link is followed. On unless told otherwise.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_before_the_epoch_count_upwards_from_the_second_below() {
        let spec = |time| {
            let spec = FileTime::At(time).timespec();
            (spec.tv_sec, spec.tv_nsec)
        };
        assert_eq!(spec(UNIX_EPOCH), (0, 0));
        assert_eq!(spec(UNIX_EPOCH + Duration::new(1, 5)), (1, 5));
        assert_eq!(spec(UNIX_EPOCH - Duration::new(1, 0)), (-1, 0));
        assert_eq!(spec(UNIX_EPOCH - Duration::from_nanos(1)), (-1, 999_999_999));
        assert_eq!(spec(UNIX_EPOCH - Duration::new(1, 1)), (-2, 999_999_999));
    }
}
