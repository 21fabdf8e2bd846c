//! J, H7: stacks, panics, destructors that wait, and the end of runtimes.

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Resource;
use towpath::thread::{self, Builder, Placement, try_sleep};
use towpath::{Runtime, shield};
use towpath_harness::process::{self, Ended};
use towpath_harness::sys;

use crate::common::*;

/// J1: a hundred thousand tasks sleep at once: little memory each, few mappings, all wake.
pub fn j01_hundred_thousand_sleepers() {
    const TASKS: usize = 100_000;
    let (rss, maps) = (sys::resident(), sys::mappings());
    let begun = Instant::now();
    solo(|| {
        let woken = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let woken = woken.clone();
                thread::spawn_local(move || {
                    thread::park_timeout(LONG);
                    try_sleep(ms(1)).unwrap();
                    woken.set(woken.get() + 1);
                })
            })
            .collect();
        let handle = towpath::Handle::try_current().unwrap();
        until(|| handle.metrics().switches > TASKS as u64);
        let (rss, maps) = (sys::resident() - rss, sys::mappings() - maps);
        assert!(rss < 1 << 30, "{} MiB", rss >> 20);
        assert!(maps < 1000, "{maps} mappings");
        tasks.iter().for_each(|task| task.thread().unpark());
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(woken.get(), TASKS);
    });
    assert_quick(begun, Duration::from_secs(6));
}

/// J2: spawning and ending without end: stacks come from the pool, memory does not grow.
pub fn j02_spawn_and_end() {
    let (rounds, batch) = (scaled(10_000_000) / 1000, 1000);
    duo(|| {
        let turn = |rounds: usize| {
            for _ in 0..rounds {
                let tasks: Vec<_> = (0..batch).map(|n| thread::spawn(move || black_box(n))).collect();
                for (n, task) in tasks.into_iter().enumerate() {
                    assert_eq!(task.join().unwrap(), n);
                }
            }
        };
        turn(20);
        sys::release_free_memory();
        let (rss, maps) = (sys::resident(), sys::mappings());
        turn(rounds);
        sys::release_free_memory();
        let grown = sys::resident().saturating_sub(rss);
        // Two workers may share the stacks differently from one time to the next; a leak would be gigabytes.
        assert!(grown < 16 << 20, "{} KiB", grown >> 10);
        assert!(sys::mappings() <= maps + 64, "{maps} mappings became {}", sys::mappings());
    });
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "that is what the test is about")]
fn recurse(depth: usize) -> usize {
    let frame = black_box([depth; 16]);
    black_box(recurse(depth + 1)) + frame[depth % 16]
}

/// One frame that is larger than any guard.
#[inline(never)]
fn huge_frame() -> u8 {
    let mut frame = [0u8; 8 << 20];
    black_box(&mut frame)[77]
}

#[track_caller]
fn assert_overflow(body: impl FnOnce() + Copy + Send + 'static, name: &str) {
    let (ended, text) = process::stderr_of(|| {
        process::in_child(|| {
            solo(move || {
                Builder::new().name(name.into()).spawn(body).unwrap().join().unwrap();
            });
            0
        })
    });
    assert_eq!(ended, Ended::Signal(libc::SIGABRT), "{text}");
    assert!(text.contains(name) && text.contains("overflow"), "{text}");
}

/// J3: running off a stack is told, by name, and ends the process; nothing is overwritten.
pub fn j03_stack_overflow() {
    assert_overflow(|| _ = black_box(recurse(0)), "deep thinker");
    assert_overflow(|| _ = black_box(huge_frame()), "big spender");
    // In a task that has been suspended before, with others around it.
    assert_overflow(
        || {
            let _others: Vec<_> = (0..10).map(|_| thread::spawn_local(|| try_sleep(LONG))).collect();
            try_sleep(ms(1)).unwrap();
            black_box(recurse(0));
        },
        "late bloomer",
    );
}

