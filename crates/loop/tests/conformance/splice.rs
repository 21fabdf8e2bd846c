//! D22: through pipes.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use towpath_loop::op::{self, Detach};
use towpath_loop::{File, Loop, Ticket};

use crate::common::*;

const LEN: usize = 1 << 20;

fn byte(at: usize) -> u8 {
    (at * 31 + at / 4096) as u8
}

fn content() -> Vec<u8> {
    (0..LEN).map(byte).collect()
}

fn ours(file: &fs::File) -> File {
    File::from(file.try_clone().unwrap())
}

fn pipe() -> (File, File) {
    op::pipe().wait().unwrap()
}

/// Begins `op`, and sees that it waits, with no more threads than `threads`.
fn assert_waits<O: Detach>(loop_: &Loop, op: O, threads: usize) -> Ticket<O::Owned>
where
    O::Output: 'static,
{
    let before = loop_.stats().pool_threads;
    let mut ticket = loop_.start(op);
    loop_.start(op::timer(Duration::from_millis(40))).take().unwrap().unwrap();
    assert!(ticket.try_take().is_none(), "it had to wait");
    assert!(loop_.stats().pool_threads <= before + threads, "a thread waits");
    ticket
}

/// From a file through a pipe to a socket, and from its peer through a pipe to a file: all four at once, none of which can
/// finish before the others have begun.
pub fn d22_splice_all() {
    let loop_ = current_loop();
    let source = tempfile(&content());
    for (here, there) in [tcp(), unix()] {
        let sink = tempfile(b"");
        let ((out_a, into_a), (out_b, into_b)) = (pipe(), pipe());
        let steps = [
            loop_.start(op::splice(&out_b, ours(&sink), LEN).to_at(7).all(true)),
            loop_.start(op::splice(&there, &into_b, LEN).all(true)),
            loop_.start(op::splice(&out_a, &here, LEN).all(true).flags(libc::SPLICE_F_MOVE)),
            loop_.start(op::splice(ours(&source), &into_a, LEN).from_at(0).all(true)),
        ];
        for step in steps {
            assert_eq!(step.take().unwrap().unwrap(), LEN);
        }
        let mut got = Vec::new();
        (&sink).seek(SeekFrom::Start(7)).unwrap();
        (&sink).read_to_end(&mut got).unwrap();
        assert!(got == content());
        assert_eq!((&source).stream_position().unwrap(), 0);
    }
}

/// A short file, pipe to pipe, and to its end, by each way of waiting; at the cursor, which moves.
pub fn d22_splice_each_way() {
    let loop_ = current_loop();
    let file = tempfile(b"0123456789");
    let ((out, into), (last, behind)) = (pipe(), pipe());
    assert_eq!(op::splice(file.as_fd(), &into, 4).wait().unwrap(), 4);
    let ended = Log::new();
    let log = ended.clone();
    loop_.submit(op::splice(ours(&file), &into, 100).all(true), move |_, n| log.add(n.unwrap()));
    loop_.run().unwrap();
    assert_eq!(ended.all(), [6]);
    assert_eq!(op::splice(file.as_fd(), &into, 4).wait().unwrap(), 0, "the end");
    assert_eq!(loop_.start(op::splice(&out, &behind, 3)).take().unwrap().unwrap(), 3);
    assert_eq!(complete(&loop_, op::splice(&out, &behind, 3)).unwrap(), 3);
    drop(into);
    // It ends with the source.
    assert_eq!(op::splice(&out, &behind, 100).all(true).wait().unwrap(), 4);
    assert_eq!(op::splice(&out, &behind, 100).wait().unwrap(), 0);
    assert_eq!(op::splice(&out, &behind, 0).wait().unwrap(), 0);
    let mut got = [0; 16];
    assert_eq!(op::read(&last, &mut got).wait().unwrap(), 10);
    assert_eq!(&got[..10], b"0123456789");
}

