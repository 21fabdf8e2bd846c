//! Every engine, every service: the bytes that come back are the right ones. The servers are this very program, run
//! again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use towpath_bench_serve::protocol::{BUFFER, Digest, RESPONSE, Service, pattern};
use towpath_bench_serve::{Options, Workers, available, engines, supports};

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, serve, engine, service, workers] = &arguments[..]
        && serve == "serve"
    {
        let (service, workers) = (service.parse().unwrap(), workers.parse().unwrap());
        return towpath_bench_serve::main(Options { engine: engine.clone(), service, workers });
    }
    let filter = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
    for engine in engines() {
        if filter.is_some_and(|filter| !engine.name.contains(filter)) {
            continue;
        }
        if let Err(why) = available(engine.name) {
            println!("{}: {why}", engine.name);
            continue;
        }
        let most = if engine.workers == Workers::One { 1 } else { 2 };
        for workers in 1..=most {
            for (service, test) in TESTS {
                let label = format!("{}-{workers} {}", engine.name, service.name());
                if !supports(engine.name, service) {
                    println!("{label}: not offered");
                    continue;
                }
                let begun = Instant::now();
                let server = Server::start(engine.name, service, workers);
                test(server.addr);
                server.end();
                println!("{label}: ok, {:?}", begun.elapsed());
            }
        }
    }
    unknown_names();
    ExitCode::SUCCESS
}

type Test = fn(SocketAddr);

const TESTS: [(Service, Test); 5] = [
    (Service::Echo, echo),
    (Service::Sink, sink),
    (Service::Source, source),
    (Service::Http, http),
    (Service::Udp, udp),
];

fn command(engine: &str, service: &str, workers: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["serve", engine, service, &workers.to_string()]);
    command
}

struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(engine: &str, service: Service, workers: usize) -> Server {
        let mut command = command(engine, service.name(), workers);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening ").expect("a server says where").trim_end().parse().unwrap();
        Server { child, addr }
    }

    /// It ends with its standard input, and was alive until then.
    fn end(mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "it went by itself");
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where the test has failed.
        let _ = self.child.kill();
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| pattern((i * 7 + seed) as u64) ^ (i >> 16) as u8).collect()
}

/// Some connections at a time, each on a thread of its own.
fn several(count: usize, f: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for i in 0..count {
            let f = &f;
            scope.spawn(move || f(i));
        }
    });
}

fn echo(addr: SocketAddr) {
    several(8, |i| {
        // Back and forth.
        let mut stream = connect(addr);
        for len in [1, 64, 4096, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER, 1] {
            let sent = bytes(len, i);
            let mut back = vec![0; len];
            stream.write_all(&sent).unwrap();
            stream.read_exact(&mut back).unwrap();
            assert!(sent == back, "{len} bytes");
        }
        // All at once, more than the sockets hold.
        let sent = bytes(if i == 0 { 24 << 20 } else { 1 << 20 }, i);
        let mut writer = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in sent.chunks(100_000) {
                    writer.write_all(piece).unwrap();
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert!(sent == back);
        });
    });
    rude(addr);
    // Many, one after the other.
    for i in 0..200 {
        let mut stream = connect(addr);
        let sent = [i as u8; 3];
        let mut back = Vec::new();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(sent[..], back);
    }
}

/// Peers that go in the middle, with a reset.
fn rude(addr: SocketAddr) {
    for _ in 0..20 {
        let stream = connect(addr);
        stream.set_nonblocking(true).unwrap();
        for _ in 0..100 {
            // What is not read makes the close a reset.
            let _ = (&stream).write(&[1; BUFFER]);
        }
    }
    drop(connect(addr));
}

fn sink(addr: SocketAddr) {
    several(4, |i| {
        for len in [0, 1, 4096, 4097, 5 << 20] {
            let mut stream = connect(addr);
            let sent = bytes(len, i);
            let mut digest = Digest::default();
            for piece in sent.chunks(70_001) {
                stream.write_all(piece).unwrap();
                digest.update(piece);
            }
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, digest.to_bytes());
        }
    });
    rude(addr);
    let mut stream = connect(addr);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, Digest::default().to_bytes());
}

