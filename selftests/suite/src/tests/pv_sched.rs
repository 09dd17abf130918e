// SPDX-License-Identifier: GPL-2.0-only
//! vCPUs that have lost their CPU: what the guest is told, TLB flushes that wait for them, and turns that go to
//! them.

use std::time::{Duration, Instant};

use super::pv::{call, caller, need, second, AREA};
use crate::cpus::move_to;
use crate::guest::*;
use crate::harness::{env, skip, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(pv_preempted, pv_tlb_flush, pv_preempted_slot_gone, pv_yield, pv_spin = 60,);

const STEAL: u32 = 1 << 5;
const TLB_FLUSH: u32 = 1 << 9;
const YIELD: u32 = 1 << 13;

/// Where the byte is that says whether the vCPU runs.
const FLAG: u64 = AREA + 16;
/// Its bits: the vCPU does not run, and its TLB must be flushed before it does.
const PREEMPTED: u64 = 1;
const FLUSH: u64 = 2;

/// A linear address with a small page of its own, the table for it, and two pages to be found there.
const VIEW: u64 = 0x30_0000;
const TABLE: u64 = FREE + 0x3000;
const FIRST: u64 = FREE + 0x4000;
const OTHER: u64 = FREE + 0x5000;

guest!(sched_sleeper:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov ecx, 0x4b564d03", "mov eax, 0x40001", "xor edx, edx", "wrmsr",
    "mov ebx, 0x300000",
    "2: mov rax, [rbx]", "mov [DATA], rax",
    "movzx eax, byte ptr [0x40010]", "mov [DATA + 8], rax",
    "out SYNC, al",
    "sti", "hlt", "cli",
    "mov rax, [rbx]", "mov [DATA + 16], rax",
    "movzx eax, byte ptr [0x40010]", "mov [DATA + 24], rax",
    "out DONE, al",
    "jmp 2b",
);

fn flag(m: &Machine) -> u64 {
    m.mem.get(FLAG) & 0xff
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> TestResult {
    let start = Instant::now();
    while !ready() {
        check!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn sleeper() -> std::result::Result<Machine, crate::harness::Outcome> {
    let mut m = Machine::irqchip(sched_sleeper())?;
    need(&m, STEAL)?;
    if env().device == "/dev/kvm" {
        skip("KVM marks vCPUs that are preempted, not those that sleep")?;
    }
    m.map_small(VIEW, TABLE, FIRST | PTE_PWU);
    m.mem.set(FIRST, 0x1111);
    m.mem.set(OTHER, 0x2222);
    m.run_sync()?;
    check_eq!((m.data(0), m.data(1)), (0x1111, 0));
    Ok(m)
}

/// Has the guest sleep; `asleep` is called when the guest's memory says so, then it is woken.
fn while_asleep(m: &mut Machine, asleep: impl FnOnce(&crate::host::Mapping) -> TestResult) -> TestResult {
    let Machine { vcpu, vm, mem, .. } = m;
    std::thread::scope(|scope| -> TestResult {
        let thread = scope.spawn(|| vcpu.run());
        let result = wait_for("the guest learns that its vCPU sleeps", || mem.get(FLAG) & 0xff == PREEMPTED)
            .and_then(|()| asleep(mem));
        vm.signal_msi(0xfee0_0000, 0x41)?;
        let exit = thread.join().map_err(|_| crate::harness::Outcome::Fail("the thread panicked".into()))?;
        check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }));
        result
    })
}

/// A vCPU that sleeps is marked, one that runs, or waits for its VMM in the midst of an instruction, is not.
fn pv_preempted() -> TestResult {
    let mut m = sleeper()?;
    for _ in 0..5 {
        check_eq!(flag(&m), 0, "with the VMM");
        while_asleep(&mut m, |_| Ok(()))?;
        check_eq!(m.data(3), 0, "running");
        m.run_sync()?;
        check_eq!(m.data(1), 0, "running");
    }
    Ok(())
}

/// The wish that another vCPU adds is granted before the guest runs.
fn pv_tlb_flush() -> TestResult {
    let mut m = sleeper()?;
    need(&m, TLB_FLUSH)?;
    for _ in 0..env().rounds(20) {
        for (page, expected) in [(OTHER, 0x2222), (FIRST, 0x1111)] {
            while_asleep(&mut m, |mem| {
                mem.set(TABLE + (VIEW >> 12 & 0x1ff) * 8, page | PTE_PWU);
                // As the guest's other vCPUs would, by a locked compare-and-exchange.
                let bytes = mem.get(FLAG) & !0xff;
                mem.set(FLAG, bytes | PREEMPTED | FLUSH);
                Ok(())
            })?;
            check_eq!((m.data(2), m.data(3)), (expected, 0));
            m.run_sync()?;
        }
    }
    Ok(())
}

/// When the memory of the mark goes, nothing is written to where it was.
fn pv_preempted_slot_gone() -> TestResult {
    let mut m = sleeper()?;
    let extra = crate::host::Mapping::anonymous(PAGE);
    const AT: u64 = 0x4000_0000;
    check!(m.vcpu.set_msr(0x4b56_4d03, AT | 1)?);
    for there in [true, false, true] {
        if there {
            m.vm.set_slot(1, 0, AT, PAGE as u64, extra.addr())?;
        }
        extra.set(16, 0x5a00);
        let Machine { vcpu, vm, .. } = &mut m;
        std::thread::scope(|scope| -> TestResult {
            let thread = scope.spawn(|| vcpu.run());
            let start = Instant::now();
            while there && extra.get(16) & 0xff == 0 && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
            let seen = extra.get(16);
            if there {
                // It goes while the vCPU sleeps.
                vm.set_slot(1, 0, AT, 0, extra.addr())?;
                extra.set(16, 0x5a00);
            }
            vm.signal_msi(0xfee0_0000, 0x41)?;
            let exit = thread.join().map_err(|_| crate::harness::Outcome::Fail("the thread panicked".into()))?;
            check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }));
            check_eq!(seen, 0x5a00 | u64::from(there), "asleep");
            check_eq!(extra.get(16), 0x5a00, "without the slot");
            Ok(())
        })?;
        m.run_sync()?;
    }
    Ok(())
}

