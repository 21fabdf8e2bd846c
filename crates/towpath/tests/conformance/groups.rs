//! `thread::Group`: results in order of completion, failures that end the others, limits, cancellation.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use towpath::select::{self, after, next, recv};
use towpath::sync::Event;
use towpath::sync::mpsc::channel;
use towpath::thread::{self, Builder, Failure, Group, ScopedGroup, try_sleep};
use towpath::time::timeout;
use towpath::{Handle, is_canceled, shield};

use crate::common::*;

/// On one worker, on two, and on a plain thread.
fn everywhere(check: fn()) {
    solo(check);
    duo(check);
    std::thread::spawn(check).join().unwrap();
}

/// Tasks that end in an order that events dictate come out in that order, one by one and all at once.
pub fn group_results_in_order_of_completion() {
    everywhere(|| {
        let events: Arc<[Event; 4]> = Arc::default();
        let start = |group: &mut Group<usize>| {
            assert!(group.is_empty());
            for n in 0..4 {
                let events = events.clone();
                group.spawn(move || {
                    events[n].wait()?;
                    if n > 0 {
                        events[n].reset();
                        events[n - 1].set();
                    }
                    Ok(n)
                });
            }
            assert_eq!((group.len(), group.size_hint()), (4, (4, Some(4))));
            events[0].reset();
            events[3].set();
        };
        let mut group = Group::new();
        start(&mut group);
        // Each lets the next one go before it ends itself: on several workers neighbours may overtake each other.
        let mut results: Vec<_> = group.by_ref().map(Result::unwrap).collect();
        assert!(group.is_empty() && group.next().is_none());
        results.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(results, [3, 2, 1, 0]);
        // It can be used again.
        start(&mut group);
        let first = group.next().unwrap().unwrap();
        let mut rest = group.wait().unwrap();
        rest.push(first);
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 2, 3]);
    });
    // One worker has an order of its own.
    solo(|| {
        let mut group = Group::<_>::new();
        for n in [3_u64, 1, 2, 0] {
            group.spawn(move || {
                try_sleep(ms(20 * n))?;
                Ok(n)
            });
        }
        assert_eq!(group.wait().unwrap(), [0, 1, 2, 3]);
    });
}

/// The first failure cancels the others, also while the owner does something else, and is what `wait` reports, after all
/// have ended.
pub fn group_first_failure_ends_the_others() {
    everywhere(|| {
        let ended = Drops::default();
        let mut group = Group::<()>::new();
        for _ in 0..3 {
            let guard = ended.guard();
            group.spawn(move || {
                let _guard = guard;
                assert_canceled(try_sleep(LONG));
                // Takes its time, and fails in its own way.
                shield(|| try_sleep(ms(5)))?;
                Err(io::Error::other("a consequence"))
            });
        }
        group.spawn(|| Err(io::ErrorKind::AddrInUse.into()));
        // Nobody waits for the group, and all the same they end.
        until(|| ended.count() == 3);
        // What comes later never starts.
        group.spawn(|| panic!("started"));
        match group.wait() {
            Err(Failure::Failed(error)) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            other => panic!("{other:?}"),
        }
    });
}

/// A panic is a failure, with its payload.
pub fn group_panic_is_a_failure() {
    everywhere(|| {
        let mut group = Group::<(), io::Error>::new();
        group.spawn(|| try_sleep(LONG));
        group.spawn(|| panic!("on purpose"));
        let failure = group.wait().unwrap_err();
        let text = failure.to_string();
        assert!(text.starts_with("task ") && text.ends_with(" panicked: on purpose"), "{text}");
        let Failure::Panicked(panic) = failure else { panic!("{failure:?}") };
        assert_eq!(message(&*panic.into_payload()), "on purpose");

        let run = || -> io::Result<()> {
            let mut group = Group::<()>::new();
            group.spawn(|| std::panic::panic_any(7));
            group.wait()?;
            Ok(())
        };
        let text = error(run()).to_string();
        assert!(text.contains("groups.rs") && text.ends_with(" panicked"), "{text}");
    });
}