/// J3: the message, as documented.
pub fn j03_stack_of_its_own_size() {
    solo(|| {
        // 1 MiB of frames fits into 2 MiB.
        let deep = Builder::new().stack_size(2 << 20).spawn(|| {
            #[inline(never)]
            fn down(left: usize) -> usize {
                let frame = black_box([left as u8; 1024]);
                if left == 0 { 0 } else { black_box(down(left - 1)) + usize::from(frame[0] == left as u8) }
            }
            down(1000)
        });
        assert_eq!(deep.unwrap().join().unwrap(), 1000);
    });
}

/// J4: what tasks compute with, in whichever registers, is theirs across switches. (The registers one by one: `registers.rs` of
/// `towpath-coro`.)
pub fn j04_values_in_registers() {
    #[inline(never)]
    fn compute(seed: u64, switch: fn()) -> (u64, f64, [f32; 8]) {
        let (mut a, mut b, mut c) = (seed | 1, seed.rotate_left(17) | 1, !seed | 1);
        let (mut x, mut y) = (seed as f64 + 0.5, 1.0 / (seed as f64 + 3.0));
        let mut lanes = [seed as f32; 8];
        for _ in 0..1000 {
            (a, b, c) = (a.wrapping_mul(b), b.wrapping_add(c.rotate_right(9)), c ^ a.rotate_left(5));
            (x, y) = (x.mul_add(0.5, y), (y + 1.0 / x).sqrt());
            switch();
            lanes
                .iter_mut()
                .zip(1u8..)
                .for_each(|(lane, n)| *lane = *lane * 0.75 + f32::from(n) + (a % 7) as f32);
        }
        (a ^ b ^ c, x + y, lanes)
    }
    solo(|| {
        let tasks: Vec<_> = (0..10).map(|n| thread::spawn(move || compute(n, thread::yield_now))).collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.join().unwrap(), compute(n as u64, || ()), "task {n}");
        }
    });
}

/// J15: a handler that asks for it runs on the thread's signal stack, however little the task has left of its own.
pub fn j15_signals_run_on_the_signal_stack() {
    static RAN_AT: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handle(_: libc::c_int) {
        let mut room = [0u8; 1024];
        RAN_AT.store(black_box(&raw mut room).addr(), Ordering::SeqCst);
    }
    // SAFETY: an action with a handler that only stores.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    let is_on_signal_stack = || {
        // SAFETY: it is only asked for; `raise` gives the signal to this thread before it returns.
        let stack = unsafe {
            assert_eq!(libc::raise(libc::SIGUSR1), 0);
            let mut stack: libc::stack_t = std::mem::zeroed();
            assert_eq!(libc::sigaltstack(std::ptr::null(), &mut stack), 0);
            stack
        };
        let from = stack.ss_sp.addr();
        (from..from + stack.ss_size).contains(&RAN_AT.load(Ordering::SeqCst))
    };
    build(Runtime::builder().workers(2).stack_size(0)).run(|| {
        for worker in 0..2 {
            let task = Builder::new().placement(Placement::Worker(worker));
            let task =
                task.spawn(move || (is_on_signal_stack(), try_sleep(ms(1)).is_ok(), is_on_signal_stack()));
            assert_eq!(task.unwrap().join().unwrap(), (true, true, true), "worker {worker}");
        }
    });
}

/// J6: an error number of the system is a task's own: others do not change it while it waits.
pub fn j06_last_os_error() {
    // SAFETY: closes nothing, which is an error.
    let fail = || unsafe { libc::close(-1) };
    // SAFETY: the path is a string with its NUL.
    let fail_otherwise = || unsafe { libc::access(c"/does/not/exist".as_ptr(), 0) };
    solo(|| {
        let busy = thread::spawn_local(move || {
            for _ in 0..20 {
                fail_otherwise();
                thread::yield_now();
                try_sleep(Duration::from_micros(10)).unwrap();
            }
        });
        for _ in 0..20 {
            fail();
            thread::yield_now();
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF), "after a yield");
        }
        fail();
        try_sleep(ms(1)).unwrap();
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF), "after a sleep");
        busy.join().unwrap();
    });
}

