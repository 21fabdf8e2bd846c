//! How operations end, whoever carries them out: the kernel by an opcode, or this crate without it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::time::Instant;
use std::{mem, ptr};

use io_uring::opcode as op;

use super::*;
use crate::addr::SockAddr;
use crate::backend::uring::setup::{Opcodes, STEPS};
use crate::buffers::BufferPool;
use crate::operation::Flow;

/// How each thing that can happen to an operation ends; the same, whoever carries it out.
fn outcomes(options: &Options) -> Vec<(&'static str, i32)> {
    let world = &mut World::new(options);
    let mut out = Vec::new();
    let loopback = SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));

    let listener = world.run(Request::Socket { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 });
    // SAFETY: a descriptor that was just made for us; closed below.
    let flags = unsafe { (libc::fcntl(listener, libc::F_GETFL), libc::fcntl(listener, libc::F_GETFD)) };
    out.push(("a socket is non-blocking", flags.0 & libc::O_NONBLOCK));
    out.push(("a socket is close-on-exec", flags.1));
    out.push(("bind", world.run(Request::Bind { handle: raw(listener), addr: &loopback })));
    out.push(("listen", world.run(Request::Listen { handle: raw(listener), backlog: 16 })));
    // SAFETY: it stays open while this is used and is not closed by it.
    let bound = mem::ManuallyDrop::new(unsafe { TcpListener::from_raw_fd(listener) }).local_addr().unwrap();
    let target = SockAddr::from(bound);

    let mut peer = SockAddr::empty();
    peer.len = 3;
    let accept = world.submit(Request::Accept { handle: raw(listener), addr: &mut peer });
    world.wait(Some(Duration::ZERO));
    assert!(world.results.is_empty(), "nobody has connected");
    let client = world.run(Request::Socket { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 });
    out.push(("connect", world.run(Request::Connect { handle: raw(client), addr: &target })));
    let server = world.result(accept);
    assert!(server >= 0);
    // SAFETY: an open descriptor.
    out.push((
        "an accepted socket is non-blocking",
        unsafe { libc::fcntl(server, libc::F_GETFL) } & libc::O_NONBLOCK,
    ));
    // SAFETY: as above; it stays open until it is closed below.
    let local = mem::ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(client) }).local_addr().unwrap();
    out.push(("accept tells the peer", i32::from(peer.to_std().unwrap() == local)));
    let again = world.submit(Request::Accept { handle: raw(listener), addr: ptr::null_mut() });
    world.wait(Some(Duration::ZERO));
    world.cancel(again, Request::Accept { handle: raw(listener), addr: ptr::null_mut() });
    out.push(("accept, cancelled", world.result(again)));

    let mut buf = [0; 16];
    let request =
        Request::Recv { handle: raw(server), buf: buf.as_mut_ptr(), len: 16, flags: libc::MSG_DONTWAIT };
    let receive = world.submit(request);
    world.wait(Some(Duration::ZERO));
    assert!(world.results.is_empty(), "nothing was sent");
    out.push((
        "send",
        world.run(Request::Send { handle: raw(client), buf: b"hello".as_ptr(), len: 5, flags: 0 }),
    ));
    out.push(("recv that waited", world.result(receive)));
    assert_eq!(&buf[..5], b"hello");
    let receive = world.submit(request);
    world.wait(Some(Duration::ZERO));
    world.cancel(receive, request);
    out.push(("recv, cancelled", world.result(receive)));

    let (mut one, mut two) = ([0u8; 3], [0u8; 9]);
    let parts: [libc::iovec; 2] = [(&mut one[..]).into_iovec(), (&mut two[..]).into_iovec()];
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (parts.as_ptr().cast_mut(), 2);
    let receive =
        world.submit(Request::RecvMsg { handle: raw(client), msg: &mut message, flags: 0, more: 0 });
    world.wait(Some(Duration::ZERO));
    let (mut three, mut four) = (*b"abcd", *b"efg");
    let pieces: [libc::iovec; 2] = [(&mut three[..]).into_iovec(), (&mut four[..]).into_iovec()];
    // SAFETY: as above.
    let mut sent: libc::msghdr = unsafe { mem::zeroed() };
    (sent.msg_iov, sent.msg_iovlen) = (pieces.as_ptr().cast_mut(), 2);
    out.push(("sendmsg", world.run(Request::SendMsg { handle: raw(server), msg: &sent, flags: 0, more: 0 })));
    out.push(("recvmsg", world.result(receive)));
    assert_eq!((&one, &two[..4]), (b"abc", &b"defg"[..]));

    // Until nothing more fits, and the last one waits for room.
    let chunk = vec![7u8; 1 << 20];
    let request = Request::Send { handle: raw(server), buf: chunk.as_ptr(), len: chunk.len(), flags: 0 };
    let mut total = 0;
    let waiting = loop {
        let id = world.submit(request);
        let end = Instant::now() + LONG;
        // A send that waits for room does not complete while nobody reads, one that has room does so at once.
        world.wait(Some(Duration::ZERO));
        match world.results.remove(&id) {
            Some(sent) => total += sent as usize,
            None => break id,
        }
        assert!(Instant::now() < end);
    };
    let mut sink = vec![0u8; 1 << 20];
    let mut taken = 0;
    let mut last = None;
    while last.is_none() || taken < total + last.unwrap() {
        taken += world.run(Request::Recv {
            handle: raw(client),
            buf: sink.as_mut_ptr(),
            len: sink.len(),
            flags: 0,
        }) as usize;
        if last.is_none() && world.results.contains_key(&waiting) {
            last = Some(world.result(waiting) as usize);
        }
    }
    out.push(("send that waited", i32::from(last.unwrap() > 0)));

    let interest = Request::Poll { handle: raw(client), events: libc::POLLIN as u16 };
    let ready = world.submit(interest);
    world.wait(Some(Duration::ZERO));
    assert!(world.results.is_empty(), "there is nothing to read");
    out.push(("shutdown", world.run(Request::Shutdown { handle: raw(server), how: libc::SHUT_WR })));
    out.push(("poll", world.result(ready)));
    out.push((
        "poll for both",
        world.run(Request::Poll { handle: raw(client), events: (libc::POLLIN | libc::POLLOUT) as u16 }),
    ));
    let mut end = [0; 1];
    out.push((
        "the end",
        world.run(Request::Recv { handle: raw(client), buf: end.as_mut_ptr(), len: 1, flags: 0 }),
    ));
    let never = Request::Poll { handle: raw(server), events: libc::POLLPRI as u16 };
    let never_ready = world.submit(never);
    world.wait(Some(Duration::ZERO));
    world.cancel(never_ready, never);
    out.push(("poll, cancelled", world.result(never_ready)));

    for fd in [client, server] {
        let object = || std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
        let before = object();
        out.push(("close", world.run(Request::Close { handle: raw(fd) })));
        // The number may be another test's by now.
        assert!(before.is_some() && object() != before);
    }
    out.push(("close of nothing", world.run(Request::Close { handle: raw(-1) })));
    out.push(("shutdown of nothing", world.run(Request::Shutdown { handle: raw(-1), how: 0 })));
    out.push((
        "recv from nothing",
        world.run(Request::Recv { handle: raw(-1), buf: end.as_mut_ptr(), len: 1, flags: 0 }),
    ));
    out.push(("listen on nothing", world.run(Request::Listen { handle: raw(-1), backlog: 1 })));
    out.push(("bind again", world.run(Request::Bind { handle: raw(listener), addr: &loopback })));
    out.push(("close", world.run(Request::Close { handle: raw(listener) })));
    let lonely = world.run(Request::Socket { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 });
    out.push((
        "accept on no listener",
        world.run(Request::Accept { handle: raw(lonely), addr: ptr::null_mut() }),
    ));
    out.push(("connect to nobody", world.run(Request::Connect { handle: raw(lonely), addr: &target })));
    out.push(("close", world.run(Request::Close { handle: raw(lonely) })));
    out.push((
        "no such family",
        world.run(Request::Socket { domain: 4711, kind: libc::SOCK_STREAM, protocol: 0 }),
    ));

    let (a, b) = pair();
    drop(b);
    out.push(("send without a reader", world.run(send(&a, b"x"))));
    out.push(("recv without a writer", world.run(recv(&a, &mut end))));
    out
}

