//! Forked children, and what a process prints.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::sys;

/// How a forked child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By itself, with this code. 101 is a panic.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A forked child that was not waited for.
#[derive(Debug)]
pub struct Forked(Pid);

/// Runs `body` in a forked child, on a copy of this thread, and ends it with the code that `body` returns.
///
/// Only this thread exists there, and no destructor runs but those of `body`.
///
/// # Panics
/// If the system refuses to fork.
pub fn fork(body: impl FnOnce() -> i32) -> Forked {
    io::stdout().flush().expect("stdout");
    // SAFETY: the child runs `body` on this thread's copy and then `_exit`. It may allocate: glibc and musl make
    // their allocators usable in the child of a threaded process. Locks that other threads held stay held; tests
    // have no such threads when they fork.
    match unsafe { libc::fork() } {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends the process at once, which is what is wanted of a child.
            unsafe { libc::_exit(code) }
        }
        pid => Forked(Pid::from_raw(pid).filter(|_| pid > 0).expect("fork")),
    }
}

/// [`fork`], and waits for the child.
pub fn in_child(body: impl FnOnce() -> i32) -> Ended {
    fork(body).wait()
}

impl Forked {
    /// Its process id.
    pub fn id(&self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If somebody else did.
    pub fn wait(self) -> Ended {
        loop {
            match waitpid(Some(self.0), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(Some((_, status))) => {
                    let signal = status.terminating_signal().map(Ended::Signal);
                    return signal.unwrap_or_else(|| Ended::Code(status.exit_status().unwrap_or(-1)));
                }
                other => panic!("waitpid: {other:?}"),
            }
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit code {code}"),
            Ended::Signal(signal) => f.write_str(&sys::signal_name(*signal)),
        }
    }
}

/// Runs `body` and returns what this process wrote to its stderr meanwhile.
///
/// # Panics
/// If the system refuses a file.
pub fn stderr_of<T>(body: impl FnOnce() -> T) -> (T, String) {
    stderr_while(|_| body())
}

/// [`stderr_of`], where `body` can look at what was written so far.
///
/// # Panics
/// As `stderr_of`.
pub fn stderr_while<T>(body: impl FnOnce(&Transcript) -> T) -> (T, String) {
    // SAFETY: a name that ends with NUL.
    let file = unsafe { libc::memfd_create(c"stderr".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(file >= 0, "memfd_create: {}", io::Error::last_os_error());
    // SAFETY: it was just opened, and is nobody else's.
    let transcript = Transcript(unsafe { File::from_raw_fd(file) });
    let saved = rustix::io::dup(io::stderr()).expect("dup");
    redirect(transcript.0.as_fd());
    let result = catch_unwind(AssertUnwindSafe(|| body(&transcript)));
    redirect(saved.as_fd());
    match result {
        Ok(value) => (value, transcript.text()),
        Err(panic) => {
            eprint!("{}", transcript.text());
            std::panic::resume_unwind(panic)
        }
    }
}

/// What was written to stderr.
pub struct Transcript(File);

impl Transcript {
    /// All of it so far.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn text(&self) -> String {
        let mut bytes = vec![0; self.0.metadata().expect("a file").len() as usize];
        self.0.read_exact_at(&mut bytes, 0).expect("it only grows");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn redirect(to: std::os::fd::BorrowedFd<'_>) {
    // SAFETY: both are open descriptors; 2 stays open throughout, it only refers to something else.
    assert!(unsafe { libc::dup2(to.as_raw_fd(), 2) } == 2, "dup2: {}", io::Error::last_os_error());
}

/// Sets or removes an environment variable of this process.
pub fn set_env(name: &str, value: Option<&str>) {
    // SAFETY: a test's process has two threads when this is called: the test's own and the one that waits for it,
    // which does not read the environment.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
}

/// A setting under `/proc/sys`, put back to what it was when dropped.
///
/// Such a setting is the whole machine's. A lock on it makes other test processes that [`hold`](Sysctl::hold) it wait,
/// and a process of its own puts it back, also where this one is killed.
#[derive(Debug)]
pub struct Sysctl(Child);

impl Sysctl {
    /// Writes `value` to the file. For tests that run [`alone`](crate::Test::alone): all others hold the settings.
    ///
    /// # Errors
    /// The system's, if it may not be read or written; `EWOULDBLOCK` if tests of other suites are running all the
    /// while, for three seconds.
    pub fn set(path: &str, value: &str) -> io::Result<Sysctl> {
        let lock = File::open(path)?;
        let deadline = Instant::now() + crate::patience(Duration::from_secs(3));
        while let Err(error) = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        {
            if error != rustix::io::Errno::WOULDBLOCK || Instant::now() >= deadline {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = std::fs::read_to_string(path)?;
        // It waits for the end of its input, which comes with the end of this process at the latest. The lock is its
        // stdout, and so held until it has ended.
        let guardian = Command::new("/bin/sh")
            .args(["-c", "cat > /dev/null; printf %s \"$1\" > \"$2\"", "sh", before.trim_end(), path])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(lock)
            .spawn()?;
        let set = Sysctl(guardian);
        std::fs::write(path, value)?;
        Ok(set)
    }

    /// Keeps the setting as it is while the returned file is open: nobody's [`set`](Sysctl::set) comes in between.
    ///
    /// # Errors
    /// The system's, if there is no such setting.
    pub fn hold(path: &str) -> io::Result<File> {
        let lock = File::open(path)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared)?;
        Ok(lock)
    }
}

/// Where the kernel keeps whether io_uring is switched off.
pub const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

impl Drop for Sysctl {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        match self.0.wait() {
            Ok(status) if status.success() => {}
            other => eprintln!("a setting of this machine could not be put back: {other:?}"),
        }
    }
}
