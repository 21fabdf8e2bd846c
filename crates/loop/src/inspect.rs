//! What a loop has in flight, for whoever looks into a program that runs.
//!
//! Nothing is recorded for this: it is read off the slots, which hold all of it anyway.

use std::os::fd::RawFd;

use crate::core::Core;
use crate::instant::Instant;
use crate::operation::Description;
use crate::slots::Sink;

/// An operation in flight. See [`Loop::inspect`](crate::Loop::inspect).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct InFlight {
    /// Which operation, and how it is done.
    pub operation: &'static Description,
    /// The number of the descriptor that it works on, if it does.
    pub fd: Option<RawFd>,
    /// When it is due or times out, [`Instant::NEVER`] if it does not.
    pub deadline: Instant,
    /// The [`data`](crate::Wakeup::data) of the task that waits for it in blocking style, if one does.
    pub task: Option<*const ()>,
}

impl Core {
    /// Calls `f` with each operation in flight, groups and their members as well.
    pub(crate) fn inspect(&mut self, mut f: impl FnMut(InFlight)) {
        self.slots.select(|slot| {
            let task = match slot.sink {
                // SAFETY: its frame waits until the slot has been freed.
                Sink::Waiting(waiting) => Some(unsafe { waiting.as_ref() }.task()),
                Sink::None | Sink::Member { .. } | Sink::Payload { .. } => None,
            };
            f(InFlight {
                operation: slot.request.kind().describe(),
                fd: slot.request.handle().map(|handle| handle.fd).filter(|fd| *fd >= 0),
                deadline: slot.node.deadline().map_or(Instant::NEVER, Instant),
                task: task.filter(|task| !task.is_null()),
            });
            false
        });
    }
}
