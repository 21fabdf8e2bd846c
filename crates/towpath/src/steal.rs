//! The tasks that a worker has spawned and nobody has started: the worker puts them in and takes them out, oldest first,
//! and workers that have nothing to do take half of them.
//!
//! ```text
//!          head: whoever takes                tail: the owner alone
//!            ▼                                  ▼
//!   … taken │ a │ b │ c │ d │ e │ f │ g │ h │ i │ free …
//! ```
//!
//! Both counters only grow; a task's slot is its number modulo the size of the ring. Whoever takes reads the slots first
//! and then moves `head` by compare-and-swap: if nobody else has moved it, what was read is the taker's. A full ring is
//! replaced by one of twice the size; the old ones stay, for thieves that are still reading, until the queue goes. All of
//! them together are smaller than the newest.

use std::ptr;

use crate::std_or_loom::UnsafeCell;
use crate::std_or_loom::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::std_or_loom::store_and_fence;
use crate::task::{Header, TaskRef};

/// The size of a queue's first ring.
const FIRST: usize = if cfg!(loom) { 2 } else { 256 };
/// How many tasks a thief takes at most. It has to read them all before it knows that they are its.
const LOOT: usize = 64;

struct Ring(Box<[AtomicPtr<Header>]>);

impl Ring {
    fn new(size: usize) -> Ring {
        Ring((0..size).map(|_| AtomicPtr::new(ptr::null_mut())).collect())
    }

    fn slot(&self, number: usize) -> &AtomicPtr<Header> {
        &self.0[number & (self.0.len() - 1)]
    }
}

/// See the [module](self).
pub(crate) struct Queue {
    head: AtomicUsize,
    tail: AtomicUsize,
    /// The newest of `rings`.
    ring: AtomicPtr<Ring>,
    /// The owner's.
    #[expect(clippy::vec_box, reason = "`ring` points to one of them")]
    rings: UnsafeCell<Vec<Box<Ring>>>,
    /// Whether there are others that could steal.
    shared: bool,
}

// SAFETY: `rings` is touched by the owner alone, which is the contract of the methods that do.
unsafe impl Send for Queue {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Queue {}

impl Queue {
    /// An empty one. Unless it is `shared`, nobody but the owner may touch it.
    pub(crate) fn new(shared: bool) -> Queue {
        let first = Box::new(Ring::new(FIRST));
        Queue {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            ring: AtomicPtr::new(ptr::from_ref(&*first).cast_mut()),
            rings: UnsafeCell::new(vec![first]),
            shared,
        }
    }

    /// How many tasks are in it.
    pub(crate) fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        self.tail.load(Ordering::Acquire).wrapping_sub(head)
    }

    fn ring(&self, order: Ordering) -> &Ring {
        // SAFETY: rings are freed with the queue.
        unsafe { &*self.ring.load(order) }
    }

