// SPDX-License-Identifier: GPL-2.0-only
//! The in-kernel local APIC's registers, by MMIO and by MSR.

use crate::harness::{note, Outcome, TestResult};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    irq_x2apic_registers,
    irq_x2apic_bad,
    irq_xapic_registers,
    irq_apic_disabled,
    irq_error_status,
);

guest!(apic_msr:
    "mov ecx, 0x1b", "rdmsr", "or eax, 0xc00", "wrmsr",
    // RSI the MSR, RDI 1 to write RAX:RDX; R8 is 1 after #GP.
    "2: out SYNC, al",
    "lea r9, [rip + 5f]", "mov [FIXUP], r9",
    "mov r8d, 1",
    "mov ecx, esi",
    "test edi, edi", "jnz 3f",
    "rdmsr", "jmp 4f",
    "3: wrmsr",
    "4: xor r8d, r8d",
    "5: mov qword ptr [FIXUP], 0",
    "jmp 2b",
);

/// An access to an APIC MSR: `None` for #GP.
fn msr(m: &mut Machine, index: u64, write: Option<u64>) -> Result<Option<u64>, Outcome> {
    m.with_regs(|r| {
        (r.rsi, r.rdi) = (index, u64::from(write.is_some()));
        let value = write.unwrap_or(0);
        (r.rax, r.rdx) = (value & 0xffff_ffff, value >> 32);
    })?;
    let regs = m.run_sync()?;
    Ok((regs.r8 == 0).then_some(regs.rax | regs.rdx << 32))
}

/// Registers in x2APIC mode: values after reset, and writes that stay.
fn irq_x2apic_registers() -> TestResult {
    let mut m = Machine::irqchip(apic_msr())?;
    m.run_sync()?;
    check_eq!(m.vcpu.msr(0x1b)?.map(|base| base & 0xc00), Some(0xc00), "APIC base");
    check_eq!(msr(&mut m, 0x802, None)?, Some(0), "ID");
    check_eq!(msr(&mut m, 0x803, None)?.map(|v| v & 0xff), Some(0x14), "version");
    check_eq!(msr(&mut m, 0x80d, None)?, Some(1), "logical destination");
    for (index, value) in [(0x808, 0x30), (0x80f, 0x1ff), (0x832, 0x2_0040), (0x835, 0x1_00ff),
        (0x83e, 0xb), (0x837, 0x44)]
    {
        check!(msr(&mut m, index, Some(value))?.is_some(), "write to {index:#x}");
        check_eq!(msr(&mut m, index, None)?, Some(value), "MSR {index:#x}");
    }
    check_eq!(msr(&mut m, 0x80a, None)?, Some(0x30), "PPR follows TPR");
    Ok(())
}

/// What raises #GP in x2APIC mode.
fn irq_x2apic_bad() -> TestResult {
    let mut m = Machine::irqchip(apic_msr())?;
    m.run_sync()?;
    // Registers that do not exist or cannot be read.
    for index in [0x800, 0x80e, 0x831, 0x840, 0x8ff, 0x80b, 0x83f] {
        check_eq!(msr(&mut m, index, None)?, None, "read of {index:#x}");
    }
    // Read-only registers and reserved bits.
    for (index, value) in [(0x802, 0), (0x803, 0), (0x80a, 0), (0x810, 0), (0x820, 0),
        (0x80e, 0), (0x831, 0), (0x839, 0)]
    {
        check_eq!(msr(&mut m, index, Some(value))?, None, "write of {value:#x} to {index:#x}");
    }
    // From x2APIC straight to xAPIC is not allowed.
    check_eq!(msr(&mut m, 0x1b, Some(0xfee0_0900))?, None, "x2APIC to xAPIC");
    check!(msr(&mut m, 0x1b, Some(0xfee0_0100))?.is_some(), "x2APIC to disabled");
    check!(msr(&mut m, 0x1b, Some(0xfee0_0900))?.is_some(), "disabled to xAPIC");
    check_eq!(msr(&mut m, 0x802, None)?, None, "x2APIC MSR in xAPIC mode");
    Ok(())
}

