//! Looking into a runtime that runs: what tasks do and wait for, where they stand, counts.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use towpath::Warning;
use towpath::dump::{Found, State, Task, Which};
use towpath::net::{TcpListener, TcpStream};
use towpath::sync::{Barrier, Condvar, Event, Mutex, Once, RwLock, Semaphore};
use towpath::thread::{self, Builder, JoinHandle};

use crate::common::*;

fn named(name: &str, f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    Builder::new().name(name.into()).spawn(f).unwrap()
}

fn find<'a>(dump: &'a towpath::dump::Dump, name: &str) -> &'a Task {
    let mut tasks = dump.tasks.iter().filter(|task| task.name.as_deref() == Some(name));
    let task = tasks.next().unwrap_or_else(|| panic!("{name} is not in\n{dump}"));
    assert!(tasks.next().is_none(), "{name} is there twice in\n{dump}");
    task
}

#[track_caller]
fn waits_for(task: &Task, what: &str) -> Which {
    match &task.state {
        State::Waiting(wait) if wait.what == what => wait.which,
        state => panic!("{state:?} instead of {what}"),
    }
}

fn stands_in(task: &Task, function: &str) -> bool {
    let backtrace = task.backtrace.as_ref().expect("a backtrace");
    let names = backtrace.frames_of_the_program().iter().filter_map(|frame| frame.function.as_deref());
    names.into_iter().any(|name| name.contains(function))
}

#[inline(never)]
fn deep_inside(levels: usize) {
    if levels == 0 {
        thread::park();
    } else {
        deep_inside(std::hint::black_box(levels - 1));
    }
    std::hint::black_box(levels);
}

/// R12: the dump names what each task waits for, which one of it, for how long, where it stands and where it was
/// spawned; and the tasks go on as if nothing had been.
pub fn r12_what_tasks_wait_for() {
    solo(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&stream);
        let mutex = Arc::new(Mutex::new(()));
        let guard = mutex.lock().unwrap();
        let semaphore = Arc::new(Semaphore::new(0));
        let event = Arc::new(Event::new());
        let (sender, receiver) = towpath::sync::mpsc::channel::<()>();
        let woken = Arc::new(AtomicUsize::new(0));
        let counted = woken.clone();
        let parked = named("park", move || {
            deep_inside(20);
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let id = parked.thread().id();
        let unpark = parked.thread().clone();
        let mut tasks = vec![
            named("recv", move || assert_eq!(stream.read(&mut [0]).unwrap(), 0)),
            named("sleep", || assert!(thread::try_sleep(LONG).is_err())),
            named("join", move || parked.join().unwrap()),
            named("lock", {
                let mutex = mutex.clone();
                move || drop(mutex.lock().unwrap())
            }),
            named("lock too", {
                let mutex = mutex.clone();
                move || drop(mutex.lock().unwrap())
            }),
            named("acquire", {
                let semaphore = semaphore.clone();
                move || drop(semaphore.acquire(1))
            }),
            named("event", {
                let event = event.clone();
                move || event.wait().unwrap()
            }),
            named("receive", move || assert!(receiver.recv().is_err())),
            named("scope", || {
                thread::scope(|scope| {
                    scope.spawn(|| assert!(thread::try_sleep(LONG).is_err()));
                });
            }),
        ];
        thread::sleep(ms(50));
        for _ in 0..3 {
            let dump = towpath::dump();
            assert_eq!(dump.tasks.len(), 12, "{dump}");
            assert!(dump.workers.iter().all(|worker| worker.found == Found::Answered), "{dump}");
            assert_eq!(waits_for(find(&dump, "main"), "a dump"), Which::Unknown);
            assert_eq!(waits_for(find(&dump, "recv"), "recv"), Which::Descriptor(fd));
            let sleep = find(&dump, "sleep");
            waits_for(sleep, "timer");
            let State::Waiting(wait) = &sleep.state else { unreachable!() };
            let due = wait.due_in.unwrap();
            assert!(due > LONG - Duration::from_secs(60) && due < LONG, "{due:?}");
            assert!(sleep.idle >= ms(30), "{:?}", sleep.idle);
            assert_eq!(waits_for(find(&dump, "join"), "join"), Which::Task(id));
            let lock = waits_for(find(&dump, "lock"), "mutex");
            assert!(matches!(lock, Which::Object(_)));
            assert_eq!(waits_for(find(&dump, "lock too"), "mutex"), lock, "the same");
            waits_for(find(&dump, "acquire"), "semaphore");
            waits_for(find(&dump, "event"), "event");
            waits_for(find(&dump, "receive"), "a message in a channel");
            waits_for(find(&dump, "scope"), "the tasks of a scope");
            let park = find(&dump, "park");
            waits_for(park, "unpark");
            assert!(
                stands_in(park, "deep_inside") && park.spawned_at.unwrap().file().ends_with("dump.rs"),
                "{dump}"
            );
            assert!(stands_in(find(&dump, "recv"), "r12_what_tasks_wait_for"), "{dump}");
            let text = dump.to_string();
            assert!(text.contains(&format!("waiting for recv on fd {fd}")), "{text}");
            assert!(text.contains("deep_inside at"), "{text}");
            assert!(!text.contains("stack_init_trampoline"), "{text}");
        }
        assert_eq!(woken.load(Ordering::SeqCst), 0, "a dump wakes nobody");
        drop((client, guard, sender));
        semaphore.close();
        event.set();
        unpark.unpark();
        tasks[1].cancel();
        tasks[8].cancel();
        tasks.drain(..).for_each(|task| task.join().unwrap());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
    });
}

