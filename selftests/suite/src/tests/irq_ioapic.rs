// SPDX-License-Identifier: GPL-2.0-only
//! The in-kernel I/O APIC: edge and level inputs, masks, EOI, and its registers.

use std::time::Duration;

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{env, note, Outcome, TestResult};
use crate::host::{alarm, catch_signal};
use crate::kvm::*;
use crate::machine::*;

tests!(
    irq_ioapic_registers,
    irq_ioapic_edge,
    irq_ioapic_masked,
    irq_ioapic_level,
    irq_ioapic_level_repeats,
    irq_ioapic_storm = 60,
    irq_ioapic_all_pins,
    irq_line_status,
    irq_wakes_halted_vcpu,
    irq_mp_state,
);

guest!(ioapic_registers:
    "mov ebp, 0xfec00000",
    "mov dword ptr [rbp], 1", "mov eax, [rbp + 0x10]", "mov [DATA], rax",
    "mov dword ptr [rbp], 0", "mov dword ptr [rbp + 0x10], 0x05000000",
    "mov eax, [rbp + 0x10]", "mov [DATA + 8], rax",
    "mov dword ptr [rbp], 0x1a", "mov eax, [rbp + 0x10]", "mov [DATA + 16], rax",
    "mov dword ptr [rbp + 0x10], 0xfffff0aa", "mov eax, [rbp + 0x10]", "mov [DATA + 24], rax",
    "mov dword ptr [rbp], 0x1b", "mov dword ptr [rbp + 0x10], 0x03000000",
    "mov eax, [rbp + 0x10]", "mov [DATA + 32], rax",
    "mov eax, [rbp]", "mov [DATA + 40], rax",
    // A register that does not exist.
    "mov dword ptr [rbp], 0x80", "mov eax, [rbp + 0x10]",
    "mov dword ptr [rbp + 0x10], 0xffffffff",
    "out DONE, al",
);

/// Version, ID and redirection entries with their read-only bits.
fn irq_ioapic_registers() -> TestResult {
    let mut m = Machine::irqchip(ioapic_registers())?;
    m.run_done()?;
    check_eq!(m.data(0) & 0xff, 0x11, "version");
    check_eq!(m.data(0) >> 16 & 0xff, 23, "highest entry");
    check_eq!(m.data(1) >> 24 & 0xf, 5, "ID");
    check_eq!(m.data(2) & 0x1_0000, 0x1_0000, "entry 5 is masked after reset");
    check_eq!(m.data(3) & 0x1_00ff, 0x1_00aa, "entry 5, lower half");
    check_eq!(m.data(3) & 0x5000, 0, "delivery status and remote IRR are read-only");
    check_eq!(m.data(4) >> 24, 3, "entry 5, upper half");
    check_eq!(m.data(5) & 0xff, 0x1b, "the index register");
    Ok(())
}

guest!(ioapic_wait:
    // RDI the pin, RSI the lower half of its entry.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000", // nothing from the PIC
    "mov ebp, 0xfec00000",
    "5:",
    "lea eax, [rdi * 2 + 0x11]", "mov [rbp], eax", "mov dword ptr [rbp + 0x10], 0",
    "lea eax, [rdi * 2 + 0x10]", "mov [rbp], eax", "mov dword ptr [rbp + 0x10], esi",
    "sti",
    "2: out SYNC, al",
    "cmp dword ptr [DATA], 1", "je 3f",
    "cmp dword ptr [DATA], 2", "jne 2b",
    "mov dword ptr [DATA], 0",
    "jmp 5b",
    // The host asks for an EOI.
    "3: mov dword ptr [DATA], 0",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "nop",
    "jmp 2b",
);

const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const REMOTE_IRR: u64 = 1 << 14;

/// A guest that has programmed `pin` with `entry`.
fn with_pin(pin: u64, entry: u64) -> std::result::Result<Machine, Outcome> {
    let mut m = Machine::irqchip(ioapic_wait())?;
    m.with_regs(|r| (r.rdi, r.rsi) = (pin, entry))?;
    m.run_sync()?;
    Ok(m)
}

/// Lets the guest run a few rounds.
fn settle(m: &mut Machine) -> TestResult {
    for _ in 0..3 {
        m.run_sync()?;
    }
    Ok(())
}

/// Redirection entry `pin` as KVM_GET_IRQCHIP gives it.
fn entry(m: &Machine, pin: usize) -> std::result::Result<u64, Outcome> {
    let mut chip = kb::kvm_irqchip { chip_id: kb::KVM_IRQCHIP_IOAPIC, ..Default::default() };
    ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip)?;
    // SAFETY: every bit pattern is a valid IOAPIC state.
    Ok(unsafe { chip.chip.ioapic.redirtbl[pin].bits })
}

