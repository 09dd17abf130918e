// SPDX-License-Identifier: GPL-2.0-only
//! What Linux guests use of their host: the clock, steal time, hypercalls.

use std::time::{Duration, Instant};

use kvm_bindings as kb;

use super::exit_msr::need_tsc;
use crate::cpus::usable;
use crate::guest::*;
use crate::harness::{skip, Outcome, TestResult};
use crate::host::is_amd;
use crate::kvm::*;
use crate::machine::*;

tests!(
    pv_clock_page,
    pv_clock_set,
    pv_clock_off,
    pv_clock_bad,
    pv_clock_stopped,
    pv_clock_same_on_all,
    pv_wall_clock,
    pv_steal_time,
    pv_steal_bad,
    pv_hypercalls,
    pv_hypercall_user,
    pv_send_ipi,
    pv_kick,
    pv_tsc_in_step,
);

/// Bits of leaf 0x40000001.
pub(super) const CLOCK: u32 = 1 << 3;
const STEAL: u32 = 1 << 5;
const UNHALT: u32 = 1 << 7;
const SEND_IPI: u32 = 1 << 11;

/// Where the guests' areas are.
pub(super) const AREA: u64 = FREE;

pub(super) fn features(m: &Machine) -> std::result::Result<u32, Outcome> {
    let list = m.sys.supported_cpuid()?;
    let leaf = list.entries().iter().find(|e| e.function == 0x4000_0001).map_or(0, |e| e.eax);
    Ok(leaf)
}

pub(super) fn need(m: &Machine, feature: u32) -> TestResult {
    if features(m)? & feature == 0 {
        return skip(format!("no paravirtual feature {feature:#x}"));
    }
    Ok(())
}

guest!(pv_msr:
    // Writes RDX:RAX to MSR ECX, then reports its counter.
    "wrmsr",
    "2: rdtsc", "shl rdx, 32", "or rax, rdx", "mov [DATA], rax",
    "out SYNC, al",
    "jmp 2b",
);

/// A guest that has written `value` to `msr` and reports its time-stamp counter in between.
fn with_msr(msr: u64, value: u64) -> std::result::Result<Machine, Outcome> {
    let mut m = Machine::irqchip(pv_msr())?;
    m.with_regs(|r| (r.rcx, r.rax, r.rdx) = (msr, value & 0xffff_ffff, value >> 32))?;
    m.run_sync()?;
    Ok(m)
}

/// The clock's page.
pub(super) struct Page {
    pub(super) version: u32,
    tsc: u64,
    time: u64,
    mul: u32,
    shift: i8,
    pub(super) flags: u8,
}

pub(super) fn page(m: &Machine, at: u64) -> Page {
    let last = m.mem.get(at + 24);
    Page {
        version: m.mem.get32(at),
        tsc: m.mem.get(at + 8),
        time: m.mem.get(at + 16),
        mul: last as u32,
        shift: (last >> 32) as i8,
        flags: (last >> 40) as u8,
    }
}

impl Page {
    /// The time as Linux computes it.
    pub(super) fn at(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc);
        let delta = if self.shift < 0 { delta >> -self.shift } else { delta << self.shift };
        self.time + ((u128::from(delta) * u128::from(self.mul)) >> 32) as u64
    }
}

pub(super) fn clock(m: &Machine) -> std::result::Result<kb::kvm_clock_data, Outcome> {
    let mut data = kb::kvm_clock_data::default();
    ioctl_out(m.vm.fd(), KVM_GET_CLOCK, &mut data)?;
    Ok(data)
}

/// What the guest computes lies between what KVM_GET_CLOCK says before and after.
fn pv_clock_page() -> TestResult {
    let mut m = with_msr(0x4b56_4d01, AREA | 1)?;
    need(&m, CLOCK)?;
    need_tsc(&m)?;
    for _ in 0..20 {
        let before = clock(&m)?;
        m.run_sync()?;
        let after = clock(&m)?;
        let page = page(&m, AREA);
        check!(page.version & 1 == 0 && page.version != 0, "version {}", page.version);
        let time = page.at(m.data(0));
        // A microsecond for the rounding of either side.
        let range = before.clock - 1000..=after.clock + 1000;
        check!(range.contains(&time), "{time} is not in {range:?}");
        check_eq!(page.flags & 1 != 0, before.flags & kb::KVM_CLOCK_TSC_STABLE != 0, "stable");
    }
    Ok(())
}

