//! L15: what parties see of a channel or a lock could have happened in one order, one thing at a time.
//!
//! Histories of few operations are recorded, with a clock that ticks at each call and each return, and searched for an
//! order as Wing and Gong do: an operation may come next if none of the others returned before it was called.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use towpath::sync::{Arc, Mutex, RwLock, Semaphore, mpmc};
use towpath::thread;

use crate::common::{LONG, duo, scaled};
use crate::parties::{self, Party, block_on};

/// What something is, said as simply as can be.
trait Model: Clone + Eq + Hash {
    /// An operation and its result.
    type Event: Debug;
    /// Does it, if it can have had that result now. `others`: those that were under way at the same time.
    fn apply<'a>(&mut self, event: &Self::Event, others: impl Iterator<Item = &'a Self::Event>) -> bool
    where
        Self::Event: 'a;
}

#[derive(Debug)]
struct Recorded<E> {
    called: u64,
    returned: u64,
    event: E,
}

struct Recorder<E> {
    clock: AtomicU64,
    events: std::sync::Mutex<Vec<Recorded<E>>>,
}

impl<E> Recorder<E> {
    fn new() -> Arc<Recorder<E>> {
        Arc::new(Recorder { clock: AtomicU64::new(0), events: Default::default() })
    }

    fn record(&self, operation: impl FnOnce() -> E) {
        let called = self.clock.fetch_add(1, SeqCst);
        let event = operation();
        let returned = self.clock.fetch_add(1, SeqCst);
        self.events.lock().unwrap().push(Recorded { called, returned, event });
    }
}

/// Whether there is an order.
fn is_linear<M: Model>(start: M, history: &[Recorded<M::Event>]) -> bool {
    fn search<M: Model>(
        state: &M,
        done: u64,
        history: &[Recorded<M::Event>],
        seen: &mut HashSet<(u64, M)>,
    ) -> bool {
        let rest = || history.iter().enumerate().filter(move |(n, _)| done & 1 << n == 0);
        let Some(first_return) = rest().map(|(_, r)| r.returned).min() else { return true };
        if !seen.insert((done, state.clone())) {
            return false;
        }
        rest().filter(|(_, r)| r.called < first_return).any(|(n, next)| {
            let at_once = |r: &Recorded<_>| r.called < next.returned && next.called < r.returned;
            let others = history.iter().enumerate().filter(|(m, r)| *m != n && at_once(r));
            let others = others.map(|(_, r)| &r.event);
            let mut after = state.clone();
            after.apply(&next.event, others) && search(&after, done | 1 << n, history, seen)
        })
    }
    assert!(history.len() <= 64);
    search(&start, 0, history, &mut HashSet::new())
}

fn check<M: Model>(start: M, recorder: &Recorder<M::Event>) {
    let mut history = recorder.events.lock().unwrap();
    history.sort_by_key(|recorded| recorded.called);
    assert!(is_linear(start, &history), "no order explains {history:#?}");
}

fn rounds() -> u64 {
    30 + scaled(400) as u64
}

/// A number below `limit`, a different one for each party and step.
fn random(seed: &mut u64, limit: u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) % limit
}

/// Gives others a chance to come between.
fn dawdle(party: Party, seed: &mut u64) {
    match (random(seed, 3), party) {
        (0, Party::Task) => thread::yield_now(),
        (0, _) => std::thread::yield_now(),
        _ => {}
    }
}

#[derive(Debug)]
enum Message {
    Sent(u64),
    Full,
    Received(u64),
    Empty,
    /// Given up, without an effect.
    Nothing,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Buffer {
    bound: Option<usize>,
    messages: VecDeque<u64>,
}

impl Model for Buffer {
    type Event = Message;

    fn apply<'a>(&mut self, event: &Message, mut others: impl Iterator<Item = &'a Message>) -> bool {
        let full = self.bound.is_some_and(|bound| self.messages.len() >= bound);
        match *event {
            Message::Sent(message) => {
                self.messages.push_back(message);
                !full
            }
            // Room that is made goes to one who waits for it, before it can be seen.
            Message::Full => full || others.any(|other| matches!(other, Message::Sent(_))),
            Message::Received(message) => self.messages.pop_front() == Some(message),
            Message::Empty => {
                self.messages.is_empty() || others.any(|other| matches!(other, Message::Received(_)))
            }
            Message::Nothing => true,
        }
    }
}

