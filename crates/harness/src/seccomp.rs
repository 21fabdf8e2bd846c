//! System call filters: the sandboxes that tests pretend to be in.
//!
//! A filter holds for the calling thread and the threads and processes that it starts, for good.

use std::io;

/// What happens to a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It fails with this `errno`.
    Refuse(i32),
    /// The process is killed, with SIGSYS.
    Kill,
}

/// Which calls of one system call an [`Action`] is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    call: libc::c_long,
    action: Action,
    unless: Option<(u32, u32)>,
}

impl Rule {
    /// All calls of this number.
    pub fn new(call: libc::c_long, action: Action) -> Rule {
        Rule { call, action, unless: None }
    }

    /// But not those whose argument at `index` has these low 32 bits.
    pub fn unless_argument(mut self, index: u32, bits: u32) -> Rule {
        self.unless = Some((index, bits));
        self
    }
}

/// The three system calls of io_uring.
pub const IO_URING: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Puts a filter on this thread.
///
/// # Panics
/// If the kernel refuses.
pub fn install(rules: &[Rule]) {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // Offsets into `struct seccomp_data`: the number, and the low halves of the arguments.
    let argument = |index: u32| 16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 };
    let line = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = Vec::new();
    for rule in rules {
        let verdict = match rule.action {
            Action::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
            Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        };
        program.push(line(LOAD, 0, 0, 0));
        match rule.unless {
            None => program.push(line(IS, 0, 1, rule.call as u32)),
            Some((index, bits)) => {
                program.push(line(IS, 0, 3, rule.call as u32));
                program.push(line(LOAD, 0, 0, argument(index)));
                program.push(line(IS, 1, 0, bits));
            }
        }
        program.push(line(RETURN, 0, 0, verdict));
    }
    program.push(line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `program` describes a valid array of instructions, which the kernel copies during the call.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    assert!(!failed, "seccomp: {}", io::Error::last_os_error());
}

/// Makes system calls fail with an `errno`.
pub fn refuse(calls: &[libc::c_long], errno: i32) {
    install(&calls.iter().map(|call| Rule::new(*call, Action::Refuse(errno))).collect::<Vec<_>>());
}

/// Kills the process on a system call.
pub fn kill_on(calls: &[libc::c_long]) {
    install(&calls.iter().map(|call| Rule::new(*call, Action::Kill)).collect::<Vec<_>>());
}
