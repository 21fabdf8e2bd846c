//! The backend driven directly, against real sockets.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use std::{array, mem, ptr, thread};

use io_uring::opcode as op;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::setup::{Opcodes, STEPS, Step, step_down};
use super::*;
use crate::addr::SockAddr;
use crate::backend::Completion;
use crate::buffers::BufferPool;
use crate::operation::{Flow, Handle};

/// Nothing here takes that long: a wait that does is a bug.
const LONG: Duration = Duration::from_secs(20);

/// A backend and what it has reported.
struct World {
    uring: Uring,
    done: Completions,
    results: HashMap<OpId, i32>,
    ids: u32,
    /// Indices are used in turn, so that slots are used again.
    free: Vec<u32>,
}

impl World {
    fn new(options: &Options) -> World {
        let uring = Uring::new(options).expect("this machine has io_uring");
        World { uring, done: Completions::default(), results: HashMap::new(), ids: 0, free: Vec::new() }
    }

    fn submit(&mut self, request: Request) -> OpId {
        self.ids += 1;
        let index = self.free.pop().unwrap_or(self.ids);
        let id = OpId { index, generation: self.ids };
        // SAFETY: the tests keep what they point to, and their descriptors, until the result is in.
        match unsafe { self.uring.submit(id, &request) } {
            Submitted::Done(result) => assert!(self.results.insert(id, result).is_none()),
            Submitted::Pending(_) => {}
        }
        id
    }

    fn cancel(&mut self, id: OpId, request: Request) {
        if !self.results.contains_key(&id) {
            self.uring.cancel(id, 0, &request);
        }
    }

    /// One wait; how many results came with it.
    fn wait(&mut self, timeout: Option<Duration>) -> usize {
        self.uring.wait(timeout, &mut self.done).unwrap();
        let count = self.done.len();
        for Completion { id, result, .. } in mem::take(&mut self.done.queue) {
            assert!(self.results.insert(id, result).is_none(), "{id:?} completed twice");
            assert!(result != -libc::EAGAIN && result != -libc::EINTR);
        }
        count
    }

    fn result(&mut self, id: OpId) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(result) = self.results.remove(&id) {
                self.free.push(id.index);
                return result;
            }
            assert!(Instant::now() < end, "{id:?} never completes");
            self.wait(Some(LONG));
        }
    }

    fn run(&mut self, request: Request) -> i32 {
        let id = self.submit(request);
        self.result(id)
    }
}

fn handle(fd: &impl AsRawFd) -> Handle {
    Handle { fd: fd.as_raw_fd(), identity: 0 }
}

fn raw(fd: RawFd) -> Handle {
    Handle { fd, identity: 0 }
}

fn recv(fd: &impl AsRawFd, buf: &mut [u8]) -> Request {
    Request::Recv { handle: handle(fd), buf: buf.as_mut_ptr(), len: buf.len(), flags: 0 }
}

fn send(fd: &impl AsRawFd, buf: &[u8]) -> Request {
    Request::Send { handle: handle(fd), buf: buf.as_ptr(), len: buf.len(), flags: 0 }
}

