//! Control groups that limit memory.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A control group whose processes may have so much memory together, the kernel's for them included.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    /// Where the kernel tells how much it was at most.
    peak: &'static str,
}

impl MemoryGroup {
    /// Makes one, by version 1 or 2 of the interface.
    ///
    /// # Errors
    /// The system's, where it has none or lets nobody make one.
    pub fn new(bytes: u64) -> io::Result<MemoryGroup> {
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        let mut result = Err(io::ErrorKind::NotFound.into());
        for (root, limit, peak) in versions {
            let path = PathBuf::from(root).join(format!("towpath-test-{}", std::process::id()));
            result = fs::create_dir(&path).and_then(|()| {
                let group = MemoryGroup { path, peak };
                fs::write(group.path.join(limit), bytes.to_string())?;
                Ok(group)
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Moves this process into it. What it has already is not counted.
    ///
    /// # Errors
    /// The system's.
    pub fn enter(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
    }

    /// The most that it has had.
    ///
    /// # Errors
    /// The system's, where it does not tell.
    pub fn peak(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(self.peak))?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Refused as long as a process is in it.
        let _ = fs::remove_dir(&self.path);
    }
}
