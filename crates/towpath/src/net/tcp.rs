//! `TcpListener` and `TcpStream`, as in `std::net`.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{self, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use towpath_loop::{Instant, Socket, Target, op};

use super::{ToSocketAddrs, each_addr};

/// `std`'s own backlog.
const BACKLOG: i32 = 128;

/// A socket with what `std` keeps in the kernel and a completion loop keeps itself: time-outs, non-blocking mode.
struct Tcp {
    socket: Socket,
    /// Nanoseconds; `u64::MAX` is none.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    /// Whether a wait is an error to this user.
    nonblocking: AtomicBool,
}

const NONE: u64 = u64::MAX;

impl Tcp {
    fn new(socket: Socket) -> Tcp {
        Tcp {
            socket,
            read_timeout: AtomicU64::new(NONE),
            write_timeout: AtomicU64::new(NONE),
            nonblocking: AtomicBool::new(false),
        }
    }

    /// Takes over a descriptor of unknown mode.
    fn adopt(fd: OwnedFd) -> Tcp {
        // It must not block the loop. A descriptor that refuses is no socket, and every operation on it will say so.
        let _ = rustix::io::ioctl_fionbio(&fd, true);
        Tcp::new(Socket::from(fd))
    }

    fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }

    /// When an operation that starts now has to be over, with this time-out. One that must not wait at all has its
    /// one attempt.
    fn deadline(&self, timeout: &AtomicU64) -> Instant {
        if self.nonblocking.load(Ordering::Relaxed) {
            return Instant::now();
        }
        load_timeout(timeout).map_or(Instant::NEVER, |timeout| Instant::now() + timeout)
    }

    /// The error of an operation as its user expects it.
    fn refine<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            // With an OS code it is the connection that timed out.
            let is_deadline = error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none();
            match is_deadline && self.nonblocking.load(Ordering::Relaxed) {
                true => io::ErrorKind::WouldBlock.into(),
                false => error,
            }
        })
    }

    fn recv(&self, buf: &mut [u8], flags: i32) -> io::Result<usize> {
        // The kernel would wait for data before it transfers none of it.
        if buf.is_empty() {
            return Ok(0);
        }
        let deadline = self.deadline(&self.read_timeout);
        self.refine(op::recv(&self.socket, buf).flags(flags).deadline(deadline).wait())
    }

    fn try_clone(&self) -> io::Result<Tcp> {
        let clone = Tcp::new(Socket::from(self.socket.as_fd().try_clone_to_owned()?));
        clone.read_timeout.store(self.read_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
        clone.write_timeout.store(self.write_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
        clone.nonblocking.store(self.nonblocking.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(clone)
    }

    /// The descriptor, in the mode that `std` expects.
    fn into_fd(self) -> OwnedFd {
        let blocking = !self.nonblocking.load(Ordering::Relaxed);
        // Ours borrow this socket until they are over; others' may hold a clone.
        let fd = self.socket.into_fd().expect("a descriptor for what an operation in flight shares");
        if blocking {
            let _ = rustix::io::ioctl_fionbio(&fd, false);
        }
        fd
    }
}

fn load_timeout(cell: &AtomicU64) -> Option<Duration> {
    match cell.load(Ordering::Relaxed) {
        NONE => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

fn store_timeout(cell: &AtomicU64, timeout: Option<Duration>) -> io::Result<()> {
    let nanos = match timeout {
        None => NONE,
        Some(Duration::ZERO) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        Some(timeout) => u64::try_from(timeout.as_nanos()).unwrap_or(NONE - 1).min(NONE - 1),
    };
    cell.store(nanos, Ordering::Relaxed);
    Ok(())
}

/// A TCP stream, as [`std::net::TcpStream`].
///
/// Reading and writing take `&self` as well, so two tasks can share a stream: one reads, one writes. Dropping it closes
/// the connection.
///
/// Cancel-safety: a read or write that was cancelled or timed out transferred nothing.
///
/// What else can be done with a socket is in [`op`](towpath_loop::op), and takes a stream as it is:
///
/// ```no_run
/// # use towpath::net::TcpStream;
/// use towpath_loop::op;
/// # let stream = TcpStream::connect("127.0.0.1:80")?;
/// let file = op::open("index.html").wait()?;
/// op::sendfile(&stream, &file, usize::MAX).all(true).wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpStream {
    tcp: Tcp,
}

impl TcpStream {
    /// Opens a connection to the first of `addrs` that accepts one. Host names are resolved on the blocking pool.
    ///
    /// # Errors
    /// The last address's error; `InvalidInput` if there is no address.
    pub fn connect<A: ToSocketAddrs>(addrs: A) -> io::Result<TcpStream> {
        each_addr(addrs, |addr| TcpStream::connect_until(&addr, Instant::NEVER))
    }

    /// Opens a connection to `addr`, within `timeout`.
    ///
    /// # Errors
    /// `TimedOut`; `InvalidInput` for a zero time-out; the system's.
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        TcpStream::connect_until(addr, Instant::now() + timeout)
    }

    fn connect_until(addr: &SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
        let socket = op::socket(family(addr), libc::SOCK_STREAM, 0).wait()?;
        op::connect(&socket, (*addr).into()).deadline(deadline).wait()?;
        Ok(TcpStream { tcp: Tcp::new(socket) })
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// The system's: `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        to_std(self.tcp.options().peer_addr()?)
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        to_std(self.tcp.options().local_addr()?)
    }

    /// Shuts one or both directions.
    ///
    /// # Errors
    /// `NotConnected` where the system says so.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // Not worth a suspension: the call never blocks.
        self.tcp.options().shutdown(how)
    }

    /// Another handle to the same connection, with a descriptor of its own and the same options.
    ///
    /// # Errors
    /// The system's: out of descriptors.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream { tcp: self.tcp.try_clone()? })
    }

    /// Limits the time that each read may wait; `None` lifts it. A read that takes longer fails with `TimedOut`.
    /// Kept by this handle; `std` keeps it in the kernel.
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.tcp.read_timeout, timeout)
    }

    /// Limits the time that each write may wait; `None` lifts it.
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.tcp.write_timeout, timeout)
    }

    /// See [`set_read_timeout`](TcpStream::set_read_timeout).
    ///
    /// # Errors
    /// None; the signature is `std`'s.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(load_timeout(&self.tcp.read_timeout))
    }

    /// See [`set_write_timeout`](TcpStream::set_write_timeout).
    ///
    /// # Errors
    /// None; the signature is `std`'s.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(load_timeout(&self.tcp.write_timeout))
    }

    /// Receives without taking the bytes out of the stream.
    ///
    /// # Errors
    /// As reading.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.tcp.recv(buf, libc::MSG_PEEK)
    }

    /// Makes reads and writes fail with `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None; the signature is `std`'s. The descriptor itself is always in non-blocking mode.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.tcp.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }
}

