//! Descriptors: numbers used again, duplicates, strangers, and all that has a number without being a socket.

use super::*;
use std::fs::File;
use std::io::Write;

over_both! {
    numbers_are_used_again, a_duplicate_lives_on, a_duplicate_returns_to_its_number, standing_events_cost_nothing,
    polls_wait_each_for_its_own, everything_that_has_a_number, what_is_not_open, closed_behind_our_back,
    a_foreign_number_is_forgotten_at_once, foreign_and_known_share_a_descriptor, close_ends_what_is_pending,
    another_bearer_ends_what_is_pending, datagram_errors_do_not_spin,
}

fn numbers_are_used_again<P: Poller>(mut world: World<P>) {
    let (mut near, mut far) = unix();
    let mut handle = world.handle(&near);
    let mut reused = 0;
    for round in 0..10_000_u32 {
        let recv = world.recv(handle, 4, 0);
        assert!(matches!(recv.submitted, Submitted::Pending(_)));
        if round % 3 == 0 {
            world.cancel(recv);
            assert_eq!(world.finish(recv), CANCELED);
        } else {
            far.write_all(&round.to_ne_bytes()).unwrap();
            assert_eq!(world.bytes(recv), round.to_ne_bytes());
        }
        // Something happens to the old one that nobody has looked at yet when its number changes hands.
        if round % 2 == 0 {
            far.write_all(b"late").unwrap();
        }
        let number = handle.fd;
        world.close(handle, near);
        (near, far) = {
            let (next_near, next_far) = unix();
            drop(far);
            (next_near, next_far)
        };
        reused += u32::from(near.as_raw_fd() == number);
        handle = world.handle(&near);
    }
    // Other tests run beside this one and take a number now and then.
    assert!(reused > 100, "{reused}");
}

fn a_duplicate_lives_on<P: Poller>(mut world: World<P>) {
    for _ in 0..100 {
        let (near, mut far) = unix();
        let number = near.as_raw_fd();
        let handle = world.handle(&near);
        let recv = world.recv(handle, 1, 0);
        far.write_all(b"x").unwrap();
        assert_eq!(world.finish(recv), 1);
        let duplicate = near.try_clone().unwrap();
        world.close(handle, near);
        // Another object with the same number, put there without fail.
        let (other, mut other_far) = unix();
        let other = move_to(other, number);
        let handle = world.handle(&other);
        let recv = world.recv(handle, 8, 0);
        // The poller still watches the first one, by its duplicate.
        far.write_all(b"stranger").unwrap();
        for _ in 0..3 {
            world.tick(Some(Duration::ZERO));
        }
        assert_eq!(world.result(recv), None, "an event of an earlier bearer");
        drop(far);
        world.settle();
        assert_eq!(world.result(recv), None);
        assert_eq!(world.tick(Some(Duration::from_micros(100))), 0);
        other_far.write_all(b"mine").unwrap();
        assert_eq!(world.bytes(recv), b"mine");
        drop(duplicate);
        world.close(handle, other);
    }
    // And standing readiness on a duplicate does not spin.
    let (near, mut far) = unix();
    let handle = world.handle(&near);
    let recv = world.recv(handle, 1, 0);
    far.write_all(b"xyz").unwrap();
    assert_eq!(world.finish(recv), 1);
    let _duplicate = near.try_clone().unwrap();
    world.close(handle, near);
    far.write_all(b"x").unwrap();
    drop(far);
    world.settle();
    assert_eq!(world.idle(), 0);
}

