//! Completions: each kind, in order, exactly once, cancelled or not, in time.

use super::*;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

over_both! {
    every_kind, a_warm_recv_is_one_system_call, reads_complete_in_order, directions_are_independent,
    a_connection_refused, cancelled_ones_complete_at_once, cancelling_loses_no_bytes,
    the_next_in_line_is_tried_when_the_first_is_cancelled, false_readiness_does_not_spin, wakes_are_not_lost,
    waits_are_never_early, everything_at_random_completes_exactly_once, ten_thousand_descriptors,
    a_poller_that_refuses, accepts_in_order,
}

fn every_kind<P: Poller>(mut world: World<P>) {
    let socket = |world: &mut World<P>| {
        let request = Request::Socket { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
        let op = world.submit(request);
        // SAFETY: the descriptor is new, and only ours.
        let fd = unsafe { OwnedFd::from_raw_fd(world.result(op).unwrap()) };
        (world.handle(&fd), fd)
    };
    let (listener, listener_fd) = socket(&mut world);
    let addr = world.addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into());
    for request in
        [Request::Bind { handle: listener, addr }, Request::Listen { handle: listener, backlog: 8 }]
    {
        let op = world.submit(request);
        assert_eq!(op.submitted, Submitted::Done(0));
    }
    let listener_std = TcpListener::from(listener_fd);
    let name = listener_std.local_addr().unwrap();

    let mut peer = Box::new(SockAddr::empty());
    let accept = world.submit(Request::Accept { handle: listener, addr: &raw mut *peer });
    assert!(matches!(accept.submitted, Submitted::Pending(_)));
    let (client, client_fd) = socket(&mut world);
    let connect = world.connect(client, name);
    assert_eq!(world.finish(connect), 0);
    let server = world.finish(accept);
    // SAFETY: the descriptor is new, and only ours.
    let server_fd = unsafe { OwnedFd::from_raw_fd(server) };
    let server = world.handle(&server_fd);
    let client_std = TcpStream::from(client_fd);
    assert_eq!(peer.to_std().unwrap(), client_std.local_addr().unwrap());

    let recv = world.recv(server, 100, 0);
    let send = world.send(client, b"hello");
    assert_eq!(send.submitted, Submitted::Done(5));
    assert_eq!(world.bytes(recv), b"hello");

    let mut text = *b"to and fro";
    let mut parts = [
        libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 3 },
        libc::iovec { iov_base: text[3..].as_mut_ptr().cast(), iov_len: 7 },
    ];
    // SAFETY: all-zero bytes are an empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 2;
    let send = world.submit(Request::SendMsg { handle: server, msg: &raw const message, flags: 0, more: 0 });
    assert_eq!(world.finish(send), 10);
    text.fill(0);
    let recv = world.submit(Request::RecvMsg { handle: client, msg: &raw mut message, flags: 0, more: 0 });
    assert_eq!(world.finish(recv), 10);
    assert_eq!(&text, b"to and fro");

    let poll = world.poll(client, IN);
    let shutdown = world.submit(Request::Shutdown { handle: server, how: libc::SHUT_WR });
    assert_eq!(shutdown.submitted, Submitted::Done(0));
    assert_eq!(world.finish(poll), i32::from(IN));
    let end = world.recv(client, 1, 0);
    assert_eq!(world.finish(end), 0);
    world.close(client, client_std);
    world.close(server, server_fd);
    world.close(listener, listener_std);
    assert_eq!(world.backend.support(Kind::Recv), Support::Readiness);
    assert_eq!(world.backend.support(Kind::Close), Support::Direct);
}

fn a_warm_recv_is_one_system_call<P: Poller>(mut world: World<P>) {
    let (near, mut far) = tcp();
    let near = world.handle(&near);
    for round in 0..3 {
        let recv = world.recv(near, 100, 0);
        let pending = matches!(recv.submitted, Submitted::Pending(_));
        assert!(pending, "round {round}");
        far.write_all(b"1").unwrap();
        assert_eq!(world.finish(recv), 1);
    }
    world.settle();
    let poll = world.poll(near, IN);
    far.write_all(b"1").unwrap();
    world.finish(poll);
    let before = world.backend.syscalls();
    assert_eq!(world.recv(near, 1, 0).submitted, Submitted::Done(1));
    assert_eq!(world.backend.syscalls() - before, 1);
}

