//! Rounds of scenarios of rows, each run in a fresh process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Deserialize;

use crate::cli;
use crate::load::{self, Extent, Sample, Target};
use crate::plan::{self, IDLE_FRESH, Kind, Row, Scenario};
use crate::process::{Launch, Process};
use crate::report::{self, Entry};
use crate::sys::{self, Cpus};
use crate::syscalls;

/// How long a process may measure itself.
const LOCAL: Duration = Duration::from_secs(120);

/// What stays the same from run to run.
struct Bench {
    cpus: Cpus,
    quick: bool,
    timed: Extent,
    /// Of the runs in which system calls are counted.
    counted: Extent,
    tracepoint: Option<u64>,
}

/// Measures and reports. False when anything went wrong on the way.
pub fn run(options: &cli::Run) -> Result<bool, String> {
    let scenarios = plan::choose_scenarios(&options.scenarios)?;
    let rows = available(plan::choose_rows(&options.engines)?);
    let bench = Bench::new(options.quick).map_err(|error| error.to_string())?;
    let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 9 });
    let plan: Vec<(Scenario, Vec<Row>)> = scenarios
        .into_iter()
        .map(|scenario| (scenario, rows.iter().filter(|row| row.supports(&scenario)).cloned().collect()))
        .collect();
    let steps = rounds * plan.iter().map(|(_, rows)| rows.len()).sum::<usize>();
    if steps == 0 {
        return Err("none of these engines has any of these scenarios".into());
    }
    let mut progress = Progress { steps, step: 0, terminal: io::stderr().is_terminal() };
    let mut entries = Entries::default();
    for round in 0..rounds {
        for (scenario, rows) in &plan {
            for index in 0..rows.len() {
                // Each engine comes first once, so that none always has what the one before it leaves behind.
                let row = &rows[(index + round) % rows.len()];
                progress.show(format_args!("round {}/{rounds}  {}  {}", round + 1, scenario.name, row.name));
                let result = bench.measure(scenario, row, false);
                if let Err(error) = &result {
                    progress.say(format_args!("FAILED: {} {}: {error}", scenario.name, row.name));
                }
                entries.add(scenario, row, result);
                if round == 0 && bench.tracepoint.is_some() && scenario.kind != Kind::Local {
                    // In a run of its own: a traced system call takes longer.
                    match bench.measure(scenario, row, true) {
                        Ok(samples) => entries.count(scenario, row, &samples),
                        Err(error) => entries.add(scenario, row, Err(error)),
                    }
                }
            }
        }
    }
    progress.finish();
    let entries = entries.sorted(&plan);
    let ok = entries.iter().all(|entry| entry.failures.is_empty());
    report::write(options, &entries)?;
    Ok(ok)
}

/// Those that can be had here. Says which cannot.
fn available(rows: Vec<Row>) -> Vec<Row> {
    let mut missing: BTreeMap<&str, String> = BTreeMap::new();
    let (rows, _): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| match row.available() {
        Ok(()) => true,
        Err(why) => {
            missing.insert(row.engine, why);
            false
        }
    });
    for (engine, why) in missing {
        eprintln!("{engine}: {why}; left out");
    }
    rows
}

impl Bench {
    fn new(quick: bool) -> io::Result<Bench> {
        let files = sys::raise_nofile()?;
        let cpus = Cpus::current()?;
        if cpus.len() < 2 {
            eprintln!("one CPU: nothing is pinned, and the driver takes its time from the servers");
        }
        let tracepoint =
            syscalls::tracepoint().inspect_err(|why| eprintln!("system calls are not counted: {why}")).ok();
        let millis = Duration::from_millis;
        let counted =
            Extent { warm_up: millis(100), window: millis(300), bulk: 250_000_000, idle: millis(500), files };
        let timed = if quick {
            Extent { bulk: 500_000_000, ..counted }
        } else {
            Extent {
                warm_up: millis(300),
                window: millis(1500),
                bulk: 4_000_000_000,
                idle: millis(2000),
                files,
            }
        };
        Ok(Bench { cpus, quick, timed, counted, tracepoint })
    }

