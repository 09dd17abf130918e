// SPDX-License-Identifier: GPL-2.0-only
//! The remaining kinds of exit: HLT, shutdown, failed entries, caches, PAUSE, MONITOR and so on.

use std::ops::ControlFlow::Continue;

use crate::guest::*;
use crate::harness::{env, fail, skip, TestResult};
use crate::host::{is_amd, is_tcg};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    exit_hlt,
    exit_shutdown,
    exit_fail_entry,
    exit_task_switch,
    exit_cache_control,
    exit_pause,
    exit_monitor_mwait,
    exit_hypercall,
    exit_virtualization_instructions,
    exit_fetch_from_mmio,
    exit_mmio_in_real_mode,
    exit_mmio_in_flat32,
    exit_tlb_instructions,
    exit_rdtscp,
);

guest!(hlt:
    "hlt",
    "mov ebx, 7",
    "hlt",
    "out DONE, al",
);

/// Without in-kernel interrupt controller HLT leaves to userspace, which may just go on.
fn exit_hlt() -> TestResult {
    let mut m = Machine::long(hlt())?;
    check_eq!(m.run()?, Exit::Hlt);
    check_eq!(m.vcpu.regs()?.rip, CODE + 1);
    check_eq!(m.run()?, Exit::Hlt);
    check_eq!(m.run_done()?.rbx, 7);
    Ok(())
}

guest!(triple:
    "push 0", "push 0",
    "lidt [rsp]",
    "ud2",
    "out DONE, al",
);

/// A triple fault is KVM_EXIT_SHUTDOWN, and the VM can be set up anew after it.
fn exit_shutdown() -> TestResult {
    let mut m = Machine::long(triple())?;
    let (regs, sregs) = (m.vcpu.regs()?, m.vcpu.sregs()?);
    for _ in 0..3 {
        m.vcpu.set_sregs(&sregs)?;
        m.vcpu.set_regs(&regs)?;
        check_eq!(m.run()?, Exit::Shutdown);
    }
    Ok(())
}

guest!(nothing:
    "out DONE, al",
);

/// State that the processor refuses gives KVM_EXIT_FAIL_ENTRY, and good state runs after it.
fn exit_fail_entry() -> TestResult {
    let mut m = Machine::long(nothing())?;
    let (regs, sregs) = (m.vcpu.regs()?, m.vcpu.sregs()?);
    // A 64-bit code segment with D set is invalid on both vendors' processors.
    m.with_sregs(|s| s.cs.db = 1)?;
    let exit = m.run()?;
    check!(matches!(exit, Exit::FailEntry(_)), "{exit:x?}");
    if let (Exit::FailEntry(reason), false) = (exit, is_amd()) {
        check_eq!(reason, 0x8000_0021, "hardware entry failure reason");
    }
    m.vcpu.set_sregs(&sregs)?;
    m.vcpu.set_regs(&regs)?;
    m.run_done()?;
    Ok(())
}

guest!(task_switch:
    ".code32",
    ".byte 0xea; .long 0; .word 0x38", // jmp to a TSS
    "out 0xe0, al",
);

/// Vireo does not emulate task switches: they are an internal error, not a wrong result.
fn exit_task_switch() -> TestResult {
    if !env().is_vireo() {
        return skip("KVM emulates task switches");
    }
    if is_tcg() {
        return skip("QEMU's TCG does not intercept task switches");
    }
    let mut m = Setup::new(Mode::Flat32).build(task_switch())?;
    m.mem.set(GDT + 0x08, 0x00cf_9b00_0000_ffff);
    m.mem.set(GDT + 0x10, 0x00cf_9300_0000_ffff);
    m.mem.set(GDT + 0x18, 0x00cf_9b00_0000_ffff);
    m.mem.set(GDT + 0x38, 0x0000_8900_0000_0067 | TSS << 16);
    m.mem.set(GDT + 0x40, 0x0000_8b00_0000_0067 | (TSS + 0x100) << 16);
    m.with_sregs(|s| {
        s.gdt = kvm_bindings::kvm_dtable { base: GDT, limit: 0x47, padding: [0; 3] };
        (s.tr.base, s.tr.limit, s.tr.selector) = (TSS + 0x100, 0x67, 0x40);
        (s.tr.type_, s.tr.present, s.tr.s) = (0xb, 1, 0);
    })?;
    let exit = m.run()?;
    check!(matches!(exit, Exit::InternalError(_)), "{exit:x?}");
    Ok(())
}

guest!(cache_control:
    "mov ebx, 5",
    "2: wbinvd",
    "invd",
    "dec ebx",
    "jnz 2b",
    "out DONE, al",
);

/// WBINVD and INVD do nothing that the guest could see, least of all lose the host's data.
fn exit_cache_control() -> TestResult {
    let mut m = Machine::long(cache_control())?;
    m.set_data(0, 0x1234_5678);
    m.run_done()?;
    check_eq!(m.data(0), 0x1234_5678);
    Ok(())
}