fn reads_complete_in_order<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    let near = world.handle(&near);
    let mut ops: Vec<_> = (0..3).map(|_| world.recv(near, 1, 0)).collect();
    far.write_all(b"abcd").unwrap();
    // There is something to read, but three are before it.
    ops.push(world.recv(near, 1, 0));
    assert!(matches!(ops[3].submitted, Submitted::Pending(_)));
    for (op, expected) in ops.iter().zip([b"a", b"b", b"c", b"d"]) {
        assert_eq!(world.bytes(*op), expected);
    }
    assert_eq!(world.order, ops.iter().map(|op| op.id).collect::<Vec<_>>());
}

fn accepts_in_order<P: Poller>(mut world: World<P>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let name = listener.local_addr().unwrap();
    let listener = world.handle(&listener);
    let ops: Vec<_> = (0..5).map(|_| world.accept(listener)).collect();
    let clients: Vec<_> = (0..7).map(|_| TcpStream::connect(name).unwrap()).collect();
    let mut fds: Vec<_> = ops.iter().map(|op| world.finish(*op)).collect();
    for _ in 5..7 {
        let op = world.accept(listener);
        fds.push(world.finish(op));
    }
    for (fd, client) in fds.into_iter().zip(clients) {
        // SAFETY: accepted above, and only ours.
        let server = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
    }
}

fn directions_are_independent<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    near.set_nonblocking(true).unwrap();
    let handle = world.handle(&near);
    let mut sent = 0;
    let send = loop {
        let send = world.send(handle, &[7; 65536]);
        match send.submitted {
            Submitted::Done(bytes) => sent += bytes,
            Submitted::Pending(_) => break send,
        }
    };
    let recv = world.recv(handle, 10, 0);
    far.write_all(b"x").unwrap();
    assert_eq!(world.bytes(recv), b"x");
    assert_eq!(world.result(send), None);
    let recv = world.recv(handle, 10, 0);
    let mut all = vec![0; sent as usize];
    far.read_exact(&mut all).unwrap();
    assert!(world.finish(send) > 0);
    assert_eq!(world.result(recv), None);
    drop(far);
    // Unread bytes are thrown away with the reader: that is an error for the writer, and the reader may see it too.
    let end = world.finish(recv);
    assert!(end == 0 || end == -libc::ECONNRESET, "{end}");
    let send = world.send(handle, b"x");
    assert_eq!(errno(&world, send), libc::EPIPE, "and no signal");
}

fn a_connection_refused<P: Poller>(mut world: World<P>) {
    // Bound and not listening: the port is nobody else's, and refuses.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let nobody = deaf.local_addr().unwrap().as_socket().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let handle = world.handle(&socket);
    let connect = world.connect(handle, nobody);
    assert_eq!(world.finish(connect), -libc::ECONNREFUSED);

    // A listener with a full backlog answers nobody: the connect stays in progress.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    full.listen(0).unwrap();
    let name = full.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(name).unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let handle = world.handle(&socket);
    let connect = world.connect(handle, name);
    assert!(matches!(connect.submitted, Submitted::Pending(_)));
    world.idle();
    world.cancel(connect);
    assert_eq!(world.tick(None), 1);
    assert_eq!(world.result(connect), Some(CANCELED));
}

fn cancelled_ones_complete_at_once<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    let near = world.handle(&near);
    for gone in [vec![0], vec![1], vec![3], vec![0, 1], vec![2, 1], vec![3, 0], vec![1, 3, 2, 0]] {
        let ops: Vec<_> = (0..4).map(|_| world.recv(near, 1, 0)).collect();
        for &index in &gone {
            world.cancel(ops[index]);
            assert_eq!(world.result(ops[index]), None, "only a wait completes");
            world.cancel(ops[index]);
        }
        assert_eq!(world.tick(None), gone.len(), "does not sleep");
        let mut expected = b'a';
        far.write_all(&b"abcd"[..4 - gone.len()]).unwrap();
        for (index, op) in ops.iter().enumerate() {
            if gone.contains(&index) {
                assert_eq!(world.result(*op), Some(CANCELED));
            } else {
                assert_eq!(world.bytes(*op), [expected]);
                expected += 1;
            }
            // Late, and for nobody, whoever has the slot now.
            world.cancel(*op);
        }
    }
    assert_eq!(world.idle(), 0);
}

