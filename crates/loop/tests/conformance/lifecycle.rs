//! A: the loop's life. How it starts, runs, stops and ends, whatever it carries at the time.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::seccomp::{self, Action, Rule};
use towpath_harness::{net, sys};
use towpath_loop::{BackendKind, Config, Event, Instant, Loop, Socket, op};

use crate::common::*;

/// A1: ten thousand loops leave nothing behind.
pub fn a01_new_and_drop() {
    let turn = |n: u64| {
        for _ in 0..n {
            drop(new_loop());
        }
    };
    turn(100);
    let (fds, maps, rss) = (sys::fd_count(), sys::mappings(), sys::resident());
    turn(10_000);
    assert_eq!(sys::fd_count(), fds);
    // One mapping a loop would be ten thousand; the allocator may make a few.
    assert!(sys::mappings() <= maps + 8, "{maps} mappings became {}", sys::mappings());
    assert!(sys::resident() < rss + (8 << 20), "{rss} bytes became {}", sys::resident());
    assert!(sys::other_threads().len() <= 1, "{:?}", sys::other_threads());
}

/// A2: nothing to do, nothing to wait for. What was removed is nothing.
pub fn a02_run_with_nothing() {
    let loop_ = new_loop();
    let begun = StdInstant::now();
    loop_.run().unwrap();
    let (fate, fated) = Fate::new();
    let id = loop_.submit(op::timer(Duration::from_secs(3600)), move |_, _| fated.call());
    assert!(loop_.remove(id));
    loop_.run().unwrap();
    assert!(begun.elapsed() < towpath_harness::patience(Duration::from_millis(100)));
    assert_eq!(fate.calls(), 0);
}

/// A3: a stop before the run ends that run, at once, and no other.
pub fn a03_stop_before_run() {
    let loop_ = new_loop();
    let log = Log::new();
    for at in 0..3 {
        let log = log.clone();
        loop_.submit(op::next_tick(), move |_, _| log.add(at));
    }
    loop_.stop();
    loop_.run().unwrap();
    assert_eq!((log.len(), loop_.in_flight()), (0, 3));
    loop_.run().unwrap();
    assert_eq!((log.all(), loop_.in_flight()), (vec![0, 1, 2], 0));
}

/// A4: documented: what one wait brought in is delivered before `run` returns, also after a stop.
pub fn a04_stop_in_callback() {
    let loop_ = new_loop();
    let (far, log) = (Duration::from_secs(3600), Log::new());
    let timer = loop_.submit(op::timer(far), |_, outcome| assert!(canceled(outcome)));
    for at in 0..10 {
        let log = log.clone();
        loop_.submit(op::next_tick(), move |loop_, _| {
            log.add(at);
            if at == 3 {
                loop_.stop();
            }
        });
    }
    loop_.run().unwrap();
    assert_eq!(log.all(), (0..10).collect::<Vec<_>>());
    assert_eq!(loop_.in_flight(), 1);
    loop_.cancel(timer);
    loop_.run().unwrap();
    assert_eq!(log.len(), 10);
}

/// A5: a loop does not run inside itself, in none of the ways to run it.
pub fn a05_no_recursion() {
    let loop_ = current_loop();
    let done = Rc::new(Cell::new(0));
    let count = done.clone();
    loop_.submit(op::next_tick(), move |loop_, _| {
        let ticket = loop_.start(op::next_tick());
        assert_eq!(errno(loop_.run()), libc::EDEADLK);
        assert_eq!(errno(loop_.tick(None)), libc::EDEADLK);
        assert_eq!(errno(loop_.run_until(|| false)), libc::EDEADLK);
        assert_eq!(errno(op::timer(Duration::from_millis(1)).wait()), libc::EDEADLK);
        assert_eq!(errno(ticket.take()), libc::EDEADLK);
        count.set(count.get() + 1);
    });
    loop_.run().unwrap();
    // And afterwards it runs as before.
    let count = done.clone();
    loop_.submit(op::next_tick(), move |_, _| count.set(count.get() + 1));
    loop_.run().unwrap();
    assert_eq!(done.get(), 2);
    drop(Loop::take_current());
}

/// A6: a look without waiting brings what is there and nothing else, at once.
pub fn a06_tick_without_waiting() {
    let loop_ = new_loop();
    let (ready, mut peer) = half_unix();
    let (pending, _other) = unix();
    let mut waiting = loop_.start(op::recv(&pending, vec![0; 8]));
    poke(&loop_);
    let mut took = Vec::new();
    for _ in 0..50 {
        peer.write_all(b"x").unwrap();
        let mut ticket = loop_.start(op::recv(&ready, vec![0; 8]));
        let begun = StdInstant::now();
        assert_eq!(poke(&loop_), 1);
        took.push(begun.elapsed());
        assert_eq!(ticket.try_take().unwrap().unwrap().0, 1);
        assert!(waiting.try_take().is_none());
    }
    let median = percentile(&mut took, 0.5);
    assert!(median < towpath_harness::patience(Duration::from_millis(1)), "{median:?}");
}

