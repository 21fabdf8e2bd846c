//! On which worker a task starts, and so lives.

use std::io;

use crate::context;
use crate::runtime::Shared;
use crate::task::TaskRef;
use crate::worker::Worker;

/// On which worker a task starts: see [`Builder::placement`](super::Builder::placement). It stays there.
///
/// Outside of any runtime a thread is started, for which `Any` and `LeastLoaded` mean the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Placement {
    /// On the worker that spawns it, unless that has clearly more tasks than another, or an idle one is first to take it.
    #[default]
    Any,
    /// On the worker that spawns it, in any case. `Unsupported` where that is none of the runtime's.
    Local,
    /// On the worker of that number, in any case; `InvalidInput` if there is none. Worker 0 is the thread that calls
    /// [`Runtime::run`](crate::Runtime::run): what is placed there starts while it does. `Unsupported` outside of any runtime.
    Worker(usize),
    /// On the worker that has the fewest tasks now, in any case. For what lives long and mostly waits, as connections do that
    /// one task accepts: idle workers would take one after the other.
    LeastLoaded,
}

impl Placement {
    /// Whether `runtime` can do it, asked from here; a thread, if there is none.
    pub(super) fn check(self, runtime: Option<&Shared>) -> io::Result<()> {
        match (self, runtime) {
            (Placement::Any | Placement::LeastLoaded, _) => Ok(()),
            (Placement::Local, Some(runtime)) if here(runtime, |_| ()).is_some() => Ok(()),
            (Placement::Worker(index), Some(runtime)) if index < runtime.mailboxes.len() => Ok(()),
            (Placement::Worker(index), Some(runtime)) => {
                let what = format!("there is no worker {index} among {}", runtime.mailboxes.len());
                Err(io::Error::new(io::ErrorKind::InvalidInput, what))
            }
            (Placement::Local | Placement::Worker(_), _) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "the placement needs a worker of the runtime"))
            }
        }
    }

    /// Queues a task there, which [`check`](Placement::check) has found possible.
    pub(super) fn put(self, runtime: &Shared, task: TaskRef) {
        let index = match self {
            Placement::Any => return runtime.spawn(task),
            Placement::LeastLoaded => Some(runtime.least_loaded().0),
            Placement::Local => None,
            Placement::Worker(index) => Some(index),
        };
        let mut task = Some(task);
        here(runtime, |worker| {
            if index.is_none_or(|index| index == worker.index)
                && let Some(task) = task.take()
            {
                worker.start_later(task);
            }
        });
        if let (Some(index), Some(task)) = (index, task) {
            runtime.bind(index, task);
        }
    }
}

/// Calls `f` with the worker that this thread is, if it is one of that runtime's.
fn here<R>(runtime: &Shared, f: impl FnOnce(&Worker) -> R) -> Option<R> {
    context::with_worker(|worker| std::ptr::eq(&*worker.shared, runtime).then(|| f(worker))).flatten()
}
