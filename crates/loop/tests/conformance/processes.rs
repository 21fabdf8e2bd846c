//! M3 to M6: children.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant as StdInstant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use towpath_harness::{seccomp, sys};
use towpath_loop::operation::{Kind, Support};
use towpath_loop::{BackendKind, Child, Config, File, Loop, Ticket, is_canceled, op};

use crate::common::{Log, assert_timed_out, canceled, current_loop, errno, new_loop, poke, tick_until};

/// A child that lives until its standard input ends, then exits with this code.
fn waiting(code: i32) -> (Child, std::process::ChildStdin) {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read x; exit {code}")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (Child::new(child).unwrap(), stdin)
}

fn short(script: &str) -> Child {
    Child::new(Command::new("sh").args(["-c", script]).spawn().unwrap()).unwrap()
}

/// Waits until it has exited, and fails if it is reaped.
fn until_exited(pid: u32) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
}

/// Likewise, for one that may have exited, and been reaped, when it was taken over.
fn until_over(child: &Child) {
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
        Ok(_) => {}
        Err(error) => assert_eq!(error, rustix::io::Errno::CHILD),
    }
}

fn has_children() -> bool {
    !matches!(
        waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT),
        Err(rustix::io::Errno::CHILD)
    )
}

/// P1: how a child ended, in each way to wait, before and after it has.
pub fn m03_each_way_to_wait() {
    let loop_ = current_loop();
    for (script, status) in [("exit 0", 0), ("exit 255", 255 << 8), ("kill -TERM $$", libc::SIGTERM)] {
        for early in [false, true] {
            let child = short(script);
            if early {
                until_over(&child);
            }
            let expected = ExitStatus::from_raw(status);
            assert_eq!(op::wait_child(&child).wait().unwrap(), expected, "{script}");
            // Again, without asking the system.
            assert_eq!(op::wait_child(&child).wait().unwrap(), expected);
            assert_eq!(loop_.start(op::wait_child(&child)).take().unwrap().unwrap(), expected);
            assert_eq!(child.try_wait().unwrap(), Some(expected));
        }
    }
    // While it runs: several waits at once, on two loops, and a future.
    let (child, stdin) = waiting(7);
    assert_eq!(child.try_wait().unwrap(), None);
    let other = new_loop();
    let got = Log::new();
    for loop_ in [&loop_, &loop_, &other] {
        let log = got.clone();
        loop_.submit(op::wait_child(&child), move |_, status| log.add(status.unwrap().code()));
        poke(loop_);
    }
    let mut future = std::pin::pin!(IntoFuture::into_future(op::wait_child(&child)));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    drop(stdin);
    tick_until(&loop_, || got.len() == 2);
    tick_until(&other, || got.len() == 3);
    let deadline = StdInstant::now() + towpath_harness::patience(Duration::from_secs(3));
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(status) => break assert_eq!(status.unwrap().code(), Some(7)),
            std::task::Poll::Pending => assert!(StdInstant::now() < deadline),
        }
        loop_.tick(Some(Duration::from_millis(10))).unwrap();
    }
    assert_eq!(got.all(), [Some(7); 3]);
    // One that std has reaped already.
    let mut plain = Command::new("true").spawn().unwrap();
    plain.wait().unwrap();
    let child = Child::new(plain).unwrap();
    assert!(op::wait_child(&child).wait().unwrap().success());
    assert_eq!(errno(child.signal(libc::SIGTERM)), libc::ESRCH);
    drop(Loop::take_current());
    assert!(!has_children());
}

