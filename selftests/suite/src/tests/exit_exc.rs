// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions that the guest causes and handles itself.

use crate::guest::*;
use crate::harness::{skip, Outcome, TestResult};
use crate::host::is_tcg;
use crate::machine::*;

tests!(
    exit_exc_vectors,
    exit_exc_page_faults,
    exit_exc_user_page_faults,
    exit_exc_alignment,
    exit_exc_double_fault,
    exit_exc_instruction_length,
);

guest!(exc_vectors:
    // Each block: fix-up, the instruction, and then the vector and error code are stored.
    "mov edi, 0x20000",
    "cld",
    ".macro expect insn:vararg",
    "lea rax, [rip + 77f]",
    "mov [FIXUP], rax",
    "\\insn",
    "77: mov qword ptr [FIXUP], 0",
    "mov rax, [EXC_VECTOR]", "stosq",
    "mov rax, [EXC_ERROR]", "stosq",
    ".endm",
    "xor ecx, ecx",
    "mov r10, 0x8000000000000000",
    "expect ud2",                             // #UD
    "expect div ecx",                         // #DE
    "expect mov rax, [r10]",                  // #GP(0)
    "expect int3",                            // #BP
    "expect int 0x1f",                        // a software interrupt with no error code
    "mov dx, 0xfff8",
    "expect mov ds, dx",                      // #GP(selector)
    "mov dx, 0x10",
    "expect .byte 0xf1",                      // INT1: #DB
    "expect push qword ptr [r10]",            // #GP(0)
    "lea rbp, [r10]",
    "expect mov rax, [rbp]",                  // #SS(0)
    "expect .byte 0x0f, 0x0b",
    "expect lldt dx",                         // #GP: data is no LDT
    ".purgem expect",
    "out DONE, al",
);

/// Each vector arrives with its own error code, while exits of other kinds happen between.
fn exit_exc_vectors() -> TestResult {
    let mut m = Machine::long(exc_vectors())?;
    m.run_done()?;
    let want: [(u64, u64); 11] = [
        (6, 0),
        (0, 0),
        (13, 0),
        (3, 0),
        (31, 0),
        (13, 0xfff8),
        (1, 0),
        (13, 0),
        (12, 0),
        (6, 0),
        (13, 0x10),
    ];
    for (i, want) in want.iter().enumerate() {
        if matches!(want.0, 1 | 12) && is_tcg() {
            continue; // QEMU's TCG does not know INT1, nor #SS for addresses.
        }
        let got = (m.data(i as u64 * 2), m.data(i as u64 * 2 + 1));
        check_eq!(got, *want, "vector and error code number {i}");
    }
    check_eq!(m.mem.get(EXC), 11, "number of exceptions");
    Ok(())
}

guest!(exc_fault_loop:
    // RSI the address, RDI what to do: 0 read, 1 write, 2 execute.
    "2:",
    "lea rax, [rip + 5f]", "mov [FIXUP], rax",
    "mov qword ptr [EXC_VECTOR], -1",
    "cmp edi, 1", "je 3f", "ja 4f",
    "mov al, [rsi]", "jmp 5f",
    "3: mov byte ptr [rsi], 0xc3", "jmp 5f",
    "4: call rsi",
    "5: mov qword ptr [FIXUP], 0",
    "mov rsp, 0x3fff0",
    "out SYNC, al",
    "invlpg [rsi]",
    "jmp 2b",
);

/// One access: `None` when it worked, else the error code of the page fault.
fn access(m: &mut Machine, gva: u64, kind: u64) -> Result<Option<u64>, Outcome> {
    m.with_regs(|r| (r.rsi, r.rdi) = (gva, kind))?;
    m.run_sync()?;
    match m.mem.get(EXC_VECTOR) {
        u64::MAX => Ok(None),
        14 => {
            check_eq!(m.mem.get(EXC_CR2), gva, "CR2");
            Ok(Some(m.mem.get(EXC_ERROR)))
        }
        other => Err(Outcome::Fail(format!("vector {other} instead of a page fault"))),
    }
}

/// QEMU's TCG leaves out the present bit when a reserved bit was set.
fn reserved_on_tcg(error: u64) -> u64 {
    if is_tcg() && error & 8 != 0 { error & !1 } else { error }
}

/// The guest's own page tables decide, with the right error code and CR2 for each access.
fn exit_exc_page_faults() -> TestResult {
    const GVA: u64 = 0x60000;
    const NX: u64 = 1 << 63;
    const READ: u64 = 0;
    const WRITE: u64 = 1;
    const EXEC: u64 = 2;
    let mut m = Machine::long(exc_fault_loop())?;
    m.mem.write(GVA, &[0xc3]);
    // PTE, access, and the error code to come.
    let cases: &[(u64, u64, Option<u64>)] = &[
        (0, READ, Some(0)),
        (0, WRITE, Some(2)),
        (0, EXEC, Some(0x10)),
        (GVA | 1, READ, None),
        (GVA | 1, WRITE, Some(3)),
        (GVA | 1, EXEC, None),
        (GVA | 3 | NX, EXEC, Some(0x11)),
        (GVA | 3 | NX, WRITE, None),
        (GVA | 3 | 1 << 51, READ, Some(9)),
        (GVA | 3, WRITE, None),
    ];
    for &(pte, kind, want) in cases {
        m.map_small(GVA, 0x50000, pte);
        let want = want.map(reserved_on_tcg);
        let got = access(&mut m, GVA, kind)?;
        check_eq!(got, want, "PTE {pte:#x} access {kind}");
    }
    // The dirty and accessed bits are the guest's to see.
    let pte = m.mem.get(0x50000 + 0x60 * 8);
    check_eq!(pte & 0x60, 0x60, "accessed and dirty bits");
    Ok(())
}

