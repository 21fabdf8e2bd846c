//! Runs a conformance suite: each test on each backend of this machine, in a process of its own, with a hard time
//! limit, and looks afterwards for what it left behind.
//!
//! A suite is a test target with `harness = false`:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use towpath_harness::test;
//!
//! fn c05_cancel_races_completion() {
//!     assert_eq!(1 + 1, 2);
//! }
//! fn i01_many_wakes() {}
//!
//! fn main() -> ExitCode {
//!     towpath_harness::main(&[
//!         test!(c05_cancel_races_completion),
//!         test!(i01_many_wakes).busy().seconds(20),
//!     ])
//! }
//! ```
//!
//! The test is then called `io_uring::c05_cancel_races_completion`, `epoll::…`, `poll::…`. The command line is
//! libtest's. In the child process `TOWPATH_BACKEND` names the backend, so whatever makes a loop without saying more
//! gets that one. A backend that this machine refuses is told once, and its tests show as ignored.
//!
//! The test's function runs on a thread of its own. When it has returned and that thread is gone, these must hold,
//! or the test has failed:
//!
//! - every descriptor that is open was open before, and the other way round;
//! - every thread has ended (those of the blocking pool may idle);
//! - a test that took longer than 200 ms used the CPU for less than a fifth of that, unless it is
//!   [`busy`](Test::busy);
//! - resident memory has not grown by more than [`memory_mib`](Test::memory_mib);
//! - the process ended by itself, not by a signal.
//!
//! Environment: `TOWPATH_BACKEND` runs on that backend only; `TEST_TIMEOUT_MULT` multiplies the time limits, and
//! what tests scale by [`timeout_mult`].

pub mod allocations;
pub mod cgroup;
mod checks;
mod child;
pub mod example;
pub mod net;
mod parent;
pub mod process;
pub mod rng;
pub mod seccomp;
pub mod sys;

use std::process::ExitCode;
use std::time::Duration;

pub use rng::Rng;

/// One test: a function, and what it may do. Made by [`test!`].
#[derive(Clone, Copy, Debug)]
pub struct Test {
    path: &'static str,
    run: fn(),
    limit: Duration,
    busy: bool,
    alone: bool,
    leaks: bool,
    memory_mib: u64,
    backends: Backends,
    built_in: Option<&'static str>,
}

/// Where a test runs.
#[derive(Clone, Copy, Debug)]
enum Backends {
    /// On each that there is.
    Each,
    /// On these, if there are such.
    Only(&'static [&'static str]),
    /// Once, with `TOWPATH_BACKEND` unset: the test chooses for itself.
    Itself,
}

/// A [`Test`] out of the path of a function.
#[macro_export]
macro_rules! test {
    ($function:path) => {
        $crate::Test::new(stringify!($function), $function)
    };
}

impl Test {
    /// A test with the defaults; `path` is the function's, its last segment the test's name.
    pub const fn new(path: &'static str, run: fn()) -> Test {
        Test {
            path,
            run,
            limit: Duration::from_secs(5),
            busy: false,
            alone: false,
            leaks: false,
            memory_mib: 32,
            backends: Backends::Each,
            built_in: None,
        }
    }

    /// The time limit (5 s), before `TEST_TIMEOUT_MULT`.
    pub const fn seconds(mut self, seconds: u64) -> Test {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// It works all the time: no limit on the CPU's.
    pub const fn busy(mut self) -> Test {
        self.busy = true;
        self
    }

    /// It measures latencies, or changes something of the whole system: no other test of this suite runs meanwhile.
    pub const fn alone(mut self) -> Test {
        self.alone = true;
        self
    }

    /// It leaks on purpose: descriptors are not looked at.
    pub const fn leaks(mut self) -> Test {
        self.leaks = true;
        self
    }

    /// By how much resident memory may grow (32 MiB).
    pub const fn memory_mib(mut self, mib: u64) -> Test {
        self.memory_mib = mib;
        self
    }

    /// It is about these backends only.
    pub const fn on(mut self, backends: &'static [&'static str]) -> Test {
        self.backends = Backends::Only(backends);
        self
    }

    /// It chooses its backends itself: runs once, as `any::…`, with `TOWPATH_BACKEND` unset.
    pub const fn chooses(mut self) -> Test {
        self.backends = Backends::Itself;
        self
    }

    /// It is about the backends of the house, for this reason: on the suite's [own](main_with) ones it is skipped.
    pub const fn built_in(mut self, reason: &'static str) -> Test {
        self.built_in = Some(reason);
        self
    }

    fn name(&self) -> &'static str {
        self.path.rsplit("::").next().unwrap_or(self.path).trim()
    }
}

/// Runs a suite as the command line says; to be returned from its `main`.
pub fn main(tests: &[Test]) -> ExitCode {
    main_with(tests, &[])
}

/// [`main`], also on backends of the suite's own: the loops that its tests make understand these names in
/// `TOWPATH_BACKEND`, which [`Loop::new`](towpath_loop::Loop::new) does not.
pub fn main_with(tests: &[Test], own: &[&'static str]) -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(parent::CHILD_FLAG) {
        let name = args.next().unwrap_or_default();
        let Some(test) = tests.iter().find(|test| test.name() == name) else {
            eprintln!("no test is called {name:?}");
            return ExitCode::FAILURE;
        };
        return child::run(test);
    }
    parent::run(tests, own)
}

/// Ends the calling test's process as ignored, for a reason that lies with the machine (no root, no such kernel).
pub fn skip(reason: &str) -> ! {
    eprintln!("{}{reason}", parent::SKIP_PREFIX);
    std::process::exit(parent::SKIP_CODE)
}

/// What time limits are multiplied by on a slow machine: `TEST_TIMEOUT_MULT`, or 1.
pub fn timeout_mult() -> f64 {
    std::env::var("TEST_TIMEOUT_MULT")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|mult| *mult > 0.0)
        .unwrap_or(1.0)
}

/// What `TEST_MEMORY_MULT` says: by how much tests take more memory than they are allowed, as under a sanitizer.
pub(crate) fn memory_mult() -> u64 {
    std::env::var("TEST_MEMORY_MULT").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A duration, [multiplied](timeout_mult).
pub fn patience(duration: Duration) -> Duration {
    duration.mul_f64(timeout_mult())
}
