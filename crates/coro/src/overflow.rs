//! Stack overflow that says so: a handler for faults that knows the guards of all stacks.
//!
//! A coroutine that runs off its stack touches the guard below it. The handler, on the thread's alternate signal stack,
//! looks the address up, names the coroutine, and aborts:
//!
//! ```text
//! coroutine 'parser' has overflowed its stack (256 KiB); raise it with Builder::stack_size or move large values to the heap
//! ```
//!
//! Any other fault goes to whoever handled it before: std, which knows the stacks of threads, or the program.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::alt_stack;
use crate::registry::{self, Hit};

/// Installs the overflow handler for the process, once, and makes sure that the calling thread has an alternate signal
/// stack for it to run on.
///
/// Everything in this crate that makes a stack or a coroutine calls it; call it yourself only to decide when it takes
/// its place among other handlers. A handler that is installed later replaces it, and should pass on what it does not
/// know.
///
/// # Errors
///
/// What `sigaction`, or `sigaltstack` and `mmap` for a thread that std did not start, say.
///
/// ```
/// towpath_coro::overflow::install()?;
/// towpath_coro::overflow::install()?; // does nothing more
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        SIGNALS.iter().try_for_each(Signal::install).map_err(|e| e.raw_os_error().unwrap_or(libc::EINVAL))
    });
    installed.map_err(io::Error::from_raw_os_error)?;
    ensure_alt_stack()
}

/// Makes sure that the calling thread has an alternate signal stack, without which an overflow on it is a bare
/// `SIGSEGV`. Threads that std started have one.
///
/// Creating a coroutine does this already, on the thread that will run it.
///
/// # Errors
///
/// What `sigaltstack` and `mmap` say.
#[inline]
pub fn ensure_alt_stack() -> io::Result<()> {
    alt_stack::ensure()
}

/// The signals that a guard may raise: `SIGSEGV` everywhere, and `SIGBUS` as well on macOS and some BSDs.
#[cfg(any(target_os = "linux", target_os = "android"))]
static SIGNALS: [Signal; 1] = [Signal::new(libc::SIGSEGV)];
#[cfg(not(any(target_os = "linux", target_os = "android")))]
static SIGNALS: [Signal; 2] = [Signal::new(libc::SIGSEGV), Signal::new(libc::SIGBUS)];

/// One signal, and what was there before us.
struct Signal {
    number: c_int,
    /// Set before our handler is, and never changed: the handler may read it.
    before: OnceLock<libc::sigaction>,
    /// The earlier handler wanted to be called once (`SA_RESETHAND`) and was.
    spent: AtomicBool,
}

impl Signal {
    const fn new(number: c_int) -> Signal {
        Signal { number, before: OnceLock::new(), spent: AtomicBool::new(false) }
    }

