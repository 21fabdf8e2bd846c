//! The pool: reuse, growth, giving back, and stacks that come home from elsewhere.

use std::collections::HashSet;
use std::hint::black_box;

use proptest::prelude::*;
use towpath_coro::{Config, Coroutine, Stack, StackPool, State};

const PAGE: usize = 4096;

/// Writes to every page of the lowest `depth` bytes used from the top, by a coroutine.
fn touch(stack: Stack, depth: usize) -> Stack {
    fn descend(bytes: usize) {
        let frame = [1_u8; 1024];
        black_box(&frame);
        if bytes > 1024 {
            descend(bytes - 1024);
        }
        black_box(&frame);
    }
    let mut coroutine = Coroutine::<usize, (), ()>::new(stack, |_, depth| descend(depth));
    assert!(matches!(coroutine.resume(depth), State::Finished(Ok(()))));
    coroutine.into_stack()
}

#[test]
fn the_last_given_is_taken_first() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let stacks: Vec<Stack> = (0..5).map(|_| pool.take().unwrap()).collect();
    let bases: Vec<usize> = stacks.iter().map(Stack::base).collect();
    stacks.into_iter().for_each(|stack| pool.give(stack));
    let again: Vec<usize> = (0..5).map(|_| pool.take().unwrap()).map(|stack| stack.base()).collect();
    assert!(again.iter().eq(bases.iter().rev()));
}

#[test]
fn sizes_are_rounded_to_what_is_possible() {
    for (asked, given) in
        [(0, 16 * 1024), (1, 16 * 1024), (20_000, 20_480), (64 * 1024, 64 * 1024), (65_537, 69_632)]
    {
        let stack = Stack::new(asked).unwrap();
        assert_eq!(stack.size(), given);
        assert_eq!(stack.base() - stack.limit(), given);
        assert_eq!(stack.base() % PAGE, 0);
        assert_eq!(stack.guard_size(), 64 * 1024);
        let config = Config::new().stack_size(asked).guard_size(1);
        let stack = StackPool::new(config).unwrap().take().unwrap();
        assert_eq!((stack.size(), stack.guard_size()), (given, PAGE));
    }
    for size in [usize::MAX, usize::MAX / 2, isize::MAX as usize] {
        assert!(Stack::new(size).is_err());
        assert!(StackPool::new(Config::new().stack_size(size)).is_err());
        assert!(StackPool::new(Config::new().guard_size(size)).is_err());
    }
}

#[cfg(target_pointer_width = "64")]
#[test]
fn a_stack_that_no_address_space_holds_is_an_error() {
    let mut pool = StackPool::new(Config::new().stack_size(1 << 60)).unwrap();
    assert!(pool.take().is_err());
    assert_eq!((pool.stats().reserved, pool.stats().live), (0, 0));
    assert!(Stack::new(1 << 60).is_err());
}

#[test]
fn a_stack_works_to_its_last_byte() {
    let stack = touch(Stack::new(16 * 1024).unwrap(), 8 * 1024);
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(stack.limit());
    // SAFETY: the whole of a stack nobody runs on is writable memory that we own.
    unsafe { pointer.write_bytes(1, stack.size()) };
    assert_eq!(stack.high_water(), stack.size());
}

#[test]
fn dropped_stacks_come_home_from_anywhere() {
    let mut pool = StackPool::new(Config::new().slab_stacks(4, 4)).unwrap();
    let stacks: Vec<Stack> = (0..4).map(|_| pool.take().unwrap()).collect();
    let bases: HashSet<usize> = stacks.iter().map(Stack::base).collect();
    assert_eq!((pool.stats().live, pool.stats().slabs), (4, 1));
    std::thread::spawn(move || {
        let mut other = StackPool::new(Config::default()).unwrap();
        stacks
            .into_iter()
            .enumerate()
            .for_each(|(i, stack)| if i % 2 == 0 { drop(stack) } else { other.give(stack) });
        assert_eq!(other.stats().free, 0);
    })
    .join()
    .unwrap();
    assert_eq!((pool.stats().live, pool.stats().free), (0, 4));
    let again: Vec<Stack> = (0..4).map(|_| pool.take().unwrap()).collect();
    assert_eq!(again.iter().map(Stack::base).collect::<HashSet<_>>(), bases);
    assert_eq!((pool.stats().live, pool.stats().slabs), (4, 1));
}

