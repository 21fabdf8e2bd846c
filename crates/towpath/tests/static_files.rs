//! The example `static_files`, as a user would run it, on each backend: by plain sockets, and by curl if it is there.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use towpath_harness::example::{Example, backend};
use towpath_harness::{Rng, patience, skip, test};

/// A directory with what is served, beside something that must not be. Goes with the value.
struct Site(PathBuf);

impl Site {
    fn new(name: &str) -> Site {
        let site = Site(std::env::temp_dir().join(format!("towpath-{name}-{}", std::process::id())));
        let root = site.root();
        fs::create_dir_all(root.join("dir/empty")).expect("directories");
        fs::write(site.0.join("secret"), "secret").expect("a file");
        fs::write(root.join("index.html"), "<p>home").expect("a file");
        fs::write(root.join("dir/index.html"), "<p>dir").expect("a file");
        fs::write(root.join("0123456789.txt"), "0123456789").expect("a file");
        fs::write(root.join("with space & more"), "odd").expect("a file");
        fs::write(root.join("empty.css"), "").expect("a file");
        let mut rng = Rng::new(1);
        let large: Vec<u8> = (0..3_000_001).map(|_| rng.bits() as u8).collect();
        fs::write(root.join("large"), large).expect("a file");
        symlink("../secret", root.join("out")).expect("a link");
        symlink("/etc/passwd", root.join("passwd")).expect("a link");
        symlink("0123456789.txt", root.join("in")).expect("a link");
        let fifo = root.join("fifo");
        assert!(Command::new("mkfifo").arg(fifo).status().expect("mkfifo").success());
        site
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn serve(&self, args: &[&str]) -> (Example, SocketAddr) {
        let root = self.root();
        let mut all = vec![root.to_str().expect("a plain path"), "127.0.0.1:0"];
        all.extend(args);
        let mut example = Example::start("static_files", &all);
        let addr = example.address(&backend());
        (example, addr)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A connection of a client.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).expect("connect");
        stream.set_read_timeout(Some(patience(Duration::from_secs(4)))).expect("a limit");
        Client(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &str) {
        self.0.get_mut().write_all(bytes.as_bytes()).expect("send");
    }

    fn receive(&mut self, head_only: bool) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).expect("a head") > 0, "it ended after {head:?}");
        }
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
        let mut answer = Answer { status: status.expect("a status"), head, body: Vec::new() };
        let len = answer.field("Content-Length").map_or(0, |len| len.parse().expect("a number"));
        if !head_only {
            answer.body.resize(len, 0);
            self.0.read_exact(&mut answer.body).expect("a body");
        }
        answer
    }

    fn ask(&mut self, method: &str, target: &str, fields: &str) -> Answer {
        self.send(&format!("{method} {target} HTTP/1.1\r\nHost: here\r\n{fields}\r\n"));
        self.receive(method == "HEAD")
    }

    fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, "")
    }

    /// It has ended, not been reset.
    #[track_caller]
    fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0]).expect("an end"), 0);
    }
}

/// All on one connection.
fn answers() {
    let site = Site::new("static-answers");
    let (example, addr) = site.serve(&[]);
    let mut client = Client::new(addr);
    for (target, kind, body) in [
        ("/", "text/html; charset=utf-8", "<p>home"),
        ("/dir/?a=/b", "text/html; charset=utf-8", "<p>dir"),
        ("//0123456789.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/in", "application/octet-stream", "0123456789"),
        ("/dir/../dir/%69ndex.html", "text/html; charset=utf-8", "<p>dir"),
        ("/with%20space%20&%20more", "application/octet-stream", "odd"),
        ("/empty.css", "text/css; charset=utf-8", ""),
        ("http://here/in?", "application/octet-stream", "0123456789"),
    ] {
        let answer = client.get(target);
        assert_eq!((answer.status, answer.field("Content-Type")), (200, Some(kind)), "{target}");
        assert_eq!(answer.body, body.as_bytes(), "{target}");
        assert!(answer.field("Last-Modified").is_some() && answer.field("Date").is_some());
        let head = client.ask("HEAD", target, "");
        assert_eq!((head.status, head.field("Content-Length")), (200, answer.field("Content-Length")));
    }
    let large = client.get("/large").body;
    assert!(large == fs::read(site.root().join("large")).expect("it"));
    let moved = client.get("/dir");
    assert_eq!((moved.status, moved.field("Location")), (301, Some("/dir/")));
    assert_eq!(client.get("//dir/empty").field("Location"), Some("/dir/empty/"));
    for target in
        ["/no", "/dir/empty/", "/index.html/", "/fifo", "/out", "/passwd", "/../secret", "/%2e%2e/secret"]
    {
        assert_eq!(client.get(target).status, 404, "{target}");
    }
    for target in ["/dir/../../secret", "/%2fetc/passwd", "//etc/passwd", &format!("/{}", "x".repeat(300))] {
        assert_eq!(client.get(target).status, 404, "{target}");
    }
    for target in ["/%00", "/%4", "/%zz", "*"] {
        assert_eq!(client.get(target).status, 400, "{target}");
    }
    let refused = client.ask("DELETE", "/", "");
    assert_eq!((refused.status, refused.field("Allow")), (405, Some("GET, HEAD")));
    assert_eq!(client.ask("GET", "/in", "Connection: Close\r\n").body, b"0123456789");
    client.ends();
    assert_eq!(example.terminate(), "");
}

