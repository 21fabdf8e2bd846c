//! D23: sends without a copy.

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt;
use towpath_loop::operation::{Kind, Support};
use towpath_loop::{Loop, Socket, op};

use crate::common::*;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 4096) as u8).collect()
}

/// Whether the kernel here does it.
fn is_native(loop_: &Loop) -> bool {
    loop_.capabilities().contains(&(Kind::SendZc, Support::Native))
}

/// Reads `len` bytes on a thread.
fn reader(mut there: TcpStream, len: usize) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut got = vec![0; len];
        there.read_exact(&mut got).unwrap();
        got
    })
}

/// The bytes arrive, by each way of waiting, on each kind of socket.
pub fn d23_zero_copy_sends() {
    let loop_ = current_loop();
    for (here, there) in [tcp(), unix()] {
        let internet = sockopt::socket_domain(&here).unwrap() == rustix::net::AddressFamily::INET;
        let recv = |len| op::recv(&there, vec![0; len]).all(true).wait().unwrap().1;
        let sent = op::send_zc(&here, b"one").wait().unwrap();
        assert_eq!(sent.sent, 3);
        assert!(internet || sent.copied, "a Unix socket always copies");
        let sent = loop_.start(op::send_zc(&here, content(5000))).take().unwrap().unwrap();
        assert_eq!(sent.sent, (5000, content(5000)));
        let sent = complete(&loop_, op::send_zc(&here, *b"three")).unwrap();
        assert_eq!(sent.sent, (5, *b"three"));
        let log = Log::new();
        let to = log.clone();
        loop_.submit(op::send_vectored_zc(&here, vec![b"fo".to_vec(), b"ur".to_vec()]), move |_, sent| {
            to.add(sent.unwrap().sent);
        });
        loop_.run().unwrap();
        assert_eq!(log.all(), [(4, vec![b"fo".to_vec(), b"ur".to_vec()])]);
        assert_eq!(recv(3), b"one");
        assert_eq!(recv(5000), content(5000));
        assert_eq!(recv(9), b"threefour");
        assert_eq!(op::send_zc(&here, b"").all(true).wait().unwrap().sent, 0);
    }
    // Datagrams.
    let here = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    here.connect(there.local_addr().unwrap()).unwrap();
    let here = Socket::from(OwnedFd::from(here));
    assert_eq!(op::send_zc(&here, content(1000)).wait().unwrap().sent.0, 1000);
    assert_eq!(op::send_zc(&here, b"").wait().unwrap().sent, 0);
    let mut got = [0; 2000];
    assert_eq!(there.recv(&mut got).unwrap(), 1000);
    assert_eq!(got[..1000], content(1000));
    assert_eq!(there.recv(&mut got).unwrap(), 0);
    assert_eq!(errno(op::send_zc(&here, vec![0; 1 << 20]).wait()), libc::EMSGSIZE);
}

/// All of a large buffer, among other sends, in order.
pub fn d23_zero_copy_all_in_order() {
    let loop_ = current_loop();
    let (here, there) = half_tcp();
    sockopt::set_socket_send_buffer_size(&here, 1 << 16).unwrap();
    let (len, short) = (1 << 20, 1000);
    let reader = reader(there, 4 * (2 * len + 2 * short));
    for _ in 0..4 {
        let sent = loop_.start(op::send_zc(&here, content(len)).all(true)).take().unwrap();
        assert_eq!(sent.unwrap().sent.0, len);
        // One begins before the other is over.
        let first = loop_.start(op::send_zc(&here, content(short)));
        assert_eq!(op::send(&here, &content(short)[..]).wait().unwrap(), short);
        assert_eq!(first.take().unwrap().unwrap().sent.0, short);
        assert_eq!(op::send_zc(&here, &content(len)[..]).all(true).wait().unwrap().sent, len);
    }
    let got = reader.join().unwrap();
    let round = [content(len), content(short), content(short), content(len)].concat();
    assert!(got.chunks(round.len()).all(|part| part == round));
}

/// A connection whose peer has no more room, though its own queue has: what is sent now stays there. With how much is on
/// its way before.
fn stuffed() -> (Socket, TcpStream, usize) {
    let (here, there) = half_tcp();
    sockopt::set_socket_recv_buffer_size(&there, 32 << 10).unwrap();
    sockopt::set_socket_send_buffer_size(&here, 8 << 20).unwrap();
    let before = op::send(&here, vec![0; 192 << 10]).wait().unwrap().0;
    (here, there, before)
}

