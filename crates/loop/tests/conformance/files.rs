//! G, and what of C, E and O is about files.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::future::{Future, IntoFuture};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

use towpath_harness::sys;
use towpath_loop::op::{self, FileTime, FileType};
use towpath_loop::operation::{Kind, Step, Support};
use towpath_loop::{File, Loop, is_canceled};

use crate::common::{
    CANARY, Tracked, assert_timed_out, current_loop, errno, error, new_loop, poke, tick_until,
};

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

/// Drives a loop until a future is ready.
fn complete<F: IntoFuture>(loop_: &Loop, future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        loop_.tick(Some(Duration::from_millis(100))).unwrap();
    }
}

/// Whether the kernel here carries operations of this kind out by itself.
fn is_native(loop_: &Loop, kind: Kind) -> bool {
    loop_.capabilities().contains(&(kind, Support::Native))
}

/// G0: all four ways to wait, for a request with a path and for one with a buffer.
pub fn g00_four_ways_to_wait() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    let path = dir.file("file", b"content");
    let mut buf = [0; 16];
    let file = op::open(&path).wait().unwrap();
    assert_eq!(op::read(&file, &mut buf[..]).at(3).wait().unwrap(), 4);
    assert_eq!(&buf[..4], b"tent");
    let file = loop_.start(op::open(&path)).take().unwrap().unwrap();
    let (n, bytes) = loop_.start(op::read(&file, vec![0; 4])).take().unwrap().unwrap();
    assert_eq!((n, &bytes[..]), (4, &b"cont"[..]));
    let file = complete(&loop_, op::open(&path)).unwrap();
    let (n, bytes) = complete(&loop_, op::read(file, vec![0; 8])).unwrap();
    assert_eq!((n, &bytes[..7]), (7, &b"content"[..]));
    let got = std::rc::Rc::new(std::cell::Cell::new(None));
    let to = got.clone();
    loop_.submit(op::open(path), move |loop_, file| {
        loop_.submit(op::read(file.unwrap(), vec![0; 7]), move |_, read| to.set(Some(read.unwrap().1)));
    });
    loop_.run().unwrap();
    assert_eq!(got.take().unwrap(), b"content");
    // From another thread's hand.
    let (tell, told) = std::sync::mpsc::channel();
    loop_.remote().submit(op::stat("/"), move |_, stat| tell.send(stat.is_ok()).unwrap()).unwrap();
    poke(&loop_);
    loop_.run().unwrap();
    assert!(told.recv().unwrap());
}

/// G1: what cannot be opened, as `std` has it.
pub fn g01_open_errors() {
    let _loop = current_loop();
    let dir = TempDir::new();
    dir.file("file", b"");
    fs::create_dir(dir.path("dir")).unwrap();
    op::symlink("loop", dir.path("loop")).wait().unwrap();
    let at = open(&dir.0);
    let code = |op: op::Open<'_>| errno(op.at(&at).wait());
    assert_eq!(code(op::open("nothing")), libc::ENOENT);
    assert_eq!(code(op::open("file/below")), libc::ENOTDIR);
    assert_eq!(code(op::open("dir").write(true)), libc::EISDIR);
    assert_eq!(code(op::open("loop")), libc::ELOOP);
    assert_eq!(code(op::open("n".repeat(300))), libc::ENAMETOOLONG);
    assert_eq!(code(op::open("file").write(true).create_new(true)), libc::EEXIST);
    // As `std` refuses them.
    assert_eq!(code(op::open("file").read(false)), libc::EINVAL);
    assert_eq!(code(op::open("file").truncate(true)), libc::EINVAL);
    assert_eq!(code(op::open("file").append(true).truncate(true)), libc::EINVAL);
    // What is made, is made as asked.
    let made = op::create("made").mode(0o640).at(&at).wait().unwrap();
    assert_eq!(op::stat(&made).wait().unwrap().mode() & 0o137, 0);
    assert!(rustix::io::fcntl_getfd(&made).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(!rustix::fs::fcntl_getfl(&made).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    op::open("dir")
        .custom_flags(libc::O_TMPFILE)
        .write(true)
        .mode(0o600)
        .at(&at)
        .wait()
        .map(drop)
        .unwrap_or_else(|error| assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}"));
    // A directory that was closed is none.
    let clone = at.clone();
    op::close(at).wait().unwrap();
    assert_eq!(errno(op::open("file").at(&clone).wait()), libc::EBADF);
}

/// G2: odd paths are an error or work; nothing panics.
pub fn g02_odd_paths() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    for path in ["a\0b", "\0"] {
        for error in [
            error(op::open(path).wait()),
            error(op::stat(path).wait()),
            error(op::rename(path, "x").wait()),
            error(op::rename("x", path).wait()),
            error(op::symlink(path, "x").wait()),
            error(op::real_path(path).wait()),
            error(op::read_entire(path).wait()),
            error(op::write_entire(path, b"").wait()),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error:?}");
        }
    }
    for code in [
        errno(op::open("").wait()),
        errno(op::stat("").at(&at).wait()),
        errno(op::create_dir("").wait()),
        errno(op::remove_file("").at(&at).wait()),
        errno(op::read_link("").wait()),
        errno(op::real_path("").wait()),
    ] {
        assert_eq!(code, libc::ENOENT);
    }
    assert_eq!(errno(op::open("x".repeat(4096)).wait()), libc::ENAMETOOLONG);
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"\xff\xfe \n"));
    op::create(odd).at(&at).wait().unwrap();
    let entries = op::read_dir(&at).wait().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name().to_owned()).collect::<Vec<_>>(), [odd.as_os_str()]);
    assert!(op::real_path(dir.0.join(odd)).wait().unwrap().ends_with(odd));
}

