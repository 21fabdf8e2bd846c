//! A loop as other threads see it.
//!
//! Messages go through the [inbox](crate::mpsc), whose doorbell says when the sender must make the system call that
//! wakes the loop: at most one while it sleeps, none while it runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Wake;
use crate::event::Undelivered;
use crate::event_loop::Loop;
use crate::mpsc::{Inbox, Ring};
use crate::op::Detach;
use crate::operation::OpId;

/// What other threads tell a loop.
pub(crate) enum Message {
    /// Do this.
    Run(Errand),
    /// An operation that waits for something outside has this result.
    Complete(OpId, i32),
    /// An operation that waits for an event is notified.
    Notify(OpId, Undelivered),
}

/// Something to be done on a loop's thread.
pub(crate) type Errand = Box<dyn FnOnce(&Loop) + Send>;

/// The part of a loop that all threads share.
pub(crate) struct Shared {
    inbox: Arc<Inbox<Message>>,
    waker: Arc<dyn Wake>,
    rings: AtomicU64,
}

impl Shared {
    pub(crate) fn new(inbox: Arc<Inbox<Message>>, waker: Arc<dyn Wake>) -> Shared {
        Shared { inbox, waker, rings: AtomicU64::new(0) }
    }

    pub(crate) fn send(&self, message: Message) -> Result<(), Message> {
        let ring = self.inbox.push(message)?;
        self.ring(ring);
        Ok(())
    }

    fn wake(&self) {
        self.ring(self.inbox.ring());
    }

    fn ring(&self, ring: Ring) {
        if ring == Ring::Yes {
            self.rings.fetch_add(1, Ordering::Relaxed);
            self.waker.wake();
        }
    }

    pub(crate) fn rings(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }
}

/// A handle to a loop for any thread: submits to it and wakes it. Outlives the loop harmlessly.
///
/// ```
/// # use towpath_loop::Loop;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// static DONE: AtomicBool = AtomicBool::new(false);
///
/// let loop_ = Loop::new()?;
/// let remote = loop_.remote();
/// let worker = std::thread::spawn(move || remote.run(|_| DONE.store(true, Ordering::Relaxed)));
/// loop_.run_until(|| DONE.load(Ordering::Relaxed))?;
/// worker.join().unwrap().unwrap();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

/// The loop is gone; what was to be given to it.
pub struct Closed<T>(
    /// What was to be given to it.
    pub T,
);

impl<T> fmt::Debug for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed")
    }
}

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event loop is gone")
    }
}

impl<T> std::error::Error for Closed<T> {}

impl Remote {
    /// Whether it is this loop's.
    pub fn is_of(&self, loop_: &Loop) -> bool {
        Arc::ptr_eq(&self.shared, &loop_.0.shared)
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Remote {
        Remote { shared }
    }

    /// Runs `f` on the loop's thread, on its next tick, and wakes the loop if it sleeps. What one thread sends runs in
    /// that order. Allocates the message.
    ///
    /// # Errors
    /// [`Closed`] if the loop is gone. If it goes before the tick, `f` is dropped uncalled.
    pub fn run(&self, f: impl FnOnce(&Loop) + Send + 'static) -> Result<(), Closed<()>> {
        self.shared.send(Message::Run(Box::new(f))).map_err(|_| Closed(()))
    }

    /// Submits an operation to the loop; `callback` runs on the loop's thread.
    ///
    /// # Errors
    /// [`Closed`] if the loop is gone; the operation and the callback are dropped.
    pub fn submit<O, F>(&self, op: O, callback: F) -> Result<(), Closed<()>>
    where
        O: Detach,
        O::Owned: Send,
        F: FnOnce(&Loop, O::Output) + Send + 'static,
    {
        let op = op.detach();
        self.run(move |loop_| {
            loop_.submit_owned(op, callback);
        })
    }

    /// [Cancels](Loop::cancel) an operation of the loop, on its next tick.
    ///
    /// # Errors
    /// [`Closed`] if the loop is gone.
    pub fn cancel(&self, id: OpId) -> Result<(), Closed<()>> {
        self.run(move |loop_| {
            loop_.cancel(id);
        })
    }

    /// Ends the loop's sleep, or the next one if it is awake. Neither blocks nor allocates: a signal handler may call
    /// it. Does nothing once the loop is gone.
    pub fn wake(&self) {
        self.shared.wake();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}