/// J6: an operation's error is its own as well, whoever ran meanwhile.
pub fn j06_errors_of_operations() {
    solo(|| {
        let noise = thread::spawn_local(|| {
            for _ in 0..50 {
                assert!(std::fs::File::open("/does/not/exist").is_err());
                thread::yield_now();
            }
        });
        for _ in 0..20 {
            let refused = error(towpath::net::TcpStream::connect(closed_addr()));
            assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
        }
        noise.join().unwrap();
    });
}

/// J7: a panic ends its task, and is the joiner's; everything else goes on, on the same stacks.
pub fn j07_panic_in_task() {
    duo(|| {
        let drops = Drops::default();
        for n in 0..200 {
            let guard = drops.guard();
            let task = thread::spawn(move || {
                let _guard = guard;
                if n % 2 == 0 {
                    try_sleep(Duration::from_micros(50)).unwrap();
                }
                std::panic::panic_any(n);
            });
            assert_eq!(*task.join().unwrap_err().downcast::<i32>().unwrap(), n);
        }
        assert_eq!(drops.count(), 200);
        // Nobody joins: nothing happens.
        for _ in 0..20 {
            drop(thread::spawn(|| panic!("on purpose")));
        }
        let handle = towpath::Handle::try_current().unwrap();
        until(|| handle.metrics().tasks == 1);
        assert!(!std::thread::panicking());
    });
}

/// J7: a payload whose own destructor panics, joined or not.
pub fn j07_payload_panics_in_drop() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the payload's own");
        }
    }
    solo(|| {
        let payload = thread::spawn(|| std::panic::panic_any(Bomb)).join().unwrap_err();
        assert_eq!(panic_of(|| drop(payload)), "the payload's own");
        drop(thread::spawn(|| std::panic::panic_any(Bomb)));
        let task = thread::spawn(|| std::panic::panic_any(Bomb));
        until(|| task.is_finished());
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
    });
}

/// J7: a panic while one unwinds ends the process, as ever.
pub fn j07_panic_during_unwind_aborts() {
    let (ended, text) = process::stderr_of(|| {
        process::in_child(|| {
            solo(|| {
                let task = thread::spawn(|| {
                    let _second = OnDrop(|| panic!("second"));
                    panic!("first");
                });
                let _ = task.join();
            });
            0
        })
    });
    assert_eq!(ended, Ended::Signal(libc::SIGABRT), "{text}");
    assert!(text.contains("first") && text.contains("second"), "{text}");
}

/// A destructor that waits during a panic, for time, for data, for a task: it gets what it waits for, and nobody else
/// ever sees `thread::panicking()`.
pub fn waiting_while_unwinding() {
    solo(|| {
        let (stop, turns) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (stopped, count) = (stop.clone(), turns.clone());
        let sibling = waiting(move || {
            while !stopped.get() {
                assert!(!std::thread::panicking(), "a sibling of a task that unwinds");
                count.set(count.get() + 1);
                thread::yield_now();
                try_sleep(Duration::from_micros(10)).unwrap();
            }
        });
        let (stream, mut peer) = half();
        peer.write_all(b"there").unwrap();
        let seen = turns.clone();
        let task = waiting(move || {
            let _guard = OnDrop(|| {
                assert!(std::thread::panicking());
                let before = seen.get();
                let begun = Instant::now();
                try_sleep(ms(10)).unwrap();
                assert!(begun.elapsed() >= ms(10));
                let mut buf = [0; 8];
                assert_eq!((&stream).read(&mut buf).unwrap(), 5);
                thread::yield_now();
                (&stream).write_all(b"done").unwrap();
                shield(|| try_sleep(ms(1))).unwrap();
                assert_timed_out(towpath::time::timeout(ms(1), || (&stream).read(&mut buf)));
                assert_eq!(towpath::blocking(|| 7).unwrap(), 7);
                assert_eq!(seen.get(), before, "nobody else is resumed");
            });
            panic!("on purpose");
        });
        assert_eq!(message(&*task.join().unwrap_err()), "on purpose");
        let mut buf = [0; 4];
        peer.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"done");
        // It goes on, and was not forgotten.
        let before = turns.get();
        until(|| turns.get() > before + 3);
        stop.set(true);
        sibling.join().unwrap();
    });
}

