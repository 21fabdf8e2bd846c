//! Random numbers for tests, the same again for the same seed.

/// A small generator (xorshift64*), seeded by the test, or by `TOWPATH_SEED`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator; `TOWPATH_SEED` in the environment overrides the seed.
    pub fn new(seed: u64) -> Rng {
        let seed = std::env::var("TOWPATH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(seed);
        // Spread small seeds; zero would stay zero.
        Rng(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.bits() >> 16) % limit
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Keeps the CPU busy for up to `n` rounds: a race gets a different chance each time.
    pub fn spin(&mut self, n: u64) {
        for _ in 0..self.below(n.max(1)) {
            std::hint::spin_loop();
        }
    }
}
