// SPDX-License-Identifier: GPL-2.0-only
//! Locked instructions that are emulated on memory.
//!
//! They are on memory when its slot comes between the read, which the VMM answers, and the write.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::guest::*;
use crate::harness::{fail, Outcome, TestResult};
use crate::host::Mapping;
use crate::kvm::{Exit, Vcpu};
use crate::machine::*;

tests!(exit_emul_lock_lost_race, exit_emul_lock_contended = 60);

/// The slot, and how large it is.
const SLOT: u32 = 1;
const SIZE: u64 = 0x1000;

/// A second vCPU in the state of the first.
fn second(m: &Machine) -> Result<Vcpu, Outcome> {
    let vcpu = m.vm.create_vcpu(1)?;
    vcpu.set_cpuid(m.sys.supported_cpuid()?.entries())?;
    vcpu.set_sregs(&m.vcpu.sregs()?)?;
    vcpu.set_regs(&m.vcpu.regs()?)?;
    Ok(vcpu)
}

guest!(locked:
    "lock add dword ptr [rbx], r8d", "out SYNC, al",
    "lock xadd qword ptr [rbx + 0x10], r8", "out SYNC, al",
    "xchg word ptr [rbx + 0x20], r8w", "out SYNC, al",
    "lock inc byte ptr [rbx + 0x30]", "out SYNC, al",
    "lock bts dword ptr [rbx + 0x40], 5", "setc r8b", "out SYNC, al",
    "lock cmpxchg qword ptr [rbx + 0x50], r8", "setz r8b", "out SYNC, al",
    "mov ecx, 0", "lock cmpxchg8b [rbx + 0x60]", "setz r8b", "out SYNC, al",
    "lock not dword ptr [rbx + 0x70]", "out SYNC, al",
);

/// Two vCPUs have read the same old value; the one that writes last does not write over the other's.
fn exit_emul_lock_lost_race() -> TestResult {
    /// The instruction's length of operand; memory before and after; RAX and R8 of both vCPUs afterwards.
    struct Case {
        len: u32,
        old: u64,
        new: u64,
        rax: [u64; 2],
        r8: [u64; 2],
    }
    let case = |len, old, new, rax, r8| Case { len, old, new, rax, r8 };
    let cases = [
        case(4, 100, 103, [7, 7], [1, 2]),
        case(8, 100, 103, [7, 7], [100, 101]),
        case(2, 100, 2, [7, 7], [100, 1]),
        case(1, 100, 102, [7, 7], [1, 2]),
        case(4, 0, 32, [7, 7], [0, 1]),
        // RAX has the old value: the second finds the first's.
        case(8, 7, 1, [7, 1], [1, 0]),
        // CMPXCHG8B writes EBX, and ECX, which is 0.
        case(8, 7, MMIO, [7, MMIO], [1, 0]),
        case(4, 100, 100, [7, 7], [1, 2]),
    ];
    let mut m = Machine::long(locked())?;
    m.with_regs(|regs| regs.rbx = MMIO)?;
    let mut other = second(&m)?;
    let page = Mapping::anonymous(SIZE as usize);
    for (n, case) in cases.iter().enumerate() {
        let offset = n as u64 * 0x10;
        page.set(offset, case.old);
        let mut vcpus = [&mut m.vcpu, &mut other];
        for (number, vcpu) in (1..).zip(&mut vcpus) {
            let mut regs = vcpu.regs()?;
            (regs.rax, regs.rbx, regs.rdx, regs.r8) = (7, MMIO, 0, number);
            vcpu.set_regs(&regs)?;
            let exit = vcpu.run()?;
            check_eq!(exit, Exit::MmioRead { gpa: MMIO + offset, len: case.len }, "{offset:#x}");
        }
        m.vm.set_slot(SLOT, 0, MMIO, SIZE, page.addr())?;
        for (number, vcpu) in vcpus.iter_mut().enumerate() {
            vcpu.set_mmio_data(case.old);
            let exit = vcpu.run()?;
            check!(matches!(exit, Exit::Out { port: PORT_SYNC, .. }), "{exit:x?}, {offset:#x}");
            let regs = vcpu.regs()?;
            check_eq!((regs.rax, regs.r8 & 0xff), (case.rax[number], case.r8[number]), "{offset:#x}");
        }
        check_eq!(page.get(offset), case.new, "{offset:#x}");
        m.vm.set_slot(SLOT, 0, MMIO, 0, page.addr())?;
    }
    Ok(())
}

