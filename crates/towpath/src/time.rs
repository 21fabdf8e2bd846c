//! Time: deadlines around any code, and the clock of the loop.

pub use std::time::Duration;

pub use crate::cancel::{Deadline, deadline_at, timeout};
pub use crate::thread::{sleep, sleep_until};
pub use towpath_loop::Instant;
