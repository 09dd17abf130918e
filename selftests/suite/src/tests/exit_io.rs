// SPDX-License-Identifier: GPL-2.0-only
//! Port I/O: every size, both port forms, string and REP forms.

use std::ops::ControlFlow::Continue;

use crate::guest::*;
use crate::harness::{fail, TestResult};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    exit_pio_out,
    exit_pio_in,
    exit_pio_rep_outs,
    exit_pio_rep_ins,
    exit_pio_string_edges,
    exit_pio_string_fault,
    exit_pio_state_between,
);

/// A port that no test uses otherwise.
const PORT: u16 = 0x5c0;

guest!(pio_out:
    "mov rax, 0x1122334455667788",
    "out 0x70, al",
    "out 0x70, ax",
    "out 0x70, eax",
    "mov edx, 0x5c0",
    "out dx, al",
    "out dx, ax",
    "out dx, eax",
    "mov edx, 0xffff",
    "out dx, al",
    "out DONE, al",
);

/// OUT in every size to immediate and DX ports, up to the last port.
fn exit_pio_out() -> TestResult {
    let mut m = Machine::long(pio_out())?;
    let bytes = [0x88, 0x77, 0x66, 0x55];
    for (port, size) in
        [(0x70, 1), (0x70, 2), (0x70, 4), (PORT, 1), (PORT, 2), (PORT, 4), (0xffff, 1)]
    {
        let want = Exit::Out { port, size, data: bytes[..size.into()].to_vec() };
        check_eq!(m.run()?, want);
    }
    check_eq!(m.run_done()?.rax, 0x1122_3344_5566_7788);
    Ok(())
}

guest!(pio_in:
    "mov edx, 0x5c0",
    "mov rax, 0x1122334455667788",
    "in al, dx",
    "mov rbx, rax",
    "mov rax, 0x1122334455667788",
    "in ax, dx",
    "mov rcx, rax",
    "mov rax, 0x1122334455667788",
    "in eax, dx",
    "mov rsi, rax",
    "in al, 0x70",
    "in ax, 0x70",
    "in eax, 0x70",
    "out DONE, al",
);

/// IN in every size; the untouched part of RAX stays, but 32-bit results clear the upper half.
fn exit_pio_in() -> TestResult {
    let mut m = Machine::long(pio_in())?;
    for port in [PORT, 0x70] {
        for size in [1, 2, 4] {
            check_eq!(m.run()?, Exit::In { port, size, count: 1 });
            m.vcpu.set_in_data(&[0xa1, 0xb2, 0xc3, 0xd4]);
        }
    }
    let regs = m.run_done()?;
    check_eq!(regs.rbx, 0x1122_3344_5566_77a1);
    check_eq!(regs.rcx, 0x1122_3344_5566_b2a1);
    check_eq!(regs.rsi, 0xd4c3_b2a1);
    check_eq!(regs.rax, 0xd4c3_b2a1);
    Ok(())
}

guest!(rep_outs:
    "cld",
    "mov edx, 0x5c0",
    "mov esi, 0x40ff0", "mov ecx, 100", "rep outsb",
    "mov [DATA], rsi", "mov [DATA + 8], rcx",
    "mov esi, 0x40ff1", "mov ecx, 70", "rep outsw",
    "mov [DATA + 16], rsi", "mov [DATA + 24], rcx",
    "mov esi, 0x40000", "mov ecx, 1500", "rep outsd",
    "mov [DATA + 32], rsi", "mov [DATA + 40], rcx",
    "out DONE, al",
);

/// Runs `m` and collects what it writes to [`PORT`], for each element size.
fn collect_outs(m: &mut Machine) -> Result<[Vec<u8>; 3], crate::harness::Outcome> {
    let mut out: [Vec<u8>; 3] = Default::default();
    m.run_with(|_, exit| match exit {
        Exit::Out { port: PORT, size, data } => {
            out[usize::from(*size) >> 1].extend_from_slice(data);
            Ok(Continue(()))
        }
        other => fail(format!("unexpected {other:x?}")),
    })?;
    Ok(out)
}

/// The byte that the tests put at `gpa`.
fn pattern(gpa: u64) -> u8 {
    (gpa ^ gpa >> 8).wrapping_mul(29) as u8
}

fn fill(m: &Machine) {
    let bytes: Vec<u8> = (FREE..FREE + 0x4000).map(pattern).collect();
    m.mem.write(FREE, &bytes);
}

