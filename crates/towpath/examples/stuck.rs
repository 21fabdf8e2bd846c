//! A program that gets stuck in several ways, and tells: for trying out what `docs/DEBUGGING.md` describes.
//!
//! ```sh
//! cargo run --release --example stuck            # prints a dump of its tasks, and ends
//! cargo run --release --example stuck -- --wait  # waits for SIGQUIT (Ctrl-\) to print one, and for Ctrl-C to end
//! ```

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use towpath::net::{TcpListener, TcpStream};
use towpath::sync::Mutex;
use towpath::thread;

/// One account's balance.
type Account = Arc<Mutex<u64>>;

/// Locks both accounts, in the order in which they are given: that is the bug.
fn transfer(from: &Account, to: &Account, amount: u64) {
    let mut from = from.lock().unwrap();
    // Whoever transfers the other way round gets its first lock meanwhile.
    thread::sleep(Duration::from_millis(10));
    let mut to = to.lock().unwrap();
    *from -= amount;
    *to += amount;
}

/// Waits for a request that never comes.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 1024];
    stream.read_exact(&mut request)
}

fn named(name: &str, f: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name.into()).spawn(f).expect("a task")
}

fn main() -> io::Result<()> {
    let wait = std::env::args().any(|arg| arg == "--wait");
    // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
    let runtime = unsafe { towpath::Runtime::builder().workers(2).build() }?;
    runtime.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let _clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(listener.local_addr()?)).collect::<io::Result<_>>()?;
        for _ in 0..3 {
            let (stream, _) = listener.accept()?;
            thread::spawn(move || serve(stream));
        }
        let accounts: [Account; 2] = [Arc::default(), Arc::default()];
        for (name, [from, to]) in [("rent", [0, 1]), ("salary", [1, 0])] {
            let (from, to) = (accounts[from].clone(), accounts[to].clone());
            let teller = named(name, move || transfer(&from, &to, 100));
            named("audit", move || teller.join().unwrap());
        }
        thread::sleep(Duration::from_millis(100));
        if wait {
            eprintln!("process {}: SIGQUIT prints a dump", std::process::id());
            thread::park();
        }
        print!("{}", towpath::dump());
        // The deadlock would keep the runtime from ending.
        std::process::exit(0)
    })
}
