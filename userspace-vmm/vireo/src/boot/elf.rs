// SPDX-License-Identifier: Apache-2.0

//! An uncompressed 64-bit ELF kernel: by its PVH note where it has one, else by the 64-bit
//! boot protocol at the ELF entry point.

use std::os::unix::fs::FileExt;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::Address;

use super::{Entry, KernelFile, LoadedKernel};
use crate::error::{Error, Result};
use crate::layout::HIGH_RAM_START;
use crate::memory::{low_end, GuestMemory, Size};

/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;
/// `p_type` of a loadable segment.
const PT_LOAD: u32 = 1;
/// Bytes of an ELF64 file header.
const EHDR_LEN: usize = 64;
/// Bytes of an ELF64 program header.
const PHDR_LEN: usize = 56;
/// x86 Linux's COMMAND_LINE_SIZE without the NUL: an ELF file does not say its own limit.
const CMDLINE_MAX: usize = 2047;

/// The little-endian integers in an ELF header.
struct Header<const N: usize>([u8; N]);

impl<const N: usize> Header<N> {
    fn read(kernel: &KernelFile, at: u64) -> Result<Self> {
        let mut bytes = [0; N];
        kernel
            .file
            .read_exact_at(&mut bytes, at)
            .map_err(|_| kernel.bad("truncated ELF file"))?;
        Ok(Header(bytes))
    }