trait IntoIovec {
    fn into_iovec(self) -> libc::iovec;
}

impl IntoIovec for &mut [u8] {
    fn into_iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.as_mut_ptr().cast(), iov_len: self.len() }
    }
}

#[test]
fn every_operation_ends_the_same_with_and_without_its_opcode_and_on_older_kernels() {
    let expected = outcomes(&Options::default());
    let canceled: Vec<_> = expected.iter().filter(|(name, _)| name.ends_with("cancelled")).collect();
    assert_eq!(canceled.len(), 3);
    assert!(canceled.iter().all(|(_, result)| *result == -libc::ECANCELED), "{canceled:?}");
    for (what, result) in [("connect", 0), ("send", 5), ("sendmsg", 7), ("recvmsg", 7), ("the end", 0)] {
        assert!(expected.contains(&(what, result)), "{what}: {expected:?}");
    }
    for (what, errno) in [
        ("connect to nobody", libc::ECONNREFUSED),
        ("accept on no listener", libc::EINVAL),
        ("send without a reader", libc::EPIPE),
        ("close of nothing", libc::EBADF),
        ("no such family", libc::EAFNOSUPPORT),
    ] {
        assert!(expected.contains(&(what, -errno)), "{what}: {expected:?}");
    }
    assert_eq!(outcomes(&small()), expected, "a small ring");
    let mut all = Opcodes::default();
    for row in OPERATIONS {
        let Some(opcode) = row.uring.filter(|_| row.kind != Kind::Poll) else { continue };
        let without = Opcodes::default().with(opcode.code);
        let options = Options { without, ..small() };
        let support = Uring::new(&options).unwrap().support(row.kind);
        let instead = match row.elsewhere {
            Elsewhere::Direct => Support::Direct,
            Elsewhere::Pool => Support::Pool,
            _ => Support::Readiness,
        };
        assert_eq!(support, instead, "{}", row.name);
        assert_eq!(outcomes(&options), expected, "without {}", opcode.name);
        all = all.with(opcode.code);
    }
    assert_eq!(outcomes(&Options { without: all, ..small() }), expected, "without any");
    for (skip_steps, step) in STEPS.iter().enumerate().skip(1) {
        assert_eq!(outcomes(&Options { skip_steps, ..small() }), expected, "{step:?}");
    }
}