/// G3: the end of a file, and offsets that none can have.
pub fn g03_at_and_beyond_the_end() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let file = edit(dir.file("file", b"0123456789"));
    let mut buf = [0; 8];
    for (at, n) in [(0, 8), (4, 6), (9, 1), (10, 0), (1000, 0), (i64::MAX as u64, 0)] {
        let read = op::read(&file, &mut buf).at(at).wait();
        // The last byte that the kernel lets one ask for.
        if at == i64::MAX as u64 && read.is_err() {
            assert_eq!(errno(read), libc::EINVAL);
        } else {
            assert_eq!(read.unwrap(), n, "at {at}");
        }
    }
    for at in [i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX] {
        for error in [
            error(op::read(&file, &mut buf).at(at).wait()),
            error(op::write(&file, &buf).at(at).wait()),
            error(op::read_vectored(&file, &mut [IoSliceMut::new(&mut [0; 4])][..]).at(at).wait()),
            error(op::write_vectored(&file, &[IoSlice::new(b"x")][..]).at(at).wait()),
            error(op::set_len(&file, at).wait()),
            error(op::allocate(&file, at, 1, 0).wait()),
            error(op::copy_range(&file, &file, 1).from_at(at).to_at(0).wait()),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error:?} at {at}");
        }
    }
    assert_eq!(op::read(&file, &mut []).wait().unwrap(), 0);
    assert_eq!(op::write(&file, &[]).wait().unwrap(), 0);
    // The cursor has not moved, and moves to the end and no further.
    for n in [8, 2, 0, 0] {
        assert_eq!(op::read(&file, &mut buf).wait().unwrap(), n);
    }
}

/// G4: `all` goes on to the end, and says how far it came.
pub fn g04_all_of_it() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    let data: Vec<u8> = (0..1_000_003_u32).map(|at| (at % 251) as u8).collect();
    let file = edit(dir.path("file"));
    assert_eq!(op::write(&file, &data[..]).all(true).at(5).wait().unwrap(), data.len());
    let (n, back) =
        loop_.start(op::read(&file, vec![0; data.len() + 9]).at(5).all(true)).take().unwrap().unwrap();
    assert!(n == data.len() && back[..n] == data[..], "{n}");
    let mut buf = [0; 7];
    let (n, result) = op::read(&file, &mut buf[..]).at(data.len() as u64).all(true).wait_counted();
    assert_eq!((n, result.is_ok()), (5, true));
    // Through a pipe that holds less, in both directions.
    let (from, to) = op::pipe().flags(0).wait().unwrap();
    let sending = loop_.start(op::write(&to, data.clone()).all(true));
    let (n, back) = loop_.start(op::read(&from, vec![0; data.len()]).all(true)).take().unwrap().unwrap();
    assert!(n == data.len() && back == data);
    assert_eq!(sending.take().unwrap().unwrap().0, data.len());
}

/// G5: an offset leaves the cursor alone, and appending ignores it.
pub fn g05_cursor_and_positions() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let path = dir.file("file", b"abcdef");
    let file = edit(&path);
    let mut two = [0; 2];
    op::read(&file, &mut two).wait().unwrap();
    op::read(&file, &mut two).at(4).wait().unwrap();
    assert_eq!(&two, b"ef");
    op::write(&file, b"X").at(0).wait().unwrap();
    op::read(&file, &mut two).wait().unwrap();
    assert_eq!(&two, b"cd");
    op::write(&file, b"Y").wait().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"XbcdYf");
    let file = op::open(&path).read(false).append(true).wait().unwrap();
    op::write(&file, b"Z").at(0).wait().unwrap();
    op::write_vectored(&file, &[IoSlice::new(b"1"), IoSlice::new(b"2")][..]).wait().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"XbcdYfZ12");
    assert_eq!(errno(op::read(&file, &mut two).wait()), libc::EBADF);
}

/// G6: no room on the device.
pub fn g06_no_space() {
    let _loop = current_loop();
    let full = op::open("/dev/full").write(true).wait().unwrap();
    assert_eq!(errno(op::write(&full, b"x").wait()), libc::ENOSPC);
    let failed = op::write_entire("/dev/full", b"x").wait().unwrap_err();
    assert_eq!((failed.step, failed.error.kind()), (Step::Write, io::ErrorKind::StorageFull));
}

/// Memory of which there is more than fits one transfer, and none in use.
struct Huge(*mut u8);
const HUGE: usize = 3 << 30;

// SAFETY: the mapping stays for as long as the process.
unsafe impl towpath_loop::IoBuf for &mut Huge {
    type Done = usize;
    type Error = io::Error;
    fn bytes(&self) -> (*const u8, usize) {
        (self.0, HUGE)
    }
    fn done(self, n: usize) -> usize {
        n
    }
    fn failed(self, _: usize, error: io::Error) -> io::Error {
        error
    }
}

// SAFETY: as above; borrowed exclusively.
unsafe impl towpath_loop::IoBufMut for &mut Huge {
    fn bytes_mut(&mut self) -> (*mut u8, usize) {
        (self.0, HUGE)
    }
}