fn source(addr: SocketAddr) {
    let expected: Vec<u8> = (0..8 << 20).map(pattern).collect();
    let check = |stream: &mut TcpStream, len: u64| {
        let mut got = vec![0; len as usize];
        stream.read_exact(&mut got).unwrap();
        assert!(got == expected[..len as usize], "{len} bytes");
    };
    several(4, |_| {
        let mut stream = connect(addr);
        for len in [1, 0, 4096, BUFFER as u64, BUFFER as u64 + 1, 8 << 20] {
            stream.write_all(&len.to_le_bytes()).unwrap();
            check(&mut stream, len);
        }
        // Several at once, and one in two pieces.
        let lens = [10, 0, 100_000, 3u64];
        let requests: Vec<u8> = lens.iter().flat_map(|len| len.to_le_bytes()).collect();
        stream.write_all(&requests[..29]).unwrap();
        thread::sleep(Duration::from_millis(10));
        stream.write_all(&requests[29..]).unwrap();
        lens.iter().for_each(|len| check(&mut stream, *len));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    rude(addr);
    // One that goes while it is being sent to.
    let mut stream = connect(addr);
    stream.write_all(&(1u64 << 40).to_le_bytes()).unwrap();
    check(&mut stream, 1 << 20);
    drop(stream);
    let mut stream = connect(addr);
    stream.write_all(&5u64.to_le_bytes()).unwrap();
    check(&mut stream, 5);
}

fn http(addr: SocketAddr) {
    const REQUEST: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: server\r\nAccept: text/plain\r\n\r\n";
    let check = |stream: &mut TcpStream, count: usize| {
        let mut got = vec![0; count * RESPONSE.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == RESPONSE.repeat(count), "{count} responses");
    };
    several(4, |_| {
        let mut stream = connect(addr);
        for count in [1, 16, 1000, 4000] {
            // The last one fills more than a buffer.
            let mut writer = stream.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(move || writer.write_all(&REQUEST.repeat(count)).unwrap());
                check(&mut stream, count);
            });
        }
        // Cut at every place, and at the same time in the middle of the next.
        let two = REQUEST.repeat(2);
        for at in 1..two.len() {
            stream.write_all(&two[..at]).unwrap();
            if at >= REQUEST.len() {
                check(&mut stream, 1);
            }
            if at % 8 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            stream.write_all(&two[at..]).unwrap();
            check(&mut stream, if at >= REQUEST.len() { 1 } else { 2 });
        }
        for byte in REQUEST {
            stream.write_all(&[*byte]).unwrap();
        }
        check(&mut stream, 1);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    rude(addr);
    let mut stream = connect(addr);
    stream.write_all(REQUEST).unwrap();
    check(&mut stream, 1);
    // A request without end may be refused, but not at the expense of others.
    let mut endless = connect(addr);
    let _ = (0..8).try_for_each(|_| endless.write_all(&[b'x'; BUFFER]));
    // A buffer full of the shortest requests.
    stream.write_all(&b"\r\n\r\n".repeat(BUFFER / 4)).unwrap();
    check(&mut stream, BUFFER / 4);
}

fn udp(addr: SocketAddr) {
    several(4, |i| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut back = vec![0; BUFFER];
        for round in 0..50 {
            // Long ones from one peer only: four would overflow the server's buffer.
            for len in [0, 1, 512, 9000, if i == 0 { 60_000 } else { 2 }] {
                let sent = bytes(len, i + round);
                socket.send_to(&sent, addr).unwrap();
                let (n, from) = socket.recv_from(&mut back).unwrap();
                assert!(from == addr && back[..n] == sent, "{len} bytes");
            }
        }
        // Some under way at a time.
        for number in 0..32 {
            socket.send_to(&[number; 64], addr).unwrap();
        }
        let mut numbers: Vec<u8> = (0..32)
            .map(|_| {
                assert_eq!(socket.recv_from(&mut back).unwrap().0, 64);
                back[0]
            })
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..32));
    });
}

fn unknown_names() {
    let status = command("nonsense", "echo", 1).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(!supports("nonsense", Service::Echo) && available("nonsense").is_err());
}
