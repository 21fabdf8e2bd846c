//! What the system knows about a file.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::place::{Place, on_place};
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::descriptor::Target;
use crate::operation::Request;

on_place! {
    /// A question about a file: see [`stat`].
    Stat { out: Box<libc::statx>, follow: bool, flags: i32, mask: u32 } -> io::Result<Metadata>;
    |this, dir, path| Request::Stat {
        dir,
        path,
        flags: this.place.flags(this.follow) | this.flags,
        mask: this.mask,
        out: &raw mut *this.out,
    }, by get;
    |this, outcome| outcome.value().map(|_| Metadata(this.out))
}

/// What there is to know about a file, by path or of an open one.
///
/// io_uring: `IORING_OP_STATX` (5.6); elsewhere `statx(2)` in the pool.
///
/// ```
/// # use towpath_loop::op;
/// let here = op::stat(".").wait()?;
/// assert!(here.file_type().is_dir());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn stat<'s>(place: impl Into<Place<'s>>) -> Stat<'s> {
    // SAFETY: all-zero bytes are a valid `statx`: numbers only.
    let out = Box::new(unsafe { std::mem::zeroed() });
    // All that there was when `statx` was new, and what came later; the kernel leaves out what it does not know.
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID | libc::STATX_DIOALIGN;
    Stat { place: place.into(), out, follow: true, flags: 0, mask, options: Options::NONE }
}

impl Stat<'_> {
    /// Whether a symbolic link is followed. On unless told otherwise.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Which fields are of interest (`STATX_*`): those that are dear to get can be left out. All, unless told otherwise.
    pub fn mask(mut self, mask: u32) -> Self {
        self.mask = mask;
        self
    }

    /// Further flags: `AT_NO_AUTOMOUNT`, and how a network file system should synchronise (`AT_STATX_FORCE_SYNC`,
    /// `AT_STATX_DONT_SYNC`).
    pub fn flags(mut self, flags: i32) -> Self {
        self.flags = flags;
        self
    }
}

/// What kind of thing a file is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "as it says")]
pub enum FileType {
    File,
    Dir,
    Symlink,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
    /// None of the system's usual kinds, like an event counter.
    Unknown,
}

impl FileType {
    pub(crate) fn from_mode(mode: u32) -> FileType {
        match mode & libc::S_IFMT {
            libc::S_IFREG => FileType::File,
            libc::S_IFDIR => FileType::Dir,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => FileType::Unknown,
        }
    }

    /// Whether it is a regular file.
    pub fn is_file(self) -> bool {
        self == FileType::File
    }

    /// Whether it is a directory.
    pub fn is_dir(self) -> bool {
        self == FileType::Dir
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(self) -> bool {
        self == FileType::Symlink
    }
}

/// What `statx(2)` tells about a file: see [`stat`].
///
/// What depends on kernel or file system is an `Option`; so is what was left out by [`Stat::mask`], but for the plain
/// numbers, which are then 0 or whatever the file system had at hand.
#[derive(Clone)]
pub struct Metadata(Box<libc::statx>);

/// Declares numbers of a `statx`.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident: $ty:ty = $field:ident)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> $ty {
            self.0.$field.into()
        }
    )*};
}

/// Declares times of a `statx`.
macro_rules! times {
    ($($(#[$doc:meta])* $name:ident = $field:ident, $bit:ident)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> Option<SystemTime> {
            if self.has(libc::$bit) { time(&self.0.$field) } else { None }
        }
    )*};
}

#[allow(clippy::len_without_is_empty, reason = "as std's: a file's length is not a collection's")]
impl Metadata {
    numbers! {
        /// Its length in bytes.
        len: u64 = stx_size
        /// File type and permissions, as in `st_mode`.
        mode: u32 = stx_mode
        /// How many names it has.
        nlink: u32 = stx_nlink
        /// The user that it belongs to.
        uid: u32 = stx_uid
        /// The group that it belongs to.
        gid: u32 = stx_gid
        /// Its number on its file system.
        ino: u64 = stx_ino
        /// How much room it takes, in units of 512 bytes.
        blocks: u64 = stx_blocks
        /// In what portions it is best read and written, in bytes.
        blksize: u32 = stx_blksize
        /// What it is besides (`STATX_ATTR_*`), as far as [`attributes_mask`](Metadata::attributes_mask) says.
        attributes: u64 = stx_attributes
        /// Which attributes the file system knows of.
        attributes_mask: u64 = stx_attributes_mask
        /// Which fields the system has filled in (`STATX_*`).
        mask: u32 = stx_mask
    }

    times! {
        /// When it was last read.
        accessed = stx_atime, STATX_ATIME
        /// When it was last written.
        modified = stx_mtime, STATX_MTIME
        /// When anything of it, also what is told here, last changed.
        changed = stx_ctime, STATX_CTIME
        /// When it was made, where the file system keeps that.
        created = stx_btime, STATX_BTIME
    }

    /// What kind of thing it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode())
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type().is_file()
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type().is_dir()
    }

    /// Whether it is a symbolic link, and was not followed.
    pub fn is_symlink(&self) -> bool {
        self.file_type().is_symlink()
    }

    /// Whether both are about one file, by whatever names: device and number are the same.
    pub fn is_same_file(&self, other: &Metadata) -> bool {
        (self.dev(), self.ino()) == (other.dev(), other.ino())
    }

    /// The device that it is on, as in `st_dev`.
    pub fn dev(&self) -> u64 {
        libc::makedev(self.0.stx_dev_major, self.0.stx_dev_minor)
    }

    /// The device that it is, as in `st_rdev`.
    pub fn rdev(&self) -> u64 {
        libc::makedev(self.0.stx_rdev_major, self.0.stx_rdev_minor)
    }

    /// The mount that it was found through (Linux 5.8).
    pub fn mnt_id(&self) -> Option<u64> {
        self.has(libc::STATX_MNT_ID).then_some(self.0.stx_mnt_id)
    }

    /// How memory and offsets have to be aligned for `O_DIRECT`, in bytes; zeroes: it knows no such thing (Linux 6.1).
    pub fn direct_io_align(&self) -> Option<(u32, u32)> {
        let align = (self.0.stx_dio_mem_align, self.0.stx_dio_offset_align);
        self.has(libc::STATX_DIOALIGN).then_some(align)
    }

    /// The whole structure, for what has no name here.
    pub fn as_raw(&self) -> &libc::statx {
        &self.0
    }

    fn has(&self, bit: u32) -> bool {
        self.0.stx_mask & bit != 0
    }
}

/// `None` for what no `SystemTime` can be.
fn time(stamp: &libc::statx_timestamp) -> Option<SystemTime> {
    let seconds = Duration::from_secs(stamp.tv_sec.unsigned_abs());
    let second =
        if stamp.tv_sec < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    second?.checked_add(Duration::from_nanos(stamp.tv_nsec.into()))
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("file_type", &self.file_type())
            .field("mode", &format_args!("{:#o}", self.mode()))
            .field("len", &self.len())
            .field("modified", &self.modified())
            .finish_non_exhaustive()
    }
}