#[test]
fn this_kernel_does_all_natively_that_it_does_well() {
    let uring = Uring::new(&Options::default()).unwrap();
    assert!(uring.ring.params().is_setup_single_issuer());
    for row in OPERATIONS {
        let expected = match row.kind {
            Kind::Nop | Kind::Timer | Kind::External | Kind::Group => Support::Unsupported,
            Kind::Shutdown => Support::Direct,
            Kind::SendFile | Kind::Splice => Support::Readiness,
            Kind::Signal => Support::Readiness,
            _ if row.uring.is_none() => Support::Pool,
            _ => Support::Native,
        };
        assert_eq!(uring.support(row.kind), expected, "{}", row.name);
    }
}

#[test]
fn a_refused_flag_is_told_from_a_refused_call() {
    let mut syscalls = 0;
    let mut unknown = |request| streams::is_unknown(&request, &mut syscalls);
    let flow = ptr::null();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (near, mut far) = pair();
    assert!(unknown(Request::AcceptMulti { handle: handle(&listener), flow }));
    assert!(!unknown(Request::AcceptMulti { handle: handle(&near), flow }));
    assert!(unknown(Request::RecvMulti { handle: handle(&near), flow }));
    far.write_all(b"x").unwrap();
    assert!(unknown(Request::RecvMulti { handle: handle(&near), flow }));
    let unconnected = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    assert!(!unknown(Request::RecvMulti { handle: handle(&unconnected), flow }), "recv says EINVAL itself");
}

