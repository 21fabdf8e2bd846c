//! Tasks that are cancelled together, also those that are spawned after the cancel.

use std::sync::{Mutex, PoisonError};

use crate::task::TaskRef;

#[derive(Default)]
pub(super) struct Children(Mutex<Tasks>);

#[derive(Default)]
struct Tasks {
    /// Those that may still run.
    list: Vec<TaskRef>,
    canceled: bool,
}

impl Children {
    /// Cancels all, and those that are added from now on.
    pub(super) fn cancel(&self) {
        let list = {
            let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.canceled = true;
            std::mem::take(&mut tasks.list)
        };
        list.iter().for_each(|task| task.cancel());
    }

    /// Adds a task, or cancels it if it comes too late.
    pub(super) fn add(&self, task: &TaskRef) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.canceled {
            drop(tasks);
            return task.cancel();
        }
        if tasks.list.len() == tasks.list.capacity() {
            // Those that have ended need not be cancelled; forgetting them keeps a list that grows for ever small.
            tasks.list.retain(|task| !task.join.is_finished());
        }
        tasks.list.push(task.clone());
    }
}
