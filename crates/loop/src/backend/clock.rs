//! The clock of the backends that live in a kernel's world.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: the clock that the kernel's own time-outs run on.
pub fn monotonic_now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Counted from boot, and never negative: 64 bits of nanoseconds last for 584 years.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::monotonic_now;

    #[test]
    fn time_does_not_go_back() {
        let mut last = monotonic_now();
        for _ in 0..10_000 {
            let now = monotonic_now();
            assert!(now >= last);
            last = now;
        }
    }
}