/// Gives a descriptor the wanted number, which nobody has at the moment but other tests may take.
fn move_to<T: Into<OwnedFd> + From<OwnedFd>>(this: T, number: RawFd) -> T {
    let this: OwnedFd = this.into();
    if this.as_raw_fd() == number {
        return T::from(this);
    }
    // SAFETY: no pointers. F_DUPFD takes the first free number from there on, and harms nobody.
    let moved = unsafe { libc::fcntl(this.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
    assert!(moved >= 0);
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    T::from(unsafe { OwnedFd::from_raw_fd(moved) })
}

fn a_duplicate_returns_to_its_number<P: Poller>(mut world: World<P>) {
    let (mut near, mut far) = unix();
    for round in 0..100_u8 {
        let handle = world.handle(&near);
        let recv = world.recv(handle, 1, 0);
        far.write_all(&[round]).unwrap();
        assert_eq!(world.bytes(recv), [round]);
        let duplicate = near.try_clone().unwrap();
        world.close(handle, near);
        near = move_to(duplicate, handle.fd);
    }
}

fn standing_events_cost_nothing<P: Poller>(mut world: World<P>) {
    // Each was waited for once, so that it is known to the poller, and then left alone.
    let (near, mut far) = tcp();
    let handle = world.handle(&near);
    let recv = world.recv(handle, 1, 0);
    far.write_all(b"x").unwrap();
    assert_eq!(world.finish(recv), 1);
    far.write_all(b"unread").unwrap();
    drop(far);
    world.settle();
    assert_eq!(world.idle(), 0, "unread bytes and an end");

    let (near, far) = tcp();
    let handle = world.handle(&near);
    let recv = world.recv(handle, 1, 0);
    world.cancel(recv);
    world.tick(None);
    socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    world.settle();
    assert_eq!(world.idle(), 0, "a reset");
    let recv = world.recv(handle, 1, 0);
    assert_eq!(world.finish(recv), -libc::ECONNRESET);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let handle = world.handle(&listener);
    let accept = world.accept(handle);
    world.cancel(accept);
    world.tick(None);
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    world.settle();
    assert_eq!(world.idle(), 0, "a connection that nobody accepts");
    let accept = world.accept(handle);
    let accepted = world.finish(accept);
    // SAFETY: accepted above, and only ours.
    drop(unsafe { OwnedFd::from_raw_fd(accepted) });
}

fn datagram_errors_do_not_spin<P: Poller>(mut world: World<P>) {
    // Connected to somebody else, so that the port is taken and yet refuses what we send.
    let deaf = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    deaf.connect((Ipv4Addr::LOCALHOST, 1)).unwrap();
    let nobody = deaf.local_addr().unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(nobody).unwrap();
    let handle = world.handle(&socket);
    let recv = world.recv(handle, 1, 0);
    world.cancel(recv);
    world.tick(None);
    socket.send(b"x").unwrap();
    world.settle();
    assert_eq!(world.idle(), 0);
    let recv = world.recv(handle, 1, 0);
    assert_eq!(world.finish(recv), -libc::ECONNREFUSED);
    let recv = world.recv(handle, 1, 0);
    world.settle();
    assert_eq!(world.result(recv), None, "once");
    assert_eq!(world.idle(), 0);
}

fn polls_wait_each_for_its_own<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    let handle = world.handle(&near);
    let both = world.poll(handle, IN | OUT);
    assert_eq!(both.submitted, Submitted::Done(i32::from(OUT)), "what holds is told at once");
    let read = [IN, IN | PRI, libc::POLLRDNORM as u16].map(|events| world.poll(handle, events));
    let (hangup, urgent) = (world.poll(handle, RDHUP), world.poll(handle, PRI));
    let recv = world.recv(handle, 10, 0);
    far.write_all(b"x").unwrap();
    for (op, expected) in read.into_iter().zip([IN, IN, libc::POLLRDNORM as u16]) {
        assert_eq!(world.finish(op), i32::from(expected));
    }
    assert_eq!(world.bytes(recv), b"x", "which nobody else has taken");
    let cancelled = world.poll(handle, IN);
    world.cancel(cancelled);
    assert_eq!(world.finish(cancelled), CANCELED);
    let read = world.poll(handle, IN);
    assert_eq!(world.idle(), 0);
    drop(far);
    assert_eq!(world.finish(hangup), i32::from(RDHUP | HUP));
    assert_eq!(world.finish(urgent), i32::from(HUP), "which ends all");
    assert_eq!(world.finish(read), i32::from(IN | HUP));
}

fn everything_that_has_a_number<P: Poller>(mut world: World<P>) {
    for foreign in [false, true] {
        let file = File::open("Cargo.toml").unwrap();
        let directory = File::open("/").unwrap();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut handle = |of: &dyn AsRawFd| {
            let handle = world.handle(&of.as_raw_fd());
            if foreign { Handle { identity: 0, ..handle } } else { handle }
        };
        let always = [handle(&file), handle(&directory), handle(&null)];
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let (pipe_out, pipe_in) = io::pipe().unwrap();
        let nested = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        let (near, mut far) = unix();
        let data = rustix::event::epoll::EventData::new_u64(0);
        rustix::event::epoll::add(&nested, &near, data, rustix::event::epoll::EventFlags::IN).unwrap();
        use rustix::time::{
            TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
        };
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).unwrap();
        let later = [handle(&event), handle(&pipe_out), handle(&nested), handle(&timer)];
        let pipe_in_handle = handle(&pipe_in);
        for on in always {
            assert_eq!(world.poll(on, IN).submitted, Submitted::Done(i32::from(IN)));
            assert_eq!(world.poll(on, IN | OUT).submitted, Submitted::Done(i32::from(IN | OUT)));
            let recv = world.recv(on, 1, 0);
            assert_eq!(errno(&world, recv), libc::ENOTSOCK);
        }
        let ops = later.map(|on| world.poll(on, IN));
        assert!(ops.iter().all(|op| matches!(op.submitted, Submitted::Pending(_))), "{ops:?}");
        world.settle();
        assert_eq!(world.idle(), 0);
        rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
        (&pipe_in).write_all(b"x").unwrap();
        far.write_all(b"x").unwrap();
        let soon = rustix::time::Itimerspec {
            it_interval: rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: rustix::time::Timespec { tv_sec: 0, tv_nsec: 1 },
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &soon).unwrap();
        for op in ops {
            assert_eq!(world.finish(op), i32::from(IN));
        }
        assert_eq!(world.poll(pipe_in_handle, OUT).submitted, Submitted::Done(i32::from(OUT)));
        let broken = world.poll(pipe_in_handle, PRI);
        drop(pipe_out);
        assert_eq!(world.finish(broken), i32::from(ERR));
        assert_eq!(world.idle(), 0);
    }
}

