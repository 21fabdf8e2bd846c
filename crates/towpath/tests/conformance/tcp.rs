//! D: TCP, as `std::net` behaves; C9's kind is in `cancel`.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use towpath::net::{TcpListener, TcpStream};
use towpath::thread::{self, try_sleep};
use towpath_harness::{net, process, sys};
use towpath_loop::op;

use crate::common::*;

/// D1: what cannot be connected to fails as it does with `std`, and closes its descriptor.
pub fn d01_connect_refused() {
    let closed = closed_addr();
    let v6 = SocketAddr::new("::1".parse().unwrap(), closed.port());
    let any = SocketAddr::new("0.0.0.0".parse().unwrap(), closed.port());
    let others = ["127.0.0.1:0", "255.255.255.255:80", "224.0.0.1:80", "[::]:0", "0.0.0.0:0"];
    let addrs = others.iter().map(|text| text.parse().unwrap()).chain([closed, v6, any]);
    solo(|| {
        assert_eq!(kind(TcpStream::connect(closed)), io::ErrorKind::ConnectionRefused);
        for addr in addrs {
            let theirs = error(std::net::TcpStream::connect_timeout(&addr, ms(500)));
            let fds = sys::fd_count();
            for _ in 0..3 {
                let begun = Instant::now();
                let ours = error(TcpStream::connect_timeout(&addr, ms(500)));
                assert_eq!(ours.kind(), theirs.kind(), "{addr}: {ours:?}, not {theirs:?}");
                assert_eq!(ours.raw_os_error(), theirs.raw_os_error(), "{addr}: {ours:?}, not {theirs:?}");
                assert_quick(begun, Duration::from_secs(1));
            }
            assert_eq!(sys::fd_count(), fds, "{addr}");
        }
        // The unspecified address is this machine's.
        let (listener, addr) = listener();
        let client = TcpStream::connect(("0.0.0.0", addr.port())).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    });
}

/// D1: of several addresses the first that answers is taken, or else the last error told.
pub fn d01_several_addresses() {
    solo(|| {
        let (listener, addr) = listener();
        let closed = closed_addr();
        let client = TcpStream::connect(&[closed, addr][..]).unwrap();
        assert_eq!(client.peer_addr().unwrap(), addr);
        drop(listener.accept().unwrap());
        let nowhere: SocketAddr = "255.255.255.255:80".parse().unwrap();
        let theirs = error(std::net::TcpStream::connect(&[nowhere, closed][..]));
        assert_eq!(kind(TcpStream::connect(&[nowhere, closed][..])), theirs.kind());
        assert_eq!(kind(TcpStream::connect(&[][..])), io::ErrorKind::InvalidInput);
        assert_eq!(kind(TcpListener::bind(&[][..])), io::ErrorKind::InvalidInput);
        for text in ["", "127.0.0.1", "no port", "127.0.0.1:99999", "[::1"] {
            let theirs = error(std::net::TcpStream::connect(text));
            assert_eq!(kind(TcpStream::connect(text)), theirs.kind(), "{text:?}");
        }
        let client = TcpStream::connect(("localhost", addr.port())).unwrap();
        drop((client, listener.accept().unwrap()));
        let client = TcpStream::connect(format!("localhost:{}", addr.port())).unwrap();
        drop((client, listener.accept().unwrap()));
    });
}

/// A listener whose queue is full, so that further connects get no answer, as from a black hole.
fn full_listener() -> (std::net::TcpListener, SocketAddr, Vec<std::net::TcpStream>) {
    let (listener, addr) = net::listener();
    shrink_backlog(&listener, 0);
    let mut clients = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect_timeout(&addr, ms(100)) {
        clients.push(client);
        assert!(clients.len() < 16, "the queue does not fill");
    }
    (listener, addr, clients)
}

fn shrink_backlog(listener: &impl AsFd, backlog: i32) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::listen(listener.as_fd().as_raw_fd(), backlog) }, 0);
}

