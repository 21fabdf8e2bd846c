//! Why tasks are cancelled: requests with reasons, deadlines that know whether they fired.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use towpath::sync::{Event, Semaphore, mpsc};
use towpath::thread::{self, Group, cancellation, try_sleep};
use towpath::time::{Deadline, timeout};
use towpath::{is_canceled, shield};

use crate::common::*;

/// On one worker, on two, and on a plain thread.
fn everywhere(check: fn()) {
    solo(check);
    duo(check);
    std::thread::spawn(check).join().unwrap();
}

#[derive(Debug)]
struct Why(u32);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reason {}", self.0)
    }
}

impl std::error::Error for Why {}

#[track_caller]
fn assert_reason(error: &io::Error, reason: &str) {
    assert!(is_canceled(error), "{error:?}");
    assert_ne!(error.kind(), io::ErrorKind::Interrupted, "std would retry");
    assert_eq!(error.to_string(), format!("cancelled: {reason}"));
}

/// The reason is in the errors of all kinds of waits, and for whoever asks; the first one counts.
pub fn c18_reasons_of_requests() {
    everywhere(|| {
        let begun = Arc::new(AtomicUsize::new(0));
        let begin = begun.clone();
        let (stream, _peer) = half();
        let task = thread::spawn(move || {
            assert!(cancellation().is_none());
            begin.store(1, Ordering::SeqCst);
            assert_reason(&try_sleep(LONG).unwrap_err(), "reason 1");
            assert_reason(&(&stream).read(&mut [0; 8]).unwrap_err(), "reason 1");
            assert_reason(&thread::try_park().unwrap_err(), "reason 1");
            assert_reason(&Event::new().wait().unwrap_err(), "reason 1");
            assert_reason(&Semaphore::new(0).acquire(1).unwrap_err(), "reason 1");
            let (_sender, receiver) = mpsc::channel::<()>();
            let selected = towpath::select! { _ = towpath::select::recv(&receiver) => () };
            assert_reason(&selected.unwrap_err(), "reason 1");
            // A deadline further in is not why.
            assert_reason(&timeout(ms(0), || try_sleep(LONG)).unwrap_err(), "reason 1");
            shield(|| {
                assert!(cancellation().is_none());
                try_sleep(ms(1)).unwrap();
                // Inside a shield a deadline has no reason but itself.
                assert_timed_out(timeout(ms(1), || {
                    let slept = try_sleep(LONG);
                    assert_eq!(slept.as_ref().unwrap_err().raw_os_error(), Some(libc_ecanceled()));
                    slept
                }));
            });
            let why = cancellation().unwrap();
            assert_eq!(why.to_string(), "cancelled: reason 1");
            assert!(why.deadline().is_none());
            assert_eq!(why.reason().unwrap().downcast_ref::<Why>().unwrap().0, 1);
        });
        until(|| begun.load(Ordering::SeqCst) == 1);
        task.cancel_with(Why(1));
        task.cancel_with("another one");
        task.cancel();
        task.join().unwrap();

        // Without a reason, and with one that comes too late.
        let task = thread::spawn(|| {
            until(thread::is_canceled);
            let error = try_sleep(LONG).unwrap_err();
            (error.raw_os_error(), cancellation().unwrap().to_string())
        });
        let begun = task.thread().clone();
        thread::sleep(ms(1));
        begun.unpark();
        task.cancel();
        task.cancel_with("too late");
        match task.join() {
            Ok(seen) => assert_eq!(seen, (Some(libc_ecanceled()), "cancelled".to_owned())),
            Err(payload) => assert!(payload.is::<towpath::Canceled>()),
        }
    });
}

fn libc_ecanceled() -> i32 {
    125
}

