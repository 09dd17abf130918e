// SPDX-License-Identifier: GPL-2.0-only
//! Debug registers, breakpoints and single steps inside of the guest, and XSETBV.

use crate::guest::*;
use crate::harness::{env, skip, Outcome, TestResult};
use crate::host::is_tcg;
use crate::machine::*;

tests!(
    exit_dr_read_write,
    exit_dr_wrong,
    exit_dr_breakpoints,
    exit_db_single_step,
    exit_xsetbv_valid,
    exit_xsetbv_wrong,
);

guest!(dr_rw:
    "2:",
    "mov rax, 0x1111000", "mov dr0, rax",
    "mov rax, 0x2222000", "mov dr1, rax",
    "mov rax, 0x3333000", "mov dr2, rax",
    "mov rax, 0x4444000", "mov dr3, rax",
    "mov rax, 0xffff4ff2", "mov dr6, rax",
    "xor eax, eax", "cpuid",
    "out SYNC, al",
    "mov rax, dr0", "mov [DATA], rax",
    "mov rax, dr1", "mov [DATA + 8], rax",
    "mov rax, dr2", "mov [DATA + 16], rax",
    "mov rax, dr3", "mov [DATA + 24], rax",
    "mov rax, dr6", "mov [DATA + 32], rax",
    "mov rax, dr7", "mov [DATA + 40], rax",
    "out SYNC, al",
    "mov rax, dr3", "mov rbx, dr7",
    "out DONE, al",
);

/// DR0-3, DR6 and DR7 hold their values over exits, and userspace reads and sets them.
fn exit_dr_read_write() -> TestResult {
    let mut m = Machine::long(dr_rw())?;
    m.run_sync()?;
    let mut regs = m.vcpu.debugregs()?;
    check_eq!(regs.db, [0x111_1000, 0x222_2000, 0x333_3000, 0x444_4000]);
    check_eq!(regs.dr6 & 0xf00f, 0x4002, "DR6 for userspace");
    check_eq!(regs.dr7, 0x400);
    m.run_sync()?;
    check_eq!([m.data(0), m.data(1), m.data(2), m.data(3)], regs.db);
    check_eq!(m.data(4) & 0xf00f, 0x4002, "DR6 in the guest");
    check_eq!(m.data(5), 0x400);
    regs.db[3] = 0x5555_0000;
    regs.dr7 = 0x0000_0400;
    m.vcpu.set_debugregs(&regs)?;
    let done = m.run_done()?;
    check_eq!((done.rax, done.rbx), (0x5555_0000, 0x400));
    Ok(())
}

guest!(dr_wrong:
    "lea r9, [rip + 3f]", "mov [FIXUP], r9",
    "mov rax, 0x100000400", "mov dr7, rax",
    "3: mov rbx, [EXC_VECTOR]",
    "lea r9, [rip + 4f]", "mov [FIXUP], r9",
    "mov rax, 0x100000000", "mov dr6, rax",
    "4: mov rcx, [EXC]",
    // DR4 is DR6 unless CR4.DE is set; then it does not exist.
    "mov eax, 0xffff0ff4", "mov dr6, rax",
    ".byte 0x0f, 0x21, 0xe2", // mov rdx, dr4
    "mov rax, cr4", "or eax, 8", "mov cr4, rax",
    "lea r9, [rip + 5f]", "mov [FIXUP], r9",
    ".byte 0x0f, 0x21, 0xe0",
    "5: mov rsi, [EXC_VECTOR]",
    // General detect: any access raises #DB with BD in DR6.
    "lea r9, [rip + 6f]", "mov [FIXUP], r9",
    "mov eax, 0x2400", "mov dr7, rax",
    "mov rax, dr0",
    "6: mov rdi, [EXC_VECTOR]", "mov r8, dr6", "mov r10, dr7",
    "out DONE, al",
);

