//! What is in a directory, for the examples that walk through trees of files.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use towpath_loop::op::{self, FileType};

/// The names in a directory, in order, and what they are names of.
pub fn names(dir: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let mut names = Vec::new();
    for entry in &op::read_entire_dir(dir).wait()? {
        let kind = match entry.file_type() {
            Some(kind) => kind,
            // Some file systems do not say so here.
            None => op::stat(dir.join(entry.name())).follow(false).wait()?.file_type(),
        };
        names.push((entry.name().to_owned(), kind));
    }
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}
