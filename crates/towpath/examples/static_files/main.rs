//! Serves the files of a directory over HTTP/1.1: `cargo run --release --example static_files -- DIRECTORY 127.0.0.1:8000`.
//! SIGINT or SIGTERM ends it.
//!
//! A task a connection, written from top to bottom: receive a head, parse it, find the file, answer, again. (In callbacks each of
//! these would be a function that begins the next one.) The bytes of a file go from its pages to the socket, by `sendfile`.
//!
//! - Nothing above the directory is served: paths are resolved by the kernel *beneath* it, symbolic links included.
//! - What a client can take is limited: the length of a head, the time for it, the time that the peer lets pass without taking
//!   anything of an answer, and the number of connections; whoever comes beyond that waits to be accepted.
//! - When it is told to end, what is being answered is answered, for some seconds; who waits for nothing is disconnected at once.
//!
//! `GET` and `HEAD`, persistent and pipelined; one range; `If-Modified-Since`; `index.html` for a directory. What comes with a
//! body is answered, and the connection closed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lexopt::Arg::{Long, Value};
use lexopt::ValueExt;
use towpath::net::TcpListener;
use towpath::{Runtime, is_canceled, shield, thread};
use towpath_loop::op::{self, FileType, Metadata};
use towpath_loop::{Event, File, Instant, Signals, Socket};

mod http;

use http::{Head, Request, Status};

/// How long a head may be, and with its pipelined successors.
const HEAD_MAX: usize = 16 * 1024;
/// How long a client may take for a head, or for taking anything of an answer.
const IDLE: Duration = Duration::from_secs(15);
/// How long a connection that we have closed may go on sending.
const LINGER: Duration = Duration::from_secs(1);
/// How much of a file is sent at once, if the socket takes it; then it is the turn of others.
const STEP: u64 = 1 << 20;

struct Server {
    root: File,
    idle: Duration,
}

/// A file that is there, or what else to answer.
enum Found {
    File(File, Metadata, &'static str),
    /// The same path with a slash at its end.
    Directory,
}

impl Server {
    /// Opens what a path beneath the root names.
    fn open(&self, path: &Path) -> io::Result<(File, Metadata)> {
        let file = op::open(path)
            .at(&self.root)
            .resolve(libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS)
            .custom_flags(libc::O_NONBLOCK) // Does not wait for the other end of a FIFO.
            .wait()?;
        let found = op::stat(&file).wait()?;
        Ok((file, found))
    }

    fn find(&self, path: &[u8]) -> Result<Found, Status> {
        let mut path = PathBuf::from(OsStr::from_bytes(path));
        let named_dir = path.as_os_str().is_empty() || path.as_os_str().as_bytes().ends_with(b"/");
        if named_dir {
            path.push("index.html");
        }
        let (file, found) = self.open(&path).map_err(|error| status_of(&error))?;
        match found.file_type() {
            FileType::File => Ok(Found::File(file, found, http::content_type(&path))),
            FileType::Dir if !named_dir => Ok(Found::Directory),
            _ => Err(Status::NOT_FOUND),
        }
    }