/// REP OUTS in every size, across pages, more than a page at once.
fn exit_pio_rep_outs() -> TestResult {
    let mut m = Machine::long(rep_outs())?;
    fill(&m);
    let out = collect_outs(&mut m)?;
    for (i, (gpa, size, count)) in
        [(0x40ff0u64, 1, 100), (0x40ff1, 2, 70), (0x40000, 4, 1500)].into_iter().enumerate()
    {
        let end = gpa + size * count;
        let want: Vec<u8> = (gpa..end).map(pattern).collect();
        check!(out[i] == want, "bytes of size {size} differ ({} of {})", out[i].len(), want.len());
        check_eq!(m.data(i as u64 * 2), end);
        check_eq!(m.data(i as u64 * 2 + 1), 0);
    }
    Ok(())
}

guest!(rep_ins:
    "cld",
    "mov edx, 0x5c0",
    "mov edi, 0x40ff0", "mov ecx, 100", "rep insb",
    "mov [DATA], rdi", "mov [DATA + 8], rcx",
    "mov edi, 0x41ff1", "mov ecx, 70", "rep insw",
    "mov [DATA + 16], rdi", "mov [DATA + 24], rcx",
    "mov edi, 0x43000", "mov ecx, 1500", "rep insd",
    "mov [DATA + 32], rdi", "mov [DATA + 40], rcx",
    "out DONE, al",
);

/// Runs `m`, answering reads of [`PORT`] with consecutive bytes of [`pattern`] from 0.
fn feed_ins(m: &mut Machine) -> TestResult {
    let mut next = 0u64;
    m.run_with(|m, exit| match *exit {
        Exit::In { port: PORT, size, count } => {
            let len = u64::from(size) * u64::from(count);
            let bytes: Vec<u8> = (next..next + len).map(pattern).collect();
            next += len;
            m.vcpu.set_in_data(&bytes);
            Ok(Continue(()))
        }
        ref other => fail(format!("unexpected {other:x?}")),
    })?;
    Ok(())
}

/// REP INS in every size, across pages, more than a page at once.
fn exit_pio_rep_ins() -> TestResult {
    let mut m = Machine::long(rep_ins())?;
    feed_ins(&mut m)?;
    let mut source = 0;
    for (i, (gpa, size, count)) in
        [(0x40ff0u64, 1, 100), (0x41ff1, 2, 70), (0x43000, 4, 1500)].into_iter().enumerate()
    {
        let len = size * count;
        for at in 0..len {
            let (got, want) = (m.mem.get(gpa + at) as u8, pattern(source + at));
            check!(got == want, "size {size} byte {at}: {got:#x}, not {want:#x}");
        }
        check_eq!(m.mem.get(gpa + len), 0, "behind the end");
        check_eq!(m.data(i as u64 * 2), gpa + len);
        check_eq!(m.data(i as u64 * 2 + 1), 0);
        source += len;
    }
    Ok(())
}

guest!(string_edges:
    "mov edx, 0x5c0",
    // Nothing to do: no exit, nothing changes.
    "mov esi, 0x40010", "xor ecx, ecx", "rep outsb",
    "mov edi, 0x40010", "rep insb",
    // Once, without REP; RCX is left alone.
    "mov ecx, 7", "outsw", "insb",
    "mov [DATA], rsi", "mov [DATA + 8], rdi", "mov [DATA + 16], rcx",
    // Backwards.
    "std",
    "mov esi, 0x40103", "mov ecx, 4", "rep outsb",
    "mov [DATA + 24], rsi",
    "cld",
    // 32-bit address size wraps at 4 GiB and clears the upper half of the counters.
    "mov rsi, 0x5500040020", "mov rcx, 0x6600000002",
    ".byte 0x67; rep outsb",
    "mov [DATA + 32], rsi", "mov [DATA + 40], rcx",
    "out DONE, al",
);

