//! A flag that can be waited for.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use crate::std_or_loom::atomic::{AtomicBool, Ordering};
use crate::std_or_loom::const_fn;
use crate::wait::{Arm, Crowd, Limit, Waiting, block};
use crate::why::Reason;

/// Set or not, until somebody says otherwise: a manual-reset event. Whoever waits goes on once it is set.
///
/// What was done before [`set`](Event::set) is seen by whoever finds it set.
///
/// ```
/// use towpath::sync::{Arc, Event};
/// use towpath::thread;
///
/// # fn main() -> std::io::Result<()> {
/// let ready = Arc::new(Event::new());
/// let waiter = thread::spawn({
///     let ready = ready.clone();
///     move || ready.wait()
/// });
/// ready.set();
/// waiter.join().unwrap()
/// # }
/// ```
pub struct Event {
    set: AtomicBool,
    crowd: Crowd,
}

impl Event {
    const_fn! {
        /// Not set.
        pub const fn new() -> Event {
            Event { set: AtomicBool::new(false), crowd: Crowd::new(const { &Reason::object("event") }) }
        }
    }

    /// Sets it: all who wait go on, also if it is [`reset`](Event::reset) right after.
    pub fn set(&self) {
        self.crowd.wake_all(|| self.set.store(true, Ordering::Release));
    }

    /// Whoever comes now waits again. True if it was set.
    pub fn reset(&self) -> bool {
        self.crowd.alone(|| self.set.swap(false, Ordering::Acquire))
    }

    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    ways_to_wait!("it is set");

    pub(crate) fn waiting(&self) -> impl Arm<Output = ()> {
        self.crowd.until(|| self.is_set())
    }
}

impl Default for Event {
    fn default() -> Event {
        Event::new()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, poll_once};

    /// Who waits goes on, and sees what was done before the set; one who gives up is in nobody's way.
    #[test]
    fn loom_a_set_lets_all_go_and_shows_what_was_before() {
        check(3, || {
            let shared = Arc::new((Event::new(), UnsafeCell::new(0)));
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || {
                    block_on(shared.0.wait_async());
                    // SAFETY: written before the set, and not again.
                    assert_eq!(shared.1.with(|value| unsafe { *value }), 7);
                }
            });
            let quitter = thread::spawn({
                let shared = shared.clone();
                move || {
                    let mut waiting = Box::pin(shared.0.wait_async());
                    let _ = poll_once(waiting.as_mut());
                }
            });
            // SAFETY: nobody reads it before the set.
            shared.1.with_mut(|value| unsafe { *value = 7 });
            shared.0.set();
            waiter.join().unwrap();
            quitter.join().unwrap();
        });
    }

    /// The waker of the last poll is the one that is woken.
    #[test]
    fn loom_a_new_waker_takes_over() {
        check(3, || {
            let event = Arc::new(Event::new());
            let setter = thread::spawn({
                let event = event.clone();
                move || event.set()
            });
            let mut waiting = Box::pin(event.wait_async());
            if poll_once(waiting.as_mut()).is_pending() {
                block_on(waiting);
            }
            setter.join().unwrap();
        });
    }
}
