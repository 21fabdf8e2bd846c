//! The loop inside another one: `cargo run --example embed` takes names of files on its input, one a line, and prints
//! their sizes.
//!
//! The foreign loop is plain `poll(2)`. It watches its own descriptor, the input, and beside it the one of our loop,
//! which is readable when a tick would find something; and it sleeps no longer than until our next timer. glib, Qt
//! or libuv would be in its place in the same way. A backend without such a descriptor (`poll`) is ticked at
//! intervals.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use towpath_loop::{Loop, op};

/// How often a loop is ticked that cannot be polled.
const INTERVAL: Duration = Duration::from_millis(10);

/// What comes of one line of input.
fn measure(loop_: &Loop, line: Vec<u8>) {
    let path = PathBuf::from(OsString::from_vec(line));
    loop_.submit(op::read_entire(&path), move |_, read| match read {
        Ok(bytes) => println!("{}: {} bytes", path.display(), bytes.len()),
        Err(error) => println!("{}: {error}", path.display()),
    });
}

/// A sign of life, from the loop's own timers.
fn beat(loop_: &Loop) {
    loop_.submit(op::timer(Duration::from_millis(100)), |loop_, outcome| {
        if outcome.is_ok() {
            eprint!(".");
            beat(loop_);
        }
    });
}

/// One sleep of the foreign loop. True if there is input.
fn sleep(loop_: &Loop, watch_input: bool) -> io::Result<bool> {
    let until_timer = loop_.next_deadline().map(|deadline| deadline.saturating_duration_since(loop_.clock()));
    let input = io::stdin();
    loop_.with_fd(|fd| {
        // A timer that is a million years away is as good as none.
        let most = if fd.is_some() { Duration::from_secs(3600) } else { INTERVAL };
        let timeout =
            Timespec::try_from(until_timer.map_or(most, |time| time.min(most))).expect("short enough");
        let mut fds = Vec::with_capacity(2);
        if watch_input {
            fds.push(PollFd::new(&input, PollFlags::IN));
        }
        if let Some(fd) = fd {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok(watch_input && !fds[0].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

fn main() -> io::Result<()> {
    let loop_ = Loop::new()?;
    beat(&loop_);
    let beats = loop_.in_flight();
    let (mut line, mut ended) = (Vec::new(), false);
    while !ended || loop_.in_flight() > beats {
        // Before every sleep: it hands over what was begun, and delivers what is over.
        loop_.tick(Some(Duration::ZERO))?;
        if !sleep(&loop_, !ended)? {
            continue;
        }
        let mut bytes = [0; 4096];
        // Not through the buffer of `Stdin`: poll(2) does not know of it.
        let n = rustix::io::read(io::stdin(), &mut bytes)?;
        ended = n == 0;
        for byte in &bytes[..n] {
            match byte {
                b'\n' => measure(&loop_, std::mem::take(&mut line)),
                byte => line.push(*byte),
            }
        }
        if ended && !line.is_empty() {
            measure(&loop_, std::mem::take(&mut line));
        }
    }
    Ok(())
}
