//! Copies files: `cargo run --release --example cp -- [--progress] SOURCE… TARGET`.
//!
//! Many reads and writes are in flight, of several files at once, all in one [`Queue`]: [`Copier::step`] takes what comes
//! back, and does what follows from it. What comes before and after the bytes of a file (opening, renaming) is waited for
//! in place, and the queue goes on meanwhile, since both are on the thread's loop. A buffer travels through the operations:
//! it is read into, a [slice](IoBuf::slice) of it is written, and it is read into again.
//!
//! - A file is written under another name and renamed when it is whole. So a target that is there is replaced, not
//!   written into (other names of it keep the old bytes), and after a failure, or Ctrl-C, it is as it was.
//! - Blocks that are all zeroes are not written: holes stay holes, and long runs of zeroes become some.
//! - Permissions are those of the source, as the umask allows. Owner and times are not kept.
//! - A directory is copied with all that is in it; symbolic links in it are copied as links. It stays writable to its owner.
//! - What cannot be copied is named on stderr, the others are copied all the same, and the exit code is 1.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use towpath_loop::op::{self, FileType, Metadata};
use towpath_loop::{File, IoBuf, Loop, Queue, Signals, Slice};

#[path = "common/progress.rs"]
mod progress;
#[path = "common/tree.rs"]
mod tree;

use progress::Progress;

const BLOCK: usize = 128 * 1024;
/// How many blocks are being read or written.
const IN_FLIGHT: usize = 16;

