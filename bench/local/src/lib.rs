//! The scenarios that need no network: what a runtime costs in its own process.
//!
//! A scenario is written once for stackful tasks ([`blocking`]), once for futures ([`futures`]), and once for files
//! ([`files`]); an engine names its primitives.

mod blocking;
mod engine;
mod files;
mod futures;
mod measure;
mod timers;

use std::process::ExitCode;
use std::sync::LazyLock;

use measure::Outcome;

/// What one process is to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine without its number of workers: `towpath-uring`, `tokio`, `floor`.
    pub engine: String,
    pub scenario: String,
    /// 1 where the row's name ends in `-1`, else the number of cores.
    pub workers: usize,
    /// A tenth of the work.
    pub quick: bool,
}

impl Options {
    /// `full`, or a tenth of it.
    fn scale(&self, full: u64) -> u64 {
        if self.quick { full / 10 } else { full }
    }
}

const TASKS: &[&str] =
    &["spawn", "spawn-join", "spawn-tree", "yield", "sleep", "sleep-0", "memory-100k", "memory-1m"];
const CHANNELS: &[&str] = &["ping-pong-1", "ping-pong-100", "fan-in", "fan-out", "fan-out-work"];
const LOCKS: &[&str] = &["mutex"];
const TIMERS: &[&str] = &["timers-cancel", "timers-expire"];
const FILE_RANDOM: &[&str] = &["file-rand-1", "file-rand-32"];
const FILE_STREAM: &[&str] = &["file-seq", "file-copy"];

/// One way to do it.
pub struct Engine {
    pub name: &'static str,
    /// Whether its rows are `NAME-1` and `NAME-n`, or just `NAME`.
    pub scales: bool,
    scenarios: &'static [&'static [&'static str]],
    needs: Needs,
    run: fn(&Options) -> Outcome,
}

#[derive(Clone, Copy)]
enum Needs {
    Nothing,
    IoUring,
    Go,
}

static ENGINES: [Engine; 12] = [
    Engine {
        name: "floor",
        scales: false,
        scenarios: &[&["spawn", "yield", "memory-100k", "memory-1m"]],
        needs: Needs::Nothing,
        run: engine::floor::run,
    },
    Engine {
        name: "towpath-uring",
        scales: true,
        scenarios: &[TASKS, CHANNELS, LOCKS, TIMERS, FILE_RANDOM, FILE_STREAM],
        needs: Needs::IoUring,
        run: engine::towpath::run_uring,
    },
    Engine {
        name: "towpath-epoll",
        scales: true,
        scenarios: &[TASKS, CHANNELS, LOCKS, TIMERS, FILE_RANDOM, FILE_STREAM],
        needs: Needs::Nothing,
        run: engine::towpath::run_epoll,
    },
    Engine {
        name: "tokio",
        scales: true,
        scenarios: &[TASKS, CHANNELS, LOCKS, TIMERS, FILE_RANDOM, FILE_STREAM],
        needs: Needs::Nothing,
        run: engine::tokio::run,
    },
    Engine {
        name: "smol",
        scales: true,
        scenarios: &[TASKS, CHANNELS, LOCKS, TIMERS],
        needs: Needs::Nothing,
        run: engine::smol::run,
    },
    Engine {
        name: "may",
        scales: true,
        scenarios: &[TASKS, CHANNELS, LOCKS],
        needs: Needs::Nothing,
        run: engine::may::run,
    },
    Engine {
        name: "threads",
        scales: false,
        scenarios: &[&["spawn-join", "ping-pong-1", "ping-pong-100"], LOCKS],
        needs: Needs::Nothing,
        run: engine::threads::run,
    },
    Engine {
        name: "go",
        scales: true,
        scenarios: &[TASKS, CHANNELS, LOCKS, TIMERS, FILE_RANDOM, FILE_STREAM],
        needs: Needs::Go,
        run: engine::go::run,
    },
    Engine {
        name: "floor-uring",
        scales: false,
        scenarios: &[FILE_RANDOM],
        needs: Needs::IoUring,
        run: engine::floor_uring::run,
    },
    Engine {
        name: "pread",
        scales: false,
        scenarios: &[FILE_RANDOM, FILE_STREAM],
        needs: Needs::Nothing,
        run: engine::pread::run,
    },
    Engine {
        name: "monoio",
        scales: false,
        scenarios: &[FILE_RANDOM, FILE_STREAM],
        needs: Needs::IoUring,
        run: engine::monoio::run,
    },
    Engine {
        name: "compio",
        scales: false,
        scenarios: &[FILE_RANDOM, FILE_STREAM],
        needs: Needs::IoUring,
        run: engine::compio::run,
    },
];

/// All scenarios.
pub fn scenarios() -> &'static [&'static str] {
    static ALL: LazyLock<Vec<&str>> =
        LazyLock::new(|| [TASKS, CHANNELS, LOCKS, TIMERS, FILE_RANDOM, FILE_STREAM].concat());
    &ALL
}

/// All engines, whether they can be had here or not.
pub fn engines() -> &'static [Engine] {
    &ENGINES
}

fn find(engine: &str) -> Option<&'static Engine> {
    ENGINES.iter().find(|known| known.name == engine)
}

/// Whether an engine has what a scenario takes.
pub fn supports(engine: &str, scenario: &str) -> bool {
    find(engine).is_some_and(|engine| engine.scenarios.iter().any(|group| group.contains(&scenario)))
}

/// Whether an engine can be had on this system.
///
/// # Errors
/// Why it cannot.
pub fn available(engine: &str) -> Result<(), String> {
    let Some(known) = find(engine) else { return Err(format!("no engine is called {engine:?}")) };
    match known.needs {
        Needs::IoUring if !towpath_loop::BackendKind::IoUring.is_available() => {
            Err("this system refuses io_uring".into())
        }
        Needs::Go if !engine::go::is_installed() => {
            Err("not installed: needs Debian package golang-go".into())
        }
        _ => Ok(()),
    }
}

/// Measures once, and prints one line of JSON: `{"ops": …, "ns": …, "rss_bytes": …, "ok": …}`.
pub fn main(options: Options) -> ExitCode {
    let Options { engine, scenario, workers, .. } = &options;
    if !supports(engine, scenario) || *workers == 0 {
        eprintln!("engine {engine:?} has no scenario {scenario:?} with {workers} workers");
        return ExitCode::from(3);
    }
    if let Err(why) = available(engine) {
        eprintln!("{engine}: {why}");
        return ExitCode::from(3);
    }
    let known = find(engine).expect("it supports the scenario");
    println!("{}", (known.run)(&options));
    ExitCode::SUCCESS
}
