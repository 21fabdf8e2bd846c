//! Attempts that are not made because they would be in vain, and above all those that must be made.

use super::*;
use std::io::Write;
use std::net::Shutdown;

over_both! {
    an_end_behind_data, exact_reads, datagrams, urgent_data_in_the_middle, urgent_data_alone_does_not_spin,
    urgent_data_taken_by_name, a_stream_at_random, vectors_count_as_a_whole, passed_descriptors_cut_a_stream,
}

/// Receives until the end of the stream.
fn read_all<P: Poller>(world: &mut World<P>, handle: Handle, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let op = world.recv(handle, len, 0);
        let bytes = world.bytes(op);
        if bytes.is_empty() {
            return all;
        }
        all.extend(bytes);
    }
}

/// A warm connection: the poller knows it, and it has been drained once.
fn warm<P: Poller>(world: &mut World<P>) -> (TcpStream, TcpStream, Handle) {
    let (near, mut far) = tcp();
    let handle = world.handle(&near);
    let recv = world.recv(handle, 10, 0);
    far.write_all(b"x").unwrap();
    assert_eq!(world.finish(recv), 1);
    world.settle();
    (near, far, handle)
}

#[test]
fn a_drained_connection_is_not_tried() {
    let mut world = World::new(Epoll::new().unwrap());
    let (_near, mut far, handle) = warm(&mut world);
    let before = world.backend.syscalls();
    let recv = world.recv(handle, 10, 0);
    assert_eq!(world.backend.syscalls(), before, "known to be empty");
    far.write_all(b"abc").unwrap();
    assert_eq!(world.bytes(recv), b"abc");
    assert_eq!(world.backend.syscalls(), before + 2, "one wait, one recv");

    // With flags it is another question, and what is asked twice of an empty socket need not be.
    let peek = world.recv(handle, 10, libc::MSG_PEEK);
    assert_eq!(world.backend.syscalls(), before + 3);
    world.cancel(peek);
    world.tick(None);
    let before = world.backend.syscalls();
    let recv = world.recv(handle, 10, 0);
    assert_eq!(world.backend.syscalls(), before);
    world.cancel(recv);
    assert_eq!(world.finish(recv), CANCELED);
}

fn an_end_behind_data<P: Poller>(mut world: World<P>) {
    // The end comes before the connection is watched, before its event is fetched, and afterwards.
    let (near, mut far) = tcp();
    let handle = world.handle(&near);
    far.write_all(b"all").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut world, handle, 100), b"all");

    let (_near, mut far, handle) = warm(&mut world);
    let recv = world.recv(handle, 100, 0);
    far.write_all(b"all").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(world.bytes(recv), b"all");
    assert_eq!(read_all(&mut world, handle, 100), b"");

    let (_near, mut far, handle) = warm(&mut world);
    let recv = world.recv(handle, 100, 0);
    far.write_all(b"all").unwrap();
    assert_eq!(world.bytes(recv), b"all");
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut world, handle, 100), b"");

    let (_near, mut far, handle) = warm(&mut world);
    let recv = world.recv(handle, 100, 0);
    far.write_all(b"all").unwrap();
    assert_eq!(world.bytes(recv), b"all");
    socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    let recv = world.recv(handle, 100, 0);
    assert_eq!(world.finish(recv), -libc::ECONNRESET);
}

fn exact_reads<P: Poller>(mut world: World<P>) {
    let (_near, mut far, handle) = warm(&mut world);
    let recv = world.recv(handle, 3, 0);
    far.write_all(b"abcdef").unwrap();
    assert_eq!(world.bytes(recv), b"abc");
    let recv = world.recv(handle, 3, 0);
    assert_eq!(recv.submitted, Submitted::Done(3), "a full buffer says nothing of the rest");
    let recv = world.recv(handle, 3, 0);
    far.write_all(b"g").unwrap();
    assert_eq!(world.bytes(recv), b"g");
}

fn datagrams<P: Poller>(mut world: World<P>) {
    let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    let handle = world.handle(&near);
    let first = world.recv(handle, 100, 0);
    for datagram in [&b"one"[..], b"", b"three"] {
        far.send(datagram).unwrap();
    }
    assert_eq!(world.bytes(first), b"one");
    let second = world.recv(handle, 100, 0);
    assert_eq!(second.submitted, Submitted::Done(0), "empty, and not the end");
    let third = world.recv(handle, 100, 0);
    assert_eq!(third.submitted, Submitted::Done(5), "a short datagram says nothing of the next");
}

fn send_urgent(far: &TcpStream, byte: u8) {
    assert_eq!(rustix::net::send(far, &[byte], rustix::net::SendFlags::OOB).unwrap(), 1);
}

fn urgent_data_in_the_middle<P: Poller>(mut world: World<P>) {
    for looked in [false, true] {
        let (_near, mut far, handle) = warm(&mut world);
        let recv = world.recv(handle, 100, 0);
        far.write_all(b"abc").unwrap();
        if looked {
            assert_eq!(world.bytes(recv), b"abc");
        }
        send_urgent(&far, b'!');
        far.write_all(b"def").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let mut all = if looked { b"abc".to_vec() } else { world.bytes(recv) };
        all.extend(read_all(&mut world, handle, 100));
        assert_eq!(all, b"abcdef");
    }
}

