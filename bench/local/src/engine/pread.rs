//! Files by plain system calls, one after the other at any depth.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::Options;
use crate::files::{self, CHUNK, PAGE, Pages, READS};
use crate::measure::{Meter, Outcome};

pub fn run(options: &Options) -> Outcome {
    let (size, copied) = files::size(options);
    let file = files::open(options).expect("the system has room for the file");
    let meter = Meter::new(options);
    let outcome = match options.scenario.as_str() {
        "file-seq" => sequential(meter, &file, size),
        "file-copy" => copy(meter, &file, copied),
        _ => random(meter, &file, size),
    };
    outcome.expect("files can be read and written")
}

fn random(mut meter: Meter, file: &File, size: u64) -> io::Result<Outcome> {
    let mut pages = Pages::new(size, 1);
    let mut buf = vec![0; PAGE];
    while meter.more() {
        let mut ok = true;
        for _ in 0..READS {
            let at = pages.next();
            file.read_exact_at(&mut buf, at)?;
            ok &= files::is_right(&buf, at);
        }
        meter.count(READS, ok);
    }
    Ok(meter.outcome())
}

fn sequential(mut meter: Meter, file: &File, size: u64) -> io::Result<Outcome> {
    while meter.more() {
        let ok = files::is_whole(file, size)?;
        meter.count(size / CHUNK as u64, ok);
    }
    Ok(meter.outcome())
}

fn copy(mut meter: Meter, from: &File, size: u64) -> io::Result<Outcome> {
    let to = files::target()?;
    let mut buf = vec![0; CHUNK];
    while meter.more() {
        for at in (0..size).step_by(CHUNK) {
            from.read_exact_at(&mut buf, at)?;
            to.write_all_at(&buf, at)?;
        }
        meter.count(size / CHUNK as u64, true);
    }
    let outcome = meter.outcome();
    Ok(Outcome { ok: files::is_whole(&to, size)?, ..outcome })
}
