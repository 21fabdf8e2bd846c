//! Hand-written on io_uring, without a runtime: one thread, multishot accepts and receives, buffers that the kernel
//! picks, sockets in the ring's own table of descriptors.

mod buffers;
mod datagrams;
mod streams;

use std::io;

use io_uring::{IoUring, SubmissionQueue, Submitter, squeue};

use crate::protocol::Service;
use crate::{Options, Serving};

pub fn run(options: &Options) -> Serving {
    match options.service {
        Service::Udp => datagrams::run(),
        service => streams::run(service),
    }
}

fn ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(16 << 10)
        .build(1024)
}

/// Hands over what is queued, and waits for a completion.
fn wait(submitter: &Submitter<'_>, sq: &mut SubmissionQueue<'_>) -> io::Result<()> {
    sq.sync();
    match submitter.submit_and_wait(1) {
        // Busy: there are completions to be taken first.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Err(error),
        _ => {
            sq.sync();
            Ok(())
        }
    }
}

/// Queues an operation; where there is no room, hands over what is queued before.
///
/// # Safety
/// What the entry points to stays valid until it completes.
unsafe fn push(
    submitter: &Submitter<'_>,
    sq: &mut SubmissionQueue<'_>,
    entry: &squeue::Entry,
) -> io::Result<()> {
    // SAFETY: the caller's promise.
    while unsafe { sq.push(entry) }.is_err() {
        sq.sync();
        submitter.submit()?;
        sq.sync();
    }
    Ok(())
}
