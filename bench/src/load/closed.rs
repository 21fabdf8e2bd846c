//! The closed loop: connections that each keep so many requests in flight, and ask again for each that is answered.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::epoll::{EDGE, Epoll, PATIENCE};
use super::meter::{Meter, Sample};
use super::{Target, corrupt, would_block};
use crate::sys::Connect;

/// A protocol of requests and answers of one size.
pub trait Exchange {
    /// Appends request `number` of a connection.
    fn request(&self, connection: usize, number: u64, out: &mut Vec<u8>);
    fn answer_len(&self) -> usize;
    /// Whether that is the answer to request `number`.
    fn verify(&self, connection: usize, number: u64, answer: &[u8]) -> bool;
}

/// One connection's state.
struct Connection {
    stream: TcpStream,
    index: usize,
    sent: u64,
    answered: u64,
    /// When the requests in flight were made.
    times: VecDeque<Instant>,
    out: Vec<u8>,
    /// How much of `out` the kernel has.
    written: usize,
    /// One byte larger than all answers in flight, so that a read that does not fill it has emptied the socket, and a
    /// byte too many shows.
    input: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn ask(&mut self, exchange: &impl Exchange, count: usize, now: Instant) {
        for _ in 0..count {
            exchange.request(self.index, self.sent, &mut self.out);
            self.sent += 1;
            self.times.push_back(now);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match would_block(self.stream.write(&self.out[self.written..]))? {
                Some(count) => self.written += count,
                None => return Ok(()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what is there, and tells how many answers that completes and when.
    fn receive(&mut self, exchange: &impl Exchange, meter: &mut Meter) -> io::Result<(usize, Instant)> {
        let (mut count, mut now) = (0, None);
        loop {
            let room = self.input.len() - self.filled;
            let Some(read) = would_block(self.stream.read(&mut self.input[self.filled..]))? else { break };
            if read == 0 {
                return Err(io::Error::other(format!("the server closed connection {}", self.index)));
            }
            let at = *now.insert(Instant::now());
            self.filled += read;
            count += self.take(exchange, meter, at)?;
            if read < room {
                break;
            }
        }
        Ok((count, now.unwrap_or_else(Instant::now)))
    }

    fn take(&mut self, exchange: &impl Exchange, meter: &mut Meter, now: Instant) -> io::Result<usize> {
        let (len, mut at, mut count) = (exchange.answer_len(), 0, 0);
        while let Some(answer) = self.input[..self.filled].get(at..at + len) {
            let time = self.times.pop_front();
            let Some(time) = time.filter(|_| exchange.verify(self.index, self.answered, answer)) else {
                return Err(corrupt(format_args!("connection {}, message {}", self.index, self.answered)));
            };
            meter.record(now - time);
            self.answered += 1;
            at += len;
            count += 1;
        }
        if self.filled > at && self.times.is_empty() {
            return Err(corrupt(format_args!("connection {}: more than was asked for", self.index)));
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(count)
    }
}

/// Runs warm-up and window, and waits for what is in flight then.
pub fn run(
    target: &Target,
    exchange: &impl Exchange,
    connections: usize,
    window: usize,
) -> io::Result<Sample> {
    let mut epoll = Epoll::new()?;
    let mut all = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = Connect::default().to(target.address, PATIENCE)?;
        epoll.add(&stream, EDGE, index)?;
        all.push(Connection {
            stream,
            index,
            sent: 0,
            answered: 0,
            times: VecDeque::with_capacity(window),
            out: Vec::new(),
            written: 0,
            input: vec![0; window * exchange.answer_len() + 1],
            filled: 0,
        });
    }
    let mut meter = Meter::new(target);
    for connection in &mut all {
        connection.ask(exchange, window, Instant::now());
        connection.flush()?;
    }
    let mut in_flight = connections * window;
    let mut over = false;
    while in_flight > 0 {
        let count = epoll.wait()?;
        over = over || meter.tick(Instant::now())?;
        for event in 0..count {
            let connection = &mut all[epoll.token(event)];
            let (answers, now) = connection.receive(exchange, &mut meter)?;
            if over {
                in_flight -= answers;
            } else {
                connection.ask(exchange, answers, now);
            }
            connection.flush()?;
        }
    }
    for connection in &all {
        connection.stream.shutdown(Shutdown::Write)?;
    }
    Ok(meter.sample())
}
