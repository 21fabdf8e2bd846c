//! The conformance suite of the loop, on every backend: the project's list of behaviours, whose letters and numbers
//! are in the tests' names, as far as it makes sense at the level of operations.
//!
//! Lines without a test here, and why: A11 and O6 (the types see to it: `i00_auto_traits`, and buffers are initialised),
//! C19 (shields are the runtime's), D19 and D20 (options and names are not operations), H7 (stacks are the runtime's), H8 (takes
//! an allocator of its own: `tests/allocation_failure.rs`), I7 (the sanitizers' to see), I8 and I9 (tasks), N3 and N7 (tasks), P7 and P8 (other kernels
//! and sandboxes).
//!
//! Some take what not every machine allows, to mount something or to make a network: they say so and are skipped. One sets
//! the clock, and has to be asked for (`TOWPATH_SET_CLOCK=1`).

mod batches;
mod clocks;
mod common;
mod contract;
mod datagrams;
mod exhaustion;
mod fairness;
mod fallback;
mod fds;
mod files;
mod groups;
mod hostile;
mod lifecycle;
mod messages;
mod network;
mod pool;
mod processes;
mod sendfile;
mod signals;
mod sockets;
mod splice;
mod streams;
mod threads;
mod timers;
mod vectored;
mod zero_copy;

use std::process::ExitCode;

use towpath_harness::{Test, test};

/// Why some tests are not for the backends of the examples.
const LIMITED: &str = "the limit on operations is an option of `Config`, which opens no others";
/// Why what measures time is not measured on the mechanisms that are plugged in.
const TIMED: &str = "it measures time, and they are not made for speed";

const LIFECYCLE: &[Test] = &[
    test!(lifecycle::a01_new_and_drop).busy().seconds(20),
    test!(lifecycle::a02_run_with_nothing),
    test!(lifecycle::a03_stop_before_run),
    test!(lifecycle::a04_stop_in_callback),
    test!(lifecycle::a05_no_recursion),
    test!(lifecycle::a06_tick_without_waiting),
    test!(lifecycle::a07_chain_without_recursion).busy(),
    test!(lifecycle::a08_meddling_in_one_batch),
    // The buffers are leaked, to be looked at afterwards.
    test!(lifecycle::a09_drop_in_flight).busy().memory_mib(64),
    test!(lifecycle::a09_drop_what_no_thread_has_begun).busy(),
    test!(lifecycle::a10_two_loops),
    test!(lifecycle::a12_drop_inside_callback),
    test!(lifecycle::a13_init_fails).built_in("it is about what `Loop::new` sets up"),
    test!(lifecycle::a14_panic_in_callback),
];

const TIMERS: &[Test] = &[
    test!(timers::b01_many_random_timers).busy().alone().built_in(TIMED),
    test!(timers::b02_equal_deadlines_in_order),
    test!(timers::b03_zero_and_past_deadlines),
    test!(timers::b04_extreme_durations),
    test!(timers::b05_restarting_timer_starves_nobody).busy().alone(),
    test!(timers::b06_cancel_races_expiry).busy(),
    test!(timers::b08_insert_and_cancel).busy().seconds(20),
    test!(timers::b09_earlier_timer_from_another_thread).busy(),
    test!(timers::b13_busy_callback_makes_no_timer_early).busy(),
    test!(timers::b14_short_timers),
];

