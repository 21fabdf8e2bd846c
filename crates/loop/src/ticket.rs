//! Pull style: begin an operation now, ask for its outcome when it suits.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use crate::event_loop::Loop;
use crate::op::{Detach, Operation};
use crate::operation::OpId;
use crate::pull::Bell;

/// An operation under way, whose outcome can be asked for: see [`Loop::start`].
///
/// Dropping it [removes](Loop::remove) the operation.
#[must_use = "dropping a ticket removes its operation"]
pub struct Ticket<O: Operation> {
    loop_: Loop,
    id: OpId,
    shared: Rc<Shared<O::Output>>,
}

struct Shared<T> {
    outcome: Cell<Option<T>>,
    bell: Bell,
}

/// Held by the callback, which may be dropped uncalled.
struct Pending<T>(Rc<Shared<T>>);

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.0.bell.ring();
    }
}

impl Loop {
    /// Begins an operation and gives a ticket for its outcome.
    ///
    /// ```
    /// # use towpath_loop::{Loop, op};
    /// let loop_ = Loop::new()?;
    /// let mut first = loop_.start(op::next_tick());
    /// let second = loop_.start(op::blocking(|| 6 * 7));
    /// assert!(first.try_take().is_none()); // not before a tick
    /// assert_eq!(second.take()??, 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn start<O: Detach>(&self, op: O) -> Ticket<O::Owned>
    where
        O::Output: 'static,
    {
        let shared = Rc::new(Shared { outcome: Cell::new(None), bell: Bell::new(self) });
        let to = Pending(shared.clone());
        let id = self.submit(op, move |_, output| to.0.outcome.set(Some(output)));
        Ticket { loop_: self.clone(), id, shared }
    }
}

impl<O: Operation> Ticket<O> {
    /// The operation's id, for [`Loop::cancel`].
    pub fn id(&self) -> OpId {
        self.id
    }

    /// The outcome, once, if the operation is over. Somebody has to drive the loop meanwhile.
    pub fn try_take(&mut self) -> Option<O::Output> {
        self.shared.outcome.take()
    }

    /// The outcome; until it is there, drives the loop, or, in a task of the worker whose loop it is, suspends the task.
    ///
    /// # Errors
    /// As [`Loop::tick`], and [`is_canceled`](crate::is_canceled) if the task is; the operation is then removed. `NotFound`
    /// if the outcome was taken before.
    pub fn take(mut self) -> io::Result<O::Output> {
        loop {
            if let Some(output) = self.try_take() {
                return Ok(output);
            }
            if Rc::strong_count(&self.shared) == 1 {
                // The callback is gone, and what it left was taken.
                return Err(io::ErrorKind::NotFound.into());
            }
            self.shared.bell.wait(&self.loop_, crate::Instant::NEVER)?;
        }
    }
}

impl<O: Operation> Drop for Ticket<O> {
    fn drop(&mut self) {
        self.loop_.remove(self.id);
    }
}

impl<O: Operation> std::fmt::Debug for Ticket<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}
