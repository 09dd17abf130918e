// SPDX-License-Identifier: GPL-2.0-only

//! What the fuzz targets do with an input. The unit tests replay the corpus with the same code.

#![allow(dead_code, reason = "each target is a program of its own")]

pub mod decode;
pub mod execute;
pub mod machine;
#[path = "../../unit/tests/common/plain_walk.rs"]
pub mod plain_walk;
pub mod walk;

/// Reads an input from its start; when it has ended there are zeroes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Starts reading.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|_| self.u8()))
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
