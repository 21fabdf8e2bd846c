//! M1, M2: signals.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::process::{self, Ended};
use towpath_harness::sys;
use towpath_loop::{BackendKind, Child, Config, Loop, Signals, op};

use crate::common::{
    Log, assert_timed_out, canceled, current_loop, errno, half_unix, listener, new_loop, poke, tick_until,
};

const USR1: i32 = libc::SIGUSR1;
const USR2: i32 = libc::SIGUSR2;
const HUP: i32 = libc::SIGHUP;

fn raise(signal: i32) {
    // SAFETY: no pointers; the tests handle the signal.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn action(signal: i32, new: Option<&libc::sigaction>) -> libc::sigaction {
    // SAFETY: all-zero bytes are a sigaction; the new one holds a function that is async-signal-safe.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        let new = new.map_or(std::ptr::null(), |new| new);
        assert_eq!(libc::sigaction(signal, new, &mut old), 0);
        old
    }
}

/// The words that say what a signal does.
fn disposition(signal: i32) -> (usize, i32) {
    let action = action(signal, None);
    // The C library puts this one in by itself (SA_RESTORER).
    (action.sa_sigaction, action.sa_flags & !0x0400_0000)
}

fn install(signal: i32, handler: libc::sighandler_t, flags: i32) {
    // SAFETY: all-zero bytes are a sigaction.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    (new.sa_sigaction, new.sa_flags) = (handler, flags);
    action(signal, Some(&new));
}

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn plain(signal: i32) {
    SEEN.fetch_add(signal as u32, Ordering::Relaxed);
}

extern "C" fn with_info(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's own information, passed on.
    assert_eq!(unsafe { (*info).si_signo }, signal);
    SEEN.fetch_add(1000, Ordering::Relaxed);
}

fn plain_handler() -> libc::sighandler_t {
    plain as extern "C" fn(i32) as libc::sighandler_t
}

fn info_handler() -> libc::sighandler_t {
    with_info as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as libc::sighandler_t
}

