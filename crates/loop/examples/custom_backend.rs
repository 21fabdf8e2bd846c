//! A backend of one's own under the loop: `cargo run --example custom_backend -- 127.0.0.1:7000`.
//!
//! `custom/checked.rs` has the backend: it wraps another one, here that of `custom_poller.rs`, checks that it keeps the
//! contract, and counts, which is printed at the end. The conformance suite runs on it as well:
//! `TOWPATH_BACKEND=custom_backend cargo test -p towpath-loop --test conformance`.

use std::io;
use std::sync::PoisonError;

use towpath_loop::Loop;
use towpath_loop::backend::readiness::Readiness;

#[path = "custom/checked.rs"]
mod checked;
#[path = "custom/one_shot.rs"]
mod one_shot;
#[path = "tcp_echo.rs"]
mod tcp_echo;

fn main() -> io::Result<()> {
    let counts = checked::Counts::default();
    let backend = checked::Checked::new(Readiness::new(one_shot::OneShot::new()?), counts.clone());
    let loop_ = Loop::with_backend(Box::new(backend))?;
    tcp_echo::serve(&loop_)?;
    drop(loop_); // Cancels and reaps what is in flight; the backend sees to it that all of it completes.
    for (name, count) in &*counts.lock().unwrap_or_else(PoisonError::into_inner) {
        let checked::Count { at_once, waited, canceled } = count;
        println!("{name}: {at_once} at once, {waited} waited, {canceled} of them canceled");
    }
    Ok(())
}
