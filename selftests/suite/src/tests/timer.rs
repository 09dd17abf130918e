// SPDX-License-Identifier: GPL-2.0-only
//! The local APIC's timer: never early, as often as asked, in all three modes.

use std::time::{Duration, Instant};

use crate::guest::*;
use crate::harness::{note, skip, Outcome, TestResult};
use crate::host::{alarm, catch_signal, is_tcg};
use crate::kvm::{ioctl, KVM_GET_TSC_KHZ};
use crate::machine::*;

tests!(
    timer_one_shot,
    timer_one_shot_divided,
    timer_count_goes_down,
    timer_periodic,
    timer_stopped,
    timer_masked,
    timer_tsc_deadline,
    timer_tsc_deadline_past,
    timer_tsc_deadline_disarm,
    timer_mode_switch,
    timer_wakes_from_userspace_exit,
    timer_many_short,
);

/// The vector of the timer in all tests.
const VECTOR: u64 = 0x40;
/// The APIC timer's frequency in KVM's ABI: 1 GHz, so that counts are nanoseconds.
const NS_PER_COUNT: u64 = 1;
/// How much the clocks of this machine may differ, in parts per hundred.
const CLOCK_ERROR: u64 = 5;

guest!(apic_timer:
    // RSI: LVT entry, RDI: initial count, R12: divide configuration, R13: interrupts to wait for,
    // R8: not 0 to wait awake.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "2:",
    "mov dword ptr [rbp + 0x3e0], r12d",
    "mov dword ptr [rbp + 0x320], esi",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "mov dword ptr [rbp + 0x380], edi",
    "3:",
    "cli",
    "cmp qword ptr [IRQ_LOGGED], r13",
    "jae 4f",
    "test r8d, r8d", "jnz 5f",
    "sti", "hlt",
    "jmp 3b",
    "5: sti", "nop",
    "jmp 3b",
    "4: rdtsc", "shl rdx, 32", "or rax, rdx", "mov r14, rax",
    "mov eax, [rbp + 0x390]", "mov r15, rax",
    "out SYNC, al",
    // The host may let time pass now; what has come in the meantime is taken here.
    "sti",
    "nop",
    "cli",
    "out SYNC, al",
    "jmp 2b",
);

/// A machine that runs [`apic_timer`], where guests have a clock.
fn timer_machine() -> Result<Machine, Outcome> {
    let m = Machine::irqchip(apic_timer())?;
    super::exit_msr::need_tsc(&m)?;
    Ok(m)
}

/// The guest's time-stamp counter in kHz.
fn tsc_khz(m: &Machine) -> Result<u64, Outcome> {
    Ok(ioctl(m.vcpu.fd(), KVM_GET_TSC_KHZ, 0)? as u64)
}

/// R8 for the guests that wait: QEMU's TCG now and then takes an interrupt between STI and HLT, and
/// the guest would sleep for ever.
fn awake() -> u64 {
    is_tcg().into()
}

/// Runs [`apic_timer`] once: time stamps from start to the last interrupt, in nanoseconds.
fn wait(m: &mut Machine, lvt: u64, count: u64, divide: u64, irqs: u64) -> Result<u64, Outcome> {
    m.with_regs(|r| {
        (r.rsi, r.rdi, r.r12, r.r13) = (lvt, count, divide, irqs);
        r.r8 = awake();
    })?;
    let regs = m.run_sync()?;
    let khz = tsc_khz(m)?;
    let last = m.mem.get(IRQ_LOG + ((irqs - 1) & 127) * 16 + 8);
    Ok(last.wrapping_sub(regs.rbx) * 1_000_000 / khz)
}

/// Fails when `took` is earlier than `want` nanoseconds by more than the clocks may differ.
fn not_early(took: u64, want: u64) -> TestResult {
    check!(took >= want - want * CLOCK_ERROR / 100, "{took} ns, asked for {want} ns");
    check!(took < want * 20 + 200_000_000, "very late: {took} ns, asked for {want} ns");
    Ok(())
}

fn periodic() -> u64 {
    1 << 17 | VECTOR
}

/// One interrupt after the time asked for, and only one.
fn timer_one_shot() -> TestResult {
    for count in [1_000_000, 5_000_000, 200_000] {
        let mut m = timer_machine()?;
        let took = wait(&mut m, VECTOR, count, 0xb, 1)?;
        not_early(took, count * NS_PER_COUNT)?;
        check_eq!(m.vcpu.regs()?.r15, 0, "current count after the end");
        std::thread::sleep(Duration::from_nanos(count * 3));
        m.run_sync()?;
        check_eq!(m.irq_log(), [VECTOR], "interrupts");
    }
    Ok(())
}

/// The divide configuration multiplies the time.
fn timer_one_shot_divided() -> TestResult {
    for (config, divisor) in [(0xb, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128)]
    {
        let mut m = timer_machine()?;
        let took = wait(&mut m, VECTOR, 2_000_000 / divisor, config, 1)?;
        not_early(took, 2_000_000)?;
    }
    Ok(())
}

