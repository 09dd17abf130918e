// SPDX-License-Identifier: GPL-2.0-only
//! Where things are in the guest's physical (and identity-mapped) memory.
//!
//! The `guest!` macro repeats these values as assembler symbols.

/// Bytes of RAM from address 0.
pub const RAM_SIZE: usize = 4 << 20;
/// The top-level page table; three levels follow it, 4 GiB mapped by 2 MiB pages.
pub const PML4: u64 = 0x1000;
/// The page-directory-pointer table.
pub const PDPT: u64 = 0x2000;
/// Four page directories.
pub const PD: u64 = 0x3000;
/// The global descriptor table.
pub const GDT: u64 = 0x7000;
/// The 64-bit task-state segment.
pub const TSS: u64 = 0x7800;
/// The interrupt descriptor table, 256 gates.
pub const IDT: u64 = 0x8000;
/// 256 exception stubs of 16 bytes and the code that they share.
pub const STUBS: u64 = 0xa000;
/// 256 counters of 32 bits: how often each vector was delivered.
pub const IRQ_COUNTS: u64 = 0xc000;
/// The exception record: how many came.
pub const EXC: u64 = 0xc800;
/// The last exception's vector.
pub const EXC_VECTOR: u64 = 0xc808;
/// The last exception's error code.
pub const EXC_ERROR: u64 = 0xc810;
/// The last exception's RIP.
pub const EXC_RIP: u64 = 0xc818;
/// The last exception's RFLAGS.
pub const EXC_RFLAGS: u64 = 0xc820;
/// CR2 at the last exception.
pub const EXC_CR2: u64 = 0xc830;
/// The last exception's CS.
pub const EXC_CS: u64 = 0xc838;
/// Where the next exception returns to, when not 0.
pub const FIXUP: u64 = 0xc840;
/// A bit for each vector below 32 that returns to where it came from.
pub const RETURN_MASK: u64 = 0xc848;
/// How interrupt stubs end an interrupt: one of the `EOI_` values.
pub const EOI_MODE: u64 = 0xc850;
/// The number of entries in the interrupt log.
pub const IRQ_LOGGED: u64 = 0xc900;
/// The interrupt log: pairs of vector and time stamp, 128 of them, then wraps.
pub const IRQ_LOG: u64 = 0xd000;
/// Code is copied here.
pub const CODE: u64 = 0x10000;
/// Memory for results.
pub const DATA: u64 = 0x20000;
/// The top of the stack.
pub const STACK: u64 = 0x3fff0;
/// The top of the stack for entries from user mode.
pub const STACK0: u64 = 0x3bff0;
/// From here to the end of RAM nothing is used.
pub const FREE: u64 = 0x40000;
/// No memory slot ever covers this page: accesses are MMIO.
pub const MMIO: u64 = 0xd000_0000;
/// The local APIC.
pub const APIC: u64 = 0xfee0_0000;
/// The I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;

/// Interrupt stubs send no EOI.
pub const EOI_NONE: u64 = 0;
/// Interrupt stubs send EOI by MMIO.
pub const EOI_XAPIC: u64 = 1;
/// Interrupt stubs send EOI by MSR.
pub const EOI_X2APIC: u64 = 2;

/// The port that ends a test.
pub const PORT_DONE: u16 = 0xe0;
/// The port that reports an unexpected exception.
pub const PORT_EXC: u16 = 0xe1;
/// The port of a checkpoint.
pub const PORT_SYNC: u16 = 0xe2;

/// 64-bit ring-0 code.
pub const SEL_CODE64: u16 = 0x08;
/// Ring-0 data.
pub const SEL_DATA: u16 = 0x10;
/// 32-bit ring-0 code.
pub const SEL_CODE32: u16 = 0x18;
/// Ring-3 data (RPL 3 to be added).
pub const SEL_UDATA: u16 = 0x28;
/// 64-bit ring-3 code (RPL 3 to be added).
pub const SEL_UCODE64: u16 = 0x30;
/// The task register.
pub const SEL_TSS: u16 = 0x38;
