//! I: other threads. No wake is lost, none costs more than it must, and the end of the loop is everybody's end.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant as StdInstant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use towpath_harness::{Rng, sys};
use towpath_loop::{Event, Loop, Remote, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// `Remote` and `Event` are for all threads, `Loop` is for one: it does not compile otherwise.
pub fn i00_auto_traits() {
    fn shared<T: Send + Sync>() {}
    shared::<Remote>();
    shared::<Event>();
    shared::<towpath_loop::Socket>();
    shared::<towpath_loop::OpId>();
    // Compiles only if exactly one implementation applies, that is, if the trait is not implemented.
    trait UnlessSend<A> {
        fn check() {}
    }
    impl<T: ?Sized> UnlessSend<()> for T {}
    impl<T: ?Sized + Send> UnlessSend<u8> for T {}
    trait UnlessSync<A> {
        fn check() {}
    }
    impl<T: ?Sized> UnlessSync<()> for T {}
    impl<T: ?Sized + Sync> UnlessSync<u8> for T {}
    <Loop as UnlessSend<_>>::check();
    <Loop as UnlessSync<_>>::check();
    <towpath_loop::Ticket<op::Timer> as UnlessSend<_>>::check();
    <towpath_loop::OpFuture<op::Timer> as UnlessSend<_>>::check();
}

/// I1: four threads post to a loop that sleeps between posts: each is seen, and soon.
pub fn i01_posts_from_four_threads() {
    let each = scaled(10_000_000) / 20;
    let loop_ = new_loop();
    let total = Arc::new(AtomicU64::new(0));
    let worst = Arc::new(AtomicU64::new(0));
    let yardstick = Yardstick::start();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (remote, total, worst) = (loop_.remote(), total.clone(), worst.clone());
            std::thread::spawn(move || {
                let (me, seen) = (std::thread::current(), Arc::new(AtomicU64::new(0)));
                for round in 0..each {
                    let (me, seen2, total, worst) = (me.clone(), seen.clone(), total.clone(), worst.clone());
                    let begun = StdInstant::now();
                    let post = move |_: &Loop| {
                        worst.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
                        total.fetch_add(1, Ordering::Relaxed);
                        seen2.store(round + 1, Ordering::Release);
                        me.unpark();
                    };
                    remote.run(post).unwrap();
                    // Not before it was seen: so the loop runs out of work, and sleeps.
                    while seen.load(Ordering::Acquire) <= round {
                        std::thread::park();
                    }
                }
            })
        })
        .collect();
    loop_.run_until(|| total.load(Ordering::Relaxed) == 4 * each).unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let limit = yardstick.allow(100 * MS, Duration::ZERO);
    let worst = Duration::from_nanos(worst.load(Ordering::Relaxed));
    assert!(worst < limit, "a post was seen after {worst:?}");
    // How often is up to the system's scheduler; but not never, or nothing was tried.
    assert!(loop_.stats().rings > each / 1000, "the loop hardly ever slept: {:?}", loop_.stats());
}

/// I2: a wake before the first run, during a run, and after the loop's end.
pub fn i02_early_and_late_wakes() {
    let loop_ = new_loop();
    let remote = loop_.remote();
    let ran = Arc::new(AtomicU64::new(0));
    let post = |remote: &Remote| {
        let ran = ran.clone();
        remote.run(move |_| _ = ran.fetch_add(1, Ordering::Relaxed))
    };
    remote.wake();
    post(&remote).unwrap();
    let begun = StdInstant::now();
    loop_.tick(Some(Duration::from_secs(3))).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "the early wake was lost");
    loop_.run().unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 1);
    // From inside a callback: for the next tick.
    let inside = remote.clone();
    let (count, count2) = (ran.clone(), ran.clone());
    loop_.submit(op::next_tick(), move |_, _| {
        inside.run(move |_| _ = count.fetch_add(1, Ordering::Relaxed)).unwrap();
        inside.wake();
    });
    loop_.run_until(|| count2.load(Ordering::Relaxed) == 2).unwrap();
    drop(loop_);
    remote.wake();
    assert!(post(&remote).is_err());
    assert!(remote.submit(op::timer(MS), |_, _| unreachable!()).is_err());
    assert!(remote.clone().cancel(towpath_loop::OpId::from_bits(0)).is_err());
    assert_eq!(ran.load(Ordering::Relaxed), 2);
}