guest!(count_down:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x3e0], 0xb",
    "mov dword ptr [rbp + 0x320], 0x10040",
    "mov dword ptr [rbp + 0x380], 0xffffffff",
    "mov ecx, 50",
    "mov ebx, -1",
    "2: mov eax, [rbp + 0x390]",
    "cmp eax, ebx", "ja 3f",
    "mov ebx, eax",
    "dec ecx", "jnz 2b",
    "3: mov eax, [rbp + 0x380]",
    "out DONE, al",
);

/// The current count falls while the initial count stays.
fn timer_count_goes_down() -> TestResult {
    let mut m = Machine::irqchip(count_down())?;
    let regs = m.run_done()?;
    check_eq!(regs.rcx, 0, "rounds left");
    check!(regs.rbx < 0xffff_ffff && regs.rbx > 0, "last count {:#x}", regs.rbx);
    check_eq!(regs.rax, 0xffff_ffff, "initial count");
    Ok(())
}

/// Ten periods take ten times as long as one; none is lost, none comes twice.
fn timer_periodic() -> TestResult {
    const PERIOD: u64 = 2_000_000;
    let mut m = timer_machine()?;
    let start = Instant::now();
    let took = wait(&mut m, periodic(), PERIOD, 0xb, 10)?;
    not_early(took, PERIOD * 9)?;
    // It goes on by itself, and not faster than the clock of the host.
    check_eq!(m.mem.get(IRQ_LOGGED), 10);
    m.with_regs(|r| (r.rdi, r.rsi, r.r13) = (PERIOD, periodic(), 30))?;
    m.run_sync()?;
    m.run_sync()?;
    let elapsed = start.elapsed().as_nanos() as u64;
    let most = elapsed / PERIOD + 2;
    check!(m.mem.get(IRQ_LOGGED) <= most + most * CLOCK_ERROR / 100, "more than {most}");
    let vectors = m.irq_log();
    check!(vectors.iter().all(|&vector| vector == VECTOR), "{vectors:x?}");
    Ok(())
}

/// An initial count of 0 stops the timer.
fn timer_stopped() -> TestResult {
    let mut m = Machine::irqchip(stopped())?;
    m.run_sync()?;
    std::thread::sleep(Duration::from_millis(30));
    m.run_done()?;
    check_eq!(m.irq_log(), []);
    Ok(())
}

guest!(stopped:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x3e0], 0xb",
    "mov dword ptr [rbp + 0x320], 0x20040",
    "mov dword ptr [rbp + 0x380], 10000000",
    "mov dword ptr [rbp + 0x380], 0",
    "out SYNC, al",
    "sti", "nop", "nop",
    "out DONE, al",
);

guest!(masked:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x3e0], 0xb",
    "mov dword ptr [rbp + 0x320], 0x10040",
    "mov dword ptr [rbp + 0x380], 100000",
    "out SYNC, al",
    "sti", "nop", "nop",
    "out DONE, al",
);

/// A masked timer interrupts no one.
fn timer_masked() -> TestResult {
    let mut m = Machine::irqchip(masked())?;
    m.run_sync()?;
    std::thread::sleep(Duration::from_millis(10));
    m.run_done()?;
    check_eq!(m.irq_log(), []);
    Ok(())
}

guest!(deadline:
    // RDI: time stamps from now to the deadline, R13: rounds, R8: not 0 to wait awake.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov dword ptr [rbp + 0x320], 0x40040",
    "xor r15d, r15d",
    "2:",
    "cli",
    "rdtsc", "shl rdx, 32", "or rax, rdx",
    "add rax, rdi",
    "mov r12, rax",
    "mov rdx, rax", "shr rdx, 32", "mov eax, eax",
    "mov ecx, 0x6e0", "wrmsr",
    "mov r14, [IRQ_LOGGED]",
    "3: cli",
    "cmp [IRQ_LOGGED], r14",
    "jne 4f",
    "test r8d, r8d", "jnz 6f",
    "sti", "hlt",
    "jmp 3b",
    "6: sti", "nop",
    "jmp 3b",
    "4:",
    // The time stamp in the log must not be before the deadline.
    "mov eax, r14d", "and eax, 127", "shl eax, 4",
    "mov rbx, [0xd008 + rax]",
    "mov rax, rbx", "sub rax, r12",
    "js 5f",
    "add r15, rax",
    "mov ecx, 0x6e0", "rdmsr",
    "or eax, edx", "jnz 5f",
    "dec r13", "jnz 2b",
    "5: out DONE, al",
);