/// D2: a connect that is not answered times out when it should, or is cancelled. (The black hole is a full queue: a
/// TUN device would need a network namespace.)
pub fn d02_connect_timeout() {
    let (_listener, addr, _clients) = full_listener();
    solo(|| {
        let fds = sys::fd_count();
        let begun = Instant::now();
        let late = TcpStream::connect_timeout(&addr, ms(200));
        let took = begun.elapsed();
        assert_timed_out(late);
        assert!(took >= ms(200) && took < ms(200) + patience(ms(50)), "{took:?}");
        assert_timed_out(towpath::time::timeout(ms(50), || TcpStream::connect(addr)));
        let task = waiting(move || TcpStream::connect(addr));
        task.cancel();
        assert_canceled(task.join().unwrap());
        assert_eq!(kind(TcpStream::connect_timeout(&addr, Duration::ZERO)), io::ErrorKind::InvalidInput);
        assert_eq!(sys::fd_count(), fds);
    });
    // The same for a plain thread.
    let begun = Instant::now();
    assert_timed_out(TcpStream::connect_timeout(&addr, ms(60)));
    assert!(begun.elapsed() >= ms(60));
}

/// D3: what cannot be bound fails as it does with `std`.
pub fn d03_bind_errors() {
    let (_taken, addr) = net::listener();
    solo(|| {
        assert_eq!(kind(TcpListener::bind(addr)), io::ErrorKind::AddrInUse);
        assert_eq!(kind(TcpListener::bind("192.0.2.1:0")), io::ErrorKind::AddrNotAvailable);
        for text in ["[2001:db8::1]:0", "255.255.255.255:0", "[::1]:0", "nowhere.invalid:0"] {
            let theirs = std::net::TcpListener::bind(text).map(drop).map_err(|error| error.kind());
            assert_eq!(TcpListener::bind(text).map(drop).map_err(|error| error.kind()), theirs, "{text}");
        }
        // A port that has just been left can be had again, also with a connection lingering.
        let (listener, addr) = listener();
        let client = TcpStream::connect(addr).unwrap();
        drop(listener.accept().unwrap());
        drop(listener);
        drop(TcpListener::bind(addr).unwrap());
        drop(client);
    });
}

/// D3: a privileged port, for a user who has no privileges.
pub fn d03_privileged_port() {
    if sys::become_user(65534).is_err() {
        towpath_harness::skip("needs root, to become nobody");
    }
    let theirs = match std::net::TcpListener::bind("127.0.0.1:1") {
        Err(error) => error.kind(),
        Ok(_) => towpath_harness::skip("all ports are unprivileged here"),
    };
    assert_eq!(theirs, io::ErrorKind::PermissionDenied);
    assert_eq!(kind(solo(|| TcpListener::bind("127.0.0.1:1"))), theirs);
}

