//! Go: a program of our own in `peers/go-local`, built on first use, that takes this process over.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use crate::Options;
use crate::files;
use crate::measure::Outcome;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../peers/go-local");

pub fn is_installed() -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join("go").is_file()))
}

/// Does not return, unless the program cannot be had.
pub fn run(options: &Options) -> Outcome {
    let error = become_it(options);
    eprintln!("go: {error}");
    Outcome::failed()
}

fn become_it(options: &Options) -> io::Error {
    let program = match build() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(program);
    command.env("GOMAXPROCS", options.workers.to_string());
    command.arg(&options.scenario).args(["--workers", &options.workers.to_string()]);
    if options.quick {
        command.arg("--quick");
    }
    if options.scenario.starts_with("file") {
        match files::prepare(options) {
            Ok(path) => command.arg("--file").arg(path),
            Err(error) => return error,
        };
    }
    command.exec()
}

/// Builds the program beside this one, unless it is there and newer than its source.
fn build() -> io::Result<PathBuf> {
    let program = env::current_exe()?.with_file_name("towpath-bench-go-local");
    if let Ok(built) = fs::metadata(&program) {
        let mut newest = SystemTime::UNIX_EPOCH;
        for file in fs::read_dir(SOURCE)? {
            newest = newest.max(file?.metadata()?.modified()?);
        }
        if built.modified()? > newest {
            return Ok(program);
        }
    }
    let status =
        Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(SOURCE).status()?;
    if status.success() { Ok(program) } else { Err(io::Error::other("building it failed")) }
}
