// SPDX-License-Identifier: GPL-2.0-only
//! 32-bit guests that page: two-level tables and PAE, with faults, devices and changing tables.

use crate::guest::*;
use crate::harness::{Outcome, TestResult};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    entry_paging_32bit,
    entry_paging_pae,
    entry_paging_pae_switch,
    entry_paging_pcid,
);

/// The page directory, or the four PAE entries.
const TOP: u64 = 0x1000;
/// The other set of tables.
const OTHER: u64 = 0x11000;
/// A linear address that the tests map to a page or to a device.
const LINEAR: u64 = 0x80_0000;

guest!(paging32:
    ".code32",
    // EAX is CR3 and EBX what goes to CR4.
    "mov cr4, ebx",
    "mov cr3, eax",
    "mov eax, cr0", "or eax, 0x80000000", "mov cr0, eax",
    "jmp 2f",
    "2:",
    "mov dword ptr [0x20000], 0x12345678",
    "mov eax, [0x800000]",
    "mov edx, [0x800004]",
    "mov [0x800008], edx",
    "out 0xe2, al",
    // A page that is not there: the handler is at CODE + 0x100.
    "mov ecx, [0xc00010]",
    ".org 99b + 0x100",
    "pop esi",
    "mov edi, cr2",
    "out 0xe0, al",
);

/// Gives a 32-bit machine an interrupt gate for page faults and flat segments that it can load.
fn with_idt(m: &Machine) -> TestResult {
    const GATES: u64 = 0x6000;
    let handler = CODE + 0x100;
    m.mem.set(GDT + u64::from(SEL_DATA), 0x00cf_9300_0000_ffff);
    m.mem.set(GDT + u64::from(SEL_CODE32), 0x00cf_9b00_0000_ffff);
    let gate = handler & 0xffff | u64::from(SEL_CODE32) << 16 | 0x8e << 40 | (handler >> 16) << 48;
    m.mem.set(GATES + 14 * 8, gate);
    m.with_sregs(|s| {
        s.gdt = kvm_bindings::kvm_dtable { base: GDT, limit: 0x47, padding: [0; 3] };
        s.idt = kvm_bindings::kvm_dtable { base: GATES, limit: 0x7ff, padding: [0; 3] };
    })
}

/// Runs [`paging32`] with [`LINEAR`] mapped to a page of RAM or to the device.
fn check_paging(build: impl Fn(u64) -> Result<Machine, Outcome>) -> TestResult {
    for target in [0x9_0000, MMIO] {
        let mut m = build(target)?;
        if target == MMIO {
            check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO, len: 4 });
            m.vcpu.set_mmio_data(0x1111);
            check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO + 4, len: 4 });
            m.vcpu.set_mmio_data(0x2222);
            check_eq!(m.run()?, Exit::MmioWrite { gpa: MMIO + 8, len: 4, data: 0x2222 });
        } else {
            m.mem.set(target, 0x2222_0000_1111);
        }
        let regs = m.run_sync()?;
        check_eq!((regs.rax, regs.rdx), (0x1111, 0x2222));
        check_eq!(m.mem.get32(DATA), 0x1234_5678);
        if target != MMIO {
            check_eq!(m.mem.get32(target + 8), 0x2222);
        }
        let regs = m.run_done()?;
        check_eq!((regs.rsi, regs.rdi), (0, 0xc0_0010), "error code and CR2 of the page fault");
    }
    Ok(())
}

/// A 32-bit machine for [`paging32`] that will load `cr3` and `cr4`.
fn machine32(cr3: u64, cr4: u64) -> Result<Machine, Outcome> {
    let m = Setup::new(Mode::Flat32).build(paging32())?;
    with_idt(&m)?;
    m.with_regs(|r| (r.rax, r.rbx) = (cr3, cr4))?;
    Ok(m)
}

/// Sets the 32-bit entry `index` of the table at `table`.
fn set32(m: &Machine, table: u64, index: u64, value: u64) {
    m.mem.write(table + index * 4, &(value as u32).to_le_bytes());
}

/// Two levels with 4-byte entries, large pages and small ones.
fn entry_paging_32bit() -> TestResult {
    const CR4_PSE: u64 = 1 << 4;
    check_paging(|target| {
        let m = machine32(TOP, CR4_PSE)?;
        set32(&m, TOP, 0, 0x87); // the first 4 MiB
        set32(&m, TOP, LINEAR >> 22, 0x2000 | 7);
        set32(&m, 0x2000, 0, target | 7);
        Ok(m)
    })
}

