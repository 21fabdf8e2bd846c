//! What `/proc` and the kernel say about this process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The open descriptors and what they are, without the one that reads them.
pub fn fds() -> BTreeMap<i32, String> {
    let mut fds = BTreeMap::new();
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    for entry in entries.flatten() {
        let fd = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("numbers only");
        if let Ok(target) = fs::read_link(entry.path()) {
            fds.insert(fd, target.to_string_lossy().into_owned());
        }
    }
    // The directory itself was open while it was read.
    let own = format!("/proc/{}/fd", std::process::id());
    fds.retain(|_, target| *target != own);
    fds
}

/// How many descriptors are open.
pub fn fd_count() -> usize {
    fds().len()
}

/// How many mappings this process has.
pub fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines().count()
}

/// The threads of this process but the calling one: id and name.
pub fn other_threads() -> Vec<(i32, String)> {
    let own = tid();
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let numbered = tasks.flatten().filter_map(|task| {
        let tid = task.file_name().to_str()?.parse().ok()?;
        // One that has just ended has no name any more.
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        Some((tid, name.trim_end().to_owned()))
    });
    numbered.filter(|(tid, _)| *tid != own).collect()
}

/// The kernel's number of the calling thread.
pub fn tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The scheduler's letter for a task (`R`, `S`, …), of a directory like `/proc/self/task/7`.
pub fn task_state(task: &Path) -> Option<char> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    // The name, in parentheses, may contain anything.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Waits until a thread of this process sleeps in the kernel, for an event, not for time: that is seen, not guessed.
///
/// # Panics
/// If it does not within two seconds.
pub fn wait_until_asleep(tid: i32) {
    let task = format!("/proc/self/task/{tid}");
    let deadline = Instant::now() + crate::patience(Duration::from_secs(2));
    while task_state(Path::new(&task)) != Some('S') {
        assert!(Instant::now() < deadline, "thread {tid} does not go to sleep");
        std::thread::yield_now();
    }
}

/// The CPU time that this process has used.
pub fn cpu_time() -> Duration {
    clock(rustix::time::ClockId::ProcessCPUTime)
}

/// The CPU time that this thread has used.
pub fn thread_cpu_time() -> Duration {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

/// How long the calling thread was ready to run and had no CPU, so far: what others took from it. Zero where the
/// kernel does not say.
pub fn cpu_wait() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn clock(id: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(id);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The resident memory, in bytes.
pub fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages: u64 = statm.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a second number");
    pages * rustix::param::page_size() as u64
}

/// Gives the allocator's free memory back, so that [`resident`] tells what is in use.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; `malloc_trim` may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A resource limit, put back when dropped.
#[derive(Debug)]
pub struct Limit {
    resource: rustix::process::Resource,
    before: rustix::process::Rlimit,
}

/// Sets the soft limit of a resource until the returned guard is dropped.
///
/// # Panics
/// If the system refuses.
pub fn limit(resource: rustix::process::Resource, soft: u64) -> Limit {
    let before = rustix::process::getrlimit(resource);
    let current = Some(before.maximum.map_or(soft, |hard| soft.min(hard)));
    rustix::process::setrlimit(resource, rustix::process::Rlimit { current, ..before }).expect("setrlimit");
    Limit { resource, before }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = rustix::process::setrlimit(self.resource, self.before);
    }
}

/// Leaves room for exactly `spare` more descriptors, by filling the table up to the limit's guard that is returned.
///
/// # Panics
/// If the system refuses.
pub fn spare_fds(spare: u64) -> (Vec<std::os::fd::OwnedFd>, Limit) {
    let open = fds();
    let highest = *open.keys().next_back().expect("stdio is open") as u64;
    // Fill the holes, so that the limit, which is on numbers, is one on counts.
    let mut filler = Vec::new();
    loop {
        let fd = rustix::io::dup(std::io::stderr()).expect("dup");
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd) as u64;
        filler.push(fd);
        if number > highest {
            return (filler, limit(rustix::process::Resource::Nofile, number + 1 + spare));
        }
    }
}

/// The name of a signal, like `SIGSEGV`.
pub fn signal_name(signal: i32) -> String {
    let known = [
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGUSR2, "SIGUSR2"),
    ];
    let name = known.iter().find(|(number, _)| *number == signal).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("signal {signal}"))
}

/// Stops this whole process for `duration`, as from outside.
pub fn stop_for(duration: std::time::Duration) {
    use rustix::process::{Signal, getpid, kill_process};
    let wake = format!("sleep {}; kill -CONT {}", duration.as_secs_f64(), getpid().as_raw_nonzero());
    let mut waker = std::process::Command::new("sh").args(["-c", &wake]).spawn().expect("a shell");
    kill_process(getpid(), Signal::STOP).expect("SIGSTOP");
    waker.wait().expect("the shell ends");
}

/// Gives SIGPIPE its default disposition, which is to kill; Rust's start-up ignores it.
pub fn default_sigpipe() {
    // SAFETY: `SIG_DFL` is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Makes the calling thread, and only it, run as another user (and group) for good, with no capabilities.
///
/// # Errors
/// `EPERM` if this is not root.
pub fn become_user(id: u32) -> io::Result<()> {
    // The raw calls: libc's wrappers would change all threads. Groups first, while it is still allowed.
    // SAFETY: no pointers but a null one for an empty list.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()),
            libc::syscall(libc::SYS_setresgid, id, id, id),
            libc::syscall(libc::SYS_setresuid, id, id, id),
        ]
    };
    if results.iter().any(|result| *result < 0) { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the whole process run as another user (and group) for good: for a forked child.
///
/// # Errors
/// `EPERM` if this is not root.
pub fn become_user_in_all_threads(id: u32) -> io::Result<()> {
    // SAFETY: no pointers but a null one for an empty list.
    let results = unsafe {
        [libc::setgroups(0, std::ptr::null()), libc::setresgid(id, id, id), libc::setresuid(id, id, id)]
    };
    if results.iter().any(|result| *result < 0) { Err(io::Error::last_os_error()) } else { Ok(()) }
}
