//! What a switch costs: nanoseconds per `resume`/`suspend` pair, for corosensei itself and for this crate.
//!
//! Run with `--release`. Prints the best and the median of several interleaved rounds.

use std::hint::black_box;
use std::io;
use std::time::Instant;

use towpath_coro::{Config, Coroutine, Stack, StackPool, State};

const PAIRS: u64 = 10_000_000;
const ROUNDS: usize = 11;

fn main() -> io::Result<()> {
    let mut theirs = corosensei::Coroutine::<u64, u64, ()>::new(|yielder, mut n| {
        loop {
            n = yielder.suspend(n + 1);
        }
    });
    let mut ours = Coroutine::<u64, u64, ()>::new(Stack::new(64 * 1024)?, |yielder, mut n| {
        loop {
            n = yielder.suspend(n + 1);
        }
    });

    let mut pool = StackPool::new(Config::default())?;
    let mut rounds = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        rounds[0].push(nanoseconds_each(PAIRS, |n| match theirs.resume(n) {
            corosensei::CoroutineResult::Yield(n) => n,
            corosensei::CoroutineResult::Return(()) => unreachable!("it loops for ever"),
        }));
        rounds[1].push(nanoseconds_each(PAIRS, |n| match ours.resume(n) {
            State::Suspended(n) => n,
            State::Finished(_) => unreachable!("it loops for ever"),
        }));
        rounds[2].push(nanoseconds_each(PAIRS, |n| {
            let stack = pool.take().expect("a warm pool has a stack");
            pool.give(black_box(stack));
            n + 1
        }));
        rounds[3].push(nanoseconds_each(PAIRS / 10, |n| {
            let stack = pool.take().expect("a warm pool has a stack");
            let mut coroutine = Coroutine::<u64, (), u64>::new(stack, |_, n| n + 1);
            let State::Finished(Ok(n)) = coroutine.resume(n) else { unreachable!("it returns at once") };
            pool.give(coroutine.into_stack());
            n
        }));
    }

    let labels = [
        "corosensei: resume + suspend",
        "towpath-coro: resume + suspend",
        "pool: take + give",
        "take, new, run, give",
    ];
    for (label, mut times) in labels.into_iter().zip(rounds) {
        times.sort_by(f64::total_cmp);
        println!("{label:32} {:6.2} ns best {:6.2} ns median", times[0], times[ROUNDS / 2]);
    }

    // A fresh stack each: address space, guard, and whatever the kernel needs for them, but no memory yet.
    const FRESH: u64 = 100_000;
    let mut fresh = StackPool::new(Config::default())?;
    let mut stacks = Vec::with_capacity(FRESH as usize);
    let first = nanoseconds_each(FRESH, |n| {
        stacks.push(fresh.take().expect("there is address space"));
        n + 1
    });
    println!("pool: {FRESH} first takes   {first:6.0} ns each, {:?}", fresh.stats());
    let touched = nanoseconds_each(FRESH, |n| {
        let stack = stacks.pop().expect("as many as were taken");
        let mut coroutine = Coroutine::<(), (), ()>::new(stack, |_, ()| ());
        assert!(matches!(coroutine.resume(()), State::Finished(Ok(()))));
        fresh.give(coroutine.into_stack());
        n + 1
    });
    println!("first run on each, with page fault {touched:6.0} ns each");
    assert_eq!((fresh.decay(), fresh.usage().high_water), (0, 4096));
    let start = Instant::now();
    let trimmed = fresh.decay();
    println!("decay {:6.0} ns each of {trimmed}", start.elapsed().as_secs_f64() * 1e9 / trimmed as f64);

    // Not left to `drop`, which would leak it.
    drop(ours.unwind());
    Ok(())
}

fn nanoseconds_each(count: u64, mut step: impl FnMut(u64) -> u64) -> f64 {
    let start = Instant::now();
    let mut n = 0;
    for _ in 0..count {
        n = step(n);
    }
    let elapsed = start.elapsed();
    assert_eq!(n, count);
    elapsed.as_secs_f64() * 1e9 / count as f64
}
