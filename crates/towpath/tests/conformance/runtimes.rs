//! Several runtimes in one process, with plain threads between them; how many workers one has.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use towpath::sync::{Event, Mutex, mpmc};
use towpath::thread::{self, Builder, try_sleep};
use towpath::{Canceled, Handle, Runtime};

use crate::common::*;

/// Does the same on two runtimes and a plain thread at once, each told its number.
fn everywhere_at_once(part: impl Fn(usize) + Send + Sync + Clone + 'static) {
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let part = part.clone();
            std::thread::spawn(move || match n {
                0 => part(n),
                _ => runtime(n).run(|| thread::spawn(move || part(n)).join().unwrap()),
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Messages go round between the runtimes, under one lock, until all have had their turns.
pub fn r09_messages_and_locks_between_runtimes() {
    const TURNS: usize = 3000;
    let channels: Arc<[_; 3]> = Arc::new(std::array::from_fn(|_| mpmc::sync_channel::<usize>(1)));
    let sum = Arc::new(Mutex::new(0));
    channels[0].0.send(0).unwrap();
    let (ring, total) = (channels.clone(), sum.clone());
    everywhere_at_once(move |me| {
        loop {
            let turn = ring[me].1.recv().unwrap();
            if turn > TURNS {
                let _ = ring[(me + 1) % 3].0.try_send(turn);
                return;
            }
            *total.lock().unwrap() += turn;
            ring[(me + 1) % 3].0.send(turn + 1).unwrap();
        }
    });
    assert_eq!(*sum.lock().unwrap(), TURNS * (TURNS + 1) / 2);
    // Contended.
    let count = Arc::new(Mutex::new(0));
    let counts = count.clone();
    everywhere_at_once(move |_| {
        for _ in 0..2000 {
            *counts.lock().unwrap() += 1;
            thread::yield_now();
        }
    });
    assert_eq!(*count.lock().unwrap(), 6000);
}

/// Tasks unpark, set off, cancel and join tasks of another runtime, and spawn there.
pub fn r09_handles_between_runtimes() {
    let (one, two) = (runtime(2), runtime(2));
    let there = two.handle();
    one.run(move || {
        for n in 0..200 {
            let parked = there.spawn(move || {
                thread::park();
                n
            });
            parked.thread().unpark();
            assert_eq!(parked.join().unwrap(), n);

            let event = Arc::new(Event::new());
            let waits = event.clone();
            // It spawns on, and joins, a task of the first runtime.
            let home = Handle::try_current().unwrap();
            let waiter = there.spawn(move || {
                waits.wait().unwrap();
                let back = Builder::new().name("back".into()).spawn_on(&home, || {
                    assert_eq!(thread::current().name(), Some("back"));
                    std::thread::current().id()
                });
                assert_ne!(back.unwrap().join().unwrap(), std::thread::current().id());
            });
            event.set();
            waiter.join().unwrap();
        }
        let begun = Arc::new(AtomicBool::new(false));
        let begins = begun.clone();
        let sleeper = there.spawn(move || {
            begins.store(true, Ordering::SeqCst);
            try_sleep(LONG)
        });
        until(|| begun.load(Ordering::SeqCst));
        sleeper.cancel();
        assert_canceled(sleeper.join().unwrap());
    });
}

/// A runtime that is built, used and dropped inside a task of another: its owner's worker waits meanwhile, the others do not.
pub fn r01_runtime_inside_a_task() {
    let outer = runtime(2);
    outer.run(|| {
        let drops = Drops::default();
        for _ in 0..3 {
            let inner = runtime(2);
            // Worker 1 of the inner one runs it.
            assert_eq!(inner.handle().spawn(|| 6 * 7).join().unwrap(), 42);
            let home = Handle::try_current().unwrap();
            for _ in 0..10 {
                let (guard, home) = (drops.guard(), home.clone());
                drop(inner.handle().spawn(move || {
                    let _guard = guard;
                    assert_canceled(try_sleep(LONG));
                    drop(home);
                }));
            }
            let begun = Instant::now();
            drop(inner);
            assert_quick(begun, ms(2000));
            // The task is its own again: runtime, loop, cancellation.
            assert!(Handle::try_current().is_some() && !thread::is_canceled());
            try_sleep(ms(1)).unwrap();
            assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
        }
        until(|| drops.count() == 30);
    });
}

/// A runtime that ends while tasks of another wait for its: they learn of it.
pub fn r01_runtime_ends_under_others() {
    let survivor = runtime(2);
    let (begun, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mortal = runtime(2);
    let handle = mortal.handle();
    let joiners: Vec<_> = (0..20)
        .map(|_| {
            let (handle, begins, refused) = (handle.clone(), begun.clone(), refused.clone());
            survivor.handle().spawn(move || {
                let task = handle.spawn(move || {
                    begins.fetch_add(1, Ordering::SeqCst);
                    try_sleep(LONG)
                });
                assert_canceled(task.join().unwrap());
                // And what comes later is refused.
                let late = handle.spawn(|| ());
                refused.fetch_add(usize::from(late.join().unwrap_err().is::<Canceled>()), Ordering::SeqCst);
                assert_eq!(handle.workers(), 2);
            })
        })
        .collect();
    until(|| begun.load(Ordering::SeqCst) == 20);
    drop(mortal);
    joiners.into_iter().for_each(|joiner| joiner.join().unwrap());
    assert_eq!(refused.load(Ordering::SeqCst), 20);
}

fn workers_by_default() -> usize {
    // SAFETY: nothing in this suite keeps a stack frame's address in a thread-local.
    unsafe { Runtime::new() }.unwrap().handle().workers()
}

/// As many workers as processors that the process may use.
pub fn r01_workers_by_affinity() {
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let allowed: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    assert_eq!(workers_by_default(), thread::available_parallelism().unwrap().get().min(64));
    assert!(workers_by_default() <= allowed.len());
    let mut one = rustix::thread::CpuSet::new();
    one.set(allowed[0]);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    assert_eq!((workers_by_default(), thread::available_parallelism().unwrap().get()), (1, 1));
    rustix::thread::sched_setaffinity(None, &all).unwrap();
}

/// And no more than the quota of its control group is worth, where groups can be made.
pub fn r01_workers_by_quota() {
    let group = Quota::kinds().find_map(|(line, root, file, text)| Quota::new(line, root, file, text).ok());
    let Some(group) = group else {
        towpath_harness::skip("no control group with a quota can be made here");
    };
    let (workers, there_are) = (workers_by_default(), thread::available_parallelism().unwrap().get());
    drop(group);
    assert_eq!((workers, there_are), (1, 1), "a quota of one processor");
}

/// A control group with a quota of one processor, with this process in it.
struct Quota {
    path: PathBuf,
    before: PathBuf,
}

impl Quota {
    /// What precedes the group in `/proc/self/cgroup`, where its hierarchy is, and how a quota is set there: in the second
    /// version, and in the first.
    fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
        [
            ("::", "/sys/fs/cgroup", "cpu.max", "100000 100000"),
            (":cpu:", "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
            (":cpu,cpuacct:", "/sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us", "100000"),
        ]
        .into_iter()
    }

    fn new(line: &str, root: &str, file: &str, text: &str) -> io::Result<Quota> {
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = groups.lines().find_map(|group| group.split_once(line)).ok_or(io::ErrorKind::NotFound)?;
        let before = Path::new(root).join(own.1.trim_start_matches('/'));
        let path = before.join(format!("towpath-test-{}", std::process::id()));
        // Where this is no control group there is no such file, and none is to be made.
        std::fs::metadata(before.join("cgroup.procs"))?;
        std::fs::create_dir(&path)?;
        // What was made in vain goes with it.
        let group = Quota { path, before };
        write(&group.path.join(file), text)?;
        write(&group.path.join("cgroup.procs"), "0")?;
        Ok(group)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = write(&self.before.join("cgroup.procs"), "0");
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Writes to a file that is there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}