/// A foreign loop: ticks and polls the loop's descriptor, and nothing else, until `done`.
fn drive_from_outside(loop_: &Loop, done: impl Fn() -> bool) {
    poke(loop_);
    while !done() {
        assert!(is_readable(loop_, towpath_harness::patience(Duration::from_secs(3))), "nobody rings");
        poke(loop_);
    }
}

fn is_readable(loop_: &Loop, wait: Duration) -> bool {
    let wait = Timespec::try_from(wait).unwrap();
    loop_.with_fd(|fd| poll(&mut [PollFd::new(&fd.unwrap(), PollFlags::IN)], Some(&wait)).unwrap() == 1)
}

/// I2, L6: whoever polls the loop's descriptor, rather than let it sleep by itself, misses nothing: not what other threads
/// send, nor what callbacks begin. And where there is nothing it is silent.
pub fn i02_wakes_reach_who_polls_the_descriptor() {
    let loop_ = new_loop();
    if loop_.with_fd(|fd| fd.is_none()) {
        towpath_harness::skip("this backend has no descriptor");
    }
    let (remote, count) = (loop_.remote(), Arc::new(AtomicU64::new(0)));
    let (socket, mut peer) = half_unix();
    let one = || {
        let count = count.clone();
        move || _ = count.fetch_add(1, Ordering::Relaxed)
    };
    for round in 0..3 {
        count.store(0, Ordering::Relaxed);
        let done = |n| count.load(Ordering::Relaxed) == n;
        // A closure of another thread's, sent when the foreign loop is asleep.
        let (other, noted, polls) = (remote.clone(), one(), sys::tid());
        let thread = std::thread::spawn(move || {
            sys::wait_until_asleep(polls);
            other.run(move |_| noted()).unwrap();
        });
        drive_from_outside(&loop_, || done(1));
        thread.join().unwrap();
        // A job on the pool, an event, and a read that somebody's write ends.
        let noted = one();
        loop_.submit(op::blocking(move || sys::wait_until_asleep(polls)), move |_, _| noted());
        drive_from_outside(&loop_, || done(2));
        let (event, noted) = (Event::new(), one());
        loop_.submit(event.notified(), move |_, _| noted());
        poke(&loop_);
        std::thread::spawn(move || event.notify()).join().unwrap();
        drive_from_outside(&loop_, || done(3));
        let noted = one();
        loop_.submit(op::recv(&socket, vec![0; 8]), move |_, _| noted());
        poke(&loop_);
        peer.write_all(b"x").unwrap();
        drive_from_outside(&loop_, || done(4));
        // What callbacks begin: over at once, or handed over to the kernel only by another tick.
        let (socket2, other, sent, received) = (socket.clone(), remote.clone(), one(), one());
        loop_.submit(op::next_tick(), move |loop_, _| {
            loop_.submit(op::send(socket2.clone(), vec![1; 8]), move |_, _| {
                let receive = move |loop_: &Loop| {
                    loop_.submit(op::recv(socket2, vec![0; 8]), move |_, _| received());
                    sent();
                };
                other.run(receive).unwrap();
            });
        });
        drive_from_outside(&loop_, || done(5));
        while is_readable(&loop_, Duration::ZERO) {
            poke(&loop_);
        }
        peer.read_exact(&mut [0; 8]).unwrap();
        peer.write_all(b"x").unwrap();
        drive_from_outside(&loop_, || done(6));
        // A wake with nothing to say.
        while is_readable(&loop_, Duration::ZERO) {
            poke(&loop_);
        }
        std::thread::spawn({
            let remote = remote.clone();
            move || remote.wake()
        });
        assert!(is_readable(&loop_, towpath_harness::patience(Duration::from_secs(3))), "round {round}");
        // Then silence, after some ticks: one may find nothing, as the kernel passes on what rang long ago when it comes round
        // to it (after a grace period of RCU), which takes its time on a busy machine; but not for ever.
        let vain = (0..50).take_while(|_| is_readable(&loop_, 20 * MS)).inspect(|_| _ = poke(&loop_)).count();
        assert!(vain < 25, "readable for nothing, {vain} times");
    }
}

