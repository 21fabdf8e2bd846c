//! A conversation in linked operations: zig-aio's example, on two tasks of one worker. `cargo run --example linked`
//!
//! What is linked goes to the kernel as one: three sends and the wait for the answer to them, the question and the wait for its
//! answer, the last words and a close. Each begins when the one before it has succeeded. The first argument is the port (1327;
//! 0 for any). With `-q` it prints nothing, for counting system calls: `strace -f -c target/release/examples/linked -q`.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use socket2::SockRef;
use towpath::Runtime;
use towpath::thread::{self, Thread};
use towpath_loop::op;

const GREETING: [&[u8]; 3] = [b"hey ", b"I'm doing multiple IO ops at once ", b"how cool is that?"];

/// Where the server is, once it listens.
type Startup = Rc<Cell<Option<SocketAddr>>>;

fn server(mut addr: SocketAddr, startup: Startup, client: &Thread, say: fn(&str, &[u8])) -> io::Result<()> {
    let listener = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait()?;
    let options = SockRef::from(&listener);
    options.set_reuse_address(true)?;
    options.bind(&addr.into())?;
    options.listen(128)?;
    if addr.port() == 0 {
        addr = options.local_addr()?.as_socket().expect("an internet address");
    }
    startup.set(Some(addr));
    client.unpark();

    let (client, _) = op::accept(&listener).wait()?;
    let mut buf = [0; 1024];
    let (hey, multiple, cool, reply) = op::multi((
        op::send(&client, GREETING[0]).soft(),
        op::send(&client, GREETING[1]).soft(),
        op::send(&client, GREETING[2]).soft(),
        op::recv(&client, &mut buf),
    ));
    hey.and(multiple).and(cool)?;
    say("got reply from client", &buf[..reply?]);
    let (bye, closed, end) = op::multi((
        op::send(client.clone(), b"ok bye").soft(),
        op::close(listener).soft(),
        op::close(client),
    ));
    bye.map(drop).and(closed).and(end)
}

fn client(startup: Startup, say: fn(&str, &[u8])) -> io::Result<()> {
    let socket = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait()?;
    let addr = loop {
        match startup.get() {
            Some(addr) => break addr,
            None => thread::park(),
        }
    };
    op::connect(&socket, addr.into()).wait()?;
    let expected = GREETING.concat();
    let (mut buf, mut len) = ([0; 1024], 0);
    while len < expected.len() {
        // The kernel may wait for all of it; where it is us who wait, it comes in pieces.
        len += op::recv(&socket, &mut buf[len..expected.len()]).flags(libc::MSG_WAITALL).wait()?;
    }
    say("got reply from server", &buf[..len]);
    let (sent, last) =
        op::multi((op::send(&socket, b"dude, I don't care").soft(), op::recv(&socket, &mut buf)));
    sent?;
    say("got final words from server", &buf[..last?]);
    Ok(())
}

/// The whole conversation; `say` gets what each side has to say of it.
pub fn converse(runtime: &Runtime, port: u16, say: fn(&str, &[u8])) -> io::Result<()> {
    runtime.run(|| {
        let startup = Startup::default();
        let other = startup.clone();
        let task = thread::spawn_local(move || client(other, say));
        server((Ipv4Addr::LOCALHOST, port).into(), startup, task.thread(), say)?;
        task.join().expect("the client does not panic")
    })
}

#[allow(dead_code, reason = "a test has the conversation without it")]
fn main() -> io::Result<()> {
    let (mut port, mut say): (u16, fn(&str, &[u8])) =
        (1327, |what, bytes| println!("{what}: {}", String::from_utf8_lossy(bytes)));
    for arg in std::env::args().skip(1) {
        match arg.parse() {
            Ok(number) => port = number,
            Err(_) if arg == "-q" => say = |_, _| (),
            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: linked [port] [-q]")),
        }
    }
    // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
    converse(&unsafe { Runtime::builder().workers(1).build() }?, port, say)
}
