//! A request on its way through the pool.
//!
//! Who takes it out of the queue, under the queue's lock, has it: a thread, which carries it out and reports, or the loop,
//! which cancelled it, and then nobody has touched what it points to. While a thread has it, a cancel interrupts the
//! system call that it is in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::interrupt;
use crate::backend::files::carry_out;
use crate::operation::{OpId, Request};
use crate::remote::{Message, Shared};

/// A request for a thread of the pool.
pub(crate) struct Task {
    request: Request,
    id: OpId,
    shared: Arc<Shared>,
    canceled: AtomicBool,
    /// The thread that carries it out just now. It is alive, and carries out nothing else, while this is locked.
    runner: Mutex<Option<interrupt::Thread>>,
}

// SAFETY: the pointers of the request are used by the one thread that runs it.
unsafe impl Sync for Task {}

/// Tells the loop, whatever happens: it waits for that before it gives the memory back.
struct Report<'a> {
    task: &'a Task,
    result: i32,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        *self.task.runner.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // A loop does not close its inbox while a task of its own is under way.
        let sent = self.task.shared.send(Message::Complete(self.task.id, self.result));
        debug_assert!(sent.is_ok());
    }
}

impl Task {
    pub(crate) fn new(request: Request, id: OpId, shared: Arc<Shared>) -> Task {
        Task { request, id, shared, canceled: AtomicBool::new(false), runner: Mutex::new(None) }
    }

    /// Carries it out on this thread, which took it out of the queue.
    pub(super) fn run(&self) {
        *self.runner.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupt::Thread::current());
        let mut report = Report { task: self, result: -libc::EIO };
        // SAFETY: the operation has not completed, so its submitter's promise holds. It completes by the report.
        report.result = unsafe { carry_out(&self.request, &self.canceled) };
    }

    /// There is no thread for it, and will be none.
    pub(super) fn refuse(&self) {
        drop(Report { task: self, result: -libc::EAGAIN });
    }

    /// Asks for its end, once it has been taken out of the queue. To be repeated until it is over, since a signal that
    /// comes just before a system call does not interrupt it.
    pub(crate) fn interrupt(&self) {
        self.canceled.store(true, Ordering::SeqCst);
        if let Some(thread) = &*self.runner.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.interrupt();
        }
    }
}
