// SPDX-License-Identifier: Apache-2.0

//! Linux's `struct boot_params`: memory map, command line, initrd and RSDP for the 64-bit boot
//! protocol (Documentation/arch/x86/zero-page.rst in Linux).

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use vm_memory::GuestAddress;

use super::LoadedInitrd;
use crate::error::{Error, Result};
use crate::layout::{CMDLINE_ADDR, RSDP_ADDR, ZERO_PAGE_ADDR};
use crate::memory::{self, GuestMemory, Size};

/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// The boot sector's signature.
const BOOT_FLAG: u16 = 0xaa55;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// The alignment that Linux's ELF kernels are linked for.
const KERNEL_ALIGNMENT: u32 = 0x20_0000;

/// The structure for a guest with `mem` of memory.
pub fn build(
    mem: Size,
    header: Option<setup_header>,
    initrd: Option<LoadedInitrd>,
    cmdline_len: usize,
) -> boot_params {
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            header: HEADER_MAGIC,
            boot_flag: BOOT_FLAG,
            kernel_alignment: KERNEL_ALIGNMENT,
            ..Default::default()
        }),
        acpi_rsdp_addr: RSDP_ADDR,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE_ADDR as u32;
    if params.hdr.cmdline_size == 0 {
        params.hdr.cmdline_size = cmdline_len as u32;
    }
    if let Some(initrd) = initrd {
        // Initrds lie below the device hole, so 32 bits hold both.
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.len as u32;
    }
    let map = memory::map(mem.bytes());
    for (entry, range) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.len,
            r#type: range.kind.e820_type(),
        };
    }
    params.e820_entries = map.len() as u8;
    params
}

/// Writes the structure to its place.
pub fn write(
    memory: &GuestMemory,
    mem: Size,
    header: Option<setup_header>,
    initrd: Option<LoadedInitrd>,
    cmdline_len: usize,
) -> Result<()> {
    let params = build(mem, header, initrd, cmdline_len);
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(ZERO_PAGE_ADDR)),
        memory,
    )
    .map_err(|e| Error::Setup(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{GIB, MIB};

    #[test]
    fn describes_the_guest() {
        let initrd = LoadedInitrd {
            start: 0x700_0000,
            len: 0x1234,
        };
        let params = build(Size(256 * MIB), None, Some(initrd), 17);
        let header = params.hdr;
        assert_eq!({ header.header }, HEADER_MAGIC);
        assert_eq!({ header.ramdisk_image }, 0x700_0000);
        assert_eq!({ header.ramdisk_size }, 0x1234);
        assert_eq!({ header.cmd_line_ptr }, CMDLINE_ADDR as u32);
        assert_eq!({ header.cmdline_size }, 17);
        assert_eq!({ params.acpi_rsdp_addr }, RSDP_ADDR);
        assert_eq!(params.e820_entries, 3);
        let last = params.e820_table[2];
        assert_eq!(
            ({ last.addr }, { last.size }, { last.r#type }),
            (MIB, 255 * MIB, 1)
        );
    }

    #[test]
    fn a_bzimage_keeps_its_header() {
        let header = setup_header {
            cmdline_size: 2047,
            version: 0x20f,
            ..Default::default()
        };
        let params = build(Size(4 * GIB), Some(header), None, 5);
        assert_eq!({ params.hdr.cmdline_size }, 2047);
        assert_eq!({ params.hdr.version }, 0x20f);
        assert_eq!({ params.hdr.ramdisk_size }, 0);
        assert_eq!(params.e820_entries, 4);
    }
}