/// A turn can be offered to any vCPU, there or not.
fn pv_yield() -> TestResult {
    let mut m = caller()?;
    need(&m, YIELD)?;
    let _other = second(&m)?;
    for id in [0, 1, 2, 77, u64::MAX] {
        check_eq!(call(&mut m, 11, [id, 0, 0, 0])?, 0, "to {id:#x}");
    }
    Ok(())
}

guest!(sched_ping:
    "3: mov rax, rsi",
    "2: pause", "cmp [DATA], rax", "jne 2b",
    "add rax, 1", "and rax, 1", "mov [DATA], rax",
    "dec ebx", "jnz 3b",
    "out DONE, al",
);

/// Two vCPUs that wait for each other in loops of PAUSEs, on one CPU: each must get its turns.
fn pv_spin() -> TestResult {
    let mut m = Machine::irqchip(sched_ping())?;
    let mut other = second(&m)?;
    let rounds = env().rounds(200);
    m.with_regs(|r| (r.rsi, r.rbx) = (0, rounds))?;
    let mut regs = m.vcpu.regs()?;
    (regs.rsi, regs.rsp) = (1, STACK - 0x2000);
    other.set_regs(&regs)?;
    let start = Instant::now();
    std::thread::scope(|scope| -> TestResult {
        let run = |vcpu: &mut Vcpu| {
            move_to(0, 0);
            vcpu.run()
        };
        let threads = [&mut m.vcpu, &mut other].map(|vcpu| scope.spawn(move || run(vcpu)));
        for thread in threads {
            let exit = thread.join().map_err(|_| crate::harness::Outcome::Fail("the thread panicked".into()))?;
            check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }));
        }
        Ok(())
    })?;
    println!("# pv_spin: {rounds} rounds in {} ms", start.elapsed().as_millis());
    Ok(())
}
