//! The two queues when they are full or overflow, what a wait costs, and what ends it.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use std::{array, mem, ptr, thread};

use io_uring::opcode as op;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::backend::uring::setup::{Opcodes, STEPS};

#[test]
fn many_operations_pass_through_a_queue_of_eight() {
    for skip_steps in [0, STEPS.len() - 1] {
        let mut world = World::new(&Options { skip_steps, ..small() });
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        let event = event(0);
        let waiting: Vec<OpId> = (0..10_000).map(|_| world.submit(readable(&event))).collect();
        let sent: Vec<OpId> = (0..1000).map(|_| world.submit(send(&a, b"datagram"))).collect();
        for id in sent {
            assert_eq!(world.result(id), 8);
        }
        assert!(world.results.is_empty());
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        for id in waiting {
            assert_eq!(world.result(id), i32::from(libc::POLLIN));
        }
        assert_eq!(world.wait(Some(Duration::ZERO)), 0);
        assert!(world.results.is_empty());
    }
}

#[test]
fn no_completion_is_lost_when_the_completion_queue_overflows() {
    let mut world = World::new(&small());
    let (ready, later) = (event(1), event(0));
    // Half of them complete as they are handed over, half of them all at once when the event comes.
    let ids: Vec<OpId> = (0..100_000)
        .map(|count| world.submit(if count % 2 == 0 { readable(&ready) } else { readable(&later) }))
        .collect();
    while world.results.len() < 50_000 {
        assert!(world.wait(Some(LONG)) > 0);
    }
    rustix::io::write(&later, &1u64.to_ne_bytes()).unwrap();
    while world.results.len() < ids.len() {
        world.wait(Some(LONG));
    }
    assert!(ids.iter().all(|id| world.results[id] == i32::from(libc::POLLIN)));
    assert_eq!(world.wait(Some(Duration::ZERO)), 0);
}

#[test]
fn a_cancel_finds_its_target_when_every_queue_is_full() {
    for skip_steps in 0..STEPS.len() {
        let mut world = World::new(&Options { skip_steps, ..small() });
        let (never, ready) = (event(0), event(1));
        let targets: Vec<OpId> = (0..5000).map(|_| world.submit(readable(&never))).collect();
        // Completions that nobody has fetched: the queue overflows, and what follows has to wait here.
        let others: Vec<OpId> = (0..100).map(|_| world.submit(readable(&ready))).collect();
        assert!(!world.uring.backlog.is_empty());
        for &id in &targets {
            world.cancel(id, readable(&never));
        }
        for id in targets {
            assert_eq!(world.result(id), -libc::ECANCELED);
        }
        for id in others {
            assert_eq!(world.result(id), i32::from(libc::POLLIN));
        }
    }
}

#[test]
fn a_cancelled_recv_has_taken_nothing() {
    for without in [Opcodes::default(), Opcodes::default().with(op::Recv::CODE)] {
        let mut world = World::new(&Options { without, ..Options::default() });
        let (a, b) = pair();
        let turn = AtomicU32::new(0);
        const ROUNDS: u32 = 3000;
        let (mut taken, mut cancelled) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    while turn.load(Ordering::Acquire) != round {
                        thread::yield_now();
                    }
                    rustix::io::write(&b, &[round as u8]).unwrap();
                }
            });
            for round in 1..=ROUNDS {
                let mut buf = [0];
                let request = recv(&a, &mut buf);
                let id = world.submit(request);
                world.wait(Some(Duration::ZERO));
                turn.store(round, Ordering::Release);
                if round % 3 == 0 {
                    world.wait(Some(Duration::ZERO));
                }
                world.cancel(id, request);
                match world.result(id) {
                    1 => taken += 1,
                    other => {
                        assert_eq!(other, -libc::ECANCELED);
                        cancelled += 1;
                        assert_eq!(world.run(recv(&a, &mut buf)), 1);
                    }
                }
                assert_eq!(buf[0], round as u8);
            }
        });
        assert_eq!(taken + cancelled, ROUNDS);
        assert!(cancelled > 0);
    }
}

