//! What the tests share: loops, sockets, memory that notices who writes to it, records of who was called.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, IntoFuture};
use std::io::{self, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use checked::{Checked, Counts};
use one_shot::OneShot;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use towpath_harness::{net, sys};
use towpath_loop::backend::readiness::Readiness;
use towpath_loop::{BackendKind, Config, Failed, IoBuf, IoBufMut, Loop, Socket, is_canceled};

#[path = "../../examples/custom/checked.rs"]
mod checked;
#[path = "../../examples/custom/one_shot.rs"]
mod one_shot;

/// The backends of the examples, which plug in where anybody's do. The suite runs on them too, and
const EXAMPLES: [&str; 2] = ["custom_poller", "custom_backend"];
/// on an io_uring that refuses what it is not used for.
const RESTRICTED: &str = "io_uring_restricted";

/// The backends of this suite's own.
pub fn own_backends() -> Vec<&'static str> {
    let ring = || Config::new().backend(BackendKind::IoUring);
    let restricted = ring().ring_restricted(true).build();
    if let (Ok(_), Err(error)) = (ring().build(), &restricted) {
        eprintln!("{RESTRICTED} is not available here: {error}");
    }
    EXAMPLES.into_iter().chain(restricted.is_ok().then_some(RESTRICTED)).collect()
}

/// By what the specified numbers from 100 000 on are divided, so that the suite takes minutes on two cores.
/// `TOWPATH_FULL=1` runs them at face value (then raise `TEST_TIMEOUT_MULT` as well).
pub const SCALE: u64 = 20;

/// A specified number, scaled down.
pub fn scaled(n: u64) -> u64 {
    if std::env::var_os("TOWPATH_FULL").is_some() { n } else { (n / SCALE).max(1) }
}

/// A loop on the backend under test.
pub fn new_loop() -> Loop {
    loop_with(&Config::new())
}

/// The same, with options, all of which are io_uring's own: the backends of the examples have none.
pub fn loop_with(config: &Config) -> Loop {
    let wanted = std::env::var("TOWPATH_BACKEND").unwrap_or_default();
    let one_shot = || OneShot::new().map(Readiness::new);
    let loop_ = match wanted.as_str() {
        "custom_poller" => one_shot().and_then(|backend| Loop::with_backend(Box::new(backend))),
        "custom_backend" => one_shot()
            .and_then(|backend| Loop::with_backend(Box::new(Checked::new(backend, Counts::default())))),
        RESTRICTED => config.clone().backend(BackendKind::IoUring).ring_restricted(true).build(),
        _ => config.build(),
    };
    let loop_ = loop_.expect("a loop on the backend under test");
    let name = if wanted == RESTRICTED { "io_uring" } else { &wanted };
    assert!(name.is_empty() || loop_.backend() == name, "{} instead of {wanted}", loop_.backend());
    loop_
}

/// [`new_loop`] as this thread's current one, for `.wait()`.
pub fn current_loop() -> Loop {
    let loop_ = new_loop();
    loop_.make_current();
    loop_
}

/// Reaps without sleeping.
pub fn poke(loop_: &Loop) -> usize {
    loop_.tick(Some(Duration::ZERO)).expect("tick")
}

/// Ticks until `done`.
///
/// # Panics
/// If it takes longer than three seconds.
pub fn tick_until(loop_: &Loop, done: impl Fn() -> bool) {
    let deadline = Instant::now() + towpath_harness::patience(Duration::from_secs(3));
    while !done() {
        loop_.tick(Some(Duration::from_millis(100))).expect("tick");
        assert!(Instant::now() < deadline, "nothing happens: {:?}", loop_.stats());
    }
}

/// Drives a loop until a future is ready.
pub fn complete<F: IntoFuture>(loop_: &Loop, future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        loop_.tick(Some(Duration::from_millis(100))).unwrap();
    }
}