/// A7: a chain of operations that complete at once does not grow the stack.
pub fn a07_chain_without_recursion() {
    thread_local! {
        static LOW_HIGH: Cell<(usize, usize)> = const { Cell::new((usize::MAX, 0)) };
    }
    fn link(loop_: &Loop, left: u32, socket: Socket) {
        let here = 0u8;
        let at = &raw const here as usize;
        LOW_HIGH.with(|range| range.set((range.get().0.min(at), range.get().1.max(at))));
        if left == 0 {
            return;
        }
        let next = socket.clone();
        match left % 3 {
            0 => loop_.submit(op::next_tick(), move |loop_, _| link(loop_, left - 1, next)),
            1 => loop_.submit(op::send(&socket, vec![1u8; 0]).all(true), move |loop_, _| {
                link(loop_, left - 1, next)
            }),
            _ => loop_.submit(op::timer(Duration::ZERO), move |loop_, _| link(loop_, left - 1, next)),
        };
    }
    let loop_ = new_loop();
    let (socket, _peer) = unix();
    link(&loop_, 100_000, socket);
    loop_.run().unwrap();
    let (low, high) = LOW_HIGH.get();
    assert!(high - low < 64 << 10, "{} bytes of stack", high - low);
    assert_eq!(loop_.stats().completed, 100_000);
}

/// A8: a callback may cancel, remove, close and submit whatever else is in its batch.
pub fn a08_meddling_in_one_batch() {
    for leader in 0..4 {
        let loop_ = new_loop();
        let pairs: Vec<_> = (0..4).map(|_| half_unix()).collect();
        let fates: Vec<_> = (0..4).map(|_| Fate::new()).collect();
        let (fates, mut guards): (Vec<_>, Vec<_>) = fates.into_iter().map(|(f, g)| (f, Some(g))).unzip();
        let ids = Rc::new(RefCell::new(Vec::new()));
        let meddled = Rc::new(Cell::new(false));
        let closed = Rc::new(Cell::new(0));
        for at in 0..4 {
            let guard = guards[at].take().unwrap();
            let (all, meddled, closed) = (ids.clone(), meddled.clone(), closed.clone());
            let socket = pairs[(at + 3) % 4].0.clone();
            let id = loop_.submit(op::recv(&pairs[at].0, vec![0; 8]), move |loop_, outcome| {
                guard.call();
                drop(outcome);
                if at != leader || meddled.replace(true) {
                    return;
                }
                let ids: Vec<_> = all.borrow().clone();
                loop_.cancel(ids[(at + 1) % 4]);
                loop_.remove(ids[(at + 2) % 4]);
                loop_.submit(op::close(socket), move |_, _| closed.set(closed.get() + 1));
                loop_.submit(op::next_tick(), |_, outcome| outcome.unwrap());
            });
            ids.borrow_mut().push(id);
        }
        poke(&loop_);
        for (_, peer) in &pairs {
            (&*peer).write_all(b"data").unwrap();
        }
        let sockets: Vec<_> = pairs.into_iter().map(|(socket, peer)| (drop(socket), peer)).collect();
        loop_.run().unwrap();
        let calls: Vec<_> = fates.iter().map(|fate| fate.calls()).collect();
        // The removed one may have been before the leader in the batch.
        for (at, calls) in calls.iter().enumerate() {
            let removed = at == (leader + 2) % 4;
            assert!(*calls == 1 || removed && *calls == 0, "leader {leader}: {calls:?}");
        }
        assert_eq!(closed.get(), 1);
        drop(sockets);
    }
}

