//! D: stream sockets. Connecting, accepting, and what the two ends see of each other's ends.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::process::{self, Sysctl};
use towpath_harness::{Rng, net, sys};
use towpath_loop::{IoBuf, Loop, Slice, SockAddr, Socket, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);
const V4: (i32, i32) = (libc::AF_INET, libc::SOCK_STREAM);

fn new_socket() -> Socket {
    op::socket(V4.0, V4.1, 0).wait().unwrap()
}

/// What `connect(2)` itself says to an address, if it says so at once.
fn refused_at_once(addr: SockAddr) -> Option<i32> {
    let socket = op::socket(addr.family(), V4.1, 0).wait().unwrap();
    let addr = raw_address(addr);
    // SAFETY: the address is valid for its length.
    let result = unsafe { libc::connect(socket.as_raw_fd(), addr.0.as_ptr().cast(), addr.1) };
    let code = io::Error::last_os_error().raw_os_error().unwrap();
    (result < 0 && code != libc::EINPROGRESS).then_some(code)
}

/// The bytes of an IPv4 or IPv6 address as the kernel reads them.
fn raw_address(addr: SockAddr) -> (Vec<u8>, libc::socklen_t) {
    let mut bytes = Vec::new();
    match addr.to_std().unwrap() {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    let len = bytes.len() as libc::socklen_t;
    (bytes, len)
}

/// A port of the loopback address where nobody listens.
fn closed_port() -> SocketAddr {
    net::listener().1
}

/// D1: who refuses, and how, is what the system call says; nothing hangs.
pub fn d01_connect_refused() {
    let loop_ = current_loop();
    let closed = closed_port();
    assert_eq!(errno(op::connect(new_socket(), closed.into()).wait()), libc::ECONNREFUSED);
    let unspecified = SocketAddr::from(([0, 0, 0, 0], closed.port()));
    assert_eq!(errno(op::connect(new_socket(), unspecified.into()).wait()), libc::ECONNREFUSED);
    for text in [
        "127.0.0.1:0",
        "255.255.255.255:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "[2001:db8::1]:80",
        "[fe80::1]:80",
    ] {
        let addr = SockAddr::from(text.parse::<SocketAddr>().unwrap());
        let Some(code) = refused_at_once(addr) else { continue };
        let socket = op::socket(addr.family(), V4.1, 0).wait().unwrap();
        assert_eq!(errno(op::connect(&socket, addr).wait()), code, "{text}");
    }
    // Owned, with the socket in the operation: it is closed when that is over.
    let fds = sys::fd_count();
    let ticket = loop_.start(op::connect(new_socket(), closed.into()));
    assert_eq!(errno(ticket.take().unwrap()), libc::ECONNREFUSED);
    assert_eq!(sys::fd_count(), fds);
    // And a connect that stands.
    let (listener, addr) = net::listener();
    let socket = new_socket();
    op::connect(&socket, addr.into()).wait().unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"x").unwrap();
    assert_eq!(op::recv(&socket, &mut [0; 4]).wait().unwrap(), 1);
    drop(Loop::take_current());
}

/// A listener whose queue is full: the kernel drops whoever else wants to connect, like a black hole.
fn black_hole() -> (Socket, SocketAddr, Vec<TcpStream>) {
    let socket = new_socket();
    op::bind(&socket, SocketAddr::from(([127, 0, 0, 1], 0)).into()).wait().unwrap();
    op::listen(&socket, 0).wait().unwrap();
    let plain = TcpListener::from(socket.as_fd().try_clone_to_owned().unwrap());
    let addr = plain.local_addr().unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&addr, Duration::from_millis(50)) {
        clients.push(client);
        assert!(clients.len() < 100, "a queue without end");
    }
    (socket, addr, clients)
}

