// SPDX-License-Identifier: GPL-2.0-only
//! The in-kernel PIT: its interrupt, counters, the speaker's port, reinjection, and its state.

use std::time::{Duration, Instant};

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{Outcome, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(
    irq_pit_create,
    irq_pit_periodic,
    irq_pit_one_shot,
    irq_pit_reinjects,
    irq_pit_channel_2,
    irq_pit_read_back,
    irq_pit_state,
    irq_pit_watchdog,
);

fn machine(code: &[u8]) -> std::result::Result<Machine, Outcome> {
    let m = Machine::irqchip(code)?;
    m.mem.set(EOI_MODE, EOI_NONE);
    m.vm.create_pit()?;
    Ok(m)
}

/// The PIT needs the PICs, and there is one.
fn irq_pit_create() -> TestResult {
    let m = machine(pit_ticks())?;
    check_errno!(m.vm.create_pit(), libc::EEXIST);
    let none = Machine::long(pit_ticks())?;
    check_errno!(none.vm.create_pit(), libc::ENOENT);
    let mut state = kb::kvm_pit_state2::default();
    check_errno!(ioctl_out(none.vm.fd(), KVM_GET_PIT2, &mut state), libc::ENXIO);
    check_errno!(ioctl_in(none.vm.fd(), KVM_SET_PIT2, &state), libc::ENXIO);
    let control = kb::kvm_reinject_control::default();
    check_errno!(ioctl_in(none.vm.fd(), KVM_REINJECT_CONTROL, &control), libc::ENXIO);
    Ok(())
}

guest!(pit_ticks:
    // Channel 0 in mode RSI (bits 3:1 of the control word) with count RDI; RBX ticks are waited for.
    "mov al, 0x11", "out 0x20, al",
    "mov al, 0x30", "out 0x21, al",
    "mov al, 4", "out 0x21, al",
    "mov al, 1", "out 0x21, al",
    "mov al, 0xfe", "out 0x21, al",
    "mov eax, esi", "or al, 0x30", "out 0x43, al",
    "mov eax, edi", "out 0x40, al", "shr eax, 8", "out 0x40, al",
    "2: out SYNC, al",
    "3: sti", "hlt", "cli",
    "cmp [DATA], rbx", "jb 3b",
    "out DONE, al",
    ".org 99b + 0x100",
    "push rax",
    "inc qword ptr [DATA]",
    "mov al, 0x20", "out 0x20, al",
    "pop rax",
    "iretq",
);

/// 10 ms.
const COUNT_10MS: u64 = 11_932;

fn ticking(mode: u64, count: u64, ticks: u64) -> std::result::Result<Machine, Outcome> {
    let mut m = machine(pit_ticks())?;
    m.set_gate(0x30, CODE + 0x100);
    m.with_regs(|r| (r.rdi, r.rsi, r.rbx) = (count, mode << 1, ticks))?;
    m.run_sync()?;
    Ok(m)
}

/// Modes 2 and 3 tick for ever, and not too fast.
fn irq_pit_periodic() -> TestResult {
    for mode in [2, 3] {
        let start = Instant::now();
        let mut m = ticking(mode, COUNT_10MS, 10)?;
        m.run_done()?;
        let elapsed = start.elapsed();
        check!(elapsed >= Duration::from_millis(99), "mode {mode}: {elapsed:?} for 100 ms");
    }
    Ok(())
}

/// Mode 0 ticks once.
fn irq_pit_one_shot() -> TestResult {
    let start = Instant::now();
    let mut m = ticking(0, COUNT_10MS, 1)?;
    m.run_done()?;
    check!(start.elapsed() >= Duration::from_millis(9));
    std::thread::sleep(Duration::from_millis(30));
    m.with_regs(|r| r.rip = CODE + 0x200)?;
    m.mem.write(CODE + 0x200, &[0xfb, 0x90, 0x90, 0xe6, 0xe0]); // sti; nop; nop; out DONE, al
    m.run_done()?;
    check_eq!(m.data(0), 1);
    Ok(())
}

/// Ticks that come while the guest does not run are made up for, unless that is switched off.
fn irq_pit_reinjects() -> TestResult {
    for reinject in [true, false] {
        let mut m = ticking(2, COUNT_10MS, 8)?;
        let control = kb::kvm_reinject_control { pit_reinject: reinject.into(), ..Default::default() };
        ioctl_in(m.vm.fd(), KVM_REINJECT_CONTROL, &control)?;
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        m.run_done()?;
        let elapsed = start.elapsed();
        if reinject {
            check!(elapsed < Duration::from_millis(60), "{elapsed:?} for ticks that had come");
        } else {
            check!(elapsed >= Duration::from_millis(60), "{elapsed:?} for ticks that were to come");
        }
    }
    Ok(())
}

guest!(pit_speaker:
    "in al, 0x61", "movzx eax, al", "mov [DATA], rax",
    // Channel 2, mode 0, about 5 ms.
    "mov al, 0xb0", "out 0x43, al",
    "mov al, 1", "out 0x61, al",
    "mov al, 0x4e", "out 0x42, al", "mov al, 0x17", "out 0x42, al",
    "in al, 0x61", "movzx eax, al", "mov [DATA + 8], rax",
    "2: in al, 0x61", "test al, 0x20", "jz 2b",
    "movzx eax, al", "mov [DATA + 16], rax",
    "mov al, 2", "out 0x61, al",
    "in al, 0x61", "movzx eax, al", "mov [DATA + 24], rax",
    "out DONE, al",
);

/// Linux measures the TSC by this channel: a gate, a count, and an output to wait for.
fn irq_pit_channel_2() -> TestResult {
    let mut m = machine(pit_speaker())?;
    let start = Instant::now();
    m.run_done()?;
    let elapsed = start.elapsed();
    check!(elapsed >= Duration::from_millis(5), "{elapsed:?} for 5 ms");
    check_eq!(m.data(0) & 0x03, 0, "the gate is low after reset");
    check_eq!(m.data(1) & 0x23, 0x01, "counting");
    check_eq!(m.data(2) & 0x23, 0x21, "done");
    check_eq!(m.data(3) & 0x03, 0x02, "speaker on, gate low");
    Ok(())
}

guest!(pit_counts:
    "mov al, 0x34", "out 0x43, al", // channel 0, mode 2
    "mov al, 0", "out 0x40, al", "mov al, 0x10", "out 0x40, al",
    "mov ebx, 1000",
    "2:",
    "mov al, 0xc2", "out 0x43, al", // read-back: status and count of channel 0
    "in al, 0x40", "movzx ecx, al",
    "in al, 0x40", "movzx edx, al",
    "in al, 0x40", "movzx eax, al", "shl eax, 8", "or edx, eax",
    "or [DATA], rcx",
    "cmp edx, 0x1000", "ja 3f",
    "test edx, edx", "jz 3f",
    "dec ebx", "jnz 2b",
    "3: mov [DATA + 8], rbx",
    "out DONE, al",
);

/// The status says how the channel was set; the count stays within the period.
fn irq_pit_read_back() -> TestResult {
    let mut m = machine(pit_counts())?;
    m.run_done()?;
    check_eq!(m.data(0) & 0x3f, 0x34, "status");
    check_eq!(m.data(1), 0, "rounds left");
    Ok(())
}

fn get(m: &Machine) -> std::result::Result<kb::kvm_pit_state2, Outcome> {
    let mut state = kb::kvm_pit_state2::default();
    ioctl_out(m.vm.fd(), KVM_GET_PIT2, &mut state)?;
    Ok(state)
}

/// A running PIT moves to another machine with KVM_GET/SET_PIT2.
fn irq_pit_state() -> TestResult {
    let fresh = get(&machine(pit_ticks())?)?;
    check_eq!(fresh.channels.map(|c| (c.count, c.gate)), [(65536, 1), (65536, 1), (65536, 0)]);
    let m = ticking(2, COUNT_10MS, 5)?;
    let state = get(&m)?;
    let channel = state.channels[0];
    check_eq!((channel.count, channel.mode, channel.rw_mode, channel.gate), (COUNT_10MS as u32, 2, 3, 1));
    let mut other = ticking(0, 0, 5)?;
    // The first period begins in the call.
    let start = Instant::now();
    ioctl_in(other.vm.fd(), KVM_SET_PIT2, &state)?;
    other.run_done()?;
    let elapsed = start.elapsed();
    check!(elapsed >= Duration::from_millis(49), "{elapsed:?} for 50 ms");
    check!(elapsed < Duration::from_millis(500), "{elapsed:?} for 50 ms");
    Ok(())
}

guest!(pit_watchdog:
    // Channel 0 ticks each RDI counts; LINT0 is RSI. Waits for RBX exceptions, which are NMIs.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], esi",
    "mov al, 0x34", "out 0x43, al",
    "mov eax, edi", "out 0x40, al", "shr eax, 8", "out 0x40, al",
    "2: out SYNC, al",
    "sti",
    "3: cmp [EXC], rbx", "jb 3b",
    "out DONE, al",
);

/// The ticks of channel 0 are NMIs for a vCPU whose LINT0 has that mode. (With IF clear, Bochs never leaves such a
/// guest, nor one of KVM's.)
fn irq_pit_watchdog() -> TestResult {
    const NMI_MODE: u64 = 0x400;
    let build = |lint0: u64| -> std::result::Result<Machine, Outcome> {
        let mut m = machine(pit_watchdog())?;
        // Nobody acknowledges interrupt 0.
        let control = kb::kvm_reinject_control::default();
        ioctl_in(m.vm.fd(), KVM_REINJECT_CONTROL, &control)?;
        m.mem.set(RETURN_MASK, 1 << 2);
        m.with_regs(|r| (r.rdi, r.rsi, r.rbx) = (COUNT_10MS, lint0, 0))?;
        m.run_sync()?;
        Ok(m)
    };
    let start = Instant::now();
    let mut m = build(NMI_MODE)?;
    m.with_regs(|r| r.rbx = 10)?;
    m.run_done()?;
    let elapsed = start.elapsed();
    check!(elapsed >= Duration::from_millis(99), "{elapsed:?} for 100 ms");
    check_eq!(m.mem.get(EXC_VECTOR), 2);
    for lint0 in [NMI_MODE | 1 << 16, 0x30] {
        let mut m = build(lint0)?;
        std::thread::sleep(Duration::from_millis(30));
        m.run_done()?;
        check_eq!(m.mem.get(EXC), 0, "NMIs with LINT0 {lint0:#x}");
    }
    Ok(())
}
