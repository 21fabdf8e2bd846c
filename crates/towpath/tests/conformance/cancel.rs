//! C, J8 and the like: cancellation of tasks, deadlines around code, shields.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use towpath::net::{TcpListener, TcpStream};
use towpath::thread::{self, JoinHandle, try_sleep};
use towpath::time::{deadline_at, timeout};
use towpath::{Canceled, is_canceled, shield};
use towpath_harness::{Rng, net, sys};

use crate::common::*;

/// C5 on streams: bytes are never both reported cancelled and consumed.
pub fn c05_cancelled_reads_lose_nothing() {
    let rounds = scaled(100_000);
    let (stream, mut peer) = half();
    let stream = Arc::new(stream);
    let (go, gone) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let mut rng = Rng::new(7);
        let mut sent = 0usize;
        while gone.recv().is_ok() {
            for _ in 0..rng.below(200) {
                std::hint::spin_loop();
            }
            peer.write_all(&[pattern(sent)]).unwrap();
            sent += 1;
        }
        sent
    });
    let (received, cancelled) = solo(move || {
        let (mut received, mut cancelled) = (0usize, 0);
        for _ in 0..rounds {
            let source = stream.clone();
            let reader = waiting(move || {
                let mut byte = [0];
                (&*source).read(&mut byte).map(|n| (n, byte[0]))
            });
            go.send(()).unwrap();
            thread::yield_now();
            reader.cancel();
            match reader.join().unwrap() {
                Ok((n, byte)) => {
                    assert_eq!((n, byte), (1, pattern(received)));
                    received += 1;
                }
                Err(error) => {
                    assert!(is_canceled(&error), "{error:?}");
                    cancelled += 1;
                }
            }
        }
        drop(go);
        for byte in read_all(&*stream) {
            assert_eq!(byte, pattern(received));
            received += 1;
        }
        (received, cancelled)
    });
    assert_eq!(writer.join().unwrap(), rounds);
    assert_eq!(received, rounds);
    assert!(cancelled > 0, "the race never went that way");
}

/// C9: a read that timed out has taken nothing.
pub fn c09_timed_out_reads_lose_nothing() {
    let total = scaled(100_000);
    let (stream, mut peer) = half();
    let writer = std::thread::spawn(move || {
        let mut rng = Rng::new(9);
        for at in 0..total {
            if at % 4 == 0 {
                // The pace, slower than the reader's patience.
                std::thread::sleep(Duration::from_micros(rng.below(150)));
            }
            peer.write_all(&[pattern(at)]).unwrap();
        }
    });
    let late = solo(|| {
        stream.set_read_timeout(Some(Duration::from_micros(50))).unwrap();
        let (mut at, mut late) = (0, 0);
        let mut buf = [0; 3];
        loop {
            // By the socket's own time-out and by one around it.
            let result = match at % 2 {
                0 => (&stream).read(&mut buf),
                _ => timeout(Duration::from_micros(50), || (&stream).read(&mut buf)),
            };
            match result {
                Ok(0) => break,
                Ok(n) => {
                    for byte in &buf[..n] {
                        assert_eq!(*byte, pattern(at), "byte {at}");
                        at += 1;
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error:?}");
                    late += 1;
                }
            }
        }
        assert_eq!(at, total);
        late
    });
    writer.join().unwrap();
    assert!(late > 0, "nothing ever timed out");
}

/// C10: an accept that is cancelled at the instant a client comes leaks nothing and loses nobody.
pub fn c10_cancelled_accept_loses_nobody() {
    let rounds = scaled(20_000);
    let (listener, addr) = listener();
    let listener = Arc::new(listener);
    let (go, gone) = std::sync::mpsc::channel();
    let clients = std::thread::spawn(move || {
        while gone.recv().is_ok() {
            let mut client = std::net::TcpStream::connect(addr).unwrap();
            client.set_read_timeout(Some(patience(Duration::from_secs(3)))).unwrap();
            // Served, or closed; never left alone.
            let served = client.read(&mut [0]);
            assert!(matches!(served, Ok(0 | 1)), "{served:?}");
        }
    });
    let cancelled = solo(move || {
        let fds = sys::fd_count();
        let mut cancelled = 0;
        for _ in 0..rounds {
            let source = listener.clone();
            let acceptor = waiting(move || source.accept());
            go.send(()).unwrap();
            thread::yield_now();
            acceptor.cancel();
            let (mut stream, _) = match acceptor.join().unwrap() {
                Ok(accepted) => accepted,
                Err(error) => {
                    assert!(is_canceled(&error), "{error:?}");
                    cancelled += 1;
                    listener.accept().unwrap()
                }
            };
            stream.write_all(b"x").unwrap();
        }
        drop(go);
        until(|| sys::fd_count() <= fds);
        cancelled
    });
    clients.join().unwrap();
    assert!(cancelled > 0, "the race never went that way");
}