/// G9: more buffers and bytes than one call takes.
pub fn g09_large_requests() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let data: Vec<u8> = (0..3000_u32).map(|at| at as u8).collect();
    let file = edit(dir.path("file"));
    let slices: Vec<_> = data.chunks(1).map(IoSlice::new).collect();
    let n = op::write_vectored(&file, &slices[..]).at(0).wait().unwrap();
    assert_eq!(n, 1024);
    assert_eq!(op::write(&file, &data[..]).at(0).wait().unwrap(), 3000);
    let mut back = vec![0; 3000];
    let mut slices: Vec<_> = back.chunks_mut(1).map(IoSliceMut::new).collect();
    assert_eq!(op::read_vectored(&file, &mut slices[..]).at(0).wait().unwrap(), 1024);
    assert!(back[..1024] == data[..1024] && back[1024..].iter().all(|byte| *byte == 0));
    assert_eq!(op::read_vectored(&file, vec![vec![0_u8; 0]; 3]).wait().unwrap().0, 0);
    // SAFETY: a new mapping, of which nothing is known yet.
    let place = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        libc::mmap(std::ptr::null_mut(), HUGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(place, libc::MAP_FAILED);
    let mut huge = Huge(place.cast());
    assert_eq!(op::read(&file, &mut huge).at(0).wait().unwrap(), 3000);
    assert_eq!(op::read(&file, &mut huge).at(0).all(true).wait().unwrap(), 3000);
    let null = op::open("/dev/null").write(true).wait().unwrap();
    let n = op::write(&null, &mut huge).wait().unwrap();
    assert_eq!(n, 0x7fff_f000, "shortened");
    assert_eq!(op::write(&null, &mut huge).all(true).wait().unwrap(), HUGE);
    // SAFETY: mapped above, and used by nobody any more.
    unsafe { libc::munmap(place, HUGE) };
}

/// G10: direct input and output is as strict as the system has it.
pub fn g10_direct() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let path = dir.file("file", &[7; 8192]);
    let Ok(file) = op::open(&path).custom_flags(libc::O_DIRECT).wait() else {
        towpath_harness::skip("no direct input and output here")
    };
    let plain = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut buf = vec![0; 8192 + 512];
    let aligned = buf.as_ptr().align_offset(512);
    for (skew, len) in [(0, 4096), (1, 4096), (0, 100)] {
        let mut theirs = vec![0; 8192 + 512];
        let to = theirs.as_ptr().align_offset(512);
        let expected =
            plain.read_at(&mut theirs[to + skew..][..len], 0).map_err(|error| error.raw_os_error());
        let got = op::read(&file, &mut buf[aligned + skew..][..len]).at(0).wait();
        assert_eq!(got.map_err(|error| error.raw_os_error()), expected, "{skew} {len}");
    }
}

/// G11: a directory that is read while entries go.
pub fn g11_read_dir_while_entries_go() {
    let _loop = current_loop();
    let dir = TempDir::new();
    const MANY: usize = 3000;
    for at in 0..MANY {
        dir.file(&format!("{at:05}"), b"");
    }
    let open_dir = open(&dir.0);
    let mut seen = BTreeSet::new();
    let mut entries = op::read_dir(&open_dir).buffer(Vec::with_capacity(2048)).wait().unwrap();
    let mut batches = 0;
    while !entries.is_end() {
        batches += 1;
        for entry in &entries {
            let name = entry.name().to_str().unwrap().to_owned();
            assert_eq!(entry.file_type(), Some(FileType::File), "{entry:?}");
            assert_ne!(entry.ino(), 0);
            // What has been seen goes, if it is odd.
            if name.parse::<usize>().unwrap() % 2 == 1 {
                fs::remove_file(dir.path(&name)).unwrap();
            }
            assert!(seen.insert(name), "{entry:?} twice");
        }
        entries = op::read_dir(&open_dir).buffer(entries.into_buffer()).wait().unwrap();
    }
    assert!(batches > 20, "{batches}");
    assert_eq!(seen.len(), MANY);
    // What is no directory has no entries, and a buffer can be too small.
    let file = open(dir.path("00000"));
    assert_eq!(errno(op::read_dir(&file).wait()), libc::ENOTDIR);
    let again = open(&dir.0);
    assert_eq!(errno(op::read_dir(&again).buffer(Vec::with_capacity(4)).wait()), libc::EINVAL);
}

/// G12: renaming, in its three ways.
pub fn g12_rename() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    let content = |name: &str| fs::read(dir.path(name)).unwrap();
    dir.file("a", b"a");
    dir.file("b", b"b");
    let rename = |from, to| op::rename(from, to).from_at(&at).to_at(&at);
    assert_eq!(errno(rename("a", "b").no_replace().wait()), libc::EEXIST);
    rename("a", "b").exchange().wait().unwrap();
    assert_eq!((content("a"), content("b")), (b"b".to_vec(), b"a".to_vec()));
    rename("a", "b").wait().unwrap();
    assert_eq!(content("b"), b"b");
    rename("b", "c").no_replace().wait().unwrap();
    assert_eq!(errno(rename("b", "c").wait()), libc::ENOENT);
    assert_eq!(errno(rename("c", "d").exchange().wait()), libc::ENOENT);
    if fs::metadata("/dev/shm").is_ok_and(|shm| shm.dev() != fs::metadata(&dir.0).unwrap().dev()) {
        let error = error(op::rename("c", "/dev/shm/towpath-g12").from_at(&at).wait());
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices);
    }
}

