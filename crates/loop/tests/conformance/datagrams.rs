//! E: datagrams, and the names of Unix sockets.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use towpath_loop::{SockAddr, Socket, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// Two UDP sockets that know each other.
fn udp() -> (Socket, Socket) {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    (socket(a), socket(b))
}

/// E2: a datagram of nothing is one, and no end.
pub fn e02_empty_datagrams() {
    let loop_ = current_loop();
    for (here, there) in [udp(), pair(libc::SOCK_DGRAM), pair(libc::SOCK_SEQPACKET)] {
        // Waited for, and there already; by each way to send it.
        let waiting = loop_.start(op::recv(&there, vec![0; 8]));
        poke(&loop_);
        assert_eq!(op::send(&here, &[]).wait().unwrap(), 0);
        assert_eq!(waiting.take().unwrap().unwrap().0, 0);
        assert_eq!(op::send_vectored(&here, &[IoSlice::new(b"")][..]).wait().unwrap(), 0);
        assert_eq!(loop_.start(op::send(&here, b"next".to_vec())).take().unwrap().unwrap().0, 4);
        let mut buf = [0; 8];
        let got = op::recv_from(&there, &mut buf).wait().unwrap();
        assert_eq!((got.received, got.truncated), (0, false));
        assert_eq!(op::recv(&there, &mut buf).wait().unwrap(), 4);
        // Into nothing: the one leaves it where it is, the other lets it go.
        assert_eq!(op::send(&here, b"lost").wait().unwrap(), 4);
        assert_eq!(op::send(&here, b"kept").wait().unwrap(), 4);
        assert_eq!(op::recv(&there, &mut []).wait().unwrap(), 0);
        let got = op::recv_from(&there, &mut []).wait().unwrap();
        assert_eq!((got.received, got.truncated), (0, true));
        assert_eq!(op::recv(&there, &mut buf).wait().unwrap(), 4);
        assert_eq!(&buf[..4], b"kept");
        // Nothing else is there, and nobody took the absence for an end.
        assert_timed_out(op::recv(&there, &mut buf).timeout(2 * MS).wait());
    }
}

/// E3: more than one datagram holds is refused, and the socket is none the worse.
pub fn e03_too_large() {
    let loop_ = current_loop();
    let (here, there) = udp();
    let large = vec![1; 65_536];
    let (half, to) = (&large[..40_000], SockAddr::from(peer_of(&here)));
    assert_eq!(errno(op::send(&here, &large[..]).wait()), libc::EMSGSIZE);
    assert_eq!(errno(op::send_to(&here, &large[..], to).wait()), libc::EMSGSIZE);
    let both = [IoSlice::new(half), IoSlice::new(half)];
    assert_eq!(errno(op::send_vectored(&here, &both[..]).wait()), libc::EMSGSIZE);
    assert_eq!(errno(op::send_zc(&here, &large[..]).wait()), libc::EMSGSIZE);
    let failed = loop_.start(op::send(&here, large).all(true)).take().unwrap().unwrap_err();
    assert_eq!((failed.error.raw_os_error(), failed.transferred), (Some(libc::EMSGSIZE), 0));
    let large = failed.buf.unwrap();
    // The largest that there is goes through.
    assert_eq!(op::send(&here, &large[..65_507]).wait().unwrap(), 65_507);
    assert_eq!(op::recv(&there, &mut [0; 65_536]).wait().unwrap(), 65_507);
}

fn peer_of(socket: &Socket) -> SocketAddr {
    UdpSocket::from(socket.as_fd().try_clone_to_owned().unwrap()).peer_addr().unwrap()
}

/// E4: that nobody listens is told once, to whoever asks next, and costs nothing until then.
pub fn e04_nobody_listens() {
    let loop_ = current_loop();
    let (here, there) = udp();
    // The backend knows the socket.
    assert_timed_out(op::recv(&here, &mut [0; 8]).timeout(MS).wait());
    drop(there);
    assert_eq!(op::send(&here, b"x").wait().unwrap(), 1);
    poll(&mut [PollFd::new(&here, PollFlags::empty())], None).unwrap();
    // An error is pending and nobody asks: the harness looks whether this spins.
    let before = loop_.stats().ticks;
    op::timer(300 * MS).wait().unwrap();
    assert!(loop_.stats().ticks - before < 10, "woken for what nobody waits for");
    assert_eq!(errno(op::recv(&here, &mut [0; 8]).wait()), libc::ECONNREFUSED);
    assert_timed_out(op::recv(&here, &mut [0; 8]).timeout(2 * MS).wait());
    // Told to whoever waits, if somebody does, once again.
    let waiting = loop_.start(op::recv(&here, vec![0; 8]));
    poke(&loop_);
    assert_eq!(op::send(&here, b"x").wait().unwrap(), 1);
    assert_eq!(errno(waiting.take().unwrap()), libc::ECONNREFUSED);
    assert_timed_out(op::recv(&here, &mut [0; 8]).timeout(2 * MS).wait());
    // And a datagram that does come is received.
    let back = UdpSocket::bind(peer_of(&here)).unwrap();
    let to = UdpSocket::from(here.as_fd().try_clone_to_owned().unwrap()).local_addr().unwrap();
    back.send_to(b"hello", to).unwrap();
    assert_eq!(op::recv(&here, &mut [0; 8]).wait().unwrap(), 5);
}