fn what_is_not_open<P: Poller>(mut world: World<P>) {
    for fd in [-1, i32::MIN, 1 << 20, i32::MAX] {
        for identity in [0, 99] {
            let handle = Handle { fd, identity };
            let ops = [
                world.recv(handle, 1, 0),
                world.recv(handle, 1, libc::MSG_OOB),
                world.send(handle, b"x"),
                world.poll(handle, IN),
                world.accept(handle),
                world.submit(Request::Close { handle }),
            ];
            for op in ops {
                assert_eq!(errno(&world, op), libc::EBADF);
            }
        }
    }
    assert!(world.backend.records.is_empty(), "nothing is remembered about them");
    use rustix::fs::{Mode, OFlags};
    let path = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
    let handle = world.handle(&path);
    let poll = world.poll(handle, IN);
    assert_eq!(errno(&world, poll), libc::EBADF);
    assert_eq!(world.idle(), 0);
}

fn closed_behind_our_back<P: Poller>(mut world: World<P>) {
    let (near, far) = unix();
    let number = near.as_raw_fd();
    let foreign = Handle { fd: number, identity: 0 };
    // A high number, which no other test takes meanwhile: there are two of this one, and none opens so many.
    let number_free = raise_limit() as i32 - if world.is_edge() { 20 } else { 40 };
    // SAFETY: no pointers.
    let high = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, number_free) };
    assert!(high >= number_free);
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let behind = unsafe { OwnedFd::from_raw_fd(high) };
    let high = Handle { fd: high, identity: 0 };
    let (lost, poll) = (world.recv(high, 1, 0), world.poll(high, PRI));
    let kept = world.recv(foreign, 1, 0);
    drop(behind);
    world.tick(Some(Duration::ZERO));
    if world.is_edge() {
        assert_eq!(world.result(lost), None, "epoll has forgotten it");
        world.cancel(lost);
        world.cancel(poll);
        assert_eq!((world.finish(lost), world.finish(poll)), (CANCELED, CANCELED));
    } else {
        assert_eq!((world.finish(lost), world.finish(poll)), (-libc::EBADF, -libc::EBADF));
    }
    let recv = world.recv(high, 1, 0);
    assert_eq!(errno(&world, recv), libc::EBADF);
    assert_eq!(world.idle(), 0);
    (&far).write_all(b"x").unwrap();
    assert_eq!(world.bytes(kept), b"x");
}

