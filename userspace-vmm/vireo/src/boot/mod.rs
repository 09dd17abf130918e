// SPDX-License-Identifier: Apache-2.0

//! From a kernel file to a guest that is ready to run: load, describe, and say how to enter.

pub mod acpi;
pub mod bzimage;
pub mod cmdline;
pub mod elf;
pub mod initrd;
pub mod long_mode;
pub mod pvh;
pub mod zero_page;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use linux_loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

use crate::error::{Error, Result};
use crate::layout::CMDLINE_ADDR;
use crate::memory::{GuestMemory, Size};

/// Enough of a kernel file to tell its format.
const SNIFF_LEN: usize = 0x210;
/// `e_ident` of a 64-bit little-endian ELF file starts with this.
const ELF64_LE: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
/// Where a bzImage has its "HdrS".
const HDRS_OFFSET: usize = 0x202;
/// Where a bzImage has the boot sector's signature.
const BOOT_FLAG_OFFSET: usize = 0x1fe;

/// The formats of kernel files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A 64-bit ELF file.
    Elf,
    /// Linux's compressed image with its setup header.
    BzImage,
}

/// The format of a file that starts with `head`.
pub fn sniff(head: &[u8]) -> Option<Format> {
    if head.starts_with(&ELF64_LE) {
        return Some(Format::Elf);
    }
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|h| h.starts_with(magic));
    (has(HDRS_OFFSET, b"HdrS") && has(BOOT_FLAG_OFFSET, &[0x55, 0xaa])).then_some(Format::BzImage)
}

/// A kernel file that was opened and recognised.
#[derive(Debug)]
pub struct KernelFile {
    /// The name as given.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// Bytes in the file.
    pub len: u64,
    /// Its format.
    pub format: Format,
}

impl KernelFile {
    /// Opens `path` and looks at how it starts.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len) = open_file("kernel", path)?;
        let mut head = [0; SNIFF_LEN];
        let mut filled = 0;
        while filled < head.len() {
            match file.read_at(&mut head[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(source) => {
                    return Err(Error::File {
                        what: "kernel",
                        path: path.into(),
                        source,
                    })
                }
            }
        }
        let format = sniff(&head[..filled]).ok_or_else(|| Error::NotAKernel(path.into()))?;
        Ok(KernelFile {
            path: path.into(),
            file,
            len,
            format,
        })
    }

    /// An error about this file's contents.
    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::BadKernel {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// Loads the kernel into the memory of a guest that has `mem` of it.
    pub fn load(&mut self, memory: &GuestMemory, mem: Size) -> Result<LoadedKernel> {
        match self.format {
            Format::Elf => elf::load(self, memory, mem),
            Format::BzImage => bzimage::load(self, memory, mem),
        }
    }
}

/// Opens a regular file for reading and returns it with its length.
pub fn open_file(what: &'static str, path: &Path) -> Result<(File, u64)> {
    let failed = |source| Error::File {
        what,
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(std::io::Error::other("not a regular file")));
    }
    Ok((file, metadata.len()))
}

/// How the first instruction of the kernel is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, paging off, EBX points to the start info.
    Pvh {
        /// Guest-physical address of the first instruction.
        rip: u64,
    },
    /// 64-bit mode on identity page tables, RSI points to the zero page.
    Linux64 {
        /// Guest-physical address of the first instruction.
        rip: u64,
    },
}

/// A kernel in guest memory.
#[derive(Debug)]
pub struct LoadedKernel {
    /// Where and how to start it.
    pub entry: Entry,
    /// First byte that it does not use while it starts.
    pub end: u64,
    /// A bzImage's setup header.
    pub setup_header: Option<setup_header>,
    /// Highest address that an initrd's last byte may have.
    pub initrd_max: u64,
    /// Longest command line, without the terminating NUL.
    pub cmdline_max: usize,
}

/// An initrd in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedInitrd {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

/// Writes everything that the kernel reads at its start except itself and the initrd.
pub fn describe(
    memory: &GuestMemory,
    mem: Size,
    kernel: &LoadedKernel,
    initrd: Option<LoadedInitrd>,
    cmdline: &str,
    cpus: u8,
) -> Result<()> {
    let setup = |e: vm_memory::GuestMemoryError| Error::Setup(e.to_string());
    memory
        .write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE_ADDR))
        .map_err(setup)?;
    memory
        .write_obj(0u8, GuestAddress(CMDLINE_ADDR + cmdline.len() as u64))
        .map_err(setup)?;
    acpi::write(memory, cpus)?;
    match kernel.entry {
        Entry::Pvh { .. } => pvh::write(memory, mem, initrd),
        Entry::Linux64 { .. } => {
            long_mode::write(memory)?;
            zero_page::write(memory, mem, kernel.setup_header, initrd, cmdline.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let mut bz = vec![0; 0x300];
        assert_eq!(sniff(&bz), None);
        bz[HDRS_OFFSET..HDRS_OFFSET + 4].copy_from_slice(b"HdrS");
        assert_eq!(sniff(&bz), None);
        bz[BOOT_FLAG_OFFSET..BOOT_FLAG_OFFSET + 2].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(sniff(&bz), Some(Format::BzImage));
        assert_eq!(sniff(&bz[..HDRS_OFFSET + 3]), None);
        assert_eq!(sniff(b"\x7fELF\x02\x01\x01"), Some(Format::Elf));
        assert_eq!(sniff(b"\x7fELF\x01\x01\x01"), None);
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn directories_are_no_files() {
        let e = open_file("kernel", Path::new("/")).unwrap_err();
        assert_eq!(e.to_string(), "cannot read kernel /: not a regular file");
    }
}