/// E5: who sends more than the other side's queue holds waits, at no cost, and all arrive in order.
pub fn e05_floods_wait() {
    let loop_ = current_loop();
    let (here, there) = pair(libc::SOCK_DGRAM);
    let sent = Log::new();
    for n in 0..500_u32 {
        let sent = sent.clone();
        loop_.submit(op::send(&here, n.to_ne_bytes()), move |_, result| {
            assert_eq!(result.unwrap().0, 4);
            sent.add(n);
        });
    }
    // The harness looks whether this spins.
    op::timer(300 * MS).wait().unwrap();
    assert!(sent.len() < 500, "a queue without end");
    for n in 0..500_u32 {
        let mut buf = [0; 8];
        assert_eq!(op::recv(&there, &mut buf).wait().unwrap(), 4);
        assert_eq!(buf[..4], n.to_ne_bytes());
    }
    loop_.run().unwrap();
    assert_eq!(sent.all(), (0..500).collect::<Vec<_>>());
}

/// E5: the same where only the receiver knows that its queue is full. A sender that knows nobody has room of its own, and so
/// polls as writable; one that is connected does not, and is written to when the kernel has already read the buffer.
pub fn e05_floods_of_strangers_wait() {
    let loop_ = current_loop();
    let name = UnixAddr::from_abstract_name(format!("towpath-flood-{}", std::process::id())).unwrap();
    let there = UnixDatagram::bind_addr(&name).unwrap();
    let to = SockAddr::from(&socket2::SockRef::from(&there).local_addr().unwrap());
    let there = socket(there);
    for how in ["by name", "sent", "sent in parts", "without a copy", "written", "written in parts"] {
        let here = UnixDatagram::unbound().unwrap();
        if how != "by name" {
            here.connect_addr(&name).unwrap();
        }
        let (here, sent) = (socket(here), Log::new());
        for n in 0..100_u32 {
            let (bytes, log) = (n.to_ne_bytes(), sent.clone());
            let note = move |len: usize| {
                assert_eq!(len, 4);
                log.add(n);
            };
            let parts = || vec![bytes.to_vec()];
            match how {
                "by name" => loop_.submit(op::send_to(&here, bytes, to), move |_, n| note(n.unwrap().0)),
                "sent" => loop_.submit(op::send(&here, bytes), move |_, n| note(n.unwrap().0)),
                "sent in parts" => {
                    loop_.submit(op::send_vectored(&here, parts()), move |_, n| note(n.unwrap().0))
                }
                "written" => loop_.submit(op::write(&here, bytes), move |_, n| note(n.unwrap().0)),
                "written in parts" => {
                    loop_.submit(op::write_vectored(&here, parts()), move |_, n| note(n.unwrap().0))
                }
                _ => loop_.submit(op::send_zc(&here, bytes), move |_, n| note(n.unwrap().sent.0)),
            };
        }
        // The harness looks whether this spins.
        op::timer(200 * MS).wait().unwrap();
        assert!(sent.len() < 100, "a queue without end");
        for n in 0..100_u32 {
            let mut buf = [0; 8];
            assert_eq!(op::recv(&there, &mut buf).wait().unwrap(), 4);
            assert_eq!(buf[..4], n.to_ne_bytes());
        }
        loop_.run().unwrap();
        assert_eq!(sent.all(), (0..100).collect::<Vec<_>>());
    }
}

