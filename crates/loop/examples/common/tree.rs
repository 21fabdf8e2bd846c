//! What is in a directory, for the examples that walk through trees of files.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use towpath_loop::op::{self, FileType};

/// The names in a directory, in order, and what they are names of.
pub fn names(dir: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let open = op::open(dir).custom_flags(libc::O_DIRECTORY).wait()?;
    let mut names = Vec::new();
    let mut entries = op::read_dir(&open).wait()?;
    while !entries.is_end() {
        for entry in &entries {
            let kind = match entry.file_type() {
                Some(kind) => kind,
                // Some file systems do not say so here.
                None => op::stat(entry.name()).at(&open).follow(false).wait()?.file_type(),
            };
            names.push((entry.name().to_owned(), kind));
        }
        entries = op::read_dir(&open).buffer(entries.into_buffer()).wait()?;
    }
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}
