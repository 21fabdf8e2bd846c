//! A bar on stderr.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 40;

/// How much is done, of how much.
pub struct Progress {
    done: u64,
    total: u64,
    /// When it was last drawn; `None` if it is not to be.
    drawn: Option<Instant>,
}

impl Progress {
    /// Drawn if stderr is a terminal, or if it is asked for.
    pub fn new(forced: bool) -> Progress {
        let drawn = (forced || io::stderr().is_terminal()).then(Instant::now);
        Progress { done: 0, total: 0, drawn }
    }

    pub fn expect(&mut self, bytes: u64) {
        self.total += bytes;
    }

    pub fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if self.drawn.is_some_and(|drawn| drawn.elapsed() > Duration::from_millis(50)) {
            self.drawn = Some(Instant::now());
            self.draw();
        }
    }

    /// Makes room for something else.
    pub fn clear(&self) {
        if self.drawn.is_some() {
            eprint!("\r\x1b[K");
        }
    }

    pub fn end(&self) {
        if self.drawn.is_some() {
            self.draw();
            eprintln!();
        }
    }

    fn draw(&self) {
        let share = self.done as f64 / self.total.max(self.done).max(1) as f64;
        let bar = "#".repeat((share * WIDTH as f64) as usize);
        let (done, total) = (self.done >> 10, self.total >> 10);
        // A progress bar that cannot be drawn is no reason to stop.
        let _ =
            write!(io::stderr(), "\r[{bar:-<WIDTH$}] {:3.0} %  {done} of {total} KiB\x1b[K", share * 100.0);
    }
}
