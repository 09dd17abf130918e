// SPDX-License-Identifier: GPL-2.0-only
//! Ends of interrupts without an exit: when the guest is offered one, and what becomes of it.

use kvm_bindings as kb;

use super::pv::{need, AREA};
use crate::guest::*;
use crate::harness::{Outcome, TestResult};
use crate::machine::*;

tests!(
    pv_eoi_silent,
    pv_eoi_waiting,
    pv_eoi_level,
    pv_eoi_taken_back,
    pv_eoi_seen_by_vmm,
    pv_eoi_register,
);

const PV_EOI: u32 = 1 << 6;
const EOI_MSR: u32 = 0x4b56_4d04;

/// Where the handler of all vectors from 0x40 on is.
const HANDLER: u64 = FREE + 0x2000;

guest!(eoi_handler:
    // Counts interrupts and offers, and ends the interrupt as Linux does.
    "push rax",
    "movzx eax, byte ptr [0x40000]",
    "and eax, 1",
    "add [DATA + 64], rax",
    "inc qword ptr [DATA + 72]",
    "cmp qword ptr [DATA + 80], 0", "je 3f",
    // The VMM looks at us before the end, or after it.
    "cmp qword ptr [DATA + 80], 1", "jne 3f",
    "out SYNC, al",
    "3: btr dword ptr [0x40000], 0", "jc 4f",
    "mov eax, 0xfee000b0", "mov dword ptr [rax], 0",
    "4: cmp qword ptr [DATA + 80], 2", "jne 5f",
    "out SYNC, al",
    "5: pop rax",
    "iretq",
);

guest!(eoi_sender:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov ecx, 0x4b564d04", "mov eax, 0x40001", "xor edx, edx", "wrmsr",
    "sti",
    "2: mov dword ptr [rbp + 0x300], 0x40041", // shorthand: self
    "nop",
    "dec ebx", "jnz 2b",
    "out DONE, al",
);

guest!(eoi_waiter:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov ecx, 0x4b564d04", "mov eax, 0x40001", "xor edx, edx", "wrmsr",
    "2: cli",
    "out DONE, al",
    "sti", "nop",
    "jmp 2b",
);

fn machine(code: &[u8]) -> std::result::Result<Machine, Outcome> {
    let m = Machine::irqchip(code)?;
    need(&m, PV_EOI)?;
    m.mem.write(HANDLER, eoi_handler());
    for vector in 0x40..=0xff {
        m.set_gate(vector, HANDLER);
    }
    Ok(m)
}

/// How many interrupts came, and how many of them with an offer.
fn counts(m: &Machine) -> (u64, u64) {
    (m.data(9), m.data(8))
}

/// The vectors in service, as the VMM finds them.
fn in_service(m: &Machine) -> std::result::Result<Vec<usize>, Outcome> {
    let state: kb::kvm_lapic_state = m.vcpu.lapic()?;
    let bit = |vector: usize| state.regs[0x100 + vector / 32 * 16 + vector % 32 / 8] >> (vector % 8) & 1;
    Ok((0..256).filter(|&vector| bit(vector) != 0).collect())
}

/// An edge alone can be ended without an exit, and the next one comes.
fn pv_eoi_silent() -> TestResult {
    let mut m = machine(eoi_sender())?;
    m.with_regs(|r| r.rbx = 200)?;
    m.run_done()?;
    let (came, offered) = counts(&m);
    check_eq!(came, 200);
    // An interrupt of the host's may end the stay in the guest that an offer stands for.
    check!(offered >= 150, "{offered} of {came} could be ended without an exit");
    check_eq!(in_service(&m)?, []);
    check_eq!(m.mem.get(AREA) & 1, 0, "no offer is left");
    Ok(())
}

/// When another interrupt waits its turn, the host must see the end.
fn pv_eoi_waiting() -> TestResult {
    let mut m = machine(eoi_waiter())?;
    m.run_done()?;
    for vector in [0x41, 0x51, 0x61] {
        m.vm.signal_msi(0xfee0_0000, vector)?;
    }
    m.run_done()?;
    let (came, offered) = counts(&m);
    check_eq!(came, 3);
    check!(offered <= 1, "{offered} offers; only the last interrupt keeps none waiting");
    check_eq!(in_service(&m)?, []);
    Ok(())
}

/// The I/O APIC must hear of the end of a level-triggered one, and sends the next.
fn pv_eoi_level() -> TestResult {
    let mut m = machine(eoi_waiter())?;
    m.run_done()?;
    // One that no PIC has.
    const PIN: u32 = 20;
    let mut chip = kb::kvm_irqchip { chip_id: kb::KVM_IRQCHIP_IOAPIC, ..Default::default() };
    crate::kvm::ioctl_out(m.vm.fd(), crate::kvm::KVM_GET_IRQCHIP, &mut chip)?;
    // SAFETY: the chip that was asked for; plain integers.
    unsafe { chip.chip.ioapic.redirtbl[PIN as usize].bits = 1 << 15 | 0x55 };
    crate::kvm::ioctl_in(m.vm.fd(), crate::kvm::KVM_SET_IRQCHIP, &chip)?;
    for round in 1..=5 {
        m.vm.irq_line(PIN, 1)?;
        // The handler's end of it is heard of, else no second one would come.
        m.set_data(10, 1);
        m.run_sync()?;
        m.vm.irq_line(PIN, 0)?;
        m.run_done()?;
        check_eq!(counts(&m), (round, 0));
        check_eq!(in_service(&m)?, []);
    }
    Ok(())
}

/// An offer does not outlive the stay in the guest for which it was made, or it is still to be accepted.
fn pv_eoi_taken_back() -> TestResult {
    let mut m = machine(eoi_waiter())?;
    m.run_done()?;
    m.vm.signal_msi(0xfee0_0000, 0x41)?;
    m.set_data(10, 1);
    m.run_sync()?;
    check_eq!(in_service(&m)?, [0x41]);
    check_eq!(m.mem.get(AREA) & 1, 0, "the offer, in the VMM's hands");
    m.run_done()?;
    check_eq!(in_service(&m)?, []);
    check_eq!(counts(&m).0, 1);
    Ok(())
}

/// What the guest has ended is not in service for the VMM.
fn pv_eoi_seen_by_vmm() -> TestResult {
    let mut m = machine(eoi_waiter())?;
    m.run_done()?;
    for _ in 0..5 {
        m.vm.signal_msi(0xfee0_0000, 0x41)?;
        m.set_data(10, 2);
        m.run_sync()?;
        check_eq!(in_service(&m)?, []);
        m.run_done()?;
    }
    check_eq!(counts(&m).0, 5);
    Ok(())
}

/// The register is saved and restored, and refuses what it can't be.
fn pv_eoi_register() -> TestResult {
    let m = machine(eoi_waiter())?;
    check_eq!(m.vcpu.msr(EOI_MSR)?, Some(0));
    for value in [AREA | 1, AREA, AREA | 5, 0] {
        check!(m.vcpu.set_msr(EOI_MSR, value)?, "{value:#x}");
        check_eq!(m.vcpu.msr(EOI_MSR)?, Some(value));
    }
    for value in [AREA | 2, AREA | 3, MMIO | 1] {
        check!(!m.vcpu.set_msr(EOI_MSR, value)?, "{value:#x}");
        check_eq!(m.vcpu.msr(EOI_MSR)?, Some(0));
    }
    Ok(())
}
