// SPDX-License-Identifier: Apache-2.0

//! Places the initrd as high below the device hole as the kernel allows.

use std::fs::File;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress};

use super::{open_file, LoadedInitrd, LoadedKernel};
use crate::error::{Error, Result};
use crate::layout::PAGE_SIZE;
use crate::memory::{low_end, GuestMemory, Size};

/// An initrd file that was opened.
#[derive(Debug)]
pub struct InitrdFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// The highest page-aligned start for `len` bytes in `floor..ceiling`.
pub fn place(len: u64, floor: u64, ceiling: u64) -> Option<u64> {
    let start = ceiling.checked_sub(len)? / PAGE_SIZE * PAGE_SIZE;
    (start >= floor).then_some(start)
}

impl InitrdFile {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len) = open_file("initrd", path)?;
        Ok(InitrdFile {
            path: path.into(),
            file,
            len,
        })
    }

    /// Copies the file into guest memory; an empty file is no initrd.
    pub fn load(
        &mut self,
        memory: &GuestMemory,
        mem: Size,
        kernel: &LoadedKernel,
    ) -> Result<Option<LoadedInitrd>> {
        if self.len == 0 {
            return Ok(None);
        }
        let ceiling = low_end(mem.bytes()).min(kernel.initrd_max.saturating_add(1));
        let start = place(self.len, kernel.end, ceiling).ok_or_else(|| Error::InitrdTooLarge {
            path: self.path.clone(),
            size: Size(self.len),
            free: Size(ceiling.saturating_sub(kernel.end)),
            mem,
        })?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut self.file, self.len as usize)
            .map_err(|e| Error::File {
                what: "initrd",
                path: self.path.clone(),
                source: std::io::Error::other(e.to_string()),
            })?;
        Ok(Some(LoadedInitrd {
            start,
            len: self.len,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;

    #[test]
    fn goes_to_the_top() {
        assert_eq!(place(1, 0, 16 * MIB), Some(16 * MIB - PAGE_SIZE));
        assert_eq!(place(PAGE_SIZE, 0, 16 * MIB), Some(16 * MIB - PAGE_SIZE));
        assert_eq!(
            place(PAGE_SIZE + 1, 0, 16 * MIB),
            Some(16 * MIB - 2 * PAGE_SIZE)
        );
    }

    #[test]
    fn does_not_meet_the_kernel() {
        assert_eq!(place(MIB, 15 * MIB, 16 * MIB), Some(15 * MIB));
        assert_eq!(place(MIB + 1, 15 * MIB, 16 * MIB), None);
        assert_eq!(place(17 * MIB, 0, 16 * MIB), None);
        assert_eq!(place(u64::MAX, 0, 16 * MIB), None);
    }
}
