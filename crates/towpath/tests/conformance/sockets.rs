//! What `towpath::net` adds to, or keeps of, its sockets: F10, time-outs, non-blocking mode, clones, peeking.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl};
use towpath::net::{TcpListener, TcpStream};
use towpath::thread::{self, try_sleep};
use towpath_harness::{net, sys};

use crate::common::*;

fn is_blocking(fd: &impl AsFd) -> bool {
    !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

/// F10: from `std` and back: the same socket, in blocking mode again.
pub fn f10_from_and_to_std() {
    solo(|| {
        let (plain, mut peer) = net::tcp_pair();
        let number = plain.as_raw_fd();
        assert!(is_blocking(&plain));
        let mut stream = TcpStream::from(plain);
        peer.write_all(b"one").unwrap();
        let mut buf = [0; 3];
        stream.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"one");
        let mut plain = std::net::TcpStream::from(stream);
        assert!(is_blocking(&plain));
        assert_eq!(plain.as_raw_fd(), number);
        plain.write_all(b"two").unwrap();
        peer.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"two");

        // What Towpath made itself as well, by every way out.
        let (listener, addr) = listener();
        let client = TcpStream::connect(addr).unwrap();
        let (server, _) = listener.accept().unwrap();
        let fd = OwnedFd::from(client);
        assert!(is_blocking(&fd));
        drop(fd);
        let number = server.into_raw_fd();
        // SAFETY: `into_raw_fd` gave it up.
        let server = unsafe { TcpStream::from_raw_fd(number) };
        assert_eq!(read_all(&server), b"");
        let listener = std::net::TcpListener::from(listener);
        assert!(is_blocking(&listener));
        let client = std::thread::spawn(move || std::net::TcpStream::connect(addr).unwrap());
        let listener = TcpListener::from(listener);
        listener.accept().unwrap();
        drop(client.join().unwrap());
    });
}

/// F10: what its user has set to non-blocking stays so outside.
pub fn f10_nonblocking_stays() {
    solo(|| {
        let (stream, _peer) = half();
        stream.set_nonblocking(true).unwrap();
        let plain = std::net::TcpStream::from(stream);
        assert!(!is_blocking(&plain));
        assert_eq!(kind((&plain).read(&mut [0; 8])), io::ErrorKind::WouldBlock);
        let stream = TcpStream::from(plain);
        stream.set_nonblocking(false).unwrap();
        assert!(is_blocking(&OwnedFd::from(stream)));
    });
}

/// F10: giving one of two clones away does not make the other block its worker.
pub fn f10_clone_goes_on_without_blocking() {
    solo(|| {
        let (stream, mut peer) = half();
        let clone = stream.try_clone().unwrap();
        let plain = std::net::TcpStream::from(stream);
        let reader = waiting(move || {
            let mut buf = [0; 1];
            (&clone).read(&mut buf)
        });
        // The worker is free while it reads.
        let begun = Instant::now();
        try_sleep(ms(5)).unwrap();
        assert_quick(begun, Duration::from_secs(1));
        peer.write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 1);
        drop(plain);
    });
}

/// F10: a descriptor that goes back to blocking mode behind our back blocks no worker either.
pub fn f10_blocking_behind_our_back() {
    solo(|| {
        let (stream, mut peer) = half();
        rustix::io::ioctl_fionbio(&stream, false).unwrap();
        let reader = waiting(move || (&stream).read(&mut [0; 1]));
        try_sleep(ms(5)).unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 1);
    });
}

