//! Doing something once.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::std_or_loom::atomic::{AtomicUsize, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::{Arm, Crowd, GaveUp, Limit, Waiting, block};
use crate::why::Reason;

const INCOMPLETE: usize = 0;
/// Somebody has begun, and panicked.
const POISONED: usize = 1;
const RUNNING: usize = 2;
const COMPLETE: usize = 3;

const POISON: &str = "Once instance has previously been poisoned";

/// Something that is done once, by the first who comes, as `std::sync::Once`.
///
/// What is done may wait: others who come meanwhile wait for it as tasks, and their threads go on with other tasks. If it
/// needs itself to be done first, it waits for ever. For a value that is made once there is [`OnceLock`](super::OnceLock).
///
/// Waiting for it is not cancellable, but where a signature has room to say so.
///
/// ```
/// use towpath::sync::Once;
///
/// static START: Once = Once::new();
///
/// START.call_once(|| {
///     // This runs once.
/// });
/// assert!(START.is_completed());
/// ```
pub struct Once {
    /// Left for another than `RUNNING` under the crowd's lock.
    state: AtomicUsize,
    crowd: Crowd,
}

/// What is known when it is done by [`Once::call_once_force`].
pub struct OnceState {
    poisoned: bool,
}

impl OnceState {
    /// Whether somebody has begun before, and panicked.
    #[inline]
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }
}

impl Once {
    const_fn! {
        /// Nothing is done yet.
        #[inline]
        #[must_use]
        pub const fn new() -> Once {
            Once {
                state: AtomicUsize::new(INCOMPLETE),
                crowd: Crowd::new(const { &Reason::object("once") }),
            }
        }
    }

    /// Calls `f`, if nobody has before; waits until it is done, if somebody else is at it. What was done is seen by
    /// whoever returns from this.
    ///
    /// # Panics
    /// If `f` does; and ever after, or if that happened to the one whom it waits for.
    #[inline]
    #[track_caller]
    pub fn call_once<F: FnOnce()>(&self, f: F) {
        if !self.is_completed() {
            let mut f = Some(f);
            self.call(false, &mut |_| f.take().expect("called once")());
        }
    }

    /// As [`call_once`](Once::call_once), but also if somebody has panicked: then `f` does it once more, and knows.
    ///
    /// # Panics
    /// If `f` does.
    #[inline]
    pub fn call_once_force<F: FnOnce(&OnceState)>(&self, f: F) {
        if !self.is_completed() {
            let mut f = Some(f);
            self.call(true, &mut |state| f.take().expect("called once")(state));
        }
    }

    /// Whether it is done: not if nobody has begun, somebody is at it, or has panicked.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.state() == COMPLETE
    }

    /// Waits until it is done, by somebody else. Not cancellable: see [`wait_timeout`](Once::wait_timeout) for what is.
    ///
    /// # Panics
    /// If somebody has panicked at it.
    pub fn wait(&self) {
        let waited = self.wait_within(Limit::STUBBORN, false);
        debug_assert!(waited.is_ok());
    }

    /// As [`wait`](Once::wait), but does not care about panics: it waits until somebody has done it after all.
    pub fn wait_force(&self) {
        let waited = self.wait_within(Limit::STUBBORN, true);
        debug_assert!(waited.is_ok());
    }

    /// As [`wait`](Once::wait), at most for `limit`.
    ///
    /// # Errors
    /// If the task is cancelled; `TimedOut`.
    ///
    /// # Panics
    /// If somebody has panicked at it.
    pub fn wait_timeout(&self, limit: Duration) -> io::Result<()> {
        Ok(self.wait_within(Limit::after(limit), false)?)
    }

    /// As [`wait`](Once::wait), as a future. Cancel-safe: dropped, it leaves nothing behind.
    ///
    /// # Panics
    /// If somebody has panicked at it.
    pub async fn wait_async(&self) {
        self.until_done(false).await;
    }

    pub(super) fn wait_within(&self, limit: Limit, force: bool) -> Result<(), GaveUp> {
        loop {
            block(&mut self.over(force), limit)?;
            // Who was woken finds it begun once more, or failed where that does not matter.
            if self.is_done(force) {
                return Ok(());
            }
        }
    }

    pub(super) async fn until_done(&self, force: bool) {
        loop {
            Waiting::new(self.over(force)).await;
            if self.is_done(force) {
                return;
            }
        }
    }

    /// # Panics
    /// If it is poisoned, but not by `force`.
    fn is_done(&self, force: bool) -> bool {
        let state = self.state();
        assert!(force || state != POISONED, "{POISON}");
        state == COMPLETE
    }

    #[cold]
    #[track_caller]
    fn call(&self, force: bool, f: &mut dyn FnMut(&OnceState)) {
        loop {
            match self.begin(force) {
                Begun::First(running, state) => {
                    f(&state);
                    return running.complete();
                }
                Begun::Running => {
                    let waited = block(&mut self.not_running(), Limit::STUBBORN);
                    debug_assert!(waited.is_ok());
                }
                Begun::Complete => return,
            }
        }
    }

    /// # Panics
    /// If it is poisoned, but not by `force`.
    #[track_caller]
    fn begin(&self, force: bool) -> Begun<'_> {
        let mut state = self.state();
        loop {
            match state {
                COMPLETE => return Begun::Complete,
                RUNNING => return Begun::Running,
                _ => assert!(force || state != POISONED, "{POISON}"),
            }
            match self.state.compare_exchange_weak(state, RUNNING, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    let running = Running { once: self, then: POISONED };
                    return Begun::First(running, OnceState { poisoned: state == POISONED });
                }
                Err(now) => state = now,
            }
        }
    }

    #[inline]
    fn state(&self) -> usize {
        self.state.load(Ordering::Acquire)
    }

    /// Waits until nobody is at it.
    fn not_running(&self) -> impl Arm<Output = ()> {
        self.crowd.until(|| self.state() != RUNNING)
    }

    /// Waits until somebody has done it, or failed.
    fn over(&self, force: bool) -> impl Arm<Output = ()> {
        self.crowd.until(move || self.state() == COMPLETE || self.state() == POISONED && !force)
    }
}