/// G13: files that are none: no hang, and the system's own words.
pub fn g13_odd_files() {
    let loop_ = current_loop();
    let mut buf = [1; 64];
    let status = open("/proc/self/status");
    assert!(op::read(&status, &mut buf).at(0).wait().unwrap() > 0);
    assert!(buf.starts_with(b"Name:"));
    let zero = open("/dev/zero");
    assert_eq!(op::read(&zero, &mut buf).wait().unwrap(), 64);
    assert_eq!(buf, [0; 64]);
    assert_eq!(op::read(open("/dev/null"), &mut buf).wait().unwrap(), 0);
    let (from, to) = op::pipe().wait().unwrap();
    assert_eq!(errno(op::read(&from, &mut buf).at(0).wait()), libc::ESPIPE);
    assert_eq!(errno(op::write(&to, &buf).at(7).wait()), libc::ESPIPE);
    assert_eq!(errno(op::copy_range(&from, &to, 10).wait()), libc::EINVAL);
    assert_eq!(errno(op::read(&to, &mut buf).wait()), libc::EBADF);
    let dir = open("/");
    assert_eq!(errno(op::read(&dir, &mut buf).wait()), libc::EISDIR);
    // Sockets, through the same door.
    let (a, b) = towpath_harness::net::unix_pair();
    let (a, b) = (File::from(OwnedFd::from(a)), File::from(OwnedFd::from(b)));
    let waiting = loop_.start(op::read(&a, vec![0; 8]));
    poke(&loop_);
    assert_eq!(op::write(&b, b"via").wait().unwrap(), 3);
    assert_eq!(waiting.take().unwrap().unwrap().0, 3);
    drop(a);
    assert_eq!(errno(op::write(&b, b"via").wait()), libc::EPIPE);
    // An event counter.
    let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let waiting = loop_.start(op::read(counter.as_fd(), vec![0; 8]));
    poke(&loop_);
    assert_eq!(op::write(counter.as_fd(), &3_u64.to_ne_bytes()).wait().unwrap(), 8);
    assert_eq!(waiting.take().unwrap().unwrap().1, 3_u64.to_ne_bytes());
}

/// G14: more slow requests than the pool has threads: the loop goes on, the queue is bounded, and all can be cancelled.
pub fn g14_pool_is_isolated_and_bounded() {
    let loop_ = new_loop();
    let dir = TempDir::new();
    let fifo = dir.fifo("fifo");
    const MANY: usize = 600;
    let blocked: Vec<_> = (0..MANY).map(|_| loop_.start(op::open(&fifo))).collect();
    poke(&loop_);
    let stats = loop_.stats();
    assert!(stats.pool_queued <= 256, "{stats:?}");
    for _ in 0..20 {
        let begun = StdInstant::now();
        loop_.start(op::timer(Duration::from_millis(1))).take().unwrap().unwrap();
        assert!(begun.elapsed() < towpath_harness::patience(Duration::from_millis(200)));
    }
    loop_.cancel_all();
    for ticket in blocked {
        assert!(is_canceled(&error(ticket.take().unwrap())));
    }
    assert_eq!(loop_.stats().pool_queued, 0);
    // The threads are free again.
    assert!(loop_.start(op::real_path("/")).take().unwrap().is_ok());
}

/// G15: holes, cuts and extensions.
pub fn g15_holes_and_lengths() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let file = edit(dir.path("file"));
    op::write(&file, b"end").at(1 << 20).wait().unwrap();
    let mut buf = [1; 8];
    assert_eq!(op::read(&file, &mut buf).at(1000).wait().unwrap(), 8);
    assert_eq!(buf, [0; 8]);
    let len = || op::stat(&file).wait().unwrap().len();
    assert_eq!(len(), (1 << 20) + 3);
    op::set_len(&file, 10).wait().unwrap();
    assert_eq!(len(), 10);
    op::set_len(&file, 20).wait().unwrap();
    assert_eq!(op::read(&file, &mut buf).at(15).wait().unwrap(), 5);
    op::allocate(&file, 0, 8192, 0).wait().unwrap();
    assert_eq!(len(), 8192);
    op::allocate(&file, 8192, 8192, libc::FALLOC_FL_KEEP_SIZE).wait().unwrap();
    assert_eq!(len(), 8192);
    assert_eq!(errno(op::allocate(&file, 0, 0, 0).wait()), libc::EINVAL);
    op::sync(&file).wait().unwrap();
    op::sync_data(&file).wait().unwrap();
    let (_, to) = op::pipe().wait().unwrap();
    assert_eq!(errno(op::sync(&to).wait()), libc::EINVAL);
}

