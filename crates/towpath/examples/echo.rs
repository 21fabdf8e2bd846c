//! An echo server as a plain blocking loop: `cargo run --release --example echo -- 127.0.0.1:7000`. Ctrl-C ends it.

use std::io::{self, Read, Write};
use towpath::net::{TcpListener, TcpStream};
use towpath::thread;

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into());
    let (mut interrupted, interrupt) = io::pipe()?;
    // SAFETY: all that the handler does is one write to a pipe, which a signal handler may do.
    unsafe { signal_hook_registry::register(libc::SIGINT, move || _ = (&interrupt).write(&[0])) }?;
    // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
    unsafe { towpath::Runtime::new() }?.run(|| {
        let listener = TcpListener::bind(addr)?;
        println!("listening on {}", listener.local_addr()?);
        thread::spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => drop(thread::spawn(|| echo(stream))),
                    Err(error) if towpath::is_canceled(&error) => return,
                    Err(error) => eprintln!("accept: {error}"),
                }
            }
        });
        thread::blocking(move || interrupted.read_exact(&mut [0]))?
    }) // The runtime goes here, and cancels what still runs.
}
