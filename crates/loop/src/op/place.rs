//! What operations on paths work on: a path, and where it starts; or an open file itself.

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::descriptor::{Descriptor, File, Target};
use crate::operation::{CURRENT_DIR, Handle};

/// Something in a file system: a path, or an open file itself. Made by `From`, so that builders take either.
///
/// A path with a NUL in it makes the operation fail with `InvalidInput` (`EINVAL`), untried. An empty path is the kernel's
/// to refuse, with `ENOENT`.
#[derive(Debug)]
pub struct Place<'s> {
    /// The directory that a relative path starts in; without a path, the open file.
    dir: Option<Target<'s>>,
    path: Option<Result<CString, i32>>,
}

impl<'s> Place<'s> {
    pub(crate) fn path(path: impl AsRef<Path>) -> Place<'s> {
        Place::owned(path.as_ref().as_os_str().to_owned())
    }

    fn owned(path: OsString) -> Place<'s> {
        Place { dir: None, path: Some(CString::new(path.into_vec()).map_err(|_| libc::EINVAL)) }
    }

    fn open(file: Target<'s>) -> Place<'s> {
        Place { dir: Some(file), path: None }
    }

    /// Lets the path start in `dir`. An open file needs none.
    pub(crate) fn start_in(&mut self, dir: Target<'s>) {
        if self.path.is_some() {
            self.dir = Some(dir);
        }
    }

    /// The directory and the path from there, for the kernel; the path is empty for an open file.
    pub(crate) fn get(&self) -> Result<(Handle, *const c_char), i32> {
        let dir = self.dir.as_ref().map_or(Ok(CURRENT_DIR), Target::handle)?;
        let path: &CStr = match &self.path {
            Some(Ok(path)) => path,
            Some(Err(errno)) => return Err(*errno),
            None => c"",
        };
        Ok((dir, path.as_ptr()))
    }

    /// As [`get`](Place::get), with a null pointer for an open file.
    pub(crate) fn get_or_null(&self) -> Result<(Handle, *const c_char), i32> {
        let (dir, path) = self.get()?;
        Ok((dir, if self.path.is_none() { std::ptr::null() } else { path }))
    }

    /// The `AT_*` flags with which the kernel finds it.
    pub(crate) fn flags(&self, follow: bool) -> i32 {
        match (&self.path, follow) {
            (None, _) => libc::AT_EMPTY_PATH,
            (Some(_), true) => 0,
            (Some(_), false) => libc::AT_SYMLINK_NOFOLLOW,
        }
    }

    pub(crate) fn detach(self) -> Place<'static> {
        Place { dir: self.dir.map(Target::detach), path: self.path }
    }
}

macro_rules! paths {
    ($($type:ty),*) => {$(
        impl From<$type> for Place<'_> {
            fn from(path: $type) -> Self {
                Place::path(path)
            }
        }
    )*};
}

paths!(&str, &String, &OsStr, &Path, &PathBuf);

impl From<String> for Place<'_> {
    fn from(path: String) -> Self {
        Place::owned(path.into())
    }
}

impl From<PathBuf> for Place<'_> {
    fn from(path: PathBuf) -> Self {
        Place::owned(path.into())
    }
}

macro_rules! open_files {
    ($($type:ty),*) => {$(
        impl<'s> From<$type> for Place<'s> {
            fn from(file: $type) -> Place<'s> {
                Place::open(file.into())
            }
        }
    )*};
}

open_files!(&'s File, File, &'s Descriptor, Descriptor, BorrowedFd<'s>);

/// Declares an operation on one [`Place`]: its fields, its request, and what comes of it.
macro_rules! on_place {
    (
        $(#[$doc:meta])* $type:ident { $($field:ident: $ty:ty),* $(,)? } -> $output:ty;
        |$this:ident, $dir:ident, $path:ident| $request:expr, by $get:ident;
        |$over:ident, $outcome:ident| $result:expr
    ) => {
        $(#[$doc])*
        #[must_use = "operations do nothing until they are submitted or waited for"]
        #[allow(missing_debug_implementations, reason = "what it holds has none")]
        pub struct $type<'s> {
            place: Place<'s>,
            $($field: $ty,)*
            options: Options,
        }

        impl<'s> $type<'s> {
            limits!();

            /// Lets a relative path start in this directory instead of the current one.
            pub fn at(mut self, dir: impl Into<Target<'s>>) -> Self {
                self.place.start_in(dir.into());
                self
            }
        }

        // SAFETY: the request points into `self` and to its path only; the place keeps the descriptor open.
        unsafe impl Operation for $type<'_> {
            type Output = $output;
            fn options(&self) -> Options {
                self.options
            }
            fn is_pure(&self) -> bool {
                true
            }
            #[allow(unused_variables, reason = "not every request has parameters")]
            fn start(&mut self, _: &Begin<'_>) -> Started {
                match self.place.$get() {
                    Ok(($dir, $path)) => {
                        let $this = self;
                        Started::Request($request)
                    }
                    Err(errno) => Started::failed(errno),
                }
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                let ($over, $outcome) = (self, outcome);
                $result
            }
        }

        impl Detach for $type<'_> {
            type Owned = $type<'static>;
            fn detach(self) -> $type<'static> {
                let $type { place, $($field,)* options } = self;
                $type { place: place.detach(), $($field,)* options }
            }
        }

        ways_to_wait!($type<'s> => $type<'static>);
    };
}

pub(crate) use on_place;