/// G16: what is told about a file is what `std` tells.
pub fn g16_metadata() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let path = dir.file("file", &[1; 5000]);
    op::symlink("file", dir.path("link")).wait().unwrap();
    let at = open(&dir.0);
    let file = open(&path);
    let expected = fs::metadata(&path).unwrap();
    for stat in [
        op::stat(&path).wait().unwrap(),
        op::stat("file").at(&at).wait().unwrap(),
        op::stat("link").at(&at).wait().unwrap(),
        op::stat(&file).wait().unwrap(),
        op::stat(file.as_fd()).wait().unwrap(),
    ] {
        assert_eq!(stat.len(), expected.len());
        assert_eq!((stat.mode(), stat.nlink()), (expected.mode(), 1));
        assert_eq!((stat.ino(), stat.dev(), stat.rdev()), (expected.ino(), expected.dev(), expected.rdev()));
        assert_eq!((stat.uid(), stat.gid()), (expected.uid(), expected.gid()));
        assert_eq!((stat.blocks(), u64::from(stat.blksize())), (expected.blocks(), expected.blksize()));
        assert_eq!(stat.modified(), expected.modified().ok());
        assert_eq!(stat.accessed(), expected.accessed().ok());
        assert_eq!(stat.created(), expected.created().ok());
        assert!(stat.changed() >= stat.created() && stat.file_type().is_file());
        assert_eq!(stat.attributes() & !stat.attributes_mask(), 0);
    }
    let link = op::stat("link").at(&at).follow(false).wait().unwrap();
    assert!(link.file_type().is_symlink() && link.len() == 4);
    assert!(op::stat(&at).wait().unwrap().file_type().is_dir());
    assert_eq!(errno(op::stat("nothing").at(&at).wait()), libc::ENOENT);
    // Times are set, by path, of an open file, of a link.
    let long_ago = UNIX_EPOCH - Duration::new(3, 5000);
    let then = UNIX_EPOCH + Duration::new(1_000_000_000, 7000);
    op::set_times(&file, FileTime::At(long_ago), FileTime::At(then)).wait().unwrap();
    let stat = op::stat(&file).wait().unwrap();
    assert_eq!((stat.accessed(), stat.modified()), (Some(long_ago), Some(then)));
    op::set_times("link", FileTime::Omit, FileTime::Now).at(&at).wait().unwrap();
    let stat = op::stat(&file).wait().unwrap();
    assert_eq!(stat.accessed(), Some(long_ago));
    assert!(stat.modified().unwrap() > SystemTime::now() - Duration::from_secs(60));
    op::set_times("link", FileTime::At(then), FileTime::At(then)).follow(false).at(&at).wait().unwrap();
    assert_eq!(op::stat("link").follow(false).at(&at).wait().unwrap().modified(), Some(then));
    // Permissions and owners.
    op::set_permissions("link", 0o640).at(&at).wait().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    op::set_permissions(&file, 0o600).wait().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    op::set_owner(&file, None, Some(expected.gid())).wait().unwrap();
    if sys_is_root() {
        op::set_owner("file", Some(65_534), None).at(&at).wait().unwrap();
        assert_eq!(op::stat(&file).wait().unwrap().uid(), 65_534);
        op::set_owner("link", Some(1), Some(1)).follow(false).at(&at).wait().unwrap();
        assert_eq!(op::stat(&file).wait().unwrap().uid(), 65_534);
    }
}

fn sys_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// G17: names are made, asked about, and go.
pub fn g17_names() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    op::create_dir("sub").mode(0o700).at(&at).wait().unwrap();
    assert_eq!(fs::metadata(dir.path("sub")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(errno(op::create_dir("sub").at(&at).wait()), libc::EEXIST);
    let sub = op::open("sub").custom_flags(libc::O_DIRECTORY).at(&at).wait().unwrap();
    op::write_entire("file", b"x").at(&at).wait().unwrap();
    op::hard_link("file", "second").from_at(&at).to_at(&sub).wait().unwrap();
    assert_eq!(op::stat("file").at(&at).wait().unwrap().nlink(), 2);
    op::symlink("../file", "link").at(&sub).wait().unwrap();
    assert_eq!(op::read_link("link").at(&sub).wait().unwrap(), Path::new("../file"));
    assert_eq!(errno(op::read_link("file").at(&at).wait()), libc::EINVAL);
    op::hard_link("sub/link", "third").from_at(&at).to_at(&at).follow(true).wait().unwrap();
    assert_eq!(op::stat("third").at(&at).wait().unwrap().nlink(), 3);
    let real = op::real_path(dir.path("sub/./link")).wait().unwrap();
    assert_eq!(real, fs::canonicalize(dir.path("file")).unwrap());
    op::access("file", libc::R_OK).at(&at).wait().unwrap();
    op::access("file", libc::F_OK).effective().at(&at).wait().unwrap();
    assert_eq!(errno(op::access("file", libc::X_OK).at(&at).wait()), libc::EACCES);
    assert_eq!(errno(op::access("nothing", libc::F_OK).at(&at).wait()), libc::ENOENT);
    assert_eq!(errno(op::remove_dir("sub").at(&at).wait()), libc::ENOTEMPTY);
    assert_eq!(errno(op::remove_file("sub").at(&at).wait()), libc::EISDIR);
    assert_eq!(errno(op::remove_dir("file").at(&at).wait()), libc::ENOTDIR);
    op::remove_file("link").at(&sub).wait().unwrap();
    op::remove_file("second").at(&sub).wait().unwrap();
    op::remove_dir("sub").at(&at).wait().unwrap();
    // The handle of a directory that is gone.
    assert_eq!(errno(op::create("new").at(&sub).wait()), libc::ENOENT);
}

/// G18: whole files; an error tells the step.
pub fn g18_entire_files() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 253) as u8).collect();
    let (n, data) = loop_.start(op::write_entire("file", data).at(&at)).take().unwrap().unwrap();
    assert_eq!(n, data.len());
    assert_eq!(op::read_entire(dir.path("file")).wait().unwrap(), data);
    assert_eq!(op::read_entire("file").at(&at).limit(n).wait().unwrap(), data);
    assert_eq!(complete(&loop_, op::read_entire("file").at(at.clone())).unwrap(), data);
    let short = op::read_entire("file").at(&at).limit(n - 1).wait().unwrap_err();
    assert_eq!((short.step, short.error.raw_os_error()), (Step::Read, Some(libc::EFBIG)));
    // Of which nobody knows the size.
    assert_eq!(
        op::read_entire("/proc/self/comm").wait().unwrap(),
        fs::read("/proc/thread-self/comm")
            .map_or_else(|_| Vec::new(), |_| fs::read("/proc/self/comm").unwrap(),)
    );
    let short = op::read_entire("/proc/self/status").limit(10).wait().unwrap_err();
    assert_eq!(short.error.raw_os_error(), Some(libc::EFBIG));
    let short = op::read_entire("/dev/zero").limit(100_000).wait().unwrap_err();
    assert_eq!(short.error.raw_os_error(), Some(libc::EFBIG));
    op::write_entire("file", b"shorter").at(&at).wait().unwrap();
    assert_eq!(op::read_entire("file").at(&at).wait().unwrap(), b"shorter");
    assert_eq!(op::write_entire("empty", b"").create_new().at(&at).wait().unwrap(), 0);
    assert_eq!(op::read_entire("empty").at(&at).wait().unwrap(), b"");
    let there = op::write_entire("empty", b"").create_new().at(&at).wait().unwrap_err();
    assert_eq!((there.step, there.error.kind()), (Step::Open, io::ErrorKind::AlreadyExists));
    let missing = op::read_entire("nothing").at(&at).wait().unwrap_err();
    assert_eq!((missing.step, missing.error.kind()), (Step::Open, io::ErrorKind::NotFound));
    assert!(missing.to_string().starts_with("open: "), "{missing}");
    let dir_read = op::read_entire("/").wait().unwrap_err();
    assert_eq!((dir_read.step, dir_read.error.raw_os_error()), (Step::Read, Some(libc::EISDIR)));
    // In a FIFO that nobody writes to, and then in one whose writer says nothing.
    dir.fifo("fifo");
    for step in [Step::Open, Step::Read] {
        let writer = (step == Step::Read).then(|| edit(dir.path("fifo")));
        let late = op::read_entire("fifo").at(&at).timeout(Duration::from_millis(20)).wait().unwrap_err();
        assert_eq!(late.step, step);
        assert_timed_out(Err::<(), _>(late.error));
        drop(writer);
    }
}

