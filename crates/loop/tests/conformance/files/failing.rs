//! Files that fail: a device that is full, a limit on their size, errors of the device itself.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Resource;
use towpath_harness::sys;
use towpath_loop::operation::Step;
use towpath_loop::{File, op};

use super::fuse::Broken;
use super::*;
use crate::common::{current_loop, errno};

/// A file system of a test's own, seen by this thread and those that it starts, and gone with the value.
pub struct Mounted(CString);

impl Mounted {
    /// Mounts it on `at`, or skips the test where that is not allowed.
    pub fn new(kind: &str, at: &Path, flags: libc::c_ulong, options: &str) -> Mounted {
        let text = |text: &[u8]| CString::new(text).expect("no NUL");
        let (at, kind, options) =
            (text(at.as_os_str().as_bytes()), text(kind.as_bytes()), text(options.as_bytes()));
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: valid C strings, or null where that is allowed; the name space is this thread's own before anything is
        // mounted.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null())
                    == 0
                && libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) == 0
        };
        if !mounted {
            towpath_harness::skip(&format!("nothing may be mounted here: {}", io::Error::last_os_error()));
        }
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // SAFETY: a valid C string.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Writes all of it: how much was written, and the error.
fn write_all(file: &File, data: &[u8], at: u64) -> (usize, Option<i32>) {
    let (n, result) = op::write(file, data).at(at).all(true).wait_counted();
    (n, result.err().map(|error| error.raw_os_error().expect("the system's")))
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// G6: the file system fills up in the middle of a write. What was written is told, and there.
pub fn g06_the_file_system_is_full() {
    const ROOM: usize = 1 << 20;
    let dir = TempDir::new();
    let _mounted = Mounted::new("tmpfs", &dir.0, 0, "size=1m");
    let loop_ = current_loop();
    let data: Vec<u8> = (0..3 * ROOM as u32).map(|at| (at % 251) as u8).collect();
    let path = dir.path("file");
    let file = edit(&path);
    let (n, error) = write_all(&file, &data, 0);
    assert_eq!(error, Some(libc::ENOSPC));
    assert!(n > 0 && n <= ROOM && len(&path) == n as u64, "{n} of {}", len(&path));
    assert!(fs::read(&path).unwrap() == data[..n], "not what was written");
    // Owned, it comes back with the error; and from a pipe, in pieces.
    let failed = loop_.start(op::write(&file, data).at(n as u64).all(true)).take().unwrap().unwrap_err();
    assert_eq!((failed.error.kind(), failed.transferred), (io::ErrorKind::StorageFull, 0));
    let data = failed.buf.expect("it took the buffer");
    assert_eq!(errno(op::allocate(&file, 0, 4 * ROOM as u64, 0).wait()), libc::ENOSPC);
    let (from, to) = op::pipe().wait().unwrap();
    op::write(&to, &data[..4096]).wait().unwrap();
    assert_eq!(errno(op::splice(&from, &file, 4096).to_at(n as u64).wait()), libc::ENOSPC);
    // One step of it fails, and is named. What was there before is not.
    let failed = op::write_entire(dir.path("other"), &data[..]).wait().unwrap_err();
    assert_eq!((failed.step, failed.error.kind()), (Step::Write, io::ErrorKind::StorageFull));
    op::remove_file(dir.path("other")).wait().unwrap();
    let copy = edit(dir.path("copy"));
    let copied = op::copy_range(&file, &copy, n).from_at(0).to_at(0).all(true).wait();
    assert_eq!(errno(copied), libc::ENOSPC);
    // Room again: all goes on as if nothing had been.
    drop(copy);
    op::remove_file(dir.path("copy")).wait().unwrap();
    op::set_len(&file, 0).wait().unwrap();
    assert_eq!(write_all(&file, &data[..ROOM / 2], 0), (ROOM / 2, None));
}

/// G6: the limit on the size of files. (That the signal that goes with it ends the process is the user's to decide.)
pub fn g06_the_file_is_too_large() {
    const LIMIT: usize = 100_000;
    // SAFETY: `SIG_IGN` is a valid disposition.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let dir = TempDir::new();
    let _loop = current_loop();
    let path = dir.path("file");
    let file = edit(&path);
    let _limit = sys::limit(Resource::Fsize, LIMIT as u64);
    assert_eq!(write_all(&file, &[1; 2 * LIMIT], 0), (LIMIT, Some(libc::EFBIG)));
    assert_eq!(len(&path), LIMIT as u64);
    assert_eq!(op::write(&file, &[2; 100]).at(LIMIT as u64 - 10).wait().unwrap(), 10);
    assert_eq!(errno(op::write(&file, &[2; 100]).at(LIMIT as u64).wait()), libc::EFBIG);
    assert_eq!(errno(op::set_len(&file, LIMIT as u64 + 1).wait()), libc::EFBIG);
    assert_eq!(errno(op::allocate(&file, 0, LIMIT as u64 + 1, 0).wait()), libc::EFBIG);
    let failed = op::write_entire(dir.path("other"), &[1; LIMIT + 1][..]).wait().unwrap_err();
    assert_eq!((failed.step, failed.error.raw_os_error()), (Step::Write, Some(libc::EFBIG)));
    op::set_len(&file, 10).wait().unwrap();
    assert_eq!(write_all(&file, &[3; 1000], 10), (1000, None));
}

/// G7: the device fails. Each operation says so, the sync above all; what was read before the bad spot is told.
pub fn g07_the_device_fails() {
    let dir = TempDir::new();
    let broken = Broken::mount(&dir.0);
    let loop_ = current_loop();
    let file = op::open(dir.path("file")).write(true).wait().unwrap();
    let mut buf = vec![0; 3 * 4096];
    // The first page is whole.
    let (n, result) = op::read(&file, &mut buf[..]).at(0).all(true).wait_counted();
    assert_eq!((n, result.unwrap_err().raw_os_error()), (4096, Some(libc::EIO)));
    assert_eq!(&buf[..4096], &[7; 4096]);
    assert_eq!(errno(op::read(&file, &mut buf[..]).at(4096).wait()), libc::EIO);
    assert_eq!(errno(op::write(&file, b"x").at(0).wait()), libc::EIO);
    assert_eq!(errno(op::sync(&file).wait()), libc::EIO);
    assert_eq!(errno(op::sync_data(&file).wait()), libc::EIO);
    let failed = loop_.start(op::read(&file, buf).at(4096)).take().unwrap().unwrap_err();
    assert_eq!(
        (failed.error.raw_os_error(), failed.buf.map(|buf| buf.len())),
        (Some(libc::EIO), Some(3 * 4096))
    );
    let failed = op::read_entire(dir.path("file")).wait().unwrap_err();
    assert_eq!((failed.step, failed.error.raw_os_error()), (Step::Read, Some(libc::EIO)));
    drop((file, broken));
}

/// F7: a close that fails is told, and the descriptor is gone all the same.
pub fn f07_a_close_that_fails() {
    let dir = TempDir::new();
    let broken = Broken::mount(&dir.0);
    let loop_ = current_loop();
    let fds = sys::fd_count();
    let file = op::open(dir.path("file")).wait().unwrap();
    let number = file.as_raw_fd();
    assert_eq!(errno(op::close(file).wait()), libc::EIO);
    assert_eq!(sys::fd_count(), fds);
    let file = op::open(dir.path("file")).wait().unwrap();
    assert_eq!(file.as_fd().as_raw_fd(), number, "the number was not free");
    assert_eq!(errno(loop_.start(op::close(file)).take().unwrap()), libc::EIO);
    assert_eq!(sys::fd_count(), fds);
    drop(broken);
}