fn a_foreign_number_is_forgotten_at_once<P: Poller>(mut world: World<P>) {
    for round in 0..1_000_u32 {
        let (near, mut far) = unix();
        let handle = Handle { fd: near.as_raw_fd(), identity: 0 };
        let recv = world.recv(handle, 4, 0);
        assert!(matches!(recv.submitted, Submitted::Pending(_)));
        if round % 2 == 0 {
            far.write_all(&round.to_ne_bytes()).unwrap();
            assert_eq!(world.bytes(recv), round.to_ne_bytes());
        } else {
            world.cancel(recv);
            assert_eq!(world.finish(recv), CANCELED);
        }
        // Closed by its owner, without a word to us.
        far.write_all(b"late").unwrap();
    }
    // An operation that was lost with its descriptor does not keep the next bearer's waiting.
    let (near, _far) = unix();
    let number = near.as_raw_fd();
    let lost = world.recv(Handle { fd: number, identity: 0 }, 1, 0);
    drop(near);
    let (other, mut far) = unix();
    let other = move_to(other, number);
    if other.as_raw_fd() == number {
        let recv = world.recv(Handle { fd: number, identity: 0 }, 1, 0);
        far.write_all(b"xy").unwrap();
        assert_eq!((world.finish(lost), world.finish(recv)), (1, 1));
    } else {
        world.cancel(lost);
        assert_eq!(world.finish(lost), CANCELED);
    }
    assert_eq!(world.idle(), 0);
}

fn foreign_and_known_share_a_descriptor<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    let known = world.handle(&near);
    let foreign = Handle { identity: 0, ..known };
    for order in [[known, foreign], [foreign, known]] {
        let [first, second] = order.map(|handle| world.recv(handle, 1, 0));
        let poll = world.poll(foreign, IN);
        far.write_all(b"xy").unwrap();
        assert_eq!((world.bytes(first), world.bytes(second)), (b"x".to_vec(), b"y".to_vec()));
        assert_eq!(world.finish(poll), i32::from(IN));
    }
    // A bare number comes before the object that it turns out to be.
    let (near, mut far) = unix();
    let foreign = world.recv(Handle { fd: near.as_raw_fd(), identity: 0 }, 1, 0);
    let known = world.handle(&near);
    let second = world.recv(known, 1, 0);
    far.write_all(b"xy").unwrap();
    assert_eq!((world.bytes(foreign), world.bytes(second)), (b"x".to_vec(), b"y".to_vec()));
}

fn close_ends_what_is_pending<P: Poller>(mut world: World<P>) {
    for foreign in [false, true] {
        let (near, _far) = unix();
        let mut handle = world.handle(&near);
        if foreign {
            handle.identity = 0;
        }
        let ops = [world.recv(handle, 1, 0), world.recv(handle, 1, 0), world.poll(handle, PRI)];
        world.close(handle, near);
        assert_eq!(world.tick(None), 3);
        for op in ops {
            assert_eq!(world.result(op), Some(CANCELED));
        }
        assert_eq!(world.idle(), 0);
    }
}

fn another_bearer_ends_what_is_pending<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    let earlier = world.handle(&near);
    let later = world.handle(&near);
    let ops = [world.recv(earlier, 1, 0), world.poll(earlier, IN)];
    let recv = world.recv(later, 1, 0);
    assert_eq!(world.tick(None), 2);
    for op in ops {
        assert_eq!(world.result(op), Some(CANCELED));
    }
    far.write_all(b"x").unwrap();
    assert_eq!(world.bytes(recv), b"x");
}