/// KVM_SET_CLOCK moves the guest's clock, both ways; with the real time it makes up for what has passed.
fn pv_clock_set() -> TestResult {
    let mut m = with_msr(0x4b56_4d01, AREA | 1)?;
    need(&m, CLOCK)?;
    const DAY: u64 = 86_400_000_000_000;
    for day in [10, 3] {
        let data = kb::kvm_clock_data { clock: day * DAY, ..Default::default() };
        ioctl_in(m.vm.fd(), KVM_SET_CLOCK, &data)?;
        m.run_sync()?;
        let time = page(&m, AREA).at(m.data(0));
        check!((day * DAY..(day + 1) * DAY).contains(&time), "{time} on day {day}");
        check!((day * DAY..(day + 1) * DAY).contains(&clock(&m)?.clock));
    }
    let now = clock(&m)?;
    if now.flags & kb::KVM_CLOCK_REALTIME != 0 {
        let data = kb::kvm_clock_data {
            clock: 5 * DAY,
            flags: kb::KVM_CLOCK_REALTIME,
            realtime: now.realtime - DAY,
            ..Default::default()
        };
        ioctl_in(m.vm.fd(), KVM_SET_CLOCK, &data)?;
        check!((6 * DAY..7 * DAY).contains(&clock(&m)?.clock), "a day has passed");
    }
    let bad = kb::kvm_clock_data { flags: 1 << 9, ..Default::default() };
    check_errno!(ioctl_in(m.vm.fd(), KVM_SET_CLOCK, &bad), libc::EINVAL);
    Ok(())
}

/// A clock that is off is not written.
fn pv_clock_off() -> TestResult {
    let mut m = with_msr(0x4b56_4d01, AREA)?;
    need(&m, CLOCK)?;
    m.run_sync()?;
    check_eq!(m.mem.get(AREA) | m.mem.get(AREA + 16), 0);
    Ok(())
}

/// Pages where there is no memory: the guest goes on.
fn pv_clock_bad() -> TestResult {
    for value in [MMIO | 1, u64::MAX, AREA + 0xff1] {
        let mut m = with_msr(0x4b56_4d01, value)?;
        need(&m, CLOCK)?;
        m.run_sync()?;
    }
    for value in [MMIO, u64::MAX - 3] {
        with_msr(0x4b56_4d00, value)?.run_sync()?;
    }
    Ok(())
}

/// KVM_KVMCLOCK_CTRL: the page says once that the guest was stopped.
fn pv_clock_stopped() -> TestResult {
    let none = Machine::irqchip(pv_msr())?;
    need(&none, CLOCK)?;
    check_errno!(ioctl(none.vcpu.fd(), KVM_KVMCLOCK_CTRL, 0), libc::EINVAL);
    let mut m = with_msr(0x4b56_4d01, AREA | 1)?;
    check_eq!(page(&m, AREA).flags & 2, 0);
    ioctl(m.vcpu.fd(), KVM_KVMCLOCK_CTRL, 0)?;
    m.run_sync()?;
    check_eq!(page(&m, AREA).flags & 2, 2);
    Ok(())
}

/// A second vCPU in the state of the first, ready to run.
pub(super) fn second(m: &Machine) -> std::result::Result<Vcpu, Outcome> {
    let vcpu = m.vm.create_vcpu(1)?;
    vcpu.set_cpuid(m.sys.supported_cpuid()?.entries())?;
    let mut sregs = m.vcpu.sregs()?;
    sregs.apic_base = vcpu.sregs()?.apic_base;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&m.vcpu.regs()?)?;
    vcpu.set_mp_state(&kb::kvm_mp_state { mp_state: kb::KVM_MP_STATE_RUNNABLE })?;
    Ok(vcpu)
}

/// Two vCPUs read one clock: neither is behind what the other read before.
fn pv_clock_same_on_all() -> TestResult {
    let mut m = Machine::irqchip(pv_msr())?;
    need(&m, CLOCK)?;
    let mut other = second(&m)?;
    m.with_regs(|r| (r.rcx, r.rax, r.rdx) = (0x4b56_4d01, AREA | 1, 0))?;
    let mut regs = other.regs()?;
    (regs.rcx, regs.rax, regs.rdx) = (0x4b56_4d01, (AREA + 64) | 1, 0);
    other.set_regs(&regs)?;
    let mut last = 0;
    for _ in 0..50 {
        m.run_sync()?;
        let time = page(&m, AREA).at(m.data(0));
        check!(time + 1000 >= last, "{time} after {last}");
        last = time;
        check!(matches!(other.run()?, Exit::Out { port: PORT_SYNC, .. }));
        let time = page(&m, AREA + 64).at(m.data(0));
        check!(time + 1000 >= last, "{time} after {last}");
        last = time;
    }
    Ok(())
}

