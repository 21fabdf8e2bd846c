//! N: everybody gets a turn, and nobody has one when there is nothing to do.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use towpath_harness::{net, sys};
use towpath_loop::{Loop, SockAddr, Socket, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// N1, N7: two operations that call each other for ever, a timer, a socket and posts from a thread: all are served.
pub fn n01_ping_pong_starves_nobody() {
    fn ping(loop_: &Loop, over: Rc<Cell<bool>>) {
        loop_.submit(op::next_tick(), move |loop_, _| {
            if !over.get() {
                ping(loop_, over);
            }
        });
    }
    let loop_ = new_loop();
    let over = Rc::new(Cell::new(false));
    ping(&loop_, over.clone());
    ping(&loop_, over.clone());
    let (socket, mut peer) = half_unix();
    let remote = loop_.remote();
    let (send, posted) = std::sync::mpsc::channel();
    let yardstick = Yardstick::start();
    let mut took = Vec::new();
    for _ in 0..100 {
        let (timed, read) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(None)));
        let (to_timed, to_read, send) = (timed.clone(), read.clone(), send.clone());
        let begun = StdInstant::now();
        loop_.submit(op::timer(MS), move |_, _| to_timed.set(Some(begun.elapsed() - MS)));
        loop_.submit(op::recv(&socket, vec![0; 1]), move |_, _| to_read.set(Some(begun.elapsed())));
        peer.write_all(b"x").unwrap();
        remote.run(move |_| send.send(begun.elapsed()).unwrap()).unwrap();
        while timed.get().is_none() || read.get().is_none() {
            poke(&loop_);
            assert!(begun.elapsed() < Duration::from_secs(2), "starved: {:?} {:?}", timed.get(), read.get());
        }
        let post = posted.try_recv().expect("the post was starved");
        took.extend([timed.get().unwrap(), read.get().unwrap(), post]);
    }
    over.set(true);
    loop_.run().unwrap();
    let (p95, limit) = (percentile(&mut took, 0.95), yardstick.allow(10 * MS, Duration::ZERO));
    assert!(p95 < limit, "{p95:?}, limit {limit:?}");
}

