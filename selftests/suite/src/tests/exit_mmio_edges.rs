// SPDX-License-Identifier: GPL-2.0-only
//! MMIO at the edges: half in memory, in the way of a page fault, from ring 3, from odd code.

use std::ops::ControlFlow::Continue;

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{fail, TestResult};
use crate::host::Mapping;
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    exit_mmio_ram_border,
    exit_mmio_code_over_pages,
    exit_mmio_string_fault,
    exit_mmio_guest_protection,
    exit_mmio_from_ring3,
    exit_mmio_segment_override,
    exit_mmio_set_regs_between,
    exit_mmio_page_tables_change,
    exit_mmio_becomes_memory,
);

/// Where RAM ends.
const END: u64 = RAM_SIZE as u64;

guest!(ram_border:
    "mov rax, 0x1122334455667788",
    "mov [0x3ffffc], rax",
    "mov rbx, [0x3ffffc]",
    "mov [0x3ffffd], ax",
    "out DONE, al",
);

/// The first half of an access is RAM, the second a device.
fn exit_mmio_ram_border() -> TestResult {
    let mut m = Machine::long(ram_border())?;
    check_eq!(m.run()?, Exit::MmioWrite { gpa: END, len: 4, data: 0x1122_3344 });
    check_eq!(m.run()?, Exit::MmioRead { gpa: END, len: 4 });
    m.vcpu.set_mmio_data(0xaabb_ccdd);
    let regs = m.run_done()?;
    check_eq!(regs.rbx, 0xaabb_ccdd_5566_7788);
    check_eq!(m.mem.get(END - 8) >> 32, 0x5577_8888, "the end of RAM");
    Ok(())
}

guest!(over_pages:
    "mov eax, 0xd0000000",
    "jmp rbx",
);

/// The instruction itself lies half in one page and half in another, which is elsewhere.
fn exit_mmio_code_over_pages() -> TestResult {
    // mov dword ptr [rax + 0x18], 0x55667788; out DONE, al
    let code = [0xc7, 0x80, 0x18, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0xe6, PORT_DONE as u8];
    for split in 1..10u64 {
        let mut m = Machine::long(over_pages())?;
        m.map_small(0x60_0000, 0x50000, 0x8_0000 | 7);
        m.map_small(0x60_1000, 0x50000, 0x9_5000 | 7);
        m.mem.write(0x8_1000 - split, &code[..split as usize]);
        m.mem.write(0x9_5000, &code[split as usize..]);
        m.with_regs(|r| r.rbx = 0x60_1000 - split)?;
        let want = Exit::MmioWrite { gpa: MMIO + 0x18, len: 4, data: 0x5566_7788 };
        check_eq!(m.run()?, want, "split after {split} bytes");
        m.run_done()?;
    }
    Ok(())
}

guest!(mmio_string_fault:
    "cld",
    "lea rax, [rip + 5f]", "mov [FIXUP], rax",
    "mov esi, 0xd0000000", "mov edi, 0x41ffd", "mov ecx, 10",
    "rep movsb",
    "5: mov [DATA], rsi", "mov [DATA + 8], rdi", "mov [DATA + 16], rcx",
    "mov rax, [EXC_CR2]", "mov [DATA + 24], rax",
    "out DONE, al",
);

/// A string from a device into a page that is not there stops at the right element.
fn exit_mmio_string_fault() -> TestResult {
    let mut m = Machine::long(mmio_string_fault())?;
    m.map_small(0x42000, 0x50000, 0);
    let mut reads = 0;
    m.run_with(|m, exit| match exit {
        Exit::MmioRead { len: 1, .. } => {
            reads += 1;
            m.vcpu.set_mmio_data(0x60 + reads);
            Ok(Continue(()))
        }
        other => fail(format!("unexpected {other:x?}")),
    })?;
    check_eq!(m.mem.get(EXC_VECTOR), 14);
    check_eq!([m.data(0), m.data(1), m.data(2)], [MMIO + 3, 0x42000, 7], "RSI, RDI and RCX");
    check_eq!(m.data(3), 0x42000, "CR2");
    check_eq!(m.mem.get(0x41ffd) & 0xff_ffff, 0x63_6261);
    Ok(())
}

guest!(protected:
    "lea rax, [rip + 5f]", "mov [FIXUP], rax",
    "mov eax, [0x600000]",
    "mov dword ptr [0x600000], 1",
    "5: out DONE, al",
);

/// The guest's own page tables forbid the write to the device.
fn exit_mmio_guest_protection() -> TestResult {
    let mut m = Machine::long(protected())?;
    m.map_small(0x60_0000, 0x50000, MMIO | 5);
    check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO, len: 4 });
    m.run_done()?;
    check_eq!((m.mem.get(EXC_VECTOR), m.mem.get(EXC_ERROR)), (14, 3));
    check_eq!(m.mem.get(EXC_CR2), 0x60_0000);
    Ok(())
}

guest!(ring3:
    "push 0x2b", "push 0x3fff0", "push 0x3002", "push 0x33",
    "lea rax, [rip + 6f]", "push rax",
    "lea rax, [rip + 7f]", "mov [FIXUP], rax",
    "iretq",
    "6: mov ebx, 0x600000",
    "mov eax, [rbx]",
    "7: out DONE, al",
);