const CONTRACT: &[Test] = &[
    test!(contract::c01_exactly_once).busy().seconds(20),
    test!(contract::c02_never_inline),
    test!(contract::c03_cancel_before_run),
    test!(contract::c04_cancel_what_is_not_there),
    test!(contract::c05_cancel_races_completion).busy().seconds(20),
    test!(contract::c06_dropped_recv_leaves_memory_alone).busy().seconds(10),
    test!(contract::c07_dropped_send_sends_the_original).busy(),
    test!(contract::c08_forgotten_future).leaks(),
    test!(contract::c09_timeouts_lose_nothing).busy().seconds(10),
    test!(contract::c10_dropped_accept).busy().seconds(20),
    test!(contract::c11_dropped_socket_and_open).busy(),
    test!(contract::c13_first_of_a_batch_drops_the_rest),
    test!(contract::c14_generations_come_round),
    test!(contract::c15_cancel_storm).busy().seconds(20),
    test!(contract::c17_cancel_blocking_jobs).busy(),
    test!(contract::c18_nested_deadlines),
    test!(contract::c20_cancel_tells_the_progress),
    test!(contract::c21_future_polled_after_its_end),
];

const SOCKETS: &[Test] = &[
    test!(sockets::d01_connect_refused),
    test!(sockets::d02_connect_times_out),
    test!(network::d02_nobody_answers),
    test!(sockets::d03_bind_errors),
    test!(sockets::d04_accept_after_reset),
    test!(sockets::d05_large_transfer_through_small_buffer).busy().seconds(20),
    test!(network::d05_packets_are_lost).busy().seconds(30),
    test!(sockets::d06_odd_vectors).busy(),
    test!(sockets::d06_slices_of_buffers),
    test!(vectored::l11_all_of_many_buffers).busy().seconds(20),
    test!(vectored::l11_some_of_many_buffers),
    test!(vectored::g09_all_of_many_buffers).busy(),
    test!(sockets::d07_zero_length_receive),
    test!(sockets::d08_half_close),
    test!(sockets::d09_shutdown_flushes),
    test!(sockets::d10_simultaneous_shutdown),
    test!(sockets::d11_reset_is_an_error_not_a_signal),
    test!(sockets::d12_close_with_unread_data),
    test!(sockets::d13_concurrent_operations),
    test!(sockets::d14_close_ends_pending_operations),
    test!(sockets::d15_shutdown_without_connection),
    test!(sockets::d16_urgent_data),
    test!(sockets::d17_accept_flood).busy().seconds(20),
    test!(sockets::d17_accept_flood_at_a_short_queue).busy().seconds(30),
    test!(sockets::d18_delayed_accept),
    test!(sockets::d22_new_descriptors_flags),
    test!(sockets::d23_unix_connect_to_full_queue),
];

const MESSAGES: &[Test] = &[
    test!(sendfile::d22_sendfile_all),
    test!(sendfile::d22_sendfile_steps),
    test!(sendfile::d22_sendfile_stalls),
    test!(sendfile::d22_sendfile_refused),
    test!(sendfile::d22_sendfile_progress).busy(),
    test!(sendfile::d22_sendfile_progress_meddles),
    test!(zero_copy::d23_zero_copy_sends),
    test!(zero_copy::d23_zero_copy_all_in_order).busy().seconds(10),
    test!(zero_copy::d23_zero_copy_keeps_the_buffer),
    test!(zero_copy::c07_dropped_zero_copy_send),
    test!(zero_copy::d23_zero_copy_fails),
    test!(splice::d22_splice_all).busy(),
    test!(splice::d22_splice_each_way),
    test!(splice::d22_splice_waits_for_either_end),
    test!(splice::d22_splice_files_wait),
    test!(splice::d22_splice_refused),
    test!(splice::d14_close_under_a_splice),
    test!(splice::c18_deadline_races_a_splice).busy(),
    test!(splice::c05_cancelled_splices_lose_nothing).busy().seconds(10),
    test!(splice::c18_limits_race_the_ends_of_a_splice).busy(),
    test!(messages::e01_datagrams_with_control),
    test!(messages::e01_lengths_beyond_the_buffer),
    test!(messages::e07_descriptors_pass),
    test!(messages::e07_surplus_descriptors_are_closed),
    test!(messages::e07_unwanted_descriptors_are_closed).busy(),
    test!(messages::e07_bad_messages_are_refused),
    test!(messages::e07_credentials),
    test!(datagrams::e02_empty_datagrams),
    test!(datagrams::e03_too_large),
    test!(datagrams::e04_nobody_listens),
    test!(datagrams::e05_floods_wait),
    test!(datagrams::e05_floods_of_strangers_wait),
    test!(datagrams::e06_names_of_unix_sockets),
    test!(datagrams::e10_odd_messages),
];

