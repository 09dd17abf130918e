// SPDX-License-Identifier: GPL-2.0-only
//! Events that userspace injects: interrupts without in-kernel APIC, NMIs, exceptions.

use std::ops::ControlFlow::Continue;

use crate::guest::*;
use crate::harness::{fail, TestResult};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    irq_interrupt_direct,
    irq_interrupt_window,
    irq_interrupt_after_hlt,
    irq_interrupt_state,
    irq_nmi,
    irq_nmi_masked,
    irq_inject_exceptions,
    irq_inject_page_fault,
    irq_inject_from_events,
);

guest!(inject_loop:
    "sti",
    "2: out SYNC, al",
    "jmp 2b",
);

/// KVM_INTERRUPT while the guest accepts interrupts: each one is delivered, with its vector.
fn irq_interrupt_direct() -> TestResult {
    let mut m = Machine::long(inject_loop())?;
    m.run_sync()?;
    m.run_sync()?;
    for vector in [0x20, 0x30, 0x80, 0xff, 0x20] {
        check_eq!(m.vcpu.kvm_run().ready_for_interrupt_injection, 1);
        m.vcpu.interrupt(vector)?;
        m.run_sync()?;
        m.run_sync()?;
    }
    check_eq!(m.irq_log(), [0x20, 0x30, 0x80, 0xff, 0x20]);
    Ok(())
}

guest!(window:
    "cli",
    "mov ecx, 1000",
    "2: dec ecx", "jnz 2b",
    "out SYNC, al",
    "nop",
    "sti",
    "nop",
    "mov ebx, 1",
    "3: cmp dword ptr [IRQ_COUNTS + 0x41 * 4], 0",
    "je 3b",
    "out DONE, al",
);

/// request_interrupt_window gives an exit as soon as the guest accepts interrupts, not before.
fn irq_interrupt_window() -> TestResult {
    let mut m = Machine::long(window())?;
    m.vcpu.kvm_run().request_interrupt_window = 1;
    m.run_sync()?;
    let run = m.vcpu.kvm_run();
    check_eq!((run.if_flag, run.ready_for_interrupt_injection), (0, 0), "with IF clear");
    check_eq!(m.run()?, Exit::IrqWindow);
    let run = m.vcpu.kvm_run();
    check_eq!((run.if_flag, run.ready_for_interrupt_injection), (1, 1), "with IF set");
    run.request_interrupt_window = 0;
    m.vcpu.interrupt(0x41)?;
    m.run_done()?;
    check_eq!(m.irq_log(), [0x41]);
    Ok(())
}

guest!(hlt_interrupt:
    "mov ebx, 20",
    "2: sti",
    "hlt",
    "dec ebx", "jnz 2b",
    "out DONE, al",
);

/// The classic loop of a VMM with its own interrupt controller: HLT, inject, run.
fn irq_interrupt_after_hlt() -> TestResult {
    let mut m = Machine::long(hlt_interrupt())?;
    let regs = m.run_with(|m, exit| match exit {
        Exit::Hlt => {
            check_eq!(m.vcpu.kvm_run().if_flag, 1);
            m.vcpu.interrupt(0x41)?;
            Ok(Continue(()))
        }
        other => fail(format!("unexpected {other:x?}")),
    })?;
    check_eq!(regs.rbx, 0);
    check_eq!(m.irq_count(0x41), 20);
    Ok(())
}

/// A queued interrupt is part of the state: it shows in KVM_GET_SREGS and moves with it.
fn irq_interrupt_state() -> TestResult {
    let mut m = Machine::long(inject_loop())?;
    m.run_sync()?;
    m.run_sync()?;
    m.vcpu.interrupt(0x61)?;
    let sregs = m.vcpu.sregs()?;
    check_eq!(sregs.interrupt_bitmap, [0, 1 << 33, 0, 0], "bitmap in the special registers");
    let events = m.vcpu.events()?;
    check_eq!((events.interrupt.injected, events.interrupt.nr), (1, 0x61));
    // Another machine in the same state takes it over.
    let mut other = Machine::long(inject_loop())?;
    other.vcpu.set_regs(&m.vcpu.regs()?)?;
    other.vcpu.set_sregs(&sregs)?;
    other.run_sync()?;
    other.run_sync()?;
    check_eq!(other.irq_log(), [0x61]);
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.irq_log(), [0x61]);
    Ok(())
}

guest!(nmi_loop:
    "cli",
    "mov qword ptr [RETURN_MASK], 4",
    "2: out SYNC, al",
    "jmp 2b",
);

/// KVM_NMI reaches the guest though IF is clear.
fn irq_nmi() -> TestResult {
    let mut m = Machine::long(nmi_loop())?;
    m.run_sync()?;
    for round in 1..=10 {
        m.vcpu.nmi()?;
        m.run_sync()?;
        m.run_sync()?;
        check_eq!(m.mem.get(EXC), round, "number of NMIs");
        check_eq!(m.mem.get(EXC_VECTOR), 2);
    }
    Ok(())
}

