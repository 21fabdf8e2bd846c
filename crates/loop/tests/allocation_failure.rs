//! H8: an allocation fails, each in turn, in the middle of whatever a loop can do. It comes out as an error that says so, or
//! ends the process as Rust's collections do (`handle_alloc_error`), or is done without: never a crash, a hang or a broken
//! assertion.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode, Stdio};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Resource;
use towpath_harness::process::{self, Ended};
use towpath_harness::{Test, net, sys, test};
use towpath_loop::{BufferPool, Child, Event, Loop, Queue, Signals, SockAddr, Socket, op};

/// How many allocations there have been since it was armed.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Which of them fail: from this one on, up to that one.
static FIRST: AtomicUsize = AtomicUsize::new(usize::MAX);
static END: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator, except that some fail.
struct Failing;

fn fails() -> bool {
    let at = COUNT.fetch_add(1, Ordering::Relaxed);
    at >= FIRST.load(Ordering::Relaxed) && at < END.load(Ordering::Relaxed)
}

// SAFETY: the system's allocator does the work; a null pointer may be returned at any time.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on from this function's own contract.
        if fails() { null_mut() } else { unsafe { System.alloc(layout) } }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        if fails() { null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        if fails() { null_mut() } else { unsafe { System.realloc(place, layout, size) } }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

const MS: Duration = Duration::from_millis(1);
/// What a child ends with: all went well, and no allocation had to fail; or one had to; or it was told as an error.
const UNTOUCHED: i32 = 0;
const WITHOUT: i32 = 10;
const TOLD: i32 = 11;

/// Has each allocation of `path` fail, alone and with all that come after it, in a child of its own.
fn each_fails(path: fn(&Loop) -> io::Result<()>) {
    let _no_core_files = sys::limit(Resource::Core, 0);
    let mut ends = [0; 3];
    for alone in [true, false] {
        for at in 0.. {
            let (mut said, stderr) = io::pipe().unwrap();
            let child = process::fork(|| {
                // SAFETY: no pointers; both are open.
                unsafe {
                    libc::dup2(stderr.as_raw_fd(), 2);
                    libc::alarm(20);
                }
                COUNT.store(0, Ordering::Relaxed);
                END.store(if alone { at + 1 } else { usize::MAX }, Ordering::Relaxed);
                FIRST.store(at, Ordering::Relaxed);
                let result = Loop::new().and_then(|loop_| {
                    loop_.make_current();
                    let result = path(&loop_);
                    drop((loop_, Loop::take_current()));
                    result
                });
                FIRST.store(usize::MAX, Ordering::Relaxed);
                match result {
                    Ok(()) if COUNT.load(Ordering::Relaxed) <= at => UNTOUCHED,
                    Ok(()) => WITHOUT,
                    Err(error) if error.kind() == io::ErrorKind::OutOfMemory => TOLD,
                    Err(error) => panic!("{error:?}"),
                }
            });
            drop(stderr);
            let ended = child.wait();
            let mut text = String::new();
            said.read_to_string(&mut text).unwrap();
            let what = format!("allocation {at} fails, alone: {alone}: {ended}: {text}");
            match ended {
                Ended::Code(UNTOUCHED) => break,
                Ended::Code(WITHOUT) => ends[0] += 1,
                Ended::Code(TOLD) => ends[1] += 1,
                // And not by a panic that could not unwind.
                Ended::Signal(libc::SIGABRT) if text.starts_with("memory allocation of") => {
                    assert!(!text.contains("panicked"), "{what}");
                    ends[2] += 1;
                }
                _ => panic!("{what}"),
            }
        }
    }
    // It has failed, in each of the ways in which it may.
    assert!(ends[0] + ends[1] + ends[2] > 20, "{ends:?}");
}

/// A listener, and somebody who has connected and was accepted.
fn connection() -> io::Result<(Socket, Socket, Socket)> {
    let listener = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait()?;
    op::bind(&listener, SockAddr::from(std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).wait()?;
    op::listen(&listener, 8).wait()?;
    let addr = socket2::SockRef::from(&listener).local_addr()?;
    let client = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait()?;
    op::connect(&client, SockAddr::from(&addr)).wait()?;
    let (server, _) = op::accept(&listener).wait()?;
    net::reset_on_close(&client);
    Ok((listener, client, server))
}

fn h08_connections() {
    each_fails(|loop_| {
        let (_listener, client, server) = connection()?;
        for round in 0..3 {
            let (echo, done) = (server.clone(), Event::new());
            let told = done.clone();
            loop_.submit(op::recv(&server, vec![0; 64]), move |loop_, got| {
                let Ok((n, mut bytes)) = got else { return told.notify() };
                bytes.truncate(n);
                loop_.submit(op::send(&echo, bytes).all(true), move |_, _| told.notify());
            });
            op::send(&client, b"hello").wait()?;
            done.notified().wait()?;
            let mut buf = [0; 16];
            let n = op::recv(&client, &mut buf).timeout(Duration::from_secs(5)).wait()?;
            assert_eq!(&buf[..n], b"hello", "{round}");
        }
        let waiting = loop_.start(op::recv_vectored(&server, vec![vec![0; 2], vec![0; 8]]));
        let sent = loop_.start(op::send_vectored(&client, vec![b"one".to_vec(), b"two".to_vec()]));
        sent.take()??;
        assert_eq!(waiting.take()??.0, 6);
        // In flight when the loop ends.
        loop_.submit(op::recv(&server, vec![0; 64]), |_, _| ());
        loop_.submit(op::recv(&client, vec![0; 64]), |_, _| ());
        loop_.tick(Some(Duration::ZERO))?;
        op::close(client).wait()?;
        Ok(())
    });
}

fn h08_files() {
    each_fails(|loop_| {
        let parent = std::os::unix::process::parent_id();
        let dir = std::env::temp_dir().join(format!("towpath-h08-{parent}-{}", std::process::id()));
        op::create_dir(&dir).wait()?;
        let used = || {
            let file = op::create(dir.join("one")).read(true).wait()?;
            op::write(&file, b"some bytes").at(0).all(true).wait()?;
            loop_
                .start(op::write_vectored(&file, vec![b"and".to_vec(), b"more".to_vec()]).at(10))
                .take()??;
            op::sync_data(&file).wait()?;
            let (n, buf) = loop_.start(op::read(&file, vec![0; 64]).at(0)).take()??;
            assert_eq!(&buf[..n], b"some bytesandmore");
            op::rename(dir.join("one"), dir.join("two")).wait()?;
            assert_eq!(op::stat(dir.join("two")).wait()?.len(), 17);
            assert_eq!(op::read_entire(dir.join("two")).wait()?.len(), 17);
            assert_eq!(op::read_entire_dir(&dir).wait()?.iter().count(), 1);
            op::real_path(dir.join("two")).wait()?;
            Ok(())
        };
        let result = used();
        // What is left of it is removed by who has memory.
        FIRST.store(usize::MAX, Ordering::Relaxed);
        let _ = std::fs::remove_dir_all(&dir);
        result
    });
    // Of those that came to an end before.
    let ours = format!("towpath-h08-{}-", std::process::id());
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&ours) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

fn h08_timers_and_jobs() {
    each_fails(|loop_| {
        for at in 0..50 {
            loop_.submit(op::timer(MS * (at % 3)), |loop_, _| {
                loop_.submit(op::next_tick(), |_, _| ());
            });
        }
        assert_eq!(op::blocking(|| 7).wait()?, 7);
        let (event, remote) = (Event::new(), loop_.remote());
        let told = event.clone();
        let job = loop_.start(op::blocking(move || remote.run(move |_| told.notify())));
        event.notified().timeout(Duration::from_secs(5)).wait()?;
        let _ = job.take()??;
        let mut ticks = op::interval(MS);
        for _ in 0..3 {
            ticks.tick().wait()?;
        }
        loop_.run()
    });
}

fn h08_streams() {
    each_fails(|loop_| {
        let (listener, first, server) = connection()?;
        let addr = socket2::SockRef::from(&listener).local_addr()?;
        let mut accepted = loop_.stream(op::accept_multi(&listener));
        let client = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait()?;
        op::connect(&client, SockAddr::from(&addr)).wait()?;
        net::reset_on_close(&client);
        drop(accepted.next().transpose()?);
        let pool = BufferPool::with_capacity(4, 64)?;
        let mut chunks = loop_.stream(op::recv_multi(&server, &pool));
        for _ in 0..3 {
            op::send(&first, b"hello").wait()?;
            assert_eq!(chunks.next().transpose()?.as_deref(), Some(&b"hello"[..]));
        }
        Ok(())
    });
}

fn h08_batches() {
    each_fails(|loop_| {
        let (_listener, client, server) = connection()?;
        let mut buf = [0; 8];
        let (one, two, got) = op::multi((
            op::send(&client, b"one ").all(true).soft(),
            op::send(&client, b"two ").hard(),
            op::recv(&server, &mut buf).all(true),
        ));
        for outcome in [one, two, got] {
            outcome?;
        }
        let raced = op::race((op::timer(MS), op::recv(&server, &mut buf))).wait();
        raced.outputs.0?;
        let queue = Queue::new(loop_);
        for at in 0..20 {
            queue.submit(op::timer(MS), move |_| at);
        }
        assert_eq!(
            std::iter::from_fn(|| queue.next().transpose()).collect::<io::Result<Vec<_>>>()?.len(),
            20
        );
        Ok(())
    });
}

fn h08_processes() {
    each_fails(|loop_| {
        let signals = Signals::new([libc::SIGUSR1])?;
        let received = loop_.start(signals.received());
        // SAFETY: no pointers; it is handled.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(received.take()??, libc::SIGUSR1);
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        let child = Child::new(child)?;
        let waiting = loop_.start(op::wait_child(&child));
        stdin.write_all(b"")?;
        drop(stdin);
        assert!(waiting.take()??.success());
        Ok(())
    });
}

fn main() -> ExitCode {
    const ALL: &[Test] = &[
        test!(h08_connections).busy().seconds(60),
        test!(h08_files).busy().seconds(60),
        test!(h08_timers_and_jobs).busy().seconds(60),
        test!(h08_streams).busy().seconds(60),
        test!(h08_batches).busy().seconds(60),
        test!(h08_processes).busy().seconds(60),
    ];
    towpath_harness::main(ALL)
}