/// Reads and writes that take too long fail with `TimedOut`, not too early, and again the next time.
pub fn read_and_write_timeouts() {
    let check = || {
        let (stream, mut peer) = half();
        stream.set_read_timeout(Some(ms(20))).unwrap();
        stream.set_write_timeout(Some(ms(30))).unwrap();
        for _ in 0..2 {
            let begun = Instant::now();
            assert_timed_out((&stream).read(&mut [0; 8]));
            assert!(begun.elapsed() >= ms(20));
            let begun = Instant::now();
            assert_timed_out(stream.peek(&mut [0; 8]));
            assert!(begun.elapsed() >= ms(20));
            let begun = Instant::now();
            assert_timed_out((&stream).read_vectored(&mut [io::IoSliceMut::new(&mut [0; 8])]));
            assert!(begun.elapsed() >= ms(20));
        }
        peer.write_all(b"here").unwrap();
        assert_eq!(stream.peek(&mut [0; 8]).unwrap(), 4);
        assert_eq!((&stream).read(&mut [0; 8]).unwrap(), 4);
        let filled = net::fill(&stream, 1);
        let begun = Instant::now();
        assert_timed_out((&stream).write(&[0; 8]));
        assert!(begun.elapsed() >= ms(30));
        // Those of a clone are its own from then on.
        let clone = stream.try_clone().unwrap();
        assert_eq!(clone.read_timeout().unwrap(), Some(ms(20)));
        clone.set_read_timeout(Some(ms(40))).unwrap();
        let begun = Instant::now();
        assert_timed_out((&clone).read(&mut [0; 8]));
        assert!(begun.elapsed() >= ms(40));
        drop((stream, clone));
        assert_eq!(read_all(peer).len(), filled);
    };
    solo(check);
    std::thread::spawn(check).join().unwrap();
}

/// The longest time-outs never pass.
pub fn b04_longest_socket_timeouts() {
    solo(|| {
        for longest in [Duration::MAX, Duration::from_nanos(u64::MAX), Duration::from_secs(u64::MAX)] {
            let (stream, mut peer) = half();
            stream.set_read_timeout(Some(longest)).unwrap();
            stream.set_write_timeout(Some(longest)).unwrap();
            assert!(stream.read_timeout().unwrap().is_some());
            let reader = waiting(move || (&stream).read(&mut [0; 8]));
            try_sleep(ms(2)).unwrap();
            peer.write_all(b"x").unwrap();
            assert_eq!(reader.join().unwrap().unwrap(), 1);
            let (listener, addr) = listener();
            let client = TcpStream::connect_timeout(&addr, longest).unwrap();
            drop((client, listener));
        }
    });
}

/// Non-blocking mode: every call that would wait says so, at once; what need not wait works.
pub fn nonblocking_mode() {
    let check = || {
        let (stream, mut peer) = half();
        let (listener, addr) = listener();
        listener.set_nonblocking(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        // Stronger than a time-out.
        stream.set_read_timeout(Some(LONG)).unwrap();
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(kind((&stream).read(&mut [0; 8])), io::ErrorKind::WouldBlock);
            assert_eq!(kind(stream.peek(&mut [0; 8])), io::ErrorKind::WouldBlock);
            assert_eq!(kind(listener.accept()), io::ErrorKind::WouldBlock);
        }
        for _ in 0..100 {
            peer.write_all(b"there").unwrap();
            // Loopback: what the peer has written is there.
            assert_eq!(stream.peek(&mut [0; 8]).unwrap(), 5);
            assert_eq!((&stream).read(&mut [0; 8]).unwrap(), 5);
        }
        let client = std::net::TcpStream::connect(addr).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        assert_eq!((&stream).write(b"out").unwrap(), 3);
        net::fill(&stream, 1);
        assert_eq!(kind((&stream).write(&[0; 8])), io::ErrorKind::WouldBlock);
        assert_eq!(kind((&stream).write_vectored(&[io::IoSlice::new(&[0; 8])])), io::ErrorKind::WouldBlock);
        assert_quick(begun, Duration::from_secs(1));
        // And back.
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(ms(5))).unwrap();
        assert_timed_out((&stream).read(&mut [0; 8]));
    };
    solo(check);
    std::thread::spawn(check).join().unwrap();
}

/// `accept` gives streams of blocking mode, whatever its listener's.
pub fn accepted_streams_wait() {
    solo(|| {
        let (listener, addr) = listener();
        listener.set_nonblocking(true).unwrap();
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let reader = waiting(move || (&stream).read(&mut [0; 8]));
        client.write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 1);
    });
}

