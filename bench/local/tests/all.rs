//! Every scenario on every engine that can be had, in quick mode: each is a process of its own, this one again.

use std::env;
use std::io::{self, Read};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use towpath_bench_local::{Options, available, engines, main as measure, scenarios, supports};

/// What this program is called with to measure, rather than to test.
const MEASURE: &str = "--measure";
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args = env::args().skip(1).collect::<Vec<_>>();
    if let [MEASURE, engine, scenario, workers] = *args.iter().map(String::as_str).collect::<Vec<_>>() {
        let workers = workers.parse().expect("this program calls itself with a number");
        return measure(Options { engine: engine.into(), scenario: scenario.into(), workers, quick: true });
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for engine in engines() {
        let there = available(engine.name);
        for scenario in scenarios().iter().filter(|scenario| supports(engine.name, scenario)) {
            for workers in if engine.scales { 1..=2 } else { 1..=1 } {
                let name = format!("{} {scenario} {workers}", engine.name);
                // Each of its stacks takes two mappings, and a process may have some 65 000.
                let beyond = (engine.name, *scenario) == ("may", "memory-1m");
                if there.is_err() || beyond {
                    println!("test {name} ... skipped");
                    skipped += 1;
                    continue;
                }
                match check(engine.name, scenario, workers) {
                    Ok(()) => passed += 1,
                    Err(why) => {
                        println!("test {name} ... FAILED: {why}");
                        failed += 1;
                    }
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(engine: &str, scenario: &str, workers: usize) -> io::Result<()> {
    let start = Instant::now();
    let mut child = Command::new(env::current_exe()?)
        .args([MEASURE, engine, scenario, &workers.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other("took too long"));
        }
        thread::sleep(Duration::from_millis(10));
    };
    let mut line = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut line)?;
    let right = status.success()
        && line.lines().count() == 1
        && line.trim_end().ends_with(r#""ok": true}"#)
        && !line.contains(r#""ops": 0"#)
        && line.contains(r#""rss_bytes": null"#) != scenario.starts_with("memory");
    if right { Ok(()) } else { Err(io::Error::other(format!("{status}: {line:?}"))) }
}
