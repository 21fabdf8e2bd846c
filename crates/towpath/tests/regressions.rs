//! Behaviour that once was otherwise: a test for each mistake that has been mended, on every backend.

use std::cell::{Cell, RefCell};
use std::hint::spin_loop;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use towpath::{Runtime, thread, time};
use towpath_harness::process::{Ended, in_child, stderr_of};
use towpath_harness::{net, patience, sys, test};
use towpath_loop::{Event, Loop, Socket, op};

/// A time that is never reached.
const LONG: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

fn runtime(workers: usize) -> Runtime {
    build(Runtime::builder().workers(workers))
}

fn build(builder: towpath::Builder) -> Runtime {
    // SAFETY: nothing in this suite keeps a stack frame's address in a thread-local.
    unsafe { builder.build() }.expect("a runtime on the backend under test")
}

fn new_loop() -> Loop {
    Loop::new().expect("a loop on the backend under test")
}

/// Two connected sockets: one for operations, one plain.
fn half() -> (Socket, UnixStream) {
    let (a, b) = net::unix_pair();
    a.set_nonblocking(true).expect("O_NONBLOCK");
    (Socket::from(OwnedFd::from(a)), b)
}

/// Runs a closure when dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Waits for what another thread does, without giving this thread's tasks a turn.
#[track_caller]
fn spin_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + patience(Duration::from_secs(3));
    while !done() {
        assert!(Instant::now() < deadline, "nothing happens");
        spin_loop();
    }
}

/// Lets the worker's other tasks run until something is so.
#[track_caller]
fn yield_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + patience(Duration::from_secs(3));
    while !done() {
        assert!(Instant::now() < deadline, "nothing happens");
        thread::yield_now();
    }
}

/// A task on one worker that panics, and has `unwinding` to do on the way: what came of that.
fn while_unwinding<T: Send + 'static>(unwinding: impl Fn() -> T + Send + 'static) -> T {
    runtime(1).run(|| {
        let others = thread::spawn_local(|| {
            // Nobody else runs while it unwinds.
            for _ in 0..1000 {
                assert!(!thread::panicking());
                thread::yield_now();
            }
        });
        let result = thread::spawn(move || {
            let (tell, told) = mpsc::channel();
            let caught = catch_unwind(AssertUnwindSafe(|| {
                let _guard = OnDrop(|| tell.send(unwinding()).expect("the receiver is below"));
                panic!("on purpose");
            }));
            assert!(caught.is_err());
            thread::yield_now();
            told.recv().expect("the destructor came to its end")
        });
        let result = result.join().expect("the panic was caught");
        others.join().expect("others do not see the panic");
        result
    })
}

fn a_wake_up_after_the_end_reaches_nobody() {
    runtime(1).run(|| {
        for _ in 0..1000 {
            let task = thread::spawn(|| vec![1u8; 64]);
            yield_until(|| task.is_finished());
            task.cancel();
            thread::yield_now();
            thread::yield_now();
            task.thread().unpark();
            thread::yield_now();
            thread::yield_now();
            // What takes the memory of a task that was freed too early.
            let others: Vec<Vec<u8>> = (0..8).map(|_| vec![0xAA; 200]).collect();
            assert_eq!(task.join().expect("it had ended before it was cancelled"), [1; 64]);
            drop(others);
        }
    });
}

fn a_scoped_tasks_children_are_not_subject_to_its_owners_inner_deadlines() {
    runtime(1).run(|| {
        let (over, ran) = (&AtomicBool::new(false), &AtomicBool::new(false));
        thread::scope(|s| {
            let parent = s.spawn(move || {
                yield_until(|| over.load(SeqCst));
                s.spawn(|| ran.store(true, SeqCst)).join().is_ok()
            });
            let _ = time::timeout(MS, || {
                let begun = Instant::now();
                spin_until(|| begun.elapsed() > 5 * MS);
                over.store(true, SeqCst);
                yield_until(|| parent.is_finished());
                Ok(())
            });
            assert!(parent.join().expect("it does not panic"), "the child was cancelled");
        });
        assert!(ran.load(SeqCst));
    });
}

