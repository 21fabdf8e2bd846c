//! What `fuzz/` runs on bytes that it makes up, and the tests on bytes at random. The third target is the ring's and lies
//! beside it (`backend/uring/hostile.rs`).

use towpath_loop::backend::readiness::{Mode, Readiness};
use towpath_loop::{BackendKind, Config, Loop};

use super::poller::Hostile;
use super::script;

/// The same script on every backend that there is, on a ring also with hardly any room; all agree with the model.
pub fn script(bytes: &[u8]) {
    for kind in BackendKind::ALL {
        let config = Config::new().backend(*kind);
        let sizes = if *kind == BackendKind::IoUring { &[256, 2][..] } else { &[256] };
        for entries in sizes {
            let config = config.clone().ring_entries(*entries).ring_completions(2 * *entries);
            let Ok(loop_) = config.build() else { continue };
            script::run(&loop_, bytes);
        }
    }
}

/// The same script on a poller that cannot be trusted: first come its bytes, then those of the script.
pub fn hostile_poller(bytes: &[u8]) {
    let (lies, rest) = bytes.split_at(bytes.len() / 2);
    for mode in [Mode::Edge, Mode::OneShot] {
        let backend = Readiness::new(Hostile::new(mode, lies));
        let loop_ = Loop::with_backend(Box::new(backend)).expect("a loop");
        script::run(&loop_, rest);
    }
}