/// M3: a thousand children, more than a loop has signals for; each once, and a stranger untouched.
pub fn m03_thousand_children() {
    const WAVES: u32 = 5;
    const EACH: u32 = 200;
    let loop_ = new_loop();
    let mut foreign = Command::new("sh").args(["-c", "exit 42"]).spawn().unwrap();
    until_exited(foreign.id());
    let got = Log::new();
    for wave in 0..WAVES {
        let children: Vec<_> =
            (0..EACH).map(|_| Child::new(Command::new("true").spawn().unwrap()).unwrap()).collect();
        for (index, child) in children.iter().enumerate() {
            if index % 4 == 0 {
                until_over(child);
            }
            let (log, pid) = (got.clone(), child.id());
            loop_.submit(op::wait_child(child), move |_, status| {
                assert!(status.unwrap().success());
                log.add((wave, pid));
            });
        }
        drop(children);
        tick_until(&loop_, || loop_.in_flight() == 0);
    }
    let mut all = got.take();
    all.sort();
    all.dedup();
    assert_eq!(all.len() as u32, WAVES * EACH);
    // Still there, and nobody else's.
    assert_eq!(foreign.wait().unwrap().code(), Some(42));
    assert!(!has_children(), "a zombie is left");
}

/// M3: a wait that is cancelled, timed out, removed, or dropped with its loop leaves the child to be waited for.
pub fn m03_cancelled_waits_reap_nothing() {
    let (child, stdin) = waiting(3);
    let loop_ = new_loop();
    let id = loop_.submit(op::wait_child(&child), |_, outcome| assert!(is_canceled(&outcome.unwrap_err())));
    poke(&loop_);
    assert!(loop_.cancel(id));
    tick_until(&loop_, || loop_.in_flight() == 0);
    assert_timed_out(loop_.start(op::wait_child(&child).timeout(Duration::from_millis(3))).take().unwrap());
    let id = loop_.submit(op::wait_child(&child), |_, _| panic!("removed"));
    poke(&loop_);
    assert!(loop_.remove(id));
    tick_until(&loop_, || loop_.in_flight() == 0);
    loop_.submit(op::wait_child(&child), |_, _| panic!("dropped"));
    poke(&loop_);
    drop(loop_);
    // A result that came while nobody wanted it any more.
    let loop_ = new_loop();
    let id = loop_.submit(op::wait_child(&child), |_, _| panic!("removed"));
    poke(&loop_);
    drop(stdin);
    until_exited(child.id());
    loop_.submit(op::next_tick(), |_, _| ());
    loop_.remove(id);
    tick_until(&loop_, || loop_.in_flight() == 0);
    until_exited(child.id());
    assert_eq!(loop_.start(op::wait_child(&child)).take().unwrap().unwrap().code(), Some(3));
    assert!(!has_children());
    // One that nobody waits for runs on, and is std's business no more.
    let (child, stdin) = waiting(0);
    let pid = child.id();
    drop(child);
    drop(stdin);
    until_exited(pid);
    waitid(WaitId::Pid(Pid::from_raw(pid as i32).unwrap()), WaitIdOptions::EXITED).unwrap();
}

/// M3: one that somebody else reaps is an error, not a hang, and not another's status.
pub fn m03_reaped_by_somebody_else() {
    let loop_ = new_loop();
    let (child, stdin) = waiting(1);
    let ticket = loop_.start(op::wait_child(&child));
    poke(&loop_);
    drop(stdin);
    waitid(WaitId::Pid(Pid::from_raw(child.id() as i32).unwrap()), WaitIdOptions::EXITED).unwrap();
    assert_eq!(errno(ticket.take().unwrap()), libc::ECHILD);
    assert_eq!(errno(loop_.start(op::wait_child(&child)).take().unwrap()), libc::ECHILD);
    assert_eq!(errno(child.signal(libc::SIGTERM)), libc::ESRCH);
    child.kill().unwrap();
}

