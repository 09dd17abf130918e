// SPDX-License-Identifier: GPL-2.0-only
//! Instructions beyond data moves on a device: stacks, branches, segment and descriptor-table registers, vectors;
//! and code that changes under the emulator.
//!
//! Like the forms in `exit_mmio`, each runs on RAM and on a device that is plain memory.

use std::ops::ControlFlow::Continue;

use kvm_bindings as kb;

use super::exit_dr::offered_xcr0;
use super::exit_mmio::{compare, forms};
use crate::guest::*;
use crate::harness::{env, fail, skip, TestResult};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    exit_emul_branches,
    exit_emul_stack,
    exit_emul_system,
    exit_emul_far,
    exit_emul_more_than_kvm,
    exit_emul_vex,
    exit_emul_code_changes,
    exit_emul_code_remapped,
    exit_emul_refused,
    exit_emul_refused_to_userspace,
    exit_emul_refused_in_ring3,
);

/// XMM and YMM state in XCR0.
const AVX: u64 = 6;

/// Where the operands are.
const MIDDLE: u64 = 0x800;

forms!(emul_branches:
    "lea rax, [rip + 2f]; mov [rbx], rax; jmp qword ptr [rbx]; ud2; 2: xor eax, eax",
    "mov rsp, rbx; call 2f; ud2; 2: mov rsp, r12",
    "lea rax, [rip + 2f]; mov [rbx], rax; call qword ptr [rbx]; ud2; 2: pop rax; xor eax, eax",
    "mov rsp, rbx; lea rax, [rip + 2f]; push rax; ret; ud2; 2: mov rsp, r12; xor eax, eax",
    "mov rsp, rbx; lea rax, [rip + 2f]; push rax; ret 16; 2: mov rsp, r12; xor eax, eax",
);
forms!(emul_stack:
    "mov rsp, rbx; push rdx; push 0x12345678; push -2; pop rax; pop r9; pop r10; mov rsp, r12",
    "mov rsp, rbx; push dx; push 0x7f; pop ax; pop r9w; mov rsp, r12",
    "mov rsp, rbx; pushfq; pop rax; mov rsp, r12; and eax, 1",
    "mov rsp, rbx; push 0x203; popfq; cli; mov rsp, r12",
    "mov rsp, rbx; push fs; pop rax; push gs; pop r9; mov rsp, r12",
    "mov rsp, rbx; push rdx; mov rbp, rsp; leave; mov rax, rbp; mov rsp, r12; mov rbp, r12",
    "mov rsp, rbx; enter 16, 0; mov rsp, r12; mov rbp, r12",
    "mov rsp, rbx; push qword ptr [rbx + 8]; pop qword ptr [rbx + 16]; mov rsp, r12",
    "mov al, 3; xlatb", "clflush [rbx]", "prefetcht0 [rbx]", "nop dword ptr [rbx]",
);
forms!(emul_system:
    "smsw word ptr [rbx]; lmsw word ptr [rbx]", "smsw word ptr [rbx]",
    "sldt word ptr [rbx]", "str word ptr [rbx]",
    "mov word ptr [rbx], ds; mov es, word ptr [rbx]",
    "mov word ptr [rbx], ss; mov ss, word ptr [rbx]; mov eax, ss",
    "mov word ptr [rbx], 0; mov gs, word ptr [rbx]; mov eax, gs",
    "mov dword ptr [rbx], 0x1234; mov word ptr [rbx + 4], 0; lfs eax, [rbx]",
    "invlpg [rbx]",
);
// A far return and a far jump to the same code segment.
forms!(emul_far:
    "mov rsp, rbx; mov eax, cs; push rax; lea rax, [rip + 2f]; push rax; .byte 0x48, 0xcb; 2: mov rsp, r12; xor eax, eax",
    "lea eax, [rip + 2f]; mov [rbx], eax; mov word ptr [rbx + 4], cs; .byte 0xff, 0x2b; ud2; 2: xor eax, eax",
);
// What KVM refuses.
forms!(emul_more:
    "sgdt [rbx]; lgdt [rbx]", "sidt [rbx]; lidt [rbx]",
    "mov rsp, rbx; mov eax, ss; push rax; push r12; pushfq; mov eax, cs; push rax; lea rax, [rip + 2f]; push rax; iretq; 2: xor eax, eax",
    "mov rax, [rbx]; mov rdx, [rbx + 8]; mov ecx, 5; mov ebx, 7; cmpxchg16b [r13]",
    "lock cmpxchg16b [rbx]; xor eax, eax; xor edx, edx",
    "movlps xmm1, [rbx]; movhps xmm1, [rbx + 8]; movups [rbx + 32], xmm1",
    "movq xmm1, [rbx]; movd [rbx + 32], xmm1; movhps [rbx + 40], xmm1",
    "movntdqa xmm1, [rbx]; movntdq [rbx + 32], xmm1; movss [rbx + 64], xmm1",
    "shld [rbx], rdx, 7; shrd [rbx + 8], edx, cl; xor eax, eax",
    "lea rax, [rip + 2f]; mov [rbx], eax; mov word ptr [rbx + 4], cs; .byte 0xff, 0x1b; ud2; 2: pop rax; xor eax, eax",
);
forms!(emul_vex:
    "mov rax, cr4; bts eax, 18; mov cr4, rax; xor ecx, ecx; xor edx, edx; mov eax, 7; xsetbv; vmovdqu ymm1, [rbx]; vmovups [rbx + 32], ymm1",
    "vmovaps ymm2, [rbx]; vmovntps [rbx + 64], ymm2", "vmovdqa xmm3, [rbx]; vmovdqu [rbx + 16], xmm3",
    "vmovss xmm4, dword ptr [rbx]; vmovsd qword ptr [rbx + 24], xmm4", "vmovq xmm5, [rbx]; vmovd [rbx + 8], xmm5",
);