fn ranges_and_dates() {
    let site = Site::new("static-ranges");
    let (example, addr) = site.serve(&[]);
    let mut client = Client::new(addr);
    for (range, at, body) in [
        ("0-0", "0-0", "0"),
        ("2-4", "2-4", "234"),
        ("7-", "7-9", "789"),
        ("-3", "7-9", "789"),
        ("-99", "0-9", "0123456789"),
        ("8-99999999999999999999999", "8-9", "89"),
    ] {
        let answer = client.ask("GET", "/in", &format!("Range: bytes={range}\r\n"));
        assert_eq!((answer.status, answer.body), (206, body.into()), "{range}");
        assert_eq!(
            answer.head.lines().find(|line| line.starts_with("Content-Range")),
            Some(&*format!("Content-Range: bytes {at}/10"))
        );
    }
    for range in ["10-", "99-100", "-0", "99999999999999999999999-"] {
        let answer = client.ask("GET", "/in", &format!("Range: bytes={range}\r\n"));
        assert_eq!((answer.status, answer.field("Content-Range")), (416, Some("bytes */10")), "{range}");
    }
    // No ranges, or several: all of it.
    for range in ["bytes=4-2", "bytes=-", "bytes=x-y", "bytes=0-1,4-5", "lines=0-1", "bytes=+1-2"] {
        assert_eq!(client.ask("GET", "/in", &format!("Range: {range}\r\n")).body, b"0123456789", "{range}");
    }
    assert_eq!(client.ask("HEAD", "/in", "Range: bytes=0-0\r\n").status, 200);
    assert_eq!(client.ask("GET", "/empty.css", "Range: bytes=0-\r\n").status, 416);

    let modified = client.get("/in").field("Last-Modified").expect("a date").to_owned();
    let current = client.ask("GET", "/in", &format!("If-Modified-Since: {modified}\r\n"));
    assert_eq!((current.status, current.body.len(), current.field("Content-Length")), (304, 0, None));
    for old in ["Thu, 01 Jan 1970 00:00:00 GMT", "yesterday"] {
        assert_eq!(client.ask("GET", "/in", &format!("If-Modified-Since: {old}\r\n")).status, 200, "{old}");
    }
    let part = |if_range: &str| format!("Range: bytes=1-1\r\nIf-Range: {if_range}\r\n");
    assert_eq!(client.ask("GET", "/in", &part(&modified)).body, b"1");
    assert_eq!(client.ask("GET", "/in", &part("Thu, 01 Jan 1970 00:00:00 GMT")).body, b"0123456789");
    assert_eq!(example.terminate(), "");
}

