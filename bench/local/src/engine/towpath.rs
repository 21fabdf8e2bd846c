//! Towpath: tasks, channels and locks on its runtime, timers on its loop.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use towpath::sync::{Mutex, mpmc, mpsc};
use towpath::thread::{self, JoinHandle, Thread};
use towpath_loop::{BackendKind, Config, op};

use crate::blocking::{self, Channels, Locks, Queue, Tasks};
use crate::measure::*;
use crate::{CHANNELS, LOCKS, Options, TIMERS};

pub fn run_uring(options: &Options) -> Outcome {
    run(options, BackendKind::IoUring)
}

pub fn run_epoll(options: &Options) -> Outcome {
    run(options, BackendKind::Epoll)
}

fn run(options: &Options, backend: BackendKind) -> Outcome {
    if TIMERS.contains(&options.scenario.as_str()) {
        return timers(options, &Config::new().backend(backend));
    }
    let builder = towpath::Runtime::builder().workers(options.workers).backend(backend);
    // SAFETY: no crate that its tasks use keeps a stack frame's address in a thread-local.
    let runtime = unsafe { builder.build() }.expect("the backend was looked for");
    runtime.run(|| match options.scenario.as_str() {
        scenario if CHANNELS.contains(&scenario) => blocking::channels::<Towpath>(options),
        scenario if LOCKS.contains(&scenario) => blocking::mutex::<Towpath>(Meter::new(options)),
        scenario if scenario.starts_with("file") => {
            super::towpath_files::run(options).expect("files can be read and written")
        }
        _ => blocking::tasks::<Towpath>(options),
    })
}

struct Towpath;

impl Tasks for Towpath {
    type Handle<T: Send + 'static> = JoinHandle<T>;
    type Parked = Thread;

    fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        thread::spawn(f)
    }
    fn join<T: Send + 'static>(handle: JoinHandle<T>) -> T {
        handle.join().expect("no task panics")
    }
    #[inline(always)]
    fn yield_now() {
        thread::yield_now();
    }
    fn sleep(time: Duration) {
        thread::sleep(time);
    }
    fn current() -> Thread {
        thread::current()
    }
    fn park() {
        thread::park();
    }
    fn unpark(task: &Thread) {
        task.unpark();
    }
}

impl Channels for Towpath {
    type Mpsc = Mpsc;
    type Mpmc = Mpmc;
}

struct Mpsc;

impl Queue for Mpsc {
    type Sender = mpsc::SyncSender<u64>;
    type Receiver = mpsc::Receiver<u64>;

    fn bounded(room: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::sync_channel(room)
    }
    fn send(sender: &Self::Sender, item: u64) {
        sender.send(item).expect("the receiver lives");
    }
    fn recv(receiver: &Self::Receiver) -> Option<u64> {
        receiver.recv().ok()
    }
}

struct Mpmc;

impl Queue for Mpmc {
    type Sender = mpmc::Sender<u64>;
    type Receiver = mpmc::Receiver<u64>;

    fn bounded(room: usize) -> (Self::Sender, Self::Receiver) {
        mpmc::sync_channel(room)
    }
    fn send(sender: &Self::Sender, item: u64) {
        sender.send(item).expect("a receiver lives");
    }
    fn recv(receiver: &Self::Receiver) -> Option<u64> {
        receiver.recv().ok()
    }
}

impl Locks for Towpath {
    type Mutex = Mutex<u64>;

    fn mutex() -> Self::Mutex {
        Mutex::new(0)
    }
    fn increment(mutex: &Self::Mutex) -> u64 {
        let mut sum = mutex.lock().expect("nobody panics");
        *sum += 1;
        *sum
    }
}

fn timers(options: &Options, config: &Config) -> Outcome {
    let loop_ = config.build().expect("the backend was looked for");
    let count = options.scale(ARMED);
    if options.scenario == "timers-cancel" {
        let mut meter = Meter::new(options);
        while meter.more() {
            let times = spread(CANCEL_FROM, CANCEL_SPAN).take(count as usize);
            let timers = times.map(|time| loop_.submit(op::timer(time), |_, _| unreachable!("cancelled")));
            let timers = timers.collect::<Vec<_>>();
            let removed = timers.into_iter().filter(|&timer| loop_.remove(timer)).count() as u64;
            // Gives the removed ones' places back.
            loop_.run().expect("a loop runs");
            meter.count(count, removed == count);
        }
        return meter.outcome();
    }
    let expire = |count: u64, span: Duration| {
        let start = cpu_time();
        let fired = Rc::new(Cell::new(0));
        for time in spread(span, span).take(count as usize) {
            let fired = fired.clone();
            loop_.submit(op::timer(time), move |_, outcome| {
                fired.set(fired.get() + u64::from(outcome.is_ok()))
            });
        }
        loop_.run().expect("a loop runs");
        Outcome::new(count, cpu_time() - start, fired.get() == count)
    };
    let span = EXPIRE_SPAN.mul_f64(count as f64 / ARMED as f64);
    expire(count / 10, span / 10);
    expire(count, span)
}
