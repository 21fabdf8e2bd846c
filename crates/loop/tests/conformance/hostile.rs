//! F8, H6, O7, O11: an application, or a system, that does what it should not.

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::seccomp::{self, Action, Rule};
use towpath_harness::{net, sys};
use towpath_loop::{BufferPool, Config, Loop, is_canceled, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// F8: somebody closes a number that is ours. Whoever waits there can be cancelled, whoever asks is told, nobody spins.
pub fn f08_closed_behind_our_back() {
    let loop_ = current_loop();
    let (closed, _peer) = half_unix();
    let (other, mut far) = half_unix();
    let number = closed.as_raw_fd();
    let waiting = loop_.start(op::recv(&closed, vec![0; 8]));
    poke(&loop_);
    // SAFETY: it is not, and that is the point; the number is something else's below, which `closed` closes.
    assert_eq!(unsafe { libc::close(number) }, 0);
    // The harness looks whether this spins.
    op::timer(300 * MS).wait().unwrap();
    assert_eq!(errno(op::send(&closed, b"x").wait()), libc::EBADF);
    assert_eq!(errno(loop_.start(op::send(&closed, b"x".to_vec())).take().unwrap()), libc::EBADF);
    assert_eq!(errno(op::poll(&closed, libc::POLLOUT).wait()), libc::EBADF);
    far.write_all(b"x").unwrap();
    assert_eq!(op::recv(&other, &mut [0; 8]).wait().unwrap(), 1);
    loop_.cancel(waiting.id());
    let error = error(waiting.take().unwrap());
    assert!(is_canceled(&error) || error.raw_os_error() == Some(libc::EBADF), "{error}");
    // Who opens something now gets the number, and is taken for it.
    let (stranger, mut far) = net::unix_pair();
    assert_eq!(OwnedFd::from(stranger).into_raw_fd(), number);
    let waiting = loop_.start(op::recv(&closed, vec![0; 8]).timeout(Duration::from_secs(2)));
    poke(&loop_);
    far.write_all(b"hello").unwrap();
    // It is found, on a ring and by asking; an epoll that was told of the old one may not tell of it.
    match waiting.take().unwrap() {
        Ok((n, _)) => assert_eq!(n, 5),
        Err(failed) => assert_eq!(failed.error.kind(), std::io::ErrorKind::TimedOut),
    }
}

/// H6: the system has no memory, or no descriptors, for another connection: whoever accepts is told, but not over and over
/// without a pause, and everybody else goes on.
pub fn h06_accepting_fails() {
    for code in [libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
        // The filter is the thread's, for good.
        let thread = std::thread::spawn(move || {
            let loop_ = current_loop();
            let ((failing, at), (working, elsewhere)) = (listener(), listener());
            let spared = Rule::new(libc::SYS_accept4, Action::Refuse(code))
                .unless_argument(0, working.as_raw_fd() as u32);
            seccomp::install(&[spared]);
            let _client = std::net::TcpStream::connect(at).unwrap();
            let (begun, cpu) = (StdInstant::now(), sys::thread_cpu_time());
            let mut count = 0;
            while begun.elapsed() < 200 * MS {
                assert_eq!(errno(op::accept(&failing).wait()), code);
                count += 1;
            }
            assert!(count <= 25, "{count} times in 200 ms");
            assert!(sys::thread_cpu_time() - cpu < 40 * MS, "it spins");
            // Held back, it can be cancelled, and holds up nobody.
            let held = loop_.start(op::accept(&failing));
            poke(&loop_);
            let _client = std::net::TcpStream::connect(elsewhere).unwrap();
            op::accept(&working).wait().unwrap();
            loop_.cancel(held.id());
            let error = error(held.take().unwrap());
            assert!(is_canceled(&error) || error.raw_os_error() == Some(code), "{error}");
            drop(Loop::take_current());
        });
        thread.join().unwrap();
    }
}

/// The descriptor of the only ring that there is.
fn the_ring() -> i32 {
    let rings: Vec<_> = sys::fds().into_iter().filter(|(_, what)| what.contains("[io_uring]")).collect();
    assert_eq!(rings.len(), 1, "{rings:?}");
    rings[0].0
}

/// O7: a restricted ring refuses what the loop does not use, also if it is asked by this very thread.
pub fn o07_a_restricted_ring() {
    /// `IORING_REGISTER_PERSONALITY`: harmless, and not ours.
    const REGISTER_PERSONALITY: i32 = 9;
    for (restricted, refusal) in [(false, None), (true, Some(libc::EACCES))] {
        let loop_ = Config::new().ring_restricted(restricted).build().unwrap();
        loop_.make_current();
        // SAFETY: this one takes no pointer.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                the_ring(),
                REGISTER_PERSONALITY,
                std::ptr::null::<u8>(),
                0,
            )
        };
        let refused = (result < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap());
        assert_eq!(refused, refusal);
        // What it does use, with what it registers: polled from outside, and buffers for streams.
        assert!(loop_.with_fd(|fd| fd.is_some()));
        let (socket, mut peer) = half_unix();
        let pool = BufferPool::with_capacity(4, 64).unwrap();
        let mut stream = loop_.stream(op::recv_multi(&socket, &pool));
        peer.write_all(b"x").unwrap();
        assert_eq!(&*stream.next().unwrap().unwrap(), b"x");
        drop((stream, Loop::take_current()));
    }
}