fn cancelling_loses_no_bytes<P: Poller>(mut world: World<P>) {
    const BYTES: usize = 20_000;
    let (near, mut far) = unix();
    let near = world.handle(&near);
    let writer = std::thread::spawn(move || {
        for index in 0..BYTES {
            far.write_all(&[index as u8]).unwrap();
        }
    });
    let (mut got, mut cancelled) = (0, 0);
    while got < BYTES {
        let recv = world.recv(near, 1, 0);
        world.tick(Some(Duration::ZERO));
        if world.result(recv).is_none() {
            world.cancel(recv);
        }
        match world.finish(recv) {
            CANCELED => cancelled += 1,
            1 => {
                assert_eq!(world.buffers[&recv.id][0], got as u8);
                got += 1;
            }
            other => panic!("{other}"),
        }
        world.buffers.remove(&recv.id);
    }
    writer.join().unwrap();
    assert_eq!(world.results.len(), got + cancelled);
}

/// A Unix datagram socket whose queue is full, and a request that sends to an address.
fn full_datagram_socket() -> (OwnedFd, SockAddr) {
    let socket = || {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // An empty name asks the kernel for one of its own.
        let mut name = SockAddr::empty();
        name.storage.ss_family = libc::AF_UNIX as libc::sa_family_t;
        name.len = size_of::<libc::sa_family_t>() as libc::socklen_t;
        socket.bind(&name.into()).unwrap();
        socket
    };
    let (target, source) = (socket(), socket());
    let name = target.local_addr().unwrap();
    while source.send_to(b"x", &name).is_ok() {}
    let name = SockAddr::from(&name);
    (target.into(), name)
}

struct Message {
    header: libc::msghdr,
    _part: Box<libc::iovec>,
    _name: Box<SockAddr>,
}

fn message_to(name: SockAddr) -> Box<Message> {
    static BYTE: u8 = b'x';
    let mut part = Box::new(libc::iovec { iov_base: (&raw const BYTE).cast_mut().cast(), iov_len: 1 });
    let mut name = Box::new(name);
    // SAFETY: all-zero bytes are an empty msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut name.storage).cast();
    header.msg_namelen = name.len;
    header.msg_iov = &raw mut *part;
    header.msg_iovlen = 1;
    Box::new(Message { header, _part: part, _name: name })
}

fn the_next_in_line_is_tried_when_the_first_is_cancelled<P: Poller>(mut world: World<P>) {
    let (_full, full_name) = full_datagram_socket();
    let (free, free_name) = full_datagram_socket();
    let free = std::os::unix::net::UnixDatagram::from(free);
    while free.recv(&mut [0]).is_ok() {}
    let (to_full, to_free) = (message_to(full_name), message_to(free_name));
    let source = std::os::unix::net::UnixDatagram::unbound().unwrap();
    source.set_nonblocking(true).unwrap();
    let handle = world.handle(&source);
    let first = world.submit(Request::SendMsg { handle, msg: &raw const to_full.header, flags: 0, more: 0 });
    let second = world.submit(Request::SendMsg { handle, msg: &raw const to_free.header, flags: 0, more: 0 });
    world.settle();
    assert_eq!((world.result(first), world.result(second)), (None, None), "in line");
    world.cancel(first);
    world.tick(None);
    assert_eq!((world.result(first), world.result(second)), (Some(CANCELED), Some(1)));
    assert_eq!(free.recv(&mut [0]).unwrap(), 1);
}

fn false_readiness_does_not_spin<P: Poller>(mut world: World<P>) {
    let (full, name) = full_datagram_socket();
    let full = std::os::unix::net::UnixDatagram::from(full);
    let message = message_to(name);
    let source = std::os::unix::net::UnixDatagram::unbound().unwrap();
    source.set_nonblocking(true).unwrap();
    let handle = world.handle(&source);
    // poll(2) calls this socket writable, and sending would block.
    let send = world.submit(Request::SendMsg { handle, msg: &raw const message.header, flags: 0, more: 0 });
    let woken = world.idle();
    assert!(woken <= 2 * 30 + 5, "a rest, and an event: at most two a millisecond, not {woken}");
    world.cancel(send);
    assert_eq!(world.finish(send), CANCELED);
    assert!(world.idle() <= 1, "the end of the rest");
    assert_eq!(world.idle(), 0);

    // It does go on when there is room.
    let send = world.submit(Request::SendMsg { handle, msg: &raw const message.header, flags: 0, more: 0 });
    world.idle();
    assert_eq!(full.recv(&mut [0]).unwrap(), 1);
    while full.recv(&mut [0]).is_ok() {}
    assert_eq!(world.finish(send), 1);
}