/// The buffer comes back when the kernel has let go of it, cancelled or not, and meanwhile other sends go on.
pub fn d23_zero_copy_keeps_the_buffer() {
    let loop_ = current_loop();
    let native = is_native(&loop_);
    for end in ["nothing", "cancel", "deadline"] {
        let (here, there, before) = stuffed();
        let mut send = op::send_zc(&here, content(10_000));
        if end == "deadline" {
            send = send.timeout(Duration::from_millis(5));
        }
        let mut ticket = loop_.start(send);
        loop_.start(op::timer(Duration::from_millis(20))).take().unwrap().unwrap();
        if end == "cancel" {
            loop_.cancel(ticket.id());
        }
        assert_eq!(op::send(&here, b"behind").wait().unwrap(), 6);
        let early = ticket.try_take();
        assert_eq!(early.is_none(), native, "{end}");
        let reader = reader(there, before + 10_006);
        let sent = early.unwrap_or_else(|| ticket.take().unwrap()).expect(end);
        assert_eq!(sent.sent.0, 10_000);
        let got = reader.join().unwrap();
        assert!(got[before..before + 10_000] == content(10_000));
        assert_eq!(&got[before + 10_000..], b"behind");
    }
}

/// C7, A9: nobody wants it any more, or the loop is dropped: the buffer is kept until the kernel has let go of it all the same.
pub fn c07_dropped_zero_copy_send() {
    for drop_loop in [false, true] {
        let loop_ = current_loop();
        let native = is_native(&loop_);
        let (here, there, before) = stuffed();
        let (buf, watch) = Tracked::new(10_000, 7);
        let ticket = loop_.start(op::send_zc(&here, buf));
        loop_.start(op::timer(Duration::from_millis(5))).take().unwrap().unwrap();
        assert!(!watch.is_freed(), "the ticket has it");
        let read = |there| {
            let reader = reader(there, before + 10_000);
            move || assert!(reader.join().unwrap()[before..].iter().all(|&byte| byte == 7))
        };
        if drop_loop {
            let (ask, asked) = std::sync::mpsc::channel::<()>();
            let late = std::thread::spawn(move || {
                // A moment after the loop begins to end, so that it has to wait.
                asked.recv().unwrap();
                std::thread::sleep(Duration::from_millis(20));
                reader(there, before + 10_000).join().unwrap()
            });
            ask.send(()).unwrap();
            loop_.close();
            drop(ticket);
            assert!(watch.is_freed());
            assert!(late.join().unwrap()[before..].iter().all(|&byte| byte == 7));
        } else {
            drop(ticket);
            loop_.start(op::timer(Duration::from_millis(5))).take().unwrap().unwrap();
            assert_eq!(watch.is_freed(), !native);
            let check = read(there);
            loop_.run().unwrap();
            check();
            assert!(watch.is_freed());
        }
        watch.assert_intact();
    }
}

/// D11, F3: what fails, fails as `send` does.
pub fn d23_zero_copy_fails() {
    let loop_ = current_loop();
    // SAFETY: the default disposition, which would end this process.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for (here, there) in [tcp(), unix()] {
        op::shutdown(&here, std::net::Shutdown::Write).wait().unwrap();
        assert_eq!(errno(op::send_zc(&here, b"x").wait()), libc::EPIPE);
        assert_eq!(errno(op::send_vectored_zc(&here, vec![vec![1]]).wait()), libc::EPIPE);
        op::close(here.clone()).wait().unwrap();
        assert_eq!(errno(op::send_zc(&here, b"x").wait()), libc::EBADF);
        drop(there);
    }
    // No room, and then a deadline: what was sent is told. A peer that takes nothing is given up by the system, and the buffer
    // with it.
    let (here, _there) = tcp();
    sockopt::set_tcp_user_timeout(&here, 100).unwrap();
    let (unix, _peer) = unix();
    for here in [here, unix] {
        let send = op::send_zc(&here, vec![0; 64 << 20]).all(true).timeout(Duration::from_millis(30));
        let (sent, result) = send.wait_counted();
        assert_timed_out(result);
        assert!(sent > 0 && sent < 64 << 20);
    }
    let (here, _there) = crate::common::unix();
    op::send(&here, vec![0; 8 << 20]).wait().unwrap();
    let ticket = loop_.start(op::send_zc(&here, vec![0; 8 << 20]));
    poke(&loop_);
    loop_.cancel(ticket.id());
    assert!(canceled(ticket.take().unwrap()));
    let file = tempfile(b"");
    assert_eq!(errno(op::send_zc(std::os::fd::AsFd::as_fd(&file), b"x").wait()), libc::ENOTSOCK);
}