const FDS: &[Test] = &[
    test!(fds::f01_number_used_again).busy().seconds(20),
    test!(fds::f02_duplicate_keeps_the_object),
    test!(fds::f03_closed_handle),
    test!(fds::f04_close_with_read_in_flight),
    test!(fds::f05_descriptors_of_all_kinds),
    test!(fds::f06_first_event_closes_the_second),
    test!(fds::f07_double_close),
    test!(fds::f09_fork_and_exec),
    test!(fds::f10_blocking_stream),
    test!(fds::f10_blocking_listener),
    test!(fds::f11_own_descriptors_close_on_exec),
    test!(fds::o05_standard_streams_are_closed).built_in("it is about what these open themselves"),
];

const FILES: &[Test] = &[
    test!(files::contents::g00_four_ways_to_wait),
    test!(files::names::g01_open_errors),
    test!(files::names::g02_odd_paths),
    test!(files::contents::g03_at_and_beyond_the_end),
    test!(files::contents::g04_all_of_it).busy(),
    test!(files::contents::g05_cursor_and_positions),
    test!(files::contents::g06_no_space),
    test!(files::failing::g06_the_file_system_is_full),
    test!(files::failing::g06_the_file_is_too_large),
    test!(files::failing::g07_the_device_fails),
    test!(files::durable::g08_killed_while_it_writes).busy().seconds(30),
    test!(files::failing::f07_a_close_that_fails),
    test!(files::contents::g09_large_requests).busy(),
    test!(files::contents::g10_direct),
    test!(files::names::g11_read_dir_while_entries_go).busy().seconds(20),
    test!(files::names::g12_rename),
    test!(files::contents::g13_odd_files),
    test!(files::waiting::g14_pool_is_isolated_and_bounded).busy().seconds(20).memory_mib(64),
    test!(files::contents::g15_holes_and_lengths),
    test!(files::names::g16_metadata),
    test!(files::names::g17_names),
    test!(files::contents::g18_entire_files).busy(),
    test!(files::contents::g19_copy_range).busy(),
    test!(files::waiting::g20_warm_reads).busy(),
    test!(files::waiting::e08_pipes).busy(),
    test!(files::waiting::e08_terminal),
    test!(files::waiting::e08_terminal_is_shared),
    test!(files::waiting::e09_fifo),
    test!(files::waiting::c11_dropped_open).busy().seconds(20),
    test!(files::waiting::c17_cancelled_in_the_queue).busy(),
    test!(files::names::o08_identity),
    test!(files::names::o09_beneath),
];

const EXHAUSTION: &[Test] = &[
    test!(exhaustion::h01_more_than_the_queue_holds).busy(),
    test!(exhaustion::h02_completion_queue_overflows).busy().seconds(10),
    test!(exhaustion::h03_cancel_with_full_queue).busy(),
    test!(exhaustion::h04_wakes_survive_overflow).busy(),
    test!(exhaustion::h05_no_descriptors_for_accept),
    test!(exhaustion::h10_idle_connections_in_little_memory).busy().seconds(30).memory_mib(64),
    test!(exhaustion::h11_uncounted_operations).built_in(LIMITED),
    test!(exhaustion::h11_limit_on_operations).built_in(LIMITED),
];

