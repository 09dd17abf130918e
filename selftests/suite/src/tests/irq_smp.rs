// SPDX-License-Identifier: GPL-2.0-only
//! Interrupts between two vCPUs: each kind, by each way to name the destination; and how a vCPU is started.

use std::time::{Duration, Instant};

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{env, fail, Outcome, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(
    irq_smp_fixed,
    irq_smp_lowest,
    irq_smp_nmi,
    irq_smp_cluster,
    irq_smp_x2apic,
    irq_smp_ping_pong = 60,
    irq_smp_start,
    irq_smp_init_again,
    irq_smp_many = 120,
);

guest!(smp_sender:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0xd0], 0x01000000",
    "sti",
    // Sends the ICR that EDI (low) and ESI (high) hold, once.
    "2: out SYNC, al",
    "test edi, edi", "jz 2b",
    "mov [rbp + 0x310], esi",
    "mov [rbp + 0x300], edi",
    "xor edi, edi",
    "jmp 2b",
);

guest!(smp_receiver:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0xd0], 0x02000000",
    "sti",
    "mov dword ptr [DATA + 64], 1",
    "2: hlt",
    "cmp dword ptr [DATA + 72], 0", "je 2b",
    "out DONE, al",
);

/// Waits until `ready` says so.
pub(super) fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> TestResult {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > Duration::from_secs(5) {
            return fail(format!("no {what} within 5 s"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs `body` while the second vCPU runs on a thread of its own.
pub(super) fn with_second(
    m: &mut Machine,
    code: &[u8],
    body: impl FnOnce(&mut Machine) -> TestResult,
) -> TestResult {
    let mut other = m.second(code)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| other.run());
        let result = body(m);
        m.set_data(9, 1);
        m.vm.signal_msi(0xfee0_1000, 0x7f)?;
        let exit = thread.join().map_err(|_| Outcome::Fail("the thread panicked".into()))?;
        result?;
        check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }), "the second vCPU's exit");
        Ok(())
    })
}

/// Sends an IPI and lets the sender take what comes to itself.
fn send(m: &mut Machine, low: u64, dest: u64) -> TestResult {
    m.with_regs(|r| (r.rdi, r.rsi) = (low, dest << 24))?;
    m.run_sync()?;
    m.run_sync()?;
    Ok(())
}

fn machine() -> std::result::Result<Machine, Outcome> {
    let mut m = Machine::irqchip(smp_sender())?;
    m.run_sync()?;
    Ok(m)
}

/// Physical and logical destinations, shorthands and broadcast: how many of the two take each.
fn irq_smp_fixed() -> TestResult {
    let mut m = machine()?;
    with_second(&mut m, smp_receiver(), |m| {
        let cases: [(u64, u64, u32); 9] = [
            (0x41, 1, 1),              // physical: the second
            (0x42, 0, 1),              // physical: itself
            (0x43, 7, 0),              // physical: nobody
            (0x44, 0xff, 2),           // physical broadcast
            (0x45 | 1 << 11, 2, 1),    // logical: the second
            (0x46 | 1 << 11, 3, 2),    // logical: both
            (0x47 | 1 << 18, 0, 1),    // self
            (0x48 | 2 << 18, 0, 2),    // all including self
            (0x49 | 3 << 18, 0, 1),    // all excluding self
        ];
        send_all(m, &cases.map(|(low, dest, expected)| (low, dest << 24, expected)))
    })
}

/// Sends each of `cases` (low and high half of the ICR, how many take it) and counts.
fn send_all(m: &mut Machine, cases: &[(u64, u64, u32)]) -> TestResult {
    wait_for("second vCPU", || m.data(8) == 1)?;
    for &(low, high, expected) in cases {
        m.with_regs(|r| (r.rdi, r.rsi) = (low, high))?;
        m.run_sync()?;
        m.run_sync()?;
        let vector = low & 0xff;
        wait_for("interrupt", || m.irq_count(vector) >= expected)?;
        std::thread::sleep(Duration::from_millis(5));
        check_eq!(m.irq_count(vector), expected, "ICR {low:#x} to {high:#x}");
    }
    Ok(())
}

guest!(smp_sender_cluster:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0xe0], 0x0fffffff",
    "mov dword ptr [rbp + 0xd0], 0x11000000",
    "sti",
    "2: out SYNC, al",
    "test edi, edi", "jz 2b",
    "mov [rbp + 0x310], esi",
    "mov [rbp + 0x300], edi",
    "xor edi, edi",
    "jmp 2b",
);

guest!(smp_receiver_cluster:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0xe0], 0x0fffffff",
    "mov dword ptr [rbp + 0xd0], 0x22000000",
    "sti",
    "mov dword ptr [DATA + 64], 1",
    "2: hlt",
    "cmp dword ptr [DATA + 72], 0", "je 2b",
    "out DONE, al",
);

