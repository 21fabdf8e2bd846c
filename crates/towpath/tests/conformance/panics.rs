//! Panics of tasks: what whoever waits for them learns, and what is on stderr.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use towpath::Runtime;
use towpath::thread::{self, Builder, Failure, Group, Panic, try_sleep};
use towpath_harness::process;

use crate::common::*;

/// Whether backtraces are wanted: before the first panic of the process.
fn backtraces(wanted: bool) {
    // SAFETY: the process has no other thread yet.
    unsafe { std::env::set_var("RUST_BACKTRACE", if wanted { "1" } else { "0" }) }
}

#[inline(never)]
fn deep_inside(what: &str) {
    panic!("found {what}");
}

/// Panics after it has been suspended, in a call.
fn fails(what: &'static str) -> impl FnOnce() + Send {
    move || {
        try_sleep(ms(1)).unwrap();
        deep_inside(what);
    }
}

/// The panic of a task that was waited for.
fn panic_in<T, E>(result: Result<T, Failure<E>>) -> Panic {
    match result {
        Err(Failure::Panicked(panic)) => panic,
        _ => panic!("it did not panic"),
    }
}

/// The panic of a task named `rent` that ran [`fails`] is told with everything.
#[track_caller]
fn assert_told(panic: &Panic, what: &str) {
    assert_eq!((panic.name(), panic.message()), (Some("rent"), Some(format!("found {what}").as_str())));
    assert!(panic.spawned_at().file().ends_with("panics.rs"), "{panic}");
    let place = panic.place().expect("a place");
    assert!(place.contains("panics.rs:"), "{place}");
    let text = panic.to_string();
    assert!(text.contains("(rent), spawned at ") && text.contains(place), "{text}");
    let backtrace = panic.backtrace().expect("a backtrace").to_string();
    let first = backtrace.lines().next().unwrap_or_default();
    assert!(first.contains("deep_inside at ") && first.contains("panics.rs:"), "{backtrace}");
    assert!(format!("{panic:#}").contains(first));
}

/// A named task of a runtime, a scope, a group, and a thread that stands in for one: whoever waits for it learns which it was, where
/// it panicked, and by which calls.
pub fn r10_panics_with_backtrace() {
    backtraces(true);
    let runtime = build(Runtime::builder().workers(2).report_panics(true));
    let rent = || Builder::new().name("rent".into());
    let everywhere = || {
        let panic = panic_in(rent().spawn(fails("a task")).unwrap().wait());
        assert_told(&panic, "a task");
        assert_eq!(message(&*panic.into_payload()), "found a task");
        let panic = thread::scope(|s| panic_in(rent().spawn_scoped(s, fails("a scope")).unwrap().wait()));
        assert_told(&panic, "a scope");
        let mut group = Group::<()>::new();
        let body = || {
            fails("a group")();
            Ok(())
        };
        rent().spawn_in(&mut group, body).unwrap();
        let error = io::Error::from(group.wait().unwrap_err());
        let panic = error.get_ref().and_then(|error| error.downcast_ref::<Panic>()).expect("a panic");
        assert_told(panic, "a group");
        // The scope's own panic names a task that nobody joined.
        let scope = || thread::scope(|s| _ = rent().spawn_scoped(s, fails("nobody's")).unwrap());
        let text = panic_of(scope);
        assert!(text.contains("(rent), spawned at ") && text.ends_with(": found nobody's"), "{text}");
    };
    let ((), stderr) = process::stderr_of(|| {
        runtime.run(everywhere);
        // Here tasks are threads.
        everywhere();
    });
    // Behind the task's name the message, as the hook that was there before has it.
    let mut lines = stderr.lines();
    lines.find(|line| line.contains("(rent), spawned at ") && line.ends_with("panics:")).expect(&stderr);
    assert!(lines.any(|line| line.contains("panicked at ") && line.contains("panics.rs")), "{stderr}");
}

