//! What the driver needs of the system and `std` does not have: limits, affinity, tuned sockets.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// -1 as the error that it stands for.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Raises the number of open files to what is allowed, for this process and those it starts, and tells it.
pub fn raise_nofile() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit to the place that is given.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: it only reads the rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// The CPUs a thread may run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cpus(Vec<usize>);

impl Cpus {
    /// Those of the calling thread.
    pub fn current() -> io::Result<Cpus> {
        // SAFETY: a cpu_set_t is an array of integers, and all zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the kernel writes at most the size that is given.
        check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) })?;
        // SAFETY: each index is below the set's size.
        let has = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
        Ok(Cpus((0..libc::CPU_SETSIZE as usize).filter(has).collect()))
    }

    pub fn one(cpu: usize) -> Cpus {
        Cpus(vec![cpu])
    }

    pub fn get(&self, index: usize) -> Option<usize> {
        self.0.get(index).copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Binds the calling thread, and what it starts from now on.
    pub fn apply(&self) -> io::Result<()> {
        // SAFETY: a cpu_set_t is an array of integers, and all zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        for cpu in self.0.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
            // SAFETY: the index is below the set's size.
            unsafe { libc::CPU_SET(*cpu, &mut set) };
        }
        // SAFETY: the kernel reads the size that is given.
        check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) })?;
        Ok(())
    }
}

/// Has the kernel kill this process when the thread that started it dies: a driver that is interrupted or killed
/// leaves no server behind. It outlasts exec.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: this prctl takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    Ok(())
}

fn set_option<T>(fd: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes of a value that lives on this frame.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) })?;
    Ok(())
}

fn sockaddr(addr: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// What a connection is to be before it connects.
#[derive(Clone, Copy, Default)]
pub struct Connect {
    /// The local address: more connections than one address has ports want several.
    pub source: Option<Ipv4Addr>,
    /// Does not wait for the handshake.
    pub nonblocking: bool,
    /// Closes with a reset, so that nothing is left in TIME_WAIT.
    pub reset: bool,
}

impl Connect {
    /// A stream without Nagle's algorithm and, in the end, non-blocking. A handshake that is waited for has as long as
    /// `timeout`.
    pub fn to(self, addr: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let SocketAddr::V4(addr) = addr else { return Err(io::ErrorKind::Unsupported.into()) };
        let flags = if self.nonblocking { libc::SOCK_NONBLOCK } else { 0 };
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
        check(fd)?;
        // SAFETY: it is new, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1 as libc::c_int)?;
        if self.reset {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })?;
        }
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        if let Some(source) = self.source {
            // Or bind would take the port from all destinations at once.
            set_option(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1 as libc::c_int)?;
            let source = sockaddr(SocketAddrV4::new(source, 0));
            // SAFETY: the kernel reads `size` bytes, which is the address's size.
            check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const source).cast(), size) })?;
        }
        if !self.nonblocking {
            let timeout = libc::timeval { tv_sec: timeout.as_secs() as libc::time_t, tv_usec: 0 };
            set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, timeout)?;
        }
        let target = sockaddr(addr);
        // SAFETY: as for bind.
        let result = check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const target).cast(), size) });
        match result {
            Err(error) if self.nonblocking && error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection is not accepted"));
            }
            result => drop(result?),
        }
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}
