//! P: which backend is used where the system refuses io_uring, or part of it.

use std::error::Error as _;
use std::io::{self, Read, Write};
use std::time::Duration;

use rustix::process::Resource;
use towpath_harness::process::{self, Ended};
use towpath_harness::{seccomp, sys};
use towpath_loop::operation::Support;
use towpath_loop::{BackendKind, Config, Loop, OPERATIONS};

use crate::common::new_loop;
use crate::script::{Transcript, assert_same};

/// What the kernel may say to a forbidden system call.
const REFUSALS: [i32; 3] = [libc::EPERM, libc::ENOSYS, libc::EACCES];

/// Skips the test where there is no io_uring to be refused.
fn need_io_uring() {
    if let Err(error) = Config::new().backend(BackendKind::IoUring).build() {
        towpath_harness::skip(&format!("io_uring is not available: {error}"));
    }
}

/// What the script gives on a backend that this is not about. Each process asks for itself: the blocking pool that it
/// uses does not survive a fork.
fn expected() -> Vec<String> {
    Transcript::of(&Config::new().backend(BackendKind::Epoll).build().unwrap())
}

/// Runs `body` in a forked child, with the environment as it is, and fails unless it ends well.
fn in_child(what: &str, body: impl FnOnce()) {
    let ended = process::in_child(|| {
        body();
        0
    });
    assert_eq!(ended, Ended::Code(0), "{what}");
}

/// Several loops, on two threads: all on epoll, all of them work, and one line on stderr tells it.
fn assert_falls_back(what: &str, expected: &[String]) {
    let (backends, told) = process::stderr_of(|| {
        let loops: Vec<_> = (0..3).map(|_| Loop::new().unwrap()).collect();
        assert_same(what, expected, &Transcript::of(&loops[1]));
        let other = std::thread::spawn(|| Loop::new().unwrap().backend()).join().unwrap();
        loops.iter().map(Loop::backend).chain([other]).collect::<Vec<_>>()
    });
    assert_eq!(backends, ["epoll"; 4], "{what}");
    assert_eq!(told.lines().count(), 1, "{what}: {told:?}");
    assert!(told.contains("io_uring") && told.contains("epoll"), "{what}: {told:?}");
}

/// Asked for, by the options and by the environment, it is an error that tells a person what to do, keeps the
/// system's code, and leaves nothing.
fn assert_forced_fails(what: &str, errno: i32) {
    let fds = sys::fds();
    let system = io::Error::from_raw_os_error(errno);
    for by_environment in [false, true] {
        let (result, told) = process::stderr_of(|| {
            if by_environment {
                process::set_env("TOWPATH_BACKEND", Some("io_uring"));
                let result = Loop::new();
                process::set_env("TOWPATH_BACKEND", None);
                result
            } else {
                Config::new().backend(BackendKind::IoUring).build()
            }
        });
        let error = result.expect_err(what);
        assert_eq!(told, "", "{what}: an error is enough");
        assert_eq!(error.kind(), system.kind(), "{what}: {error}");
        let text = error.to_string();
        for word in ["io_uring", "seccomp", "TOWPATH_BACKEND", &system.to_string()] {
            assert!(text.contains(word), "{what}: {word:?} is missing in {text:?}");
        }
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let code = error.raw_os_error().or_else(|| source?.raw_os_error());
        assert_eq!(code, Some(errno), "{what}: {error:?}");
    }
    assert!(!BackendKind::IoUring.is_available(), "{what}");
    assert_eq!(sys::fds(), fds, "{what}");
}

/// P1: io_uring_setup is forbidden.
pub fn p01_setup_is_refused() {
    need_io_uring();
    for errno in REFUSALS {
        let what = format!("setup says {errno}");
        in_child(&what, || {
            let expected = expected();
            seccomp::refuse(&[libc::SYS_io_uring_setup], errno);
            assert_falls_back(&what, &expected);
            assert_forced_fails(&what, errno);
            for kind in [BackendKind::Epoll, BackendKind::Poll] {
                let (loop_, told) = process::stderr_of(|| Config::new().backend(kind).build().unwrap());
                assert_eq!((loop_.backend(), told.as_str()), (kind.name(), ""), "{what}");
            }
        });
    }
}

