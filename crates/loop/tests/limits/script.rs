//! One script of operations whose outcomes do not depend on how they are carried out.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use towpath_harness::net;
use towpath_loop::op::{self, Detach, Operation};
use towpath_loop::{Event, File, Loop, SockAddr, Socket, is_canceled};

use crate::common::{half_unix, poke, socket, tcp, unix};

const V4: i32 = libc::AF_INET;
const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;

/// What the operations gave, one line each, without addresses and numbers that the system chooses.
pub struct Transcript {
    loop_: Loop,
    lines: Vec<String>,
}

impl Transcript {
    /// Carries the whole script out on a loop, and says what came of it.
    pub fn of(loop_: &Loop) -> Vec<String> {
        let mut script = Transcript { loop_: loop_.clone(), lines: Vec::new() };
        script.life_of_a_connection();
        script.streams();
        script.large_transfer();
        script.cancelled_and_timed_out();
        script.vectors();
        script.datagrams();
        script.readiness();
        script.ends();
        script.errors();
        script.without_descriptors();
        script.files();
        script.names();
        script.pipes();
        script.splices();
        script.zero_copy();
        assert_eq!(loop_.in_flight(), 0);
        script.lines
    }

    fn note<T: std::fmt::Debug>(&mut self, what: &str, outcome: Result<T, impl Into<io::Error>>) {
        let text = match outcome.map_err(Into::into) {
            Ok(value) => format!("{value:?}"),
            Err(error) if is_canceled(&error) => "cancelled".into(),
            Err(error) => format!("errno {:?}, {:?}", error.raw_os_error(), error.kind()),
        };
        self.lines.push(format!("{what}: {text}"));
    }

    fn carry_out<O: Detach>(&self, op: O) -> O::Output
    where
        O::Output: 'static,
    {
        self.loop_.start(op).take().expect("tick")
    }

    /// Carries out and takes down.
    fn step<O, T, E>(&mut self, what: &str, op: O)
    where
        O: Detach + Operation<Output = Result<T, E>>,
        T: std::fmt::Debug + 'static,
        E: Into<io::Error> + 'static,
    {
        let outcome = self.carry_out(op);
        self.note(what, outcome);
    }

    /// The same, where the value itself is wanted: `Ok` is all that is taken down.
    fn made<O, T, E>(&mut self, what: &str, op: O) -> T
    where
        O: Detach + Operation<Output = Result<T, E>>,
        T: 'static,
        E: Into<io::Error> + std::fmt::Debug + 'static,
    {
        let outcome = self.carry_out(op);
        self.note(what, outcome.as_ref().map(|_| ()).map_err(|error| io::Error::other(format!("{error:?}"))));
        outcome.unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }

