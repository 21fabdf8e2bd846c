//! F: descriptors. A number is not an object: what belongs to a closed one reaches nobody.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{Mode, OFlags};
use towpath_harness::process::{self, Ended};
use towpath_harness::{net, sys};
use towpath_loop::{Event, Loop, Signals, Socket, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

fn is_open(fd: i32) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// F1: a descriptor is closed with an operation on it and traffic under way; the next one gets its number, and
/// nothing of the old one's.
pub fn f01_number_used_again() {
    let loop_ = new_loop();
    let (mut reused, rounds) = (0, scaled(1_000_000) / 2);
    for round in 0..rounds {
        let (old, mut old_peer) = half_unix();
        let number = old.as_raw_fd();
        let ticket = loop_.start(op::recv(&old, vec![0; 64]));
        if round % 2 == 0 {
            poke(&loop_);
        }
        match round % 3 {
            0 => {
                drop(old_peer.write_all(b"old"));
                drop((ticket, old));
            }
            1 => {
                drop((ticket, old));
                drop(old_peer.write_all(b"old"));
            }
            _ => {
                let close = loop_.start(op::close(old));
                drop(old_peer.write_all(b"old"));
                drop(ticket);
                drop(close);
            }
        }
        loop_.run().unwrap();
        assert!(!is_open(number), "round {round}: still open");
        let (new, mut new_peer) = half_unix();
        reused += usize::from(new.as_raw_fd() == number);
        let mut ticket = loop_.start(op::recv(&new, vec![0; 64]));
        drop(old_peer.write_all(b"older"));
        poke(&loop_);
        assert!(ticket.try_take().is_none(), "round {round}: something of the old descriptor's");
        new_peer.write_all(b"new").unwrap();
        let (n, buf) = ticket.take().unwrap().unwrap();
        assert_eq!(&buf[..n], b"new");
    }
    assert!(reused as u64 > rounds / 2, "the number was used again {reused} times only");
}

/// F2: the same while a duplicate keeps the old object alive, whose events go on. The harness looks at the CPU time.
pub fn f02_duplicate_keeps_the_object() {
    let loop_ = new_loop();
    let mut duplicates = Vec::new();
    for round in 0..100 {
        let (old, mut old_peer) = half_unix();
        let number = old.as_raw_fd();
        let ticket = loop_.start(op::recv(&old, vec![0; 64]));
        let poll = loop_.start(op::poll(&old, libc::POLLIN));
        poke(&loop_);
        duplicates.push(old.as_fd().try_clone_to_owned().unwrap());
        if round % 2 == 0 {
            drop((ticket, poll, old));
        } else {
            let close = loop_.start(op::close(old));
            drop((ticket, poll));
            close.take().unwrap().unwrap();
        }
        loop_.run().unwrap();
        assert!(!is_open(number));
        old_peer.write_all(b"for the duplicate").unwrap();
        let (new, mut new_peer) = half_unix();
        let mut ticket = loop_.start(op::recv(&new, vec![0; 64]));
        poke(&loop_);
        poke(&loop_);
        assert!(ticket.try_take().is_none());
        new_peer.write_all(b"new").unwrap();
        assert_eq!(ticket.take().unwrap().unwrap().0, 3);
        std::mem::swap(&mut old_peer, &mut new_peer);
        duplicates.extend([old_peer.into(), new_peer.into()]);
    }
    // Data wait on a hundred old objects, which must not keep the loop awake.
    let ticks = loop_.stats().ticks;
    op_timer(&loop_, 300 * MS);
    assert!(loop_.stats().ticks - ticks < 150, "{} wake-ups", loop_.stats().ticks - ticks);
}

fn op_timer(loop_: &Loop, duration: Duration) {
    loop_.start(op::timer(duration)).take().unwrap().unwrap();
}

/// F3: operations on a closed socket are refused, and so are those on a number that is not open.
pub fn f03_closed_handle() {
    let loop_ = current_loop();
    let (socket, _peer) = half_unix();
    let number = socket.as_raw_fd();
    let kept = socket.clone();
    op::close(socket).wait().unwrap();
    assert!(kept.is_closed());
    let mut buf = [0; 8];
    assert_eq!(errno(op::recv(&kept, &mut buf[..]).wait()), libc::EBADF);
    assert_eq!(errno(op::send(&kept, b"x").wait()), libc::EBADF);
    assert_eq!(errno(op::poll(&kept, libc::POLLIN).wait()), libc::EBADF);
    assert_eq!(errno(op::accept(&kept).wait()), libc::EBADF);
    assert_eq!(errno(op::shutdown(&kept, std::net::Shutdown::Both).wait()), libc::EBADF);
    let failed = loop_.start(op::recv(kept.clone(), vec![1; 8])).take().unwrap().unwrap_err();
    assert_eq!((failed.error.raw_os_error(), failed.buf), (Some(libc::EBADF), Some(vec![1; 8])));
    // Documented: the number is free only when the last clone is gone.
    assert!(is_open(number));
    drop(kept);
    assert!(!is_open(number));

    // SAFETY: the number is not open, which is the point: it is only looked at by system calls that refuse it. No
    // other thread opens descriptors here.
    let foreign = unsafe { BorrowedFd::borrow_raw(number + 1000) };
    assert_eq!(errno(op::recv(foreign, &mut buf[..]).wait()), libc::EBADF);
    assert_eq!(errno(op::poll(foreign, libc::POLLIN).wait()), libc::EBADF);
    assert_eq!(errno(loop_.start(op::recv(foreign, vec![0; 8])).take().unwrap()), libc::EBADF);
    assert_eq!(errno(loop_.start(op::poll(foreign, libc::POLLIN)).take().unwrap()), libc::EBADF);
    drop(Loop::take_current());
}

/// F4: a close with a read in flight: the read is over before the number is free.
pub fn f04_close_with_read_in_flight() {
    let loop_ = new_loop();
    for reaches_kernel in [false, true] {
        let (socket, _peer) = unix();
        let number = socket.as_raw_fd();
        let log = Log::new();
        let (one, two) = (log.clone(), log.clone());
        loop_.submit(op::recv(&socket, vec![0; 8]), move |_, outcome| {
            assert!(canceled(outcome));
            one.add(("read", is_open(number)));
        });
        if reaches_kernel {
            poke(&loop_);
        }
        loop_.submit(op::close(socket), move |_, outcome| {
            outcome.unwrap();
            two.add(("close", is_open(number)));
        });
        assert!(is_open(number));
        loop_.run().unwrap();
        assert_eq!(log.all().iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["read", "close"]);
        assert!(!log.all()[1].1, "the close is over and the number is not free");
        assert!(!is_open(number));
    }
}

/// F5: descriptors of all kinds: readiness as `poll(2)` tells it, the same on every backend, or a clean error.
pub fn f05_descriptors_of_all_kinds() {
    let loop_ = current_loop();
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let kinds: Vec<(&str, OwnedFd)> = vec![
        ("file", open("/proc/self/exe", OFlags::RDONLY)),
        ("directory", open("/", OFlags::RDONLY)),
        ("null", open("/dev/null", OFlags::RDWR)),
        ("event", eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
        ("full event", eventfd(7, EventfdFlags::CLOEXEC).unwrap()),
        ("epoll", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
        ("path", open("/", OFlags::PATH)),
        ("tty", open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY)),
        ("pipe", io::pipe().unwrap().0.into()),
        ("socket", op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait().unwrap().into_fd().unwrap()),
        (
            "timer",
            rustix::time::timerfd_create(
                rustix::time::TimerfdClockId::Monotonic,
                rustix::time::TimerfdFlags::CLOEXEC,
            )
            .unwrap(),
        ),
    ];
    for (name, fd) in &kinds {
        for events in [libc::POLLIN, libc::POLLOUT, libc::POLLIN | libc::POLLOUT] {
            let mut expected = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
            // SAFETY: one valid `pollfd`.
            assert!(unsafe { libc::poll(&raw mut expected, 1, 0) } >= 0);
            let limit = towpath_harness::patience(20 * MS);
            let borrowed = op::poll(fd.as_fd(), events).timeout(limit).wait();
            let owned = loop_.start(op::poll(fd.as_fd(), events).timeout(limit)).take().unwrap();
            for outcome in [borrowed, owned] {
                match expected.revents {
                    libc::POLLNVAL => assert_eq!(errno(outcome), libc::EBADF, "{name}"),
                    0 => assert_timed_out(outcome),
                    bits => assert_eq!(outcome.ok(), Some(bits), "{name} for {events:#x}"),
                }
            }
        }
        // What is no socket says so, at once.
        if *name != "socket" && *name != "path" {
            assert_eq!(errno(op::recv(fd.as_fd(), &mut [0; 8]).wait()), libc::ENOTSOCK, "{name}");
            assert_eq!(errno(op::send(fd.as_fd(), &[0; 8]).wait()), libc::ENOTSOCK, "{name}");
            assert_eq!(errno(op::accept(fd.as_fd()).wait()), libc::ENOTSOCK, "{name}");
        }
    }
    drop(Loop::take_current());
}

/// F6: the first event of a batch closes the descriptor of another: that one's event reaches nobody.
pub fn f06_first_event_closes_the_second() {
    for leader in 0..2 {
        let loop_ = new_loop();
        let pairs = [half_unix(), half_unix()];
        let sockets = Rc::new(RefCell::new([None, None]));
        let ids = Rc::new(RefCell::new([None, None]));
        let log = Log::new();
        let mut peers = Vec::new();
        for (at, (socket, peer)) in pairs.into_iter().enumerate() {
            let (sockets2, ids2, log) = (sockets.clone(), ids.clone(), log.clone());
            let id = loop_.submit(op::poll(&socket, libc::POLLIN), move |loop_, _| {
                log.add(at);
                let other = 1 - at;
                loop_.remove(ids2.borrow()[other].unwrap());
                let socket: Socket = sockets2.borrow_mut()[other].take().unwrap();
                loop_.submit(op::close(socket), |_, outcome| outcome.unwrap());
            });
            ids.borrow_mut()[at] = Some(id);
            sockets.borrow_mut()[at] = Some(socket);
            peers.push(peer);
        }
        poke(&loop_);
        for at in [leader, 1 - leader] {
            peers[at].write_all(b"x").unwrap();
        }
        loop_.run().unwrap();
        assert_eq!(log.len(), 1, "{:?}", log.all());
    }
}

/// F7: a second close is an error, and closes nobody else's descriptor.
pub fn f07_double_close() {
    let loop_ = current_loop();
    let (socket, _peer) = unix();
    let number = socket.as_raw_fd();
    let (second, third) = (socket.clone(), socket.clone());
    op::close(socket).wait().unwrap();
    assert_eq!(errno(op::close(second).wait()), libc::EBADF);
    let ticket = loop_.start(op::close(third));
    assert!(!is_open(number));
    let others: Vec<_> = (0..4).map(|_| io::pipe().unwrap()).collect();
    assert_eq!(errno(ticket.take().unwrap()), libc::EBADF);
    for (reader, writer) in &others {
        assert!(is_open(reader.as_raw_fd()) && is_open(writer.as_raw_fd()));
    }
    // Two closes in flight at once.
    let (socket, _peer) = unix();
    let tickets = [socket.clone(), socket].map(|socket| loop_.start(op::close(socket)));
    let results = tickets.map(|ticket| ticket.take().unwrap().map_err(|error| error.raw_os_error()));
    assert_eq!(results, [Ok(()), Err(Some(libc::EBADF))]);
    drop(Loop::take_current());
}

/// F9: a forked child may not use the loop, and its parent does not notice whether it tries; an executed program
/// inherits nothing.
pub fn f09_fork_and_exec() {
    type Use = fn(&Loop, &Socket) -> bool;
    // What the harness itself was given by whoever runs it.
    let inherited = || {
        let output = Command::new("ls").arg("/proc/self/fd").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let before = inherited();
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    let (spare, _spare_peer) = unix();
    let read = loop_.start(op::recv(&socket, vec![0; 8]));
    let timer = loop_.start(op::timer(20 * MS));
    poke(&loop_);
    let refused = |error: io::Error| error.kind() == io::ErrorKind::Unsupported;
    // Each use in a child of its own, so that one that crashes tells which it was.
    let uses: &[(&str, Use)] = &[
        ("tick", |loop_, _| {
            loop_.tick(Some(Duration::ZERO)).is_err_and(|error| error.kind() == io::ErrorKind::Unsupported)
        }),
        ("run", |loop_, _| loop_.run().is_err()),
        ("run_until", |loop_, _| loop_.run_until(|| false).is_err()),
        ("wait", |_, socket| op::recv(socket, &mut [0; 8]).wait().is_err()),
        ("wait for a timer", |_, _| op::timer(MS).wait().is_err()),
        ("submit a timer", |loop_, _| {
            loop_.submit(op::timer(MS), |_, _| ());
            true
        }),
        ("submit", |loop_, socket| {
            loop_.submit(op::recv(socket, vec![0; 8]), |_, _| ());
            loop_.submit(op::send(socket, vec![0; 8]), |_, _| ());
            true
        }),
        ("start and take", |loop_, socket| loop_.start(op::recv(socket, vec![0; 8])).take().is_err()),
        ("cancel_all", |loop_, _| {
            loop_.cancel_all();
            true
        }),
        ("remote", |loop_, _| {
            loop_.remote().wake();
            drop(loop_.remote().run(|_| ()));
            true
        }),
        ("stats", |loop_, _| loop_.stats().in_flight == 2 && loop_.in_flight() == 2),
        ("drop", |loop_, _| {
            drop((Loop::take_current(), loop_.clone()));
            true
        }),
        ("close", |loop_, _| {
            loop_.close();
            true
        }),
        ("a loop of its own", |_, _| {
            let own = new_loop();
            own.start(op::timer(MS)).take().is_ok_and(|outcome| outcome.is_ok())
        }),
    ];
    let mut wrong = Vec::new();
    for (name, one) in uses {
        let ended = process::in_child(|| if one(&loop_, &spare) { 0 } else { 1 });
        if ended != Ended::Code(0) {
            wrong.push(format!("{name}: {ended}"));
        }
    }
    // A child that drops everything and ends in the usual way.
    let ended = process::in_child(|| {
        let error = loop_.tick(None).unwrap_err();
        assert!(refused(error));
        0
    });
    assert_eq!(ended, Ended::Code(0));
    timer.take().unwrap().unwrap();
    peer.write_all(b"x").unwrap();
    assert_eq!(read.take().unwrap().unwrap().0, 1, "the parent's operation was ended by a child");
    assert_eq!(loop_.in_flight(), 0);
    assert!(wrong.is_empty(), "in a forked child: {}", wrong.join("; "));

    let (listener, addr) = listener();
    let client = TcpStream::connect(addr).unwrap();
    let accepted = op::accept(&listener).wait().unwrap();
    assert_eq!(inherited(), before);
    drop((client, accepted, Loop::take_current()));
}

/// F10: a blocking stream can be passed in as it is: the loop does not block on it.
pub fn f10_blocking_stream() {
    let loop_ = current_loop();
    for (socket, mut peer) in [half_unix()] {
        set_nonblocking(&socket, false);
        let limit = towpath_harness::patience(30 * MS);
        assert_timed_out(op::recv(&socket, &mut [0; 8]).timeout(limit).wait());
        let begun = StdInstant::now();
        let filled = net::fill(&socket, 0);
        let send = op::send(&socket, &[0; 1 << 20]).all(true).timeout(limit);
        assert_timed_out(send.wait());
        assert!(begun.elapsed() < towpath_harness::patience(Duration::from_secs(2)));
        peer.set_nonblocking(true).unwrap();
        while peer.read(&mut vec![0; filled]).is_ok_and(|n| n > 0) {}
        assert_eq!(loop_.in_flight(), 0);
    }
    drop(Loop::take_current());
}

/// F10: and so can a blocking listener, and a socket that connects.
pub fn f10_blocking_listener() {
    let loop_ = current_loop();
    let (plain, addr) = net::listener();
    let listener = Socket::from(OwnedFd::from(plain));
    let limit = towpath_harness::patience(30 * MS);
    assert_timed_out(op::accept(&listener).timeout(limit).wait());
    let ticket = loop_.start(op::accept(&listener));
    op_timer(&loop_, MS);
    let _client = TcpStream::connect(addr).unwrap();
    ticket.take().unwrap().unwrap();
    drop(Loop::take_current());
}

/// O5: where standard streams are closed, what the loop opens for itself does not get their numbers; what it opens for
/// others does, as anything would, and works. Who puts something else in their places later does it no harm.
pub fn o05_standard_streams_are_closed() {
    let told = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 100).unwrap();
    for closed in [&[0, 1, 2][..], &[2], &[0, 2]] {
        let ended = process::in_child(|| {
            let told = std::fs::File::from(told.try_clone().unwrap());
            std::panic::set_hook(Box::new(move |panic| {
                let _ = writeln!(&told, "{panic}");
            }));
            closed_streams(closed);
            0
        });
        assert_eq!(ended, Ended::Code(0), "without {closed:?}");
    }
}

fn closed_streams(closed: &[i32]) {
    for fd in closed {
        // SAFETY: `std` does without.
        assert_eq!(unsafe { libc::close(*fd) }, 0);
    }
    let loop_ = current_loop();
    loop_.with_fd(|_| ());
    let signals = Signals::new([libc::SIGUSR1]).unwrap();
    let clock = loop_.start(op::timer_on(op::Clock::Boot, Duration::from_secs(1 << 31)));
    poke(&loop_);
    assert!(closed.iter().all(|fd| !is_open(*fd)));
    let works = |here: &Socket, there: &Socket| {
        let got = loop_.start(op::recv(there, vec![0; 8]));
        poke(&loop_);
        assert_eq!(op::send(here, b"hello").wait().unwrap(), 5);
        assert_eq!(got.take().unwrap().unwrap().0, 5);
        let remote = loop_.remote();
        let event = Event::new();
        let notified = loop_.start(event.notified());
        std::thread::spawn(move || {
            event.notify();
            remote.wake();
        });
        assert_eq!(notified.take().unwrap().unwrap(), 1);
        // SAFETY: no pointers; it is handled.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
        assert_eq!(signals.received().wait().unwrap(), libc::SIGUSR1);
        let begun = StdInstant::now();
        op::timer(5 * MS).wait().unwrap();
        assert!(begun.elapsed() >= 5 * MS);
    };
    let (here, there) = unix();
    assert_eq!(here.as_raw_fd(), closed[0]);
    works(&here, &there);
    let (listener, addr) = listener();
    let connected = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait().unwrap();
    let accepted = loop_.start(op::accept(&listener));
    op::connect(&connected, addr.into()).wait().unwrap();
    works(&connected, &accepted.take().unwrap().unwrap().0);
    drop((here, there, listener, connected));
    // As daemons do.
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    for fd in 0..3 {
        // SAFETY: no pointers; nothing of ours has the number.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), fd) }, fd);
    }
    std::mem::forget(null);
    let (here, there) = unix();
    works(&here, &there);
    loop_.cancel(clock.id());
    assert!(canceled(clock.take().unwrap()));
}

/// Everything that the loop itself opens is closed on exec.
pub fn f11_own_descriptors_close_on_exec() {
    let before = sys::fds();
    let loop_ = current_loop();
    let (socket, _peer) = unix();
    let ticket = loop_.start(op::recv(&socket, vec![0; 8]));
    let event = loop_.start(Event::new().notified());
    loop_.remote().wake();
    poke(&loop_);
    loop_.with_fd(|_| ());
    for (number, what) in sys::fds() {
        if before.contains_key(&number) {
            continue;
        }
        // SAFETY: listed as open just now, and only looked at.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        std::mem::forget(fd);
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "descriptor {number}: {what}");
    }
    drop((ticket, event, Loop::take_current()));
}
