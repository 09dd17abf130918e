// SPDX-License-Identifier: GPL-2.0-only
//! The in-kernel PICs: requests, ends, the cascade, spurious interrupts, and their state.

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{Outcome, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(
    irq_pic_edge,
    irq_pic_cascade,
    irq_pic_order,
    irq_pic_level,
    irq_pic_spurious,
    irq_pic_lint0_masked,
    irq_pic_auto_eoi,
    irq_pic_ports,
    irq_pic_state,
    irq_pic_state_bad,
);

guest!(pic_wait:
    // Vectors 0x30 and 0x38, ICW4 from RSI, masks from RDI.
    "mov al, 0x11", "out 0x20, al", "out 0xa0, al",
    "mov al, 0x30", "out 0x21, al",
    "mov al, 0x38", "out 0xa1, al",
    "mov al, 4", "out 0x21, al",
    "mov al, 2", "out 0xa1, al",
    "mov eax, esi", "out 0x21, al", "out 0xa1, al",
    "mov eax, edi", "out 0x21, al",
    "shr eax, 8", "out 0xa1, al",
    "sti",
    "2: out SYNC, al",
    "mov eax, [DATA]",
    "mov dword ptr [DATA], 0",
    "test al, 1", "jz 3f",
    "push rax", "mov al, 0x20", "out 0x20, al", "pop rax",
    "3: test al, 2", "jz 4f",
    "push rax", "mov al, 0x20", "out 0xa0, al", "pop rax",
    "4: test al, 4", "jz 2b",
    // Masks LINT0.
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0x350], 0x10000",
    "jmp 2b",
);

/// EOI to the master.
const END_MASTER: u64 = 1;
/// EOI to both.
const END_BOTH: u64 = 3;
/// Mask LINT0.
const MASK_LINT0: u64 = 4;

fn machine(masks: u64, icw4: u64) -> std::result::Result<Machine, Outcome> {
    let mut m = Machine::irqchip(pic_wait())?;
    m.mem.set(EOI_MODE, EOI_NONE);
    m.with_regs(|r| (r.rdi, r.rsi) = (masks, icw4))?;
    m.run_sync()?;
    // Nothing but the PICs.
    let mut routes = Vec::new();
    for gsi in 0..16 {
        routes.push(pic_route(gsi));
    }
    m.vm.set_routes(&routes)?;
    Ok(m)
}

fn pic_route(gsi: u32) -> kb::kvm_irq_routing_entry {
    let irqchip = kb::kvm_irq_routing_irqchip { irqchip: gsi / 8, pin: gsi % 8 };
    kb::kvm_irq_routing_entry {
        gsi,
        type_: kb::KVM_IRQ_ROUTING_IRQCHIP,
        u: kb::kvm_irq_routing_entry__bindgen_ty_1 { irqchip },
        ..Default::default()
    }
}

/// Tells the guest to do something, and lets it run a few rounds.
fn tell(m: &mut Machine, what: u64) -> TestResult {
    m.set_data(0, what);
    for _ in 0..3 {
        m.run_sync()?;
    }
    Ok(())
}

fn pulse(m: &Machine, irq: u32) -> TestResult {
    m.vm.irq_line(irq, 1)?;
    Ok(m.vm.irq_line(irq, 0)?)
}

/// One interrupt for each edge, and none until the last one has ended.
fn irq_pic_edge() -> TestResult {
    let mut m = machine(0, 1)?;
    for round in 1..=5 {
        pulse(&m, 4)?;
        tell(&mut m, 0)?;
        check_eq!(m.irq_count(0x34), 2 * round - 1, "after the edge");
        pulse(&m, 4)?;
        tell(&mut m, 0)?;
        check_eq!(m.irq_count(0x34), 2 * round - 1, "while in service");
        tell(&mut m, END_MASTER)?;
        check_eq!(m.irq_count(0x34), 2 * round, "after its end");
        tell(&mut m, END_MASTER)?;
    }
    check_eq!(m.irq_log().len(), 10);
    Ok(())
}

/// All inputs but the cascade, the slave's by the master's.
fn irq_pic_cascade() -> TestResult {
    let mut m = machine(0, 1)?;
    for irq in (0..16).filter(|&irq| irq != 2) {
        pulse(&m, irq)?;
        tell(&mut m, 0)?;
        check_eq!(m.irq_count(0x30 + u64::from(irq)), 1, "input {irq}");
        tell(&mut m, if irq < 8 { END_MASTER } else { END_BOTH })?;
    }
    check_eq!(m.irq_log().len(), 15);
    Ok(())
}

