//! Each example as a user would run it, on every backend, with real clients.

mod files;
mod proxy;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use towpath_harness::example::{Example, backend};
use towpath_harness::{Rng, Test, patience, test};

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.bits() as u8).collect()
}

/// Sends all, reads it back, until both have come to their end.
fn echoes(addr: SocketAddr, sent: &[u8]) {
    let mut stream = TcpStream::connect(addr).expect("connect");
    let mut writer = stream.try_clone().expect("dup");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(sent).expect("send");
            writer.shutdown(Shutdown::Write).expect("shutdown");
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("receive");
        assert!(received == sent, "{} bytes came back, of {}", received.len(), sent.len());
    });
}

/// Several clients at once, one that says nothing, and one that is still connected at the end.
fn serves_tcp(example: &mut Example, backend: &str) -> TcpStream {
    let addr = example.address(backend);
    drop(TcpStream::connect(addr).expect("connect"));
    std::thread::scope(|scope| {
        for (seed, len) in [(1, 1), (2, 100_000), (3, 3_000_000)] {
            scope.spawn(move || echoes(addr, &bytes(len, seed)));
        }
    });
    let mut idle = TcpStream::connect(addr).expect("connect");
    idle.write_all(b"x").expect("send");
    idle.read_exact(&mut [0]).expect("receive");
    idle
}

fn tcp_echo() {
    let mut example = Example::start("tcp_echo", &["127.0.0.1:0"]);
    let mut idle = serves_tcp(&mut example, &backend());
    assert_eq!(example.finish(), "");
    assert_eq!(idle.read(&mut [0]).expect("an end, no reset"), 0);
}

fn tcp_echo_interrupted() {
    let mut example = Example::start("tcp_echo", &["127.0.0.1:0"]);
    let _idle = serves_tcp(&mut example, &backend());
    assert_eq!(example.interrupt(), "");
}

fn custom_poller() {
    let mut example = Example::start("custom_poller", &["127.0.0.1:0"]);
    let _idle = serves_tcp(&mut example, "custom_poller");
    assert_eq!(example.finish(), "");
}

fn custom_backend() {
    let mut example = Example::start("custom_backend", &["127.0.0.1:0"]);
    let _idle = serves_tcp(&mut example, "custom_backend");
    let counts = example.finish();
    let accepts = counts.lines().find(|line| line.starts_with("accept: ")).expect("accepts were counted");
    // Five clients, and the one that nobody took.
    let numbers: Vec<u64> = accepts.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [at_once, waited, 1] if at_once + waited == 6), "{accepts}");
}

fn udp_echo() {
    let mut example = Example::start("udp_echo", &["127.0.0.1:0"]);
    let addr = example.address(&backend());
    let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").expect("bind")).collect();
    let limit = patience(Duration::from_secs(4));
    for (seed, client) in (0..).zip(&clients) {
        client.connect(addr).expect("connect");
        client.set_read_timeout(Some(limit)).expect("a limit");
        // The last is the longest that there can be over IPv4.
        for len in [0, 1, 1400, 65_507] {
            let sent = bytes(len, seed);
            assert_eq!(client.send(&sent).expect("send"), len);
            let mut received = vec![0; 70_000];
            let n = client.recv(&mut received).expect("an answer");
            assert!(received[..n] == sent, "{n} bytes came back, of {len}");
        }
    }
    assert_eq!(example.finish(), "");
}

/// A directory with two files, of 10 and 1 000 000 bytes, that goes with the value.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let dir = std::env::temp_dir().join(format!("towpath-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory");
        let files = Files(dir);
        std::fs::write(files.path("short"), [1; 10]).expect("a file");
        std::fs::write(files.path("long"), vec![2; 1_000_000]).expect("a file");
        files
    }

    fn dir(&self) -> &Path {
        &self.0
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn frames() {
    let files = Files::new("frames");
    let (short, long) = (files.path("short"), files.path("long"));
    let printed = Example::start("frames", &[&short, &long]).finish();
    assert!(printed.contains(&format!("{short}: 10 bytes\n")), "{printed}");
    assert!(printed.contains(&format!("{long}: 1000000 bytes\n")), "{printed}");
    let end = printed.lines().last().expect("a last line");
    assert!(end.contains(" frames; the loop took "), "{printed}");
}

fn embed() {
    let files = Files::new("embed");
    let mut example = Example::start("embed", &[]);
    // One after the other: the answer must come while the input is silent, which no line of input brings about.
    for (name, end) in [("short", "10 bytes"), ("long", "1000000 bytes"), ("missing", "")] {
        let path = files.path(name);
        let mut stdin = example.stdin.as_ref().expect("open");
        stdin.write_all(format!("{path}\n").as_bytes()).expect("its input");
        let line = example.line();
        assert!(line.starts_with(&format!("{path}: ")) && line.ends_with(end), "{line}");
    }
    assert_eq!(example.finish(), "");
}

fn workers() {
    let printed = Example::start("workers", &["200000"]).finish();
    assert!(printed.ends_with("17984 primes below 200000\n"), "{printed}");
}

fn main() -> ExitCode {
    let suite: &[Test] = &[
        test!(tcp_echo).busy(),
        test!(tcp_echo_interrupted).busy(),
        test!(udp_echo).busy(),
        test!(frames),
        test!(embed),
        test!(workers).seconds(30),
        test!(files::cp_lengths).busy().seconds(30),
        test!(files::cp_targets),
        test!(files::cp_failures),
        test!(files::cp_interrupted).busy(),
        test!(files::cp_progress),
        test!(files::cat_trees).busy(),
        test!(files::cat_input),
        test!(files::cat_broken_pipe).busy(),
        test!(files::cat_into_itself),
        test!(proxy::proxy_passes).busy().seconds(20),
        test!(proxy::proxy_passes_without_splice).busy().seconds(20),
        test!(proxy::proxy_half_close),
        test!(proxy::proxy_target_down),
        test!(proxy::proxy_reset).busy(),
        test!(custom_poller).chooses().busy(),
        test!(custom_backend).chooses().busy(),
    ];
    towpath_harness::main(suite)
}
