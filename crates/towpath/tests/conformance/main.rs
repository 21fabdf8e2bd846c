//! The conformance suite of the runtime and its sockets, on every backend: the project's list of behaviours, whose
//! letters and numbers are in the tests' names, as far as it makes sense at the level of tasks.

mod cancel;
mod common;
mod dump;
mod fairness;
mod groups;
mod locals;
mod panics;
mod parity;
mod placement;
mod reasons;
mod runtimes;
mod scope;
mod sockets;
mod streams;
mod tasks;
mod tcp;
mod threads;
mod timers;
mod ui;

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

const DUMP: &[Test] = &[
    test!(dump::r12_what_tasks_wait_for).busy().seconds(20),
    test!(dump::r12_unstarted_tasks).busy().seconds(20),
    test!(dump::r12_ten_thousand_tasks).busy().alone().seconds(20).memory_mib(160),
    test!(dump::r12_full_stacks).busy().seconds(20),
    test!(dump::r12_busy_worker).busy().seconds(20),
    test!(dump::r12_in_a_callback).busy(),
    test!(dump::r12_metrics).busy(),
    test!(dump::r12_backtrace_of_a_running_task).busy().seconds(40).memory_mib(96),
    test!(dump::r12_deadlock).busy().seconds(20).memory_mib(96),
    test!(dump::r12_sigquit).busy().seconds(40).memory_mib(96),
    test!(dump::r10_shutdown_names_what_is_left).busy().leaks().seconds(20).memory_mib(96),
    test!(dump::r10_shutdown_in_time),
    test!(dump::r10_shutdown_of_waits_that_are_stds).busy().leaks().seconds(20).memory_mib(96),
];

const PANICS: &[Test] = &[
    // `std` keeps what it has read of the debug information, which grows with this program.
    test!(panics::r10_panics_with_backtrace).busy().seconds(20).memory_mib(256),
    test!(panics::r10_panics_without_backtrace),
    test!(panics::r10_panics_that_nobody_reports).busy().seconds(20).memory_mib(192),
    test!(panics::r10_the_panic_that_ended_it).busy().seconds(20).memory_mib(192),
    test!(panics::r10_the_programs_hook_is_called),
    test!(panics::r10_panics_on_small_stacks).busy().seconds(20).memory_mib(192),
];

const THREADS: &[Test] = &[
    test!(threads::spawn_without_runtime),
    test!(threads::cancel_stand_in_sleeping),
    test!(threads::cancel_stand_in_reading),
    test!(threads::cancel_stand_in_parked),
    test!(threads::spawn_local_without_runtime),
    test!(threads::net_on_plain_threads),
    test!(threads::spawn_local_shares_rc),
    test!(threads::j05_started_tasks_stay),
    test!(threads::names_and_ids),
    test!(threads::park_and_unpark),
    test!(threads::park_of_a_cancelled_task),
    test!(threads::blocking_jobs),
    test!(threads::builder_refuses).chooses(),
    test!(threads::builder_refuses_stack_sizes),
    test!(threads::small_stacks),
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
    test!(threads::i09_late_wakes_leak_nothing).busy(),
];

const TCP: &[Test] = &[
    test!(tcp::d01_connect_refused),
    test!(tcp::d01_several_addresses),
    test!(tcp::d02_connect_timeout),
    test!(tcp::d03_bind_errors),
    test!(tcp::d03_privileged_port),
    test!(tcp::d04_reset_before_accept),
    test!(tcp::d05_echo_through_small_buffers).busy().seconds(20),
    test!(tcp::d05_echo_64_mib_through_small_buffers).busy().seconds(20),
    test!(tcp::d06_vectored).busy(),
    test!(tcp::d07_empty_buffers),
    test!(tcp::d08_half_close),
    test!(tcp::d09_shutdown_flushes).busy(),
    test!(tcp::d22_operations_of_the_loop),
    test!(tcp::d10_simultaneous_shutdown),
    test!(tcp::d11_reset_mid_transfer).busy().memory_mib(96),
    test!(tcp::d12_close_with_unread_data),
    test!(tcp::d13_read_and_write_at_once).busy(),
    test!(tcp::d13_two_readers_two_writers).busy(),
    test!(tcp::d13_each_waiting_reader_is_woken),
    test!(tcp::d14_shutdown_ends_pending_read),
    test!(tcp::d15_shutdown_not_connected),
    test!(tcp::d16_urgent_data),
    test!(tcp::d17_accept_flood).busy().seconds(20),
    test!(tcp::d17_accept_flood_at_a_short_queue).seconds(30),
    test!(tcp::d18_delayed_accept),
    test!(tcp::d19_names_after_reset),
    test!(tcp::d20_options),
    test!(tcp::linger_zero_resets),
    test!(tcp::not_a_socket),
    test!(tcp::no_sigpipe),
];

