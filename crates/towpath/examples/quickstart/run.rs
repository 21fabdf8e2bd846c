//! What the tasks of a run share: counts, the clients' rendezvous, and the watchdog.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use towpath::thread::{self, JoinHandle};

/// Errors beyond this number are counted, not printed.
const ERRORS_PRINTED: u64 = 5;
/// A run in which nothing has happened for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// Clients count in shares of their own, so that workers do not wait for each other.
const SHARES: usize = 16;

#[derive(Default)]
pub struct Run {
    /// Connected, or failed to.
    pub connected: Gate,
    /// Done with their messages.
    pub finished: Gate,
    deadline: OnceLock<Instant>,
    shares: [Mutex<Totals>; SHARES],
    /// The progress line is on the screen.
    in_line: AtomicBool,
}

/// What was counted.
#[derive(Clone)]
pub struct Totals {
    pub messages: u64,
    pub bytes: u64,
    pub errors: u64,
    pub mismatches: u64,
    /// Nanoseconds from a message's first byte out to its last byte in.
    pub latencies: Histogram<u64>,
}

impl Default for Totals {
    fn default() -> Totals {
        let latencies = Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("bounds that can be");
        Totals { messages: 0, bytes: 0, errors: 0, mismatches: 0, latencies }
    }
}

impl Run {
    /// When the clients are to stop. Before [`start`](Run::start) there is no time for anything.
    pub fn deadline(&self) -> Instant {
        *self.deadline.get().expect("clients are let go after the start")
    }

    pub fn start(&self, deadline: Instant) {
        self.deadline.set(deadline).expect("a run starts once");
    }

    /// Counts a message that has come back.
    pub fn message(&self, client: usize, len: usize, latency: Duration, intact: bool) {
        let mut share = self.share(client);
        share.messages += 1;
        share.bytes += len as u64;
        share.mismatches += u64::from(!intact);
        share.latencies.saturating_record(latency.as_nanos() as u64);
    }

    /// Counts an error, and prints the first few.
    pub fn error(&self, who: &str, error: &dyn std::fmt::Display) {
        let mut share = self.share(0);
        share.errors += 1;
        if share.errors <= ERRORS_PRINTED {
            self.end_progress();
            eprintln!("{who}: {error}");
        }
    }

    /// Counts the end of a task, unless it was a good one.
    pub fn check(&self, who: &str, end: thread::Result<io::Result<()>>) {
        match end {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.error(who, &error),
            Err(_) => self.error(who, &"panicked"),
        }
    }

    /// What has been counted so far.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for number in 0..SHARES {
            let share = self.share(number);
            sum.messages += share.messages;
            sum.bytes += share.bytes;
            sum.errors += share.errors;
            sum.mismatches += share.mismatches;
            sum.latencies.add(&share.latencies).expect("the same bounds");
        }
        sum
    }

    /// An ordinary lock serves: nobody waits for anything while holding it.
    fn share(&self, number: usize) -> MutexGuard<'_, Totals> {
        self.shares[number % SHARES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints how far it is: on a terminal, in one line.
    pub fn progress(&self, elapsed: Duration) {
        let Totals { messages, bytes, errors, mismatches, .. } = self.totals();
        let end = if io::stderr().is_terminal() { '\r' } else { '\n' };
        let (elapsed, megabytes) = (elapsed.as_secs_f64(), bytes / 1_000_000);
        let line = format!(
            "{elapsed:5.1} s  {messages:9} messages  {megabytes:6} MB  {errors} errors  {mismatches} mismatches"
        );
        let _ = write!(io::stderr(), "{line}{end}");
        self.in_line.store(end == '\r', Relaxed);
    }

    pub fn end_progress(&self) {
        if self.in_line.swap(false, Relaxed) {
            eprintln!();
        }
    }
}

/// Where the clients wait for each other, and then for the main task.
#[derive(Default)]
pub struct Gate {
    arrived: AtomicUsize,
}

impl Gate {
    /// Waits for the gate to open.
    pub fn arrive(&self) {
        self.arrived.fetch_add(1, Relaxed);
        thread::park();
    }

    /// Waits until so many have arrived.
    pub fn wait_for(&self, count: usize) {
        while !self.wait_at_most(count, Duration::MAX) {}
    }

    /// Waits until so many have arrived, or until some time has passed: false.
    pub fn wait_at_most(&self, count: usize, duration: Duration) -> bool {
        let start = Instant::now();
        while self.arrived.load(Relaxed) < count {
            if start.elapsed() >= duration {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Lets them all through.
    pub fn open(&self, clients: &[JoinHandle<()>]) {
        clients.iter().for_each(|client| client.thread().unpark());
    }
}

/// Ends the process if nothing moves any more: a thread of its own, which is there even if no task ever runs again.
pub fn watch(run: Arc<Run>) {
    std::thread::spawn(move || {
        let mut before = None;
        let mut since = Instant::now();
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = (
                run.connected.arrived.load(Relaxed),
                run.finished.arrived.load(Relaxed),
                run.totals().messages,
            );
            if before != Some(now) {
                (before, since) = (Some(now), Instant::now());
            } else if since.elapsed() >= STUCK {
                run.end_progress();
                let (connected, finished, messages) = now;
                eprintln!(
                    "quickstart: nothing has happened for {STUCK:?}: {connected} connected, {finished} finished, {messages} messages"
                );
                std::process::exit(1);
            }
        }
    });
}