/// Where failures are no reason to end, each task has its result.
pub fn group_that_keeps_going() {
    everywhere(|| {
        let mut group = Group::<usize, usize>::new().keep_going(true);
        for n in 0..10 {
            group.spawn(move || {
                thread::yield_now();
                assert_ne!(n, 7, "on purpose");
                if n % 3 == 0 { Err(n) } else { Ok(n) }
            });
        }
        let (mut good, mut bad, mut panics) = (0, 0, 0);
        for result in &mut group {
            match result {
                Ok(n) => good += n,
                Err(Failure::Failed(n)) => bad += n,
                Err(Failure::Panicked(_)) => panics += 1,
                Err(Failure::Canceled) => panic!("nobody cancels"),
            }
        }
        assert_eq!((good, bad, panics), (1 + 2 + 4 + 5 + 8, 3 + 6 + 9, 1));
        // `wait` reports the first all the same.
        group.spawn(|| Err(1));
        group.spawn(|| Ok(2));
        assert!(matches!(group.wait(), Err(Failure::Failed(1))));
    });
}

/// No more run at a time than the limit says; whoever spawns waits for room.
pub fn group_limit() {
    everywhere(|| {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut group = Group::<()>::with_limit(3);
        for n in 0..50 {
            let (running, most) = (running.clone(), most.clone());
            group.spawn(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                try_sleep(ms(n % 3))?;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            });
        }
        assert_eq!(group.wait().unwrap().len(), 50);
        assert_eq!(most.load(Ordering::SeqCst), 3);

        let go = Arc::new(Event::new());
        let mut group = Group::<u32>::with_limit(0);
        let waits = go.clone();
        assert!(group.try_spawn(move || waits.wait().map(|()| 1)).is_ok(), "a limit is at least 1");
        assert!(group.try_spawn(|| Ok(2)).is_err(), "there is room for one");
        go.set();
        assert_eq!(group.next().unwrap().unwrap(), 1);
        assert!(group.try_spawn(|| Ok(3)).is_ok());
        assert_eq!(group.wait().unwrap(), [3]);
    });
}

/// An owner that is cancelled, in `spawn`, in `next` or in `wait`, cancels the group and waits for it.
pub fn group_is_cancelled_with_its_owner() {
    duo(|| {
        for how in 0..3 {
            let (ended, begun) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
            let (guards, begins) = ([ended.guard(), ended.guard()], begun.clone());
            let owner = thread::spawn(move || {
                let mut group = Group::<()>::new().limit(2);
                for guard in guards {
                    let begins = begins.clone();
                    group.spawn(move || {
                        let _guard = guard;
                        begins.fetch_add(1, Ordering::SeqCst);
                        let slept = try_sleep(LONG);
                        shield(|| try_sleep(ms(5)))?;
                        slept
                    });
                }
                match how {
                    0 => {
                        group.spawn(|| panic!("started"));
                        group.wait().map(drop)
                    }
                    1 => group.next().expect("two are there").and_then(|()| group.wait().map(drop)),
                    _ => group.wait().map(drop),
                }
                .map_err(io::Error::from)
            });
            until(|| begun.load(Ordering::SeqCst) == 2);
            owner.cancel();
            assert_canceled(owner.join().unwrap());
            until(|| ended.count() == 2);
        }
        // A deadline does the same, and takes the failure for its own.
        let begun = Instant::now();
        assert_timed_out(timeout(ms(20), || {
            let mut group = Group::<()>::new();
            group.spawn(|| try_sleep(LONG));
            Ok(group.wait()?)
        }));
        assert_quick(begun, ms(1000));
    });
}

/// A result that came although the task was cancelled is kept.
pub fn group_cancel_keeps_results() {
    solo(|| {
        let mut group = Group::new();
        group.spawn(|| {
            assert_canceled(try_sleep(LONG));
            io::Result::Ok(5)
        });
        group.spawn(|| shield(|| try_sleep(ms(1))).map(|()| 6));
        // So that both have started.
        thread::sleep(ms(1));
        group.cancel();
        let mut values = group.wait().unwrap();
        values.sort_unstable();
        assert_eq!(values, [5, 6]);
    });
}

