// SPDX-License-Identifier: GPL-2.0-only

//! What userspace gets about an instruction that is refused: `emulation_failure` of `struct kvm_run`, as the
//! 64-bit words that it shares with `internal.data`.

use super::MAX_LEN;

/// `KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`.
const INSTRUCTION_BYTES: u64 = 1;

/// What bytes that were not fetched read as: NOP.
const PADDING: u8 = 0x90;

/// The words; how many count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    words: [u64; 3],
    count: usize,
}

impl Failure {
    /// Describes an instruction by the bytes that were fetched, if any were.
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self {
                words: [0; 3],
                count: 1,
            };
        }
        let bytes = bytes.get(..MAX_LEN).unwrap_or(bytes);
        let mut packed = [PADDING; 16];
        let (size, room) = packed.split_at_mut(1);
        size.fill(bytes.len() as u8);
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        let both = u128::from_le_bytes(packed);
        Self {
            words: [INSTRUCTION_BYTES, both as u64, (both >> 64) as u64],
            count: 3,
        }
    }

    /// The words that count.
    pub fn words(&self) -> &[u64] {
        self.words.get(..self.count).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(Failure::new(&[]).words(), [0]);
        let found = Failure::new(&[0xdd, 0x03]);
        // The size, the bytes, NOPs.
        let expected = [1, 0x9090_9090_9003_dd02, 0x9090_9090_9090_9090];
        assert_eq!(found.words(), expected);
        let long: Vec<u8> = (1..=20).collect();
        let found = Failure::new(&long);
        assert_eq!(found.words()[1], 0x0706_0504_0302_010f);
        assert_eq!(found.words()[2], 0x0f0e_0d0c_0b0a_0908);
    }
}
