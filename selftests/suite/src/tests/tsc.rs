// SPDX-License-Identifier: GPL-2.0-only
//! Time-stamp counters of another frequency than the host's, and their offsets.

use std::time::Duration;

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{env, note, skip, Outcome, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(
    tsc_khz_rules,
    tsc_khz_of_vm,
    tsc_scaled_rate,
    tsc_scaled_rate_kept,
    tsc_scaled_write,
    tsc_scaled_deadline,
    tsc_scaled_clock,
    tsc_scaled_join,
    tsc_offset_attribute,
);

/// MSR_IA32_TSC.
const TSC: u32 = 0x10;
/// MSR_KVM_SYSTEM_TIME_NEW.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Where the guest's clock is.
const CLOCK: u64 = DATA + 0x1000;
/// KVM_VCPU_TSC_CTRL and KVM_VCPU_TSC_OFFSET.
const TSC_CTRL: u32 = 0;
const TSC_OFFSET: u64 = 0;

guest!(tsc_reader:
    "2: rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "out SYNC, al",
    "jmp 2b",
);

/// The host's counter.
fn host_tsc() -> u64 {
    // SAFETY: no side effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whether the processor scales.
fn has_control(m: &Machine) -> bool {
    m.sys.check(kb::KVM_CAP_TSC_CONTROL) > 0
}

fn khz(m: &Machine) -> std::result::Result<u64, Outcome> {
    Ok(ioctl(m.vcpu.fd(), KVM_GET_TSC_KHZ, 0)? as u64)
}

fn set_khz(m: &Machine, khz: u64) -> crate::kvm::Result<i32> {
    ioctl(m.vcpu.fd(), KVM_SET_TSC_KHZ, khz)
}

/// Numerators and denominators of frequencies that guests can have here.
fn ratios(m: &Machine) -> &'static [(u64, u64)] {
    if has_control(m) {
        &[(1, 2), (3, 2), (5, 1), (1, 7)]
    } else {
        &[(3, 2), (5, 1)]
    }
}

/// KVM's counters that it brings forward itself stand still while it has a master clock.
fn need_rate(m: &Machine) -> TestResult {
    if !env().is_vireo() && !has_control(m) {
        return skip("KVM does not keep the rate here");
    }
    Ok(())
}

/// A machine that runs `code`, with a sane clock.
fn tsc_machine(code: &[u8]) -> std::result::Result<Machine, Outcome> {
    let m = Machine::irqchip(code)?;
    super::exit_msr::need_tsc(&m)?;
    Ok(m)
}

/// Why these rules can't be tried on KVM then.
const KVM_KNOWS_BETTER: &str = "KVM was loaded before Linux had measured the TSC's frequency well";

/// Which frequencies a vCPU takes, and what it says afterwards.
fn tsc_khz_rules() -> TestResult {
    let m = tsc_machine(tsc_reader())?;
    let host = khz(&m)?;
    set_khz(&m, 0)?;
    if khz(&m)? != host && !env().is_vireo() {
        return skip(KVM_KNOWS_BETTER);
    }
    // Near enough to need no scaling; bits 63:32 do not count.
    for near in [host + host / 5000, host - host / 5000, host | 1 << 40] {
        set_khz(&m, near)?;
        check_eq!(khz(&m)?, near & 0xffff_ffff);
    }
    set_khz(&m, 0)?;
    check_eq!(khz(&m)?, host, "after 0");
    set_khz(&m, host * 2)?;
    check_eq!(khz(&m)?, host * 2);
    if has_control(&m) {
        set_khz(&m, host / 2)?;
        check_eq!(khz(&m)?, host / 2);
        check_errno!(set_khz(&m, 0x7fff_ffff), libc::EINVAL);
        check_eq!(khz(&m)?, host / 2, "after an error");
        check_eq!(m.vm.check(kb::KVM_CAP_VM_TSC_CONTROL), 1);
    } else {
        check_errno!(set_khz(&m, host / 2), libc::EINVAL);
        if env().is_vireo() {
            // KVM reports what it refused.
            check_eq!(khz(&m)?, host * 2, "after an error");
        }
        check_eq!(m.vm.check(kb::KVM_CAP_VM_TSC_CONTROL), 0);
    }
    Ok(())
}

/// A VM's frequency is that of its vCPUs to come; with the first one it is settled.
fn tsc_khz_of_vm() -> TestResult {
    let sys = System::open(&env().device)?;
    let vm = sys.create_vm()?;
    let host = ioctl(vm.fd(), KVM_GET_TSC_KHZ, 0)? as u64;
    if host == 0 {
        return skip("KVM took no TSC frequency from this emulator");
    }
    ioctl(vm.fd(), KVM_SET_TSC_KHZ, host * 3)?;
    check_eq!(ioctl(vm.fd(), KVM_GET_TSC_KHZ, 0)? as u64, host * 3);
    ioctl(vm.fd(), KVM_SET_TSC_KHZ, 0)?;
    if ioctl(vm.fd(), KVM_GET_TSC_KHZ, 0)? as u64 != host && !env().is_vireo() {
        return skip(KVM_KNOWS_BETTER);
    }
    check_eq!(ioctl(vm.fd(), KVM_GET_TSC_KHZ, 0)? as u64, host);
    ioctl(vm.fd(), KVM_SET_TSC_KHZ, host * 2)?;
    let vcpu = vm.create_vcpu(0)?;
    check_eq!(ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0)? as u64, host * 2, "of the vCPU");
    check_errno!(ioctl(vm.fd(), KVM_SET_TSC_KHZ, host), libc::EINVAL);
    check_eq!(ioctl(vm.fd(), KVM_GET_TSC_KHZ, 0)? as u64, host * 2);
    Ok(())
}

