//! H: full queues, no descriptors, limits reached: nothing is lost, nothing spins.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as StdInstant};

use rustix::process::Resource;
use towpath_harness::cgroup::MemoryGroup;
use towpath_harness::process::{self, Ended};
use towpath_harness::{net, sys};
use towpath_loop::{Config, Loop, Socket, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// A ring as small as it gets; on other backends, any loop.
fn tiny_loop() -> Loop {
    loop_with(&Config::new().ring_entries(8).ring_completions(16))
}

/// H1: far more operations in one turn than the queue has room for, in their order on each socket.
pub fn h01_more_than_the_queue_holds() {
    let loop_ = loop_with(&Config::new().ring_entries(8));
    let done = Rc::new(Cell::new(0));
    let pairs: Vec<_> = (0..10).map(|_| half_tcp()).collect();
    for at in 0..10_000u32 {
        let done = done.clone();
        let socket = &pairs[at as usize % 10].0;
        loop_.submit(op::send(socket, at.to_be_bytes()), move |_, outcome| {
            assert_eq!(outcome.unwrap().0, 4);
            done.set(done.get() + 1);
        });
    }
    loop_.run().unwrap();
    assert_eq!(done.get(), 10_000);
    for (at, mut peer) in pairs.iter().map(|pair| &pair.1).enumerate() {
        let mut bytes = [0; 4000];
        peer.read_exact(&mut bytes).unwrap();
        let numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes) as usize);
        assert!(numbers.eq((at..10_000).step_by(10)), "socket {at}: not in order");
    }
}

/// H2: 100 000 completions before anybody looks, with room for 16.
pub fn h02_completion_queue_overflows() {
    let loop_ = tiny_loop();
    let done = Rc::new(Cell::new(0));
    let (socket, _peer) = unix();
    for _ in 0..100_000 {
        let done = done.clone();
        loop_.submit(op::poll(&socket, libc::POLLOUT), move |_, outcome| {
            assert_eq!(outcome.unwrap(), libc::POLLOUT);
            done.set(done.get() + 1);
        });
    }
    loop_.run().unwrap();
    assert_eq!(done.get(), 100_000);
    // The same with completions that come later, all at once.
    let (readers, mut writer) = {
        let (a, b) = half_unix();
        (a, b)
    };
    done.set(0);
    for _ in 0..10_000 {
        let done = done.clone();
        loop_.submit(op::poll(&readers, libc::POLLIN), move |_, outcome| {
            assert_eq!(outcome.unwrap() & libc::POLLIN, libc::POLLIN);
            done.set(done.get() + 1);
        });
    }
    poke(&loop_);
    assert_eq!(done.get(), 0);
    writer.write_all(b"x").unwrap();
    loop_.run().unwrap();
    assert_eq!(done.get(), 10_000);
    // The loop sleeps again as it should: the harness looks at descriptors, this at wake-ups.
    let ticks = loop_.stats().ticks;
    loop_.start(op::timer(50 * MS)).take().unwrap().unwrap();
    assert!(loop_.stats().ticks < ticks + 10);
}

/// H3: cancels that find no room in the queue get through all the same.
pub fn h03_cancel_with_full_queue() {
    let loop_ = tiny_loop();
    let (socket, _peer) = unix();
    let done = Rc::new(Cell::new(0));
    for reaches_kernel in [false, true] {
        let ids: Vec<_> = (0..10_000)
            .map(|_| {
                let done = done.clone();
                loop_.submit(op::recv(&socket, [0; 8]), move |_, outcome| {
                    assert!(canceled(outcome));
                    done.set(done.get() + 1);
                })
            })
            .collect();
        if reaches_kernel {
            poke(&loop_);
        }
        // And the queue full of something else.
        let others: Vec<_> = (0..100).map(|_| loop_.start(op::poll(&socket, libc::POLLOUT))).collect();
        for id in &ids {
            assert!(loop_.cancel(*id));
        }
        let begun = StdInstant::now();
        loop_.run().unwrap();
        assert!(begun.elapsed() < towpath_harness::patience(Duration::from_secs(2)), "{:?}", begun.elapsed());
        assert_eq!(done.replace(0), 10_000);
        others.into_iter().for_each(|ticket| assert_eq!(ticket.take().unwrap().unwrap(), libc::POLLOUT));
    }
}