fn urgent_data_alone_does_not_spin<P: Poller>(mut world: World<P>) {
    let (_near, mut far, handle) = warm(&mut world);
    let recv = world.recv(handle, 100, 0);
    send_urgent(&far, b'!');
    let poll = world.poll(handle, PRI);
    assert_eq!(world.finish(poll), i32::from(PRI));
    world.settle();
    assert_eq!(world.idle(), 0, "the urgent byte stays, and the reader has nothing to do with it");
    assert_eq!(world.result(recv), None);
    far.write_all(b"abc").unwrap();
    assert_eq!(world.bytes(recv), b"abc");
}

fn urgent_data_taken_by_name<P: Poller>(mut world: World<P>) {
    let (_near, mut far, handle) = warm(&mut world);
    let poll = world.poll(handle, PRI);
    far.write_all(b"abc").unwrap();
    send_urgent(&far, b'!');
    far.write_all(b"def").unwrap();
    assert_eq!(world.finish(poll), i32::from(PRI));
    let urgent = world.recv(handle, 1, libc::MSG_OOB);
    assert_eq!(world.bytes(urgent), b"!");
    world.settle();
    // The mark is still in the stream and stops the first one; nothing announces what is behind it.
    let mut all = Vec::new();
    while all.len() < 6 {
        let recv = world.recv(handle, 100, 0);
        all.extend(world.bytes(recv));
    }
    assert_eq!(all, b"abcdef");

    // The same on a connection that nobody has waited for yet.
    let (near, mut far) = tcp();
    let handle = world.handle(&near);
    far.write_all(b"abc").unwrap();
    send_urgent(&far, b'!');
    far.write_all(b"def").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let urgent = world.recv(handle, 1, libc::MSG_OOB);
    assert_eq!(world.bytes(urgent), b"!");
    assert_eq!(read_all(&mut world, handle, 100), b"abcdef");
}

fn vectors_count_as_a_whole<P: Poller>(mut world: World<P>) {
    let (_near, mut far, handle) = warm(&mut world);
    let mut bytes = [0_u8; 4];
    let [first, second] = [0, 2].map(|at| bytes[at..].as_mut_ptr());
    let mut parts = [first, second].map(|start| libc::iovec { iov_base: start.cast(), iov_len: 2 });
    // SAFETY: all-zero bytes are an empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 2;
    let mut all = Vec::new();
    far.write_all(b"abcdefghijk").unwrap();
    for expected in [4, 4, 3] {
        let recv = world.submit(Request::RecvMsg { handle, msg: &raw mut message, flags: 0, more: 0 });
        assert_eq!(world.finish(recv), expected);
        all.extend_from_slice(&bytes[..expected as usize]);
    }
    assert_eq!(all, b"abcdefghijk");
    let before = world.backend.syscalls();
    let recv = world.submit(Request::RecvMsg { handle, msg: &raw mut message, flags: 0, more: 0 });
    if world.is_edge() {
        assert_eq!(world.backend.syscalls(), before);
    }
    drop(far);
    assert_eq!(world.finish(recv), 0);
}

fn passed_descriptors_cut_a_stream<P: Poller>(mut world: World<P>) {
    let (near, mut far) = unix();
    let handle = world.handle(&near);
    let recv = world.recv(handle, 100, 0);
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let duplicate = far.try_clone().unwrap();
    let passed = [std::os::fd::AsFd::as_fd(&duplicate)];
    assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
    sendmsg(&far, &[io::IoSlice::new(b"abc")], &mut control, SendFlags::empty()).unwrap();
    far.write_all(b"def").unwrap();
    // Received without room for the duplicate, which is thereby closed.
    drop((far, duplicate));
    let mut all = world.bytes(recv);
    all.extend(read_all(&mut world, handle, 100));
    assert_eq!(all, b"abcdef");
}

fn a_stream_at_random<P: Poller>(mut world: World<P>) {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % limit
    };
    for _ in 0..300 {
        let (near, mut far) = tcp();
        let handle = world.handle(&near);
        let (mut written, mut read) = (Vec::new(), Vec::new());
        let mut pending: Option<Op> = None;
        let take = |world: &mut World<P>, pending: &mut Option<Op>, read: &mut Vec<u8>| {
            if let Some(op) = *pending
                && let Some(result) = world.result(op)
            {
                if result != CANCELED {
                    read.extend(world.bytes(op));
                }
                *pending = None;
            }
        };
        for step in 0..below(40) {
            match below(8) {
                0..2 => {
                    let bytes = vec![step as u8; 1 + below(20) as usize];
                    far.write_all(&bytes).unwrap();
                    written.extend(bytes);
                }
                2 if below(4) == 0 => send_urgent(&far, 0xff),
                3 if pending.is_some() => {
                    world.cancel(pending.unwrap());
                    world.tick(None);
                    take(&mut world, &mut pending, &mut read);
                }
                4 => {
                    world.tick(Some(Duration::ZERO));
                    take(&mut world, &mut pending, &mut read);
                }
                _ if pending.is_none() => {
                    pending = Some(world.recv(handle, 1 + below(30) as usize, 0));
                    take(&mut world, &mut pending, &mut read);
                }
                _ => {}
            }
        }
        far.shutdown(Shutdown::Write).unwrap();
        if let Some(op) = pending {
            read.extend(world.bytes(op));
        }
        read.extend(read_all(&mut world, handle, 16));
        // An urgent byte that the next one overtook becomes ordinary.
        read.retain(|byte| *byte != 0xff);
        assert_eq!(read, written);
        world.close(handle, near);
    }
}