/// P2: there is a ring, but one of the other two calls is forbidden: known before the first operation.
pub fn p02_enter_or_register_is_refused() {
    need_io_uring();
    for call in [libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        for errno in REFUSALS {
            let what = format!("system call {call} says {errno}");
            in_child(&what, || {
                let expected = expected();
                seccomp::refuse(&[call], errno);
                assert_falls_back(&what, &expected);
                assert_forced_fails(&what, errno);
            });
        }
    }
}

/// P3: an ordinary user who may lock no memory. Kernels before 5.12 count rings as such.
pub fn p03_no_locked_memory() {
    need_io_uring();
    if !rustix::process::getuid().is_root() {
        towpath_harness::skip("needs root, to become somebody else");
    }
    // From nothing to more than enough, by way of where only a smaller ring fits.
    for limit in [0, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 1 << 20] {
        let what = format!("{limit} bytes of locked memory");
        in_child(&what, || {
            let expected = expected();
            let _limit = sys::limit(Resource::Memlock, limit);
            // The pool's threads, which `expected` has started, as well.
            sys::become_user_in_all_threads(65_534).unwrap();
            let (loops, told) = process::stderr_of(|| {
                let loops: Vec<_> = (0..3).map(|_| Loop::new().unwrap()).collect();
                loops.iter().for_each(|loop_| assert_same(&what, &expected, &Transcript::of(loop_)));
                loops
            });
            let fell_back = loops.iter().any(|loop_| loop_.backend() != "io_uring");
            assert_eq!(told.lines().count(), usize::from(fell_back), "{what}: {told:?}");
            drop(loops);
            if let Err(error) = Config::new().backend(BackendKind::IoUring).build() {
                assert!(error.to_string().contains("memlock"), "{what}: {error}");
                assert!(fell_back, "{what}: three rings, but not a fourth");
            }
            for kind in [BackendKind::Epoll, BackendKind::Poll] {
                assert_same(&what, &expected, &Transcript::of(&Config::new().backend(kind).build().unwrap()));
            }
        });
    }
}

/// P4: switched off for the whole system, or for those without privileges. The file is put back before anything is
/// looked at, as others live on this system.
pub fn p04_switched_off_by_sysctl() {
    const FILE: &str = "/proc/sys/kernel/io_uring_disabled";
    need_io_uring();
    if !rustix::process::getuid().is_root() {
        towpath_harness::skip("needs root, for the sysctl");
    }
    for (value, user) in [("1", Some(65_534)), ("1", None), ("2", None)] {
        let what = format!("{value} for {}", if user.is_some() { "an ordinary user" } else { "root" });
        // CAP_SYS_ADMIN may use it as long as it is not switched off for all.
        let allowed = value == "1" && user.is_none();
        let before = Loop::new().unwrap();
        let guard = match process::Sysctl::set(FILE, value) {
            Ok(guard) => guard,
            Err(error) => towpath_harness::skip(&format!("{FILE}: {error}")),
        };
        let (mut built, tell) = io::pipe().unwrap();
        let child = process::fork(|| {
            if let Some(user) = user {
                sys::become_user(user).unwrap();
            }
            let (loops, told) = process::stderr_of(|| [Loop::new(), Loop::new()]);
            let forced = Config::new().backend(BackendKind::IoUring).build();
            let others = [BackendKind::Epoll, BackendKind::Poll].map(BackendKind::is_available);
            (&tell).write_all(b"!").unwrap();
            let expected = expected();
            for loop_ in loops {
                let loop_ = loop_.unwrap();
                assert_eq!(loop_.backend(), if allowed { "io_uring" } else { "epoll" }, "{what}");
                assert_same(&what, &expected, &Transcript::of(&loop_));
            }
            assert_eq!(others, [true; 2], "{what}: the others need no permission");
            assert_eq!(told.lines().count(), usize::from(!allowed), "{what}: {told:?}");
            match forced {
                Ok(loop_) => assert!(allowed, "{what}: {loop_:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
                    assert!(error.to_string().contains("io_uring_disabled"), "{what}: {error}");
                }
            }
            0
        });
        drop(tell);
        // One byte, or the end if the child fails.
        let _ = built.read(&mut [0]);
        drop(guard);
        assert_eq!(child.wait(), Ended::Code(0), "{what}");
        // A ring that was there before is not affected.
        assert_eq!(before.backend(), "io_uring");
        before.start(towpath_loop::op::timer(Duration::from_millis(1))).take().unwrap().unwrap();
    }
    assert!(BackendKind::IoUring.is_available(), "{FILE} was not put back");
}