/// J9: ten thousand that wait when their runtime is dropped: each destructor once, on a stack that is still there.
pub fn j09_drop_runtime_with_suspended_tasks() {
    const TASKS: usize = 10_000;
    for workers in [1, 2] {
        let (runtime, drops) = (runtime(workers), Drops::default());
        let started = Arc::new(AtomicUsize::new(0));
        runtime.run(|| {
            for n in 0..TASKS {
                let (guard, started) = (drops.guard(), started.clone());
                drop(thread::spawn(move || {
                    let _guard = guard;
                    started.fetch_add(1, Ordering::SeqCst);
                    match n % 3 {
                        0 => assert_canceled(try_sleep(LONG)),
                        1 => thread::park(),
                        _ => assert_canceled(towpath::time::timeout(LONG, || try_sleep(LONG))),
                    }
                }));
            }
            until(|| started.load(Ordering::SeqCst) == TASKS);
        });
        assert_eq!(drops.count(), 0);
        drop(runtime);
        assert_eq!(drops.count(), TASKS);
    }
}

/// J9: a hundred thousand of them end well within the limit: ending one does not look at all the others.
pub fn j09_drop_runtime_with_a_hundred_thousand() {
    const TASKS: usize = 100_000;
    let (runtime, drops) = (runtime(1), Drops::default());
    runtime.run(|| {
        let started = Rc::new(Cell::new(0));
        for _ in 0..TASKS {
            let (guard, started) = (drops.guard(), started.clone());
            drop(thread::spawn_local(move || {
                let _guard = guard;
                started.set(started.get() + 1);
                assert_canceled(try_sleep(LONG));
            }));
        }
        until(|| started.get() == TASKS);
    });
    let begun = Instant::now();
    drop(runtime);
    assert_eq!(drops.count(), TASKS);
    assert_quick(begun, Duration::from_secs(3));
}

/// J9: with reads, accepts, jobs and scopes in flight, and tasks that never started.
pub fn j09_drop_runtime_with_everything_in_flight() {
    let (runtime, drops) = (runtime(2), Drops::default());
    let started = Arc::new(AtomicUsize::new(0));
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let mut peers = Vec::new();
    runtime.run(|| {
        let mut expected = 0;
        for n in 0..400 {
            let guard = drops.guard();
            let (begun, released) = (started.clone(), released.clone());
            let begin = move || _ = begun.fetch_add(1, Ordering::SeqCst);
            let (stream, peer) = half();
            peers.push(peer);
            let (listener, _) = listener();
            expected += 1;
            drop(thread::spawn(move || {
                let _guard = guard;
                begin();
                match n % 4 {
                    0 => assert_canceled((&stream).read(&mut [0; 64])),
                    1 => assert_canceled(listener.accept()),
                    2 if n % 80 == 2 => {
                        assert_canceled(towpath::blocking(move || released.lock().unwrap().recv()))
                    }
                    2 => assert_canceled((&stream).write_all(&vec![0; 8 << 20])),
                    _ => thread::scope(|s| {
                        s.spawn(|| assert_canceled((&stream).read(&mut [0; 64])));
                    }),
                }
            }));
        }
        until(|| started.load(Ordering::SeqCst) == expected);
        // These will not start any more.
        for _ in 0..100 {
            let guard = drops.guard();
            drop(thread::spawn_local(move || drop(guard)));
        }
    });
    drop(runtime);
    assert_eq!(drops.count(), 500);
    drop(release);
}

/// J9: tasks that spawn while the runtime ends.
pub fn j09_spawning_while_the_runtime_ends() {
    let (runtime, drops) = (runtime(2), Drops::default());
    runtime.run(|| {
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..50 {
            let (guard, drops, begin) = (drops.guard(), drops.clone(), begun.clone());
            drop(thread::spawn(move || {
                let _guard = guard;
                begin.fetch_add(1, Ordering::SeqCst);
                thread::park();
                let (one, two) = (drops.guard(), drops.guard());
                drop(thread::spawn(move || drop(one)));
                let _ = thread::spawn_local(move || drop(two)).join();
            }));
        }
        until(|| begun.load(Ordering::SeqCst) == 50);
    });
    drop(runtime);
    assert_eq!(drops.count(), 150);
}

