//! Calls that would raise SIGPIPE, and have no flag against it.

use std::mem::MaybeUninit;
use std::ptr;

/// Makes a call that moves up to `len` bytes and may raise SIGPIPE, and takes the signal back, whatever its disposition. It
/// is raised with `Err(EPIPE)`, or with what had been moved before.
///
/// The signal is the calling thread's, so that it is enough to block it here. Two system calls more, and one where it may
/// have been raised.
pub(super) fn without_sigpipe(len: usize, call: impl FnOnce() -> Result<i32, i32>) -> Result<i32, i32> {
    let mut pipe = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: the sets are written by these calls before anything reads them.
    let was_blocked = unsafe {
        libc::sigemptyset(pipe.as_mut_ptr());
        libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, pipe.as_ptr(), before.as_mut_ptr());
        libc::sigismember(before.as_ptr(), libc::SIGPIPE) == 1
    };
    let result = call();
    // Who has it blocked already is not hurt, and may have another one pending.
    if !was_blocked {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both sets have been written, `now` is a valid time, and no signal's details are asked for.
        unsafe {
            let raised = match result {
                Ok(n) => n > 0 && (n as usize) < len,
                Err(errno) => errno == libc::EPIPE,
            };
            if raised {
                libc::sigtimedwait(pipe.as_ptr(), ptr::null_mut(), &raw const now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        }
    }
    result
}