const SOCKETS: &[Test] = &[
    test!(sockets::f10_from_and_to_std),
    test!(sockets::f10_nonblocking_stays),
    test!(sockets::f10_clone_goes_on_without_blocking),
    test!(sockets::f10_blocking_behind_our_back),
    test!(sockets::read_and_write_timeouts),
    test!(sockets::b04_longest_socket_timeouts),
    test!(sockets::nonblocking_mode),
    test!(sockets::accepted_streams_wait),
    test!(sockets::peek),
    test!(sockets::try_clone),
    test!(sockets::several_acceptors).busy(),
    test!(sockets::h05_out_of_descriptors),
];

const SCOPE: &[Test] = &[
    test!(scope::scope_borrows),
    test!(scope::scope_nests),
    test!(scope::scope_panic_in_task),
    test!(scope::scope_joined_panic_hides_no_other),
    test!(scope::scope_panic_inside),
    test!(scope::scope_in_a_destructor_during_a_panic),
    test!(scope::scope_cancel_before_start),
    test!(scope::scope_is_cancelled_with_its_owner),
    test!(scope::scope_under_a_deadline),
    test!(scope::scope_drops_results),
    test!(scope::scope_result_waits_in_drop),
    test!(scope::scope_with_many_tasks).busy(),
    test!(scope::scope_server),
    test!(scope::scope_panics_do_not_spread),
    test!(scope::scope_cancel),
    test!(scope::scope_is_cancelled_while_its_owner_joins),
];

const GROUPS: &[Test] = &[
    test!(groups::group_results_in_order_of_completion),
    test!(groups::group_first_failure_ends_the_others).busy(),
    test!(groups::group_panic_is_a_failure),
    test!(groups::group_that_keeps_going),
    test!(groups::group_limit),
    test!(groups::group_is_cancelled_with_its_owner).busy(),
    test!(groups::group_cancel_keeps_results),
    test!(groups::group_dropped).busy(),
    test!(groups::group_of_a_scope).busy(),
    test!(groups::group_in_a_select),
    test!(groups::c16_group_in_a_select_loses_nothing).busy().seconds(20),
    test!(groups::group_at_random).busy().seconds(20),
    test!(groups::group_builder),
];

const LOCALS: &[Test] = &[
    test!(locals::j14_isolated_between_tasks),
    test!(locals::j14_cells),
    test!(locals::j14_destructors),
    test!(locals::j14_on_plain_threads),
    test!(locals::j14_inherited),
    test!(locals::j14_inherited_by_tasks_that_never_start),
    test!(locals::j09_locals_of_suspended_tasks).busy(),
];

const REASONS: &[Test] = &[
    test!(reasons::c17_reasons_and_blocking_work),
    test!(reasons::c18_reasons_of_requests).busy(),
    test!(reasons::c18_reasons_are_passed_on).busy(),
    test!(reasons::c18_deadlines_that_know),
    test!(reasons::c18_request_beats_deadlines),
];

const RUNTIMES: &[Test] = &[
    test!(runtimes::r01_runtime_inside_a_task).busy(),
    test!(runtimes::r01_runtime_ends_under_others),
    test!(runtimes::r01_workers_by_affinity),
    test!(runtimes::r01_workers_by_quota),
    test!(runtimes::r09_messages_and_locks_between_runtimes).busy(),
    test!(runtimes::r09_handles_between_runtimes).busy(),
    test!(parity::one_program_for_threads_and_tasks).busy(),
];

const PLACEMENT: &[Test] = &[
    test!(placement::each_task_where_it_was_placed).busy(),
    test!(placement::places_that_there_are_not),
    test!(placement::the_least_loaded_worker),
    test!(placement::from_foreign_threads).busy(),
    test!(placement::bound_tasks_keep_nobody_awake).alone(),
    test!(placement::bound_tasks_are_refused_at_the_end).busy(),
];

