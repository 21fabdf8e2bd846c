//! Streams: accepting and receiving, many items for one operation. The same on every backend; on io_uring also without the
//! opcodes, and with a completion queue so small that the kernel ends every multishot.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as StdInstant};

use rustix::net::{getpeername, getsockname};
use towpath_harness::{Rng, net, sys};
use towpath_loop::operation::{Kind, Support};
use towpath_loop::{BufferPool, Chunk, Config, Loop, OPERATIONS, OpStream, Socket, is_canceled, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// A configuration in which the ring lacks what these need.
fn without(config: Config, kinds: &[Kind]) -> Config {
    let code = |kind: &Kind| OPERATIONS[*kind as usize].uring.expect("it has an opcode").code;
    kinds.iter().map(code).fold(config, Config::without_opcode)
}

/// Runs a test in each way that the backend has to do streams.
fn each_way(mut test: impl FnMut(&Loop)) {
    let plain = new_loop();
    test(&plain);
    if plain.backend() != "io_uring" {
        return;
    }
    drop(plain);
    let tiny = Config::new().ring_entries(8).ring_completions(8);
    let streams = [Kind::AcceptMulti, Kind::RecvMulti];
    let masked = without(Config::new(), &streams);
    let both = without(tiny.clone(), &streams);
    for config in [tiny, masked, both] {
        test(&config.build().unwrap());
    }
}

/// Ticks a few times without sleeping: what can happen has happened.
fn settle(loop_: &Loop) {
    for _ in 0..6 {
        poke(loop_);
    }
}

/// Waits until nothing is in flight any more.
fn finish(loop_: &Loop) {
    tick_until(loop_, || loop_.in_flight() == 0);
}

/// Bytes that can be told apart from any others.
struct Pattern(Rng);

impl Pattern {
    fn new(seed: u64) -> Pattern {
        Pattern(Rng::new(seed))
    }
    fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.bits() as u8).collect()
    }
    /// Fails unless these are the next ones.
    fn check(&mut self, bytes: &[u8]) {
        assert!(self.take(bytes.len()) == bytes, "lost, doubled or out of order");
    }
}

/// Sends `total` bytes of a pattern in pieces of odd sizes, and ends the stream.
fn sender(mut to: impl Write + Send + 'static, seed: u64, total: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut pattern, mut sizes) = (Pattern::new(seed), Rng::new(seed ^ 1));
        let mut left = total;
        while left > 0 {
            let len = (1 + sizes.below(6000) as usize).min(left);
            to.write_all(&pattern.take(len)).unwrap();
            left -= len;
        }
    })
}

/// The next item of a stream, driving the loop.
fn next<T>(stream: &mut impl Iterator<Item = io::Result<T>>) -> T {
    stream.next().expect("not the end").expect("no error")
}

fn pending<O: op::Streaming + 'static>(stream: &mut OpStream<O>) -> bool {
    stream.try_next().is_pending()
}

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

/// D21: two streams on one pool of few buffers, taken from by turns: each is complete and in order.
pub fn d21_two_streams_share_a_pool() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(4, 700).unwrap();
        let sides = [half_tcp(), half_tcp()];
        let mut threads = Vec::new();
        let mut streams: Vec<_> = sides
            .into_iter()
            .enumerate()
            .map(|(at, (near, far))| {
                threads.push(sender(far, at as u64, 150_000));
                (loop_.stream(op::recv_multi(near, &pool)), Pattern::new(at as u64), 0)
            })
            .collect();
        let mut over = 0;
        while over < 2 {
            for (stream, pattern, total) in &mut streams {
                // Only what is there: the other one may have all buffers.
                while let Poll::Ready(item) = stream.try_next() {
                    let Some(chunk) = item else {
                        over += usize::from(*total == 150_000);
                        *total = usize::MAX;
                        break;
                    };
                    let chunk = chunk.unwrap();
                    pattern.check(&chunk);
                    *total += chunk.len();
                }
            }
            if over < 2 {
                loop_.tick(Some(100 * MS)).unwrap();
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(streams);
        finish(loop_);
        assert_eq!(pool.free(), 4);
    });
}

