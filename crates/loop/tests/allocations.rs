//! L20: what a loop allocates once it is warm. Nothing for an operation whose callback has four words, nothing for one that
//! is waited for in place, on every backend.
//!
//! Counted by thread, for the tests run side by side; what threads of the blocking pool allocate is not counted.

use std::cell::Cell;
use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::OFlags;
use towpath_harness::allocations::{Counting, ROUNDS, WARM_UP, at_most, none};
use towpath_harness::net;
use towpath_loop::op::{self, Detach};
use towpath_loop::operation::{Kind, Support};
use towpath_loop::{BackendKind, Config, Event, Failed, File, Loop, Socket, is_canceled};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a test on a loop of each backend that there is.
fn each_backend(test: impl Fn(&Loop)) {
    for kind in BackendKind::ALL {
        let Ok(loop_) = Config::new().backend(*kind).build() else { continue };
        test(&loop_);
        assert_eq!(loop_.in_flight(), 0);
    }
}

/// Where a callback of four words puts an outcome.
struct Outcome<T>(Rc<Cell<Option<T>>>);

impl<T: 'static> Outcome<T> {
    fn new() -> Outcome<T> {
        Outcome(Rc::default())
    }

    fn submit<O: Detach<Output = T>>(&self, loop_: &Loop, op: O) -> towpath_loop::OpId {
        let (to, words) = (self.0.clone(), [1_usize; 3]);
        let callback = move |_: &Loop, outcome| {
            black_box(words);
            to.set(Some(outcome));
        };
        assert_eq!(size_of_val(&callback), 4 * size_of::<usize>());
        loop_.submit(op, callback)
    }

    fn take(&self, loop_: &Loop) -> T {
        loop {
            if let Some(outcome) = self.0.take() {
                return outcome;
            }
            loop_.tick(None).unwrap();
        }
    }

    fn of<O: Detach<Output = T>>(&self, loop_: &Loop, op: O) -> T {
        self.submit(loop_, op);
        self.take(loop_)
    }
}

type Transferred = Result<(usize, Vec<u8>), Failed<Vec<u8>>>;

/// A socket of ours.
fn socket(plain: impl Into<OwnedFd>) -> Socket {
    let fd = plain.into();
    rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK | rustix::fs::fcntl_getfl(&fd).unwrap()).unwrap();
    Socket::from(fd)
}

/// Connected sockets of both families: on a ring they take different ways.
fn pairs() -> [(Socket, Socket); 2] {
    let (unix, tcp) = (net::unix_pair(), net::tcp_pair());
    tcp.0.set_nodelay(true).unwrap();
    [(socket(unix.0), socket(unix.1)), (socket(tcp.0), socket(tcp.1))]
}

/// The buffer that came back, which is used again.
fn buffer(outcome: Transferred) -> Vec<u8> {
    outcome.map_or_else(|failed| failed.buf.expect("it comes back"), |(_, buf)| buf)
}

#[test]
fn callbacks_of_sends_and_receives() {
    each_backend(|loop_| {
        for (a, b) in pairs() {
            let (sent, received) = (Outcome::<Transferred>::new(), Outcome::<Transferred>::new());
            let (mut out, mut into) = (vec![7; 16], vec![0; 16]);
            let mut round = |waits: bool, limit: Option<Duration>| {
                let recv = op::recv(&b, std::mem::take(&mut into));
                let send = op::send(&a, std::mem::take(&mut out));
                let recv = if let Some(limit) = limit { recv.timeout(limit) } else { recv };
                if waits {
                    received.submit(loop_, recv);
                    loop_.tick(Some(Duration::ZERO)).unwrap();
                    out = buffer(sent.of(loop_, send));
                } else {
                    out = buffer(sent.of(loop_, send.all(true)));
                    received.submit(loop_, recv);
                }
                let (n, buf) = received.take(loop_).unwrap();
                assert_eq!(n, 16);
                into = buf;
            };
            none("what is there", || round(false, None));
            none("what is waited for", || round(true, None));
            none("with a time-out", || round(true, Some(Duration::from_secs(60))));
        }
    });
}