/// Near JMP, CALL and RET whose operands or stacks are on a device.
fn exit_emul_branches() -> TestResult {
    compare(emul_branches::code(), emul_branches::TEXT, MIDDLE)
}

/// PUSH, POP, PUSHF, POPF, ENTER and LEAVE with the stack on a device; XLAT.
fn exit_emul_stack() -> TestResult {
    compare(emul_stack::code(), emul_stack::TEXT, MIDDLE)
}

/// System instructions with operands on a device.
fn exit_emul_system() -> TestResult {
    compare(emul_system::code(), emul_system::TEXT, MIDDLE)
}

/// Transfers between segments with pointers or stacks on a device.
fn exit_emul_far() -> TestResult {
    compare(emul_far::code(), emul_far::TEXT, MIDDLE)
}

/// IRET, CMPXCHG16B and vector halves.
fn exit_emul_more_than_kvm() -> TestResult {
    if !env().is_vireo() {
        return skip("KVM's emulator refuses these");
    }
    compare(emul_more::code(), emul_more::TEXT, MIDDLE)
}

/// VEX loads and stores.
fn exit_emul_vex() -> TestResult {
    if !env().is_vireo() {
        return skip("KVM's emulator refuses these");
    }
    if offered_xcr0(&Machine::long(emul_vex::code())?)? & AVX == 0 {
        return skip("no AVX for guests");
    }
    compare(emul_vex::code(), emul_vex::TEXT, MIDDLE)
}

// The instruction at 3 is replaced after each round: it stores AL, AX, EAX or RAX.
guest!(emul_changes:
    "mov ebx, 0xd0000000",
    "xor ecx, ecx",
    "2: mov eax, 0x44332211",
    "mov esi, [r8 + rcx * 4]",
    "mov dword ptr [rip + 3f], esi",
    "mov esi, 1", "cpuid", "mov ebx, 0xd0000000", "mov rax, r9", "mov rcx, r10",
    "3: nop; nop; nop; nop",
    "inc r10", "mov rcx, r10",
    "cmp ecx, 4", "jb 2b",
    "out DONE, al",
);

/// Code that was emulated, and is written to, is fetched again.
fn exit_emul_code_changes() -> TestResult {
    let mut m = Machine::long(emul_changes())?;
    // mov [rbx], al; mov [rbx], ax; mov [rbx], eax; mov [rbx], rax, with NOPs up to four bytes.
    let stores = [0x9090_0388u32, 0x9003_8966, 0x9090_0389, 0x9003_8948];
    for (n, pair) in stores.chunks(2).enumerate() {
        m.set_data(n as u64, u64::from(pair[1]) << 32 | u64::from(pair[0]));
    }
    m.with_regs(|regs| {
        (regs.r8, regs.r9, regs.r10) = (DATA, 0x8877_6655_4433_2211, 0);
    })?;
    let mut lengths = Vec::new();
    m.run_with(|_, exit| {
        match *exit {
            Exit::MmioWrite { gpa: MMIO, len, .. } => lengths.push(len),
            ref other => return fail(format!("unexpected {other:x?}")),
        }
        Ok(Continue(()))
    })?;
    check_eq!(lengths, [1, 2, 4, 8]);
    Ok(())
}

