//! P: which backend, where some are refused. What a refused io_uring must not do is get in anybody's way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use towpath_harness::process::{self, Sysctl};
use towpath_harness::seccomp::{self, IO_URING};
use towpath_harness::{net, sys};
use towpath_loop::operation::{Description, OPERATIONS, Support};
use towpath_loop::{BackendKind, Config, Loop, op};

use crate::common::*;

/// Whether io_uring works here at all; the tests that refuse it would otherwise prove nothing.
fn need_uring() {
    if let Err(error) = Config::new().backend(BackendKind::IoUring).build() {
        towpath_harness::skip(&format!("no io_uring here to be refused: {error}"));
    }
}

/// One exchange, as proof that a loop works.
fn works(loop_: &Loop) {
    let (socket, mut peer) = half_unix();
    let read = loop_.start(op::recv(&socket, vec![0; 8]));
    poke(loop_);
    peer.write_all(b"hello").unwrap();
    assert_eq!(read.take().unwrap().unwrap().0, 5);
    let remote = loop_.remote();
    std::thread::spawn(move || remote.wake()).join().unwrap();
    loop_.start(op::timer(Duration::from_millis(1))).take().unwrap().unwrap();
}

/// In a sandbox: automatic choice falls back, and says so in one line; a demand fails, and says what to do.
fn refused_loop_falls_back() {
    let (loops, said) = process::stderr_of(|| [Loop::new(), Config::new().build(), Loop::new()]);
    for loop_ in loops {
        let loop_ = loop_.expect("a loop on some backend");
        assert_eq!(loop_.backend(), "epoll");
        works(&loop_);
    }
    assert_eq!(said.lines().count(), 1, "{said:?}");
    assert!(said.contains("io_uring") && said.contains("epoll"), "{said:?}");
    let check = |result: io::Result<Loop>| {
        let text = result.expect_err("a demand must not be answered with something else").to_string();
        assert!(text.contains("io_uring") && text.contains("TOWPATH_BACKEND"), "no hint: {text:?}");
        assert!(!BackendKind::IoUring.is_available());
    };
    let (_, said) = process::stderr_of(|| {
        check(Config::new().backend(BackendKind::IoUring).build());
        process::set_env("TOWPATH_BACKEND", Some("io_uring"));
        check(Loop::new());
        check(Config::new().build());
    });
    assert_eq!(said, "", "an error is returned, not printed");
    for name in ["epoll", "poll"] {
        process::set_env("TOWPATH_BACKEND", Some(name));
        assert_eq!(Loop::new().unwrap().backend(), name);
    }
    process::set_env("TOWPATH_BACKEND", None);
}

fn setup_refused_with(errno: i32) {
    need_uring();
    seccomp::refuse(&[libc::SYS_io_uring_setup], errno);
    refused_loop_falls_back();
}

/// P1: `io_uring_setup` refused as containers do.
pub fn p01_setup_eperm() {
    setup_refused_with(libc::EPERM);
}

/// P1: as an old kernel does, or Docker for one it does not know.
pub fn p01_setup_enosys() {
    setup_refused_with(libc::ENOSYS);
}

/// P1: as a security module does.
pub fn p01_setup_eacces() {
    setup_refused_with(libc::EACCES);
}

/// P1: names of backends that are not here, or nowhere.
pub fn p01_unknown_names() {
    for (name, kind) in [
        ("uring", io::ErrorKind::InvalidInput),
        ("kqueue", io::ErrorKind::Unsupported),
        ("iocp", io::ErrorKind::Unsupported),
    ] {
        process::set_env("TOWPATH_BACKEND", Some(name));
        let error = Loop::new().unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("TOWPATH_BACKEND"), "{error}");
        // The program's own choice comes before the environment's.
        assert_eq!(Config::new().backend(BackendKind::Poll).build().unwrap().backend(), "poll");
    }
    process::set_env("TOWPATH_BACKEND", Some(""));
    Loop::new().unwrap();
    process::set_env("TOWPATH_BACKEND", None);
}

/// P2: the ring can be made and not entered.
pub fn p02_enter_refused() {
    need_uring();
    let fds = sys::fds();
    seccomp::refuse(&[libc::SYS_io_uring_enter], libc::EPERM);
    refused_loop_falls_back();
    assert_eq!(sys::fds(), fds, "a half-made ring is left");
}

/// P2: the ring can be made and nothing registered.
pub fn p02_register_refused() {
    need_uring();
    seccomp::refuse(&[libc::SYS_io_uring_register], libc::EPERM);
    // A ring without registration would do as well; what is chosen must work.
    let (loop_, said) = process::stderr_of(|| Loop::new().expect("a loop on some backend"));
    works(&loop_);
    assert_eq!(said.lines().count(), usize::from(loop_.backend() == "epoll"), "{said:?}");
}