/// The inputs' priorities decide in which order requests are taken.
fn irq_pic_order() -> TestResult {
    let mut m = machine(0xffff, 1)?;
    for irq in [7, 5, 3, 12, 9, 1] {
        pulse(&m, irq)?;
    }
    tell(&mut m, 0)?;
    check_eq!(m.irq_log(), [], "all masked");
    // A machine of its own state: unmasked by KVM_SET_IRQCHIP.
    for chip_id in [1, 0] {
        let mut chip = get(&m, chip_id)?;
        chip.chip.pic.imr = 0;
        ioctl_in(m.vm.fd(), KVM_SET_IRQCHIP, &chip)?;
    }
    for _ in 0..6 {
        tell(&mut m, 0)?;
        tell(&mut m, END_BOTH)?;
    }
    check_eq!(m.irq_log(), [0x31, 0x39, 0x3c, 0x33, 0x35, 0x37]);
    Ok(())
}

guest!(pic_level:
    "mov dx, 0x4d0", "mov al, 0x20", "out dx, al", // input 5
    "in al, dx", "mov [DATA + 8], al",
    "mov al, 0x11", "out 0x20, al",
    "mov al, 0x30", "out 0x21, al",
    "mov al, 4", "out 0x21, al",
    "mov al, 1", "out 0x21, al",
    "mov al, 0", "out 0x21, al",
    "sti",
    "2: out DONE, al",
    "jmp 2b",
    ".org 99b + 0x100",
    "inc qword ptr [DATA]",
    "out SYNC, al",
    "mov al, 0x20", "out 0x20, al",
    "iretq",
);

/// A level-triggered input (ELCR) interrupts again after each end, until its line falls.
fn irq_pic_level() -> TestResult {
    let mut m = Machine::irqchip(pic_level())?;
    m.set_gate(0x35, CODE + 0x100);
    m.run_done()?;
    check_eq!(m.data(1), 0x20, "ELCR");
    m.vm.irq_line(5, 1)?;
    for i in 1..=5 {
        m.run_sync()?;
        check_eq!(m.data(0), i);
    }
    m.vm.irq_line(5, 0)?;
    m.run_done()?;
    m.run_done()?;
    check_eq!(m.data(0), 5);
    Ok(())
}

/// A slave's request that is gone when it is acknowledged is its input 7.
fn irq_pic_spurious() -> TestResult {
    let mut m = machine(0, 1)?;
    pulse(&m, 10)?;
    let mut chip = get(&m, 1)?;
    chip.chip.pic.irr = 0;
    ioctl_in(m.vm.fd(), KVM_SET_IRQCHIP, &chip)?;
    tell(&mut m, 0)?;
    check_eq!(m.irq_log(), [0x3f]);
    let (master, slave) = (get(&m, 0)?, get(&m, 1)?);
    // SAFETY: every bit pattern is a valid PIC state.
    unsafe {
        check_eq!(master.chip.pic.isr, 4, "the cascade is in service");
        check_eq!(slave.chip.pic.isr, 0, "a spurious interrupt is not");
    }
    Ok(())
}

/// The PICs reach the processor by LINT0 only.
fn irq_pic_lint0_masked() -> TestResult {
    let mut m = machine(0, 1)?;
    tell(&mut m, MASK_LINT0)?;
    pulse(&m, 4)?;
    tell(&mut m, 0)?;
    check_eq!(m.irq_log(), []);
    let mut lapic = m.vcpu.lapic()?;
    lapic.regs[0x350..0x354].fill(0);
    lapic.regs[0x351] = 7;
    m.vcpu.set_lapic(&lapic)?;
    tell(&mut m, 0)?;
    check_eq!(m.irq_log(), [0x34], "after unmasking");
    Ok(())
}

/// Automatic ends: every edge is an interrupt.
fn irq_pic_auto_eoi() -> TestResult {
    let mut m = machine(0, 3)?;
    for round in 1..=5 {
        for irq in [3, 11] {
            pulse(&m, irq)?;
            tell(&mut m, 0)?;
            check_eq!(m.irq_count(0x30 + u64::from(irq)), round);
        }
    }
    Ok(())
}

