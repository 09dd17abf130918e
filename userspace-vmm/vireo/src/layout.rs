// SPDX-License-Identifier: Apache-2.0

//! The machine's fixed guest-physical addresses, I/O ports and interrupt lines.
//!
//! Addresses are bytes. Everything that more than one file refers to is named here, once.

/// Bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;
/// The granule of guest memory.
pub const PAGE_SIZE: u64 = 4 * KIB;

/// The boot GDT: four descriptors and a spare.
pub const GDT_ADDR: u64 = 0x500;
/// An empty IDT: the guest takes no exception before it loads its own.
pub const IDT_ADDR: u64 = 0x580;
/// `hvm_start_info` for a PVH kernel.
pub const PVH_START_INFO_ADDR: u64 = 0x6000;
/// The PVH module list (the initrd).
pub const PVH_MODLIST_ADDR: u64 = 0x6040;
/// The PVH memory map.
pub const PVH_MEMMAP_ADDR: u64 = 0x6100;
/// `struct boot_params`, "the zero page", for the 64-bit boot protocol.
pub const ZERO_PAGE_ADDR: u64 = 0x7000;
/// Top of a small stack that early guest code may use.
pub const BOOT_STACK_ADDR: u64 = 0x8ff0;
/// Root of the boot page tables; the next levels follow page by page.
pub const PML4_ADDR: u64 = 0x9000;
/// The kernel's command line, NUL-terminated.
pub const CMDLINE_ADDR: u64 = 0x2_0000;
/// Bytes reserved for the command line.
pub const CMDLINE_MAX: u64 = 64 * KIB;

/// End of the low memory that a PC offers to its operating system.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Where the RSDP lies, in the range that an operating system scans for it.
pub const RSDP_ADDR: u64 = 0xe_0000;
/// The other ACPI tables, one after another up to [`HIGH_RAM_START`].
pub const ACPI_TABLES_ADDR: u64 = 0xe_0040;
/// Memory above the legacy hole starts here; bzImages are loaded here.
pub const HIGH_RAM_START: u64 = MIB;

/// Guest memory below 4 GiB ends here at the latest; devices live above.
pub const MMIO_HOLE_START: u64 = 3 * GIB;
/// Guest memory goes on here when it is larger than the space below the hole.
pub const MMIO_HOLE_END: u64 = 4 * GIB;

/// The I/O APIC's registers.
pub const IOAPIC_ADDR: u32 = 0xfec0_0000;
/// The local APIC's registers.
pub const LAPIC_ADDR: u32 = 0xfee0_0000;
/// One page that KVM on VT-x may use for an identity map.
pub const IDENTITY_MAP_ADDR: u64 = 0xfffb_c000;
/// Three pages that KVM on VT-x may use for a real-mode task-state segment.
pub const TSS_ADDR: u64 = 0xfffb_d000;

/// The RTC's index and data ports.
pub const RTC_PORT: u16 = 0x70;
/// Power-on self-test codes: writes are swallowed.
pub const POST_PORT: u16 = 0x80;
/// The i8042's data port; its command port is four further.
pub const I8042_PORT: u16 = 0x60;
/// Number of ports of the i8042.
pub const I8042_LEN: u16 = 5;
/// The debug-exit port.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Number of ports of the debug exit, as guests written for QEMU use it.
pub const DEBUG_EXIT_LEN: u16 = 4;
/// COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// Number of ports of a 16550A.
pub const COM1_LEN: u16 = 8;
/// ACPI sleep control, then sleep status, a byte each.
pub const ACPI_SLEEP_PORT: u16 = 0x600;
/// The reset control register of PC chipsets, also ACPI's reset register.
pub const RESET_PORT: u16 = 0xcf9;

/// COM1's interrupt (global system interrupt number).
pub const COM1_GSI: u32 = 4;
/// The generic event device's interrupt: the power button.
pub const GED_GSI: u32 = 5;