/// L15: a channel is a queue.
pub fn l15_channels_are_queues() {
    for bound in [Some(1), Some(2), None] {
        for round in 0..rounds() {
            duo(move || {
                let recorder = Recorder::new();
                let (sender, receiver) = match bound {
                    Some(bound) => mpmc::sync_channel(bound),
                    None => mpmc::channel(),
                };
                let record = recorder.clone();
                parties::all(4, move |party, n| {
                    let mut seed = round * 4 + n as u64;
                    for step in 0..6 {
                        let message = n as u64 * 10 + step;
                        let soon = Duration::from_micros(random(&mut seed, 200));
                        let blocks = random(&mut seed, 3);
                        let sends = random(&mut seed, 2) == 0;
                        record.record(|| match (sends, blocks, party) {
                            (true, 0, Party::Future) if bound.is_none() => {
                                block_on(sender.send_async(message))
                                    .map_or(Message::Nothing, |()| Message::Sent(message))
                            }
                            (true, 0 | 1, _) => match sender.send_timeout(message, soon) {
                                Ok(()) => Message::Sent(message),
                                Err(_) => Message::Nothing,
                            },
                            (true, _, _) => match sender.try_send(message) {
                                Ok(()) => Message::Sent(message),
                                Err(_) => Message::Full,
                            },
                            (false, 0 | 1, _) => {
                                receiver.recv_timeout(soon).map_or(Message::Nothing, Message::Received)
                            }
                            (false, _, _) => receiver.try_recv().map_or(Message::Empty, Message::Received),
                        });
                        dawdle(party, &mut seed);
                    }
                });
                check(Buffer { bound, messages: VecDeque::new() }, &recorder);
            });
        }
    }
}

#[derive(Debug)]
enum Access {
    Read(bool),
    Write(bool),
    ReadDone,
    WriteDone,
    Nothing,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Lock {
    readers: u32,
    writes: bool,
}

impl Model for Lock {
    type Event = Access;

    fn apply<'a>(&mut self, event: &Access, mut others: impl Iterator<Item = &'a Access>) -> bool {
        let free = self.readers == 0 && !self.writes;
        match *event {
            Access::Read(true) => {
                self.readers += 1;
                !self.writes
            }
            Access::Write(true) => {
                self.writes = true;
                free
            }
            Access::ReadDone => {
                self.readers -= 1;
                true
            }
            Access::WriteDone => std::mem::take(&mut self.writes),
            // Refused where it is locked, or others wait for it.
            Access::Read(false) => {
                self.writes || others.any(|other| matches!(other, Access::Write(true) | Access::Nothing))
            }
            // And while somebody is about to leave it to others.
            Access::Write(false) => {
                !free || others.any(|other| !matches!(other, Access::Read(false) | Access::Write(false)))
            }
            Access::Nothing => true,
        }
    }
}

/// L15: locks exclude as they should, and refuse only where they may.
pub fn l15_locks_exclude() {
    for round in 0..rounds() {
        duo(move || {
            let recorder = Recorder::new();
            let (record, shared) = (recorder.clone(), Arc::new((Mutex::new(()), RwLock::new(()))));
            parties::all(4, move |party, n| {
                let mut seed = round * 4 + n as u64;
                for _ in 0..4 {
                    let soon = Duration::from_micros(random(&mut seed, 200));
                    let tries = random(&mut seed, 2) == 0;
                    let (mut reads, mut writes, mut locks) = (None, None, None);
                    // Two of three rounds are about the lock for reading and writing.
                    let kind = if round % 3 == 0 { 2 } else { random(&mut seed, 2) };
                    record.record(|| match (kind, tries) {
                        (0, true) => {
                            reads = shared.1.try_read().ok();
                            Access::Read(reads.is_some())
                        }
                        (0, false) => {
                            reads = shared.1.read_timeout(soon).ok();
                            if reads.is_some() { Access::Read(true) } else { Access::Nothing }
                        }
                        (1, true) => {
                            writes = shared.1.try_write().ok();
                            Access::Write(writes.is_some())
                        }
                        (1, false) => {
                            writes = shared.1.write_timeout(soon).ok();
                            if writes.is_some() { Access::Write(true) } else { Access::Nothing }
                        }
                        (_, true) => {
                            locks = shared.0.try_lock().ok();
                            Access::Write(locks.is_some())
                        }
                        _ => {
                            locks = Some(shared.0.lock().unwrap());
                            Access::Write(true)
                        }
                    });
                    dawdle(party, &mut seed);
                    if reads.is_some() {
                        record.record(|| {
                            drop(reads);
                            Access::ReadDone
                        });
                    } else if writes.is_some() || locks.is_some() {
                        record.record(|| {
                            drop((writes, locks));
                            Access::WriteDone
                        });
                    }
                }
            });
            check(Lock::default(), &recorder);
        });
    }
}

