//! A queue of those who wait for one thing, first come first served. Its owner keeps it under a lock.

use std::cell::Cell;
use std::marker::{PhantomData, PhantomPinned};
use std::ptr;

use super::{Waiter, Wake};
use crate::std_or_loom::UnsafeCell;

/// One place in a queue: a waiter, and what it asks for or gets.
///
/// The links belong to the queue's lock. The data belong to the waiter until the node is queued and after it has left, or
/// the waiter was completed; in between to whoever has the lock.
pub(crate) struct Node<D> {
    previous: Cell<*const Node<D>>,
    next: Cell<*const Node<D>>,
    linked: Cell<bool>,
    waiter: Cell<*const Waiter>,
    index: Cell<usize>,
    data: UnsafeCell<D>,
    _pinned: PhantomPinned,
}

impl<D> Node<D> {
    pub(crate) fn new(data: D) -> Node<D> {
        Node {
            previous: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            linked: Cell::new(false),
            waiter: Cell::new(ptr::null()),
            index: Cell::new(0),
            data: UnsafeCell::new(data),
            _pinned: PhantomPinned,
        }
    }

    /// The data of a node that is in no queue.
    pub(crate) fn data(&mut self) -> &mut D {
        // SAFETY: not queued, so that it is the caller's alone.
        self.data.with_mut(|data| unsafe { &mut *data })
    }
}

// SAFETY: what is not `Send` in it are links, which are followed under the queue's lock only.
unsafe impl<D: Send> Send for Node<D> {}

/// Those who wait, oldest first.
pub(crate) struct Queue<D> {
    first: *const Node<D>,
    last: *const Node<D>,
    _data: PhantomData<D>,
}

// SAFETY: the nodes are reached under the queue's lock only, by whichever thread has it; waiters may be shared.
unsafe impl<D: Send> Send for Queue<D> {}

impl<D> Queue<D> {
    pub(crate) const fn new() -> Queue<D> {
        Queue { first: ptr::null(), last: ptr::null(), _data: PhantomData }
    }

    /// Whether nobody waits. Somebody who has just given up may still be counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Whether somebody waits who is not `waiter`.
    pub(crate) fn has_other_than(&self, waiter: &Waiter) -> bool {
        // SAFETY: queued nodes are alive.
        let mut nodes =
            std::iter::successors(unsafe { self.first.as_ref() }, |node| unsafe { node.next.get().as_ref() });
        nodes.any(|node| !ptr::eq(node.waiter.get(), waiter))
    }

    /// Queues a node, claimed as arm number `index` of its waiter: as the last, or as the first.
    ///
    /// # Safety
    /// Node and waiter stay where they are until the node has left the queue. It is in none.
    pub(crate) unsafe fn push(&mut self, node: &Node<D>, waiter: &Waiter, index: usize, first: bool) {
        debug_assert!(!node.linked.get());
        node.waiter.set(waiter);
        node.index.set(index);
        node.linked.set(true);
        let (previous, next) = if first { (ptr::null(), self.first) } else { (self.last, ptr::null()) };
        self.link(previous, node);
        self.link(node, next);
        // One of the two is an end.
        if next.is_null() {
            self.last = node;
        }
        if previous.is_null() {
            self.first = node;
        }
    }

    /// Makes two nodes neighbours, of which either may be the outside.
    fn link(&mut self, previous: *const Node<D>, next: *const Node<D>) {
        // SAFETY: queued nodes are alive, by the promise of `push`.
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.next.set(next),
            None => self.first = next,
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.previous.set(previous),
            None => self.last = previous,
        }
    }

    /// Takes a node out, if it is still in.
    pub(crate) fn remove(&mut self, node: &Node<D>) {
        if node.linked.replace(false) {
            self.link(node.previous.get(), node.next.get());
            node.previous.set(ptr::null());
            node.next.set(ptr::null());
        }
    }

    /// Takes the first of them who can still be claimed out, and claims it.
    #[inline]
    pub(crate) fn claim(&mut self) -> Option<Claimed<'_, D>> {
        self.claim_if(|_| true)
    }

    /// As [`claim`](Queue::claim), while the first is `wanted`.
    pub(crate) fn claim_if(&mut self, mut wanted: impl FnMut(&D) -> bool) -> Option<Claimed<'_, D>> {
        // SAFETY: queued nodes are alive.
        while let Some(node) = unsafe { self.first.as_ref() } {
            // SAFETY: the data of a queued node belong to who has the lock, which is who has the queue.
            if !node.data.with(|data| wanted(unsafe { &*data })) {
                break;
            }
            self.remove(node);
            // SAFETY: and waiters are alive while their nodes are queued; this one was.
            if unsafe { &*node.waiter.get() }.claim(node.index.get()) {
                return Some(Claimed { node, is_last: self.is_empty(), _queue: PhantomData });
            }
        }
        None
    }
}

/// One who has been claimed, and is to be given something.
#[must_use]
pub(crate) struct Claimed<'a, D> {
    node: *const Node<D>,
    is_last: bool,
    /// For as long as the lock is held.
    _queue: PhantomData<&'a mut Queue<D>>,
}

impl<D> Claimed<'_, D> {
    /// What it asks for, and gets.
    pub(crate) fn data(&mut self) -> &mut D {
        // SAFETY: until it is completed its frame is frozen, and the lock's holder is the only one to reach the node.
        unsafe { (*self.node).data.with_mut(|data| &mut *data) }
    }

    /// Whether it goes on when it is woken, as tasks and threads do. A future may not be polled for long.
    pub(crate) fn acts_at_once(&self) -> bool {
        // SAFETY: claimed, and not completed yet, so that both are alive.
        unsafe { &*(*self.node).waiter.get() }.is_task()
    }

    /// Whether nobody is left in the queue.
    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    /// It has been given that, and may act upon it at once. To be woken without the lock.
    pub(crate) fn complete(self) -> Wake {
        // SAFETY: claimed, and not completed yet, so that both are alive.
        unsafe { Waiter::complete((*self.node).waiter.get()) }
    }
}
