//! What happens when the system has no more: an error, nothing lost, and going on afterwards.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "shared between test binaries")]
mod common;

use std::fs;

use common::in_child;
use towpath_coro::{Config, Coroutine, Stack, StackPool, State};

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

fn address_space() -> u64 {
    fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

fn limit_address_space(bytes: u64) {
    // SAFETY: a plain call with a valid struct. The hard limit stays, so that it can be raised again.
    unsafe {
        let mut limit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
    }
}

fn runs(stack: Stack) -> Stack {
    let mut coroutine = Coroutine::<u8, (), u8>::new(stack, |_, n| n + 1);
    assert!(matches!(coroutine.resume(1), State::Finished(Ok(2))));
    coroutine.into_stack()
}

#[test]
fn no_address_space_is_an_error_and_not_the_end() {
    in_child("no_address_space_is_an_error_and_not_the_end", || {
        let mut pool = StackPool::new(Config::default()).unwrap();
        let mut stacks = vec![pool.take().unwrap()];
        limit_address_space(address_space() + (64 << 20));
        let error = loop {
            match pool.take() {
                Ok(stack) => stacks.push(stack),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        // Slabs became smaller before it gave up: nearly all of the 64 MiB are stacks now.
        assert!(stacks.len() > 16 + 190, "{}", stacks.len());
        assert_eq!(Stack::new(1 << 20).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        assert!(pool.prewarm(1).is_err());
        let stats = pool.stats();
        for _ in 0..100 {
            assert!(pool.take().is_err());
        }
        assert_eq!(pool.stats(), stats);

        // The pool lives on what it has...
        pool.give(runs(stacks.pop().unwrap()));
        let stack = runs(pool.take().unwrap());
        assert!(pool.take().is_err());
        drop(stack);
        stacks.push(pool.take().unwrap());
        // ...and grows again when there is room.
        limit_address_space(libc::RLIM_INFINITY);
        stacks.extend((0..1000).map(|_| runs(pool.take().unwrap())));
        stacks.into_iter().for_each(|stack| pool.give(stack));
        assert_eq!(pool.stats().live, 0);
    });
}

#[test]
fn no_mapping_left_is_an_error_and_not_the_end() {
    in_child("no_mapping_left_is_an_error_and_not_the_end", || {
        let most: usize = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
        if most > 200_000 {
            // Raised on this machine: it would take too long to get there.
            return;
        }
        let before = mappings();
        let config = Config::new().stack_size(16 * 1024).guard_size(4096).mprotect_guards(true);
        let mut pool = StackPool::new(config.clone()).unwrap();
        let mut stacks = Vec::with_capacity(most);
        let error = loop {
            match pool.take() {
                Ok(stack) => stacks.push(stack),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        assert!(stacks.len() > most / 2 - 500, "{} stacks", stacks.len());
        assert!(pool.take().is_err());
        // What there is works to the end: each has its guard.
        let stack = stacks.pop().unwrap();
        pool.give(runs(stack));
        assert_eq!(pool.stats().free, 1);
        stacks.push(pool.take().unwrap());
        drop(pool);
        drop(stacks);
        assert!(mappings() <= before + 10, "{} mappings, {before} before", mappings());
        let mut pool = StackPool::new(config).unwrap();
        pool.prewarm(1000).unwrap();
    });
}

#[test]
fn locked_memory_works() {
    in_child("locked_memory_works", || {
        // SAFETY: plain call. It makes guard markers impossible for mappings to come.
        if unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) } != 0 {
            return;
        }
        let mut pool = StackPool::new(Config::default()).unwrap();
        let stacks: Vec<Stack> = (0..20).map(|_| runs(pool.take().unwrap())).collect();
        stacks.into_iter().for_each(|stack| pool.give(stack));
        pool.decay();
        pool.decay();
        runs(pool.take().unwrap());
    });
}