/// C18: the inner deadline passes first: its error names it, and the outer one has no say.
pub fn c18_inner_deadline_first() {
    solo(|| {
        let outer = timeout(Duration::from_secs(10), || {
            let error = error(timeout(ms(21), || try_sleep(LONG)));
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("21ms"), "{error}");
            // The outer one has not passed, so waits go on.
            try_sleep(ms(1))?;
            Ok(7)
        });
        assert_eq!(outer.unwrap(), 7);
    });
}

/// C18: the outer deadline passes first: the inner one does not claim it.
pub fn c18_outer_deadline_first() {
    solo(|| {
        let begun = Instant::now();
        let error = error(timeout(ms(21), || {
            let inner = timeout(Duration::from_secs(10), || try_sleep(LONG));
            assert!(is_canceled(inner.as_ref().unwrap_err()), "{inner:?}");
            inner
        }));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("21ms"), "{error}");
        assert!(begun.elapsed() >= ms(21));
    });
}

/// C18: both at once: one of them says so, and nothing hangs or is told twice.
pub fn c18_equal_deadlines() {
    solo(|| {
        let at = towpath::Instant::now() + ms(20);
        let outer = deadline_at(at, || deadline_at(at, || try_sleep(LONG)));
        assert_timed_out(outer);
        // Whoever handles the inner error goes on until the next wait, which fails by the outer one.
        let at = towpath::Instant::now() + ms(20);
        let outer = deadline_at(at, || {
            let _ = deadline_at(at, || try_sleep(LONG));
            try_sleep(LONG)
        });
        assert_timed_out(outer);
        try_sleep(ms(1)).unwrap();
    });
}

/// C18: cancellation by a user beats a deadline, also one that has passed before.
pub fn c18_user_cancel_beats_timeout() {
    solo(|| {
        let task = waiting(|| timeout(Duration::from_secs(10), || try_sleep(LONG)));
        task.cancel();
        assert_canceled(task.join().unwrap());

        let cancelled = Rc::new(Cell::new(false));
        let is_cancelled = cancelled.clone();
        let task = waiting(move || {
            timeout(ms(5), || {
                // The deadline passes, unseen or seen, and then comes the cancellation.
                std::thread::sleep(ms(10));
                until(|| is_cancelled.get());
                try_sleep(LONG)
            })
        });
        task.cancel();
        cancelled.set(true);
        assert_canceled(task.join().unwrap());
    });
}

/// C18: on plain threads, where nobody else is there to cancel.
pub fn c18_on_a_plain_thread() {
    let outer = timeout(Duration::from_secs(10), || {
        assert_timed_out(timeout(ms(20), || try_sleep(LONG)));
        try_sleep(ms(1))?;
        Ok(7)
    });
    assert_eq!(outer.unwrap(), 7);
    let outer = timeout(ms(20), || {
        assert_canceled(timeout(Duration::from_secs(10), || try_sleep(LONG)));
        try_sleep(LONG)
    });
    assert_timed_out(outer);
    try_sleep(ms(1)).unwrap();
}

/// C18: what else `timeout` says of itself: a late success is kept, another error passed on, code without waits not
/// disturbed.
pub fn c18_timeout_keeps_other_results() {
    solo(|| {
        timeout(ms(1), || {
            std::thread::sleep(ms(5));
            Ok(())
        })
        .unwrap();
        let other = timeout(ms(1), || {
            assert_canceled(try_sleep(LONG));
            Err::<(), _>(io::Error::other("mine"))
        });
        assert_eq!(error(other).to_string(), "mine");
        // Every wait fails once it has passed, not only the first.
        let again = timeout(ms(1), || {
            for _ in 0..3 {
                assert_canceled(try_sleep(LONG));
            }
            try_sleep(Duration::ZERO)
        });
        assert_timed_out(again);
        assert_eq!(timeout(Duration::ZERO, || Ok(1)).unwrap(), 1);
        assert_timed_out(timeout(Duration::ZERO, || try_sleep(ms(1))));
        assert_timed_out(deadline_at(towpath::Instant::now(), || try_sleep(ms(1))));
        // A panic takes the deadline with it.
        panic_of(|| timeout(ms(1), || -> io::Result<()> { panic!("on purpose") }));
        try_sleep(ms(5)).unwrap();
    });
}