    /// Answers one request. True if there may be another one.
    fn answer(&self, socket: &Socket, request: &Request) -> io::Result<bool> {
        let mut head = http::Answer::new(request.keep_alive);
        let (file, found, kind) =
            match request.path.as_deref().map_err(|status| *status).and_then(|path| self.find(path)) {
                Ok(Found::File(file, found, kind)) => (file, found, kind),
                Ok(Found::Directory) => {
                    head.field("Location", format_args!("/{}/", request.target));
                    return self.send_text(socket, request, head, Status::MOVED_PERMANENTLY);
                }
                Err(status) => return self.send_text(socket, request, head, status),
            };
        let (len, modified) = (found.len(), found.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        head.date("Last-Modified", modified);
        if request.is_current(modified) {
            self.send(socket, &head.finish(Status::NOT_MODIFIED), 0)?;
            return Ok(request.keep_alive);
        }
        head.field("Accept-Ranges", format_args!("bytes"));
        let (status, at, n) = match request.range_of(len, modified) {
            None => (Status::OK, 0, len),
            Some(Ok((at, n))) => {
                head.field("Content-Range", format_args!("bytes {at}-{}/{len}", at + n - 1));
                (Status::PARTIAL_CONTENT, at, n)
            }
            Some(Err(status)) => {
                head.field("Content-Range", format_args!("bytes */{len}"));
                return self.send_text(socket, request, head, status);
            }
        };
        head.field("Content-Type", format_args!("{kind}"));
        head.field("Content-Length", format_args!("{n}"));
        // The kernel keeps the head back until the first bytes are there to go with it.
        let more = !request.head_only && n > 0;
        self.send(socket, &head.finish(status), if more { libc::MSG_MORE } else { 0 })?;
        let mut sent = 0;
        while more && sent < n {
            let step = op::sendfile(socket, &file, (n - sent).min(STEP) as usize).at(at + sent);
            match step.timeout(self.idle).wait()? {
                0 => return Ok(false), // The file has become shorter than we have promised.
                bytes => sent += bytes as u64,
            }
        }
        Ok(request.keep_alive)
    }

    /// Sends an answer that only says its status.
    fn send_text(
        &self,
        socket: &Socket,
        request: &Request,
        mut head: http::Answer,
        status: Status,
    ) -> io::Result<bool> {
        let text = format!("{status}\n");
        if status == Status::METHOD_NOT_ALLOWED {
            head.field("Allow", format_args!("GET, HEAD"));
        }
        head.field("Content-Type", format_args!("text/plain; charset=utf-8"));
        head.field("Content-Length", format_args!("{}", text.len()));
        let mut answer = head.finish(status);
        if !request.head_only {
            answer.extend(text.bytes());
        }
        self.send(socket, &answer, 0)?;
        Ok(request.keep_alive)
    }

    fn send(&self, socket: &Socket, bytes: &[u8], flags: i32) -> io::Result<()> {
        op::send(socket, bytes).all(true).flags(flags).timeout(self.idle).wait().map(drop)
    }

    /// Answers request after request.
    fn serve(&self, socket: Socket) -> io::Result<()> {
        let mut input = vec![0; HEAD_MAX];
        let mut filled = 0;
        loop {
            let deadline = Instant::now() + self.idle;
            let (request, used) = loop {
                match http::parse(&input[..filled]) {
                    Head::Whole(request, used) => break (request, used),
                    Head::Partial if filled < HEAD_MAX => {}
                    Head::Partial => break (Request::bad(Status::HEAD_TOO_LONG), filled),
                }
                match op::recv(&socket, &mut input[filled..]).deadline(deadline).wait() {
                    Ok(0) => return Ok(()),
                    Ok(n) => filled += n,
                    // Nobody has begun to ask.
                    Err(error) if error.kind() == io::ErrorKind::TimedOut && filled == 0 => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        break (Request::bad(Status::TIMEOUT), filled);
                    }
                    Err(error) => return Err(error),
                }
            };
            // What has been asked is answered, also if the server has been told to end.
            if !shield(|| self.answer(&socket, &request))? {
                return shield(|| linger(&socket, &mut input));
            }
            input.copy_within(used..filled, 0);
            filled -= used;
        }
    }
}

/// Closes a connection so that the last answer arrives: a close with something unread would be a reset, and take it away.
fn linger(socket: &Socket, buf: &mut [u8]) -> io::Result<()> {
    op::shutdown(socket, Shutdown::Write).wait()?;
    let deadline = Instant::now() + LINGER;
    while op::recv(socket, &mut *buf).deadline(deadline).wait()? > 0 {}
    Ok(())
}

fn status_of(error: &io::Error) -> Status {
    match error.raw_os_error() {
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::EXDEV
            | libc::ELOOP
            | libc::ENAMETOOLONG
            | libc::EINVAL
            | libc::ENXIO,
        ) => Status::NOT_FOUND,
        Some(libc::EACCES | libc::EPERM) => Status::FORBIDDEN,
        _ => Status::INTERNAL_ERROR,
    }
}

/// A place among the connections; it is free again when this is dropped.
struct Place(Event);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.notify();
    }
}

fn accept(listener: &TcpListener, server: &Arc<Server>, mut places: usize) -> io::Result<()> {
    let free = Event::new();
    loop {
        if places == 0 {
            places = free.notified().wait()? as usize;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_canceled(&error) => return Ok(()),
            // Out of descriptors, say. The loop has paused before it told, so this does not spin.
            Err(error) => {
                eprintln!("accept: {error}");
                continue;
            }
        };
        places -= 1;
        let (server, place) = (server.clone(), Place(free.clone()));
        let _ = stream.set_nodelay(true);
        let socket = Socket::from(OwnedFd::from(stream));
        thread::spawn(move || {
            let _place = place;
            // Errors are the peer's: it has gone, or takes nothing.
            let _ = server.serve(socket);
        });
    }
}

struct Options {
    root: OsString,
    addr: String,
    /// The most connections.
    places: usize,
    idle: Duration,
}

fn options() -> Result<Options, lexopt::Error> {
    let (mut places, mut idle, mut rest) = (10_000, IDLE, Vec::new());
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Long("connections") => places = args.value()?.parse()?,
            Long("idle-ms") => idle = Duration::from_millis(args.value()?.parse()?),
            Value(value) if rest.len() < 2 => rest.push(value),
            other => return Err(other.unexpected()),
        }
    }
    let addr = rest.get(1).cloned().map_or(Ok("127.0.0.1:8000".into()), ValueExt::string)?;
    Ok(Options { root: rest.into_iter().next().unwrap_or(".".into()), addr, places, idle })
}

fn main() -> io::Result<()> {
    let Options { root, addr, places, idle } = options().map_err(io::Error::other)?;
    let signals = Signals::new([libc::SIGINT, libc::SIGTERM])?;
    // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
    let runtime = unsafe { Runtime::new() }?;
    let backend = runtime.handle().backend();
    runtime.run(|| {
        let root = op::open(&root).custom_flags(libc::O_DIRECTORY).wait()?;
        let listener = TcpListener::bind(addr)?;
        println!("listening on {} with {backend}", listener.local_addr()?);
        thread::spawn(move || accept(&listener, &Arc::new(Server { root, idle }), places));
        signals.received().wait().map(drop)
    })
    // The runtime goes here. It cancels all tasks: those that wait for a request end, those that answer one do so first.
}
