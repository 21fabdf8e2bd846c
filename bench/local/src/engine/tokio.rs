//! Tokio. Files go to its blocking pool as with `tokio::fs`, but without the copy that it makes of each buffer.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{self, JoinHandle};
use tokio::time::{self, Sleep};

use crate::Options;
use crate::files::{self, Files};
use crate::futures::{self, AsyncChannel, Queue, Runtime};
use crate::measure::Outcome;

pub fn run(options: &Options) -> Outcome {
    let builder = match options.workers {
        1 => Builder::new_current_thread().enable_time().build(),
        n => Builder::new_multi_thread().worker_threads(n).enable_time().build(),
    };
    let runtime = builder.expect("the system has threads");
    let options = options.clone();
    runtime.block_on(async {
        let root = if options.scenario.starts_with("file") {
            tokio::spawn(files::run::<Tokio>(options))
        } else if options.scenario.starts_with("timers") {
            // Without a budget, which would have most timers of one poll not armed.
            tokio::spawn(task::coop::unconstrained(futures::run::<Tokio>(options)))
        } else {
            tokio::spawn(futures::run::<Tokio>(options))
        };
        root.await.expect("no task panics")
    })
}

struct Tokio;

/// A task that does not panic.
struct Handle<T>(JoinHandle<T>);

impl<T> Future for Handle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context).map(|result| result.expect("no task panics"))
    }
}

impl Runtime for Tokio {
    type Handle<T: Send + 'static> = Handle<T>;
    type Timer = Sleep;
    type Mpsc = Mpsc;
    type Mpmc = AsyncChannel;
    type Mutex = Mutex<u64>;

    fn spawn<F>(future: F) -> Handle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        Handle(tokio::spawn(future))
    }
    fn detach(future: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(future));
    }
    fn yield_now() -> impl Future<Output = ()> + Send {
        task::yield_now()
    }
    fn sleep(time: Duration) -> Sleep {
        time::sleep(time)
    }
    fn mutex() -> Mutex<u64> {
        Mutex::default()
    }
    async fn increment(mutex: &Mutex<u64>) -> u64 {
        let mut sum = mutex.lock().await;
        *sum += 1;
        *sum
    }
}

struct Mpsc;

impl Queue for Mpsc {
    type Sender = mpsc::Sender<u64>;
    type Receiver = mpsc::Receiver<u64>;

    fn bounded(room: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::channel(room)
    }
    async fn send(sender: &Self::Sender, item: u64) {
        sender.send(item).await.expect("the receiver outlives its senders");
    }
    async fn recv(receiver: &mut Self::Receiver) -> Option<u64> {
        receiver.recv().await
    }
}

impl Files for Tokio {
    type File = Arc<File>;
    type Handle = Handle<bool>;

    fn file(file: File) -> Arc<File> {
        Arc::new(file)
    }
    async fn read(file: &Arc<File>, mut buf: Vec<u8>, at: u64) -> (io::Result<()>, Vec<u8>) {
        let file = file.clone();
        let read = move || (file.read_exact_at(&mut buf, at), buf);
        task::spawn_blocking(read).await.expect("reading does not panic")
    }
    async fn write(file: &Arc<File>, buf: Vec<u8>, at: u64) -> (io::Result<()>, Vec<u8>) {
        let file = file.clone();
        let write = move || (file.write_all_at(&buf, at), buf);
        task::spawn_blocking(write).await.expect("writing does not panic")
    }
    fn lane(file: Arc<File>, lane: files::Lane) -> Handle<bool> {
        Handle(tokio::spawn(lane.run::<Tokio>(file)))
    }
}
