//! The conformance suite of the runtime and its sockets: what `BEHAVIOURS.md` says, as far as it makes sense at the
//! level of tasks, on every backend.

mod cancel;
mod common;
mod threads;

use std::process::ExitCode;

use towpath_harness::{Test, test};

const CANCEL: &[Test] = &[
    test!(cancel::c05_cancelled_reads_lose_nothing).busy(),
    test!(cancel::c09_timed_out_reads_lose_nothing).busy(),
    test!(cancel::c10_cancelled_accept_loses_nobody).busy(),
    test!(cancel::c18_inner_deadline_first),
    test!(cancel::c18_outer_deadline_first),
    test!(cancel::c18_equal_deadlines),
    test!(cancel::c18_user_cancel_beats_timeout),
    test!(cancel::c18_on_a_plain_thread),
    test!(cancel::c18_timeout_keeps_other_results),
    test!(cancel::c18_every_wait_has_deadlines),
    test!(cancel::c19_shield_defers_cancellation),
    test!(cancel::c19_shield_and_deadlines),
    test!(cancel::c20_partial_progress),
    test!(cancel::cancel_before_start),
    test!(cancel::cancel_while_queued),
    test!(cancel::cancel_while_running),
    test!(cancel::cancel_after_end),
    test!(cancel::cancel_is_level_triggered),
    test!(cancel::cancelled_read_of_ready_data),
    test!(cancel::cancel_does_not_cut_join_short),
    test!(cancel::j08_cancel_runs_destructors_in_order),
    test!(cancel::cancelled_io_leaves_sockets_usable),
    test!(cancel::cancel_blocking_job),
];

const THREADS: &[Test] = &[
    test!(threads::spawn_without_runtime),
    test!(threads::spawn_local_without_runtime),
    test!(threads::net_on_plain_threads),
    test!(threads::spawn_local_shares_rc),
    test!(threads::j05_started_tasks_stay),
    test!(threads::names_and_ids),
    test!(threads::park_and_unpark),
    test!(threads::blocking_jobs),
    test!(threads::builder_refuses).chooses(),
    test!(threads::builder_refuses_stack_sizes),
    test!(threads::several_runtimes),
    test!(threads::run_inside_run),
    test!(threads::panic_out_of_run),
    test!(threads::tasks_between_runs),
    test!(threads::detached_tasks),
    test!(threads::detached_result_panics_in_drop),
    test!(threads::i06_spawn_races_shutdown).busy(),
    test!(threads::i08_join_from_elsewhere),
    test!(threads::i08_runtime_dropped_first),
    test!(threads::i09_handles_outlive_tasks).busy(),
];

fn main() -> ExitCode {
    let suite = [CANCEL, THREADS].concat();
    towpath_harness::main(&suite)
}