/// J9: what will not end is named, and leaked; the runtime's end does not hang. J11: two that join each other.
pub fn j11_join_cycle_is_named_at_the_end() {
    let ((), text) = process::stderr_of(|| {
        let runtime = build(Runtime::builder().workers(1).shutdown_limit(ms(100)));
        runtime.run(|| {
            let slots: [Rc<RefCell<Option<thread::JoinHandle<()>>>>; 2] = Default::default();
            for (name, n) in [("hen", 0), ("egg", 1)] {
                let other = slots[1 - n].clone();
                let task = Builder::new().name(name.into()).spawn_local(move || {
                    thread::yield_now();
                    let other = other.borrow_mut().take().unwrap();
                    let _ = other.join();
                });
                *slots[n].borrow_mut() = Some(task.unwrap());
            }
            try_sleep(ms(5)).unwrap();
        });
        let begun = Instant::now();
        drop(runtime);
        assert!(begun.elapsed() >= ms(100));
        // Names are looked for, which reads the program's debug information.
        assert_quick(begun, Duration::from_secs(3));
    });
    assert!(text.contains("hen") && text.contains("egg"), "{text}");
}

/// J10: a backtrace of a task ends, and so does the panic hook's.
pub fn j10_backtraces_end() {
    solo(|| {
        let trace = thread::spawn(|| {
            try_sleep(ms(1)).unwrap();
            Backtrace::force_capture().to_string()
        });
        let trace = trace.join().unwrap();
        assert!(trace.contains("j10_backtraces_end"), "{trace}");
        assert!(trace.lines().count() < 200, "{trace}");
        let deep = thread::scope(|s| {
            s.spawn(|| {
                let caught = catch_unwind(|| panic!("on purpose"));
                assert!(caught.is_err());
                Backtrace::force_capture().to_string()
            })
            .join()
            .unwrap()
        });
        assert!(deep.lines().count() < 200, "{deep}");
    });
}

/// J11: a task that joins itself panics, and says why.
pub fn j11_self_join() {
    solo(|| {
        let (send, receive) = mpsc::channel::<thread::JoinHandle<()>>();
        let task = thread::spawn(move || {
            let me = loop {
                match receive.try_recv() {
                    Ok(me) => break me,
                    Err(_) => thread::yield_now(),
                }
            };
            let text = panic_of(|| me.join());
            assert!(text.contains("join itself"), "{text}");
        });
        let handle = task.thread().clone();
        send.send(task).unwrap();
        let runtime = towpath::Handle::try_current().unwrap();
        until(|| runtime.metrics().tasks == 1);
        assert_eq!(handle.name(), None);
    });
}

/// J12: waiting in a destructor, inside `catch_unwind`, under a `RefCell` borrow, with a mutex held: all work; what is
/// borrowed or locked is so for the others of the thread as well.
pub fn j12_waiting_in_odd_places() {
    solo(|| {
        let log = Log::new();
        let mine = log.clone();
        let task = waiting(move || {
            drop(OnDrop(|| {
                try_sleep(ms(1)).unwrap();
                thread::yield_now();
                mine.add("drop");
            }));
            let caught = catch_unwind(AssertUnwindSafe(|| {
                try_sleep(ms(1)).unwrap();
                mine.add("caught");
                thread::yield_now();
                panic!("after waiting");
            }));
            assert_eq!(message(&*caught.unwrap_err()), "after waiting");
            // Others panic meanwhile, each for itself.
            let other = thread::spawn_local(|| panic_of(|| panic!("other")));
            let caught = catch_unwind(AssertUnwindSafe(|| {
                assert_eq!(other.join().unwrap(), "other");
                panic!("mine");
            }));
            assert_eq!(message(&*caught.unwrap_err()), "mine");
        });
        task.join().unwrap();
        assert_eq!(log.all(), ["drop", "caught"]);

        let (cell, mutex) = (Rc::new(RefCell::new(0)), Arc::new(Mutex::new(0)));
        let (borrowed, locked) = (cell.clone(), mutex.clone());
        let holder = waiting(move || {
            let (mut one, mut two) = (borrowed.borrow_mut(), locked.lock().unwrap());
            thread::park();
            *one += 1;
            *two += 1;
        });
        assert!(cell.try_borrow_mut().is_err());
        assert!(mutex.try_lock().is_err());
        holder.thread().unpark();
        holder.join().unwrap();
        assert_eq!((*cell.borrow(), *mutex.lock().unwrap()), (1, 1));
    });
}