/// D2: a connect that nobody answers ends at its time-out, or when the socket is closed.
pub fn d02_connect_times_out() {
    let loop_ = current_loop();
    let (_listener, addr, _clients) = black_hole();
    let yardstick = Yardstick::start();
    let (begun, limit) = (StdInstant::now(), 100 * MS);
    let result = op::connect(new_socket(), addr.into()).timeout(limit).wait();
    let took = begun.elapsed();
    assert_eq!(error(result).kind(), io::ErrorKind::TimedOut);
    let late = yardstick.allow(50 * MS, Duration::ZERO);
    assert!(took >= limit && took < limit + late, "{took:?}");

    let socket = new_socket();
    let connecting = loop_.start(op::connect(&socket, addr.into()));
    poke(&loop_);
    let closing = loop_.start(op::close(socket));
    assert!(canceled(connecting.take().unwrap()));
    closing.take().unwrap().unwrap();
    drop(Loop::take_current());
}

/// D3: the errors of bind are the system's.
pub fn d03_bind_errors() {
    fn bind(addr: &str) -> io::Result<()> {
        op::bind(new_socket(), addr.parse::<SocketAddr>().unwrap().into()).wait()
    }
    let _loop = current_loop();
    let (listener, addr) = net::listener();
    assert_eq!(error(bind(&addr.to_string())).kind(), io::ErrorKind::AddrInUse);
    assert_eq!(error(bind("192.0.2.1:0")).kind(), io::ErrorKind::AddrNotAvailable);
    let code = errno(bind("[::1]:0"));
    assert!(code == libc::EAFNOSUPPORT || code == libc::EINVAL, "{code}");
    assert_eq!(errno(op::listen(connected_socket(), 1).wait()), libc::EINVAL);
    drop((listener, Loop::take_current()));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u32>().unwrap() > 81 {
        // Nobody may not be kept from io_uring meanwhile, by a test that does so (P4).
        let _held = Sysctl::hold(process::IO_URING_DISABLED);
        let denied = std::thread::spawn(|| {
            sys::become_user(65534).unwrap();
            let _loop = current_loop();
            let result = bind("127.0.0.1:81");
            drop(Loop::take_current());
            error(result).kind()
        });
        assert_eq!(denied.join().unwrap(), io::ErrorKind::PermissionDenied);
    }
}

/// A socket on which `listen` makes no sense: already connected.
fn connected_socket() -> Socket {
    unix().0
}

/// D4: a client that resets before it is accepted: the listener lives on.
pub fn d04_accept_after_reset() {
    let loop_ = current_loop();
    for early in [false, true] {
        let (listener, addr) = listener();
        let mut ticket = early.then(|| loop_.start(op::accept(&listener)));
        poke(&loop_);
        let rude = TcpStream::connect(addr).unwrap();
        net::reset_on_close(&rude);
        drop(rude);
        let polite = TcpStream::connect(addr).unwrap();
        // The one that was reset may still be handed out, once.
        let mut accept = || {
            let ticket = ticket.take().unwrap_or_else(|| loop_.start(op::accept(&listener)));
            ticket.take().unwrap().unwrap()
        };
        let (first, from) = accept();
        if from.to_std().unwrap() != polite.local_addr().unwrap() {
            let code = errno(op::recv(&first, &mut [0; 8]).wait());
            assert_eq!(code, libc::ECONNRESET);
            assert_eq!(accept().1.to_std().unwrap(), polite.local_addr().unwrap());
        }
    }
    drop(Loop::take_current());
}