#[derive(Debug)]
enum Permits {
    Acquired(usize),
    Refused(usize),
    Released(usize),
    Nothing,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Store(usize);

impl Model for Store {
    type Event = Permits;

    fn apply<'a>(&mut self, event: &Permits, mut others: impl Iterator<Item = &'a Permits>) -> bool {
        match *event {
            Permits::Acquired(count) => match self.0.checked_sub(count) {
                Some(rest) => {
                    self.0 = rest;
                    true
                }
                None => false,
            },
            // Refused also where others wait, who come first.
            Permits::Refused(count) => {
                self.0 < count || others.any(|other| matches!(other, Permits::Acquired(_) | Permits::Nothing))
            }
            Permits::Released(count) => {
                self.0 += count;
                true
            }
            Permits::Nothing => true,
        }
    }
}

/// L15: a semaphore is a number that does not go below zero.
pub fn l15_permits_are_counted() {
    for round in 0..rounds() {
        duo(move || {
            let recorder = Recorder::new();
            let (record, semaphore) = (recorder.clone(), Arc::new(Semaphore::new(2)));
            parties::all(4, move |party, n| {
                let mut seed = round * 4 + n as u64;
                for _ in 0..5 {
                    let count = 1 + random(&mut seed, 2) as usize;
                    let soon = Duration::from_micros(random(&mut seed, 200));
                    let kind = random(&mut seed, 3);
                    let mut permit = None;
                    record.record(|| match kind {
                        0 => {
                            permit = semaphore.try_acquire(count).ok();
                            if permit.is_some() { Permits::Acquired(count) } else { Permits::Refused(count) }
                        }
                        1 => {
                            permit = semaphore.acquire_timeout(count, soon).ok();
                            if permit.is_some() { Permits::Acquired(count) } else { Permits::Nothing }
                        }
                        _ => {
                            permit = Some(match party {
                                Party::Future => block_on(semaphore.acquire_async(count)).unwrap(),
                                _ => semaphore.acquire_timeout(count, LONG).unwrap(),
                            });
                            Permits::Acquired(count)
                        }
                    });
                    dawdle(party, &mut seed);
                    if let Some(permit) = permit {
                        record.record(|| {
                            drop(permit);
                            Permits::Released(count)
                        });
                    }
                }
            });
            check(Store(2), &recorder);
        });
    }
}

/// The search itself: it finds orders, and that there is none.
pub fn l15_the_check_can_fail() {
    let event = |called, returned, event| Recorded { called, returned, event };
    let start = || Buffer { bound: Some(1), messages: VecDeque::new() };
    let overlapping = [event(0, 5, Message::Received(1)), event(1, 4, Message::Sent(1))];
    assert!(is_linear(start(), &overlapping));
    let twice =
        [event(0, 1, Message::Sent(1)), event(2, 5, Message::Received(1)), event(3, 4, Message::Received(1))];
    assert!(!is_linear(start(), &twice));
    let out_of_order = [event(0, 1, Message::Received(1)), event(2, 3, Message::Sent(1))];
    assert!(!is_linear(start(), &out_of_order));
    let too_many = [event(0, 1, Message::Sent(1)), event(2, 3, Message::Sent(2))];
    assert!(!is_linear(start(), &too_many));
    let lost = [event(0, 1, Message::Sent(1)), event(2, 3, Message::Empty)];
    assert!(!is_linear(start(), &lost));
}
