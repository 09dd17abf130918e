// SPDX-License-Identifier: GPL-2.0-only
//! The in-kernel local APIC: delivery, priorities, EOI, IPIs to oneself.

use crate::guest::*;
use crate::harness::TestResult;
use crate::machine::*;

tests!(
    irq_msi,
    irq_msi_no_one,
    irq_self_ipi_xapic,
    irq_self_ipi_x2apic,
    irq_priority_order,
    irq_tpr_blocks,
    irq_cr8_blocks,
    irq_in_service_blocks,
    irq_irr_isr_bits,
    irq_sti_shadow,
    irq_hlt_wakes,
    irq_software_disabled,
);

guest!(irq_wait:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "2: out SYNC, al",
    "jmp 2b",
);

/// KVM_SIGNAL_MSI: each vector arrives once, by physical, logical and broadcast destination.
fn irq_msi() -> TestResult {
    let mut m = Machine::irqchip(irq_wait())?;
    m.run_sync()?;
    for vector in [0x20, 0x41, 0x42, 0x80, 0xef, 0xfe] {
        check_eq!(m.vm.signal_msi(0xfee0_0000, vector)?, 1, "MSI with vector {vector:#x}");
        m.run_sync()?;
        m.run_sync()?;
        check_eq!(m.irq_count(vector.into()), 1, "vector {vector:#x}");
    }
    check_eq!(m.vm.signal_msi(0xfeef_f000, 0x55)?, 1, "broadcast");
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.irq_count(0x55), 1);
    // Many of the same vector before the guest runs are one interrupt.
    for _ in 0..5 {
        m.vm.signal_msi(0xfee0_0000, 0x66)?;
    }
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.irq_count(0x66), 1, "coalesced");
    check_eq!(m.irq_log().len(), 8);
    Ok(())
}

/// A message to an APIC that does not exist arrives nowhere.
fn irq_msi_no_one() -> TestResult {
    let mut m = Machine::irqchip(irq_wait())?;
    m.run_sync()?;
    check!(m.vm.signal_msi(0xfee2_2000, 0x41).unwrap_or(-1) <= 0);
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.irq_log(), []);
    Ok(())
}

guest!(self_ipi:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "mov ebx, 50",
    "2:",
    "mov dword ptr [rbp + 0x300], 0x40041", // shorthand: self
    "nop",
    "mov dword ptr [rbp + 0x310], 0",       // physical destination 0
    "mov dword ptr [rbp + 0x300], 0x42",
    "nop",
    "mov dword ptr [rbp + 0x300], 0x80043", // all including self
    "nop",
    "mov dword ptr [rbp + 0x300], 0xc0044", // all but self: no one
    "nop",
    "mov eax, [rbp + 0x300]",
    "test eax, 0x1000", "jnz 3f",           // delivery status
    "dec ebx", "jnz 2b",
    "3: out DONE, al",
);

/// IPIs to oneself through the ICR's shorthands and by destination.
fn irq_self_ipi_xapic() -> TestResult {
    let mut m = Machine::irqchip(self_ipi())?;
    check_eq!(m.run_done()?.rbx, 0, "rounds left");
    check_eq!([0x41, 0x42, 0x43, 0x44].map(|v| m.irq_count(v)), [50, 50, 50, 0]);
    Ok(())
}

guest!(self_ipi_x2:
    "mov ecx, 0x1b", "rdmsr", "or eax, 0xc00", "wrmsr",
    "mov ecx, 0x80f", "mov eax, 0x1ff", "xor edx, edx", "wrmsr",
    "sti",
    "mov ebx, 50",
    "2:",
    "mov ecx, 0x83f", "mov eax, 0x41", "xor edx, edx", "wrmsr", // self IPI register
    "nop",
    "mov ecx, 0x830", "mov eax, 0x40042", "wrmsr",
    "nop",
    "mov ecx, 0x802", "rdmsr", "mov edx, eax",
    "mov ecx, 0x830", "mov eax, 0x43", "wrmsr", // physical destination: our ID
    "nop",
    "dec ebx", "jnz 2b",
    "out DONE, al",
);