/// What the guest reads, between two readings of the host's counter.
fn bracketed(m: &mut Machine) -> std::result::Result<(u64, u64, u64), Outcome> {
    let before = host_tsc();
    let guest = m.run_sync()?.rbx;
    Ok((before, guest, host_tsc()))
}

/// Fails unless `guest` ticks fit `least` to `most` of the host's at `ratio`, but for a thousandth.
fn fits(guest: u64, least: u64, most: u64, (n, d): (u64, u64)) -> TestResult {
    let (low, high) = (least * n / d, most * n / d);
    let slack = high / 1000 + 1000;
    check!(guest + slack >= low && guest <= high + slack,
        "{guest} ticks at {n}/{d}, {low} to {high} expected");
    Ok(())
}

/// The guest's counter goes at its frequency, in the guest and in MSR_IA32_TSC.
fn tsc_scaled_rate() -> TestResult {
    let mut m = tsc_machine(tsc_reader())?;
    need_rate(&m)?;
    let host = khz(&m)?;
    for &(n, d) in ratios(&m) {
        set_khz(&m, host * n / d)?;
        check!(m.vcpu.set_msr(TSC, 0)?);
        let (a0, guest0, a1) = bracketed(&mut m)?;
        std::thread::sleep(Duration::from_millis(20));
        let (b0, guest1, b1) = bracketed(&mut m)?;
        fits(guest1.wrapping_sub(guest0), b0 - a1, b1 - a0, (n, d))?;
        let seen = m.vcpu.msr(TSC)?.unwrap_or(0);
        let after = host_tsc();
        check!(seen >= guest1, "MSR {seen:#x} after {guest1:#x} in the guest");
        fits(seen - guest1, 0, after - b0, (n, d))?;
    }
    Ok(())
}

guest!(tsc_checker:
    // RDI: rounds. Ends early with RSI set when the counter goes back.
    "xor ebx, ebx",
    "2: rdtsc", "shl rdx, 32", "or rax, rdx",
    "cmp rax, rbx", "jb 3f",
    "mov rbx, rax",
    "xor ecx, ecx", "xor eax, eax", "cpuid", // clobbers RBX
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "dec rdi", "jnz 2b",
    "jmp 4f",
    "3: mov esi, 1",
    "4: out DONE, al",
);

/// A counter never goes back, whatever exits there are.
fn tsc_scaled_rate_kept() -> TestResult {
    let host = khz(&tsc_machine(tsc_checker())?)?;
    for &(n, d) in ratios(&tsc_machine(tsc_checker())?) {
        let mut m = tsc_machine(tsc_checker())?;
        set_khz(&m, host * n / d)?;
        check!(m.vcpu.set_msr(TSC, 0)?);
        m.with_regs(|r| (r.rdi, r.rsi) = (5000, 0))?;
        let regs = m.run_done()?;
        check_eq!(regs.rsi, 0, "it went back at {n}/{d}, {} rounds left", regs.rdi);
    }
    Ok(())
}

guest!(tsc_writer:
    "mov ecx, 0x10", "xor eax, eax", "mov edx, 0x100", "wrmsr",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "mov ecx, 0x3b", "rdmsr", "shl rdx, 32", "or rax, rdx", "mov rsi, rax",
    "out SYNC, al",
    // A move by IA32_TSC_ADJUST.
    "mov ecx, 0x3b", "rdmsr", "add edx, 0x100", "wrmsr",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "out SYNC, al",
);

