// SPDX-License-Identifier: Apache-2.0

//! The PVH start info: memory map, command line, initrd and RSDP for kernels with a PVH note.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info, XEN_HVM_START_MAGIC_VALUE,
};
use vm_memory::GuestAddress;

use super::LoadedInitrd;
use crate::error::{Error, Result};
use crate::layout::{
    CMDLINE_ADDR, PVH_MEMMAP_ADDR, PVH_MODLIST_ADDR, PVH_START_INFO_ADDR, RSDP_ADDR,
};
use crate::memory::{self, GuestMemory, Size};

/// The version with a memory map.
const START_INFO_VERSION: u32 = 1;

/// Writes the start info and what it points to.
pub fn write(memory: &GuestMemory, mem: Size, initrd: Option<LoadedInitrd>) -> Result<()> {
    let map: Vec<_> = memory::map(mem.bytes())
        .iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.len,
            type_: range.kind.e820_type(),
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initrd
        .iter()
        .map(|i| hvm_modlist_entry {
            paddr: i.start,
            size: i.len,
            ..Default::default()
        })
        .collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() {
            0
        } else {
            PVH_MODLIST_ADDR
        },
        cmdline_paddr: CMDLINE_ADDR,
        rsdp_paddr: RSDP_ADDR,
        memmap_paddr: PVH_MEMMAP_ADDR,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(PVH_START_INFO_ADDR));
    params.set_sections(&map, GuestAddress(PVH_MEMMAP_ADDR));
    params.set_modules(&modules, GuestAddress(PVH_MODLIST_ADDR));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|e| Error::Setup(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;
    use crate::memory::allocate;
    use vm_memory::Bytes;

    #[test]
    fn start_info_points_to_everything() {
        let mem = Size(64 * MIB);
        let memory = allocate(mem).unwrap();
        write(
            &memory,
            mem,
            Some(LoadedInitrd {
                start: 0x300_0000,
                len: 99,
            }),
        )
        .unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(PVH_START_INFO_ADDR)).unwrap();
        assert_eq!(info.magic, XEN_HVM_START_MAGIC_VALUE);
        assert_eq!((info.nr_modules, info.memmap_entries), (1, 3));
        assert_eq!(
            (info.cmdline_paddr, info.rsdp_paddr),
            (CMDLINE_ADDR, RSDP_ADDR)
        );
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x300_0000, 99));
        let entry: hvm_memmap_table_entry = memory
            .read_obj(GuestAddress(info.memmap_paddr + 48))
            .unwrap();
        assert_eq!((entry.addr, entry.size, entry.type_), (MIB, 63 * MIB, 1));
    }

    #[test]
    fn no_initrd_means_no_module() {
        let mem = Size(64 * MIB);
        let memory = allocate(mem).unwrap();
        write(&memory, mem, None).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(PVH_START_INFO_ADDR)).unwrap();
        assert_eq!((info.nr_modules, info.modlist_paddr), (0, 0));
    }
}
