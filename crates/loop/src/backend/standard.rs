//! Descriptors of the loop's own keep clear of the standard streams.
//!
//! A new descriptor gets the lowest free number. `std` opens what it finds closed of 0, 1 and 2 before `main`; but a program may
//! close them later, and who then prints a message, or puts `/dev/null` in their places as daemons do, must not hit a ring.

use std::os::fd::{AsRawFd, OwnedFd};

/// The first number behind those of the standard streams.
const FIRST: i32 = 3;

/// Whether a descriptor has a number that is a standard stream's.
pub(crate) fn is_standard(fd: &impl AsRawFd) -> bool {
    fd.as_raw_fd() < FIRST
}

/// The same descriptor, close-on-exec, by another number if it had a standard stream's.
///
/// # Errors
/// `EMFILE`.
pub(crate) fn clear_of_standard(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    Ok(if is_standard(&fd) { rustix::io::fcntl_dupfd_cloexec(&fd, FIRST)? } else { fd })
}