/// I3: a million wakes of a loop that does not run cost next to nothing; so do posts.
pub fn i03_wakes_coalesce() {
    let loop_ = new_loop();
    let remote = loop_.remote();
    let (ran, n) = (Arc::new(AtomicU64::new(0)), 1_000_000);
    let to = ran.clone();
    std::thread::spawn(move || {
        for at in 0..n {
            remote.wake();
            if at % 100 == 0 {
                let to = to.clone();
                remote.run(move |_| _ = to.fetch_add(1, Ordering::Relaxed)).unwrap();
            }
        }
    })
    .join()
    .unwrap();
    assert!(loop_.stats().rings < 2000, "{:?}", loop_.stats());
    poke(&loop_);
    assert_eq!(ran.load(Ordering::Relaxed), n / 100);
    // And while it runs.
    let (remote, stop) = (loop_.remote(), Arc::new(AtomicBool::new(false)));
    let over = stop.clone();
    let before = loop_.stats();
    let thread = std::thread::spawn(move || {
        (0..n).for_each(|_| remote.wake());
        over.store(true, Ordering::Release);
        remote.wake();
    });
    loop_.run_until(|| stop.load(Ordering::Acquire)).unwrap();
    thread.join().unwrap();
    let after = loop_.stats();
    // No more than one system call of a waker for each sleep of the loop.
    assert!(after.rings - before.rings <= after.ticks - before.ticks + 1, "{before:?} {after:?}");
}

