//! The scenarios for futures.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::Options;
use crate::measure::*;
use crate::timers;

/// What every such runtime has.
pub trait Runtime: 'static {
    type Handle<T: Send + 'static>: Future<Output = T> + Send + 'static;
    type Timer: Future + Send + 'static;
    type Mpsc: Queue;
    type Mpmc: Queue<Receiver: Clone>;
    type Mutex: Send + Sync + 'static;

    fn spawn<F>(future: F) -> Self::Handle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static;
    /// Spawns what nobody joins.
    fn detach(future: impl Future<Output = ()> + Send + 'static);
    fn yield_now() -> impl Future<Output = ()> + Send;
    fn sleep(time: Duration) -> Self::Timer;
    fn mutex() -> Self::Mutex;
    /// Adds one under the lock, and tells the sum.
    fn increment(mutex: &Self::Mutex) -> impl Future<Output = u64> + Send;
}

/// A queue of numbers that tasks wait at.
pub trait Queue: 'static {
    type Sender: Clone + Send + Sync + 'static;
    type Receiver: Send + Sync + 'static;

    fn bounded(room: usize) -> (Self::Sender, Self::Receiver);
    fn send(sender: &Self::Sender, item: u64) -> impl Future<Output = ()> + Send;
    /// `None` once all senders are gone.
    fn recv(receiver: &mut Self::Receiver) -> impl Future<Output = Option<u64>> + Send;
}

/// The queue of every runtime that has none with many receivers.
pub struct AsyncChannel;

impl Queue for AsyncChannel {
    type Sender = async_channel::Sender<u64>;
    type Receiver = async_channel::Receiver<u64>;

    fn bounded(room: usize) -> (Self::Sender, Self::Receiver) {
        async_channel::bounded(room)
    }
    async fn send(sender: &Self::Sender, item: u64) {
        sender.send(item).await.expect("the receivers outlive their senders");
    }
    async fn recv(receiver: &mut Self::Receiver) -> Option<u64> {
        receiver.recv().await.ok()
    }
}

/// Runs the scenario in the current task, which is one of the runtime.
pub async fn run<R: Runtime>(options: Options) -> Outcome {
    let meter = Meter::new(&options);
    match options.scenario.as_str() {
        "spawn" => spawn::<R>(meter).await,
        "spawn-join" => join_all::<R, _>(meter, async || ()).await,
        "spawn-tree" => spawn_tree::<R>(meter).await,
        "yield" => yield_now::<R>(meter, options.workers as u64).await,
        "sleep" => sleep::<R>(meter, Duration::from_millis(10)).await,
        "sleep-0" => sleep::<R>(meter, Duration::ZERO).await,
        "memory-100k" | "memory-1m" => memory::<R>(sleepers(&options)).await,
        "ping-pong-1" => ping_pong::<R, R::Mpsc>(meter, 1).await,
        "ping-pong-100" => ping_pong::<R, R::Mpsc>(meter, 100).await,
        "fan-in" => fan_in::<R, R::Mpsc>(meter).await,
        "fan-out" => fan_out::<R, R::Mpmc>(meter, ITEMS, plain_sum(ITEMS), |item| item).await,
        "fan-out-work" => fan_out::<R, R::Mpmc>(meter, WORK_ITEMS, work_sum(WORK_ITEMS), work).await,
        "mutex" => mutex::<R>(meter).await,
        "timers-cancel" => timers::cancel::<R>(meter, options.scale(ARMED)).await,
        "timers-expire" => {
            let count = options.scale(ARMED);
            let span = EXPIRE_SPAN.mul_f64(count as f64 / ARMED as f64);
            timers::expire::<R>(count / 10, span / 10).await;
            timers::expire::<R>(count, span).await
        }
        other => unreachable!("{other} is not a scenario of futures"),
    }
}

/// What is still to come to some point, and the task that waits for it.
pub struct Countdown {
    left: AtomicU64,
    waiter: Mutex<Option<Waker>>,
}

impl Countdown {
    pub fn new(left: u64) -> Arc<Countdown> {
        Arc::new(Countdown { left: left.into(), waiter: Mutex::default() })
    }

    pub fn hit(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(waiter) = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waiter.wake();
        }
    }

    pub async fn wait(&self) {
        poll_fn(|context| {
            let mut waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner);
            if self.left.load(Ordering::Acquire) == 0 {
                return Poll::Ready(());
            }
            *waiter = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// As the waker of a timer that fires once.
impl Wake for Countdown {
    fn wake(self: Arc<Self>) {
        self.hit();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.hit();
    }
}

async fn spawn<R: Runtime>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let countdown = Countdown::new(ROUND);
        for _ in 0..ROUND {
            let countdown = countdown.clone();
            R::detach(async move { countdown.hit() });
        }
        countdown.wait().await;
        meter.count(ROUND, true);
    }
    meter.outcome()
}

async fn join_all<R: Runtime, F>(mut meter: Meter, body: impl Fn() -> F + Send) -> Outcome
where
    F: Future<Output = ()> + Send + 'static,
{
    while meter.more() {
        let handles = (0..ROUND).map(|_| R::spawn(body())).collect::<Vec<_>>();
        let mut count = 0;
        for handle in handles {
            handle.await;
            count += 1;
        }
        meter.count(ROUND, count == ROUND);
    }
    meter.outcome()
}