/// C18: deadlines around every kind of wait.
pub fn c18_every_wait_has_deadlines() {
    solo(|| {
        let (stream, _peer) = half();
        let (listener, _) = listener();
        assert_timed_out(timeout(ms(5), || (&stream).read(&mut [0; 8])));
        assert_timed_out(timeout(ms(5), || stream.peek(&mut [0; 8])));
        assert_timed_out(timeout(ms(5), || listener.accept()));
        net::fill(&stream, 1);
        assert_timed_out(timeout(ms(5), || (&stream).write(&[0; 8])));
        assert_timed_out(timeout(ms(5), || {
            thread::park();
            try_sleep(LONG)
        }));
        let begun = Instant::now();
        assert_timed_out(timeout(ms(5), || {
            thread::sleep(LONG);
            try_sleep(LONG)
        }));
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        assert_timed_out(timeout(ms(5), || towpath::blocking(move || is_done.recv().unwrap_err())));
        drop(done);
        assert_quick(begun, Duration::from_secs(1));
    });
}

/// C19: behind a shield waits go on; the first one after it fails.
pub fn c19_shield_defers_cancellation() {
    solo(|| {
        let log = Log::new();
        let (mine, guarded) = (log.clone(), Rc::new(Cell::new(false)));
        let inside = guarded.clone();
        let task = waiting(move || {
            shield(|| {
                inside.set(true);
                for _ in 0..3 {
                    mine.add(try_sleep(ms(2)).is_ok());
                }
                // A shield inside a shield changes nothing.
                shield(|| mine.add(try_sleep(ms(1)).is_ok()));
                mine.add(try_sleep(ms(1)).is_ok());
            });
            mine.add(try_sleep(LONG).is_ok());
            shield(|| mine.add(try_sleep(ms(1)).is_ok()));
            try_sleep(LONG)
        });
        until(|| guarded.get());
        task.cancel();
        assert_canceled(task.join().unwrap());
        assert_eq!(log.all(), [true, true, true, true, true, false, true]);
    });
}

/// C19: a shield hides deadlines outside of it, and not those inside.
pub fn c19_shield_and_deadlines() {
    solo(|| {
        let outer = timeout(ms(10), || {
            let begun = Instant::now();
            shield(|| try_sleep(ms(30))).expect("shielded");
            assert!(begun.elapsed() >= ms(30));
            try_sleep(LONG)
        });
        assert_timed_out(outer);
        // A success that the shield made late is one.
        assert_eq!(timeout(ms(1), || shield(|| try_sleep(ms(5))).map(|()| 3)).unwrap(), 3);

        let task = waiting(|| {
            shield(|| {
                assert_timed_out(timeout(ms(5), || try_sleep(LONG)));
                try_sleep(ms(1)).unwrap();
            });
            try_sleep(LONG)
        });
        task.cancel();
        assert_canceled(task.join().unwrap());
        // A panic takes the shield with it.
        let task = waiting(|| {
            panic_of(|| shield(|| panic!("on purpose")));
            try_sleep(LONG)
        });
        task.cancel();
        assert_canceled(task.join().unwrap());
    });
}

/// C20: what a writer was told is what its peer gets, however it ends.
pub fn c20_partial_progress() {
    let (stream, peer) = half();
    net::set_send_buffer(&stream, 4096);
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    let reader = solo(move || {
        let task = waiting(move || {
            loop {
                match (&stream).write(&[7; 10_000]) {
                    Ok(n) => count.set(count.get() + n),
                    Err(error) => return error,
                }
            }
        });
        // It writes until everything is full.
        let mut before = usize::MAX;
        while before != told.get() {
            before = told.get();
            try_sleep(ms(20)).unwrap();
        }
        task.cancel();
        assert_canceled(Err::<(), _>(task.join().unwrap()));
        (peer, told.get())
    });
    assert!(reader.1 > 0);
    assert_eq!(read_all(reader.0).len(), reader.1);
}