/// A group that is dropped leaves nothing behind for long, and drops each result once.
pub fn group_dropped() {
    duo(|| {
        let drops = Drops::default();
        let mut group = Group::<Dropped>::new();
        for n in 0..20 {
            let guard = drops.guard();
            group.spawn(move || {
                if n % 2 == 0 {
                    try_sleep(LONG)?;
                }
                Ok(guard)
            });
        }
        until(|| drops.count() == 0);
        drop(group);
        until(|| drops.count() == 20);
    });
    // With its owner's runtime.
    let drops = Drops::default();
    let guards: Vec<_> = (0..20).map(|_| drops.guard()).collect();
    let group = duo(move || {
        let mut group = Group::<()>::new();
        for guard in guards {
            group.spawn(move || {
                let _guard = guard;
                try_sleep(LONG)
            });
        }
        group
    });
    // The tasks were ended by the runtime; the group still tells how.
    let failures = group.map(Result::unwrap_err).filter(|failure| match failure {
        Failure::Failed(error) => is_canceled(error),
        Failure::Canceled => true,
        Failure::Panicked(_) => false,
    });
    assert_eq!((failures.count(), drops.count()), (20, 20));
}

/// A group of a scope borrows; its tasks are over when the scope is.
pub fn group_of_a_scope() {
    everywhere(|| {
        let texts: Vec<_> = (0..20).map(|n: usize| n.to_string()).collect();
        let count = AtomicUsize::new(0);
        let mut lengths = thread::scope(|s| {
            let mut group: ScopedGroup<'_, &str> = s.group().limit(4);
            for text in &texts {
                group.spawn(|| {
                    thread::yield_now();
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok(text.as_str())
                });
            }
            group.wait()
        })
        .unwrap();
        lengths.sort_by_key(|text| text.parse::<usize>().unwrap());
        assert_eq!((lengths, count.load(Ordering::SeqCst)), (texts.iter().map(String::as_str).collect(), 20));

        // Dropped, it is over no later than the scope; a failure that was reported is not the scope's any more.
        let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|s| {
            let mut failing: ScopedGroup<'_, ()> = s.group();
            failing.spawn(|| panic!("on purpose"));
            assert!(failing.wait().is_err());
            let mut group: ScopedGroup<'_, ()> = s.group();
            group.spawn(|| {
                begun.fetch_add(1, Ordering::SeqCst);
                let slept = try_sleep(LONG);
                shield(|| try_sleep(ms(5)))?;
                ended.fetch_add(1, Ordering::SeqCst);
                slept
            });
            while begun.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
        });
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    });
}

/// `select!` over groups: fair enough to take from both, without cancelling anything.
pub fn group_in_a_select() {
    duo(|| {
        let go = Arc::new(Event::new());
        let (mut one, mut two) = (Group::<u32>::new(), Group::<u32>::new());
        let late = go.clone();
        two.spawn(move || late.wait().map(|()| 2));
        let first = towpath::select! {
            nothing = next(&mut one) => nothing.map(Result::unwrap),
            result = next(&mut two) => result.map(Result::unwrap),
        };
        assert_eq!(first.unwrap(), None, "an empty group has nothing to wait for");
        let waits = go.clone();
        one.spawn(move || waits.wait().map(|()| 1));
        let late = towpath::select! {
            _ = next(&mut one) => false,
            _ = next(&mut two) => false,
            () = after(ms(5)) => true,
        };
        assert!(late.unwrap());
        // Also under a deadline: the group lives on.
        assert_timed_out(timeout(ms(5), || {
            towpath::select! { _ = next(&mut one) => () }
        }));
        go.set();
        let mut sum = 0;
        while !one.is_empty() || !two.is_empty() {
            let got = towpath::select! {
                result = next(&mut one) => result,
                result = next(&mut two) => result,
            };
            sum += got.unwrap().map_or(0, Result::unwrap);
        }
        assert_eq!(sum, 3);

        let mut groups: Vec<_> = (0..8)
            .map(|n| {
                let mut group = Group::<u32>::new();
                group.spawn(move || Ok(n));
                group
            })
            .collect();
        let mut seen = 0;
        for _ in 0..8 {
            let mut select = select::Select::new();
            for group in groups.iter_mut().filter(|group| !group.is_empty()) {
                select.on(next(group), |result| result.expect("not empty").unwrap());
            }
            seen |= 1 << select.wait().unwrap().unwrap();
        }
        assert_eq!(seen, 0xff);
    });
}