/// J13: a task that blocks its worker holds up only those that started there: the others start elsewhere.
pub fn j13_blocked_worker_is_robbed() {
    duo(|| {
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let done = done.clone();
            drop(thread::spawn(move || {
                try_sleep(ms(1)).unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        // This worker does nothing but this.
        let deadline = Instant::now() + patience(Duration::from_secs(3));
        while done.load(Ordering::SeqCst) < 20 {
            assert!(Instant::now() < deadline, "{} of 20", done.load(Ordering::SeqCst));
            std::thread::yield_now();
        }
    });
    // The other one, and whatever it was about to start.
    let runtime = runtime(2);
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let (tell, told) = mpsc::channel();
    let blocker = runtime.handle().spawn(move || {
        let tasks: Vec<_> = (0..20).map(|n| thread::spawn(move || n)).collect();
        tell.send(()).unwrap();
        while !released.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        tasks
    });
    told.recv().unwrap();
    runtime.run(|| {
        let handle = towpath::Handle::try_current().unwrap();
        // The blocker and this one are left.
        until(|| handle.metrics().tasks <= 2);
        release.store(true, Ordering::SeqCst);
        let sum: i32 = blocker.join().unwrap().into_iter().map(|task| task.join().unwrap()).sum();
        assert_eq!(sum, 190);
    });
}

/// J16: the process ends while tasks live: from a task, from `main`, from a thread; no hang, no crash.
pub fn j16_exit_with_live_tasks() {
    let busy = |runtime: &Runtime| {
        let (stream, peer) = half();
        for _ in 0..100 {
            drop(runtime.handle().spawn(|| try_sleep(LONG)));
        }
        drop(runtime.handle().spawn(move || (&stream).read(&mut [0; 64])));
        peer
    };
    let ended = process::in_child(|| {
        let runtime = runtime(2);
        let _peer = busy(&runtime);
        runtime.run(|| {
            try_sleep(ms(1)).unwrap();
            std::process::exit(7)
        })
    });
    assert_eq!(ended, Ended::Code(7));
    let ended = process::in_child(|| {
        let runtime = runtime(2);
        let _peer = busy(&runtime);
        let exit = std::thread::spawn(|| std::process::exit(8));
        runtime.run(|| try_sleep(LONG)).unwrap();
        drop(exit);
        9
    });
    assert_eq!(ended, Ended::Code(8));
    let ended = process::in_child(|| {
        let runtime = runtime(2);
        let _peer = busy(&runtime);
        std::mem::forget(runtime);
        std::process::exit(10)
    });
    assert_eq!(ended, Ended::Code(10));
}

/// H7: a task that the system refuses a stack says so when it is joined; the runtime lives on, and recovers.
pub fn h07_no_memory_for_stacks() {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    solo(|| {
        let ran = Arc::new(AtomicBool::new(false));
        // What the worker has it keeps.
        thread::spawn(|| try_sleep(ms(1))).join().unwrap().unwrap();
        let limit = sys::limit(Resource::As, pages * rustix::param::page_size() as u64 + (256 << 20));
        for _ in 0..3 {
            let run = ran.clone();
            let task = Builder::new().name("greedy".into()).stack_size(1 << 30);
            let task = task.spawn(move || run.store(true, Ordering::SeqCst)).unwrap();
            let refusal = task.join().unwrap_err().downcast::<io::Error>().expect("an io::Error as payload");
            assert_eq!(refusal.kind(), io::ErrorKind::OutOfMemory, "{refusal:?}");
            assert!(refusal.to_string().contains("greedy"), "{refusal}");
            assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
            // Detached ones go as quietly.
            drop(Builder::new().stack_size(1 << 30).spawn(|| ()).unwrap());
            try_sleep(ms(1)).unwrap();
        }
        drop(limit);
        assert!(!ran.load(Ordering::SeqCst));
        let task = Builder::new().stack_size(1 << 30).spawn(|| 2).unwrap();
        assert_eq!(task.join().unwrap(), 2);
    });
}

/// J13: a task that blocks its worker is named, once, and one that only waits is not.
pub fn j13_stall_is_reported() {
    let threshold = ms(100);
    let (metrics, text) = process::stderr_of(|| {
        let runtime = build(Runtime::builder().workers(1).watchdog(threshold));
        let handle = runtime.handle();
        runtime.run(|| {
            let sleeper = Builder::new().name("sleeper".into());
            sleeper.spawn(move || try_sleep(3 * threshold).unwrap()).unwrap().join().unwrap();
            assert_eq!(handle.metrics().stalls, 0);
            let blocker = Builder::new().name("blocker".into());
            let told = handle.clone();
            let body = move || {
                let deadline = Instant::now() + patience(Duration::from_secs(3));
                while told.metrics().stalls == 0 {
                    assert!(Instant::now() < deadline, "nobody tells");
                    std::thread::sleep(ms(1));
                }
                // Still the same stall.
                std::thread::sleep(3 * threshold);
            };
            blocker.spawn(body).unwrap().join().unwrap();
            // Nameless ones as well.
            thread::spawn(move || std::thread::sleep(6 * threshold)).join().unwrap();
        });
        handle.metrics()
    });
    assert_eq!(metrics.stalls, text.matches("towpath: task").count() as u64, "{text}");
    assert_eq!(text.matches("(blocker)").count(), 1, "{text}");
    assert!(text.lines().count() >= 2 && !text.contains("sleeper"), "{text}");
}

/// H7: the same when the pool itself cannot grow: some tasks get stacks, the rest errors, none is lost.
pub fn h07_no_memory_for_the_pool() {
    solo(|| {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let limit = sys::limit(Resource::As, pages * rustix::param::page_size() as u64 + (192 << 20));
        let drops = Drops::default();
        let started = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..4000)
            .map(|_| {
                let (guard, started) = (drops.guard(), started.clone());
                thread::spawn(move || {
                    let _guard = guard;
                    started.fetch_add(1, Ordering::SeqCst);
                    thread::park();
                })
            })
            .collect();
        let handle = towpath::Handle::try_current().unwrap();
        // This one is one of them.
        until(|| handle.metrics().tasks == started.load(Ordering::SeqCst) + 1);
        tasks.iter().for_each(|task| task.thread().unpark());
        let (mut ran, mut refused) = (0, 0);
        for task in tasks {
            match task.join() {
                Ok(()) => ran += 1,
                Err(payload) => {
                    payload.downcast::<io::Error>().expect("an io::Error as payload");
                    refused += 1;
                }
            }
        }
        assert_eq!((ran + refused, drops.count()), (4000, 4000));
        assert!(ran > 100 && refused > 100, "{ran} ran, {refused} were refused");
        drop(limit);
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
    });
}

/// H7: sizes that no system can have are refused in the same way.
pub fn h07_impossible_stack_sizes() {
    solo(|| {
        for bytes in [usize::MAX, usize::MAX / 2, 1 << 47] {
            let task = Builder::new().stack_size(bytes).spawn(|| ()).unwrap();
            assert!(task.join().unwrap_err().is::<io::Error>(), "{bytes} bytes");
        }
        for bytes in [0, 1, 4096] {
            assert_eq!(
                Builder::new().stack_size(bytes).spawn(|| 1).unwrap().join().unwrap(),
                1,
                "{bytes} bytes"
            );
        }
    });
}