guest!(xapic_registers:
    "mov ebp, 0xfee00000",
    "mov eax, [rbp + 0x20]", "mov [DATA], rax",
    "mov eax, [rbp + 0x30]", "mov [DATA + 8], rax",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "or dword ptr [rbp + 0xf0], 0x200", "mov eax, [rbp + 0xf0]", "mov [DATA + 16], rax",
    "mov dword ptr [rbp + 0xd0], 0x02000000", "mov eax, [rbp + 0xd0]", "mov [DATA + 24], rax",
    "mov dword ptr [rbp + 0x80], 0xff", "mov eax, [rbp + 0x80]", "mov [DATA + 32], rax",
    "mov dword ptr [rbp + 0x80], 0",
    "mov dword ptr [rbp + 0x320], 0xffffffff", "mov eax, [rbp + 0x320]", "mov [DATA + 40], rax",
    "mov dword ptr [rbp + 0x3e0], 0xffffffff", "mov eax, [rbp + 0x3e0]", "mov [DATA + 48], rax",
    "mov dword ptr [rbp + 0x310], 0xab000000", "mov eax, [rbp + 0x310]", "mov [DATA + 56], rax",
    "test dword ptr [rbp + 0x30], 0x10", "setnz cl", "movzx ecx, cl", "mov [DATA + 64], rcx",
    "out DONE, al",
);

/// Registers by MMIO: writable bits stay, others do not.
fn irq_xapic_registers() -> TestResult {
    let mut m = Machine::irqchip(xapic_registers())?;
    m.run_done()?;
    check_eq!(m.data(0), 0, "ID");
    check_eq!(m.data(1) & 0xff, 0x14, "version");
    check_eq!(m.data(2) & 0x1ff, 0x1ff, "spurious vector register");
    check_eq!(m.data(3), 0x0200_0000, "logical destination");
    // AMD's processors keep the class only.
    check_eq!(m.data(4) & 0xf0, 0xf0, "TPR");
    check_eq!(m.data(5) & 0x1_00ff, 0x1_00ff, "timer LVT");
    // Bit 12 is the delivery status, which KVM keeps as written.
    check_eq!(m.data(5) & !0x7_10ff, 0, "reserved bits of the timer LVT");
    check_eq!(m.data(6) & 0xb, 0xb, "divide configuration");
    check_eq!(m.data(7), 0xab00_0000, "ICR, upper half");
    check_eq!(m.data(8), 1, "TEST on a register");
    Ok(())
}

guest!(apic_disabled:
    "mov ecx, 0x1b", "rdmsr", "and eax, 0xfffff7ff", "wrmsr",
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0x80], 0x20",
    "mov eax, [rbp + 0x30]",
    "out DONE, al",
);

/// While the APIC is off its page is a hole, read as ones by the kernel or by the VMM.
fn irq_apic_disabled() -> TestResult {
    let mut m = Machine::irqchip(apic_disabled())?;
    let regs = m.run_with(|m, exit| {
        if let Exit::MmioRead { .. } = exit {
            m.vcpu.set_mmio_data(u64::MAX);
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    check_eq!(regs.rax, 0xffff_ffff);
    check_eq!(m.vcpu.sregs()?.apic_base & 1 << 11, 0);
    Ok(())
}

guest!(error_status:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x370], 0xfe",
    "mov dword ptr [rbp + 0x280], 0",
    "mov eax, [rbp + 0x280]", "mov [DATA], rax",
    "mov dword ptr [rbp + 0x300], 0x40005", // a vector below 16
    "mov dword ptr [rbp + 0x280], 0",       // latches
    "mov eax, [rbp + 0x280]", "mov [DATA + 8], rax",
    "mov dword ptr [rbp + 0x280], 0",
    "mov eax, [rbp + 0x280]", "mov [DATA + 16], rax",
    "out DONE, al",
);

/// The error status is clear at first and after it was read; illegal vectors may set it.
fn irq_error_status() -> TestResult {
    let mut m = Machine::irqchip(error_status())?;
    m.run_done()?;
    check_eq!(m.data(0), 0, "at first");
    let error = m.data(1);
    check!(error & !0x60 == 0, "after a self-IPI with vector 5: {error:#x}");
    check_eq!(m.data(2), 0, "after it was latched and read");
    note(format!("error status after an illegal vector: {error:#x}"));
    Ok(())
}
