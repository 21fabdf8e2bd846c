//! `thread::scope`: borrowing, panics, cancellation, all as `std::thread::scope` has it.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use towpath::thread::{self, Builder, try_sleep};
use towpath::time::timeout;
use towpath::{Canceled, shield};
use towpath_harness::sys;

use crate::common::*;

/// On one worker, on two, and on a plain thread.
fn everywhere(check: fn()) {
    solo(check);
    duo(check);
    std::thread::spawn(check).join().unwrap();
}

/// Tasks borrow, also mutably, and are over when the scope is.
pub fn scope_borrows() {
    everywhere(|| {
        let (mut numbers, text) = (vec![0; 64], String::from("text"));
        let sum = thread::scope(|s| {
            for (at, slot) in numbers.iter_mut().enumerate() {
                let text = &text;
                s.spawn(move || {
                    try_sleep(ms(at as u64 % 3)).unwrap();
                    *slot = at + text.len();
                });
            }
            let task = Builder::new().name("named".into()).spawn_scoped(s, || {
                assert_eq!(thread::current().name(), Some("named"));
                text.as_str()
            });
            task.unwrap().join().unwrap().len()
        });
        assert_eq!(sum, 4);
        assert!(numbers.iter().enumerate().all(|(at, number)| *number == at + 4));
    });
}

/// Tasks of a scope spawn more of them; scopes nest.
pub fn scope_nests() {
    everywhere(|| {
        let count = AtomicUsize::new(0);
        thread::scope(|outer| {
            for _ in 0..5 {
                outer.spawn(|| {
                    outer.spawn(|| {
                        try_sleep(ms(1)).unwrap();
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                    let mut mine = 0;
                    thread::scope(|inner| {
                        let mine = &mut mine;
                        inner.spawn(move || {
                            try_sleep(ms(1)).unwrap();
                            *mine += 1;
                        });
                    });
                    count.fetch_add(mine, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 10);
    });
}

/// A panic of a task that nobody joined is the scope's; the others are waited for.
pub fn scope_panic_in_task() {
    everywhere(|| {
        let ended = AtomicUsize::new(0);
        let text = panic_of(|| {
            thread::scope(|s| {
                s.spawn(|| panic!("on purpose"));
                s.spawn(|| {
                    try_sleep(ms(5)).unwrap();
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            });
        });
        assert!(
            text.starts_with("a scoped task panicked: task ") && text.ends_with(": on purpose"),
            "{text}"
        );
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        // Whoever joined it knows already.
        thread::scope(|s| {
            let panic = s.spawn(|| panic!("on purpose")).join().unwrap_err();
            assert_eq!(message(&*panic), "on purpose");
        });
    });
}

/// One panic that was joined does not hide another that was not.
pub fn scope_joined_panic_hides_no_other() {
    everywhere(|| {
        let text = panic_of(|| {
            thread::scope(|s| {
                let first = s.spawn(|| panic!("not joined"));
                while !first.is_finished() {
                    thread::yield_now();
                }
                drop(first);
                assert!(s.spawn(|| panic!("joined")).join().is_err());
            });
        });
        assert!(text.starts_with("a scoped task panicked: ") && text.ends_with(": not joined"), "{text}");
    });
}

/// A panic of the scope's own closure comes out after its tasks have ended.
pub fn scope_panic_inside() {
    everywhere(|| {
        let ended = AtomicUsize::new(0);
        let text = panic_of(|| {
            thread::scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        try_sleep(ms(5)).unwrap();
                        ended.fetch_add(1, Ordering::SeqCst);
                    });
                }
                panic!("inside");
            })
        });
        assert_eq!((text.as_str(), ended.load(Ordering::SeqCst)), ("inside", 3));
    });
}

/// A scope in a destructor, during a panic: it waits for its tasks even then.
pub fn scope_in_a_destructor_during_a_panic() {
    duo(|| {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let task = thread::spawn(move || {
            let _guard = OnDrop(|| {
                let mut local = 0;
                thread::scope(|s| {
                    let local = &mut local;
                    s.spawn(move || *local = 1);
                });
                count.fetch_add(local, Ordering::SeqCst);
            });
            panic!("on purpose");
        });
        assert_eq!(message(&*task.join().unwrap_err()), "on purpose");
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    });
}

/// `Scope::cancel` ends the waits of its tasks, not those of others, nor of its owner.
pub fn scope_cancel() {
    everywhere(|| {
        let cancelled = AtomicUsize::new(0);
        let begun = Instant::now();
        thread::scope(|s| {
            let (tell, told) = std::sync::mpsc::channel();
            for _ in 0..5 {
                let (tell, cancelled) = (tell.clone(), &cancelled);
                s.spawn(move || {
                    tell.send(()).unwrap();
                    thread::park();
                    assert_canceled(try_sleep(LONG));
                    cancelled.fetch_add(1, Ordering::SeqCst);
                });
            }
            let started = Cell::new(0);
            until(|| {
                started.set(started.get() + told.try_iter().count());
                started.get() == 5
            });
            s.cancel();
            // The owner is not.
            try_sleep(ms(1)).unwrap();
            // Documented: those that are spawned from now on are cancelled as well.
            match s.spawn(|| assert_canceled(try_sleep(LONG))).join() {
                Ok(()) => {}
                Err(panic) => assert!(panic.is::<Canceled>(), "{}", message(&*panic)),
            }
        });
        assert_eq!(cancelled.load(Ordering::SeqCst), 5);
        assert_quick(begun, Duration::from_secs(2));
    });
}

/// A task cancelled before it starts is no panic of the scope.
pub fn scope_cancel_before_start() {
    solo(|| {
        let ran = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| ran.store(true, Ordering::SeqCst));
            s.cancel();
        });
        assert!(!ran.load(Ordering::SeqCst));
    });
}

/// When the task of the scope is cancelled, so are the scope's tasks, and they are waited for.
pub fn scope_is_cancelled_with_its_owner() {
    solo(|| {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let owner = waiting(move || {
            let (a, _b) = pair();
            thread::scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        assert_canceled((&a).read(&mut [0; 8]));
                        shield(|| try_sleep(ms(2))).unwrap();
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                }
                // All of them wait by now.
                try_sleep(ms(1)).unwrap();
            });
            // Cancelled before, it cancels what it spawns.
            thread::scope(|s| {
                s.spawn(|| try_sleep(LONG));
            });
            try_sleep(LONG)
        });
        let begun = Instant::now();
        try_sleep(ms(5)).unwrap();
        owner.cancel();
        assert_canceled(owner.join().unwrap());
        assert_eq!(ended.load(Ordering::SeqCst), 3);
        assert_quick(begun, Duration::from_secs(1));
    });
}

