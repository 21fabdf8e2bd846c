//! E, as far as messages with something beside their bytes go: descriptors, credentials, control messages.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use towpath_loop::op::{self, Control, Credentials};
use towpath_loop::{IoBuf, Slice, SockAddr, Socket};

use crate::common::*;

/// The descriptors that this process has.
fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A pipe's reading end, with a byte in it to know it by.
fn marked(byte: u8) -> OwnedFd {
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(&[byte]).unwrap();
    read.into()
}

fn mark_of(fd: OwnedFd) -> u8 {
    let mut byte = [0];
    std::fs::File::from(fd).read_exact(&mut byte).unwrap();
    byte[0]
}

/// Descriptors pass, in order, close-on-exec, and are the same objects; each way of waiting does it.
pub fn e07_descriptors_pass() {
    let loop_ = current_loop();
    let (here, there) = pair(libc::SOCK_STREAM);
    let fds: Vec<_> = (1..=3).map(marked).collect();

    let bytes = [IoSlice::new(b"in "), IoSlice::new(b"place")];
    let mut message = op::send_msg(&here, &bytes[..]);
    for fd in &fds {
        message = message.fd(fd.as_fd());
    }
    assert_eq!(message.wait().unwrap(), 8);
    let mut buf = [0; 16];
    let got = op::recv_msg(&there, &mut [IoSliceMut::new(&mut buf)][..]).fds(3).wait().unwrap();
    assert_eq!((got.received, got.truncated, got.control_truncated), (8, false, false));
    assert_eq!(&buf[..8], b"in place");
    for fd in &got.fds {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert_eq!(got.fds.into_iter().map(mark_of).collect::<Vec<_>>(), [1, 2, 3]);

    // Owned and by callback, the receive waiting first. The borrowed descriptor may be closed at once.
    let log = Log::new();
    let to = log.clone();
    loop_.submit(op::recv_msg(&there, vec![vec![0; 16]]).fds(1), move |_, got| {
        let got = got.unwrap();
        to.add((got.received.0, got.fds.into_iter().map(mark_of).collect::<Vec<_>>()));
    });
    poke(&loop_);
    let passed = marked(7);
    let sent = loop_.start(op::send_msg(&here, vec![b"later".to_vec()]).fd(passed.as_fd()));
    drop(passed);
    assert_eq!(sent.take().unwrap().unwrap().0, 5);
    tick_until(&loop_, || log.len() == 1);
    assert_eq!(log.all(), [(5, vec![7])]);
}

/// E7: what there is no room for is closed and flagged; nothing leaks.
pub fn e07_surplus_descriptors_are_closed() {
    current_loop();
    let (here, there) = pair(libc::SOCK_SEQPACKET);
    let fds: Vec<_> = (1..=4).map(marked).collect();
    let before = open_fds();
    for room in [None, Some(0), Some(1), Some(3)] {
        let bytes = [IoSlice::new(b"x")];
        let mut message = op::send_msg(&here, &bytes[..]);
        for fd in &fds {
            message = message.fd(fd.as_fd());
        }
        message.wait().unwrap();
        let mut buf = [0; 4];
        let mut buffers = [IoSliceMut::new(&mut buf)];
        let receive = op::recv_msg(&there, &mut buffers[..]);
        let receive = match room {
            Some(room) => receive.fds(room),
            None => receive,
        };
        let got = receive.wait().unwrap();
        assert!(got.control_truncated, "{room:?}");
        assert_eq!(got.fds.len(), room.unwrap_or(0));
        drop(got);
        assert_eq!(open_fds(), before, "{room:?}");
    }
    // Receives that know nothing of such things let them go as well.
    let fd = fds[0].as_fd();
    op::send_msg(&here, &[IoSlice::new(b"x")][..]).fd(fd).wait().unwrap();
    assert_eq!(op::recv(&there, &mut [0; 4]).wait().unwrap(), 1);
    op::send_msg(&here, &[IoSlice::new(b"x")][..]).fd(fd).wait().unwrap();
    assert_eq!(op::recv_from(&there, &mut [0; 4]).wait().unwrap().received, 1);
    assert_eq!(open_fds(), before);
}

/// A message that nobody wants any more closes its descriptors, at whatever moment it is given up.
pub fn e07_unwanted_descriptors_are_closed() {
    let loop_ = current_loop();
    let (here, there) = pair(libc::SOCK_SEQPACKET);
    let fd = marked(1);
    let before = open_fds();
    for round in 0..scaled(20_000) {
        let id = loop_.submit(op::recv_msg(&there, vec![vec![0; 4]]).fds(2), |_, got| drop(got));
        if round % 2 == 0 {
            poke(&loop_);
        }
        op::send_msg(&here, &[IoSlice::new(b"x")][..]).fd(fd.as_fd()).wait().unwrap();
        match round % 3 {
            0 => drop(loop_.remove(id)),
            1 => drop(loop_.cancel(id)),
            _ => {}
        }
        loop_.run().unwrap();
        // What was not taken is there for the next one.
        let mut buf = [0; 4];
        let mut left = [IoSliceMut::new(&mut buf)];
        let left = op::recv_msg(&there, &mut left[..]).fds(2).deadline(towpath_loop::Instant::now()).wait();
        drop(left);
        assert_eq!(open_fds(), before, "round {round}");
    }
}

/// More descriptors than a message carries, closed ones, and control messages that would pass numbers past their owners
/// are errors.
pub fn e07_bad_messages_are_refused() {
    let loop_ = current_loop();
    let (here, there) = pair(libc::SOCK_STREAM);
    let fd = marked(1);
    let mut message = op::send_msg(&here, vec![b"x".to_vec()]);
    for _ in 0..254 {
        message = message.fd(fd.as_fd());
    }
    assert_eq!(errno(message.wait()), libc::EINVAL);

    let smuggled = Control {
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        data: fd.as_raw_fd().to_ne_bytes().to_vec(),
    };
    assert_eq!(errno(op::send_msg(&here, vec![b"x".to_vec()]).control(smuggled).wait()), libc::EINVAL);

    let endless = Control { level: libc::SOL_SOCKET, kind: 0, data: vec![0; 1 << 20] };
    assert_eq!(errno(op::send_msg(&here, vec![b"x".to_vec()]).control(endless).wait()), libc::EMSGSIZE);

    let closed = Socket::from(marked(2));
    let clone = closed.clone();
    loop_.submit(op::close(closed), |_, _| ());
    loop_.run().unwrap();
    assert_eq!(errno(op::send_msg(&here, vec![b"x".to_vec()]).fd(&clone).wait()), libc::EBADF);

    // Nothing of it was sent.
    op::send(&here, b"end").wait().unwrap();
    let mut buf = [0; 16];
    let mut buffers = [IoSliceMut::new(&mut buf)];
    let got = op::recv_msg(&there, &mut buffers[..]).fds(253).control(usize::MAX).wait().unwrap();
    assert_eq!((got.received, got.fds.len()), (3, 0));
}

/// The kernel vouches for the sender.
pub fn e07_credentials() {
    current_loop();
    let (here, there) = pair(libc::SOCK_DGRAM);
    let on: libc::c_int = 1;
    // SAFETY: an int, and its size.
    let set = unsafe {
        let (value, len) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        libc::setsockopt(there.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, value, len)
    };
    assert_eq!(set, 0);
    // SAFETY: no arguments.
    let me = unsafe { Credentials { pid: libc::getpid(), uid: libc::getuid(), gid: libc::getgid() } };
    for explicit in [false, true] {
        let bytes = [IoSlice::new(b"me")];
        let message = op::send_msg(&here, &bytes[..]);
        let message = if explicit { message.credentials(me) } else { message };
        message.wait().unwrap();
        let mut buf = [0; 4];
        let mut buffers = [IoSliceMut::new(&mut buf)];
        let got = op::recv_msg(&there, &mut buffers[..]).credentials().fds(1).wait().unwrap();
        assert_eq!((got.received, got.credentials, got.control_truncated), (2, Some(me), false));
    }
}

/// E1: addresses, truncation, and control messages without a type of their own, on a datagram socket.
pub fn e01_datagrams_with_control() {
    current_loop();
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let from = sender.local_addr().unwrap();
    socket2::SockRef::from(&receiver).set_recv_tos_v4(true).unwrap();
    let (receiver, sender) = (socket(receiver), socket(sender));

    let tos = Control { level: libc::IPPROTO_IP, kind: libc::IP_TOS, data: 8_i32.to_ne_bytes().to_vec() };
    let sent = op::send_msg(&sender, &[IoSlice::new(b"a long one")][..]).to(to).control(tos).wait();
    assert_eq!(sent.unwrap(), 10);
    let mut buf = [0; 6];
    let mut buffers = [IoSliceMut::new(&mut buf)];
    let got = op::recv_msg(&receiver, &mut buffers[..]).control(64).wait().unwrap();
    assert_eq!((got.received, got.truncated, got.control_truncated), (6, true, false));
    assert_eq!(got.from.map(|from| from.to_std().unwrap()), Some(from));
    let [tos] = &got.control[..] else { panic!("{:?}", got.control) };
    assert_eq!((tos.level, tos.kind, &tos.data[..]), (libc::IPPROTO_IP, libc::IP_TOS, &[8][..]));

    // E2: an empty one is one, and the next is intact.
    op::send_msg(&sender, &[][..]).to(SockAddr::from(to)).wait().unwrap();
    op::send_to(&sender, b"next", to).wait().unwrap();
    let mut buf = [0; 6];
    for expected in [0, 4] {
        let mut buffers = [IoSliceMut::new(&mut buf)];
        let got = op::recv_msg(&receiver, &mut buffers[..]).timeout(Duration::from_secs(3)).wait().unwrap();
        assert_eq!(got.received, expected);
    }
    assert_eq!(&buf[..4], b"next");
}

/// E1: a datagram longer than there is room for. `MSG_TRUNC` tells its length, which no more bytes follow from.
pub fn e01_lengths_beyond_the_buffer() {
    let loop_ = current_loop();
    let (here, there) = pair(libc::SOCK_DGRAM);
    let send = || assert_eq!(op::send(&here, &[1; 100]).wait().unwrap(), 100);
    let recv = |all: bool| {
        let buf = vec![CANARY; 1024].slice(8..12);
        op::recv(&there, buf).flags(libc::MSG_TRUNC).all(all)
    };
    let check = |n: usize, slice: Slice<Vec<u8>>, expected: usize| {
        let whole = slice.into_inner();
        assert_eq!((n, &whole[8..12]), (expected, &[1; 4][..]));
        assert!(whole[..8].iter().chain(&whole[12..]).all(|byte| *byte == CANARY), "beyond the buffer");
    };
    for (all, expected) in [(false, 100), (true, 4)] {
        for waits in [false, true] {
            // A second one is there, for whoever asks for more.
            let mut ticket = None;
            if waits {
                ticket = Some(loop_.start(recv(all)));
                poke(&loop_);
            }
            send();
            send();
            let (n, slice) = match ticket {
                Some(ticket) => ticket.take().unwrap().unwrap(),
                None => loop_.start(recv(all)).take().unwrap().unwrap(),
            };
            check(n, slice, expected);
            let (n, slice) = recv(all).wait().unwrap();
            check(n, slice, expected);
        }
    }
}
