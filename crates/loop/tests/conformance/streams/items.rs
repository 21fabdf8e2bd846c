//! What streams bring: each item once and in order, to everyone who waits.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::net::getpeername;
use towpath_harness::{Rng, net};
use towpath_loop::operation::{Kind, Support};
use towpath_loop::{BufferPool, Chunk, Config, Loop, OpStream, Socket, op};

use super::*;
use crate::common::*;

/// D21: a stream of connections brings each one once, in order, whatever makes the kernel stop; they are as those of a
/// single accept.
pub fn d21_stream_of_connections() {
    each_way(|loop_| {
        let (listener, addr) = listener();
        let got: Log<SocketAddr> = Log::new();
        let to = got.clone();
        let id = loop_.submit_stream(op::accept_multi(&listener), move |_, item| {
            let socket = item.expect("not the end").unwrap();
            let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
            assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
            assert!(rustix::io::fcntl_getfd(&socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            to.add(getpeername(&socket).unwrap().unwrap().try_into().unwrap());
            ControlFlow::Continue(())
        });
        let mut sent = Vec::new();
        for burst in [1, 100, 3, 60] {
            for _ in 0..burst {
                sent.push(TcpStream::connect(addr).unwrap());
            }
            let want = sent.len();
            tick_until(loop_, || got.len() == want);
        }
        let locals: Vec<_> = sent.iter().map(|client| client.local_addr().unwrap()).collect();
        assert_eq!(got.all(), locals);
        assert!(loop_.remove(id));
        finish(loop_);
    });
}

/// D21: a stream of bytes is the one that was sent, over TCP and Unix sockets, with many buffers and with two.
pub fn d21_stream_of_bytes() {
    each_way(|loop_| {
        let pools = [(256, 4096), (256, 4096), (2, 4096), (2, 512), (64, 64), (64, 64)];
        for (round, (count, size)) in pools.into_iter().enumerate() {
            let pool = BufferPool::with_capacity(count, size).unwrap();
            let total = 40_000 * size.min(100) / 100 + 200_000;
            let (near, far): (Socket, Box<dyn Write + Send>) = if round % 2 == 0 {
                let (near, far) = half_tcp();
                (near, Box::new(far))
            } else {
                let (near, far) = half_unix();
                (near, Box::new(far))
            };
            let thread = sender(far, round as u64, total);
            let mut pattern = Pattern::new(round as u64);
            let (seen, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (seen2, ended2) = (seen.clone(), ended.clone());
            loop_.submit_stream(op::recv_multi(&near, &pool), move |_, item| {
                assert_eq!(ended2.get(), 0, "called after the end");
                match item {
                    Some(chunk) => {
                        let chunk = chunk.unwrap();
                        assert!(!chunk.is_empty() && chunk.len() <= size);
                        pattern.check(&chunk);
                        seen2.set(seen2.get() + chunk.len());
                    }
                    None => ended2.set(1),
                }
                ControlFlow::Continue(())
            });
            tick_until(loop_, || ended.get() == 1);
            assert_eq!(seen.get(), total);
            thread.join().unwrap();
            assert_eq!((pool.free(), loop_.in_flight()), (count, 0));
        }
    });
}

/// D21: the same by asking for each piece, on a plain thread, with some of the chunks kept for a while.
pub fn d21_stream_as_an_iterator() {
    each_way(|loop_| {
        let before = loop_.make_current();
        let pool = BufferPool::with_capacity(16, 1000).unwrap();
        let (near, far) = half_tcp();
        let thread = sender(far, 9, 300_000);
        let mut kept: Vec<Chunk> = Vec::new();
        let (mut pattern, mut total, mut rng) = (Pattern::new(9), 0, Rng::new(3));
        for chunk in op::recv_multi(&near, &pool).max_unread(5) {
            let chunk = chunk.unwrap();
            total += chunk.len();
            kept.push(chunk);
            if kept.len() == 10 || rng.once_in(4) {
                kept.drain(..).for_each(|chunk| pattern.check(&chunk));
            }
        }
        kept.drain(..).for_each(|chunk| pattern.check(&chunk));
        assert_eq!((total, pool.free()), (300_000, 16));
        thread.join().unwrap();
        Loop::take_current();
        before.inspect(|before| drop(before.make_current()));
    });
}

/// D3: what cannot be streamed is refused, and spoils nothing for others.
pub fn d03_refused_streams() {
    each_way(|loop_| {
        let ways = loop_.capabilities();
        let pool = BufferPool::new().unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let foreign = loop_.stream(op::recv_multi(datagrams.as_fd(), &pool)).next();
        assert_eq!(errno(foreign.unwrap()), libc::EOPNOTSUPP);
        let known = socket(datagrams);
        let mut stream = loop_.stream(op::recv_multi(&known, &pool));
        assert_eq!(errno(stream.next().unwrap()), libc::EOPNOTSUPP);
        assert!(stream.next().is_none());
        assert_eq!(errno(loop_.stream(op::accept_multi(&known)).next().unwrap()), libc::EOPNOTSUPP);

        let (near, _far) = half_tcp();
        let mut stream = loop_.stream(op::accept_multi(&near));
        assert_eq!(errno(stream.next().unwrap()), libc::EINVAL, "no listener");
        assert!(stream.next().is_none());
        let unconnected =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                .unwrap();
        let mut stream = loop_.stream(op::recv_multi(socket(unconnected), &pool));
        assert_eq!(errno(stream.next().unwrap()), libc::EINVAL, "not connected");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(errno(loop_.stream(op::recv_multi(file.as_fd(), &pool)).next().unwrap()), libc::ENOTSOCK);

        let other = new_loop();
        let mut stream = other.stream(op::recv_multi(&near, &pool));
        let error = stream.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("another loop"), "{error}");

        let (closed, _peer) = half_unix();
        let keep = closed.clone();
        loop_.start(op::close(closed)).take().unwrap().unwrap();
        assert_eq!(errno(loop_.stream(op::recv_multi(&keep, &pool)).next().unwrap()), libc::EBADF);
        assert_eq!(loop_.capabilities(), ways, "something was concluded from an error");
    });
}

/// P5: how a stream is done, as the loop tells.
pub fn p05_streams_are_native_or_not() {
    let ways = |loop_: &Loop| {
        let ways = loop_.capabilities();
        [ways[Kind::AcceptMulti as usize].1, ways[Kind::RecvMulti as usize].1]
    };
    let loop_ = new_loop();
    if loop_.backend() == "io_uring" {
        assert_eq!(ways(&loop_), [Support::Native; 2]);
        // One entry for any number of items: no system call for each.
        let (listener, addr) = listener();
        let pool = BufferPool::new().unwrap();
        let mut accepted = loop_.stream(op::accept_multi(&listener));
        let mut clients: Vec<_> = (0..50).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let sockets: Vec<_> = clients.iter().map(|_| next(&mut accepted)).collect();
        let mut streams: Vec<_> =
            sockets.iter().map(|socket| loop_.stream(op::recv_multi(socket, &pool))).collect();
        settle(&loop_);
        let before = loop_.stats().syscalls;
        for _ in 0..10 {
            clients.iter_mut().for_each(|client| client.write_all(b"message").unwrap());
            streams.iter_mut().for_each(|stream| assert_eq!(&*next(stream), b"message"));
        }
        let syscalls = loop_.stats().syscalls - before;
        assert!(syscalls < 100, "{syscalls} system calls for 500 messages");
        let masked = loop_with(&without(Config::new(), &[Kind::RecvMulti]));
        assert_eq!(ways(&masked), [Support::Native, Support::Readiness]);
    } else {
        assert_eq!(ways(&loop_), [Support::Readiness; 2]);
    }
}

/// N2: a socket that always has more does not keep others, or timers, waiting.
pub fn n02_streams_share() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(1024, 64).unwrap();
        // Plenty of pieces in each, all there from the start.
        let pairs: Vec<_> = (0..4).map(|_| half_unix()).collect();
        for (_, far) in &pairs {
            far.set_nonblocking(true).unwrap();
            net::fill(far, 1);
        }
        let order: Log<usize> = Log::new();
        let ids: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(at, (near, _))| {
                let to = order.clone();
                loop_.submit_stream(op::recv_multi(near, &pool), move |_, item| {
                    item.unwrap().unwrap();
                    to.add(at);
                    ControlFlow::Continue(())
                })
            })
            .collect();
        tick_until(loop_, || order.len() >= 1000);
        let order = order.all();
        for at in 0..4 {
            let first = order.iter().position(|other| *other == at).expect("everyone is served");
            assert!(first < 300, "{first} pieces of others came first");
        }
        assert!(ids.into_iter().all(|id| loop_.remove(id)));
        finish(loop_);
        assert_eq!(pool.free(), 1024);
    });
}

