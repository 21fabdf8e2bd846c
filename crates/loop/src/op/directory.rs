//! Reading directories: a batch of entries at a time, or all of them.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::metadata::FileType;
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, ways_to_wait};
use crate::descriptor::Target;
use crate::operation::Request;

/// Room for some thousand entries with short names.
const ROOM: usize = 32 << 10;

/// A read of a directory: see [`read_dir`].
#[must_use = "operations do nothing until they are submitted or waited for"]
#[derive(Debug)]
pub struct ReadDir<'s> {
    dir: Target<'s>,
    buf: Vec<u8>,
    options: Options,
}

/// Reads the next entries of an open directory. [`Entries::is_end`] tells when there are no more.
///
/// Entries that are made or removed meanwhile may turn up or not; those that stay turn up once. For all of a directory at
/// once there is [`read_entire_dir`](super::read_entire_dir).
///
/// On every backend `getdents64(2)` in the pool.
///
/// ```
/// # use towpath_loop::op;
/// let dir = op::open("/proc/self/task").wait()?;
/// let mut entries = op::read_dir(&dir).wait()?;
/// while !entries.is_end() {
///     for entry in &entries {
///         println!("{:?}", entry.name());
///     }
///     entries = op::read_dir(&dir).buffer(entries.into_buffer()).wait()?;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_dir<'s>(dir: impl Into<Target<'s>>) -> ReadDir<'s> {
    ReadDir { dir: dir.into(), buf: Vec::new(), options: Options::NONE }
}

impl ReadDir<'_> {
    limits!();

    /// Uses this buffer's memory, all that it has, instead of a new one of 32 KiB. One too small for the next entry fails
    /// with `InvalidInput` (`EINVAL`); 280 bytes are enough.
    pub fn buffer(mut self, buf: Vec<u8>) -> Self {
        self.buf = buf;
        self
    }
}

// SAFETY: the request points to the buffer in `self`, and `dir` keeps the descriptor open.
unsafe impl Operation for ReadDir<'_> {
    type Output = io::Result<Entries>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let handle = match self.dir.handle() {
            Ok(handle) => handle,
            Err(errno) => return Started::failed(errno),
        };
        let room = if self.buf.capacity() == 0 { ROOM } else { self.buf.capacity() };
        self.buf.resize(room, 0);
        Started::Request(Request::ReadDir { handle, buf: self.buf.as_mut_ptr(), len: self.buf.len() })
    }
    fn finish(mut self, outcome: Outcome) -> Self::Output {
        outcome.value().map(|len| {
            self.buf.truncate(len as usize);
            Entries::new(self.buf)
        })
    }
}

impl Detach for ReadDir<'_> {
    type Owned = ReadDir<'static>;
    fn detach(self) -> ReadDir<'static> {
        ReadDir { dir: self.dir.detach(), buf: self.buf, options: self.options }
    }
}

ways_to_wait!(ReadDir<'s> => ReadDir<'static>);

/// Entries of a directory: see [`read_dir`] and [`read_entire_dir`](super::read_entire_dir). `.` and `..` are left out.
pub struct Entries {
    /// Records as the kernel writes them.
    buf: Vec<u8>,
}

impl Entries {
    pub(super) fn new(buf: Vec<u8>) -> Entries {
        Entries { buf }
    }

    /// Whether the directory has no more. (That there are none in this batch does not say so.)
    pub fn is_end(&self) -> bool {
        self.buf.is_empty()
    }

    /// The entries.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.buf }
    }

    /// The memory, for the next batch.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buf
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = DirEntry<'a>;
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// See [`Entries::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

/// An entry of a directory.
#[derive(Clone, Copy)]
pub struct DirEntry<'a> {
    /// A `struct linux_dirent64`: number, offset, length of the record, type, name.
    record: &'a [u8],
}

/// Where the parts of a record are.
const LENGTH: usize = 16;
const TYPE: usize = 18;
const NAME: usize = 19;

impl<'a> Iterator for Iter<'a> {
    type Item = DirEntry<'a>;

    fn next(&mut self) -> Option<DirEntry<'a>> {
        while self.rest.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([self.rest[LENGTH], self.rest[LENGTH + 1]]));
            let (record, rest) = self.rest.split_at_checked(length.max(NAME))?;
            self.rest = rest;
            let entry = DirEntry { record };
            if !matches!(entry.name().as_bytes(), b"." | b"..") {
                return Some(entry);
            }
        }
        None
    }
}

impl<'a> DirEntry<'a> {
    /// Its name, without a directory.
    pub fn name(&self) -> &'a OsStr {
        let name = &self.record[NAME..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        OsStr::from_bytes(&name[..end])
    }

    /// The file's number on its file system.
    pub fn ino(&self) -> u64 {
        self.word(0)
    }

    /// Where the next entry begins, for `lseek(2)` on the directory.
    pub fn next_offset(&self) -> i64 {
        self.word(8) as i64
    }

    /// What kind of thing it is; `None` if the file system does not say here: ask [`stat`](super::stat).
    pub fn file_type(&self) -> Option<FileType> {
        match self.record[TYPE] {
            libc::DT_UNKNOWN => None,
            // As in `readdir(3)`: the bits of `st_mode`, shifted.
            bits => Some(FileType::from_mode(u32::from(bits) << 12)),
        }
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.record[at..at + 8].try_into().expect("eight bytes"))
    }
}

impl fmt::Debug for DirEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirEntry").field("name", &self.name()).field("file_type", &self.file_type()).finish()
    }
}