/// H12: without a buffer a stream rests, costs nothing, and goes on when one comes back; nothing is lost.
pub fn h12_buffers_run_out() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(2, 16).unwrap();
        let (near, mut far) = half_tcp();
        let mut stream = loop_.stream(op::recv_multi(&near, &pool));
        let bytes = Pattern::new(1).take(1000);
        far.write_all(&bytes).unwrap();
        let mut kept = vec![next(&mut stream), next(&mut stream)];
        assert!(pool.free() == 0 && pending(&mut stream));
        // With nobody to wake it the loop sleeps.
        let ticks = loop_.stats().ticks;
        loop_.start(op::timer(50 * MS)).take().unwrap().unwrap();
        assert!(loop_.stats().ticks - ticks < 10, "{} ticks in 50 ms", loop_.stats().ticks - ticks);
        assert!(pending(&mut stream));
        let mut received = Vec::new();
        while received.len() < 1000 {
            received.extend_from_slice(&kept.remove(0));
            if received.len() + 16 * kept.len() < 1000 {
                kept.push(next(&mut stream));
            }
        }
        assert!(received == bytes);
        // The end is told also where there is no buffer.
        drop(far);
        assert!(stream.next().is_none() && stream.next().is_none());
        assert_eq!(pool.free(), 2);
    });
}

/// H12: nobody stays hungry: of many streams on one pool, those that have something are served, whoever else waits.
pub fn h12_the_hungry_are_fed() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(2, 64).unwrap();
        let mut pairs: Vec<_> = (0..20).map(|_| half_tcp()).collect();
        let mut streams: Vec<_> =
            pairs.iter().map(|(near, _)| loop_.stream(op::recv_multi(near, &pool))).collect();
        pairs.iter_mut().for_each(|(_, far)| far.write_all(b"first").unwrap());
        let (mut held, mut fed) = (Vec::new(), [0; 20]);
        for round in 0..3 {
            let deadline = StdInstant::now() + towpath_harness::patience(Duration::from_secs(3));
            while fed.iter().any(|count| *count <= round) {
                for (at, stream) in streams.iter_mut().enumerate() {
                    if let Poll::Ready(item) = stream.try_next() {
                        held.push(item.unwrap().unwrap());
                        fed[at] += 1;
                    }
                }
                assert!(StdInstant::now() < deadline, "hungry: {fed:?}");
                assert!(held.len() <= 2);
                held.clear();
                poke(loop_);
            }
            // Only the last one has something now, behind the others, which wait.
            pairs.iter_mut().for_each(|(_, far)| far.write_all(b"again").unwrap());
        }
        drop(streams);
        finish(loop_);
        assert_eq!(pool.free(), 2);
    });
}

/// H12: what is not taken bounds the stream, which rests meanwhile.
pub fn h12_unread_items_are_bounded() {
    each_way(|loop_| {
        let (listener, addr) = listener();
        let mut stream = loop_.stream(op::accept_multi(&listener).max_unread(4));
        let first: Vec<_> = (0..10).map(|_| TcpStream::connect(addr).unwrap()).collect();
        settle(loop_);
        // Some may have been under way, all that came at once; from now on there are no more.
        let fds = sys::fd_count();
        let more: Vec<_> = (0..30).map(|_| TcpStream::connect(addr).unwrap()).collect();
        settle(loop_);
        assert_eq!(sys::fd_count(), fds + 30, "accepted beyond the bound");
        let ticks = loop_.stats().ticks;
        loop_.start(op::timer(30 * MS)).take().unwrap().unwrap();
        assert!(loop_.stats().ticks - ticks < 10, "it rests");
        let locals: Vec<_> = first.iter().chain(&more).map(|client| client.local_addr().unwrap()).collect();
        for local in locals {
            let peer: SocketAddr = getpeername(next(&mut stream)).unwrap().unwrap().try_into().unwrap();
            assert_eq!(peer, local);
        }
        assert!(pending(&mut stream));
    });
}

