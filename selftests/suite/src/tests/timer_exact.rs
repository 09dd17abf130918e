// SPDX-License-Identifier: GPL-2.0-only
//! The local APIC's timer to the tick, while the host is busy and moves the vCPU between its CPUs.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::cpus::move_to;
use crate::guest::*;
use crate::harness::{note, skip, Outcome, TestResult};
use crate::kvm::{ioctl, KVM_GET_TSC_KHZ};
use crate::machine::*;

tests!(
    timer_exact_periodic = 60,
    timer_exact_one_shot = 60,
    timer_exact_deadline = 60,
);

/// Where the time stamps of interrupts are, 64 bits each.
const STAMPS: u64 = FREE;
/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// Runs `body` while other threads keep the CPUs busy and move this one from CPU to CPU every millisecond or so.
fn in_a_bustle<T>(body: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    // SAFETY: takes no arguments and cannot fail.
    let thread = unsafe { libc::gettid() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for nth in 0.. {
                move_to(thread, nth);
                std::thread::sleep(Duration::from_millis(1));
                if over.load(Relaxed) {
                    break;
                }
            }
        });
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(300) {
                    std::hint::spin_loop();
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let result = body();
        over.store(true, Relaxed);
        result
    })
}

/// The host's counter and its time in ns.
fn now() -> (u64, u64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a local structure; reading the counter has no side effect.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        let tsc = core::arch::x86_64::_rdtsc();
        (tsc, time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// Runs `body` and returns how many ticks the counter made in `NS` of the host's nanoseconds meanwhile.
fn ticks_in(ns: u64, body: impl FnOnce() -> TestResult) -> std::result::Result<u64, Outcome> {
    let (tsc, time) = now();
    body()?;
    let (tsc_after, time_after) = now();
    let ratio = u128::from(tsc_after - tsc) * u128::from(ns);
    Ok((ratio / u128::from((time_after - time).max(1))) as u64)
}

/// A machine whose interrupt 0x40 is written down at [`STAMPS`] by the handler at `.org 99b + 0x100`.
fn stamping(code: &[u8]) -> std::result::Result<Machine, Outcome> {
    let m = Machine::irqchip(code)?;
    super::exit_msr::need_tsc(&m)?;
    m.set_gate(0x40, CODE + 0x100);
    Ok(m)
}

guest!(exact_timer:
    // RSI: LVT entry, RDI: initial count, RBX: interrupts to wait for. R12 is the time at the start.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov dword ptr [rbp + 0x3e0], 0xb",
    "2: mov [rbp + 0x320], esi",
    "mov qword ptr [DATA], 0",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov r12, rax",
    "mov [rbp + 0x380], edi",
    "sti",
    "3: cmp [DATA], rbx", "jb 3b",
    "cli",
    "mov dword ptr [rbp + 0x380], 0",
    "out SYNC, al",
    "jmp 2b",
    ".org 99b + 0x100",
    "push rax", "push rdx", "push rcx",
    "rdtsc", "shl rdx, 32", "or rax, rdx",
    "mov rcx, [DATA]",
    "mov [FREE + rcx * 8], rax",
    "inc rcx", "mov [DATA], rcx",
    "mov dword ptr [rbp + 0xb0], 0",
    "pop rcx", "pop rdx", "pop rax",
    "iretq",
);

/// 1,000 ticks: none comes too early or twice, none is missing but what merges while the vCPU does not run, and
/// the last are where the first were in their period.
fn timer_exact_periodic() -> TestResult {
    const TICKS: u64 = 1000;
    let mut m = stamping(exact_timer())?;
    m.with_regs(|r| (r.rsi, r.rdi, r.rbx) = (1 << 17 | 0x40, MS, TICKS))?;
    let mut start = 0;
    let period = in_a_bustle(|| {
        ticks_in(MS, || {
            start = m.run_sync()?.r12;
            Ok(())
        })
    })?;
    let stamps: Vec<u64> = (0..TICKS).map(|i| m.mem.get(STAMPS + i * 8) - start).collect();
    // What the two clocks may disagree about, and where the first tick may be.
    let slack = period / 20;
    let mut last = 0;
    let (mut merged, mut late) = (0, 0);
    for (i, &stamp) in (1..).zip(&stamps) {
        check!(stamp + slack >= i * period, "tick {i} at {stamp}, period {period}");
        merged += ((stamp - last + period / 2) / period).saturating_sub(1);
        late = late.max(stamp - last);
        last = stamp;
    }
    let periods = last / period;
    check!(periods >= TICKS && periods - TICKS <= merged,
        "{TICKS} ticks in {periods} periods; {merged} may have merged");
    // The least lateness of a tick within its period, at the beginning and at the end.
    let phase = |stamps: &[u64]| stamps.iter().map(|stamp| (stamp + slack) % period).min();
    let (first, end) = (phase(&stamps[..50]), phase(&stamps[950..]));
    note(format!("{} periods, {merged} in stalls, the longest of {} us; phases {first:?}, {end:?}",
        periods, late * 1000 / period));
    check!(end.unwrap_or(0) < first.unwrap_or(0) + period / 4, "drift: {first:?} to {end:?}");
    Ok(())
}

/// One-shot interrupts are never early.
fn timer_exact_one_shot() -> TestResult {
    let mut m = stamping(exact_timer())?;
    let mut waits = Vec::new();
    let per_second = in_a_bustle(|| {
        ticks_in(1000 * MS, || {
            for round in 0..100u64 {
                let count = 20_000 + round * round * 150;
                m.with_regs(|r| (r.rsi, r.rdi, r.rbx) = (0x40, count, 1))?;
                let start = m.run_sync()?.r12;
                waits.push((count, m.mem.get(STAMPS) - start));
            }
            Ok(())
        })
    })?;
    for (count, ticks) in waits {
        let ns = (u128::from(ticks) * 1_000_000_000 / u128::from(per_second)) as u64;
        // The clocks were compared over a second or so.
        check!(ns + count / 1000 + 100 >= count, "{ns} ns, asked for {count}");
    }
    Ok(())
}

guest!(exact_deadline:
    // RDI: ticks to the deadline, RBX: rounds. Ends with RBX left when one is early.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov dword ptr [rbp + 0x320], 0x40040",
    "2: mov qword ptr [DATA], 0",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "add rax, rdi", "mov r12, rax",
    "mov rdx, rax", "shr rdx, 32", "mov ecx, 0x6e0", "wrmsr",
    "sti",
    "3: cmp qword ptr [DATA], 0", "je 3b",
    "cli",
    "mov rax, [FREE]", "sub rax, r12", "js 4f",
    "dec rbx", "jnz 2b",
    "4: out DONE, al",
    ".org 99b + 0x100",
    "push rax", "push rdx",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov [FREE], rax",
    "inc qword ptr [DATA]",
    "mov dword ptr [rbp + 0xb0], 0",
    "pop rdx", "pop rax",
    "iretq",
);

/// TSC deadlines are never early, to the tick, and come once each.
fn timer_exact_deadline() -> TestResult {
    let mut m = stamping(exact_deadline())?;
    if m.sys.check(kvm_bindings::KVM_CAP_TSC_DEADLINE_TIMER) == 0 {
        return skip("no KVM_CAP_TSC_DEADLINE_TIMER");
    }
    let mut entries = m.vcpu.cpuid()?;
    for entry in entries.iter_mut().filter(|entry| entry.function == 1) {
        entry.ecx |= 1 << 24;
    }
    m.vcpu.set_cpuid(&entries)?;
    let khz = ioctl(m.vcpu.fd(), KVM_GET_TSC_KHZ, 0)? as u64;
    m.with_regs(|r| (r.rdi, r.rbx) = (khz / 2, 300))?;
    let regs = in_a_bustle(|| m.run_done())?;
    check_eq!(regs.rbx, 0, "rounds left: early by {}", regs.rax.wrapping_neg());
    check_eq!(m.data(0), 1, "interrupts for the last deadline");
    Ok(())
}
