// SPDX-License-Identifier: GPL-2.0-only
//! Control registers: what takes effect, what raises #GP, and what userspace sees.

use crate::guest::*;
use crate::harness::{Outcome, TestResult};
use crate::host::is_tcg;
use crate::machine::*;

tests!(
    exit_cr0_wp,
    exit_cr0_wrong,
    exit_cr0_clts_lmsw,
    exit_cr3_switch,
    exit_cr4_toggle,
    exit_cr4_wrong,
    exit_cr8,
);

/// A page that tests map as they need it.
const PAGE_AT: u64 = 0x60000;
/// Room for its page table.
const TABLE: u64 = 0x50000;

guest!(cr0_wp:
    "mov esi, 20",
    "2:",
    "mov rax, cr0", "and eax, 0xfffeffff", "mov cr0, rax",
    "mov dword ptr [0x60000], esi",
    "mov rax, cr0", "or eax, 0x10000", "mov cr0, rax",
    "lea rax, [rip + 3f]", "mov [FIXUP], rax",
    "mov dword ptr [0x60000], 0",
    "out DONE, al",
    "3:",
    "cmp dword ptr [0x60000], esi",
    "jne 4f",
    "dec esi",
    "jnz 2b",
    "4: out DONE, al",
);

/// CR0.WP decides at once whether ring 0 may write to a read-only page.
fn exit_cr0_wp() -> TestResult {
    let mut m = Machine::long(cr0_wp())?;
    m.map_small(PAGE_AT, TABLE, PAGE_AT | 1);
    let regs = m.run_done()?;
    check_eq!(regs.rsi, 0, "rounds left");
    check_eq!(m.mem.get(EXC), 20, "page faults");
    check_eq!(m.mem.get(EXC_VECTOR), 14);
    check_eq!(m.mem.get(EXC_ERROR), 3);
    check_eq!(m.mem.get(EXC_CR2), PAGE_AT);
    check_eq!(m.vcpu.sregs()?.cr0 & CR0_WP, CR0_WP);
    Ok(())
}

guest!(cr_write:
    // RDI: 0, 3, 4 or 8, the register; RAX the value. R8 is 1 after #GP, RBX the new value.
    "2:",
    "lea r9, [rip + 5f]", "mov [FIXUP], r9",
    "mov r8d, 1",
    "cmp edi, 3", "je 3f",
    "cmp edi, 4", "je 4f",
    "cmp edi, 8", "je 6f",
    "mov cr0, rax", "jmp 7f",
    "3: mov cr3, rax", "jmp 7f",
    "4: mov cr4, rax", "jmp 7f",
    "6: mov cr8, rax",
    "7: xor r8d, r8d",
    "5: mov qword ptr [FIXUP], 0",
    "mov rcx, cr4",
    "mov rbx, cr0",
    "cmp edi, 4", "cmove rbx, rcx",
    "mov rcx, cr3",
    "cmp edi, 3", "cmove rbx, rcx",
    "mov rcx, cr8",
    "cmp edi, 8", "cmove rbx, rcx",
    "out SYNC, al",
    "jmp 2b",
);

/// The guest writes `value` to CR`number`: whether it was taken, and what it reads back.
fn write(m: &mut Machine, number: u64, value: u64) -> Result<(bool, u64), Outcome> {
    m.with_regs(|r| (r.rdi, r.rax) = (number, value))?;
    let regs = m.run_sync()?;
    if regs.r8 != 0 {
        check_eq!(m.mem.get(EXC_VECTOR), 13, "exception of MOV to CR{number}");
    }
    Ok((regs.r8 == 0, regs.rbx))
}

/// Wrong combinations in CR0 raise #GP and change nothing.
fn exit_cr0_wrong() -> TestResult {
    let mut m = Machine::long(cr_write())?;
    let now = m.vcpu.sregs()?.cr0;
    // PG without PE, no PG in 64-bit code, NW without CD, and a reserved bit.
    for value in [now & !CR0_PE, now & !CR0_PG, now | 1 << 29, now | 1 << 40] {
        if value >> 32 != 0 && is_tcg() {
            continue; // QEMU's TCG drops the upper half.
        }
        check_eq!(write(&mut m, 0, value)?, (false, now), "CR0 = {value:#x}");
    }
    check_eq!(m.vcpu.sregs()?.cr0, now);
    // Some that are right: CD, MP, EM, TS, AM.
    for bit in [30, 1, 2, 3, 18] {
        let value = now ^ 1 << bit;
        check_eq!(write(&mut m, 0, value)?, (true, value), "CR0 = {value:#x}");
        check_eq!(m.vcpu.sregs()?.cr0, value);
        check_eq!(write(&mut m, 0, now)?, (true, now));
    }
    Ok(())
}

guest!(clts_lmsw:
    "mov rax, cr0", "or eax, 8", "mov cr0, rax",
    "mov rbx, cr0",
    "lea r9, [rip + 3f]", "mov [FIXUP], r9",
    "movups xmm0, [DATA]",
    "out DONE, al",
    "3:",
    "clts",
    "movups xmm0, [DATA]",
    "mov rcx, cr0",
    "mov ax, 0x0b", "lmsw ax",
    "mov rdx, cr0",
    "smsw rsi",
    // LMSW cannot clear PE.
    "mov ax, 2", "lmsw ax",
    "mov rdi, cr0",
    "out DONE, al",
);

