//! N: nobody starves, nothing spins.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use towpath::Handle;
use towpath::net::TcpStream;
use towpath::sync::mpsc;
use towpath::thread::{self, Placement, try_sleep};
use towpath_harness::{net, sys};

use crate::common::*;

/// Served in time at least nineteen times out of twenty: the machine itself takes a time slice now and then.
#[track_caller]
fn assert_prompt(times: &mut [Duration], limit: Duration) {
    let p95 = percentile(times, 0.95);
    assert!(p95 < patience(limit), "{p95:?}");
}

/// A socket that is pinged from a plain thread, and how long the answers take.
fn pinger(rounds: usize, stop: Arc<AtomicBool>) -> (TcpStream, std::thread::JoinHandle<Vec<Duration>>) {
    let (stream, mut peer) = half();
    let thread = std::thread::spawn(move || {
        let times = (0..rounds)
            .map(|_| {
                let begun = Instant::now();
                peer.write_all(b"x").unwrap();
                peer.read_exact(&mut [0]).unwrap();
                begun.elapsed()
            })
            .collect();
        stop.store(true, Ordering::SeqCst);
        times
    });
    (stream, thread)
}

fn echo(stream: TcpStream) {
    let mut buf = [0; 64];
    while let n @ 1.. = (&stream).read(&mut buf).unwrap() {
        (&stream).write_all(&buf[..n]).unwrap();
    }
}

/// Timers and a socket, next to `others` that never stop on their own.
fn timers_and_socket_beside(others: impl FnOnce(Arc<AtomicBool>)) {
    beside_on(1, others);
}

/// As [`timers_and_socket_beside`], on so many workers.
fn beside_on(workers: usize, others: impl FnOnce(Arc<AtomicBool>)) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stream, pings) = pinger(50, stop.clone());
    let waited = sys::cpu_wait();
    let mut late = runtime(workers).run(|| {
        others(stop.clone());
        let server = thread::spawn_local(|| echo(stream));
        let mut late = Vec::new();
        while !stop.load(Ordering::SeqCst) || late.len() < 20 {
            let begun = Instant::now();
            try_sleep(ms(2)).unwrap();
            late.push(begun.elapsed() - ms(2));
        }
        server.join().unwrap();
        late
    });
    // What other processes took from the worker is not the runtime's.
    let limit = ms(10) + sys::cpu_wait().saturating_sub(waited);
    assert_prompt(&mut late, limit);
    assert_prompt(&mut pings.join().unwrap(), limit);
}

/// N1: two tasks that wake each other for ever.
pub fn n01_ping_pong() {
    timers_and_socket_beside(|stop| {
        let other: Rc<Cell<Option<thread::Thread>>> = Rc::default();
        let (first, stopped) = (other.clone(), stop.clone());
        let a = thread::spawn_local(move || {
            let b = loop {
                match first.take() {
                    Some(b) => break b,
                    None => thread::yield_now(),
                }
            };
            while !stopped.load(Ordering::Relaxed) {
                b.unpark();
                thread::park_timeout(LONG);
            }
            b.unpark();
        });
        let partner = a.thread().clone();
        thread::spawn_local(move || {
            other.set(Some(thread::current()));
            while !stop.load(Ordering::Relaxed) {
                thread::park();
                partner.unpark();
            }
            partner.unpark();
        });
    });
}

/// N1: two tasks of two workers that send each other messages for ever. Neither worker sleeps then, and the loop is looked after
/// all the same.
pub fn n01_ping_pong_between_workers() {
    beside_on(2, |stop| {
        let (there, back) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
        let on = |worker| thread::Builder::new().placement(Placement::Worker(worker));
        let answers = move || there.1.iter().try_for_each(|n: u64| back.0.send(n + 1));
        on(1).spawn(answers).unwrap();
        let asks = move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                there.0.send(n).unwrap();
                n = back.1.recv().unwrap();
            }
            assert!(n > 0);
        };
        on(0).spawn(asks).unwrap();
    });
}

/// N3: tasks that compute and yield.
pub fn n03_computing_tasks_that_yield() {
    timers_and_socket_beside(|stop| {
        for _ in 0..4 {
            let stop = stop.clone();
            thread::spawn_local(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_micros(100) {
                        std::hint::spin_loop();
                    }
                    thread::yield_now();
                }
            });
        }
    });
}