#[test]
fn callbacks_of_receives_that_end_in_vain() {
    each_backend(|loop_| {
        for (a, _b) in pairs() {
            let received = Outcome::<Transferred>::new();
            let mut into = vec![0; 16];
            none("timed out", || {
                let recv = op::recv(&a, std::mem::take(&mut into)).timeout(Duration::from_micros(1));
                let outcome = received.of(loop_, recv);
                assert_eq!(outcome.as_ref().unwrap_err().error.kind(), io::ErrorKind::TimedOut);
                into = buffer(outcome);
            });
            none("cancelled", || {
                let id = received.submit(loop_, op::recv(&a, std::mem::take(&mut into)));
                loop_.tick(Some(Duration::ZERO)).unwrap();
                assert!(loop_.cancel(id));
                let outcome = received.take(loop_);
                assert!(is_canceled(&outcome.as_ref().unwrap_err().error));
                into = buffer(outcome);
            });
            let mut spare: Vec<Vec<u8>> = (0..WARM_UP + ROUNDS).map(|_| vec![0; 16]).collect();
            none("removed", || {
                let id = received.submit(loop_, op::recv(&a, spare.pop().unwrap()));
                loop_.tick(Some(Duration::ZERO)).unwrap();
                assert!(loop_.remove(id));
                while loop_.in_flight() > 0 {
                    loop_.tick(None).unwrap();
                }
            });
        }
    });
}

#[test]
fn callbacks_of_datagrams() {
    each_backend(|loop_| {
        let [a, b] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let to = b.local_addr().unwrap();
        let (a, b) = (socket(a), socket(b));
        let (sent, received) = (Outcome::<Transferred>::new(), Outcome::new());
        let (mut out, mut into) = (vec![7; 16], vec![0; 16]);
        none("datagrams", || {
            received.submit(loop_, op::recv_from(&b, std::mem::take(&mut into)));
            loop_.tick(Some(Duration::ZERO)).unwrap();
            out = buffer(sent.of(loop_, op::send_to(&a, std::mem::take(&mut out), to)));
            let datagram = received.take(loop_).unwrap();
            assert_eq!(datagram.received.0, 16);
            into = datagram.received.1;
        });
    });
}

#[test]
fn callbacks_of_timers_and_polls() {
    each_backend(|loop_| {
        let fired = Outcome::new();
        none("next tick", || fired.of(loop_, op::next_tick()).unwrap());
        let fired = Outcome::new();
        none("timer", || fired.of(loop_, op::timer(Duration::from_micros(150))).unwrap());
        none("a timer that is removed", || {
            let id = fired.submit(loop_, op::timer(Duration::from_secs(60)));
            assert!(loop_.remove(id));
        });
        let (a, b) = net::unix_pair();
        let (a, ready) = (socket(a), Outcome::new());
        io::Write::write_all(&mut &b, b"x").unwrap();
        none("poll", || assert_eq!(ready.of(loop_, op::poll(&a, libc::POLLIN)).unwrap(), libc::POLLIN));
    });
}

#[test]
fn callbacks_of_accepts_and_closes() {
    each_backend(|loop_| {
        let (listener, addr) = net::listener();
        let listener = socket(listener);
        let (accepted, closed) = (Outcome::new(), Outcome::new());
        // What a descriptor is shared by is made with it.
        at_most(1, "accept and close", || {
            accepted.submit(loop_, op::accept(&listener));
            loop_.tick(Some(Duration::ZERO)).unwrap();
            let client = TcpStream::connect(addr).unwrap();
            net::reset_on_close(&client);
            let (server, _) = accepted.take(loop_).unwrap();
            drop(client);
            closed.of(loop_, op::close(server)).unwrap();
        });
    });
}

#[test]
fn callbacks_of_pipes() {
    each_backend(|loop_| {
        let (from, to) = io::pipe().unwrap();
        let (from, to) = (File::from(OwnedFd::from(from)), File::from(OwnedFd::from(to)));
        let (wrote, read) = (Outcome::<Transferred>::new(), Outcome::<Transferred>::new());
        let (mut out, mut into) = (vec![7; 16], vec![0; 16]);
        for waits in [false, true] {
            none("pipe", || {
                let reading = op::read(&from, std::mem::take(&mut into));
                let writing = op::write(&to, std::mem::take(&mut out));
                if waits {
                    read.submit(loop_, reading);
                    loop_.tick(Some(Duration::ZERO)).unwrap();
                    out = buffer(wrote.of(loop_, writing));
                } else {
                    out = buffer(wrote.of(loop_, writing));
                    read.submit(loop_, reading);
                }
                into = buffer(read.take(loop_));
                assert_eq!(into, out);
            });
        }
    });
}

