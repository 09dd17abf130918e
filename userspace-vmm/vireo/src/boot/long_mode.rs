// SPDX-License-Identifier: Apache-2.0

//! What a 64-bit entry needs in memory: a GDT and page tables that map the first 4 GiB to
//! themselves in pages of 2 MiB.

use vm_memory::{Bytes, GuestAddress};

use crate::error::{Error, Result};
use crate::layout::{CMDLINE_ADDR, GDT_ADDR, GIB, PAGE_SIZE, PML4_ADDR};
use crate::memory::GuestMemory;

/// Segment selectors that Linux's boot protocol prescribes.
pub const CODE_SELECTOR: u16 = 0x10;
/// Data selector of the boot protocol.
pub const DATA_SELECTOR: u16 = 0x18;
/// The task register's selector.
pub const TASK_SELECTOR: u16 = 0x20;

/// Flat descriptors (SDM vol. 3, section 3.4.5): base 0, limit 4 GiB, present, DPL 0.
const GDT: [u64; 5] = [
    0,
    0,
    // Code, execute and read, accessed, 64-bit.
    0x00af_9b00_0000_ffff,
    // Data, read and write, accessed.
    0x00cf_9300_0000_ffff,
    // Busy 64-bit TSS.
    0x008f_8b00_0000_ffff,
];

/// Highest byte of the GDT, relative to its start.
pub const GDT_LIMIT: u16 = (size_of::<[u64; 5]>() - 1) as u16;

/// Page table entry: present and writable.
const PRESENT_WRITABLE: u64 = 0b11;
/// Page directory entry: a 2 MiB page instead of a table.
const LARGE_PAGE: u64 = 1 << 7;
/// Bytes of such a page.
const LARGE_PAGE_SIZE: u64 = 2 << 20;
/// Gibibytes to map, a page directory each.
const MAPPED_GIB: u64 = 4;
/// Entries of a table.
const ENTRIES: u64 = 512;

// The tables end below what comes next in the layout.
const _: () = assert!(PML4_ADDR + (2 + MAPPED_GIB) * PAGE_SIZE <= CMDLINE_ADDR);

/// Writes the GDT and the page tables.
pub fn write(memory: &GuestMemory) -> Result<()> {
    let failed = |e: vm_memory::GuestMemoryError| Error::Setup(e.to_string());
    for (i, descriptor) in (0u64..).zip(GDT) {
        memory
            .write_obj(descriptor, GuestAddress(GDT_ADDR + i * 8))
            .map_err(failed)?;
    }
    let pdpt = PML4_ADDR + PAGE_SIZE;
    memory
        .write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(PML4_ADDR))
        .map_err(failed)?;
    for gib in 0..MAPPED_GIB {
        let directory = pdpt + (gib + 1) * PAGE_SIZE;
        memory
            .write_obj(directory | PRESENT_WRITABLE, GuestAddress(pdpt + gib * 8))
            .map_err(failed)?;
        let mut table = Vec::with_capacity(PAGE_SIZE as usize);
        for i in 0..ENTRIES {
            let page = gib * GIB + i * LARGE_PAGE_SIZE;
            table.extend_from_slice(&(page | PRESENT_WRITABLE | LARGE_PAGE).to_le_bytes());
        }
        memory
            .write_slice(&table, GuestAddress(directory))
            .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;
    use crate::memory::{allocate, Size};

    fn walk(memory: &GuestMemory, addr: u64) -> Option<u64> {
        let mut table = PML4_ADDR;
        for shift in [39, 30, 21] {
            let index = addr >> shift & (ENTRIES - 1);
            let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).ok()?;
            if entry & 1 == 0 {
                return None;
            }
            if entry & LARGE_PAGE != 0 {
                return Some((entry & !0x1f_ffff) | (addr & 0x1f_ffff));
            }
            table = entry & !0xfff;
        }
        None
    }

    #[test]
    fn maps_four_gib_to_themselves() {
        let memory = allocate(Size(4 * MIB)).unwrap();
        write(&memory).unwrap();
        for addr in [0, 0x1234_5678, 3 * GIB + 5, 4 * GIB - 1] {
            assert_eq!(walk(&memory, addr), Some(addr));
        }
        assert_eq!(walk(&memory, 4 * GIB), None);
    }
}