#[test]
fn a_stream_goes_on_by_hand_if_the_kernel_will_not() {
    let mut world = World::new(&Options::default());
    let pool = BufferPool::with_capacity(1, 4).unwrap();
    let flow = Flow::new(None, Some(pool.clone()), true);
    let (near, mut far) = pair();
    let request = Request::RecvMulti { handle: handle(&near), flow: &flow };
    let id = OpId { index: 5, generation: 5 };
    // SAFETY: what it points to is here until its result is in.
    assert!(matches!(unsafe { world.uring.submit(id, &request) }, Submitted::Pending(_)));
    far.write_all(b"12345678").unwrap();
    let part = |world: &mut World| {
        let end = Instant::now() + LONG;
        while world.done.is_empty() {
            assert!(Instant::now() < end);
            world.uring.wait(Some(LONG), &mut world.done).unwrap();
        }
        let part = world.done.queue.pop_front().unwrap();
        assert!(part.is_part() && part.id == id && world.done.is_empty());
        flow.chunk(part.buffer().unwrap(), part.result as usize)
    };
    let first = part(&mut world);
    assert!(pool.0.group().is_some(), "natively so far");
    world.uring.wait(Some(Duration::ZERO), &mut world.done).unwrap();
    assert_eq!(world.uring.slots[5].stage, Stage::Resting);
    world.uring.ways[Kind::RecvMulti as usize] = Support::Readiness;
    assert_eq!(&*first, b"1234");
    drop(first);
    assert_eq!(&*part(&mut world), b"5678");
    assert!(pool.0.group().is_none() && world.uring.slots[5].stage != Stage::Multishot);
    drop(far);
    assert_eq!(world.result(id), 0);
}

#[test]
fn pools_that_nobody_has_make_room_for_others() {
    let mut world = World::new(&Options::default());
    let pools: Vec<_> = (0..3).map(|_| BufferPool::with_capacity(2, 8).unwrap()).collect();
    pools.iter().for_each(|pool| world.uring.prepare(&pool.0));
    let group = |pool: &BufferPool| pool.0.group();
    assert_eq!(pools.iter().map(group).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    let [first, _, last] = pools.try_into().unwrap();
    let next = BufferPool::with_capacity(2, 8).unwrap();
    world.uring.prepare(&next.0);
    assert_eq!((group(&next), group(&first), group(&last)), (Some(1), Some(0), Some(2)));
    drop(world);
    assert_eq!((group(&next), group(&first), group(&last)), (None, None, None));
    assert_eq!(next.0.take().map(|id| next.0.give_back(id)), Some(()));
}

#[test]
fn without_what_it_stands_on_there_is_no_ring() {
    for code in [op::Nop::CODE, op::PollAdd::CODE, op::AsyncCancel::CODE] {
        let options = Options { without: Opcodes::default().with(code), ..Options::default() };
        assert_eq!(Uring::new(&options).err().unwrap().raw_os_error(), Some(libc::ENOSYS));
    }
}

#[test]
fn what_was_asked_for_before_a_shutdown_happens_before_it() {
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let sent = world.submit(send(&a, b"last words"));
    assert_eq!(world.run(Request::Shutdown { handle: handle(&a), how: libc::SHUT_WR }), 0);
    assert_eq!(world.result(sent), 10);
    let mut buf = [0; 16];
    assert_eq!(world.run(recv(&b, &mut buf)), 10);
    assert_eq!(world.run(recv(&b, &mut buf)), 0);
}

#[test]
fn a_transfer_longer_than_the_kernel_allows_is_shortened() {
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    rustix::io::write(&b, b"x").unwrap();
    let mut buf = [0u8; 1];
    // The kernel writes one byte, for that is all there is; the length only has to pass.
    let request = Request::Recv { handle: handle(&a), buf: buf.as_mut_ptr(), len: 1 << 32, flags: 0 };
    assert_eq!(world.run(request), 1);
}