/// Socket options that pass straight through to the kernel.
macro_rules! options {
    ($($(#[$doc:meta])* $set:ident / $get:ident: $type:ty = $kernel_set:ident / $kernel_get:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// The system's.
            pub fn $set(&self, value: $type) -> io::Result<()> {
                self.tcp.options().$kernel_set(value)
            }

            /// The value that is set.
            ///
            /// # Errors
            /// The system's.
            pub fn $get(&self) -> io::Result<$type> {
                self.tcp.options().$kernel_get()
            }
        )*
    };
}

impl TcpStream {
    options! {
        /// Sends segments at once (`TCP_NODELAY`), instead of gathering small ones.
        set_nodelay / nodelay: bool = set_tcp_nodelay / tcp_nodelay;
        /// The time to live of the packets (`IP_TTL`).
        set_ttl / ttl: u32 = set_ttl_v4 / ttl_v4;
        /// How long closing waits for unsent data (`SO_LINGER`); zero resets the connection.
        set_linger / linger: Option<Duration> = set_linger / linger;
        /// Probes a silent peer (`SO_KEEPALIVE`).
        set_keepalive / keepalive: bool = set_keepalive / keepalive;
    }

    /// The error that the kernel has pending, and clears it (`SO_ERROR`).
    ///
    /// # Errors
    /// The system's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.tcp.options().take_error()
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.tcp.recv(buf, 0)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        let deadline = self.tcp.deadline(&self.tcp.read_timeout);
        self.tcp.refine(op::recv_vectored(&self.tcp.socket, bufs).deadline(deadline).wait())
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let deadline = self.tcp.deadline(&self.tcp.write_timeout);
        self.tcp.refine(op::send(&self.tcp.socket, buf).deadline(deadline).wait())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let deadline = self.tcp.deadline(&self.tcp.write_timeout);
        self.tcp.refine(op::send_vectored(&self.tcp.socket, bufs).deadline(deadline).wait())
    }

    /// Does nothing: what is written is the kernel's.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TCP listener, as [`std::net::TcpListener`].
///
/// Several tasks can accept from one. Out of descriptors, an accept fails after a pause of 10 ms, so that accepting in
/// a loop does not spin; it recovers when some are free.
pub struct TcpListener {
    tcp: Tcp,
}

impl TcpListener {
    /// Listens on the first of `addrs` that can be had, with `SO_REUSEADDR` and a backlog of 128, as `std` does.
    ///
    /// # Errors
    /// The last address's error; `InvalidInput` if there is no address.
    pub fn bind<A: ToSocketAddrs>(addrs: A) -> io::Result<TcpListener> {
        each_addr(addrs, |addr| {
            let socket = op::socket(family(&addr), libc::SOCK_STREAM, 0).wait()?;
            SockRef::from(&socket).set_reuse_address(true)?;
            op::bind(&socket, addr.into()).wait()?;
            op::listen(&socket, BACKLOG).wait()?;
            Ok(TcpListener { tcp: Tcp::new(socket) })
        })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// The system's. A connection that was reset before it could be accepted is passed over.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let deadline = self.tcp.deadline(&self.tcp.read_timeout);
        let (socket, addr) = self.tcp.refine(op::accept(&self.tcp.socket).deadline(deadline).wait())?;
        Ok((TcpStream { tcp: Tcp::new(socket) }, addr.to_std()?))
    }

    /// The connections, one after the other, without end.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        to_std(self.tcp.options().local_addr()?)
    }

    /// Another handle to the same listener.
    ///
    /// # Errors
    /// The system's: out of descriptors.
    pub fn try_clone(&self) -> io::Result<TcpListener> {
        Ok(TcpListener { tcp: self.tcp.try_clone()? })
    }

    options! {
        /// The time to live of the packets (`IP_TTL`).
        set_ttl / ttl: u32 = set_ttl_v4 / ttl_v4;
    }

    /// The error that the kernel has pending, and clears it (`SO_ERROR`).
    ///
    /// # Errors
    /// The system's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.tcp.options().take_error()
    }

    /// Makes accepting fail with `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None; the signature is `std`'s.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.tcp.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }
}