/// A file without a name, its cursor at the beginning.
pub fn tempfile(content: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!("towpath-{}-{:p}", std::process::id(), content));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    std::fs::remove_file(path).expect("remove");
    file.write_all(content).expect("write");
    file.seek(SeekFrom::Start(0)).expect("seek");
    file
}

/// Hands a plain socket to Towpath: non-blocking.
pub fn socket(plain: impl Into<OwnedFd>) -> Socket {
    let fd = plain.into();
    set_nonblocking(&fd, true);
    Socket::from(fd)
}

pub fn set_nonblocking(fd: &impl AsFd, on: bool) {
    let mut flags = fcntl_getfl(fd).expect("fcntl");
    flags.set(OFlags::NONBLOCK, on);
    fcntl_setfl(fd, flags).expect("fcntl");
}

/// Two connected Unix sockets of ours.
pub fn unix() -> (Socket, Socket) {
    let (a, b) = net::unix_pair();
    (socket(a), socket(b))
}

/// One of ours, and its peer as a plain, blocking one.
pub fn half_unix() -> (Socket, UnixStream) {
    let (a, b) = net::unix_pair();
    (socket(a), b)
}

/// A pair of Unix sockets of this kind.
pub fn pair(kind: i32) -> (Socket, Socket) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors; both are new and ours.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()), 0);
        (Socket::from(OwnedFd::from_raw_fd(fds[0])), Socket::from(OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Two connected TCP sockets of ours.
pub fn tcp() -> (Socket, Socket) {
    let (a, b) = net::tcp_pair();
    (socket(a), socket(b))
}

/// One of ours, and its peer as a plain, blocking one.
pub fn half_tcp() -> (Socket, TcpStream) {
    let (a, b) = net::tcp_pair();
    (socket(a), b)
}

/// A TCP listener of ours, on the loopback device.
pub fn listener() -> (Socket, SocketAddr) {
    let (listener, addr) = net::listener();
    (socket(listener), addr)
}

/// The error of an operation, whatever it gives back with it.
pub fn error<T, E: Into<io::Error>>(result: Result<T, E>) -> io::Error {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into(),
    }
}

/// The error's number.
pub fn errno<T, E: Into<io::Error>>(result: Result<T, E>) -> i32 {
    let error = error(result);
    error.raw_os_error().unwrap_or_else(|| panic!("no number of the system: {error:?}"))
}

/// Checks that its deadline has passed, which is no error of the system's.
#[track_caller]
pub fn assert_timed_out<T, E: Into<io::Error>>(result: Result<T, E>) {
    let error = error(result);
    assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::TimedOut, None), "{error:?}");
}

/// Whether it was cancelled; anything but that and success is a failure of the test.
pub fn canceled<T, E: Into<io::Error>>(result: Result<T, E>) -> bool {
    match result.map_err(Into::into) {
        Ok(_) => false,
        Err(error) => {
            assert!(is_canceled(&error), "neither done nor cancelled: {error}");
            true
        }
    }
}

/// A list that callbacks write to.
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
    pub fn take(&self) -> Vec<T> {
        self.0.take()
    }
}

/// What became of one callback.
#[derive(Default, Debug)]
pub struct Fate {
    called: Cell<u32>,
    dropped: Cell<u32>,
}

/// Held by a callback; notes when it is called and dropped.
pub struct Fated(Rc<Fate>);

impl Fate {
    pub fn new() -> (Rc<Fate>, Fated) {
        let fate = Rc::new(Fate::default());
        (fate.clone(), Fated(fate))
    }
    /// How often it was called; it was dropped once, or else the test fails.
    pub fn calls(&self) -> u32 {
        assert_eq!(self.dropped.get(), 1, "a callback must be dropped once: {self:?}");
        self.called.get()
    }
    pub fn called(&self) -> u32 {
        self.called.get()
    }
    pub fn is_over(&self) -> bool {
        self.dropped.get() > 0
    }
}

