//! `towpath::thread`: spawning from anywhere, names, parking, local tasks, blocking jobs, runtimes.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use towpath::net::TcpStream;
use towpath::thread::{self, Builder, try_sleep};
use towpath::{BackendKind, Canceled, Handle, Runtime};
use towpath_harness::sys;

use crate::common::*;

/// Outside of any runtime, `spawn` starts a thread, which everything else then concerns.
pub fn spawn_without_runtime() {
    assert!(Handle::try_current().is_none());
    let me = std::thread::current().id();
    let task = Builder::new().name("stand-in".into()).spawn(move || {
        assert_ne!(std::thread::current().id(), me);
        assert_eq!(std::thread::current().name(), Some("stand-in"));
        assert_eq!(thread::current().name(), Some("stand-in"));
        thread::sleep(ms(1));
        thread::yield_now();
        thread::current().id()
    });
    let task = task.unwrap();
    let id = task.thread().id();
    assert_eq!(task.join().unwrap(), id);
    assert_ne!(id, thread::current().id());

    let panic = thread::spawn(|| panic!("on purpose")).join().unwrap_err();
    assert_eq!(message(&*panic), "on purpose");

    // Detached, it runs on; cancelled, its waits fail.
    let (done, is_done) = mpsc::channel();
    drop(thread::spawn(move || done.send(try_sleep(ms(1)).is_ok()).unwrap()));
    assert!(is_done.recv().unwrap());
}

/// A thread stands in for a task that can be cancelled, in a wait for time, for data and in `park`.
pub fn cancel_stand_in_sleeping() {
    cancel_stand_in(|| {
        let first = try_sleep(LONG);
        assert_canceled(try_sleep(LONG));
        first
    });
}

/// See above.
pub fn cancel_stand_in_reading() {
    let (stream, _peer) = half();
    cancel_stand_in(move || (&stream).read(&mut [0; 8]).map(drop));
}

/// See above.
pub fn cancel_stand_in_parked() {
    cancel_stand_in(|| {
        thread::park();
        try_sleep(LONG)
    });
}

fn cancel_stand_in(body: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let (tell, told) = mpsc::channel();
    let task = thread::spawn(move || {
        tell.send(sys::tid()).unwrap();
        body()
    });
    sys::wait_until_asleep(told.recv().unwrap());
    task.cancel();
    assert_canceled(task.join().unwrap());
}

/// Local tasks need a runtime, and say so.
pub fn spawn_local_without_runtime() {
    assert_eq!(kind(Builder::new().spawn_local(|| ())), io::ErrorKind::Unsupported);
    let text = panic_of(|| thread::spawn_local(|| ()));
    assert!(text.contains("runtime"), "{text}");
    // Also on a stand-in.
    let result = thread::spawn(|| Builder::new().spawn_local(|| ()).map(drop)).join().unwrap();
    assert_eq!(kind(result), io::ErrorKind::Unsupported);
}

/// Every call of `net` works on a plain thread, and blocks it.
pub fn net_on_plain_threads() {
    let listener = towpath::net::TcpListener::bind("localhost:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut served = 0;
        for stream in listener.incoming().take(3) {
            let mut stream = stream.unwrap();
            let mut buf = [0; 64];
            while let n @ 1.. = stream.read(&mut buf).unwrap() {
                stream.write_all(&buf[..n]).unwrap();
                served += n;
            }
        }
        served
    });
    let text = format!("localhost:{}", addr.port());
    for addr in [text, addr.to_string()] {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut buf = [0; 5];
        assert_eq!(stream.peek(&mut buf).unwrap(), 5);
        stream.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        stream.set_read_timeout(Some(ms(5))).unwrap();
        assert_timed_out(stream.read(&mut buf));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(None).unwrap();
        assert_eq!(stream.read(&mut buf).unwrap(), 0);
    }
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(3)).unwrap();
    let second = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || read_all(second));
    (&stream).write_all(&[9; 1000]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reader.join().unwrap(), [9; 1000]);
    assert_eq!(server.join().unwrap(), 1010);
    assert_eq!(towpath::blocking(|| 3).unwrap(), 3);
    let begun = Instant::now();
    thread::sleep(ms(3));
    thread::park_timeout(ms(3));
    assert!(begun.elapsed() >= ms(6));
}