/// C12: a stream that is dropped, at any moment, gives its buffers back.
pub fn c12_dropped_stream_gives_buffers_back() {
    let mut rng = Rng::new(12);
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(8, 32).unwrap();
        for _ in 0..scaled(20_000) {
            // Not too many over TCP: each takes a port for a minute.
            let (near, mut far): (Socket, Box<dyn Write>) = if rng.once_in(20) {
                let (near, far) = half_tcp();
                (near, Box::new(far))
            } else {
                let (near, far) = half_unix();
                (near, Box::new(far))
            };
            let mut stream = loop_.stream(op::recv_multi(&near, &pool));
            let mut kept = Vec::new();
            for _ in 0..rng.below(5) {
                match rng.below(3) {
                    0 => far.write_all(&vec![1; rng.below(100) as usize]).unwrap(),
                    1 => _ = poke(loop_),
                    _ => {
                        if let Poll::Ready(Some(chunk)) = stream.try_next() {
                            kept.push(chunk.unwrap());
                        }
                    }
                }
            }
            match rng.below(3) {
                0 => drop(stream),
                1 => {
                    loop_.cancel(stream.id().unwrap());
                    drop(far);
                    let end = stream.by_ref().find_map(Result::err);
                    assert!(end.is_none_or(|error| is_canceled(&error)) && stream.next().is_none());
                }
                _ => drop((far, stream)),
            }
            finish(loop_);
            assert_eq!(pool.free(), 8 - kept.len());
        }
        assert_eq!(pool.free(), 8);
    });
}

/// C10: connections that a dropped stream had accepted are closed, the others stay in the queue; nobody hangs.
pub fn c10_dropped_stream_of_connections() {
    let mut rng = Rng::new(10);
    each_way(|loop_| {
        let (listener, addr) = listener();
        for _ in 0..scaled(4_000) {
            let mut stream = loop_.stream(op::accept_multi(&listener).max_unread(2));
            let mut clients = Vec::new();
            for _ in 0..1 + rng.below(4) {
                if rng.once_in(2) {
                    poke(loop_);
                }
                clients.push(TcpStream::connect(addr).unwrap());
            }
            let taken = match stream.try_next() {
                Poll::Ready(item) => Some(item.unwrap().unwrap()),
                Poll::Pending => None,
            };
            drop(stream);
            finish(loop_);
            let mut left = clients.len() - usize::from(taken.is_some());
            drop(taken);
            // Those that are not closed can be accepted.
            let mut again = loop_.stream(op::accept_multi(&listener));
            settle(loop_);
            while let Poll::Ready(item) = again.try_next() {
                left -= 1;
                drop(item.unwrap().unwrap());
            }
            drop(again);
            finish(loop_);
            for client in &mut clients {
                client.set_read_timeout(Some(towpath_harness::patience(2000 * MS))).unwrap();
                let end = client.read(&mut [0; 1]);
                assert!(
                    matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset)
                );
            }
            assert!(left <= 4);
        }
    });
}

/// C13: a callback that wants no more gets no more, though it is there.
pub fn c13_break_in_a_callback() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(8, 4).unwrap();
        let (near, mut far) = half_tcp();
        far.write_all(b"one two three").unwrap();
        let (fate, fated) = Fate::new();
        loop_.submit_stream(op::recv_multi(&near, &pool), move |_, item| {
            assert_eq!(&*item.unwrap().unwrap(), b"one ");
            fated.call();
            ControlFlow::Break(())
        });
        finish(loop_);
        assert_eq!((fate.calls(), pool.free()), (1, 8));
        // The socket can be received from again.
        far.write_all(b"four").unwrap();
        loop_.start(op::recv(&near, vec![0; 64])).take().unwrap().unwrap();
    });
}

