//! Those who wait for something to become true, and are woken together, or one at a time.

use super::{Arm, Entered, Node, Queue, Waiter, WakeList};
use crate::std_or_loom::{Lock, const_fn, lock};
use crate::why::{Reason, Why};

/// Waiters for one thing that becomes true for all of them.
pub(crate) struct Crowd {
    state: Lock<State>,
    /// What they wait for, to be named in a dump.
    reason: &'static Reason,
}

struct State {
    queue: Queue<Place>,
    arrivals: u64,
}

/// What a node says of its waiter.
#[derive(Default)]
struct Place {
    /// The number of its arrival.
    arrival: u64,
    /// It was woken alone.
    chosen: bool,
}

impl Crowd {
    const_fn! {
        pub(crate) const fn new(reason: &'static Reason) -> Crowd {
            Crowd { state: Lock::new(State { queue: Queue::new(), arrivals: 0 }), reason }
        }
    }

    /// Makes it true, by `change`, for all who wait now; those who come later are not woken, should it be false again.
    pub(crate) fn wake_all(&self, change: impl FnOnce()) {
        self.wake_all_if(|| {
            change();
            true
        });
    }

    /// As [`wake_all`](Crowd::wake_all), but only if `change` says that it is true now. What that said.
    pub(crate) fn wake_all_if(&self, change: impl FnOnce() -> bool) -> bool {
        let mut wakes = WakeList::new();
        let mut state = lock(&self.state);
        if !change() {
            return false;
        }
        let present = state.arrivals;
        while let Some(next) = state.queue.claim_if(|place| place.arrival <= present) {
            wakes.push(next.complete());
            if wakes.is_full() {
                drop(state);
                wakes.wake_all();
                state = lock(&self.state);
            }
        }
        drop(state);
        wakes.wake_all();
        true
    }

    /// Wakes the one who has waited for the longest time; if nobody waits, does something else.
    pub(crate) fn wake_one(&self, otherwise: impl FnOnce()) {
        let wake = {
            let mut state = lock(&self.state);
            let Some(mut next) = state.queue.claim() else { return otherwise() };
            next.data().chosen = true;
            next.complete()
        };
        wake.wake();
    }

    /// Does something of which those who are about to wait must not miss the half.
    pub(crate) fn alone<R>(&self, change: impl FnOnce() -> R) -> R {
        let _state = lock(&self.state);
        change()
    }

    /// Waits until `condition`, which only becomes true in [`wake_all`](Crowd::wake_all); who was woken goes on, whatever has
    /// become of it since.
    #[inline]
    pub(crate) fn until<F: FnMut() -> bool>(&self, condition: F) -> Until<'_, F> {
        Until { crowd: self, condition, looks_again: false, node: Node::new(Place::default()) }
    }

    /// Waits until `condition`, which becomes true before a [`wake_all`](Crowd::wake_all); who was woken goes on if it is true
    /// then.
    pub(crate) fn until_found<F: FnMut() -> bool>(&self, condition: F) -> Until<'_, F> {
        Until { looks_again: true, ..self.until(condition) }
    }
}

/// Waits for a condition, or to be woken.
pub(crate) struct Until<'a, F> {
    crowd: &'a Crowd,
    condition: F,
    looks_again: bool,
    node: Node<Place>,
}

impl<F> Until<'_, F> {
    /// Whether it was woken alone, in place of others. To be asked when it is in no queue.
    pub(crate) fn was_chosen(&mut self) -> bool {
        self.node.data().chosen
    }
}

// SAFETY: `leave` takes the node out; a claim has taken it out before.
unsafe impl<F: FnMut() -> bool> Arm for Until<'_, F> {
    type Output = ();

    #[inline(always)]
    fn why(&self) -> Why {
        Why::object(self.crowd.reason, self.crowd)
    }

    #[inline]
    fn attempt(&mut self) -> Option<()> {
        (self.condition)().then_some(())
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<()> {
        if alone && let Some(()) = self.attempt() {
            return Entered::Done(());
        }
        let mut state = lock(&self.crowd.state);
        if (self.condition)() {
            return if alone { Entered::Done(()) } else { Entered::Ready };
        }
        state.arrivals += 1;
        *self.node.data() = Place { arrival: state.arrivals, chosen: false };
        // SAFETY: passed on to the caller.
        unsafe { state.queue.push(&self.node, waiter, index, false) };
        Entered::Queued
    }

    fn leave(&mut self) {
        lock(&self.crowd.state).queue.remove(&self.node);
    }

    fn finish(&mut self) -> Option<()> {
        if self.looks_again { self.attempt() } else { Some(()) }
    }
}