#[test]
fn stacks_outlive_their_pool() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let (early, late) = (pool.take().unwrap(), pool.take().unwrap());
    let mut suspended = Coroutine::<(), (), u64>::new(late, |yielder, ()| {
        let kept = black_box([7_u64; 100]);
        yielder.suspend(());
        kept.iter().sum()
    });
    assert!(matches!(suspended.resume(()), State::Suspended(())));
    drop(early);
    drop(pool);
    assert!(matches!(suspended.resume(()), State::Finished(Ok(700))));
    drop(suspended);
}

#[test]
fn prewarmed_stacks_are_resident_and_come_after_the_used_ones() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let used = pool.take().unwrap();
    let base = used.base();
    pool.give(used);
    pool.prewarm(100).unwrap();
    assert_eq!((pool.stats().free, pool.stats().live), (100, 0));
    let slabs = pool.stats().slabs;
    let stacks: Vec<Stack> = (0..100).map(|_| pool.take().unwrap()).collect();
    assert_eq!(stacks[0].base(), base);
    assert!(stacks.iter().all(|stack| stack.high_water() == PAGE));
    assert_eq!(pool.stats().slabs, slabs);
    pool.prewarm(0).unwrap();
}

#[test]
fn high_water_is_how_deep_a_stack_was_used() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let fresh = pool.take().unwrap();
    assert_eq!(fresh.high_water(), 0);
    let used = touch(fresh, 100 * 1024);
    let deep = used.high_water();
    assert!((100 * 1024..140 * 1024).contains(&deep), "{deep}");
    assert_eq!(pool.usage().high_water, deep);
    assert!(pool.usage().resident_bytes >= deep);

    let mut used = touch(used, 1024);
    assert_eq!(used.high_water(), deep, "it is a high-water mark");
    used.trim();
    assert_eq!(used.high_water(), 0);
    let used = touch(used, 1024);
    assert!((PAGE..4 * PAGE).contains(&used.high_water()));
}

#[test]
fn decay_gives_back_what_lay_idle_for_a_whole_interval() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let stacks: Vec<Stack> =
        (0..10).map(|_| pool.take().unwrap()).map(|stack| touch(stack, 64 * 1024)).collect();
    stacks.into_iter().for_each(|stack| pool.give(stack));
    let full = pool.usage().resident_bytes;
    assert!(full >= 10 * 64 * 1024);

    assert_eq!(pool.decay(), 0, "all were in use during the interval");
    // Three at a time are needed in the next one.
    for _ in 0..5 {
        let busy: Vec<Stack> = (0..3).map(|_| pool.take().unwrap()).collect();
        busy.into_iter().for_each(|stack| pool.give(stack));
    }
    assert_eq!(pool.decay(), 7);
    let after = pool.usage().resident_bytes;
    assert!(after <= full * 3 / 10 + 10 * PAGE, "{after} of {full}");
    // The three are warm, and stay so while they are used.
    let stack = pool.take().unwrap();
    assert!(stack.high_water() >= 64 * 1024);
    pool.give(stack);
    assert_eq!(pool.decay(), 2);
    assert_eq!(pool.decay(), 1);
    assert_eq!(pool.usage().resident_bytes, 0);
    assert_eq!(pool.decay(), 0, "nothing is trimmed twice");

    // Trimmed stacks are stacks like others, and are trimmed again once used.
    let stacks: Vec<Stack> = (0..10).map(|_| pool.take().unwrap()).map(|stack| touch(stack, 1024)).collect();
    stacks.into_iter().for_each(|stack| pool.give(stack));
    assert_eq!((pool.decay(), pool.decay()), (0, 10));
    assert_eq!((pool.stats().free, pool.stats().live), (10, 0));
}