/// A machine for the TSC-deadline tests, or why there is none.
fn deadline_machine(code: &[u8]) -> Result<Machine, Outcome> {
    let m = Machine::irqchip(code)?;
    if m.sys.check(kvm_bindings::KVM_CAP_TSC_DEADLINE_TIMER) == 0 {
        return skip("no KVM_CAP_TSC_DEADLINE_TIMER");
    }
    super::exit_msr::need_tsc(&m)?;
    let mut entries = m.vcpu.cpuid()?;
    for entry in entries.iter_mut().filter(|entry| entry.function == 1) {
        entry.ecx |= 1 << 24;
    }
    m.vcpu.set_cpuid(&entries)?;
    Ok(m)
}

/// The interrupt comes at the deadline or after it, and the MSR is 0 then.
fn timer_tsc_deadline() -> TestResult {
    for micros in [100u64, 1000, 5000] {
        let mut m = deadline_machine(deadline())?;
        let ticks = tsc_khz(&m)? * micros / 1000;
        m.with_regs(|r| (r.rdi, r.r13, r.r8) = (ticks, 10, awake()))?;
        let regs = m.run_done()?;
        check_eq!(regs.r13, 0, "rounds left: at {:#x}, deadline {:#x}, MSR {:#x}", regs.rbx,
            regs.r12, regs.rax);
        check_eq!(m.irq_count(VECTOR), 10);
        note(format!("{micros} us: {} ticks late on average", regs.r15 / 10));
    }
    Ok(())
}

/// A deadline in the past fires at once, and once.
fn timer_tsc_deadline_past() -> TestResult {
    let mut m = deadline_machine(deadline())?;
    m.with_regs(|r| (r.rdi, r.r13, r.r8) = (-100i64 as u64, 20, awake()))?;
    let start = Instant::now();
    let regs = m.run_done()?;
    check_eq!(regs.r13, 0, "rounds left");
    check_eq!(m.irq_count(VECTOR), 20);
    check!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    Ok(())
}

guest!(disarm:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x320], 0x40040",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "add rax, rdi",
    "mov rdx, rax", "shr rdx, 32", "mov eax, eax",
    "mov ecx, 0x6e0", "wrmsr",
    "rdmsr", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "xor eax, eax", "xor edx, edx", "wrmsr",
    "rdmsr",
    "out SYNC, al",
    "sti", "nop", "nop",
    "out DONE, al",
);

/// Writing 0 disarms; the MSR reads back what is armed.
fn timer_tsc_deadline_disarm() -> TestResult {
    let mut m = deadline_machine(disarm())?;
    let ticks = tsc_khz(&m)? * 20;
    m.with_regs(|r| r.rdi = ticks)?;
    let regs = m.run_sync()?;
    check!(regs.rbx > ticks, "MSR while armed: {:#x}", regs.rbx);
    check_eq!(regs.rax, 0, "MSR after 0 was written");
    std::thread::sleep(Duration::from_millis(40));
    m.run_done()?;
    check_eq!(m.irq_log(), []);
    Ok(())
}

guest!(mode_switch:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x3e0], 0xb",
    "mov dword ptr [rbp + 0x320], 0x00040",
    "mov dword ptr [rbp + 0x380], 5000000",
    "mov dword ptr [rbp + 0x320], 0x40040", // to TSC-deadline: the count is void
    "mov eax, [rbp + 0x390]", "mov r15, rax",
    "out SYNC, al",
    "sti", "nop", "nop",
    "out DONE, al",
);

/// A change between count and deadline mode disarms the timer.
fn timer_mode_switch() -> TestResult {
    let mut m = deadline_machine(mode_switch())?;
    check_eq!(m.run_sync()?.r15, 0, "current count in deadline mode");
    std::thread::sleep(Duration::from_millis(20));
    m.run_done()?;
    check_eq!(m.irq_log(), []);
    Ok(())
}

/// The timer runs on while the vCPU is in userspace, and signals do not lose it.
fn timer_wakes_from_userspace_exit() -> TestResult {
    let mut m = timer_machine()?;
    catch_signal(libc::SIGALRM);
    alarm(Duration::from_millis(1), Duration::from_millis(1));
    m.with_regs(|r| (r.rsi, r.rdi, r.r12, r.r13) = (VECTOR, 20_000_000, 0xb, 1))?;
    let mut interrupted = 0;
    loop {
        match m.vcpu.run() {
            Ok(_) => break,
            Err(error) if error.errno.0 == libc::EINTR => interrupted += 1,
            Err(error) => return Err(error.into()),
        }
    }
    alarm(Duration::ZERO, Duration::ZERO);
    check_eq!(m.irq_log(), [VECTOR]);
    check!(interrupted > 0, "no signal came");
    Ok(())
}

/// Many short waits, in which arming and firing come close together.
fn timer_many_short() -> TestResult {
    let mut m = timer_machine()?;
    for round in 1..=50 {
        let took = wait(&mut m, VECTOR, round * 2000, 0xb, round)?;
        not_early(took, round * 2000)?;
        m.run_sync()?;
    }
    check_eq!(m.irq_count(VECTOR), 50);
    Ok(())
}
