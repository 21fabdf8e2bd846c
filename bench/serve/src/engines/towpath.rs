//! Towpath's tasks: a task for each connection, over `towpath::net`.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use towpath::net::{TcpListener, TcpStream};
use towpath::{BackendKind, Runtime, thread};
use towpath_loop::{Socket, op};

use super::{threads, towpath_stream};
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

/// With `read` into a buffer of each connection's own.
pub fn run(options: &Options, backend: BackendKind) -> Serving {
    serve(options, backend, threads::serve)
}

/// With streams of receives.
pub fn run_streams(options: &Options, backend: BackendKind) -> Serving {
    serve(options, backend, towpath_stream::serve)
}

fn serve(
    options: &Options,
    backend: BackendKind,
    converse: fn(TcpStream, Service) -> io::Result<()>,
) -> Serving {
    let (service, workers) = (options.service, options.workers);
    let builder = Runtime::builder().workers(workers).backend(backend);
    // SAFETY: the tasks run nothing but this crate's conversations, `std`, `memchr` and Towpath, none of which keeps a
    // frame's address in a thread-local; the runtime is dropped at the end of this function, if ever.
    let runtime = unsafe { builder.build() }?;
    runtime.run(|| {
        if service == Service::Udp {
            let mut sockets = sockets::datagrams(workers)?;
            let first = sockets.remove(0);
            for socket in sockets {
                thread::spawn(|| datagrams(socket));
            }
            return datagrams(first);
        }
        let listener = TcpListener::from(sockets::listener()?);
        loop {
            let Ok((stream, _)) = listener.accept() else { continue };
            thread::spawn(move || converse(stream, service));
        }
    })
}

/// There is no `UdpSocket` in `towpath::net` yet.
fn datagrams(socket: UdpSocket) -> Serving {
    let socket = Socket::from(OwnedFd::from(socket));
    let mut buf = vec![0; BUFFER];
    loop {
        let datagram = op::recv_from(&socket, &mut buf[..]).wait()?;
        // Datagrams may be lost.
        let _ = op::send_to(&socket, &buf[..datagram.received], datagram.from).wait();
    }
}