/// G19: copies, as far as the source goes.
pub fn g19_copy_range() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    let data: Vec<u8> = (0..400_000_u32).map(|at| (at % 241) as u8).collect();
    let from = open(dir.file("from", &data));
    let to = edit(dir.path("to"));
    let n = op::copy_range(&from, &to, 1 << 30).all(true).wait().unwrap();
    assert_eq!((n, fs::read(dir.path("to")).unwrap() == data), (data.len(), true));
    assert_eq!(op::copy_range(&from, &to, 10).wait().unwrap(), 0, "both cursors are at the end");
    let n = loop_.start(op::copy_range(&from, &to, 10).from_at(5).to_at(1)).take().unwrap().unwrap();
    assert_eq!(n, 10);
    assert_eq!(fs::read(dir.path("to")).unwrap()[1..11], data[5..15]);
    // By way of a buffer: the kernel knows no size here.
    let n = op::copy_range(open("/proc/self/status"), &to, 1 << 20).to_at(0).all(true).wait().unwrap();
    assert!(n > 100 && fs::read(dir.path("to")).unwrap().starts_with(b"Name:"), "{n}");
    assert_eq!(errno(op::copy_range(&from, &from, 10).wait()), libc::EBADF);
}

/// G20: what is in memory needs no thread, and one system call; where it is not known, a thread is asked.
pub fn g20_warm_reads() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    let file = open(dir.file("file", &[9; 64 << 10]));
    let mut buf = [0; 4096];
    if op::read(&file, &mut buf).at(0).wait().is_ok()
        && loop_.stats().pool_threads > usize::from(!is_native(&loop_, Kind::Open))
    {
        towpath_harness::skip("this file system knows no RWF_NOWAIT");
    }
    let before = loop_.stats();
    for at in 0..1000 {
        assert_eq!(op::read(&file, &mut buf).at(at % 16 * 4096).wait().unwrap(), 4096);
    }
    for _ in 0..16 {
        assert_eq!(op::read(&file, &mut buf).wait().unwrap(), 4096);
    }
    let after = loop_.stats();
    assert_eq!((after.syscalls - before.syscalls, after.ticks), (1016, before.ticks));
    assert_eq!(after.submitted - before.submitted, 1016);
    // A file system without it: the same bytes.
    if Path::new("/dev/shm").is_dir() {
        let path = format!("/dev/shm/towpath-g20-{}", std::process::id());
        fs::write(&path, [5; 100]).unwrap();
        let file = open(&path);
        fs::remove_file(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(op::read(&file, &mut buf).at(1).wait().unwrap(), 99);
        }
    }
}