/// Zero counts, no prefix, backwards, and 32-bit addresses.
fn exit_pio_string_edges() -> TestResult {
    let mut m = Machine::long(string_edges())?;
    fill(&m);
    let (mut bytes, mut words) = (Vec::new(), Vec::new());
    m.run_with(|m, exit| {
        match exit {
            Exit::Out { port: PORT, size: 1, data } => bytes.extend_from_slice(data),
            Exit::Out { port: PORT, size: 2, data } => words.extend_from_slice(data),
            Exit::In { port: PORT, size: 1, count: 1 } => m.vcpu.set_in_data(&[0x99]),
            other => return fail(format!("unexpected {other:x?}")),
        }
        Ok(Continue(()))
    })?;
    check_eq!(words, [pattern(0x40010), pattern(0x40011)]);
    check_eq!(m.mem.get(0x40010) as u8, 0x99);
    let back = [0x40103u64, 0x40102, 0x40101, 0x40100, 0x40020, 0x40021];
    check_eq!(bytes, back.map(pattern));
    check_eq!([m.data(0), m.data(1), m.data(2)], [0x40012, 0x40011, 7]);
    check_eq!(m.data(3), 0x400ff);
    check_eq!([m.data(4), m.data(5)], [0x40022, 0]);
    Ok(())
}

guest!(string_fault:
    "cld",
    "mov edx, 0x5c0",
    "lea rax, [rip + 5f]", "mov [FIXUP], rax",
    // 8 bytes before a page that is not there.
    "mov esi, 0x41ff8", "mov ecx, 20", "rep outsb",
    "5: mov [DATA], rsi", "mov [DATA + 8], rcx",
    "mov rax, [EXC_CR2]", "mov [DATA + 16], rax",
    "mov rax, [EXC_ERROR]", "mov [DATA + 24], rax",
    "lea rax, [rip + 6f]", "mov [FIXUP], rax",
    "mov edi, 0x41ffc", "mov ecx, 20", "rep insb",
    "6: mov [DATA + 32], rdi", "mov [DATA + 40], rcx",
    "mov rax, [EXC_CR2]", "mov [DATA + 48], rax",
    "mov rax, [EXC_ERROR]", "mov [DATA + 56], rax",
    "out DONE, al",
);

/// A page fault in the middle of REP OUTS and REP INS leaves registers at the failing element.
fn exit_pio_string_fault() -> TestResult {
    let mut m = Machine::long(string_fault())?;
    fill(&m);
    m.map_small(0x42000, 0x50000, 0);
    let mut out = Vec::new();
    let mut fed = 0u32;
    m.run_with(|m, exit| {
        match exit {
            Exit::Out { port: PORT, size: 1, data } => out.extend_from_slice(data),
            Exit::In { port: PORT, size: 1, count } => {
                fed += count;
                m.vcpu.set_in_data(&vec![0x42; *count as usize]);
            }
            other => return fail(format!("unexpected {other:x?}")),
        }
        Ok(Continue(()))
    })?;
    check_eq!(out, (0x41ff8u64..0x42000).map(pattern).collect::<Vec<_>>());
    check_eq!([m.data(0), m.data(1)], [0x42000, 12], "RSI and RCX after the fault");
    check_eq!([m.data(2), m.data(3)], [0x42000, 0], "CR2 and error code of the read");
    check_eq!([m.data(4), m.data(5)], [0x42000, 16], "RDI and RCX after the fault");
    check_eq!([m.data(6), m.data(7)], [0x42000, 2], "CR2 and error code of the write");
    check!(fed >= 4, "only {fed} bytes were read from the port");
    check_eq!(m.mem.get32(0x41ffc), 0x4242_4242);
    Ok(())
}

guest!(state_between:
    "mov edx, 0x5c0",
    "2: in eax, dx",
    "mov ebx, eax",
    "jmp 2b",
);

/// RIP is past the instruction once it has completed, and immediate_exit completes it.
fn exit_pio_state_between() -> TestResult {
    let mut m = Machine::long(state_between())?;
    check_eq!(m.run()?, Exit::In { port: PORT, size: 4, count: 1 });
    m.vcpu.set_in_data(&[1, 2, 3, 4]);
    m.vcpu.set_immediate_exit(1);
    check_errno!(m.vcpu.run(), libc::EINTR);
    let regs = m.vcpu.regs()?;
    check_eq!(regs.rax, 0x0403_0201);
    check_eq!(regs.rip, CODE + 6);
    check_eq!(regs.rbx, 0);
    m.vcpu.set_immediate_exit(0);
    check_eq!(m.run()?, Exit::In { port: PORT, size: 4, count: 1 });
    check_eq!(m.vcpu.regs()?.rbx, 0x0403_0201);
    Ok(())
}
