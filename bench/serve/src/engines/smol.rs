//! smol: one executor, run by as many threads as there are workers.

use std::future::pending;
use std::io;
use std::thread;

use smol::Executor;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream, UdpSocket};

use crate::conversation::converse;
use crate::protocol::{BUFFER, Service};
use crate::{Options, Serving, sockets};

static EXECUTOR: Executor = Executor::new();

pub fn run(options: &Options) -> Serving {
    for _ in 1..options.workers {
        thread::spawn(|| smol::block_on(EXECUTOR.run(pending::<()>())));
    }
    let server = match options.service {
        Service::Udp => EXECUTOR.spawn(datagrams(options.workers)),
        service => EXECUTOR.spawn(streams(service)),
    };
    smol::block_on(EXECUTOR.run(server))
}

async fn streams(service: Service) -> Serving {
    let listener = TcpListener::try_from(sockets::listener()?)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        EXECUTOR.spawn(serve(stream, service)).detach();
    }
}

async fn serve(stream: TcpStream, service: Service) -> io::Result<()> {
    converse!(stream, service, .await)
}

async fn datagrams(workers: usize) -> Serving {
    let mut tasks = Vec::new();
    for socket in sockets::datagrams(workers)? {
        tasks.push(EXECUTOR.spawn(datagram(UdpSocket::try_from(socket)?)));
    }
    tasks.remove(0).await
}

async fn datagram(socket: UdpSocket) -> Serving {
    let mut buf = vec![0; BUFFER];
    loop {
        let (n, from) = socket.recv_from(&mut buf).await?;
        // Datagrams may be lost.
        let _ = socket.send_to(&buf[..n], from).await;
    }
}
