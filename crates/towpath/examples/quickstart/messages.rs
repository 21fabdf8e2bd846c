//! What the clients send: slices of one block of random bytes, so that a message costs nothing to make or to compare, and
//! one that comes back to the wrong client, or shifted by a byte, is noticed.

use std::sync::LazyLock;

/// The size of the largest message.
const LARGEST: usize = 64 * 1024;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(0);
    (0..2 * LARGEST / 8).flat_map(|_| random.next().to_le_bytes()).collect()
});

/// The messages of one client, the same in every run.
pub struct Messages(Random);

impl Messages {
    pub fn new(client: u64) -> Messages {
        // A start of its own for each; successive ones would make the clients send the same sequence, one step apart.
        Messages(Random(Random(client).next()))
    }

    /// A message of 1 byte to 64 KiB; sizes of all orders of magnitude are equally likely.
    pub fn of_any_size(&mut self) -> &'static [u8] {
        let most = 1 << (self.0.next() % 17);
        let more_than = most / 2;
        let more = self.0.next() as usize % (most - more_than);
        self.of_size(more_than + 1 + more)
    }

    pub fn of_size(&mut self, len: usize) -> &'static [u8] {
        let start = self.0.next() as usize % LARGEST;
        &BLOCK[start..start + len]
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