/// Upper halves, DR4 with and without CR4.DE, and general detect.
fn exit_dr_wrong() -> TestResult {
    let mut m = Machine::long(dr_wrong())?;
    let regs = m.run_done()?;
    check_eq!(regs.rbx, 13, "upper half of DR7");
    check_eq!(regs.rcx, 2, "upper half of DR6");
    check_eq!(regs.rdx & 0xf, 4, "DR4 as DR6");
    check_eq!(regs.rsi, 6, "DR4 with CR4.DE");
    if is_tcg() {
        return Ok(()); // QEMU's TCG has no general detect.
    }
    check_eq!(regs.rdi, 1, "general detect");
    check_eq!(regs.r8 >> 13 & 1, 1, "DR6.BD");
    check_eq!(regs.r10 & 1 << 13, 0, "the processor clears DR7.GD");
    Ok(())
}

guest!(dr_breakpoints:
    "mov qword ptr [RETURN_MASK], 2",
    // A write watchpoint: after the instruction.
    "lea rax, [DATA + 0x100]", "mov dr0, rax",
    "mov eax, 0xd0402", "mov dr7, rax",
    "xor eax, eax", "mov dr6, rax",
    "mov [DATA + 0x100], eax",
    "mov r11, [EXC]", "mov r12, dr6",
    "xor eax, eax", "cpuid",
    "mov [DATA + 0x100], eax",
    "mov rsi, [EXC]",
    // An instruction breakpoint in DR1: before the instruction; the fix-up skips it.
    "xor eax, eax", "mov dr6, rax",
    "mov qword ptr [RETURN_MASK], 0",
    "lea rax, [rip + 3f]", "mov dr1, rax",
    "lea rax, [rip + 4f]", "mov [FIXUP], rax",
    "mov eax, 0x408", "mov dr7, rax",
    "mov edi, 1",
    "3: mov edi, 2",
    "4: mov r8, dr6", "mov r9, [EXC_RIP]", "lea r10, [rip + 3b]",
    "xor eax, eax", "mov dr7, rax",
    "out DONE, al",
);

/// Data and instruction breakpoints raise #DB in the guest with the right bits, over exits too.
fn exit_dr_breakpoints() -> TestResult {
    if is_tcg() && env().is_vireo() {
        return skip("QEMU's TCG arms breakpoints by MOV DR7 only, not by VMRUN");
    }
    let mut m = Machine::long(dr_breakpoints())?;
    let regs = m.run_done()?;
    check_eq!(m.mem.get(EXC_VECTOR), 1);
    check_eq!(regs.r11, 1, "exceptions after the first write");
    check_eq!(regs.r12 & 0xf, 1, "DR6 after the watchpoint");
    check_eq!(regs.rsi, 2, "exceptions after the second write");
    check_eq!(regs.rdi, 1, "the instruction under the breakpoint ran");
    check_eq!(regs.r8 & 0xf, 2, "DR6 after the instruction breakpoint");
    check_eq!(regs.r9, regs.r10, "RIP of the breakpoint");
    Ok(())
}

guest!(db_single_step:
    // Bochs saves a single step as pending when an EPT violation interrupts the instruction, which
    // is then stepped twice. So everything is touched before: page tables, the handler, its data.
    "mov eax, 0xd0000000", "mov ebx, [rax]",
    "mov eax, [DATA]", "mov eax, [0x8010]",
    "xor eax, eax", "mov dr6, rax", "xor r8d, r8d",
    "pushfq", "or dword ptr [rsp], 0x100", "popfq",
    "nop", // The first trap comes after this instruction.
    "xor eax, eax",
    "cpuid", // Instructions that leave the guest trap as well.
    "out SYNC, al",
    "mov ecx, 0x10", "rdmsr",
    "mov eax, 0xd0000000", "mov ebx, [rax]", // MMIO
    "pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq",
    "mov rdi, dr6",
    "out DONE, al",
    // The handler: the address that was saved goes to DATA.
    ".org 99b + 0x100",
    "push rax",
    "mov rax, [rsp + 8]",
    "mov [DATA + r8 * 8], rax",
    "inc r8d",
    "pop rax",
    "iretq",
);

