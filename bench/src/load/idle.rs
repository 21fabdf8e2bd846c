//! Connections that do nothing: the memory that each takes, and the CPU time of watching them all.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use super::epoll::PATIENCE;
use super::meter::{Mark, Sample};
use super::{Target, corrupt, echo};
use crate::sys::Connect;

/// So many are opened, or asked, before the server has time to follow: no server's backlog overflows.
const BATCH: usize = 64;
/// Connections from one source address, which has about 28 000 ports.
const PER_SOURCE: usize = 2500;
/// Files that a process needs besides its connections.
const SPARE: u64 = 256;

pub fn run(target: &Target, connections: usize, size: usize) -> io::Result<Vec<Sample>> {
    let server = target.server;
    let count = connections.min(target.extent.files.saturating_sub(SPARE) as usize);
    let note = (count < connections)
        .then(|| format!("{count} connections: the limit on open files has no room for more"));
    server.settle(PATIENCE)?;
    let empty = server.memory()?;

    let streams = connect(target, count)?;
    server.settle(PATIENCE)?;
    let fresh = server.memory()?;

    exchange(&streams, size)?;
    server.settle(PATIENCE)?;
    let used = server.memory()?;

    let start = Mark::now(server)?;
    thread::sleep(target.extent.idle);
    let end = Mark::now(server)?;
    // Not a message but a second is the unit of what idleness costs.
    let idle = start.until(&end, target.extent.idle.as_secs_f64());

    let each = |memory: u64| memory.saturating_sub(empty) as f64 / count as f64;
    Ok(vec![
        Sample { value: each(used), rss: Some(used), note: note.clone(), ..idle },
        Sample { value: each(fresh), rss: Some(fresh), note, ..Sample::default() },
    ])
}

fn connect(target: &Target, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for index in 0..count {
        let source = Ipv4Addr::new(127, 0, 0, 2 + (index / PER_SOURCE) as u8);
        let connect = Connect { source: Some(source), nonblocking: false, reset: true };
        let stream = connect.to(target.address, PATIENCE)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        streams.push(stream);
        if streams.len() % BATCH == 0 {
            target.server.settle(Duration::from_millis(100))?;
        }
    }
    Ok(streams)
}

/// One message each, there and back.
fn exchange(streams: &[TcpStream], size: usize) -> io::Result<()> {
    let mut message = Vec::with_capacity(size);
    let mut answer = vec![0; size];
    for (batch, streams) in streams.chunks(BATCH).enumerate() {
        for (index, mut stream) in streams.iter().enumerate() {
            message.clear();
            echo::write(batch * BATCH + index, 0, size, &mut message);
            stream.write_all(&message)?;
        }
        for (index, mut stream) in streams.iter().enumerate() {
            stream.read_exact(&mut answer)?;
            let index = batch * BATCH + index;
            if !echo::verify(index, 0, &answer) {
                return Err(corrupt(format_args!("connection {index}")));
            }
        }
    }
    Ok(())
}
