//! What all scenarios measure with.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::process;
use std::time::{Duration, Instant};

use crate::Options;

/// What a process found.
#[derive(Debug)]
pub struct Outcome {
    pub ops: u64,
    pub ns: u64,
    pub rss_bytes: Option<u64>,
    /// False where a checksum or a count was wrong.
    pub ok: bool,
}

impl Outcome {
    pub fn new(ops: u64, time: Duration, ok: bool) -> Outcome {
        Outcome { ops, ns: time.as_nanos() as u64, rss_bytes: None, ok }
    }

    /// Of something that the engine could not do.
    pub fn failed() -> Outcome {
        Outcome { ops: 0, ns: 0, rss_bytes: None, ok: false }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { ops, ns, rss_bytes, ok } = self;
        let rss = rss_bytes.map_or("null".into(), |bytes| bytes.to_string());
        write!(f, r#"{{"ops": {ops}, "ns": {ns}, "rss_bytes": {rss}, "ok": {ok}}}"#)
    }
}

/// Tells what `count` sleepers take that were all asleep after `time`, and ends the process: to wake them would take
/// long, and is not measured.
pub fn leave_asleep(count: u64, time: Duration, rss_before: u64) -> ! {
    let rss_bytes = Some(rss_anon().saturating_sub(rss_before));
    println!("{}", Outcome { rss_bytes, ..Outcome::new(count, time, true) });
    process::exit(0)
}

/// Repeats a round of a scenario: to warm up, then for long enough to be measured.
pub struct Meter {
    span: Duration,
    start: Instant,
    warming: bool,
    ops: u64,
    time: Duration,
    ok: bool,
}

impl Meter {
    pub fn new(options: &Options) -> Meter {
        let span = Duration::from_millis(options.scale(400));
        Meter { span, start: Instant::now(), warming: true, ops: 0, time: Duration::ZERO, ok: true }
    }

    /// Whether another round is wanted. The clock runs from one call to the next.
    pub fn more(&mut self) -> bool {
        self.time = self.start.elapsed();
        if self.warming && self.ops > 0 && self.time >= self.span / 4 {
            self.warming = false;
            self.ops = 0;
            self.start = Instant::now();
            return true;
        }
        self.warming || self.time < self.span
    }

    /// Counts a round.
    pub fn count(&mut self, ops: u64, ok: bool) {
        self.ops += ops;
        self.ok &= ok;
    }

    pub fn outcome(self) -> Outcome {
        Outcome::new(self.ops, self.time, self.ok)
    }
}

/// Knuth's linear congruential generator: random numbers where they need not be good, and work where it is to be
/// checked.
pub struct Lcg(pub u64);

const FACTOR: u64 = 6364136223846793005;
const SUMMAND: u64 = 1442695040888963407;

impl Lcg {
    fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The high bits are the good ones.
        ((u128::from(self.step()) * u128::from(limit)) >> 64) as u64
    }
}

/// How many steps an item of `fan-out-work` takes.
const STEPS: u32 = 10_000;

/// The work of one item of `fan-out-work`.
pub fn work(item: u64) -> u64 {
    // Unknown to the compiler, which would fold several steps into one.
    let (factor, summand) = (black_box(FACTOR), black_box(SUMMAND));
    (0..STEPS).fold(item, |state, _| state.wrapping_mul(factor).wrapping_add(summand))
}

/// The sum of [`work`] over the items below `items`: all steps together are one affine map.
pub fn work_sum(items: u64) -> u64 {
    let (mut factor, mut summand) = (1_u64, 0_u64);
    for _ in 0..STEPS {
        factor = factor.wrapping_mul(FACTOR);
        summand = summand.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
    }
    factor.wrapping_mul(plain_sum(items)).wrapping_add(summand.wrapping_mul(items))
}

/// The sum of the items below `items`.
pub fn plain_sum(items: u64) -> u64 {
    items * (items - 1) / 2
}

/// Times for timers, spread at random between `from` and `from + span`.
pub fn spread(from: Duration, span: Duration) -> impl Iterator<Item = Duration> {
    let mut lcg = Lcg(1);
    let span = span.as_nanos() as u64;
    std::iter::repeat_with(move || from + Duration::from_nanos(lcg.below(span)))
}

/// Anonymous memory of this process that is resident, in bytes.
pub fn rss_anon() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("/proc/self/status has RssAnon") * 1024
}

/// CPU time of this process so far, all threads, user and system.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long a task of a memory scenario sleeps: past the end.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// How long a memory scenario lets its last tasks fall asleep.
pub const SETTLE: Duration = Duration::from_millis(50);

/// How many tasks sleep in a memory scenario.
pub fn sleepers(options: &Options) -> u64 {
    options.scale(if options.scenario == "memory-1m" { 1_000_000 } else { 100_000 })
}

/// A round of a spawn or sleep scenario has this many tasks.
pub const ROUND: u64 = 10_000;
/// The depth of the tree of `spawn-tree`.
pub const TREE_DEPTH: u32 = 13;
/// The tasks of that tree.
pub const TREE_TASKS: u64 = (2 << TREE_DEPTH) - 1;
/// A round of `yield` has each task yield this often.
pub const YIELDS: u64 = 10_000;
/// A round of `ping-pong`, in messages.
pub const MESSAGES: u64 = 100_000;
/// A round of `fan-in` or `fan-out`, in items.
pub const ITEMS: u64 = 100_000;
/// A round of `fan-out-work`, in items.
pub const WORK_ITEMS: u64 = 10_000;
/// Producers of `fan-in`, consumers of `fan-out`.
pub const FAN: u64 = 1000;
/// Room of the queue of `fan-in` and `fan-out`.
pub const ROOM: usize = 256;
/// Tasks of `mutex`.
pub const LOCKERS: u64 = 4;
/// How often each of them locks, in a round.
pub const TURNS: u64 = 100_000;
/// Timers of `timers-cancel` and `timers-expire`.
pub const ARMED: u64 = 1_000_000;
/// The deadlines of `timers-cancel` begin after this.
pub const CANCEL_FROM: Duration = Duration::from_secs(60);
/// They are spread over this.
pub const CANCEL_SPAN: Duration = Duration::from_secs(3600);
/// The deadlines of `timers-expire` are spread over this, after as long again for arming them.
pub const EXPIRE_SPAN: Duration = Duration::from_secs(1);