#[test]
fn a_cancel_after_the_bytes_have_come_reports_the_bytes() {
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let mut buf = [0; 4];
    let request = recv(&a, &mut buf);
    let id = world.submit(request);
    world.wait(Some(Duration::ZERO));
    rustix::io::write(&b, b"data").unwrap();
    // Runs the work: the completion is in the queue, and not read yet, when the cancel is asked for.
    world.uring.ring.reap().unwrap();
    assert_eq!(world.uring.ring.completions().len(), 1);
    world.cancel(id, request);
    assert_eq!(world.result(id), 4);
    assert_eq!(&buf, b"data");
}

#[test]
fn a_wake_before_the_wait_ends_it() {
    for skip_steps in 0..STEPS.len() {
        let mut world = World::new(&Options { skip_steps, ..small() });
        let waker = world.uring.waker();
        for _ in 0..1000 {
            let start = Instant::now();
            waker.wake();
            waker.wake();
            assert_eq!(world.wait(None), 0);
            assert!(start.elapsed() < LONG);
        }
    }
}

#[test]
fn wakes_from_four_threads_are_never_lost() {
    for skip_steps in [0, STEPS.len() - 1] {
        let mut world = World::new(&Options { skip_steps, ..small() });
        const ROUNDS: u32 = 5000;
        let asked: [AtomicU32; 4] = array::from_fn(|_| AtomicU32::new(0));
        let answered: [AtomicU32; 4] = array::from_fn(|_| AtomicU32::new(0));
        thread::scope(|scope| {
            for (asked, answered) in asked.iter().zip(&answered) {
                let waker = world.uring.waker();
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        asked.store(round, Ordering::SeqCst);
                        waker.wake();
                        while answered.load(Ordering::SeqCst) != round {
                            thread::yield_now();
                        }
                    }
                });
            }
            // Each thread waits for its answer: a lost wake would leave everybody waiting.
            while answered.iter().any(|count| count.load(Ordering::SeqCst) != ROUNDS) {
                let start = Instant::now();
                world.wait(Some(LONG));
                assert!(start.elapsed() < LONG, "a wake was lost");
                for (asked, answered) in asked.iter().zip(&answered) {
                    answered.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            }
        });
    }
}

#[test]
fn a_wake_after_the_end_is_harmless() {
    let waker = World::new(&small()).uring.waker();
    waker.wake();
}

#[test]
fn the_waker_survives_an_overflow() {
    let mut world = World::new(&small());
    let waker = world.uring.waker();
    let mut killed = 0;
    for _ in 0..200 {
        let event = event(0);
        let ids: Vec<OpId> = (0..64).map(|_| world.submit(readable(&event))).collect();
        assert_eq!(world.wait(Some(Duration::ZERO)), 0);
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        waker.wake();
        // The kernel ends the waker's poll where its completion finds no room, and it is then cleared.
        for id in ids {
            world.result(id);
        }
        while world.uring.ring.due() {
            world.wait(Some(Duration::ZERO));
        }
        let mut count = [0; 8];
        let fd = world.uring.waker.event().as_fd();
        if rustix::io::read(fd, &mut count).is_err() {
            killed += 1;
        }
        let start = Instant::now();
        waker.wake();
        world.wait(Some(LONG));
        assert!(start.elapsed() < LONG, "the waker is deaf");
    }
    assert!(killed > 0, "the case was not met");
}

#[test]
fn a_wait_without_time_asks_the_kernel_only_if_something_is_due() {
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let mut buf = [0; 1];
    let id = world.submit(recv(&a, &mut buf));
    world.wait(Some(Duration::ZERO));
    let calls = world.uring.syscalls();
    for _ in 0..100 {
        assert_eq!(world.wait(Some(Duration::ZERO)), 0);
    }
    assert_eq!(world.uring.syscalls(), calls);
    rustix::io::write(&b, b"x").unwrap();
    assert_eq!(world.wait(Some(Duration::ZERO)), 1, "due work is found without sleeping");
    assert_eq!(world.uring.syscalls(), calls + 1);
    assert_eq!(world.result(id), 1);
    // Completions that are there already cost nothing, and end a wait at once.
    let ready = event(1);
    let id = world.submit(readable(&ready));
    world.uring.flush();
    let calls = world.uring.syscalls();
    assert_eq!(world.wait(None), 1);
    assert_eq!(world.uring.syscalls(), calls);
    assert_eq!(world.result(id), i32::from(libc::POLLIN));
}