/// Whichever end is not ready is waited for: without a thread, without a spin, and without a loss if it is cancelled.
pub fn d22_splice_waits_for_either_end() {
    let loop_ = current_loop();
    let (out, into) = pipe();
    let (here, mut there) = half_unix();
    // The source.
    let waiting = assert_waits(&loop_, op::splice(&out, &here, 100), 0);
    op::write(&into, b"first").wait().unwrap();
    assert_eq!(waiting.take().unwrap().unwrap(), 5);
    // The destination.
    let full = op::send(&here, vec![1; 8 << 20]).all(true).timeout(Duration::from_millis(5)).wait_counted().0;
    op::write(&into, b"second").wait().unwrap();
    let waiting = assert_waits(&loop_, op::splice(&out, &here, 100), 0);
    let mut got = vec![0; 5 + full];
    there.read_exact(&mut got).unwrap();
    assert_eq!(waiting.take().unwrap().unwrap(), 6);
    there.read_exact(&mut got[..6]).unwrap();
    assert_eq!(&got[..6], b"second");
    // Neither: the pipe is full, the socket empty.
    let (there, mut here) = half_tcp();
    let room = fill(&into);
    let mut waiting = assert_waits(&loop_, op::splice(&there, &into, 100), 0);
    here.write_all(b"third").unwrap();
    loop_.tick(Some(Duration::from_millis(10))).unwrap();
    assert!(waiting.try_take().is_none());
    drain(&out, room);
    assert_eq!(waiting.take().unwrap().unwrap(), 5);
    drain(&out, 5);
    // Cancelled, or out of time, it has taken nothing.
    let waiting = loop_.start(op::splice(&there, &into, 100));
    poke(&loop_);
    assert!(loop_.cancel(waiting.id()));
    assert!(canceled(waiting.take().unwrap()));
    here.write_all(b"fourth").unwrap();
    assert_eq!(op::recv(&there, &mut got[..]).wait().unwrap(), 6);
    assert_timed_out(op::splice(&there, &into, 9).timeout(Duration::from_millis(5)).wait());
    // Of all, what had come is told.
    here.write_all(b"fifth").unwrap();
    let splice = op::splice(&there, &into, 9).all(true).timeout(Duration::from_millis(30));
    let (n, result) = splice.wait_counted();
    assert_timed_out(result);
    assert_eq!(n, 5);
}

/// A file, or another device, with a pipe that is not ready: no thread waits with it.
pub fn d22_splice_files_wait() {
    let loop_ = current_loop();
    let file = tempfile(b"0123456789");
    let (out, into) = pipe();
    let waiting = [
        assert_waits(&loop_, op::splice(&out, ours(&file), 100).to_at(2), 1),
        assert_waits(&loop_, op::splice(&out, ours(&file), 100).to_at(6), 1),
    ];
    op::write(&into, b"ab").wait().unwrap();
    tick_until(&loop_, || loop_.in_flight() == 1);
    let (mut moved, mut ended) = (0, 0);
    for ticket in waiting {
        loop_.cancel(ticket.id());
        match ticket.take().unwrap() {
            Ok(n) => moved += n,
            error => ended += usize::from(canceled(error)),
        }
    }
    assert_eq!((moved, ended), (2, 1));
    let room = fill(&into);
    let waiting = assert_waits(&loop_, op::splice(ours(&file), &into, 5).from_at(5), 1);
    drain(&out, room);
    let n = waiting.take().unwrap().unwrap();
    assert_eq!(n, 5);
    drain(&out, n);
    // What is always ready.
    let null = File::from(fs::File::options().read(true).write(true).open("/dev/null").unwrap());
    let zero = File::from(fs::File::open("/dev/zero").unwrap());
    assert_eq!(op::splice(&zero, &into, 4096).all(true).wait().unwrap(), 4096);
    assert_eq!(op::splice(&out, &null, 4096).all(true).wait().unwrap(), 4096);
    // A socket in blocking mode blocks nobody.
    let (blocking, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let blocking = File::from(OwnedFd::from(blocking));
    let waiting = assert_waits(&loop_, op::splice(&blocking, &into, 100), 1);
    peer.write_all(b"late").unwrap();
    assert_eq!(waiting.take().unwrap().unwrap(), 4);
    assert_eq!(op::splice(&out, &blocking, 100).wait().unwrap(), 4);
    let mut got = [0; 4];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"late");
}

/// Fills a pipe, and says with how much.
fn fill(into: &File) -> usize {
    op::write(into, vec![7; 8 << 20]).all(true).timeout(Duration::from_millis(5)).wait_counted().0
}

fn drain(out: &File, len: usize) {
    assert_eq!(op::read(out, vec![0; len]).all(true).wait().unwrap().0, len);
}

/// D11: a destination that is gone is an error, never a signal; what cannot work is refused.
pub fn d22_splice_refused() {
    current_loop();
    // SAFETY: the default disposition, which would end this process.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let file = tempfile(b"0123456789");
    let (out, into) = pipe();
    op::write(&into, b"some bytes").wait().unwrap();
    let (end, gone) = pipe();
    drop(end);
    let (here, there) = unix();
    drop(there);
    for _ in 0..3 {
        assert_eq!(errno(op::splice(&out, &gone, 2).wait()), libc::EPIPE);
        assert_eq!(errno(op::splice(&out, &here, 2).wait()), libc::EPIPE);
        assert_eq!(errno(op::splice(file.as_fd(), &gone, 2).wait()), libc::EPIPE);
    }
    let (a, b) = tcp();
    assert_eq!(errno(op::splice(&a, &b, 1).wait()), libc::EINVAL, "no pipe");
    assert_eq!(errno(op::splice(&out, &into, 1).wait()), libc::EINVAL, "one pipe");
    assert_eq!(errno(op::splice(&out, &a, 1).flags(1 << 31).wait()), libc::EINVAL);
    assert_eq!(errno(op::splice(&out, &a, 1).from_at(0).wait()), libc::ESPIPE);
    assert_eq!(errno(op::splice(&a, &into, 1).from_at(0).wait()), libc::ESPIPE);
    assert_eq!(errno(op::splice(&out, file.as_fd(), 1).to_at(u64::MAX).wait()), libc::EINVAL);
    assert_eq!(errno(op::splice(&into, &a, 1).wait()), libc::EBADF, "the wrong end");
    // Nothing was lost on the way.
    assert_eq!(op::splice(&out, &a, 100).flags(libc::SPLICE_F_NONBLOCK).wait().unwrap(), 10);
}

