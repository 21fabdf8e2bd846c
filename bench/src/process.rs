//! The processes under test: their start, their end, and what the kernel knows of them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::{self, Cpus};
use crate::syscalls::Counter;

/// A server may have something to compile or to load before it listens.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to notice that it is no longer wanted.
const STOP: Duration = Duration::from_secs(3);

/// The stage before a server: waits for a line on standard input, in which time the driver attaches what must be there
/// before the first thread, and becomes `command` of this program.
pub fn exec(cpu: Option<usize>, command: &[OsString]) -> io::Result<ExitCode> {
    sys::die_with_parent()?;
    if let Some(cpu) = cpu {
        Cpus::one(cpu).apply()?;
    }
    // A byte at a time, and not by way of `std`'s buffer: the rest of the input is the server's.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut byte = [0];
    while byte != *b"\n" {
        if input.read(&mut byte)? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(this_program().args(command).exec())
}

/// This very program, even where its file has been replaced since.
fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("towpath-bench");
    command
}

/// What to start.
pub struct Launch {
    pub cpu: Option<usize>,
    pub args: Vec<OsString>,
    /// Count system calls by this tracepoint.
    pub tracepoint: Option<u64>,
}

/// A process of this program, killed at the latest when it is dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    clock: libc::clockid_t,
    counter: Option<Counter>,
}

impl Process {
    pub fn start(launch: &Launch) -> io::Result<Process> {
        let mut command = this_program();
        command.arg("exec");
        if let Some(cpu) = launch.cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        command.args(&launch.args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take();
        let lines = lines(child.stdout.take());
        let mut clock: libc::clockid_t = 0;
        // SAFETY: it writes one clockid_t.
        let error = unsafe { libc::clock_getcpuclockid(child.id() as libc::pid_t, &mut clock) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let counter = launch.tracepoint.map(|id| Counter::open(id, child.id())).transpose()?;
        if let Some(stdin) = &mut stdin {
            stdin.write_all(b"\n")?;
        }
        Ok(Process { child, stdin, lines, clock, counter })
    }

    /// The next line that it prints.
    pub fn line(&self, timeout: Duration) -> io::Result<String> {
        self.lines.recv_timeout(timeout).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                io::Error::new(io::ErrorKind::TimedOut, format!("no word within {timeout:?}"))
            }
            mpsc::RecvTimeoutError::Disconnected => io::Error::other("it closed its standard output"),
        })
    }

    /// Where a server listens, as it says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let line = self.line(START)?;
        let address = line.strip_prefix("listening ").and_then(|address| address.trim().parse().ok());
        address.ok_or_else(|| io::Error::other(format!("unexpected output: {line:?}")))
    }

    /// The CPU time of all its threads, those that have ended among them.
    pub fn cpu(&self) -> io::Result<Duration> {
        // SAFETY: a timespec is two integers.
        let mut time: libc::timespec = unsafe { mem::zeroed() };
        // SAFETY: the kernel writes one timespec.
        sys::check(unsafe { libc::clock_gettime(self.clock, &mut time) })?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// The system calls until now, if they are counted.
    pub fn syscalls(&self) -> io::Result<Option<u64>> {
        self.counter.as_ref().map(Counter::count).transpose()
    }

    /// Its resident anonymous memory, in bytes: without the pages of its program, which all share.
    pub fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = kib.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kib.ok_or_else(|| io::Error::other("/proc has no RssAnon: the process has ended"))? * 1024)
    }

    /// Waits until it is at rest: its CPU clock hardly moves. False when it never is, within `timeout`.
    pub fn settle(&self, timeout: Duration) -> io::Result<bool> {
        let end = Instant::now() + timeout;
        let step = Duration::from_millis(2);
        let mut before = self.cpu()?;
        while Instant::now() < end {
            thread::sleep(step);
            let now = self.cpu()?;
            if now - before < step / 10 {
                return Ok(true);
            }
            before = now;
        }
        Ok(false)
    }

    /// Ends it as the protocol has it, by the end of its input; an error when it had died or does not obey.
    pub fn stop(mut self) -> Result<(), String> {
        drop(self.stdin.take());
        let end = Instant::now() + STOP;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the process ended with {status}")),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("it did not end within {STOP:?} of its input"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail where it has ended and has been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads on a thread of its own, since a pipe has no time-out.
fn lines(stdout: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = stdout {
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}
