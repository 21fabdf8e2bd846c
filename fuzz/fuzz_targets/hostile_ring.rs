//! See `crates/loop/src/backend/uring/hostile.rs`, which the unit tests run as well.
#![no_main]

// `cargo fuzz` sets it; without, there is no way into the backend.
#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| towpath_loop::hostile_ring(bytes));