/// R12: tasks that have not started are in the dump, also with a thief about; each once.
pub fn r12_unstarted_tasks() {
    const TASKS: usize = 500;
    let runtime = runtime(2);
    runtime.run(|| {
        for _ in 0..5 {
            let tasks: Vec<_> = (0..TASKS).map(|_| thread::spawn(thread::park)).collect();
            let dump = towpath::Handle::try_current().unwrap().dump();
            for task in &tasks {
                let seen = dump.tasks.iter().filter(|seen| seen.id == task.thread().id()).count();
                assert_eq!(seen, 1, "{:?}", task.thread().id());
            }
            tasks.iter().for_each(|task| task.thread().unpark());
            tasks.into_iter().for_each(|task| task.join().unwrap());
        }
    });
}

/// R12: of ten thousand tasks none is lost and none is there twice, while others come, run and go.
pub fn r12_ten_thousand_tasks() {
    const TASKS: usize = 10_000;
    let runtime = runtime(2);
    let handle = runtime.handle();
    runtime.run(|| {
        let line = line!() + 1;
        let tasks: Vec<_> = (0..TASKS).map(|_| thread::spawn(thread::park)).collect();
        until(|| handle.metrics().started > TASKS as u64);
        let stop = Arc::new(AtomicBool::new(false));
        let churn: Vec<_> = (0..4)
            .map(|_| {
                let stop = stop.clone();
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        thread::spawn(thread::yield_now).join().unwrap();
                        thread::sleep(ms(1));
                    }
                })
            })
            .collect();
        let (ask, asked) = mpsc::channel();
        let from_outside = std::thread::spawn(move || ask.send(handle.dump()).unwrap());
        let inside = towpath::dump();
        until(|| from_outside.is_finished());
        for dump in [inside, asked.recv().unwrap()] {
            let mut ids: Vec<_> = dump.tasks.iter().map(|task| format!("{:?}", task.id)).collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), all, "some are there twice");
            let known: std::collections::HashSet<_> = dump.tasks.iter().map(|task| task.id).collect();
            assert!(tasks.iter().all(|task| known.contains(&task.thread().id())), "some are lost");
            // Some 60 ms, on a machine with nothing else to do.
            assert!(dump.took < patience(Duration::from_secs(10)), "{:?}", dump.took);
            for task in
                dump.tasks.iter().filter(|task| task.spawned_at.is_some_and(|place| place.line() == line))
            {
                waits_for(task, "unpark");
            }
        }
        from_outside.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        churn.into_iter().for_each(|task| task.join().unwrap());
        tasks.iter().for_each(|task| task.thread().unpark());
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
}

