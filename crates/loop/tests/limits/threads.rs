//! I: what other threads, and signal handlers, do to a loop.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::{patience, sys};
use towpath_loop::{Closed, Event, Instant, Loop, Remote, op};

use crate::common::*;

/// Of the ten million rounds of I1 and I4, so many; each is a sleep and a wake.
const WAKES: u64 = 40_000;
/// Loops that I6 shuts down under fire.
const SHUTDOWNS: usize = 300;
/// How many submissions may be on their way to one of them.
const BACKLOG: usize = 1000;

/// I1: each post to a loop that sleeps arrives, and soon. No time-out is armed that could stand in for a lost wake.
pub fn i01_wakes_of_a_sleeping_loop() {
    const THREADS: u64 = 4;
    let loop_ = new_loop();
    let yardstick = Yardstick::start();
    let arrived = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (remote, arrived) = (loop_.remote(), arrived.clone());
            thread::spawn(move || {
                let mut worst = Duration::ZERO;
                let (tell, told) = channel();
                for _ in 0..WAKES / THREADS {
                    // The next post comes when this one has arrived: the loop sleeps in between.
                    let (tell, arrived, posted) = (tell.clone(), arrived.clone(), StdInstant::now());
                    let post = move |_: &Loop| {
                        arrived.fetch_add(1, Ordering::Relaxed);
                        tell.send(posted.elapsed()).unwrap();
                    };
                    remote.run(post).unwrap();
                    worst = worst.max(told.recv().unwrap());
                }
                worst
            })
        })
        .collect();
    loop_.run_until(|| arrived.load(Ordering::Relaxed) == WAKES).unwrap();
    let worst = threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap();
    let allowed = yardstick.allow(Duration::from_millis(100), Duration::ZERO);
    assert!(worst < allowed, "{worst:?} from post to run, {allowed:?} allowed");
    let stats = loop_.stats();
    assert!(stats.rings > 0 && stats.rings <= WAKES, "{stats:?}");
}

/// I2: wakes before the loop ever ran, while it runs, and after it is gone.
pub fn i02_wakes_at_odd_times() {
    // Before: the first sleep ends at once. So does that of a loop that is moved to nowhere.
    let loop_ = new_loop();
    let remote = loop_.remote();
    remote.wake();
    loop_.tick(None).unwrap();
    let remote2 = remote.clone();
    thread::spawn(move || remote2.wake()).join().unwrap();
    loop_.tick(None).unwrap();
    let (log, seen) = channel();
    let log2 = log.clone();
    remote.run(move |_| log2.send(1).unwrap()).unwrap();
    loop_.run().unwrap();
    assert_eq!(seen.try_recv(), Ok(1), "what was posted before the first run");

    // While it runs: from a callback of its own, and from another thread during one.
    let remote2 = remote.clone();
    loop_.submit(op::next_tick(), move |_, _| remote2.wake());
    loop_.tick(None).unwrap();
    loop_.tick(None).unwrap();
    let remote2 = remote.clone();
    loop_.submit(op::next_tick(), move |_, _| thread::spawn(move || remote2.wake()).join().unwrap());
    loop_.tick(None).unwrap();
    loop_.tick(None).unwrap();
    // A message that a message posts is for the next tick, which does not sleep.
    let (remote2, log2) = (remote.clone(), log.clone());
    remote.run(move |_| remote2.run(move |_| log2.send(2).unwrap()).unwrap()).unwrap();
    loop_.tick(None).unwrap();
    loop_.tick(None).unwrap();
    assert_eq!(seen.try_recv(), Ok(2));

    // Cancelling, from another thread while it sleeps.
    let id = loop_.submit(op::timer_at(Instant::NEVER), |_, outcome| assert!(canceled(outcome)));
    let (remote2, own) = (remote.clone(), sys::tid());
    let canceler = thread::spawn(move || {
        sys::wait_until_asleep(own);
        remote2.cancel(id).unwrap();
    });
    loop_.run().unwrap();
    canceler.join().unwrap();
    remote.cancel(id).unwrap(); // long over
    loop_.run().unwrap();

    // After: nothing, or the news that it is gone. What was given is dropped.
    let log2 = log.clone();
    remote.run(move |_| log2.send(3).unwrap()).unwrap();
    drop((loop_, log));
    assert!(seen.try_recv().is_err(), "it ran though the loop was not ticked");
    let token = Arc::new(());
    for _ in 0..3 {
        remote.wake();
        let kept = token.clone();
        assert!(matches!(remote.run(move |_| drop(kept)), Err(Closed(()))));
        let kept = token.clone();
        assert!(remote.submit(op::next_tick(), move |_, _| drop(kept)).is_err());
        assert!(remote.cancel(id).is_err());
    }
    assert_eq!(Arc::strong_count(&token), 1);
    // The same once it was closed with a handle left.
    let loop_ = new_loop();
    let remote = loop_.remote();
    loop_.close();
    remote.wake();
    assert!(remote.run(|_| ()).is_err());
}