guest!(exc_user:
    // Enter ring 3 at label 6 with the flags in R12; it comes back by an exception.
    "push 0x2b",
    "push 0x3fff0",
    "push r12",
    "push 0x33",
    "lea rax, [rip + 6f]",
    "push rax",
    "mov [DATA], rsp",
    "lea rax, [rip + 7f]", "mov [FIXUP], rax",
    // The fix-up runs in ring 3 as well, where OUT is allowed by IOPL.
    "iretq",
    "6:",
    "mov eax, [rsi]",
    "7:",
    "mov rbx, cs",
    "out DONE, al",
);

/// Page faults from ring 3 have the user bit, and the way through the TSS stack works.
fn exit_exc_user_page_faults() -> TestResult {
    const GVA: u64 = 0x60000;
    for (pte, want) in [(0, 4), (GVA | 3, 5), (GVA | 7 | 1 << 51, 0xd)] {
        let mut m = Machine::long(exc_user())?;
        m.map_small(GVA, 0x50000, pte);
        m.with_regs(|r| (r.rsi, r.r12) = (GVA, 0x3002))?;
        let regs = m.run_done()?;
        check_eq!(regs.rbx, u64::from(SEL_UCODE64) | 3);
        check_eq!(m.mem.get(EXC_VECTOR), 14);
        check_eq!(m.mem.get(EXC_ERROR), reserved_on_tcg(want), "error code for PTE {pte:#x}");
        check_eq!(m.mem.get(EXC_CR2), GVA);
        check_eq!(m.mem.get(EXC_CS), u64::from(SEL_UCODE64) | 3);
    }
    Ok(())
}

/// #AC for an unaligned access in ring 3 with CR0.AM and RFLAGS.AC.
fn exit_exc_alignment() -> TestResult {
    if is_tcg() {
        return skip("QEMU's TCG has no alignment checks");
    }
    let mut m = Machine::long(exc_user())?;
    m.with_sregs(|s| s.cr0 |= CR0_AM)?;
    m.with_regs(|r| (r.rsi, r.r12) = (0x60001, 0x43002))?;
    m.run_done()?;
    check_eq!(m.mem.get(EXC_VECTOR), 17);
    check_eq!(m.mem.get(EXC_ERROR), 0);
    check_eq!(m.mem.get(EXC), 1);
    // Without RFLAGS.AC nothing happens.
    let mut m = Machine::long(exc_user())?;
    m.with_sregs(|s| s.cr0 |= CR0_AM)?;
    m.with_regs(|r| (r.rsi, r.r12) = (0x60001, 0x3002))?;
    m.run_done()?;
    check_eq!(m.mem.get(EXC), 0);
    Ok(())
}

guest!(exc_double:
    "ud2",
);

/// Clears the present bit of the gate of `vector`.
fn hide_gate(m: &Machine, vector: u64) {
    let gate = IDT + vector * 16;
    m.mem.set(gate, m.mem.get(gate) & !(1 << 47));
}

/// An exception whose gate is not present becomes #NP, and while it is being delivered, #DF.
fn exit_exc_double_fault() -> TestResult {
    let mut m = Machine::long(exc_double())?;
    // #UD is no contributory exception: the missing gate gives #NP with the gate's
    // index, the IDT bit and the external bit (which QEMU's TCG gets wrong).
    hide_gate(&m, 6);
    check!(m.run().is_err());
    check_eq!(m.mem.get(EXC_VECTOR), 11);
    check!(is_tcg() || m.mem.get(EXC_ERROR) == 6 * 8 + 3, "error {:#x}", m.mem.get(EXC_ERROR));
    // With the gate of #NP gone as well it is a double fault.
    let mut m = Machine::long(exc_double())?;
    hide_gate(&m, 6);
    hide_gate(&m, 11);
    check!(m.run().is_err());
    check_eq!(m.mem.get(EXC_VECTOR), 8);
    check_eq!(m.mem.get(EXC_ERROR), 0);
    Ok(())
}

guest!(exc_length:
    "int3",
    "mov rax, [EXC_RIP]", "lea rbx, [rip]", "sub rbx, rax",
    "int 0x1f",
    "mov rax, [EXC_RIP]", "lea rcx, [rip]", "sub rcx, rax",
    "out DONE, al",
);

/// Traps save the address of the next instruction.
fn exit_exc_instruction_length() -> TestResult {
    let mut m = Machine::long(exc_length())?;
    m.mem.set(RETURN_MASK, 1 << 3 | 1 << 31);
    let regs = m.run_done()?;
    // MOV RAX takes 8 bytes and LEA 7, so the trap is 15 bytes before what LEA gives.
    check_eq!((regs.rbx, regs.rcx), (15, 15));
    Ok(())
}