/// R12: a task that has hardly any stack left can be asked where it stands: the walk takes none of it.
pub fn r12_full_stacks() {
    #[inline(never)]
    fn fill(limit: usize) {
        let here = 0u8;
        // What `park` itself takes is less.
        if (&raw const here).addr() > limit + 3000 {
            fill(std::hint::black_box(limit));
        } else {
            thread::park();
        }
        std::hint::black_box(&here);
    }
    solo(|| {
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let task = Builder::new().stack_size(64 * 1024);
                let body = || {
                    let here = 0u8;
                    fill((&raw const here).addr() - 60 * 1024);
                };
                task.spawn(body).unwrap()
            })
            .collect();
        thread::sleep(ms(10));
        let dump = towpath::dump();
        for task in &tasks {
            let seen = dump.tasks.iter().find(|seen| seen.id == task.thread().id()).unwrap();
            assert!(seen.backtrace.as_ref().unwrap().frames.len() > 100);
            task.thread().unpark();
        }
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
}

/// R12: a worker that a task holds does not hold the dump up for long; it is shown as busy, with the task.
pub fn r12_busy_worker() {
    let runtime = runtime(2);
    let handle = runtime.handle();
    let (done, is_done) = mpsc::channel::<()>();
    runtime.run(|| {
        let (holding, is_held) = mpsc::channel();
        // It holds this worker, or the other.
        let holder = thread::spawn(move || {
            holding.send(()).unwrap();
            is_done.recv().unwrap();
        });
        let parked = thread::spawn(thread::park);
        let outside = {
            let handle = handle.clone();
            std::thread::spawn(move || {
                is_held.recv().unwrap();
                let dump = handle.dump();
                done.send(()).unwrap();
                dump
            })
        };
        // It takes a second, and names are looked for.
        let dump = thread::blocking(move || outside.join().unwrap()).unwrap();
        let busy: Vec<_> = dump.workers.iter().filter(|worker| worker.found != Found::Answered).collect();
        assert!(busy.len() == 1 && busy[0].found == Found::Busy(holder.thread().id()), "{dump}");
        assert!(dump.to_string().contains("busy with task"), "{dump}");
        holder.join().unwrap();
        parked.thread().unpark();
        parked.join().unwrap();
    });
    let dump = handle.dump();
    assert_eq!((dump.tasks.len(), dump.workers[0].found), (0, Found::Absent), "{dump}");
}

/// R12: a dump asked for in a callback of a worker's loop.
pub fn r12_in_a_callback() {
    solo(|| {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let sleeper = thread::spawn(thread::park);
        towpath_loop::Loop::current().unwrap().submit(towpath_loop::op::timer(ms(1)), move |_, _| {
            count.store(towpath::dump().tasks.len(), Ordering::SeqCst);
        });
        until(|| seen.load(Ordering::SeqCst) == 2);
        sleeper.thread().unpark();
        sleeper.join().unwrap();
    });
}

/// R12: the counters agree with what was done.
pub fn r12_metrics() {
    const TASKS: u64 = 1000;
    let runtime = runtime(2);
    let before = runtime.metrics();
    assert_eq!((before.switches, before.started, before.tasks), (0, 0, 0));
    runtime.run(|| {
        let tasks: Vec<_> = (0..TASKS).map(|_| thread::spawn(thread::yield_now)).collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        // From another thread.
        let me = thread::current();
        let waker = std::thread::spawn(move || {
            std::thread::sleep(ms(20));
            me.unpark();
        });
        thread::park();
        until(|| waker.is_finished());
        waker.join().unwrap();
        // The other worker has published what it did when it has ticked once more.
        until(|| {
            let now = towpath::Handle::try_current().unwrap().metrics();
            now.started == TASKS + 1 && now.finished == TASKS
        });
    });
    let handle = runtime.handle();
    let all = handle.metrics();
    let each: Vec<_> = (0..2).map(|worker| handle.worker_metrics(worker).unwrap()).collect();
    assert_eq!(handle.worker_metrics(2), None);
    assert_eq!(each[0] + each[1], all);
    assert_eq!((all.started, all.finished, all.tasks, all.stalls), (TASKS + 1, TASKS + 1, 0, 0));
    assert!(all.switches > 2 * TASKS && all.wakes >= TASKS && all.wakes <= all.switches, "{all:?}");
    assert!(all.remote_wakes >= 1 && all.remote_wakes <= all.wakes, "{all:?}");
    assert!(all.sleeps >= 1 && all.stacks >= 1 && all.ticks >= 1, "{all:?}");
    assert!(all.stolen <= TASKS, "{all:?}");
}