/// Writes PAE tables at `top` that map the first 2 MiB and [`LINEAR`] to `target`.
fn pae_tables(m: &Machine, top: u64, target: u64) {
    m.mem.set(top, (top + 0x1000) | 1);
    for i in 1..4 {
        m.mem.set(top + i * 8, 0);
    }
    m.mem.set(top + 0x1000, 0x87);
    m.mem.set(top + 0x1000 + (LINEAR >> 21) * 8, (top + 0x2000) | 7);
    m.mem.set(top + 0x2000, target | 7);
}

/// PAE: the four top entries are loaded with CR3.
fn entry_paging_pae() -> TestResult {
    check_paging(|target| {
        let m = machine32(TOP, CR4_PAE)?;
        pae_tables(&m, TOP, target);
        Ok(m)
    })
}

guest!(pae_switch:
    ".code32",
    "mov cr4, ebx",
    "mov cr3, eax",
    "mov edx, cr0", "or edx, 0x80000000", "mov cr0, edx",
    "mov edi, 50",
    "2: mov cr3, esi",
    "cmp dword ptr [0x800000], 0x2222", "jne 3f",
    "out 0xe2, al",
    "mov cr3, eax",
    "cmp dword ptr [0x800000], 0x1111", "jne 3f",
    "dec edi", "jnz 2b",
    "3: out 0xe0, al",
);

/// Two PAE tables in turns; userspace's GET and SET of the registers between them keeps them.
fn entry_paging_pae_switch() -> TestResult {
    let mut m = Setup::new(Mode::Flat32).build(pae_switch())?;
    pae_tables(&m, TOP, 0x9_0000);
    pae_tables(&m, OTHER - 0x8000, 0x9_1000);
    m.mem.set(0x9_0000, 0x1111);
    m.mem.set(0x9_1000, 0x2222);
    m.with_regs(|r| (r.rax, r.rbx, r.rsi) = (TOP, CR4_PAE, OTHER - 0x8000))?;
    let regs = m.run_with(|m, _| {
        let sregs = m.vcpu.sregs()?;
        check_eq!(sregs.cr3, OTHER - 0x8000);
        m.vcpu.set_sregs(&sregs)?;
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    check_eq!(regs.rdi, 0, "rounds left");
    Ok(())
}

guest!(pcid:
    "mov rax, cr4", "bts rax, 17", "mov cr4, rax",
    "mov r8, 0x1001", // the first tables with PCID 1
    "mov r9, 0x70002", // the second with PCID 2
    "mov r10, r9", "bts r10, 63", // the same, keep what is cached
    "mov esi, 30",
    "2:",
    "mov cr3, r9", "cmp dword ptr [0x600000], 0x2222", "jne 3f",
    "mov cr3, r8", "cmp dword ptr [0x600000], 0x1111", "jne 3f",
    "mov cr3, r10", "cmp dword ptr [0x600000], 0x2222", "jne 3f",
    "xor eax, eax", "cpuid",
    "mov rax, cr3", "cmp rax, r9", "jne 3f",
    "dec esi", "jnz 2b",
    "3: out DONE, al",
);

/// Address spaces told apart by PCID, where the guest may use it.
fn entry_paging_pcid() -> TestResult {
    let mut m = Machine::long(pcid())?;
    if !m.vcpu.cpuid()?.iter().any(|e| e.function == 1 && e.ecx >> 17 & 1 != 0) {
        return crate::harness::skip("no PCID for guests");
    }
    const SECOND: u64 = 0x70000;
    m.mem.set(SECOND, (SECOND + 0x1000) | 7);
    m.mem.set(SECOND + 0x1000, (SECOND + 0x2000) | 7);
    for i in 0..512 {
        m.mem.set(SECOND + 0x2000 + i * 8, i << 21 | 0x87);
    }
    m.map_small(0x60_0000, 0x50000, 0x9_0000 | 7);
    m.mem.set(SECOND + 0x2000 + 3 * 8, (SECOND + 0x3000) | 7);
    m.mem.set(SECOND + 0x3000, 0x9_1000 | 7);
    m.mem.set(0x9_0000, 0x1111);
    m.mem.set(0x9_1000, 0x2222);
    check_eq!(m.run_done()?.rsi, 0, "rounds left");
    Ok(())
}