/// Logical destinations in the cluster model: the first is bit 0 of cluster 1, the second bit 1 of cluster 2.
fn irq_smp_cluster() -> TestResult {
    const LOGICAL: u64 = 1 << 11;
    const LOWEST: u64 = 1 << 8;
    let mut m = Machine::irqchip(smp_sender_cluster())?;
    m.run_sync()?;
    with_second(&mut m, smp_receiver_cluster(), |m| {
        send_all(m, &[
            (0x41 | LOGICAL, 0x11 << 24, 1),
            (0x42 | LOGICAL, 0x22 << 24, 1),
            (0x43 | LOGICAL, 0x13 << 24, 1),
            (0x44 | LOGICAL, 0x12 << 24, 0),
            (0x45 | LOGICAL, 0x33 << 24, 0),
            (0x46 | LOGICAL, 0xff << 24, 2),
            (0x47 | LOGICAL | LOWEST, 0x22 << 24, 1),
        ])
    })
}

guest!(smp_sender_x2:
    "mov ecx, 0x1b", "rdmsr", "or eax, 0xc00", "wrmsr",
    "mov ecx, 0x80f", "mov eax, 0x1ff", "xor edx, edx", "wrmsr",
    "sti",
    "2: out SYNC, al",
    "test edi, edi", "jz 2b",
    "mov ecx, 0x830", "mov eax, edi", "mov edx, esi", "wrmsr",
    "xor edi, edi",
    "jmp 2b",
);

guest!(smp_receiver_x2:
    "mov ecx, 0x1b", "rdmsr", "or eax, 0xc00", "wrmsr",
    "mov ecx, 0x80f", "mov eax, 0x1ff", "xor edx, edx", "wrmsr",
    "sti",
    "mov dword ptr [DATA + 64], 1",
    "2: hlt",
    "cmp dword ptr [DATA + 72], 0", "je 2b",
    "out DONE, al",
);

/// The same in x2APIC mode, with destinations of 32 bits: the logical IDs are bits 0 and 1 of cluster 0.
fn irq_smp_x2apic() -> TestResult {
    const LOGICAL: u64 = 1 << 11;
    const LOWEST: u64 = 1 << 8;
    const NMI: u64 = 4 << 8;
    let mut m = Machine::irqchip(smp_sender_x2())?;
    m.mem.set(EOI_MODE, EOI_X2APIC);
    m.mem.set(RETURN_MASK, 1 << 2);
    m.run_sync()?;
    with_second(&mut m, smp_receiver_x2(), |m| {
        send_all(m, &[
            (0x41, 1, 1),
            (0x42, 0, 1),
            (0x43, 7, 0),
            (0x44, 0xffff_ffff, 2),
            (0x45 | LOGICAL, 2, 1),
            (0x46 | LOGICAL, 3, 2),
            (0x47 | LOGICAL, 0x1_0002, 0),
            (0x48 | LOGICAL | LOWEST, 3, 1),
            (0x49 | 1 << 18, 0, 1),
            (0x4a | 2 << 18, 0, 2),
            (0x4b | 3 << 18, 0, 1),
        ])?;
        for round in 1..=5 {
            m.with_regs(|r| (r.rdi, r.rsi) = (NMI, 1))?;
            m.run_sync()?;
            m.run_sync()?;
            wait_for("NMI", || m.mem.get(EXC) >= round)?;
        }
        Ok(())
    })
}

/// A lowest-priority interrupt to both reaches one of them.
fn irq_smp_lowest() -> TestResult {
    let mut m = machine()?;
    with_second(&mut m, smp_receiver(), |m| {
        wait_for("second vCPU", || m.data(8) == 1)?;
        for vector in [0x51, 0x52, 0x53] {
            send(m, vector | 1 << 8 | 1 << 11, 3)?;
            wait_for("interrupt", || m.irq_count(vector) >= 1)?;
            std::thread::sleep(Duration::from_millis(5));
            check_eq!(m.irq_count(vector), 1, "vector {vector:#x}");
        }
        Ok(())
    })
}

/// An NMI reaches the other vCPU, whatever its vector field says.
fn irq_smp_nmi() -> TestResult {
    let mut m = machine()?;
    m.mem.set(RETURN_MASK, 1 << 2);
    with_second(&mut m, smp_receiver(), |m| {
        wait_for("second vCPU", || m.data(8) == 1)?;
        for round in 1..=5 {
            send(m, 0x99 | 4 << 8, 1)?;
            wait_for("NMI", || m.mem.get(EXC) >= round)?;
            check_eq!((m.mem.get(EXC), m.mem.get(EXC_VECTOR)), (round, 2));
        }
        Ok(())
    })
}