fn scoped_tasks_spawn_while_their_owner_enters_and_leaves_deadlines() {
    /// Overwrites what calls have left on the stack.
    #[inline(never)]
    fn overwrite(depth: usize) -> usize {
        let words = std::hint::black_box([0x4141_4141_4141_4141_usize; 64]);
        if depth == 0 { 0 } else { overwrite(depth - 1).wrapping_add(words[depth % 64]) }
    }
    /// Many deadlines, one inside the other: a chain that takes a while to look along.
    fn nest(depth: usize) -> io::Result<()> {
        if depth == 0 { Ok(()) } else { time::timeout(LONG, || nest(depth - 1)) }
    }
    runtime(2).run(|| {
        let stop = &AtomicBool::new(false);
        let spawned = &AtomicUsize::new(0);
        thread::scope(|s| {
            s.spawn(move || {
                while !stop.load(SeqCst) {
                    for _ in 0..10 {
                        s.spawn(|| ());
                    }
                    spawned.fetch_add(1, SeqCst);
                    thread::yield_now();
                }
            });
            // The other worker takes it, as this one gives it no turn.
            spin_until(|| spawned.load(SeqCst) > 0);
            for _ in 0..10_000 {
                nest(100).expect("it is not cancelled");
                std::hint::black_box(overwrite(60));
            }
            stop.store(true, SeqCst);
        });
    });
}

fn what_a_refused_scoped_task_borrowed_is_let_go_first() {
    runtime(2).run(|| {
        let (busy, go) = (&AtomicBool::new(false), &AtomicBool::new(false));
        let (dropping, dropped) = (&AtomicBool::new(false), &AtomicBool::new(false));
        thread::scope(|s| {
            // Keeps the other worker from starting the next one before that is cancelled.
            s.spawn(|| {
                busy.store(true, SeqCst);
                spin_until(|| go.load(SeqCst));
            });
            spin_until(|| busy.load(SeqCst));
            let borrows = OnDrop(|| {
                dropping.store(true, SeqCst);
                // Long enough for a scope that does not wait for it to be left meanwhile.
                std::thread::sleep(50 * MS);
                dropped.store(true, SeqCst);
            });
            let refused = s.spawn(move || drop(borrows));
            refused.cancel();
            go.store(true, SeqCst);
            spin_until(|| dropping.load(SeqCst));
        });
        assert!(dropped.load(SeqCst), "the scope was left with its frame still borrowed");
    });
}

fn a_scope_tells_of_every_unjoined_panic() {
    let scope = catch_unwind(|| {
        runtime(1).run(|| {
            thread::scope(|s| {
                let unjoined = s.spawn(|| panic!("nobody joins this one"));
                let joined = s.spawn(|| panic!("this one is joined"));
                yield_until(|| unjoined.is_finished() && joined.is_finished());
                drop(unjoined);
                let result: thread::Result<()> = joined.join();
                assert!(result.is_err());
            });
        });
    });
    assert!(scope.is_err(), "a panic was lost");
}

fn a_runtime_is_dropped_inside_a_task_of_another() {
    runtime(1).run(|| {
        let inner = runtime(1);
        let waited = Arc::new(AtomicBool::new(false));
        let guard = OnDrop({
            let waited = waited.clone();
            move || {
                thread::sleep(10 * MS);
                waited.store(true, SeqCst);
            }
        });
        let unstarted = inner.handle().spawn(move || drop(guard));
        drop(inner);
        assert!(waited.load(SeqCst), "what did not start was not dropped");
        assert!(unstarted.join().is_err(), "it ran on a runtime that never did");
        // The outer one is as it was.
        assert!(towpath::Handle::try_current().is_some());
        let other = thread::spawn_local(|| thread::sleep(10 * MS));
        thread::sleep(MS);
        assert!(!other.is_finished());
        other.join().expect("it does not panic");
    });
}

