//! The inbox of a loop: any thread puts values in, the loop takes them out, and the doorbell is part of the
//! same word.
//!
//! `head` is the newest of a list of nodes, each pointing to the one before it, or null; in the low bits of
//! that pointer is the state of the doorbell. Since list and doorbell change in one atomic step, no wake-up can
//! fall between "is there anything?" and "then I sleep":
//!
//! ```text
//!                 ┌─ push, ring: Ring::No ─┐
//!                 ▼                        │
//!         ┌───────────────┐ ───────────────┘       prepare_sleep = true      ┌────────┐
//!         │ awake         │ ───────────────────────────────────────────────▶ │ asleep │
//!         │   list?       │         only without a list and not rung         │        │
//!         │   rung?       │ ◀─────────────────────────────────────────────── │        │
//!         └───────────────┘   push, ring: Ring::Yes, to the first and only;  └────────┘
//!                 │           awake, drain
//!                 ▼ close
//!         ┌───────────────┐
//!         │ closed        │  push gives the value back
//!         └───────────────┘
//! ```
//!
//! So at most one caller a sleep is told to make the system call, and none while the loop is awake. "Rung" is a
//! wake-up without a value that came while the loop was awake: it is kept until [`Consumer::prepare_sleep`] has
//! refused once.
//!
//! A push is one allocation and, without contention, one compare-and-swap; taking out all there is, one swap.

use crate::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

struct Node<T> {
    value: T,
    /// The node pushed before this one, or null; after `take`, the one pushed after it. Never with low bits.
    next: *mut Node<T>,
}

// The low two bits of `head`. With `ASLEEP` and `CLOSED` there is no list.
const AWAKE: usize = 0;
const RUNG: usize = 1;
const ASLEEP: usize = 2;
const CLOSED: usize = 3;

/// The address of `head` without the bits: null if there is no list.
fn list<T>(head: *mut Node<T>) -> *mut Node<T> {
    const { assert!(align_of::<Node<T>>() > CLOSED) };
    head.map_addr(|address| address & !CLOSED)
}

/// The sending side, shared by all threads.
pub(crate) struct Inbox<T> {
    head: AtomicPtr<Node<T>>,
    /// It passes values on from thread to thread: see `Send` and `Sync` below.
    values: PhantomData<*const T>,
}

// SAFETY: an inbox only moves values of `T` from the thread that pushes to the one that drains, which is what
// `T: Send` allows; nobody gets a reference to a value inside it. `head` is atomic.
unsafe impl<T: Send> Send for Inbox<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Inbox<T> {}

/// Whether the loop sleeps and it falls to the caller to wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a loop that is not woken sleeps on"]
pub(crate) enum Ring {
    /// Make the system call.
    Yes,
    /// The loop is awake, or somebody else wakes it, or it is gone.
    No,
}

/// The receiving side: one for each inbox. It may move between threads, but is used by one at a time.
pub(crate) struct Consumer<T> {
    inbox: Arc<Inbox<T>>,
    /// Taken out of the inbox and not yet delivered, oldest first. Owned.
    ready: *mut Node<T>,
    /// A ring that was taken out of the inbox together with a list.
    rung: Cell<bool>,
}

// SAFETY: `ready` is a list that only this consumer knows; the values in it are `Send`. The raw pointer keeps
// it `!Sync`.
unsafe impl<T: Send> Send for Consumer<T> {}

/// A new inbox, open, with the loop awake.
pub(crate) fn inbox<T>() -> (Arc<Inbox<T>>, Consumer<T>) {
    let inbox = Arc::new(Inbox { head: AtomicPtr::new(ptr::null_mut()), values: PhantomData });
    (inbox.clone(), Consumer { inbox, ready: ptr::null_mut(), rung: Cell::new(false) })
}