/// K3: as a future: only the last waker is woken, and the end is told again and again.
pub fn k03_stream_as_a_future() {
    each_way(|loop_| {
        let pool = BufferPool::new().unwrap();
        let (near, mut far) = half_unix();
        let mut stream = loop_.stream(op::recv_multi(&near, &pool));
        let flags: Vec<_> = (0..2).map(|_| std::sync::Arc::new(Flag::default())).collect();
        let wakers: Vec<Waker> = flags.iter().map(|flag| flag.clone().into()).collect();
        for waker in &wakers {
            assert!(stream.poll_next(&mut Context::from_waker(waker)).is_pending());
        }
        far.write_all(b"news").unwrap();
        tick_until(loop_, || flags[1].is_set());
        assert!(!flags[0].is_set());
        let mut cx = Context::from_waker(&wakers[0]);
        assert!(matches!(stream.poll_next(&mut cx), Poll::Ready(Some(Ok(chunk))) if &*chunk == b"news"));
        assert!(stream.poll_next(&mut cx).is_pending());
        drop(far);
        tick_until(loop_, || flags[0].is_set());
        for _ in 0..3 {
            assert!(matches!(stream.poll_next(&mut cx), Poll::Ready(None)));
        }
    });
}

#[derive(Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl Flag {
    fn is_set(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::task::Wake for Flag {
    fn wake(self: std::sync::Arc<Flag>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// C1: streams begun, fed, taken from, cancelled, removed and dropped at random, among other operations; every byte that
/// arrives is the next one of its socket, and nothing is left.
pub fn c01_streams_at_random() {
    let mut rng = Rng::new(77);
    each_way(|loop_| {
        struct Lane {
            near: Socket,
            far: TcpStream,
            sent: Pattern,
            expected: Pattern,
            stream: Option<OpStream<op::RecvMulti<'static>>>,
        }
        let pool = BufferPool::with_capacity(8, 48).unwrap();
        let mut lanes: Vec<Lane> = Vec::new();
        let mut kept: Vec<Chunk> = Vec::new();
        for round in 0..scaled(60_000) {
            if lanes.len() < 6 {
                let (near, far) = half_tcp();
                let (sent, expected) = (Pattern::new(round), Pattern::new(round));
                lanes.push(Lane { near, far, sent, expected, stream: None });
            }
            let at = rng.below(lanes.len() as u64) as usize;
            let lane = &mut lanes[at];
            match rng.below(12) {
                0..4 => {
                    let bytes = lane.sent.take(1 + rng.below(200) as usize);
                    lane.far.write_all(&bytes).unwrap();
                    // What is in the socket stays little.
                    while lane.stream.is_none() && rng.once_in(3) {
                        let (near, pool) = (&lane.near, &pool);
                        let unread = 1 + rng.below(5) as u32;
                        lane.stream = Some(loop_.stream(op::recv_multi(near, pool).max_unread(unread)));
                    }
                }
                4..9 => {
                    let Some(stream) = &mut lane.stream else { continue };
                    while let Poll::Ready(Some(chunk)) = stream.try_next() {
                        let chunk = chunk.unwrap();
                        lane.expected.check(&chunk);
                        if kept.len() < 7 && rng.once_in(4) {
                            kept.push(chunk);
                        }
                    }
                }
                9 => kept.truncate(rng.below(4) as usize),
                10 if rng.once_in(8) => {
                    // What it had taken goes with it, so the socket goes too.
                    let mut lane = lanes.swap_remove(at);
                    let id = lane.stream.as_ref().and_then(OpStream::id);
                    if let Some(id) = id.filter(|_| rng.once_in(2)) {
                        loop_.cancel(id);
                    }
                    if rng.once_in(2) {
                        let (near, stream) = (lane.near, lane.stream.take());
                        loop_.submit(op::close(near), |_, outcome| outcome.unwrap());
                        drop(stream);
                    }
                }
                _ => _ = poke(loop_),
            }
        }
        kept.clear();
        // All that was sent arrives.
        lanes.retain(|lane| lane.stream.is_some());
        lanes.iter().for_each(|lane| lane.far.shutdown(std::net::Shutdown::Write).unwrap());
        while !lanes.is_empty() {
            // From all by turns: what one of them has not been asked for takes up buffers.
            lanes.retain_mut(|lane| {
                loop {
                    match lane.stream.as_mut().expect("those with one").try_next() {
                        Poll::Ready(Some(chunk)) => lane.expected.check(&chunk.unwrap()),
                        Poll::Ready(None) => break,
                        Poll::Pending => return true,
                    }
                }
                assert_eq!(lane.expected.take(8), lane.sent.take(8), "lost at the end");
                false
            });
            poke(loop_);
        }
        finish(loop_);
        assert_eq!(pool.free(), 8);
    });
}
