//! The loop's streams in tasks: waiting for an item suspends the task, and only that.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use towpath::time::timeout;
use towpath::{is_canceled, thread};
use towpath_harness::{Rng, net};
use towpath_loop::{BufferPool, OpStream, Socket, op};

use crate::common::*;

fn socket(plain: impl Into<OwnedFd>) -> Socket {
    Socket::from(plain.into())
}

/// A stream socket with a stream of receives on it, and its peer.
fn receiving(pool: &BufferPool) -> (OpStream<op::RecvMulti<'static>>, TcpStream) {
    let (near, far) = net::tcp_pair();
    (op::recv_multi(socket(near), pool).into_iter(), far)
}

/// A server of streams: one task accepts, one for each connection echoes, all from one small pool.
pub fn tasks_serve_from_streams() {
    const CLIENTS: usize = 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|seed| {
            std::thread::spawn(move || {
                let (mut stream, mut rng) = (TcpStream::connect(addr).unwrap(), Rng::new(seed));
                for _ in 0..50 {
                    let bytes: Vec<u8> = (0..1 + rng.below(3000)).map(|_| rng.bits() as u8).collect();
                    stream.write_all(&bytes).unwrap();
                    let mut echo = vec![0; bytes.len()];
                    stream.read_exact(&mut echo).unwrap();
                    assert!(echo == bytes, "not what was sent");
                }
            })
        })
        .collect();
    solo(move || {
        let pool = BufferPool::with_capacity(4, 1024).unwrap();
        let (free, ended) = (pool.clone(), Rc::new(Cell::new(0)));
        let count = ended.clone();
        let acceptor = thread::spawn_local(move || {
            let mut echoes = Vec::new();
            for connection in op::accept_multi(socket(listener)) {
                let connection = match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        assert!(is_canceled(&error), "{error}");
                        break;
                    }
                };
                let (pool, count) = (pool.clone(), count.clone());
                echoes.push(thread::spawn_local(move || -> io::Result<()> {
                    for chunk in op::recv_multi(&connection, &pool) {
                        op::send(&connection, &chunk?[..]).all(true).wait()?;
                    }
                    count.set(count.get() + 1);
                    Ok(())
                }));
            }
            echoes
        });
        until(|| ended.get() == CLIENTS);
        acceptor.cancel();
        for echo in acceptor.join().unwrap() {
            echo.join().unwrap().unwrap();
        }
        until(|| free.free() == 4);
    });
    clients.into_iter().for_each(|client| client.join().unwrap());
}

/// C9: a wait for an item that is cancelled, or times out, leaves the stream as it was.
pub fn c09_cancelled_and_timed_out_streams() {
    solo(|| {
        let pool = BufferPool::with_capacity(4, 1024).unwrap();
        let (mut stream, mut far) = receiving(&pool);
        for round in 0..5 {
            let waited = timeout(ms(5), || stream.next().expect("not the end").map(|chunk| chunk.len()));
            assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
            far.write_all(&[round; 100]).unwrap();
            assert_eq!(&*stream.next().unwrap().unwrap(), [round; 100]);
        }
        let task = waiting(move || {
            let error = stream.next().unwrap().unwrap_err();
            // Cancelled it stays, and so does the stream.
            assert!(is_canceled(&error) && is_canceled(&stream.next().unwrap().unwrap_err()));
            towpath::shield(|| stream.next().unwrap().map(|chunk| chunk.to_vec()))
        });
        task.cancel();
        thread::yield_now();
        far.write_all(b"in time").unwrap();
        assert_eq!(task.join().unwrap().unwrap(), b"in time");
        until(|| pool.free() == 4);
    });
}

/// J12: in a task that unwinds nobody else may run, who would bring the item: an error, and no deadlock.
pub fn j12_stream_while_unwinding() {
    struct Waits(OpStream<op::RecvMulti<'static>>, Rc<Cell<Option<io::ErrorKind>>>);
    impl Drop for Waits {
        fn drop(&mut self) {
            self.1.set(self.0.next().and_then(Result::err).map(|error| error.kind()));
        }
    }
    solo(|| {
        let pool = BufferPool::new().unwrap();
        let (stream, _far) = receiving(&pool);
        let kind = Rc::new(Cell::new(None));
        let waits = Waits(stream, kind.clone());
        let task = thread::spawn_local(move || {
            let _waits = waits;
            panic!("on purpose");
        });
        assert!(task.join().is_err());
        assert_eq!(kind.get(), Some(io::Error::from_raw_os_error(libc::EDEADLK).kind()));
    });
}
