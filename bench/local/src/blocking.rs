//! The scenarios for tasks that block: coroutines with stacks, and threads.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Options;
use crate::measure::*;

/// What every such runtime has.
pub trait Tasks: 'static {
    type Handle<T: Send + 'static>;
    /// A task, to be unparked.
    type Parked: Send + Sync + 'static;

    fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Self::Handle<T>;
    fn join<T: Send + 'static>(handle: Self::Handle<T>) -> T;
    fn yield_now();
    fn sleep(time: Duration);
    fn current() -> Self::Parked;
    fn park();
    fn unpark(task: &Self::Parked);
}

/// A queue of numbers that tasks wait at.
pub trait Queue: 'static {
    type Sender: Clone + Send + 'static;
    type Receiver: Send + 'static;

    fn bounded(room: usize) -> (Self::Sender, Self::Receiver);
    fn send(sender: &Self::Sender, item: u64);
    /// `None` once all senders are gone.
    fn recv(receiver: &Self::Receiver) -> Option<u64>;
}

/// A runtime with queues.
pub trait Channels: Tasks {
    type Mpsc: Queue;
    type Mpmc: Queue<Receiver: Clone>;
}

/// A runtime with a lock.
pub trait Locks: Tasks {
    type Mutex: Send + Sync + 'static;

    fn mutex() -> Self::Mutex;
    /// Adds one under the lock, and tells the sum.
    fn increment(mutex: &Self::Mutex) -> u64;
}

/// Runs the scenario in the current task, which is one of the runtime.
pub fn tasks<R: Tasks>(options: &Options) -> Outcome {
    let meter = Meter::new(options);
    match options.scenario.as_str() {
        "spawn" => spawn::<R>(meter),
        "spawn-join" => join_all::<R>(meter, || ()),
        "spawn-tree" => spawn_tree::<R>(meter),
        "yield" => yield_now::<R>(meter, options.workers as u64),
        "sleep" => join_all::<R>(meter, || R::sleep(Duration::from_millis(10))),
        "sleep-0" => join_all::<R>(meter, || R::sleep(Duration::ZERO)),
        "memory-100k" | "memory-1m" => memory::<R>(sleepers(options)),
        other => unreachable!("{other} is not a scenario of tasks"),
    }
}

/// As [`tasks`].
pub fn channels<R: Channels>(options: &Options) -> Outcome {
    let meter = Meter::new(options);
    match options.scenario.as_str() {
        "ping-pong-1" => ping_pong::<R, R::Mpsc>(meter, 1),
        "ping-pong-100" => ping_pong::<R, R::Mpsc>(meter, 100),
        "fan-in" => fan_in::<R, R::Mpsc>(meter),
        "fan-out" => fan_out::<R, R::Mpmc>(meter, ITEMS, plain_sum(ITEMS), |item| item),
        "fan-out-work" => fan_out::<R, R::Mpmc>(meter, WORK_ITEMS, work_sum(WORK_ITEMS), work),
        other => unreachable!("{other} is not a scenario of channels"),
    }
}

/// Tasks that are still to come to some point, and the task that waits for them.
struct Countdown<R: Tasks> {
    left: AtomicU64,
    waiter: R::Parked,
    runtime: PhantomData<fn(R)>,
}

impl<R: Tasks> Countdown<R> {
    /// For the current task to wait.
    fn new(left: u64) -> Arc<Self> {
        Arc::new(Countdown { left: left.into(), waiter: R::current(), runtime: PhantomData })
    }

    fn hit(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            R::unpark(&self.waiter);
        }
    }

    fn wait(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            R::park();
        }
    }
}

fn spawn<R: Tasks>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let countdown = Countdown::<R>::new(ROUND);
        for _ in 0..ROUND {
            let countdown = countdown.clone();
            drop(R::spawn(move || countdown.hit()));
        }
        countdown.wait();
        meter.count(ROUND, true);
    }
    meter.outcome()
}

fn join_all<R: Tasks>(mut meter: Meter, body: fn()) -> Outcome {
    while meter.more() {
        let handles = (0..ROUND).map(|_| R::spawn(body)).collect::<Vec<_>>();
        let count = handles.into_iter().map(R::join).count() as u64;
        meter.count(ROUND, count == ROUND);
    }
    meter.outcome()
}

