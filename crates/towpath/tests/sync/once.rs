//! What is done once, and values that are made once.

use std::io::ErrorKind;
use std::panic::panic_any;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use towpath::sync::{Arc, Event, LazyLock, Once, OnceLock};
use towpath::{is_canceled, thread};

use crate::common::{LONG, OnDrop, duo, ms, panic_of, scaled, solo, waiting};
use crate::parties::{self, Party, block_on, poll_once};

/// Of parties of all kinds one does it, and may wait meanwhile; all others see what was done.
pub fn one_does_it_and_all_see_it() {
    let rounds = scaled(100_000) / 10;
    duo(move || {
        let places: Arc<Vec<_>> = Arc::new((0..rounds).map(|_| (Once::new(), AtomicUsize::new(0))).collect());
        let shared = places.clone();
        parties::all(6, move |party, n| {
            for (round, (once, done)) in shared.iter().enumerate() {
                let work = || {
                    if round % 8 == 0 {
                        thread::yield_now();
                    }
                    done.fetch_add(1, SeqCst);
                };
                match (party, (round + n) % 3) {
                    // Somebody else does it: one of the two other thirds.
                    (Party::Future, 0) => block_on(once.wait_async()),
                    (_, 0) => once.wait_timeout(LONG).unwrap(),
                    (_, 1) => once.call_once(work),
                    _ => once.call_once_force(|state| {
                        assert!(!state.is_poisoned());
                        work();
                    }),
                }
                assert!(once.is_completed());
                assert_eq!(done.load(SeqCst), 1);
            }
        });
    });
}

/// A task that does it may wait for other tasks of its worker; those who wait for it are tasks as well.
pub fn tasks_wait_for_a_task() {
    solo(|| {
        let value = Arc::new(OnceLock::new());
        let go = Arc::new(Event::new());
        let others: Vec<_> = (0..100)
            .map(|n| {
                let (value, go) = (value.clone(), go.clone());
                waiting(move || {
                    *value.get_or_init(|| {
                        go.wait().unwrap();
                        n
                    })
                })
            })
            .collect();
        let cancelled = waiting({
            let value = value.clone();
            move || value.wait_timeout(LONG).copied()
        });
        assert_eq!(value.get(), None);
        assert_eq!(value.wait_timeout(ms(0)).unwrap_err().kind(), ErrorKind::TimedOut);
        cancelled.cancel();
        assert!(is_canceled(&cancelled.join().unwrap().unwrap_err()));
        let mut future = Box::pin(value.wait_async());
        assert!(poll_once(future.as_mut()).is_pending());
        // Not cancellable: the signature has no room for it.
        others[7].cancel();
        go.set();
        others.into_iter().for_each(|other| assert_eq!(other.join().unwrap(), 0));
        assert_eq!((*value.wait(), block_on(future)), (0, &0));
    });
}

/// A panic poisons: whoever waits or comes panics, until somebody does it by force.
pub fn poisoning() {
    solo(|| {
        const TEXT: &str = "Once instance has previously been poisoned";
        let once = Arc::new(Once::new());
        let panics = waiting({
            let once = once.clone();
            move || {
                once.call_once(|| {
                    thread::sleep(ms(2));
                    panic_any(());
                });
            }
        });
        let waits = |f: fn(&Once)| {
            let once = once.clone();
            waiting(move || panic_of(|| f(&once)))
        };
        let waiters = [waits(Once::wait), waits(|once| once.call_once(|| unreachable!()))];
        let forced = waiting({
            let once = once.clone();
            move || once.wait_force()
        });
        assert!(panics.join().is_err());
        waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), TEXT));
        assert_eq!(panic_of(|| once.call_once(|| unreachable!())), TEXT);
        assert_eq!(panic_of(|| once.wait_timeout(LONG).is_ok()), TEXT);
        assert_eq!(panic_of(|| block_on(once.wait_async())), TEXT);
        assert_eq!(panic_of(|| once.call_once_force(|_| panic!("again"))), "again");
        assert!(!once.is_completed() && !forced.is_finished());
        once.call_once_force(|state| {
            assert!(state.is_poisoned());
            assert_eq!(format!("{state:?}"), "OnceState { poisoned: true }");
        });
        forced.join().unwrap();
        once.call_once(|| unreachable!());
        once.wait();
    });
}

/// A value that could not be made can be made by the next, who may be waiting for it.
pub fn a_value_that_could_not_be_made() {
    solo(|| {
        let value = Arc::new(OnceLock::new());
        let make = |n: i32| {
            let value = value.clone();
            waiting(move || {
                *value.get_or_init(|| {
                    thread::sleep(ms(2));
                    if n == 0 {
                        panic_any(());
                    }
                    n
                })
            })
        };
        let [fails, succeeds] = [make(0), make(1)];
        assert!(fails.join().is_err());
        assert_eq!((succeeds.join().unwrap(), value.get()), (1, Some(&1)));
        // A lazy one cannot: what makes it is gone.
        let lazy = Arc::new(LazyLock::new(|| -> i32 {
            thread::sleep(ms(2));
            panic!("not to be made")
        }));
        let needs = || {
            let lazy = lazy.clone();
            waiting(move || panic_of(|| **lazy))
        };
        let [first, second] = [needs(), needs()];
        assert_eq!(first.join().unwrap(), "not to be made");
        assert_eq!(second.join().unwrap(), "LazyLock instance has previously been poisoned");
        assert_eq!(LazyLock::get(&lazy), None);
    });
}

/// The rest of what `std`'s have.
pub fn as_stds() {
    static GREETING: LazyLock<String> = LazyLock::new(|| "hello".to_uppercase());
    static PLACE: OnceLock<Vec<u8>> = OnceLock::new();
    assert_eq!((LazyLock::get(&GREETING), PLACE.get()), (None, None));
    assert_eq!(&**GREETING, "HELLO");
    assert_eq!((PLACE.set(vec![1]), PLACE.set(vec![2])), (Ok(()), Err(vec![2])));
    assert_eq!(PLACE.get_or_init(|| unreachable!()), &[1]);

    let mut place = OnceLock::from(1);
    assert_eq!((place.clone(), format!("{place:?}")), (place.clone(), "OnceLock(1)".into()));
    *place.get_mut().unwrap() += 1;
    assert_eq!((place.take(), place.take(), place.get()), (Some(2), None, None));
    assert_eq!(place.get_mut(), None);
    assert_eq!(format!("{:?}", place.clone()), "OnceLock(<uninit>)");
    assert_eq!((place.set(3), place.into_inner()), (Ok(()), Some(3)));

    let drops = AtomicUsize::new(0);
    let guard = || OnDrop(|| _ = drops.fetch_add(1, SeqCst));
    drop(OnceLock::from(guard()));
    let made = LazyLock::new(guard);
    LazyLock::force(&made);
    drop(made);
    // What would make it is dropped with it.
    let held = guard();
    drop(LazyLock::new(move || drop(held)));
    assert_eq!(drops.load(SeqCst), 3);

    let mut lazy = LazyLock::new(|| 1);
    assert_eq!(LazyLock::get_mut(&mut lazy), None);
    assert_eq!(format!("{lazy:?}"), "LazyLock(<uninit>)");
    *lazy += 1;
    assert_eq!((*lazy, LazyLock::get(&lazy), format!("{lazy:?}")), (2, Some(&2), "LazyLock(2)".into()));
    *LazyLock::force_mut(&mut lazy) += 1;
    assert_eq!(LazyLock::get_mut(&mut lazy), Some(&mut 3));
    assert_eq!(*LazyLock::<i32>::default(), 0);
}
