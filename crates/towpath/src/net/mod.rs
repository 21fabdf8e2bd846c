//! TCP under the names of `std::net`: the same methods, but a wait suspends the task.

mod resolve;
mod tcp;

pub use resolve::ToSocketAddrs;
pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
};
pub use tcp::{Incoming, TcpListener, TcpStream};

use std::io;

/// Resolves `addrs` and returns the first success of `f`, or else
/// its last error.
fn each_addr<T>(addrs: impl ToSocketAddrs, mut f: impl FnMut(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses");
    for addr in addrs.to_socket_addrs()? {
        match f(addr) {
            Ok(value) => return Ok(value),
            // Whoever is cancelled does not want another try.
            Err(error) if crate::is_canceled(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}
