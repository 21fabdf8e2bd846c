//! Where a thread is that runs and cannot be asked: a task that holds its worker.
//!
//! The thread is sent a signal. The handler copies its registers and the top of the stack that they point to into a buffer
//! that is there already, and returns: no lock, no allocation, no unwinding, nothing of the thread's own is looked at but
//! those bytes. Whoever asked then unwinds the copy at leisure, reading nothing else, with tables that were
//! copied as well ([`unwind`]): whatever is wrong with either, the worst that comes of it is a wrong name.
//!
//! The signal is the last real-time one but one, unless the program uses that: then nothing can be told. It interrupts system
//! calls of the task as any signal does (`SA_RESTART` is set), and is only sent to a task that has held its worker for long.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod signal;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod unwind;

/// The addresses of the calls that a thread of this process is in, innermost first, if it runs on a coroutine's stack and
/// answers in time.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn addresses(thread: i32) -> Option<Vec<usize>> {
    let picture = signal::ask(thread)?;
    Some(unwind::unwind(&picture))
}

/// Not known how to here.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) fn addresses(_: i32) -> Option<Vec<usize>> {
    None
}
