//! What may take long, or need not: pipes, terminals, the threads of the pool, what is in memory already.

use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::sys;
use towpath_loop::operation::Kind;
use towpath_loop::{File, is_canceled, op};

use super::*;
use crate::common::{
    CANARY, Tracked, assert_timed_out, current_loop, errno, error, new_loop, poke, tick_until,
};

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
    let (master, slave) = terminal();
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

/// A pseudo-terminal: its controlling side, and the other one, in blocking mode.
fn terminal() -> (fs::File, File) {
    // SAFETY: system calls without pointers, and new descriptors that are nobody else's.
    unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if master < 0 || libc::grantpt(master) < 0 || libc::unlockpt(master) < 0 {
            towpath_harness::skip("no pseudo-terminals here");
        }
        let slave = libc::ioctl(master, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(slave >= 0);
        use std::os::fd::FromRawFd;
        (fs::File::from_raw_fd(master), File::from_raw_fd(slave))
    }
}

/// The terminal is shared: its mode is left alone, nothing is taken before there is a line, nor by a read that was cancelled,
/// and who is quicker does not block the loop.
pub fn e08_terminal_is_shared() {
    let loop_ = current_loop();
    let (master, slave) = terminal();
    let plain = fs::File::from(slave.as_fd().try_clone_to_owned().unwrap());
    let read_plainly = || {
        let mut buf = [0; 16];
        let n = (&plain).read(&mut buf).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    };
    let write = |text: &str| (&master).write_all(text.as_bytes()).unwrap();
    // Half a line is none.
    let mut waiting = loop_.start(op::read(&slave, vec![0; 16]));
    write("ha");
    loop_.start(op::timer(Duration::from_millis(5))).take().unwrap().unwrap();
    assert!(waiting.try_take().is_none());
    write("lf\n");
    let (n, bytes) = waiting.take().unwrap().unwrap();
    assert_eq!(&bytes[..n], b"half\n");
    // Cancelled, or out of time.
    let waiting = loop_.start(op::read(&slave, vec![0; 16]));
    loop_.start(op::timer(Duration::from_millis(2))).take().unwrap().unwrap();
    assert!(loop_.cancel(waiting.id()));
    assert!(is_canceled(&error(waiting.take().unwrap())));
    assert_timed_out(op::read(&slave, &mut [0; 16]).timeout(Duration::from_millis(2)).wait());
    write("kept\n");
    assert_eq!(read_plainly(), "kept\n");
    // Somebody else is quicker.
    for _ in 0..20 {
        let waiting = loop_.start(op::read(&slave, vec![0; 16]));
        loop_.tick(Some(Duration::from_millis(1))).unwrap();
        write("theirs\n");
        assert_eq!(read_plainly(), "theirs\n");
        loop_.start(op::timer(Duration::from_millis(2))).take().unwrap().unwrap();
        write("ours\n");
        let (n, bytes) = waiting.take().unwrap().unwrap();
        assert_eq!(&bytes[..n], b"ours\n");
    }
    assert!(!rustix::fs::fcntl_getfl(&slave).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    // The end that is typed, and the end of the other side.
    let waiting = loop_.start(op::read(&slave, vec![0; 16]));
    write("\x04");
    assert_eq!(waiting.take().unwrap().unwrap().0, 0);
    let master = File::from(master);
    op::write(&slave, b"last").wait().unwrap();
    let mut echo = Vec::new();
    while !echo.ends_with(b"last") {
        let (n, bytes) = op::read(&master, vec![0; 64]).timeout(Duration::from_secs(1)).wait().unwrap();
        echo.extend_from_slice(&bytes[..n]);
    }
    let waiting = loop_.start(op::read(&master, vec![0; 16]));
    poke(&loop_);
    drop((plain, slave));
    assert_eq!(errno(waiting.take().unwrap()), libc::EIO);
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