fn spawn_tree<R: Tasks>(mut meter: Meter) -> Outcome {
    fn node<R: Tasks>(depth: u32) -> u64 {
        if depth == 0 {
            return 1;
        }
        let children = [(); 2].map(|()| R::spawn(move || node::<R>(depth - 1)));
        1 + children.into_iter().map(R::join).sum::<u64>()
    }
    while meter.more() {
        let count = R::join(R::spawn(|| node::<R>(TREE_DEPTH)));
        meter.count(TREE_TASKS, count == TREE_TASKS);
    }
    meter.outcome()
}

fn yield_now<R: Tasks>(mut meter: Meter, workers: u64) -> Outcome {
    while meter.more() {
        let body = || (0..YIELDS).for_each(|_| R::yield_now());
        let handles = (0..2 * workers).map(|_| R::spawn(body)).collect::<Vec<_>>();
        handles.into_iter().for_each(R::join);
        meter.count(2 * workers * YIELDS, true);
    }
    meter.outcome()
}

fn memory<R: Tasks>(count: u64) -> ! {
    let before = rss_anon();
    let start = Instant::now();
    let asleep = Countdown::<R>::new(count);
    for _ in 0..count {
        let asleep = asleep.clone();
        drop(R::spawn(move || {
            asleep.hit();
            // It does not keep the counter.
            drop(asleep);
            R::sleep(FOREVER);
        }));
    }
    asleep.wait();
    let time = start.elapsed();
    R::sleep(SETTLE);
    leave_asleep(count, time, before)
}

/// `pairs` of tasks that send each other messages, one of a pair at a time.
pub fn ping_pong<R: Tasks, Q: Queue>(mut meter: Meter, pairs: u64) -> Outcome {
    let trips = MESSAGES / pairs / 2;
    while meter.more() {
        let sides = (0..pairs).flat_map(|_| {
            let (ping, pinged) = Q::bounded(1);
            let (pong, ponged) = Q::bounded(1);
            let server = move || {
                let mut sum = 0;
                while let Some(item) = Q::recv(&pinged) {
                    Q::send(&pong, item);
                    sum += item;
                }
                sum
            };
            let client = move || {
                let mut sum = 0;
                for item in 0..trips {
                    Q::send(&ping, item);
                    sum += Q::recv(&ponged).expect("the other side answers");
                }
                sum
            };
            [R::spawn(server), R::spawn(client)]
        });
        let sides = sides.collect::<Vec<_>>();
        let sum = sides.into_iter().map(R::join).sum::<u64>();
        meter.count(MESSAGES, sum == 2 * pairs * plain_sum(trips));
    }
    meter.outcome()
}

fn fan_in<R: Tasks, Q: Queue>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let (sender, receiver) = Q::bounded(ROOM);
        let consumer = R::spawn(move || std::iter::from_fn(|| Q::recv(&receiver)).sum::<u64>());
        for producer in 0..FAN {
            let sender = sender.clone();
            drop(R::spawn(move || {
                (producer..ITEMS).step_by(FAN as usize).for_each(|item| Q::send(&sender, item));
            }));
        }
        drop(sender);
        meter.count(ITEMS, R::join(consumer) == plain_sum(ITEMS));
    }
    meter.outcome()
}

fn fan_out<R, Q>(mut meter: Meter, items: u64, sum: u64, work: fn(u64) -> u64) -> Outcome
where
    R: Tasks,
    Q: Queue<Receiver: Clone>,
{
    while meter.more() {
        let (sender, receiver) = Q::bounded(ROOM);
        let consumers = (0..FAN).map(|_| {
            let receiver = receiver.clone();
            R::spawn(move || std::iter::from_fn(|| Q::recv(&receiver)).map(work).fold(0, u64::wrapping_add))
        });
        let consumers = consumers.collect::<Vec<_>>();
        (0..items).for_each(|item| Q::send(&sender, item));
        drop(sender);
        let total = consumers.into_iter().map(R::join).fold(0, u64::wrapping_add);
        meter.count(items, total == sum);
    }
    meter.outcome()
}

pub fn mutex<R: Locks>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let mutex = Arc::new(R::mutex());
        let tasks = (0..LOCKERS).map(|_| {
            let mutex = mutex.clone();
            R::spawn(move || (0..TURNS).fold(0, |_, _| R::increment(&mutex)))
        });
        let tasks = tasks.collect::<Vec<_>>();
        let last = tasks.into_iter().map(R::join).max();
        meter.count(LOCKERS * TURNS, last == Some(LOCKERS * TURNS));
    }
    meter.outcome()
}
