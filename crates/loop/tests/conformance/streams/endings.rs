//! How streams end, or rest: dropped, cut short, closed, out of descriptors, hung up on.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::{Rng, net, sys};
use towpath_loop::{BufferPool, Socket, is_canceled, op};

use super::*;
use crate::common::*;

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
