//! The park token: there is at most one, whoever puts it, and the task takes it.

use crate::sync::atomic::{AtomicBool, Ordering};

/// At most one permission to go on.
pub(crate) struct Token(AtomicBool);

impl Token {
    pub(crate) fn new() -> Token {
        Token(AtomicBool::new(false))
    }

    /// Puts the token there. True if it was not: then its task must be woken to see it.
    pub(crate) fn put(&self) -> bool {
        // A read-modify-write also where it is there already, so that what the caller did before is seen by the task
        // that takes it. SeqCst against the task's home, see `Header::settle`.
        !self.0.swap(true, Ordering::SeqCst)
    }

    /// Takes the token, if it is there.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