    fn bytes<const M: usize>(&self, at: usize) -> [u8; M] {
        let mut out = [0; M];
        if let Some(field) = self.0.get(at..at + M) {
            out.copy_from_slice(field);
        }
        out
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

/// Checks the file's headers and returns the end of its highest segment in memory.
fn extent(kernel: &KernelFile) -> Result<u64> {
    let ehdr = Header::<EHDR_LEN>::read(kernel, 0)?;
    let (machine, phoff, phentsize, phnum) =
        (ehdr.u16(18), ehdr.u64(32), ehdr.u16(54), ehdr.u16(56));
    if machine != EM_X86_64 {
        return Err(kernel.bad("an ELF file for another processor"));
    }
    if usize::from(phentsize) != PHDR_LEN {
        return Err(kernel.bad("unexpected size of ELF program headers"));
    }
    let mut end = 0;
    for i in 0..u64::from(phnum) {
        let at = phoff
            .checked_add(i * PHDR_LEN as u64)
            .ok_or_else(|| kernel.bad("truncated ELF file"))?;
        let phdr = Header::<PHDR_LEN>::read(kernel, at)?;
        if phdr.u32(0) != PT_LOAD {
            continue;
        }
        let (offset, paddr, filesz, memsz) =
            (phdr.u64(8), phdr.u64(24), phdr.u64(32), phdr.u64(40));
        if offset
            .checked_add(filesz)
            .is_none_or(|end| end > kernel.len)
        {
            return Err(kernel.bad("truncated ELF file"));
        }
        if filesz > 0 && paddr < HIGH_RAM_START {
            return Err(kernel.bad("an ELF segment below 1 MiB"));
        }
        let segment_end = paddr
            .checked_add(memsz.max(filesz))
            .ok_or_else(|| kernel.bad("an ELF segment beyond all addresses"))?;
        end = segment_end.max(end);
    }
    if end == 0 {
        return Err(kernel.bad("an ELF file with nothing to load"));
    }
    Ok(end)
}

/// Loads the segments to their physical addresses.
pub(super) fn load(
    kernel: &mut KernelFile,
    memory: &GuestMemory,
    mem: Size,
) -> Result<LoadedKernel> {
    let end = extent(kernel)?;
    if end > low_end(mem.bytes()) {
        return Err(Error::KernelTooLarge {
            mem,
            needed: Size(end),
        });
    }
    let loaded =
        Elf::load(memory, None, &mut kernel.file, None).map_err(|e| kernel.bad(e.to_string()))?;
    let rip = loaded.kernel_load.raw_value();
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Entry::Pvh {
            rip: address.raw_value(),
        },
        _ if (HIGH_RAM_START..end).contains(&rip) => Entry::Linux64 { rip },
        _ => return Err(kernel.bad("no PVH note, and the ELF entry is not a physical address")),
    };
    Ok(LoadedKernel {
        entry,
        end,
        setup_header: None,
        initrd_max: u64::from(u32::MAX),
        cmdline_max: CMDLINE_MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;
    use crate::memory::allocate;
    use vm_memory::{Bytes, GuestAddress};

    /// One loadable segment of 4 bytes at 1 MiB, optionally a PVH note.
    fn image(machine: u16, entry: u64, memsz: u64, note: Option<u32>) -> Vec<u8> {
        let mut file = vec![0u8; 0x200];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        put(18, &machine.to_le_bytes());
        put(24, &entry.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(54, &(PHDR_LEN as u16).to_le_bytes());
        put(56, &(1 + note.is_some() as u16).to_le_bytes());
        let mut phdr = |at: usize, kind: u32, offset: u64, len: u64, mem: u64| {
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 24, &MIB.to_le_bytes());
            put(at + 32, &len.to_le_bytes());
            put(at + 40, &mem.to_le_bytes());
        };
        phdr(64, PT_LOAD, 0x100, 4, memsz);
        phdr(64 + PHDR_LEN, 4, 0x140, 20, 20);
        put(0x100, b"\x90\x90\x90\xf4");
        if let Some(entry) = note {
            put(0x140, &4u32.to_le_bytes());
            put(0x144, &4u32.to_le_bytes());
            put(0x148, &18u32.to_le_bytes());
            put(0x14c, b"Xen\0");
            put(0x150, &entry.to_le_bytes());
        }
        file
    }

    fn load_bytes(name: &str, bytes: &[u8]) -> Result<(LoadedKernel, GuestMemory)> {
        let path = std::env::temp_dir().join(format!("vireo-elf-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let kernel = KernelFile::open(&path);
        std::fs::remove_file(&path).unwrap();
        let mut kernel = kernel?;
        let mem = Size(4 * MIB);
        let memory = allocate(mem)?;
        Ok((kernel.load(&memory, mem)?, memory))
    }

    #[test]
    fn enters_by_the_pvh_note() {
        let (loaded, memory) = load_bytes("pvh", &image(62, 0x1234, 8, Some(0x10_0002))).unwrap();
        assert_eq!(loaded.entry, Entry::Pvh { rip: 0x10_0002 });
        assert_eq!(loaded.end, MIB + 8);
        assert_eq!(
            memory.read_obj::<[u8; 4]>(GuestAddress(MIB)).unwrap(),
            *b"\x90\x90\x90\xf4"
        );
    }

    #[test]
    fn enters_at_the_elf_entry_without_a_note() {
        let (loaded, _) = load_bytes("entry", &image(62, MIB, 8, None)).unwrap();
        assert_eq!(loaded.entry, Entry::Linux64 { rip: MIB });
    }

    #[test]
    fn refusals_name_the_reason() {
        let mut truncated = image(62, MIB, 8, None);
        truncated.truncate(0x102);
        let cases: [(&str, Vec<u8>, &str); 5] = [
            ("arm", image(183, MIB, 8, None), "another processor"),
            (
                "virt",
                image(62, 0xffff_ffff_8100_0000, 8, None),
                "not a physical address",
            ),
            ("trunc", truncated, "truncated"),
            (
                "header",
                image(62, MIB, 8, None)[..0x20].to_vec(),
                "truncated",
            ),
            (
                "wrap",
                image(62, MIB, u64::MAX, None),
                "beyond all addresses",
            ),
        ];
        for (name, bytes, reason) in cases {
            let e = load_bytes(name, &bytes)
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(e.contains(reason), "{name}: {e}");
        }
    }

    #[test]
    fn too_little_memory_is_named() {
        let e = load_bytes("big", &image(62, MIB, 4 * MIB, None))
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(e, Error::KernelTooLarge { .. }), "{e}");
    }

    #[test]
    fn damaged_files_do_no_harm() {
        let good = image(62, MIB, 8, Some(0x10_0002));
        let interesting = [0u8, 1, 0x7f, 0x80, 0xff];
        for at in 0..0x160 {
            for value in interesting {
                let mut bad = good.clone();
                bad[at] = value;
                // Whatever the result: no panic, no endless loop.
                let _ = load_bytes("damaged", &bad);
            }
        }
    }
}