/// R12: a task that holds its worker is told with its backtrace, on the thread where it is; and the dump shows it as well.
pub fn r12_backtrace_of_a_running_task() {
    #[inline(never)]
    fn spin_around(stop: &AtomicBool) -> u64 {
        let mut n = 0u64;
        while !stop.load(Ordering::Relaxed) {
            n = std::hint::black_box(n + 1);
        }
        n
    }
    #[inline(never)]
    fn sleep_inside() {
        std::thread::sleep(ms(1));
    }
    let (tell, told) = mpsc::channel();
    let builder = towpath::Runtime::builder().workers(2).watchdog(ms(50));
    let runtime = build(builder.on_warning(move |warning| drop(tell.send(warning.clone()))));
    let handle = runtime.handle();
    let stop = Arc::new(AtomicBool::new(false));
    let asker = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let Warning::Stall(stall) = told.recv().unwrap() else { panic!("no stall") };
            let dump = handle.dump();
            stop.store(true, Ordering::Relaxed);
            // The other one sleeps in the kernel, again and again.
            let other = told.recv_timeout(patience(Duration::from_secs(3)));
            let Ok(Warning::Stall(other)) = other else { panic!("no second stall") };
            (stall, dump, other)
        }
    });
    runtime.run(|| {
        let spinner = Builder::new().name("spinner".into());
        let stopped = stop.clone();
        spinner.spawn(move || assert!(spin_around(&stopped) > 0)).unwrap().join().unwrap();
        let sleeper = Builder::new().name("sleeper".into());
        let is_over = || asker.is_finished();
        thread::scope(|scope| {
            let body = || {
                while !is_over() {
                    sleep_inside();
                }
            };
            sleeper.spawn_scoped(scope, body).unwrap();
        });
    });
    let (stall, dump, other) = asker.join().unwrap();
    assert_eq!((stall.name.as_deref(), other.name.as_deref()), (Some("spinner"), Some("sleeper")));
    let names = |backtrace: &towpath::dump::Backtrace| {
        let frames = backtrace.frames.iter().filter_map(|frame| frame.function.clone());
        frames.collect::<Vec<_>>().join("\n")
    };
    let backtraces = [stall.backtrace.as_ref().unwrap(), other.backtrace.as_ref().unwrap()];
    let [spins, sleeps] = backtraces.map(|backtrace| names(backtrace));
    assert!(spins.contains("spin_around"), "{spins}");
    assert!(spins.contains("r12_backtrace_of_a_running_task"), "to where it began:\n{spins}");
    assert!(sleeps.contains("r12_backtrace_of_a_running_task"), "{sleeps}");
    // Without its place, where the instruction that was interrupted belongs to no line.
    assert!(stall.to_string().contains("spin_around"), "{stall}");
    let seen = find(&dump, "spinner");
    assert!(seen.state == State::Running && stands_in(seen, "spin_around"), "{dump}");
    assert_eq!(seen.id, stall.task);
}