fn readable(fd: &impl AsRawFd) -> Request {
    Request::Poll { handle: handle(fd), events: libc::POLLIN as u16 }
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

fn event(count: u32) -> OwnedFd {
    eventfd(count, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn small() -> Options {
    Options { entries: 8, cq_entries: Some(8), ..Options::default() }
}

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
    let receive = world.submit(Request::RecvMsg { handle: raw(client), msg: &mut message, flags: 0 });
    world.wait(Some(Duration::ZERO));
    let (mut three, mut four) = (*b"abcd", *b"efg");
    let pieces: [libc::iovec; 2] = [(&mut three[..]).into_iovec(), (&mut four[..]).into_iovec()];
    // SAFETY: as above.
    let mut sent: libc::msghdr = unsafe { mem::zeroed() };
    (sent.msg_iov, sent.msg_iovlen) = (pieces.as_ptr().cast_mut(), 2);
    out.push(("sendmsg", world.run(Request::SendMsg { handle: raw(server), msg: &sent, flags: 0 })));
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
        out.push(("close", world.run(Request::Close { handle: raw(fd) })));
    }
    // SAFETY: asks about a number, open or not.
    assert_eq!(unsafe { libc::fcntl(server, libc::F_GETFD) }, -1);
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
            Kind::SendFile => Support::Readiness,
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
fn many_operations_pass_through_a_queue_of_eight() {
    for skip_steps in [0, STEPS.len() - 1] {
        let mut world = World::new(&Options { skip_steps, ..small() });
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        let event = event(0);
        let waiting: Vec<OpId> = (0..10_000).map(|_| world.submit(readable(&event))).collect();
        let sent: Vec<OpId> = (0..1000).map(|_| world.submit(send(&a, b"datagram"))).collect();
        for id in sent {
            assert_eq!(world.result(id), 8);
        }
        assert!(world.results.is_empty());
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        for id in waiting {
            assert_eq!(world.result(id), i32::from(libc::POLLIN));
        }
        assert_eq!(world.wait(Some(Duration::ZERO)), 0);
        assert!(world.results.is_empty());
    }
}

#[test]
fn no_completion_is_lost_when_the_completion_queue_overflows() {
    let mut world = World::new(&small());
    let (ready, later) = (event(1), event(0));
    // Half of them complete as they are handed over, half of them all at once when the event comes.
    let ids: Vec<OpId> = (0..100_000)
        .map(|count| world.submit(if count % 2 == 0 { readable(&ready) } else { readable(&later) }))
        .collect();
    while world.results.len() < 50_000 {
        assert!(world.wait(Some(LONG)) > 0);
    }
    rustix::io::write(&later, &1u64.to_ne_bytes()).unwrap();
    while world.results.len() < ids.len() {
        world.wait(Some(LONG));
    }
    assert!(ids.iter().all(|id| world.results[id] == i32::from(libc::POLLIN)));
    assert_eq!(world.wait(Some(Duration::ZERO)), 0);
}

#[test]
fn a_cancel_finds_its_target_when_every_queue_is_full() {
    for skip_steps in 0..STEPS.len() {
        let mut world = World::new(&Options { skip_steps, ..small() });
        let (never, ready) = (event(0), event(1));
        let targets: Vec<OpId> = (0..5000).map(|_| world.submit(readable(&never))).collect();
        // Completions that nobody has fetched: the queue overflows, and what follows has to wait here.
        let others: Vec<OpId> = (0..100).map(|_| world.submit(readable(&ready))).collect();
        assert!(!world.uring.backlog.is_empty());
        for &id in &targets {
            world.cancel(id, readable(&never));
        }
        for id in targets {
            assert_eq!(world.result(id), -libc::ECANCELED);
        }
        for id in others {
            assert_eq!(world.result(id), i32::from(libc::POLLIN));
        }
    }
}

#[test]
fn a_cancelled_recv_has_taken_nothing() {
    for without in [Opcodes::default(), Opcodes::default().with(op::Recv::CODE)] {
        let mut world = World::new(&Options { without, ..Options::default() });
        let (a, b) = pair();
        let turn = AtomicU32::new(0);
        const ROUNDS: u32 = 3000;
        let (mut taken, mut cancelled) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    while turn.load(Ordering::Acquire) != round {
                        thread::yield_now();
                    }
                    rustix::io::write(&b, &[round as u8]).unwrap();
                }
            });
            for round in 1..=ROUNDS {
                let mut buf = [0];
                let request = recv(&a, &mut buf);
                let id = world.submit(request);
                world.wait(Some(Duration::ZERO));
                turn.store(round, Ordering::Release);
                if round % 3 == 0 {
                    world.wait(Some(Duration::ZERO));
                }
                world.cancel(id, request);
                match world.result(id) {
                    1 => taken += 1,
                    other => {
                        assert_eq!(other, -libc::ECANCELED);
                        cancelled += 1;
                        assert_eq!(world.run(recv(&a, &mut buf)), 1);
                    }
                }
                assert_eq!(buf[0], round as u8);
            }
        });
        assert_eq!(taken + cancelled, ROUNDS);
        assert!(cancelled > 0);
    }
}