guest!(pause_loop:
    "mov ecx, 20000",
    "2: pause",
    "dec ecx",
    "jnz 2b",
    "out DONE, al",
);

/// Thousands of PAUSEs, which may leave the guest, get through.
fn exit_pause() -> TestResult {
    check_eq!(Machine::long(pause_loop())?.run_done()?.rcx, 0);
    Ok(())
}

guest!(monitor_mwait:
    "lea r9, [rip + 3f]", "mov [FIXUP], r9",
    "mov eax, 0x20000", "xor ecx, ecx", "xor edx, edx",
    "monitor",
    "xor eax, eax",
    "mwait",
    "3: mov qword ptr [FIXUP], 0",
    "mov rbx, [EXC]", "mov rcx, [EXC_VECTOR]",
    "out DONE, al",
);

/// MONITOR and MWAIT are no-ops or #UD; never do they put the host's processor to sleep.
fn exit_monitor_mwait() -> TestResult {
    let mut m = Machine::long(monitor_mwait())?;
    let regs = m.run_done()?;
    check!(regs.rbx == 0 || regs.rcx == 6, "exception {}", regs.rcx);
    Ok(())
}

guest!(hypercall_intel:
    "mov qword ptr [RETURN_MASK], 0",
    "lea r9, [rip + 3f]", "mov [FIXUP], r9",
    "mov rax, 0x7fff",
    "vmcall",
    "3: mov rcx, [EXC_VECTOR]",
    "mov rbx, [EXC]",
    "out DONE, al",
);

guest!(hypercall_amd:
    "lea r9, [rip + 3f]", "mov [FIXUP], r9",
    "mov rax, 0x7fff",
    "vmmcall",
    "3: mov rcx, [EXC_VECTOR]",
    "mov rbx, [EXC]",
    "out DONE, al",
);

/// An unknown hypercall returns -1000 (KVM's "no such call"), or hypercalls do not exist at all.
fn exit_hypercall() -> TestResult {
    let mut m = Machine::long(if is_amd() { hypercall_amd() } else { hypercall_intel() })?;
    let regs = m.run_done()?;
    match (regs.rbx, regs.rcx) {
        (0, _) => check_eq!(regs.rax as i64, -1000),
        (_, vector) => check_eq!(vector, 6),
    }
    Ok(())
}

guest!(vmx_instructions:
    ".macro refused insn:vararg",
    "lea r9, [rip + 77f]", "mov [FIXUP], r9",
    "mov qword ptr [EXC_VECTOR], -1",
    "\\insn",
    "77: mov qword ptr [FIXUP], 0",
    "mov rax, [EXC_VECTOR]", "stosq",
    ".endm",
    "cld", "mov edi, 0x20000",
    "refused vmxoff",
    "refused vmlaunch",
    "refused vmresume",
    "refused vmptrld [0x20000]",
    "refused vmclear [0x20000]",
    "refused vmread rax, rcx",
    "refused vmwrite rax, rcx",
    "refused vmxon [0x20000]",
    "refused invept rax, [0x20000]",
    "refused invvpid rax, [0x20000]",
    ".purgem refused",
    "out DONE, al",
);

guest!(svm_instructions:
    ".macro refused insn:vararg",
    "lea r9, [rip + 77f]", "mov [FIXUP], r9",
    "mov qword ptr [EXC_VECTOR], -1",
    "mov eax, 0x20000",
    "\\insn",
    "77: mov qword ptr [FIXUP], 0",
    "mov rax, [EXC_VECTOR]", "stosq",
    ".endm",
    "cld", "mov edi, 0x21000",
    "xor ecx, ecx",
    "refused vmrun",
    "refused vmload",
    "refused vmsave",
    "refused stgi",
    "refused clgi",
    "refused invlpga rax, ecx",
    ".purgem refused",
    "out DONE, al",
);

/// A guest that has not turned on virtualization gets #UD for each of its instructions.
fn exit_virtualization_instructions() -> TestResult {
    let (code, at, count) = match is_amd() {
        true => (svm_instructions(), DATA + 0x1000, 6),
        false => (vmx_instructions(), DATA, 10),
    };
    let mut m = Machine::long(code)?;
    m.run_done()?;
    for i in 0..count {
        check_eq!(m.mem.get(at + i * 8), 6, "vector for instruction {i}");
    }
    Ok(())
}

guest!(jump_to_mmio:
    "mov eax, 0xd0000000",
    "jmp rax",
);

/// Instructions cannot be fetched from a device: an internal error, and no endless loop.
fn exit_fetch_from_mmio() -> TestResult {
    let mut m = Machine::long(jump_to_mmio())?;
    let exit = m.run()?;
    check!(matches!(exit, Exit::InternalError(_)), "{exit:x?}");
    check_eq!(m.vcpu.regs()?.rip, MMIO);
    Ok(())
}