/// Each rising edge is one interrupt; a falling edge is none.
fn irq_ioapic_edge() -> TestResult {
    let mut m = with_pin(4, 0x34)?;
    for round in 1..=10 {
        m.vm.irq_line(4, 1)?;
        settle(&mut m)?;
        check_eq!(m.irq_count(0x34), round, "after the rising edge");
        m.vm.irq_line(4, 1)?;
        m.vm.irq_line(4, 0)?;
        settle(&mut m)?;
        check_eq!(m.irq_count(0x34), round, "after the falling edge");
    }
    Ok(())
}

guest!(ioapic_storm:
    // Counts in DATA until RSI interrupts have come on pin 5, which no one lowers. When the 10,000th and the
    // next come, the time and the count are written down.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov ebp, 0xfec00000",
    "mov dword ptr [rbp], 0x1b", "mov dword ptr [rbp + 0x10], 0",
    "mov dword ptr [rbp], 0x1a", "mov dword ptr [rbp + 0x10], 0x8041",
    "mov ebp, 0xfee00000",
    "out SYNC, al",
    "sti",
    "2: inc qword ptr [DATA]",
    "cmp [DATA + 8], rsi", "jb 2b",
    "cli",
    "out DONE, al",
    ".org 99b + 0x100",
    "push rax", "push rdx", "push rcx",
    "inc qword ptr [DATA + 8]",
    "mov rcx, [DATA + 8]", "sub rcx, 10000",
    "cmp rcx, 1", "ja 3f",
    "shl rcx, 4",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov [rcx + DATA + 16], rax",
    "mov rax, [DATA]", "mov [rcx + DATA + 24], rax",
    "3: mov dword ptr [rbp + 0xb0], 0",
    "pop rcx", "pop rdx", "pop rax",
    "iretq",
);

/// A level line that is never lowered keeps a guest in its handler; but after 10,000 interrupts in a row there
/// is a pause, in which the guest gets on.
fn irq_ioapic_storm() -> TestResult {
    let mut m = Machine::irqchip(ioapic_storm())?;
    m.set_gate(0x41, CODE + 0x100);
    m.run_sync()?;
    m.vm.irq_line(5, 1)?;
    m.with_regs(|r| r.rsi = 10_005)?;
    let regs = m.run_done()?;
    check!(m.data(1) >= regs.rsi, "interrupts");
    let khz = ioctl(m.vcpu.fd(), KVM_GET_TSC_KHZ, 0)? as u64;
    let micros = m.data(4).wrapping_sub(m.data(2)) * 1000 / khz.max(1);
    let rounds = m.data(5) - m.data(3);
    note(format!("a pause of {micros} us, {rounds} rounds in it, {} before it", m.data(3)));
    check!(rounds > 100, "{rounds} rounds in the pause");
    if env().is_vireo() {
        check!(micros >= 10_000, "a pause of {micros} us");
    }
    // The line has stayed up: the entry waits for an EOI, or for the end of another pause.
    m.vm.irq_line(5, 0)?;
    Ok(())
}

/// A masked entry delivers nothing.
fn irq_ioapic_masked() -> TestResult {
    for kind in [0, LEVEL] {
        let mut m = with_pin(7, 0x37 | MASKED | kind)?;
        m.vm.irq_line(7, 1)?;
        settle(&mut m)?;
        check_eq!(m.irq_count(0x37), 0, "masked");
        if kind == LEVEL {
            // A level that is still there is delivered once the mask goes.
            m.mem.set(EOI_MODE, EOI_NONE);
            m.with_regs(|r| r.rsi = 0x37 | LEVEL)?;
            m.set_data(0, 2);
            settle(&mut m)?;
            check_eq!(m.irq_count(0x37), 1, "unmasked");
        }
        m.vm.irq_line(7, 0)?;
    }
    Ok(())
}

/// A level interrupt comes again after EOI while the line is high, and not otherwise.
fn irq_ioapic_level() -> TestResult {
    let mut m = with_pin(10, 0x5a | LEVEL)?;
    m.mem.set(EOI_MODE, EOI_NONE);
    m.vm.irq_line(10, 1)?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x5a), 1);
    check_eq!(entry(&m, 10)? & REMOTE_IRR, REMOTE_IRR, "remote IRR while in service");
    settle(&mut m)?;
    check_eq!(m.irq_count(0x5a), 1, "without EOI");
    m.set_data(0, 1);
    settle(&mut m)?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x5a), 2, "after EOI with the line high");
    m.vm.irq_line(10, 0)?;
    m.set_data(0, 1);
    settle(&mut m)?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x5a), 2, "after EOI with the line low");
    check_eq!(entry(&m, 10)? & REMOTE_IRR, 0, "remote IRR at the end");
    Ok(())
}

guest!(level_handler:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x27", "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x26", "mov dword ptr [rbx + 0x10], 0x805b",
    "sti",
    "2: out DONE, al",
    "jmp 2b",
    ".org 99b + 0x100",
    "inc qword ptr [DATA]",
    "out SYNC, al",
    "mov dword ptr [rbp + 0xb0], 0",
    "iretq",
);