#[test]
fn a_cancel_after_the_bytes_have_come_reports_the_bytes() {
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let mut buf = [0; 4];
    let request = recv(&a, &mut buf);
    let id = world.submit(request);
    world.wait(Some(Duration::ZERO));
    rustix::io::write(&b, b"data").unwrap();
    // Runs the work: the completion is in the queue, and not read yet, when the cancel is asked for.
    world.uring.ring.reap().unwrap();
    assert_eq!(world.uring.ring.completions().len(), 1);
    world.cancel(id, request);
    assert_eq!(world.result(id), 4);
    assert_eq!(&buf, b"data");
}

#[test]
fn a_wake_before_the_wait_ends_it() {
    for skip_steps in 0..STEPS.len() {
        let mut world = World::new(&Options { skip_steps, ..small() });
        let waker = world.uring.waker();
        for _ in 0..1000 {
            let start = Instant::now();
            waker.wake();
            waker.wake();
            assert_eq!(world.wait(None), 0);
            assert!(start.elapsed() < LONG);
        }
    }
}

#[test]
fn wakes_from_four_threads_are_never_lost() {
    for skip_steps in [0, STEPS.len() - 1] {
        let mut world = World::new(&Options { skip_steps, ..small() });
        const ROUNDS: u32 = 5000;
        let asked: [AtomicU32; 4] = array::from_fn(|_| AtomicU32::new(0));
        let answered: [AtomicU32; 4] = array::from_fn(|_| AtomicU32::new(0));
        thread::scope(|scope| {
            for (asked, answered) in asked.iter().zip(&answered) {
                let waker = world.uring.waker();
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        asked.store(round, Ordering::SeqCst);
                        waker.wake();
                        while answered.load(Ordering::SeqCst) != round {
                            thread::yield_now();
                        }
                    }
                });
            }
            // Each thread waits for its answer: a lost wake would leave everybody waiting.
            while answered.iter().any(|count| count.load(Ordering::SeqCst) != ROUNDS) {
                let start = Instant::now();
                world.wait(Some(LONG));
                assert!(start.elapsed() < LONG, "a wake was lost");
                for (asked, answered) in asked.iter().zip(&answered) {
                    answered.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            }
        });
    }
}

#[test]
fn a_wake_after_the_end_is_harmless() {
    let waker = World::new(&small()).uring.waker();
    waker.wake();
}

#[test]
fn the_waker_survives_an_overflow() {
    let mut world = World::new(&small());
    let waker = world.uring.waker();
    let mut killed = 0;
    for _ in 0..200 {
        let event = event(0);
        let ids: Vec<OpId> = (0..64).map(|_| world.submit(readable(&event))).collect();
        assert_eq!(world.wait(Some(Duration::ZERO)), 0);
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        waker.wake();
        // The kernel ends the waker's poll where its completion finds no room, and it is then cleared.
        for id in ids {
            world.result(id);
        }
        while world.uring.ring.due() {
            world.wait(Some(Duration::ZERO));
        }
        let mut count = [0; 8];
        let fd = world.uring.waker.event().as_fd();
        if rustix::io::read(fd, &mut count).is_err() {
            killed += 1;
        }
        let start = Instant::now();
        waker.wake();
        world.wait(Some(LONG));
        assert!(start.elapsed() < LONG, "the waker is deaf");
    }
    assert!(killed > 0, "the case was not met");
}

