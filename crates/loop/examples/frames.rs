//! The loop inside a frame loop: `cargo run --example frames -- FILE…` draws, and loads the files meanwhile.
//!
//! A game or a display has a loop of its own, which must not be held up. Once a frame it ticks ours without waiting;
//! what is over by then is delivered, what is not has time until the next frame. The files are waited for in pull
//! style: keep the ticket, ask each frame.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use towpath_loop::{Loop, op};

const FRAME: Duration = Duration::from_micros(16_667);

/// Stands for whatever takes most of a frame.
fn draw(frame: u64, loaded: usize, files: usize) {
    if frame.is_multiple_of(60) {
        println!("frame {frame}: {loaded} of {files} files");
    }
}

fn main() -> io::Result<()> {
    let mut paths: Vec<_> = std::env::args_os().skip(1).collect();
    if paths.is_empty() {
        paths.push(std::env::current_exe()?.into());
    }
    let loop_ = Loop::new()?;
    let mut loading: Vec<_> = paths.iter().map(|path| (path, loop_.start(op::read_entire(path)))).collect();
    let (mut frame, mut slowest) = (0, Duration::ZERO);
    let mut next = Instant::now();
    while !loading.is_empty() {
        draw(frame, paths.len() - loading.len(), paths.len());

        let begun = Instant::now();
        loop_.tick(Some(Duration::ZERO))?;
        slowest = slowest.max(begun.elapsed());
        loading.retain_mut(|(path, ticket)| match ticket.try_take() {
            None => true,
            Some(Ok(bytes)) => {
                println!("{}: {} bytes", path.display(), bytes.len());
                false
            }
            Some(Err(error)) => {
                eprintln!("{}: {error}", path.display());
                false
            }
        });

        frame += 1;
        next += FRAME;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("{frame} frames; the loop took {slowest:?} of one at most");
    Ok(())
}