/// A task that is cancelled before it starts never runs; what it owns is dropped.
pub fn cancel_before_start() {
    solo(|| {
        let (ran, drops) = (Rc::new(Cell::new(false)), Drops::default());
        let (run, guard) = (ran.clone(), drops.guard());
        let task = thread::spawn_local(move || {
            let _guard = guard;
            run.set(true);
        });
        task.cancel();
        let panic = task.join().unwrap_err();
        assert!(panic.is::<Canceled>(), "{}", message(&*panic));
        assert_eq!((ran.get(), drops.count()), (false, 1));

        // The same for one that any worker may start, and for a detached one.
        let drops = Drops::default();
        let guard = drops.guard();
        let task = thread::spawn(move || drop(guard));
        task.cancel();
        let panic = task.join().unwrap_err();
        assert!(panic.is::<Canceled>(), "{}", message(&*panic));
        let guard = drops.guard();
        let task = thread::spawn(move || drop(guard));
        task.cancel();
        drop(task);
        until(|| drops.count() == 2);
    });
}

/// Cancelled while it is in the run queue: it runs on, and its next wait fails.
pub fn cancel_while_queued() {
    solo(|| {
        let log = Log::new();
        let mine = log.clone();
        let task = thread::spawn_local(move || {
            mine.add("one");
            thread::yield_now();
            mine.add("two");
            try_sleep(LONG)
        });
        until(|| log.len() > 0);
        assert_eq!(log.all(), ["one"]);
        task.cancel();
        assert_canceled(task.join().unwrap());
        assert_eq!(log.all(), ["one", "two"]);
    });
}

/// Cancelled from another thread while it computes: its next wait fails, without having begun.
pub fn cancel_while_running() {
    let runtime = runtime(2);
    let (started, cancelled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let flags = (started.clone(), cancelled.clone());
    let task = runtime.handle().spawn(move || {
        flags.0.store(true, Ordering::SeqCst);
        while !flags.1.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        let result = try_sleep(LONG);
        (result, begun.elapsed())
    });
    until(|| started.load(Ordering::SeqCst));
    task.cancel();
    cancelled.store(true, Ordering::SeqCst);
    let (result, took) = task.join().unwrap();
    assert_canceled(result);
    assert!(took < patience(ms(100)), "{took:?}");
}

/// Cancelling what has ended changes nothing; nor does cancelling twice.
pub fn cancel_after_end() {
    solo(|| {
        let task = waiting(|| 5);
        until(|| task.is_finished());
        task.cancel();
        task.cancel();
        assert_eq!(task.join().unwrap(), 5);
        let task = waiting(|| try_sleep(LONG));
        task.cancel();
        task.cancel();
        assert_canceled(task.join().unwrap());
        try_sleep(ms(1)).unwrap();
    });
}

/// Level-triggered: every wait fails, of every kind, until the task ends.
pub fn cancel_is_level_triggered() {
    solo(|| {
        let task = waiting(|| {
            assert_canceled(try_sleep(LONG));
            let begun = Instant::now();
            let (stream, mut peer) = half();
            let (listener, addr) = listener();
            for _ in 0..2 {
                assert_canceled(try_sleep(LONG));
                assert_canceled((&stream).read(&mut [0; 8]));
                assert_canceled(stream.peek(&mut [0; 8]));
                assert_canceled(listener.accept());
                assert_canceled(TcpStream::connect(addr));
                assert_canceled(TcpStream::connect("localhost:1"));
                assert_canceled(towpath::blocking(|| ()));
                assert_canceled(timeout(LONG, || try_sleep(LONG)));
                assert_canceled((&stream).read_exact(&mut [0; 8]));
                assert_canceled((&stream).read_to_end(&mut Vec::new()));
                thread::sleep(LONG);
                thread::park();
                thread::park_timeout(LONG);
                thread::yield_now();
            }
            assert_quick(begun, Duration::from_secs(1));
            // What is not a wait works.
            stream.local_addr().unwrap();
            stream.shutdown(std::net::Shutdown::Both).unwrap();
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
            shield(|| try_sleep(ms(1)))
        });
        task.cancel();
        task.join().unwrap().unwrap();
    });
}

/// A cancelled task whose read would not have to wait: either answer, but no byte lost.
pub fn cancelled_read_of_ready_data() {
    solo(|| {
        let (stream, mut peer) = half();
        peer.write_all(b"ready").unwrap();
        let stream = Rc::new(stream);
        let source = stream.clone();
        let task = waiting(move || {
            assert_canceled(try_sleep(LONG));
            let mut buf = [0; 5];
            (&*source).read(&mut buf).map(|n| buf[..n].to_vec())
        });
        task.cancel();
        let mut got = task.join().unwrap().unwrap_or_default();
        drop(peer);
        got.extend(read_all(&*stream));
        assert_eq!(got, b"ready");
    });
}

/// `join` itself is not cut short: there would be nothing to come back with.
pub fn cancel_does_not_cut_join_short() {
    solo(|| {
        let inner = Rc::new(RefCell::new(None::<JoinHandle<i32>>));
        *inner.borrow_mut() = Some(waiting(|| {
            thread::park();
            9
        }));
        let unpark = inner.borrow().as_ref().unwrap().thread().clone();
        let outer = waiting(move || {
            let handle = inner.borrow_mut().take().unwrap();
            let value = handle.join().unwrap();
            assert_canceled(try_sleep(LONG));
            value
        });
        outer.cancel();
        thread::yield_now();
        thread::yield_now();
        assert!(!outer.is_finished());
        unpark.unpark();
        assert_eq!(outer.join().unwrap(), 9);
    });
}

/// J8: a task that is cancelled in I/O gets an error and ends in good order; its destructors may wait.
pub fn j08_cancel_runs_destructors_in_order() {
    solo(|| {
        let log = Log::new();
        let mine = log.clone();
        let (stream, peer) = half();
        let task = waiting(move || -> io::Result<()> {
            let note = |text: &'static str| {
                let log = mine.clone();
                OnDrop(move || log.add(text))
            };
            let _first = note("first");
            let cleanup = mine.clone();
            let _second = OnDrop(move || {
                // Cancelled: an unshielded wait fails, a shielded one works.
                assert!(try_sleep(LONG).is_err());
                shield(|| try_sleep(ms(2))).unwrap();
                cleanup.add("second");
            });
            let _third = note("third");
            (&stream).read_exact(&mut [0; 64])?;
            mine.add("never");
            Ok(())
        });
        task.cancel();
        assert_canceled(task.join().unwrap());
        assert_eq!(log.all(), ["third", "second", "first"]);
        assert_eq!(read_all(peer), b"");
    });
}