/// CLTS, LMSW, SMSW, and #NM while CR0.TS is set.
fn exit_cr0_clts_lmsw() -> TestResult {
    let mut m = Machine::long(clts_lmsw())?;
    let regs = m.run_done()?;
    check_eq!(m.mem.get(EXC_VECTOR), 7, "exception of SSE while TS is set");
    check_eq!(regs.rbx & 8, 8);
    check_eq!(regs.rcx & 8, 0, "TS after CLTS");
    check_eq!(regs.rdx & 0xf, 0xb, "low bits after LMSW");
    check_eq!(regs.rsi & 0xf, 0xb, "SMSW");
    check_eq!(regs.rdi & 0xf, 3, "LMSW must not clear PE");
    check_eq!(m.vcpu.sregs()?.cr0, regs.rdi);
    Ok(())
}

guest!(cr3_switch:
    "mov r8d, 0x1000",
    "mov r9d, 0x70000",
    "mov esi, 50",
    "2:",
    "mov cr3, r9",
    "cmp dword ptr [0x600000], 0x2222", "jne 3f",
    "mov rax, cr3", "cmp rax, r9", "jne 3f",
    "mov cr3, r8",
    "cmp dword ptr [0x600000], 0x1111", "jne 3f",
    "xor eax, eax", "cpuid",
    "dec esi",
    "jnz 2b",
    "3: out DONE, al",
);

/// Two sets of page tables map the same address differently; each switch takes effect at once.
fn exit_cr3_switch() -> TestResult {
    let mut m = Machine::long(cr3_switch())?;
    const OTHER: u64 = 0x70000;
    let entry = |gpa: u64| gpa | 7;
    m.mem.set(OTHER, entry(OTHER + 0x1000));
    m.mem.set(OTHER + 0x1000, entry(OTHER + 0x2000));
    for i in 0..512 {
        m.mem.set(OTHER + 0x2000 + i * 8, i << 21 | 0x87);
    }
    // The address 6 MiB is the page at 0x80000 in one and at 0x81000 in the other.
    m.map_small(0x60_0000, TABLE, entry(0x80000));
    m.mem.set(OTHER + 0x2000 + 3 * 8, entry(OTHER + 0x3000));
    m.mem.set(OTHER + 0x3000, entry(0x81000));
    m.mem.set(0x80000, 0x1111);
    m.mem.set(0x81000, 0x2222);
    check_eq!(m.run_done()?.rsi, 0, "rounds left");
    check_eq!(m.vcpu.sregs()?.cr3, PML4);
    if is_tcg() {
        return Ok(()); // QEMU's TCG takes reserved bits in CR3.
    }
    let mut m = Machine::long(cr_write())?;
    check_eq!(write(&mut m, 3, PML4 | 1 << 60)?, (false, PML4), "reserved bit in CR3");
    Ok(())
}

/// CR4 bits that a kernel toggles.
fn exit_cr4_toggle() -> TestResult {
    let mut m = Machine::long(cr_write())?;
    let now = m.vcpu.sregs()?.cr4;
    // TSD, DE, PSE, PGE, MCE, and back.
    for bit in [2, 3, 4, 7, 6] {
        let value = now ^ 1 << bit;
        check_eq!(write(&mut m, 4, value)?, (true, value), "CR4 = {value:#x}");
        check_eq!(m.vcpu.sregs()?.cr4, value);
        check_eq!(write(&mut m, 4, now)?, (true, now));
    }
    Ok(())
}

/// Reserved and impossible CR4 values raise #GP and change nothing.
fn exit_cr4_wrong() -> TestResult {
    let mut m = Machine::long(cr_write())?;
    let now = m.vcpu.sregs()?.cr4;
    for value in [now & !CR4_PAE, now | 1 << 15, now | 1 << 31, now | 1 << 40, now | 1 << 63] {
        if value >> 32 != 0 && is_tcg() {
            continue; // QEMU's TCG drops the upper half.
        }
        check_eq!(write(&mut m, 4, value)?, (false, now), "CR4 = {value:#x}");
    }
    check_eq!(m.vcpu.sregs()?.cr4, now);
    Ok(())
}

/// CR8 holds four bits; in-kernel it is the APIC's task priority.
fn exit_cr8() -> TestResult {
    for irqchip in [false, true] {
        let mut m = Machine::long(cr_write())?;
        if irqchip {
            m = Machine::irqchip(cr_write())?;
        }
        for value in [0, 5, 15] {
            // Without in-kernel APIC a write may leave to userspace; the value arrives anyhow.
            m.with_regs(|r| (r.rdi, r.rax) = (8, value))?;
            let regs = loop {
                match m.run()? {
                    crate::kvm::Exit::Out { port: PORT_SYNC, .. } => break m.vcpu.regs()?,
                    crate::kvm::Exit::Other(kvm_bindings::KVM_EXIT_SET_TPR) => {}
                    other => return crate::harness::fail(format!("unexpected {other:x?}")),
                }
            };
            check_eq!((regs.r8, regs.rbx), (0, value), "CR8 = {value}, irqchip {irqchip}");
            check_eq!(m.vcpu.sregs()?.cr8, value);
            check_eq!(m.vcpu.kvm_run().cr8, value);
            if irqchip {
                check_eq!(m.vcpu.lapic()?.regs[0x80] as u8, (value << 4) as u8, "TPR");
            }
        }
        if is_tcg() {
            continue; // QEMU's TCG drops the upper bits.
        }
        check!(!write(&mut m, 8, 16)?.0, "CR8 took 16");
        check_eq!(m.vcpu.sregs()?.cr8, 15);
    }
    Ok(())
}
