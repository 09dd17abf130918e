// SPDX-License-Identifier: GPL-2.0-only
//! System registers over entries and exits, and two machines that take turns.

use std::fs::{File, OpenOptions};
use std::ops::ControlFlow::Continue;
use std::os::unix::fs::FileExt;

use crate::cpus::{move_to, usable};
use crate::guest::*;
use crate::harness::{skip, Outcome, TestResult};
use crate::host::Random;
use crate::machine::*;

tests!(
    entry_syscall_sysret,
    entry_segments_survive,
    entry_flags_survive,
    entry_cr2_survives,
    entry_host_msrs_survive,
    entry_two_vms_msrs,
    entry_two_vms_random,
    entry_sregs_round_trip,
);

guest!(syscall_loop:
    "mov ecx, 0xc0000081", "xor eax, eax", "mov edx, 0x00200008", "wrmsr",
    "mov ecx, 0xc0000082", "lea rax, [rip + 6f]", "xor edx, edx", "wrmsr",
    "mov ecx, 0xc0000084", "mov eax, 0x200", "xor edx, edx", "wrmsr",
    "mov ecx, 0xc0000102", "mov eax, 0x21000", "xor edx, edx", "wrmsr",
    "push 0x2b", "push 0x3bf00", "push 0x3002", "push 0x33",
    "lea rax, [rip + 3f]", "push rax",
    "iretq",
    // Ring 3, with I/O allowed.
    "3: mov ebx, 100",
    "4: mov eax, ebx",
    "syscall",
    "cmp rdi, rbx", "jne 5f",
    "out SYNC, al",
    "dec ebx", "jnz 4b",
    "5: mov rsi, cs", "mov rbp, ss",
    "out DONE, al",
    // Ring 0.
    "6: swapgs",
    "mov gs:[0x10], rax",
    "mov rdi, gs:[0x10]",
    "mov r15, cs",
    "swapgs",
    "sysretq",
);

/// SYSCALL, SYSRET and SWAPGS work with the guest's own MSRs while the host uses its own.
fn entry_syscall_sysret() -> TestResult {
    let mut m = Machine::long(syscall_loop())?;
    let regs = m.run_with(|_, _| Ok(Continue(())))?;
    check_eq!(regs.rbx, 0, "rounds left");
    check_eq!(regs.r15, 0x08, "CS in the handler");
    check_eq!((regs.rsi, regs.rbp), (0x33, 0x2b), "CS and SS after SYSRET");
    check_eq!(m.mem.get(0x21010), 1, "written through GS");
    check_eq!(m.vcpu.msr(0xc000_0102)?, Some(0x21000), "KERNEL_GS_BASE");
    Ok(())
}

guest!(segments:
    "mov ax, 0x10", "mov ds, ax", "mov es, ax", "mov fs, ax",
    "mov ecx, 0xc0000100", "mov eax, 0x22000", "xor edx, edx", "wrmsr",
    "mov ecx, 0xc0000101", "mov eax, 0x23000", "xor edx, edx", "wrmsr",
    "xor eax, eax", "lldt ax",
    "mov ebx, 20",
    "2:",
    "out SYNC, al",
    "sgdt [DATA]", "sidt [DATA + 16]",
    "mov rax, fs:[0]", "mov rcx, gs:[0]",
    "str edx", "sldt esi", "mov edi, ds",
    "dec ebx", "jnz 2b",
    "out DONE, al",
);

/// Segments with their hidden parts, and the descriptor tables.
fn entry_segments_survive() -> TestResult {
    let mut m = Machine::long(segments())?;
    m.mem.set(0x22000, 0x2222);
    m.mem.set(0x23000, 0x3333);
    m.run_sync()?;
    let sregs = m.vcpu.sregs()?;
    for _ in 0..19 {
        m.run_sync()?;
        check_eq!(m.vcpu.sregs()?, sregs);
    }
    let regs = m.run_done()?;
    check_eq!((regs.rax, regs.rcx), (0x2222, 0x3333), "through FS and GS");
    check_eq!((regs.rdx, regs.rsi, regs.rdi), (0x38, 0, 0x10), "TR, LDTR, DS");
    check_eq!(m.mem.get(DATA) & 0xffff, 0x47, "GDT limit");
    check_eq!(m.mem.get(DATA + 2), GDT, "GDT base");
    check_eq!(m.mem.get(DATA + 16) & 0xffff, 0xfff, "IDT limit");
    check_eq!(m.mem.get(DATA + 18), IDT, "IDT base");
    Ok(())
}