    /// One run in a fresh process.
    fn measure(&self, scenario: &Scenario, row: &Row, count: bool) -> Result<Vec<Sample>, String> {
        let pin = !row.many && self.cpus.len() >= 2;
        let workers = if row.many { self.cpus.len() } else { 1 };
        let mut args: Vec<OsString> = match scenario.kind {
            Kind::Server(service, _) => vec!["serve".into(), row.engine.into(), service.name().into()],
            Kind::Local => vec!["local".into(), row.engine.into(), scenario.name.into()],
        };
        args.extend(["--workers".into(), workers.to_string().into()]);
        if self.quick && scenario.kind == Kind::Local {
            args.push("--quick".into());
        }
        let launch = Launch {
            cpu: self.cpus.get(0).filter(|_| pin),
            args,
            tracepoint: self.tracepoint.filter(|_| count),
        };
        let process = Process::start(&launch).map_err(|error| format!("does not start: {error}"))?;
        // Not before: what is started inherits the affinity.
        if let Some(cpu) = self.cpus.get(1).filter(|_| pin) {
            Cpus::one(cpu).apply().map_err(|error| error.to_string())?;
        }
        let samples = match scenario.kind {
            Kind::Server(_, load) => self.load(load, &process, count),
            Kind::Local => outcome(&process),
        };
        let end = process.stop();
        self.cpus.apply().map_err(|error| error.to_string())?;
        match (samples, end) {
            (Ok(samples), Ok(())) => Ok(samples),
            (Err(error), Ok(())) => Err(error.to_string()),
            (Ok(_), Err(end)) => Err(end),
            (Err(error), Err(end)) => Err(format!("{error}; {end}")),
        }
    }

    fn load(&self, load: load::Load, server: &Process, count: bool) -> io::Result<Vec<Sample>> {
        let address = server.address()?;
        let extent = if count { self.counted } else { self.timed };
        load::run(load, &Target { server, address, extent })
    }
}

/// What a process that measures itself prints.
#[derive(Deserialize)]
struct Outcome {
    ops: u64,
    ns: u64,
    rss_bytes: Option<u64>,
    ok: bool,
}

fn outcome(process: &Process) -> io::Result<Vec<Sample>> {
    let line = process.line(LOCAL)?;
    let outcome: Outcome = serde_json::from_str(&line)
        .map_err(|error| io::Error::other(format!("unexpected output: {line:?}: {error}")))?;
    if !outcome.ok || outcome.ops == 0 {
        return Err(io::Error::other(format!("it found an error: {line}")));
    }
    let value = outcome.ns as f64 / outcome.ops as f64;
    Ok(vec![Sample { value, rss: outcome.rss_bytes, ..Sample::default() }])
}

/// The results by scenario and row.
#[derive(Default)]
struct Entries(Vec<Entry>);

impl Entries {
    fn entry(&mut self, scenario: &str, unit: &'static str, row: &Row) -> &mut Entry {
        let at = self.0.iter().position(|entry| entry.scenario == scenario && entry.row == *row);
        let at = at.unwrap_or_else(|| {
            self.0.push(Entry::new(scenario, unit, row));
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    fn add(&mut self, scenario: &Scenario, row: &Row, result: Result<Vec<Sample>, String>) {
        let names = names(scenario);
        match result {
            Err(error) => {
                for name in names {
                    self.entry(name, scenario.unit(), row).failures.push(error.clone());
                }
            }
            Ok(samples) => {
                for (name, sample) in names.into_iter().zip(samples) {
                    self.entry(name, scenario.unit(), row).samples.push(sample);
                }
            }
        }
    }

    /// Of a run that counted: nothing but the count.
    fn count(&mut self, scenario: &Scenario, row: &Row, samples: &[Sample]) {
        let count = samples.first().and_then(|sample| sample.syscalls);
        self.entry(scenario.name, scenario.unit(), row).syscalls = count;
    }

    /// As planned: each round had them in another order.
    fn sorted(self, plan: &[(Scenario, Vec<Row>)]) -> Vec<Entry> {
        let mut entries = self.0;
        entries.sort_by_key(|entry| {
            let scenario = plan.iter().position(|(it, _)| names(it).contains(&entry.scenario.as_str()));
            let rows = scenario.map(|at| &plan[at].1);
            let row = rows.and_then(|rows| rows.iter().position(|row| *row == entry.row));
            (scenario, entry.scenario.clone(), row)
        });
        entries
    }
}

/// What a scenario's samples are reported as.
fn names(scenario: &Scenario) -> Vec<&'static str> {
    match scenario.kind {
        Kind::Server(_, load::Load::Idle { .. }) => vec![scenario.name, IDLE_FRESH],
        _ => vec![scenario.name],
    }
}

/// One line on standard error that says how far it is.
struct Progress {
    steps: usize,
    step: usize,
    terminal: bool,
}

impl Progress {
    fn show(&mut self, what: fmt::Arguments) {
        self.step += 1;
        let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{start}[{}/{}] {what}{end}", self.step, self.steps);
        // Nobody is there to read it, if it fails.
        let _ = io::stderr().flush();
    }

    fn say(&self, what: fmt::Arguments) {
        eprintln!("{}{what}", if self.terminal { "\r\x1b[K" } else { "" });
    }

    fn finish(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