/// A file on a disk, which has no name any more.
fn file() -> File {
    let path = std::env::temp_dir().join(format!("towpath-allocations-{:?}", std::thread::current().id()));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(path).unwrap();
    File::from(OwnedFd::from(file.unwrap()))
}

#[test]
fn callbacks_of_files() {
    each_backend(|loop_| {
        let file = file();
        let (wrote, read) = (Outcome::<Transferred>::new(), Outcome::<Transferred>::new());
        let (mut out, mut into) = (vec![7; 4096], vec![0; 4096]);
        // A request for a thread of the pool is on the heap, for the thread may outlive the loop; and a thread is started
        // now and then.
        let native = loop_.capabilities().contains(&(Kind::Write, Support::Native));
        at_most(2 * usize::from(!native), "file", || {
            out = buffer(wrote.of(loop_, op::write(&file, std::mem::take(&mut out)).at(0)));
            into = buffer(read.of(loop_, op::read(&file, std::mem::take(&mut into)).at(0)));
            assert_eq!(into[4095], 7);
        });
    });
}

#[test]
fn callbacks_of_events() {
    each_backend(|loop_| {
        let (event, notified) = (Event::new(), Outcome::new());
        none("notified before", || {
            event.notify();
            assert_eq!(notified.of(loop_, event.notified()).unwrap(), 1);
        });
        // What a notification needs to reach another loop or thread is made by the one who notifies.
        at_most(1, "notified while it waits", || {
            notified.submit(loop_, event.notified());
            event.notify();
            assert_eq!(notified.take(loop_).unwrap(), 1);
        });
    });
}

#[test]
fn waiting_in_place() {
    each_backend(|loop_| {
        let before = loop_.make_current();
        assert!(before.is_none());
        let (limit, mut buf) = (Duration::from_secs(60), [0; 16]);
        for (a, b) in pairs() {
            none("send and recv", || {
                assert_eq!(op::send(&a, &[7; 16]).wait().unwrap(), 16);
                assert_eq!(op::recv(&b, &mut buf).timeout(limit).wait().unwrap(), 16);
            });
            none("recv in vain", || {
                let error = op::recv(&b, &mut buf).timeout(Duration::from_micros(1)).wait().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            });
            none("vectors", || {
                let (one, two) = (io::IoSlice::new(b"12345678"), io::IoSlice::new(b"87654321"));
                assert_eq!(op::send_vectored(&a, &[one, two][..]).wait().unwrap(), 16);
                assert_eq!(op::recv(&b, &mut buf).all(true).wait().unwrap(), 16);
            });
            none("poll", || _ = op::poll(&a, libc::POLLOUT).wait().unwrap());
        }
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let [a, b] = [(); 2].map(|()| UdpSocket::bind(addr).unwrap());
        let to = b.local_addr().unwrap();
        let (a, b) = (socket(a), socket(b));
        none("datagrams", || {
            assert_eq!(op::send_to(&a, &[7; 16], to).wait().unwrap(), 16);
            assert_eq!(op::recv_from(&b, &mut buf).wait().unwrap().received, 16);
        });
        let (from, to) = io::pipe().unwrap();
        let (from, to) = (File::from(OwnedFd::from(from)), File::from(OwnedFd::from(to)));
        none("pipe", || {
            assert_eq!(op::write(&to, &[7; 16]).wait().unwrap(), 16);
            assert_eq!(op::read(&from, &mut buf).wait().unwrap(), 16);
        });
        let file = file();
        let native = loop_.capabilities().contains(&(Kind::Write, Support::Native));
        at_most(2 * usize::from(!native), "file", || {
            assert_eq!(op::write(&file, &[7; 16]).at(0).wait().unwrap(), 16);
            assert_eq!(op::read(&file, &mut buf).at(0).wait().unwrap(), 16);
        });
        none("timer", || op::timer(Duration::from_micros(150)).wait().unwrap());
        let event = Event::new();
        none("event", || {
            event.notify();
            assert_eq!(event.notified().wait().unwrap(), 1);
        });
        Loop::take_current();
    });
}