/// The same in x2APIC mode.
fn irq_self_ipi_x2apic() -> TestResult {
    let mut m = Machine::irqchip(self_ipi_x2())?;
    m.mem.set(EOI_MODE, EOI_X2APIC);
    m.run_done()?;
    check_eq!([0x41, 0x42, 0x43].map(|v| m.irq_count(v)), [50, 50, 50]);
    Ok(())
}

guest!(priorities:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x300], 0x40031",
    "mov dword ptr [rbp + 0x300], 0x40091",
    "mov dword ptr [rbp + 0x300], 0x40051",
    "mov dword ptr [rbp + 0x300], 0x40052",
    "mov dword ptr [rbp + 0x300], 0x400f1",
    "mov dword ptr [rbp + 0x300], 0x40020",
    "sti",
    "nop",
    "cli",
    "out DONE, al",
);

/// Pending interrupts are delivered from the highest vector down.
fn irq_priority_order() -> TestResult {
    let mut m = Machine::irqchip(priorities())?;
    m.run_done()?;
    check_eq!(m.irq_log(), [0xf1, 0x91, 0x52, 0x51, 0x31, 0x20]);
    Ok(())
}

guest!(tpr:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "mov dword ptr [rbp + 0x80], 0x50",
    "mov dword ptr [rbp + 0x300], 0x40051",
    "mov dword ptr [rbp + 0x300], 0x4004f",
    "mov dword ptr [rbp + 0x300], 0x40061",
    "nop",
    "mov eax, [rbp + 0xa0]", "mov [DATA], rax", // PPR
    "mov eax, [0xd000]", "mov [DATA + 8], rax", // first vector in the log
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 16], rax",
    "mov rax, cr8", "mov [DATA + 24], rax",
    "mov dword ptr [rbp + 0x80], 0x4f",
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 32], rax",
    "mov dword ptr [rbp + 0x80], 0",
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 40], rax",
    "out DONE, al",
);

/// The task priority holds back interrupts of its class and below, until it is lowered.
fn irq_tpr_blocks() -> TestResult {
    let mut m = Machine::irqchip(tpr())?;
    m.run_done()?;
    check_eq!(m.data(0), 0x50, "PPR");
    check_eq!(m.data(1), 0x61, "the vector above the priority");
    check_eq!(m.data(2), 1, "interrupts while TPR is 0x50");
    check_eq!(m.data(3), 5, "CR8");
    check_eq!(m.data(4), 2, "interrupts after TPR 0x4f");
    check_eq!(m.data(5), 3, "interrupts after TPR 0");
    check_eq!(m.irq_log(), [0x61, 0x51, 0x4f]);
    Ok(())
}

guest!(cr8_blocks:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "mov ebx, 50",
    "2:",
    "mov eax, 9", "mov cr8, rax",
    "mov dword ptr [rbp + 0x300], 0x40091",
    "nop",
    "cmp dword ptr [IRQ_COUNTS + 0x91 * 4], 0", "jne 3f",
    "mov eax, [rbp + 0x80]", "cmp eax, 0x90", "jne 3f",
    "mov eax, 8", "mov cr8, rax",
    "nop",
    "cmp dword ptr [IRQ_COUNTS + 0x91 * 4], 1", "jne 3f",
    "mov dword ptr [IRQ_COUNTS + 0x91 * 4], 0",
    "dec ebx", "jnz 2b",
    "3: out DONE, al",
);

/// The same through CR8, which processors may handle without an exit.
fn irq_cr8_blocks() -> TestResult {
    let mut m = Machine::irqchip(cr8_blocks())?;
    check_eq!(m.run_done()?.rbx, 0, "rounds left");
    Ok(())
}

