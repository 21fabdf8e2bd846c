//! How the servers here are told to end: by Ctrl-C, or by the end of their input.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use towpath_loop::{File, Loop, is_canceled, op};

/// Makes [`Loop::run`] return on SIGINT, and when stdin ends.
pub fn stop_when_told(loop_: &Loop) -> io::Result<()> {
    stop_at_end(loop_, io::stdin().as_fd().try_clone_to_owned()?.into());
    let (interrupted, interrupt) = io::pipe()?;
    // SAFETY: all that the handler does is one write to a pipe, which a signal handler may do.
    unsafe { signal_hook_registry::register(libc::SIGINT, move || _ = (&interrupt).write(&[0])) }?;
    loop_.submit(op::read(File::from(OwnedFd::from(interrupted)), vec![0]), |loop_, _| loop_.stop());
    Ok(())
}

/// Reads to the end, whatever there is.
fn stop_at_end(loop_: &Loop, input: File) {
    loop_.submit(op::read(input.clone(), vec![0; 256]), |loop_, read| match read {
        Ok((0, _)) => loop_.stop(),
        Ok(_) => stop_at_end(loop_, input),
        Err(failed) if is_canceled(&failed.error) => {}
        Err(failed) => {
            eprintln!("stdin: {failed}");
            loop_.stop();
        }
    });
}
