//! As much of HTTP as the servers speak: where a request ends.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::protocol::{BUFFER, RESPONSE};

const END: &[u8] = b"\r\n\r\n";

static FINDER: LazyLock<Finder> = LazyLock::new(|| Finder::new(END));

/// A buffer, and as much kept from before.
const LONGEST: usize = 2 * BUFFER;

/// The answers to as many requests as there can be, of which a write takes the first few.
static RESPONSES: LazyLock<Vec<u8>> = LazyLock::new(|| RESPONSE.repeat(LONGEST / END.len()));

/// Answers the requests in `data`, at most two buffers full. Gives the answers, and how many bytes of an incomplete
/// request are left: they are now in front.
pub fn answer(data: &mut [u8]) -> (&'static [u8], usize) {
    let (mut count, mut end) = (0, 0);
    while let Some(at) = FINDER.find(&data[end..]) {
        count += 1;
        end += at + END.len();
    }
    data.copy_within(end.., 0);
    (&RESPONSES[..count * RESPONSE.len()], data.len() - end)
}