guest!(smp_ping:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "out SYNC, al",
    "xor ebx, ebx",
    "2: inc ebx",
    "mov dword ptr [rbp + 0x310], 0x01000000",
    "mov dword ptr [rbp + 0x300], 0x61",
    "3: cli",
    "cmp [IRQ_COUNTS + 0x62 * 4], ebx", "jae 4f",
    "sti", "hlt",
    "jmp 3b",
    "4: cmp ebx, edi", "jb 2b",
    "out DONE, al",
);

guest!(smp_pong:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [DATA + 64], 1",
    "xor ebx, ebx",
    "2: inc ebx",
    "3: cli",
    "cmp [IRQ_COUNTS + 0x61 * 4], ebx", "jae 4f",
    "cmp dword ptr [DATA + 72], 0", "jne 9f",
    "sti", "hlt",
    "jmp 3b",
    "9: out DONE, al",
    "4: mov dword ptr [rbp + 0x310], 0",
    "mov dword ptr [rbp + 0x300], 0x62",
    "jmp 2b",
);

/// Two vCPUs wake each other from HLT by turns: no interrupt is lost.
fn irq_smp_ping_pong() -> TestResult {
    let rounds = env().rounds(500);
    let mut m = Machine::irqchip(smp_ping())?;
    m.run_sync()?;
    m.with_regs(|r| r.rdi = rounds)?;
    with_second(&mut m, smp_pong(), |m| {
        wait_for("second vCPU", || m.data(8) == 1)?;
        m.run_done()?;
        check_eq!(u64::from(m.irq_count(0x61)), rounds);
        check_eq!(u64::from(m.irq_count(0x62)), rounds);
        Ok(())
    })
}

/// Real-mode code: reports, and again for ever.
const REAL_CODE: [u8; 6] = [0xb0, 0x5a, 0xe6, 0xe2, 0xeb, 0xfa]; // mov al, 0x5a; out SYNC, al; jmp

/// INIT and a start-up IPI, as Linux sends them.
fn start(m: &mut Machine, page: u64) -> TestResult {
    send(m, 0x4500, 1)?;
    send(m, 0x8500, 1)?;
    std::thread::sleep(Duration::from_millis(10));
    send(m, 0x600 | page, 1)
}

/// A new vCPU waits for INIT and start-up, and begins in real mode at the page that the vector names.
fn irq_smp_start() -> TestResult {
    let mut m = Machine::irqchip(smp_sender())?;
    // KVM finds a vCPU by its APIC ID only after some APIC has changed since the vCPU was made.
    let mut other = m.vm.create_vcpu(1)?;
    other.set_cpuid(m.sys.supported_cpuid()?.entries())?;
    m.run_sync()?;
    check_eq!(other.mp_state()?.mp_state, kb::KVM_MP_STATE_UNINITIALIZED);
    m.mem.write(0x50000, &REAL_CODE);
    std::thread::scope(|scope| -> TestResult {
        let thread = scope.spawn(|| loop {
            // KVM returns EAGAIN when it has left a wait.
            match other.run() {
                Err(error) if [libc::EAGAIN, libc::EINTR].contains(&error.errno.0) => {}
                result => return result,
            }
        });
        std::thread::sleep(Duration::from_millis(10));
        check!(!thread.is_finished(), "it waits");
        start(&mut m, 0x50)?;
        wait_for("start", || thread.is_finished())?;
        let exit = thread.join().map_err(|_| Outcome::Fail("the thread panicked".into()))?;
        check_eq!(exit?, Exit::Out { port: PORT_SYNC, size: 1, data: vec![0x5a] });
        Ok(())
    })?;
    let (sregs, mp_state) = (other.sregs()?, other.mp_state()?.mp_state);
    check_eq!((sregs.cs.selector, sregs.cs.base), (0x5000, 0x50000));
    check_eq!(sregs.cr0 & (CR0_PE | CR0_PG), 0);
    check_eq!(mp_state, kb::KVM_MP_STATE_RUNNABLE);
    Ok(())
}

/// A running vCPU that gets INIT and start-up begins anew.
fn irq_smp_init_again() -> TestResult {
    let mut m = machine()?;
    let mut other = m.second(smp_receiver())?;
    m.mem.write(0x60000, &REAL_CODE);
    std::thread::scope(|scope| -> TestResult {
        let thread = scope.spawn(|| loop {
            match other.run() {
                Err(error) if [libc::EAGAIN, libc::EINTR].contains(&error.errno.0) => {}
                result => return result,
            }
        });
        wait_for("second vCPU", || m.data(8) == 1)?;
        start(&mut m, 0x60)?;
        wait_for("start", || thread.is_finished())?;
        let exit = thread.join().map_err(|_| Outcome::Fail("the thread panicked".into()))?;
        check_eq!(exit?, Exit::Out { port: PORT_SYNC, size: 1, data: vec![0x5a] });
        Ok(())
    })?;
    check_eq!(other.sregs()?.cs.selector, 0x6000);
    Ok(())
}

