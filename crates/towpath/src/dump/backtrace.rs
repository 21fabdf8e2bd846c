//! Where a task stands: addresses first, names later.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Arc;

/// The frames of a task's stack.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Backtrace {
    /// Innermost first. Functions that were inlined have frames of their own.
    pub frames: Vec<Frame>,
}

/// A call that has not returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Frame {
    /// Where it goes on.
    pub address: usize,
    /// The function, as far as the program's symbols tell.
    pub function: Option<String>,
    /// The source file, as far as its debug information tells.
    pub file: Option<PathBuf>,
    /// And the line.
    pub line: Option<u32>,
}

impl Backtrace {
    /// From the innermost frame that is neither Towpath's nor `std`'s to the outermost: without those by which the task was
    /// suspended, and started.
    pub fn frames_of_the_program(&self) -> &[Frame] {
        // What has no name is so far out that it is the switch.
        let ours = |frame: &Frame| frame.function.as_deref().is_none_or(is_ours);
        let first = self.frames.iter().position(|frame| !ours(frame));
        let last = self.frames.iter().rposition(|frame| !ours(frame));
        match (first, last) {
            (Some(first), Some(last)) => &self.frames[first..=last],
            _ => &self.frames,
        }
    }
}

/// Whether a function belongs to the way in or out of a task.
fn is_ours(function: &str) -> bool {
    const PREFIXES: [&str; 10] = [
        "towpath::",
        "towpath_loop::",
        "towpath_coro::",
        "corosensei::",
        "core::",
        "std::",
        "alloc::",
        "__rust_",
        "__rustc::",
        "stack_init_trampoline",
    ];
    let name = function.trim_start_matches(['<', '&']);
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Adds the return addresses of the frames that lie on the stack from `limit` to `base`, innermost first. The calling
/// frames, down to the first one there, and those beyond are left out.
pub(crate) fn capture(limit: usize, base: usize, addresses: &mut Vec<usize>) {
    let before = addresses.len();
    ::backtrace::trace(|frame| {
        let inside = (limit..=base).contains(&frame.sp().addr());
        // A thread's outermost frame goes on nowhere.
        if inside && !frame.ip().is_null() {
            addresses.push(frame.ip().addr());
        }
        inside || addresses.len() == before
    });
}

/// Finds names for addresses, each once; or leaves them without.
pub(crate) struct Names {
    known: HashMap<usize, Vec<Frame>>,
    wanted: bool,
}

impl Names {
    pub(crate) fn new(wanted: bool) -> Names {
        Names { known: HashMap::new(), wanted }
    }

    pub(crate) fn resolve(&mut self, addresses: &[usize]) -> Arc<Backtrace> {
        let frames = addresses.iter().flat_map(|address| self.frames(*address).to_vec()).collect();
        Arc::new(Backtrace { frames })
    }

    fn frames(&mut self, address: usize) -> &[Frame] {
        let wanted = self.wanted;
        self.known.entry(address).or_insert_with(|| {
            let mut frames = Vec::new();
            // A return address may lie behind the function, if that never returns: the call is before it.
            let name = |symbol: &::backtrace::Symbol| {
                frames.push(Frame {
                    address,
                    function: symbol.name().map(|name| format!("{name:#}")),
                    file: symbol.filename().map(PathBuf::from),
                    line: symbol.lineno(),
                });
            };
            if wanted {
                ::backtrace::resolve((address - 1) as *mut c_void, name);
            }
            if frames.is_empty() {
                frames.push(Frame { address, function: None, file: None, line: None });
            }
            frames
        })
    }
}
