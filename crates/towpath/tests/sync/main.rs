//! The synchronisation suite: locks, channels and all that tasks, plain threads and futures wait for each other with, on
//! every backend. The letters and numbers in the tests' names are those of the project's list of behaviours.

mod barrier;
mod broadcast;
mod channels;
#[path = "../conformance/common.rs"]
#[allow(dead_code, reason = "each suite uses a part of it")]
mod common;
mod condvar;
mod dumped;
mod event;
mod futures;
mod latch;
mod linear;
mod mutex;
mod notify;
mod once;
mod oneshot;
mod parties;
mod rwlock;
mod select;
mod semaphore;
mod threads;
mod traits;
mod wakers;

use std::process::ExitCode;

use towpath_harness::{Test, test};

const LOCKS: &[Test] = &[
    test!(mutex::l01_mutual_exclusion).busy(),
    test!(mutex::l01_fifo_among_those_who_wait),
    test!(mutex::l01_a_woken_waiter_is_overtaken_once),
    test!(mutex::l01_poisoning),
    test!(mutex::l02_timeout_races_unlock).busy(),
    test!(mutex::l04_cancelled_as_it_is_handed_over).busy(),
    test!(mutex::l14_many_waiters).busy(),
    test!(mutex::futures_that_are_dropped).busy(),
];

const RWLOCKS: &[Test] = &[
    test!(rwlock::l02_timeout_races_unlock).busy(),
    test!(rwlock::l06_readers_or_one_writer).busy(),
    test!(rwlock::l06_readers_and_writers_take_turns),
    test!(rwlock::l06_nobody_starves),
    test!(rwlock::l06_a_writer_that_gives_up_lets_readers_in),
    test!(rwlock::l06_cancelled_as_it_is_let_in).busy(),
    test!(rwlock::l06_poisoning),
    test!(rwlock::l14_many_readers).busy(),
    test!(rwlock::l14_wakers_that_lock).busy(),
];

const CONDVARS: &[Test] = &[
    test!(condvar::l07_no_notification_is_lost).busy(),
    test!(condvar::l07_in_order_and_not_kept),
    test!(condvar::l07_cancelling_ends_no_wait),
    test!(condvar::l07_cancelled_as_it_is_notified).busy(),
    test!(condvar::l07_a_dropped_future_passes_it_on).busy(),
    test!(condvar::l07_timeouts),
    test!(condvar::l07_with_two_locks),
    test!(condvar::l07_poisoning),
    test!(condvar::l07_a_waker_that_panics).busy(),
    test!(condvar::l14_many_waiters).busy(),
];

const ONCE: &[Test] = &[
    test!(once::one_does_it_and_all_see_it).busy(),
    test!(once::tasks_wait_for_a_task),
    test!(once::poisoning),
    test!(once::a_value_that_could_not_be_made),
    test!(once::as_stds).busy(),
    test!(traits::auto_traits).busy(),
    test!(dumped::r12_what_is_waited_for_by_name).busy(),
];

const PERMITS: &[Test] = &[
    test!(semaphore::l04_cancelled_as_it_is_given).busy(),
    test!(semaphore::l05_impossible_numbers),
    test!(semaphore::l05_big_waiters_are_not_starved),
    test!(semaphore::a_big_waiter_that_leaves_lets_the_small_ones_by),
    test!(semaphore::closing_refuses_all),
    test!(event::l12_set_and_reset).busy(),
    test!(event::l12_reset_lets_go_those_who_waited),
    test!(event::l12_timeout_or_wake).busy(),
    test!(event::l14_many_waiters).busy(),
    test!(barrier::l13_meetings_again_and_again).busy(),
    test!(barrier::l13_one_who_gives_up_is_not_counted),
    test!(barrier::l13_cancelled_as_they_meet).busy(),
    test!(barrier::l14_many_meet).busy(),
    test!(notify::l12_one_permit_is_kept),
    test!(notify::l12_in_order),
    test!(notify::l12_the_permit_is_neither_lost_nor_doubled).busy(),
    test!(notify::l12_cancelled_as_it_is_notified).busy(),
    test!(notify::l12_futures_that_are_dropped).busy(),
    test!(notify::l14_many_waiters).busy(),
    test!(latch::l12_all_have_arrived).busy(),
    test!(latch::l12_counting),
    test!(latch::l14_many_waiters).busy(),
];

const CHANNELS: &[Test] = &[
    test!(channels::l09_each_message_once_and_in_order).busy(),
    test!(channels::l09_senders_get_their_messages_back).busy(),
    test!(channels::l09_receivers_learn_of_the_end),
    test!(channels::l09_bounds),
    test!(channels::l04_cancelled_as_a_message_comes).busy(),
    test!(channels::l14_many_waiters).busy(),
    test!(channels::cancelled_tasks),
    test!(channels::futures_that_are_dropped),
];

const MESSAGES: &[Test] = &[
    test!(oneshot::l08_ends_that_go),
    test!(oneshot::l08_sending_races_receiving).busy(),
    test!(oneshot::l04_cancelled_as_it_is_sent).busy(),
    test!(oneshot::cancelled_and_dropped),
    test!(broadcast::l10_lag_is_counted_exactly).busy(),
    test!(broadcast::l10_receivers_come_and_go),
    test!(broadcast::clones_that_panic),
    test!(broadcast::watching_the_last_value).busy(),
    test!(broadcast::watch_in_full),
    test!(broadcast::cancelled_and_dropped),
    test!(broadcast::receivers_of_all_kinds),
];

const HISTORIES: &[Test] = &[
    test!(linear::l15_channels_are_queues).busy(),
    test!(linear::l15_locks_exclude).busy(),
    test!(linear::l15_permits_are_counted).busy(),
    test!(linear::l15_the_check_can_fail),
];

const SELECT: &[Test] = &[
    test!(futures::k01_block_on),
    test!(futures::k01_block_on_after_another_loop).busy(),
    test!(futures::k01_waits_in_a_callback),
    test!(futures::k01_wakes_are_not_lost).busy(),
    test!(futures::k02_in_a_foreign_executor),
    test!(futures::r09_select_with_operations_on_a_plain_thread),
    test!(select::l11_fair_over_64_channels).busy(),
    test!(select::l11_nothing_is_lost_or_taken_twice).busy(),
    test!(select::k06_losers_leave_nothing_behind).busy(),
    test!(select::sending_to_and_receiving_from_one_channel),
    test!(select::every_case),
    test!(select::locks_notifications_and_latches),
    test!(select::operations_lose_no_byte),
    test!(select::times),
    test!(select::cancelled_selects).busy(),
    test!(select::forms),
    test!(select::wakers_that_outlive_the_select).busy(),
];

const WAKERS: &[Test] = &[
    test!(wakers::a_waker_that_lets_the_others_end).busy(),
    test!(wakers::one_that_waits_for_a_task_of_another_thread),
    test!(wakers::one_that_panics_harms_nobody).busy(),
    test!(wakers::one_that_panics_as_a_case_loses).busy(),
    test!(wakers::one_that_rings_at_once).busy(),
    test!(threads::thread_local_destructors_wait),
];

fn main() -> ExitCode {
    towpath_harness::main(
        &[LOCKS, RWLOCKS, CONDVARS, ONCE, PERMITS, CHANNELS, MESSAGES, SELECT, WAKERS, HISTORIES].concat(),
    )
}
