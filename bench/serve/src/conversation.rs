//! What a server says on one connection: straight-line for engines that can wait in the middle, and in steps for those
//! that cannot, or that take buffers and give them back.

use std::sync::LazyLock;

use crate::http;
use crate::protocol::{BUFFER, Digest, Service, pattern};

/// What sources send, over and over.
pub static CHUNK: LazyLock<Vec<u8>> = LazyLock::new(|| (0..BUFFER as u64).map(pattern).collect());

/// A whole conversation over `Read + Write`, or with `.await` as the third argument over their asynchronous kin, in a
/// function that returns an `io::Result<()>`.
macro_rules! converse {
    ($stream:expr, $service:expr $(, $($wait:tt)+)?) => {{
        use $crate::protocol::{BUFFER, Digest, Service};
        let mut stream = $stream;
        let mut buf = vec![0; BUFFER];
        match $service {
            Service::Echo => loop {
                match stream.read(&mut buf)$($($wait)+)?? {
                    0 => return Ok(()),
                    n => stream.write_all(&buf[..n])$($($wait)+)??,
                }
            },
            Service::Sink => {
                let mut digest = Digest::default();
                loop {
                    match stream.read(&mut buf)$($($wait)+)?? {
                        0 => break stream.write_all(&digest.to_bytes())$($($wait)+)?,
                        n => digest.update(&buf[..n]),
                    }
                }
            }
            Service::Source => loop {
                let mut request = [0; 8];
                // The end of the stream is as good an end as any.
                stream.read_exact(&mut request)$($($wait)+)??;
                let mut left = u64::from_le_bytes(request);
                while left > 0 {
                    let n = left.min(BUFFER as u64) as usize;
                    stream.write_all(&$crate::conversation::CHUNK[..n])$($($wait)+)??;
                    left -= n as u64;
                }
            },
            Service::Http => {
                let mut rest = 0;
                loop {
                    // A request that fills the buffer leaves no room, which reads as the end.
                    let end = match stream.read(&mut buf[rest..])$($($wait)+)?? {
                        0 => return Ok(()),
                        n => rest + n,
                    };
                    let (answers, kept) = $crate::http::answer(&mut buf[..end]);
                    rest = kept;
                    if !answers.is_empty() {
                        stream.write_all(answers)$($($wait)+)??;
                    }
                }
            }
            Service::Udp => Ok(()),
        }
    }};
}
pub(crate) use converse;

/// What is to be done next on a connection.
pub enum Step {
    /// Receive; then say so with [`Conversation::received`].
    Receive,
    /// Send what was just received, so many bytes; then say so with [`Conversation::sent`].
    Echo(usize),
    /// Send this; then say so.
    Send(&'static [u8]),
    /// Send the digest; then say so.
    SendDigest([u8; 16]),
    Close,
}

/// A conversation in steps; the first is to receive.
pub struct Conversation {
    service: Service,
    digest: Digest,
    /// What a source still has to send.
    left: u64,
    /// An incomplete request.
    rest: Vec<u8>,
}

impl Conversation {
    pub fn new(service: Service) -> Conversation {
        Conversation { service, digest: Digest::default(), left: 0, rest: Vec::new() }
    }

    /// These bytes were received; none is the end of the stream.
    pub fn received(&mut self, data: &mut [u8]) -> Step {
        match self.service {
            Service::Sink if data.is_empty() => Step::SendDigest(self.digest.to_bytes()),
            _ if data.is_empty() => Step::Close,
            Service::Echo => Step::Echo(data.len()),
            Service::Sink => {
                self.digest.update(data);
                Step::Receive
            }
            Service::Source => {
                self.rest.extend_from_slice(data);
                self.next_chunk()
            }
            Service::Http => self.answer(data),
            Service::Udp => Step::Close,
        }
    }

    /// What was to be sent has been.
    pub fn sent(&mut self) -> Step {
        match self.service {
            Service::Source => self.next_chunk(),
            Service::Sink => Step::Close,
            _ => Step::Receive,
        }
    }

    fn next_chunk(&mut self) -> Step {
        while self.left == 0 {
            let Some(request) = self.rest.first_chunk() else { return Step::Receive };
            self.left = u64::from_le_bytes(*request);
            self.rest.drain(..8);
        }
        let n = self.left.min(BUFFER as u64) as usize;
        self.left -= n as u64;
        Step::Send(&CHUNK[..n])
    }

    fn answer(&mut self, data: &mut [u8]) -> Step {
        let (answers, kept) = if self.rest.is_empty() {
            let (answers, kept) = http::answer(data);
            self.rest.extend_from_slice(&data[..kept]);
            (answers, kept)
        } else if self.rest.len() < BUFFER {
            self.rest.extend_from_slice(data);
            http::answer(&mut self.rest)
        } else {
            return Step::Close;
        };
        self.rest.truncate(kept);
        if answers.is_empty() { Step::Receive } else { Step::Send(answers) }
    }
}
