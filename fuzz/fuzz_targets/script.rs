//! See `crates/loop/tests/fuzz/targets.rs`, which the tests run as well.
#![no_main]
#![allow(dead_code, reason = "each target uses its share")]

#[path = "../../crates/loop/tests/fuzz/poller.rs"]
mod poller;
#[path = "../../crates/loop/tests/fuzz/script.rs"]
mod script;
#[path = "../../crates/loop/tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::script(bytes));