const TIMERS: &[Test] = &[
    test!(timers::b01_many_sleepers).busy(),
    test!(timers::h11_deadlines_at_the_limit),
    test!(timers::b02_equal_deadlines_in_order),
    test!(timers::b03_zero_sleep).busy(),
    test!(timers::b04_longest_waits),
    test!(timers::b09_earlier_timer_from_another_thread),
    test!(timers::b13_computing_makes_no_sleep_early).busy(),
    test!(timers::b14_short_sleeps).busy(),
];

const TASKS: &[Test] = &[
    test!(tasks::j01_hundred_thousand_sleepers).busy().alone().seconds(20).memory_mib(96),
    test!(tasks::j02_spawn_and_end).busy().seconds(20),
    test!(tasks::j03_stack_overflow).busy(),
    test!(tasks::j03_stack_of_its_own_size),
    test!(tasks::j04_values_in_registers).busy(),
    test!(tasks::j15_signals_run_on_the_signal_stack),
    test!(tasks::j06_errors_of_operations),
    test!(tasks::j07_panic_in_task),
    test!(tasks::j07_payload_panics_in_drop),
    test!(tasks::j07_panic_during_unwind_aborts),
    test!(tasks::waiting_while_unwinding),
    test!(tasks::j09_drop_runtime_with_suspended_tasks).busy().seconds(10).memory_mib(64),
    test!(tasks::j09_drop_runtime_with_a_hundred_thousand).busy().memory_mib(512).seconds(20),
    test!(tasks::j09_spawning_while_the_runtime_ends),
    test!(tasks::j10_backtraces_end).busy().memory_mib(256),
    test!(tasks::j11_self_join),
    test!(tasks::j12_waiting_in_odd_places),
    test!(tasks::j16_exit_with_live_tasks),
    test!(tasks::h07_no_memory_for_stacks),
    test!(tasks::h07_impossible_stack_sizes),
    test!(tasks::j06_last_os_error),
    test!(tasks::h07_no_memory_for_the_pool).busy().memory_mib(64),
    test!(tasks::j09_drop_runtime_with_everything_in_flight).busy().memory_mib(64),
    test!(tasks::j11_join_cycle_is_named_at_the_end).leaks().busy(),
    test!(tasks::j13_blocked_worker_is_robbed).busy(),
    test!(tasks::j13_stall_is_reported).busy().alone(),
];

const FAIRNESS: &[Test] = &[
    test!(fairness::n01_ping_pong_between_workers).busy(),
    test!(fairness::n01_ping_pong).busy().alone(),
    test!(fairness::n03_spawning_without_end).busy().alone(),
    test!(fairness::n05_events_without_operations).alone(),
    test!(fairness::n06_idle_connections).busy().alone(),
    test!(fairness::n06_idle_runtime).alone(),
    test!(fairness::n07_injection_under_saturation).busy().alone(),
    test!(fairness::n04_round_robin).busy(),
    test!(fairness::n04_the_woken_go_next),
    test!(fairness::n04_trees_go_branch_by_branch).busy(),
    test!(fairness::n03_older_tasks_beside_joins).busy(),
    test!(fairness::n01_a_pair_lets_others_run),
    test!(fairness::n03_messages_that_never_wait).busy().alone(),
    test!(fairness::n05_writer_beside_unread_data).alone(),
    test!(fairness::n02_busy_socket_and_trickles).busy().alone(),
    test!(fairness::n03_computing_tasks_that_yield).busy().alone(),
    test!(fairness::n03_operations_that_never_wait).busy().alone(),
];

const UI: &[Test] = &[test!(ui::does_not_compile).chooses().busy().seconds(300).memory_mib(512)];

const STREAMS: &[Test] = &[
    test!(streams::tasks_serve_from_streams).busy(),
    test!(streams::c09_cancelled_and_timed_out_streams),
    test!(streams::j12_stream_while_unwinding),
];

fn main() -> ExitCode {
    towpath_harness::main(
        &[
            CANCEL, DUMP, PANICS, THREADS, TCP, SOCKETS, STREAMS, SCOPE, GROUPS, LOCALS, REASONS, RUNTIMES,
            PLACEMENT, TIMERS, TASKS, FAIRNESS, UI,
        ]
        .concat(),
    )
}