/// M1, G1: each way to wait, for what came before and for what comes.
pub fn m01_each_way_to_wait() {
    let loop_ = current_loop();
    let signals = Signals::new([USR1, HUP, USR1]).unwrap();
    // Before: kept, one each, in turn.
    for signal in [USR1, HUP, USR1] {
        raise(signal);
    }
    let mut two = [signals.received().wait().unwrap(), signals.received().wait().unwrap()];
    two.sort();
    assert_eq!(two, [HUP, USR1]);
    assert_timed_out(signals.received().timeout(Duration::from_millis(5)).wait());
    // After, into each way's own wait.
    let got = Log::new();
    let log = got.clone();
    loop_.submit(signals.received(), move |_, signal| log.add(signal.unwrap()));
    poke(&loop_);
    assert_eq!(got.len(), 0);
    raise(USR1);
    tick_until(&loop_, || got.len() == 1);
    let ticket = loop_.start(signals.received());
    poke(&loop_);
    raise(HUP);
    assert_eq!(ticket.take().unwrap().unwrap(), HUP);
    let mut future = std::pin::pin!(IntoFuture::into_future(signals.received()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    raise(USR1);
    let outcome = Cell::new(None);
    while outcome.get().is_none() {
        loop_.tick(Some(Duration::from_secs(3))).unwrap();
        if let std::task::Poll::Ready(signal) = future.as_mut().poll(&mut context) {
            outcome.set(Some(signal.unwrap()));
        }
    }
    assert_eq!((got.all(), outcome.get()), (vec![USR1], Some(USR1)));
    let tid = sys::tid();
    let main = std::thread::spawn(move || {
        sys::wait_until_asleep(tid);
        // SAFETY: no pointers; to the process, so that any thread may get it.
        unsafe { libc::kill(libc::getpid(), HUP) };
    });
    assert_eq!(signals.received().wait().unwrap(), HUP);
    main.join().unwrap();
    drop(Loop::take_current());
}

/// M1: ten thousand of them are at least one, on each loop, and the loops go on working.
pub fn m01_storm_reaches_every_loop() {
    const LOOPS: usize = 3;
    let ready = Arc::new(AtomicU32::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..LOOPS)
        .map(|_| {
            let (ready, over) = (ready.clone(), over.clone());
            std::thread::spawn(move || {
                let loop_ = current_loop();
                let signals = [Signals::new([USR1]).unwrap(), Signals::new([USR1, HUP]).unwrap()];
                ready.fetch_add(1, Ordering::SeqCst);
                let mut counts = [0_u64; 2];
                let mut ended = false;
                while !ended {
                    assert_eq!(signals[0].received().wait().unwrap(), USR1);
                    counts[0] += 1;
                    // The last one comes when the flag is up.
                    ended = over.load(Ordering::SeqCst);
                }
                while signals[1].received().timeout(Duration::ZERO).wait().is_ok() {
                    counts[1] += 1;
                }
                op::timer(Duration::from_millis(1)).wait().unwrap();
                drop(Loop::take_current());
                // The very last one may come while the others are taken.
                assert!(
                    loop_.in_flight() == 0 && counts[0] >= 1 && (1..=2).contains(&counts[1]),
                    "{counts:?}"
                );
            })
        })
        .collect();
    while ready.load(Ordering::SeqCst) < LOOPS as u32 {
        std::thread::yield_now();
    }
    for _ in 0..10_000 {
        raise(USR1);
    }
    over.store(true, Ordering::SeqCst);
    raise(USR1);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// M1: what the signal did before is done meanwhile, and in force again when the last watcher is gone.
pub fn m01_handlers_are_chained_and_restored() {
    let loop_ = current_loop();
    let before = disposition(HUP);
    install(USR1, plain_handler(), libc::SA_RESTART);
    install(USR2, info_handler(), libc::SA_SIGINFO);
    let own = [disposition(USR1), disposition(USR2)];
    let first = Signals::new([USR1, USR2, HUP]).unwrap();
    let second = Signals::new([USR1]).unwrap();
    assert_ne!(disposition(USR1), own[0]);
    raise(USR1);
    raise(USR2);
    assert_eq!(SEEN.load(Ordering::Relaxed), USR1 as u32 + 1000, "the handlers of before");
    // A handler without SA_RESTART was to interrupt system calls, and one with it was not.
    assert_eq!(disposition(USR2).1 & libc::SA_RESTART, 0);
    assert_ne!(disposition(USR1).1 & libc::SA_RESTART, 0);
    assert_ne!(disposition(USR1).1 & libc::SA_ONSTACK, 0);
    assert_eq!(second.received().wait().unwrap(), USR1);
    drop(first);
    assert_eq!((disposition(USR2), disposition(HUP)), (own[1], before));
    assert_ne!(disposition(USR1), own[0], "one is left");
    // An operation counts as well.
    let id = loop_.submit(second.received(), |_, _| ());
    poke(&loop_);
    drop(second);
    assert_ne!(disposition(USR1), own[0]);
    assert!(loop_.remove(id));
    tick_until(&loop_, || loop_.in_flight() == 0);
    assert_eq!(disposition(USR1), own[0]);
    raise(USR1);
    assert_eq!(SEEN.load(Ordering::Relaxed), 2 * USR1 as u32 + 1000);

    // Somebody else's handler on top of ours: it stays, and whoever comes later is not lost below it.
    static BELOW: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    extern "C" fn on_top(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: the handler that was installed before this one, with SA_SIGINFO.
        let below = unsafe { std::mem::transmute::<usize, Handler>(BELOW.load(Ordering::Relaxed)) };
        below(signal, info, context);
    }
    let watcher = Signals::new([HUP]).unwrap();
    BELOW.store(disposition(HUP).0, Ordering::Relaxed);
    let top = on_top as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as libc::sighandler_t;
    install(HUP, top, libc::SA_SIGINFO);
    drop(watcher);
    assert_eq!(disposition(HUP).0, top);
    raise(HUP);
    let watcher = Signals::new([HUP]).unwrap();
    assert_eq!(disposition(HUP).0, top);
    raise(HUP);
    assert_eq!(watcher.received().wait().unwrap(), HUP);
    // A default put over it calls nobody.
    install(HUP, libc::SIG_IGN, 0);
    let late = Signals::new([HUP]).unwrap();
    raise(HUP);
    for signals in [&watcher, &late] {
        assert_eq!(signals.received().timeout(Duration::from_secs(1)).wait().unwrap(), HUP);
    }
    drop((watcher, late));
    assert_eq!(disposition(HUP).0, libc::SIG_IGN);
    drop(Loop::take_current());
}

/// G1: what cannot be waited for is refused, and nothing is left of the attempt.
pub fn m01_forbidden_signals() {
    let before = disposition(USR1);
    let forbidden = [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
    // 32 is the C library's own.
    for signal in forbidden.into_iter().chain([0, -1, 32, 65, i32::MAX, i32::MIN]) {
        let error = Signals::new([USR1, signal]).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{signal}: {error}");
        assert_eq!(disposition(USR1), before, "{signal}");
    }
    let (spare, limit) = sys::spare_fds(0);
    assert_eq!(errno(Signals::new([USR1])), libc::EMFILE);
    drop((spare, limit));
    assert_eq!(disposition(USR1), before);
    let loop_ = new_loop();
    // None at all: nothing ever comes.
    let nothing = Signals::new([]).unwrap();
    assert_timed_out(loop_.start(nothing.received().timeout(Duration::from_millis(2))).take().unwrap());
    for signal in [libc::SIGRTMIN(), libc::SIGRTMAX(), libc::SIGCHLD] {
        let signals = Signals::new([signal]).unwrap();
        raise(signal);
        assert_eq!(loop_.start(signals.received()).take().unwrap().unwrap(), signal);
    }
}

/// G1: cancelled and removed waits lose no signal; one of those that wait gets each; loops end with waits in flight.
pub fn m01_cancelled_waits_lose_nothing() {
    let loop_ = new_loop();
    let other = new_loop();
    let signals = Signals::new([USR1, HUP]).unwrap();
    let id = loop_.submit(signals.received(), |_, outcome| assert!(canceled(outcome)));
    poke(&loop_);
    assert!(loop_.cancel(id));
    tick_until(&loop_, || loop_.in_flight() == 0);
    for round in 0..200 {
        let got = Log::new();
        let log = got.clone();
        let id = loop_.submit(signals.received(), move |_, outcome| log.add(outcome.unwrap()));
        if round % 2 == 0 {
            poke(&loop_);
        }
        raise(USR1);
        if round % 3 == 0 {
            poke(&loop_);
        }
        // Now it has been taken for the wait, or has not, or has been delivered.
        loop_.remove(id);
        tick_until(&loop_, || loop_.in_flight() == 0);
        if got.len() == 0 {
            let log = got.clone();
            other.submit(signals.received(), move |_, outcome| log.add(outcome.unwrap()));
            tick_until(&other, || got.len() > 0);
        }
        assert_eq!(got.all(), [USR1], "round {round}");
    }
    // Several wait for one set, on two loops: each signal goes to one of them.
    let got = Log::new();
    let wait = |loop_: &Loop| {
        let log = got.clone();
        loop_.submit(signals.received(), move |_, outcome| log.add(outcome.unwrap()));
    };
    (0..2).for_each(|_| wait(&loop_));
    wait(&other);
    poke(&loop_);
    poke(&other);
    raise(HUP);
    raise(USR1);
    let deadline = StdInstant::now() + towpath_harness::patience(Duration::from_secs(3));
    while got.len() < 2 {
        loop_.tick(Some(Duration::from_millis(1))).unwrap();
        other.tick(Some(Duration::from_millis(1))).unwrap();
        assert!(StdInstant::now() < deadline, "{:?}", got.all());
    }
    for _ in 0..3 {
        poke(&loop_);
        poke(&other);
    }
    let mut all = got.take();
    all.sort();
    assert_eq!((all, loop_.in_flight() + other.in_flight()), (vec![HUP, USR1], 1));
    drop((loop_, other, signals));
}

/// G1: a wait for a signal costs nothing, also after signals and with watchers that nobody waits for.
pub fn m01_idle_watchers_sleep() {
    let loop_ = new_loop();
    let _unheeded = Signals::new([USR1]).unwrap();
    let signals = Signals::new([USR1, HUP]).unwrap();
    raise(USR1);
    let got = Log::new();
    let log = got.clone();
    loop_.submit(signals.received(), move |loop_, outcome| {
        log.add(outcome.unwrap());
        loop_.submit(signals.received(), |_, _| ());
    });
    tick_until(&loop_, || got.len() == 1);
    let ticks = loop_.stats().ticks;
    let end = StdInstant::now() + Duration::from_millis(500);
    while let Some(left) = end.checked_duration_since(StdInstant::now()) {
        loop_.tick(Some(left)).unwrap();
    }
    assert!(loop_.stats().ticks - ticks < 10, "{:?}", loop_.stats());
}

/// Watchers come and go on several threads while signals rain: nobody is told through a descriptor that is gone.
pub fn m01_coming_and_going() {
    let base = Signals::new([USR1]).unwrap();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..500 {
                    drop(Signals::new([USR1, HUP]).unwrap());
                    // Whatever gets the eventfd's number next must not be written to.
                    let (mut from, to) = io::pipe().unwrap();
                    std::thread::yield_now();
                    drop(to);
                    let mut stray = Vec::new();
                    from.read_to_end(&mut stray).unwrap();
                    assert!(stray.is_empty(), "{stray:?}");
                }
            })
        })
        .collect();
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        // SAFETY: no pointers; the signal is handled. To the process: any thread may run the handler.
        unsafe { libc::kill(libc::getpid(), USR1) };
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let loop_ = new_loop();
    assert_eq!(loop_.start(base.received()).take().unwrap().unwrap(), USR1);
    // The last one may be on its way to another thread, which has not run since: it has to find our handler still there.
    wait_until_delivered(USR1);
}