// Two pages of code at one address in turn.
guest!(emul_remapped:
    "mov ebx, 0xd0000000",
    "mov r12d, 4",
    "2: mov [r8], r9", "mov rax, cr3", "mov cr3, rax",
    "call r10",
    "xchg r9, r11",
    "dec r12d", "jnz 2b",
    "out DONE, al",
);

/// Code at an address that the guest maps elsewhere is fetched from there.
fn exit_emul_code_remapped() -> TestResult {
    /// A page table, the two pages, and where they are mapped in turn.
    const TABLE: u64 = FREE;
    const PAGES: [u64; 2] = [FREE + 0x1000, FREE + 0x2000];
    const AT: u64 = 0x4000_0000;
    let mut m = Machine::long(emul_remapped())?;
    // mov [rbx], al; ret and mov [rbx], eax; ret
    m.mem.write(PAGES[0], &[0x88, 0x03, 0xc3]);
    m.mem.write(PAGES[1], &[0x89, 0x03, 0xc3]);
    m.map_small(AT, TABLE, PAGES[0] | 3);
    let entry = TABLE + (AT >> 12 & 0x1ff) * 8;
    m.with_regs(|regs| {
        (regs.r8, regs.r9, regs.r10, regs.r11) = (entry, PAGES[0] | 3, AT, PAGES[1] | 3);
    })?;
    let mut lengths = Vec::new();
    m.run_with(|_, exit| {
        match *exit {
            Exit::MmioWrite { gpa: MMIO, len, .. } => lengths.push(len),
            ref other => return fail(format!("unexpected {other:x?}")),
        }
        Ok(Continue(()))
    })?;
    check_eq!(lengths, [1, 4, 1, 4]);
    Ok(())
}

guest!(refused:
    "mov ebx, 0xd0000000",
    "lea rax, [rip + 3f]", "mov [FIXUP], rax",
    "fld qword ptr [rbx + 8]",
    "3: out DONE, al",
);

/// The instruction that [`refused`] ends with.
const FLD: [u8; 3] = [0xdd, 0x43, 0x08];

/// The vector of #UD.
const UD: u64 = 6;

/// The VMM is told the bytes of the instruction.
fn check_report(m: &mut Machine) -> TestResult {
    let exit = m.run()?;
    check_eq!(exit, Exit::InternalError(kb::KVM_INTERNAL_ERROR_EMULATION));
    let (ndata, data) = m.vcpu.internal_data();
    check!(ndata >= 3 && data[0] & 1 != 0, "{ndata} words, flags {:#x}", data[0]);
    let bytes = data[1].to_le_bytes();
    check!((3..=15).contains(&bytes[0]), "{} bytes", bytes[0]);
    check_eq!(bytes[1..4], FLD);
    Ok(())
}

/// Without more, an instruction that is not emulated is an internal error, and #UD if the guest runs on.
fn exit_emul_refused() -> TestResult {
    let mut m = Machine::long(refused())?;
    check_report(&mut m)?;
    m.run_done()?;
    check_eq!(m.mem.get(EXC_VECTOR), UD);
    Ok(())
}

/// A VMM that asks for them gets all of them, and the guest no exception.
fn exit_emul_refused_to_userspace() -> TestResult {
    let mut m = Machine::long(refused())?;
    m.vm.enable_cap(kb::KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1)?;
    check_report(&mut m)?;
    // The VMM has executed it.
    m.with_regs(|regs| regs.rip += FLD.len() as u64)?;
    m.run_done()?;
    check_eq!(m.mem.get(EXC), 0, "{}", m.describe_exception());
    check_errno!(m.vm.enable_cap(kb::KVM_CAP_EXIT_ON_EMULATION_FAILURE, 2), libc::EINVAL);
    Ok(())
}

guest!(refused_in_ring3:
    "push 0x2b", "push 0x3fff0", "push 0x3002", "push 0x33",
    "lea rax, [rip + 6f]", "push rax",
    "lea rax, [rip + 7f]", "mov [FIXUP], rax",
    "iretq",
    "6: mov ebx, 0x600000",
    "fld qword ptr [rbx + 8]",
    "7: out DONE, al",
);

/// Ring 3 gets #UD and cannot stop the guest, unless the VMM asks for that.
fn exit_emul_refused_in_ring3() -> TestResult {
    let mut m = Machine::long(refused_in_ring3())?;
    m.map_small(0x60_0000, 0x50000, MMIO | 7);
    m.run_done()?;
    check_eq!(m.mem.get(EXC_VECTOR), UD);
    let mut m = Machine::long(refused_in_ring3())?;
    m.map_small(0x60_0000, 0x50000, MMIO | 7);
    m.vm.enable_cap(kb::KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1)?;
    check_report(&mut m)
}
