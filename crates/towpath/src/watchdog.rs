//! The watchdog: names tasks that hold their worker for long, and tells when nothing can happen any more.
//!
//! A worker says which task it runs, and how often it has switched, in two words that nobody waits for. A thread looks
//! at them a few times per threshold: the same task at the same count is one that neither waited nor yielded meanwhile.
//! Only then is the worker's thread asked where it is (`probe.rs`).
//!
//! If all workers sleep, nothing is queued and nothing is in flight, only other threads can wake a task. If that stays so
//! over a threshold, it is told, once: many programs have such threads, and then it means nothing.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::dump;
use crate::probe;
use crate::runtime::Shared;
use crate::thread::ThreadId;
use crate::warning::{Deadlock, Stall, Warning};

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

    pub(crate) fn name(&self, task: u64) -> Option<Box<str>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&task).cloned()
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
    let mut quiet = Quiet { switches: 0, since: None, told: false };
    let pause = (threshold / 4).max(Duration::from_millis(1));
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        for (worker, (seen, counters)) in workers.iter_mut().zip(&shared.counters).enumerate() {
            let (task, switches) = counters.running();
            if task == 0 || (task, switches) != (seen.task, seen.switches) {
                *seen = Seen { task, switches, since: Instant::now(), told: false };
            } else if !seen.told && seen.since.elapsed() >= threshold {
                seen.told = true;
                watched.stalls.fetch_add(1, Ordering::Relaxed);
                let addresses = probe::addresses(counters.thread());
                // If it has gone on meanwhile, they may be another task's.
                let addresses = addresses.filter(|_| counters.running() == (task, switches));
                let stall = Stall {
                    task: ThreadId::of(task),
                    name: watched.name(task),
                    worker,
                    held: threshold,
                    backtrace: addresses.map(|addresses| dump::resolve(&addresses)),
                };
                shared.hook.tell(&Warning::Stall(stall));
            }
        }
        if quiet.is_over(shared, threshold) {
            shared.hook.tell(&Warning::Deadlock(Deadlock { dump: dump::of_runtime(shared) }));
        }
    }
}

/// For how long nothing can have happened.
struct Quiet {
    switches: u64,
    since: Option<Instant>,
    told: bool,
}

impl Quiet {
    /// Whether nothing can happen, and did not for long; said once.
    fn is_over(&mut self, shared: &Shared, threshold: Duration) -> bool {
        if self.told || !shared.is_stuck() {
            self.since = None;
            return false;
        }
        let switches = shared.counters.iter().map(|counters| counters.running().1).sum();
        let since = *self.since.get_or_insert_with(Instant::now);
        if std::mem::replace(&mut self.switches, switches) != switches {
            self.since = Some(Instant::now());
        } else if since.elapsed() >= threshold {
            self.told = true;
        }
        self.told
    }
}