/// E8: pipes: data first, then the end; nobody there is an error.
pub fn e08_pipes() {
    let loop_ = current_loop();
    for flags in [0, libc::O_NONBLOCK] {
        let (from, to) = op::pipe().flags(flags).wait().unwrap();
        assert_eq!(rustix::fs::fcntl_getfl(&from).unwrap().bits() as i32 & libc::O_NONBLOCK, flags);
        // Nothing there: the loop goes on, whatever the mode.
        let waiting = loop_.start(op::read(&from, vec![0; 8]));
        loop_.start(op::timer(Duration::from_millis(2))).take().unwrap().unwrap();
        assert_eq!(op::write(&to, b"first").wait().unwrap(), 5);
        assert_eq!(waiting.take().unwrap().unwrap().0, 5);
        let mut buf = [0; 8];
        assert_timed_out(op::read(&from, &mut buf).timeout(Duration::from_millis(2)).wait());
        let canceled = loop_.start(op::read(&from, vec![0; 8]));
        poke(&loop_);
        loop_.cancel(canceled.id());
        assert!(is_canceled(&error(canceled.take().unwrap())));
        // In order, whoever asked first.
        let readers: Vec<_> = (0..4).map(|_| loop_.start(op::read(&from, vec![0; 1]))).collect();
        poke(&loop_);
        assert_eq!(
            op::write_vectored(&to, &[IoSlice::new(b"ab"), IoSlice::new(b"cd")][..]).wait().unwrap(),
            4
        );
        let got: Vec<u8> = readers.into_iter().map(|ticket| ticket.take().unwrap().unwrap().1[0]).collect();
        assert_eq!(got, b"abcd");
        // Full: waits for a reader.
        let filling = loop_.start(op::write(&to, vec![1; 1 << 20]).all(true));
        loop_.start(op::timer(Duration::from_millis(2))).take().unwrap().unwrap();
        let (n, _) = loop_.start(op::read(&from, vec![0; 1 << 20]).all(true)).take().unwrap().unwrap();
        assert_eq!((n, filling.take().unwrap().unwrap().0), (1 << 20, 1 << 20));
        // Data and the end together.
        op::write(&to, b"last").wait().unwrap();
        drop(to);
        assert_eq!(op::read(&from, &mut buf).wait().unwrap(), 4);
        assert_eq!(op::read(&from, &mut buf).wait().unwrap(), 0);
        let (from, to) = op::pipe().flags(flags).wait().unwrap();
        drop(from);
        assert_eq!(errno(op::write(&to, b"x").wait()), libc::EPIPE);
    }
}

/// E8: a terminal in blocking mode, which knows no way to be tried without blocking.
pub fn e08_terminal() {
    let loop_ = current_loop();
    // SAFETY: system calls without pointers, and new descriptors that are nobody else's.
    let (master, slave) = unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if master < 0 || libc::grantpt(master) < 0 || libc::unlockpt(master) < 0 {
            towpath_harness::skip("no pseudo-terminals here");
        }
        let slave = libc::ioctl(master, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(slave >= 0);
        use std::os::fd::FromRawFd;
        (fs::File::from_raw_fd(master), File::from_raw_fd(slave))
    };
    let pool = loop_.stats().pool_threads;
    let waiting: Vec<_> = (0..3).map(|_| loop_.start(op::read(&slave, vec![0; 16]))).collect();
    loop_.start(op::timer(Duration::from_millis(2))).take().unwrap().unwrap();
    assert_eq!(loop_.stats().pool_threads, pool, "a thread waits");
    loop_.cancel(waiting[2].id());
    let mut lines = Vec::new();
    let mut waiting = waiting.into_iter();
    for line in ["one\n", "two\n"] {
        (&master).write_all(line.as_bytes()).unwrap();
        let (n, bytes) = waiting.next().unwrap().take().unwrap().unwrap();
        lines.push(String::from_utf8(bytes[..n].to_vec()).unwrap());
    }
    assert_eq!(lines, ["one\n", "two\n"]);
    assert!(is_canceled(&error(waiting.next().unwrap().take().unwrap())));
    assert_eq!(op::write(&slave, b"out").wait().unwrap(), 3);
    let mut buf = [0; 64];
    let n = (&master).read(&mut buf).unwrap();
    assert!(n > 0);
    // Gone.
    drop(master);
    assert!(matches!(op::read(&slave, &mut buf).wait(), Ok(0) | Err(_)));
}

/// E9: opening a FIFO waits for its other end: the loop goes on, and it can be cancelled, on any thread and by dropping
/// the loop.
pub fn e09_fifo() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    let path = dir.fifo("fifo");
    for write in [false, true] {
        let opening = loop_.start(op::open(&path).read(!write).write(write));
        loop_.start(op::timer(Duration::from_millis(5))).take().unwrap().unwrap();
        assert!(loop_.cancel(opening.id()));
        assert!(is_canceled(&error(opening.take().unwrap())));
        assert_timed_out(op::open(&path).read(!write).write(write).timeout(Duration::from_millis(5)).wait());
    }
    // Both ends meet, and only then.
    let reading = loop_.start(op::open(&path));
    loop_.start(op::timer(Duration::from_millis(5))).take().unwrap().unwrap();
    assert_eq!(loop_.in_flight(), 1, "nobody writes");
    let writer = op::open(&path).read(false).write(true).wait().unwrap();
    let reader = reading.take().unwrap().unwrap();
    op::write(&writer, b"through").wait().unwrap();
    let mut buf = [0; 16];
    assert_eq!(op::read(&reader, &mut buf).wait().unwrap(), 7);
    drop(writer);
    assert_eq!(op::read(&reader, &mut buf).wait().unwrap(), 0);
    drop(reader);
    // Who does not want to wait need not.
    assert_eq!(
        errno(op::open(&path).read(false).write(true).custom_flags(libc::O_NONBLOCK).wait()),
        libc::ENXIO
    );
    // A loop is dropped with some of them under way.
    let other = new_loop();
    let opening: Vec<_> = (0..5).map(|_| other.start(op::open(&path))).collect();
    other.tick(Some(Duration::from_millis(5))).unwrap();
    let begun = StdInstant::now();
    drop(opening);
    drop(other);
    assert!(begun.elapsed() < towpath_harness::patience(Duration::from_secs(1)), "{:?}", begun.elapsed());
}

