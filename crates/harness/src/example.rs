//! Examples as a user would run them: started as programs, told to end, and what they print.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// An example under way.
#[derive(Debug)]
pub struct Example {
    child: Child,
    /// Its input.
    pub stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Where cargo puts the example of that name: beside `deps`, where this test is.
pub fn path(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("this test's own path");
    let profile = exe.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let path = profile.join("examples").join(name);
    assert!(
        path.exists(),
        "{}: `cargo test` builds it; with `--test`, `cargo build --examples` has to do so before",
        path.display()
    );
    path
}

impl Example {
    /// `TOWPATH_BACKEND` goes on to it with the rest of the environment.
    pub fn start(name: &str, args: &[&str]) -> Example {
        let mut command = Command::new(path(name));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Example { child, stdin, stdout }
    }

    /// The next line that it prints, or what there is at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("its output");
        line.trim_end().to_owned()
    }

    /// Reads where it listens, and that it does so on `backend`.
    pub fn address(&mut self, backend: &str) -> SocketAddr {
        let line = self.line();
        let rest = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}"));
        let (addr, with) = rest.split_once(" with ").unwrap_or_else(|| panic!("{line:?}"));
        assert_eq!(with, backend);
        addr.parse().unwrap_or_else(|_| panic!("{line:?}"))
    }

    /// Closes its input and waits for a clean end. Returns what else it printed.
    pub fn finish(mut self) -> String {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("its output");
        let status = self.child.wait().expect("the example ends");
        assert!(status.success(), "{status}: {rest}");
        rest
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(self) -> String {
        self.end_by(Signal::INT)
    }

    /// Ends it as a service manager does.
    pub fn terminate(self) -> String {
        self.end_by(Signal::TERM)
    }

    fn end_by(self, signal: Signal) -> String {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
        let Example { mut child, stdin, mut stdout } = self;
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("its output");
        let status = child.wait().expect("the example ends");
        drop(stdin); // Only now: it was the signal that ended it.
        assert!(status.success(), "{status}: {rest}");
        rest
    }
}

/// The backend under test.
pub fn backend() -> String {
    std::env::var("TOWPATH_BACKEND").expect("the harness sets it")
}
