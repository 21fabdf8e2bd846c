//! G8: what was reported as being on the disk, when its writer is killed.

use std::io::{self, Read, Write};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use towpath_harness::process::{self, Ended};
use towpath_harness::{Rng, sys};

use super::*;
use crate::common::current_loop;

/// The contents of the file, however far it goes: block after block, of as many bytes as each has.
fn blocks(seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = Rng::new(seed);
    std::iter::repeat_with(move || {
        let len = 1 + rng.below(20_000);
        (0..len.div_ceil(8)).flat_map(|_| rng.bits().to_ne_bytes()).take(len as usize).collect()
    })
}

/// A child appends blocks, and reports each that it was told is on the disk, until it is killed, at any moment. What it
/// reported is there, and behind it nothing that is not the beginning of what it would have written.
pub fn g08_killed_while_it_writes() {
    let dir = TempDir::new();
    let mut rng = Rng::new(1);
    for round in 0..24 {
        let path = dir.path(&format!("{round}"));
        let (mut reports, to) = io::pipe().unwrap();
        let child = process::fork(|| write(&path, round, to));
        // Not before it is at it.
        let mut report = [0; 8];
        reports.read_exact(&mut report).expect("it writes");
        std::thread::sleep(Duration::from_micros(rng.below(6000)));
        kill_process(Pid::from_raw(child.id()).unwrap(), Signal::KILL).unwrap();
        assert_eq!(child.wait(), Ended::Signal(libc::SIGKILL));
        let mut reported = u64::from_ne_bytes(report);
        while reports.read_exact(&mut report).is_ok() {
            assert!(u64::from_ne_bytes(report) > reported);
            reported = u64::from_ne_bytes(report);
        }
        let found = fs::read(&path).unwrap();
        assert!(found.len() as u64 >= reported, "{} bytes, and {reported} were reported", found.len());
        let mut rest = &found[..];
        for block in blocks(round) {
            let here = rest.len().min(block.len());
            assert!(rest[..here] == block[..here], "garbage in the last {} bytes", rest.len());
            rest = &rest[here..];
            if rest.is_empty() {
                break;
            }
        }
        fs::remove_file(path).unwrap();
    }
    assert_eq!(sys::other_threads().len(), 1, "only the one that waits for this");
}

/// Odd rounds write and sync in one submission.
fn write(path: &Path, round: u64, mut report: io::PipeWriter) -> i32 {
    let _loop = current_loop();
    let file = edit(path);
    let mut end = 0;
    for block in blocks(round) {
        let write = op::write(&file, &block[..]).at(end).all(true);
        if round.is_multiple_of(2) {
            assert_eq!(write.wait().unwrap(), block.len());
            op::sync_data(&file).wait().unwrap();
        } else {
            let (written, synced) = op::multi((write.soft(), op::sync(&file)));
            assert_eq!(written.unwrap(), block.len());
            synced.unwrap();
        }
        end += block.len() as u64;
        report.write_all(&end.to_ne_bytes()).unwrap();
    }
    unreachable!("there is always another block")
}
