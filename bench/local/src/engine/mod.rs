//! The engines: each runs every scenario that its row of the table in the crate's root names.

pub mod compio;
pub mod floor;
pub mod floor_uring;
pub mod go;
pub mod may;
pub mod monoio;
pub mod pread;
pub mod smol;
pub mod threads;
pub mod tokio;
pub mod towpath;
mod towpath_files;
