//! Waiting for what others do: tasks, threads and futures alike, in one place or in several.
//!
//! A primitive (a lock, a channel, an event) keeps those who wait for it in a [`Queue`], under a lock of its own. What is
//! queued is a [`Node`] in the frame of the one who waits, or in its future: waiting allocates nothing. All nodes of one
//! wait share a [`Waiter`], which is *claimed* at most once:
//!
//! ```text
//!                      claim, by who has something for it         complete: it may go on
//!   waiting for any ──────────────────────────────────► claimed ───────────────────────► done
//!        │                                                        (what it gets is written in between)
//!        └──────────► gone: it gave up, and nobody can claim it any more
//! ```
//!
//! Whoever has an item, a permit or a wake-up to give claims a waiter first, and gives only then. A claim that fails, since
//! another arm of the same `select` won or the time is over, leaves the item with its owner, who turns to the next in the
//! queue: nothing is ever given to an arm that lost. The other way round, one who gives up and finds itself claimed takes
//! what it was given.
//!
//! Who looks for something to take or for somebody to give to is not queued anywhere while it looks, so that no two
//! parties ever have to be claimed at once. A `select` whose arm turns out to be ready while it is queueing itself in the
//! others withdraws everywhere and looks anew.

mod block;
mod crowd;
mod future;
#[cfg(not(loom))]
mod lock;
mod queue;
mod waiter;

pub(crate) use block::{GaveUp, Limit, block};
pub(crate) use crowd::{Crowd, Until};
pub(crate) use future::Waiting;
#[cfg(not(loom))]
pub(crate) use lock::Lock;
pub(crate) use queue::{Node, Queue};
pub(crate) use waiter::{Waiter, Wake, WakeList};

use crate::why::Why;

/// One thing that can be waited for, and the node that waits for it.
///
/// # Safety
/// Between `enter` that says `Queued` and the next `leave` or `finish` the arm is in a queue by its address. An
/// implementation keeps nothing of the waiter, and no link to itself, after those two. `enter` and `leave` do not panic:
/// other arms of the same waiter may be in their queues, in frames that would go.
pub(crate) unsafe trait Arm {
    type Output;

    /// What it is, for those who look what a task waits for.
    fn why(&self) -> Why {
        Why::OTHER
    }

    /// Does it now, if it can be done without waiting.
    fn attempt(&mut self) -> Option<Self::Output>;

    /// Does it now, or else queues a node for `waiter`, claimed as arm number `index`. `alone`: that is the waiter's only
    /// arm; if it is not, what could be done now is left alone and [`Entered::Ready`].
    ///
    /// # Safety
    /// The arm and the waiter stay where they are until `leave`, or `finish` after a claim of this arm.
    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<Self::Output>;

    /// Leaves the queue, not having been claimed.
    fn leave(&mut self);

    /// Takes what it was claimed for, which is complete. `None`: it has to be tried again.
    fn finish(&mut self) -> Option<Self::Output>;

    /// Takes back what `finish` gave, for nobody wants it.
    fn give_back(&mut self, output: Self::Output) {
        drop(output);
    }
}

/// What became of [`Arm::enter`].
pub(crate) enum Entered<T> {
    Done(T),
    Queued,
    /// It could be done.
    Ready,
}
