//! A source of notifications from any thread, waited for as an operation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::op::{self, Notified};
use crate::operation::OpId;
use crate::remote::{Message, Shared};

/// Something that any thread can [notify](Event::notify) and that is waited for as an operation on any loop.
///
/// Notifications that nobody waits for are counted, and the next wait takes them all at once. Clones are the same
/// event.
///
/// ```
/// # use towpath_loop::{Event, Loop};
/// let event = Event::new();
/// event.notify();
/// event.notify();
/// assert_eq!(event.notified().wait()?, 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Event(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Notifications that nobody has taken.
    count: u32,
    /// Operations that wait, oldest first.
    waiting: VecDeque<(Arc<Shared>, OpId)>,
}

impl Event {
    /// A new event, not notified.
    pub fn new() -> Event {
        Event::default()
    }

    /// Notifies: the operation that has waited longest completes, or else the next one does at once. If one waits, a
    /// message to its loop is allocated.
    pub fn notify(&self) {
        self.give(1);
    }

    /// A wait for notifications; the outcome is how many there were. On every backend: the loop's inbox.
    pub fn notified(&self) -> Notified {
        op::notified(self.clone())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing between lock and unlock can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands notifications to whoever takes them.
    pub(crate) fn give(&self, count: u32) {
        let mut state = self.state();
        state.count = state.count.saturating_add(count).min(i32::MAX as u32);
        if let Some((shared, id)) = state.waiting.pop_front() {
            let taken = std::mem::take(&mut state.count);
            let news = Undelivered { event: self.clone(), count: taken };
            drop(state);
            // A closed loop gives the message back; dropping it gives the count back to the event.
            drop(shared.send(Message::Notify(id, news)));
        }
    }

    /// Takes what has been counted, or joins those who wait.
    pub(crate) fn take_or_wait(&self, shared: &Arc<Shared>, id: OpId) -> Option<i32> {
        let mut state = self.state();
        if state.count > 0 {
            return Some(std::mem::take(&mut state.count) as i32);
        }
        state.waiting.push_back((shared.clone(), id));
        None
    }

    /// Leaves those who wait.
    pub(crate) fn leave(&self, shared: &Arc<Shared>, id: OpId) {
        self.state().waiting.retain(|(of, waiting)| *waiting != id || !Arc::ptr_eq(of, shared));
    }
}

/// Notifications on their way to an operation; they go back if they do not arrive.
pub(crate) struct Undelivered {
    event: Event,
    count: u32,
}

impl Undelivered {
    pub(crate) fn count(&self) -> i32 {
        self.count as i32
    }

    /// They have arrived.
    pub(crate) fn delivered(mut self) {
        self.count = 0;
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if self.count > 0 {
            self.event.give(self.count);
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}
