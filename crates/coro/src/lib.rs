//! Stackful coroutines: functions that can be suspended anywhere in their call tree, on stacks that are cheap to have by
//! the hundred thousand.
//!
//! This is the bottom layer of Towpath, and usable alone: there is no scheduler and no I/O in here. A [`Coroutine`] runs
//! a closure on a [`Stack`]; [`resume`](Coroutine::resume) enters it with a value, [`suspend`](Yielder::suspend) leaves
//! it with one. A [`StackPool`] has as many stacks as needed.
//!
//! ```
//! use towpath_coro::{Config, Coroutine, StackPool, State};
//!
//! let mut pool = StackPool::new(Config::default())?;
//! let mut countdown = Coroutine::new(pool.take()?, |yielder, from: u32| {
//!     for n in (1..=from).rev() {
//!         yielder.suspend(n);
//!     }
//!     "lift-off"
//! });
//! let mut heard = Vec::new();
//! let last = loop {
//!     match countdown.resume(3) {
//!         State::Suspended(n) => heard.push(n),
//!         State::Finished(result) => break result,
//!     }
//! };
//! assert_eq!(heard, [3, 2, 1]);
//! assert_eq!(last.unwrap(), "lift-off");
//! pool.give(countdown.into_stack());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What it costs
//!
//! - A `resume` and the `suspend` that answers it: a few nanoseconds, no system call, no lock, no thread-local.
//! - A suspended coroutine: the pages it has touched, one at least. Address space is reserved generously and costs next
//!   to nothing.
//! - A stack overflow ends the process with a message that names the coroutine: see [`overflow`].
//!
//! # Platforms
//!
//! Linux, and in principle other Unix systems, on the architectures of [`corosensei`]. Not Windows yet.
//!
//! # Soundness
//!
//! A stack is never freed or reused with live frames on it, a coroutine never leaves its thread, and a panic never leaves
//! its coroutine but as a value. The one thing that no library can promise is in
//! [What safe code can still break](Coroutine#what-safe-code-can-still-break).

#[cfg(not(unix))]
compile_error!("towpath-coro supports Unix systems only, for now");

mod alt_stack;
mod coroutine;
mod guard;
mod memory;
pub mod overflow;
mod pool;
mod registry;
mod slab;
mod stack;

pub use coroutine::{Coroutine, Panic, State, Yielder};
pub use pool::{Config, StackPool, Stats, Usage};
pub use registry::stack_around;
pub use stack::{DEFAULT_GUARD_SIZE, DEFAULT_STACK_SIZE, MIN_STACK_SIZE, Stack};