/// A9: dropping the loop ends a thousand operations of all kinds, soon, and nobody writes to their memory later.
pub fn a09_drop_in_flight() {
    let fds = sys::fd_count();
    let loop_ = new_loop();
    let ran = Arc::new(AtomicUsize::new(0));
    let (mut fates, mut watches, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    let (listener, addr) = listener();
    let mut guard = || {
        let (fate, fated) = Fate::new();
        fates.push(fate);
        fated
    };
    for _ in 0..300 {
        let (ours, theirs) = half_unix();
        let (buf, watch) = Tracked::new(512, 0);
        let fated = guard();
        loop_.submit(op::recv(ours, buf).all(true), move |_, _| fated.call());
        watches.push(watch);
        peers.push(theirs);
    }
    for _ in 0..100 {
        let (ours, theirs) = half_unix();
        let (buf, watch) = Tracked::new(256 << 10, 7);
        let fated = guard();
        loop_.submit(op::send(ours, buf).all(true), move |_, _| fated.call());
        watches.push(watch);
        peers.push(theirs);
    }
    for at in 0..500 {
        let (a, b, c, d, e) = (guard(), guard(), guard(), guard(), guard());
        match at % 5 {
            0 => loop_.submit(op::accept(&listener), move |_, _| a.call()),
            1 => loop_.submit(op::timer(Duration::from_secs(3600)), move |_, _| b.call()),
            2 => loop_.submit(op::timer_at(Instant::NEVER), move |_, _| c.call()),
            3 => loop_.submit(Event::new().notified(), move |_, _| d.call()),
            _ => loop_.submit(op::poll(&listener, libc::POLLIN), move |_, _| e.call()),
        };
    }
    for _ in 0..20 {
        let (fated, ran) = (guard(), ran.clone());
        let job = move || ran.fetch_add(1, Ordering::Relaxed);
        loop_.submit(op::blocking(job), move |_, _| fated.call());
    }
    // Half of it reaches the kernel, half has not when the loop goes.
    poke(&loop_);
    let (buf, watch) = Tracked::new(512, 0);
    let (ours, theirs) = half_unix();
    let fated = guard();
    loop_.submit(op::recv(ours, buf), move |_, _| fated.call());
    watches.push(watch);
    peers.push(theirs);
    let client = std::net::TcpStream::connect(addr).unwrap();
    let called: u32 = fates.iter().map(|fate| fate.called()).sum();

    let begun = StdInstant::now();
    drop((loop_, listener));
    let took = begun.elapsed();
    assert!(took < towpath_harness::patience(Duration::from_secs(1)), "{took:?}");
    let calls: u32 = fates.iter().map(|fate| fate.calls()).sum();
    assert_eq!(calls, called, "callbacks were called by the drop");
    for peer in &mut peers {
        // The other end is gone; were it not, this would be read into freed memory.
        peer.set_nonblocking(true).unwrap();
        let _ = peer.write(b"late");
    }
    watches.iter().for_each(Watch::assert_intact);
    drop((client, peers));
    assert_eq!(sys::fd_count(), fds);
}

/// A9: a loop ends whose only request has found no thread of the pool free: nobody will report it.
pub fn a09_drop_what_no_thread_has_begun() {
    let other = new_loop();
    let gate = Arc::new(RwLock::new(()));
    let shut = gate.write().unwrap();
    let threads = std::thread::available_parallelism().map_or(64, |cpus| (cpus.get() * 4).max(64));
    for _ in 0..threads {
        let gate = gate.clone();
        other.submit(op::blocking(move || drop(gate.read())), |_, outcome| assert!(outcome.is_ok()));
    }
    while other.stats().pool_threads < threads || other.stats().pool_queued > 0 {
        std::thread::yield_now();
    }
    let loop_ = new_loop();
    loop_.submit(op::real_path("/"), |_, _| panic!("its loop is gone"));
    drop(loop_);
    drop(shut);
    tick_until(&other, || other.in_flight() == 0);
}

/// A10: two loops on one thread, then on two, keep to themselves.
pub fn a10_two_loops() {
    fn exercise(first: &Loop, second: &Loop) {
        let count = Rc::new(Cell::new((0, 0)));
        let sockets: Vec<_> = (0..100).map(|_| (half_unix(), half_unix())).collect();
        for ((a, _), (b, _)) in &sockets {
            let (one, two) = (count.clone(), count.clone());
            first.submit(op::recv(a, vec![0; 8]), move |_, outcome| {
                assert_eq!(outcome.unwrap().1[0], 1);
                one.set((one.get().0 + 1, one.get().1));
            });
            second.submit(op::recv(b, vec![0; 8]), move |_, outcome| {
                assert_eq!(outcome.unwrap().1[0], 2);
                two.set((two.get().0, two.get().1 + 1));
            });
        }
        for ((_, a), (_, b)) in &sockets {
            (&*a).write_all(&[1]).unwrap();
            (&*b).write_all(&[2]).unwrap();
        }
        first.run().unwrap();
        assert_eq!(count.get(), (100, 0), "the first loop delivered for the second");
        second.run().unwrap();
        assert_eq!(count.get(), (100, 100));
    }
    exercise(&new_loop(), &new_loop());
    let threads: Vec<_> = (0..2).map(|_| std::thread::spawn(|| exercise(&new_loop(), &new_loop()))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A12: the handles that a callback can get at may go; so may another loop with operations in flight.
pub fn a12_drop_inside_callback() {
    let loop_ = current_loop();
    let other = new_loop();
    let (fate, fated) = Fate::new();
    let (socket, mut peer) = half_unix();
    other.submit(op::recv(socket, vec![0; 64]), move |_, _| fated.call());
    poke(&other);
    let kept = loop_.clone();
    let (after, after_guard) = Fate::new();
    loop_.submit(op::next_tick(), move |loop_, _| {
        drop((kept, other, Loop::take_current()));
        loop_.submit(op::next_tick(), move |_, _| after_guard.call());
    });
    loop_.run().unwrap();
    assert_eq!((fate.calls(), after.calls()), (0, 1));
    assert!(peer.write_all(b"x").is_err(), "the other loop's socket is still open");
}

/// A13: no descriptors, or no memory for the ring: an error, and nothing left.
pub fn a13_init_fails() {
    drop(new_loop()); // whatever is made once a process is made now
    let fds = sys::fds();
    let mut worked = false;
    for spare in 0..8 {
        let (filler, limit) = sys::spare_fds(spare);
        let result = Loop::new();
        drop(limit);
        let code = result.as_ref().err().map(|error| error.raw_os_error());
        assert!(matches!(code, None | Some(Some(libc::EMFILE))), "{result:?}");
        assert!(!worked || result.is_ok(), "more descriptors helped less");
        assert!(spare > 0 || result.is_err());
        worked = result.is_ok();
        drop((result, filler));
        assert_eq!(sys::fds(), fds, "with {spare} to spare");
    }
    assert!(worked);
    // Mappings of files fail (the ring's are such); on a thread, since a filter stays.
    let maps = sys::mappings();
    let thread = std::thread::spawn(|| {
        let rule = Rule::new(libc::SYS_mmap, Action::Refuse(libc::ENOMEM));
        seccomp::install(&[rule.unless_argument(4, u32::MAX)]);
        (0..20).map(|_| Loop::new().map(drop).map_err(|error| error.kind())).collect::<Vec<_>>()
    });
    for result in thread.join().unwrap() {
        if new_loop().backend() == "io_uring" {
            assert_eq!(result, Err(io::ErrorKind::OutOfMemory));
        } else {
            assert_eq!(result, Ok(()));
        }
    }
    assert_eq!(sys::fds(), fds);
    assert!(sys::mappings() <= maps + 8);
    let wanted = BackendKind::ALL.iter().find(|kind| kind.name() == new_loop().backend());
    assert!(Config::new().backend(*wanted.unwrap()).build().is_ok());
}

/// A14: a panic in a callback comes out of `tick`; the loop and the rest of the batch are none the worse.
pub fn a14_panic_in_callback() {
    let loop_ = current_loop();
    let log = Log::new();
    let (socket, mut peer) = half_unix();
    let pending = loop_.start(op::recv(&socket, vec![0; 8]));
    for at in 0..10 {
        let log = log.clone();
        loop_.submit(op::next_tick(), move |_, _| {
            log.add(at);
            assert!(at % 4 != 2, "on purpose");
        });
    }
    let mut panics = 0;
    while log.len() < 10 {
        match catch_unwind(AssertUnwindSafe(|| poke(&loop_))) {
            Ok(_) => {}
            Err(payload) => {
                assert!(payload.downcast_ref::<&str>().is_some_and(|text| text.contains("on purpose")));
                panics += 1;
            }
        }
        assert!(panics <= 2);
    }
    assert_eq!((panics, log.all()), (2, (0..10).collect::<Vec<_>>()));
    peer.write_all(b"fine").unwrap();
    let (n, buf) = pending.take().unwrap().unwrap();
    assert_eq!(&buf[..n], b"fine");

    // Also while somebody waits in blocking style, with a borrowed buffer in flight.
    loop_.submit(op::next_tick(), |_, _| panic!("on purpose"));
    let mut buf = [0; 16];
    let waited = catch_unwind(AssertUnwindSafe(|| op::recv(&socket, &mut buf[..]).wait()));
    assert!(waited.is_err(), "the panic got lost");
    assert_eq!(loop_.in_flight(), 0, "an operation still points to this frame");
    peer.write_all(b"more").unwrap();
    assert_eq!(buf, [0; 16]);
    assert_eq!(op::recv(&socket, &mut buf[..]).wait().unwrap(), 4);
    drop(net::unix_pair());
    drop(Loop::take_current());
}