/// I3: a million wakes cost next to no system calls.
pub fn i03_wakes_coalesce() {
    const MANY: u64 = 1_000_000;
    let loop_ = new_loop();
    // While the loop is awake, in a callback: one at most, for the next sleep.
    let remote = loop_.remote();
    let before = loop_.stats().rings;
    let posts = Arc::new(AtomicU64::new(0));
    let posts2 = posts.clone();
    loop_.submit(op::next_tick(), move |_, _| {
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (remote, posts) = (remote.clone(), posts2.clone());
                thread::spawn(move || {
                    (0..MANY / 2).for_each(|_| remote.wake());
                    for _ in 0..10_000 {
                        let posts = posts.clone();
                        remote.run(move |_| _ = posts.fetch_add(1, Ordering::Relaxed)).unwrap();
                    }
                })
            })
            .collect();
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
    loop_.tick(None).unwrap();
    loop_.tick(None).unwrap();
    assert_eq!(posts.load(Ordering::Relaxed), 20_000);
    let rings = loop_.stats().rings - before;
    assert!(rings <= 2, "{rings} system calls for {MANY} wakes of a loop that is awake");
    // While nobody runs it at all.
    let (before, remote) = (loop_.stats().rings, loop_.remote());
    thread::spawn(move || (0..MANY).for_each(|_| remote.wake())).join().unwrap();
    loop_.tick(None).unwrap();
    let rings = loop_.stats().rings - before;
    assert!(rings <= 2, "{rings} system calls for {MANY} wakes of a loop that is not run");
    // While it runs and sleeps as it likes: one for each sleep.
    let (before, remote) = (loop_.stats(), loop_.remote());
    let over = Arc::new(AtomicBool::new(false));
    let over2 = over.clone();
    let waker = thread::spawn(move || {
        (0..MANY).for_each(|_| remote.wake());
        over2.store(true, Ordering::Release);
        remote.wake();
    });
    loop_.run_until(|| over.load(Ordering::Acquire)).unwrap();
    waker.join().unwrap();
    let (ticks, rings) = (loop_.stats().ticks - before.ticks, loop_.stats().rings - before.rings);
    assert!(rings <= ticks + 2, "{rings} system calls for {ticks} sleeps");
    assert!(rings < MANY / 10, "{rings} system calls for {MANY} wakes");
}