/// H4: wake-ups from another thread get through while, and after, the completion queue overflows.
pub fn h04_wakes_survive_overflow() {
    let loop_ = tiny_loop();
    let remote = loop_.remote();
    let (socket, _peer) = unix();
    let seen = Arc::new(AtomicU64::new(0));
    let (to, tid) = (seen.clone(), sys::tid());
    let rounds = 200;
    let thread = std::thread::spawn(move || {
        for round in 0..rounds {
            let to2 = to.clone();
            if round % 2 == 0 {
                sys::wait_until_asleep(tid);
            }
            remote.run(move |_| _ = to2.fetch_add(1, Ordering::Release)).unwrap();
            while to.load(Ordering::Acquire) <= round {
                std::hint::spin_loop();
            }
        }
    });
    let done = Rc::new(Cell::new(0u64));
    let mut expected = 0;
    while seen.load(Ordering::Acquire) < rounds {
        let round = seen.load(Ordering::Acquire);
        if expected < 200 * (round + 1) {
            for _ in 0..200 {
                let done = done.clone();
                loop_.submit(op::poll(&socket, libc::POLLOUT), move |_, _| done.set(done.get() + 1));
            }
            expected += 200;
        }
        loop_.tick(None).unwrap();
    }
    loop_.run().unwrap();
    thread.join().unwrap();
    assert_eq!(done.get(), expected);
}

/// H5: no descriptor left while clients wait: an error or a pause, not a spin; others are served; it recovers.
pub fn h05_no_descriptors_for_accept() {
    fn accept(loop_: &Loop, listener: Socket, failed: Rc<Cell<u32>>, got: Log<Socket>) {
        let again = listener.clone();
        loop_.submit(op::accept(&listener), move |loop_, outcome| {
            match outcome {
                Ok((socket, _)) => got.add(socket),
                Err(error) if towpath_loop::is_canceled(&error) => return,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                    failed.set(failed.get() + 1);
                }
            }
            // As a server does that knows no better: at once again.
            accept(loop_, again, failed, got);
        });
    }
    let loop_ = new_loop();
    let (listener, addr) = listener();
    let (socket, mut other) = half_unix();
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let (failed, got) = (Rc::new(Cell::new(0)), Log::new());
    let (filler, limit) = sys::spare_fds(0);
    accept(&loop_, listener, failed.clone(), got.clone());
    let (begun, cpu) = (StdInstant::now(), sys::cpu_time());
    let mut echoes = 0;
    while begun.elapsed() < 400 * MS {
        other.write_all(b"x").unwrap();
        let ticket = loop_.start(op::recv(&socket, vec![0; 1]));
        assert_eq!(ticket.take().unwrap().unwrap().0, 1);
        loop_.start(op::timer(5 * MS)).take().unwrap().unwrap();
        echoes += 1;
    }
    let share = (sys::cpu_time() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.2, "{:.0} % of a CPU, {} failures", share * 100.0, failed.get());
    assert!(echoes > 10 && got.len() == 0);
    assert!((1..200).contains(&failed.get()), "{} errors in 400 ms", failed.get());
    drop((filler, limit));
    tick_until(&loop_, || got.len() == 3);
    loop_.cancel_all();
    loop_.run().unwrap();
    drop(clients);
}