/// M4: what could not be started has left nothing, and what could be is waited for also if there is no descriptor left.
pub fn m04_what_cannot_be_started() {
    let loop_ = current_loop();
    let fds = sys::fds();
    let dir = std::env::temp_dir();
    let spawn = |command: &mut Command| command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let failures = [
        (spawn(&mut Command::new("/no/such/program")), libc::ENOENT),
        (spawn(&mut Command::new(&dir)), libc::EACCES),
        (spawn(Command::new("true").current_dir("/no/such/directory")), libc::ENOENT),
        (spawn(Command::new("true").arg("x".repeat(1 << 20))), libc::E2BIG),
    ];
    for (child, code) in failures {
        assert_eq!(errno(child), code);
    }
    for spare in 0..2 {
        let (filler, limit) = sys::spare_fds(spare);
        assert_eq!(errno(spawn(&mut Command::new("true"))), libc::EMFILE, "{spare} to spare");
        drop((filler, limit));
    }
    assert!(!has_children());
    assert_eq!(sys::fds(), fds);
    let plain = Command::new("sh").args(["-c", "read line; exit 9"]).stdin(Stdio::piped()).spawn();
    let mut plain = plain.unwrap();
    let stdin = plain.stdin.take().unwrap();
    let (filler, limit) = sys::spare_fds(0);
    let child = Child::new(plain).unwrap();
    drop((filler, limit));
    let waits = [loop_.start(op::wait_child(&child)), loop_.start(op::wait_child(&child))];
    poke(&loop_);
    drop(stdin);
    for wait in waits {
        assert_eq!(wait.take().unwrap().unwrap().code(), Some(9));
    }
    assert!(!has_children());
    drop(Loop::take_current());
}

