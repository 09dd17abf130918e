// SPDX-License-Identifier: GPL-2.0-only
//! Entering the guest in every mode, and what survives entry and exit.

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::TestResult;
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    entry_long_mode,
    entry_flat32,
    entry_real_mode,
    entry_reset_vector,
    entry_gprs_survive,
    entry_mode_switches,
);

guest!(entry_long:
    "mov rax, 0x1122334455667788",
    "mov [DATA], rax",
    "mov rbx, cs",
    "out DONE, al",
);

/// 64-bit code runs, writes memory and reports.
fn entry_long_mode() -> TestResult {
    let mut m = Machine::long(entry_long())?;
    let regs = m.run_done()?;
    check_eq!(regs.rax, 0x1122_3344_5566_7788);
    check_eq!(regs.rbx, u64::from(SEL_CODE64));
    check_eq!(m.data(0), 0x1122_3344_5566_7788);
    Ok(())
}

guest!(entry_flat32_code:
    ".code32",
    "mov eax, 0x89abcdef",
    "mov [0x20000], eax",
    "mov ecx, cr0",
    "push 0x1234",
    "pop edx",
    "out 0xe0, al",
);

/// Protected mode with paging off (the PVH and Linux 32-bit entry points).
fn entry_flat32() -> TestResult {
    let mut m = Setup::new(Mode::Flat32).build(entry_flat32_code())?;
    let regs = m.run_done()?;
    check_eq!(regs.rax, 0x89ab_cdef);
    check_eq!(regs.rcx & (CR0_PE | CR0_PG), CR0_PE);
    check_eq!(regs.rdx, 0x1234);
    check_eq!(m.data(0), 0x89ab_cdef);
    Ok(())
}

guest!(entry_real_code:
    ".code16",
    "mov ax, 0x2000",
    "mov ds, ax",
    "mov ax, 0x55aa",
    "mov [0], ax",
    "mov bx, cs",
    "xor ax, ax",
    "mov ds, ax",
    "mov word ptr [0x21 * 4], 0x40",
    "mov word ptr [0x21 * 4 + 2], 0x1000",
    "int 0x21",
    "out 0xe0, al",
    ".org 99b + 0x40",
    "mov cx, 0x7777",
    "iret",
);

/// Real mode with a segment base other than 0, and an interrupt through the real-mode table.
fn entry_real_mode() -> TestResult {
    let mut m = Setup::new(Mode::Real).build(entry_real_code())?;
    let regs = m.run_done()?;
    check_eq!(m.data(0) & 0xffff, 0x55aa);
    check_eq!(regs.rbx & 0xffff, CODE >> 4);
    check_eq!(regs.rcx & 0xffff, 0x7777);
    Ok(())
}

guest!(entry_reset_code:
    ".code16",
    "mov al, 0x5a",
    "out 0xe0, al",
);

/// A vCPU that no one has touched starts at the reset vector in real mode.
fn entry_reset_vector() -> TestResult {
    let sys = crate::kvm::System::open(&crate::harness::env().device)?;
    let vm = sys.create_vm()?;
    let rom = crate::host::Mapping::anonymous(0x10000);
    rom.write(0xfff0, entry_reset_code());
    vm.set_slot(0, 0, 0xffff_0000, 0x10000, rom.addr())?;
    let mut vcpu = vm.create_vcpu(0)?;
    let sregs = vcpu.sregs()?;
    check_eq!(sregs.cs.base, 0xffff_0000);
    check_eq!(sregs.cs.selector, 0xf000);
    check_eq!(vcpu.regs()?.rip, 0xfff0);
    check_eq!(vcpu.regs()?.rflags, RFLAGS_ONE);
    check_eq!(sregs.cr0 & !CR0_ET, 0x6000_0000);
    check_eq!(sregs.efer, 0);
    let exit = vcpu.run()?;
    check_eq!(exit, Exit::Out { port: PORT_DONE, size: 1, data: vec![0x5a] });
    Ok(())
}

guest!(entry_gprs:
    "2:",
    "out SYNC, al",
    "add rax, 1; add rbx, 2; add rcx, 3; add rdx, 4; add rsi, 5; add rdi, 6; add rbp, 7",
    "add r8, 8; add r9, 9; add r10, 10; add r11, 11; add r12, 12; add r13, 13",
    "add r14, 14; add r15, 15; add rsp, 16",
    "push rax; pop rax",
    "jmp 2b",
);