/// H11: a limit on what may be in flight: what is beyond is refused, through its callback, and can be asked before.
pub fn h11_limit_on_operations() {
    let loop_ = Config::new().max_operations(100).build().unwrap();
    let (socket, mut peer) = half_unix();
    let tickets: Vec<_> = (0..100).map(|_| loop_.start(op::recv(&socket, vec![0; 1]))).collect();
    assert!(loop_.is_full());
    let (fate, fated) = Fate::new();
    loop_.submit(op::send(&socket, vec![1; 8]), move |_, outcome| {
        let failed = outcome.unwrap_err();
        assert_eq!(failed.error.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(failed.buf, Some(vec![1; 8]));
        fated.call();
    });
    assert_eq!(fate.called(), 0, "inline");
    poke(&loop_);
    assert_eq!(fate.calls(), 1);
    peer.set_nonblocking(true).unwrap();
    assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it was tried");
    peer.write_all(&[0; 100]).unwrap();
    tickets.into_iter().for_each(|ticket| assert_eq!(ticket.take().unwrap().unwrap().0, 1));
    assert!(!loop_.is_full());
    assert_eq!(loop_.start(op::send(&socket, vec![1; 8])).take().unwrap().unwrap().0, 8);
}

/// H11: what a runtime needs for itself is not refused, and takes no room from others.
pub fn h11_uncounted_operations() {
    let loop_ = Config::new().max_operations(2).build().unwrap();
    let (socket, _peer) = half_unix();
    let fired = Log::new();
    let timer = |after: u64| {
        let fired = fired.clone();
        let wait = Duration::from_millis(after);
        loop_.submit_uncounted(op::timer(wait), move |_, outcome| fired.add(outcome.is_ok()))
    };
    let day = 86_400_000;
    let (first, second, _third) = (timer(day), timer(day), timer(1));
    assert!(!loop_.is_full());
    let recvs = [0, 1].map(|_| loop_.start(op::recv(&socket, vec![0; 8])));
    assert!(loop_.is_full());
    let fourth = timer(1);
    tick_until(&loop_, || fired.len() == 2);
    assert!(loop_.is_full() && !loop_.cancel(fourth));
    loop_.cancel(first);
    loop_.remove(second);
    poke(&loop_);
    assert_eq!(fired.all(), [true, true, false]);
    assert!(loop_.is_full());
    drop(recvs);
    loop_.run().unwrap();
    assert!(!loop_.is_full() && loop_.in_flight() == 0);
    // As a whole, a batch finds as much room as before.
    let tickets = [0, 1].map(|_| loop_.start(op::next_tick()));
    assert!(loop_.is_full());
    tickets.into_iter().for_each(|ticket| ticket.take().unwrap().unwrap());
}

/// H10: ten thousand connections that wait, in a group of processes that may have 64 MiB, the kernel's memory for them
/// included. Then all of them have something to say.
pub fn h10_idle_connections_in_little_memory() {
    const MANY: usize = 10_000;
    const ROOM: u64 = 64 << 20;
    /// What a connection may take of the process's own memory: the buffer of its receive, the loop's notes, the test's.
    const EACH: u64 = 1024;
    let fds = MANY as u64 + 200;
    if rustix::process::getrlimit(Resource::Nofile).maximum.is_some_and(|most| most < fds) {
        towpath_harness::skip("too few descriptors");
    }
    let _limit = sys::limit(Resource::Nofile, fds);
    let group = MemoryGroup::new(ROOM)
        .unwrap_or_else(|error| towpath_harness::skip(&format!("no control group for memory: {error}")));
    let (plain, addr) = net::listener();
    // It should not have to ask twice.
    rustix::net::listen(&plain, 4096).unwrap();
    let child = process::fork(|| {
        group.enter().unwrap();
        let before = sys::resident();
        let loop_ = current_loop();
        let listener = socket(plain.try_clone().unwrap());
        let heard = Rc::new(Cell::new(0));
        let sockets: Vec<_> = (0..MANY)
            .map(|_| {
                let (socket, _) = op::accept(&listener).wait().unwrap();
                let heard = heard.clone();
                loop_.submit(op::recv(&socket, vec![0; 64]), move |_, got| {
                    assert_eq!(got.unwrap().0, 1);
                    heard.set(heard.get() + 1);
                });
                socket
            })
            .collect();
        poke(&loop_);
        let each = sys::resident().saturating_sub(before) / MANY as u64;
        assert!(each < EACH, "{each} bytes for each connection");
        // Everybody is there: they may speak.
        op::send(&sockets[0], b"!").wait().unwrap();
        loop_.run().unwrap();
        assert_eq!((heard.get(), loop_.in_flight()), (MANY, 0));
        0
    });
    drop(plain);
    let mut clients: Vec<_> = (0..MANY).map_while(|_| TcpStream::connect(addr).ok()).collect();
    // An error here has its reason there.
    if clients.first_mut().is_some_and(|first| first.read_exact(&mut [0]).is_ok()) {
        clients.iter_mut().for_each(|client| drop(client.write_all(b"x")));
    }
    clients.iter().for_each(net::reset_on_close);
    let ended = child.wait();
    let peak = group.peak().unwrap_or(0) >> 10;
    assert_eq!(ended, Ended::Code(0), "{} connections, {peak} KiB at most", clients.len());
}
