// SPDX-License-Identifier: GPL-2.0-only
//! RDMSR and WRMSR: values arrive, wrong ones raise #GP, and userspace sees the same registers.

use crate::guest::*;
use crate::harness::{env, skip, Outcome, TestResult};
use crate::host::is_tcg;
use crate::machine::*;

tests!(
    exit_msr_round_trip,
    exit_msr_from_userspace,
    exit_msr_wrong,
    exit_msr_unknown,
    exit_msr_efer,
    exit_msr_tsc_offset,
    exit_msr_tsc_adjust,
    exit_rdtsc_monotonic,
);

pub(super) const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const TSC_ADJUST: u32 = 0x3b;
const MTRR_CAP: u32 = 0xfe;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

guest!(msr_access:
    // RDI: 0 read, 1 write, 2 report; RSI index, RAX:RDX value. After it R8 is 1 for #GP.
    "2:",
    "lea r9, [rip + 5f]",
    "mov [FIXUP], r9",
    "mov r8d, 1",
    "mov ecx, esi",
    "test edi, edi",
    "jnz 3f",
    "rdmsr",
    "jmp 4f",
    "3: wrmsr",
    "4: xor r8d, r8d",
    "5: mov qword ptr [FIXUP], 0",
    "out SYNC, al",
    "jmp 2b",
);

/// The guest reads MSR `index`: its value, or `None` for #GP.
fn guest_read(m: &mut Machine, index: u32) -> Result<Option<u64>, Outcome> {
    m.with_regs(|r| (r.rdi, r.rsi, r.rax, r.rdx) = (0, index.into(), u64::MAX, u64::MAX))?;
    let regs = m.run_sync()?;
    if regs.r8 != 0 {
        check_eq!(m.mem.get(EXC_VECTOR), 13, "exception of RDMSR {index:#x}");
        check_eq!(m.mem.get(EXC_ERROR), 0);
        return Ok(None);
    }
    check_eq!([regs.rax >> 32, regs.rdx >> 32], [0, 0], "upper halves of RDMSR {index:#x}");
    Ok(Some(regs.rax | regs.rdx << 32))
}

/// The guest writes MSR `index`; whether it was taken and not answered with #GP.
fn guest_write(m: &mut Machine, index: u32, value: u64) -> Result<bool, Outcome> {
    // The upper halves of RAX and RDX must not matter.
    let junk = 0xdead_0000_0000_0000;
    m.with_regs(|r| {
        (r.rdi, r.rsi) = (1, index.into());
        (r.rax, r.rdx) = (junk | value & 0xffff_ffff, junk | value >> 32);
    })?;
    let regs = m.run_sync()?;
    if regs.r8 != 0 {
        check_eq!(m.mem.get(EXC_VECTOR), 13, "exception of WRMSR {index:#x}");
    }
    Ok(regs.r8 == 0)
}

/// MSRs that hold what is written, with a value that each accepts.
const PLAIN: &[(u32, u64)] = &[
    (SYSENTER_CS, 0x1234),
    (SYSENTER_ESP, 0xf000_1000),
    (SYSENTER_EIP, 0xf000_2000),
    (STAR, 0x0023_0010_0000_0000),
    (LSTAR, 0xffff_8000_dead_b000),
    (CSTAR, 0xffff_8000_dead_c000),
    (FMASK, 0x47700),
    (FS_BASE, 0x7fff_1234_5000),
    (GS_BASE, 0xffff_9000_1234_5000),
    (KERNEL_GS_BASE, 0xffff_a000_1234_5000),
    (PAT, 0x0007_0406_0007_0406),
    (MTRR_DEF_TYPE, 0xc06),
];

/// What the guest writes it reads back, twice, with other exits between, and userspace agrees.
fn exit_msr_round_trip() -> TestResult {
    let mut m = Machine::long(msr_access())?;
    for &(index, value) in PLAIN {
        check!(guest_write(&mut m, index, value)?, "#GP for WRMSR {index:#x}");
    }
    for round in 0..2 {
        for &(index, value) in PLAIN {
            check_eq!(guest_read(&mut m, index)?, Some(value), "MSR {index:#x} round {round}");
            check_eq!(m.vcpu.msr(index)?, Some(value), "MSR {index:#x} for userspace");
        }
    }
    let sregs = m.vcpu.sregs()?;
    check_eq!(sregs.fs.base, 0x7fff_1234_5000);
    check_eq!(sregs.gs.base, 0xffff_9000_1234_5000);
    if guest_read(&mut m, TSC_AUX)?.is_some() {
        check!(guest_write(&mut m, TSC_AUX, 0x1234_5678)?);
        check_eq!(guest_read(&mut m, TSC_AUX)?, Some(0x1234_5678));
        check_eq!(m.vcpu.msr(TSC_AUX)?, Some(0x1234_5678));
    }
    Ok(())
}