/// D4: a client that has reset its connection before it was accepted disturbs no other.
pub fn d04_reset_before_accept() {
    let (listener, addr) = listener();
    for _ in 0..3 {
        let client = std::net::TcpStream::connect(addr).unwrap();
        net::reset_on_close(&client);
    }
    let mut good = std::net::TcpStream::connect(addr).unwrap();
    good.write_all(b"good").unwrap();
    solo(|| {
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = [0; 8];
            match stream.read(&mut buf) {
                Ok(4) => return assert_eq!(&buf[..4], b"good"),
                Ok(n) => panic!("{n} bytes out of nowhere"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
        panic!("the good client never came");
    });
}

/// D5: there and back through send buffers of 4 KiB: complete, in order. Over TCP the kernel's delayed acknowledgements
/// make that slow, so the 64 MiB go over a Unix socket.
pub fn d05_echo_through_small_buffers() {
    let (client, server) = pair();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    echo(client, server, 2 << 20);
}

/// See above.
pub fn d05_echo_64_mib_through_small_buffers() {
    let (client, server) = net::unix_pair();
    echo(OwnedFd::from(client).into(), OwnedFd::from(server).into(), 64 << 20);
}

fn echo(client: TcpStream, server: TcpStream, total: usize) {
    for stream in [&client, &server] {
        net::set_send_buffer(stream, 4096);
    }
    solo(|| {
        let echo = thread::spawn_local(move || {
            let mut buf = vec![0; 16 << 10];
            let mut total = 0;
            while let n @ 1.. = (&server).read(&mut buf).unwrap() {
                (&server).write_all(&buf[..n]).unwrap();
                total += n;
            }
            total
        });
        // The same bytes over and over, at a length that is prime to all else.
        let chunk: Vec<u8> = (0..65_521).map(pattern).collect();
        thread::scope(|s| {
            s.spawn(|| {
                let mut left = total;
                while left > 0 {
                    let n = left.min(chunk.len());
                    (&client).write_all(&chunk[..n]).unwrap();
                    left -= n;
                }
                client.shutdown(Shutdown::Write).unwrap();
            });
            let (mut at, mut buf) = (0, vec![0; 48 << 10]);
            while let n @ 1.. = (&client).read(&mut buf).unwrap() {
                let mut seen = 0;
                while seen < n {
                    let from = (at + seen) % chunk.len();
                    let len = (n - seen).min(chunk.len() - from);
                    assert!(buf[seen..seen + len] == chunk[from..from + len], "at {}", at + seen);
                    seen += len;
                }
                at += n;
            }
            assert_eq!(at, total);
        });
        assert_eq!(echo.join().unwrap(), total);
    });
}

/// D6: vectored writes and reads of no, empty, and too many slices, and of more than 2 GiB.
pub fn d06_vectored() {
    solo(|| {
        let (mut a, mut b) = pair();
        assert_eq!(a.write_vectored(&[]).unwrap(), 0);
        assert_eq!(a.write_vectored(&[IoSlice::new(b"")]).unwrap(), 0);
        let slices = [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two"), IoSlice::new(b"")];
        assert_eq!(a.write_vectored(&slices).unwrap(), 6);
        assert_eq!(b.read_vectored(&mut []).unwrap(), 0);
        assert_eq!(b.read_vectored(&mut [IoSliceMut::new(&mut [])]).unwrap(), 0);
        let (mut one, mut none, mut two) = ([0; 2], [0; 0], [0; 9]);
        let mut slices = [IoSliceMut::new(&mut none), IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(b.read_vectored(&mut slices).unwrap(), 6);
        assert_eq!((&one, &two[..4]), (b"on", &b"etwo"[..]));

        // More than IOV_MAX: as many as go.
        let bytes: Vec<u8> = (0..5000).map(pattern).collect();
        let slices: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
        let n = a.write_vectored(&slices).unwrap();
        assert!(n > 0 && n <= 5000);
        let mut got = vec![0; n];
        b.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes[..n]);
        a.write_all(&bytes).unwrap();
        let mut got = vec![0; 5000];
        let mut slices: Vec<_> = got.chunks_mut(1).map(IoSliceMut::new).collect();
        let n = b.read_vectored(&mut slices).unwrap();
        assert!(n > 0 && n <= 5000);
        b.read_exact(&mut vec![0; 5000 - n]).unwrap();
        assert_eq!(got[..n], bytes[..n]);

        // More than 2 GiB, of the same memory over and over.
        let chunk = vec![3; 4 << 20];
        let slices: Vec<_> = (0..1000).map(|_| IoSlice::new(&chunk)).collect();
        a.set_nonblocking(true).unwrap();
        let n = a.write_vectored(&slices).unwrap();
        assert!(n > 0);
        drop(a);
        assert_eq!(read_all(b).len(), n);
    });
}

/// D7: empty buffers are no end of the stream, and wait for nothing.
pub fn d07_empty_buffers() {
    solo(|| {
        let (mut a, mut b) = pair();
        for _ in 0..3 {
            assert_eq!(a.read(&mut []).unwrap(), 0);
            assert_eq!(a.peek(&mut []).unwrap(), 0);
            assert_eq!(a.write(&[]).unwrap(), 0);
        }
        a.read_exact(&mut []).unwrap();
        b.write_all(b"x").unwrap();
        assert_eq!(a.read(&mut []).unwrap(), 0);
        assert_eq!(a.read(&mut [0; 4]).unwrap(), 1);
        net::fill(&a, 0);
        assert_eq!(a.write(&[]).unwrap(), 0);
    });
}

/// D8: the peer's end comes after its data; writing to it goes on.
pub fn d08_half_close() {
    solo(|| {
        let (a, b) = pair();
        (&b).write_all(&[5; 100_000]).unwrap();
        b.shutdown(Shutdown::Write).unwrap();
        let mut buf = [0; 1000];
        for _ in 0..100 {
            (&a).read_exact(&mut buf).unwrap();
        }
        for _ in 0..3 {
            assert_eq!((&a).read(&mut buf).unwrap(), 0);
        }
        (&a).write_all(b"still").unwrap();
        drop(a);
        assert_eq!(read_all(&b), b"still");
    });
}

/// The loop's operations take streams as they are, and both become each other.
pub fn d22_operations_of_the_loop() {
    solo(|| {
        let ((from, mut source), (to, mut sink)) = (half(), half());
        // Passed on, without a copy of ours.
        let (read, write) = op::pipe().wait().unwrap();
        let passed = thread::spawn_local(move || {
            let mut total = 0;
            loop {
                match op::splice(&from, &write, 1 << 16).wait().unwrap() {
                    0 => return (total, from),
                    n => total += op::splice(&read, &to, n).all(true).wait().unwrap(),
                }
            }
        });
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).map(|_| got)
        });
        let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let sent = data.clone();
        let writer = std::thread::spawn(move || {
            source.write_all(&sent).unwrap();
            source.shutdown(Shutdown::Write).unwrap();
            source
        });
        let (total, from) = passed.join().unwrap();
        assert_eq!(total, data.len());
        assert!(reader.join().unwrap().unwrap() == data);
        let mut source = writer.join().unwrap();
        // A file, and bytes by the loop's own names.
        let file = op::open("/proc/self/exe").wait().unwrap();
        assert_eq!(op::sendfile(&from, &file, 1000).all(true).wait().unwrap(), 1000);
        source.read_exact(&mut [0; 1000]).unwrap();
        // There and back, with an operation in flight that shares it.
        let (stream, mut peer) = half();
        stream.set_read_timeout(Some(ms(1))).unwrap();
        let socket = towpath_loop::Socket::from(stream);
        let stream = TcpStream::from(socket);
        assert_eq!(stream.read_timeout().unwrap(), None);
        let ticket = towpath_loop::Loop::current().unwrap().start(op::recv(&stream, vec![0; 8]));
        let plain = std::net::TcpStream::from(stream);
        peer.write_all(b"both").unwrap();
        assert_eq!(ticket.take().unwrap().unwrap().0, 4);
        drop(plain);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    });
}