/// The guest sets and adjusts a scaled counter in ticks of its own.
fn tsc_scaled_write() -> TestResult {
    const SLACK: u64 = 1 << 38;
    let host = khz(&tsc_machine(tsc_writer())?)?;
    for &(n, d) in ratios(&tsc_machine(tsc_writer())?) {
        let mut m = tsc_machine(tsc_writer())?;
        if m.vcpu.msr(0x3b)?.is_none() {
            return skip("no TSC_ADJUST");
        }
        set_khz(&m, host * n / d)?;
        check!(m.vcpu.set_msr(TSC, 0)?);
        let regs = m.run_sync()?;
        check!(regs.rbx.wrapping_sub(0x100 << 32) < SLACK, "after WRMSR: {:#x}", regs.rbx);
        let adjust = regs.rsi.wrapping_sub(0x100 << 32).wrapping_add(SLACK);
        check!(adjust < 2 * SLACK, "adjust {:#x}", regs.rsi);
        let regs = m.run_sync()?;
        check!(regs.rbx.wrapping_sub(0x200 << 32) < SLACK, "adjusted: {:#x}", regs.rbx);
    }
    Ok(())
}

guest!(tsc_deadline:
    // RDI: ticks to the deadline, R13: rounds; R15: the latest lateness.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov dword ptr [rbp + 0x320], 0x40040",
    "xor r15d, r15d",
    "2: cli",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "add rax, rdi", "mov r12, rax",
    "mov rdx, rax", "shr rdx, 32", "mov eax, eax", "mov ecx, 0x6e0", "wrmsr",
    "mov r14, [IRQ_LOGGED]",
    "3: sti", "nop", "cli",
    "cmp [IRQ_LOGGED], r14", "je 3b",
    "mov eax, r14d", "and eax, 127", "shl eax, 4",
    "mov rax, [0xd008 + rax]", "sub rax, r12", "js 5f",
    "cmp rax, r15", "cmova r15, rax",
    "dec r13", "jnz 2b",
    "5: out DONE, al",
);

/// A deadline is in ticks of the guest's, and never early.
fn tsc_scaled_deadline() -> TestResult {
    const ROUNDS: u64 = 10;
    const MILLIS: u64 = 3;
    let probe = tsc_machine(tsc_deadline())?;
    if !env().is_vireo() {
        return skip("KVM's deadlines in scaled ticks are early now and then");
    }
    if probe.sys.check(kb::KVM_CAP_TSC_DEADLINE_TIMER) == 0 {
        return skip("no KVM_CAP_TSC_DEADLINE_TIMER");
    }
    let host = khz(&probe)?;
    for &(n, d) in ratios(&probe) {
        let mut m = tsc_machine(tsc_deadline())?;
        let mut entries = m.vcpu.cpuid()?;
        for entry in entries.iter_mut().filter(|entry| entry.function == 1) {
            entry.ecx |= 1 << 24;
        }
        m.vcpu.set_cpuid(&entries)?;
        let khz = host * n / d;
        set_khz(&m, khz)?;
        check!(m.vcpu.set_msr(TSC, 0)?);
        m.with_regs(|r| (r.rdi, r.r13) = (khz * MILLIS, ROUNDS))?;
        let start = host_tsc();
        let regs = m.run_done()?;
        let took = host_tsc() - start;
        check_eq!(regs.r13, 0, "rounds left at {n}/{d}: early");
        check!(took >= host * MILLIS * ROUNDS, "{took} ticks of the host's, asked for more");
        note(format!("{n}/{d}: {} ns late at most", regs.r15 * 1_000_000 / khz));
    }
    Ok(())
}

/// The guest's clock in its memory, at the counter's value `tsc`.
fn clock_at(m: &Machine, tsc: u64) -> u64 {
    let delta = tsc.wrapping_sub(m.mem.get(CLOCK + 8));
    let mul = m.mem.get(CLOCK + 24) & 0xffff_ffff;
    let shift = (m.mem.get(CLOCK + 24) >> 32) as i8;
    let ticks = if shift < 0 { delta >> -shift } else { delta << shift };
    m.mem.get(CLOCK + 16) + ((u128::from(ticks) * u128::from(mul)) >> 32) as u64
}