fn odd_requests() {
    let site = Site::new("static-odd");
    let (example, addr) = site.serve(&[]);
    // Pipelined, in pieces, with empty lines between them; old and new.
    let mut client = Client::new(addr);
    let one = "GET /in HTTP/1.1\r\nHost: here\r\n\r\n";
    client.send(&one.repeat(100));
    client.send("\r\nHEAD /in HTTP/1.1\r\nHo");
    for _ in 0..100 {
        assert_eq!(client.receive(false).body, b"0123456789");
    }
    client.send("st: here\r\n\r\nGET /in HTTP/1.0\r\n\r\n");
    assert_eq!(client.receive(true).status, 200);
    assert_eq!(client.receive(false).body, b"0123456789");
    client.ends();

    // What cannot be answered ends the connection, and the answer arrives although there is more that nobody reads.
    let long = format!("GET / HTTP/1.1\r\nHost: here\r\nX: {}", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: here\r\n{}\r\n", "X: x\r\n".repeat(100));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (&long, 431),
        (&many, 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
    ] {
        let mut client = Client::new(addr);
        client.send(request);
        let answer = client.receive(false);
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")), "{request:.60}");
        client.ends();
    }
    assert_eq!(example.terminate(), "");
}

/// Who takes too long is disconnected; whoever comes when all places are taken waits.
fn limits() {
    let site = Site::new("static-limits");
    let (example, addr) = site.serve(&["--connections", "2", "--idle-ms", "300"]);
    let mut silent = Client::new(addr);
    let mut slow = Client::new(addr);
    slow.send("GET / HT");
    let mut third = Client::new(addr);
    third.send("GET /in HTTP/1.1\r\nHost: here\r\n\r\n");
    silent.ends();
    let answer = slow.receive(false);
    assert_eq!((answer.status, answer.field("Connection")), (408, Some("close")));
    assert_eq!(third.receive(false).body, b"0123456789");
    third.ends();
    // Who does not take the answer: the rest of it never comes.
    let stubborn = Client::new(addr);
    File::create(site.root().join("huge")).and_then(|file| file.set_len(1 << 30)).expect("a hole");
    stubborn.0.get_ref().write_all(b"GET /huge HTTP/1.1\r\nHost: here\r\n\r\n").expect("send");
    let is_open = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", example.id())).expect("it runs");
        fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|to| to.ends_with("huge"))
    };
    for open in [true, false] {
        while is_open() != open {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop(stubborn);
    assert_eq!(example.terminate(), "");
}

/// What is being answered when the server is told to end is answered.
fn ends_cleanly() {
    let site = Site::new("static-end");
    let (example, addr) = site.serve(&[]);
    File::create(site.root().join("hole")).and_then(|file| file.set_len(64 << 20)).expect("a hole");
    let (mut idle, mut busy) = (Client::new(addr), Client::new(addr));
    assert_eq!(idle.get("/in").status, 200);
    busy.send("GET /hole HTTP/1.1\r\nHost: here\r\n\r\nGET /in HTTP/1.1\r\nHost: here\r\n\r\n");
    let mut first = [0; 9];
    busy.0.read_exact(&mut first).expect("the answer begins");
    let waiting = std::thread::spawn(move || example.interrupt());
    idle.ends();
    let mut rest = Vec::new();
    busy.0.read_to_end(&mut rest).expect("both answers and an end");
    let head = rest.windows(4).position(|it| it == b"\r\n\r\n").expect("a head");
    let second = &rest[head + 4 + (64 << 20)..];
    assert!(second.starts_with(b"HTTP/1.1 200 OK\r\n") && second.ends_with(b"\r\n\r\n0123456789"));
    assert_eq!(waiting.join().expect("it ends"), "");
    assert_eq!(TcpStream::connect(addr).expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
}

fn curl() {
    let Ok(version) = Command::new("curl").arg("--version").output() else {
        skip("curl is not installed");
    };
    assert!(version.status.success());
    let site = Site::new("static-curl");
    let (example, addr) = site.serve(&[]);
    let run = |args: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*", "--max-time", "10"])
            .args(args)
            .output()
            .expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let url = |path: &str| format!("http://{addr}{path}");
    let large = fs::read(site.root().join("large")).expect("it");
    assert!(run(&[&url("/large")]) == large);
    assert!(run(&["-r", "1000000-", &url("/large")]) == large[1_000_000..]);
    // Two on one connection, the second as a redirection.
    let told = run(&["-L", "-w", "%{num_connects} %{http_code};", &url("/in"), &url("/dir")]);
    assert_eq!(String::from_utf8_lossy(&told), "01234567891 200;<p>dir0 200;");
    assert!(run(&["-I", &url("/large")]).starts_with(b"HTTP/1.1 200 OK\r\n"));
    let copy = site.0.join("copy");
    let copy = copy.to_str().expect("a plain path");
    run(&["-R", "-o", copy, &url("/in")]);
    let code = run(&["-z", copy, "-o", copy, "-w", "%{http_code}", &url("/in")]);
    assert_eq!(code, b"304");
    assert_eq!(run(&["--path-as-is", "-o", copy, "-w", "%{http_code}", &url("/../secret")]), b"404");
    assert_eq!(example.terminate(), "");
}

fn main() -> ExitCode {
    towpath_harness::main(&[
        test!(answers).busy(),
        test!(ranges_and_dates).busy(),
        test!(odd_requests).busy(),
        test!(limits).busy().seconds(10),
        test!(ends_cleanly).busy().memory_mib(160),
        test!(curl).busy().seconds(10),
    ])
}