#[test]
fn a_tick_is_one_system_call() {
    let mut world = World::new(&Options::default());
    let pairs: Vec<_> = (0..10).map(|_| pair()).collect();
    let mut bufs = [[0; 1]; 10];
    let calls = world.uring.syscalls();
    let mut ids = Vec::new();
    for ((a, b), buf) in pairs.iter().zip(&mut bufs) {
        ids.push(world.submit(recv(b, buf)));
        ids.push(world.submit(send(a, b"x")));
    }
    world.wait(Some(LONG));
    assert_eq!(world.uring.syscalls(), calls + 1);
    for id in ids {
        assert_eq!(world.result(id), 1);
    }
    assert!(world.uring.syscalls() <= calls + 2);
}

#[test]
fn a_wait_ends_when_the_time_is_over() {
    let mut world = World::new(&Options::default());
    for millis in [1, 20] {
        let start = world.uring.now();
        let timeout = Duration::from_millis(millis);
        // A wait may return early, but not always.
        let mut waits = 0;
        while world.uring.now() - start < timeout.as_nanos() as u64 {
            assert_eq!(world.wait(Some(timeout)), 0);
            waits += 1;
        }
        assert!(waits < 10);
    }
    world.uring.waker().wake();
    world.wait(Some(Duration::MAX));
}

#[test]
fn the_descriptor_polls_as_readable_when_a_wait_would_find_something() {
    for (skip_steps, step) in STEPS.iter().enumerate() {
        let mut world = World::new(&Options { skip_steps, ..Options::default() });
        let is_ready = |world: &World, timeout: i64| {
            let fd = world.uring.as_fd().unwrap();
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
            let start = Instant::now();
            let ready = poll(&mut fds, Some(&Timespec { tv_sec: timeout, tv_nsec: 0 })).unwrap() == 1;
            // Readable at the end of the time would be too late.
            assert!(timeout == 0 || start.elapsed() < LONG, "{step:?}");
            ready
        };
        assert!(!is_ready(&world, 0));
        let (a, b) = pair();
        let mut buf = [0; 1];
        let id = world.submit(recv(&a, &mut buf));
        world.wait(Some(Duration::ZERO));
        assert!(!is_ready(&world, 0));
        thread::scope(|scope| {
            scope.spawn(|| rustix::io::write(&b, b"x").unwrap());
            assert!(is_ready(&world, 20));
        });
        assert_eq!(world.result(id), 1);
        assert!(!is_ready(&world, 0));
        for _ in 0..3 {
            let waker = world.uring.waker();
            thread::scope(|scope| {
                scope.spawn(move || waker.wake());
                assert!(is_ready(&world, 20));
            });
            assert_eq!(world.wait(Some(Duration::ZERO)), 0);
            assert!(!is_ready(&world, 0), "the wake is over");
        }
        // What a wait has left for the next one is found too.
        let ready = event(1);
        let id = world.submit(readable(&ready));
        world.uring.flush();
        assert!(is_ready(&world, 0));
        assert_eq!(world.result(id), i32::from(libc::POLLIN));
        assert!(!is_ready(&world, 0));
    }
}

#[test]
fn signals_do_not_disturb() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a handler that does nothing, for a signal that nothing else here uses; no SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut()), 0);
    }
    let mut world = World::new(&Options::default());
    let (a, b) = pair();
    let over = AtomicBool::new(false);
    // SAFETY: no preconditions.
    let this = unsafe { libc::pthread_self() };
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                // SAFETY: the thread is waiting for this one to end, so it exists.
                unsafe { libc::pthread_kill(this, libc::SIGUSR2) };
                thread::yield_now();
            }
            over.store(true, Ordering::Release);
        });
        let mut buf = [0; 1];
        while !over.load(Ordering::Acquire) {
            let id = world.submit(recv(&a, &mut buf));
            world.wait(Some(Duration::from_millis(1)));
            assert_eq!(world.run(send(&b, b"x")), 1);
            assert_eq!(world.result(id), 1);
        }
    });
}