#[test]
fn guards_by_mprotect_work_alike() {
    let config = Config::new().stack_size(32 * 1024).guard_size(PAGE).mprotect_guards(true);
    let mut pool = StackPool::new(config).unwrap();
    let stacks: Vec<Stack> =
        (0..40).map(|_| pool.take().unwrap()).map(|stack| touch(stack, 16 * 1024)).collect();
    stacks.into_iter().for_each(|stack| pool.give(stack));
    assert_eq!(pool.stats().free, 40);
}

#[derive(Clone, Debug)]
enum Step {
    Take,
    Give(usize),
    Drop(usize),
    DropElsewhere(usize),
    GiveToOther(usize),
    Run(usize),
    Decay,
    Prewarm(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Take),
        3 => any::<usize>().prop_map(Step::Give),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::DropElsewhere),
        1 => any::<usize>().prop_map(Step::GiveToOther),
        1 => any::<usize>().prop_map(Step::Run),
        1 => Just(Step::Decay),
        1 => (0..12_usize).prop_map(Step::Prewarm),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a model that knows only who owns what.
    #[test]
    fn behaves_as_its_model(steps in prop::collection::vec(step(), 1..120)) {
        let mut pool = StackPool::new(Config::new().stack_size(16 * 1024).guard_size(PAGE).slab_stacks(2, 8)).unwrap();
        let mut other = StackPool::new(Config::new().stack_size(16 * 1024)).unwrap();
        let mut live: Vec<Stack> = Vec::new();
        // All that ever were opened, and the one that must come next if any must.
        let mut known: HashSet<usize> = HashSet::new();
        let mut last_given: Option<usize> = None;
        for step in steps {
            let pick = |live: &mut Vec<Stack>, i: usize| {
                if live.is_empty() { None } else { Some(live.swap_remove(i % live.len())) }
            };
            match step {
                Step::Take => {
                    let free = pool.stats().free;
                    let stack = pool.take().unwrap();
                    prop_assert!(live.iter().all(|other| {
                        other.base() <= stack.limit() - stack.guard_size() || stack.base() <= other.limit() - other.guard_size()
                    }), "two live stacks overlap");
                    let new = known.insert(stack.base());
                    prop_assert_eq!(new, free == 0, "a new stack is made if and only if none is free");
                    if let Some(base) = last_given.take() {
                        prop_assert_eq!(stack.base(), base);
                    }
                    live.push(stack);
                }
                Step::Give(i) => if let Some(stack) = pick(&mut live, i) {
                    last_given = Some(stack.base());
                    pool.give(stack);
                },
                Step::Drop(i) => drop(pick(&mut live, i)),
                Step::DropElsewhere(i) => {
                    let stack = pick(&mut live, i);
                    std::thread::spawn(move || drop(stack)).join().unwrap();
                }
                Step::GiveToOther(i) => if let Some(stack) = pick(&mut live, i) {
                    other.give(stack);
                    prop_assert_eq!(other.stats().free, 0);
                },
                Step::Run(i) => if let Some(stack) = pick(&mut live, i) {
                    live.push(touch(stack, 4096));
                },
                Step::Decay => {
                    let free = pool.stats().free;
                    prop_assert!(pool.decay() <= free);
                }
                Step::Prewarm(n) => {
                    let before = pool.stats().free;
                    pool.prewarm(n).unwrap();
                    prop_assert_eq!(pool.stats().free, before.max(n));
                    // What it opened is known by count only; learn the addresses.
                    let stacks: Vec<Stack> = (0..before.max(n)).map(|_| pool.take().unwrap()).collect();
                    known.extend(stacks.iter().map(Stack::base));
                    stacks.into_iter().rev().for_each(|stack| pool.give(stack));
                }
            }
            let stats = pool.stats();
            prop_assert_eq!(stats.live, live.len());
            prop_assert_eq!(stats.free + stats.live, known.len());
            prop_assert!(stats.reserved >= known.len() && stats.reserved < known.len() + 8);
        }
    }
}