guest!(nmi_handler:
    "cli",
    "2: out SYNC, al",
    "jmp 2b",
    ".org 99b + 0x100",
    "inc qword ptr [DATA]",
    "out SYNC, al",
    "out SYNC, al",
    "inc qword ptr [DATA + 8]",
    "iretq",
);

/// During the handler of an NMI the next one waits for IRET.
fn irq_nmi_masked() -> TestResult {
    let mut m = Machine::long(nmi_handler())?;
    m.set_gate(2, CODE + 0x100);
    m.run_sync()?;
    m.vcpu.nmi()?;
    m.run_sync()?;
    check_eq!((m.data(0), m.data(1)), (1, 0), "in the handler");
    check_eq!(m.vcpu.events()?.nmi.masked, 1, "masked in the handler");
    m.vcpu.nmi()?;
    m.run_sync()?;
    check_eq!((m.data(0), m.data(1)), (1, 0), "the second NMI waits");
    m.run_sync()?;
    check_eq!((m.data(0), m.data(1)), (2, 1), "the second NMI after IRET");
    m.run_sync()?;
    m.run_sync()?;
    check_eq!((m.data(0), m.data(1)), (2, 2));
    check_eq!(m.vcpu.events()?.nmi.masked, 0);
    Ok(())
}

guest!(exception_loop:
    "2: out SYNC, al",
    "jmp 2b",
    ".org 99b + 0x80",
    "out DONE, al",
);

/// KVM_SET_VCPU_EVENTS injects exceptions with and without error codes.
fn irq_inject_exceptions() -> TestResult {
    for (vector, error) in
        [(6u8, None), (13, Some(0)), (13, Some(0x50)), (0, None), (12, Some(0x10)), (17, Some(0))]
    {
        let mut m = Machine::long(exception_loop())?;
        m.mem.set(FIXUP, CODE + 0x80);
        m.run_sync()?;
        let mut events = m.vcpu.events()?;
        events.exception.injected = 1;
        events.exception.nr = vector;
        events.exception.has_error_code = error.is_some().into();
        events.exception.error_code = error.unwrap_or(0);
        m.vcpu.set_events(&events)?;
        let seen = m.vcpu.events()?.exception;
        check_eq!((seen.injected, seen.nr), (1, vector), "read back");
        m.run_done()?;
        check_eq!(m.mem.get(EXC), 1, "number of exceptions");
        check_eq!(m.mem.get(EXC_VECTOR), u64::from(vector));
        check_eq!(m.mem.get(EXC_ERROR), u64::from(error.unwrap_or(0)), "error code");
        check_eq!(m.vcpu.events()?.exception.injected, 0, "injected once");
    }
    Ok(())
}

/// An injected page fault finds CR2 as userspace set it.
fn irq_inject_page_fault() -> TestResult {
    let mut m = Machine::long(exception_loop())?;
    m.mem.set(FIXUP, CODE + 0x80);
    m.run_sync()?;
    m.with_sregs(|s| s.cr2 = 0x1234_5678_9abc)?;
    let mut events = m.vcpu.events()?;
    (events.exception.injected, events.exception.nr) = (1, 14);
    (events.exception.has_error_code, events.exception.error_code) = (1, 2);
    m.vcpu.set_events(&events)?;
    m.run_done()?;
    check_eq!((m.mem.get(EXC_VECTOR), m.mem.get(EXC_ERROR)), (14, 2));
    check_eq!(m.mem.get(EXC_CR2), 0x1234_5678_9abc);
    Ok(())
}

/// Interrupts and NMIs through KVM_SET_VCPU_EVENTS, as after a migration.
fn irq_inject_from_events() -> TestResult {
    let mut m = Machine::long(inject_loop())?;
    m.run_sync()?;
    m.run_sync()?;
    let mut events = m.vcpu.events()?;
    (events.interrupt.injected, events.interrupt.nr) = (1, 0x77);
    m.vcpu.set_events(&events)?;
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.irq_log(), [0x77]);
    m.mem.set(RETURN_MASK, 4);
    let mut events = m.vcpu.events()?;
    events.nmi.pending = 1;
    events.flags |= kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING;
    m.vcpu.set_events(&events)?;
    m.run_sync()?;
    m.run_sync()?;
    check_eq!((m.mem.get(EXC), m.mem.get(EXC_VECTOR)), (1, 2));
    // A masked NMI waits.
    let mut events = m.vcpu.events()?;
    (events.nmi.masked, events.nmi.pending) = (1, 1);
    events.flags |= kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING;
    m.vcpu.set_events(&events)?;
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(m.mem.get(EXC), 1, "NMIs while masked");
    Ok(())
}
