//! The signal, and what its handler brings.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The words of a stack that are copied at most, from the innermost.
const WORDS: usize = 16 * 1024;
/// How long a thread has to answer. One that the kernel does not run for so long is no news.
const PATIENCE: Duration = Duration::from_millis(200);

/// A thread at one moment.
#[derive(Clone)]
pub(super) struct Picture {
    /// The program counter.
    pub(super) ip: u64,
    pub(super) sp: u64,
    /// The frame pointer, or what the register is used for instead.
    pub(super) fp: u64,
    /// The link register, where there is one.
    #[cfg_attr(target_arch = "x86_64", expect(dead_code, reason = "of other architectures"))]
    pub(super) lr: u64,
    /// From `sp` upwards.
    pub(super) stack: Vec<u64>,
}

/// What the handler writes to.
struct Board {
    /// Who may touch the rest: see below.
    state: AtomicU32,
    /// The thread that is asked.
    thread: AtomicI32,
    answer: UnsafeCell<Answer>,
}

struct Answer {
    ip: u64,
    sp: u64,
    fp: u64,
    lr: u64,
    len: usize,
    words: [u64; WORDS],
}

/// Nobody asks, or it has been answered and read: the answer is the asker's, of whom there is one at a time (`ASKER`).
const IDLE: u32 = 0;
/// The answer is the handler's that changes this to `WRITING`.
const ASKED: u32 = 1;
/// It is that handler's.
const WRITING: u32 = 2;
/// It is the asker's again.
const ANSWERED: u32 = 3;

// SAFETY: the answer has one owner at any time, by `state`.
unsafe impl Sync for Board {}

static BOARD: Board = Board {
    state: AtomicU32::new(IDLE),
    thread: AtomicI32::new(0),
    answer: UnsafeCell::new(Answer { ip: 0, sp: 0, fp: 0, lr: 0, len: 0, words: [0; WORDS] }),
};

static ASKER: Mutex<()> = Mutex::new(());

/// A picture of a thread of this process. `None` if it does not answer in time, does not run on a coroutine's
/// stack, or the signal belongs to somebody else.
pub(super) fn ask(thread: i32) -> Option<Picture> {
    if thread == 0 || !install() {
        return None;
    }
    let _asker = ASKER.lock().unwrap_or_else(PoisonError::into_inner);
    BOARD.thread.store(thread, Ordering::Relaxed);
    BOARD.state.store(ASKED, Ordering::Release);
    // SAFETY: no pointers. If the thread has gone meanwhile, and another has its number, that one is not on a
    // coroutine's stack or says where it is: a handler there does no harm.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, number()) } == 0;
    let until = Instant::now() + PATIENCE;
    while sent && BOARD.state.load(Ordering::Acquire) != ANSWERED && Instant::now() < until {
        thread::sleep(Duration::from_micros(100));
    }
    // A handler that has begun is about to end.
    while BOARD.state.compare_exchange(ASKED, IDLE, Ordering::AcqRel, Ordering::Acquire) == Err(WRITING) {
        thread::yield_now();
    }
    if BOARD.state.swap(IDLE, Ordering::AcqRel) != ANSWERED {
        return None;
    }
    // SAFETY: answered, so that it is the asker's, who is here.
    let answer = unsafe { &*BOARD.answer.get() };
    let stack = answer.words[..answer.len].to_vec();
    (answer.len > 0).then_some(Picture { ip: answer.ip, sp: answer.sp, fp: answer.fp, lr: answer.lr, stack })
}

fn number() -> c_int {
    libc::SIGRTMAX() - 1
}

/// Installs the handler, once, if nobody else has one. False if somebody does.
fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`: the default action, no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: asks only.
        if unsafe { libc::sigaction(number(), ptr::null(), &raw mut action) } != 0
            || action.sa_sigaction != libc::SIG_DFL
        {
            return false;
        }
        let handler: unsafe extern "C" fn(_, _, _) = on_signal;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: `on_signal` has the signature that SA_SIGINFO calls for, and does only what a handler may.
        unsafe { libc::sigaction(number(), &raw const action, ptr::null_mut()) == 0 }
    })
}

/// The handler. Atomics, one system call that cannot fail, and copying.
///
/// # Safety
/// Called by the kernel.
unsafe extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: no pointers.
    let here = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    if BOARD.thread.load(Ordering::Relaxed) != here
        || BOARD.state.compare_exchange(ASKED, WRITING, Ordering::AcqRel, Ordering::Relaxed).is_err()
    {
        return;
    }
    // SAFETY: `WRITING` makes it this handler's.
    let answer = unsafe { &mut *BOARD.answer.get() };
    // SAFETY: the kernel's, by `SA_SIGINFO`.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    {
        let registers = &context.uc_mcontext.gregs;
        answer.ip = registers[libc::REG_RIP as usize] as u64;
        answer.sp = registers[libc::REG_RSP as usize] as u64;
        answer.fp = registers[libc::REG_RBP as usize] as u64;
    }
    #[cfg(target_arch = "aarch64")]
    {
        let registers = &context.uc_mcontext;
        (answer.ip, answer.sp) = (registers.pc, registers.sp);
        (answer.fp, answer.lr) = (registers.regs[29], registers.regs[30]);
    }
    answer.len = 0;
    let sp = answer.sp as usize;
    if sp.is_multiple_of(size_of::<u64>())
        && let Some(stack) = towpath_coro::stack_around(sp)
    {
        let from: *const u64 = ptr::with_exposed_provenance(sp);
        answer.len = ((stack.end - sp) / size_of::<u64>()).min(WORDS);
        // SAFETY: this thread runs on that stack, which is therefore mapped, readable from its limit to its base, and used by
        // nobody else; the words are the handler's, and are enough.
        unsafe { copy(from, answer.words.as_mut_ptr(), answer.len) };
    }
    BOARD.state.store(ANSWERED, Ordering::Release);
}

/// Copies words whatever they belong to. In assembly, since they are other frames' variables, padding, and what a sanitizer
/// has put between them, of which the compiler is not to think anything.
///
/// # Safety
/// `from` is readable and `to` writable for so many words.
unsafe fn copy(from: *const u64, to: *mut u64, words: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise. The direction flag is clear, as everywhere in Rust.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            inout("rcx") words => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's promise.
    unsafe {
        std::arch::asm!(
            "2: cbz {words}, 3f",
            "ldr {word}, [{from}], #8",
            "str {word}, [{to}], #8",
            "sub {words}, {words}, #1",
            "b 2b",
            "3:",
            words = inout(reg) words => _, from = inout(reg) from => _, to = inout(reg) to => _, word = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn who_runs_on_no_coroutine_is_not_pictured() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(ask(thread).is_none());
        assert!(ask(0).is_none());
        // Another process's.
        assert!(ask(1).is_none());
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ESRCH));
    }
}