/// Wall clock and clock together are the time of day.
fn pv_wall_clock() -> TestResult {
    let m = with_msr(0x4b56_4d00, AREA)?;
    need(&m, CLOCK)?;
    let (version, seconds) = (m.mem.get32(AREA), u64::from(m.mem.get32(AREA + 4)));
    check!(version & 1 == 0 && version != 0, "version {version}");
    let now = seconds + clock(&m)?.clock / 1_000_000_000;
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let expected = day.map_or(0, |d| d.as_secs());
    check!(now.abs_diff(expected) <= 2, "{now}, not {expected}");
    Ok(())
}

/// Time that the vCPU's thread waits for a processor is stolen time.
fn pv_steal_time() -> TestResult {
    let mut m = with_msr(0x4b56_4d03, AREA | 1)?;
    need(&m, STEAL)?;
    let stolen = |m: &Machine| (m.mem.get(AREA), m.mem.get32(AREA + 8));
    let (before, version) = stolen(&m);
    check!(version & 1 == 0 && version != 0, "version {version}");
    // Another thread wants the same processor all the time.
    let busy = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            while busy.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let start = Instant::now();
        let mut result = Ok(());
        while start.elapsed() < Duration::from_millis(500) && result.is_ok() {
            result = m.run_sync().map(drop);
        }
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        result
    })?;
    m.run_sync()?;
    let (after, version) = stolen(&m);
    check_eq!(version & 1, 0, "version");
    check!(after >= before, "{before} to {after}");
    if usable().len() == 1 {
        check!(after - before >= 50_000_000, "{} ns of 500 ms on one processor", after - before);
    }
    Ok(())
}

guest!(pv_bad_msr:
    "lea r9, [rip + 3f]", "mov [FIXUP], r9",
    "wrmsr",
    "3: mov rbx, [EXC]", "mov rcx, [EXC_VECTOR]",
    "out DONE, al",
);

/// Reserved bits are faults.
fn pv_steal_bad() -> TestResult {
    for bit in 1..6 {
        let mut m = Machine::irqchip(pv_bad_msr())?;
        need(&m, STEAL)?;
        m.with_regs(|r| (r.rcx, r.rax, r.rdx) = (0x4b56_4d03, AREA | 1 | 1 << bit, 0))?;
        let regs = m.run_done()?;
        check_eq!((regs.rbx, regs.rcx), (1, 13), "bit {bit}");
    }
    Ok(())
}

guest!(pv_call_intel:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "2: out SYNC, al",
    "vmcall",
    "jmp 2b",
);

guest!(pv_call_amd:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "2: out SYNC, al",
    "vmmcall",
    "jmp 2b",
);

/// The code of a guest that makes the hypercall which its registers hold.
pub(super) fn caller_code() -> &'static [u8] {
    if is_amd() {
        pv_call_amd()
    } else {
        pv_call_intel()
    }
}

pub(super) fn caller() -> std::result::Result<Machine, Outcome> {
    let mut m = Machine::irqchip(caller_code())?;
    m.run_sync()?;
    Ok(m)
}

/// Makes a hypercall and returns its result.
pub(super) fn call(m: &mut Machine, number: u64, args: [u64; 4]) -> std::result::Result<i64, Outcome> {
    m.with_regs(|r| {
        r.rax = number;
        [r.rbx, r.rcx, r.rdx, r.rsi] = args;
    })?;
    Ok(m.run_sync()?.rax as i64)
}

/// Numbers that are there, and one that is not.
fn pv_hypercalls() -> TestResult {
    let mut m = caller()?;
    check_eq!(call(&mut m, 1, [0; 4])?, 0, "poll");
    check_eq!(call(&mut m, 0x7fff, [0; 4])?, -1000, "no such call");
    check_eq!(call(&mut m, u64::MAX, [0; 4])?, -1000, "no such call");
    if features(&m)? & UNHALT != 0 {
        check_eq!(call(&mut m, 5, [0, 77, 0, 0])?, 0, "a vCPU that does not exist");
    }
    Ok(())
}

