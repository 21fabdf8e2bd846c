//! The atomics of the parts that are model-checked: `std`'s, or `loom`'s under `cfg(loom)`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic;
