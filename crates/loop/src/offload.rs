//! The requests of a loop that threads of the blocking pool carry out, because they block and its backend has no way.
//!
//! A loop has no more than [`WINDOW`] requests with the pool at a time; the others wait here, in order. So the queue of
//! the pool, which all loops share, stays short, and none of them can fill it: what is bounded by memory alone is the
//! number of operations of a loop, and that has [its own limit](crate::Config::max_operations).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::operation::{CURSOR, Kind, OPERATIONS, OpId, Request};
use crate::pool::{self, Task};
use crate::remote::Shared;

/// How many requests of one loop are with the pool at a time.
const WINDOW: usize = 256;

pub(crate) struct Offload {
    shared: Arc<Shared>,
    /// The kinds that go this way on this loop's backend.
    kinds: [bool; OPERATIONS.len()],
    /// By the index of the operation's slot.
    tasks: Vec<Option<Arc<Task>>>,
    /// How many are with the pool.
    handed: usize,
    /// Those that are not yet.
    waiting: VecDeque<Arc<Task>>,
    closed: bool,
}

impl Offload {
    pub(crate) fn new(shared: Arc<Shared>, kinds: [bool; OPERATIONS.len()]) -> Offload {
        Offload { shared, kinds, tasks: Vec::new(), handed: 0, waiting: VecDeque::new(), closed: false }
    }

    /// Whether requests of this kind go this way.
    #[inline]
    pub(crate) fn takes(&self, kind: Kind) -> bool {
        self.kinds[kind as usize]
    }

    /// Whether nothing may begin any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn close(&mut self) {
        debug_assert!(!self.is_busy());
        self.closed = true;
    }

    /// Whether anything is under way or waits for that.
    pub(crate) fn is_busy(&self) -> bool {
        self.handed > 0 || !self.waiting.is_empty()
    }

    /// Has a request carried out; the loop's inbox will tell when it is over.
    pub(crate) fn begin(&mut self, id: OpId, request: Request) {
        let request = match request {
            // A thread need not wait for readiness.
            Request::ReadStream { handle, vectors, count, .. } => {
                Request::Read { handle, vectors, count, at: CURSOR }
            }
            Request::WriteStream { handle, vectors, count, .. } => {
                Request::Write { handle, vectors, count, at: CURSOR }
            }
            request => request,
        };
        let task = Arc::new(Task::new(request, id, self.shared.clone()));
        let index = id.index as usize;
        if index >= self.tasks.len() {
            self.tasks.resize(index + 1, None);
        }
        self.tasks[index] = Some(task.clone());
        self.waiting.push_back(task);
        self.hand_over();
    }

    /// The request of this slot is over: makes room for the next one.
    pub(crate) fn finished(&mut self, index: u32) {
        self.tasks[index as usize] = None;
        self.handed -= 1;
        self.hand_over();
    }

    /// Ends the request of this slot, if no thread has begun it. True if so: it never will be. False if it is under way: it
    /// has been interrupted, and this is to be called again now and then until it is over.
    pub(crate) fn cancel(&mut self, index: u32) -> bool {
        let Some(task) = &self.tasks[index as usize] else { return false };
        if let Some(at) = self.waiting.iter().position(|it| Arc::ptr_eq(it, task)) {
            self.waiting.remove(at);
            self.tasks[index as usize] = None;
            return true;
        }
        if pool::withdraw(task) {
            self.finished(index);
            return true;
        }
        task.interrupt();
        false
    }

    fn hand_over(&mut self) {
        while self.handed < WINDOW
            && let Some(task) = self.waiting.pop_front()
        {
            self.handed += 1;
            pool::submit(task);
        }
    }
}
