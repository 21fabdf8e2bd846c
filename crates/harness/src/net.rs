//! Sockets for tests, plain and blocking, by the standard library.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

/// Two connected Unix stream sockets.
pub fn unix_pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("socketpair")
}

/// A listener on a free port of the loopback address.
pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind to the loopback address");
    let addr = listener.local_addr().expect("getsockname");
    (listener, addr)
}

/// Two connected TCP sockets, over the loopback device.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let (listener, addr) = listener();
    let client = TcpStream::connect(addr).expect("connect to the loopback address");
    let (server, _) = listener.accept().expect("accept");
    (client, server)
}

/// Makes the close of a TCP socket a reset instead of an end.
pub fn reset_on_close(socket: &impl AsFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

/// Sets the size of a socket's send buffer, which the kernel doubles (and keeps above 4608 bytes).
pub fn set_send_buffer(socket: &impl AsFd, bytes: i32) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
}

/// Sets the size of a socket's receive buffer, which the kernel doubles.
pub fn set_receive_buffer(socket: &impl AsFd, bytes: i32) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes);
}

fn set_option<T>(socket: &impl AsFd, level: i32, name: i32, value: &T) {
    let fd = socket.as_fd().as_raw_fd();
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is a readable `T` of `len` bytes, the type that the option takes.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast(), len) };
    assert_eq!(result, 0, "setsockopt: {}", io::Error::last_os_error());
}

/// Sends out-of-band data.
///
/// # Errors
/// As `send(2)`.
pub fn send_oob(socket: &impl AsFd, byte: u8) -> io::Result<()> {
    // SAFETY: one byte at a valid address.
    let n = unsafe { libc::send(socket.as_fd().as_raw_fd(), (&raw const byte).cast(), 1, libc::MSG_OOB) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Fills a socket's buffers until a send would block; returns how many bytes went in.
pub fn fill(socket: &impl AsFd, byte: u8) -> usize {
    let chunk = [byte; 4096];
    let mut total = 0;
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `chunk` is readable for its length.
        let n = unsafe { libc::send(socket.as_fd().as_raw_fd(), chunk.as_ptr().cast(), chunk.len(), flags) };
        if n < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            return total;
        }
        total += n as usize;
    }
}
