//! L19 and H9: the threads that do what blocks: how many there are, how long, and what becomes of what finds none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant as StdInstant};

use rustix::process::Resource;
use towpath_harness::process::{Ended, in_child};
use towpath_harness::sys;
use towpath_loop::operation::{Kind, Support};
use towpath_loop::{Loop, op};

use crate::common::*;

/// How many threads the pool may have on this machine.
fn most_threads() -> usize {
    std::thread::available_parallelism().map_or(64, |cpus| (cpus.get() * 4).max(64))
}

/// Jobs that keep as many threads until the returned closure is called. They are all running.
fn hold(loop_: &Loop, count: usize) -> impl FnOnce() {
    let (barrier, running) = (Arc::new(Barrier::new(count + 1)), Arc::new(AtomicUsize::new(0)));
    let held: Vec<_> = (0..count)
        .map(|_| {
            let (barrier, running) = (barrier.clone(), running.clone());
            loop_.start(op::blocking(move || {
                running.fetch_add(1, Ordering::AcqRel);
                barrier.wait();
            }))
        })
        .collect();
    let deadline = StdInstant::now() + towpath_harness::patience(Duration::from_secs(3));
    while running.load(Ordering::Acquire) < count {
        assert!(StdInstant::now() < deadline, "{running:?} of {count} run");
        std::thread::yield_now();
    }
    move || {
        barrier.wait();
        held.into_iter().for_each(|ticket| ticket.take().unwrap().unwrap());
    }
}

/// L19: as many threads as there are jobs at a time, up to the limit; the rest waits for one.
pub fn l19_threads_by_need() {
    let loop_ = new_loop();
    assert_eq!(loop_.stats().pool_threads, 0, "nobody has asked for any");
    for count in [1, 2, 7] {
        let before = loop_.stats().pool_threads;
        let release = hold(&loop_, count);
        assert!((count.max(before)..=before + count).contains(&loop_.stats().pool_threads));
        release();
    }
    let release = hold(&loop_, most_threads());
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let queued: Vec<_> = (0..10)
        .map(|n| {
            let order = order.clone();
            loop_.start(op::blocking(move || order.lock().unwrap().push(n)))
        })
        .collect();
    let stats = loop_.stats();
    assert_eq!((stats.pool_threads, stats.pool_queued), (most_threads(), 10));
    // What is cancelled in the queue leaves it without having run.
    assert!(loop_.cancel(queued[3].id()) && loop_.remove(queued[5].id()));
    poke(&loop_);
    release();
    for (n, ticket) in queued.into_iter().enumerate() {
        match n {
            3 => assert!(canceled(ticket.take().unwrap())),
            5 => {}
            _ => ticket.take().unwrap().unwrap(),
        }
    }
    let mut ran = order.lock().unwrap().clone();
    ran.sort_unstable();
    assert_eq!(ran, [0, 1, 2, 4, 6, 7, 8, 9]);
    assert_eq!(loop_.stats().pool_threads, most_threads());
}

/// L19: a queue without end is none: the job that finds it full is refused, and dropped unrun.
pub fn l19_the_queue_is_bounded() {
    const ROOM: usize = 65_536;
    let loop_ = new_loop();
    let release = hold(&loop_, most_threads());
    let ran = Arc::new(AtomicUsize::new(0));
    let mut queued: Vec<_> = (0..ROOM + 3)
        .map(|_| {
            let ran = ran.clone();
            loop_.start(op::blocking(move || _ = ran.fetch_add(1, Ordering::AcqRel)))
        })
        .collect();
    assert_eq!(loop_.stats().pool_queued, ROOM);
    for refused in queued.drain(ROOM..) {
        assert_eq!(errno(refused.take().unwrap()), libc::EAGAIN);
    }
    assert_eq!(Arc::strong_count(&ran), 1 + ROOM, "what was refused was not dropped");
    release();
    queued.into_iter().for_each(|ticket| ticket.take().unwrap().unwrap());
    assert_eq!(ran.load(Ordering::Acquire), ROOM);
}

/// L19: threads that nobody needs end after a while, and not at once.
pub fn l19_idle_threads_end() {
    let loop_ = current_loop();
    hold(&loop_, 5)();
    let begun = StdInstant::now();
    op::timer(Duration::from_secs(1)).wait().unwrap();
    assert_eq!(loop_.stats().pool_threads, 5, "they were not kept");
    while loop_.stats().pool_threads > 0 {
        assert!(begun.elapsed() < towpath_harness::patience(Duration::from_secs(15)), "they stay");
        op::timer(Duration::from_millis(100)).wait().unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(9), "gone after {:?}", begun.elapsed());
    // And come back.
    loop_.start(op::blocking(|| ())).take().unwrap().unwrap();
}

/// H9: the system has no thread to give. What finds none at all is told so; one is enough for everybody.
pub fn h09_no_threads_to_be_had() {
    let ended = in_child(|| {
        // Nobody's threads are counted, root's are not.
        if rustix::process::geteuid().is_root() && sys::become_user_in_all_threads(65_534).is_err() {
            return 77;
        }
        let loop_ = new_loop();
        let kinds = loop_.capabilities();
        let asks_pool = kinds.contains(&(Kind::RealPath, Support::Pool));
        let job = || loop_.start(op::blocking(|| 7)).take().unwrap();
        let none = sys::limit(Resource::Nproc, 0);
        if std::thread::Builder::new().spawn(|| ()).is_ok() {
            return 77;
        }
        assert_eq!(errno(job()), libc::EAGAIN);
        let path = loop_.start(op::real_path("/")).take().unwrap();
        assert_eq!(path.is_err(), asks_pool, "{path:?}");
        if let Err(error) = path {
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        }
        drop(none);
        assert_eq!(job().unwrap(), 7);
        let none = sys::limit(Resource::Nproc, 0);
        let jobs: Vec<_> = (0..20).map(|_| loop_.start(op::blocking(|| 8))).collect();
        jobs.into_iter().for_each(|ticket| assert_eq!(ticket.take().unwrap().unwrap(), 8));
        assert_eq!(loop_.start(op::real_path("/")).take().unwrap().unwrap(), std::path::Path::new("/"));
        assert_eq!(loop_.stats().pool_threads, 1);
        drop(none);
        0
    });
    match ended {
        Ended::Code(77) => towpath_harness::skip("the number of threads cannot be limited here"),
        ended => assert_eq!(ended, Ended::Code(0)),
    }
}
