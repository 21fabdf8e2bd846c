//! A connection for runtimes whose reads and writes take the buffer and give it back.

/// A whole conversation, in a function that returns an `io::Result<()>`. The third argument is the constructor of what
/// a read gives, if that is no plain tuple. A read fills the vector from its start and sets its length.
macro_rules! converse_owned {
    ($stream:expr, $service:expr $(, $result:ident)?) => {{
        use $crate::conversation::{Conversation, Step};
        let mut stream = $stream;
        let mut conversation = Conversation::new($service);
        let mut buf = vec![0; $crate::protocol::BUFFER];
        let mut step = Step::Receive;
        loop {
            step = match step {
                Step::Receive => {
                    buf.clear();
                    let $($result)?(result, back) = stream.read(buf).await;
                    result?;
                    buf = back;
                    conversation.received(&mut buf)
                }
                Step::Echo(_) => {
                    let $($result)?(result, back) = stream.write_all(buf).await;
                    result?;
                    buf = back;
                    conversation.sent()
                }
                Step::Send(bytes) => {
                    let $($result)?(result, _) = stream.write_all(bytes).await;
                    result?;
                    conversation.sent()
                }
                Step::SendDigest(bytes) => {
                    let $($result)?(result, _) = stream.write_all(bytes.to_vec()).await;
                    result?;
                    conversation.sent()
                }
                Step::Close => return Ok(()),
            };
        }
    }};
}

/// The same for datagrams.
macro_rules! datagrams_owned {
    ($socket:expr $(, $result:ident)?) => {{
        let socket = $socket;
        let mut buf = vec![0; $crate::protocol::BUFFER];
        loop {
            buf.clear();
            let $($result)?(result, back) = socket.recv_from(buf).await;
            let (_, from) = result?;
            // Datagrams may be lost.
            let $($result)?(_, back) = socket.send_to(back, from).await;
            buf = back;
        }
    }};
}

/// Serves one socket on each thread, all with the same function; the first to fail ends it.
pub fn on_threads<S: Send>(sockets: Vec<S>, serve: impl Fn(S) -> crate::Serving + Sync) -> crate::Serving {
    let (failed, failure) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for socket in sockets {
            let (serve, failed) = (&serve, failed.clone());
            scope.spawn(move || failed.send(serve(socket)));
        }
        failure.recv().map_err(std::io::Error::other)?
    })
}

pub(super) use {converse_owned, datagrams_owned};