/// The same while the owner is in a `join` of one of them, which itself is not cut short.
pub fn scope_is_cancelled_while_its_owner_joins() {
    solo(|| {
        let begun = Arc::new(AtomicBool::new(false));
        let begin = begun.clone();
        let owner = waiting(move || {
            let body = || {
                begin.store(true, Ordering::SeqCst);
                try_sleep(LONG)
            };
            thread::scope(|s| s.spawn(body).join().unwrap())
        });
        until(|| begun.load(Ordering::SeqCst));
        owner.cancel();
        assert_canceled(owner.join().unwrap());
    });
}

/// A deadline around a scope is passed on to its tasks.
pub fn scope_under_a_deadline() {
    solo(|| {
        let begun = Instant::now();
        let result = timeout(ms(20), || {
            thread::scope(|s| {
                s.spawn(|| assert_canceled(try_sleep(LONG)));
            });
            try_sleep(LONG)
        });
        assert_timed_out(result);
        assert!(begun.elapsed() >= ms(20));
        assert_quick(begun, Duration::from_secs(1));
    });
}

/// Results that nobody takes are gone before the scope is, so they may borrow.
pub fn scope_drops_results() {
    everywhere(|| {
        let drops = Drops::default();
        thread::scope(|s| {
            for _ in 0..3 {
                drop(s.spawn(|| drops.guard()));
            }
            let task = s.spawn(|| drops.guard());
            while !task.is_finished() {
                thread::yield_now();
            }
            assert!(drops.count() <= 3);
        });
        assert_eq!(drops.count(), 4);
    });
}

/// A result that nobody takes may wait in its destructor: the scope waits for that.
pub fn scope_result_waits_in_drop() {
    solo(|| {
        let ended = AtomicUsize::new(0);
        thread::scope(|s| {
            drop(s.spawn(|| {
                OnDrop(|| {
                    try_sleep(ms(2)).unwrap();
                    ended.fetch_add(1, Ordering::SeqCst);
                })
            }));
        });
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    });
}

/// Several hundred tasks that end in any order while new ones come.
pub fn scope_with_many_tasks() {
    duo(|| {
        let (sum, rounds) = (AtomicUsize::new(0), scaled(100_000));
        thread::scope(|s| {
            for n in 0..rounds {
                let sum = &sum;
                s.spawn(move || {
                    if n % 7 == 0 {
                        thread::yield_now();
                    }
                    sum.fetch_add(n, Ordering::Relaxed);
                });
                if n % 100 == 0 {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), rounds * (rounds - 1) / 2);
    });
}

/// A server and its client in one scope, with what they share in the frame.
pub fn scope_server() {
    everywhere(|| {
        let (listener, addr) = listener();
        let served = AtomicUsize::new(0);
        thread::scope(|s| {
            let server = s.spawn(|| {
                let served = &served;
                loop {
                    let (mut stream, _) = listener.accept()?;
                    s.spawn(move || -> io::Result<()> {
                        let mut buf = [0; 16];
                        while let n @ 1.. = stream.read(&mut buf)? {
                            stream.write_all(&buf[..n])?;
                            served.fetch_add(n, Ordering::SeqCst);
                        }
                        Ok(())
                    });
                }
                #[allow(unreachable_code)]
                io::Result::Ok(())
            });
            for _ in 0..10 {
                let mut client = towpath::net::TcpStream::connect(addr).unwrap();
                client.write_all(b"hello").unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
            }
            server.cancel();
            assert_canceled(server.join().unwrap());
        });
        assert_eq!(served.load(Ordering::SeqCst), 50);
    });
}

/// A panic while unwinding out of a scope keeps to its task.
pub fn scope_panics_do_not_spread() {
    duo(|| {
        let results: Vec<_> = (0..20)
            .map(|n| {
                thread::spawn(move || {
                    thread::scope(|s| {
                        s.spawn(move || assert!(n % 2 == 0, "odd"));
                    })
                })
            })
            .collect();
        let failed = results.into_iter().map(|task| task.join()).filter(|result| result.is_err()).count();
        assert_eq!(failed, 10);
        assert!(catch_unwind(AssertUnwindSafe(|| try_sleep(ms(1)))).unwrap().is_ok());
    });
    assert_eq!(sys::other_threads().len(), 1);
}