/// N3: a task whose operations never have to wait, so that it never does.
pub fn n03_operations_that_never_wait() {
    timers_and_socket_beside(|stop| {
        thread::spawn_local(move || {
            let (a, b) = pair();
            while !stop.load(Ordering::Relaxed) {
                (&a).write_all(&[1; 64]).unwrap();
                (&b).read_exact(&mut [0; 64]).unwrap();
            }
        });
    });
}

/// N3: spawning without end, each task over at once.
pub fn n03_spawning_without_end() {
    timers_and_socket_beside(|stop| {
        thread::spawn_local(move || {
            while !stop.load(Ordering::Relaxed) {
                thread::spawn(|| ()).join().unwrap();
            }
        });
    });
}

/// N2: one socket that always has data, and some that rarely do.
pub fn n02_busy_socket_and_trickles() {
    let stop = Arc::new(AtomicBool::new(false));
    let (busy, mut flood) = half();
    let stopped = stop.clone();
    let flooder = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            flood.write_all(&[0; 64 << 10]).unwrap();
        }
    });
    let (streams, mut peers): (Vec<_>, Vec<_>) = (0..20).map(|_| half()).unzip();
    let total = Arc::new(AtomicU64::new(0));
    let flooded = total.clone();
    let trickle = std::thread::spawn(move || {
        // Once the flood is one.
        while flooded.load(Ordering::SeqCst) < 1 << 20 {
            std::thread::yield_now();
        }
        let mut times = Vec::new();
        for _ in 0..10 {
            for peer in &mut peers {
                let begun = Instant::now();
                peer.write_all(b"x").unwrap();
                peer.read_exact(&mut [0]).unwrap();
                times.push(begun.elapsed());
            }
        }
        stop.store(true, Ordering::SeqCst);
        times
    });
    solo(|| {
        for stream in streams {
            thread::spawn_local(|| echo(stream));
        }
        let mut buf = vec![0; 16 << 10];
        while let n @ 1.. = (&busy).read(&mut buf).unwrap() {
            total.fetch_add(n as u64, Ordering::SeqCst);
        }
    });
    flooder.join().unwrap();
    assert_prompt(&mut trickle.join().unwrap(), ms(20));
}

/// N3: a task whose messages never have to wait.
pub fn n03_messages_that_never_wait() {
    timers_and_socket_beside(|stop| {
        thread::spawn_local(move || {
            let (sender, receiver) = towpath::sync::mpsc::sync_channel(1);
            while !stop.load(Ordering::Relaxed) {
                sender.send(7).unwrap();
                assert_eq!(receiver.recv(), Ok(7));
            }
        });
    });
}

