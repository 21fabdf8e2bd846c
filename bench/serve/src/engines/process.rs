//! Engines that are programs of their own: built when they are first asked for, and then run in this process's place.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Options, Serving};

/// A program, its source and its compiler.
pub struct Program {
    name: &'static str,
    /// Below `bench/peers`.
    source: &'static str,
    /// A command that succeeds if what is needed to build it is there.
    probe: &'static [&'static str],
    /// How to get that.
    needs: &'static str,
    /// The command that builds it. `SOURCE` and `TARGET` stand for the paths.
    build: &'static [&'static str],
}

pub const LIBUV: Program = Program {
    name: "libuv",
    source: "libuv/server.c",
    probe: &["pkg-config", "--exists", "libuv"],
    needs: "Debian's libuv1-dev, pkg-config and gcc",
    build: &["cc", "-O2", "-Wall", "-Wextra", "-o", "TARGET", "SOURCE", "-luv"],
};

pub const GO: Program = Program {
    name: "go",
    source: "go/main.go",
    probe: &["go", "version"],
    needs: "Debian's golang-go",
    build: &["go", "build", "-o", "TARGET", "SOURCE"],
};

impl Program {
    /// Builds it, unless that was done since its source last changed. Gives the path of the program.
    pub fn build(&self) -> Result<PathBuf, String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../peers").join(self.source);
        let here = env::current_exe().map_err(|error| error.to_string())?;
        let target = here.with_file_name(format!("peer-{}", self.name));
        let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
        if changed(&target).is_ok_and(|built| changed(&source).is_ok_and(|source| source < built)) {
            return Ok(target);
        }
        let (probe, arguments) = (self.probe[0], &self.probe[1..]);
        if !Command::new(probe).args(arguments).output().is_ok_and(|output| output.status.success()) {
            return Err(format!("not installed: needs {}", self.needs));
        }
        // Under a name of its own first: others may be building it too, or running it.
        let partial = target.with_extension(std::process::id().to_string());
        let mut build = Command::new(self.build[0]);
        for argument in &self.build[1..] {
            match *argument {
                "SOURCE" => build.arg(&source),
                "TARGET" => build.arg(&partial),
                other => build.arg(other),
            };
        }
        let output = build.output().map_err(|error| format!("{}: {error}", self.build[0]))?;
        if !output.status.success() {
            return Err(format!("does not build: {}", String::from_utf8_lossy(&output.stderr)));
        }
        fs::rename(&partial, &target).map_err(|error| error.to_string())?;
        Ok(target)
    }

    /// Turns this process into the program.
    pub fn run(&self, options: &Options) -> Serving {
        let path = self.build().map_err(io::Error::other)?;
        Err(Command::new(path).arg(options.service.name()).arg(options.workers.to_string()).exec())
    }
}