/// The connections of a listener: see [`TcpListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<io::Result<TcpStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl std::iter::FusedIterator for Incoming<'_> {}

fn family(addr: &SocketAddr) -> i32 {
    if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn to_std(addr: socket2::SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet address"))
}

macro_rules! descriptor {
    ($type:ident) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = f.debug_struct(stringify!($type));
                if let Ok(addr) = self.local_addr() {
                    out.field("addr", &addr);
                }
                if let Ok(peer) = self.tcp.options().peer_addr().and_then(to_std) {
                    out.field("peer", &peer);
                }
                out.field("fd", &self.as_raw_fd()).finish()
            }
        }

        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.tcp.socket.as_fd()
            }
        }

        impl AsRawFd for $type {
            fn as_raw_fd(&self) -> RawFd {
                self.tcp.socket.as_raw_fd()
            }
        }

        impl From<OwnedFd> for $type {
            /// Takes the descriptor over and makes it non-blocking.
            fn from(fd: OwnedFd) -> $type {
                $type { tcp: Tcp::adopt(fd) }
            }
        }

        impl FromRawFd for $type {
            unsafe fn from_raw_fd(fd: RawFd) -> $type {
                // SAFETY: the caller promises that `fd` is open and nobody else's.
                $type::from(unsafe { OwnedFd::from_raw_fd(fd) })
            }
        }

        impl<'s> From<&'s $type> for Target<'s> {
            /// For the loop's operations, which go around time-outs and non-blocking mode of this handle.
            fn from(this: &'s $type) -> Target<'s> {
                Target::from(&this.tcp.socket)
            }
        }

        impl From<Socket> for $type {
            /// Without time-outs, in blocking mode as far as its user sees.
            fn from(socket: Socket) -> $type {
                $type { tcp: Tcp::new(socket) }
            }
        }

        impl From<$type> for Socket {
            /// Time-outs and non-blocking mode of this handle are forgotten.
            fn from(this: $type) -> Socket {
                this.tcp.socket
            }
        }

        impl From<$type> for OwnedFd {
            /// Gives the descriptor up, in blocking mode unless it was set otherwise.
            ///
            /// # Panics
            /// If an operation of the loop's that was begun with it is still in flight, and there is no descriptor left for a
            /// duplicate.
            fn from(this: $type) -> OwnedFd {
                this.tcp.into_fd()
            }
        }

        impl IntoRawFd for $type {
            fn into_raw_fd(self) -> RawFd {
                OwnedFd::from(self).into_raw_fd()
            }
        }

        impl From<net::$type> for $type {
            fn from(this: net::$type) -> $type {
                $type::from(OwnedFd::from(this))
            }
        }

        impl From<$type> for net::$type {
            fn from(this: $type) -> net::$type {
                net::$type::from(OwnedFd::from(this))
            }
        }
    };
}

descriptor!(TcpStream);
descriptor!(TcpListener);
