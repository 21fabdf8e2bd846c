//! monoio, on io_uring: files only.

use std::fs::File;
use std::io;
use std::rc::Rc;

use monoio::{FusionDriver, RuntimeBuilder, spawn};

use crate::Options;
use crate::files::{self, Files};
use crate::measure::Outcome;

pub fn run(options: &Options) -> Outcome {
    let mut runtime = RuntimeBuilder::<FusionDriver>::new().build().expect("io_uring was looked for");
    runtime.block_on(files::run::<Monoio>(options.clone()))
}

struct Monoio;

impl Files for Monoio {
    type File = Rc<monoio::fs::File>;
    type Handle = monoio::task::JoinHandle<bool>;

    fn file(file: File) -> Self::File {
        Rc::new(monoio::fs::File::from_std(file).expect("a file is a file"))
    }
    async fn read(file: &Self::File, buf: Vec<u8>, at: u64) -> (io::Result<()>, Vec<u8>) {
        file.read_exact_at(buf, at).await
    }
    async fn write(file: &Self::File, buf: Vec<u8>, at: u64) -> (io::Result<()>, Vec<u8>) {
        file.write_all_at(buf, at).await
    }
    fn lane(file: Self::File, lane: files::Lane) -> Self::Handle {
        spawn(lane.run::<Monoio>(file))
    }
}