/// Names the file that an operation failed for.
trait Of<T> {
    fn of(self, path: &Path) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> Of<T> for Result<T, E> {
    fn of(self, path: &Path) -> io::Result<T> {
        self.map_err(Into::into)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

fn refuse<T>(path: &Path, why: &str) -> io::Result<T> {
    Err(io::Error::other(why)).of(path)
}

/// A file that is being copied.
struct Job {
    from: PathBuf,
    source: File,
    to: PathBuf,
    /// Until it is whole.
    target: RefCell<Option<File>>,
    /// The name that the target has until it is whole; removed with the value, if it is there.
    unfinished: PathBuf,
    /// Where the next block begins.
    next: Cell<u64>,
    /// Where the last byte that was read ends.
    end: Cell<u64>,
    /// How many blocks are in flight; and one more while there are more to begin.
    busy: Cell<usize>,
    failed: Cell<bool>,
}

impl Job {
    /// All is written: gives it its length, in case that it ends in a hole, and its name.
    fn finish(&self) -> io::Result<()> {
        let target = self.target.take().expect("a file is finished once");
        op::set_len(&target, self.end.get()).wait()?;
        op::close(target).wait()?; // Some file systems tell only now that there was no room.
        op::rename(&self.unfinished, &self.to).wait()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

/// What comes back: a block, or an error that names its file.
enum Event {
    Read(Rc<Job>, u64, io::Result<(usize, Vec<u8>)>),
    Written(Rc<Job>, io::Result<(usize, Vec<u8>)>),
    Interrupted,
}

struct Copier {
    queue: Queue<Event>,
    buffers: Vec<Vec<u8>>,
    /// How many files were begun, and how many of them are not whole yet.
    begun: u32,
    unfinished: u32,
    failed: bool,
    progress: Progress,
}

impl Copier {
    /// Copies whatever is there. Of a file, the last blocks may still be in flight when this returns.
    fn copy(&mut self, from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
        if let Ok(there) = op::stat(to).follow(false).wait()
            && there.is_same_file(found)
        {
            return refuse(to, "is the file that is to be copied");
        }
        match found.file_type() {
            FileType::File => self.copy_file(from, to, found),
            FileType::Dir => self.copy_dir(from, to, found),
            FileType::Symlink => op::symlink(op::read_link(from).wait().of(from)?, to).wait().of(to),
            _ => refuse(from, "is neither a file nor a directory nor a link"),
        }
    }

    fn copy_dir(&mut self, from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
        match op::create_dir(to).mode(found.mode() & 0o777 | 0o700).wait() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && is_dir(to) => {}
            made => made.of(to)?,
        }
        for (name, _) in tree::names(from).of(from)? {
            let (from, to) = (from.join(&name), to.join(name));
            let found = op::stat(&from).follow(false).wait().of(&from);
            let copied = found.and_then(|found| self.copy(&from, &to, &found));
            self.note(copied)?;
        }
        Ok(())
    }

    fn copy_file(&mut self, from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
        let source = op::open(from).wait().of(from)?;
        self.begun += 1;
        let unfinished = to.with_file_name(format!(".cp-{}-{}", std::process::id(), self.begun));
        let new = op::open(&unfinished).read(false).write(true).create_new(true).mode(found.mode() & 0o777);
        let target = RefCell::new(Some(new.wait().of(to)?));
        let (from, to) = (from.to_owned(), to.to_owned());
        let (next, end, busy, failed) = (Cell::new(0), Cell::new(0), Cell::new(1), Cell::new(false));
        let job = Rc::new(Job { from, source, to, target, unfinished, next, end, busy, failed });
        self.unfinished += 1;
        self.progress.expect(found.len());
        // The last of these comes short, and so tells the end.
        while job.next.get() <= found.len() && !job.failed.get() {
            match self.buffers.pop() {
                Some(buf) => self.read(&job, buf),
                None => self.step()?,
            }
        }
        self.release(&job)
    }

    /// Begins to read the next block.
    fn read(&mut self, job: &Rc<Job>, buf: Vec<u8>) {
        let (at, job) = (job.next.get(), job.clone());
        job.next.set(at + BLOCK as u64);
        job.busy.set(job.busy.get() + 1);
        let read = op::read(job.source.clone(), buf).at(at).all(true);
        self.queue.submit(read, move |read| {
            let read = read.of(&job.from);
            Event::Read(job, at, read)
        });
    }

    /// Waits for something to come back.
    fn step(&mut self) -> io::Result<()> {
        let (job, over) = match self.queue.next()?.expect("a signal is waited for, if nothing else") {
            Event::Interrupted => return Err(ErrorKind::Interrupted.into()),
            Event::Read(job, at, Ok((n, buf))) if n > 0 && !job.failed.get() => {
                job.end.set(job.end.get().max(at + n as u64));
                if n == BLOCK && job.next.get() == at + BLOCK as u64 {
                    self.read(&job, vec![0; BLOCK]); // The source has grown meanwhile.
                }
                if buf[..n].iter().any(|byte| *byte != 0) {
                    let target = job.target.borrow().clone().expect("it is not finished");
                    let write = op::write(target, buf.slice(..n)).at(at).all(true);
                    self.queue.submit(write, move |written| {
                        let written = written.map(|(n, part)| (n, Slice::into_inner(part))).of(&job.to);
                        Event::Written(job, written)
                    });
                    return Ok(());
                }
                (job, Ok((n, buf)))
            }
            Event::Read(job, _, over) | Event::Written(job, over) => (job, over),
        };
        match over {
            Ok((n, buf)) => {
                self.progress.advance(n as u64);
                self.buffers.push(buf);
            }
            Err(error) => {
                self.buffers.push(vec![0; BLOCK]);
                if !job.failed.replace(true) {
                    self.report(&error);
                }
            }
        }
        self.buffers.truncate(IN_FLIGHT);
        self.release(&job)
    }

    /// One thing less to do for a file. After the last one, it is whole.
    fn release(&mut self, job: &Job) -> io::Result<()> {
        job.busy.set(job.busy.get() - 1);
        if job.busy.get() == 0 {
            self.unfinished -= 1;
            if !job.failed.get() {
                self.note(job.finish().of(&job.to))?;
            }
        }
        Ok(())
    }

    /// Reports an error, and goes on, unless it was an interruption (which no operation fails with).
    fn note(&mut self, copied: io::Result<()>) -> io::Result<()> {
        match copied {
            Err(error) if error.kind() != ErrorKind::Interrupted => self.report(&error),
            over => return over,
        }
        Ok(())
    }

    fn report(&mut self, error: &io::Error) {
        self.failed = true;
        self.progress.clear();
        eprintln!("cp: {error}");
    }

    fn run(&mut self, sources: &[PathBuf], target: &Path) -> io::Result<()> {
        let into = is_dir(target);
        for from in sources {
            let to = match from.file_name() {
                Some(name) if into => target.join(name),
                None if into => return refuse(from, "has no name of its own"),
                _ => target.to_owned(),
            };
            let found = op::stat(from).wait().of(from);
            let copied = found.and_then(|found| {
                if found.is_dir() {
                    let parent = to.parent().filter(|parent| *parent != "").unwrap_or(Path::new("."));
                    let (above, below) = (op::real_path(from).wait(), op::real_path(parent).wait());
                    if below.of(parent)?.starts_with(above.of(from)?) {
                        return refuse(&to, "is inside of the directory that is to be copied");
                    }
                }
                self.copy(from, &to, &found)
            });
            self.note(copied)?;
        }
        while self.unfinished > 0 {
            self.step()?;
        }
        Ok(())
    }
}

fn is_dir(path: &Path) -> bool {
    op::stat(path).wait().is_ok_and(|found| found.is_dir())
}

fn main() -> io::Result<ExitCode> {
    let (options, mut sources): (Vec<_>, Vec<_>) =
        std::env::args_os().skip(1).map(PathBuf::from).partition(|arg| arg == "--progress");
    let target = sources.pop().filter(|target| sources.len() == 1 || sources.len() > 1 && is_dir(target));
    let Some(target) = target else {
        eprintln!("usage: cp [--progress] SOURCE TARGET\n       cp [--progress] SOURCE… DIRECTORY");
        return Ok(ExitCode::from(2));
    };
    let loop_ = Loop::current()?;
    let queue = Queue::new(&loop_);
    queue.submit(Signals::new([libc::SIGINT, libc::SIGTERM])?.received(), |_| Event::Interrupted);
    let buffers = vec![vec![0; BLOCK]; IN_FLIGHT];
    let progress = Progress::new(!options.is_empty());
    let mut copier = Copier { queue, buffers, begun: 0, unfinished: 0, failed: false, progress };
    let copied = copier.run(&sources, &target);
    copier.progress.end();
    let failed = copier.failed;
    drop(copier);
    loop_.close(); // Nothing is in flight any more: what was not finished is removed.
    match copied {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(ExitCode::from(130)),
        copied => copied.map(|()| ExitCode::from(u8::from(failed))),
    }
}
