//! A million timers that are futures.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::futures::{Countdown, Runtime};
use crate::measure::*;

/// Timers side by side, polled once: none needs an allocation or a task of its own.
struct Armed<T> {
    /// Pinned: not touched until they are dropped.
    _timers: Vec<T>,
}

/// Arms timers that wake `waker`. Tells how many were not due at once.
fn arm<R: Runtime>(
    times: impl Iterator<Item = Duration>,
    count: u64,
    waker: &Waker,
) -> (Armed<R::Timer>, u64) {
    let mut timers = Vec::with_capacity(count as usize);
    let mut pending = 0;
    for time in times.take(count as usize) {
        let timer = timers.push_mut(R::sleep(time));
        // SAFETY: the vector has room for all and is not touched again: the timer stays until it is dropped there.
        let timer = unsafe { Pin::new_unchecked(timer) };
        pending += u64::from(timer.poll(&mut Context::from_waker(waker)).is_pending());
    }
    (Armed { _timers: timers }, pending)
}

pub async fn cancel<R: Runtime>(mut meter: Meter, count: u64) -> Outcome {
    while meter.more() {
        let times = spread(CANCEL_FROM, CANCEL_SPAN);
        let (armed, pending) = arm::<R>(times, count, Waker::noop());
        drop(armed);
        meter.count(count, pending == count);
    }
    meter.outcome()
}

pub async fn expire<R: Runtime>(count: u64, span: Duration) -> Outcome {
    let start = cpu_time();
    let fired = Countdown::new(count);
    let waker = Waker::from(fired.clone());
    let (armed, pending) = arm::<R>(spread(span, span), count, &waker);
    // What was due before it was armed wakes nobody.
    for _ in pending..count {
        fired.hit();
    }
    fired.wait().await;
    let time = cpu_time() - start;
    drop(armed);
    Outcome::new(count, time, true)
}