/// What userspace sets the guest reads, also after it has run.
fn exit_msr_from_userspace() -> TestResult {
    let mut m = Machine::long(msr_access())?;
    for round in 0..2u64 {
        for &(index, value) in PLAIN {
            let value = if round == 0 || index == MTRR_DEF_TYPE { value } else { value ^ (1 << 8) };
            check!(m.vcpu.set_msr(index, value)?, "userspace cannot set MSR {index:#x}");
            check_eq!(guest_read(&mut m, index)?, Some(value), "MSR {index:#x} round {round}");
        }
    }
    Ok(())
}

/// Values that an MSR does not take raise #GP and change nothing.
fn exit_msr_wrong() -> TestResult {
    let mut m = Machine::long(msr_access())?;
    const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;
    let wrong: &[(u32, u64)] = &[
        (LSTAR, NOT_CANONICAL),
        (CSTAR, NOT_CANONICAL),
        (FS_BASE, NOT_CANONICAL),
        (GS_BASE, NOT_CANONICAL),
        (KERNEL_GS_BASE, NOT_CANONICAL),
        (PAT, 2),
        (PAT, 0x0800_0000_0000_0000),
        (MTRR_DEF_TYPE, 1 << 32),
        (MTRR_DEF_TYPE, 2),
        (MTRR_CAP, 0),
        (APIC_BASE, 1 << 63),
        (EFER, 1 << 40),
    ];
    for &(index, value) in wrong {
        if value == NOT_CANONICAL && is_tcg() {
            // The guest may own these registers, and QEMU's processor takes any value for them.
            continue;
        }
        let before = m.vcpu.msr(index)?;
        check!(!guest_write(&mut m, index, value)?, "MSR {index:#x} took {value:#x}");
        check_eq!(m.vcpu.msr(index)?, before, "MSR {index:#x} after #GP");
    }
    Ok(())
}

/// MSRs that do not exist raise #GP, for reads and writes, all over the number space.
fn exit_msr_unknown() -> TestResult {
    let mut m = Machine::long(msr_access())?;
    for index in [0x5, 0x1fff, 0x2000, 0x1234_5678, 0x3fff_ffff, 0xbfff_ffff, 0xc000_1fff,
        0xc000_2000, 0xffff_ffff]
    {
        check_eq!(guest_read(&mut m, index)?, None, "RDMSR {index:#x}");
        check!(!guest_write(&mut m, index, 0)?, "WRMSR {index:#x} was taken");
        check_eq!(m.vcpu.msr(index)?, None, "MSR {index:#x} for userspace");
    }
    Ok(())
}

/// EFER: SCE and NXE toggle; LMA is read-only and LME cannot change while paging is on.
fn exit_msr_efer() -> TestResult {
    let mut m = Machine::long(msr_access())?;
    let full = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    check_eq!(guest_read(&mut m, EFER)?, Some(full));
    for value in [full & !EFER_SCE, full & !EFER_NXE, full] {
        check!(guest_write(&mut m, EFER, value)?, "EFER did not take {value:#x}");
        check_eq!(guest_read(&mut m, EFER)?, Some(value));
        check_eq!(m.vcpu.sregs()?.efer, value);
    }
    check!(!guest_write(&mut m, EFER, EFER_LMA)?, "LME was cleared while paging is on");
    check_eq!(m.vcpu.sregs()?.efer, full);
    // Writing LMA as 0 is ignored, it is not an error.
    check!(guest_write(&mut m, EFER, full & !EFER_LMA)?);
    check_eq!(guest_read(&mut m, EFER)?, Some(full));
    Ok(())
}