/// Waits until none of the signals sent to the process is on its way any more. Leaves it blocked on this thread.
fn wait_until_delivered(signal: i32) {
    // SAFETY: all-zero bytes are a set, which the calls fill.
    let (mut set, mut pending): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for the calls.
    unsafe {
        libc::sigaddset(&raw mut set, signal);
        // What is pending is shown to threads that block it only.
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
        while libc::sigpending(&raw mut pending) == 0 && libc::sigismember(&pending, signal) == 1 {
            std::thread::yield_now();
        }
    }
}

/// A forked child has its own signals; what it does with its copy does not touch the parent's.
pub fn m01_forked_child() {
    let loop_ = new_loop();
    let signals = Signals::new([USR1]).unwrap();
    let before = disposition(USR1);
    let ended = process::in_child(|| {
        raise(USR1);
        drop(signals.clone());
        // The last one in this process, as far as the child knows.
        let own = Config::new().backend(BackendKind::Epoll).build().unwrap();
        let fresh = Signals::new([HUP]).unwrap();
        raise(HUP);
        assert_eq!(own.start(fresh.received()).take().unwrap().unwrap(), HUP);
        0
    });
    assert_eq!(ended, Ended::Code(0));
    assert_timed_out(loop_.start(signals.received().timeout(Duration::from_millis(5))).take().unwrap());
    raise(USR1);
    assert_eq!(loop_.start(signals.received()).take().unwrap().unwrap(), USR1);
    assert_eq!(disposition(USR1), before);
}

