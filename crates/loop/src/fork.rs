//! Knows a forked child without a system call for each question.
//!
//! A child of `fork` inherits the loop's memory and descriptors, but not the right to use them: ring and epoll
//! instance are shared with the parent, and a cancel from the child would hit the parent's operations. So a
//! loop notes its [`Birth`] and asks before each turn whether it is still in the process it was made in. The
//! answer is one relaxed load: a `pthread_atfork` handler counts, in the child, the forks between this process
//! and its first ancestor here.
//!
//! It sees what libc does: `fork`, and so `Command` with a `pre_exec` step. A raw `clone(2)`, `vfork` or
//! `_Fork` runs no handlers and goes unnoticed; of these, only a raw `clone` by hand leaves a child that could
//! reach a loop at all. On Windows nobody forks.

use std::io;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// How many forks lie behind this process since the handler was installed.
#[cfg(unix)]
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Which process something was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    #[cfg(unix)]
    forks: u32,
}

#[cfg(unix)]
impl Birth {
    /// This process, now.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no memory for the handler, which the first call installs.
    pub(crate) fn now() -> io::Result<Birth> {
        static INSTALLED: AtomicBool = AtomicBool::new(false);
        // No `Once`: a fork while another thread is inside it would leave the child waiting for ever. Two
        // threads that both come here first install two handlers; then a fork counts two, which says the same.
        if !INSTALLED.load(Relaxed) {
            // SAFETY: `in_child` may run in a child of a threaded process, where only async-signal-safe code is
            // allowed: it does one atomic addition. It is a plain function, so it is there for as long as this
            // code is (libc drops the handlers of a library that is unloaded).
            let error = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            INSTALLED.store(true, Relaxed);
        }
        Ok(Birth { forks: FORKS.load(Relaxed) })
    }

    /// Whether this process is a forked descendant of the one that made it.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        // Relaxed: the handler runs on the child's only thread, before `fork` returns there.
        FORKS.load(Relaxed) != self.forks
    }
}

#[cfg(unix)]
extern "C" fn in_child() {
    FORKS.fetch_add(1, Relaxed);
}

#[cfg(not(unix))]
impl Birth {
    /// This process, now.
    pub(crate) fn now() -> io::Result<Birth> {
        Ok(Birth {})
    }

    /// Never: there is no fork here.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        false
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Forks; the child ends at once with the number that `check` gives, which is returned.
    fn in_fork(check: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child of this threaded process calls only `check` (below: atomics, `fork`, `waitpid`,
        // `_exit`) and then `_exit`, all async-signal-safe; it never returns into the test harness.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe { libc::_exit(check()) },
            child => {
                assert!(child > 0, "fork: {}", io::Error::last_os_error());
                let mut status = 0;
                // SAFETY: `status` is a valid place for an int; `child` is ours and not yet waited for.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert!(libc::WIFEXITED(status), "the child was killed: {status:#x}");
                libc::WEXITSTATUS(status)
            }
        }
    }

    #[test]
    fn the_child_knows_and_the_parent_is_unmoved() {
        let birth = Birth::now().unwrap();
        assert!(!birth.is_child());
        assert_eq!(in_fork(|| i32::from(birth.is_child())), 1, "the child did not notice");
        assert!(!birth.is_child(), "the parent was told that it is a child");
    }

    #[test]
    fn a_child_can_begin_anew_and_have_children() {
        let old = Birth::now().unwrap();
        let flags = in_fork(|| {
            let Ok(own) = Birth::now() else { return 99 };
            let before = i32::from(own.is_child());
            let grandchild = in_fork(|| i32::from(own.is_child()) << 1 | i32::from(old.is_child()) << 2);
            before | grandchild | i32::from(own.is_child()) << 3
        });
        assert_eq!(flags, 0b0110);
    }
}