    fn life_of_a_connection(&mut self) {
        let listener = self.made("socket", op::socket(V4, STREAM, 0));
        self.step("bind", op::bind(&listener, any().into()));
        self.step("bind again", op::bind(&listener, any().into()));
        self.step("listen", op::listen(&listener, 16));
        let addr = local(&listener);
        // First who waits, then who comes; then the other way round.
        for waits in [true, false] {
            let client = self.made("socket", op::socket(V4, STREAM, 0));
            let (accepting, connecting);
            if waits {
                accepting = self.loop_.start(op::accept(&listener));
                poke(&self.loop_);
                connecting = self.loop_.start(op::connect(&client, addr.into()));
            } else {
                connecting = self.loop_.start(op::connect(&client, addr.into()));
                poke(&self.loop_);
                accepting = self.loop_.start(op::accept(&listener));
            }
            let connected = connecting.take().unwrap();
            self.note("connect", connected);
            let (server, from) = accepting.take().unwrap().unwrap();
            assert_eq!(from.to_std().unwrap(), local(&client));
            let flags = rustix::fs::fcntl_getfl(&server).unwrap();
            assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
            assert!(rustix::io::fcntl_getfd(&server).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            self.step("connect again", op::connect(&client, addr.into()));
            self.step("send", op::send(&client, b"hello".to_vec()));
            self.step("recv", op::recv(&server, vec![0; 16]));
            self.step("shutdown", op::shutdown(&client, Shutdown::Write));
            self.step("recv at the end", op::recv(&server, vec![0; 4]));
            self.step("send after shutdown", op::send(&client, b"x".to_vec()));
            self.step("close", op::close(client));
            self.step("close", op::close(server));
        }
        self.step("close the listener", op::close(listener));
        let lost = self.made("socket", op::socket(V4, STREAM, 0));
        self.step("connect to nobody", op::connect(&lost, addr.into()));
    }

    fn streams(&mut self) {
        let (a, b) = unix();
        // Data first, then whoever wants it; the other way round.
        self.step("send", op::send(&a, b"early".to_vec()));
        self.step("recv", op::recv(&b, vec![0; 8]));
        let waiting = self.loop_.start(op::recv(&b, vec![0; 8]));
        poke(&self.loop_);
        self.step("send", op::send(&a, b"late".to_vec()));
        let outcome = waiting.take().unwrap();
        self.note("recv that waited", outcome);
        // Flags, part of a buffer, nothing at all.
        self.step("send", op::send(&a, b"flags".to_vec()));
        self.step("peek", op::recv(&b, vec![0; 8]).flags(libc::MSG_PEEK));
        self.step("recv not to wait", op::recv(&b, vec![0; 3]).flags(libc::MSG_DONTWAIT));
        self.step("recv the rest", op::recv(&b, vec![0; 2]).all(true));
        self.step("recv nothing", op::recv(&b, Vec::new()).all(true));
        self.step("send nothing", op::send(&a, Vec::new()));
        // In blocking style, into borrowed memory.
        let before = self.loop_.make_current();
        let mut buf = [0; 4];
        let sent = op::send(&a, b"wait").wait();
        self.note("send and wait", sent);
        let received = op::recv(&b, &mut buf).wait();
        self.note("recv and wait", received);
        assert_eq!(&buf, b"wait");
        Loop::take_current();
        if let Some(before) = before {
            before.make_current();
        }
        // Many at once, in order.
        let sends: Vec<_> = (0..50_u8).map(|at| self.loop_.start(op::send(&a, vec![at; 2]))).collect();
        for ticket in sends {
            let outcome = ticket.take().unwrap();
            self.note("send one of many", outcome);
        }
        self.step("recv many", op::recv(&b, vec![0; 100]).all(true));
    }

    fn large_transfer(&mut self) {
        let (a, b) = tcp();
        net::set_send_buffer(&a, 8192);
        let data: Vec<u8> = (0..400_000_u32).map(|at| (at % 251) as u8).collect();
        let sending = self.loop_.start(op::send(&a, data.clone()).all(true));
        let (n, got) = self.made("recv all", op::recv(&b, vec![0; data.len()]).all(true));
        assert!(n == data.len() && got == data);
        let sent = sending.take().unwrap().map(|(n, _)| n);
        self.note("send all", sent);
        // The end comes before the buffer is full.
        self.step("send", op::send(&a, vec![7; 3]));
        let waiting = self.loop_.start(op::recv(&b, vec![0; 8]).all(true));
        poke(&self.loop_);
        self.step("close", op::close(a));
        let outcome = waiting.take().unwrap();
        self.note("recv all of less", outcome);
    }

    fn cancelled_and_timed_out(&mut self) {
        let (a, mut peer) = half_unix();
        let (listener, _addr) = net::listener();
        let listener = socket(listener);
        net::set_send_buffer(&a, 4096);
        net::fill(&a, 1);
        let short = Duration::from_millis(3);
        self.step("recv in time", op::recv(&a, vec![0; 8]).timeout(short));
        self.step("send in time", op::send(&a, vec![0; 8]).timeout(short));
        self.step("accept in time", op::accept(&listener).timeout(short));
        self.step("poll in time", op::poll(&a, libc::POLLIN).timeout(short));
        self.step("recv vectored in time", op::recv_vectored(&a, vec![vec![0; 8]]).timeout(short));
        for turned in [false, true] {
            let recv = self.loop_.start(op::recv(&a, vec![0; 8]));
            let send = self.loop_.start(op::send(&a, vec![0; 8]));
            let accept = self.loop_.start(op::accept(&listener));
            let poll = self.loop_.start(op::poll(&a, libc::POLLIN));
            let timer = self.loop_.start(op::timer(Duration::from_secs(3600)));
            if turned {
                poke(&self.loop_);
            }
            for id in [recv.id(), send.id(), accept.id(), poll.id(), timer.id()] {
                assert!(self.loop_.cancel(id));
            }
            let outcome = recv.take().unwrap();
            self.note("recv", outcome);
            let outcome = send.take().unwrap();
            self.note("send", outcome);
            let outcome = accept.take().unwrap();
            self.note("accept", outcome);
            let outcome = poll.take().unwrap();
            self.note("poll", outcome);
            let outcome = timer.take().unwrap();
            self.note("timer", outcome);
        }
        // Nothing of it did anything.
        io::Write::write_all(&mut peer, b"still").unwrap();
        self.step("recv what came afterwards", op::recv(&a, vec![0; 8]));
        // A close ends what is in flight.
        let recv = self.loop_.start(op::recv(&a, vec![0; 8]));
        let clone = a.clone();
        poke(&self.loop_);
        self.step("close of a shared socket", op::close(a));
        let outcome = recv.take().unwrap();
        self.note("recv", outcome);
        self.step("recv on a closed socket", op::recv(&clone, vec![0; 8]));
        self.step("close again", op::close(clone));
    }

    fn vectors(&mut self) {
        let (a, b) = unix();
        let waiting = self.loop_.start(op::recv_vectored(&b, vec![vec![0; 3], vec![], vec![0; 3]]));
        poke(&self.loop_);
        self.step("send vectored", op::send_vectored(&a, vec![b"ab".to_vec(), b"cd".to_vec()]));
        let outcome = waiting.take().unwrap();
        self.note("recv vectored that waited", outcome);
        self.step("send vectored", op::send_vectored(&a, vec![b"ef".to_vec()]));
        self.step("recv vectored", op::recv_vectored(&b, vec![vec![0; 1], vec![0; 4]]));
        net::set_send_buffer(&a, 4096);
        let waiting = self.loop_.start(op::recv_vectored(&b, vec![vec![0; 40]; 1500]).all(true));
        poke(&self.loop_);
        let (n, _) = self.made("send all vectored", op::send_vectored(&a, vec![vec![3; 50]; 1200]).all(true));
        let got = waiting.take().unwrap().map(|(got, parts)| (got, parts.concat() == vec![3; n]));
        self.note("recv all vectored", got);
        self.step("send less", op::send_vectored(&a, vec![vec![4; 3]]).all(true));
        drop(a);
        self.step("recv all vectored of less", op::recv_vectored(&b, vec![vec![0; 2]; 3]).all(true));
        self.step("recv vectored at the end", op::recv_vectored(&b, vec![vec![0; 3]]));
        self.step("send vectored to nobody", op::send_vectored(&b, vec![vec![0; 3]]));
    }

    fn datagrams(&mut self) {
        let [a, b] = [0, 1].map(|_| {
            let made = self.made("datagram socket", op::socket(V4, DGRAM, 0));
            self.step("bind", op::bind(&made, any().into()));
            made
        });
        let (from, to) = (local(&a), local(&b));
        let take = |script: &mut Transcript, outcome: Result<op::Datagram<(usize, Vec<u8>)>, _>| {
            let datagram = outcome.map_err(|error: towpath_loop::Failed<_>| error.error);
            let datagram = datagram.map(|it| {
                assert_eq!(it.from.to_std().unwrap(), from);
                (it.received, it.truncated)
            });
            script.note("recv from", datagram);
        };
        let waiting = self.loop_.start(op::recv_from(&b, vec![0; 8]));
        poke(&self.loop_);
        self.step("send to", op::send_to(&a, b"one".to_vec(), to));
        let outcome = waiting.take().unwrap();
        take(self, outcome);
        self.step("send to", op::send_to(&a, b"longer".to_vec(), to));
        let outcome = self.carry_out(op::recv_from(&b, vec![0; 4]));
        take(self, outcome);
        self.step("send to", op::send_to(&a, Vec::new(), to));
        let outcome = self.carry_out(op::recv_from(&b, vec![0; 4]));
        take(self, outcome);
        let outcome = self.carry_out(op::recv_from(&b, vec![0; 4]).timeout(Duration::from_millis(3)));
        take(self, outcome);
        self.step("send too much", op::send_to(&a, vec![0; 70_000], to));
    }

    fn readiness(&mut self) {
        let (a, mut peer) = half_unix();
        self.step("poll for writing", op::poll(&a, libc::POLLOUT));
        let waiting = self.loop_.start(op::poll(&a, libc::POLLIN));
        poke(&self.loop_);
        io::Write::write_all(&mut peer, b"x").unwrap();
        let outcome = waiting.take().unwrap();
        self.note("poll that waited", outcome);
        self.step("poll for both", op::poll(&a, libc::POLLIN | libc::POLLOUT));
        // Somebody else's descriptor, and none of a socket.
        let (reader, mut writer) = io::pipe().unwrap();
        let waiting = self.loop_.start(op::poll(reader.as_fd(), libc::POLLIN));
        poke(&self.loop_);
        io::Write::write_all(&mut writer, b"x").unwrap();
        let outcome = waiting.take().unwrap();
        self.note("poll of a pipe", outcome);
        self.step("recv from a pipe", op::recv(reader.as_fd(), vec![0; 4]));
        drop(writer);
        self.step("poll of a pipe's end", op::poll(reader.as_fd(), libc::POLLIN));
    }

    fn ends(&mut self) {
        let (a, peer) = half_unix();
        let waiting = self.loop_.start(op::recv(&a, vec![0; 4]));
        poke(&self.loop_);
        drop(peer);
        let outcome = waiting.take().unwrap();
        self.note("recv of a peer that goes", outcome);
        self.step("send to nobody", op::send(&a, b"x".to_vec()));
        self.step("shutdown", op::shutdown(&a, Shutdown::Both));
        // Reset.
        let (a, peer) = net::tcp_pair();
        let a = socket(a);
        net::reset_on_close(&peer);
        let waiting = self.loop_.start(op::recv(&a, vec![0; 4]));
        poke(&self.loop_);
        drop(peer);
        let outcome = waiting.take().unwrap();
        self.note("recv of a reset", outcome);
    }

    fn errors(&mut self) {
        self.step("no such family", op::socket(12_345, STREAM, 0));
        self.step("no such kind", op::socket(V4, 12_345, 0));
        let fresh = self.made("socket", op::socket(V4, STREAM, 0));
        self.step("recv without a connection", op::recv(&fresh, vec![0; 4]));
        self.step("send without a connection", op::send(&fresh, vec![0; 4]));
        self.step("shutdown without one", op::shutdown(&fresh, Shutdown::Both));
        self.step("accept without listening", op::accept(&fresh));
        self.step("bind to a foreign address", op::bind(&fresh, addr("192.0.2.1:0")));
        self.step("bind to another family", op::bind(&fresh, addr("[::1]:0")));
        self.step("connect to another family", op::connect(&fresh, addr("[::1]:9")));
        self.step("vectors without a connection", op::recv_vectored(&fresh, vec![vec![0; 4]]));
        let (reader, _writer) = io::pipe().unwrap();
        let file = Socket::from(OwnedFd::from(reader));
        self.step("listen on no socket", op::listen(&file, 1));
        self.step("connect of no socket", op::connect(&file, any().into()));
        self.step("accept on no socket", op::accept(&file));
        self.step("shutdown of no socket", op::shutdown(&file, Shutdown::Both));
        self.step("send to no socket", op::send(&file, vec![0; 4]));
        self.step("close no socket", op::close(file));
    }

    fn without_descriptors(&mut self) {
        self.step("next tick", op::next_tick());
        self.step("timer", op::timer(Duration::from_millis(1)));
        self.step("job", op::blocking(|| 6 * 7));
        let event = Event::new();
        event.notify();
        self.step("event", event.notified());
        let waiting = self.loop_.start(event.notified());
        poke(&self.loop_);
        let notifier = std::thread::spawn(move || event.notify());
        let outcome = waiting.take().unwrap();
        self.note("event from a thread", outcome);
        notifier.join().unwrap();
    }

    /// A directory of its own, open, and where it is.
    fn directory(&mut self) -> (File, std::path::PathBuf) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("towpath-script-{}-{number}", std::process::id()));
        self.step("make a directory", op::create_dir(&path));
        (self.made("open a directory", op::open(&path)), path)
    }

    fn files(&mut self) {
        let (dir, path) = self.directory();
        let file = self.made("make a file", op::create("file").read(true).at(dir.clone()));
        self.step("write", op::write(&file, b"0123456789".to_vec()));
        self.step("write at", op::write(&file, b"ab".to_vec()).at(8).all(true));
        self.step("write vectored", op::write_vectored(&file, vec![b"xy".to_vec(), b"z".to_vec()]));
        self.step("read at the cursor", op::read(&file, vec![0; 4]));
        self.step("read at", op::read(&file, vec![0; 8]).at(7).all(true));
        self.step("read beyond the end", op::read(&file, vec![0; 8]).at(1000));
        self.step("read vectored", op::read_vectored(&file, vec![vec![0; 3], vec![0; 9]]).at(1));
        let parts = vec![vec![5; 2]; 1100];
        self.step("write all vectored", op::write_vectored(&file, parts.clone()).at(20).all(true));
        self.step("read all vectored", op::read_vectored(&file, parts).at(21).all(true));
        self.step("sync", op::sync(&file));
        self.step("sync data", op::sync_data(&file));
        self.step("set the length", op::set_len(&file, 5));
        self.step("allocate", op::allocate(&file, 0, 6, 0));
        self.step("read the rest", op::read(&file, vec![0; 8]).at(2));
        self.step("allocate nothing", op::allocate(&file, 0, 0, 0));
        let stat = self.made("stat", op::stat("file").at(dir.clone()));
        self.note("length", Ok::<_, io::Error>((stat.len(), stat.nlink(), stat.file_type())));
        self.step("open beneath", op::open("../x").at(dir.clone()).resolve(libc::RESOLVE_BENEATH));
        self.step("open nothing", op::open("nothing").at(dir.clone()));
        self.step("open again", op::open("file").write(true).create_new(true).at(dir.clone()));
        let appended = self.made("open to append", op::open("file").append(true).at(dir.clone()));
        self.step("append", op::write(&appended, b"!".to_vec()).at(0));
        self.step("read whole", op::read_entire("file").at(dir.clone()));
        self.step("list whole", op::read_entire_dir(".").at(dir.clone()));
        self.step("list no directory", op::read_entire_dir("file").at(dir.clone()));
        self.step("open no directory", op::open("file").directory().at(dir.clone()));
        self.step("write whole", op::write_entire("whole", b"whole".to_vec()).at(dir.clone()));
        let whole = self.made("open it", op::open("whole").at(dir.clone()));
        self.step("copy", op::copy_range(&whole, &file, 100).to_at(1).all(true));
        self.step("read what was copied", op::read_entire("file").at(dir.clone()));
        self.step("read a directory", op::read(&dir, vec![0; 4]));
        self.step("write what is open to read", op::write(&whole, b"x".to_vec()));
        self.step("close", op::close(file));
        self.step("a bad offset", op::read(&whole, vec![0; 4]).at(u64::MAX));
        self.step("a bad path", op::open("a\0b").at(dir));
        std::fs::remove_dir_all(path).unwrap();
    }

    fn names(&mut self) {
        let (dir, path) = self.directory();
        let at = || dir.clone();
        self.step("write a", op::write_entire("a", b"a".to_vec()).at(at()));
        self.step("rename", op::rename("a", "b").from_at(at()).to_at(at()));
        self.step("write c", op::write_entire("c", b"c".to_vec()).at(at()));
        self.step("rename, not replacing", op::rename("b", "c").from_at(at()).to_at(at()).no_replace());
        self.step("exchange", op::rename("b", "c").from_at(at()).to_at(at()).exchange());
        self.step("read b", op::read_entire("b").at(at()));
        self.step("link", op::hard_link("b", "d").from_at(at()).to_at(at()));
        self.step("link again", op::hard_link("b", "d").from_at(at()).to_at(at()));
        self.step("symlink", op::symlink("nowhere", "e").at(at()));
        self.step("read link", op::read_link("e").at(at()));
        self.step("follow it", op::stat("e").at(at()).mask(libc::STATX_TYPE));
        self.step("make a directory", op::create_dir("f").at(at()));
        self.step("make it again", op::create_dir("f").at(at()));
        self.step("remove a file as a directory", op::remove_dir("b").at(at()));
        self.step("remove a directory as a file", op::remove_file("f").at(at()));
        self.step("remove it", op::remove_dir("f").at(at()));
        self.step("remove a file", op::remove_file("b").at(at()));
        self.step("remove nothing", op::remove_file("b").at(at()));
        self.step("access", op::access("c", libc::R_OK).at(at()));
        self.step("permissions", op::set_permissions("c", 0o400).at(at()));
        self.step("owner", op::set_owner("c", None, None).at(at()));
        self.step("times", op::set_times("c", op::FileTime::Omit, op::FileTime::Now).at(at()));
        let entries = self.made("entries", op::read_dir(at()));
        let mut names: Vec<_> = entries.iter().map(|entry| entry.name().to_owned()).collect();
        names.sort();
        self.note("names", Ok::<_, io::Error>(names));
        let real = self.made("real path", op::real_path(&path));
        self.note("the same", Ok::<_, io::Error>(real == path.canonicalize().unwrap()));
        std::fs::remove_dir_all(path).unwrap();
    }

    fn pipes(&mut self) {
        for flags in [0, libc::O_NONBLOCK] {
            let (from, to) = self.made("pipe", op::pipe().flags(flags));
            self.step("read nothing in time", op::read(&from, vec![0; 4]).timeout(Duration::from_millis(3)));
            let waiting = self.loop_.start(op::read(&from, vec![0; 4]));
            poke(&self.loop_);
            self.step("write", op::write(&to, b"through".to_vec()));
            let outcome = waiting.take().unwrap();
            self.note("read that waited", outcome);
            self.step("read vectored", op::read_vectored(&from, vec![vec![0; 2], vec![0; 2]]));
            self.step("read at an offset", op::read(&from, vec![0; 2]).at(0));
            let canceled = self.loop_.start(op::read(&from, vec![0; 4]));
            poke(&self.loop_);
            assert!(self.loop_.cancel(canceled.id()));
            let outcome = canceled.take().unwrap();
            self.note("read", outcome);
            self.step("close", op::close(to));
            self.step("read the end", op::read(&from, vec![0; 4]));
        }
    }
}

