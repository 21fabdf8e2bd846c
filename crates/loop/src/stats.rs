//! What a loop has done so far.

/// Counts since the loop was made. See [`Loop::stats`](crate::Loop::stats).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Operations begun.
    pub submitted: u64,
    /// Operations completed, whatever their outcome; delivered or about to be.
    pub completed: u64,
    /// Operations asked to end, by a caller or a deadline.
    pub canceled: u64,
    /// Ticks.
    pub ticks: u64,
    /// Operations in flight now.
    pub in_flight: usize,
    /// Timers and time-outs armed now.
    pub timers: usize,
    /// System calls made on the loop's thread.
    pub syscalls: u64,
    /// System calls made by other threads to wake it.
    pub rings: u64,
    /// Threads of the process's blocking pool now.
    pub pool_threads: usize,
    /// Jobs that wait for one of them now.
    pub pool_queued: usize,
}
