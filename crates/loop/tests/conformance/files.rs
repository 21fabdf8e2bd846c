//! G, and what of C, E and O is about files.

pub mod contents;
pub mod durable;
pub mod failing;
mod fuse;
pub mod names;
pub mod waiting;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use towpath_loop::operation::{Kind, Support};
use towpath_loop::{File, Loop, op};

/// A directory of a test's own, removed with it.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        let name = format!("towpath-files-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        TempDir(path)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let text = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a valid C string.
        assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: impl AsRef<Path>) -> File {
    op::open(path).wait().unwrap()
}

fn edit(path: impl AsRef<Path>) -> File {
    op::open(path).write(true).create(true).wait().unwrap()
}

/// Whether the kernel here carries operations of this kind out by itself.
fn is_native(loop_: &Loop, kind: Kind) -> bool {
    loop_.capabilities().contains(&(kind, Support::Native))
}
