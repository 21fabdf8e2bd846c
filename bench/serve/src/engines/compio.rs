//! compio: a runtime with an io_uring on each thread, and on each a listener of its own.

use std::io;
use std::net;

use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream, UdpSocket};
use compio::runtime::{Runtime, RuntimeBuilder};

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

fn runtime() -> io::Result<Runtime> {
    let mut proactor = ProactorBuilder::new();
    proactor.single_issuer(true).coop_taskrun(true).taskrun_flag(true).defer_taskrun(true);
    RuntimeBuilder::new().with_proactor(proactor).build()
}

async fn streams(listener: net::TcpListener, service: Service) -> Serving {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        compio::runtime::spawn(serve(stream, service)).detach();
    }
}

async fn serve(stream: TcpStream, service: Service) -> io::Result<()> {
    converse_owned!(stream, service, BufResult)
}

async fn datagrams(socket: net::UdpSocket) -> Serving {
    datagrams_owned!(UdpSocket::from_std(socket)?, BufResult)
}
