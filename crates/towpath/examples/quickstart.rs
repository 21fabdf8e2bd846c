//! An echo server and its clients in one process, every byte checked, and what it cost.
//!
//! ```text
//! cargo run --release --example quickstart -- [--backend NAME] [--workers N] [--connections N] [--seconds S] [--json]
//! ```
//!
//! The server is [`serve`] and [`echo`]: a thread-per-connection program, but for its `use` lines. A client sends
//! messages of 1 byte to 64 KiB, waits for each to come back, and compares. Both ends are tasks of one runtime, so all
//! figures but the latencies count both.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use towpath::net::{TcpListener, TcpStream};
use towpath::thread::{self, JoinHandle};

// Cargo would take a file next to this one for an example of its own.
#[path = "quickstart/messages.rs"]
mod messages;
#[path = "quickstart/options.rs"]
mod options;
#[path = "quickstart/process.rs"]
mod process;
#[path = "quickstart/report.rs"]
mod report;
#[path = "quickstart/run.rs"]
mod run;

use messages::Messages;
use options::Options;
use report::Report;
use run::Run;

/// What each end reads into: an array on its task's stack, to which the system writes directly.
const BUFFER: usize = 16 * 1024;
/// How many clients may be connecting at once: fewer than the listener's backlog, beyond which the kernel lets them wait
/// for a second.
const CONNECTING: usize = 64;

/// Descriptors beside two for each connection: standard streams, the listener, a few for each worker.
const DESCRIPTORS: u64 = 64;

/// Accepts until it is cancelled, one task per connection.
fn serve(listener: &TcpListener, run: &Run) -> Vec<JoinHandle<io::Result<()>>> {
    let mut connections = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, _)) => connections.push(thread::spawn(|| echo(stream))),
            Err(error) if towpath::is_canceled(&error) => return connections,
            Err(error) => run.error("accept", &error),
        }
    }
}

/// Sends back what comes in.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = [0; BUFFER];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

/// Connects, sends messages while there is time, and waits for the others before it leaves.
fn client(number: usize, addr: SocketAddr, run: &Run) {
    let mut messages = Messages::new(number as u64);
    let mut buf = [0; BUFFER];
    let stream = TcpStream::connect(addr).and_then(|mut stream| {
        stream.set_nodelay(true)?;
        // One byte there and back: the server has a task for this connection now.
        match exchange(&mut stream, messages.of_size(1), &mut buf)? {
            true => Ok(stream),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "the first byte came back wrong")),
        }
    });
    run.connected.arrive();

    let result = stream.and_then(|mut stream| {
        while Instant::now() < run.deadline() {
            let message = messages.of_any_size();
            let start = Instant::now();
            let intact = exchange(&mut stream, message, &mut buf)?;
            run.message(number, message.len(), start.elapsed(), intact);
        }
        Ok(stream)
    });
    if let Err(error) = &result {
        run.error(&format!("client {number}"), error);
    }
    run.finished.arrive();
}

/// Sends a message and reads it back; false if it came back as something else.
fn exchange(stream: &mut TcpStream, message: &[u8], buf: &mut [u8]) -> io::Result<bool> {
    // A socket's two buffers hold more than the largest message, so that neither end waits for the other in vain.
    stream.write_all(message)?;
    let mut intact = true;
    let mut expected = message;
    while !expected.is_empty() {
        let most = buf.len().min(expected.len());
        let n = stream.read(&mut buf[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        intact &= buf[..n] == expected[..n];
        expected = &expected[n..];
    }
    Ok(intact)
}

/// The main task: starts server and clients, lets them go, and takes the measurements.
fn drive(options: &Options, run: &Arc<Run>) -> io::Result<Report> {
    let runtime = towpath::Handle::try_current().expect("this is a task");
    let before = process::resident_bytes();

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let server = thread::spawn({
        let run = run.clone();
        move || serve(&listener, &run)
    });
    let mut clients = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        run.connected.wait_for((number + 1).saturating_sub(CONNECTING));
        let run = run.clone();
        clients.push(thread::spawn(move || client(number, addr, &run)));
    }
    run.connected.wait_for(options.connections);

    let metrics = runtime.metrics();
    let start = Instant::now();
    run.start(start + options.duration);
    run.connected.open(&clients);
    while !run.finished.wait_at_most(options.connections, Duration::from_secs(1)) {
        run.progress(start.elapsed());
    }
    run.end_progress();
    let elapsed = start.elapsed();
    let syscalls = runtime.metrics().syscalls - metrics.syscalls;
    // All are connected still, and idle.
    let after = process::resident_bytes();

    // The clients hang up, the server's tasks see the end of their streams, and nothing is left to be cancelled but
    // the accept.
    run.finished.open(&clients);
    clients.into_iter().for_each(|client| run.check("client", client.join().map(Ok)));
    server.cancel();
    for connection in server.join().expect("the server does not panic") {
        run.check("server", connection.join());
    }

    let connections = options.connections as u64;
    Ok(Report {
        backend: runtime.backend(),
        workers: runtime.workers(),
        connections: options.connections,
        elapsed,
        syscalls,
        rss_per_connection: before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before) / connections),
        totals: run.totals(),
    })
}

fn quickstart(options: &Options) -> io::Result<bool> {
    process::allow_descriptors(2 * options.connections as u64 + DESCRIPTORS)?;
    let run = Arc::new(Run::default());
    run::watch(run.clone());

    let mut builder = towpath::Runtime::builder();
    if let Some(backend) = options.backend {
        builder = builder.backend(backend);
    }
    if let Some(workers) = options.workers {
        builder = builder.workers(workers);
    }
    // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
    let runtime = unsafe { builder.build() }?;
    let report = runtime.run(|| drive(options, &run))?;
    drop(runtime);

    if options.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(report.is_success())
}

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    match quickstart(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}
