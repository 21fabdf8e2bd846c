//! What the process may have, and has.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sees to it that `count` descriptors can be open, and raises the limit if need be.
pub fn allow_descriptors(count: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= count);
    if enough(limit.current) {
        return Ok(());
    }
    // Up to the hard limit everybody may; beyond it, only the privileged.
    let maximum = if enough(limit.maximum) { limit.maximum } else { Some(count) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).map_err(|error| {
        let hard = limit.maximum.map_or("unlimited".to_owned(), |hard| hard.to_string());
        let error = io::Error::from(error);
        let hint = "use fewer --connections, or have the hard limit raised (`ulimit -Hn`, as root)";
        let what = format!("this takes {count} file descriptors, but the limit is {hard}: {error}; {hint}");
        io::Error::new(error.kind(), what)
    })
}

/// The memory of the process that is in RAM, if the system says so in `/proc`.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