/// M5: more than fits into pipes goes to a child and comes back at the same time, whatever it has for its stderr. And one with
/// none of the three ends as any other.
pub fn m05_much_each_way_at_once() {
    const MUCH: usize = 3 << 20;
    let loop_ = current_loop();
    let mut child = Command::new("sh")
        .args(["-c", "exec cat 2>&-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = File::from(OwnedFd::from(child.stdin.take().unwrap()));
    let stdout = File::from(OwnedFd::from(child.stdout.take().unwrap()));
    let child = Child::new(child).unwrap();
    let bytes: Vec<u8> = (0..MUCH).map(|at| ((at * 31) >> 5) as u8).collect();
    let writing = loop_.start(op::write(&stdin, bytes.clone()).all(true));
    let waiting = loop_.start(op::wait_child(&child));
    let (mut got, mut stdin, mut writing) = (Vec::new(), Some(stdin), Some(writing));
    loop {
        let (n, buf) = loop_.start(op::read(&stdout, vec![0; 10_000])).take().unwrap().unwrap();
        if n == 0 {
            break;
        }
        got.extend_from_slice(&buf[..n]);
        if let Some(written) = writing.as_mut().and_then(Ticket::try_take) {
            writing = None;
            assert_eq!(written.unwrap().0, MUCH);
            // It ends when it has read all.
            op::close(stdin.take().unwrap()).wait().unwrap();
        }
    }
    assert!(writing.is_none() && got == bytes);
    assert!(waiting.take().unwrap().unwrap().success());
    let none = short("exec 0<&- 1>&- 2>&-; exec true");
    assert!(op::wait_child(&none).wait().unwrap().success());
    assert!(!has_children());
    drop(Loop::take_current());
}

/// M6: a kill reaches the child or nobody.
pub fn m06_kill() {
    let loop_ = new_loop();
    let (child, _stdin) = waiting(0);
    assert_eq!(errno(child.signal(1000)), libc::EINVAL);
    let ticket = loop_.start(op::wait_child(&child));
    poke(&loop_);
    child.kill().unwrap();
    assert_eq!(ticket.take().unwrap().unwrap().signal(), Some(libc::SIGKILL));
    child.kill().unwrap();
    assert_eq!(errno(child.signal(libc::SIGTERM)), libc::ESRCH);
    // Exited and not reaped: no error, as with std, and the status is its own.
    let (child, stdin) = waiting(5);
    drop(stdin);
    until_exited(child.id());
    child.kill().unwrap();
    assert_eq!(loop_.start(op::wait_child(&child)).take().unwrap().unwrap().code(), Some(5));
}

/// M6: the number of a child that is gone is given to another process, and that one is let live.
pub fn m06_number_used_again() {
    let (child, stdin) = waiting(0);
    let pid = child.id();
    drop(stdin);
    until_exited(pid);
    // Reaped past us, so that only the pidfd knows.
    waitid(WaitId::Pid(Pid::from_raw(pid as i32).unwrap()), WaitIdOptions::EXITED).unwrap();
    let Ok(mut next) = std::fs::OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid") else {
        towpath_harness::skip("the next process number cannot be chosen")
    };
    let mut heir = None;
    for _ in 0..50 {
        if write!(next, "{}", pid - 1).is_err() {
            towpath_harness::skip("the next process number cannot be chosen");
        }
        let mut other = Command::new("sh").args(["-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap();
        if other.id() == pid {
            heir = Some(other);
            break;
        }
        drop(other.stdin.take());
        other.wait().unwrap();
    }
    let Some(mut heir) = heir else { towpath_harness::skip("others were quicker") };
    assert_eq!(errno(child.signal(libc::SIGKILL)), libc::ESRCH);
    child.kill().unwrap();
    let loop_ = new_loop();
    assert_eq!(errno(loop_.start(op::wait_child(&child)).take().unwrap()), libc::ECHILD);
    assert!(heir.try_wait().unwrap().is_none(), "it lives");
    drop(heir.stdin.take());
    heir.wait().unwrap();
}

/// P5: without the opcode, and where there are no pidfds, the same.
pub fn m03_without_opcode_or_pidfds() {
    let backend = std::env::var("TOWPATH_BACKEND").unwrap().parse::<BackendKind>().unwrap();
    let config = Config::new().backend(backend);
    let opcode = Kind::WaitChild.describe().uring.unwrap().code;
    let whole = config.clone().build().unwrap();
    let least = config.without_opcode(opcode).build().unwrap();
    for (kind, support) in least.capabilities() {
        match kind {
            Kind::WaitChild | Kind::Signal => assert_eq!(support, Support::Readiness),
            Kind::WaitProcess => assert_eq!(support, Support::Pool),
            _ => {}
        }
    }
    for errno in [None, Some(libc::EPERM), Some(libc::ENOSYS)] {
        if let Some(errno) = errno {
            seccomp::refuse(&[libc::SYS_pidfd_open], errno);
        }
        for loop_ in [&whole, &least] {
            let fds = sys::fd_count();
            let (child, stdin) = waiting(9);
            assert_eq!(sys::fd_count() - fds, 1 + usize::from(errno.is_none()), "a pidfd, or none");
            assert_timed_out(
                loop_.start(op::wait_child(&child).timeout(Duration::from_millis(3))).take().unwrap(),
            );
            let id = loop_.submit(op::wait_child(&child), |_, outcome| assert!(canceled(outcome)));
            poke(loop_);
            assert!(loop_.cancel(id));
            tick_until(loop_, || loop_.in_flight() == 0);
            let tickets: Vec<_> = (0..3).map(|_| loop_.start(op::wait_child(&child))).collect();
            poke(loop_);
            drop(stdin);
            for ticket in tickets {
                assert_eq!(ticket.take().unwrap().unwrap().code(), Some(9));
            }
            child.kill().unwrap();
            let (child, _stdin) = waiting(9);
            child.kill().unwrap();
            let status = loop_.start(op::wait_child(&child)).take().unwrap().unwrap();
            assert_eq!(status.signal(), Some(libc::SIGKILL));
            let child = short("exit 4");
            until_over(&child);
            assert_eq!(loop_.start(op::wait_child(&child)).take().unwrap().unwrap().code(), Some(4));
        }
    }
    // A loop ends while a thread waits for a child.
    let (child, _stdin) = waiting(0);
    least.submit(op::wait_child(&child), |_, _| panic!("dropped"));
    poke(&least);
    drop(least);
    child.kill().unwrap();
    assert_eq!(whole.start(op::wait_child(&child)).take().unwrap().unwrap().signal(), Some(libc::SIGKILL));
}
