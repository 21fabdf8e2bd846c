//! What the tests share: runtimes, connected streams, waiting for what can be seen, errors, records.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use towpath::net::TcpStream;
use towpath::thread::{self, JoinHandle};
use towpath::{Runtime, is_canceled};
use towpath_harness::net;
pub use towpath_harness::patience;

/// By what the specified numbers from 100 000 on are divided, so that the suite takes minutes on two cores.
/// `TOWPATH_FULL=1` runs them at face value (then raise `TEST_TIMEOUT_MULT` as well).
const SCALE: usize = 20;

/// A time that is never reached.
pub const LONG: Duration = Duration::from_secs(3600);

/// A specified number, scaled down.
pub fn scaled(n: usize) -> usize {
    if std::env::var_os("TOWPATH_FULL").is_some() { n } else { (n / SCALE).max(1) }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A runtime on the backend under test.
pub fn runtime(workers: usize) -> Runtime {
    build(Runtime::builder().workers(workers))
}

pub fn build(builder: towpath::Builder) -> Runtime {
    // SAFETY: nothing in this suite keeps a stack frame's address in a thread-local.
    let runtime = unsafe { builder.build() }.expect("a runtime on the backend under test");
    let wanted = std::env::var("TOWPATH_BACKEND").unwrap_or_default();
    let backend = runtime.handle().backend();
    assert!(wanted.is_empty() || backend == wanted, "{backend} instead of {wanted}");
    runtime
}

/// Runs `f` on a runtime with one worker: tasks interleave only where they wait or yield.
pub fn solo<T>(f: impl FnOnce() -> T) -> T {
    runtime(1).run(f)
}

/// Runs `f` on a runtime with two workers.
pub fn duo<T>(f: impl FnOnce() -> T) -> T {
    runtime(2).run(f)
}

/// Yields until `done`.
///
/// # Panics
/// If it takes longer than three seconds.
pub fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + patience(Duration::from_secs(3));
    while !done() {
        assert!(Instant::now() < deadline, "nothing happens");
        thread::yield_now();
    }
}

/// A task of this worker, which is [`solo`], that has come to its first wait (or to its end).
pub fn waiting<T: 'static>(f: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let begun = Rc::new(Cell::new(false));
    let begin = begun.clone();
    let handle = thread::spawn_local(move || {
        begin.set(true);
        f()
    });
    until(|| begun.get());
    handle
}

/// Two connected streams.
pub fn pair() -> (TcpStream, TcpStream) {
    let (a, b) = net::tcp_pair();
    (a.into(), b.into())
}

/// A stream, and its peer as a plain, blocking one.
pub fn half() -> (TcpStream, std::net::TcpStream) {
    let (a, b) = net::tcp_pair();
    (a.into(), b)
}

/// A listener, and its address.
pub fn listener() -> (towpath::net::TcpListener, std::net::SocketAddr) {
    let (listener, addr) = net::listener();
    (listener.into(), addr)
}

/// An address that nobody listens on.
pub fn closed_addr() -> std::net::SocketAddr {
    net::listener().1
}

pub fn error<T>(result: io::Result<T>) -> io::Error {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error,
    }
}

/// The kind of a result's error.
pub fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    error(result).kind()
}

/// That it failed because it was cancelled.
#[track_caller]
pub fn assert_canceled<T>(result: io::Result<T>) {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => {
            assert!(is_canceled(&error), "not cancelled: {error:?}");
            assert_ne!(error.kind(), io::ErrorKind::Interrupted, "std would retry");
        }
    }
}

/// That it failed because a deadline of its own passed.
#[track_caller]
pub fn assert_timed_out<T>(result: io::Result<T>) {
    let error = error(result);
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error:?}");
    assert!(!is_canceled(&error), "{error:?}");
}

/// That nothing took longer than it should on an idle machine.
#[track_caller]
pub fn assert_quick(begun: Instant, limit: Duration) {
    let took = begun.elapsed();
    assert!(took < patience(limit), "{took:?}");
}

/// Everything up to the end of the stream.
pub fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read to the end");
    bytes
}

/// The text of a panic's payload.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "not text".into())
}

/// The message that `f` panics with; the hook does not print it.
pub fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not panic"),
        Err(panic) => message(&*panic),
    }
}

/// Counts its drops.
#[derive(Clone, Default)]
pub struct Drops(Arc<AtomicUsize>);

pub struct Dropped(Arc<AtomicUsize>);

impl Drops {
    pub fn guard(&self) -> Dropped {
        Dropped(self.0.clone())
    }
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs a closure when dropped.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A list that tasks of one worker write to.
pub struct Log<T>(Rc<RefCell<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Log<T> {
        Log(self.0.clone())
    }
}

impl<T: Clone> Log<T> {
    pub fn new() -> Log<T> {
        Log(Rc::default())
    }
    pub fn add(&self, entry: T) {
        self.0.borrow_mut().push(entry);
    }
    pub fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// The value below which this share of the measurements lies.
pub fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// The byte at a place of a stream, such that a byte lost, doubled or moved shows.
pub fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ (at >> 11) as u8 ^ at as u8
}
