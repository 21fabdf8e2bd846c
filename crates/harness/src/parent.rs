//! The process that was started: makes a child for each test and judges how it ended.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use towpath_loop::{BackendKind, Config};

use crate::process::{IO_URING_DISABLED, Sysctl};
use crate::{Backends, Test, sys, timeout_mult};

pub(crate) const CHILD_FLAG: &str = "--towpath-child";
pub(crate) const SKIP_CODE: i32 = 77;
pub(crate) const SKIP_PREFIX: &str = "towpath-harness: skipped: ";

/// How many tests ran and were passed over, for each backend.
type Tally = Arc<Mutex<BTreeMap<&'static str, (usize, usize)>>>;

/// A kind of backend, and why this machine does not have it.
struct Candidate {
    name: &'static str,
    missing: Option<String>,
    /// Whether it is the suite's own.
    own: bool,
}

fn candidates(own: &[&'static str]) -> Vec<Candidate> {
    let built_in = BackendKind::ALL.iter().map(|kind| {
        let missing = Config::new().backend(*kind).build().err().map(|error| error.to_string());
        Candidate { name: kind.name(), missing, own: false }
    });
    let own = own.iter().map(|name| Candidate { name, missing: None, own: true });
    built_in.chain(own).collect()
}

pub(crate) fn run(tests: &[Test], own: &[&'static str]) -> ExitCode {
    let args = Arguments::from_args();
    let only = std::env::var("TOWPATH_BACKEND").ok().filter(|name| !name.is_empty());
    let candidates = candidates(own);
    if let Some(only) = &only
        && !candidates.iter().any(|candidate| candidate.name == only)
    {
        eprintln!("towpath-harness: TOWPATH_BACKEND: no backend is called {only:?}");
        return ExitCode::FAILURE;
    }
    let tally = Tally::default();
    let alone = Arc::new(RwLock::new(()));
    let mut trials = Vec::new();
    for candidate in candidates.iter().filter(|one| only.as_deref().is_none_or(|only| only == one.name)) {
        if let Some(reason) = &candidate.missing {
            eprintln!("towpath-harness: {} is not available here: {reason}", candidate.name);
        }
        for test in tests {
            match test.backends {
                Backends::Itself => continue,
                Backends::Only(names) if !names.contains(&candidate.name) => continue,
                _ => {}
            }
            // Said once for each by the trial, like every other skip.
            let skip = test.built_in.filter(|_| candidate.own);
            let trial = trial(*test, candidate.name, Some(candidate.name), skip, &tally, &alone);
            trials.push(trial.with_ignored_flag(candidate.missing.is_some()));
        }
    }
    for test in tests.iter().filter(|test| matches!(test.backends, Backends::Itself)) {
        trials.push(trial(*test, "any", None, None, &tally, &alone).with_ignored_flag(only.is_some()));
    }
    let listed = args.list;
    let conclusion = libtest_mimic::run(&args, trials);
    if !listed {
        let tally = tally.lock().unwrap();
        let ran: Vec<_> = tally
            .iter()
            .map(|(name, (ran, skipped))| match skipped {
                0 => format!("{name} {ran}"),
                _ => format!("{name} {ran} (and {skipped} skipped)"),
            })
            .collect();
        eprintln!(
            "towpath-harness: ran on {}",
            if ran.is_empty() { "nothing".into() } else { ran.join(", ") }
        );
    }
    conclusion.exit_code()
}

fn trial(
    test: Test,
    label: &'static str,
    backend: Option<&'static str>,
    skip: Option<&'static str>,
    tally: &Tally,
    alone: &Arc<RwLock<()>>,
) -> Trial {
    let (tally, alone) = (tally.clone(), alone.clone());
    Trial::ignorable_test(format!("{label}::{}", test.name()), move || {
        // A poisoned lock is another test's affair.
        let (_one, _many);
        if test.alone {
            _one = alone.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        } else {
            _many = alone.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        // Nor does a test of another suite switch io_uring off for the whole machine: such a test runs alone in its own
        // suite, and waits for the others here. (Where there is no such setting there is nothing to hold.)
        let _held = (!test.alone).then(|| Sysctl::hold(IO_URING_DISABLED));
        let result = match skip {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => carry_out(&test, backend),
        };
        let mut tally = tally.lock().unwrap();
        let (ran, skipped) = tally.entry(label).or_default();
        match &result {
            Ok(Completion::Ignored { reason }) => {
                eprintln!("{label}::{}: skipped: {}", test.name(), reason.as_deref().unwrap_or(""));
                *skipped += 1;
            }
            _ => *ran += 1,
        }
        result
    })
}

/// Runs one test in a child and says how it ended.
fn carry_out(test: &Test, backend: Option<&str>) -> Result<Completion, Failed> {
    let limit = test.limit.mul_f64(timeout_mult());
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([CHILD_FLAG, test.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A group of its own, so that what the test forks can be ended with it.
    command.process_group(0);
    // Printing a backtrace takes tens of MiB, which is not the test's fault; `full` asks for it all the same.
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|wish| wish != "full") {
        command.env("RUST_BACKTRACE", "0");
    }
    match backend {
        Some(name) => command.env("TOWPATH_BACKEND", name),
        None => command.env_remove("TOWPATH_BACKEND"),
    };
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let group = Pid::from_child(&child);
    let output = [drain(child.stdout.take()), drain(child.stderr.take())];
    let in_time = wait(group, limit)?;
    let stacks = if in_time { String::new() } else { describe_stuck(&child) };
    // Whatever it forked goes with it. The leader is not reaped yet, so the number is still its own.
    let _ = kill_process_group(group, Signal::KILL);
    let status = child.wait()?;
    let took = begun.elapsed();
    let text = output.map(|reader| reader.join().unwrap_or_default()).concat();
    let text = text.trim_end();
    if !in_time {
        return Err(format!("still running after {limit:?}, killed\n{text}\n{stacks}").into());
    }
    judge(status, took, text)
}

fn judge(status: ExitStatus, took: Duration, text: &str) -> Result<Completion, Failed> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Completion::Completed),
        (Some(SKIP_CODE), _) => {
            let reason = text.lines().rev().find_map(|line| line.strip_prefix(SKIP_PREFIX));
            Ok(Completion::ignored_with(reason.unwrap_or("no reason given")))
        }
        (Some(_), _) => Err(format!("failed after {took:.2?}\n{text}").into()),
        (None, Some(signal)) => {
            Err(format!("killed by {} after {took:.2?}\n{text}", sys::signal_name(signal)).into())
        }
        (None, None) => Err(format!("ended in no known way: {status}\n{text}").into()),
    }
}

/// Reads to the end on a thread, so that the child never blocks on a full pipe.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits until the child is a zombie. False if it is not in time.
fn wait(child: Pid, limit: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What each thread of a child that hangs is doing: where it is in the kernel, and its own stack where it can still
/// print one.
fn describe_stuck(child: &Child) -> String {
    let mut text = String::from("its threads:\n");
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", child.id())) else { return text };
    for task in tasks.flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            text.trim().replace('\n', "\n      ")
        };
        let state = sys::task_state(&task.path()).unwrap_or('?');
        text += &format!("  {} {state} at {}\n      {}\n", read("comm"), read("wchan"), read("stack"));
        if let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
            crate::child::ask_for_stack(child.id(), tid);
        }
    }
    // The child prints to its stderr, which is part of the report. Two seconds is all it gets.
    let _ = wait(Pid::from_child(child), Duration::from_secs(2));
    text
}
