//! What a test must not leave behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{Test, sys};

/// The prefix of the names of the blocking pool's threads, which idle for 10 s. The kernel keeps 15 bytes.
const POOL_THREAD: &str = "towpath-blockin";
/// A test shorter than this has no CPU limit: start-up would drown the rest.
const SHORT: Duration = Duration::from_millis(200);
/// What share of the wall time a test that is not busy may compute.
const CPU_SHARE: f64 = 0.2;

/// The process before the test.
pub(crate) struct Before {
    fds: BTreeMap<i32, String>,
    rss: u64,
    cpu: Duration,
    at: Instant,
}

impl Before {
    pub(crate) fn now() -> Before {
        // A first panic or print must not count as growth.
        sys::release_free_memory();
        Before { fds: sys::fds(), rss: sys::resident(), cpu: sys::cpu_time(), at: Instant::now() }
    }

    /// What the test has left, one line each. One that has `printed` a stack has taken the memory for that: some 90 MiB.
    pub(crate) fn compare(&self, test: &Test, printed: bool) -> Vec<String> {
        let (wall, cpu) = (self.at.elapsed(), sys::cpu_time() - self.cpu);
        let mut found = Vec::new();
        if !test.busy && wall > SHORT && cpu.as_secs_f64() > wall.as_secs_f64() * CPU_SHARE {
            found.push(format!("{cpu:.2?} of CPU time in {wall:.2?}: something spins"));
        }
        found.extend(leaked_threads());
        if !test.leaks {
            let now = settled_fds(&self.fds);
            for (fd, what) in &now {
                match self.fds.get(fd) {
                    None => found.push(format!("descriptor {fd}: {what}")),
                    Some(was) if was != what => found.push(format!("descriptor {fd} was {was}, is {what}")),
                    Some(_) => {}
                }
            }
            for (fd, what) in &self.fds {
                if !now.contains_key(fd) {
                    found.push(format!("descriptor {fd} ({what}) is gone"));
                }
            }
        }
        sys::release_free_memory();
        let grown = sys::resident().saturating_sub(self.rss);
        let allowed = (test.memory_mib << 20) * crate::memory_mult();
        if grown > allowed && !printed {
            found.push(format!("{} KiB of memory, of {} allowed", grown >> 10, allowed >> 10));
        }
        found
    }
}

/// The descriptors that are open. A job on the blocking pool may outlive the loop that it was for: while there are
/// threads of the pool, what such a job holds gets a moment.
fn settled_fds(before: &BTreeMap<i32, String>) -> BTreeMap<i32, String> {
    let deadline = Instant::now() + crate::patience(Duration::from_secs(1));
    loop {
        let now = sys::fds();
        let pool = sys::other_threads().iter().any(|(_, name)| name.starts_with(POOL_THREAD));
        if now == *before || !pool || Instant::now() >= deadline {
            return now;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The threads beside this one. A thread that was joined may still be on its way out, so they get a moment.
fn leaked_threads() -> Vec<String> {
    let deadline = Instant::now() + crate::patience(Duration::from_secs(1));
    loop {
        let left: Vec<_> = sys::other_threads()
            .into_iter()
            .filter(|(_, name)| !name.starts_with(POOL_THREAD))
            .map(|(tid, name)| format!("thread {tid}: {name}"))
            .collect();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
