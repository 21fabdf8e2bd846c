//! Towpath's tasks over streams of receives: straight-line code, with buffers that all connections of a worker share.

use std::io;

use towpath::net::TcpStream;
use towpath_loop::{BufferPool, op};

use crate::conversation::{Conversation, Step};
use crate::protocol::{BUFFER, Service};

thread_local! {
    /// For chunks that are held until they are answered.
    static SMALL: BufferPool = BufferPool::with_capacity(4096, 4096).expect("16 MiB");
    /// For chunks that are looked at and given back.
    static LARGE: BufferPool = BufferPool::with_capacity(16, BUFFER).expect("1 MiB");
}

pub fn serve(stream: TcpStream, service: Service) -> io::Result<()> {
    let pool = match service {
        Service::Sink => LARGE.with(BufferPool::clone),
        _ => SMALL.with(BufferPool::clone),
    };
    let mut conversation = Conversation::new(service);
    for chunk in op::recv_multi(&stream, &pool) {
        if !answer(&stream, &mut conversation, &mut chunk?)? {
            return Ok(());
        }
    }
    answer(&stream, &mut conversation, &mut []).map(drop)
}

/// Says all that there is to say to `received`. False at the end.
fn answer(stream: &TcpStream, conversation: &mut Conversation, received: &mut [u8]) -> io::Result<bool> {
    use std::io::Write;
    let mut stream = stream;
    let mut step = conversation.received(received);
    loop {
        match step {
            Step::Receive => return Ok(true),
            Step::Echo(len) => stream.write_all(&received[..len])?,
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::SendDigest(bytes) => stream.write_all(&bytes)?,
            Step::Close => return Ok(false),
        }
        step = conversation.sent();
    }
}