/// D14, A9: closing either end ends it, and so does the loop.
pub fn d14_close_under_a_splice() {
    let loop_ = current_loop();
    for second in [false, true] {
        let ((out, _into), (_last, behind)) = (pipe(), pipe());
        let mut waiting = loop_.start(op::splice(&out, &behind, 100));
        poke(&loop_);
        op::close(if second { behind.clone() } else { out.clone() }).wait().unwrap();
        assert!(canceled(waiting.try_take().unwrap()), "before the close");
    }
    let (out, into) = pipe();
    let file = tempfile(b"");
    let (fates, started): (Vec<_>, Vec<_>) = (0..20).map(|_| Fate::new()).unzip();
    let (_last, behind) = pipe();
    let file = ours(&file);
    for (at, fated) in started.into_iter().enumerate() {
        let to = if at % 2 == 0 { &file } else { &behind };
        loop_.submit(op::splice(&out, to, 9), move |_, _| fated.call());
    }
    loop_.tick(Some(Duration::from_millis(5))).unwrap();
    loop_.close();
    assert!(fates.iter().all(|fate| fate.calls() == 0));
    drop(into);
}

/// C5: a splice that is cancelled at any moment has moved what it says: every byte arrives once.
pub fn c05_cancelled_splices_lose_nothing() {
    let loop_ = current_loop();
    let (out, into) = pipe();
    let (here, there) = tcp();
    let (mut sent, mut moved, mut received) = (0_usize, 0_usize, 0_usize);
    let mut random = numbers();
    for _ in 0..scaled(20_000) {
        let ticket = loop_.start(op::splice(&out, &here, 64));
        let first = random().is_multiple_of(2);
        if first {
            poke(&loop_);
        }
        sent += op::write(&into, &[1; 10]).wait().unwrap();
        if random().is_multiple_of(2) {
            poke(&loop_);
        }
        loop_.cancel(ticket.id());
        match ticket.take().unwrap() {
            Ok(n) => moved += n,
            Err(error) => assert!(towpath_loop::is_canceled(&error), "{error}"),
        }
        if moved > received {
            let mut buf = vec![0; moved - received];
            received += op::recv(&there, &mut buf[..]).all(true).wait().unwrap();
        }
    }
    drop(into);
    let rest = op::splice(&out, &here, sent).all(true).wait().unwrap();
    assert_eq!(moved + rest, sent);
    assert_eq!(op::recv(&there, vec![0; rest]).all(true).wait().unwrap().0, rest);
}

/// C18: a deadline that passes at any moment ends it, also while it comes back from a thread, or from the kernel, to wait.
pub fn c18_deadline_races_a_splice() {
    let loop_ = current_loop();
    let file = tempfile(b"content");
    let (out, _into) = pipe();
    let (_out, full) = pipe();
    fill(&full);
    for micros in 0..400 {
        let limit = Duration::from_micros(micros % 100);
        assert_timed_out(op::splice(&out, file.as_fd(), 9).timeout(limit).wait());
        assert_timed_out(op::splice(file.as_fd(), &full, 9).from_at(0).timeout(limit).wait());
        let canceled = loop_.start(op::splice(&out, ours(&file), 9));
        loop_.tick(Some(limit)).unwrap();
        loop_.cancel(canceled.id());
        assert!(super::common::canceled(canceled.take().unwrap()));
    }
}

/// Numbers without order, the same in each run.
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    }
}

/// C6, C18: a limit that passes just when a splice has found its ends not ready ends it, and a cancel in that moment likewise.
pub fn c18_limits_race_the_ends_of_a_splice() {
    let loop_ = current_loop();
    let (out, into) = op::pipe().wait().unwrap();
    let file = File::from(fs::File::options().write(true).open("/dev/null").unwrap());
    let dir = std::env::temp_dir();
    let regular = op::open(&dir).read(false).write(true).custom_flags(libc::O_TMPFILE).wait().unwrap();
    for to in [&file, &regular] {
        for us in 0..150 {
            let limit = Duration::from_micros(us);
            assert_timed_out(loop_.start(op::splice(&out, to, 7).timeout(limit)).take().unwrap());
            let waiting = loop_.start(op::splice(&out, to, 7));
            let id = waiting.id();
            loop_.submit(op::timer(limit), move |loop_, _| assert!(loop_.cancel(id)));
            assert!(canceled(waiting.take().unwrap()));
        }
    }
    // Nothing is left of them: the bytes are there for the next one.
    op::write(&into, b"later").wait().unwrap();
    assert_eq!(op::splice(&out, &regular, 7).wait().unwrap(), 5);
}