    fn install(&self) -> io::Result<()> {
        // Asked first and set second, so that the handler never runs without knowing whom to pass a fault on to.
        let mut before = default_action();
        // SAFETY: asks for the present action only; `before` is valid for the write.
        if unsafe { libc::sigaction(self.number, ptr::null(), &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // Of two attempts (the first of which failed half-way), both read the same.
        let _ = self.before.set(before);

        let mut action = default_action();
        action.sa_sigaction = on_fault as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `on_fault` has the signature that SA_SIGINFO calls for and does only what a handler may.
        if unsafe { libc::sigaction(self.number, &raw const action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Does with a fault what would have been done without us. Async-signal-safe as far as the earlier handler is.
    ///
    /// # Safety
    ///
    /// To be called from the handler of `self.number`, with its arguments.
    unsafe fn pass_on(&self, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let Some(before) = self.before.get() else {
            // SAFETY: passed on from the caller.
            return unsafe { self.die(info) };
        };
        // SAFETY: the kernel hands the handler a valid `siginfo_t`.
        let sent = unsafe { (*info).si_code } <= 0;
        match before.sa_sigaction {
            libc::SIG_IGN if sent => {}
            // The kernel does not let a real fault be ignored either.
            // SAFETY: passed on from the caller.
            libc::SIG_DFL | libc::SIG_IGN => unsafe { self.die(info) },
            // SAFETY: as above.
            _ if self.spent.load(Ordering::Relaxed) => unsafe { self.die(info) },
            handler => {
                if before.sa_flags & libc::SA_RESETHAND != 0 {
                    self.spent.store(true, Ordering::Relaxed);
                }
                // Its mask, as the kernel would have set it. Returning from the signal restores the old one.
                // SAFETY: valid signal sets; `pthread_sigmask` is async-signal-safe.
                unsafe {
                    libc::pthread_sigmask(libc::SIG_BLOCK, &raw const before.sa_mask, ptr::null_mut());
                    if before.sa_flags & libc::SA_NODEFER != 0 {
                        let mut this = mem::zeroed();
                        libc::sigemptyset(&raw mut this);
                        libc::sigaddset(&raw mut this, self.number);
                        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const this, ptr::null_mut());
                    }
                }
                if before.sa_flags & libc::SA_SIGINFO != 0 {
                    // SAFETY: with SA_SIGINFO the field holds a function of this signature; who installed it
                    // answers for it.
                    unsafe { mem::transmute::<usize, HandlerWithInfo>(handler)(self.number, info, context) }
                } else {
                    // SAFETY: without SA_SIGINFO, of this one.
                    unsafe { mem::transmute::<usize, PlainHandler>(handler)(self.number) }
                }
            }
        }
    }

    /// Lets the signal have its default effect, which ends the process.
    ///
    /// # Safety
    ///
    /// As [`Signal::pass_on`].
    #[cold]
    unsafe fn die(&self, info: *mut libc::siginfo_t) {
        // SAFETY: the default action is a valid one, and `sigaction` and `raise` are async-signal-safe.
        unsafe {
            libc::sigaction(self.number, &default_action(), ptr::null_mut());
            // A real fault happens again when we return, with the right address for a debugger or core file. One that
            // was sent has to be sent again; it is delivered on return, for now it is blocked.
            if (*info).si_code <= 0 {
                libc::raise(self.number);
            }
        }
    }
}

type HandlerWithInfo = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);
type PlainHandler = unsafe extern "C" fn(c_int);

/// `SIG_DFL` with an empty mask.
fn default_action() -> libc::sigaction {
    // SAFETY: `sigaction` is made of integers and nullable pointers; zero is SIG_DFL, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = libc::SIG_DFL;
    action
}

/// The handler. Takes no lock, allocates nothing, uses no thread-local.
///
/// # Safety
///
/// Called by the kernel.
unsafe extern "C" fn on_fault(number: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid `siginfo_t`; `si_addr` is read only for a real fault (positive code).
    let address = unsafe { if (*info).si_code > 0 { Some((*info).si_addr().addr()) } else { None } };
    if let Some(hit) = address.and_then(registry::find) {
        // A wild pointer can hit a guard too. It is an overflow if the stack pointer is in the same slot; and then
        // this thread runs on that stack, so that its slab, and the name in it, cannot go away meanwhile.
        // SAFETY: `context` is the kernel's.
        let stack_pointer = unsafe { stack_pointer(context) };
        if stack_pointer.is_none_or(|sp| (hit.bottom..=hit.base).contains(&sp)) {
            report(&hit);
            // SAFETY: `abort` is async-signal-safe and does not return.
            unsafe { libc::abort() }
        }
    }
    if let Some(signal) = SIGNALS.iter().find(|signal| signal.number == number) {
        // SAFETY: we are the handler of this signal, and these are its arguments.
        unsafe { signal.pass_on(info, context) }
    }
}

/// The stack pointer at the fault, where we know how to find it.
///
/// # Safety
///
/// `context` must be what the kernel gave a handler with `SA_SIGINFO`.
unsafe fn stack_pointer(context: *mut libc::c_void) -> Option<usize> {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    ))]
    {
        let context = context.cast::<libc::ucontext_t>();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a valid `ucontext_t`, by the caller's promise.
        let sp = unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize;
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        let sp = unsafe { (*context).uc_mcontext.sp } as usize;
        #[cfg(target_arch = "riscv64")]
        // SAFETY: as above.
        let sp = unsafe { (*context).uc_mcontext.__gregs[libc::REG_SP] } as usize;
        Some(sp)
    }
    #[cfg(not(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    )))]
    {
        let _ = context;
        None
    }
}

/// Says what happened, by one `write`.
fn report(hit: &Hit) {
    let mut text = Text::default();
    // SAFETY: the slab is alive: this thread is running on one of its stacks (see `on_fault`).
    let (name, len) = unsafe { (*hit.name).get() };
    text.push(b"\ncoroutine '");
    text.push(if len == 0 { b"<unnamed>" } else { &name[..len] });
    text.push(b"' has overflowed its stack (");
    text.push_number(hit.size / 1024);
    text.push(b" KiB); raise it with Builder::stack_size or move large values to the heap\n");
    // SAFETY: `write` is async-signal-safe; pointer and length describe the buffer. There is nobody to tell about a
    // failure.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.bytes.as_ptr().cast(), text.len);
    }
}

/// A message put together without allocating. What does not fit is cut.
struct Text {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text { bytes: [0; 256], len: 0 }
    }
}

impl Text {
    fn push(&mut self, more: &[u8]) {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(more) {
            *to = *from;
            self.len += 1;
        }
    }

    fn push_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_put_together_and_cut() {
        let mut text = Text::default();
        text.push(b"a ");
        text.push_number(0);
        text.push(b" ");
        text.push_number(usize::MAX);
        assert_eq!(&text.bytes[..text.len], format!("a 0 {}", usize::MAX).as_bytes());
        text.push(&[b'x'; 1000]);
        assert_eq!(text.len, 256);
    }
}