impl<T> Inbox<T> {
    /// Puts a value in, behind all that this thread has put in before.
    ///
    /// # Errors
    ///
    /// Gives the value back if the consumer has closed.
    pub(crate) fn push(&self, value: T) -> Result<Ring, T> {
        let mut head = self.head.load(Relaxed);
        if head.addr() == CLOSED {
            return Err(value);
        }
        let node = Box::into_raw(Box::new(Node { value, next: ptr::null_mut() }));
        loop {
            if head.addr() == CLOSED {
                // SAFETY: from `into_raw` above, and never published: every exchange has failed.
                return Err(unsafe { Box::from_raw(node) }.value);
            }
            // SAFETY: as above: the node is still ours alone.
            unsafe { (*node).next = list(head) };
            // Release: the consumer, who acquires `head`, sees the node; and, all exchanges being
            // read-modify-writes, also those below it. That another list may have come and gone in between with
            // `head` at the same address is no matter: only the whole list is ever taken, so what `head` names
            // now is what stands below us.
            let new = node.map_addr(|address| address | (head.addr() & RUNG));
            match self.head.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return Ok(if head.addr() == ASLEEP { Ring::Yes } else { Ring::No }),
                Err(now) => head = now,
            }
        }
    }

    /// Wakes the loop without a value, or keeps it from its next sleep. What the caller wrote before is seen by the
    /// consumer after that. Neither blocks nor allocates: a signal handler may call it.
    pub(crate) fn ring(&self) -> Ring {
        let mut head = self.head.load(Relaxed);
        loop {
            // Also if it is rung already: a mere load would order nothing, and the consumer could go to sleep
            // without having seen what the caller wrote before.
            let new = match head.addr() {
                CLOSED => return Ring::No,
                ASLEEP => ptr::without_provenance_mut(RUNG),
                _ => head.map_addr(|address| address | RUNG),
            };
            match self.head.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return if head.addr() == ASLEEP { Ring::Yes } else { Ring::No },
                Err(now) => head = now,
            }
        }
    }
}

impl<T> Consumer<T> {
    /// Takes out what has been put in, each producer's values in the order of that thread. It comes to an end
    /// even if others go on pushing; what the iterator is not asked for stays for the next time.
    pub(crate) fn drain(&mut self) -> Drain<'_, T> {
        // What was left is first; only after that is the inbox emptied, once.
        let refill = !self.ready.is_null();
        if !refill {
            self.ready = self.take(AWAKE);
        }
        Drain { consumer: self, refill }
    }

    /// Says that the loop is about to sleep: from now on the first to push or to ring is told to make the
    /// system call. `false` if there is something to do, or somebody has rung: then do not sleep, but look
    /// again.
    #[must_use]
    pub(crate) fn prepare_sleep(&self) -> bool {
        if !self.ready.is_null() || self.rung.take() {
            return false;
        }
        match self.exchange(AWAKE, ASLEEP) {
            Ok(()) => true,
            Err(head) if head.addr() == ASLEEP => true,
            Err(head) => {
                if head.addr() == RUNG {
                    // The ring is used up; unless a value has just come on top, with which it is taken out.
                    let _ = self.exchange(RUNG, AWAKE);
                }
                false
            }
        }
    }

    /// Says that the loop is awake again, so that nobody need ring; `true` if somebody has rung since it fell
    /// asleep. To be called after every sleep, whatever ended it.
    ///
    /// Who was told to ring during that sleep may make the system call only later: it can end one more sleep
    /// too early.
    pub(crate) fn awake(&self) -> bool {
        let head = &self.inbox.head;
        let mut now = head.load(Relaxed);
        while now.addr() & CLOSED != AWAKE {
            // Either mark goes, a list stays.
            match head.compare_exchange_weak(now, list(now), AcqRel, Relaxed) {
                Ok(_) => return now.addr() & RUNG != 0,
                Err(changed) => now = changed,
            }
        }
        false
    }

    /// Takes no more: every later push gives its value back. Returns what has been put in and not been taken out.
    pub(crate) fn close(mut self) -> impl Iterator<Item = T> {
        self.shut();
        std::iter::from_fn(move || self.pop())
    }

    /// From one mark without a list to another.
    fn exchange(&self, from: usize, to: usize) -> Result<(), *mut Node<T>> {
        let (from, to) = (ptr::without_provenance_mut(from), ptr::without_provenance_mut(to));
        // Acquire on failure as well: a refused sleep must see what the one who rang wrote before.
        self.inbox.head.compare_exchange(from, to, AcqRel, Acquire).map(drop)
    }

    /// Takes the list out, leaving `mark`, and turns it round: oldest first.
    fn take(&self, mark: usize) -> *mut Node<T> {
        let head = &self.inbox.head;
        // The common case, nothing there, costs no locked instruction. A ring stays for `prepare_sleep`.
        if mark == AWAKE && matches!(head.load(Relaxed).addr(), AWAKE | RUNG) {
            return ptr::null_mut();
        }
        let taken = head.swap(ptr::without_provenance_mut(mark), AcqRel);
        let (mut newest, mut oldest) = (list(taken), ptr::null_mut());
        if taken.addr() != CLOSED && taken.addr() & RUNG != 0 {
            self.rung.set(true);
        }
        while !newest.is_null() {
            // SAFETY: every node of the list comes from `into_raw` in `push` and was published by a Release
            // exchange that the swap has acquired; with the swap the whole list became ours.
            let next = unsafe { std::mem::replace(&mut (*newest).next, oldest) };
            oldest = newest;
            newest = next;
        }
        oldest
    }

    fn pop(&mut self) -> Option<T> {
        if self.ready.is_null() {
            return None;
        }
        // SAFETY: `ready` is a list made by `take`, of nodes from `into_raw`, and known to nobody else; the
        // node is unlinked here, before anything can see it again.
        let node = unsafe { Box::from_raw(self.ready) };
        self.ready = node.next;
        Some(node.value)
    }

    /// Closes, and appends what was still inside to `ready`.
    fn shut(&mut self) {
        let rest = self.take(CLOSED);
        let mut end = &mut self.ready;
        while !end.is_null() {
            // SAFETY: as in `pop`: the nodes of `ready` are ours, and the last one's `next` is null.
            end = unsafe { &mut (**end).next };
        }
        *end = rest;
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shut();
        while self.pop().is_some() {}
    }
}

