//! The servers under test, one module an engine, and the protocol that they share with the driver.

mod conversation;
mod engines;
mod http;
pub mod protocol;
mod sockets;

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;

pub use engines::{Engine, Workers, engines};
use protocol::Service;

/// What one server process is to be.
pub struct Options {
    /// The engine without its number of workers: `towpath-uring`, `tokio`, `floor-epoll`.
    pub engine: String,
    pub service: Service,
    /// 1 where the row's name ends in `-1`, else the number of cores.
    pub workers: usize,
}

/// How an engine serves: only an error, or the end of the process, ends it.
type Serving = io::Result<Infallible>;

/// Whether `engine` is known and offers `service`. All of them offer all.
pub fn supports(engine: &str, _service: Service) -> bool {
    engines::find(engine).is_some()
}

/// Whether `engine` can be run here. Builds it first, where it is a program of its own.
///
/// # Errors
/// What is missing, for a person to read.
pub fn available(engine: &str) -> Result<(), String> {
    engines::find(engine).ok_or_else(|| format!("no engine is called {engine:?}"))?.available()
}

/// Serves until standard input ends. Prints `listening ADDR` once it does.
pub fn main(options: Options) -> ExitCode {
    let Some(engine) = engines::find(&options.engine) else {
        eprintln!("no engine is called {:?}", options.engine);
        return ExitCode::from(2);
    };
    sockets::raise_limit();
    sockets::zero_lazily();
    let Err(error) = engine.run(&options);
    eprintln!("{}: {error}", engine.name);
    ExitCode::FAILURE
}
