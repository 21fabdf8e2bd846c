//! Streams: accepting and receiving, many items for one operation. The same on every backend; on io_uring also without the
//! opcodes, and with a completion queue so small that the kernel ends every multishot.

pub mod buffers;
pub mod endings;
pub mod items;

use std::io::{self, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use towpath_harness::Rng;
use towpath_loop::operation::Kind;
use towpath_loop::{Config, Loop, OPERATIONS, OpStream, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

/// A configuration in which the ring lacks what these need.
fn without(config: Config, kinds: &[Kind]) -> Config {
    let code = |kind: &Kind| OPERATIONS[*kind as usize].uring.expect("it has an opcode").code;
    kinds.iter().map(code).fold(config, Config::without_opcode)
}

/// Runs a test in each way that the backend has to do streams.
fn each_way(mut test: impl FnMut(&Loop)) {
    let plain = new_loop();
    test(&plain);
    if plain.backend() != "io_uring" {
        return;
    }
    drop(plain);
    let tiny = Config::new().ring_entries(8).ring_completions(8);
    let streams = [Kind::AcceptMulti, Kind::RecvMulti];
    let masked = without(Config::new(), &streams);
    let both = without(tiny.clone(), &streams);
    for config in [tiny, masked, both] {
        test(&loop_with(&config));
    }
}

/// Ticks a few times without sleeping: what can happen has happened.
fn settle(loop_: &Loop) {
    for _ in 0..6 {
        poke(loop_);
    }
}

/// Waits until nothing is in flight any more.
fn finish(loop_: &Loop) {
    tick_until(loop_, || loop_.in_flight() == 0);
}

/// Bytes that can be told apart from any others.
struct Pattern(Rng);

impl Pattern {
    fn new(seed: u64) -> Pattern {
        Pattern(Rng::new(seed))
    }
    fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.bits() as u8).collect()
    }
    /// Fails unless these are the next ones.
    fn check(&mut self, bytes: &[u8]) {
        assert!(self.take(bytes.len()) == bytes, "lost, doubled or out of order");
    }
}

/// Sends `total` bytes of a pattern in pieces of odd sizes, and ends the stream.
fn sender(mut to: impl Write + Send + 'static, seed: u64, total: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut pattern, mut sizes) = (Pattern::new(seed), Rng::new(seed ^ 1));
        let mut left = total;
        while left > 0 {
            let len = (1 + sizes.below(6000) as usize).min(left);
            to.write_all(&pattern.take(len)).unwrap();
            left -= len;
        }
    })
}

/// The next item of a stream, driving the loop.
fn next<T>(stream: &mut impl Iterator<Item = io::Result<T>>) -> T {
    stream.next().expect("not the end").expect("no error")
}

fn pending<O: op::Streaming + 'static>(stream: &mut OpStream<O>) -> bool {
    stream.try_next().is_pending()
}