guest!(pic_ports:
    "mov al, 0x11", "out 0x20, al",
    "mov al, 0x47", "out 0x21, al",
    "mov al, 4", "out 0x21, al",
    "mov al, 1", "out 0x21, al",
    "mov al, 0xa5", "out 0x21, al",
    "mov eax, -1", "in al, 0x21", "mov [DATA], rax",
    "mov al, 0x0b", "out 0x20, al", "in al, 0x20", "mov [DATA + 8], rax",
    // Without requests a poll finds none.
    "mov al, 0x0c", "out 0x20, al", "in al, 0x20", "and eax, 0x80", "mov [DATA + 16], rax",
    // Words are not for these ports.
    "mov eax, 0xffff", "out 0x20, ax",
    "in al, 0x21", "movzx eax, al", "mov [DATA + 24], rax",
    // A string of bytes.
    "lea rsi, [rip + 5f]", "mov edx, 0x21", "mov ecx, 2", "cld", "rep outsb",
    "in al, 0x21", "movzx eax, al", "mov [DATA + 32], rax",
    "out DONE, al",
    "5: .byte 0x11, 0x22",
);

/// Registers as the guest finds them.
fn irq_pic_ports() -> TestResult {
    let mut m = Machine::irqchip(pic_ports())?;
    m.run_done()?;
    check_eq!(m.data(0) & 0xff, 0xa5, "IMR");
    check_eq!(m.data(1) & 0xff, 0, "ISR");
    check_eq!(m.data(2), 0, "poll");
    check_eq!(m.data(3), 0xa5, "IMR after a word");
    check_eq!(m.data(4), 0x22, "IMR after a string");
    let chip = get(&m, 0)?;
    // SAFETY: every bit pattern is a valid PIC state.
    check_eq!(unsafe { chip.chip.pic.irq_base }, 0x40);
    Ok(())
}

fn get(m: &Machine, chip_id: u32) -> std::result::Result<kb::kvm_irqchip, Outcome> {
    let mut chip = kb::kvm_irqchip { chip_id, ..Default::default() };
    ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip)?;
    Ok(chip)
}

/// What is in service and requested moves to another machine with KVM_GET/SET_IRQCHIP.
fn irq_pic_state() -> TestResult {
    let mut m = machine(0, 1)?;
    pulse(&m, 3)?;
    tell(&mut m, 0)?;
    pulse(&m, 6)?;
    pulse(&m, 3)?;
    let mut other = Machine::irqchip(pic_wait())?;
    other.mem.set(EOI_MODE, EOI_NONE);
    other.run_sync()?;
    for chip_id in 0..2 {
        let chip = get(&m, chip_id)?;
        ioctl_in(other.vm.fd(), KVM_SET_IRQCHIP, &chip)?;
        let back = get(&other, chip_id)?;
        // SAFETY: every bit pattern is a valid PIC state.
        let (chip, back) = unsafe { (chip.chip.pic, back.chip.pic) };
        check_eq!((back.irr, back.isr, back.imr), (chip.irr, chip.isr, chip.imr));
        check_eq!((back.irq_base, back.init4), (chip.irq_base, chip.init4));
        check_eq!(back.elcr_mask, [0xf8, 0xde][chip_id as usize]);
    }
    tell(&mut other, 0)?;
    check_eq!(other.irq_log(), [], "3 is still in service");
    tell(&mut other, END_MASTER)?;
    tell(&mut other, END_MASTER)?;
    check_eq!(other.irq_log(), [0x33, 0x36]);
    Ok(())
}

/// Controllers that do not exist.
fn irq_pic_state_bad() -> TestResult {
    let m = Machine::irqchip(pic_wait())?;
    for chip_id in [3, u32::MAX] {
        let mut chip = kb::kvm_irqchip { chip_id, ..Default::default() };
        check_errno!(ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip), libc::EINVAL);
        check_errno!(ioctl_in(m.vm.fd(), KVM_SET_IRQCHIP, &chip), libc::EINVAL);
    }
    let none = Machine::long(pic_wait())?;
    let mut chip = kb::kvm_irqchip::default();
    check_errno!(ioctl_out(none.vm.fd(), KVM_GET_IRQCHIP, &mut chip), libc::ENXIO);
    check_errno!(ioctl_in(none.vm.fd(), KVM_SET_IRQCHIP, &chip), libc::ENXIO);
    Ok(())
}
