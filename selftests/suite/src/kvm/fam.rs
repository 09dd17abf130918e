// SPDX-License-Identifier: GPL-2.0-only
//! Structures that end in an array whose length an earlier field gives (MSR and CPUID lists).

use std::marker::PhantomData;

/// A header of `HEADER` bytes, of which the first four hold the number of entries, and then
/// entries of type `T`, in memory aligned to 8 bytes.
pub struct Fam<T, const HEADER: usize> {
    words: Vec<u64>,
    capacity: usize,
    entry: PhantomData<T>,
}

impl<T: Copy, const HEADER: usize> Fam<T, HEADER> {
    /// Room for `capacity` entries, all zero, and a header that says so.
    pub fn new(capacity: usize) -> Self {
        let bytes = HEADER + capacity * size_of::<T>();
        let mut this = Self {
            words: vec![0; bytes.div_ceil(8)],
            capacity,
            entry: PhantomData,
        };
        this.set_len(capacity as u32);
        this
    }

    /// The list made of `entries`.
    pub fn from_slice(entries: &[T]) -> Self {
        let mut this = Self::new(entries.len());
        this.all_mut().copy_from_slice(entries);
        this
    }

    /// The number of entries as the header gives it.
    pub fn len(&self) -> usize {
        (self.words[0] & 0xffff_ffff) as usize
    }

    /// Whether the header says that there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `len` to the header, whatever there is room for.
    pub fn set_len(&mut self, len: u32) {
        self.words[0] = self.words[0] & !0xffff_ffff | u64::from(len);
    }

    /// The entries that the header counts, as far as there is room.
    pub fn entries(&self) -> &[T] {
        let len = self.len().min(self.capacity);
        // SAFETY: the vector holds HEADER bytes and then `capacity` entries; `T` is plain data.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().byte_add(HEADER).cast(), len) }
    }

    /// All entries there is room for.
    pub fn all_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `entries`; the borrow is exclusive.
        unsafe {
            let first = self.words.as_mut_ptr().byte_add(HEADER).cast();
            std::slice::from_raw_parts_mut(first, self.capacity)
        }
    }

    /// The address to pass to the ioctl.
    pub fn addr(&mut self) -> u64 {
        self.words.as_mut_ptr() as u64
    }
}