/// Peeking leaves the bytes where they are, and waits like a read.
pub fn peek() {
    solo(|| {
        let (stream, mut peer) = half();
        let stream = Rc::new(stream);
        let shared = stream.clone();
        let peeker = waiting(move || {
            let mut buf = [0; 3];
            shared.peek(&mut buf).map(|n| buf[..n].to_vec())
        });
        peer.write_all(b"abcdef").unwrap();
        assert_eq!(peeker.join().unwrap().unwrap(), b"abc");
        let mut buf = [0; 6];
        assert_eq!(stream.peek(&mut buf).unwrap(), 6);
        (&*stream).read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"abcdef");
        drop(peer);
        assert_eq!(stream.peek(&mut buf).unwrap(), 0);
    });
}

/// A clone is the same connection, with a descriptor of its own; the connection ends with the last of them.
pub fn try_clone() {
    solo(|| {
        let (stream, peer) = half();
        stream.set_nodelay(true).unwrap();
        let clone = stream.try_clone().unwrap();
        assert_ne!(clone.as_raw_fd(), stream.as_raw_fd());
        assert_eq!(clone.peer_addr().unwrap(), stream.peer_addr().unwrap());
        assert!(clone.nodelay().unwrap());
        let reader = waiting(move || {
            let mut buf = [0; 1];
            (&clone).read_exact(&mut buf).map(|()| buf)
        });
        (&stream).write_all(b"x").unwrap();
        drop(stream);
        (&peer).write_all(b"y").unwrap();
        assert_eq!(&reader.join().unwrap().unwrap(), b"y");
        assert_eq!(read_all(peer), b"x");

        let (one, addr) = listener();
        let two = one.try_clone().unwrap();
        drop(one);
        let acceptor = waiting(move || two.accept());
        let client = std::net::TcpStream::connect(addr).unwrap();
        assert_eq!(acceptor.join().unwrap().unwrap().1, client.local_addr().unwrap());
    });
}

/// Several tasks accept from one listener: each connection goes to one.
pub fn several_acceptors() {
    duo(|| {
        let (listener, addr) = listener();
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..25 {
                        listener.accept().unwrap().0.write_all(b"x").unwrap();
                    }
                });
            }
            for _ in 0..100 {
                assert_eq!(read_all(TcpStream::connect(addr).unwrap()), b"x");
            }
        });
    });
}

/// H5: out of descriptors, accepting in a loop does not spin, and recovers; other sockets do not notice.
pub fn h05_out_of_descriptors() {
    let (listener, addr) = listener();
    let clients: Vec<_> = (0..6).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    let (other, peer) = pair();
    solo(|| {
        let echo = thread::spawn_local(move || {
            let mut buf = [0; 8];
            while let n @ 1.. = (&peer).read(&mut buf).unwrap() {
                (&peer).write_all(&buf[..n]).unwrap();
            }
        });
        // What a worker opens on its way is open by now.
        let mut streams = vec![listener.accept().unwrap().0];
        let (filler, limit) = sys::spare_fds(1);
        streams.push(listener.accept().unwrap().0);
        let (begun, mut errors) = (Instant::now(), 0);
        // The harness looks at the CPU time.
        while begun.elapsed() < ms(500) {
            let refused = error(listener.accept());
            assert_eq!(refused.raw_os_error(), Some(libc::EMFILE), "{refused:?}");
            errors += 1;
            let ping = Instant::now();
            (&other).write_all(b"x").unwrap();
            (&other).read_exact(&mut [0]).unwrap();
            assert_quick(ping, ms(200));
        }
        assert!((1..=200).contains(&errors), "{errors} errors in half a second");
        // One is free, one is accepted, and then it is as before.
        streams.pop();
        streams.push(listener.accept().unwrap().0);
        assert_eq!(error(listener.accept()).raw_os_error(), Some(libc::EMFILE));
        assert_eq!(error(TcpStream::connect(addr)).raw_os_error(), Some(libc::EMFILE));
        assert_eq!(error(other.try_clone()).raw_os_error(), Some(libc::EMFILE));
        drop((filler, limit));
        while streams.len() < 5 {
            streams.push(listener.accept().unwrap().0);
        }
        drop(other);
        echo.join().unwrap();
    });
    drop(clients);
}