fn wakes_are_not_lost<P: Poller>(mut world: World<P>) {
    const WAKES: u64 = 5_000;
    static_assertions();
    world.backend.waker().wake();
    world.tick(None);
    assert_eq!(world.idle(), 0, "one wake ends one wait");
    let waker = world.backend.waker();
    let total = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (waker, total) = (waker.clone(), total.clone());
            std::thread::spawn(move || {
                for _ in 0..WAKES {
                    total.fetch_add(1, Ordering::SeqCst);
                    waker.wake();
                }
            })
        })
        .collect();
    let mut seen = 0;
    while seen < 4 * WAKES {
        let begun = Instant::now();
        world.tick(Some(LOST));
        assert!(begun.elapsed() < LOST / 2, "a wake was lost");
        seen = total.load(Ordering::SeqCst);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.settle();
    if let Some(fd) = world.backend.as_fd() {
        let readable = |events| hint::poll_now(fd.as_raw_fd(), events, &mut 0);
        assert_eq!(readable(IN), 0);
        waker.wake();
        assert_eq!(readable(IN), i32::from(IN));
    }
    drop(world);
    waker.wake();
}

/// What the types promise.
fn static_assertions() {
    fn is_send<T: Send>() {}
    is_send::<Readiness<Epoll>>();
    is_send::<Readiness<Poll>>();
}