guest!(flags:
    "2:",
    "push rdi", "popfq",
    "out SYNC, al",
    "pushfq", "pop rsi",
    "jmp 2b",
);

/// RFLAGS, all bits that do not disturb the run.
fn entry_flags_survive() -> TestResult {
    let mut m = Machine::long(flags())?;
    let mut last = None;
    // CF PF AF ZF SF DF OF, IOPL, NT, AC, ID.
    for bits in [0, 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800, 0x3000, 0x4000, 0x4_0000, 0x20_0000] {
        m.with_regs(|r| r.rdi = bits | RFLAGS_ONE)?;
        let regs = m.run_sync()?;
        if let Some(last) = last {
            check_eq!(regs.rsi & 0x24_fdff, last, "flags behind the exit");
        }
        check_eq!(regs.rflags, bits | RFLAGS_ONE, "flags for userspace");
        last = Some(bits | RFLAGS_ONE);
    }
    Ok(())
}

guest!(cr2_loop:
    "mov rax, 0x123456789000", "mov cr2, rax",
    "mov ebx, 20",
    "2: out SYNC, al",
    "xor eax, eax", "push rbx", "cpuid", "pop rbx",
    "mov rcx, cr2", "mov rax, 0x123456789000", "cmp rax, rcx", "jne 3f",
    "dec ebx", "jnz 2b",
    "3: out DONE, al",
);

/// CR2 over exits, while the host takes page faults of its own.
fn entry_cr2_survives() -> TestResult {
    let mut m = Machine::long(cr2_loop())?;
    let regs = m.run_with(|m, _| {
        let fresh = crate::host::Mapping::anonymous(8192);
        fresh.set(4096, 1);
        check_eq!(m.vcpu.sregs()?.cr2, 0x1234_5678_9000);
        Ok(Continue(()))
    })?;
    check_eq!(regs.rbx, 0, "rounds left; CR2 {:#x}", regs.rcx);
    Ok(())
}

guest!(own_msrs:
    // The MSRs hold R15 plus a small number; any other value ends the test.
    "mov ecx, 0xc0000082", "call 5f",
    "mov ecx, 0xc0000083", "call 5f",
    "mov ecx, 0xc0000102", "call 5f",
    "mov ecx, 0xc0000100", "call 5f",
    "mov ecx, 0x175", "call 5f",
    "mov ecx, 0x176", "call 5f",
    "mov rax, r15", "mov dr0, rax", "mov cr2, rax",
    "movq xmm7, r15",
    "2: out SYNC, al",
    "mov ecx, 0xc0000082", "call 6f",
    "mov ecx, 0xc0000083", "call 6f",
    "mov ecx, 0xc0000102", "call 6f",
    "mov ecx, 0xc0000100", "call 6f",
    "mov ecx, 0x175", "call 6f",
    "mov ecx, 0x176", "call 6f",
    "mov rax, dr0", "cmp rax, r15", "jne 7f",
    "mov rax, cr2", "cmp rax, r15", "jne 7f",
    "movq rax, xmm7", "cmp rax, r15", "jne 7f",
    "inc r14",
    "jmp 2b",
    "5: mov rax, r15", "add rax, rcx", "and eax, 0x7fffffff", "xor edx, edx", "wrmsr", "ret",
    "6: rdmsr", "shl rdx, 32", "or rax, rdx",
    "mov rbx, r15", "add rbx, rcx", "and ebx, 0x7fffffff",
    "cmp rax, rbx", "jne 7f", "ret",
    "7: out DONE, al",
);