// Counts in shared memory and in the vCPU's own, until the VMM says stop.
guest!(counting:
    "2: lock inc qword ptr [rbx]",
    "inc qword ptr [rsi]",
    "cmp qword ptr [DATA], 0", "je 2b",
    "out DONE, al",
);

/// Where vCPU `n` counts what it has done.
const fn own(n: usize) -> u64 {
    DATA + 0x40 * (n as u64 + 1)
}

/// What a vCPU wants of the test.
enum Message {
    /// The answer to a read.
    Read,
    Ended(TestResult),
}

/// Runs a vCPU to its end. Answers to reads come from the other side.
fn count(
    vcpu: &mut Vcpu,
    ask: &mpsc::Sender<Message>,
    answers: &mpsc::Receiver<u64>,
) -> TestResult {
    loop {
        match vcpu.run()? {
            Exit::MmioRead { gpa: MMIO, len: 8 } => {
                let _ = ask.send(Message::Read);
                let Ok(value) = answers.recv() else {
                    return fail("nobody answers");
                };
                vcpu.set_mmio_data(value);
            }
            Exit::Out { port: PORT_DONE, .. } => return Ok(()),
            other => return fail(format!("unexpected {other:x?}")),
        }
    }
}

/// Two vCPUs count in one place, whose slot goes away and comes back again and again: then both have read
/// the same value, and go on at the same time. No count is lost.
fn exit_emul_lock_contended() -> TestResult {
    /// How often the slot goes away, and what each vCPU counts until it does so again.
    const ROUNDS: u32 = 30;
    const BETWEEN: u64 = 20;
    let mut m = Machine::long(counting())?;
    // Nothing interrupts the guest, but in Bochs a guest that never sets IF keeps interrupts from its host too.
    m.with_regs(|regs| (regs.rbx, regs.rsi, regs.rflags) = (MMIO, own(0), regs.rflags | RFLAGS_IF))?;
    let mut other = second(&m)?;
    let mut regs = other.regs()?;
    regs.rsi = own(1);
    other.set_regs(&regs)?;
    let page = Mapping::anonymous(SIZE as usize);
    let Machine { vcpu, vm, mem, .. } = &mut m;
    vm.set_slot(SLOT, 0, MMIO, SIZE, page.addr())?;
    let (ask, asked) = mpsc::channel();
    std::thread::scope(|scope| {
        let mut answers = Vec::new();
        for vcpu in [vcpu, &mut other] {
            let (answer, answered) = mpsc::channel();
            answers.push(answer);
            let ask = ask.clone();
            scope.spawn(move || {
                let result = count(vcpu, &ask, &answered);
                let _ = ask.send(Message::Ended(result));
            });
        }
        let rounds = || {
            for _ in 0..ROUNDS {
                let start = Instant::now();
                let before = [mem.get(own(0)), mem.get(own(1))];
                let more = |n: usize| mem.get(own(n)).wrapping_sub(before[n]) >= BETWEEN;
                while !(more(0) && more(1)) {
                    if start.elapsed() > Duration::from_secs(10) {
                        return fail("the vCPUs do not count");
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                vm.set_slot(SLOT, 0, MMIO, 0, page.addr())?;
                for _ in 0..2 {
                    match asked.recv_timeout(Duration::from_secs(10)) {
                        Ok(Message::Read) => {}
                        Ok(Message::Ended(result)) => return result,
                        Err(_) => return fail("the vCPUs do not exit"),
                    }
                }
                vm.set_slot(SLOT, 0, MMIO, SIZE, page.addr())?;
                let value = page.get(0);
                for answer in &answers {
                    let _ = answer.send(value);
                }
            }
            Ok(())
        };
        let result = rounds();
        mem.set(DATA, 1);
        if result.is_err() {
            // Ends those that wait, and lets the others end by themselves.
            answers.clear();
            let _ = vm.set_slot(SLOT, 0, MMIO, SIZE, page.addr());
        }
        result
    })?;
    for message in asked.try_iter() {
        if let Message::Ended(result) = message {
            result?;
        }
    }
    check_eq!(page.get(0), mem.get(own(0)) + mem.get(own(1)), "counts");
    Ok(())
}
