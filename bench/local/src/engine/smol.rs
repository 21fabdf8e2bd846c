//! smol: one executor, run by as many threads as there are workers.

use std::future::{Future, pending};
use std::thread;
use std::time::Duration;

use smol::lock::Mutex;
use smol::{Executor, Task, Timer, block_on};

use crate::Options;
use crate::futures::{self, AsyncChannel, Runtime};
use crate::measure::Outcome;

static EXECUTOR: Executor<'static> = Executor::new();

pub fn run(options: &Options) -> Outcome {
    for _ in 1..options.workers {
        thread::spawn(|| block_on(EXECUTOR.run(pending::<()>())));
    }
    block_on(EXECUTOR.run(EXECUTOR.spawn(futures::run::<Smol>(options.clone()))))
}

struct Smol;

impl Runtime for Smol {
    type Handle<T: Send + 'static> = Task<T>;
    type Timer = Timer;
    type Mpsc = AsyncChannel;
    type Mpmc = AsyncChannel;
    type Mutex = Mutex<u64>;

    fn spawn<F>(future: F) -> Task<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        EXECUTOR.spawn(future)
    }
    fn detach(future: impl Future<Output = ()> + Send + 'static) {
        EXECUTOR.spawn(future).detach();
    }
    fn yield_now() -> impl Future<Output = ()> + Send {
        smol::future::yield_now()
    }
    fn sleep(time: Duration) -> Timer {
        Timer::after(time)
    }
    fn mutex() -> Mutex<u64> {
        Mutex::new(0)
    }
    async fn increment(mutex: &Mutex<u64>) -> u64 {
        let mut sum = mutex.lock().await;
        *sum += 1;
        *sum
    }
}