async fn sleep<R: Runtime>(meter: Meter, time: Duration) -> Outcome {
    let body = move || async move {
        R::sleep(time).await;
    };
    join_all::<R, _>(meter, body).await
}

#[expect(clippy::manual_async_fn, reason = "the body of an `async fn` cannot spawn itself")]
fn node<R: Runtime>(depth: u32) -> impl Future<Output = u64> + Send {
    async move {
        if depth == 0 {
            return 1;
        }
        let children = [(); 2].map(|()| R::spawn(node::<R>(depth - 1)));
        let mut count = 1;
        for child in children {
            count += child.await;
        }
        count
    }
}

async fn spawn_tree<R: Runtime>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let count = R::spawn(node::<R>(TREE_DEPTH)).await;
        meter.count(TREE_TASKS, count == TREE_TASKS);
    }
    meter.outcome()
}

async fn yield_now<R: Runtime>(mut meter: Meter, workers: u64) -> Outcome {
    while meter.more() {
        let tasks = (0..2 * workers).map(|_| {
            R::spawn(async {
                for _ in 0..YIELDS {
                    R::yield_now().await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await;
        }
        meter.count(2 * workers * YIELDS, true);
    }
    meter.outcome()
}

async fn memory<R: Runtime>(count: u64) -> ! {
    let before = rss_anon();
    let start = Instant::now();
    let asleep = Countdown::new(count);
    for _ in 0..count {
        let asleep = asleep.clone();
        R::detach(async move {
            asleep.hit();
            // It does not keep the counter.
            drop(asleep);
            R::sleep(FOREVER).await;
        });
    }
    asleep.wait().await;
    let time = start.elapsed();
    R::sleep(SETTLE).await;
    leave_asleep(count, time, before)
}

async fn ping_pong<R: Runtime, Q: Queue>(mut meter: Meter, pairs: u64) -> Outcome {
    let trips = MESSAGES / pairs / 2;
    while meter.more() {
        let sides = (0..pairs).flat_map(|_| {
            let (ping, mut pinged) = Q::bounded(1);
            let (pong, mut ponged) = Q::bounded(1);
            let server = async move {
                let mut sum = 0;
                while let Some(item) = Q::recv(&mut pinged).await {
                    Q::send(&pong, item).await;
                    sum += item;
                }
                sum
            };
            let client = async move {
                let mut sum = 0;
                for item in 0..trips {
                    Q::send(&ping, item).await;
                    sum += Q::recv(&mut ponged).await.expect("the other side answers");
                }
                sum
            };
            [R::spawn(server), R::spawn(client)]
        });
        let mut sum = 0;
        for side in sides.collect::<Vec<_>>() {
            sum += side.await;
        }
        meter.count(MESSAGES, sum == 2 * pairs * plain_sum(trips));
    }
    meter.outcome()
}

/// Receives until all senders are gone, and adds up what `work` makes of the items.
async fn consume<Q: Queue>(mut receiver: Q::Receiver, work: fn(u64) -> u64) -> u64 {
    let mut sum = 0_u64;
    while let Some(item) = Q::recv(&mut receiver).await {
        sum = sum.wrapping_add(work(item));
    }
    sum
}

async fn fan_in<R: Runtime, Q: Queue>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let (sender, receiver) = Q::bounded(ROOM);
        let consumer = R::spawn(consume::<Q>(receiver, |item| item));
        for producer in 0..FAN {
            let sender = sender.clone();
            R::detach(async move {
                for item in (producer..ITEMS).step_by(FAN as usize) {
                    Q::send(&sender, item).await;
                }
            });
        }
        drop(sender);
        meter.count(ITEMS, consumer.await == plain_sum(ITEMS));
    }
    meter.outcome()
}

async fn fan_out<R, Q>(mut meter: Meter, items: u64, sum: u64, work: fn(u64) -> u64) -> Outcome
where
    R: Runtime,
    Q: Queue<Receiver: Clone>,
{
    while meter.more() {
        let (sender, receiver) = Q::bounded(ROOM);
        let consumers = (0..FAN).map(|_| R::spawn(consume::<Q>(receiver.clone(), work)));
        let consumers = consumers.collect::<Vec<_>>();
        for item in 0..items {
            Q::send(&sender, item).await;
        }
        drop(sender);
        let mut total = 0_u64;
        for consumer in consumers {
            total = total.wrapping_add(consumer.await);
        }
        meter.count(items, total == sum);
    }
    meter.outcome()
}

async fn mutex<R: Runtime>(mut meter: Meter) -> Outcome {
    while meter.more() {
        let mutex = Arc::new(R::mutex());
        let tasks = (0..LOCKERS).map(|_| {
            let mutex = mutex.clone();
            R::spawn(async move {
                let mut sum = 0;
                for _ in 0..TURNS {
                    sum = R::increment(&mutex).await;
                }
                sum
            })
        });
        let mut last = 0;
        for task in tasks.collect::<Vec<_>>() {
            last = last.max(task.await);
        }
        meter.count(LOCKERS * TURNS, last == LOCKERS * TURNS);
    }
    meter.outcome()
}