/// Ring 3 reaches a device whose page it may use, and no other.
fn exit_mmio_from_ring3() -> TestResult {
    let mut m = Machine::long(ring3())?;
    m.map_small(0x60_0000, 0x50000, MMIO | 7);
    check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO, len: 4 });
    m.vcpu.set_mmio_data(0x77);
    check_eq!(m.run_done()?.rax, 0x77);
    let mut m = Machine::long(ring3())?;
    m.map_small(0x60_0000, 0x50000, MMIO | 3);
    m.run_done()?;
    check_eq!((m.mem.get(EXC_VECTOR), m.mem.get(EXC_ERROR)), (14, 5));
    Ok(())
}

guest!(segment_override:
    "mov ecx, 0xc0000100", "mov eax, 0xd0000000", "xor edx, edx", "wrmsr",
    "mov ecx, 0xc0000101", "mov eax, 0xd0000400", "xor edx, edx", "wrmsr",
    "mov ebx, 0x10",
    "mov eax, fs:[rbx]",
    "mov gs:[rbx + 8], eax",
    "mov eax, fs:[0x20]",
    "out DONE, al",
);

/// FS and GS bases count in 64-bit mode.
fn exit_mmio_segment_override() -> TestResult {
    let mut m = Machine::long(segment_override())?;
    check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO + 0x10, len: 4 });
    m.vcpu.set_mmio_data(0x99);
    check_eq!(m.run()?, Exit::MmioWrite { gpa: MMIO + 0x418, len: 4, data: 0x99 });
    check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO + 0x20, len: 4 });
    m.run_done()?;
    Ok(())
}

guest!(regs_between:
    "mov ebx, 0xd0000000",
    "mov eax, [rbx]",
    "out DONE, al",
);

/// Registers read before the answer are those before the instruction's end, and the answer counts.
fn exit_mmio_set_regs_between() -> TestResult {
    let mut m = Machine::long(regs_between())?;
    m.run()?;
    m.vcpu.set_mmio_data(0x1234);
    m.vcpu.set_immediate_exit(1);
    check_errno!(m.vcpu.run(), libc::EINTR);
    m.vcpu.set_immediate_exit(0);
    let regs = m.vcpu.regs()?;
    check_eq!((regs.rax, regs.rip), (0x1234, CODE + 7), "after completion");
    // A VMM may move the vCPU elsewhere now.
    m.with_regs(|r| r.rip = CODE)?;
    m.run()?;
    m.vcpu.set_mmio_data(0x5678);
    check_eq!(m.run_done()?.rax, 0x5678);
    Ok(())
}

guest!(comes_and_goes:
    "mov ebx, 0xd0000000",
    "2: inc eax", "mov [rbx], eax", "mov ecx, [rbx]",
    "out SYNC, al",
    "jmp 2b",
);

/// A device's page becomes memory, read-only memory, and a device's again between two rounds of the same code.
fn exit_mmio_becomes_memory() -> TestResult {
    /// What the device answers.
    const ANSWER: u64 = 0x7777;
    let mut m = Machine::long(comes_and_goes())?;
    let page = Mapping::anonymous(0x1000);
    m.with_regs(|r| r.rax = 0)?;
    let mut count = 0;
    for _ in 0..3 {
        for (slot, writes, reads) in [
            (None, 3, 3),
            (Some(0), 0, 0),
            (None, 3, 3),
            (Some(kb::KVM_MEM_READONLY), 3, 0),
        ] {
            page.set(0, 0x1111);
            match slot {
                Some(flags) => m.vm.set_slot(1, flags, MMIO, 0x1000, page.addr())?,
                None if count > 0 => m.vm.set_slot(1, 0, MMIO, 0, 0)?,
                None => {}
            }
            let (mut written, mut read) = (0, 0);
            for _ in 0..3 {
                count += 1;
                let regs = loop {
                    match m.run()? {
                        Exit::MmioWrite { gpa: MMIO, len: 4, data } => {
                            check_eq!(data, count);
                            written += 1;
                        }
                        Exit::MmioRead { gpa: MMIO, len: 4 } => {
                            m.vcpu.set_mmio_data(ANSWER);
                            read += 1;
                        }
                        _ => break m.vcpu.regs()?,
                    }
                };
                check_eq!(regs.rax, count);
                let expected = match (writes, reads) {
                    (_, 3) => ANSWER,
                    (0, _) => count,
                    _ => 0x1111,
                };
                check_eq!(regs.rcx, expected);
            }
            check_eq!((written, read), (writes, reads), "slot {slot:?}");
        }
    }
    // Only the write to plain memory has reached it.
    check_eq!(page.get(0), 0x1111);
    Ok(())
}

guest!(tables_change:
    "2: mov eax, [0x600000]",
    "mov [0x50000], r8",
    "invlpg [0x600000]",
    "mov ebx, [0x600000]",
    "mov [0x50000], r9",
    "invlpg [0x600000]",
    "out SYNC, al",
    "jmp 2b",
);

/// A linear address becomes a device and memory again, by the guest's tables.
fn exit_mmio_page_tables_change() -> TestResult {
    let mut m = Machine::long(tables_change())?;
    m.map_small(0x60_0000, 0x50000, 0x8_0000 | 7);
    m.mem.set(0x8_0000, 0x4444);
    m.with_regs(|r| (r.r8, r.r9) = (MMIO | 7, 0x8_0000 | 7))?;
    for round in 0..10u64 {
        check_eq!(m.run()?, Exit::MmioRead { gpa: MMIO, len: 4 });
        m.vcpu.set_mmio_data(round);
        let regs = m.run_sync()?;
        check_eq!((regs.rax, regs.rbx), (0x4444, round));
    }
    Ok(())
}
