//! Interrupting a system call of another thread.
//!
//! A signal with a handler that does nothing, installed without `SA_RESTART`, makes what blocks fail with `EINTR`. The
//! signal is `SIGURG`, which nearly nobody uses and whose default is to be ignored, so that a stray one does no harm.
//!
//! The handler is installed when something running is first cancelled, and stays. One that was there before is called by
//! it. Whoever installs a handler for `SIGURG` later takes the interruptions away unless it
//! is without `SA_RESTART`: cancelled system calls then end when they end.

use std::ptr;
use std::sync::OnceLock;

const SIGNAL: libc::c_int = libc::SIGURG;

/// A thread, for as long as it lives.
pub(super) struct Thread(libc::pid_t);

impl Thread {
    pub(super) fn current() -> Thread {
        Thread(rustix::thread::gettid().as_raw_nonzero().get())
    }

    /// Interrupts what it is blocked in, if it is. It has to be alive.
    pub(super) fn interrupt(&self) {
        install();
        // SAFETY: no pointers. The thread is one of this process, so at worst the signal interrupts the wrong call.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGNAL) };
    }
}

/// Lets the calling thread be interrupted, whatever its creator had blocked.
pub(super) fn allow() {
    // SAFETY: the set is initialised by `sigemptyset` before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
}

/// The handler that was there before, if it was one.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

fn install() {
    BEFORE.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`: the default action, no flags.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both actions are valid, and the handler is async-signal-safe: it makes no system call and takes no lock
        // (`OnceLock::get` is a load) but in what it calls, which was a handler before.
        unsafe {
            libc::sigaction(SIGNAL, ptr::null(), &mut before);
            let handler: extern "C" fn(_, _, _) = on_signal;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(SIGNAL, &action, ptr::null_mut());
        }
        let real = before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN;
        real.then_some(before)
    });
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(Some(before)) = BEFORE.get() else { return };
    // SAFETY: it was installed as the handler of this signal, with the signature that its flags tell.
    unsafe {
        if before.sa_flags & libc::SA_SIGINFO != 0 {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            std::mem::transmute::<libc::sighandler_t, Handler>(before.sa_sigaction)(signal, info, context);
        } else {
            type Handler = extern "C" fn(libc::c_int);
            std::mem::transmute::<libc::sighandler_t, Handler>(before.sa_sigaction)(signal);
        }
    }
}
