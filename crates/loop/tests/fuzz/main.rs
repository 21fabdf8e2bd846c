//! The targets of `fuzz/`, over bytes at random: a few, so that they are known to work.

mod poller;
mod script;
mod targets;

use std::time::{Duration, Instant};

use towpath_harness::{Rng, patience, sys};

fn over(count: u64, target: fn(&[u8])) {
    for seed in 0..count {
        let mut rng = Rng::new(seed);
        let len = rng.below(500);
        let bytes: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// One test: descriptors are counted for the whole process.
#[test]
fn targets_hold_over_bytes_at_random() {
    let before = sys::fd_count();
    over(150, targets::script);
    over(300, targets::hostile_poller);
    // A thread of the pool that has just reported to a loop lets go of its waker a moment later.
    let deadline = Instant::now() + patience(Duration::from_secs(5));
    while sys::fd_count() != before {
        assert!(Instant::now() < deadline, "left open: {:?}", sys::fds());
        std::thread::yield_now();
    }
}
