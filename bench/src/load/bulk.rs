//! Streams in one direction: a fixed amount, and a digest at the end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use towpath_bench_serve::protocol::{BUFFER, Digest, pattern};

use super::epoll::{Epoll, PATIENCE, READABLE, WRITABLE};
use super::meter::{Mark, Sample};
use super::{Target, corrupt, would_block};
use crate::sys::Connect;

/// How often a stream is written or read before the others have their turn.
const TURN: usize = 16;

/// A 1/8 of the amount goes ahead, to warm up.
const WARM_UP: u64 = 8;

struct Stream {
    stream: TcpStream,
    digest: Digest,
    /// A sink's answer.
    answer: Vec<u8>,
}

fn connect(target: &Target, epoll: &Epoll, connections: usize, events: u32) -> io::Result<Vec<Stream>> {
    (0..connections)
        .map(|index| {
            let stream = Connect::default().to(target.address, PATIENCE)?;
            epoll.add(&stream, events, index)?;
            Ok(Stream { stream, digest: Digest::default(), answer: Vec::new() })
        })
        .collect()
}

/// What a chunk has in it.
fn chunk() -> Vec<u8> {
    (0..BUFFER as u64).map(pattern).collect()
}

/// One connection's share of `bytes`, in whole chunks, so that the pattern begins anew where it ends.
fn share(bytes: u64, connections: usize) -> u64 {
    (bytes / connections as u64).next_multiple_of(BUFFER as u64)
}

/// What the digest of so many bytes should be.
fn expected(bytes: u64, chunk: &[u8]) -> Digest {
    let mut digest = Digest::default();
    while digest.bytes < bytes {
        digest.update(chunk);
    }
    digest
}

/// Gigabytes a second; the rest is for each MiB.
fn sample(start: &Mark, end: &Mark, bytes: u64, rss: u64) -> Sample {
    let per_mib = start.until(end, bytes as f64 / f64::from(1 << 20));
    Sample { value: per_mib.value * f64::from(1 << 20) / 1e9, rss: Some(rss), ..per_mib }
}

/// To the server, which answers with the digest of what it has read.
pub fn send(target: &Target, connections: usize) -> io::Result<Sample> {
    let chunk = chunk();
    let mut epoll = Epoll::new()?;
    let mut streams = connect(target, &epoll, connections, WRITABLE)?;
    let warm = share(target.extent.bulk / WARM_UP, connections);
    let all = warm + share(target.extent.bulk, connections);
    let (mut total, mut start) = (0, None);
    let mut open = connections;
    while open > 0 {
        for event in 0..epoll.wait()? {
            let token = epoll.token(event);
            let Stream { stream, digest, .. } = &mut streams[token];
            for _ in 0..TURN {
                if digest.bytes == all {
                    // Level-triggered: it would be reported for ever.
                    epoll.remove(stream)?;
                    open -= 1;
                    break;
                }
                let at = (digest.bytes % BUFFER as u64) as usize;
                let Some(count) = would_block(stream.write(&chunk[at..]))? else { break };
                digest.update(&chunk[at..at + count]);
                total += count as u64;
            }
        }
        if start.is_none() && total >= warm * connections as u64 {
            start = Some((Mark::now(target.server)?, total));
        }
    }
    let Some((start, before)) = start else { return Err(io::Error::other("nothing to send")) };
    // While the connections and what they hold are there.
    let rss = target.server.memory()?;
    for (token, Stream { stream, .. }) in streams.iter().enumerate() {
        stream.shutdown(Shutdown::Write)?;
        epoll.add(stream, READABLE, token)?;
    }
    open = connections;
    while open > 0 {
        for event in 0..epoll.wait()? {
            let token = epoll.token(event);
            let Stream { stream, digest, answer } = &mut streams[token];
            let mut buffer = [0; 64];
            match would_block(stream.read(&mut buffer))? {
                None => {}
                Some(0) if *answer == digest.to_bytes() => {
                    epoll.remove(stream)?;
                    open -= 1;
                }
                Some(0) => {
                    return Err(corrupt(format_args!("stream {token}: the sink's answer is {answer:?}")));
                }
                Some(count) => answer.extend_from_slice(&buffer[..count]),
            }
        }
    }
    Ok(sample(&start, &Mark::now(target.server)?, total - before, rss))
}

/// From the server, which is asked twice: to warm up, and to measure.
pub fn receive(target: &Target, connections: usize) -> io::Result<Sample> {
    let mut epoll = Epoll::new()?;
    let mut streams = connect(target, &epoll, connections, READABLE)?;
    let warm = share(target.extent.bulk / WARM_UP, connections);
    let measured = share(target.extent.bulk, connections);
    fetch(&mut epoll, &mut streams, warm)?;
    let start = Mark::now(target.server)?;
    fetch(&mut epoll, &mut streams, measured)?;
    let end = Mark::now(target.server)?;
    let rss = target.server.memory()?;
    let wanted = expected(warm + measured, &chunk()).to_bytes();
    for (index, Stream { stream, digest, .. }) in streams.iter_mut().enumerate() {
        if digest.to_bytes() != wanted {
            return Err(corrupt(format_args!("stream {index}: the digest is {:?}", digest.to_bytes())));
        }
        stream.shutdown(Shutdown::Write)?;
    }
    Ok(sample(&start, &end, measured * connections as u64, rss))
}

/// Asks each connection for so many bytes, and reads them.
fn fetch(epoll: &mut Epoll, streams: &mut [Stream], bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    for Stream { stream, .. } in &mut *streams {
        // Eight bytes always fit into a socket that has sent all before.
        stream.write_all(&bytes.to_le_bytes())?;
    }
    let mut rest = vec![bytes; streams.len()];
    let mut open = streams.len();
    while open > 0 {
        for event in 0..epoll.wait()? {
            let token = epoll.token(event);
            let Stream { stream, digest, .. } = &mut streams[token];
            for _ in 0..TURN {
                let Some(count) = would_block(stream.read(&mut buffer))? else { break };
                if count == 0 {
                    return Err(io::Error::other(format!("the server closed connection {token}")));
                }
                digest.update(&buffer[..count]);
                let Some(left) = rest[token].checked_sub(count as u64) else {
                    return Err(corrupt(format_args!("stream {token}: more than was asked for")));
                };
                rest[token] = left;
                if left == 0 {
                    open -= 1;
                    break;
                }
            }
        }
    }
    Ok(())
}
