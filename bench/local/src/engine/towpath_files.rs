//! Towpath's files, in blocking style: a task for each read in flight.

use std::io;
use std::os::fd::OwnedFd;

use towpath::thread;
use towpath_loop::{File, op};

use crate::Options;
use crate::files::{self, CHUNK, PAGE, Pages, READS};
use crate::measure::{Meter, Outcome};

/// Runs the scenario in the current task.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let (size, copied) = files::size(options);
    let file = File::from(OwnedFd::from(files::open(options)?));
    let meter = Meter::new(options);
    match options.scenario.as_str() {
        "file-seq" => sequential(meter, &file, size),
        "file-copy" => copy(meter, &file, copied),
        _ => random(meter, &file, size, files::depth(options)),
    }
}

fn read(file: &File, buf: &mut [u8], at: u64) -> io::Result<bool> {
    let n = op::read(file, &mut *buf).at(at).all(true).wait()?;
    Ok(n == buf.len() && files::is_right(buf, at))
}

fn random(mut meter: Meter, file: &File, size: u64, depth: u64) -> io::Result<Outcome> {
    let mut seed = 0;
    while meter.more() {
        let lanes = (0..depth).map(|_| {
            seed += 1;
            let (file, mut pages) = (file.clone(), Pages::new(size, seed));
            thread::spawn(move || -> io::Result<bool> {
                let mut buf = vec![0; PAGE];
                let mut ok = true;
                for _ in 0..READS / depth {
                    ok &= read(&file, &mut buf, pages.next())?;
                }
                Ok(ok)
            })
        });
        let mut ok = true;
        for lane in lanes.collect::<Vec<_>>() {
            ok &= lane.join().expect("no task panics")?;
        }
        meter.count(READS, ok);
    }
    Ok(meter.outcome())
}

fn sequential(mut meter: Meter, file: &File, size: u64) -> io::Result<Outcome> {
    let mut buf = vec![0; CHUNK];
    while meter.more() {
        let mut ok = true;
        for at in (0..size).step_by(CHUNK) {
            ok &= read(file, &mut buf, at)?;
        }
        meter.count(size / CHUNK as u64, ok);
    }
    Ok(meter.outcome())
}

fn copy(mut meter: Meter, from: &File, size: u64) -> io::Result<Outcome> {
    let unnamed = files::target()?;
    let to = File::from(OwnedFd::from(unnamed.try_clone()?));
    let mut buf = vec![0; CHUNK];
    while meter.more() {
        let mut ok = true;
        for at in (0..size).step_by(CHUNK) {
            ok &= read(from, &mut buf, at)?;
            ok &= op::write(&to, &buf[..]).at(at).all(true).wait()? == CHUNK;
        }
        meter.count(size / CHUNK as u64, ok);
    }
    let whole = files::is_whole(&unnamed, size)?;
    let outcome = meter.outcome();
    Ok(Outcome { ok: outcome.ok && whole, ..outcome })
}
