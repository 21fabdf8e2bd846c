//! Tasks that are cancelled together, also those that are spawned after the cancel.

use std::sync::PoisonError;

use crate::cancel::Reason;
use crate::std_or_loom::Mutex;
use crate::task::TaskRef;

#[derive(Default)]
pub(super) struct Children(Mutex<Tasks>);

#[derive(Default)]
struct Tasks {
    /// Those that may still run.
    list: Vec<TaskRef>,
    /// Why, once they were cancelled.
    canceled: Option<Option<Reason>>,
}

impl Children {
    /// Cancels all, and those that are added from now on.
    pub(super) fn cancel(&self, reason: Option<Reason>) {
        let list = {
            let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.canceled.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut tasks.list)
        };
        list.iter().for_each(|task| task.cancel_with(reason.clone()));
    }

    /// Whether they were cancelled, and why.
    pub(super) fn canceled(&self) -> Option<Option<Reason>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).canceled.clone()
    }

    /// Adds a task, or cancels it if it comes too late.
    pub(super) fn add(&self, task: &TaskRef) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = tasks.canceled.clone() {
            drop(tasks);
            return task.cancel_with(reason);
        }
        if tasks.list.len() == tasks.list.capacity() {
            // Those that have ended need not be cancelled; forgetting them keeps a list that grows for ever small.
            tasks.list.retain(|task| !task.join.is_finished());
        }
        tasks.list.push(task.clone());
    }
}