const THREADS: &[Test] = &[
    test!(threads::i00_auto_traits),
    test!(threads::i01_posts_from_four_threads).busy().seconds(30),
    test!(threads::i02_early_and_late_wakes),
    test!(threads::i02_wakes_reach_who_polls_the_descriptor),
    test!(threads::i03_wakes_coalesce).busy(),
    test!(threads::i04_wake_races_sleep).busy().seconds(30),
    // The handler's `Remote` is a static, and keeps the waker's descriptor.
    test!(threads::i05_wake_from_signal_handler).busy().leaks(),
    test!(threads::i06_submit_during_shutdown).busy().seconds(10),
    test!(threads::i10_events_across_threads).busy().seconds(10),
    test!(threads::l13_wakes_as_the_kernel_counts_them).busy(),
];

const POOL: &[Test] = &[
    test!(pool::l19_threads_by_need).busy(),
    // Slow, and the same whoever asks.
    test!(pool::l19_the_queue_is_bounded).chooses().busy().seconds(30).memory_mib(64),
    test!(pool::l19_idle_threads_end).chooses().seconds(30),
    test!(pool::h09_no_threads_to_be_had).busy(),
];

const HOSTILE: &[Test] = &[
    test!(hostile::f08_closed_behind_our_back),
    // What the ring does is out of a filter's reach.
    test!(hostile::h06_accepting_fails).on(&["epoll", "poll"]).built_in("it is about system calls"),
    test!(hostile::o07_a_modest_ring).on(&["io_uring"]),
    test!(hostile::o07_a_restricted_ring).on(&["io_uring"]),
    test!(hostile::o11_absurd_lengths),
];

const FAIRNESS: &[Test] = &[
    test!(fairness::n01_ping_pong_starves_nobody).busy().alone().built_in(TIMED),
    test!(fairness::n02_flood_and_trickle).busy().alone().built_in(TIMED),
    test!(fairness::n04_each_before_any_twice).busy(),
    test!(fairness::n05_nobody_waits_nobody_spins),
    test!(fairness::n05_false_readiness_of_an_embedded_loop),
    test!(fairness::n06_idle_loop_sleeps),
];

const PROCESSES: &[Test] = &[
    test!(signals::m01_each_way_to_wait),
    test!(signals::m01_storm_reaches_every_loop).busy(),
    test!(signals::m01_handlers_are_chained_and_restored),
    test!(signals::m01_forbidden_signals),
    test!(signals::m01_cancelled_waits_lose_nothing).busy(),
    test!(signals::m01_idle_watchers_sleep),
    test!(signals::m01_coming_and_going).busy().seconds(10),
    test!(signals::m01_forked_child),
    test!(signals::m02_interrupted_all_the_time).busy(),
    test!(processes::m03_each_way_to_wait).busy(),
    test!(processes::m03_thousand_children).busy().seconds(30),
    test!(processes::m03_cancelled_waits_reap_nothing),
    test!(processes::m03_reaped_by_somebody_else),
    test!(processes::m03_without_opcode_or_pidfds).busy().built_in("it asks for a backend by its name"),
    test!(processes::m04_what_cannot_be_started),
    test!(processes::m05_much_each_way_at_once).busy(),
    test!(processes::m06_kill),
    // It chooses the number of the system's next process.
    test!(processes::m06_number_used_again).alone(),
];

const FALLBACK: &[Test] = &[
    test!(fallback::p01_setup_eperm).chooses(),
    test!(fallback::p01_setup_enosys).chooses(),
    test!(fallback::p01_setup_eacces).chooses(),
    test!(fallback::p01_unknown_names).chooses(),
    test!(fallback::p02_enter_refused).chooses(),
    test!(fallback::p02_register_refused).chooses(),
    test!(fallback::p03_no_locked_memory).chooses(),
    test!(fallback::p04_switched_off).chooses().alone(),
    test!(fallback::p05_backends_agree),
    test!(fallback::p05_masked_opcodes).on(&["io_uring"]),
    test!(fallback::o07_refused_opcodes).on(&["io_uring"]),
    test!(fallback::p06_opt_out_is_complete).on(&["epoll", "poll"]),
    test!(fallback::p09_backends_side_by_side).chooses(),
];