    /// Adds a task. Where the queue is shared there is a full fence between that and what the caller does next: looking
    /// for workers that sleep.
    ///
    /// # Safety
    /// Called by the owner.
    #[inline]
    pub(crate) unsafe fn push(&self, task: TaskRef) {
        let tail = self.tail.load(Ordering::Relaxed);
        // Acquire: who took what was in the slot before has read it.
        let head = self.head.load(Ordering::Acquire);
        let mut ring = self.ring(Ordering::Relaxed);
        if tail.wrapping_sub(head) >= ring.0.len() {
            // SAFETY: the caller is the owner.
            ring = unsafe { self.grow(head, tail) };
        }
        ring.slot(tail).store(task.into_raw().as_ptr(), Ordering::Relaxed);
        if self.shared {
            store_and_fence(&self.tail, tail.wrapping_add(1));
        } else {
            self.tail.store(tail.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// # Safety
    /// As `push`.
    #[cold]
    unsafe fn grow(&self, head: usize, tail: usize) -> &Ring {
        let old = self.ring(Ordering::Relaxed);
        let new = Box::new(Ring::new(old.0.len() * 2));
        let mut number = head;
        while number != tail {
            new.slot(number).store(old.slot(number).load(Ordering::Relaxed), Ordering::Relaxed);
            number = number.wrapping_add(1);
        }
        let pointer = ptr::from_ref(&*new).cast_mut();
        // SAFETY: only the owner, who is here, touches `rings`.
        self.rings.with_mut(|rings| unsafe { (*rings).push(new) });
        self.ring.store(pointer, Ordering::Release);
        self.ring(Ordering::Relaxed)
    }

    /// Takes the oldest task.
    ///
    /// # Safety
    /// Called by the owner.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> Option<TaskRef> {
        let tail = self.tail.load(Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        while head != tail {
            let task = self.ring(Ordering::Relaxed).slot(head).load(Ordering::Relaxed);
            let next = head.wrapping_add(1);
            if !self.shared {
                self.head.store(next, Ordering::Relaxed);
            } else if let Err(now) =
                self.head.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                head = now;
                continue;
            }
            // SAFETY: the queue's reference, which is taken over with the number.
            return Some(unsafe { TaskRef::from_raw(ptr::NonNull::new_unchecked(task)) });
        }
        None
    }

    /// Takes the newest task, where nobody steals; otherwise the oldest: a thief would have to be waited for.
    ///
    /// # Safety
    /// Called by the owner.
    #[inline]
    pub(crate) unsafe fn pop_newest(&self) -> Option<TaskRef> {
        if self.shared {
            // SAFETY: passed on to the caller.
            return unsafe { self.pop() };
        }
        let tail = self.tail.load(Ordering::Relaxed);
        if tail == self.head.load(Ordering::Relaxed) {
            return None;
        }
        let newest = tail.wrapping_sub(1);
        let task = self.ring(Ordering::Relaxed).slot(newest).load(Ordering::Relaxed);
        self.tail.store(newest, Ordering::Relaxed);
        // SAFETY: the queue's reference, which is taken over with the number.
        Some(unsafe { TaskRef::from_raw(ptr::NonNull::new_unchecked(task)) })
    }

    /// Moves the older half of the tasks to the caller's own queue. For a worker that has nothing to do. True if there
    /// were any.
    ///
    /// # Safety
    /// The caller owns `to`.
    pub(crate) unsafe fn steal_into(&self, to: &Queue) -> bool {
        let mut loot = [ptr::null_mut(); LOOT];
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            // After `head`, so that it is not behind it.
            let there = self.tail.load(Ordering::Acquire).wrapping_sub(head);
            let count = (there - there / 2).min(LOOT);
            if count == 0 {
                return false;
            }
            // After `tail`: at least as new as what holds the last of the tasks.
            let ring = self.ring(Ordering::Acquire);
            for (n, place) in loot[..count].iter_mut().enumerate() {
                // May be anything if somebody else was faster: then it is not used.
                *place = ring.slot(head.wrapping_add(n)).load(Ordering::Relaxed);
            }
            let next = head.wrapping_add(count);
            match self.head.compare_exchange(head, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    for task in &loot[..count] {
                        // SAFETY: the queue's references, taken over with the numbers; `to` is the caller's.
                        unsafe { to.push(TaskRef::from_raw(ptr::NonNull::new_unchecked(*task))) };
                    }
                    return true;
                }
                Err(now) => head = now,
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nobody else has it any more.
        while let Some(task) = unsafe { self.pop() } {
            drop(task);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU8;
    use std::thread;

    use super::*;
    use crate::task::Rare;

    fn task(n: usize) -> TaskRef {
        let options = Rare::with(Some(n.to_string().into()), None);
        // SAFETY: it borrows nothing, and is `Send`.
        unsafe { TaskRef::new(options, || ()) }.0
    }

    fn number(task: &TaskRef) -> usize {
        task.name().unwrap().parse().unwrap()
    }

    fn drain(queue: &Queue) -> Vec<usize> {
        // SAFETY: these tests own their queues.
        std::iter::from_fn(|| unsafe { queue.pop() }).map(|task| number(&task)).collect()
    }

    #[test]
    fn tasks_come_oldest_first_through_growth() {
        for shared in [false, true] {
            let queue = Queue::new(shared);
            for round in 0..5 {
                // SAFETY: as in `drain`.
                (0..FIRST * 3 + round).for_each(|n| unsafe { queue.push(task(n)) });
                assert_eq!(queue.len(), FIRST * 3 + round);
                assert_eq!(drain(&queue), (0..FIRST * 3 + round).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_newest_comes_first_where_nobody_steals() {
        let queue = Queue::new(false);
        // SAFETY: as in `drain`.
        unsafe {
            (0..FIRST + 2).for_each(|n| queue.push(task(n)));
            assert_eq!(queue.pop_newest().as_ref().map(number), Some(FIRST + 1));
            assert_eq!(queue.pop().as_ref().map(number), Some(0));
            queue.push(task(7));
            assert_eq!(queue.pop_newest().as_ref().map(number), Some(7));
            assert_eq!(drain(&queue), (1..=FIRST).collect::<Vec<_>>());
            assert!(queue.pop_newest().is_none());
        }
    }

    #[test]
    fn the_older_half_is_stolen() {
        let [a, b] = [0; 2].map(|_| Queue::new(true));
        // SAFETY: as in `drain`.
        unsafe {
            (0..5).for_each(|n| a.push(task(n)));
            assert!(a.steal_into(&b));
            assert_eq!((a.len(), b.len()), (2, 3));
            assert!(a.steal_into(&b) && a.steal_into(&b) && !a.steal_into(&b), "also the last one");
            assert_eq!(drain(&b), [0, 1, 2, 3, 4]);
            (0..1000).for_each(|n| a.push(task(n)));
            assert!(a.steal_into(&b));
            assert_eq!((a.len(), b.len()), (1000 - LOOT, LOOT));
        }
    }

    #[test]
    fn under_stress_each_task_is_taken_once() {
        const TASKS: usize = 200_000;
        let queue = &Queue::new(true);
        let taken: &Vec<_> = &(0..TASKS).map(|_| AtomicU8::new(0)).collect();
        let take = |task: TaskRef| taken[number(&task)].fetch_add(1, Ordering::Relaxed);
        let done = &std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    let mine = Queue::new(true);
                    while !done.load(Ordering::Acquire) || queue.len() > 0 {
                        // SAFETY: `mine` is this thread's.
                        unsafe {
                            queue.steal_into(&mine);
                            while let Some(task) = mine.pop() {
                                take(task);
                            }
                        }
                    }
                });
            }
            for n in 0..TASKS {
                // SAFETY: this thread is the queue's owner.
                unsafe { queue.push(task(n)) };
                if n % 3 == 0 {
                    // SAFETY: as above.
                    unsafe { queue.pop() }.map(take);
                }
            }
            done.store(true, Ordering::Release);
        });
        assert!(taken.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, read, value};

    /// A task whose closure and result loom watches, and that counts its starts.
    fn task(starts: &Arc<AtomicUsize>) -> TaskRef {
        let (starts, value) = (starts.clone(), value(7));
        let body = move || {
            assert_eq!(read(&value), 7);
            starts.fetch_add(1, Ordering::Relaxed);
        };
        // SAFETY: it borrows nothing, and is `Send`.
        unsafe { TaskRef::new(None, body) }.0
    }

    fn start(task: &TaskRef) {
        // SAFETY: whoever takes a task out of a queue runs it; that it came out twice loom would see.
        unsafe { task.run() }
    }

    /// Three tasks go through a ring of two, so that it grows; the owner and `thieves` take what there is.
    fn race(thieves: usize, preemptions: usize) {
        check(preemptions, move || {
            let (queue, starts) = (Arc::new(Queue::new(true)), Arc::new(AtomicUsize::new(0)));
            let thieves: Vec<_> = (0..thieves)
                .map(|_| {
                    let queue = queue.clone();
                    thread::spawn(move || {
                        let mine = Queue::new(true);
                        // SAFETY: `mine` is this thread's.
                        unsafe {
                            queue.steal_into(&mine);
                            while let Some(task) = mine.pop() {
                                start(&task);
                            }
                        }
                    })
                })
                .collect();
            // SAFETY: this thread is the queue's owner.
            unsafe {
                queue.push(task(&starts));
                queue.push(task(&starts));
                queue.pop().iter().for_each(start);
                queue.push(task(&starts));
                queue.push(task(&starts));
                while let Some(task) = queue.pop() {
                    start(&task);
                }
            }
            thieves.into_iter().for_each(|thief| thief.join().unwrap());
            assert_eq!(starts.load(Ordering::Relaxed), 4);
        });
    }

    #[test]
    fn loom_owner_and_thief_take_each_task_once() {
        race(1, 4);
    }

    #[test]
    fn loom_owner_and_two_thieves_take_each_task_once() {
        race(2, 2);
    }
}
