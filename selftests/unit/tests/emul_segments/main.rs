// SPDX-License-Identifier: GPL-2.0-only

//! The emulator against the real CPU where segments matter: far branches, returns, interrupts, loads of
//! segment registers, and accesses and fetches at the ends of segments of all shapes, in 64-bit code and
//! in 32-bit and 16-bit code of compatibility mode. Compared are all general registers, the selectors,
//! RIP, RFLAGS, memory, and the exception: vector, error code and CR2. Most cases are single-stepped, so
//! that is compared too.
//!
//! `EMUL_SEGMENTS_CASES` sets how many, `EMUL_SEGMENTS_SEED` where they start.

#![cfg(target_arch = "x86_64")]

#[path = "../common/rng.rs"]
mod rng;

mod cases;
mod cpu;
mod machine;
mod tables;

use cases::{Case, Family, FAMILIES};
use cpu::{Cpu, Ending, CODE_LEN, WRITABLE};
use machine::{End, Soft};
use rng::Rng;
use tables::Tables;
use vireo_model::model::emul::{Mode, MAX_LEN};
use vireo_model::model::x86::{rflags, vector, Exception, SegReg};

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

/// What a signal frame shows of an exception.
fn ending(exception: &Exception) -> Ending {
    Ending {
        vector: exception.vector,
        error_code: exception.error_code.unwrap_or(0).into(),
        cr2: exception.payload.filter(|_| exception.vector == vector::PF),
    }
}

/// How often each family ended how.
#[derive(Default)]
struct Count {
    cases: u64,
    faults: u64,
    refused: u64,
}

/// POPA's opcode.
const POPA: u8 = 0x61;

/// Bytes of the largest frame that an instruction takes off the stack.
const FRAME_BYTES: u64 = 40;

/// Whether the instructions of a family access memory at several addresses.
fn accesses_twice(family: Family) -> bool {
    use Family::{FarImmediate, FarMemory, FarReturn, Iret, LoadSegment};
    matches!(
        family,
        FarImmediate | FarMemory | FarReturn | Iret | LoadSegment
    )
}

/// Runs one case on both. Returns whether it faulted, or `None` if the executor refused it.
fn compare(cpu: &mut Cpu, soft: &mut Soft, number: u64, case: Case) -> Option<bool> {
    let Case {
        family,
        mode,
        bytes,
        offset,
        state: before,
        pokes,
    } = case;
    let len = bytes.len().min(CODE_LEN - offset);
    for code in [cpu.code(), &mut soft.code[..]] {
        code[offset..offset + len].copy_from_slice(&bytes[..len]);
    }
    for (at, bytes) in &pokes {
        for data in [cpu.data(), &mut soft.data[..]] {
            data[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
    }
    soft.start(&before);
    let end = soft.run();
    soft.code[offset..offset + len].fill(0xcc);
    let End::Exception(exception, resumes) = end else {
        // It may have executed something by then.
        soft.data[..WRITABLE].copy_from_slice(cpu.data());
        cpu.clear(offset, len);
        return None;
    };
    let mut found = before;
    // SAFETY: the cases write to the data only, and make no system calls.
    let mut actual = unsafe { cpu.run(&mut found) };
    cpu.clear(offset, len);
    let missing = exception.vector == vector::UD && offset + MAX_LEN > CODE_LEN;
    if missing && actual.vector == vector::PF {
        // The processor wanted more of what is no instruction already.
        return None;
    }
    let context = || format!("case {number}: {family:?} {mode:?} {bytes:02x?}\nbefore {before:x?}");

    if let (true, Some(mine), Some(theirs)) =
        (accesses_twice(family), exception.payload, actual.cr2)
    {
        // Which of its accesses comes first is the processor's choice.
        if mine.abs_diff(theirs) < FRAME_BYTES {
            actual.cr2 = Some(mine);
        }
    }
    assert_eq!(
        ending(&exception),
        actual,
        "{}\nsoft {:x?}\ncpu {found:x?}",
        context(),
        soft.state()
    );
    let mut expected = soft.state();
    if bytes.last() == Some(&POPA) && actual.vector != vector::DB {
        // Processors have popped some of the registers by then.
        let rsp = expected.gpr[4];
        expected.gpr = found.gpr;
        expected.gpr[4] = rsp;
    }
    if mode == Mode::Long
        && expected.selectors[SegReg::Cs.index()] != before.selectors[SegReg::Cs.index()]
    {
        // The upper halves are undefined once 64-bit mode is left.
        for gpr in expected.gpr.iter_mut().chain(&mut found.gpr) {
            *gpr &= 0xffff_ffff;
        }
    }
    if resumes {
        expected.rflags |= rflags::RF;
    }
    let expected = expected.returned();
    assert_eq!(
        expected,
        found,
        "{}\nsoft {expected:x?}\ncpu  {found:x?}",
        context()
    );
    let fault = !matches!(exception.vector, vector::DB | vector::BP | vector::OF);
    if fault {
        // What was written before a fault is the processor's business: nobody reads it.
        soft.data[..WRITABLE].copy_from_slice(cpu.data());
        return Some(true);
    }
    let theirs = cpu.data();
    let differs = |at: &usize| soft.data[*at] != theirs[*at];
    if let Some(at) = (0..WRITABLE).find(differs) {
        let (mine, theirs) = (&soft.data[at..], &theirs[at..]);
        let len = mine.len().min(16);
        let shown = (&mine[..len], &theirs[..len]);
        panic!("memory at {at:#x}: {shown:02x?}, {}", context());
    }
    Some(false)
}

#[test]
fn segments_are_as_the_cpu_has_them() {
    let cases = setting("EMUL_SEGMENTS_CASES", 200_000);
    let mut rng = Rng::new(setting("EMUL_SEGMENTS_SEED", 1));
    let Some(tables) = Tables::new() else {
        println!("segments: skipped, no local descriptor table here");
        return;
    };
    let mut cpu = Cpu::new();
    let mut soft = Soft::new(&tables);
    rng.fill(cpu.data());
    soft.data[..WRITABLE].copy_from_slice(cpu.data());
    let mut counts: [Count; FAMILIES.len()] = Default::default();
    for number in 0..cases {
        let case = cases::case(&mut rng, &soft);
        let count = &mut counts[case.family as usize];
        count.cases += 1;
        match compare(&mut cpu, &mut soft, number, case) {
            Some(true) => count.faults += 1,
            Some(false) => {}
            None => count.refused += 1,
        }
    }
    for (family, count) in FAMILIES.iter().zip(&counts) {
        let Count {
            cases,
            faults,
            refused,
        } = count;
        println!("{family:?}: {cases} cases, {faults} faults, {refused} refused");
        let rare = *cases - *refused < *cases / 2;
        assert!(!rare || *family == Family::Iret, "{family:?} is refused");
    }
    println!("segments: {cases} cases, no difference");
}
