//! `thread::Placement`: tasks start, and stay, where they were placed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use towpath::thread::{self, Builder, Placement, try_sleep};
use towpath::{Canceled, Handle};

use crate::common::*;

const WORKERS: usize = 3;

fn here() -> ThreadId {
    std::thread::current().id()
}

fn placed(placement: Placement) -> Builder {
    Builder::new().placement(placement)
}

/// The threads of the workers, by their numbers.
fn workers() -> Vec<ThreadId> {
    let ask = |n| placed(Placement::Worker(n)).spawn(here).unwrap().join().unwrap();
    (0..Handle::try_current().unwrap().workers()).map(ask).collect()
}

/// Whatever idle workers there are, nobody takes a task that was placed; groups and scopes place theirs too.
pub fn each_task_where_it_was_placed() {
    runtime(WORKERS).run(|| {
        let threads = workers();
        assert_eq!(threads[0], here(), "worker 0 is the thread that runs");
        assert!(threads[1] != threads[2] && threads[0] != threads[1] && threads[0] != threads[2]);
        let tasks: Vec<_> = (0..scaled(20_000))
            .map(|n| {
                let task = move || {
                    let before = here();
                    thread::yield_now();
                    (before, here())
                };
                (n % WORKERS, placed(Placement::Worker(n % WORKERS)).spawn(task).unwrap())
            })
            .collect();
        for (worker, task) in tasks {
            assert_eq!(task.join().unwrap(), (threads[worker], threads[worker]));
        }
        // From each worker.
        for at in 0..WORKERS {
            let threads = threads.clone();
            let task = move || {
                let local: Vec<_> = (0..200).map(|_| placed(Placement::Local).spawn(here).unwrap()).collect();
                assert!(local.into_iter().all(|task| task.join().unwrap() == threads[at]));
                assert_eq!(workers(), threads);
                thread::scope(|s| {
                    let there = placed(Placement::Worker(2)).spawn_scoped(s, here).unwrap();
                    assert_eq!(there.join().unwrap(), threads[2]);
                    let mut group = s.group::<_, io::Error>();
                    placed(Placement::Worker(1)).spawn_in(&mut group, || Ok(here())).unwrap();
                    assert_eq!(group.next().unwrap().unwrap(), threads[1]);
                });
            };
            placed(Placement::Worker(at)).spawn(task).unwrap().join().unwrap();
        }
    });
}

/// A place that there is not is an error, and the closure is dropped.
pub fn places_that_there_are_not() {
    let drops = Drops::default();
    let task = || {
        let guard = drops.guard();
        move || drop(guard)
    };
    for nowhere in [Placement::Local, Placement::Worker(0)] {
        assert_eq!(kind(placed(nowhere).spawn(task())), io::ErrorKind::Unsupported);
    }
    for anywhere in [Placement::Any, Placement::LeastLoaded] {
        placed(anywhere).spawn(task()).unwrap().join().unwrap();
    }
    let (one, two) = (runtime(1), runtime(2));
    assert_eq!(
        kind(placed(Placement::Worker(2)).spawn_on(&two.handle(), task())),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(kind(placed(Placement::Local).spawn_on(&two.handle(), task())), io::ErrorKind::Unsupported);
    one.run(|| {
        for n in [1, usize::MAX] {
            assert_eq!(kind(placed(Placement::Worker(n)).spawn(task())), io::ErrorKind::InvalidInput);
        }
        assert_eq!(
            kind(placed(Placement::Local).spawn_on(&two.handle(), task())),
            io::ErrorKind::Unsupported
        );
        placed(Placement::Worker(1)).spawn_on(&two.handle(), task()).unwrap().join().unwrap();
    });
    assert_eq!(drops.count(), 10);
}

/// Tasks that live long are spread evenly, whoever spawns them.
pub fn the_least_loaded_worker() {
    runtime(WORKERS).run(|| {
        let counts: Arc<std::sync::Mutex<HashMap<ThreadId, usize>>> = Arc::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for n in 0..30 * WORKERS {
            let (counts, begin) = (counts.clone(), begun.clone());
            let task = move || {
                *counts.lock().unwrap().entry(here()).or_default() += 1;
                begin.fetch_add(1, Ordering::SeqCst);
                try_sleep(LONG)
            };
            tasks.push(placed(Placement::LeastLoaded).spawn(task).unwrap());
            // Its load shows before the next one is placed.
            until(|| begun.load(Ordering::SeqCst) == n + 1);
        }
        let counts: Vec<_> = counts.lock().unwrap().values().copied().collect();
        assert_eq!(counts.len(), WORKERS, "{counts:?}");
        assert!(counts.iter().all(|count| (28..=32).contains(count)), "{counts:?}");
        for task in tasks {
            task.cancel();
            assert_canceled(task.join().unwrap());
        }
    });
}

/// From threads of no runtime, to workers that sleep; what is for worker 0 waits for a `run`.
pub fn from_foreign_threads() {
    let runtime = runtime(WORKERS);
    let handle = runtime.handle();
    let spawners: Vec<_> = (0..2)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                let mut tasks = Vec::new();
                for n in 0..scaled(20_000) {
                    let task = placed(Placement::Worker(n % WORKERS)).spawn_on(&handle, here).unwrap();
                    if n % WORKERS == 0 {
                        tasks.push(task);
                    } else {
                        task.join().unwrap();
                    }
                }
                tasks
            })
        })
        .collect();
    let tasks: Vec<_> = spawners.into_iter().flat_map(|spawner| spawner.join().unwrap()).collect();
    assert!(tasks.iter().all(|task| !task.is_finished()));
    runtime.run(|| assert!(tasks.into_iter().all(|task| task.join().unwrap() == here())));
}

/// While one worker has no time for what it alone may start, the others sleep.
pub fn bound_tasks_keep_nobody_awake() {
    let runtime = runtime(2);
    let task = placed(Placement::Worker(0)).spawn_on(&runtime.handle(), here).unwrap();
    // Worker 0 is not there, and worker 1 may not start it. The harness looks at the processor time.
    std::thread::sleep(ms(300));
    runtime.run(|| assert_eq!(task.join().unwrap(), here()));
}

/// What has not started when the runtime ends is refused.
pub fn bound_tasks_are_refused_at_the_end() {
    let runtime = runtime(2);
    let handle = runtime.handle();
    let drops = Drops::default();
    let task = || {
        let guard = drops.guard();
        move || drop(guard)
    };
    let before = placed(Placement::Worker(0)).spawn_on(&handle, task()).unwrap();
    drop(runtime);
    let after = placed(Placement::Worker(1)).spawn_on(&handle, task()).unwrap();
    for refused in [before, after] {
        assert_eq!(refused.join().unwrap_err().downcast_ref(), Some(&Canceled));
    }
    assert_eq!(drops.count(), 2);
}
