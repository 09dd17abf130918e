// SPDX-License-Identifier: GPL-2.0-only

//! A small random generator (splitmix64): the same cases in every run.

/// The generator.
pub struct Rng(u64);

impl Rng {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    #[allow(
        dead_code,
        reason = "not every test that includes this file draws numbers"
    )]
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Fills `bytes`.
    #[allow(
        dead_code,
        reason = "not every test that includes this file fills bytes"
    )]
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