const BATCHES: &[Test] = &[
    test!(batches::l14_sends_and_an_answer),
    test!(batches::l14_links_break_or_hold),
    test!(batches::l14_short_of_all).busy(),
    test!(batches::l14_each_in_its_turn),
    test!(batches::l14_files),
    test!(batches::l14_long_chains).busy(),
    test!(batches::l14_all_or_nothing).built_in(LIMITED),
    test!(batches::l14_batches_end_as_one),
];

const GROUPS: &[Test] = &[
    test!(groups::l15_queue),
    test!(groups::l15_queue_of_many).busy().seconds(10),
    test!(groups::l16_race),
    test!(groups::l16_nested),
    test!(groups::c13_groups_dropped_in_the_batch_that_completes_them),
    test!(groups::c15_storm_of_groups).busy().seconds(10),
    test!(groups::c16_groups_complete_once).busy().seconds(10),
    test!(groups::c18_limits_of_groups),
];

const CLOCKS: &[Test] = &[
    test!(clocks::a02_background_timer),
    test!(clocks::b07_moved_timers_fire_once).busy(),
    test!(clocks::b10_clocks),
    test!(clocks::b10_the_clock_is_set).alone(),
    test!(clocks::b11_stopped_process),
    test!(clocks::b12_no_stale_timeouts).busy().seconds(10),
    test!(clocks::l18_interval),
];

const STREAMS: &[Test] = &[
    test!(streams::items::d21_stream_of_connections).busy(),
    test!(streams::items::d21_stream_of_bytes).busy().seconds(20),
    test!(streams::items::d21_stream_as_an_iterator).busy(),
    test!(streams::buffers::d21_two_streams_share_a_pool).busy(),
    test!(streams::buffers::h12_buffers_run_out),
    test!(streams::buffers::h12_the_hungry_are_fed).busy(),
    test!(streams::buffers::h12_unread_items_are_bounded),
    test!(streams::buffers::c12_dropped_stream_gives_buffers_back).busy().seconds(20),
    test!(streams::endings::c10_dropped_stream_of_connections).busy().seconds(20),
    test!(streams::endings::c13_break_in_a_callback),
    test!(streams::endings::a14_panic_in_a_streams_callback),
    test!(streams::endings::a12_close_in_a_streams_callback),
    test!(streams::endings::h05_no_descriptors_for_a_stream),
    test!(streams::endings::c18_deadline_of_a_stream),
    test!(streams::endings::f04_close_under_a_stream),
    test!(streams::buffers::a09_chunks_outlive_the_loop),
    test!(streams::endings::d13_receives_wait_for_the_streams_end),
    test!(streams::endings::d08_end_races_receiving).busy().seconds(20),
    test!(streams::endings::d08_end_right_behind_the_bytes).busy().seconds(10),
    test!(streams::endings::d11_reset_ends_a_stream),
    test!(streams::items::d03_refused_streams),
    test!(streams::items::p05_streams_are_native_or_not),
    test!(streams::items::n02_streams_share).busy(),
    test!(streams::endings::n05_hang_up_under_a_resting_stream),
    test!(streams::endings::f01_streams_and_numbers).busy().seconds(20),
    test!(streams::items::k03_stream_as_a_future),
    test!(streams::buffers::chunks_are_sent_without_a_copy),
    test!(streams::items::c01_streams_at_random).busy().seconds(20),
];

fn main() -> ExitCode {
    let suite = [
        LIFECYCLE, TIMERS, CLOCKS, CONTRACT, BATCHES, GROUPS, SOCKETS, MESSAGES, FDS, FILES, STREAMS,
        EXHAUSTION, THREADS, POOL, HOSTILE, FAIRNESS, PROCESSES, FALLBACK,
    ]
    .concat();
    towpath_harness::main_with(&suite, &common::own_backends())
}