/// I4: a notification races the wait for it, over and over: none is lost, none arrives twice.
pub fn i04_notify_races_waiting() {
    const EACH: u64 = 100_000;
    let loop_ = new_loop();
    let event = Event::new();
    let notifiers: Vec<_> = (0..2)
        .map(|_| {
            let event = event.clone();
            thread::spawn(move || {
                for round in 0..EACH {
                    event.notify();
                    if round % 16 == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    // One slot, taken again each time.
    let total = Rc::new(Cell::new(0));
    fn wait_again(loop_: &Loop, event: Event, total: Rc<Cell<u64>>) {
        loop_.submit(event.notified(), move |loop_, outcome| {
            total.set(total.get() + u64::from(outcome.unwrap()));
            assert!(total.get() <= 2 * EACH);
            if total.get() < 2 * EACH {
                wait_again(loop_, event, total);
            }
        });
    }
    wait_again(&loop_, event.clone(), total.clone());
    loop_.run().unwrap();
    assert_eq!(total.get(), 2 * EACH);
    notifiers.into_iter().for_each(|notifier| notifier.join().unwrap());
    let mut more = loop_.start(event.notified());
    poke(&loop_);
    assert!(more.try_take().is_none(), "there was one more");
}

/// I4: a flag is set and the loop woken, at every moment of its way to sleep.
pub fn i04_flag_and_wake() {
    let loop_ = new_loop();
    let (flag, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (remote, flag2, seen2) = (loop_.remote(), flag.clone(), seen.clone());
    let waker = thread::spawn(move || {
        for round in 1..=WAKES {
            flag2.store(round, Ordering::Release);
            remote.wake();
            let mut spins = 0_u64;
            while seen2.load(Ordering::Acquire) < round {
                spins += 1;
                // So that the next round comes at another moment.
                if spins > round % 64 { thread::yield_now() } else { std::hint::spin_loop() }
            }
        }
    });
    for round in 1..=WAKES {
        loop_.run_until(|| flag.load(Ordering::Acquire) >= round).unwrap();
        seen.store(round, Ordering::Release);
    }
    waker.join().unwrap();
}

/// What the handler wakes: a leaked box, taken back at the end.
static WOKEN_BY_SIGNAL: AtomicPtr<Remote> = AtomicPtr::new(std::ptr::null_mut());
static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn wake_on_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Release);
    // SAFETY: null, or a box that is taken back only when it is not to be found here any more and nobody sends
    // signals.
    if let Some(remote) = unsafe { WOKEN_BY_SIGNAL.load(Ordering::Acquire).as_ref() } {
        remote.wake();
    }
}

fn signal_thread(tid: i32) {
    // SAFETY: no pointers; the thread is one of this process, and the signal has a handler.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, libc::SIGUSR1) };
    assert_eq!(result, 0);
}

/// I5: a signal handler wakes the loop, on the loop's own thread, at any moment, and on another one.
pub fn i05_wake_from_a_signal_handler() {
    const ROUNDS: u64 = 2000;
    let loop_ = new_loop();
    WOKEN_BY_SIGNAL.store(Box::into_raw(Box::new(loop_.remote())), Ordering::Release);
    let handler: extern "C" fn(libc::c_int) = wake_on_signal;
    // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask. The handler only does what is
    // async-signal-safe. SA_RESTART, so that what is restarted can only be ended by the wake.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
    // On itself, awake: the next sleep ends.
    signal_thread(sys::tid());
    loop_.tick(None).unwrap();
    // From elsewhere, asleep and on the way there; handled by the sleeper, then by the sender.
    for on_sleeper in [true, false] {
        let (sleeper, seen) = (sys::tid(), Arc::new(AtomicU64::new(SIGNALS.load(Ordering::Acquire))));
        let begin = seen.load(Ordering::Acquire);
        let seen2 = seen.clone();
        let sender = thread::spawn(move || {
            let target = if on_sleeper { sleeper } else { sys::tid() };
            for round in begin..begin + ROUNDS {
                if round % 2 == 0 {
                    sys::wait_until_asleep(sleeper);
                }
                signal_thread(target);
                while seen2.load(Ordering::Acquire) <= round {
                    thread::yield_now();
                }
            }
        });
        for round in begin..begin + ROUNDS {
            loop_.run_until(|| SIGNALS.load(Ordering::Acquire) > round).unwrap();
            seen.store(round + 1, Ordering::Release);
        }
        sender.join().unwrap();
    }
    // It outlives the loop.
    drop(loop_);
    signal_thread(sys::tid());
    let remote = WOKEN_BY_SIGNAL.swap(std::ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: it came from a box, and the handler, which ran on this thread last, cannot find it any more.
    drop(unsafe { Box::from_raw(remote) });
}

/// I5: a counter that is full makes no waker wait. (No loop lives long enough to fill it: it is filled from outside.)
pub fn i05_full_counter_blocks_nobody() {
    let before = sys::fds();
    let loop_ = new_loop();
    let counters: Vec<_> = sys::fds()
        .into_iter()
        .filter(|(fd, what)| !before.contains_key(fd) && what.contains("[eventfd]"))
        .map(|(fd, _)| fd)
        .collect();
    if counters.is_empty() {
        towpath_harness::skip("this backend's waker is no eventfd");
    }
    for fd in &counters {
        let full = (u64::MAX - 1).to_ne_bytes();
        // SAFETY: eight readable bytes. The descriptor is the loop's, which is there.
        assert_eq!(unsafe { libc::write(fd.as_raw_fd(), full.as_ptr().cast(), 8) }, 8);
    }
    let (remote, ran) = (loop_.remote(), Arc::new(AtomicUsize::new(0)));
    let ran2 = ran.clone();
    let waker = thread::spawn(move || {
        for _ in 0..1000 {
            let ran = ran2.clone();
            remote.run(move |_| _ = ran.fetch_add(1, Ordering::Relaxed)).unwrap();
            remote.wake();
        }
    });
    waker.join().unwrap();
    loop_.tick(None).unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 1000);
}

/// Counts the closures that are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Alive {
        count.fetch_add(1, Ordering::Relaxed);
        Alive(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// I6: threads submit while the loop goes. Each submission runs, or is dropped, or comes back as refused; after the
/// end, all are refused.
pub fn i06_submit_during_shutdown() {
    let alive = Arc::new(AtomicUsize::new(0));
    let (mut ran_in_all, mut dropped_in_all, mut refused_in_all) = (0, 0, 0);
    for round in 0..SHUTDOWNS {
        let loop_ = new_loop();
        let (ran, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let barrier = Arc::new(Barrier::new(3));
        let threads: Vec<_> = (0..2)
            .map(|kind| {
                let remote = loop_.remote();
                let (alive, ran, gone, barrier) = (alive.clone(), ran.clone(), gone.clone(), barrier.clone());
                thread::spawn(move || {
                    barrier.wait();
                    let (mut accepted, mut refused) = (0, 0);
                    while refused < 3 {
                        // Faster than the loop, but not without end.
                        while alive.load(Ordering::Relaxed) > BACKLOG {
                            thread::yield_now();
                        }
                        let over = gone.load(Ordering::Acquire);
                        let (guard, ran) = (Alive::new(&alive), ran.clone());
                        let count = move || {
                            let _guard = guard;
                            ran.fetch_add(1, Ordering::Relaxed);
                        };
                        let result = match (kind + accepted) % 32 {
                            1.. if accepted % 2 == 0 => remote.run(move |_| count()),
                            1.. => remote.submit(op::next_tick(), move |_, outcome| {
                                outcome.map(|()| count()).unwrap()
                            }),
                            // In flight when the end comes, if it gets that far.
                            _ => remote.submit(op::timer_at(Instant::NEVER), move |_, _| drop(count)),
                        };
                        assert!(!over || result.is_err(), "accepted by a loop that was gone");
                        match result {
                            Ok(()) => accepted += 1,
                            Err(Closed(())) => refused += 1,
                        }
                    }
                    (accepted, refused)
                })
            })
            .collect();
        barrier.wait();
        for _ in 0..round % 4 {
            poke(&loop_);
        }
        // One round in two with a handle left.
        let kept = (round % 2 == 0).then(|| loop_.clone());
        if kept.is_some() {
            loop_.close();
        }
        drop(loop_);
        gone.store(true, Ordering::Release);
        for thread in threads {
            let (accepted, refused) = thread.join().unwrap();
            assert_eq!(refused, 3, "what was refused once is refused for good");
            refused_in_all += refused;
            dropped_in_all += accepted;
        }
        assert_eq!(alive.load(Ordering::Acquire), 0, "a submission was neither run nor dropped");
        ran_in_all += ran.load(Ordering::Relaxed);
        drop(kept);
    }
    dropped_in_all -= ran_in_all;
    // The race was one.
    assert!(ran_in_all > 0 && dropped_in_all > 0 && refused_in_all == 6 * SHUTDOWNS);
}

/// I6: events keep what a loop that goes did not take, and jobs that outlive it are let go.
pub fn i06_events_and_jobs_during_shutdown() {
    const EACH: u32 = 200;
    let alive = Arc::new(AtomicUsize::new(0));
    for round in 0..SHUTDOWNS / 3 {
        let event = Event::new();
        let loop_ = new_loop();
        let barrier = Arc::new(Barrier::new(3));
        let notifiers: Vec<_> = (0..2)
            .map(|_| {
                let (event, barrier) = (event.clone(), barrier.clone());
                thread::spawn(move || {
                    barrier.wait();
                    (0..EACH).for_each(|_| event.notify());
                })
            })
            .collect();
        let taken = Rc::new(Cell::new(0));
        fn wait_again(loop_: &Loop, event: Event, taken: Rc<Cell<u32>>) {
            loop_.submit(event.notified(), move |loop_, outcome| {
                taken.set(taken.get() + outcome.unwrap());
                wait_again(loop_, event, taken);
            });
        }
        wait_again(&loop_, event.clone(), taken.clone());
        // A job that is under way when the loop goes, and only then may end.
        let (go, wait) = channel::<()>();
        let guard = Alive::new(&alive);
        let job = op::blocking(move || {
            let _ = wait.recv();
            guard
        });
        let guard = Alive::new(&alive);
        loop_.submit(job, move |_, _| drop(guard));
        barrier.wait();
        for _ in 0..round % 8 {
            poke(&loop_);
        }
        drop(loop_);
        drop(go);
        notifiers.into_iter().for_each(|notifier| notifier.join().unwrap());
        // A second loop gets what the first did not.
        let left = 2 * EACH - taken.get();
        if left > 0 {
            let heir = new_loop();
            let got = heir.start(event.notified()).take().unwrap().unwrap();
            assert_eq!(got, left, "notifications were lost with the loop");
        }
        let deadline = StdInstant::now() + patience(Duration::from_secs(2));
        while alive.load(Ordering::Acquire) > 0 {
            assert!(StdInstant::now() < deadline, "a job's closure or result is still there");
            thread::yield_now();
        }
    }
}

/// F9: a forked child has none of its parent's pool threads, and starts its own.
pub fn f09_blocking_job_in_a_forked_child() {
    let answer = |loop_: &Loop| loop_.start(op::blocking(|| 42)).take().unwrap().unwrap();
    assert_eq!(answer(&Loop::new().unwrap()), 42);
    let child = towpath_harness::process::in_child(|| i32::from(answer(&Loop::new().unwrap()) != 42));
    assert_eq!(child, towpath_harness::process::Ended::Code(0));
}
