//! tokio: a current-thread runtime for one worker, else a multi-thread one.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Builder;

use crate::conversation::converse;
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

pub fn run(options: &Options) -> Serving {
    let mut builder = match options.workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(options.workers).enable_io().build()?;
    let (service, workers) = (options.service, options.workers);
    runtime.block_on(async move {
        // On a worker, which the thread that blocks here is not where there are several.
        let server = match service {
            Service::Udp => tokio::spawn(datagrams(workers)),
            _ => tokio::spawn(streams(service)),
        };
        server.await.map_err(io::Error::other)?
    })
}

async fn streams(service: Service) -> Serving {
    let listener = sockets::listener()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(stream, service));
    }
}

async fn serve(stream: TcpStream, service: Service) -> io::Result<()> {
    converse!(stream, service, .await)
}

async fn datagrams(workers: usize) -> Serving {
    let mut tasks = Vec::new();
    for socket in sockets::datagrams(workers)? {
        socket.set_nonblocking(true)?;
        tasks.push(tokio::spawn(datagram(UdpSocket::from_std(socket)?)));
    }
    tasks.remove(0).await.map_err(io::Error::other)?
}

async fn datagram(socket: UdpSocket) -> Serving {
    let mut buf = vec![0; BUFFER];
    loop {
        let (n, from) = socket.recv_from(&mut buf).await?;
        // Datagrams may be lost.
        let _ = socket.send_to(&buf[..n], from).await;
    }
}
