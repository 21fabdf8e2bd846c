//! The atomics of the lock-free parts: std's, or under `--cfg loom` those of loom, which tries every order.
//!
//! `Arc` stays std's in both, so that the rest of the crate compiles under loom as it is; so do the atomics of
//! statics, for loom's cannot be made in a constant.

#[cfg(loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic;