/// A14: a callback that panics is called no more; the panic comes out of the tick, others are not affected.
pub fn a14_panic_in_a_streams_callback() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(8, 4).unwrap();
        let ((near, mut far), (other, mut its_far)) = (half_tcp(), half_tcp());
        far.write_all(b"one two three").unwrap();
        its_far.write_all(b"x").unwrap();
        let (fate, fated) = Fate::new();
        loop_.submit_stream(op::recv_multi(&near, &pool), move |_, _| {
            fated.call();
            panic!("on purpose")
        });
        let mut ticket = loop_.start(op::recv(&other, vec![0; 8]));
        let mut panics = 0;
        let mut outcome = None;
        for _ in 0..100 {
            let ticked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poke(loop_)));
            panics += usize::from(ticked.is_err());
            outcome = outcome.or_else(|| ticket.try_take());
        }
        assert_eq!((panics, fate.calls()), (1, 1));
        assert_eq!(outcome.unwrap().unwrap().0, 1);
        drop(ticket);
        finish(loop_);
        assert_eq!(pool.free(), 8);
    });
}

/// A12: a callback closes the loop from inside.
pub fn a12_close_in_a_streams_callback() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(8, 4).unwrap();
        let (near, mut far) = half_tcp();
        far.write_all(b"one two three").unwrap();
        let (fate, fated) = Fate::new();
        let mine = vec![7; 1000];
        loop_.submit_stream(op::recv_multi(&near, &pool), move |loop_, item| {
            loop_.close();
            assert_eq!(&*item.unwrap().unwrap(), b"one ");
            assert_eq!(mine, vec![7; 1000], "what the callback owns is gone");
            fated.call();
            ControlFlow::Continue(())
        });
        tick_until(loop_, || fate.is_over() || loop_.in_flight() == 0);
        assert_eq!((fate.calls(), pool.free()), (1, 8));
    });
}

/// H5: out of descriptors, the error is an item now and then, nothing spins, and the stream goes on when there are some.
pub fn h05_no_descriptors_for_a_stream() {
    each_way(|loop_| {
        let (listener, addr) = listener();
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let (failed, got) = (Rc::new(Cell::new(0)), Log::new());
        let (failed2, got2) = (failed.clone(), got.clone());
        let (filler, limit) = sys::spare_fds(0);
        let id = loop_.submit_stream(op::accept_multi(&listener), move |_, item| {
            match item.expect("it goes on") {
                Ok(socket) => got2.add(socket),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                    failed2.set(failed2.get() + 1);
                }
            }
            ControlFlow::Continue(())
        });
        loop_.start(op::timer(200 * MS)).take().unwrap().unwrap();
        assert!((1..=20).contains(&failed.get()), "{} errors in 200 ms", failed.get());
        assert_eq!(got.len(), 0);
        drop((filler, limit));
        tick_until(loop_, || got.len() == 3);
        loop_.remove(id);
        finish(loop_);
        drop(clients);

        // Cancelled, and past its deadline, while it is held back.
        let client = TcpStream::connect(addr).unwrap();
        for (canceled, limit) in [(true, Duration::MAX), (false, 35 * MS), (false, 5 * MS)] {
            let (filler, guard) = sys::spare_fds(0);
            let mut stream = loop_.stream(op::accept_multi(&listener).timeout(limit));
            if canceled {
                assert_eq!(stream.next().unwrap().unwrap_err().raw_os_error(), Some(libc::EMFILE));
                loop_.cancel(stream.id().unwrap());
            }
            let last = loop {
                let error = stream.next().unwrap().unwrap_err();
                if error.raw_os_error() != Some(libc::EMFILE) {
                    break error;
                }
            };
            if canceled {
                assert!(is_canceled(&last))
            } else {
                assert_timed_out(Err::<(), _>(last))
            }
            assert!(stream.next().is_none());
            drop((filler, guard));
        }
        drop(client);
    });
}

/// C18: a deadline is for the whole stream; also while it rests.
pub fn c18_deadline_of_a_stream() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(1, 4).unwrap();
        let (near, mut far) = half_unix();
        for resting in [false, true] {
            let begun = StdInstant::now();
            let mut stream = loop_.stream(op::recv_multi(&near, &pool).timeout(20 * MS));
            far.write_all(b"1234").unwrap();
            let chunk = next(&mut stream);
            if !resting {
                drop(chunk);
            } else {
                far.write_all(b"more").unwrap();
                settle(loop_);
                assert!(pending(&mut stream));
            }
            assert_timed_out(stream.next().unwrap());
            assert!(stream.next().is_none());
            assert!(begun.elapsed() >= 20 * MS);
        }
        // Nothing of the rest was lost.
        let rest = loop_.start(op::recv(&near, vec![0; 8])).take().unwrap().unwrap();
        assert_eq!((rest.0, &rest.1[..4]), (4, &b"more"[..]));
    });
}