/// O7: the ring has no thread of the kernel's that polls, no memory registered, and no way to what drivers have of their own.
pub fn o07_a_modest_ring() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    peer.write_all(b"x").unwrap();
    op::recv(&socket, &mut [0; 8]).wait().unwrap();
    let pool = BufferPool::with_capacity(4, 64).unwrap();
    let mut stream = loop_.stream(op::recv_multi(&socket, &pool));
    peer.write_all(b"x").unwrap();
    stream.next().unwrap().unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", the_ring())).unwrap();
    let value = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in {info}")).split(':').nth(1).unwrap().trim()
    };
    assert_eq!((value("SqThread"), value("UserBufs")), ("-1", "0"));
    let threads = sys::other_threads();
    assert!(!threads.iter().any(|(_, name)| name.starts_with("iou-sqp")), "{threads:?}");
    /// `IORING_OP_URING_CMD`.
    const URING_CMD: u8 = 46;
    for operation in towpath_loop::operation::OPERATIONS {
        assert!(operation.uring.is_none_or(|opcode| opcode.code != URING_CMD), "{operation:?}");
    }
}

/// O11: lengths that somebody else has chosen, as large as they can be.
pub fn o11_absurd_lengths() {
    const MAX: usize = usize::MAX;
    let loop_ = current_loop();
    let sizes = [(MAX, 1), (1, MAX), (MAX, MAX), (1 << 15, MAX >> 15), (1 << 15, MAX >> 16), (0, 1), (1, 0)];
    for (count, size) in sizes {
        let error = error(BufferPool::with_capacity(count, size));
        let kind = error.kind();
        use std::io::ErrorKind::{InvalidInput, OutOfMemory};
        assert!(matches!(kind, InvalidInput | OutOfMemory), "{count} of {size}: {error}");
    }
    // As much as there is, of as much as there could be.
    let (here, there) = unix();
    let file = towpath_loop::File::from(tempfile(b"content"));
    let sent = op::sendfile(&here, &file, MAX).at(0).wait().unwrap();
    assert_eq!((sent, op::recv(&there, &mut [0; 64]).wait().unwrap()), (7, 7));
    assert_eq!(op::sendfile(&here, &file, MAX).at(0).all(true).wait().unwrap(), 7);
    assert_eq!(op::recv(&there, &mut [0; 64]).wait().unwrap(), 7);
    let (from, to) = op::pipe().wait().unwrap();
    assert_eq!(op::splice(&file, &to, MAX).from_at(0).wait().unwrap(), 7);
    assert_eq!(op::splice(&from, &here, MAX).wait().unwrap(), 7);
    assert_eq!(op::recv(&there, &mut [0; 64]).wait().unwrap(), 7);
    let copy = towpath_loop::File::from(tempfile(b""));
    assert_eq!(op::copy_range(&file, &copy, MAX).from_at(0).to_at(0).all(true).wait().unwrap(), 7);
    for (at, len) in [(0, u64::MAX), (u64::MAX, 1), (1, u64::MAX), (i64::MAX as u64, i64::MAX as u64)] {
        let result = op::allocate(&copy, at, len, 0).wait();
        assert!(result.is_err(), "{len} at {at}");
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert_eq!(op::read_entire(&path).limit(MAX).wait().unwrap(), b"content");
    // Room for more than there can be of what comes with a message.
    op::send(&here, b"x").wait().unwrap();
    let mut buf = [0; 8];
    let mut buffers = [std::io::IoSliceMut::new(&mut buf)];
    let got = op::recv_msg(&there, &mut buffers[..]).fds(MAX).control(MAX).control(MAX).credentials().wait();
    assert_eq!(got.unwrap().received, 1);
    let much = op::Control { level: libc::IPPROTO_IP, kind: libc::IP_TOS, data: vec![0xff; 1 << 20] };
    assert!(op::send_msg(&here, &[std::io::IoSlice::new(b"x")][..]).control(much).wait().is_err());
    let stream = loop_.stream(op::recv_multi(&there, &BufferPool::new().unwrap()).max_unread(u32::MAX));
    drop(stream);
    // Sizes of rings: as the kernel has them, or refused with its word.
    if std::env::var("TOWPATH_BACKEND").is_ok_and(|name| name == "io_uring") {
        for config in [Config::new().ring_entries(u32::MAX), Config::new().ring_completions(u32::MAX)] {
            if let Err(error) = config.build() {
                assert!(
                    error.raw_os_error().is_some() || std::error::Error::source(&error).is_some(),
                    "{error}"
                );
            }
        }
    }
}
