//! What the runtime noticed and the program hardly means: for people, or for a hook of theirs.

use std::fmt::{self, Display, Formatter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::dump::{Backtrace, Dump, Task, Who};
use crate::thread::ThreadId;
use crate::trace;

/// Something that is probably not meant. The [watchdog](crate::Builder::watchdog) looks for it, and tells
/// [`Builder::on_warning`](crate::Builder::on_warning), or else stderr.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Warning {
    /// A task holds its worker.
    Stall(Stall),
    /// Nothing can happen any more, as far as the runtime can see.
    Deadlock(Deadlock),
}

/// A task that has neither waited nor yielded for long, so that nothing else runs on its worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stall {
    /// The task.
    pub task: ThreadId,
    /// Its name, if it has one.
    pub name: Option<Box<str>>,
    /// The worker that it holds.
    pub worker: usize,
    /// For how long already, at least.
    pub held: Duration,
    /// Where it was just now, if it could be told: on Linux on x86-64 and AArch64, where the program leaves the signal
    /// `SIGRTMAX - 1` alone.
    pub backtrace: Option<Arc<Backtrace>>,
}

/// All tasks wait, and no operation, timer or job is in flight that could end a wait: they wait for each other, or for
/// threads that are not the runtime's.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Deadlock {
    /// What each waits for.
    pub dump: Dump,
}

/// Tasks that did not end when they were cancelled, and are leaked: see [`Runtime::shutdown`](crate::Runtime::shutdown).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leftover {
    /// What they did when their time was over.
    pub tasks: Vec<Task>,
    /// Workers whose threads panicked, with whatever they had.
    pub lost_workers: usize,
}

impl Display for Warning {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Stall(stall) => stall.fmt(f),
            Warning::Deadlock(deadlock) => deadlock.fmt(f),
        }
    }
}

impl Display for Stall {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Stall { task, name, worker, held, backtrace } = self;
        Who(*task, name.as_deref()).fmt(f)?;
        write!(
            f,
            " has held worker {worker} for {held:?} and more, so that nothing else runs there: what blocks or computes \
             for long belongs into `towpath::blocking`"
        )?;
        match backtrace {
            Some(backtrace) => write!(f, "\n{}", backtrace.to_string().trim_end()),
            None => Ok(()),
        }
    }
}

impl Display for Deadlock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "all tasks wait, and nothing is in flight: they wait for each other, or for other threads\n{}",
            self.dump.to_string().trim_end()
        )
    }
}

impl Display for Leftover {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        /// More than these nobody reads.
        const NAMED: usize = 20;
        let tasks = &self.tasks;
        write!(f, "{} tasks did not end when they were cancelled: ", tasks.len())?;
        for (n, task) in tasks.iter().take(NAMED).enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            match &task.name {
                Some(name) => write!(f, "{comma}{name}")?,
                None => write!(f, "{comma}task {}", task.id.number())?,
            }
        }
        if tasks.len() > NAMED {
            write!(f, " and {} more", tasks.len() - NAMED)?;
        }
        if self.lost_workers > 0 {
            write!(f, "; {} workers panicked", self.lost_workers)?;
        }
        crate::dump::write_tasks(f, tasks)
    }
}

impl std::error::Error for Leftover {}

type Told = dyn Fn(&Warning) + Send + Sync;

/// Who is told.
#[derive(Clone, Default)]
pub(crate) struct Hook(pub(crate) Option<Arc<Told>>);

impl Hook {
    pub(crate) fn tell(&self, warning: &Warning) {
        trace::warned(warning);
        match &self.0 {
            // What it panics with has been reported, and is its own affair.
            Some(hook) => drop(catch_unwind(AssertUnwindSafe(|| hook(warning)))),
            None => say(warning),
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(_)" } else { "None" })
    }
}

/// Writes to stderr, in one piece, and does not mind if that is closed.
pub(crate) fn say(what: &dyn Display) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("towpath: {what}\n").as_bytes());
}