/// Who is woken goes before those who are ready for longer.
pub fn n04_the_woken_go_next() {
    solo(|| {
        let (log, stop) = (Log::new(), Rc::new(Cell::new(false)));
        let others: Vec<_> = (0..3)
            .map(|_| {
                let (log, stop) = (log.clone(), stop.clone());
                thread::spawn_local(move || {
                    while !stop.get() {
                        log.add("other");
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let woken = thread::spawn_local({
            let log = log.clone();
            move || {
                log.add("waits");
                thread::park();
                log.add("woken");
            }
        });
        until(|| log.all().contains(&"waits"));
        log.add("wakes");
        woken.thread().unpark();
        woken.join().unwrap();
        let all = log.all();
        let wakes = all.iter().position(|entry| *entry == "wakes").unwrap();
        assert_eq!(all[wakes + 1], "woken", "{:?}", &all[wakes..]);
        stop.set(true);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// N1: but not again and again: of two that wake each other none runs often between two turns of a third.
pub fn n01_a_pair_lets_others_run() {
    const TURNS: usize = 1000;
    solo(|| {
        let turns = Rc::new(Cell::new(0));
        let player = |turns: &Rc<Cell<usize>>, own, other| {
            let turns = turns.clone();
            let (own, other): (towpath::sync::mpsc::Receiver<()>, towpath::sync::mpsc::SyncSender<()>) =
                (own, other);
            thread::spawn_local(move || {
                while own.recv().is_ok() {
                    turns.set(turns.get() + 1);
                    if other.send(()).is_err() {
                        break;
                    }
                }
            })
        };
        let (ping, pinged) = towpath::sync::mpsc::sync_channel(1);
        let (pong, ponged) = towpath::sync::mpsc::sync_channel(1);
        ping.send(()).unwrap();
        let pair = [player(&turns, pinged, pong), player(&turns, ponged, ping)];
        until(|| turns.get() > 0);
        let mut most = 0;
        for _ in 0..TURNS {
            let before = turns.get();
            thread::yield_now();
            most = most.max(turns.get() - before);
        }
        pair.iter().for_each(thread::JoinHandle::cancel);
        pair.into_iter().for_each(|player| player.join().unwrap());
        assert!(turns.get() > TURNS, "they hardly play");
        assert!(most <= 40, "{most} turns of theirs between two of another's");
    });
}

/// N4: ten thousand that are ready at once: each has its turn before any has its next.
pub fn n04_round_robin() {
    const TASKS: usize = 10_000;
    solo(|| {
        let (log, go) = (Log::new(), Rc::new(Cell::new(false)));
        let started = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..TASKS)
            .map(|n| {
                let (log, go, started) = (log.clone(), go.clone(), started.clone());
                thread::spawn_local(move || {
                    started.set(started.get() + 1);
                    thread::park();
                    assert!(go.get());
                    for turn in 0..3 {
                        log.add((turn, n));
                        thread::yield_now();
                    }
                })
            })
            .collect();
        until(|| started.get() == TASKS);
        go.set(true);
        tasks.iter().for_each(|task| task.thread().unpark());
        tasks.into_iter().for_each(|task| task.join().unwrap());
        let all = log.all();
        assert_eq!(all.len(), 3 * TASKS);
        assert!(
            all.is_sorted_by_key(|(turn, _)| *turn),
            "some were served twice before all were served once"
        );
    });
}

/// Where nothing happens the process uses next to no CPU time, and its loops hardly turn.
#[track_caller]
fn assert_idle(duration: Duration) {
    let handle = towpath::Handle::try_current().unwrap();
    // What has just begun settles. The sleep itself is a tick or two.
    let deadline = Instant::now() + patience(Duration::from_secs(3));
    loop {
        let before = handle.metrics().ticks;
        try_sleep(ms(20)).unwrap();
        if handle.metrics().ticks - before <= 3 {
            break;
        }
        assert!(Instant::now() < deadline, "it does not settle");
    }
    let (ticks, cpu) = (handle.metrics().ticks, sys::cpu_time());
    try_sleep(duration).unwrap();
    let (ticks, cpu) = (handle.metrics().ticks - ticks, sys::cpu_time() - cpu);
    assert!(ticks <= 10, "{ticks} ticks in {duration:?}");
    assert!(cpu < duration / 50, "{cpu:?} of CPU time in {duration:?}");
}

/// N5: sockets that have something to say that nobody has asked for: hung up, reset, readable, connectable.
pub fn n05_events_without_operations() {
    duo(|| {
        let (hung_up, peer) = half();
        (&hung_up).write_all(b"used").unwrap();
        drop(peer);
        let (reset, peer) = half();
        assert_timed_out(towpath::time::timeout(ms(1), || (&reset).read(&mut [0; 8])));
        net::reset_on_close(&peer);
        drop(peer);
        let (half_closed, closer) = half();
        assert_timed_out(towpath::time::timeout(ms(1), || (&half_closed).read(&mut [0; 8])));
        closer.shutdown(std::net::Shutdown::Write).unwrap();
        let (readable, mut peer) = half();
        assert_timed_out(towpath::time::timeout(ms(1), || (&readable).read(&mut [0; 8])));
        peer.write_all(b"unread").unwrap();
        let (listener, addr) = listener();
        assert_timed_out(towpath::time::timeout(ms(1), || listener.accept()));
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
        assert_idle(ms(500));
        // And what they had to say is still there.
        assert_eq!((&readable).read(&mut [0; 8]).unwrap(), 6);
        assert_eq!((&half_closed).read(&mut [0; 8]).unwrap(), 0);
        assert!((&reset).read(&mut [0; 8]).is_err());
        listener.accept().unwrap();
        drop(clients);
    });
}

/// N5: a writer that waits is not woken, again and again, by what there is to read.
pub fn n05_writer_beside_unread_data() {
    solo(|| {
        let (stream, mut peer) = half();
        net::fill(&stream, 1);
        peer.write_all(b"unread").unwrap();
        // More than the peer's side will ever take in by itself.
        let writer = waiting(move || (&stream).write_all(&vec![0; 16 << 20]));
        // The peer's end of sending is an event as well.
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_idle(ms(300));
        assert!(!writer.is_finished());
        writer.cancel();
        assert_canceled(writer.join().unwrap());
    });
}

/// N6: two thousand idle connections, one task at each end of them.
pub fn n06_idle_connections() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let _limit = sys::limit(rustix::process::Resource::Nofile, limits.maximum.unwrap_or(20_000));
    duo(|| {
        let tasks: Vec<_> = (0..2000)
            .flat_map(|_| {
                let (a, b) = pair();
                [a, b]
            })
            .map(|stream| thread::spawn(move || (&stream).read(&mut [0; 8])))
            .collect();
        assert_idle(Duration::from_secs(1));
        tasks.iter().for_each(thread::JoinHandle::cancel);
        tasks.into_iter().for_each(|task| {
            // Cancelled in its read, or before it began, or ended by its other end's going first.
            if let Ok(Err(error)) = task.join() {
                assert!(towpath::is_canceled(&error), "{error:?}");
            }
        });
    });
}

/// N6: workers with nothing to do at all.
pub fn n06_idle_runtime() {
    runtime(4).run(|| {
        for _ in 0..100 {
            thread::spawn(|| ()).join().unwrap();
        }
        assert_idle(ms(700));
    });
}

/// N7: what other threads spawn and wake is served while the worker has all the work it can do.
pub fn n07_injection_under_saturation() {
    let (runtime, stop) = (runtime(2), Arc::new(AtomicBool::new(false)));
    let turns = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (stop, turns) = (stop.clone(), turns.clone());
            runtime.handle().spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    turns.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                }
            })
        })
        .collect();
    let parked = {
        let stop = stop.clone();
        runtime.handle().spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                thread::park();
            }
        })
    };
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let begun = Instant::now();
            runtime.handle().spawn(|| ()).join().unwrap();
            begun.elapsed()
        })
        .collect();
    assert_prompt(&mut times, ms(10));
    stop.store(true, Ordering::SeqCst);
    parked.thread().unpark();
    parked.join().unwrap();
    tasks.into_iter().for_each(|task| task.join().unwrap());
    assert!(turns.load(Ordering::SeqCst) > 1000);
}