/// M2: a timer that interrupts system calls a thousand times a second, without `SA_RESTART`, changes no outcome.
pub fn m02_interrupted_all_the_time() {
    extern "C" fn nothing(_: i32) {}
    install(libc::SIGALRM, nothing as extern "C" fn(i32) as libc::sighandler_t, 0);
    let every = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: both are valid for the call.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    let loop_ = current_loop();
    let (near, mut far) = half_unix();
    let echo = std::thread::spawn(move || {
        let mut buf = [0; 512];
        loop {
            match far.read(&mut buf) {
                Ok(0) => return,
                Ok(n) => {
                    std::thread::sleep(Duration::from_millis(1));
                    far.write_all(&buf[..n]).unwrap();
                }
                // A plain call is interrupted: the timer does what it is there for.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
            }
        }
    });
    let end = StdInstant::now() + Duration::from_millis(700);
    let (listener, addr) = listener();
    while StdInstant::now() < end {
        let mut buf = [0; 5];
        op::send(&near, b"hello").all(true).wait().unwrap();
        assert_eq!(op::recv(&near, &mut buf[..]).all(true).wait().unwrap(), 5);
        let begun = towpath_loop::Instant::now();
        op::timer(Duration::from_millis(3)).wait().unwrap();
        assert!(towpath_loop::Instant::now() >= begun + Duration::from_millis(3));
        let client = std::net::TcpStream::connect(addr).unwrap();
        drop(op::accept(&listener).wait().unwrap());
        drop(client);
        op::blocking(|| std::thread::sleep(Duration::from_millis(1))).wait().unwrap();
        let child = Child::new(Command::new("true").spawn().unwrap()).unwrap();
        assert!(op::wait_child(&child).wait().unwrap().success());
    }
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: never, it_value: never };
    // SAFETY: as above.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    drop(near);
    echo.join().unwrap();
    drop(Loop::take_current());
    assert_eq!(loop_.in_flight(), 0);
}