/// What a scope or a group passes on comes with the reason.
pub fn c18_reasons_are_passed_on() {
    duo(|| {
        let begun = Arc::new(AtomicUsize::new(0));
        let begins = begun.clone();
        let owner = thread::spawn(move || {
            let mut group = Group::<()>::new();
            let begin = begins.clone();
            group.spawn(move || {
                begin.fetch_add(1, Ordering::SeqCst);
                try_sleep(LONG)
            });
            thread::scope(|s| {
                let task = s.spawn(|| {
                    begins.fetch_add(1, Ordering::SeqCst);
                    try_sleep(LONG).unwrap_err()
                });
                assert_reason(&task.join().unwrap(), "going down");
            });
            assert_reason(&io::Error::from(group.wait().unwrap_err()), "going down");
        });
        until(|| begun.load(Ordering::SeqCst) == 2);
        owner.cancel_with("going down");
        owner.join().unwrap();

        let begun = Arc::new(AtomicUsize::new(0));
        let mut group = Group::<()>::new();
        let begin = begun.clone();
        group.spawn(move || {
            begin.fetch_add(1, Ordering::SeqCst);
            try_sleep(LONG)
        });
        until(|| begun.load(Ordering::SeqCst) == 1);
        group.cancel_with(Why(2));
        assert_reason(&io::Error::from(group.wait().unwrap_err()), "reason 2");
    });
}

/// Nested deadlines know which of them fired; the outermost of several is the one.
pub fn c18_deadlines_that_know() {
    everywhere(|| {
        let cases = [
            // Inner, outer, and which of them is to have fired.
            (ms(5), LONG, (true, false)),
            (LONG, ms(5), (false, true)),
            (ms(5), ms(5), (false, true)),
            (LONG, LONG, (false, false)),
        ];
        for (inner_after, outer_after, fired) in cases {
            let start = towpath::Instant::now();
            let inner = Deadline::at(start + inner_after);
            let outer = Deadline::at(start + outer_after);
            let sleep = if fired == (false, false) { ms(1) } else { LONG };
            outer.run(|| {
                inner.run(|| {
                    assert_eq!(try_sleep(sleep).is_err(), fired != (false, false));
                    let why = cancellation().and_then(|why| why.deadline());
                    let expected = match fired {
                        (true, _) => Some(inner.instant()),
                        (_, true) => Some(outer.instant()),
                        _ => None,
                    };
                    assert_eq!(why, expected);
                });
                // What the inner one did is over with it.
                assert_eq!(thread::is_canceled(), fired.1);
            });
            assert_eq!((inner.has_fired(), outer.has_fired()), fired);
            assert!(cancellation().is_none());
            try_sleep(ms(1)).unwrap();
        }
        // Of any result, and for several runs.
        let deadline = Deadline::after(ms(1));
        assert_eq!(deadline.run(|| 6 * 7), 42);
        assert!(is_canceled(&deadline.run(|| try_sleep(LONG)).unwrap_err()) && deadline.has_fired());
    });
}

/// A request is further out than any deadline.
pub fn c18_request_beats_deadlines() {
    solo(|| {
        let task = waiting(|| {
            let deadline = Deadline::after(LONG);
            deadline.run(|| assert_canceled(try_sleep(LONG)));
            let passed = Deadline::after(ms(0));
            passed.run(|| assert_canceled(try_sleep(LONG)));
            (deadline.has_fired(), passed.has_fired())
        });
        task.cancel_with(Why(3));
        assert_eq!(task.join().unwrap(), (false, false));
    });
}

/// Work on the pool: what is queued does not start, what runs goes on.
pub fn c17_reasons_and_blocking_work() {
    solo(|| {
        let (go, waits) = std::sync::mpsc::channel::<()>();
        let ended = Drops::default();
        let guard = ended.guard();
        let begun = Arc::new(AtomicUsize::new(0));
        let begin = begun.clone();
        let task = waiting(move || {
            towpath::blocking(move || {
                begin.store(1, Ordering::SeqCst);
                let _ = waits.recv();
                drop(guard);
            })
        });
        until(|| begun.load(Ordering::SeqCst) == 1);
        task.cancel_with(Why(4));
        assert_reason(&task.join().unwrap().unwrap_err(), "reason 4");
        assert_eq!(ended.count(), 0);
        drop(go);
        until(|| ended.count() == 1);
    });
}