/// P3: no locked memory, as nobody: smaller, or another backend, but a loop.
pub fn p03_no_locked_memory() {
    need_uring();
    if !rustix::process::geteuid().is_root() {
        towpath_harness::skip("only root can become nobody");
    }
    let _held = Sysctl::hold(process::IO_URING_DISABLED);
    let _limit = sys::limit(rustix::process::Resource::Memlock, 0);
    sys::become_user(65534).unwrap();
    let (loop_, said) = process::stderr_of(|| Loop::new().expect("a loop on some backend"));
    works(&loop_);
    assert!(said.lines().count() <= 1);
    let forced = Config::new().backend(BackendKind::IoUring).build();
    match forced {
        Ok(forced) => works(&forced),
        Err(error) => assert!(error.to_string().contains("TOWPATH_BACKEND"), "{error}"),
    }
}

/// P4: io_uring switched off for the unprivileged. (Switched off for all, 2, it would be for everybody on this
/// machine meanwhile; the refusal is the same, `EPERM`.)
pub fn p04_switched_off() {
    need_uring();
    let off = match Sysctl::set(process::IO_URING_DISABLED, "1") {
        Ok(off) => off,
        Err(error) => towpath_harness::skip(&format!("kernel.io_uring_disabled cannot be set: {error}")),
    };
    let tested = std::thread::spawn(|| {
        sys::become_user(65534).unwrap();
        refused_loop_falls_back();
    });
    let tested = tested.join();
    drop(off);
    tested.unwrap();
}

/// All that an exchange brings about, in words, for comparison.
fn transcript(loop_: &Loop) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |what: &str, outcome: String| lines.push(format!("{what}: {outcome}"));
    fn told<T: std::fmt::Debug, E: Into<io::Error>>(outcome: Result<T, E>) -> String {
        match outcome {
            Ok(value) => format!("{value:?}"),
            Err(error) => match error.into() {
                error if error.raw_os_error().is_some() => format!("error {:?}", error.raw_os_error()),
                error => format!("error {:?}", error.kind()),
            },
        }
    }
    macro_rules! carry_out {
        ($op:expr) => {
            loop_.start($op).take().unwrap()
        };
    }
    let patience = towpath_harness::patience(Duration::from_millis(15));
    let listener = carry_out!(op::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    say("bind", told(carry_out!(op::bind(&listener, any.into()))));
    say("bind again", told(carry_out!(op::bind(&listener, any.into()))));
    say("listen", told(carry_out!(op::listen(&listener, 16))));
    say("accept nobody", told(carry_out!(op::accept(&listener).timeout(patience)).map(drop)));
    let plain =
        std::net::TcpListener::from(std::os::fd::AsFd::as_fd(&listener).try_clone_to_owned().unwrap());
    let addr = plain.local_addr().unwrap();
    let client = carry_out!(op::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).unwrap();
    let accepting = loop_.start(op::accept(&listener));
    say("connect", told(carry_out!(op::connect(&client, addr.into()))));
    let (server, from) = accepting.take().unwrap().unwrap();
    say("accepted from itself", (from.to_std().unwrap().ip() == addr.ip()).to_string());
    say("connect again", told(carry_out!(op::connect(&client, addr.into()))));
    let (_, closed) = net::listener();
    let other = carry_out!(op::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).unwrap();
    say("connect to nobody", told(carry_out!(op::connect(&other, closed.into()))));
    let waiting = loop_.start(op::recv(&server, vec![0; 16]));
    poke(loop_);
    say("send", told(carry_out!(op::send(&client, b"hello".to_vec()))));
    say("recv", told(waiting.take().unwrap()));
    say("recv nothing", told(carry_out!(op::recv(&server, vec![0; 16]).timeout(patience))));
    let parts = vec![b"one".to_vec(), b"two".to_vec()];
    let waiting = loop_.start(op::recv_vectored(&server, vec![vec![0; 4], vec![0; 8]]));
    poke(loop_);
    say("send_vectored", told(carry_out!(op::send_vectored(&client, parts))));
    say("recv_vectored", told(waiting.take().unwrap()));
    say(
        "recv_vectored nothing",
        told(carry_out!(op::recv_vectored(&server, vec![vec![0; 4]]).timeout(patience))),
    );
    let sent = carry_out!(op::send(&client, vec![7; 100_000]).all(true)).map(|(n, _)| n);
    say("send all", told(sent));
    let got = carry_out!(op::recv(&server, vec![0; 100_000]).all(true));
    say("recv all", told(got.map(|(n, buf)| (n, buf.iter().all(|byte| *byte == 7)))));
    say("poll", told(carry_out!(op::poll(&client, libc::POLLOUT))));
    say("poll nothing", told(carry_out!(op::poll(&client, libc::POLLIN).timeout(patience))));
    let canceled = loop_.start(op::recv(&server, vec![0; 16]));
    poke(loop_);
    loop_.cancel(canceled.id());
    say("cancelled", told(canceled.take().unwrap()));
    say("shutdown", told(carry_out!(op::shutdown(&client, Shutdown::Write))));
    say("recv the end", told(carry_out!(op::recv(&server, vec![0; 2]))));
    say("send after shutdown", told(carry_out!(op::send(&client, vec![0; 2]))));
    let kept = client.clone();
    say("close", told(carry_out!(op::close(client))));
    say("send after close", told(carry_out!(op::send(&kept, vec![0; 2]))));
    say("close again", told(carry_out!(op::close(kept))));
    say("close the last", told(carry_out!(op::close(server))));
    let udp = || {
        let socket = carry_out!(op::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)).unwrap();
        carry_out!(op::bind(&socket, any.into())).unwrap();
        let plain =
            std::net::UdpSocket::from(std::os::fd::AsFd::as_fd(&socket).try_clone_to_owned().unwrap());
        (socket, plain.local_addr().unwrap())
    };
    let ((a, a_addr), (b, b_addr)) = (udp(), udp());
    let waiting = loop_.start(op::recv_from(&b, vec![0; 4]));
    poke(loop_);
    say("send_to", told(carry_out!(op::send_to(&a, b"datagram".to_vec(), b_addr))));
    let datagram = waiting.take().unwrap().unwrap();
    say("from", (datagram.from.to_std().unwrap() == a_addr).to_string());
    say("recv_from", format!("{:?} {}", datagram.received, datagram.truncated));
    say("an empty one", told(carry_out!(op::send_to(&a, Vec::new(), b_addr))));
    say("recv_from", told(carry_out!(op::recv_from(&b, vec![0; 4])).map(|datagram| datagram.received)));
    say("too long", told(carry_out!(op::send_to(&a, vec![0; 70_000], b_addr)).map(drop)));
    say("no such family", told(carry_out!(op::socket(12345, 1, 0)).map(drop)));
    let (pipe, _writer) = io::pipe().unwrap();
    let pipe = std::os::fd::AsFd::as_fd(&pipe);
    say("recv from a pipe", told(carry_out!(op::recv(pipe, vec![0; 2]))));
    lines
}