/// R12: where all tasks wait for each other and nothing is in flight, that is told, once; a timer, an operation or a job is
/// enough for it not to be.
pub fn r12_deadlock() {
    let (tell, told) = mpsc::channel();
    let builder = towpath::Runtime::builder().workers(2).watchdog(ms(20));
    let runtime = build(builder.on_warning(move |warning| drop(tell.send(warning.clone()))));
    runtime.run(|| {
        let locks: [Arc<Mutex<()>>; 2] = Default::default();
        let met = Arc::new(towpath::sync::Semaphore::new(0));
        let tasks: Vec<_> = [(0, 1), (1, 0)]
            .map(|(first, second)| {
                let (first, second, met) = (locks[first].clone(), locks[second].clone(), met.clone());
                named("philosopher", move || {
                    let _first = first.lock().unwrap();
                    met.add_permits(1).unwrap();
                    thread::yield_now();
                    // Cancelled in the end, unless the other one has let go before.
                    drop(second.lock_timeout(LONG));
                })
            })
            .into();
        met.acquire(2).unwrap().forget();
        // Their time-outs are in flight.
        thread::sleep(ms(200));
        assert!(told.try_recv().is_err(), "timers are in flight");
        thread::blocking(|| std::thread::sleep(ms(200))).unwrap();
        assert!(told.try_recv().is_err(), "a job is in flight");
        tasks.iter().for_each(|task| task.cancel());
        tasks.into_iter().for_each(|task| task.join().unwrap());
        let main = thread::current();
        let wakes = std::thread::spawn(move || {
            let deadlock = told.recv_timeout(patience(Duration::from_secs(3)));
            // Not told again, though it goes on.
            std::thread::sleep(ms(200));
            main.unpark();
            (deadlock, told.try_recv().is_err())
        });
        let child = named("child", thread::park);
        thread::park();
        child.thread().unpark();
        child.join().unwrap();
        let (deadlock, once) = wakes.join().unwrap();
        let Ok(Warning::Deadlock(deadlock)) = deadlock else { panic!("{deadlock:?}") };
        assert!(once);
        waits_for(find(&deadlock.dump, "main"), "unpark");
        waits_for(find(&deadlock.dump, "child"), "unpark");
        assert!(deadlock.to_string().contains("nothing is in flight"), "{deadlock}");
    });
}

/// R10: shutting down gives tasks the time that it is told, and names what has not ended, with what it does and where.
pub fn r10_shutdown_names_what_is_left() {
    let runtime = runtime(2);
    let ended = Arc::new(AtomicUsize::new(0));
    runtime.run(|| {
        for n in 0..10 {
            let ended = ended.clone();
            let clean_up = move || {
                assert!(thread::try_sleep(LONG).is_err());
                towpath::shield(|| thread::sleep(ms(5 * n)));
                ended.fetch_add(1, Ordering::SeqCst);
            };
            drop(named("polite", clean_up));
        }
        drop(named("stubborn", || towpath::shield(|| deep_inside(3))));
        thread::sleep(ms(20));
    });
    let leftover = runtime.shutdown(ms(500)).unwrap_err();
    assert_eq!(ended.load(Ordering::SeqCst), 10);
    assert_eq!((leftover.tasks.len(), leftover.lost_workers), (1, 0));
    let task = &leftover.tasks[0];
    assert!(task.canceled && stands_in(task, "deep_inside"), "{leftover}");
    waits_for(task, "unpark");
    let text = leftover.to_string();
    assert!(text.contains("1 tasks did not end") && text.contains("stubborn"), "{text}");
    assert!(text.contains("waiting for unpark") && text.contains("deep_inside at"), "{text}");
}