/// F4: a close ends the stream first; what was accepted or received before is delivered.
pub fn f04_close_under_a_stream() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(2, 4).unwrap();
        let order: Log<&str> = Log::new();
        for resting in [false, true] {
            let (near, mut far) = half_tcp();
            let kept = Rc::new(RefCell::new(Vec::new()));
            let (to, keep) = (order.clone(), kept.clone());
            loop_.submit_stream(op::recv_multi(&near, &pool), move |_, item| {
                match item {
                    Some(Ok(chunk)) => {
                        keep.borrow_mut().push(chunk);
                        to.add("item");
                    }
                    Some(Err(error)) => to.add(if is_canceled(&error) { "canceled" } else { "error" }),
                    None => to.add("end"),
                }
                ControlFlow::Continue(())
            });
            far.write_all(if resting { b"eight by".as_slice() } else { b"four" }).unwrap();
            tick_until(loop_, || order.len() == 1 + usize::from(resting));
            settle(loop_);
            let to = order.clone();
            loop_.submit(op::close(near), move |_, outcome| {
                to.add(if outcome.is_ok() { "closed" } else { "?" })
            });
            finish(loop_);
            let mut expected = vec!["item"; 1 + usize::from(resting)];
            expected.extend(["canceled", "end", "closed"]);
            assert_eq!(order.take(), expected);
            drop(kept.take());
            assert_eq!(far.read(&mut [0; 1]).unwrap_or(0), 0);
        }
    });
}

/// A9: chunks live on when loop and pool are gone, and so does what they say.
pub fn a09_chunks_outlive_the_loop() {
    let mut kept = Vec::new();
    for config in [Config::new(), without(Config::new(), &[Kind::RecvMulti])] {
        let loop_ = loop_with(&config);
        let pool = BufferPool::with_capacity(4, 64).unwrap();
        let (near, mut far) = half_unix();
        far.write_all(b"still here").unwrap();
        let mut stream = loop_.stream(op::recv_multi(&near, &pool));
        kept.push(next(&mut stream));
        // Another one is under way, or delivered and not taken.
        far.write_all(b"not taken").unwrap();
        if kept.len() == 1 {
            settle(&loop_);
        }
        drop((loop_, pool));
        drop(stream);
    }
    for mut chunk in kept {
        assert_eq!(&*chunk, b"still here");
        chunk[0] = b'S';
        assert_eq!(&chunk[..5], b"Still");
    }
}

/// D13: a stream has the socket's turn to receive until it ends, also while it rests; then the next one has it.
pub fn d13_receives_wait_for_the_streams_end() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(1, 4).unwrap();
        let (near, mut far) = half_tcp();
        let mut stream = loop_.stream(op::recv_multi(&near, &pool));
        let mut ticket = loop_.start(op::recv(&near, vec![0; 8]));
        far.write_all(b"one two").unwrap();
        let one = next(&mut stream);
        settle(loop_);
        assert!(pending(&mut stream) && ticket.try_take().is_none(), "it is resting, not over");
        drop(one);
        assert_eq!(&*next(&mut stream), b"two");
        settle(loop_);
        assert!(ticket.try_take().is_none());
        drop(stream);
        far.write_all(b"rest").unwrap();
        let (n, buf) = ticket.take().unwrap().unwrap();
        assert_eq!(&buf[..n], b"rest");
    });
}