/// D5: 64 MiB through a small send buffer to a slow reader: all of it, in order.
pub fn d05_large_transfer_through_small_buffer() {
    const CHUNK: usize = 1 << 20;
    let total = scaled(64 << 20).max(8 << 20) as usize;
    let pattern = |at: usize| (at % 251) as u8;
    let _loop = current_loop();
    let (socket, mut peer) = half_tcp();
    net::set_send_buffer(&socket, 4096);
    let reader = std::thread::spawn(move || {
        let (mut at, mut buf, mut rng) = (0, vec![0; 1 << 16], Rng::new(5));
        loop {
            let n = peer.read(&mut buf).unwrap();
            if n == 0 {
                return at;
            }
            for byte in &buf[..n] {
                assert_eq!(*byte, pattern(at), "at {at}");
                at += 1;
            }
            rng.spin(20_000);
        }
    });
    let before = sys::resident();
    let mut partial = 0;
    for start in (0..total).step_by(CHUNK) {
        let buf: Vec<u8> = (start..start + CHUNK).map(pattern).collect();
        // One call may take a part, `all` is all.
        let n = op::send(&socket, &buf[..]).wait().unwrap();
        partial += usize::from(n < CHUNK);
        assert_eq!(op::send(&socket, &buf[n..]).all(true).wait().unwrap(), CHUNK - n);
    }
    assert!(partial > 0, "nothing was ever partial: the buffer was not small");
    assert!(sys::resident() < before + (8 << 20));
    op::shutdown(&socket, Shutdown::Write).wait().unwrap();
    assert_eq!(reader.join().unwrap(), total);
    drop(Loop::take_current());
}

/// D6: no vectors, empty ones, more than the system takes, more bytes than fit an `int`.
pub fn d06_odd_vectors() {
    let loop_ = current_loop();
    let (socket, peer) = half_unix();
    assert_eq!(op::send_vectored(&socket, &[][..]).wait().unwrap(), 0);
    let parts = [&b""[..], b"one", b"", b"two", b""].map(IoSlice::new);
    assert_eq!(op::send_vectored(&socket, &parts[..]).wait().unwrap(), 6);
    let (mut a, mut b) = ([0; 2], [0; 8]);
    let mut into = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut []), IoSliceMut::new(&mut b)];
    let peer = crate::common::socket(peer);
    assert_eq!(op::recv_vectored(&peer, &mut into[..]).wait().unwrap(), 6);
    assert_eq!((&a, &b[..4]), (b"on", &b"etwo"[..]));

    let many = vec![vec![5u8; 1]; 5000];
    let (n, many) = loop_.start(op::send_vectored(&socket, many)).take().unwrap().unwrap();
    assert!((1..=5000).contains(&n), "{n}");
    let slices: Vec<_> = many.iter().map(|part| IoSlice::new(part)).collect();
    let n2 = op::send_vectored(&socket, &slices[..]).wait().unwrap();
    assert!((1..=5000).contains(&n2), "{n2}");
    let (got, _) = loop_.start(op::recv_vectored(&peer, vec![vec![0u8; 4]; 5000])).take().unwrap().unwrap();
    assert!(got > 0 && got <= n + n2);
    let mut rest = vec![0; 20_000];
    let left = n + n2 - got;
    assert_eq!(op::recv(&peer, &mut rest[..left]).all(true).wait().unwrap(), left);

    // The same pages over and over, so that the bytes are many and the memory is not.
    let page = vec![6u8; 4 << 20];
    let huge: Vec<_> = (0..600).map(|_| IoSlice::new(&page)).collect();
    let n = op::send_vectored(&socket, &huge[..]).wait().unwrap();
    assert!(n > 0 && n < 1 << 30, "{n}");
    // One buffer of 3 GiB: reserved, never touched but for its start.
    // SAFETY: a fresh private mapping; zero pages are valid bytes, and nobody else has it.
    let huge = unsafe {
        let place = libc::mmap(
            std::ptr::null_mut(),
            3 << 30,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        assert_ne!(place, libc::MAP_FAILED);
        std::slice::from_raw_parts(place.cast::<u8>(), 3 << 30)
    };
    let (other, mut sink) = half_unix();
    let n = op::send(&other, huge).wait().unwrap();
    assert!(n > 0 && n < 1 << 30, "{n}");
    drop(other);
    assert_eq!(sink.read_to_end(&mut Vec::new()).unwrap(), n);
    // SAFETY: the mapping from above, unused from here on.
    unsafe { libc::munmap(huge.as_ptr().cast_mut().cast(), huge.len()) };
    drop(Loop::take_current());
}