/// What the system calls do; the same on every backend, with every way around.
const EXPECTED: &[&str] = &[
    "bind: ()",
    "bind again: error Some(22)",
    "listen: ()",
    "accept nobody: error TimedOut",
    "connect: ()",
    "accepted from itself: true",
    "connect again: error Some(106)",
    "connect to nobody: error Some(111)",
    "send: (5, [104, 101, 108, 108, 111])",
    "recv: (5, [104, 101, 108, 108, 111, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])",
    "recv nothing: error TimedOut",
    "send_vectored: (6, [[111, 110, 101], [116, 119, 111]])",
    "recv_vectored: (6, [[111, 110, 101, 116], [119, 111, 0, 0, 0, 0, 0, 0]])",
    "recv_vectored nothing: error TimedOut",
    "send all: 100000",
    "recv all: (100000, true)",
    "poll: 4",
    "poll nothing: error TimedOut",
    "cancelled: error Some(125)",
    "shutdown: ()",
    "recv the end: (0, [0, 0])",
    "send after shutdown: error Some(32)",
    "close: ()",
    "send after close: error Some(9)",
    "close again: error Some(9)",
    "close the last: ()",
    "send_to: (8, [100, 97, 116, 97, 103, 114, 97, 109])",
    "from: true",
    "recv_from: (4, [100, 97, 116, 97]) true",
    "an empty one: (0, [])",
    "recv_from: (0, [0, 0, 0, 0])",
    "too long: error Some(90)",
    "no such family: error Some(97)",
    "recv from a pipe: error Some(88)",
];

/// Fails with the lines that differ only.
fn assert_as_expected(lines: Vec<String>, how: &str) {
    let pairs = lines.iter().zip(EXPECTED).filter(|(is, should)| is != should);
    let differ: Vec<_> = pairs.map(|(is, should)| format!("{is}, instead of {should}")).collect();
    assert!(differ.is_empty() && lines.len() == EXPECTED.len(), "{how}: {differ:#?}");
}

/// P5: every backend does the same, by and large the system calls'.
pub fn p05_backends_agree() {
    assert_as_expected(transcript(&new_loop()), "this backend");
}