/// N2: one socket that always has data, and a hundred that trickle: those wait no longer than a round.
pub fn n02_flood_and_trickle() {
    fn swallow(loop_: &Loop, socket: Socket, total: Rc<Cell<usize>>) {
        let again = socket.clone();
        loop_.submit(op::recv(&socket, vec![0; 1 << 16]), move |loop_, outcome| {
            let n = outcome.unwrap().0;
            total.set(total.get() + n);
            if n > 0 {
                swallow(loop_, again, total);
            }
        });
    }
    fn echo(loop_: &Loop, socket: Socket) {
        let to = socket.clone();
        loop_.submit(op::recv(&socket, vec![0; 1]), move |loop_, outcome| {
            let (n, byte) = outcome.unwrap();
            if n > 0 {
                loop_.submit(op::send(&to, byte), |_, _| ());
                echo(loop_, to);
            }
        });
    }
    let loop_ = new_loop();
    let total = Rc::new(Cell::new(0));
    let (flood, mut hose) = half_unix();
    swallow(&loop_, flood, total.clone());
    let mut trickles = Vec::new();
    for _ in 0..100 {
        let (socket, peer) = half_unix();
        echo(&loop_, socket);
        trickles.push(peer);
    }
    let yardstick = Yardstick::start();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let flooding = std::thread::spawn(move || {
        let chunk = vec![0; 1 << 16];
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            hose.write_all(&chunk).unwrap();
        }
    });
    let trickling = std::thread::spawn(move || {
        let mut took = Vec::new();
        for _ in 0..10 {
            for peer in &mut trickles {
                let begun = StdInstant::now();
                peer.write_all(b"x").unwrap();
                peer.read_exact(&mut [0]).unwrap();
                took.push(begun.elapsed());
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (took, sys::cpu_wait())
    });
    loop_.run().unwrap();
    flooding.join().unwrap();
    let (mut took, waited) = trickling.join().unwrap();
    let (p99, limit) = (percentile(&mut took, 0.99), yardstick.allow(10 * MS, waited));
    assert!(p99 < limit, "{p99:?}, limit {limit:?}");
    assert!(total.get() > 1 << 20, "there was no flood");
}

/// N4: of many that are ready at once, each is served before any is served twice.
pub fn n04_each_before_any_twice() {
    fn serve(loop_: &Loop, socket: Socket, at: usize, left: u32, log: Log<usize>) {
        let again = socket.clone();
        loop_.submit(op::recv(&socket, vec![0; 1]), move |loop_, _| {
            log.add(at);
            if left > 1 {
                serve(loop_, again, at, left - 1, log);
            }
        });
    }
    let loop_ = new_loop();
    let log = Log::new();
    let pairs: Vec<_> = (0..2000).map(|_| half_unix()).collect();
    for (at, (socket, _)) in pairs.iter().enumerate() {
        serve(&loop_, socket.clone(), at, 3, log.clone());
    }
    poke(&loop_);
    for (_, peer) in &pairs {
        (&*peer).write_all(b"abc").unwrap();
    }
    loop_.run().unwrap();
    for round in log.all().chunks(pairs.len()) {
        let mut round = round.to_vec();
        round.sort_unstable();
        assert!(round.iter().copied().eq(0..pairs.len()), "some were served twice before others");
    }
}

/// N5: hung up, in error, half closed, or with clients waiting, while nobody has an operation on it: no CPU.
pub fn n05_nobody_waits_nobody_spins() {
    let loop_ = new_loop();
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    let registered = RefCell::new(Vec::new());
    // Each has been waited on once, so that whatever a backend remembers is there.
    let once = |socket: &Socket| {
        let ticket = loop_.start(op::recv(socket, vec![0; 1]).timeout(Duration::from_micros(100)));
        assert!(ticket.take().unwrap().is_err());
        let ticket = loop_.start(op::poll(socket, libc::POLLIN | libc::POLLRDHUP));
        poke(&loop_);
        drop(ticket);
        poke(&loop_);
        registered.borrow_mut().push(socket.clone());
    };
    let (hung_up, peer) = half_unix();
    once(&hung_up);
    drop(peer);
    let (half, peer) = half_tcp();
    once(&half);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    keep.push(Box::new(peer));
    let (reset, peer) = half_tcp();
    once(&reset);
    net::reset_on_close(&peer);
    drop(peer);
    let (unread, mut peer) = half_unix();
    once(&unread);
    peer.write_all(b"data").unwrap();
    keep.push(Box::new(peer));
    let (listener, addr) = listener();
    let ticket = loop_.start(op::accept(&listener).timeout(Duration::from_micros(100)));
    assert!(ticket.take().unwrap().is_err());
    keep.push(Box::new(std::net::TcpStream::connect(addr).unwrap()));
    // One side read, the other blocked for ever, with a hang-up that the reader has seen.
    let (full, peer) = half_tcp();
    net::fill(&full, 0);
    let blocked = loop_.start(op::send(&full, vec![0; 1]));
    poke(&loop_);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(loop_.start(op::recv(&full, vec![0; 1])).take().unwrap().unwrap().0, 0);
    keep.push(Box::new(peer));

    let before = loop_.stats();
    loop_.start(op::timer(400 * MS)).take().unwrap().unwrap();
    let ticks = loop_.stats().ticks - before.ticks;
    assert!(ticks < 40, "{ticks} wake-ups for nothing in 400 ms");
    drop((blocked, keep));
}

/// N6: many idle connections cost an idle loop nothing.
pub fn n06_idle_loop_sleeps() {
    let loop_ = new_loop();
    let pairs: Vec<_> = (0..2000).map(|_| unix()).collect();
    let tickets: Vec<_> = pairs.iter().map(|(a, _)| loop_.start(op::recv(a, vec![0; 1]))).collect();
    poke(&loop_);
    let before = loop_.stats();
    let begun = StdInstant::now();
    while begun.elapsed() < Duration::from_millis(990) {
        loop_.tick(Some(Duration::from_secs(1))).unwrap();
    }
    let after = loop_.stats();
    assert!(after.ticks - before.ticks <= 3, "{} wake-ups in a second", after.ticks - before.ticks);
    assert!(after.syscalls - before.syscalls <= 10, "{} system calls", after.syscalls - before.syscalls);
    drop(tickets);
}

/// N5: a descriptor that polls as writable and is not. Nothing tells when it is, so who drives the loop from outside has to be
/// told when to look.
pub fn n05_false_readiness_of_an_embedded_loop() {
    let loop_ = new_loop();
    let path = std::env::temp_dir().join(format!("towpath-full-{}", std::process::id()));
    let full = UnixDatagram::bind(&path).unwrap();
    full.set_nonblocking(true).unwrap();
    let stuffer = UnixDatagram::unbound().unwrap();
    stuffer.set_nonblocking(true).unwrap();
    while stuffer.send_to(b"x", &path).is_ok() {}
    let source = socket(UnixDatagram::unbound().unwrap());
    let sent = Log::new();
    let log = sent.clone();
    let to = SockAddr::from(&socket2::SockAddr::unix(&path).unwrap());
    loop_.submit(op::send_to(&source, b"late".to_vec(), to), move |_, sent| log.add(sent.unwrap().0));
    poke(&loop_);
    let room = std::thread::spawn(move || {
        // When the loop is asleep, as far as can be.
        std::thread::sleep(20 * MS);
        while full.recv(&mut [0; 8]).is_ok() {}
        full
    });
    let begun = StdInstant::now();
    while sent.len() == 0 {
        assert!(begun.elapsed() < towpath_harness::patience(Duration::from_secs(3)), "it was told to sleep");
        let sleep = loop_.next_deadline().map(|at| at.saturating_duration_since(loop_.clock()));
        let sleep = Timespec::try_from(sleep.unwrap_or(Duration::from_secs(10))).unwrap();
        let watch = |fd: BorrowedFd<'_>| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&sleep));
        match loop_.with_fd(|fd| fd.map(watch)) {
            Some(polled) => _ = polled.unwrap(),
            None => std::thread::sleep(MS),
        }
        poke(&loop_);
    }
    drop(room.join().unwrap());
    std::fs::remove_file(path).unwrap();
    assert_eq!(sent.all(), [4]);
}
