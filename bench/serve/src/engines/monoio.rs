//! monoio: a runtime with an io_uring on each thread, and on each a listener of its own.

use std::io;
use std::net;

use io_uring_06::IoUring;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::udp::UdpSocket;
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};

use super::owned::{converse_owned, datagrams_owned, on_threads};
use crate::protocol::Service;
use crate::{Options, Serving, sockets};

pub fn run(options: &Options) -> Serving {
    let service = options.service;
    match service {
        Service::Udp => {
            on_threads(sockets::datagrams(options.workers)?, |socket| runtime()?.block_on(datagrams(socket)))
        }
        _ => on_threads(sockets::listeners(options.workers)?, |listener| {
            runtime()?.block_on(streams(listener, service))
        }),
    }
}

fn runtime() -> io::Result<Runtime<IoUringDriver>> {
    let mut ring = IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).build()
}

async fn streams(listener: net::TcpListener, service: Service) -> Serving {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        monoio::spawn(serve(stream, service));
    }
}

async fn serve(stream: TcpStream, service: Service) -> io::Result<()> {
    converse_owned!(stream, service)
}

async fn datagrams(socket: net::UdpSocket) -> Serving {
    datagrams_owned!(UdpSocket::from_std(socket)?)
}
