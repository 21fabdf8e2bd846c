//! D2 and D5 over a network of the tests' own: a TUN device, behind which there is nobody, or a mirror that loses packets.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as StdInstant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use towpath_harness::Rng;
use towpath_loop::{Socket, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Gives this thread a network name space of its own, with nothing in it but a TUN device: what is sent to 10.9.0.0/24 can be
/// read from the file, and what is written there is received. Skips the test where that is not possible.
fn tun() -> File {
    let give_up = |what: &str| -> ! {
        towpath_harness::skip(&format!("{what} cannot be had: {}", std::io::Error::last_os_error()))
    };
    // SAFETY: no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        give_up("a network of its own");
    }
    let Ok(device) = File::options().read(true).write(true).open("/dev/net/tun") else {
        give_up("/dev/net/tun")
    };
    // `struct ifreq`: a name of 16 bytes, and what it is about.
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(b"far0");
    let mut set = |fd: i32, code: libc::Ioctl, value: &[u8]| {
        request[16..].fill(0);
        request[16..16 + value.len()].copy_from_slice(value);
        // SAFETY: `request` is as large as the kernel's structure.
        if unsafe { libc::ioctl(fd, code, request.as_mut_ptr()) } != 0 {
            give_up("a TUN device");
        }
    };
    let address = |of: Ipv4Addr| {
        let [a, b, c, d] = of.octets();
        let [family, zero] = (libc::AF_INET as u16).to_ne_bytes();
        [family, zero, 0, 0, a, b, c, d]
    };
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    /// `TUNSETIFF`.
    const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;
    set(device.as_raw_fd(), SET_INTERFACE, &(libc::IFF_TUN as u16 | libc::IFF_NO_PI as u16).to_ne_bytes());
    set(socket.as_raw_fd(), libc::SIOCSIFADDR as libc::Ioctl, &address(HERE));
    set(socket.as_raw_fd(), libc::SIOCSIFNETMASK as libc::Ioctl, &address(Ipv4Addr::new(255, 255, 255, 0)));
    set(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &(libc::IFF_UP as u16).to_ne_bytes());
    set_nonblocking(&device, true);
    device
}

fn new_socket() -> Socket {
    op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait().unwrap()
}

/// D2: packets go out, and nothing comes back.
pub fn d02_nobody_answers() {
    let mut device = tun();
    let loop_ = current_loop();
    let addr = SocketAddr::from((THERE, 80));
    let yardstick = Yardstick::start();
    let (begun, limit) = (StdInstant::now(), 100 * MS);
    assert_timed_out(op::connect(new_socket(), addr.into()).timeout(limit).wait());
    let took = begun.elapsed();
    let late = yardstick.allow(50 * MS, Duration::ZERO);
    assert!(took >= limit && took < limit + late, "{took:?}");
    // It was asked for: a packet to that address, of TCP. The system sends others of its own accord.
    let mut packet = [0; 2048];
    let asked = std::iter::from_fn(|| device.read(&mut packet).ok().map(|n| packet[..n].to_vec()));
    assert!(asked.into_iter().any(|ip| ip[0] >> 4 == 4 && ip[9] == 6 && ip[16..20] == THERE.octets()));
    // Cancelled; closed; and where there is no way at all.
    let ticket = loop_.start(op::connect(new_socket(), addr.into()));
    poke(&loop_);
    assert!(loop_.cancel(ticket.id()));
    assert!(canceled(ticket.take().unwrap()));
    let socket = new_socket();
    let ticket = loop_.start(op::connect(&socket, addr.into()));
    poke(&loop_);
    let closing = loop_.start(op::close(socket));
    assert!(canceled(ticket.take().unwrap()));
    closing.take().unwrap().unwrap();
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 80));
    assert_eq!(errno(op::connect(new_socket(), nowhere.into()).wait()), libc::ENETUNREACH);
    drop(towpath_loop::Loop::take_current());
}

/// Sends every packet back with its addresses exchanged, so that who talks to 10.9.0.2 talks to himself; loses some.
struct Mirror {
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    fn new(mut device: File, percent: u64) -> Mirror {
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count) = (stop.clone(), lost.clone());
        let thread = std::thread::spawn(move || {
            let (mut rng, mut packet) = (Rng::new(2), [0; 2048]);
            let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            while !over.load(Ordering::Acquire) {
                poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&pause)).unwrap();
                while let Ok(n) = device.read(&mut packet) {
                    let ip = &mut packet[..n];
                    if ip[0] >> 4 != 4 {
                        continue;
                    }
                    // Not those with SYN, whose loss costs a second.
                    if ip[20 + 13] & 2 == 0 && rng.below(100) < percent {
                        count.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let (from, to) = ip[12..20].split_at_mut(4);
                    from.swap_with_slice(to);
                    // Sums do not mind the order. A queue that is full loses it, as any.
                    let _ = device.write(ip);
                }
            }
        });
        Mirror { stop, lost, thread: Some(thread) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(self.thread.take().expect("only here").join());
    }
}

/// D5, C9: both directions at once over a network that loses packets, with receives that time out while it recovers: every
/// byte arrives once and in order.
pub fn d05_packets_are_lost() {
    const BYTES: usize = 200_000;
    let device = tun();
    let mirror = Mirror::new(device, 4);
    let loop_ = current_loop();
    let plain = TcpListener::bind((HERE, 0)).unwrap();
    let there = SocketAddr::from((THERE, plain.local_addr().unwrap().port()));
    let listener = socket(plain);
    let accepting = loop_.start(op::accept(&listener));
    let client = new_socket();
    op::connect(&client, there.into()).wait().unwrap();
    let (server, from) = accepting.take().unwrap().unwrap();
    assert_eq!(from.to_std().unwrap().ip(), THERE);
    let data = |seed: u64| -> Vec<u8> {
        let mut rng = Rng::new(seed);
        (0..BYTES).map(|_| rng.bits() as u8).collect()
    };
    let sending =
        [(&client, 1), (&server, 2)].map(|(from, seed)| loop_.start(op::send(from, data(seed)).all(true)));
    for (to, seed) in [(&server, 1), (&client, 2)] {
        let (mut got, mut buf, mut timeouts) = (Vec::new(), vec![0; 8192], 0);
        while got.len() < BYTES {
            match op::recv(to, &mut buf[..]).timeout(5 * MS).wait() {
                Ok(n) => got.extend_from_slice(&buf[..n]),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
                    timeouts += 1;
                }
            }
        }
        assert!(got == data(seed), "not what was sent, after {timeouts} time-outs");
    }
    for sent in sending {
        assert_eq!(sent.take().unwrap().unwrap().0, BYTES);
    }
    assert!(mirror.lost.load(Ordering::Relaxed) > 0, "nothing was lost");
    drop((client, server, listener, towpath_loop::Loop::take_current()));
}