/// A cancelled accept or read leaves listener and stream as they were, for whoever comes next.
pub fn cancelled_io_leaves_sockets_usable() {
    solo(|| {
        let (listener, addr) = listener();
        let listener: Rc<TcpListener> = listener.into();
        let shared = listener.clone();
        let task = waiting(move || shared.accept());
        let shared = listener.clone();
        let other = waiting(move || shared.accept());
        task.cancel();
        assert_canceled(task.join().unwrap());
        let client = TcpStream::connect(addr).unwrap();
        let (server, peer) = other.join().unwrap().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());

        let (client, server) = (Rc::new(client), Rc::new(server));
        for round in 0..10u8 {
            let shared = server.clone();
            let task = waiting(move || (&*shared).read(&mut [0; 8]));
            let shared = server.clone();
            let other = waiting(move || {
                let mut buf = [0; 8];
                (&*shared).read(&mut buf).map(|n| buf[..n].to_vec())
            });
            task.cancel();
            assert_canceled(task.join().unwrap());
            (&*client).write_all(&[round]).unwrap();
            assert_eq!(other.join().unwrap().unwrap(), [round]);
        }
    });
}

/// Cancelling a blocking job: one that has begun runs to its end, unseen; the task goes on at once.
pub fn cancel_blocking_job() {
    solo(|| {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let task = waiting(move || {
            towpath::blocking(move || {
                begin.send(()).unwrap();
                let _ = released.recv();
                count.fetch_add(1, Ordering::SeqCst);
            })
        });
        begun.recv().unwrap();
        task.cancel();
        assert_canceled(task.join().unwrap());
        assert_eq!(ended.load(Ordering::SeqCst), 0);
        drop(release);
        until(|| ended.load(Ordering::SeqCst) == 1);
    });
}