guest!(many_first:
    // Starts all others at page 0x50 and waits until EDI of them have come; then sends interrupt 0x41 to all of
    // them and waits until each has answered.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "sti",
    "out SYNC, al",
    "mov dword ptr [rbp + 0x300], 0xc4500",
    "out SYNC, al",
    "mov dword ptr [rbp + 0x300], 0xc4650",
    "2: pause", "cmp [DATA], edi", "jb 2b",
    "out SYNC, al",
    "mov dword ptr [rbp + 0x300], 0xc4041",
    "3: pause", "cmp [DATA + 8], edi", "jb 3b",
    // What was sent before the last answer is taken at the next entry.
    "out SYNC, al",
    "out DONE, al",
);

guest!(many_other:
    ".code16",
    "cli",
    "mov ax, cs", "mov ds, ax",
    "data32 lgdt [0x80]",
    "data32 lidt [0x88]",
    "mov eax, cr0", "or al, 1", "mov cr0, eax",
    ".byte 0x66, 0xea; .long 0x50000 + 4f - 99b; .word 0x18", // a far jump to 32-bit code
    ".code32",
    "4: mov eax, 0x10", "mov ds, eax", "mov ss, eax",
    "mov ebp, 0xfee00000",
    "mov ecx, [ebp + 0x20]", "shr ecx, 24",
    "mov esp, ecx", "shl esp, 8", "add esp, 0x60000",
    "mov dword ptr [ebp + 0xf0], 0x1ff",
    "lock inc dword ptr [DATA]",
    "5: sti", "hlt", "jmp 5b",
    ".org 99b + 0x80",
    ".word 0x47; .long 0x7000", // GDT
    ".org 99b + 0x88",
    ".word 0x20f; .long 0x51000", // IDT
    ".org 99b + 0xc0",
    // Answers with interrupt 0x80 + ID.
    "mov dword ptr [ebp + 0xb0], 0",
    "mov dword ptr [ebp + 0x310], 0",
    "mov eax, ecx", "add eax, 0x4080", "mov [ebp + 0x300], eax",
    "lock inc dword ptr [DATA + 8]",
    "6: mov al, 0", "out 0xe0, al",
    "jmp 6b",
);

/// As many vCPUs as there can be, up to 64: all start by one INIT and one start-up IPI, take one broadcast and
/// answer it, each with an interrupt of its own.
fn irq_smp_many() -> TestResult {
    const IDT32: u64 = 0x51000;
    const HANDLER: u64 = 0x500c0;
    let mut m = Machine::irqchip(many_first())?;
    let count = (m.sys.check(kb::KVM_CAP_MAX_VCPUS) as u64).min(64);
    check!(count >= 2, "{count} vCPUs");
    m.mem.write(0x50000, many_other());
    m.mem.set(IDT32 + 0x41 * 8, HANDLER & 0xffff | 0x18 << 16 | 0x8e << 40 | (HANDLER >> 16) << 48);
    let cpuid = m.sys.supported_cpuid()?;
    let mut others = Vec::new();
    for id in 1..count {
        let vcpu = m.vm.create_vcpu(id)?;
        vcpu.set_cpuid(cpuid.entries())?;
        others.push(vcpu);
    }
    m.with_regs(|r| r.rdi = count - 1)?;
    m.run_sync()?;
    std::thread::scope(|scope| -> TestResult {
        let run = |vcpu: &mut Vcpu| loop {
            match vcpu.run() {
                Err(error) if [libc::EAGAIN, libc::EINTR].contains(&error.errno.0) => {}
                result => return result,
            }
        };
        let threads: Vec<_> = others.iter_mut().map(|vcpu| scope.spawn(move || run(vcpu))).collect();
        m.run_sync()?;
        m.run_sync()?;
        check_eq!(m.mem.get32(DATA), count as u32 - 1, "vCPUs that have started");
        m.run_sync()?;
        m.run_done()?;
        for thread in threads {
            let exit = thread.join().map_err(|_| Outcome::Fail("a thread panicked".into()))?;
            check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }), "another vCPU's exit");
        }
        Ok(())
    })?;
    for id in 1..count {
        check_eq!(m.irq_count(0x80 + id), 1, "answers of vCPU {id}");
    }
    check_eq!(m.mem.get32(DATA + 8), count as u32 - 1, "answers");
    Ok(())
}