/// Parts of owned buffers, each way to wait: those bytes and no others are sent or written over, and the whole comes back.
pub fn d06_slices_of_buffers() {
    let loop_ = current_loop();
    let (here, there) = unix();
    let (n, sent) = loop_.start(op::send(&here, b"0123456789".to_vec().slice(2..8))).take().unwrap().unwrap();
    assert_eq!((n, sent.range(), &sent[..]), (6, 2..8, &b"234567"[..]));
    let (n, got) = op::recv(&there, vec![b'.'; 8].slice(1..=3)).all(true).wait().unwrap();
    assert_eq!((n, got.into_inner()), (3, b".234....".to_vec()));
    // In two steps: the last byte comes later.
    let log = Log::new();
    let to = log.clone();
    loop_.submit(
        op::recv(&there, Box::<[u8]>::from([b'.'; 8]).slice(..6).slice(2..)).all(true),
        move |_, got| {
            let (n, got) = got.unwrap();
            to.add((n, got.into_inner().into_inner()));
        },
    );
    poke(&loop_);
    assert_eq!(op::send(&here, sent.into_inner().slice(9..)).wait().unwrap().0, 1);
    tick_until(&loop_, || log.len() == 1);
    assert_eq!(log.take(), [(4, Box::<[u8]>::from(*b"..5679.."))]);

    // Vectors of them, and files.
    let parts = vec![b"abc".to_vec().slice(..1), b"abc".to_vec().slice(3..), b"abc".to_vec().slice(1..)];
    assert_eq!(op::send_vectored(&here, parts).wait().unwrap().0, 3);
    let (n, parts) =
        op::recv_vectored(&there, vec![vec![b'.'; 3].slice(1..2), vec![b'.'; 3].slice(..2)]).wait().unwrap();
    assert_eq!(n, 3);
    let parts: Vec<_> = parts.into_iter().map(Slice::into_inner).collect();
    assert_eq!(parts, [b".a.", b"bc."]);
    let (read, write) = op::pipe().wait().unwrap();
    assert_eq!(op::write(&write, b"xyz".to_vec().slice(1..)).wait().unwrap().0, 2);
    assert_eq!(op::read(&read, [b'.'; 4].slice(1..)).wait().unwrap().1.into_inner(), *b".yz.");

    // An empty part of a full buffer is empty; an error gives it back all the same.
    assert_eq!(op::recv(&there, vec![1; 4].slice(2..2)).wait().unwrap().0, 0);
    drop(here);
    let failed = op::send(&there, vec![7; 4].slice(1..)).wait().unwrap_err();
    assert_eq!(failed.buf.map(|part| (part.range(), part.into_inner())), Some((1..4, vec![7; 4])));
}