/// R10: what waits in a way that is `std`'s, with no room for an error, does not end by being cancelled: a shutdown waits for it until its limit
/// and no longer, and names it. What has such room ends at once.
pub fn r10_shutdown_of_waits_that_are_stds() {
    let runtime = runtime(2);
    let ended = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    runtime.run(|| {
        // Somebody who keeps all of them, and is as stubborn.
        let mutex: &'static Mutex<u32> = Box::leak(Box::default());
        let rwlock: &'static RwLock<u32> = Box::leak(Box::default());
        let condvar: &'static Condvar = Box::leak(Box::default());
        let once: &'static Once = Box::leak(Box::new(Once::new()));
        let barrier: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
        let start = |name: &str, body: fn(&Waits)| {
            let waits = Waits { mutex, rwlock, condvar, once, barrier };
            let (begun, ended) = (begun.clone(), ended.clone());
            drop(named(name, move || {
                begun.fetch_add(1, Ordering::SeqCst);
                body(&waits);
                ended.fetch_add(1, Ordering::SeqCst);
            }));
        };
        let keeps = {
            let (mutex, rwlock, once) = (mutex, rwlock, once);
            let (held, is_held) = mpsc::channel();
            drop(named("keeps", move || {
                let _locked = (mutex.lock().unwrap(), rwlock.write().unwrap());
                once.call_once(|| {
                    held.send(()).unwrap();
                    towpath::shield(thread::park);
                });
            }));
            is_held
        };
        until(|| keeps.try_recv().is_ok());
        start("lock", |waits| drop(waits.mutex.lock()));
        start("read", |waits| drop(waits.rwlock.read()));
        start("once", |waits| waits.once.wait());
        start("barrier", |waits| _ = waits.barrier.wait());
        start("condvar", |waits| drop(waits.condvar.wait(Mutex::new(()).lock().unwrap())));
        start("lock_timeout", |waits| assert!(waits.mutex.lock_timeout(Duration::MAX).is_err()));
        start("read_timeout", |waits| assert!(waits.rwlock.read_timeout(Duration::MAX).is_err()));
        start("once.wait_timeout", |waits| assert_canceled(waits.once.wait_timeout(Duration::MAX)));
        start("wait_cancellable", |waits| {
            assert!(waits.condvar.wait_cancellable(Mutex::new(()).lock().unwrap()).is_err());
        });
        until(|| begun.load(Ordering::SeqCst) == 9);
        // All of them wait by now, or are about to.
        thread::sleep(ms(5));
    });
    let limit = ms(300);
    let from = Instant::now();
    let leftover = runtime.shutdown(limit).unwrap_err();
    assert!(from.elapsed() >= limit && from.elapsed() < limit + patience(Duration::from_secs(2)));
    assert_eq!(ended.load(Ordering::SeqCst), 4, "{leftover}");
    let of_name = |name: &str| {
        let mut tasks = leftover.tasks.iter().filter(|task| task.name.as_deref() == Some(name));
        tasks.next().unwrap_or_else(|| panic!("{name} is not in {leftover}"))
    };
    waits_for(of_name("lock"), "mutex");
    waits_for(of_name("read"), "rwlock, to read");
    waits_for(of_name("once"), "once");
    waits_for(of_name("barrier"), "barrier");
    waits_for(of_name("condvar"), "condvar");
    waits_for(of_name("keeps"), "unpark");
    assert_eq!(leftover.tasks.len(), 6, "{leftover}");
}

/// What stubborn tasks wait for.
struct Waits {
    mutex: &'static Mutex<u32>,
    rwlock: &'static RwLock<u32>,
    condvar: &'static Condvar,
    once: &'static Once,
    barrier: &'static Barrier,
}

/// R10: a runtime whose tasks end in time ends in time, and says that nothing is left.
pub fn r10_shutdown_in_time() {
    for workers in [1, 2] {
        let runtime = runtime(workers);
        runtime.run(|| {
            for _ in 0..100 {
                drop(thread::spawn(|| thread::try_sleep(LONG)));
            }
            thread::sleep(ms(10));
        });
        let begun = std::time::Instant::now();
        runtime.shutdown(LONG).unwrap();
        assert!(begun.elapsed() < patience(Duration::from_secs(2)));
    }
}

/// R12: SIGQUIT prints the dump of each runtime that was asked to, each time, and the process goes on; also where the only
/// worker is held.
pub fn r12_sigquit() {
    let signal = || {
        // SAFETY: no pointers, and the signal is handled.
        assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGQUIT) }, 0);
    };
    let ((), text) = towpath_harness::process::stderr_while(|said| {
        let runtime = build(towpath::Runtime::builder().workers(1).dump_on_sigquit(true));
        runtime.run(|| {
            let begun = Arc::new(AtomicBool::new(false));
            let begin = begun.clone();
            let parked = named("parked", move || {
                begin.store(true, Ordering::Relaxed);
                deep_inside(2);
            });
            until(|| begun.load(Ordering::Relaxed));
            // Looking names up in a debug build takes a while.
            let wait_for = |what: &str, rest: fn(Duration)| {
                let deadline = Instant::now() + patience(Duration::from_secs(15));
                while !said.text().contains(what) {
                    assert!(Instant::now() < deadline, "{what:?} is not printed: {}", said.text());
                    rest(ms(1));
                }
            };
            signal();
            wait_for("deep_inside at", thread::sleep);
            signal();
            // Not a wait of the task's: the worker cannot answer.
            wait_for("busy with task", std::thread::sleep);
            parked.thread().unpark();
            parked.join().unwrap();
        });
    });
    assert_eq!(text.matches("2 tasks on 1 workers").count(), 1, "{text}");
    assert_eq!(text.matches("(parked) on worker 0: waiting for unpark").count(), 1, "{text}");
    assert!(text.contains("deep_inside at"), "{text}");
    assert_eq!(text.matches("busy with task").count(), 1, "{text}");
}
