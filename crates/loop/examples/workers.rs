//! Threads that compute, and a loop that collects: `cargo run --release --example workers -- 2000000`.
//!
//! A [`Remote`] is a loop as other threads see it. What they send through it runs on the loop's thread, so the results
//! below need no lock. The loop sleeps until somebody sends, and does its own work meanwhile: here it prints how far
//! they are.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use towpath_loop::{Loop, Remote, op};

const CHUNK: u64 = 10_000;

thread_local! {
    /// What has come in, on the loop's thread: how many chunks, and how many primes.
    static FOUND: RefCell<(usize, u64)> = const { RefCell::new((0, 0)) };
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// Counts the primes of each chunk, and sends every count as soon as it is there.
fn compute(chunks: Vec<Range<u64>>, remote: Remote) {
    for chunk in chunks {
        let primes = chunk.filter(|n| is_prime(*n)).count() as u64;
        let sent = remote.run(move |_loop| {
            FOUND.with_borrow_mut(|(chunks, sum)| {
                *chunks += 1;
                *sum += primes;
            });
        });
        if sent.is_err() {
            return; // The loop is gone: nobody wants the rest.
        }
    }
}

fn report(loop_: &Loop, chunks: usize) {
    loop_.submit(op::timer(Duration::from_millis(200)), move |loop_, outcome| {
        if outcome.is_ok() {
            println!("{} of {chunks} chunks", FOUND.with_borrow(|found| found.0));
            report(loop_, chunks);
        }
    });
}

fn main() -> io::Result<()> {
    let below = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        None => 2_000_000,
    };
    let chunks: Vec<_> = (0..below).step_by(CHUNK as usize).map(|at| at..below.min(at + CHUNK)).collect();
    let threads = thread::available_parallelism()?.get();

    let loop_ = Loop::new()?;
    let workers: Vec<_> = (0..threads)
        .map(|first| {
            let mine = chunks.iter().skip(first).step_by(threads).cloned().collect();
            let remote = loop_.remote();
            thread::Builder::new().name(format!("worker {first}")).spawn(move || compute(mine, remote))
        })
        .collect::<io::Result<_>>()?;

    report(&loop_, chunks.len());
    loop_.run_until(|| FOUND.with_borrow(|found| found.0 == chunks.len()))?;
    for worker in workers {
        worker.join().map_err(|_| io::Error::other("a worker panicked"))?;
    }
    println!("{} primes below {below}", FOUND.with_borrow(|found| found.1));
    Ok(())
}
