//! Counts a process's system calls by way of `perf_event_open`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::FromRawFd;

const TRACEFS: &str = "/sys/kernel/tracing";

/// What [`perf_event_open`](https://man7.org/linux/man-pages/man2/perf_event_open.2.html) wants, in its first version.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
/// Bit 1 of `flags`: threads and processes made from now on count as well.
const INHERIT: u64 = 1 << 1;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// What `raw_syscalls:sys_enter` is called on this machine; a sentence where it cannot be had.
pub fn tracepoint() -> Result<u64, String> {
    let path = format!("{TRACEFS}/events/raw_syscalls/sys_enter/id");
    let id = fs::read_to_string(&path).or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        mount()?;
        fs::read_to_string(&path)
    });
    let id = id.map_err(|error| format!("{path}: {error}"))?;
    let id = id.trim().parse().map_err(|error| format!("{path}: {error}"))?;
    // Whether it is permitted shows on this very process.
    Counter::open(id, 0).map_err(|error| format!("perf_event_open: {error}"))?;
    Ok(id)
}

fn mount() -> io::Result<()> {
    let (kind, target) = (c"tracefs", c"/sys/kernel/tracing");
    // SAFETY: the strings end in NUL, and tracefs needs no data.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    crate::sys::check(result).map(drop)
}

/// The system calls of one process and of the threads and processes that it makes.
pub struct Counter(File);

impl Counter {
    /// `pid` must not have made its threads yet: those that are there already do not count.
    pub fn open(tracepoint: u64, pid: u32) -> io::Result<Counter> {
        let attributes = Attributes {
            kind: PERF_TYPE_TRACEPOINT,
            size: size_of::<Attributes>() as u32,
            config: tracepoint,
            sample_period: 0,
            sample_type: 0,
            // With no format, a read gives one number: the sum over all that inherited the event.
            read_format: 0,
            flags: INHERIT,
            wakeup_events: 0,
            breakpoint_type: 0,
            config1: 0,
        };
        let (any_cpu, no_group) = (-1 as libc::c_int, -1 as libc::c_int);
        // SAFETY: the kernel reads as many bytes of the attributes as their `size` says.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                pid as libc::pid_t,
                any_cpu,
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let fd = crate::sys::check(fd as libc::c_int)?;
        // SAFETY: it is new, and nobody else has it.
        Ok(Counter(unsafe { File::from_raw_fd(fd) }))
    }

    /// So many until now.
    pub fn count(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_made_later_count() {
        // Where it is not permitted there is nothing to test.
        let Ok(id) = tracepoint() else { return };
        let counter = Counter::open(id, 0).unwrap();
        let before = counter.count().unwrap();
        let calls = || {
            for _ in 0..1000 {
                // SAFETY: no memory is involved.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
        };
        std::thread::spawn(calls).join().unwrap();
        let made = counter.count().unwrap() - before;
        assert!((1000..1100).contains(&made), "{made}");
    }
}