/// L13: a loop that sleeps is woken by one system call, whoever sends and how much; one that runs, by none. As the kernel counts
/// them: a wake is a write to an eventfd.
pub fn l13_wakes_as_the_kernel_counts_them() {
    /// How many times this thread has called `write(2)` or the like, successfully or not.
    fn writes() -> u64 {
        let Ok(text) = std::fs::read_to_string("/proc/thread-self/io") else {
            towpath_harness::skip("this kernel does not count system calls")
        };
        let line = text.lines().find_map(|line| line.strip_prefix("syscw: ")).expect("a count of writes");
        line.parse().expect("a number")
    }
    const THREADS: u64 = 4;
    const POSTS: u64 = 1000;
    /// Each thread posts and wakes: how many writes that took.
    fn posted(remote: &Remote, seen: &Arc<AtomicU64>, ready: impl Fn() + Send + Sync) -> u64 {
        std::thread::scope(|s| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    s.spawn(|| {
                        ready();
                        let before = writes();
                        for _ in 0..POSTS {
                            let seen = seen.clone();
                            remote.run(move |_| _ = seen.fetch_add(1, Ordering::Release)).unwrap();
                            remote.wake();
                        }
                        writes() - before
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    }
    let loop_ = new_loop();
    let (remote, seen) = (loop_.remote(), Arc::new(AtomicU64::new(0)));
    // It runs: a callback waits for those who post.
    let (to, from, count) = (remote.clone(), seen.clone(), Arc::new(AtomicU64::new(u64::MAX)));
    let writes_seen = count.clone();
    loop_.submit(op::next_tick(), move |_, _| {
        writes_seen.store(posted(&to, &from, || ()), Ordering::Relaxed);
    });
    loop_.run().unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 0, "a running loop was woken");
    loop_.run_until(|| seen.load(Ordering::Acquire) == THREADS * POSTS).unwrap();
    let tid = sys::tid();
    for round in 0..20 {
        // It sleeps: one post costs one write.
        seen.store(0, Ordering::Relaxed);
        let (to, from) = (remote.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            sys::wait_until_asleep(tid);
            let before = writes();
            to.run(move |_| _ = from.fetch_add(1, Ordering::Release)).unwrap();
            writes() - before
        });
        loop_.run_until(|| seen.load(Ordering::Acquire) == 1).unwrap();
        assert_eq!(thread.join().unwrap(), 1, "round {round}");
        // Many at once, from all sides: one for each sleep at most.
        seen.store(0, Ordering::Relaxed);
        let (before, to, from) = (loop_.stats(), remote.clone(), seen.clone());
        let thread = std::thread::spawn(move || posted(&to, &from, || sys::wait_until_asleep(tid)));
        loop_.run_until(|| seen.load(Ordering::Acquire) == THREADS * POSTS).unwrap();
        let (wrote, after) = (thread.join().unwrap(), loop_.stats());
        assert!(wrote >= 1 && wrote <= after.ticks - before.ticks + 1, "{wrote} of {before:?} {after:?}");
    }
}

/// I4: bare wakes against the moment at which the loop goes to sleep.
pub fn i04_wake_races_sleep() {
    let rounds = scaled(10_000_000) / 4;
    let loop_ = new_loop();
    let remote = loop_.remote();
    let (asked, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (ask, saw) = (asked.clone(), seen.clone());
    let thread = std::thread::spawn(move || {
        let mut rng = Rng::new(4);
        for round in 1..=rounds {
            ask.store(round, Ordering::Release);
            remote.wake();
            while saw.load(Ordering::Acquire) < round {
                std::hint::spin_loop();
            }
            rng.spin(600);
        }
    });
    for round in 1..=rounds {
        // A lost wake sleeps here for ever.
        loop_.run_until(|| asked.load(Ordering::Acquire) >= round).unwrap();
        seen.store(round, Ordering::Release);
    }
    thread.join().unwrap();
}

/// I5: a wake never blocks, and a signal handler may do it.
pub fn i05_wake_from_signal_handler() {
    static REMOTE: OnceLock<Remote> = OnceLock::new();
    static SIGNALS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn on_signal(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
        if let Some(remote) = REMOTE.get() {
            remote.wake();
        }
    }
    let loop_ = new_loop();
    REMOTE.set(loop_.remote()).unwrap();
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // SAFETY: the handler makes atomic operations and a wake, which is async-signal-safe by its documentation.
    let thread = unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::pthread_self()
    };
    for _ in 0..100_000 {
        // SAFETY: no pointers; the handler is installed.
        unsafe { libc::raise(libc::SIGUSR1) };
    }
    assert_eq!(SIGNALS.load(Ordering::Relaxed), 100_000);
    let begun = StdInstant::now();
    loop_.tick(Some(Duration::from_secs(3))).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "the wakes were lost");
    // Into the loop's own sleep.
    let tid = sys::tid();
    for round in 1..=50 {
        let thread = std::thread::spawn(move || {
            sys::wait_until_asleep(tid);
            // SAFETY: the thread lives: it joins this one.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        });
        loop_.run_until(|| SIGNALS.load(Ordering::Relaxed) >= 100_000 + round).unwrap();
        thread.join().unwrap();
    }
}

/// I6: what is submitted while the loop ends is refused, completed or dropped: once, and never forgotten.
pub fn i06_submit_during_shutdown() {
    struct Counted(Arc<AtomicU64>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    for round in 0..100 {
        let loop_ = new_loop();
        let started = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (remote, started) = (loop_.remote(), started.clone());
                std::thread::spawn(move || {
                    let dropped = Arc::new(AtomicU64::new(0));
                    let mut made = 0;
                    loop {
                        made += 1;
                        let counted = Counted(dropped.clone());
                        let delay = Duration::from_micros(made % 3 * 500);
                        let sent = remote.submit(op::timer(delay), move |_, _| drop(counted));
                        started.fetch_add(1, Ordering::Relaxed);
                        if sent.is_err() {
                            return (made, dropped);
                        }
                        // A flood would only measure the allocator.
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        while started.load(Ordering::Relaxed) < 20 {
            loop_.tick(Some(Duration::ZERO)).unwrap();
        }
        Rng::new(round).spin(5000);
        drop(loop_);
        for thread in threads {
            let (made, dropped) = thread.join().unwrap();
            assert_eq!(dropped.load(Ordering::Relaxed), made, "round {round}");
        }
    }
}

/// An event hands each notification to one waiter, whichever loop that is on, and none gets lost when a waiter goes.
pub fn i10_events_across_threads() {
    let event = Event::new();
    let rounds = scaled(200_000) as u32;
    let waiters: Vec<_> = (0..2)
        .map(|seed| {
            let event = event.clone();
            std::thread::spawn(move || {
                let loop_ = current_loop();
                let (mut rng, mut taken) = (Rng::new(seed), 0);
                loop {
                    let limit = Duration::from_micros(rng.below(200));
                    match event.notified().timeout(limit).wait() {
                        Ok(n) => taken += n,
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::TimedOut),
                    }
                    // A waiter that goes away while it is being notified: what it was given is for others.
                    let ticket = loop_.start(event.notified());
                    rng.spin(500);
                    drop(ticket);
                    if STOP.load(Ordering::Acquire) {
                        drop(Loop::take_current());
                        drop(loop_);
                        return taken;
                    }
                }
            })
        })
        .collect();
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut rng = Rng::new(10);
    for _ in 0..rounds {
        event.notify();
        rng.spin(1500);
    }
    STOP.store(true, Ordering::Release);
    let taken: u32 = waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum();
    // What nobody took is still there.
    let _loop = current_loop();
    let rest = event.notified().timeout(Duration::ZERO).wait().unwrap_or(0);
    drop(Loop::take_current());
    assert_eq!(taken + rest, rounds);
}