/// D9: what was written before a shutdown arrives; a second shutdown does what it does with `std`.
pub fn d09_shutdown_flushes() {
    let theirs = {
        let (a, _b) = net::tcp_pair();
        a.shutdown(Shutdown::Write).unwrap();
        a.shutdown(Shutdown::Write).map_err(|error| error.kind())
    };
    solo(|| {
        let (a, b) = pair();
        let reader = thread::spawn_local(move || read_all(b));
        (&a).write_all(&vec![6; 4 << 20]).unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reader.join().unwrap(), vec![6; 4 << 20]);
        let (a, _b) = pair();
        a.shutdown(Shutdown::Write).unwrap();
        assert_eq!(a.shutdown(Shutdown::Write).map_err(|error| error.kind()), theirs);
        assert_eq!(kind((&a).write(b"x")), io::ErrorKind::BrokenPipe);
    });
}

/// D10: both shut down at once: both see the end, nobody a reset.
pub fn d10_simultaneous_shutdown() {
    solo(|| {
        for how in [Shutdown::Write, Shutdown::Both] {
            let (a, b) = pair();
            a.shutdown(how).unwrap();
            b.shutdown(how).unwrap();
            for stream in [a, b] {
                assert_eq!((&stream).read(&mut [0; 4]).unwrap(), 0);
                assert_eq!((&stream).read(&mut [0; 4]).unwrap(), 0);
                assert!(stream.take_error().unwrap().is_none());
            }
        }
    });
}

