//! The scenarios for files: a file of known contents, all of it in the page cache.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process;

use crate::Options;
use crate::measure::{Lcg, Meter, Outcome};

/// The unit of `file-rand`.
pub const PAGE: usize = 4096;
/// The unit of `file-seq` and `file-copy`.
pub const CHUNK: usize = 128 * 1024;
/// A round of `file-rand`, in reads.
pub const READS: u64 = 8192;

/// The first byte of a page.
fn mark(page: u64) -> u8 {
    (page.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// Whether what was read at a place, in whole pages, is what belongs there.
pub fn is_right(bytes: &[u8], at: u64) -> bool {
    bytes.chunks(PAGE).zip(at / PAGE as u64..).all(|(bytes, page)| bytes[0] == mark(page))
}

/// The size of the file, and how much of it is copied.
pub fn size(options: &Options) -> (u64, u64) {
    let size = if options.quick { 128 << 20 } else { 1 << 30 };
    (size, size / 4)
}

/// Where the file is, which is kept from run to run: written unless it is there.
pub fn prepare(options: &Options) -> io::Result<PathBuf> {
    let (size, _) = size(options);
    let path = env::temp_dir().join(format!("towpath-bench-{}-mib", size >> 20));
    if fs::metadata(&path).is_ok_and(|found| found.len() == size) {
        return Ok(path);
    }
    let unfinished = path.with_extension(process::id().to_string());
    let mut file = File::create(&unfinished)?;
    let mut chunk = vec![0; CHUNK];
    for at in (0..size).step_by(CHUNK) {
        for (bytes, page) in chunk.chunks_mut(PAGE).zip(at / PAGE as u64..) {
            bytes[0] = mark(page);
        }
        file.write_all(&chunk)?;
    }
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// The file, read once so that it is in the page cache.
pub fn open(options: &Options) -> io::Result<File> {
    let file = File::open(prepare(options)?)?;
    if is_whole(&file, size(options).0)? { Ok(file) } else { Err(io::Error::other("not the right file")) }
}

/// An empty file without a name.
pub fn target() -> io::Result<File> {
    let path = env::temp_dir().join(format!("towpath-bench-copy-{}", process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Whether a file has the right contents from its beginning to `end`.
pub fn is_whole(file: &File, end: u64) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    for at in (0..end).step_by(CHUNK) {
        file.read_exact_at(&mut chunk, at)?;
        if !is_right(&chunk, at) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many reads `file-rand` has in flight.
pub fn depth(options: &Options) -> u64 {
    if options.scenario == "file-rand-32" { 32 } else { 1 }
}

/// Random pages of a file, as byte positions.
pub struct Pages {
    random: Lcg,
    count: u64,
}

impl Pages {
    pub fn new(size: u64, seed: u64) -> Pages {
        Pages { random: Lcg(seed), count: size / PAGE as u64 }
    }

    pub fn next(&mut self) -> u64 {
        self.random.below(self.count) * PAGE as u64
    }
}

/// What every runtime for futures does with a file: it takes buffers and gives them back.
pub trait Files: 'static {
    type File: Clone + 'static;
    type Handle: Future<Output = bool>;

    fn file(file: File) -> Self::File;
    /// Reads as much as the buffer is long.
    fn read(file: &Self::File, buf: Vec<u8>, at: u64) -> impl Future<Output = (io::Result<()>, Vec<u8>)>;
    /// Writes all of the buffer.
    fn write(file: &Self::File, buf: Vec<u8>, at: u64) -> impl Future<Output = (io::Result<()>, Vec<u8>)>;
    /// Spawns [`Lane::run`]. Only the runtime itself knows whether that is `Send`.
    fn lane(file: Self::File, lane: Lane) -> Self::Handle;
}

/// One of the tasks of `file-rand`, with one read in flight.
pub struct Lane {
    pages: Pages,
    reads: u64,
}

impl Lane {
    /// Whether it read what it should.
    pub async fn run<F: Files>(mut self, file: F::File) -> bool {
        let mut ok = true;
        let mut buf = vec![0; PAGE];
        for _ in 0..self.reads {
            let at = self.pages.next();
            let result;
            (result, buf) = F::read(&file, buf, at).await;
            ok &= result.is_ok() && is_right(&buf, at);
        }
        ok
    }
}

/// Runs the scenario in the current task, which is one of the runtime.
pub async fn run<F: Files>(options: Options) -> Outcome {
    let (size, copied) = size(&options);
    let file = F::file(open(&options).expect("the system has room for the file"));
    let meter = Meter::new(&options);
    match options.scenario.as_str() {
        "file-seq" => sequential::<F>(meter, file, size).await,
        "file-copy" => copy::<F>(meter, file, copied).await,
        _ => random::<F>(meter, file, size, depth(&options)).await,
    }
}

async fn random<F: Files>(mut meter: Meter, file: F::File, size: u64, depth: u64) -> Outcome {
    let mut seed = 0;
    while meter.more() {
        let lanes = (0..depth).map(|_| {
            seed += 1;
            F::lane(file.clone(), Lane { pages: Pages::new(size, seed), reads: READS / depth })
        });
        let mut ok = true;
        for lane in lanes.collect::<Vec<_>>() {
            ok &= lane.await;
        }
        meter.count(READS, ok);
    }
    meter.outcome()
}

async fn sequential<F: Files>(mut meter: Meter, file: F::File, size: u64) -> Outcome {
    let mut buf = vec![0; CHUNK];
    while meter.more() {
        let mut ok = true;
        for at in (0..size).step_by(CHUNK) {
            let result;
            (result, buf) = F::read(&file, buf, at).await;
            ok &= result.is_ok() && is_right(&buf, at);
        }
        meter.count(size / CHUNK as u64, ok);
    }
    meter.outcome()
}

async fn copy<F: Files>(mut meter: Meter, from: F::File, size: u64) -> Outcome {
    let unnamed = target().expect("the system has room for a file");
    let to = F::file(unnamed.try_clone().expect("a file can be cloned"));
    let mut buf = vec![0; CHUNK];
    while meter.more() {
        let mut ok = true;
        for at in (0..size).step_by(CHUNK) {
            let (read, written);
            (read, buf) = F::read(&from, buf, at).await;
            (written, buf) = F::write(&to, buf, at).await;
            ok &= read.is_ok() && written.is_ok();
        }
        meter.count(size / CHUNK as u64, ok);
    }
    let whole = is_whole(&unnamed, size).unwrap_or(false);
    let outcome = meter.outcome();
    Outcome { ok: outcome.ok && whole, ..outcome }
}
