//! Connections that last for one exchange.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::echo;
use super::epoll::{EDGE, Epoll, PATIENCE};
use super::meter::{Meter, Sample};
use super::{Target, corrupt, would_block};
use crate::sys::Connect;

/// A place in the window: one connection after the other.
struct Slot {
    stream: TcpStream,
    number: u64,
    begun: Instant,
    message: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
}

impl Slot {
    /// The handshake goes on behind its back. The reset at the end, once the exchange is complete, leaves no port in
    /// TIME_WAIT, of which there would soon be none left.
    fn open(target: &Target, epoll: &Epoll, index: usize, number: u64, size: usize) -> io::Result<Slot> {
        let begun = Instant::now();
        let connect = Connect { nonblocking: true, reset: true, source: None };
        let stream = connect.to(target.address, PATIENCE)?;
        epoll.add(&stream, EDGE, index)?;
        let mut message = Vec::with_capacity(size);
        echo::write(index, number, size, &mut message);
        let mut slot =
            Slot { stream, number, begun, message, written: 0, input: vec![0; size + 1], filled: 0 };
        slot.write()?;
        Ok(slot)
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.message.len() {
            match self.stream.write(&self.message[self.written..]) {
                Ok(count) => self.written += count,
                // Not yet connected, in two of its shapes.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                result => match would_block(result)? {
                    Some(_) => {}
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    /// True once the whole message is back.
    fn read(&mut self, index: usize) -> io::Result<bool> {
        if self.written == 0 {
            return Ok(false);
        }
        while let Some(count) = would_block(self.stream.read(&mut self.input[self.filled..]))? {
            if count == 0 {
                return Err(io::Error::other("the server closed a connection before it had answered"));
            }
            self.filled += count;
            if self.filled >= self.message.len() {
                if echo::verify(index, self.number, &self.input[..self.filled]) {
                    return Ok(true);
                }
                return Err(corrupt(format_args!("connection {} of slot {index}", self.number)));
            }
        }
        Ok(false)
    }
}

pub fn run(target: &Target, connections: usize, size: usize) -> io::Result<Sample> {
    let mut epoll = Epoll::new()?;
    let mut meter = Meter::new(target);
    let mut slots = (0..connections)
        .map(|index| Slot::open(target, &epoll, index, 0, size).map(Some))
        .collect::<io::Result<Vec<_>>>()?;
    let mut open = connections;
    let mut over = false;
    while open > 0 {
        let count = epoll.wait()?;
        over = over || meter.tick(Instant::now())?;
        for event in 0..count {
            let index = epoll.token(event);
            let Some(slot) = &mut slots[index] else { continue };
            slot.write()?;
            if slot.read(index)? {
                meter.record(slot.begun.elapsed());
                let number = slot.number + 1;
                // Closed before the next one is opened.
                slots[index] = None;
                if over {
                    open -= 1;
                } else {
                    slots[index] = Some(Slot::open(target, &epoll, index, number, size)?);
                }
            }
        }
    }
    Ok(meter.sample())
}