#[test]
fn a_wait_without_time_asks_the_kernel_only_if_something_is_due() {
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let mut buf = [0; 1];
    let id = world.submit(recv(&a, &mut buf));
    world.wait(Some(Duration::ZERO));
    let calls = world.uring.syscalls();
    for _ in 0..100 {
        assert_eq!(world.wait(Some(Duration::ZERO)), 0);
    }
    assert_eq!(world.uring.syscalls(), calls);
    rustix::io::write(&b, b"x").unwrap();
    assert_eq!(world.wait(Some(Duration::ZERO)), 1, "due work is found without sleeping");
    assert_eq!(world.uring.syscalls(), calls + 1);
    assert_eq!(world.result(id), 1);
    // Completions that are there already cost nothing, and end a wait at once.
    let ready = event(1);
    let id = world.submit(readable(&ready));
    world.uring.flush();
    let calls = world.uring.syscalls();
    assert_eq!(world.wait(None), 1);
    assert_eq!(world.uring.syscalls(), calls);
    assert_eq!(world.result(id), i32::from(libc::POLLIN));
}

#[test]
fn a_tick_is_one_system_call() {
    let mut world = World::new(&Options::default());
    let pairs: Vec<_> = (0..10).map(|_| pair()).collect();
    let mut bufs = [[0; 1]; 10];
    let calls = world.uring.syscalls();
    let mut ids = Vec::new();
    for ((a, b), buf) in pairs.iter().zip(&mut bufs) {
        ids.push(world.submit(recv(b, buf)));
        ids.push(world.submit(send(a, b"x")));
    }
    world.wait(Some(LONG));
    assert_eq!(world.uring.syscalls(), calls + 1);
    for id in ids {
        assert_eq!(world.result(id), 1);
    }
    assert!(world.uring.syscalls() <= calls + 2);
}

#[test]
fn a_wait_ends_when_the_time_is_over() {
    let mut world = World::new(&Options::default());
    for millis in [1, 20] {
        let start = world.uring.now();
        let timeout = Duration::from_millis(millis);
        // A wait may return early, but not always.
        let mut waits = 0;
        while world.uring.now() - start < timeout.as_nanos() as u64 {
            assert_eq!(world.wait(Some(timeout)), 0);
            waits += 1;
        }
        assert!(waits < 10);
    }
    world.uring.waker().wake();
    world.wait(Some(Duration::MAX));
}

#[test]
fn the_descriptor_polls_as_readable_when_a_wait_would_find_something() {
    for (skip_steps, step) in STEPS.iter().enumerate() {
        let mut world = World::new(&Options { skip_steps, ..Options::default() });
        let is_ready = |world: &World, timeout: i64| {
            let fd = world.uring.as_fd().unwrap();
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
            let start = Instant::now();
            let ready = poll(&mut fds, Some(&Timespec { tv_sec: timeout, tv_nsec: 0 })).unwrap() == 1;
            // Readable at the end of the time would be too late.
            assert!(timeout == 0 || start.elapsed() < LONG, "{step:?}");
            ready
        };
        assert!(!is_ready(&world, 0));
        let (a, b) = pair();
        let mut buf = [0; 1];
        let id = world.submit(recv(&a, &mut buf));
        world.wait(Some(Duration::ZERO));
        assert!(!is_ready(&world, 0));
        thread::scope(|scope| {
            scope.spawn(|| rustix::io::write(&b, b"x").unwrap());
            assert!(is_ready(&world, 20));
        });
        assert_eq!(world.result(id), 1);
        assert!(!is_ready(&world, 0));
        for _ in 0..3 {
            let waker = world.uring.waker();
            thread::scope(|scope| {
                scope.spawn(move || waker.wake());
                assert!(is_ready(&world, 20));
            });
            assert_eq!(world.wait(Some(Duration::ZERO)), 0);
            assert!(!is_ready(&world, 0), "the wake is over");
        }
        // What a wait has left for the next one is found too.
        let ready = event(1);
        let id = world.submit(readable(&ready));
        world.uring.flush();
        assert!(is_ready(&world, 0));
        assert_eq!(world.result(id), i32::from(libc::POLLIN));
        assert!(!is_ready(&world, 0));
    }
}