/// D11: a reset is the last item.
pub fn d11_reset_ends_a_stream() {
    each_way(|loop_| {
        let pool = BufferPool::new().unwrap();
        let (near, mut far) = half_tcp();
        let mut stream = loop_.stream(op::recv_multi(&near, &pool));
        far.write_all(b"bytes").unwrap();
        assert_eq!(&*next(&mut stream), b"bytes");
        net::reset_on_close(&far);
        drop(far);
        assert_eq!(errno(stream.next().unwrap()), libc::ECONNRESET);
        assert!(stream.next().is_none());
    });
}

/// D8, D11: an end that follows close upon the last bytes, before anybody has looked, is told after them.
pub fn d08_end_right_behind_the_bytes() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum End {
        HalfClose,
        Close,
        Reset,
    }
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(16, 64).unwrap();
        for round in 0..30 {
            for (unix, end) in [
                (false, End::HalfClose),
                (false, End::Close),
                (false, End::Reset),
                (true, End::HalfClose),
                (true, End::Close),
            ] {
                let (near, mut far): (Socket, std::net::TcpStream) = if unix {
                    let (near, far) = half_unix();
                    // Only read, write, shutdown and close are asked of it.
                    (near, OwnedFd::from(far).into())
                } else {
                    half_tcp()
                };
                let mut stream = loop_.stream(op::recv_multi(&near, &pool));
                // Waiting for the first piece, or after one.
                settle(loop_);
                if round % 2 == 0 {
                    far.write_all(b"first").unwrap();
                    assert_eq!(&*next(&mut stream), b"first");
                    settle(loop_);
                }
                far.write_all(b"last").unwrap();
                let far = match end {
                    End::HalfClose => {
                        far.shutdown(std::net::Shutdown::Write).unwrap();
                        Some(far)
                    }
                    End::Close => {
                        drop(far);
                        None
                    }
                    End::Reset => {
                        net::reset_on_close(&far);
                        drop(far);
                        None
                    }
                };
                let (bytes, over) = (RefCell::new(Vec::new()), Cell::new(None));
                let stream = RefCell::new(stream);
                tick_until(loop_, || {
                    while let Poll::Ready(item) = stream.borrow_mut().try_next() {
                        match item {
                            Some(Ok(chunk)) => bytes.borrow_mut().extend_from_slice(&chunk),
                            Some(Err(error)) => over.set(error.raw_os_error()),
                            None => return true,
                        }
                    }
                    false
                });
                assert_eq!(bytes.take(), b"last", "unix: {unix}, {end:?}");
                assert_eq!(
                    over.get(),
                    (end == End::Reset).then_some(libc::ECONNRESET),
                    "unix: {unix}, {end:?}"
                );
                drop(far);
            }
        }
        assert_eq!(pool.free(), 16);
    });
}