guest!(real_mmio:
    ".code16",
    "mov ax, 0xa000",
    "mov ds, ax", "mov es, ax",
    "mov byte ptr [0x10], 0x41",
    "mov ax, [0x20]",
    "mov bx, ax",
    "mov di, 0x30",
    "mov ax, 0x0742",
    "stosw",
    "out 0xe0, al",
);

/// Real-mode code writes to where a VGA adapter would be.
fn exit_mmio_in_real_mode() -> TestResult {
    let mut m = Setup::new(Mode::Real).build(real_mmio())?;
    m.vm.set_slot(0, 0, 0, 0, m.mem.addr())?;
    m.vm.set_slot(0, 0, 0, 0xa0000, m.mem.addr())?;
    check_eq!(m.run()?, Exit::MmioWrite { gpa: 0xa0010, len: 1, data: 0x41 });
    check_eq!(m.run()?, Exit::MmioRead { gpa: 0xa0020, len: 2 });
    m.vcpu.set_mmio_data(0xbeef);
    check_eq!(m.run()?, Exit::MmioWrite { gpa: 0xa0030, len: 2, data: 0x0742 });
    let regs = m.run_done()?;
    check_eq!((regs.rbx & 0xffff, regs.rdi & 0xffff), (0xbeef, 0x32));
    Ok(())
}

guest!(flat32_mmio:
    ".code32",
    "mov ebx, 0xd0000000",
    "mov dword ptr [ebx + 4], 0x11223344",
    "mov eax, [ebx + 8]",
    "movzx ecx, byte ptr [0xd000000c]",
    "mov [0xd0000010], al",
    "out 0xe0, al",
);

/// 32-bit code with paging off reaches devices, also by the short forms with an address.
fn exit_mmio_in_flat32() -> TestResult {
    let mut m = Setup::new(Mode::Flat32).build(flat32_mmio())?;
    let mut seen = Vec::new();
    let regs = m.run_with(|m, exit| {
        match *exit {
            Exit::MmioRead { gpa, len } => {
                seen.push((gpa, len, 0));
                m.vcpu.set_mmio_data(0xffff_ffff_8765_43a1);
            }
            Exit::MmioWrite { gpa, len, data } => seen.push((gpa, len, data)),
            ref other => return fail(format!("unexpected {other:x?}")),
        }
        Ok(Continue(()))
    })?;
    let want = [
        (MMIO + 4, 4, 0x1122_3344),
        (MMIO + 8, 4, 0),
        (MMIO + 12, 1, 0),
        (MMIO + 16, 1, 0xa1),
    ];
    check_eq!(seen, want);
    check_eq!((regs.rax, regs.rcx), (0x8765_43a1, 0xa1));
    Ok(())
}

guest!(tlb_instructions:
    "mov rax, [0x600000]",
    "mov qword ptr [0x50000], r8",
    "invlpg [0x600000]",
    "mov rbx, [0x600000]",
    "mov qword ptr [0x50000], r9",
    "mov rcx, cr3", "mov cr3, rcx",
    "mov rcx, [0x600000]",
    "mov qword ptr [0x50000], r8",
    "mov rdx, cr4", "xor edx, 0x80", "mov cr4, rdx",
    "mov rdx, [0x600000]",
    "out DONE, al",
);

/// INVLPG, CR3 and CR4.PGE writes make the guest see its new page tables.
fn exit_tlb_instructions() -> TestResult {
    let mut m = Machine::long(tlb_instructions())?;
    m.map_small(0x60_0000, 0x50000, 0x80000 | 7);
    for i in 0..3 {
        m.mem.set(0x80000 + i * 0x1000, 0x1000 + i);
    }
    m.with_regs(|r| (r.r8, r.r9) = (0x81000 | 7, 0x82000 | 7))?;
    let regs = m.run_done()?;
    check_eq!([regs.rax, regs.rbx, regs.rcx, regs.rdx], [0x1000, 0x1001, 0x1002, 0x1001]);
    Ok(())
}

guest!(rdtscp:
    "mov ecx, 0xc0000103", "mov eax, 0x4321", "xor edx, edx", "wrmsr",
    "rdtscp",
    "mov rbx, rcx",
    "xor eax, eax", "out SYNC, al",
    "rdtscp",
    "out DONE, al",
);

/// RDTSCP returns the guest's TSC_AUX, not the host's.
fn exit_rdtscp() -> TestResult {
    let mut m = Machine::long(rdtscp())?;
    let feature = m.vcpu.cpuid()?.iter().any(|e| e.function == 0x8000_0001 && e.edx >> 27 & 1 != 0);
    if !feature {
        return skip("no RDTSCP on this processor");
    }
    check_eq!(m.run_sync()?.rbx, 0x4321);
    check_eq!(m.run_done()?.rcx, 0x4321);
    Ok(())
}