/// Local tasks share what is not `Send`, on one thread.
pub fn spawn_local_shares_rc() {
    duo(|| {
        let (sum, here) = (Rc::new(Cell::new(0)), std::thread::current().id());
        let tasks: Vec<_> = (1..=100)
            .map(|n| {
                let sum = sum.clone();
                thread::spawn_local(move || {
                    thread::yield_now();
                    try_sleep(ms(n % 3)).unwrap();
                    assert_eq!(std::thread::current().id(), here);
                    sum.set(sum.get() + n);
                    sum
                })
            })
            .collect();
        for task in tasks {
            task.join().unwrap();
        }
        assert_eq!((sum.get(), Rc::strong_count(&sum)), (5050, 1));
    });
}

/// J5: a task that has started stays on its thread, whatever it waits for.
pub fn j05_started_tasks_stay() {
    thread_local!(static MARK: Cell<u64> = const { Cell::new(0) });
    runtime(4).run(|| {
        let tasks: Vec<_> = (0..400u64)
            .map(|n| {
                thread::spawn(move || {
                    let home = std::thread::current().id();
                    for round in 0..10 {
                        MARK.set(n);
                        match (n + round) % 4 {
                            0 => thread::yield_now(),
                            1 => try_sleep(ms(1)).unwrap(),
                            2 => towpath::blocking(|| ()).unwrap(),
                            _ => thread::spawn(|| ()).join().unwrap(),
                        }
                        assert_eq!(std::thread::current().id(), home);
                        MARK.set(n);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.join().unwrap();
        }
    });
}

/// Names, identities, and what a builder refuses.
pub fn names_and_ids() {
    solo(|| {
        let task = Builder::new().name("worker bee".into()).stack_size(64 << 10).spawn(|| {
            let me = thread::current();
            (me.name().map(str::to_owned), me.id())
        });
        let task = task.unwrap();
        assert_eq!(task.thread().name(), Some("worker bee"));
        let id = task.thread().id();
        assert_eq!(task.join().unwrap(), (Some("worker bee".into()), id));
        assert_eq!(thread::spawn(|| ()).thread().name(), None);
        let result = Builder::new().name("nul\0".into()).spawn(|| ());
        assert_eq!(kind(result), io::ErrorKind::InvalidInput);
        let result = Builder::new().name("nul\0".into()).spawn_local(|| ());
        assert_eq!(kind(result), io::ErrorKind::InvalidInput);
        let mut ids: HashSet<_> =
            (0..1000).map(|_| thread::spawn(|| thread::current().id()).join().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.insert(thread::current().id()));
        assert!(format!("{:?}", thread::current()).contains("Thread"));
    });
    let ids: HashSet<_> = (0..8)
        .map(|_| std::thread::spawn(|| (thread::current().id(), thread::current().id())).join().unwrap())
        .map(|(one, two)| {
            assert_eq!(one, two);
            one
        })
        .collect();
    assert_eq!(ids.len(), 8);
}

/// The parking token: one, kept until it is taken.
pub fn park_and_unpark() {
    let check = || {
        let me = thread::current();
        me.unpark();
        me.unpark();
        thread::park();
        let begun = Instant::now();
        thread::park_timeout(ms(5));
        assert!(begun.elapsed() >= ms(5), "two tokens");
        me.unpark();
        let begun = Instant::now();
        thread::park_timeout(LONG);
        assert_quick(begun, Duration::from_secs(1));
    };
    solo(|| {
        check();
        let task = waiting(|| {
            thread::park();
            1
        });
        // Waits in between do not take the token, nor are they ended by it.
        let two = waiting(|| {
            let begun = Instant::now();
            try_sleep(ms(10)).unwrap();
            assert!(begun.elapsed() >= ms(10));
            thread::park();
            2
        });
        two.thread().unpark();
        task.thread().unpark();
        assert_eq!(task.join().unwrap() + two.join().unwrap(), 3);
    });
    std::thread::spawn(check).join().unwrap();
    // From a task to a thread and back.
    let main = thread::current();
    let runtime = runtime(2);
    let task = runtime.handle().spawn(move || {
        for _ in 0..1000 {
            main.unpark();
            thread::park();
        }
    });
    for _ in 0..1000 {
        thread::park();
        task.thread().unpark();
    }
    task.join().unwrap();
}

/// A cancelled task waits no more for the token, and tells so if asked; it has one that is there.
pub fn park_of_a_cancelled_task() {
    solo(|| {
        let task = waiting(|| {
            let ended = thread::try_park();
            thread::park();
            assert_canceled(thread::try_park());
            thread::current().unpark();
            thread::try_park().unwrap();
            thread::park();
            let me = thread::current();
            towpath::shield(|| {
                thread::spawn_local(move || me.unpark());
                thread::try_park().unwrap();
            });
            ended
        });
        task.cancel();
        assert_canceled(task.join().unwrap());
        let task = waiting(thread::try_park);
        task.thread().unpark();
        task.join().unwrap().unwrap();
    });
}

/// Jobs of the blocking pool: they run elsewhere, the worker goes on meanwhile, and panics come back.
pub fn blocking_jobs() {
    solo(|| {
        let here = std::thread::current().id();
        let (send, receive) = mpsc::channel();
        let job = waiting(move || {
            towpath::blocking(move || {
                assert_ne!(std::thread::current().id(), here);
                receive.recv().unwrap()
            })
        });
        // The worker is free, or nobody would send.
        send.send(11).unwrap();
        assert_eq!(job.join().unwrap().unwrap(), 11);
        let text = panic_of(|| towpath::blocking(|| -> () { panic!("in the pool") }));
        assert_eq!(text, "in the pool");
        let task = thread::spawn(|| towpath::blocking(|| -> () { panic!("in the pool") }));
        assert_eq!(message(&*task.join().unwrap_err()), "in the pool");
        assert_eq!(towpath::blocking(|| 1).unwrap(), 1);
    });
}

/// What a builder of runtimes refuses.
pub fn builder_refuses() {
    for workers in [0, 65, usize::MAX] {
        // SAFETY: as in `build`.
        let result = unsafe { Runtime::builder().workers(workers).build() };
        assert_eq!(kind(result.map(drop)), io::ErrorKind::InvalidInput, "{workers} workers");
    }
    let runtime = build(Runtime::builder().workers(3));
    assert_eq!(runtime.handle().workers(), 3);
    for kind in BackendKind::ALL {
        // SAFETY: as in `build`.
        let result = unsafe { Runtime::builder().workers(1).backend(*kind).build() };
        if let Ok(runtime) = result {
            assert_eq!(runtime.handle().backend(), kind.name());
        }
    }
}

/// `InvalidInput` for a stack size that cannot be, as `Builder::build` documents.
pub fn builder_refuses_stack_sizes() {
    for bytes in [usize::MAX, usize::MAX - 4096] {
        // SAFETY: as in `build`.
        let result = unsafe { Runtime::builder().workers(1).stack_size(bytes).build() };
        assert_eq!(kind(result.map(drop)), io::ErrorKind::InvalidInput, "{bytes} bytes");
    }
}

/// Stacks that are too small are rounded up to what works.
pub fn small_stacks() {
    for bytes in [0, 1, 4096] {
        let runtime = build(Runtime::builder().workers(1).stack_size(bytes));
        assert_eq!(runtime.run(|| thread::spawn(|| 5).join().unwrap()), 5, "{bytes} bytes");
    }
}

/// Several runtimes in one process, each with its own tasks, which talk to each other.
pub fn several_runtimes() {
    let others: Vec<_> = (0..3)
        .map(|n| {
            std::thread::spawn(move || {
                let runtime = runtime(2);
                runtime.run(|| {
                    let (listener, addr) = listener();
                    let server = thread::spawn(move || read_all(listener.accept().unwrap().0));
                    let mut client = TcpStream::connect(addr).unwrap();
                    client.write_all(&[n; 100]).unwrap();
                    drop(client);
                    assert_eq!(server.join().unwrap(), [n; 100]);
                })
            })
        })
        .collect();
    // Two on one thread, one after the other and side by side.
    let (one, two) = (runtime(1), runtime(1));
    for round in 0..3 {
        assert_eq!(one.run(|| thread::spawn(move || round).join().unwrap()), round);
        assert_eq!(two.run(|| thread::spawn(move || round).join().unwrap()), round);
    }
    drop(one);
    assert_eq!(two.run(|| 4), 4);
    for other in others {
        other.join().unwrap();
    }
}

/// Inside of a runtime no other one runs, with a clear message; it goes on afterwards.
pub fn run_inside_run() {
    let (outer, inner) = (runtime(1), runtime(1));
    outer.run(|| {
        let text = panic_of(|| inner.run(|| ()));
        assert!(text.contains("Runtime::run"), "{text}");
        let text = panic_of(|| outer.run(|| ()));
        assert!(text.contains("Runtime::run"), "{text}");
        try_sleep(ms(1)).unwrap();
    });
    inner.run(|| try_sleep(ms(1)).unwrap());
}

/// A panic of `run`'s own closure comes out of it, and leaves a runtime that works.
pub fn panic_out_of_run() {
    let runtime = runtime(2);
    assert_eq!(panic_of(|| runtime.run(|| -> () { panic!("out of it") })), "out of it");
    assert_eq!(runtime.run(|| thread::spawn(|| 1).join().unwrap()), 1);
}

/// Tasks live on from one `run` to the next; those of other workers run meanwhile.
pub fn tasks_between_runs() {
    let runtime = runtime(1);
    let ticks = Arc::new(AtomicUsize::new(0));
    let count = ticks.clone();
    let task = runtime.run(move || {
        waiting(move || {
            for _ in 0..3 {
                count.fetch_add(1, Ordering::SeqCst);
                thread::park();
            }
        })
    });
    for round in 1..=3 {
        assert_eq!(ticks.load(Ordering::SeqCst), round);
        // In between it is made ready, and does not run.
        task.thread().unpark();
        assert_eq!(ticks.load(Ordering::SeqCst), round);
        runtime.run(|| until(|| task.is_finished() || ticks.load(Ordering::SeqCst) > round));
    }
    runtime.run(|| task.join().unwrap());
    assert_eq!(ticks.load(Ordering::SeqCst), 3);

    let runtime = self::runtime(2);
    let task = runtime.handle().spawn(|| {
        try_sleep(ms(1)).unwrap();
        8
    });
    // `run` is not needed for it.
    assert_eq!(task.join().unwrap(), 8);
}

/// Dropping a handle detaches: the task goes on, its result is dropped once.
pub fn detached_tasks() {
    let drops = Drops::default();
    let runtime = runtime(2);
    runtime.run(|| {
        for n in 0..100 {
            let guard = drops.guard();
            drop(thread::spawn(move || {
                if n % 2 == 0 {
                    try_sleep(ms(1)).unwrap();
                }
                guard
            }));
        }
        // The handle goes after the end.
        let guard = drops.guard();
        let task = thread::spawn(move || guard);
        until(|| task.is_finished());
        assert!(drops.count() <= 100);
        drop(task);
        let deadline = Instant::now() + patience(Duration::from_secs(3));
        while drops.count() < 101 {
            assert!(Instant::now() < deadline);
            try_sleep(ms(1)).unwrap();
        }
        let handle = Handle::try_current().unwrap();
        until(|| handle.metrics().tasks == 1);
    });
    assert_eq!(drops.count(), 101);
}

/// A result that panics when dropped hurts nobody but itself.
pub fn detached_result_panics_in_drop() {
    solo(|| {
        drop(thread::spawn(|| OnDrop(|| panic!("dropped"))));
        let task = thread::spawn(|| OnDrop(|| panic!("dropped")));
        until(|| task.is_finished());
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
        try_sleep(ms(1)).unwrap();
    });
}

/// I6: whatever is spawned around the end of a runtime is run or refused, never forgotten.
pub fn i06_spawn_races_shutdown() {
    for _ in 0..20 {
        let runtime = runtime(2);
        let (handle, stop) = (runtime.handle(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let (many, enough) = mpsc::channel();
        let spawner = std::thread::spawn(move || {
            let (drops, mut tasks) = (Drops::default(), Vec::new());
            while !stopped.load(Ordering::SeqCst) {
                let guard = drops.guard();
                tasks.push(handle.spawn(move || drop(guard)));
                if tasks.len() == 100 {
                    many.send(()).unwrap();
                }
                if tasks.len() > 5000 {
                    std::thread::yield_now();
                }
            }
            // At least one after the end.
            let guard = drops.guard();
            tasks.push(handle.spawn(move || drop(guard)));
            let (spawned, mut refused) = (tasks.len(), 0);
            for task in tasks {
                if let Err(panic) = task.join() {
                    assert!(panic.is::<Canceled>(), "{}", message(&*panic));
                    refused += 1;
                }
            }
            assert_eq!(drops.count(), spawned);
            refused
        });
        enough.recv().unwrap();
        drop(runtime);
        stop.store(true, Ordering::SeqCst);
        assert!(spawner.join().unwrap() >= 1);
    }
}

/// I8: a task is joined from another runtime, from a thread, from a stand-in.
pub fn i08_join_from_elsewhere() {
    let (one, two) = (runtime(2), runtime(1));
    let spawn = |n: u64| {
        one.handle().spawn(move || {
            try_sleep(ms(n)).unwrap();
            n
        })
    };
    for n in [0, 1, 5] {
        let task = spawn(n);
        assert_eq!(two.run(|| thread::spawn(move || task.join().unwrap()).join().unwrap()), n);
        let task = spawn(n);
        assert_eq!(std::thread::spawn(move || task.join().unwrap()).join().unwrap(), n);
        let task = spawn(n);
        assert_eq!(thread::spawn(move || task.join().unwrap()).join().unwrap(), n);
        assert_eq!(spawn(n).join().unwrap(), n);
        // The other way round: a task that joins a thread's stand-in.
        let stand_in = thread::spawn(move || {
            try_sleep(ms(n)).unwrap();
            n
        });
        assert_eq!(one.handle().spawn(move || stand_in.join().unwrap()).join().unwrap(), n);
    }
}

/// I8: the runtime goes first: joining what never started gives `Canceled`, what had started its result.
pub fn i08_runtime_dropped_first() {
    // One worker that nobody runs: nothing starts.
    let idle = runtime(1);
    let drops = Drops::default();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let guard = drops.guard();
            idle.handle().spawn(move || drop(guard))
        })
        .collect();
    let (tell, told) = mpsc::channel();
    let joiner = std::thread::spawn(move || {
        tell.send(sys::tid()).unwrap();
        tasks.into_iter().map(|task| task.join().unwrap_err().is::<Canceled>()).filter(|it| *it).count()
    });
    sys::wait_until_asleep(told.recv().unwrap());
    drop(idle);
    assert_eq!(joiner.join().unwrap(), 100);
    assert_eq!(drops.count(), 100);

    let busy = runtime(2);
    let handle = busy.handle();
    let (tell, told) = mpsc::channel();
    let started = busy.handle().spawn(move || {
        tell.send(()).unwrap();
        try_sleep(LONG)
    });
    told.recv().unwrap();
    drop(busy);
    assert_canceled(started.join().unwrap());
    assert!(handle.spawn(|| ()).join().unwrap_err().is::<Canceled>());
}

/// I9: handles of tasks, cloned and dropped anywhere, used after the end.
pub fn i09_handles_outlive_tasks() {
    let count = scaled(1_000_000);
    let runtime = runtime(2);
    let drops = Drops::default();
    let guard = drops.guard();
    let task = runtime.handle().spawn(move || {
        let _guard = guard;
        for _ in 0..10 {
            thread::park();
        }
    });
    let handle = task.thread().clone();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let mine = handle.clone();
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                for n in 0..count {
                    let clone = mine.clone();
                    clone.unpark();
                    if n % 64 == 0 {
                        kept.push(clone);
                    }
                    if n % 4096 == 0 {
                        kept.clear();
                    }
                }
                kept
            })
        })
        .collect();
    let kept: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    // Ten tokens have come by now, or are still to be seen.
    let deadline = Instant::now() + patience(Duration::from_secs(3));
    while !task.is_finished() {
        assert!(Instant::now() < deadline);
        handle.unpark();
        std::thread::yield_now();
    }
    task.join().unwrap();
    assert_eq!(drops.count(), 1);
    handle.unpark();
    assert_eq!(handle.id(), kept[0].id());
    drop(runtime);
    kept.iter().for_each(thread::Thread::unpark);
    assert_eq!(kept.last().unwrap().name(), None);
}

/// I9: a wake-up that comes when a task has ended, or its runtime, keeps neither alive: no memory, no descriptors.
pub fn i09_late_wakes_leak_nothing() {
    let fds = sys::fd_count();
    for round in 0..200 {
        let runtime = runtime(2);
        let task = runtime.handle().spawn(|| ());
        let handle = task.thread().clone();
        until(|| task.is_finished());
        if round % 2 == 0 {
            task.cancel();
            handle.unpark();
            drop(runtime);
        } else {
            drop(runtime);
            task.cancel();
            handle.unpark();
        }
        task.join().unwrap();
    }
    assert_eq!(sys::fd_count(), fds);
}