#[test]
fn signals_do_not_disturb() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a handler that does nothing, for a signal that nothing else here uses; no SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut()), 0);
    }
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let over = AtomicBool::new(false);
    // SAFETY: no preconditions.
    let this = unsafe { libc::pthread_self() };
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                // SAFETY: the thread is waiting for this one to end, so it exists.
                unsafe { libc::pthread_kill(this, libc::SIGUSR2) };
                thread::yield_now();
            }
            over.store(true, Ordering::Release);
        });
        let mut buf = [0; 1];
        while !over.load(Ordering::Acquire) {
            let id = world.submit(recv(&a, &mut buf));
            world.wait(Some(Duration::from_millis(1)));
            assert_eq!(world.run(send(&b, b"x")), 1);
            assert_eq!(world.result(id), 1);
        }
    });
}

#[test]
fn rings_give_back_what_they_registered() {
    // A thread has room for 16 registered rings.
    for _ in 0..40 {
        assert!(Uring::new(&small()).unwrap().ring.is_registered());
    }
    // And a ring without is as good.
    let mut many: Vec<World> = (0..20).map(|_| World::new(&small())).collect();
    assert!(!many[19].uring.ring.is_registered());
    let ready = event(1);
    assert_eq!(many[19].run(readable(&ready)), i32::from(libc::POLLIN));
}

fn refuse(errno: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno))
}

#[test]
fn setup_steps_down_to_what_the_kernel_knows() {
    let options = Options { entries: 256, cq_entries: Some(4096), ..Options::default() };
    for known in STEPS {
        let ((), step) =
            step_down(&options, |step, _, _| if step >= known { Ok(()) } else { refuse(libc::EINVAL) })
                .unwrap();
        assert_eq!(step, known);
    }
    let error = step_down(&options, |_, _, _| refuse(libc::EINVAL)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES, libc::EMFILE] {
        let mut calls = 0;
        let error = step_down(&options, |_, _, _| {
            calls += 1;
            refuse(errno)
        })
        .unwrap_err();
        assert_eq!((error.raw_os_error(), calls), (Some(errno), 1), "final at once");
    }
}

#[test]
fn setup_halves_the_ring_where_memory_is_short() {
    let options = Options { entries: 256, cq_entries: Some(4096), ..Options::default() };
    let mut sizes = Vec::new();
    let result = step_down(&options, |step, entries, cq_entries| {
        sizes.push((entries, cq_entries.unwrap()));
        match (step, entries) {
            (Step::NoArray, _) => refuse(libc::EINVAL),
            (_, 33..) => refuse(libc::ENOMEM),
            _ => Ok(()),
        }
    });
    assert_eq!(result.unwrap().1, Step::Deferred, "a smaller ring is no older one");
    assert_eq!(sizes, [(256, 4096), (256, 4096), (128, 2048), (64, 1024), (32, 512)]);
    let mut smallest = 0;
    let error = step_down(&options, |_, entries, _| {
        smallest = entries;
        refuse(libc::ENOMEM)
    })
    .unwrap_err();
    assert_eq!((error.raw_os_error(), smallest), (Some(libc::ENOMEM), 8));
    assert_eq!(step_down(&Options { entries: 0, ..options }, |_, entries, _| Ok(entries)).unwrap().0, 1);
}

/// What `Uring::new` says in a process where a system call is refused with `errno`; 0 if all is well.
fn refused(call: libc::c_long, errno: i32) -> i32 {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 1, call as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the child makes system calls, allocates (which glibc allows after a fork) and leaves by `_exit`; the
    // filter is read during the call only.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) != 0
            {
                libc::_exit(255);
            }
            libc::_exit(Uring::new(&Options::default()).err().map_or(0, |e| e.raw_os_error().unwrap_or(254)));
        }
        assert!(child > 0);
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFEXITED(status), "{status:#x}");
        libc::WEXITSTATUS(status)
    }
}

#[test]
fn whatever_a_sandbox_forbids_shows_at_construction() {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter];
    for call in calls {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES, libc::EINVAL, libc::ENOMEM] {
            assert_eq!(refused(call, errno), errno, "call {call}");
        }
    }
    assert_eq!(refused(libc::SYS_kexec_load, libc::EPERM), 0);
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