/// D11: a reset ends a read that waits, and a write, with an error and without a signal; later calls fail at once.
pub fn d11_reset_mid_transfer() {
    sys::default_sigpipe();
    solo(|| {
        let (stream, peer) = half();
        let stream = Rc::new(stream);
        let shared = stream.clone();
        let reader = waiting(move || (&*shared).read(&mut [0; 8]));
        net::reset_on_close(&peer);
        drop(peer);
        assert_eq!(kind(reader.join().unwrap()), io::ErrorKind::ConnectionReset);
        for _ in 0..3 {
            assert_eq!(kind((&*stream).write(b"x")), io::ErrorKind::BrokenPipe);
            assert_eq!((&*stream).read(&mut [0; 8]).unwrap(), 0);
        }

        let (stream, peer) = half();
        let stream = Rc::new(stream);
        let shared = stream.clone();
        let writer = waiting(move || (&*shared).write_all(&vec![1; 64 << 20]));
        assert!(!writer.is_finished());
        net::reset_on_close(&peer);
        drop(peer);
        let how = kind(writer.join().unwrap());
        assert!(matches!(how, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{how}");
        for _ in 0..3 {
            assert_eq!(kind((&*stream).write(b"x")), io::ErrorKind::BrokenPipe);
            assert_eq!(kind((&*stream).write_vectored(&[IoSlice::new(b"x")])), io::ErrorKind::BrokenPipe);
        }
    });
}

/// D12: closing with data unread resets the peer.
pub fn d12_close_with_unread_data() {
    solo(|| {
        let (a, b) = pair();
        (&a).write_all(&[1; 1000]).unwrap();
        // It has arrived.
        assert!(b.peek(&mut [0; 8]).unwrap() > 0);
        drop(b);
        assert_eq!(kind((&a).read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
        try_sleep(ms(1)).unwrap();
    });
}

/// D13: two tasks on one stream, one reads, one writes: neither holds the other up.
pub fn d13_read_and_write_at_once() {
    solo(|| {
        let (a, b) = pair();
        let (a, shared) = (Rc::new(a), Rc::new(b));
        let reading = a.clone();
        let reader = waiting(move || {
            let mut buf = [0; 5];
            (&*reading).read_exact(&mut buf).map(|()| buf)
        });
        // The writer fills everything and waits as well.
        let writing = a.clone();
        let writer = waiting(move || (&*writing).write_all(&vec![2; 8 << 20]));
        assert!(!writer.is_finished());
        (&*shared).write_all(b"hello").unwrap();
        assert_eq!(&reader.join().unwrap().unwrap(), b"hello");
        let mut left = vec![0; 8 << 20];
        (&*shared).read_exact(&mut left).unwrap();
        writer.join().unwrap().unwrap();
    });
}

/// D13: two read from one stream, or write to it: every byte goes to one of them, and both get on.
pub fn d13_two_readers_two_writers() {
    duo(|| {
        let (a, b) = pair();
        let (a, b) = (Arc::new(a), Arc::new(b));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let stream = b.clone();
                thread::spawn(move || {
                    let (mut sums, mut buf) = ([0usize; 2], [0; 100]);
                    while let n @ 1.. = (&*stream).read(&mut buf).unwrap() {
                        buf[..n].iter().for_each(|byte| sums[usize::from(*byte)] += 1);
                    }
                    sums
                })
            })
            .collect();
        let writers: Vec<_> = (0..2)
            .map(|n| {
                let stream = a.clone();
                thread::spawn(move || {
                    for _ in 0..1000 {
                        (&*stream).write_all(&[n; 77]).unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        a.shutdown(Shutdown::Write).unwrap();
        let sums: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!([sums[0][0] + sums[1][0], sums[0][1] + sums[1][1]], [77_000, 77_000]);
    });
}

/// D13: two that wait to read one stream, one byte each: no wake-up is lost.
pub fn d13_each_waiting_reader_is_woken() {
    solo(|| {
        let (stream, mut peer) = half();
        let stream = Rc::new(stream);
        for _ in 0..100 {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let shared = stream.clone();
                    waiting(move || (&*shared).read(&mut [0; 1]))
                })
                .collect();
            for _ in &readers {
                peer.write_all(b"x").unwrap();
                thread::yield_now();
            }
            for reader in readers {
                assert_eq!(reader.join().unwrap().unwrap(), 1);
            }
        }
    });
}

/// D14: a shutdown by another task ends a read that waits; dropping a clone does not.
pub fn d14_shutdown_ends_pending_read() {
    solo(|| {
        let (stream, _peer) = half();
        let stream = Rc::new(stream);
        let shared = stream.clone();
        let reader = waiting(move || (&*shared).read(&mut [0; 8]));
        drop(stream.try_clone().unwrap());
        try_sleep(ms(2)).unwrap();
        assert!(!reader.is_finished());
        stream.shutdown(Shutdown::Read).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
    });
}

/// D15: shutting down what is not connected.
pub fn d15_shutdown_not_connected() {
    solo(|| {
        let (stream, peer) = half();
        net::reset_on_close(&peer);
        drop(peer);
        assert_eq!(kind((&stream).read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
        assert_eq!(kind(stream.shutdown(Shutdown::Both)), io::ErrorKind::NotConnected);

        let kind_of = rustix::net::SocketType::STREAM;
        let fd = rustix::net::socket(rustix::net::AddressFamily::INET, kind_of, None).unwrap();
        let stream = TcpStream::from(fd);
        assert_eq!(kind(stream.shutdown(Shutdown::Write)), io::ErrorKind::NotConnected);
        assert_eq!(kind((&stream).read(&mut [0; 8])), io::ErrorKind::NotConnected);
        assert_eq!(kind(stream.peer_addr()), io::ErrorKind::NotConnected);
    });
}

/// D16: an urgent byte makes nothing spin, and is no end of the stream.
pub fn d16_urgent_data() {
    solo(|| {
        let (stream, mut peer) = half();
        let reader = waiting(move || {
            let mut buf = [0; 4];
            (&stream).read_exact(&mut buf).map(|()| buf)
        });
        net::send_oob(&peer, b'!').unwrap();
        // Nobody computes meanwhile, which the harness looks at.
        try_sleep(ms(300)).unwrap();
        assert!(!reader.is_finished());
        peer.write_all(b"data").unwrap();
        assert_eq!(&reader.join().unwrap().unwrap(), b"data");
    });
}

/// D17: a flood of clients is served to the last, and an old connection as well meanwhile.
pub fn d17_accept_flood() {
    flood(listener(), 8, scaled(10_000));
}

/// D17: the same at a queue of one, where the kernel lets clients wait for seconds.
///
/// The clients speak first. Where the queue overflows, the kernel may answer with a SYN cookie, forget the client, and drop the
/// acknowledgement: such a client is connected as far as it knows, and only what it sends again brings it to the server.
pub fn d17_accept_flood_at_a_short_queue() {
    let (listener, addr) = listener();
    shrink_backlog(&listener, 1);
    flood((listener, addr), 3, 5);
}

fn flood((listener, addr): (TcpListener, SocketAddr), clients: usize, rounds: usize) {
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..rounds {
                    let mut client = std::net::TcpStream::connect(addr).unwrap();
                    client.write_all(b"x").unwrap();
                    assert_eq!(client.read(&mut [0; 8]).unwrap(), 1);
                }
            })
        })
        .collect();
    let (old, mut peer) = half();
    solo(|| {
        let echo = thread::spawn_local(move || {
            let mut buf = [0; 8];
            while let n @ 1.. = (&old).read(&mut buf).unwrap() {
                (&old).write_all(&buf[..n]).unwrap();
            }
        });
        let pinger = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            for _ in 0..100 {
                let begun = Instant::now();
                peer.write_all(b"x").unwrap();
                peer.read_exact(&mut [0]).unwrap();
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        for _ in 0..clients * rounds {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        }
        echo.join().unwrap();
        let slowest = pinger.join().unwrap();
        assert!(slowest < patience(ms(500)), "{slowest:?}");
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// D18: a client that has sent and gone before it is accepted is heard.
pub fn d18_delayed_accept() {
    let (listener, addr) = listener();
    for n in 0..10 {
        std::net::TcpStream::connect(addr).unwrap().write_all(&[n; 1000]).unwrap();
    }
    solo(|| {
        for (n, stream) in listener.incoming().take(10).enumerate() {
            assert_eq!(read_all(stream.unwrap()), [n as u8; 1000]);
        }
    });
}

/// D19: names after a reset: an error, no panic.
pub fn d19_names_after_reset() {
    solo(|| {
        let (stream, peer) = half();
        let local = stream.local_addr().unwrap();
        net::reset_on_close(&peer);
        drop(peer);
        assert_eq!(kind((&stream).read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
        assert_eq!(kind(stream.peer_addr()), io::ErrorKind::NotConnected);
        assert_eq!(stream.local_addr().unwrap(), local);
        assert!(format!("{stream:?}").contains("TcpStream"));
    });
}

/// D20: options go to the kernel and come back, as `std` sees them.
pub fn d20_options() {
    solo(|| {
        let (stream, _peer) = half();
        let theirs = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned().unwrap());
        for on in [true, false] {
            stream.set_nodelay(on).unwrap();
            assert_eq!((stream.nodelay().unwrap(), theirs.nodelay().unwrap()), (on, on));
            stream.set_keepalive(on).unwrap();
            assert_eq!(stream.keepalive().unwrap(), on);
        }
        stream.set_ttl(42).unwrap();
        assert_eq!((stream.ttl().unwrap(), theirs.ttl().unwrap()), (42, 42));
        for linger in [Some(Duration::from_secs(3)), Some(Duration::ZERO), None] {
            stream.set_linger(linger).unwrap();
            assert_eq!(stream.linger().unwrap(), linger);
        }
        assert!(stream.set_ttl(100_000).is_err());
        assert!(stream.take_error().unwrap().is_none());
        let (listener, _) = listener();
        listener.set_ttl(43).unwrap();
        assert_eq!(listener.ttl().unwrap(), 43);
        assert!(listener.take_error().unwrap().is_none());
        // Those that the handle keeps.
        for time in [Some(Duration::from_nanos(1)), Some(ms(1500)), Some(Duration::from_secs(1 << 32)), None]
        {
            stream.set_read_timeout(time).unwrap();
            stream.set_write_timeout(time).unwrap();
            assert_eq!((stream.read_timeout().unwrap(), stream.write_timeout().unwrap()), (time, time));
        }
        assert_eq!(kind(stream.set_read_timeout(Some(Duration::ZERO))), io::ErrorKind::InvalidInput);
        assert_eq!(kind(stream.set_write_timeout(Some(Duration::ZERO))), io::ErrorKind::InvalidInput);
    });
}

/// Zero linger makes dropping a stream a reset.
pub fn linger_zero_resets() {
    solo(|| {
        let (a, b) = pair();
        a.set_linger(Some(Duration::ZERO)).unwrap();
        drop(a);
        assert_eq!(kind((&b).read(&mut [0; 8])), io::ErrorKind::ConnectionReset);
    });
}

/// What is not a socket gives errors, in every call.
pub fn not_a_socket() {
    solo(|| {
        let file = std::fs::File::open("/dev/null").unwrap();
        let stream = TcpStream::from(OwnedFd::from(file));
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(errno(error((&stream).read(&mut [0; 8]))), Some(libc::ENOTSOCK));
        assert_eq!(errno(error((&stream).write(&[0; 8]))), Some(libc::ENOTSOCK));
        assert_eq!(errno(error(stream.peer_addr())), Some(libc::ENOTSOCK));
        assert_eq!(errno(error(stream.shutdown(Shutdown::Both))), Some(libc::ENOTSOCK));
        let (end, _other) = io::pipe().unwrap();
        let listener = TcpListener::from(OwnedFd::from(end));
        assert_eq!(errno(error(listener.accept())), Some(libc::ENOTSOCK));
    });
}

/// A process whose SIGPIPE kills is not killed by any write of ours.
pub fn no_sigpipe() {
    let ended = process::in_child(|| {
        sys::default_sigpipe();
        solo(|| {
            let (a, b) = pair();
            drop(b);
            let mut result = Ok(1);
            for _ in 0..100 {
                result = (&a).write(b"x");
                let _ = (&a).write_vectored(&[IoSlice::new(b"x"), IoSlice::new(b"y")]);
            }
            i32::from(kind(result) != io::ErrorKind::BrokenPipe)
        })
    });
    assert_eq!(ended, process::Ended::Code(0));
}