guest!(pv_user_intel:
    "push 0x2b", "push 0x3f000", "push 0x3002", "push 0x33",
    "lea rax, [rip + 2f]", "push rax", "iretq",
    "2: mov eax, 1", "vmcall", "out DONE, al",
);

guest!(pv_user_amd:
    "push 0x2b", "push 0x3f000", "push 0x3002", "push 0x33",
    "lea rax, [rip + 2f]", "push rax", "iretq",
    "2: mov eax, 1", "vmmcall", "out DONE, al",
);

/// Only the guest's kernel may call.
fn pv_hypercall_user() -> TestResult {
    let mut m = Machine::irqchip(if is_amd() { pv_user_amd() } else { pv_user_intel() })?;
    check_eq!(m.run_done()?.rax as i64, -1);
    Ok(())
}

/// One hypercall sends to many; its result says to how many.
fn pv_send_ipi() -> TestResult {
    let mut m = caller()?;
    need(&m, SEND_IPI)?;
    check_eq!(call(&mut m, 10, [1, 0, 0, 0x51])?, 1, "to itself");
    m.with_regs(|r| r.rax = 1)?;
    m.run_sync()?;
    check_eq!(m.irq_count(0x51), 1);
    check_eq!(call(&mut m, 10, [0, 0, 0, 0x51])?, 0, "to nobody");
    check_eq!(call(&mut m, 10, [1 << 5, 1, 3, 0x51])?, 0, "to IDs that do not exist");
    for bad in [1 << 11, 1 << 18] {
        check_eq!(call(&mut m, 10, [1, 0, 0, 0x51 | bad])?, -22, "destination modes");
    }
    check_eq!(m.irq_count(0x51), 1);
    Ok(())
}

guest!(pv_halt:
    // Interrupts are off, so only the kick can end the HLT.
    "2: cli", "hlt",
    "inc qword ptr [DATA + 8]",
    "out DONE, al",
    "jmp 2b",
);

/// A halted vCPU that takes no interrupts is woken by the hypercall.
fn pv_kick() -> TestResult {
    let mut m = Machine::irqchip(caller_code())?;
    need(&m, UNHALT)?;
    m.mem.write(FREE, pv_halt());
    // KVM finds a vCPU by its APIC ID only after some APIC has changed since the vCPU was made.
    let mut other = second(&m)?;
    m.run_sync()?;
    let mut regs = other.regs()?;
    regs.rip = FREE;
    other.set_regs(&regs)?;
    for round in 1..=5 {
        std::thread::scope(|scope| -> TestResult {
            let thread = scope.spawn(|| other.run());
            while !thread.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
                check_eq!(call(&mut m, 5, [0, 1, 0, 0])?, 0);
            }
            let exit = thread.join().map_err(|_| Outcome::Fail("the thread panicked".into()))?;
            check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }));
            Ok(())
        })?;
        check_eq!(m.data(1), round);
    }
    Ok(())
}

/// A VMM that restores each vCPU's counter a little later means them to be equal.
fn pv_tsc_in_step() -> TestResult {
    let m = Machine::irqchip(pv_msr())?;
    let other = second(&m)?;
    let counter = |vcpu: &Vcpu| -> std::result::Result<u64, Outcome> {
        let entry = kb::kvm_msr_entry { index: 0x10, ..Default::default() };
        let mut list = Fam::<kb::kvm_msr_entry, 8>::from_slice(&[entry]);
        ioctl(vcpu.fd(), KVM_GET_MSRS, list.addr())?;
        Ok(list.entries()[0].data)
    };
    let set = |vcpu: &Vcpu, data: u64| -> TestResult {
        let entry = kb::kvm_msr_entry { index: 0x10, data, ..Default::default() };
        let mut list = Fam::<kb::kvm_msr_entry, 8>::from_slice(&[entry]);
        check_eq!(ioctl(vcpu.fd(), KVM_SET_MSRS, list.addr())?, 1);
        Ok(())
    };
    // Each reading lies between two of the other.
    let in_step = || -> TestResult {
        let readings = [&m.vcpu, &other, &m.vcpu, &other].map(counter);
        let mut last = 0;
        for reading in readings {
            let reading = reading?;
            check!(reading >= last, "{reading} after {last}");
            last = reading;
        }
        Ok(())
    };
    in_step()?;
    let value = 1 << 50;
    set(&m.vcpu, value)?;
    std::thread::sleep(Duration::from_millis(30));
    set(&other, value)?;
    in_step()?;
    check!(counter(&m.vcpu)? >= value, "the value counts");
    Ok(())
}