/// Where no backtraces are wanted there is the place all the same.
pub fn r10_panics_without_backtrace() {
    backtraces(false);
    build(Runtime::builder().workers(1).report_panics(true)).run(|| {
        let panic = panic_in(thread::spawn(fails("something")).wait());
        assert!(panic.place().unwrap().contains("panics.rs") && panic.backtrace().is_none());
        assert!(panic.to_string().ends_with(": found something"), "{panic}");
    });
}

/// Who did not ask for it has no hook put there, and still learns which task it was.
pub fn r10_panics_that_nobody_reports() {
    backtraces(true);
    let (_, stderr) = process::stderr_of(|| {
        solo(|| {
            let panic = panic_in(Builder::new().name("rent".into()).spawn(fails("nothing")).unwrap().wait());
            assert!(panic.place().is_none() && panic.backtrace().is_none());
            assert_eq!((panic.name(), panic.message()), (Some("rent"), Some("found nothing")));
            // What is not a panic is told apart.
            let task = thread::spawn(|| ());
            task.cancel();
            assert!(matches!(task.wait(), Err(Failure::Canceled)));
        });
    });
    assert!(!stderr.contains("spawned at"), "{stderr}");
}

/// Of several panics in one task the one counts that ended it.
pub fn r10_the_panic_that_ended_it() {
    backtraces(true);
    struct CatchesOne;
    impl Drop for CatchesOne {
        fn drop(&mut self) {
            let _ = catch_unwind(|| panic!("in a destructor"));
        }
    }
    let place_of = |body: fn()| panic_in(thread::spawn(body).wait()).place().map(str::to_owned);
    build(Runtime::builder().workers(1).report_panics(true)).run(|| {
        let line = line!() + 4;
        let place = place_of(|| {
            (0..10).for_each(|_| _ = catch_unwind(|| panic!("caught")));
            let _catches = CatchesOne;
            panic!("this one");
        });
        assert!(place.as_ref().is_some_and(|place| place.contains(&format!(":{line}:"))), "{place:?}");
        // Raised again: it is the panic that was caught.
        let line = line!() + 2;
        let place = place_of(|| {
            let payload = catch_unwind(|| panic_any(7)).unwrap_err();
            let _ = catch_unwind(|| panic!("another"));
            resume_unwind(payload)
        });
        assert!(place.as_ref().is_some_and(|place| place.contains(&format!(":{line}:"))), "{place:?}");
        // One that no hook has seen has no place, least of all another's.
        let place = place_of(|| {
            let _ = catch_unwind(|| panic!("another"));
            resume_unwind(Box::new("made by hand"))
        });
        assert_eq!(place, None);
    });
}

/// The program's own hook is called as before, once a panic, however many runtimes report.
pub fn r10_the_programs_hook_is_called() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counts = seen.clone();
    std::panic::set_hook(Box::new(move |_| _ = counts.fetch_add(1, Ordering::SeqCst)));
    let runtimes = [(); 2].map(|()| build(Runtime::builder().workers(1).report_panics(true)));
    for (n, runtime) in runtimes.iter().enumerate() {
        let panic = runtime.run(|| panic_in(thread::spawn(fails("something")).wait()));
        assert!(panic.place().is_some());
        assert_eq!(seen.load(Ordering::SeqCst), n + 1);
    }
    // Outside of tasks as well.
    assert!(catch_unwind(AssertUnwindSafe(|| deep_inside("a thread"))).is_err());
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

/// Taking the backtrace takes no room that the task has not got.
pub fn r10_panics_on_small_stacks() {
    backtraces(true);
    // The one before takes more, when it prints a backtrace.
    std::panic::set_hook(Box::new(|_| ()));
    let builder = Runtime::builder().workers(1).report_panics(true);
    build(builder).run(|| {
        let small = Builder::new().stack_size(0);
        let panic = panic_in(small.spawn(fails("a small stack")).unwrap().wait());
        let backtrace = panic.backtrace().expect("a backtrace").to_string();
        assert!(backtrace.contains("deep_inside"), "{backtrace}");
    });
}
