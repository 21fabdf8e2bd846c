//! A worker's mailbox: tasks that other threads have made ready, and tasks that nobody has started yet.
//!
//! The list of ready tasks is intrusive: a task is in it at most once (`Header::mailed`), so waking allocates nothing.
//! Pushing onto an empty list is what wakes the worker; who finds others there knows that somebody does.

use std::collections::VecDeque;
use std::ptr::{self, NonNull};
use std::sync::PoisonError;

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{Mutex, Remote};
use crate::task::{Header, TaskRef};

/// What other threads may reach of a worker.
pub(crate) struct Mailbox {
    /// Newest first.
    ready: AtomicPtr<Header>,
    /// `None` once the worker has shut down.
    unstarted: Mutex<Option<VecDeque<TaskRef>>>,
    /// How many are unstarted, to be looked at without the lock.
    waiting: AtomicUsize,
    /// Tasks that live here, published by the worker for those who place others.
    pub(crate) live: AtomicUsize,
    pub(crate) remote: Remote,
}

impl Mailbox {
    pub(crate) fn new(remote: impl Into<Remote>) -> Mailbox {
        Mailbox {
            ready: AtomicPtr::new(ptr::null_mut()),
            unstarted: Mutex::new(Some(VecDeque::new())),
            waiting: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            remote: remote.into(),
        }
    }

    /// Makes a task ready that lives here. From any thread.
    pub(crate) fn push_ready(&self, task: &Header) {
        if task.mailed.swap(true, Ordering::AcqRel) {
            // In the list, and its worker has yet to look at what the caller did: the swap orders the two.
            return;
        }
        let node = task.to_ref().into_raw().as_ptr();
        let mut head = self.ready.load(Ordering::Relaxed);
        loop {
            task.next_mail.store(head, Ordering::Relaxed);
            match self.ready.compare_exchange_weak(head, node, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        if head.is_null() {
            self.remote.wake();
        }
    }

    /// Takes all the tasks out that were made ready, oldest first. For the worker alone.
    pub(crate) fn take_ready(&self, mut each: impl FnMut(TaskRef)) {
        if self.ready.load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut newest = self.ready.swap(ptr::null_mut(), Ordering::AcqRel);
        let mut oldest: *mut Header = ptr::null_mut();
        while let Some(node) = NonNull::new(newest) {
            // SAFETY: the list owns a reference to each of its tasks, and the swap made the list ours.
            let task = unsafe { node.as_ref() };
            newest = task.next_mail.load(Ordering::Relaxed);
            task.next_mail.store(oldest, Ordering::Relaxed);
            oldest = node.as_ptr();
        }
        while let Some(node) = NonNull::new(oldest) {
            // SAFETY: the list's reference, taken over.
            let task = unsafe { TaskRef::from_raw(node) };
            oldest = task.next_mail.load(Ordering::Relaxed);
            // From here on it can be put in again. Before the worker looks at the task, so that no news are missed.
            task.mailed.swap(false, Ordering::AcqRel);
            each(task);
        }
    }

    /// Adds a task that has not started.
    ///
    /// # Errors
    /// Gives it back if the worker takes no more.
    pub(crate) fn push_unstarted(&self, task: TaskRef) -> Result<(), TaskRef> {
        self.with_unstarted(|queue| match queue {
            Some(queue) => {
                queue.push_back(task);
                Ok(())
            }
            None => Err(task),
        })
    }

    /// Takes the oldest task that has not started.
    pub(crate) fn pop_unstarted(&self) -> Option<TaskRef> {
        if self.unstarted() == 0 {
            return None;
        }
        self.with_unstarted(|queue| queue.as_mut()?.pop_front())
    }

    /// Moves the newer half of the tasks that have not started to another mailbox. For a worker that has nothing to
    /// do. True if there were any.
    pub(crate) fn steal_into(&self, other: &Mailbox) -> bool {
        if self.unstarted() == 0 {
            return false;
        }
        let stolen = self.with_unstarted(|queue| {
            let queue = queue.as_mut()?;
            Some(queue.split_off(queue.len() / 2))
        });
        let Some(mut stolen) = stolen.filter(|stolen| !stolen.is_empty()) else { return false };
        other.with_unstarted(|queue| {
            // The thief is awake and stealing, so it has not shut down.
            queue.as_mut().expect("a worker that steals is open").append(&mut stolen);
        });
        true
    }

    /// Takes no more tasks, and returns those that have not started.
    pub(crate) fn close(&self) -> VecDeque<TaskRef> {
        self.with_unstarted(Option::take).unwrap_or_default()
    }

    /// How many tasks have not started.
    pub(crate) fn unstarted(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    fn with_unstarted<R>(&self, f: impl FnOnce(&mut Option<VecDeque<TaskRef>>) -> R) -> R {
        // Nothing under the lock panics, but for want of memory.
        let mut queue = self.unstarted.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut queue);
        self.waiting.store(queue.as_ref().map_or(0, VecDeque::len), Ordering::Release);
        result
    }
}
