//! compio, on io_uring: files only.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use compio::BufResult;
use compio::io::{AsyncReadAtExt, AsyncWriteAtExt};
use compio::runtime::{JoinHandle, Runtime, spawn};

use crate::Options;
use crate::files::{self, Files};
use crate::measure::Outcome;

pub fn run(options: &Options) -> Outcome {
    let runtime = Runtime::new().expect("io_uring was looked for");
    runtime.block_on(files::run::<Compio>(options.clone()))
}

struct Compio;

/// A task that does not panic.
struct Handle(JoinHandle<bool>);

impl Future for Handle {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(context).map(|result| result.expect("no task panics"))
    }
}

impl Files for Compio {
    type File = compio::fs::File;
    type Handle = Handle;

    fn file(file: File) -> Self::File {
        // SAFETY: the descriptor is open, and nobody else's.
        unsafe { Self::File::from_raw_fd(file.into_raw_fd()) }
    }
    async fn read(file: &Self::File, buf: Vec<u8>, at: u64) -> (io::Result<()>, Vec<u8>) {
        let BufResult(result, buf) = file.read_exact_at(buf, at).await;
        (result, buf)
    }
    async fn write(mut file: &Self::File, buf: Vec<u8>, at: u64) -> (io::Result<()>, Vec<u8>) {
        let BufResult(result, buf) = file.write_all_at(buf, at).await;
        (result, buf)
    }
    fn lane(file: Self::File, lane: files::Lane) -> Handle {
        Handle(spawn(lane.run::<Compio>(file)))
    }
}