/// The values taken out by [`Consumer::drain`].
pub(crate) struct Drain<'a, T> {
    consumer: &'a mut Consumer<T>,
    /// Whether to empty the inbox when `ready` is used up.
    refill: bool,
}

impl<T> Iterator for Drain<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.consumer.ready.is_null() && std::mem::take(&mut self.refill) {
            self.consumer.ready = self.consumer.take(AWAKE);
        }
        self.consumer.pop()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::thread;

    #[test]
    fn keeps_the_order_and_what_a_drain_leaves() {
        let (inbox, mut consumer) = inbox();
        (0..6).for_each(|n| assert_eq!(inbox.push(n), Ok(Ring::No)));
        assert_eq!(consumer.drain().take(2).collect::<Vec<_>>(), [0, 1]);
        assert!(!consumer.prepare_sleep(), "four are waiting");
        (6..8).for_each(|n| assert_eq!(inbox.push(n), Ok(Ring::No)));
        assert_eq!(consumer.drain().take(5).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert_eq!(inbox.push(8), Ok(Ring::No));
        assert_eq!(consumer.close().collect::<Vec<_>>(), [7, 8]);
        assert_eq!((inbox.push(9), inbox.ring()), (Err(9), Ring::No));
    }

    #[test]
    fn one_ring_a_sleep_and_none_while_awake() {
        let (inbox, mut consumer) = inbox();
        assert!(consumer.prepare_sleep());
        assert_eq!(inbox.push(0), Ok(Ring::Yes));
        assert_eq!((inbox.push(1), inbox.ring()), (Ok(Ring::No), Ring::No));
        assert!(consumer.awake() && !consumer.awake());
        assert!(!consumer.prepare_sleep(), "two are waiting");
        assert_eq!(consumer.drain().count(), 2);
        assert!(consumer.prepare_sleep());
        assert_eq!((inbox.ring(), inbox.push(2)), (Ring::Yes, Ok(Ring::No)));
        assert_eq!(consumer.drain().count(), 1);
        assert!(!consumer.prepare_sleep(), "rung, and nobody has heard it yet");
        assert!(consumer.prepare_sleep() && !consumer.awake());
        assert_eq!(inbox.push(3), Ok(Ring::No));
    }

    #[test]
    fn a_ring_while_awake_is_kept_for_the_next_sleep() {
        let (inbox, mut consumer) = inbox::<u8>();
        for _ in 0..3 {
            assert_eq!((inbox.ring(), inbox.ring()), (Ring::No, Ring::No));
            assert_eq!(consumer.drain().count(), 0);
            assert!(!consumer.prepare_sleep());
            assert!(consumer.prepare_sleep() && !consumer.awake());
        }
    }

    #[test]
    fn every_value_is_dropped_once() {
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let drops = AtomicUsize::new(0);
        let (inbox, mut consumer) = inbox();
        (0..5).for_each(|_| assert!(inbox.push(Counted(&drops)).is_ok()));
        consumer.drain().next();
        assert!(inbox.push(Counted(&drops)).is_ok());
        drop(consumer);
        assert_eq!(drops.load(SeqCst), 6);
        assert!(inbox.push(Counted(&drops)).is_err());
        assert_eq!(drops.load(SeqCst), 7);
    }

    /// A real sleep on a channel of one ring: four producers, and a wake-up that is lost hangs the test.
    #[test]
    fn a_million_values_reach_a_consumer_that_sleeps() {
        const EACH: usize = 250_000;
        let (inbox, mut consumer) = inbox();
        let (bell, wait) = sync_channel(1);
        let rings = AtomicUsize::new(0);
        let sleep = |wait: &Receiver<()>| {
            wait.recv_timeout(std::time::Duration::from_secs(20)).expect("a wake-up is lost")
        };
        thread::scope(|scope| {
            for producer in 0..4 {
                let (inbox, bell, rings) = (&inbox, bell.clone(), &rings);
                scope.spawn(move || {
                    for n in 0..EACH {
                        if inbox.push((producer, n)) == Ok(Ring::Yes) {
                            rings.fetch_add(1, SeqCst);
                            bell.send(()).unwrap();
                        }
                    }
                });
            }
            let (mut sleeps, mut seen) = (0, [0; 4]);
            while seen.iter().sum::<usize>() < 4 * EACH {
                for (producer, n) in consumer.drain() {
                    assert_eq!(seen[producer], n);
                    seen[producer] += 1;
                }
                if seen.iter().sum::<usize>() < 4 * EACH && consumer.prepare_sleep() {
                    sleeps += 1;
                    sleep(&wait);
                    consumer.awake();
                }
            }
            assert_eq!(rings.load(SeqCst), sleeps);
        });
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p towpath-loop --release --lib loom_`.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::alloc::Track;
    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicBool, AtomicUsize};
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    /// An eventfd: stays set until somebody has waited for it. It counts how often it is rung.
    #[derive(Default)]
    struct Bell(Mutex<(bool, usize)>, Condvar);

    impl Bell {
        fn ring(&self) {
            let mut state = self.0.lock().unwrap();
            *state = (true, state.1 + 1);
            self.1.notify_one();
        }

        /// loom reports a deadlock if nobody ever rings.
        fn wait(&self) {
            let mut state = self.0.lock().unwrap();
            while !std::mem::take(&mut state.0) {
                state = self.1.wait(state).unwrap();
            }
        }

        fn rings(&self) -> usize {
            self.0.lock().unwrap().1
        }
    }

    /// A value that loom watches: it must be written before it is read, and be dropped.
    type Value = Track<UnsafeCell<usize>>;

    fn value(n: usize) -> Value {
        let cell = UnsafeCell::new(0);
        // SAFETY: nobody else has it yet.
        cell.with_mut(|place| unsafe { *place = n });
        Track::new(cell)
    }

    fn read(value: &Value) -> usize {
        // SAFETY: it came out of the inbox, so nobody writes it any more; loom checks that.
        value.get_ref().with(|place| unsafe { *place })
    }

    fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(body);
    }

    /// `producers` threads push `each`; the consumer sleeps whenever it may. Order, nothing lost, one ring a sleep.
    fn deliver(producers: usize, each: usize) {
        let (inbox, mut consumer) = inbox::<Value>();
        let bell = Arc::new(Bell::default());
        let threads: Vec<_> = (0..producers)
            .map(|producer| {
                let (inbox, bell) = (inbox.clone(), bell.clone());
                thread::spawn(move || {
                    for n in 0..each {
                        if matches!(inbox.push(value(producer * 10 + n)), Ok(Ring::Yes)) {
                            bell.ring();
                        }
                    }
                })
            })
            .collect();
        let (mut sleeps, mut seen) = (0, vec![0; producers]);
        while seen.iter().sum::<usize>() < producers * each {
            for value in consumer.drain() {
                let (producer, n) = (read(&value) / 10, read(&value) % 10);
                assert_eq!(seen[producer], n);
                seen[producer] += 1;
            }
            if seen.iter().sum::<usize>() < producers * each && consumer.prepare_sleep() {
                sleeps += 1;
                bell.wait();
                consumer.awake();
                assert!(bell.rings() <= sleeps, "more rings than sleeps");
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(bell.rings(), sleeps, "each sleep was ended by one ring");
    }

    #[test]
    fn loom_no_wakeup_is_lost_with_one_producer() {
        loom::model(|| deliver(1, 2));
    }

    #[test]
    fn loom_no_wakeup_is_lost_with_two_producers() {
        model(3, || deliver(2, 1));
    }

    #[test]
    fn loom_order_of_each_producer_is_kept() {
        model(2, || deliver(2, 2));
    }

    #[test]
    fn loom_a_pure_wake_is_not_lost_and_brings_what_was_written_before() {
        model(3, || {
            let (inbox, mut consumer) = inbox::<Value>();
            let bell = Arc::new(Bell::default());
            let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
            let threads: Vec<_> = (0..2)
                .map(|n| {
                    let (inbox, bell, flags) = (inbox.clone(), bell.clone(), flags.clone());
                    thread::spawn(move || {
                        flags[n].store(true, Relaxed);
                        if inbox.ring() == Ring::Yes {
                            bell.ring();
                        }
                    })
                })
                .collect();
            let mut sleeps = 0;
            // The flags are looked at first, before drain: as a loop that looks somewhere before its turn.
            while !flags.iter().all(|flag| flag.load(Relaxed)) {
                consumer.drain().for_each(drop);
                if consumer.prepare_sleep() {
                    sleeps += 1;
                    bell.wait();
                    consumer.awake();
                    assert!(bell.rings() <= sleeps);
                }
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn loom_a_ring_on_top_of_a_value_is_kept_by_a_drain() {
        loom::model(|| {
            let (inbox, mut consumer) = inbox::<Value>();
            let ringer = thread::spawn(move || {
                let _ = inbox.push(value(1));
                let _ = inbox.ring();
            });
            let mut got = consumer.drain().count();
            ringer.join().unwrap();
            got += consumer.drain().count();
            assert_eq!(got, 1);
            assert!(!consumer.prepare_sleep(), "the ring is lost");
            assert!(consumer.prepare_sleep(), "the ring is heard twice");
        });
    }

    #[test]
    fn loom_close_delivers_or_returns_each_value() {
        model(3, || {
            let (inbox, mut consumer) = inbox::<Value>();
            let returned = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..2)
                .map(|producer| {
                    let (inbox, returned) = (inbox.clone(), returned.clone());
                    thread::spawn(move || {
                        for n in 0..2 - producer {
                            if let Err(value) = inbox.push(value(n)) {
                                assert_eq!(read(&value), n);
                                returned.fetch_add(1, Relaxed);
                            }
                        }
                    })
                })
                .collect();
            let mut delivered = consumer.drain().inspect(|value| assert!(read(value) < 2)).count();
            delivered += consumer.close().inspect(|value| assert!(read(value) < 2)).count();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(delivered + returned.load(Relaxed), 3);
        });
    }

    #[test]
    fn loom_a_dropped_consumer_leaks_nothing() {
        loom::model(|| {
            let (inbox, mut consumer) = inbox::<Value>();
            let producer = thread::spawn(move || (0..2).filter(|n| inbox.push(value(*n)).is_ok()).count());
            drop(consumer.drain().next());
            drop(consumer);
            producer.join().unwrap();
        });
    }
}
