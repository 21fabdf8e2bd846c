//! Threads of the system, where ten thousand of them make sense.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crate::Options;
use crate::blocking::{self, Locks, Queue, Tasks};
use crate::measure::{Meter, Outcome};

pub fn run(options: &Options) -> Outcome {
    let meter = Meter::new(options);
    match options.scenario.as_str() {
        "ping-pong-1" => blocking::ping_pong::<Threads, SyncChannel>(meter, 1),
        "ping-pong-100" => blocking::ping_pong::<Threads, SyncChannel>(meter, 100),
        "mutex" => blocking::mutex::<Threads>(meter),
        _ => blocking::tasks::<Threads>(options),
    }
}

struct Threads;

impl Tasks for Threads {
    type Handle<T: Send + 'static> = JoinHandle<T>;
    type Parked = Thread;

    fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        thread::spawn(f)
    }
    fn join<T: Send + 'static>(handle: JoinHandle<T>) -> T {
        handle.join().expect("no thread panics")
    }
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
    fn unpark(thread: &Thread) {
        thread.unpark();
    }
}

impl Locks for Threads {
    type Mutex = Mutex<u64>;

    fn mutex() -> Mutex<u64> {
        Mutex::default()
    }
    fn increment(mutex: &Mutex<u64>) -> u64 {
        let mut sum = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        *sum += 1;
        *sum
    }
}

struct SyncChannel;

impl Queue for SyncChannel {
    type Sender = SyncSender<u64>;
    type Receiver = Receiver<u64>;

    fn bounded(room: usize) -> (SyncSender<u64>, Receiver<u64>) {
        sync_channel(room)
    }
    fn send(sender: &SyncSender<u64>, item: u64) {
        sender.send(item).expect("the receiver outlives its senders");
    }
    fn recv(receiver: &Receiver<u64>) -> Option<u64> {
        receiver.recv().ok()
    }
}