/// C16: tasks that end while a select waits for messages, times and a deadline as well: whatever wins, each result is had once.
pub fn c16_group_in_a_select_loses_nothing() {
    const TASKS: usize = 8;
    duo(|| {
        for round in 0..scaled(20_000) {
            let mut group = Group::<usize, usize>::new().keep_going(true);
            let (sender, messages) = channel();
            for n in 0..TASKS {
                let sender = sender.clone();
                group.spawn(move || {
                    (0..(n + round) % 4).for_each(|_| thread::yield_now());
                    sender.send(n).unwrap();
                    if n % 3 == 0 { Err(n) } else { Ok(n) }
                });
            }
            let mut had = [0; TASKS];
            let number = |result: Result<usize, Failure<usize>>| match result {
                Ok(n) | Err(Failure::Failed(n)) => n,
                Err(other) => panic!("{other}"),
            };
            let mut received = 0;
            while received < TASKS {
                let limit = Duration::from_micros(round as u64 % 50);
                let chosen = timeout(limit, || {
                    towpath::select! {
                        result = next(&mut group) => result.into_iter().for_each(|result| had[number(result)] += 1),
                        message = recv(&messages) => received += usize::from(message.is_ok()),
                        () = after(Duration::from_micros(20)) => (),
                    }
                });
                if chosen.is_err() {
                    assert_timed_out(chosen);
                    // Or the limit is never long enough for anything.
                    thread::yield_now();
                    received += messages.try_iter().count();
                }
            }
            group.for_each(|result| had[number(result)] += 1);
            assert_eq!(had, [1; TASKS], "round {round}");
        }
    });
}

/// Results, failures and cancels at random, from tasks on several workers: each task has one result.
pub fn group_at_random() {
    duo(|| {
        for round in 0..scaled(4000) {
            let drops = Drops::default();
            let mut group = Group::<Dropped, usize>::new().limit(1 + round % 7).keep_going(round % 2 == 0);
            for n in 0..10 {
                let guard = drops.guard();
                group.spawn(move || {
                    if n % 3 == 0 {
                        thread::yield_now();
                    }
                    if (n + round) % 5 == 0 { Err(n) } else { Ok(guard) }
                });
            }
            if round % 3 == 0 {
                group.cancel();
            }
            match round % 4 {
                0 => drop(group),
                1 => assert_eq!(group.by_ref().count(), 10),
                2 => drop((group.next(), group)),
                _ => assert!(group.wait().is_err()),
            }
            until(|| drops.count() == 10);
        }
    });
}

/// Tasks of a group have names and places like others; a refused one says why.
pub fn group_builder() {
    duo(|| {
        let mut group = Group::<String>::new();
        let named = Builder::new().name("member".into());
        named.spawn_in(&mut group, || Ok(thread::current().name().unwrap().to_owned())).unwrap();
        assert_eq!(group.next().unwrap().unwrap(), "member");
        let refused = Builder::new().name("\0".into()).spawn_in(&mut group, || Ok(String::new()));
        assert_eq!(kind(refused), io::ErrorKind::InvalidInput);
        assert!(group.is_empty() && group.next().is_none());
        let huge = Builder::new().stack_size(usize::MAX / 2);
        huge.spawn_in(&mut group, || Ok(String::new())).unwrap();
        let failure = group.next().unwrap().unwrap_err();
        assert!(failure.to_string().contains(", could not start: no stack for "), "{failure}");
    });
    // From a plain thread with a runtime at hand.
    let runtime = runtime(1);
    let handle = runtime.handle();
    let (done, is_done) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let spawned = Builder::new().spawn_on(&handle, || Handle::try_current().is_some()).unwrap();
        done.send(spawned.join().unwrap()).unwrap();
    });
    runtime.run(|| thread::blocking(move || assert!(is_done.recv().unwrap())).unwrap());
    thread.join().unwrap();
}
