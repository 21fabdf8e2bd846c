//! Numbers: a hundred thousand at once, a million one after the other, and what they cost.
//!
//! These read the memory of the whole process, so that each runs in a process of its own (see `common`).
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "shared between test binaries")]
mod common;

use std::fs;

use common::in_child;
use towpath_coro::{Config, Coroutine, Stack, StackPool, State};

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Whether the kernel has `MADV_GUARD_INSTALL`: a page of ours takes it.
fn has_guard_markers() -> bool {
    let stack = Stack::new(16 * 1024).unwrap();
    let page = std::ptr::without_provenance_mut(stack.limit());
    // SAFETY: makes a page of a stack that nobody runs on inaccessible; the stack is dropped unused.
    unsafe { libc::madvise(page, 4096, 102) == 0 }
}

#[test]
fn a_hundred_thousand_live_coroutines() {
    in_child("a_hundred_thousand_live_coroutines", || {
        const MANY: usize = 100_000;
        if !has_guard_markers() {
            // `mprotect` ends at half of `vm.max_map_count`; `limits.rs` has that.
            return;
        }
        let mut pool = StackPool::new(Config::default()).unwrap();
        let mut coroutines: Vec<Coroutine<u32, u32, u32>> = Vec::with_capacity(MANY);
        let (mappings_before, resident_before) = (mappings(), resident());
        for i in 0..MANY as u32 {
            let mut coroutine =
                Coroutine::new(pool.take().unwrap(), move |yielder, n| yielder.suspend(n + i) + i);
            assert!(matches!(coroutine.resume(1), State::Suspended(n) if n == i + 1));
            coroutines.push(coroutine);
        }
        let each = (resident() - resident_before) as f64 / MANY as f64;
        let mappings = mappings() - mappings_before;
        println!("{mappings} mappings, {each:.0} bytes each, {:?}", pool.stats());
        assert!(mappings < 1000, "{mappings} mappings");
        assert!(each <= 4.6 * 1024.0, "{each} bytes each");
        assert_eq!(pool.stats().live, MANY);

        for (i, coroutine) in coroutines.iter_mut().enumerate() {
            assert!(matches!(coroutine.resume(2), State::Finished(Ok(n)) if n == i as u32 + 2));
        }
        coroutines.into_iter().for_each(|coroutine| pool.give(coroutine.into_stack()));
        assert_eq!(pool.stats().free, MANY);
        // Two intervals later the memory is back.
        assert_eq!((pool.decay(), pool.decay()), (0, MANY));
        assert_eq!(pool.usage().resident_bytes, 0);
        drop(pool);
        assert!(self::mappings() < mappings_before + 10);
        assert!(resident() < resident_before + (8 << 20));
    });
}

#[test]
fn taking_and_giving_does_not_grow() {
    in_child("taking_and_giving_does_not_grow", || {
        let mut pool = StackPool::new(Config::default()).unwrap();
        let mut round = |count: u32| {
            for i in 0..count {
                let one = pool.take().unwrap();
                let two = pool.take().unwrap();
                pool.give(if i % 2 == 0 { one } else { two });
            }
            pool.stats()
        };
        // Every other stack is dropped rather than given back.
        let first = round(10_000);
        let (resident, mappings) = (resident(), mappings());
        let last = round(1_000_000);
        assert_eq!(first, last);
        assert_eq!((self::mappings(), last.slabs), (mappings, 1));
        assert!(self::resident() <= resident + (1 << 20));
    });
}

#[test]
fn finished_coroutines_leave_nothing() {
    in_child("finished_coroutines_leave_nothing", || {
        let mut pool = StackPool::new(Config::default()).unwrap();
        let mut round = |count: u64| {
            for i in 0..count {
                let mut coroutine =
                    Coroutine::<u64, (), u64>::new(pool.take().unwrap(), move |yielder, n| {
                        yielder.suspend(());
                        assert!(
                            i % 10 != 0
                                || std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(i)))
                                    .is_err()
                        );
                        n + i
                    });
                assert!(matches!(coroutine.resume(i), State::Suspended(())));
                if i % 3 == 0 {
                    pool.give(coroutine.unwind());
                } else {
                    assert!(matches!(coroutine.resume(0), State::Finished(Ok(n)) if n == 2 * i));
                    pool.give(coroutine.into_stack());
                }
            }
            pool.stats()
        };
        let first = round(1000);
        let resident = resident();
        let last = round(100_000);
        assert_eq!(first, last);
        assert_eq!((last.free, last.live), (1, 0));
        assert!(self::resident() <= resident + (1 << 20));
    });
}

#[test]
fn single_stacks_are_unmapped() {
    in_child("single_stacks_are_unmapped", || {
        drop(Stack::new(64 * 1024).unwrap());
        let before = mappings();
        for _ in 0..1000 {
            drop((Stack::new(64 * 1024).unwrap(), Stack::new(128 * 1024).unwrap()));
        }
        assert_eq!(mappings(), before);
    });
}