impl Transcript {
    fn zero_copy(&mut self) {
        for (a, b) in [tcp(), unix()] {
            self.step("send", op::send_zc(&a, b"bytes".to_vec()));
            self.step("send all", op::send_zc(&a, b"more".to_vec()).all(true));
            self.step("send two", op::send_vectored_zc(&a, vec![b"a".to_vec(), b"b".to_vec()]));
            self.step("recv", op::recv(&b, vec![0; 11]).all(true));
            let whole = self.loop_.start(op::send_zc(&a, vec![7; 100_000]).all(true));
            let got = self.carry_out(op::recv(&b, vec![0; 100_000]).all(true));
            self.note("recv all", got.map(|(n, got)| (n, got.iter().all(|byte| *byte == 7))));
            let outcome = whole.take().unwrap();
            self.note("sent", outcome.map(|sent| (sent.sent.0, sent.copied)));
            self.step("shutdown", op::shutdown(&a, Shutdown::Write));
            self.step("send behind it", op::send_zc(&a, b"x".to_vec()));
            self.step("send two", op::send_vectored_zc(&a, vec![b"x".to_vec()]));
        }
    }

    fn splices(&mut self) {
        let (dir, path) = self.directory();
        let file = self.made("make a file", op::create("file").read(true).at(dir));
        self.step("write", op::write(&file, b"0123456789".to_vec()));
        let (out, into) = self.made("pipe", op::pipe());
        let (a, b) = tcp();
        self.step("file to pipe", op::splice(&file, &into, 4).from_at(3));
        self.step("file to pipe, to its end", op::splice(&file, &into, 100).from_at(7).all(true));
        self.step("beyond the end", op::splice(&file, &into, 4));
        self.step("pipe to socket", op::splice(&out, &a, 100));
        let waiting = self.loop_.start(op::splice(&out, &a, 100));
        poke(&self.loop_);
        self.step("write", op::write(&into, b"late".to_vec()));
        let outcome = waiting.take().unwrap();
        self.note("that waited", outcome);
        self.step("recv", op::recv(&b, vec![0; 11]).all(true));
        let waiting = self.loop_.start(op::splice(&b, &into, 100));
        poke(&self.loop_);
        assert!(self.loop_.cancel(waiting.id()));
        let outcome = waiting.take().unwrap();
        self.note("socket to pipe", outcome);
        let waiting = self.loop_.start(op::splice(&b, &into, 7).all(true));
        self.step("send", op::send(&a, b"two".to_vec()));
        self.step("send", op::send(&a, b"four".to_vec()));
        let outcome = waiting.take().unwrap();
        self.note("all of it", outcome);
        self.step("in time", op::splice(&b, &into, 7).timeout(Duration::from_millis(3)));
        self.step("pipe to file", op::splice(&out, &file, 7).to_at(1).all(true));
        self.step("in time", op::splice(&out, &file, 7).timeout(Duration::from_millis(3)));
        self.step("read", op::read(&file, vec![0; 16]).at(0));
        self.step("no pipe", op::splice(&file, &a, 7));
        self.step("one pipe", op::splice(&out, &into, 7));
        self.step("an offset in a pipe", op::splice(&out, &a, 7).from_at(0));
        self.step("close", op::close(into));
        self.step("the end", op::splice(&out, &file, 7));
        let (out, into) = self.made("pipe", op::pipe());
        self.step("close", op::close(out));
        self.step("nobody reads", op::splice(&file, &into, 7).from_at(0));
        std::fs::remove_dir_all(path).unwrap();
    }
}

fn addr(text: &str) -> SockAddr {
    text.parse::<SocketAddr>().unwrap().into()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// The address that a socket is bound to.
pub fn local(socket: &impl AsFd) -> SocketAddr {
    rustix::net::getsockname(socket).expect("getsockname").try_into().expect("an internet address")
}

/// Compares two transcripts line by line.
pub fn assert_same(what: &str, expected: &[String], actual: &[String]) {
    for (at, (expected, actual)) in expected.iter().zip(actual).enumerate() {
        assert_eq!(expected, actual, "{what}, line {at}");
    }
    assert_eq!(expected.len(), actual.len(), "{what}");
}
