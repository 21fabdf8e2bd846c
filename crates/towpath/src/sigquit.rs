//! `SIGQUIT` prints a dump: see [`Builder::dump_on_sigquit`](crate::Builder::dump_on_sigquit).
//!
//! The signal's handler is that of [`Signals`]: it writes to a descriptor. A thread with a loop of its own waits for that, and
//! does all the rest, so that it works also where every worker is held.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use towpath_loop::{Config, Loop, Remote, Signals};

use crate::dump;
use crate::runtime::Shared;
use crate::warning;

/// The thread, which ends with this.
pub(crate) struct Watch {
    remote: Remote,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    /// Prints dumps of `shared` from now on. The thread's loop is made by `config`: what that rules out is not used here
    /// either.
    ///
    /// # Errors
    /// The system's, if it refuses a thread, a loop or the signal.
    pub(crate) fn start(shared: Arc<Shared>, config: Config) -> io::Result<Watch> {
        let (ready, is_ready) = mpsc::channel();
        let builder = thread::Builder::new().name("towpath-sigquit".into());
        let thread = builder.spawn(move || {
            let set_up = || io::Result::Ok((config.build()?, Signals::new([libc::SIGQUIT])?));
            match set_up() {
                Ok((loop_, signals)) => {
                    arm(&loop_, signals, shared);
                    let _ = ready.send(Ok(loop_.remote()));
                    if let Err(error) = loop_.run() {
                        warning::say(&format_args!("SIGQUIT prints no dumps any more: {error}"));
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let remote = is_ready.recv().map_err(io::Error::other)??;
        Ok(Watch { remote, thread: Some(thread) })
    }
}

/// Waits for the next one.
fn arm(loop_: &Loop, signals: Signals, shared: Arc<Shared>) {
    loop_.submit(signals.received(), move |loop_, received| {
        if received.is_ok() {
            warning::say(&dump::of_runtime(&shared));
            arm(loop_, signals, shared);
        }
    });
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.remote.run(Loop::stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
