//! The sockets that every engine serves, and the two lines of contract with the driver: where the server listens, and
//! when it ends.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Socket, Type};

const BACKLOG: i32 = 4096;

/// One listener for each of `count` workers, all at the same address: the kernel spreads the connections. Tells the
/// driver, who may connect from here on.
pub fn listeners(count: usize) -> io::Result<Vec<TcpListener>> {
    let sockets = bind(count, Type::STREAM, |socket| {
        // An accepted socket inherits it: no engine pays a call for each connection.
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)
    })?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// One listener.
pub fn listener() -> io::Result<TcpListener> {
    Ok(listeners(1)?.remove(0))
}

/// One datagram socket for each of `count` workers, as with [`listeners`].
pub fn datagrams(count: usize) -> io::Result<Vec<UdpSocket>> {
    Ok(bind(count, Type::DGRAM, |_| Ok(()))?.into_iter().map(UdpSocket::from).collect())
}

/// One datagram socket.
pub fn datagram() -> io::Result<UdpSocket> {
    Ok(datagrams(1)?.remove(0))
}

fn bind(count: usize, kind: Type, ready: impl Fn(&Socket) -> io::Result<()>) -> io::Result<Vec<Socket>> {
    let mut addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.set_reuse_port(count > 1)?;
        socket.bind(&addr.into())?;
        ready(&socket)?;
        addr = socket.local_addr()?.as_socket().expect("an IPv4 socket has such an address");
        sockets.push(socket);
    }
    end_with_stdin();
    println!("listening {addr}");
    io::stdout().flush()?;
    Ok(sockets)
}

/// Ends the process when standard input does.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
}

/// Lets this process, and what it turns into, have as many descriptors as it is permitted at all. Gives the number.
pub fn raise_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid `rlimit`.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
    limit.rlim_cur
}

/// Has the allocator ask the system for no more than it needs just then, and keep what it has. What comes from the system
/// is zero already, so that of a connection's first buffer only those pages count that are used; with glibc's defaults
/// every byte of it would be written.
pub fn zero_lazily() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls have no pointers.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
