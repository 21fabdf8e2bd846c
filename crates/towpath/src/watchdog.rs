//! The watchdog: names tasks that hold their worker for long.
//!
//! A worker says which task it runs, and how often it has switched, in two words that nobody waits for. A thread looks
//! at them a few times per threshold: the same task at the same count is one that neither waited nor yielded meanwhile.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::runtime::Shared;

/// What the watchdog and the workers share.
#[derive(Default)]
pub(crate) struct Watched {
    /// The names of the started tasks that have one.
    names: Mutex<HashMap<u64, Box<str>>>,
    pub(crate) stalls: AtomicU64,
}

impl Watched {
    pub(crate) fn started(&self, task: u64, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(task, name.into());
    }

    pub(crate) fn ended(&self, task: u64) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&task);
    }

    fn label(&self, task: u64) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&task).map_or_else(|| format!("task {task}"), |name| format!("task {task} ({name})"))
    }
}

/// Its thread, which ends with this.
pub(crate) struct Watchdog {
    /// Never sent on: that it is gone is the message.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Looks after the workers of `shared`.
    ///
    /// # Errors
    /// The system's, if it refuses a thread.
    pub(crate) fn start(
        shared: Arc<Shared>,
        watched: Arc<Watched>,
        threshold: Duration,
    ) -> io::Result<Watchdog> {
        let (stop, stopped) = mpsc::channel();
        let builder = thread::Builder::new().name("towpath-watchdog".into());
        let thread = builder.spawn(move || watch(&shared, &watched, threshold, &stopped))?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panics only where stderr does.
            let _ = thread.join();
        }
    }
}

/// What one worker was last seen doing.
#[derive(Clone, Copy)]
struct Seen {
    task: u64,
    switches: u64,
    since: Instant,
    told: bool,
}

fn watch(shared: &Shared, watched: &Watched, threshold: Duration, stopped: &mpsc::Receiver<()>) {
    let nothing = Seen { task: 0, switches: 0, since: Instant::now(), told: false };
    let mut workers = vec![nothing; shared.counters.len()];
    let pause = (threshold / 4).max(Duration::from_millis(1));
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        for (index, (seen, counters)) in workers.iter_mut().zip(&shared.counters).enumerate() {
            let (task, switches) = counters.running();
            if task == 0 || (task, switches) != (seen.task, seen.switches) {
                *seen = Seen { task, switches, since: Instant::now(), told: false };
            } else if !seen.told && seen.since.elapsed() >= threshold {
                seen.told = true;
                watched.stalls.fetch_add(1, Ordering::Relaxed);
                eprintln!(
                    "towpath: {} has held worker {index} for {threshold:?} and more, so that nothing else runs there: \
                     what blocks or computes for long belongs into `towpath::blocking`",
                    watched.label(task)
                );
            }
        }
    }
}
