//! The example that passes connections on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use towpath_harness::example::{Example, backend};
use towpath_harness::{net, patience, seccomp};

use crate::bytes;

/// A target, and the proxy in front of it.
struct Proxy {
    example: Example,
    addr: SocketAddr,
    target: TcpListener,
}

impl Proxy {
    fn start() -> Proxy {
        let (target, to) = net::listener();
        let mut example = Example::start("proxy", &["127.0.0.1:0", &to.to_string()]);
        let addr = example.address(&backend());
        Proxy { example, addr, target }
    }

    /// Both ends of a connection through it.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.addr).expect("connect");
        let (server, _) = self.target.accept().expect("accept");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(patience(Duration::from_secs(4)))).expect("a limit");
        }
        (client, server)
    }

    /// Both ends of a connection through it that stands, seen from the proxy as well.
    fn establish(&self) -> (TcpStream, TcpStream) {
        let (mut client, mut server) = self.connect();
        client.write_all(b"x").expect("send");
        server.read_exact(&mut [0]).expect("receive");
        (client, server)
    }

    fn open_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.example.id())).expect("it runs").count()
    }

    /// Waits until it has closed all but so many.
    fn closes(&self, all_but: usize) {
        while self.open_fds() > all_but {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Sends all from one end to the other, and the end of it.
fn passes(mut from: &TcpStream, mut to: &TcpStream, sent: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| {
            from.write_all(sent).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
        });
        let mut received = Vec::new();
        to.read_to_end(&mut received).expect("receive");
        assert!(received == sent, "{} bytes came through, of {}", received.len(), sent.len());
    });
}

/// Megabytes both ways at once on several connections, beside many that say little, and each in its turn.
pub fn proxy_passes() {
    let proxy = Proxy::start();
    let before = proxy.open_fds();
    let mut quiet: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
    thread::scope(|scope| {
        for seed in 0..4 {
            let (client, server) = proxy.connect();
            scope.spawn(move || {
                let (there, back) = (bytes(3_000_001, seed), bytes(2_000_003, seed + 10));
                thread::scope(|scope| {
                    scope.spawn(|| passes(&client, &server, &there));
                    passes(&server, &client, &back);
                });
            });
        }
    });
    for (n, (client, server)) in quiet.iter_mut().enumerate() {
        let mut byte = [0];
        client.write_all(&[n as u8]).expect("send");
        server.read_exact(&mut byte).expect("receive");
        server.write_all(&byte).expect("send");
        client.read_exact(&mut byte).expect("receive");
        assert_eq!(byte, [n as u8]);
    }
    drop(quiet);
    proxy.closes(before);
    assert_eq!(proxy.example.finish(), "");
}

/// The same where the kernel refuses `splice`.
pub fn proxy_passes_without_splice() {
    seccomp::refuse(&[libc::SYS_splice], libc::EPERM);
    let (out, into) = std::io::pipe().expect("a pipe");
    let refused = rustix::pipe::splice(out, None, into, None, 1, rustix::pipe::SpliceFlags::empty());
    assert_eq!(refused, Err(rustix::io::Errno::PERM));
    proxy_passes();
}

/// An end is passed on, from either side, and the other direction goes on.
pub fn proxy_half_close() {
    let proxy = Proxy::start();
    let before = proxy.open_fds();
    let (client, server) = proxy.connect();
    passes(&client, &server, &bytes(100_000, 1));
    passes(&server, &client, &bytes(100_000, 2));
    let (client, server) = proxy.connect();
    passes(&server, &client, b"");
    passes(&client, &server, &bytes(100_000, 3));
    // All four are still open, and the proxy has let go of them: both directions have come to their end.
    proxy.closes(before);
    assert_eq!(proxy.example.interrupt(), "");
}

pub fn proxy_target_down() {
    let Proxy { example, addr, target } = Proxy::start();
    drop(target);
    for _ in 0..3 {
        let mut client = TcpStream::connect(addr).expect("connect");
        assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    }
    assert_eq!(example.finish(), "");
}

/// A reset is passed on, from either side, also while bytes are on their way that nobody reads.
pub fn proxy_reset() {
    let proxy = Proxy::start();
    let before = proxy.open_fds();
    let gone = |mut stream: TcpStream| {
        let reset = stream.read(&mut [0]).expect_err("a reset");
        assert_eq!(reset.raw_os_error(), Some(libc::ECONNRESET), "{reset}");
    };
    let (client, server) = proxy.establish();
    net::reset_on_close(&client);
    drop(client);
    gone(server);
    let (client, server) = proxy.establish();
    net::reset_on_close(&server);
    drop(server);
    gone(client);
    // Until there is no room anywhere.
    let (mut client, server) = proxy.establish();
    client.set_write_timeout(Some(Duration::from_millis(200))).expect("a limit");
    while client.write(&[0; 1 << 16]).is_ok() {}
    net::reset_on_close(&server);
    drop(server);
    proxy.closes(before);
    assert_eq!(proxy.example.finish(), "");
    drop(client);
}