/// D7: a receive into nothing is over at once with nothing, also where nothing has come; and that is not the end.
pub fn d07_zero_length_receive() {
    let loop_ = current_loop();
    for (socket, peer) in [pair_of(net::tcp_pair()), pair_of(net::unix_pair())] {
        let limit = towpath_harness::patience(Duration::from_millis(300));
        for all in [false, true] {
            assert_eq!(
                op::recv(&socket, &mut [0; 0]).all(all).timeout(limit).wait().unwrap(),
                0,
                "all: {all}"
            );
            let ticket = loop_.start(op::recv(&socket, Vec::new()).all(all).timeout(limit));
            assert_eq!(ticket.take().unwrap().unwrap().0, 0);
            assert_eq!(op::send(&socket, &[0u8; 0]).all(all).timeout(limit).wait().unwrap(), 0);
        }
        let none: &mut [IoSliceMut<'_>] = &mut [];
        assert_eq!(op::recv_vectored(&socket, none).timeout(limit).wait().unwrap(), 0);
        assert_eq!(op::send(&peer, b"x").wait().unwrap(), 1);
        assert_eq!(op::recv(&socket, &mut [0; 0]).timeout(limit).wait().unwrap(), 0);
        assert_eq!(op::recv(&socket, &mut [0; 4]).timeout(limit).wait().unwrap(), 1, "the byte was lost");
    }
    drop(Loop::take_current());
}

fn pair_of<T: Into<std::os::fd::OwnedFd>>((a, b): (T, T)) -> (Socket, Socket) {
    (socket(a), socket(b))
}

/// D8: the peer has shut its writing side: all its data, then the end; ours still works.
pub fn d08_half_close() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_tcp();
    peer.write_all(&[8; 100_000]).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut got = 0;
    let mut buf = [0; 7000];
    loop {
        match op::recv(&socket, &mut buf[..]).wait().unwrap() {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, 100_000);
    assert_eq!(op::recv(&socket, &mut buf[..]).wait().unwrap(), 0);
    assert_eq!(op::recv(&socket, &mut buf[..]).all(true).wait().unwrap(), 0);
    assert_eq!(op::send(&socket, b"still").all(true).wait().unwrap(), 5);
    peer.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// D9: what was sent before a shutdown arrives before the end.
pub fn d09_shutdown_flushes() {
    let loop_ = current_loop();
    for (socket, mut peer) in [half_tcp(), half_tcp()] {
        let sends: Vec<_> =
            (0..10).map(|n| loop_.start(op::send(&socket, vec![n; 1000]).all(true))).collect();
        let end = loop_.start(op::shutdown(&socket, Shutdown::Write));
        let sent: usize = sends.into_iter().map(|send| send.take().unwrap().unwrap().0).sum();
        end.take().unwrap().unwrap();
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!((sent, bytes.len()), (10_000, 10_000));
        assert!(bytes.is_sorted());
        let again = op::shutdown(&socket, Shutdown::Write).wait();
        assert!(again.is_ok() || error(again).kind() == io::ErrorKind::NotConnected);
        assert_eq!(errno(op::send(&socket, b"late").wait()), libc::EPIPE);
    }
    drop(Loop::take_current());
}

/// D10: both shut down at once: both see the end.
pub fn d10_simultaneous_shutdown() {
    let loop_ = current_loop();
    for _ in 0..50 {
        let (a, b) = tcp();
        let tickets: Vec<_> = [&a, &b].map(|end| loop_.start(op::recv(end, vec![0; 8]))).into();
        let ends = [&a, &b].map(|end| loop_.start(op::shutdown(end, Shutdown::Write)));
        for ticket in tickets {
            assert_eq!(ticket.take().unwrap().unwrap().0, 0);
        }
        ends.into_iter().for_each(|end| end.take().unwrap().unwrap());
    }
    drop(Loop::take_current());
}

/// D11: a reset in the middle of reading and writing is an error, at once, and never a signal.
pub fn d11_reset_is_an_error_not_a_signal() {
    sys::default_sigpipe();
    let loop_ = current_loop();
    for _ in 0..20 {
        let (socket, peer) = half_tcp();
        net::fill(&socket, 0);
        let read = loop_.start(op::recv(&socket, vec![0; 8]));
        let write = loop_.start(op::send(&socket, vec![0; 1 << 20]).all(true));
        poke(&loop_);
        net::reset_on_close(&peer);
        drop(peer);
        // The kernel tells of a reset once, to whoever asks first; then a read is at the end and a write has no peer.
        let read = read.take().unwrap().map(|(n, _)| n).map_err(|failed| errno::<(), _>(Err(failed)));
        let write = errno(write.take().unwrap());
        assert!(read == Ok(0) || read == Err(libc::ECONNRESET), "{read:?}");
        assert!(write == libc::EPIPE || write == libc::ECONNRESET, "{write}");
        assert!(read == Err(libc::ECONNRESET) || write == libc::ECONNRESET, "nobody was told of the reset");
        assert_eq!(errno(op::send(&socket, b"x").wait()), libc::EPIPE);
        assert_eq!(errno(op::send_vectored(&socket, &[IoSlice::new(b"x")][..]).wait()), libc::EPIPE);
        assert_eq!(op::recv(&socket, &mut [0; 8]).wait().unwrap(), 0);
    }
    // Alone, each is the error that belongs to it.
    let (socket, peer) = half_tcp();
    let read = loop_.start(op::recv(&socket, vec![0; 8]));
    poke(&loop_);
    net::reset_on_close(&peer);
    drop(peer);
    assert_eq!(errno(read.take().unwrap()), libc::ECONNRESET);
    let (socket, peer) = half_unix();
    drop(peer);
    assert_eq!(errno(op::send(&socket, b"x").wait()), libc::EPIPE);
    drop(Loop::take_current());
}

/// D12: closing with data unread resets the peer.
pub fn d12_close_with_unread_data() {
    let loop_ = current_loop();
    for by_operation in [false, true] {
        let (socket, mut peer) = half_tcp();
        peer.write_all(b"unread").unwrap();
        assert_eq!(op::poll(&socket, libc::POLLIN).wait().unwrap() & libc::POLLIN, libc::POLLIN);
        if by_operation {
            op::close(socket).wait().unwrap()
        } else {
            drop(socket)
        }
        assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    op::timer(MS).wait().unwrap();
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// D13: a read and a write on one socket do not mind each other; of two reads, the older is served first.
pub fn d13_concurrent_operations() {
    let loop_ = new_loop();
    for (socket, mut peer) in [half_tcp().into_box(), half_unix().into_box()] {
        let filled = net::fill(&socket, 0);
        let read = loop_.start(op::recv(&socket, vec![0; 8]));
        let write = loop_.start(op::send(&socket, vec![1; 100]).all(true));
        poke(&loop_);
        peer.write_all(b"x").unwrap();
        assert_eq!(read.take().unwrap().unwrap().0, 1);
        let read = loop_.start(op::recv(&socket, vec![0; 8]));
        poke(&loop_);
        peer.read_exact(&mut vec![0; filled]).unwrap();
        assert_eq!(write.take().unwrap().unwrap().0, 100);
        peer.read_exact(&mut [0; 100]).unwrap();
        drop(read);

        let mut tickets: Vec<_> = (0..5).map(|_| loop_.start(op::recv(&socket, vec![0; 1]))).collect();
        poke(&loop_);
        for byte in 0..5u8 {
            peer.write_all(&[byte]).unwrap();
            let before = loop_.stats().completed;
            tick_until(&loop_, || loop_.stats().completed > before);
            let outcome = tickets.remove(0).try_take().expect("a younger read was served first").unwrap();
            assert_eq!((outcome.0, outcome.1[0]), (1, byte));
            assert!(tickets.iter_mut().all(|ticket| ticket.try_take().is_none()));
        }
        // All at once: each wakes.
        let tickets: Vec<_> = (0..5).map(|_| loop_.start(op::recv(&socket, vec![0; 1]))).collect();
        poke(&loop_);
        peer.write_all(b"01234").unwrap();
        let bytes: Vec<_> = tickets.into_iter().map(|ticket| ticket.take().unwrap().unwrap().1[0]).collect();
        assert_eq!(bytes, b"01234");
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Pairs of different types in one list.
trait IntoBox {
    fn into_box(self) -> (Socket, Box<dyn ReadWrite>);
}
impl<T: Read + Write + 'static> IntoBox for (Socket, T) {
    fn into_box(self) -> (Socket, Box<dyn ReadWrite>) {
        (self.0, Box::new(self.1))
    }
}

/// D14: a close ends what is pending on the socket, each operation once, and completes after them.
pub fn d14_close_ends_pending_operations() {
    let loop_ = current_loop();
    let (_listener, addr, _clients) = black_hole();
    let ((a, _a_peer), (b, _b_peer)) = (tcp(), unix());
    for (socket, connect_to) in [(a, None), (b, None), (new_socket(), Some(addr))] {
        let log = Log::new();
        let other = socket.clone();
        let ended = |name: &'static str| {
            let log = log.clone();
            move |code: i32| {
                assert!(code == libc::ECANCELED || code == libc::EBADF, "{name}: {code}");
                log.add(name);
            }
        };
        if let Some(addr) = connect_to {
            let connect = ended("connect");
            loop_.submit(op::connect(&socket, addr.into()), move |_, outcome| connect(errno(outcome)));
        } else {
            net::fill(&socket, 0);
            let (read, write, poll) = (ended("read"), ended("write"), ended("poll"));
            loop_.submit(op::recv(&socket, vec![0; 8]), move |_, outcome| read(errno(outcome)));
            loop_.submit(op::send(&socket, vec![0; 8]), move |_, outcome| write(errno(outcome)));
            loop_.submit(op::poll(&socket, libc::POLLPRI), move |_, outcome| poll(errno(outcome)));
        }
        poke(&loop_);
        let to = log.clone();
        loop_.submit(op::close(socket), move |_, outcome| {
            outcome.unwrap();
            to.add("close");
        });
        // And what comes after the close is refused.
        loop_.submit(op::recv(other, vec![0; 8]), |_, outcome| assert_eq!(errno(outcome), libc::EBADF));
        loop_.run().unwrap();
        let mut names = log.all();
        assert_eq!(names.pop(), Some("close"), "{names:?}");
        names.sort_unstable();
        assert_eq!(names, if connect_to.is_some() { vec!["connect"] } else { vec!["poll", "read", "write"] });
    }
    drop(Loop::take_current());
}

/// D15: a shutdown of what is not connected says so.
pub fn d15_shutdown_without_connection() {
    let _loop = current_loop();
    let code = error(op::shutdown(new_socket(), Shutdown::Both).wait()).kind();
    assert_eq!(code, io::ErrorKind::NotConnected);
    drop(Loop::take_current());
}

/// D16: urgent data neither makes a pending receive spin nor end; the harness looks at the CPU time.
pub fn d16_urgent_data() {
    let loop_ = new_loop();
    let (socket, mut peer) = half_tcp();
    let mut read = loop_.start(op::recv(&socket, vec![0; 8]));
    poke(&loop_);
    net::send_oob(&peer, b'!').unwrap();
    let begun = StdInstant::now();
    while begun.elapsed() < 300 * MS {
        loop_.tick(Some(300 * MS - begun.elapsed().min(300 * MS))).unwrap();
        assert!(read.try_take().is_none(), "urgent data ended an ordinary receive");
    }
    peer.write_all(b"data").unwrap();
    let (n, buf) = read.take().unwrap().unwrap();
    assert_eq!(&buf[..n], b"data");
}

/// D17: a flood of connects: all are served, and others meanwhile.
pub fn d17_accept_flood() {
    flood(128, 4, scaled(10_000));
}

/// D17: the same at a queue of one, where the kernel lets clients wait for seconds.
pub fn d17_accept_flood_at_a_short_queue() {
    flood(1, 3, 5);
}

/// The clients speak first. Where the queue overflows, the kernel may answer with a SYN cookie, forget the client, and drop the
/// acknowledgement: such a client is connected as far as it knows, and only what it sends again brings it to the server.
fn flood(backlog: i32, clients: u64, rounds: u64) {
    fn accept(loop_: &Loop, listener: Socket, served: Rc<Cell<u64>>, total: u64) {
        let again = listener.clone();
        loop_.submit(op::accept(&listener), move |loop_, outcome| {
            let (socket, _) = outcome.unwrap();
            echo(loop_, socket);
            served.set(served.get() + 1);
            if served.get() < total {
                accept(loop_, again, served, total);
            }
        });
    }
    fn echo(loop_: &Loop, socket: Socket) {
        let to = socket.clone();
        loop_.submit(op::recv(&socket, vec![0; 1]), move |loop_, outcome| {
            let (n, byte) = outcome.unwrap();
            if n > 0 {
                loop_.submit(op::send(&to, byte), |_, _| ());
                echo(loop_, to);
            }
        });
    }
    let total = clients * rounds;
    let loop_ = current_loop();
    let listener = new_socket();
    op::bind(&listener, SocketAddr::from(([127, 0, 0, 1], 0)).into()).wait().unwrap();
    op::listen(&listener, backlog).wait().unwrap();
    let addr = TcpListener::from(listener.as_fd().try_clone_to_owned().unwrap()).local_addr().unwrap();
    let served = Rc::new(Cell::new(0));
    accept(&loop_, listener, served.clone(), total);
    let (socket, mut other) = half_unix();
    echo(&loop_, socket);
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..rounds {
                    let mut client = TcpStream::connect(addr).unwrap();
                    client.write_all(b"x").unwrap();
                    client.read_exact(&mut [0]).unwrap();
                }
            })
        })
        .collect();
    let bystander = std::thread::spawn(move || {
        let (mut worst, mut rounds) = (Duration::ZERO, 0);
        while clients.iter().any(|client| !client.is_finished()) {
            let begun = StdInstant::now();
            other.write_all(b"x").unwrap();
            other.read_exact(&mut [0]).unwrap();
            (worst, rounds) = (worst.max(begun.elapsed()), rounds + 1);
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
        (worst, rounds, sys::cpu_wait())
    });
    let yardstick = Yardstick::start();
    loop_.run().unwrap();
    let (worst, rounds, waited) = bystander.join().unwrap();
    let limit = yardstick.allow(250 * MS, waited);
    assert_eq!(served.get(), total);
    assert!(rounds > 0 && worst < limit, "{rounds} echoes, the worst took {worst:?}");
    drop(Loop::take_current());
}

/// D18: a client that sends and closes before it is accepted: its data, then the end.
pub fn d18_delayed_accept() {
    let _loop = current_loop();
    let (listener, addr) = listener();
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"early").unwrap();
    drop(client);
    let (socket, _) = op::accept(&listener).wait().unwrap();
    let mut buf = [0; 16];
    assert_eq!(op::recv(&socket, &mut buf[..]).all(true).wait().unwrap(), 5);
    assert_eq!(&buf[..5], b"early");
    assert_eq!(op::recv(&socket, &mut buf[..]).wait().unwrap(), 0);
    drop(Loop::take_current());
}

