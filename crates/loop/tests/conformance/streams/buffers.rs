//! The buffers that streams receive into: lent, run out, given back.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::task::Poll;
use std::time::{Duration, Instant as StdInstant};

use rustix::net::{getpeername, getsockname};
use towpath_harness::{Rng, sys};
use towpath_loop::operation::Kind;
use towpath_loop::{BufferPool, Config, Socket, is_canceled, op};

use super::*;
use crate::common::*;

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
