//! Datagrams there and back. The kernel may drop them, which is counted and no fault.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::epoll::{Epoll, PATIENCE, READABLE};
use super::meter::{Meter, Sample};
use super::{Target, corrupt, echo, would_block};

/// A datagram that is not back by then is lost.
const LOST: Duration = Duration::from_millis(100);
/// How often it is looked for lost ones when nothing comes.
const STEP: Duration = Duration::from_millis(20);

/// The datagrams of one socket. Number `n` is in slot `n % window`.
struct Sender {
    socket: UdpSocket,
    index: usize,
    slots: Vec<Slot>,
    lost: u64,
    buffer: Vec<u8>,
}

struct Slot {
    number: u64,
    sent: Instant,
    in_flight: bool,
}

impl Sender {
    fn send(&mut self, slot: usize, size: usize) -> io::Result<()> {
        let window = self.slots.len() as u64;
        let Slot { number, sent, in_flight } = &mut self.slots[slot];
        *number += window;
        (*sent, *in_flight) = (Instant::now(), true);
        self.buffer.clear();
        self.buffer.extend_from_slice(&number.to_le_bytes());
        echo::write(self.index, *number, size - 8, &mut self.buffer);
        // A socket without room makes the datagram one of the lost.
        would_block(self.socket.send(&self.buffer))?;
        Ok(())
    }

    /// Receives a window's worth, and sends as many again unless it is `over`.
    fn receive(&mut self, size: usize, meter: &mut Meter, over: bool) -> io::Result<usize> {
        let mut buffer = [0; 2048];
        let mut count = 0;
        // Not until nothing is there: a server that is fast enough would never let it come to that.
        for _ in 0..self.slots.len() {
            let Some(len) = would_block(self.socket.recv(&mut buffer))? else { break };
            let Some((number, body)) = buffer[..len].split_first_chunk().filter(|_| len == size) else {
                return Err(corrupt(format_args!("a datagram of {len} bytes")));
            };
            let number = u64::from_le_bytes(*number);
            if !echo::verify(self.index, number, body) {
                return Err(corrupt(format_args!("datagram {number} of socket {}", self.index)));
            }
            let at = (number % self.slots.len() as u64) as usize;
            let slot = &mut self.slots[at];
            // Else it comes too late, and has been counted as lost.
            if slot.number == number && slot.in_flight {
                slot.in_flight = false;
                meter.record(slot.sent.elapsed());
                count += 1;
                if !over {
                    self.send(at, size)?;
                }
            }
        }
        Ok(count)
    }

    fn expire(&mut self, size: usize, over: bool) -> io::Result<()> {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.in_flight && slot.sent.elapsed() > LOST {
                slot.in_flight = false;
                self.lost += 1;
                if !over {
                    self.send(at, size)?;
                }
            }
        }
        Ok(())
    }
}

pub fn run(target: &Target, sockets: usize, size: usize, window: usize) -> io::Result<Sample> {
    let mut epoll = Epoll::new()?;
    let mut meter = Meter::new(target);
    let mut senders = Vec::new();
    for index in 0..sockets {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(target.address)?;
        socket.set_nonblocking(true)?;
        epoll.add(&socket, READABLE, index)?;
        let slot = |slot| Slot { number: slot as u64, sent: Instant::now(), in_flight: false };
        let slots = (0..window).map(slot).collect();
        senders.push(Sender { socket, index, slots, lost: 0, buffer: Vec::new() });
    }
    for sender in &mut senders {
        for slot in 0..window {
            sender.send(slot, size)?;
        }
    }
    let (mut over, mut alive, mut looked) = (false, Instant::now(), Instant::now());
    while senders.iter().any(|sender| sender.slots.iter().any(|slot| slot.in_flight)) {
        let count = epoll.wait_for(STEP)?;
        let now = Instant::now();
        over = over || meter.tick(now)?;
        for event in 0..count {
            if senders[epoll.token(event)].receive(size, &mut meter, over)? > 0 {
                alive = now;
            }
        }
        if now - looked > STEP {
            looked = now;
            for sender in &mut senders {
                sender.expire(size, over)?;
            }
        }
        if now - alive > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no progress for {PATIENCE:?}")));
        }
    }
    let lost: u64 = senders.iter().map(|sender| sender.lost).sum();
    let note = (lost > 0).then(|| format!("{lost} datagrams lost"));
    Ok(Sample { note, ..meter.sample() })
}