fn waits_are_never_early<P: Poller>(mut world: World<P>) {
    for time in [1, 999, 1_000, 100_000, 1_500_000, 3_000_001].map(Duration::from_nanos) {
        for _ in 0..10 {
            let (begun, clock) = (Instant::now(), world.backend.now());
            assert_eq!(world.tick(Some(time)), 0);
            assert!(begun.elapsed() >= time, "{:?} instead of {time:?}", begun.elapsed());
            assert!(u128::from(world.backend.now() - clock) >= time.as_nanos());
        }
    }
    // Too long for any kernel's types, and no error.
    world.backend.waker().wake();
    world.tick(Some(Duration::MAX));
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

fn everything_at_random_completes_exactly_once<P: Poller>(mut world: World<P>) {
    struct Connection {
        handle: Handle,
        near: Option<UnixStream>,
        far: Option<UnixStream>,
        foreign: bool,
        ops: Vec<Op>,
        written: u64,
        read: u64,
    }
    let connection = |world: &mut World<P>, foreign: bool| {
        let (near, far) = unix();
        let mut handle = world.handle(&near);
        if foreign {
            handle.identity = 0;
        }
        let ops = Vec::new();
        Connection { handle, near: Some(near), far: Some(far), foreign, ops, written: 0, read: 0 }
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut connections: Vec<_> = (0..16).map(|index| connection(&mut world, index % 4 == 0)).collect();
    // Sums of the bytes themselves, so that one taken twice or by somebody else shows.
    let reap = |world: &mut World<P>, connection: &mut Connection| {
        let done: Vec<_> = connection.ops.extract_if(.., |op| world.results.contains_key(&op.id)).collect();
        for op in done {
            let result = world.result(op).unwrap();
            if let Request::Recv { .. } = op.request
                && result > 0
            {
                let bytes = world.buffers.remove(&op.id).unwrap();
                connection.read += bytes[..result as usize].iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
        }
    };
    for step in 0..40_000 {
        let index = random.below(connections.len());
        let connection_now = &mut connections[index];
        let handle = connection_now.handle;
        match random.below(12) {
            0..4 => {
                let op = world.recv(handle, 1 + random.below(8), 0);
                connection_now.ops.push(op);
            }
            4 => {
                let op = world.poll(handle, [IN, OUT, IN | OUT, RDHUP, PRI][random.below(5)]);
                connection_now.ops.push(op);
            }
            5..8 => {
                let bytes = vec![1 + step as u8 % 200; 1 + random.below(12)];
                if let Some(far) = &mut connection_now.far {
                    far.write_all(&bytes).unwrap();
                    connection_now.written += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                }
            }
            8 => {
                if !connection_now.ops.is_empty() {
                    let op = connection_now.ops[random.below(connection_now.ops.len())];
                    if !world.results.contains_key(&op.id) {
                        world.cancel(op);
                    }
                }
            }
            9 if random.below(30) == 0 => {
                connection_now.far = None;
            }
            10 if random.below(20) == 0 => {
                // Cancel and reap everything, as the loop does; close; let another take the number.
                for op in connection_now.ops.clone() {
                    world.cancel(op);
                }
                while !connection_now.ops.is_empty() {
                    world.tick(Some(Duration::ZERO));
                    reap(&mut world, connection_now);
                }
                assert!(connection_now.read <= connection_now.written);
                let near = connection_now.near.take().unwrap();
                world.close(handle, near);
                let foreign = connection_now.foreign;
                connections[index] = connection(&mut world, foreign);
            }
            _ => {
                world.tick(Some(Duration::ZERO));
                connections.iter_mut().for_each(|connection| reap(&mut world, connection));
            }
        }
    }
    for connection in &mut connections {
        // The end reaches everybody who still reads; what else waits is hung up on.
        connection.far = None;
        for op in connection.ops.clone() {
            if matches!(op.request, Request::Recv { .. }) {
                world.finish(op);
            } else {
                let ended = world.finish(op);
                assert!(ended > 0 || ended == CANCELED, "{ended}");
            }
        }
        reap(&mut world, connection);
        loop {
            let rest = world.recv(connection.handle, 4096, 0);
            let bytes = world.bytes(rest);
            connection.read += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            if bytes.is_empty() {
                break;
            }
        }
        assert_eq!(connection.read, connection.written);
    }
    assert_eq!(world.results.len(), world.next_id as usize, "each completed, none twice");
    assert!(world.backend.records.iter().all(Record::is_idle));
}

fn ten_thousand_descriptors<P: Poller>(mut world: World<P>) {
    let wanted = raise_limit();
    // Two tests of this kind run side by side; a smaller machine gets a smaller test.
    let pairs: Vec<_> = (0..(wanted as usize / 5).min(5_000)).map(|_| unix()).collect();
    let handles: Vec<_> = pairs.iter().map(|(near, _)| world.handle(near)).collect();
    let far: Vec<_> = pairs.iter().map(|(_, far)| world.handle(far)).collect();
    for _ in 0..2 {
        let ops: Vec<_> = handles.iter().chain(&far).map(|handle| world.recv(*handle, 2, 0)).collect();
        world.settle();
        for (near, far) in &pairs {
            (&mut &*near).write_all(b"n").unwrap();
            (&mut &*far).write_all(b"f").unwrap();
        }
        for op in &ops {
            assert_eq!(world.finish(*op), 1);
        }
    }
    let ops: Vec<_> = handles.iter().map(|handle| world.recv(*handle, 2, 0)).collect();
    let begun = Instant::now();
    for op in &ops {
        world.cancel(*op);
    }
    assert_eq!(world.tick(None), ops.len());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// A poller of a user's own, which refuses while it is told to.
struct Moody<P> {
    inner: P,
    refuse: Arc<AtomicU64>,
}

impl<P: Poller> Poller for Moody<P> {
    fn name(&self) -> &'static str {
        "moody"
    }
    fn mode(&self) -> Mode {
        self.inner.mode()
    }
    fn add(&mut self, fd: RawFd, key: u64, interest: u16) -> io::Result<()> {
        match self.refuse.load(Ordering::SeqCst) as i32 {
            0 => self.inner.add(fd, key, interest),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
    fn remove(&mut self, fd: RawFd) {
        self.inner.remove(fd);
    }
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        // Events of descriptors that nobody ever had, or has no longer, reach nobody.
        events.extend(
            [u64::from(u32::MAX), 77 << 32, u64::MAX - 1].map(|key| Event { key, bits: IN | OUT | HUP }),
        );
        self.inner.wait(timeout, events)
    }
    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }
    fn syscalls(&self) -> u64 {
        self.inner.syscalls()
    }
}

fn a_poller_that_refuses<P: Poller>(world: World<P>) {
    let refuse = Arc::new(AtomicU64::new(0));
    let mut world = World::new(Moody { inner: world.backend.poller, refuse: refuse.clone() });
    let (near, mut far) = unix();
    let near = world.handle(&near);
    refuse.store(libc::ENOSPC as u64, Ordering::SeqCst);
    let recv = world.recv(near, 1, 0);
    assert_eq!(errno(&world, recv), libc::ENOSPC);
    let poll = world.poll(near, IN);
    assert_eq!(errno(&world, poll), libc::ENOSPC);
    refuse.store(0, Ordering::SeqCst);
    let first = world.recv(near, 1, 0);
    let second = world.recv(near, 1, 0);
    refuse.store(libc::ENOMEM as u64, Ordering::SeqCst);
    far.write_all(b"x").unwrap();
    assert_eq!(world.finish(first), 1);
    if world.backend.mode == Mode::OneShot {
        assert_eq!(world.finish(second), -libc::ENOMEM, "cannot be watched again");
    } else {
        far.write_all(b"y").unwrap();
        assert_eq!(world.finish(second), 1, "is watched still");
    }
}
