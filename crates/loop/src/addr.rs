//! Socket addresses in the shape that kernels write them.

use std::io;
use std::mem;
use std::net::SocketAddr;

/// A `sockaddr_storage` and its length, at a place that a kernel may write to.
///
/// Converts from and to `std`'s [`SocketAddr`]; other families pass through [`socket2::SockAddr`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SockAddr {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) len: libc::socklen_t,
}

impl SockAddr {
    /// Room for any address, for a kernel to fill in.
    pub fn empty() -> SockAddr {
        // SAFETY: all-zero bytes are a valid `sockaddr_storage` (plain C data; family 0 is AF_UNSPEC).
        let storage = unsafe { mem::zeroed() };
        SockAddr { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// The address family, `AF_*`.
    pub fn family(&self) -> i32 {
        i32::from(self.storage.ss_family)
    }

    /// The address as `std` knows it.
    ///
    /// # Errors
    /// `InvalidInput` if it is not an IPv4 or IPv6 address.
    pub fn to_std(&self) -> io::Result<SocketAddr> {
        socket2::SockAddr::from(*self)
            .as_socket()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet address"))
    }
}

impl From<SockAddr> for socket2::SockAddr {
    fn from(addr: SockAddr) -> socket2::SockAddr {
        let len = addr.len.min(size_of::<libc::sockaddr_storage>() as libc::socklen_t);
        // SAFETY: `storage` is a whole, initialised `sockaddr_storage`, and `len` does not exceed it. The cast is
        // between two definitions of the same C type.
        unsafe {
            socket2::SockAddr::new(
                mem::transmute::<libc::sockaddr_storage, socket2::SockAddrStorage>(addr.storage),
                len,
            )
        }
    }
}

impl From<&socket2::SockAddr> for SockAddr {
    fn from(addr: &socket2::SockAddr) -> SockAddr {
        let mut out = SockAddr::empty();
        out.len = addr.len();
        // SAFETY: `addr.as_ptr()` points to `addr.len()` valid bytes, which never exceed a `sockaddr_storage`, and
        // `out.storage` is one; the two do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                addr.as_ptr().cast::<u8>(),
                (&raw mut out.storage).cast::<u8>(),
                addr.len() as usize,
            );
        }
        out
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(addr: SocketAddr) -> SockAddr {
        SockAddr::from(&socket2::SockAddr::from(addr))
    }
}

impl std::fmt::Debug for SockAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to_std() {
            Ok(addr) => addr.fmt(f),
            Err(_) => write!(f, "SockAddr {{ family: {}, len: {} }}", self.family(), self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn std_addresses_make_the_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%7]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::from(addr).to_std().unwrap(), addr);
        }
        assert!(SockAddr::empty().to_std().is_err());
    }
}