/// P5, O7: each opcode in turn, and all of them, are missing, or refused by the ring: the outcomes are the same.
pub fn p05_without_each_opcode() {
    let whole = new_loop();
    let expected = Transcript::of(&whole);
    assert!(expected.len() > 100);
    let opcodes: Vec<_> = OPERATIONS.iter().filter_map(|row| Some((row, row.uring?))).collect();
    assert!(opcodes.len() > 8);
    let poll = opcodes.iter().find(|(row, _)| row.name == "poll").unwrap().1.code;
    let mut least = Config::new().backend(BackendKind::IoUring);
    for (row, opcode) in &opcodes {
        let without = Config::new().backend(BackendKind::IoUring).without_opcode(opcode.code);
        if opcode.code == poll {
            // The waker is one, and so is everything that is not native: there is no doing without.
            let error = without.build().expect_err("no wakes, no loop");
            assert!(error.to_string().contains("old kernel"), "{error}");
            process::set_env("TOWPATH_BACKEND", None);
            let (loop_, told) = process::stderr_of(|| Config::new().without_opcode(poll).build().unwrap());
            assert_eq!((loop_.backend(), told.lines().count()), ("epoll", 1));
            assert_same(opcode.name, &expected, &Transcript::of(&loop_));
            continue;
        }
        least = least.without_opcode(opcode.code);
        let loop_ = without.build().unwrap();
        assert_eq!(loop_.backend(), "io_uring");
        for ((kind, now), (_, with)) in loop_.capabilities().into_iter().zip(whole.capabilities()) {
            // Other operations may share the opcode; those that do not are as they were.
            if kind.describe().uring.is_some_and(|it| it.code == opcode.code) {
                assert!(
                    matches!(now, Support::Direct | Support::Readiness | Support::Pool),
                    "{}: {now:?}",
                    row.name
                );
            } else {
                assert_eq!(now, with, "{kind:?} without {}", opcode.name);
            }
        }
        assert_same(opcode.name, &expected, &Transcript::of(&loop_));
        let restricted = Config::new().backend(BackendKind::IoUring).ring_restricted(true);
        let refusing = restricted.refuse_opcode(opcode.code).build().unwrap();
        assert_eq!(refusing.capabilities(), loop_.capabilities(), "{} refused", opcode.name);
        assert_same(opcode.name, &expected, &Transcript::of(&refusing));
    }
    assert_same("with hardly any opcode", &expected, &Transcript::of(&least.build().unwrap()));
}

/// P5, on whole backends: those that there are agree, side by side in one process.
pub fn p05_same_outcomes_everywhere() {
    let mut loops: Vec<_> =
        BackendKind::ALL.iter().filter_map(|kind| Config::new().backend(*kind).build().ok()).collect();
    assert!(loops.len() >= 2);
    loops.extend(Config::new().backend(BackendKind::IoUring).ring_restricted(true).build());
    let expected = Transcript::of(&loops[0]);
    for loop_ in &loops {
        assert_same(loop_.backend(), &expected, &Transcript::of(loop_));
    }
}

/// P6: who asks for another backend makes no system call of io_uring: they would kill the process.
pub fn p06_opt_out_makes_no_ring_calls() {
    for kind in [BackendKind::Epoll, BackendKind::Poll] {
        for by_environment in [false, true] {
            let what = format!("{kind}, by the environment: {by_environment}");
            in_child(&what, || {
                let expected = expected();
                seccomp::kill_on(&seccomp::IO_URING);
                let make = || {
                    if by_environment {
                        process::set_env("TOWPATH_BACKEND", Some(kind.name()));
                        Loop::new().unwrap()
                    } else {
                        Config::new().backend(kind).build().unwrap()
                    }
                };
                let (loop_, told) = process::stderr_of(make);
                assert_eq!((loop_.backend(), told.as_str()), (kind.name(), ""), "{what}");
                assert_same(&what, &expected, &Transcript::of(&loop_));
                if by_environment {
                    // Loops that threads make by themselves, too.
                    let waits = || towpath_loop::op::next_tick().wait();
                    std::thread::spawn(waits).join().unwrap().unwrap();
                    waits().unwrap();
                }
            });
        }
    }
    // The filter is one: asked for, io_uring kills, whatever the kernel would have said.
    let killed = process::in_child(|| {
        seccomp::kill_on(&seccomp::IO_URING);
        drop(Config::new().backend(BackendKind::IoUring).build());
        0
    });
    assert_eq!(killed, Ended::Signal(libc::SIGSYS));
}