/// D8: bytes and their end come from another thread while they are received, in pieces of all sizes, through few buffers and
/// many: every stream is complete, and ends.
pub fn d08_end_races_receiving() {
    each_way(|loop_| {
        for (count, size) in [(64, 64), (16, 64), (2, 512), (64, 1024)] {
            let pool = BufferPool::with_capacity(count, size).unwrap();
            let (to, from) = std::sync::mpsc::channel::<(Box<dyn Write + Send>, u64, usize)>();
            let thread = std::thread::spawn(move || {
                let mut rng = Rng::new(8);
                for (mut far, seed, total) in from {
                    let bytes = Pattern::new(seed).take(total);
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (piece, behind) = rest.split_at((1 + rng.below(700) as usize).min(rest.len()));
                        far.write_all(piece).unwrap();
                        rest = behind;
                        rng.spin(300);
                    }
                }
            });
            let mut rng = Rng::new(size as u64);
            for round in 0..scaled(400) {
                for unix in [false, true] {
                    let (near, far): (Socket, Box<dyn Write + Send>) = if unix {
                        let (near, far) = half_unix();
                        (near, Box::new(far))
                    } else {
                        let (near, far) = half_tcp();
                        (near, Box::new(far))
                    };
                    let stream = loop_.stream(op::recv_multi(&near, &pool));
                    if rng.once_in(2) {
                        poke(loop_);
                    }
                    let total = rng.below(20_000) as usize;
                    to.send((far, round, total)).unwrap();
                    let (stream, pattern) = (RefCell::new(stream), RefCell::new(Pattern::new(round)));
                    let received = Cell::new(0);
                    tick_until(loop_, || {
                        while let Poll::Ready(item) = stream.borrow_mut().try_next() {
                            let Some(chunk) = item else { return true };
                            let chunk = chunk.unwrap();
                            pattern.borrow_mut().check(&chunk);
                            received.set(received.get() + chunk.len());
                        }
                        false
                    });
                    assert_eq!(received.get(), total, "unix: {unix}");
                }
            }
            drop(to);
            thread.join().unwrap();
            assert_eq!(pool.free(), count);
        }
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
        let masked = without(Config::new(), &[Kind::RecvMulti]).build().unwrap();
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

/// N5: a stream that rests does not spin on a hang-up either.
pub fn n05_hang_up_under_a_resting_stream() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(1, 4).unwrap();
        let (near, mut far) = half_tcp();
        let mut stream = loop_.stream(op::recv_multi(&near, &pool));
        far.write_all(b"1234 and more").unwrap();
        let chunk = next(&mut stream);
        drop(far);
        settle(loop_);
        let ticks = loop_.stats().ticks;
        loop_.start(op::timer(50 * MS)).take().unwrap().unwrap();
        assert!(loop_.stats().ticks - ticks < 15, "{} ticks in 50 ms", loop_.stats().ticks - ticks);
        drop(chunk);
        let rest: Vec<u8> = stream.flat_map(|chunk| chunk.unwrap().to_vec()).collect();
        assert_eq!(rest, b" and more");
    });
}

/// F1: a stream that ended, and another socket with the number of its own: not a byte goes astray.
pub fn f01_streams_and_numbers() {
    let mut rng = Rng::new(1);
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(16, 64).unwrap();
        let mut numbers = std::collections::HashSet::new();
        for round in 0..scaled(20_000) {
            let (near, mut far) = half_unix();
            numbers.insert(near.as_raw_fd());
            let mut stream = loop_.stream(op::recv_multi(near, &pool));
            let text = format!("round {round}");
            far.write_all(text.as_bytes()).unwrap();
            assert_eq!(&*next(&mut stream), text.as_bytes());
            if rng.once_in(2) {
                far.write_all(b"too late").unwrap();
            }
            if rng.once_in(2) {
                poke(loop_);
            }
            // The socket goes with its operation: before or after the next one is made.
            drop(stream);
            if rng.once_in(2) {
                poke(loop_);
            }
        }
        finish(loop_);
        assert!(numbers.len() < 20, "numbers were not used again");
        assert_eq!(pool.free(), 16);
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

/// A chunk is a buffer: what was received is sent as it is, and the buffer comes back with the send's end.
pub fn chunks_are_sent_without_a_copy() {
    each_way(|loop_| {
        let pool = BufferPool::with_capacity(4, 128).unwrap();
        let (near, mut far) = half_tcp();
        let echo = near.clone();
        let id = loop_.submit_stream(op::recv_multi(&near, &pool), move |loop_, item| {
            let Some(Ok(chunk)) = item else { return ControlFlow::Break(()) };
            loop_.submit(op::send(&echo, chunk).all(true), |_, outcome| {
                let (n, chunk) = outcome.unwrap();
                assert_eq!(n, chunk.len());
            });
            ControlFlow::Continue(())
        });
        let bytes = Pattern::new(5).take(2000);
        far.write_all(&bytes).unwrap();
        far.set_nonblocking(true).unwrap();
        let echoed = RefCell::new(Vec::new());
        tick_until(loop_, || {
            let mut buf = [0; 500];
            if let Ok(n) = (&far).read(&mut buf) {
                echoed.borrow_mut().extend_from_slice(&buf[..n]);
            }
            echoed.borrow().len() == 2000
        });
        assert!(echoed.take() == bytes);
        loop_.remove(id);
        finish(loop_);
        assert_eq!(pool.free(), 4);
        assert_ne!(getsockname(&near).unwrap(), getpeername(&near).unwrap().unwrap());
    });
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