/// C11: an open that nobody wants any more leaves no descriptor.
pub fn c11_dropped_open() {
    let loop_ = new_loop();
    let dir = TempDir::new();
    let path = dir.file("file", b"x");
    poke(&loop_);
    let fds = sys::fds();
    let mut rng = towpath_harness::Rng::new(12);
    for _ in 0..2000 {
        let opening = loop_.start(op::open(&path));
        let pipe = loop_.start(op::pipe());
        match rng.below(3) {
            0 => _ = poke(&loop_),
            1 => rng.spin(20_000),
            _ => {}
        }
        drop((opening, pipe));
    }
    loop_.run().unwrap();
    assert_eq!(sys::fds(), fds);
}

/// C17: what is cancelled in the queue is never begun: nobody touches its memory.
pub fn c17_cancelled_in_the_queue() {
    let loop_ = new_loop();
    let dir = TempDir::new();
    let fifo = dir.fifo("fifo");
    let (from, to) = io::pipe().unwrap();
    let from = std::sync::Arc::new(from);
    // All threads of the pool are busy: each waits for a byte.
    let threads = std::thread::available_parallelism().map_or(64, |cpus| (cpus.get() * 4).max(64));
    let busy: Vec<_> = (0..threads)
        .map(|_| {
            let from = from.clone();
            loop_.start(op::blocking(move || (&*from).read(&mut [0; 1]).unwrap()))
        })
        .collect();
    // `/proc` is always a thread's business on the readiness backends; on a ring this one is.
    let directory = File::from(fs::File::open(&dir.0).unwrap());
    let cancelled: Vec<_> = (0..20).map(|_| loop_.start(op::read_dir(&directory))).collect();
    let dropped = loop_.start(op::read_link(&fifo));
    let (buf, watch) = Tracked::new(4096, CANARY);
    let file = File::from(fs::File::open("/proc/self/status").unwrap());
    let read = (!is_native(&loop_, Kind::Read)).then(|| loop_.start(op::read(&file, buf).at(0)));
    poke(&loop_);
    for ticket in cancelled {
        assert!(loop_.cancel(ticket.id()));
        assert!(is_canceled(&error(ticket.take().unwrap())), "at once, though no thread is free");
    }
    drop(dropped);
    drop(read);
    tick_until(&loop_, || loop_.in_flight() == threads);
    (&to).write_all(&vec![0; threads]).unwrap();
    for ticket in busy {
        assert_eq!(ticket.take().unwrap().unwrap(), 1);
    }
    // The cursor of the directory is where it was.
    let entries = loop_.start(op::read_dir(&directory)).take().unwrap().unwrap();
    assert_eq!(entries.iter().count(), 1);
    if watch.is_freed() {
        watch.assert_intact();
    }
}

/// O8: who the process is when an operation begins decides what it may.
pub fn o08_identity() {
    if !sys_is_root() {
        towpath_harness::skip("needs root, to become somebody else");
    }
    let _loop = current_loop();
    let dir = TempDir::new();
    let path = dir.file("secret", b"x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    // The pool's threads, and the ring's, are there.
    op::open(&path).wait().unwrap();
    op::real_path(&path).wait().unwrap();
    // SAFETY: no pointers. For all threads of the process, as POSIX has it.
    assert_eq!(unsafe { libc::seteuid(65_534) }, 0);
    let opened = op::open(&path).wait().map(drop);
    let read = op::read_entire(&path).wait().map(drop);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::seteuid(0) }, 0);
    assert_eq!(errno(opened), libc::EACCES);
    assert_eq!(errno(read), libc::EACCES);
    op::open(&path).wait().unwrap();
}

/// O9: a path that must stay beneath its directory does.
pub fn o09_beneath() {
    let _loop = current_loop();
    let dir = TempDir::new();
    dir.file("outside", b"x");
    fs::create_dir(dir.path("root")).unwrap();
    dir.file("root/inside", b"x");
    let root = open(dir.path("root"));
    for (link, to) in [("good", "inside"), ("bad", "../outside"), ("worse", "/etc/passwd")] {
        op::symlink(to, link).at(&root).wait().unwrap();
    }
    let open = |path: &str, flags| op::open(path).at(&root).resolve(flags).wait();
    let beneath = libc::RESOLVE_BENEATH;
    match open("inside", beneath) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        result => drop(result.unwrap()),
    }
    drop(open("good", beneath).unwrap());
    for path in ["bad", "worse", "../outside", "/etc/passwd", "good/../../outside"] {
        assert!(open(path, beneath).is_err(), "{path}");
    }
    assert_eq!(errno(open("../outside", beneath)), libc::EXDEV);
    assert_eq!(errno(open("good", libc::RESOLVE_NO_SYMLINKS)), libc::ELOOP);
    assert_eq!(errno(open("inside", libc::RESOLVE_CACHED)), libc::EINVAL);
    assert_eq!(errno(open("inside", 1 << 60)), libc::EINVAL);
    // Made beneath as well.
    let made = op::open("made").read(false).write(true).create(true).mode(0o600).resolve(beneath).at(&root);
    let made = made.wait().unwrap();
    assert!(made.as_raw_fd() > 2);
}