fn a_callback_that_waits_in_a_ticking_task_is_refused() {
    runtime(1).run(|| {
        let loop_ = Loop::current().expect("the worker's");
        let result = Rc::new(RefCell::new(None));
        let seen = result.clone();
        loop_.submit(op::next_tick(), move |_, _| {
            *seen.borrow_mut() = Some(op::timer(5 * MS).wait());
            thread::sleep(MS);
        });
        let error = loop_.tick(Some(50 * MS)).expect_err("its worker ticks it");
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK), "{error:?}");
        yield_until(|| result.borrow().is_some());
        let waited: io::Result<()> = result.take().expect("just seen");
        assert_eq!(waited.expect_err("it cannot wait").raw_os_error(), Some(libc::EDEADLK));
        thread::sleep(MS);
    });
}

fn a_panicking_destructor_does_not_stop_a_loop_from_ending() {
    let (a, _b) = half();
    let ended = Rc::new(());
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let loop_ = new_loop();
        let guard = OnDrop(|| panic!("on purpose"));
        loop_.submit(op::timer(LONG), move |_, _| drop(guard));
        for _ in 0..3 {
            let ended = ended.clone();
            loop_.submit(op::recv(&a, [0u8; 16]), move |_, _| drop(ended));
        }
        drop(loop_);
    }));
    assert!(panic.is_err(), "the panic was lost");
    assert_eq!(Rc::strong_count(&ended), 1, "operations were left behind");
}

fn errands_may_close_their_loop() {
    let loop_ = new_loop();
    let dropped = Rc::new(());
    let kept = dropped.clone();
    loop_.submit(op::timer(LONG), move |_, _| drop(kept));
    let unsent = Arc::new(());
    let errand = unsent.clone();
    loop_.remote().run(Loop::close).expect("it is open");
    loop_.remote().run(move |_| drop(errand)).expect("it is open");
    loop_.tick(Some(Duration::ZERO)).expect("the tick that closes it");
    assert_eq!(Rc::strong_count(&dropped), 1, "an operation was left behind");
    assert_eq!(Arc::strong_count(&unsent), 1, "an errand was left behind");
    assert!(loop_.remote().run(|_| ()).is_err(), "it takes errands that it will never run");
    assert!(loop_.tick(Some(Duration::ZERO)).is_err(), "it ticks on");
}

fn a_notification_for_a_removed_wait_is_somebody_elses() {
    let loop_ = new_loop();
    let event = Event::new();
    let first = Rc::new(RefCell::new(None));
    let remover = first.clone();
    // Delivered before the notification.
    loop_.submit(op::next_tick(), move |_, _| drop(remover.take()));
    *first.borrow_mut() = Some(loop_.start(event.notified()));
    let got = Rc::new(Cell::new(0));
    let second = got.clone();
    loop_.submit(event.notified(), move |_, count| second.set(count.expect("a notification")));
    event.notify();
    let deadline = Instant::now() + patience(Duration::from_secs(1));
    while got.get() == 0 && Instant::now() < deadline {
        loop_.tick(Some(20 * MS)).expect("tick");
    }
    assert!(first.borrow().is_none());
    assert_eq!(got.get(), 1, "the notification went with the one who did not want it any more");
}

fn dropping_a_ticket_in_a_forked_child_leaves_the_parent_alone() {
    let (a, mut b) = half();
    let loop_ = new_loop();
    let mut ticket = Some(loop_.start(op::recv(&a, vec![0u8; 8])));
    loop_.tick(Some(Duration::ZERO)).expect("tick");
    let ended = in_child(|| {
        drop(ticket.take());
        0
    });
    assert_eq!(ended, Ended::Code(0));
    b.write_all(b"x").expect("room for a byte");
    let received = ticket.expect("the child had a copy").take().expect("the parent's loop works");
    assert_eq!(received.expect("it was not cancelled").0, 1);
}