/// P5: and io_uring does, whichever opcode the kernel lacks.
pub fn p05_masked_opcodes() {
    let with_opcode = OPERATIONS.iter().filter_map(|row: &Description| Some((row, row.uring?)));
    for (row, opcode) in with_opcode {
        let config = Config::new().without_opcode(opcode.code);
        let loop_ = match config.clone().backend(BackendKind::IoUring).build() {
            Ok(loop_) => {
                let capabilities = loop_.capabilities();
                let (_, support) = capabilities.iter().find(|(kind, _)| *kind == row.kind).unwrap();
                assert!(
                    !matches!(support, Support::Native | Support::Unsupported),
                    "{}: {support:?}",
                    opcode.name
                );
                loop_
            }
            // Not worth having without this one: then another backend it is.
            Err(_) => {
                process::set_env("TOWPATH_BACKEND", None);
                let loop_ = config.build().unwrap();
                assert_eq!(loop_.backend(), "epoll", "without {}", opcode.name);
                loop_
            }
        };
        assert_as_expected(transcript(&loop_), &format!("without {}", opcode.name));
    }
    // And without any of them.
    let all =
        OPERATIONS.iter().filter_map(|row| row.uring).filter(|opcode| opcode.name != "IORING_OP_POLL_ADD");
    let config = all.fold(Config::new(), |config, opcode| config.without_opcode(opcode.code));
    let loop_ = config.backend(BackendKind::IoUring).build().unwrap();
    assert_as_expected(transcript(&loop_), "without any");
}

/// O7, P5: and on a restricted ring, whichever opcode that refuses although the kernel has it.
pub fn o07_refused_opcodes() {
    let restricted = || Config::new().backend(BackendKind::IoUring).ring_restricted(true);
    assert_as_expected(transcript(&restricted().build().unwrap()), "restricted");
    for (row, opcode) in OPERATIONS.iter().filter_map(|row| Some((row, row.uring?))) {
        let with_all = restricted().build().unwrap().capabilities();
        let config = restricted().refuse_opcode(opcode.code);
        let loop_ = match config.build() {
            Ok(loop_) => loop_,
            // There is no waiting without polls.
            Err(error) => {
                assert_eq!(opcode.name, "IORING_OP_POLL_ADD", "{error}");
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        for ((kind, now), (_, before)) in loop_.capabilities().into_iter().zip(with_all) {
            match OPERATIONS[kind as usize].uring {
                Some(other) if other.code == opcode.code => {
                    assert!(!matches!(now, Support::Native | Support::Unsupported), "{kind:?}: {now:?}");
                }
                _ => assert_eq!(now, before, "{kind:?} without {}", row.name),
            }
        }
        assert_as_expected(transcript(&loop_), &format!("{} refused", opcode.name));
    }
}

/// P6: who chose another backend makes no system call of io_uring's: here it would be the last.
pub fn p06_opt_out_is_complete() {
    seccomp::kill_on(&IO_URING);
    let kinds = [BackendKind::Epoll, BackendKind::Poll];
    let named = std::env::var("TOWPATH_BACKEND").unwrap();
    let kind = *kinds.iter().find(|kind| kind.name() == named).unwrap();
    assert!(kind.is_available());
    for loop_ in [Loop::new().unwrap(), Config::new().backend(kind).build().unwrap()] {
        assert_eq!(loop_.backend(), named);
        transcript(&loop_);
        works(&loop_);
    }
    // The loop that blocking style makes by itself.
    op::timer(Duration::from_millis(1)).wait().unwrap();
    assert_eq!(Loop::take_current().unwrap().backend(), named);
    let text = "io_uring".parse::<BackendKind>().unwrap();
    assert_eq!(text.to_string(), "io_uring");
}

/// P9: loops of different backends side by side, in one thread.
pub fn p09_backends_side_by_side() {
    let build = |kind: &BackendKind| Config::new().backend(*kind).build();
    let loops: Vec<_> = BackendKind::ALL.iter().filter_map(|kind| build(kind).ok()).collect();
    let (listener, addr) = listener();
    for from in &loops {
        for to in &loops {
            let client = from.start(op::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).take().unwrap().unwrap();
            let accepting = to.start(op::accept(&listener));
            poke(to);
            from.start(op::connect(&client, addr.into())).take().unwrap().unwrap();
            let (server, _) = accepting.take().unwrap().unwrap();
            let read = to.start(op::recv(&server, vec![0; 8]));
            poke(to);
            from.start(op::send(&client, b"across".to_vec())).take().unwrap().unwrap();
            assert_eq!(read.take().unwrap().unwrap().0, 6);
            // One socket, two loops: what one closes is closed for the other.
            let clone = client.clone();
            from.start(op::close(client)).take().unwrap().unwrap();
            assert_eq!(errno(to.start(op::recv(&clone, vec![0; 1])).take().unwrap()), libc::EBADF);
        }
    }
    let mut plain = TcpStream::connect(addr).unwrap();
    plain.set_nonblocking(true).unwrap();
    assert!(plain.read(&mut [0; 1]).is_err());
}