/// Skips where KVM has no guest TSC: it refuses the frequency when QEMU's clock was measured wrong,
/// which happens when the machine below is busy.
pub(super) fn need_tsc(m: &Machine) -> TestResult {
    let before = m.vcpu.msr(TSC)?;
    std::thread::sleep(std::time::Duration::from_millis(1));
    if is_tcg() && !env().is_vireo() && m.vcpu.msr(TSC)? == before {
        return skip("KVM took no TSC frequency from this emulator");
    }
    Ok(())
}

guest!(tsc_offset:
    "2: rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
    "mov ecx, 0x10", "rdmsr", "shl rdx, 32", "or rax, rdx", "mov rsi, rax",
    "out SYNC, al",
    "mov ecx, 0x10", "mov eax, 0", "mov edx, 0x1000", "wrmsr",
    "jmp 2b",
);

/// RDTSC and MSR_IA32_TSC are one counter, which the guest and userspace can set.
fn exit_msr_tsc_offset() -> TestResult {
    // Far more than passes during this test, far less than the offsets that it sets.
    const SLACK: u64 = 1 << 40;
    let mut m = Machine::long(tsc_offset())?;
    need_tsc(&m)?;
    let regs = m.run_sync()?;
    check!(regs.rsi.wrapping_sub(regs.rbx) < SLACK, "rdtsc {:#x} msr {:#x}", regs.rbx, regs.rsi);
    let regs = m.run_sync()?;
    let set = 0x1000u64 << 32;
    check!(regs.rbx.wrapping_sub(set) < SLACK, "rdtsc after WRMSR: {:#x}", regs.rbx);
    check!(regs.rsi.wrapping_sub(regs.rbx) < SLACK, "msr after WRMSR: {:#x}", regs.rsi);
    let m2 = Machine::long(tsc_offset())?;
    let mut m2 = m2;
    check!(m2.vcpu.set_msr(TSC, 0x77 << 48)?);
    let regs = m2.run_sync()?;
    check!(regs.rbx.wrapping_sub(0x77 << 48) < SLACK, "rdtsc after SET_MSRS: {:#x}", regs.rbx);
    let seen = m2.vcpu.msr(TSC)?.unwrap_or(0);
    check!(seen.wrapping_sub(regs.rsi) < SLACK, "GET_MSRS {seen:#x}, guest {:#x}", regs.rsi);
    Ok(())
}

/// TSC_ADJUST moves the counter by what it changes, and a TSC write is accounted in it.
fn exit_msr_tsc_adjust() -> TestResult {
    const SLACK: u64 = 1 << 40;
    const STEP: u64 = 1 << 50;
    let mut m = Machine::long(msr_access())?;
    need_tsc(&m)?;
    let Some(old) = guest_read(&mut m, TSC_ADJUST)? else {
        return skip("no TSC_ADJUST");
    };
    let before = guest_read(&mut m, TSC)?.unwrap_or(0);
    check!(guest_write(&mut m, TSC_ADJUST, old.wrapping_add(STEP))?);
    check_eq!(guest_read(&mut m, TSC_ADJUST)?, Some(old.wrapping_add(STEP)));
    let after = guest_read(&mut m, TSC)?.unwrap_or(0);
    check!(after.wrapping_sub(before).wrapping_sub(STEP) < SLACK, "{before:#x} to {after:#x}");
    check!(guest_write(&mut m, TSC, after.wrapping_add(STEP))?);
    let adjust = guest_read(&mut m, TSC_ADJUST)?.unwrap_or(0).wrapping_sub(old);
    check!(adjust.wrapping_sub(2 * STEP).wrapping_add(SLACK) < 2 * SLACK, "adjust {adjust:#x}");
    Ok(())
}

guest!(tsc_monotonic:
    "mov esi, 200",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rdi, rax",
    "2: xor eax, eax", "xor ecx, ecx", "cpuid",
    "out SYNC, al",
    "rdtsc", "shl rdx, 32", "or rax, rdx",
    "cmp rax, rdi",
    "jbe 3f",
    "mov rdi, rax",
    "dec esi",
    "jnz 2b",
    "3: out DONE, al",
);

/// The time-stamp counter never goes backwards over exits.
fn exit_rdtsc_monotonic() -> TestResult {
    let mut m = Machine::long(tsc_monotonic())?;
    let regs = m.run_with(|_, _| Ok(std::ops::ControlFlow::Continue(())))?;
    check_eq!(regs.rsi, 0, "rounds left; TSC {:#x} after {:#x}", regs.rax, regs.rdi);
    Ok(())
}