fn shutdown_comes_after_the_sends_before_it() {
    const SENDS: usize = 6000;
    let (a, mut b) = net::tcp_pair();
    a.set_nonblocking(true).expect("O_NONBLOCK");
    let socket = Socket::from(OwnedFd::from(a));
    let loop_ = new_loop();
    let failed = Rc::new(Cell::new(0));
    for _ in 0..SENDS {
        let failed = failed.clone();
        loop_.submit(op::send(&socket, vec![7u8]), move |_, sent| {
            failed.set(failed.get() + usize::from(sent.is_err()));
        });
    }
    let shut = Rc::new(Cell::new(false));
    let done = shut.clone();
    loop_.submit(op::shutdown(&socket, Shutdown::Write), move |_, result| done.set(result.is_ok()));
    loop_.run().expect("run");
    let mut received = Vec::new();
    b.read_to_end(&mut received).expect("read to the end");
    assert_eq!((received.len(), failed.get()), (SENDS, 0), "received, failed");
    assert!(shut.get());
}

fn a_deadline_spares_what_has_completed() {
    let (a, mut b) = half();
    b.write_all(b"x").expect("room for a byte");
    let loop_ = new_loop();
    let results = Rc::new(RefCell::new(Vec::new()));
    let (received, sent) = (results.clone(), results.clone());
    loop_.submit(op::recv(&a, vec![0u8; 4]).timeout(MS), move |_, result| {
        received.borrow_mut().push(result.map(|(n, _)| n).map_err(|failed| failed.error.kind()));
    });
    loop_.submit(op::send(&a, vec![0u8; 2]).timeout(MS), move |_, result| {
        sent.borrow_mut().push(result.map(|(n, _)| n).map_err(|failed| failed.error.kind()));
    });
    // Busy with something else until both deadlines have passed.
    let begun = Instant::now();
    spin_until(|| begun.elapsed() > 5 * MS);
    loop_.run().expect("run");
    results.borrow_mut().sort();
    assert_eq!(*results.borrow(), [Ok(1), Ok(2)]);
}

fn a_task_that_run_leaves_behind_unstarted_starts_elsewhere() {
    let runtime = runtime(2);
    let handle = runtime.handle();
    // The other worker is given tasks that stay, so that the next ones are queued for this one.
    let _stay = runtime.run(|| {
        let begun = Arc::new(AtomicUsize::new(0));
        let stay = [(); 4].map(|()| {
            let begun = begun.clone();
            thread::spawn(move || {
                begun.fetch_add(1, SeqCst);
                thread::sleep(LONG);
            })
        });
        spin_until(|| begun.load(SeqCst) == 4);
        stay
    });
    for _ in 0..200 {
        let (tell, told) = mpsc::channel();
        let handle = handle.clone();
        let (this, parked) = mpsc::channel();
        let waker = std::thread::spawn(move || {
            let (tid, main): (i32, thread::Thread) = parked.recv().expect("the main task tells");
            sys::wait_until_asleep(tid);
            main.unpark();
            handle.spawn(move || tell.send(()))
        });
        runtime.run(|| {
            this.send((sys::tid(), thread::current())).expect("the other thread waits for it");
            thread::park();
        });
        told.recv_timeout(patience(Duration::from_secs(1))).expect("a task did not start");
        drop(waker.join());
    }
}

fn a_dropped_runtime_ends_spinning_tasks() {
    // A task that takes no notice of its cancellation keeps nobody from noticing the limit.
    let limit = 200 * MS;
    let begun = Cell::new(None);
    let ((), said) = stderr_of(|| {
        let runtime = build(Runtime::builder().workers(1).shutdown_limit(limit));
        runtime.run(|| {
            let spinning = thread::Builder::new().name("spinning".into());
            drop(spinning.spawn(|| {
                while std::hint::black_box(true) {
                    thread::park()
                }
            }));
            let shielded = thread::spawn(|| while thread::try_sleep(MS).is_ok() {});
            thread::sleep(MS);
            drop(shielded);
        });
        begun.set(Some(Instant::now()));
        drop(runtime);
    });
    let took = begun.get().expect("it was dropped").elapsed();
    assert!(took >= limit, "given up too early: {took:?}");
    assert!(took < patience(Duration::from_secs(2)), "{took:?}");
    assert!(said.contains("1 tasks did not end") && said.contains("spinning"), "{said}");
}

