//! What is in files: reading and writing, at the ends, in full, where there is no room.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use towpath_loop::operation::Step;
use towpath_loop::{File, op};

use super::*;
use crate::common::{assert_timed_out, complete, current_loop, errno, error, poke};

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