/// The paravirtual clock shows the host's time, whatever the counter's frequency.
fn tsc_scaled_clock() -> TestResult {
    let mut m = tsc_machine(tsc_reader())?;
    let host = khz(&m)?;
    for &(n, d) in ratios(&m) {
        set_khz(&m, host * n / d)?;
        check!(m.vcpu.set_msr(TSC, 0)?);
        if !m.vcpu.set_msr(SYSTEM_TIME, CLOCK | 1)? {
            return skip("no kvmclock");
        }
        for _ in 0..3 {
            let mut clock = kb::kvm_clock_data::default();
            ioctl_out(m.vm.fd(), KVM_GET_CLOCK, &mut clock)?;
            let before = clock.clock;
            let tsc = m.run_sync()?.rbx;
            ioctl_out(m.vm.fd(), KVM_GET_CLOCK, &mut clock)?;
            let seen = clock_at(&m, tsc);
            let slack = 200_000;
            check!(seen + slack >= before && seen <= clock.clock + slack,
                "{n}/{d}: {seen} ns, the host's clock goes from {before} to {}", clock.clock);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// vCPUs of the same frequency that are set to 0 have the same counter.
fn tsc_scaled_join() -> TestResult {
    let m = tsc_machine(tsc_reader())?;
    let host = khz(&m)?;
    let other = m.vm.create_vcpu(1)?;
    for vcpu in [&m.vcpu, &other] {
        ioctl(vcpu.fd(), KVM_SET_TSC_KHZ, host * 3 / 2)?;
    }
    for vcpu in [&m.vcpu, &other] {
        check!(vcpu.set_msr(TSC, 0)?);
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..5 {
        let first = m.vcpu.msr(TSC)?.unwrap_or(0);
        let second = other.msr(TSC)?.unwrap_or(0);
        let third = m.vcpu.msr(TSC)?.unwrap_or(0);
        check!(first <= second && second <= third, "{first:#x} {second:#x} {third:#x}");
    }
    Ok(())
}

fn attribute(group: u32, attr: u64, at: &u64) -> kb::kvm_device_attr {
    let addr = std::ptr::from_ref(at) as u64;
    kb::kvm_device_attr { group, attr, addr, ..Default::default() }
}

/// KVM_VCPU_TSC_OFFSET is exact and can be set.
fn tsc_offset_attribute() -> TestResult {
    const STEP: u64 = 1 << 44;
    let mut m = tsc_machine(tsc_reader())?;
    if m.sys.check(kb::KVM_CAP_VCPU_ATTRIBUTES) == 0 {
        return skip("no KVM_CAP_VCPU_ATTRIBUTES");
    }
    let fd = m.vcpu.fd();
    let mut offset = 0u64;
    let good = attribute(TSC_CTRL, TSC_OFFSET, &offset);
    ioctl_in(fd, KVM_HAS_DEVICE_ATTR, &good)?;
    for (group, attr) in [(TSC_CTRL, 1), (1, TSC_OFFSET), (u32::MAX, u64::MAX)] {
        let bad = attribute(group, attr, &offset);
        for request in [KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR] {
            check_errno!(ioctl_in(fd, request, &bad), libc::ENXIO, "{group} {attr}");
        }
    }
    let nowhere = kb::kvm_device_attr { addr: 1 << 62, ..good };
    check_errno!(ioctl_in(fd, KVM_GET_DEVICE_ATTR, &nowhere), libc::EFAULT);
    check_errno!(ioctl_in(fd, KVM_SET_DEVICE_ATTR, &nowhere), libc::EFAULT);
    let get = |into: &mut u64| {
        let attr = attribute(TSC_CTRL, TSC_OFFSET, into);
        let result = ioctl_in(fd, KVM_GET_DEVICE_ATTR, &attr);
        // The kernel has written through the address.
        *into = std::hint::black_box(*into);
        result
    };
    get(&mut offset)?;
    let before = host_tsc();
    let guest = m.run_sync()?.rbx;
    let after = host_tsc();
    let seen = guest.wrapping_sub(offset);
    check!(seen >= before && seen <= after, "{before:#x} {seen:#x} {after:#x}");
    let moved = offset.wrapping_add(STEP);
    ioctl_in(fd, KVM_SET_DEVICE_ATTR, &attribute(TSC_CTRL, TSC_OFFSET, &moved))?;
    get(&mut offset)?;
    check_eq!(offset, moved);
    let later = m.run_sync()?.rbx;
    check!(later.wrapping_sub(guest) >= STEP && later.wrapping_sub(guest) < 2 * STEP);
    Ok(())
}