fn a_runtime_dropped_by_a_panic_runs_none_of_its_tasks() {
    let joined = Arc::new(AtomicBool::new(false));
    let tell = joined.clone();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let runtime = runtime(1);
        runtime.run(|| {
            drop(thread::spawn(move || {
                let child = thread::spawn(|| {
                    let grandchild = thread::spawn(|| thread::sleep(LONG));
                    drop(grandchild.join());
                });
                drop(child.join());
                tell.store(true, SeqCst);
            }));
            thread::sleep(5 * MS);
            panic!("the main task panics");
        })
    }));
    let panic = panic.expect_err("the main task panicked");
    assert_eq!(panic.downcast_ref(), Some(&"the main task panics"));
    assert!(!joined.load(SeqCst), "a task ran while this thread unwound");
    // The thread is none the worse.
    assert_eq!(runtime(1).run(|| thread::spawn(|| 7).join().expect("it does not panic")), 7);
}

fn a_waiting_destructor_of_a_panicking_task_gets_its_blocking_result() {
    let result = while_unwinding(|| {
        towpath::blocking(|| {
            std::thread::sleep(20 * MS);
            42
        })
    });
    assert_eq!(result.expect("the job ran"), 42);
}

fn a_waiting_destructor_of_a_panicking_task_is_unparked() {
    while_unwinding(|| {
        let (tid, task) = (sys::tid(), thread::current());
        let waker = std::thread::spawn(move || {
            sys::wait_until_asleep(tid);
            task.unpark();
        });
        thread::park();
        waker.join().expect("it does not panic");
    });
}

fn a_waiting_destructor_of_a_panicking_task_times_out() {
    let (a, _b) = half();
    let result = while_unwinding(move || {
        let mut buf = [0; 4];
        time::timeout(50 * MS, || op::recv(&a, &mut buf[..]).wait())
    });
    assert_eq!(result.expect_err("nothing was sent").kind(), io::ErrorKind::TimedOut);
}

fn main() -> ExitCode {
    towpath_harness::main(&[
        test!(a_wake_up_after_the_end_reaches_nobody),
        test!(a_scoped_tasks_children_are_not_subject_to_its_owners_inner_deadlines).busy(),
        test!(scoped_tasks_spawn_while_their_owner_enters_and_leaves_deadlines)
            .busy()
            .seconds(20)
            .memory_mib(256),
        test!(what_a_refused_scoped_task_borrowed_is_let_go_first).busy(),
        test!(a_scope_tells_of_every_unjoined_panic),
        test!(a_runtime_is_dropped_inside_a_task_of_another),
        test!(a_callback_that_waits_in_a_ticking_task_is_refused),
        test!(a_panicking_destructor_does_not_stop_a_loop_from_ending),
        test!(errands_may_close_their_loop),
        test!(a_notification_for_a_removed_wait_is_somebody_elses),
        test!(dropping_a_ticket_in_a_forked_child_leaves_the_parent_alone),
        test!(shutdown_comes_after_the_sends_before_it).busy(),
        test!(a_deadline_spares_what_has_completed),
        test!(a_task_that_run_leaves_behind_unstarted_starts_elsewhere).busy(),
        // It leaks what it gives up.
        test!(a_dropped_runtime_ends_spinning_tasks).busy().leaks(),
        test!(a_runtime_dropped_by_a_panic_runs_none_of_its_tasks).leaks(),
        test!(a_waiting_destructor_of_a_panicking_task_gets_its_blocking_result),
        test!(a_waiting_destructor_of_a_panicking_task_is_unparked).busy(),
        test!(a_waiting_destructor_of_a_panicking_task_times_out),
    ])
}
