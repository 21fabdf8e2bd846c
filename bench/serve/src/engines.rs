//! The engines there are.

mod compio;
mod floor_epoll;
mod floor_uring;
mod may;
mod monoio;
mod owned;
mod process;
mod smol;
mod threads;
mod tokio;
mod towpath;
mod towpath_loop;
mod towpath_stream;

use ::towpath::BackendKind;

use crate::{Options, Serving};

/// One engine.
pub struct Engine {
    pub name: &'static str,
    pub workers: Workers,
    kind: Kind,
}

/// With how many workers an engine is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workers {
    /// One thread, or as many as there are connections: the row is called as the engine.
    One,
    /// One, and as many as there are cores: the rows are called `NAME-1` and `NAME-n`.
    OneAndMany,
}

enum Kind {
    /// In this very process.
    Module(fn(&Options) -> Serving),
    /// A program of its own, which this process builds and turns into.
    Program(&'static process::Program),
}

macro_rules! engines {
    ($($name:literal $workers:ident $kind:ident($run:expr);)*) => {
        &[$(Engine { name: $name, workers: Workers::$workers, kind: Kind::$kind($run) }),*]
    };
}

const ENGINES: &[Engine] = engines! {
    "threads" One Module(threads::run);
    "floor-uring" One Module(floor_uring::run);
    "floor-epoll" One Module(floor_epoll::run);
    "towpath-uring" OneAndMany Module(|options| towpath::run(options, BackendKind::IoUring));
    "towpath-epoll" OneAndMany Module(|options| towpath::run(options, BackendKind::Epoll));
    "towpath-poll" OneAndMany Module(|options| towpath::run(options, BackendKind::Poll));
    "towpath-stream-uring" OneAndMany Module(|options| towpath::run_streams(options, BackendKind::IoUring));
    "towpath-stream-epoll" OneAndMany Module(|options| towpath::run_streams(options, BackendKind::Epoll));
    "towpath-loop-uring" One Module(|options| towpath_loop::run(options, BackendKind::IoUring));
    "towpath-loop-epoll" One Module(|options| towpath_loop::run(options, BackendKind::Epoll));
    "tokio" OneAndMany Module(tokio::run);
    "smol" OneAndMany Module(smol::run);
    "compio" OneAndMany Module(compio::run);
    "monoio" OneAndMany Module(monoio::run);
    "may" OneAndMany Module(may::run);
    "libuv" One Program(&process::LIBUV);
    "go" OneAndMany Program(&process::GO);
};

/// All engines, whether or not they can be run here.
pub fn engines() -> &'static [Engine] {
    ENGINES
}

pub fn find(name: &str) -> Option<&'static Engine> {
    ENGINES.iter().find(|engine| engine.name == name)
}

impl Engine {
    /// See [`available`](crate::available).
    pub(crate) fn available(&self) -> Result<(), String> {
        match self.kind {
            Kind::Module(_) => Ok(()),
            Kind::Program(program) => program.build().map(drop),
        }
    }

    pub(crate) fn run(&self, options: &Options) -> Serving {
        match self.kind {
            Kind::Module(run) => run(options),
            Kind::Program(program) => program.run(options),
        }
    }
}