/// E6: names of Unix sockets: how long they may be, names of no file, and what is no socket.
pub fn e06_names_of_unix_sockets() {
    let loop_ = current_loop();
    let new = || op::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).wait().unwrap();
    let named = |path: &std::path::Path| socket2::SockAddr::unix(path).map(|addr| SockAddr::from(&addr));
    let dir = std::env::temp_dir().join(format!("towpath-names-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let connect = |addr: SockAddr| op::connect(new(), addr).wait();
    assert_eq!(errno(connect(named(&dir.join("nobody")).unwrap())), libc::ENOENT);
    std::fs::write(dir.join("file"), b"").unwrap();
    assert_eq!(errno(connect(named(&dir.join("file")).unwrap())), libc::ECONNREFUSED);
    assert_eq!(errno(connect(named(&dir).unwrap())), libc::ECONNREFUSED);
    drop(UnixListener::bind(dir.join("left")).unwrap());
    assert_eq!(errno(connect(named(&dir.join("left")).unwrap())), libc::ECONNREFUSED);
    assert_eq!(errno(op::bind(new(), named(&dir.join("left")).unwrap()).wait()), libc::EADDRINUSE);
    // 108 bytes are too many with the byte that ends them, in whatever direction one looks.
    let long = |len: usize| dir.join("x".repeat(len - dir.as_os_str().len() - 1));
    assert!(named(&long(109)).is_err());
    // A path as long as one can be, and a name of no file; by both the kind of connections and that of datagrams.
    let abstract_name = format!("towpath-{}\0with a nul", std::process::id());
    let no_file = UnixAddr::from_abstract_name(&abstract_name).unwrap();
    let (listener, accepted) = (new(), new());
    op::bind(&listener, named(&long(107)).unwrap()).wait().unwrap();
    op::listen(&listener, 1).wait().unwrap();
    let accept = loop_.start(op::accept(&listener));
    op::connect(&accepted, named(&long(107)).unwrap()).wait().unwrap();
    let (connection, from) = accept.take().unwrap().unwrap();
    assert_eq!((from.family(), from.to_std().is_err()), (libc::AF_UNIX, true), "it has no name");
    assert_eq!(op::send(&connection, b"x").wait().unwrap(), 1);
    assert_eq!(op::recv(&accepted, &mut [0; 4]).wait().unwrap(), 1);
    let plain = UnixListener::bind_addr(&no_file).unwrap();
    let raw = socket2::SockRef::from(&plain).local_addr().unwrap();
    op::connect(new(), SockAddr::from(&raw)).wait().unwrap();
    plain.accept().unwrap();
    drop(plain);
    assert_eq!(errno(connect(SockAddr::from(&raw))), libc::ECONNREFUSED);
    let listener = new();
    op::bind(&listener, SockAddr::from(&raw)).wait().unwrap();
    assert_eq!(
        socket2::SockRef::from(&listener).local_addr().unwrap().as_abstract_namespace().unwrap(),
        abstract_name.as_bytes()
    );
    // Datagrams tell by whom they were sent.
    let (a, b) = (UnixDatagram::bind(dir.join("a")).unwrap(), UnixDatagram::bind(dir.join("b")).unwrap());
    let (a, b) = (socket(a), socket(b));
    assert_eq!(op::send_to(&a, b"hi", named(&dir.join("b")).unwrap()).wait().unwrap(), 2);
    let got = op::recv_from(&b, &mut [0; 8]).wait().unwrap();
    assert_eq!(socket2::SockAddr::from(got.from).as_pathname().unwrap(), dir.join("a"));
    assert_eq!(errno(op::send_to(&a, b"hi", named(&dir.join("nobody")).unwrap()).wait()), libc::ENOENT);
    std::fs::remove_dir_all(dir).unwrap();
}

/// E10: messages of no buffers, and of more than there may be.
pub fn e10_odd_messages() {
    let loop_ = current_loop();
    let (here, there) = pair(libc::SOCK_DGRAM);
    let many: Vec<_> = (0..5000).map(|_| IoSlice::new(b"x")).collect();
    assert_eq!(op::send_vectored(&here, &many[..]).wait().unwrap(), 1024);
    assert_eq!(op::send_msg(&here, &many[..]).wait().unwrap(), 1024);
    assert_eq!(op::send_msg(&here, &[][..]).wait().unwrap(), 0);
    assert_eq!(op::send(&here, &[7; 100]).wait().unwrap(), 100);
    assert_eq!(op::send(&here, &[8; 10]).wait().unwrap(), 10);
    let mut bytes = vec![0; 5000];
    let mut slices: Vec<_> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
    let got = op::recv_msg(&there, &mut slices[..]).wait().unwrap();
    assert_eq!((got.received, got.truncated), (1024, false));
    let n = loop_.start(op::recv_vectored(&there, vec![vec![0; 1000]; 2])).take().unwrap().unwrap().0;
    assert_eq!(n, 1024);
    let got = op::recv_msg(&there, &mut slices[..]).wait().unwrap();
    assert_eq!((got.received, got.truncated), (0, false));
    // No buffers: the message is used up, and said to be longer.
    let got = op::recv_msg(&there, &mut [][..]).wait().unwrap();
    assert_eq!((got.received, got.truncated), (0, true));
    let mut ten = [0; 10];
    assert_eq!(op::recv(&there, &mut ten).wait().unwrap(), 10);
    assert_eq!(ten, [8; 10]);
}