/// A Unix listener whose queue is full: a connect waits for room, idly, or it is refused; it neither spins nor lies.
/// The harness looks at the CPU time.
pub fn d23_unix_connect_to_full_queue() {
    let loop_ = current_loop();
    let name = format!("towpath-d23-{}", std::process::id());
    let addr = SockAddr::from(&socket2::SockAddr::unix(format!("\0{name}")).unwrap());
    let unix_socket = || op::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).wait().unwrap();
    let (listener, first, second) = (unix_socket(), unix_socket(), unix_socket());
    op::bind(&listener, addr).wait().unwrap();
    op::listen(&listener, 0).wait().unwrap();
    op::connect(&first, addr).wait().unwrap();
    let mut connecting = loop_.start(op::connect(&second, addr));
    let begun = StdInstant::now();
    let mut outcome = None;
    while begun.elapsed() < 300 * MS {
        loop_.tick(Some((300 * MS).saturating_sub(begun.elapsed()))).unwrap();
        outcome = outcome.or(connecting.try_take());
    }
    let _served = op::accept(&listener).wait().unwrap();
    match outcome {
        None => connecting.take().unwrap().unwrap(),
        Some(outcome) => {
            let code = errno(outcome);
            assert!(code == libc::ECONNREFUSED || code == libc::EAGAIN, "{code}");
        }
    }
    // There is room now.
    op::connect(unix_socket(), addr).timeout(Duration::from_secs(2)).wait().unwrap();
    drop(Loop::take_current());
}

/// What accept and socket make is non-blocking and closed on exec (also F9); the address is the peer's.
pub fn d22_new_descriptors_flags() {
    let loop_ = current_loop();
    let (listener, addr) = listener();
    let client = TcpStream::connect(addr).unwrap();
    let (accepted, from) = op::accept(&listener).wait().unwrap();
    assert_eq!(from.to_std().unwrap(), client.local_addr().unwrap());
    let made = loop_.start(op::socket(V4.0, V4.1, 0)).take().unwrap().unwrap();
    for socket in [&accepted, &made] {
        assert!(rustix::fs::fcntl_getfl(socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    drop(Loop::take_current());
}
