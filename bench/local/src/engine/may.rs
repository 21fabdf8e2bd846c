//! The other stackful runtime. Its channels have no bound, so that `fan-in` and `fan-out` never wait for room.

use std::sync::PoisonError;
use std::time::Duration;

use may::coroutine::{self, Coroutine, JoinHandle};
use may::sync::{Mutex, mpmc, mpsc};

use crate::blocking::{self, Channels, Locks, Queue, Tasks};
use crate::measure::{Meter, Outcome};
use crate::{CHANNELS, LOCKS, Options};

/// Coroutines that it keeps: as many as a round of any scenario has at once. With its default, most of a round would
/// map their stacks anew, at four times the cost.
const POOL: usize = 16_384;
/// The stack of a sleeper in words of eight bytes, a quarter of the default.
const SMALL_STACK: usize = 0x400;
/// The stack of the first task, on which a panic is printed.
const ROOT_STACK: usize = 0x8000;

pub fn run(options: &Options) -> Outcome {
    let config = may::config();
    config.set_workers(options.workers);
    if options.scenario.starts_with("memory") {
        // The pool is filled at the start, and would be there before the sleepers are counted.
        config.set_pool_capacity(1).set_stack_size(SMALL_STACK);
    } else {
        config.set_pool_capacity(POOL);
    }
    let root = options.clone();
    let root = move || match root.scenario.as_str() {
        scenario if CHANNELS.contains(&scenario) => blocking::channels::<May>(&root),
        scenario if LOCKS.contains(&scenario) => blocking::mutex::<May>(Meter::new(&root)),
        _ => blocking::tasks::<May>(&root),
    };
    let builder = coroutine::Builder::new().stack_size(ROOT_STACK);
    // SAFETY: as in `May::spawn`, and it has more stack.
    let root = unsafe { builder.spawn(root) }.expect("there is room for one stack");
    // It panics where the system refuses it a stack, and the hook has told why.
    root.join().unwrap_or_else(|_| Outcome::failed())
}

struct May;

impl Tasks for May {
    type Handle<T: Send + 'static> = JoinHandle<T>;
    type Parked = Coroutine;

    fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        // SAFETY: the scenarios use no thread-locals across a wait, and little stack.
        unsafe { coroutine::spawn(f) }
    }
    fn join<T: Send + 'static>(handle: JoinHandle<T>) -> T {
        handle.join().expect("no task panics")
    }
    #[inline(always)]
    fn yield_now() {
        coroutine::yield_now();
    }
    fn sleep(time: Duration) {
        coroutine::sleep(time);
    }
    fn current() -> Coroutine {
        coroutine::current()
    }
    fn park() {
        coroutine::park();
    }
    fn unpark(task: &Coroutine) {
        task.unpark();
    }
}

impl Channels for May {
    type Mpsc = Mpsc;
    type Mpmc = Mpmc;
}

impl Locks for May {
    type Mutex = Mutex<u64>;

    fn mutex() -> Mutex<u64> {
        Mutex::new(0)
    }
    fn increment(mutex: &Mutex<u64>) -> u64 {
        let mut sum = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        *sum += 1;
        *sum
    }
}

struct Mpsc;

impl Queue for Mpsc {
    type Sender = mpsc::Sender<u64>;
    type Receiver = mpsc::Receiver<u64>;

    fn bounded(_room: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::channel()
    }
    fn send(sender: &Self::Sender, item: u64) {
        sender.send(item).expect("the receiver outlives its senders");
    }
    fn recv(receiver: &Self::Receiver) -> Option<u64> {
        receiver.recv().ok()
    }
}

struct Mpmc;

impl Queue for Mpmc {
    type Sender = mpmc::Sender<u64>;
    type Receiver = mpmc::Receiver<u64>;

    fn bounded(_room: usize) -> (Self::Sender, Self::Receiver) {
        mpmc::channel()
    }
    fn send(sender: &Self::Sender, item: u64) {
        sender.send(item).expect("the receivers outlive their sender");
    }
    fn recv(receiver: &Self::Receiver) -> Option<u64> {
        receiver.recv().ok()
    }
}
