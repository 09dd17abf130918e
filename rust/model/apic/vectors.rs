// SPDX-License-Identifier: GPL-2.0-only

//! A set of interrupt vectors: the shape of IRR, ISR and TMR.

/// Vectors in a set.
const VECTORS: usize = 256;
/// Vectors in one 64-bit word.
const WORD_BITS: usize = 64;
/// 64-bit words in a set.
pub const WORDS: usize = VECTORS / WORD_BITS;

/// A 256-bit set, vector `v` being bit `v % 64` of word `v / 64`.
#[derive(Clone, Copy, Debug, Default)]
pub struct VectorSet {
    words: [u64; WORDS],
    /// One bit for each of the eight 32-bit registers that may differ from what
    /// [`VectorSet::take_changed`] last told.
    changed: u8,
}

impl PartialEq for VectorSet {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for VectorSet {}

impl VectorSet {
    /// Returns the empty set.
    pub const fn new() -> Self {
        Self {
            words: [0; WORDS],
            changed: u8::MAX,
        }
    }

    /// Returns the word and the bit that hold `vector`.
    const fn place(vector: u8) -> (usize, u64) {
        ((vector >> 6) as usize, 1 << (vector & 63))
    }

    /// Adds `vector`; returns whether it was absent.
    pub fn insert(&mut self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        let absent = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.changed |= 1 << (vector >> 5);
        absent
    }

    /// Removes `vector`; returns whether it was present.
    pub fn remove(&mut self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        let present = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.changed |= 1 << (vector >> 5);
        present
    }

    /// Returns whether `vector` is present.
    pub const fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.words[word] & bit != 0
    }

    /// Returns the highest vector, or 0 when the set is empty or holds only vector 0.
    pub fn highest(&self) -> u8 {
        for (index, &word) in self.words.iter().enumerate().rev() {
            if word != 0 {
                return ((index as u8) << 6) | (63 - word.leading_zeros() as u8);
            }
        }
        0
    }

    /// Returns 64-bit word `index`, or 0 when there is none.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// Replaces 64-bit word `index`; does nothing when there is none.
    pub fn set_word(&mut self, index: usize, bits: u64) {
        if let Some(word) = self.words.get_mut(index) {
            if *word != bits {
                *word = bits;
                self.changed |= 3u8.checked_shl(index as u32 * 2).unwrap_or(0);
            }
        }
    }

    /// Takes the set over from the eight 32-bit registers in which others have changed it, which
    /// `register` returns by their index. They hold what this set holds afterwards.
    pub fn adopt(&mut self, register: impl Fn(usize) -> u32) {
        for (index, word) in self.words.iter_mut().enumerate() {
            let low = u64::from(register(index << 1));
            let high = u64::from(register(index << 1 | 1));
            *word = low | high << 32;
        }
    }

    /// Returns which of the eight 32-bit registers may have changed, one bit each.
    #[inline]
    pub const fn changed(&self) -> u8 {
        self.changed
    }

    /// Returns them and forgets them.
    pub fn take_changed(&mut self) -> u8 {
        core::mem::take(&mut self.changed)
    }

    /// Returns register `index` (0 to 7) of the eight 32-bit ones that show the set to a guest.
    pub fn register(&self, index: usize) -> u32 {
        (self.word(index >> 1) >> ((index & 1) << 5)) as u32
    }

    /// Replaces register `index` (0 to 7); does nothing for others.
    pub fn set_register(&mut self, index: usize, bits: u32) {
        let shift = (index & 1) << 5;
        let kept = self.word(index >> 1) & !(u64::from(u32::MAX) << shift);
        self.set_word(index >> 1, kept | (u64::from(bits) << shift));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_remove_and_highest() {
        let mut set = VectorSet::new();
        assert_eq!(set.highest(), 0);
        assert!(set.insert(0x31) && !set.insert(0x31));
        assert!(set.insert(0xff) && set.insert(0x80));
        assert_eq!(set.highest(), 0xff);
        assert!(set.remove(0xff) && !set.remove(0xff));
        assert_eq!(set.highest(), 0x80);
        assert!(set.contains(0x31) && !set.contains(0x30));
    }

    #[test]
    fn registers_are_halves_of_words() {
        let mut set = VectorSet::new();
        for register in 0..8 {
            set.set_register(register, 0x8000_0000 | register as u32);
        }
        for register in 0..8 {
            assert_eq!(set.register(register), 0x8000_0000 | register as u32);
            assert!(set.contains((register * 32 + 31) as u8));
        }
        set.set_register(8, 1);
        assert_eq!(set.register(8), 0);
    }
}
