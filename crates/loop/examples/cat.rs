//! Writes out every file below the given paths, in order of name: `cargo run --release --example cat -- PATH…`, where
//! `-`, or nothing, is the input.
//!
//! The files ahead of the one that is being written are opened and read meanwhile, [`AHEAD`] of them, each [`READY`] pieces
//! far: so much memory it takes, and no more. All that is in flight is in one [`Queue`], and what comes back says whose it
//! is. What the program has to wait for to go on (a directory, a write) it waits for in place, and the queue fills
//! meanwhile, since both are on the thread's loop.
//!
//! A directory's files are its regular files and those of its directories; links and the like are left out. What cannot be
//! read is named on stderr, and the exit code is 1. When nobody reads the output any more, it ends quietly.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use towpath_loop::op::{self, FileType, Metadata};
use towpath_loop::{Failed, File, Loop, Queue};

#[path = "common/tree.rs"]
mod tree;

/// How many files are read at once.
const AHEAD: usize = 32;
/// How many pieces of a file wait to be written.
const READY: usize = 2;
const PIECE: usize = 64 * 1024;

/// The files below some paths, one at a time.
struct Walk {
    /// What is left to visit, the next one last.
    left: Vec<(PathBuf, Option<FileType>)>,
    failed: bool,
}

impl Iterator for Walk {
    type Item = PathBuf;

    fn next(&mut self) -> Option<PathBuf> {
        while let Some((path, kind)) = self.left.pop() {
            let is_dir = match kind {
                Some(kind) => kind.is_dir(),
                // Named by the user. What is not there, the open will tell.
                None => op::stat(&path).wait().is_ok_and(|found| found.is_dir()),
            };
            if !is_dir {
                return Some(path);
            }
            match tree::names(&path) {
                Ok(names) => {
                    let wanted = names.into_iter().rev().filter(|(_, kind)| kind.is_dir() || kind.is_file());
                    self.left.extend(wanted.map(|(name, kind)| (path.join(name), Some(kind))));
                }
                Err(error) => self.failed |= report(&path, &error),
            }
        }
        None
    }
}

/// A file that is read ahead.
struct Ahead {
    path: PathBuf,
    file: Option<File>,
    pieces: VecDeque<Vec<u8>>,
    reading: bool,
    /// Nothing more will come: the end, or an error.
    ended: Option<io::Result<()>>,
}

enum Event {
    Opened(io::Result<File>),
    Read(Result<(usize, Vec<u8>), Failed<Vec<u8>>>),
}

struct Cat {
    /// What comes back, and the number of the file that it belongs to.
    queue: Queue<(usize, Event)>,
    ahead: VecDeque<Ahead>,
    /// The number of the first file in `ahead`.
    first: usize,
    output: File,
    /// The output, if it is a regular file, which must not be read.
    forbidden: Option<Metadata>,
}

impl Cat {
    fn begin(&mut self, path: PathBuf) -> io::Result<()> {
        let number = self.first + self.ahead.len();
        let stdin = path == Path::new("-");
        let file = stdin.then(|| io::stdin().as_fd().try_clone_to_owned()).transpose()?.map(File::from);
        if !stdin {
            self.queue.submit(op::open(&path), move |opened| (number, Event::Opened(opened)));
        }
        self.ahead.push_back(Ahead { path, file, pieces: VecDeque::new(), reading: false, ended: None });
        self.read(number);
        Ok(())
    }

    /// Reads the next piece of a file, if it has one, and there is room.
    fn read(&mut self, number: usize) {
        let ahead = &mut self.ahead[number - self.first];
        if let (Some(file), None) = (&ahead.file, &ahead.ended)
            && !ahead.reading
            && ahead.pieces.len() < READY
        {
            ahead.reading = true;
            self.queue.submit(op::read(file, vec![0; PIECE]), move |read| (number, Event::Read(read)));
        }
    }

    /// Waits for something to come, and does what follows from it.
    fn step(&mut self) -> io::Result<()> {
        let (number, event) = self.queue.next()?.expect("the first file is being opened or read");
        let ahead = &mut self.ahead[number - self.first];
        match event {
            Event::Opened(Ok(file)) => match &self.forbidden {
                Some(output) if op::stat(&file).wait()?.is_same_file(output) => {
                    ahead.ended = Some(Err(io::Error::other("input file is output file")));
                }
                _ => ahead.file = Some(file),
            },
            Event::Opened(Err(error)) => ahead.ended = Some(Err(error)),
            Event::Read(read) => {
                ahead.reading = false;
                match read {
                    Ok((0, _)) => ahead.ended = Some(Ok(())),
                    Ok((n, mut piece)) => {
                        piece.truncate(n);
                        ahead.pieces.push_back(piece);
                    }
                    Err(failed) => ahead.ended = Some(Err(failed.error)),
                }
            }
        }
        self.read(number);
        Ok(())
    }

    /// Writes the first file to its end. True if it had to be given up.
    fn write_first(&mut self) -> io::Result<bool> {
        loop {
            let ahead = &mut self.ahead[0];
            if let Some(piece) = ahead.pieces.pop_front() {
                self.read(self.first);
                op::write(&self.output, &piece[..]).all(true).wait()?;
            } else if ahead.ended.is_none() {
                self.step()?;
            } else {
                let Ahead { path, ended, .. } = self.ahead.pop_front().expect("it is there");
                self.first += 1;
                return Ok(ended.is_some_and(|ended| ended.is_err_and(|error| report(&path, &error))));
            }
        }
    }

    fn run(&mut self, mut walk: Walk) -> io::Result<bool> {
        let mut failed = false;
        loop {
            while self.ahead.len() < AHEAD
                && let Some(path) = walk.next()
            {
                self.begin(path)?;
            }
            if self.ahead.is_empty() {
                return Ok(failed || walk.failed);
            }
            failed |= self.write_first()?;
        }
    }
}

fn report(path: &Path, error: &io::Error) -> bool {
    eprintln!("cat: {}: {error}", path.display());
    true
}

fn cat() -> io::Result<bool> {
    let mut paths: Vec<_> = std::env::args_os().skip(1).map(|path| (path.into(), None)).collect();
    if paths.is_empty() {
        paths.push(("-".into(), None));
    }
    paths.reverse();
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let forbidden = Some(op::stat(&output).wait()?).filter(Metadata::is_file);
    let queue = Queue::new(&Loop::current()?);
    let mut cat = Cat { queue, ahead: VecDeque::new(), first: 0, output, forbidden };
    cat.run(Walk { left: paths, failed: false })
}

fn main() -> ExitCode {
    match cat() {
        Ok(failed) => ExitCode::from(u8::from(failed)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cat: {error}");
            ExitCode::FAILURE
        }
    }
}
