//! Those who wait for something to become true, and are woken together.

use super::{Arm, Entered, Node, Queue, Waiter, WakeList};
use crate::std_or_loom::{Lock, const_fn, lock};

/// Waiters for one thing that becomes true for all of them.
pub(crate) struct Crowd(Lock<State>);

struct State {
    /// Each with the number of its arrival.
    queue: Queue<u64>,
    arrivals: u64,
}

impl Crowd {
    const_fn! {
        pub(crate) const fn new() -> Crowd {
            Crowd(Lock::new(State { queue: Queue::new(), arrivals: 0 }))
        }
    }

    /// Makes it true, by `change`, for all who wait now; those who come later are not woken, should it be false again.
    pub(crate) fn wake_all<R>(&self, change: impl FnOnce() -> R) -> R {
        let mut wakes = WakeList::new();
        let mut state = lock(&self.0);
        let result = change();
        let present = state.arrivals;
        while let Some(next) = state.queue.claim_if(|arrival| *arrival <= present) {
            wakes.push(next.complete());
            if wakes.is_full() {
                drop(state);
                wakes.wake_all();
                state = lock(&self.0);
            }
        }
        drop(state);
        wakes.wake_all();
        result
    }

    /// Does something of which those who are about to wait must not miss the half.
    pub(crate) fn alone<R>(&self, change: impl FnOnce() -> R) -> R {
        let _state = lock(&self.0);
        change()
    }

    /// Waits until `condition`, which only becomes true in [`wake_all`](Crowd::wake_all); who was woken by that goes on,
    /// whatever has become of it since.
    #[inline]
    pub(crate) fn until<F: FnMut() -> bool>(&self, condition: F) -> Until<'_, F> {
        Until { crowd: self, condition, node: Node::new(0) }
    }
}

/// Waits for a condition.
pub(crate) struct Until<'a, F> {
    crowd: &'a Crowd,
    condition: F,
    node: Node<u64>,
}

// SAFETY: `leave` takes the node out; a claim has taken it out before.
unsafe impl<F: FnMut() -> bool> Arm for Until<'_, F> {
    type Output = ();

    #[inline]
    fn attempt(&mut self) -> Option<()> {
        (self.condition)().then_some(())
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<()> {
        if alone && let Some(()) = self.attempt() {
            return Entered::Done(());
        }
        let mut state = lock(&self.crowd.0);
        if (self.condition)() {
            return if alone { Entered::Done(()) } else { Entered::Ready };
        }
        state.arrivals += 1;
        *self.node.data() = state.arrivals;
        // SAFETY: passed on to the caller.
        unsafe { state.queue.push(&self.node, waiter, index, false) };
        Entered::Queued
    }

    fn leave(&mut self) {
        lock(&self.crowd.0).queue.remove(&self.node);
    }

    fn finish(&mut self) -> Option<()> {
        Some(())
    }
}
