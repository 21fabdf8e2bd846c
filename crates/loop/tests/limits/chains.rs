//! L14: random chains of operations have the same outcomes however they are carried out.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use towpath_harness::Rng;
use towpath_loop::op::{self, Begin, Detach, Linked, Operation, Options, Outcome, Started};
use towpath_loop::{BackendKind, Config, File, Loop, Socket, is_canceled};

use crate::common::half_unix;
use crate::script::assert_same;

/// One of the operations that a chain is made of, so that a `Vec` holds them. Passes everything on.
enum Any {
    Send(op::Send<'static, Vec<u8>>),
    Recv(op::Recv<'static, Vec<u8>>),
    Vectors(op::SendVectored<'static, Vec<Vec<u8>>>),
    Write(op::Write<'static, Vec<u8>>),
    WriteVectored(op::WriteVectored<'static, Vec<Vec<u8>>>),
    Read(op::Read<'static, Vec<u8>>),
    Sync(op::Sync<'static>),
    SetLen(op::SetLen<'static>),
    Rename(op::Rename<'static>),
    Remove(op::Remove<'static>),
    Open(op::Open<'static>),
    Poll(op::Poll<'static>),
    Timer(op::Timer),
    Tick(op::NextTick),
    Job(op::Blocking<fn(), ()>),
    Shutdown(op::Shutdown<'static>),
    Close(op::Close),
    Group(op::Gather<Vec<Linked<Any>>>),
}

macro_rules! each {
    ($any:expr, $op:ident => $call:expr) => {
        match $any {
            Any::Send($op) => $call,
            Any::Recv($op) => $call,
            Any::Vectors($op) => $call,
            Any::Write($op) => $call,
            Any::WriteVectored($op) => $call,
            Any::Read($op) => $call,
            Any::Sync($op) => $call,
            Any::SetLen($op) => $call,
            Any::Rename($op) => $call,
            Any::Remove($op) => $call,
            Any::Open($op) => $call,
            Any::Poll($op) => $call,
            Any::Timer($op) => $call,
            Any::Tick($op) => $call,
            Any::Job($op) => $call,
            Any::Shutdown($op) => $call,
            Any::Close($op) => $call,
            Any::Group($op) => $call,
        }
    };
}

fn told<T: std::fmt::Debug>(what: &str, outcome: Result<T, impl Into<io::Error>>) -> String {
    match outcome.map_err(Into::into) {
        Ok(value) => format!("{what} {value:?}"),
        Err(error) if is_canceled(&error) => format!("{what} cancelled"),
        Err(error) => format!("{what} errno {:?}, {:?}", error.raw_os_error(), error.kind()),
    }
}

/// What was read.
fn got((n, mut buf): (usize, Vec<u8>)) -> Vec<u8> {
    buf.truncate(n);
    buf
}

// SAFETY: each is the operation inside, which keeps to the contract where it lies.
unsafe impl Operation for Any {
    type Output = String;
    fn options(&self) -> Options {
        each!(self, op => op.options())
    }
    fn is_pure(&self) -> bool {
        each!(self, op => op.is_pure())
    }
    fn start(&mut self, begin: &Begin<'_>) -> Started {
        each!(self, op => op.start(begin))
    }
    fn finish(self, outcome: Outcome) -> String {
        match self {
            Any::Send(op) => told("send", op.finish(outcome).map(|(n, _)| n)),
            Any::Recv(op) => told("recv", op.finish(outcome).map(got)),
            Any::Write(op) => told("write", op.finish(outcome).map(|(n, _)| n)),
            Any::WriteVectored(op) => told("write vectored", op.finish(outcome).map(|(n, _)| n)),
            Any::Read(op) => told("read", op.finish(outcome).map(got)),
            Any::Sync(op) => told("sync", op.finish(outcome)),
            Any::SetLen(op) => told("set length", op.finish(outcome)),
            Any::Rename(op) => told("rename", op.finish(outcome)),
            Any::Remove(op) => told("remove", op.finish(outcome)),
            Any::Open(op) => told("open", op.finish(outcome).map(drop)),
            Any::Poll(op) => told("poll", op.finish(outcome)),
            Any::Vectors(op) => told("send vectored", op.finish(outcome).map(|(n, _)| n)),
            Any::Timer(op) => told("timer", op.finish(outcome)),
            Any::Tick(op) => told("tick", op.finish(outcome)),
            Any::Job(op) => told("job", op.finish(outcome)),
            Any::Shutdown(op) => told("shutdown", op.finish(outcome)),
            Any::Close(op) => told("close", op.finish(outcome)),
            Any::Group(op) => format!("[{}]", op.finish(outcome).join(", ")),
        }
    }
}

impl Detach for Any {
    type Owned = Any;
    fn detach(self) -> Any {
        self
    }
}

/// Sockets, and what there is to read on each if the chain goes on as far as this. A receive that would wait for ever gets
/// a limit, so that all chains end. And a file, in a directory where it may get other names.
struct World {
    dir: PathBuf,
    file: File,
    sockets: Vec<Socket>,
    peers: Vec<UnixStream>,
    left: Vec<usize>,
    ended: Vec<bool>,
}

impl World {
    fn new(rng: &mut Rng) -> World {
        let dir = std::env::temp_dir().join(format!("towpath-chains-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("a"), "0123456789").unwrap();
        let file = std::fs::File::options().read(true).write(true).open(dir.join("a")).unwrap().into();
        let mut world = World { dir, file, sockets: vec![], peers: vec![], left: vec![], ended: vec![] };
        for at in 0..3 {
            let (socket, mut peer) = half_unix();
            let bytes: Vec<u8> = (0..rng.below(40)).map(|n| (n + 50 * at) as u8).collect();
            peer.write_all(&bytes).unwrap();
            let ended = rng.once_in(3);
            if ended {
                peer.shutdown(Shutdown::Write).unwrap();
            }
            world.sockets.push(socket);
            world.peers.push(peer);
            world.left.push(bytes.len());
            world.ended.push(ended);
        }
        world
    }

    fn any(&mut self, rng: &mut Rng, depth: u32) -> Any {
        let at = rng.below(3) as usize;
        let socket = self.sockets[at].clone();
        match rng.below(24) {
            14..24 => self.file(rng),
            0..4 => {
                let bytes = vec![rng.below(256) as u8; rng.below(30) as usize];
                Any::Send(op::send(socket, bytes).all(rng.once_in(2)))
            }
            4..8 => {
                let (wanted, all) = (rng.below(20) as usize, rng.once_in(2));
                let waits = !self.ended[at] && (self.left[at] == 0 || all && self.left[at] < wanted);
                self.left[at] = self.left[at].saturating_sub(wanted);
                let recv = op::recv(socket, vec![0; wanted]).all(all);
                Any::Recv(if waits { recv.timeout(Duration::from_millis(1)) } else { recv })
            }
            8 => Any::Vectors(op::send_vectored(socket, vec![vec![1; 3], vec![2; 4]]).all(rng.once_in(2))),
            9 => Any::Timer(op::timer(Duration::from_micros(rng.below(100)))),
            10 => Any::Tick(op::next_tick()),
            11 => Any::Job(op::blocking(if rng.once_in(3) {
                (|| panic!("as it should")) as fn()
            } else {
                || ()
            })),
            12 if rng.once_in(2) => Any::Shutdown(op::shutdown(socket, Shutdown::Write)),
            12 => Any::Close(op::close(socket)),
            _ if depth < 2 => Any::Group(op::gather(self.chain(rng, depth + 1))),
            _ => Any::Tick(op::next_tick()),
        }
    }

    fn file(&self, rng: &mut Rng) -> Any {
        let (file, all, at) = (self.file.clone(), rng.once_in(2), rng.below(40));
        // A name that is too long, one that is empty, and some that may be there.
        let names = ["a", "b", "c", &"x".repeat(5000), ""];
        let mut name = || {
            let name = names[rng.below(5) as usize];
            if name.is_empty() { PathBuf::new() } else { self.dir.join(name) }
        };
        match at % 10 {
            0 | 1 => Any::Write(op::write(file, vec![at as u8; 1 + at as usize]).at(at).all(all)),
            2 => Any::WriteVectored(op::write_vectored(file, vec![vec![1; 3], vec![2; 4]]).at(at).all(all)),
            3 | 4 => Any::Read(op::read(file, vec![0; 10]).at(at / 2).all(all)),
            5 => Any::Sync(op::sync(file)),
            6 => Any::SetLen(op::set_len(file, at)),
            7 => Any::Rename(op::rename(name(), name())),
            8 if all => Any::Remove(op::remove_file(name())),
            8 => Any::Poll(op::poll(file, libc::POLLIN | libc::POLLOUT)),
            _ => Any::Open(op::open(name())),
        }
    }

    fn chain(&mut self, rng: &mut Rng, depth: u32) -> Vec<Linked<Any>> {
        let len = 1 + rng.below(if depth == 0 { 12 } else { 4 });
        let mut chain: Vec<_> = (0..len)
            .map(|_| {
                let any = self.any(rng, depth);
                if rng.once_in(4) { any.hard() } else { any.soft() }
            })
            .collect();
        let last = chain.pop().expect("one at least").unlinked();
        chain.push(last);
        chain
    }
}

/// The outcomes of so many chains, always the same ones, and what the peers got.
fn outcomes(loop_: &Loop, chains: u64) -> Vec<String> {
    let mut rng = Rng::new(14);
    let mut lines = Vec::new();
    for number in 0..chains {
        let mut world = World::new(&mut rng);
        let chain = world.chain(&mut rng, 0);
        let told = loop_.start(op::gather(chain)).take().expect("tick");
        world.sockets.clear();
        let mut names: Vec<_> = std::fs::read_dir(&world.dir)
            .unwrap()
            .map(|entry| entry.map(|it| (it.file_name(), std::fs::read(it.path()).unwrap())).unwrap())
            .collect();
        names.sort();
        std::fs::remove_dir_all(&world.dir).unwrap();
        let got = world.peers.iter_mut().map(|peer| {
            let mut got = Vec::new();
            // Unread bytes make the end a reset.
            let end = io::Read::read_to_end(peer, &mut got).map_err(|error| error.kind());
            format!("{end:?} {got:?}")
        });
        let got: Vec<_> = got.collect();
        lines.push(format!("{number}: {} / {} / {names:?}", told.join("; "), got.join(", ")));
    }
    assert_eq!(loop_.in_flight(), 0);
    lines
}

/// On every backend, and on a ring that links nothing, or has few opcodes, or hardly any room.
pub fn l14_random_chains_agree() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some("as it should") {
            hook(info);
        }
    }));
    let chains = 400;
    let reference = Config::new().backend(BackendKind::Poll).build().unwrap();
    let expected = outcomes(&reference, chains);
    for part in [
        "send cancelled",
        "recv cancelled",
        "TimedOut",
        "errno Some(32)",
        "job cancelled",
        "close cancelled",
        "write cancelled",
        "read cancelled",
        "rename cancelled",
        "rename errno Some(36)",
        "open errno Some(2)",
    ] {
        assert!(expected.iter().any(|line| line.contains(part)), "no {part:?} in any chain");
    }
    let ring = || Config::new().backend(BackendKind::IoUring);
    let configs = [
        ("epoll", Config::new().backend(BackendKind::Epoll)),
        ("io_uring", ring()),
        ("a small ring", ring().ring_entries(2)),
        ("no links", ring().without_links()),
        ("no send", ring().without_opcode(opcode_of("send"))),
        ("no sync", ring().without_opcode(opcode_of("sync, sync_data"))),
    ];
    for (what, config) in configs {
        match config.build() {
            Ok(loop_) => assert_same(what, &expected, &outcomes(&loop_, chains)),
            Err(error) => assert!(what != "epoll", "{error}"),
        }
    }
}

fn opcode_of(name: &str) -> u8 {
    let row = towpath_loop::OPERATIONS.iter().find(|row| row.name == name).expect("its row");
    row.uring.expect("its opcode").code
}
