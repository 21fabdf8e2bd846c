//! The suite of the loop's limits: exhaustion (H), other threads (I) and fall-backs (P), on every
//! backend. The letters and numbers are those of the project's list of behaviours.
//!
//! Lines without a test here, and why: H6, H9, H10 and H12 (in the conformance suite), H7 (stacks are the runtime's), H8
//! (`tests/allocation_failure.rs`), I7 (the sanitizers' business), I8, I9 (tasks), P7 and P8 (other kernels and sandboxes), P9 (A10 of the
//! conformance suite, and the script of P5, which runs on several backends in one process).

mod chains;
#[allow(dead_code, reason = "each suite uses its share")]
#[path = "../conformance/common.rs"]
mod common;
mod exhaustion;
mod fallback;
mod script;
mod threads;

use std::process::ExitCode;

use towpath_harness::{Test, test};

const EXHAUSTION: &[Test] = &[
    test!(exhaustion::h01_small_submission_queue).busy(),
    test!(exhaustion::h02_completions_before_a_reap).busy().memory_mib(64),
    test!(exhaustion::h02_burst_of_completions).busy(),
    test!(exhaustion::h03_cancel_on_a_full_queue).busy(),
    test!(exhaustion::h03_cancel_among_overflown_completions).busy(),
    test!(exhaustion::h04_waker_survives_overflow).busy().seconds(10),
    // No `busy`: that accepting does not spin is the point.
    test!(exhaustion::h05_accept_without_descriptors),
    test!(exhaustion::h11_limit_on_operations).busy(),
    test!(exhaustion::h11_backpressure_bounds_memory).busy().memory_mib(8),
];

const THREADS: &[Test] = &[
    test!(threads::i01_wakes_of_a_sleeping_loop).busy().alone().seconds(10),
    test!(threads::f09_blocking_job_in_a_forked_child),
    test!(threads::i02_wakes_at_odd_times),
    test!(threads::i03_wakes_coalesce).busy().seconds(10),
    test!(threads::i04_notify_races_waiting).busy().seconds(10),
    test!(threads::i04_flag_and_wake).busy().seconds(10),
    test!(threads::i05_wake_from_a_signal_handler).busy(),
    test!(threads::i05_full_counter_blocks_nobody),
    test!(threads::i06_submit_during_shutdown).busy().seconds(10),
    test!(threads::i06_events_and_jobs_during_shutdown).busy().seconds(10),
];

const FALLBACK: &[Test] = &[
    test!(fallback::p01_setup_is_refused).chooses(),
    test!(fallback::p02_enter_or_register_is_refused).chooses(),
    // Locked memory is counted by user, and this one is shared.
    test!(fallback::p03_no_locked_memory).chooses().alone(),
    // It changes the whole system.
    test!(fallback::p04_switched_off_by_sysctl).chooses().alone(),
    // What the script does is work; that waiting costs nothing is the conformance suite's to see.
    test!(fallback::p05_without_each_opcode).on(&["io_uring"]).busy().seconds(10),
    test!(fallback::p05_same_outcomes_everywhere).chooses().busy(),
    test!(chains::l14_random_chains_agree).chooses().busy().seconds(20),
    test!(fallback::p06_opt_out_makes_no_ring_calls).chooses(),
];

fn main() -> ExitCode {
    let suite = [EXHAUSTION, THREADS, FALLBACK].concat();
    towpath_harness::main(&suite)
}