guest!(in_service:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov qword ptr [0xc850], 0", // the stubs send no EOI
    "sti",
    "mov dword ptr [rbp + 0x300], 0x40061",
    "nop",
    "mov dword ptr [rbp + 0x300], 0x40051", // held back
    "nop",
    "mov dword ptr [rbp + 0x300], 0x40062", // same class: held back
    "nop",
    "mov dword ptr [rbp + 0x300], 0x40071", // above
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA], rax",
    "mov eax, [rbp + 0xa0]", "mov [DATA + 8], rax",
    "mov dword ptr [rbp + 0xb0], 0", // ends 0x71
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 16], rax",
    "mov dword ptr [rbp + 0xb0], 0", // ends 0x61: 0x62 comes
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 24], rax",
    "mov dword ptr [rbp + 0xb0], 0", // ends 0x62: 0x51 comes
    "nop",
    "mov dword ptr [rbp + 0xb0], 0",
    "mov dword ptr [rbp + 0xb0], 0", // one more than needed
    "out DONE, al",
);

/// An interrupt in service holds back its class and below until its EOI.
fn irq_in_service_blocks() -> TestResult {
    let mut m = Machine::irqchip(in_service())?;
    m.run_done()?;
    check_eq!(m.irq_log(), [0x61, 0x71, 0x62, 0x51]);
    check_eq!(m.data(0), 2, "delivered before the first EOI");
    check_eq!(m.data(1), 0x70, "PPR");
    check_eq!([m.data(2), m.data(3)], [2, 3], "delivered after each EOI");
    Ok(())
}

guest!(irr_isr:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov qword ptr [0xc850], 0",
    "mov dword ptr [rbp + 0x300], 0x40045",
    "mov eax, [rbp + 0x220]", "mov [DATA], rax",      // IRR
    "mov eax, [rbp + 0x120]", "mov [DATA + 8], rax",  // ISR
    "sti", "nop", "cli",
    "mov eax, [rbp + 0x220]", "mov [DATA + 16], rax",
    "mov eax, [rbp + 0x120]", "mov [DATA + 24], rax",
    "mov dword ptr [rbp + 0xb0], 0",
    "mov eax, [rbp + 0x120]", "mov [DATA + 32], rax",
    "out DONE, al",
);

/// Request and in-service bits as the guest reads them.
fn irq_irr_isr_bits() -> TestResult {
    let mut m = Machine::irqchip(irr_isr())?;
    m.run_done()?;
    let seen: [u64; 5] = std::array::from_fn(|i| m.data(i as u64));
    check_eq!(seen, [1 << 5, 0, 0, 1 << 5, 0]);
    Ok(())
}

guest!(sti_shadow:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov ebx, 0",
    "mov dword ptr [rbp + 0x300], 0x40045",
    "sti",
    "inc ebx",
    "inc ebx",
    "cli",
    "mov rax, [IRQ_LOGGED]", "mov [DATA], rax",
    // In the shadow of STI, CLI wins.
    "mov dword ptr [rbp + 0x300], 0x40046",
    "sti",
    "cli",
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 8], rax",
    "sti",
    "nop",
    "mov rax, [IRQ_LOGGED]", "mov [DATA + 16], rax",
    "out DONE, al",
);

/// The instruction after STI runs before an interrupt comes.
fn irq_sti_shadow() -> TestResult {
    let mut m = Machine::irqchip(sti_shadow())?;
    m.run_done()?;
    let seen = [m.data(0), m.data(1), m.data(2)];
    check_eq!(seen, [1, 1, 2], "interrupts so far");
    Ok(())
}

guest!(hlt_wakes:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov ebx, 50",
    "2:",
    "cli",
    "mov dword ptr [rbp + 0x300], 0x40045",
    "sti",
    "hlt",
    "dec ebx", "jnz 2b",
    "out DONE, al",
);

/// STI; HLT with an interrupt pending does not sleep, and goes on behind the HLT.
fn irq_hlt_wakes() -> TestResult {
    let mut m = Machine::irqchip(hlt_wakes())?;
    m.run_done()?;
    check_eq!(m.irq_count(0x45), 50);
    Ok(())
}

guest!(software_disabled:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x0ff",
    "sti",
    "2: out SYNC, al",
    "jmp 2b",
);

/// An APIC that is disabled by software takes no fixed interrupts.
fn irq_software_disabled() -> TestResult {
    let mut m = Machine::irqchip(software_disabled())?;
    m.run_sync()?;
    check!(m.vm.signal_msi(0xfee0_0000, 0x41)? <= 0, "delivered to a disabled APIC");
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.irq_log(), []);
    Ok(())
}