/// How far it is.
enum Begun<'a> {
    First(Running<'a>, OnceState),
    Running,
    Complete,
}

/// One who does it. Dropped by a panic, it leaves it poisoned.
struct Running<'a> {
    once: &'a Once,
    then: usize,
}

impl Running<'_> {
    fn complete(mut self) {
        self.then = COMPLETE;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.once.crowd.wake_all(|| self.once.state.store(self.then, Ordering::Release));
    }
}

impl Default for Once {
    fn default() -> Once {
        Once::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl fmt::Debug for OnceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceState").field("poisoned", &self.is_poisoned()).finish()
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::check;

    /// Something that is done once, and what it does, which loom watches.
    struct Made {
        once: Once,
        value: UnsafeCell<usize>,
    }

    impl Made {
        fn new() -> Arc<Made> {
            Arc::new(Made { once: Once::new(), value: UnsafeCell::new(0) })
        }

        /// What `call` does, waiting as a future does. Whether it was the first; `fails`: as by a panic.
        fn make(&self, fails: bool) -> bool {
            let first = loop {
                match self.once.begin(true) {
                    Begun::First(running, _) => {
                        // SAFETY: nobody else is at it, and nobody looks before it is done.
                        self.value.with_mut(|value| unsafe { *value += 1 });
                        if fails {
                            drop(running);
                            return true;
                        }
                        running.complete();
                        break true;
                    }
                    Begun::Running => block_on(Waiting::new(self.once.not_running())),
                    Begun::Complete => break false,
                }
            };
            assert!(self.value() > 0);
            first
        }

        /// When it is done.
        fn value(&self) -> usize {
            // SAFETY: it is done, and not once more.
            self.value.with(|value| unsafe { *value })
        }
    }

    fn spawn<R: 'static>(made: &Arc<Made>, f: impl FnOnce(&Made) -> R + 'static) -> thread::JoinHandle<R> {
        let made = made.clone();
        thread::spawn(move || f(&made))
    }

    #[test]
    fn loom_the_first_does_it_and_the_others_see_it() {
        check(2, || {
            let made = Made::new();
            let others = [(); 2].map(|()| spawn(&made, |made| made.make(false)));
            let firsts = usize::from(made.make(false));
            let firsts =
                others.into_iter().map(|other| usize::from(other.join().unwrap())).sum::<usize>() + firsts;
            assert_eq!((firsts, made.value()), (1, 1));
        });
    }

    /// One who fails leaves it to another; one who waits for it to be done sees all that was done.
    #[test]
    fn loom_a_failure_is_made_good() {
        check(2, || {
            let made = Made::new();
            let waits = spawn(&made, |made| {
                block_on(made.once.until_done(true));
                made.value()
            });
            let fails = spawn(&made, |made| made.make(true));
            made.make(false);
            let failed = fails.join().unwrap();
            assert_eq!(waits.join().unwrap(), 1 + usize::from(failed));
        });
    }
}
