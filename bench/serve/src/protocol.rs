//! What a server does on a connection, as the driver expects it. Every engine does the same work: a heap buffer of
//! [`BUFFER`] bytes for each connection, `TCP_NODELAY`, no limits.

use std::str::FromStr;

/// The size of a connection's buffer, and of a bulk chunk.
pub const BUFFER: usize = 64 << 10;

/// One byte in so many goes into a [`Digest`]: enough to notice what is lost, doubled or out of order, too little to
/// be what is measured.
pub const STRIDE: u64 = 4096;

/// What a server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Writes back what it reads, until the peer shuts down.
    Echo,
    /// Reads until the peer shuts down; then answers with the count of bytes and their digest, two little-endian `u64`,
    /// and closes.
    Sink,
    /// Reads a little-endian `u64` and writes so many bytes of [`pattern`], in chunks of [`BUFFER`]; again, until the
    /// peer shuts down.
    Source,
    /// Answers each HTTP request (which has no body) with [`RESPONSE`]; what one read brings is answered by one write.
    Http,
    /// Sends datagrams back to where they come from.
    Udp,
}

impl FromStr for Service {
    type Err = String;
    fn from_str(name: &str) -> Result<Service, String> {
        Ok(match name {
            "echo" => Service::Echo,
            "sink" => Service::Sink,
            "source" => Service::Source,
            "http" => Service::Http,
            "udp" => Service::Udp,
            _ => return Err(format!("no service is called {name:?}")),
        })
    }
}

impl Service {
    /// As [`FromStr`] knows it.
    pub fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Sink => "sink",
            Service::Source => "source",
            Service::Http => "http",
            Service::Udp => "udp",
        }
    }
}

/// The answer to every HTTP request.
pub const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

/// What a source sends at `offset` of an answer. The chunk of [`BUFFER`] bytes repeats, so that it is made once.
pub fn pattern(offset: u64) -> u8 {
    let offset = offset % BUFFER as u64;
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// A stream's digest: FNV-1a (64 bits) over the bytes at multiples of [`STRIDE`].
#[derive(Clone, Copy)]
pub struct Digest {
    pub bytes: u64,
    pub hash: u64,
}

impl Default for Digest {
    fn default() -> Digest {
        Digest { bytes: 0, hash: 0xCBF2_9CE4_8422_2325 }
    }
}

impl Digest {
    /// The next bytes of the stream.
    pub fn update(&mut self, data: &[u8]) {
        let mut at = (self.bytes.next_multiple_of(STRIDE) - self.bytes) as usize;
        while let Some(byte) = data.get(at) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
            at += STRIDE as usize;
        }
        self.bytes += data.len() as u64;
    }

    /// As a sink sends it.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hash.to_le_bytes());
        bytes
    }
}