/// Single steps: one #DB behind each instruction, also of those that leave the guest.
fn exit_db_single_step() -> TestResult {
    let mut m = Machine::long(db_single_step())?;
    m.set_gate(1, CODE + 0x100);
    let regs = m.run_with(|_, _| Ok(std::ops::ControlFlow::Continue(())))?;
    // The lengths of the instructions from NOP to the second POPF.
    let lengths = [1, 2, 2, 2, 5, 2, 5, 2, 1, 7, 1];
    let first = m.data(0) - 1;
    let mut want = Vec::new();
    for length in lengths {
        want.push(want.last().unwrap_or(&first) + length);
    }
    let got: Vec<u64> = (0..regs.r8.min(20)).map(|i| m.data(i)).collect();
    check_eq!(got, want, "addresses behind each step");
    check_eq!(regs.rdi >> 14 & 1, 1, "DR6.BS");
    Ok(())
}

guest!(xsetbv_any:
    "mov rbx, cr4", "or ebx, 0x40000", "mov cr4, rbx",
    "2:",
    "lea r9, [rip + 5f]", "mov [FIXUP], r9",
    "mov r8d, 1",
    "mov ecx, esi", "mov eax, edi", "xor edx, edx",
    "xsetbv",
    "xor r8d, r8d",
    "5: mov qword ptr [FIXUP], 0",
    "xor ecx, ecx", "xgetbv",
    "out SYNC, al",
    "jmp 2b",
);

/// The guest sets XCR `number` to `value`: whether it was taken, and XCR0 then.
fn xsetbv(m: &mut Machine, number: u64, value: u64) -> Result<(bool, u64), Outcome> {
    m.with_regs(|r| (r.rsi, r.rdi) = (number, value))?;
    let regs = m.run_sync()?;
    Ok((regs.r8 == 0, regs.rax))
}

/// XCR0 as CPUID offers it to guests, 0 without XSAVE.
pub(super) fn offered_xcr0(m: &Machine) -> Result<u64, Outcome> {
    let entries = m.vcpu.cpuid()?;
    let leaf = entries.iter().find(|e| e.function == 0xd && e.index == 0);
    Ok(leaf.map_or(0, |e| u64::from(e.edx) << 32 | u64::from(e.eax)))
}

/// Every valid value takes effect and is what userspace reads.
fn exit_xsetbv_valid() -> TestResult {
    let mut m = Machine::long(xsetbv_any())?;
    let offered = offered_xcr0(&m)?;
    if offered == 0 {
        return skip("no XSAVE on this processor");
    }
    if is_tcg() {
        return skip("QEMU's TCG does not intercept XSETBV");
    }
    for value in [1, 3, 7] {
        if value & !offered == 0 {
            check_eq!(xsetbv(&mut m, 0, value)?, (true, value));
            let xcrs = m.vcpu.xcrs()?;
            check_eq!((xcrs.xcrs[0].xcr, xcrs.xcrs[0].value), (0, value));
        }
    }
    let mut xcrs = m.vcpu.xcrs()?;
    xcrs.xcrs[0].value = 1;
    m.vcpu.set_xcrs(&xcrs)?;
    check_eq!(xsetbv(&mut m, 1, 1)?, (false, 1), "XCR1 does not exist; XCR0 is userspace's");
    Ok(())
}

/// Wrong values raise #GP and change nothing.
fn exit_xsetbv_wrong() -> TestResult {
    let mut m = Machine::long(xsetbv_any())?;
    let offered = offered_xcr0(&m)?;
    if offered == 0 {
        return skip("no XSAVE on this processor");
    }
    if is_tcg() {
        return skip("QEMU's TCG does not intercept XSETBV");
    }
    for (number, value) in [(0, 0), (0, 2), (0, 5), (0, 1 << 20 | 1), (1, 1), (2, 1)] {
        check_eq!(xsetbv(&mut m, number, value)?, (false, 1), "XCR{number} = {value:#x}");
        check_eq!(m.mem.get(EXC_VECTOR), 13);
    }
    // Without CR4.OSXSAVE the instruction does not exist.
    m.with_sregs(|s| s.cr4 &= !CR4_OSXSAVE)?;
    m.mem.set(FIXUP, 0);
    m.with_regs(|r| (r.rsi, r.rdi) = (0, 1))?;
    let exit = m.vcpu.run()?;
    check!(matches!(exit, crate::kvm::Exit::Out { port: PORT_EXC, .. }), "{exit:x?}");
    check_eq!(m.mem.get(EXC_VECTOR), 6);
    Ok(())
}