/// All general registers survive exits, and both directions of GET/SET_REGS are right.
fn entry_gprs_survive() -> TestResult {
    let mut m = Machine::long(entry_gprs())?;
    let mut want = kb::kvm_regs {
        rax: 0xa0a0_0000_0000_0001, rbx: 0xb0b0_0000_0000_0002, rcx: 0xc0c0_0000_0000_0003,
        rdx: 0xd0d0_0000_0000_0004, rsi: 0x5151_0000_0000_0005, rdi: 0xd1d1_0000_0000_0006,
        rsp: STACK - 0x8000, rbp: 0xbbbb_0000_0000_0008, r8: 0x0808_0000_0000_0009,
        r9: 0x0909_0000_0000_000a, r10: 0x1010_0000_0000_000b, r11: 0x1111_0000_0000_000c,
        r12: 0x1212_0000_0000_000d, r13: 0x1313_0000_0000_000e, r14: 0x1414_0000_0000_000f,
        r15: 0x1515_0000_0000_0010, rip: CODE, rflags: RFLAGS_ONE,
    };
    m.vcpu.set_regs(&want)?;
    for round in 0..100u64 {
        let mut got = m.run_sync()?;
        check!(got.rip == CODE || got.rip == CODE + 2, "rip {:#x}", got.rip);
        // The arithmetic of the last round leaves its status flags.
        (got.rip, got.rflags) = (want.rip, want.rflags);
        check_eq!(got, want, "registers in round {round}");
        let add = [
            (&mut want.rax, 1), (&mut want.rbx, 2), (&mut want.rcx, 3), (&mut want.rdx, 4),
            (&mut want.rsi, 5), (&mut want.rdi, 6), (&mut want.rbp, 7), (&mut want.r8, 8),
            (&mut want.r9, 9), (&mut want.r10, 10), (&mut want.r11, 11), (&mut want.r12, 12),
            (&mut want.r13, 13), (&mut want.r14, 14), (&mut want.r15, 15), (&mut want.rsp, 16),
        ];
        for (reg, by) in add {
            *reg += by;
        }
    }
    Ok(())
}

guest!(entry_switches:
    ".code16",
    // Real mode: load a GDT, enter protected mode, then long mode, and come back to 32 bits.
    "xor ax, ax",
    "mov ds, ax",
    "lgdt [0x9000]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    ".byte 0x66, 0xea; .long 0x10040; .word 0x18", // ljmp 0x18:CODE+0x40
    ".org 99b + 0x40",
    ".code32",
    "mov ax, 0x10",
    "mov ds, ax; mov es, ax; mov ss, ax",
    "mov esp, 0x3fff0",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, 0x1000",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "rdmsr",
    "mov ebx, eax",
    ".byte 0xea; .long 0x100c0; .word 0x08",
    ".org 99b + 0xc0",
    ".code64",
    "mov rax, 0x123456789abcdef0",
    "mov r15, rax",
    "out SYNC, al",
    // Back to compatibility mode, then paging off.
    "push 0x18",
    "push 0x10100",
    ".byte 0x48, 0xcb", // lretq
    ".org 99b + 0x100",
    ".code32",
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "rdmsr",
    "mov edx, eax",
    "out 0xe0, al",
);

/// A guest goes from real mode to long mode and back, as boot loaders do.
fn entry_mode_switches() -> TestResult {
    // The page tables and descriptors of a 64-bit machine, then back to the reset state.
    let mut m = Machine::long(entry_switches())?;
    let fresh = Setup::new(Mode::Real).build(&[])?;
    m.vcpu.set_sregs(&fresh.vcpu.sregs()?)?;
    m.vcpu.set_regs(&fresh.vcpu.regs()?)?;
    m.mem.write(0x9000, &0x47u16.to_le_bytes());
    m.mem.set(0x9002, GDT);
    let regs = m.run_sync()?;
    check_eq!(regs.r15, 0x1234_5678_9abc_def0);
    check_eq!(regs.rbx & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
    let sregs = m.vcpu.sregs()?;
    check_eq!(sregs.cs.l, 1);
    check_eq!(sregs.efer & EFER_LMA, EFER_LMA);
    let regs = m.run_done()?;
    check_eq!(regs.rdx & (EFER_LMA | EFER_LME), EFER_LME);
    check_eq!(m.vcpu.sregs()?.cs.l, 0);
    Ok(())
}