/// Runs `machines` in turns chosen by `pick`, `rounds` times; all must keep their own state.
pub(super) fn take_turns(
    machines: &mut [Machine],
    rounds: u64,
    mut pick: impl FnMut(u64) -> u64,
) -> TestResult {
    for (i, m) in machines.iter().enumerate() {
        m.with_regs(|r| r.r15 = 0x1111_1000 * (i as u64 + 1))?;
    }
    let mut turns = vec![0u64; machines.len()];
    for round in 0..rounds {
        let i = pick(round) as usize % machines.len();
        let m = &mut machines[i];
        match m.run()? {
            crate::kvm::Exit::Out { port: PORT_SYNC, .. } => turns[i] += 1,
            exit => {
                let r = m.vcpu.regs()?;
                return crate::harness::fail(format!(
                    "machine {i} round {round}: {exit:x?}, register {:#x} is {:#x}",
                    r.rcx, r.rax
                ));
            }
        }
        check_eq!(m.vcpu.regs()?.r14 + 1, turns[i], "turns of machine {i}");
    }
    Ok(())
}

/// The CPU's MSRs, by the host kernel's device.
struct HostMsrs(File);

impl HostMsrs {
    fn open(cpu: usize) -> Result<Self, Outcome> {
        let path = format!("/dev/cpu/{cpu}/msr");
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self(file)),
            Err(error) => skip(format!("{path}: {error}")),
        }
    }

    /// `None` where the CPU has no such MSR.
    fn read(&self, msr: u32) -> Option<u64> {
        let mut value = [0; 8];
        let length = self.0.read_at(&mut value, msr.into()).ok()?;
        (length == value.len()).then(|| u64::from_le_bytes(value))
    }

    fn write(&self, msr: u32, value: u64) -> bool {
        let written = self.0.write_at(&value.to_le_bytes(), msr.into());
        written.is_ok_and(|length| length == 8)
    }
}

/// What the host has in the MSRs that guests have of their own, and in DEBUGCTL, which VT-x clears at each exit.
fn entry_host_msrs_survive() -> TestResult {
    const DEBUGCTL: u32 = 0x1d9;
    const BRANCH_TRAP: u64 = 1 << 1;
    const MSRS: [u32; 11] = [
        0x174, 0x175, 0x176, 0x1d9, 0x277, 0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0083,
        0xc000_0084, 0xc000_0103,
    ];
    move_to(0, 0);
    let host = HostMsrs::open(usable()[0])?;
    // The emulators forget what is written there; a processor does not.
    let debugctl = host.read(DEBUGCTL).unwrap_or(0);
    host.write(DEBUGCTL, debugctl | BRANCH_TRAP);
    let before = MSRS.map(|msr| host.read(msr));
    let mut m = Machine::long(own_msrs())?;
    m.with_regs(|r| r.r15 = 0x1111_1000)?;
    for _ in 0..10 {
        m.run_sync()?;
    }
    let after = MSRS.map(|msr| host.read(msr));
    host.write(DEBUGCTL, debugctl);
    check_eq!(after, before);
    Ok(())
}

/// The code for [`take_turns`].
pub(super) fn turn_code() -> &'static [u8] {
    own_msrs()
}

/// Two machines alternate; each keeps its MSRs, DR0, CR2 and XMM7.
fn entry_two_vms_msrs() -> TestResult {
    let mut machines = [Machine::long(own_msrs())?, Machine::long(own_msrs())?];
    take_turns(&mut machines, 200, |round| round)
}

/// Five machines in random order.
fn entry_two_vms_random() -> TestResult {
    let mut machines = Vec::new();
    for _ in 0..5 {
        machines.push(Machine::long(own_msrs())?);
    }
    let mut random = Random(0x9e37_79b9);
    take_turns(&mut machines, 300, |_| random.number() >> 20)
}

/// What KVM_GET_SREGS gives KVM_SET_SREGS takes, and nothing changes by it.
fn entry_sregs_round_trip() -> TestResult {
    let mut m = Machine::long(own_msrs())?;
    m.with_regs(|r| r.r15 = 0x2222_0000)?;
    for _ in 0..10 {
        m.run_sync()?;
        let (regs, sregs) = (m.vcpu.regs()?, m.vcpu.sregs()?);
        m.vcpu.set_sregs(&sregs)?;
        m.vcpu.set_regs(&regs)?;
        check_eq!(m.vcpu.sregs()?, sregs);
        check_eq!(m.vcpu.regs()?, regs);
    }
    Ok(())
}
