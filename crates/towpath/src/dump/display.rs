//! A dump, written out.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::hash::Hash;
use std::mem::discriminant;
use std::sync::Arc;

use super::{Backtrace, Dump, Found, Frame, Place, State, Task, Wait, Which, Worker};
use crate::thread::ThreadId;

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (tasks, workers) = (self.tasks.len(), self.workers.len());
        writeln!(f, "{tasks} tasks on {workers} workers, seen in {:.1?}", self.took)?;
        for worker in &self.workers {
            writeln!(f, "{worker}")?;
        }
        write_tasks(f, &self.tasks)
    }
}

/// Writes the tasks out, each group behind an empty line: those that do the same at the same place together, as that is what
/// one looks for among thousands.
pub(crate) fn write_tasks(f: &mut Formatter<'_>, tasks: &[Task]) -> fmt::Result {
    let mut alike: HashMap<_, Vec<&Task>> = HashMap::new();
    tasks.iter().for_each(|task| alike.entry(task.likeness()).or_default().push(task));
    let mut alike: Vec<_> = alike.into_values().collect();
    alike.sort_by_key(|tasks| tasks[0].id.number());
    for alike in alike {
        writeln!(f)?;
        const NAMED: usize = 4;
        for task in alike.iter().take(NAMED) {
            writeln!(f, "{task}")?;
        }
        if alike.len() > NAMED {
            writeln!(f, "and {} more tasks at the same place", alike.len() - NAMED)?;
        }
        if let Some(backtrace) = &alike[0].backtrace {
            backtrace.fmt(f)?;
        }
    }
    Ok(())
}

impl Task {
    /// The same for those that do the same at the same place.
    fn likeness(&self) -> impl Eq + Hash {
        let what = match &self.state {
            State::Waiting(wait) => Some(wait.what),
            _ => None,
        };
        (self.backtrace.as_ref().map(Arc::as_ptr), discriminant(&self.state), what, self.spawned_at)
    }
}

/// A task by its number and its name, if it has one.
pub(crate) struct Who<'a>(pub(crate) ThreadId, pub(crate) Option<&'a str>);

impl Display for Who<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.0.number())?;
        match self.1 {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

impl Display for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Who(self.id, self.name.as_deref()).fmt(f)?;
        write!(f, " on worker {}: {}", self.place, self.state)?;
        if matches!(self.state, State::Waiting(_) | State::Ready) {
            write!(f, ", for {:.1?}", self.idle)?;
        }
        if self.canceled {
            f.write_str(", cancelled")?;
        }
        match self.spawned_at {
            Some(place) => write!(f, "; spawned at {place}"),
            None => Ok(()),
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            State::Unstarted => f.write_str("not started"),
            State::Ready => f.write_str("ready"),
            State::Running => f.write_str("running"),
            State::Waiting(wait) => write!(f, "waiting for {wait}"),
        }
    }
}

impl Display for Wait {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        match self.which {
            Which::Unknown => {}
            Which::Descriptor(fd) => write!(f, " on fd {fd}")?,
            Which::Task(id) => write!(f, " of task {}", id.number())?,
            Which::Object(address) => write!(f, " at {address:#x}")?,
        }
        match self.due_in {
            Some(time) => write!(f, ", due in {time:.1?}"),
            None => Ok(()),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.runtime {
            0 => write!(f, "{}", self.worker),
            runtime => write!(f, "{} of runtime {runtime}", self.worker),
        }
    }
}

impl Display for Worker {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Worker { place, backend, tasks, in_flight, found } = self;
        write!(f, "worker {place} ({backend}): {tasks} tasks, {in_flight} operations in flight")?;
        match found {
            Found::Answered => Ok(()),
            Found::Busy(id) => write!(f, "; busy with task {}, the others cannot be seen", id.number()),
            Found::Silent => f.write_str("; does not answer, its tasks cannot be seen"),
            Found::Absent => f.write_str("; its thread is not in `Runtime::run`"),
        }
    }
}

/// The program's frames, one a line; with `{:#}` all.
impl Display for Backtrace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let frames = if f.alternate() { &self.frames[..] } else { self.frames_of_the_program() };
        frames.iter().try_for_each(|frame| writeln!(f, "    {frame}"))
    }
}

impl Display for Frame {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(function) => f.write_str(function)?,
            None => write!(f, "{:#x}", self.address)?,
        }
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " at {}:{line}", file.display()),
            _ => Ok(()),
        }
    }
}