impl Fated {
    pub fn call(&self) {
        assert_eq!(self.0.dropped.get(), 0, "called after it was dropped");
        self.0.called.set(self.0.called.get() + 1);
    }
}

impl Drop for Fated {
    fn drop(&mut self) {
        self.0.dropped.set(self.0.dropped.get() + 1);
    }
}

/// What freed memory is filled with.
pub const CANARY: u8 = 0xa5;

/// A buffer whose memory is never really freed: dropping it fills it with [`CANARY`], so that a kernel that writes
/// there, or reads from there, is found out.
pub struct Tracked {
    place: *mut [u8],
    freed: Arc<AtomicBool>,
}

/// Looks at the memory of a [`Tracked`] buffer.
pub struct Watch {
    place: *mut [u8],
    freed: Arc<AtomicBool>,
}

impl Tracked {
    pub fn new(len: usize, byte: u8) -> (Tracked, Watch) {
        let place: *mut [u8] = Box::leak(vec![byte; len].into_boxed_slice());
        let freed = Arc::new(AtomicBool::new(false));
        (Tracked { place, freed: freed.clone() }, Watch { place, freed })
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        for index in 0..self.place.len() {
            // SAFETY: the allocation is leaked, so it is there for ever, and this is its only owner. Volatile: the
            // point is to find out whether somebody else uses it.
            unsafe { self.place.cast::<u8>().add(index).write_volatile(CANARY) };
        }
        self.freed.store(true, Ordering::Release);
    }
}

impl Watch {
    pub fn is_freed(&self) -> bool {
        self.freed.load(Ordering::Acquire)
    }
    /// Fails if the memory was written to after it was freed.
    pub fn assert_intact(&self) {
        assert!(self.is_freed(), "the buffer was not freed");
        for index in 0..self.place.len() {
            // SAFETY: as in `drop`; the owner is gone.
            let byte = unsafe { self.place.cast::<u8>().add(index).read_volatile() };
            assert_eq!(byte, CANARY, "byte {index} of freed memory was written to");
        }
    }
}

// SAFETY: the memory is leaked: always valid, initialised, and used through this value only (`Watch` reads it once the
// value is gone).
unsafe impl IoBuf for Tracked {
    type Done = (usize, Tracked);
    type Error = Failed<Tracked>;
    fn bytes(&self) -> (*const u8, usize) {
        (self.place.cast(), self.place.len())
    }
    fn done(self, n: usize) -> Self::Done {
        (n, self)
    }
    fn failed(self, n: usize, error: io::Error) -> Self::Error {
        Failed { error, transferred: n, buf: Some(self) }
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Tracked {
    fn bytes_mut(&mut self) -> (*mut u8, usize) {
        (self.place.cast(), self.place.len())
    }
}

/// Measures what this machine takes from a test, which no loop can better: by how much a plain `sleep` of 1 ms comes
/// late, and how long the calling thread waits for a CPU that others have.
pub struct Yardstick {
    stop: Arc<AtomicBool>,
    worst: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Yardstick {
    pub fn start() -> Yardstick {
        let (stop, worst) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop2, worst2) = (stop.clone(), worst.clone());
        let thread = std::thread::spawn(move || {
            while !stop2.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(Duration::from_millis(1));
                let late = begun.elapsed().saturating_sub(Duration::from_millis(1));
                worst2.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
            }
        });
        Yardstick { stop, worst, thread: Some(thread), waited: sys::cpu_wait() }
    }
    /// The limit for a lateness that is `allowed` on an idle machine. `others` is what other threads of the test
    /// waited for a CPU meanwhile.
    pub fn allow(mut self, allowed: Duration, others: Duration) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("only here").join().expect("the yardstick");
        let worst = Duration::from_nanos(self.worst.load(Ordering::Relaxed));
        towpath_harness::patience(allowed) + 2 * worst + sys::cpu_wait().saturating_sub(self.waited) + others
    }
}

/// The number below which `share` of the values lie.
pub fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}
