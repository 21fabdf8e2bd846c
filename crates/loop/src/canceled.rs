//! The error of what was cancelled.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Whether an error says that the operation was cancelled.
///
/// ```
/// use towpath_loop::{Instant, Loop, is_canceled, op};
///
/// let loop_ = Loop::new()?;
/// let id = loop_.submit(op::timer_at(Instant::NEVER), |_, outcome| assert!(is_canceled(&outcome.unwrap_err())));
/// assert!(loop_.cancel(id));
/// loop_.run()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn is_canceled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
        || error.get_ref().is_some_and(|inner| inner.is::<Canceled>())
}

/// An error that [`is_canceled`] knows: `ECANCELED`; or, where a reason was given, one of kind `Other` that displays it, and
/// has it as the [source](Error::source) of what is [inside](io::Error::get_ref).
pub fn canceled(reason: Option<Arc<dyn Error + Send + Sync>>) -> io::Error {
    match reason {
        Some(reason) => io::Error::other(Canceled(reason)),
        None => io::Error::from_raw_os_error(libc::ECANCELED),
    }
}

#[derive(Debug)]
struct Canceled(Arc<dyn Error + Send + Sync>);

impl fmt::Display for Canceled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cancelled: {}", self.0)
    }
}

impl Error for Canceled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_with_and_without_a_reason() {
        let (with, without) = (canceled(Some(Arc::from(Box::from("a reason")))), canceled(None));
        assert!(is_canceled(&with) && is_canceled(&without));
        assert_eq!(with.to_string(), "cancelled: a reason");
        let inner = with.get_ref().expect("a reason");
        assert_eq!(inner.source().map(ToString::to_string).as_deref(), Some("a reason"));
        for other in [io::Error::other("cancelled"), io::ErrorKind::Interrupted.into()] {
            assert!(!is_canceled(&other));
        }
    }
}