/// N4: tasks that spawn others and wait for them, in their turn, go branch by branch: on one worker they need stacks for the depth
/// of the tree, and not for all its leaves.
pub fn n04_trees_go_branch_by_branch() {
    static LIVE: AtomicU64 = AtomicU64::new(0);
    static MOST: AtomicU64 = AtomicU64::new(0);
    fn node(children: fn(u32) -> u64, depth: u32) -> u64 {
        MOST.fetch_max(LIVE.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let nodes = 1 + if depth > 0 { children(depth - 1) } else { 0 };
        LIVE.fetch_sub(1, Ordering::SeqCst);
        nodes
    }
    fn joined(depth: u32) -> u64 {
        let children = [(); 2].map(|()| thread::spawn(move || node(joined, depth)));
        children.into_iter().map(|child| child.join().unwrap()).sum()
    }
    fn scoped(depth: u32) -> u64 {
        let nodes = AtomicU64::new(0);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| nodes.fetch_add(node(scoped, depth), Ordering::SeqCst));
            }
        });
        nodes.into_inner()
    }
    for children in [joined, scoped] {
        assert_eq!(solo(|| node(children, 12)), 8191);
        // Now and then the oldest one is started, each with its own branch.
        assert!(MOST.swap(0, Ordering::SeqCst) < 1000);
    }
}

/// N3: what was spawned before starts all the same while others are spawned and joined without end, and while more is waiting that
/// came from outside.
pub fn n03_older_tasks_beside_joins() {
    for from_outside in [0, 1000] {
        solo(|| {
            let handle = Handle::try_current().unwrap();
            let inject = move || (0..from_outside).for_each(|_| drop(handle.spawn(|| ())));
            std::thread::spawn(inject).join().unwrap();
            let old = Arc::new(AtomicBool::new(false));
            let started = old.clone();
            thread::spawn(move || started.store(true, Ordering::SeqCst));
            let joins = (0..).take_while(|_| {
                // More than start until the last one is over.
                let tasks = [(); 32].map(|()| thread::spawn(|| ()));
                tasks.into_iter().next_back().unwrap().join().unwrap();
                !old.load(Ordering::SeqCst)
            });
            assert!(joins.count() < 100);
        });
    }
}
