//! `std`: a thread for each connection.

use std::io::{self, Read, Write};
use std::thread;

use crate::conversation::converse;
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

pub fn run(options: &Options) -> Serving {
    let service = options.service;
    if service == Service::Udp {
        let socket = sockets::datagram()?;
        let mut buf = vec![0; BUFFER];
        loop {
            let (n, from) = socket.recv_from(&mut buf)?;
            // Datagrams may be lost.
            let _ = socket.send_to(&buf[..n], from);
        }
    }
    let listener = sockets::listener()?;
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        // Where the system has no more threads, the connection is dropped.
        let _ = thread::Builder::new().spawn(move || serve(stream, service));
    }
}

/// One connection, for every engine that can wait in the middle.
pub fn serve(stream: impl Read + Write, service: Service) -> io::Result<()> {
    converse!(stream, service)
}
