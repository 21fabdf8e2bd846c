//! One measurement by hand: `local ENGINE SCENARIO WORKERS [quick]`.

use std::env;
use std::process::ExitCode;

use towpath_bench_local::{Options, main as measure};

fn main() -> ExitCode {
    let args = env::args().skip(1).collect::<Vec<_>>();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let (&[engine, scenario, workers], quick) = (match args.as_slice() {
        [first @ .., "quick"] => (first, true),
        all => (all, false),
    }) else {
        eprintln!("usage: local ENGINE SCENARIO WORKERS [quick]");
        return ExitCode::from(2);
    };
    let Ok(workers) = workers.parse() else {
        eprintln!("not a number of workers: {workers}");
        return ExitCode::from(2);
    };
    measure(Options { engine: engine.into(), scenario: scenario.into(), workers, quick })
}
