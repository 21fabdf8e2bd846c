//! A poller of one's own under the loop: `cargo run --example custom_poller -- 127.0.0.1:7000`.
//!
//! `custom/one_shot.rs` has the poller, about a hundred lines; `Readiness` makes a backend of it. The server is that of
//! `tcp_echo.rs`, unchanged. The conformance suite runs on this poller as well:
//! `TOWPATH_BACKEND=custom_poller cargo test -p towpath-loop --test conformance`.

use std::io;

use towpath_loop::Loop;
use towpath_loop::backend::readiness::Readiness;

#[path = "custom/one_shot.rs"]
mod one_shot;
#[path = "tcp_echo.rs"]
mod tcp_echo;

fn main() -> io::Result<()> {
    let backend = Readiness::new(one_shot::OneShot::new()?);
    tcp_echo::serve(&Loop::with_backend(Box::new(backend))?)
}
