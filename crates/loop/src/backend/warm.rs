//! Reads of files that need not wait, because what they ask for is in memory.
//!
//! A file on a disk is always "ready", so readiness says nothing about it, and a thread (or a turn through a ring) for
//! each read costs more than the read itself when the page is cached. `RWF_NOWAIT` asks for what is there and no more.

use rustix::fs::SeekFrom;
use rustix::io::{Errno, ReadWriteFlags};

use super::attempt::borrow;
use super::files::slices_mut;
use crate::operation::{CURSOR, Handle, Request};

/// Reads at once what can be read at once.
#[derive(Default)]
pub(crate) struct Warm {
    /// By descriptor number: the identity of a file that does not know how. Bounded by the numbers in use.
    unwilling: Vec<u64>,
}

impl Warm {
    /// The result of a read of a file, if it need not wait.
    ///
    /// A read at an offset that got a part only is given up, so that it comes out whole, as files are read; at the
    /// cursor, which has moved, the part is the result.
    ///
    /// # Safety
    /// As for [`Backend::attempt`](super::Backend::attempt).
    pub(crate) unsafe fn attempt(&mut self, request: &Request, syscalls: &mut u64) -> Option<i32> {
        let Request::Read { handle, vectors, count, at } = *request else { return None };
        let number = usize::try_from(handle.fd).ok()?;
        if handle.identity != 0 && self.unwilling.get(number) == Some(&handle.identity) {
            return None;
        }
        // SAFETY: passed on from this function's own contract.
        let vectors = unsafe { slices_mut(vectors, count) };
        let wanted: usize = vectors.iter().map(|vector| vector.len()).sum();
        *syscalls += 1;
        match rustix::io::preadv2(borrow(handle).ok()?, vectors, at, ReadWriteFlags::NOWAIT) {
            Ok(n) if n == wanted || (at == CURSOR && n > 0) => Some(n as i32),
            // The end of the file, or of what is in memory. (Linux 5.9 and 5.10 say 0 for the latter.)
            Ok(n) => {
                *syscalls += if at == CURSOR { 2 } else { 1 };
                is_end(handle, at, n as u64).then_some(n as i32)
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                if handle.identity != 0 {
                    if number >= self.unwilling.len() {
                        self.unwilling.resize(number + 1, 0);
                    }
                    self.unwilling[number] = handle.identity;
                }
                None
            }
            // Whatever else it is, asked without haste it will be the same.
            Err(_) => None,
        }
    }
}

/// Whether a file ends after the `n` bytes that were read at `at`.
fn is_end(handle: Handle, at: u64, n: u64) -> bool {
    let Ok(file) = borrow(handle) else { return false };
    let at = match at {
        CURSOR => rustix::fs::seek(file, SeekFrom::Current(0)).ok(),
        at => at.checked_add(n),
    };
    let size = rustix::fs::fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
    // Some files have no size, and content all the same.
    matches!((at, size), (Some(at), Some(size)) if size > 0 && at >= size)
}