/// A device that keeps its line up is served again after each EOI, until it lowers the line.
fn irq_ioapic_level_repeats() -> TestResult {
    let mut m = Machine::irqchip(level_handler())?;
    m.set_gate(0x5b, CODE + 0x100);
    m.run_done()?;
    for round in 0..5 {
        m.vm.irq_line(11, 1)?;
        for i in 1..=8 {
            m.run_sync()?;
            check_eq!(m.data(0), round * 8 + i, "interrupts");
        }
        m.vm.irq_line(11, 0)?;
        m.run_done()?;
        m.run_done()?;
        check_eq!(m.data(0), round * 8 + 8, "after the line went down");
    }
    Ok(())
}

/// Every input but those of the timer and the cascade reaches its own entry.
fn irq_ioapic_all_pins() -> TestResult {
    let mut m = with_pin(1, 0x31)?;
    for pin in (1..24).filter(|&pin| pin != 2) {
        m.with_regs(|r| (r.rdi, r.rsi) = (pin, 0x30 + pin))?;
        m.set_data(0, 2);
        settle(&mut m)?;
        m.vm.irq_line(pin as u32, 1)?;
        m.vm.irq_line(pin as u32, 0)?;
        settle(&mut m)?;
        check_eq!(m.irq_count(0x30 + pin), 1, "pin {pin}");
    }
    check_eq!(m.irq_log().len(), 22);
    Ok(())
}

/// KVM_IRQ_LINE_STATUS says whether an interrupt was delivered.
fn irq_line_status() -> TestResult {
    let mut m = with_pin(5, 0x35)?;
    let line = |level| kb::kvm_irq_level {
        __bindgen_anon_1: kb::kvm_irq_level__bindgen_ty_1 { irq: 5 },
        level,
    };
    let mut up = line(1);
    ioctl_out(m.vm.fd(), KVM_IRQ_LINE_STATUS, &mut up)?;
    // SAFETY: both members are 32-bit integers.
    let status = unsafe { up.__bindgen_anon_1.status };
    check!(status >= 1, "status {status} of an interrupt that was delivered");
    ioctl_out(m.vm.fd(), KVM_IRQ_LINE_STATUS, &mut line(0))?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x35), 1);
    Ok(())
}

guest!(halt_loop:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "2: hlt",
    "cmp dword ptr [IRQ_COUNTS + 0x44 * 4], 20",
    "jb 2b",
    "out DONE, al",
);

/// Another thread's messages wake a vCPU that sleeps in HLT.
fn irq_wakes_halted_vcpu() -> TestResult {
    let mut m = Machine::irqchip(halt_loop())?;
    let (vm, done) = (m.vm.fd(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                let msi = kb::kvm_msi { address_lo: 0xfee0_0000, data: 0x44, ..Default::default() };
                let _ = ioctl_in(vm, KVM_SIGNAL_MSI, &msi);
            }
        });
        let result = m.run_done();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })?;
    check!(m.irq_count(0x44) >= 20);
    Ok(())
}

/// KVM_GET_MP_STATE says HALTED; userspace can halt and wake a vCPU by KVM_SET_MP_STATE.
fn irq_mp_state() -> TestResult {
    let mut m = Machine::irqchip(halt_loop())?;
    catch_signal(libc::SIGALRM);
    alarm(Duration::from_millis(20), Duration::from_millis(20));
    check_errno!(m.vcpu.run(), libc::EINTR, "sleep in HLT");
    check_eq!(m.vcpu.mp_state()?.mp_state, kb::KVM_MP_STATE_HALTED);
    let rip = m.vcpu.regs()?.rip;
    // Made runnable it goes behind the HLT and sleeps again.
    m.vcpu.set_mp_state(&kb::kvm_mp_state { mp_state: kb::KVM_MP_STATE_RUNNABLE })?;
    alarm(Duration::from_millis(20), Duration::from_millis(20));
    check_errno!(m.vcpu.run(), libc::EINTR, "sleep again");
    check_eq!(m.vcpu.regs()?.rip, rip);
    check_eq!(m.irq_count(0x44), 0);
    // Halted by userspace while an interrupt is pending: it wakes at once.
    for taken in 1..=20 {
        m.vcpu.set_mp_state(&kb::kvm_mp_state { mp_state: kb::KVM_MP_STATE_HALTED })?;
        m.vm.signal_msi(0xfee0_0000, 0x44)?;
        // On a slow machine the signal may come before the guest has run.
        for _ in 0..50 {
            alarm(Duration::from_millis(20), Duration::from_millis(20));
            match m.vcpu.run() {
                Ok(_) => break,
                Err(error) => check_eq!(error.errno.0, libc::EINTR),
            }
            if m.irq_count(0x44) >= taken {
                break;
            }
        }
    }
    check_eq!(m.irq_count(0x44), 20);
    Ok(())
}
