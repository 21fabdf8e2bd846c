//! may: stackful coroutines over epoll; a coroutine for each connection.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use may::go;
use may::net::{TcpListener, UdpSocket};

use super::threads::serve;
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

pub fn run(options: &Options) -> Serving {
    // Nobody else here pins workers to cores.
    may::config().set_workers(options.workers).set_worker_pin(false);
    let (service, workers) = (options.service, options.workers);
    let server = go!(move || match service {
        Service::Udp => datagrams(workers),
        _ => streams(service),
    });
    server.join().map_err(|_| io::Error::other("the server panicked"))?
}

fn streams(service: Service) -> Serving {
    let listener = sockets::listener()?.into_raw_fd();
    // SAFETY: the descriptor is open and nobody else's.
    let listener = unsafe { TcpListener::from_raw_fd(listener) };
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        go!(move || serve(stream, service));
    }
}

fn datagrams(workers: usize) -> Serving {
    let mut tasks = Vec::new();
    for socket in sockets::datagrams(workers)? {
        // SAFETY: the descriptor is open and nobody else's.
        let socket = unsafe { UdpSocket::from_raw_fd(socket.into_raw_fd()) };
        tasks.push(go!(move || datagram(&socket)));
    }
    tasks.remove(0).join().map_err(|_| io::Error::other("the server panicked"))?
}

fn datagram(socket: &UdpSocket) -> Serving {
    let mut buf = vec![0; BUFFER];
    loop {
        let (n, from) = socket.recv_from(&mut buf)?;
        // Datagrams may be lost.
        let _ = socket.send_to(&buf[..n], from);
    }
}
