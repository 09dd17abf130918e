// SPDX-License-Identifier: GPL-2.0-only
//! Floating-point and vector state: the guest's survives exits, the host's survives the guest.

use std::arch::asm;

use crate::guest::*;
use crate::harness::{skip, Outcome, TestResult};
use crate::kvm::Vcpu;
use crate::machine::*;

tests!(
    entry_sse_survives,
    entry_avx_survives,
    entry_fpu_ioctls,
    entry_xsave_ioctls,
);

/// The guest's reference image of its state.
const FIRST: u64 = 0x41000;
/// The image after each exit.
const AGAIN: u64 = 0x42000;

guest!(sse_loop:
    "fninit",
    "fldpi", "fld1", "fldl2e",
    "push 0x1f3f", "ldmxcsr [rsp]",
    "mov word ptr [rsp], 0x27f", "fldcw [rsp]",
    "movups xmm0, [DATA]", "movups xmm1, [DATA + 16]", "movups xmm2, [DATA + 32]",
    "movups xmm3, [DATA + 48]", "movups xmm4, [DATA + 64]", "movups xmm5, [DATA + 80]",
    "movups xmm6, [DATA + 96]", "movups xmm7, [DATA + 112]", "movups xmm8, [DATA + 128]",
    "movups xmm9, [DATA + 144]", "movups xmm10, [DATA + 160]", "movups xmm11, [DATA + 176]",
    "movups xmm12, [DATA + 192]", "movups xmm13, [DATA + 208]", "movups xmm14, [DATA + 224]",
    "movups xmm15, [DATA + 240]",
    "fxsave64 [0x41000]",
    "2:",
    "out SYNC, al",
    "fxsave64 [0x42000]",
    "mov esi, 0x41000", "mov edi, 0x42000", "mov ecx, 64", "cld",
    "repe cmpsq",
    "je 2b",
    "out DONE, al",
);

fn fill(m: &Machine) {
    for i in 0..64 {
        m.set_data(i, 0x0101_0101_0101_0101u64.wrapping_mul(i + 3) ^ i << 56);
    }
}

/// KVM_RUN with every XMM register full of ones; whether they still are.
fn run_with_full_xmm(vcpu: &Vcpu) -> (i64, bool) {
    let (result, mask): (i64, u32);
    // SAFETY: KVM_RUN by number; all registers that it or this code changes are declared.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "movdqa xmm1, xmm0", "movdqa xmm2, xmm0", "movdqa xmm3, xmm0",
            "movdqa xmm4, xmm0", "movdqa xmm5, xmm0", "movdqa xmm6, xmm0", "movdqa xmm7, xmm0",
            "movdqa xmm8, xmm0", "movdqa xmm9, xmm0", "movdqa xmm10, xmm0", "movdqa xmm11, xmm0",
            "movdqa xmm12, xmm0", "movdqa xmm13, xmm0", "movdqa xmm14, xmm0", "movdqa xmm15, xmm0",
            "syscall",
            "pand xmm0, xmm1", "pand xmm2, xmm3", "pand xmm4, xmm5", "pand xmm6, xmm7",
            "pand xmm8, xmm9", "pand xmm10, xmm11", "pand xmm12, xmm13", "pand xmm14, xmm15",
            "pand xmm0, xmm2", "pand xmm4, xmm6", "pand xmm8, xmm10", "pand xmm12, xmm14",
            "pand xmm0, xmm4", "pand xmm8, xmm12", "pand xmm0, xmm8",
            "pcmpeqd xmm1, xmm1", "pcmpeqb xmm0, xmm1",
            "pmovmskb {mask:e}, xmm0",
            mask = out(reg) mask,
            inlateout("rax") libc::SYS_ioctl => result,
            in("rdi") i64::from(vcpu.fd()),
            in("rsi") crate::kvm::KVM_RUN.nr,
            in("rdx") 0,
            out("rcx") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
            out("xmm15") _,
        );
    }
    (result, mask == 0xffff)
}

/// KVM_RUN with the upper halves of four YMM registers full of ones; whether they still are.
#[target_feature(enable = "avx")]
fn run_with_full_ymm(vcpu: &Vcpu) -> (i64, bool) {
    let (result, same): (i64, u8);
    // SAFETY: as above.
    unsafe {
        asm!(
            "vcmpps ymm4, ymm4, ymm4, 15", "vmovaps ymm5, ymm4", "vmovaps ymm14, ymm4",
            "vmovaps ymm15, ymm4",
            "syscall",
            "vandps ymm4, ymm4, ymm5", "vandps ymm14, ymm14, ymm15", "vandps ymm4, ymm4, ymm14",
            "vcmpps ymm5, ymm5, ymm5, 15",
            "vptest ymm4, ymm5",
            "setc {same}",
            "vzeroupper",
            same = out(reg_byte) same,
            inlateout("rax") libc::SYS_ioctl => result,
            in("rdi") i64::from(vcpu.fd()),
            in("rsi") crate::kvm::KVM_RUN.nr,
            in("rdx") 0,
            out("rcx") _, out("r11") _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _,
            out("ymm5") _, out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _,
            out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _,
            out("ymm15") _,
        );
    }
    (result, same == 1)
}

/// Repeats `run` (which is KVM_RUN with the host's registers full) and checks both sides.
fn rounds(m: &mut Machine, run: impl Fn(&Vcpu) -> (i64, bool)) -> TestResult {
    for round in 0..100 {
        let (result, host_kept) = run(&m.vcpu);
        check_eq!(result, 0, "KVM_RUN");
        check!(host_kept, "the host's registers changed in round {round}");
        let exit = m.vcpu.exit();
        let sync = matches!(exit, crate::kvm::Exit::Out { port: PORT_SYNC, .. });
        check!(sync, "the guest's registers changed before round {round}: {exit:x?}");
    }
    Ok(())
}

/// x87 and SSE state, MXCSR and the control word.
fn entry_sse_survives() -> TestResult {
    let mut m = Machine::long(sse_loop())?;
    fill(&m);
    rounds(&mut m, run_with_full_xmm)?;
    check_eq!(m.mem.get(FIRST + 160), m.data(0), "the image holds XMM0");
    check_eq!(m.mem.get(AGAIN + 160 + 240), m.data(30), "the image holds XMM15");
    Ok(())
}

guest!(avx_loop:
    "vmovups ymm0, [DATA]", "vmovups ymm3, [DATA + 32]", "vmovups ymm4, [DATA + 64]",
    "vmovups ymm5, [DATA + 96]", "vmovups ymm14, [DATA + 128]", "vmovups ymm15, [DATA + 160]",
    "mov eax, 7", "xor edx, edx",
    "xsave64 [0x41000]",
    "2:",
    "out SYNC, al",
    "mov eax, 7", "xor edx, edx",
    "xsave64 [0x42000]",
    "mov esi, 0x41000", "mov edi, 0x42000", "mov ecx, 104", "cld",
    "repe cmpsq",
    "je 2b",
    "out DONE, al",
);

/// A 64-bit machine whose guest may use the features `xcr0`; `None` when there are fewer.
fn with_xcr0(code: &[u8], xcr0: u64) -> Result<Option<Machine>, Outcome> {
    let m = Machine::long(code)?;
    if !super::exit_dr::offered_xcr0(&m)? & xcr0 != 0 {
        return Ok(None);
    }
    m.with_sregs(|s| s.cr4 |= CR4_OSXSAVE)?;
    let mut xcrs = m.vcpu.xcrs()?;
    xcrs.xcrs[0].value = xcr0;
    m.vcpu.set_xcrs(&xcrs)?;
    Ok(Some(m))
}

/// The upper halves of the YMM registers.
fn entry_avx_survives() -> TestResult {
    let Some(mut m) = with_xcr0(avx_loop(), 7)? else {
        return skip("no AVX on this processor");
    };
    fill(&m);
    // SAFETY: the guest is offered AVX, so the host has it.
    rounds(&mut m, |vcpu| unsafe { run_with_full_ymm(vcpu) })?;
    check_eq!(m.mem.get(FIRST + 576), m.data(2), "the image holds the upper half of YMM0");
    Ok(())
}

guest!(fpu_dump:
    // Leave the initial state, or SET_FPU writes to what the processor takes as unused.
    "fninit", "fld1", "movups xmm3, [DATA]",
    "2: out SYNC, al",
    "fxsave64 [0x41000]",
    "movups xmm3, [DATA]",
    "jmp 2b",
);

/// KVM_GET_FPU and KVM_SET_FPU agree with what the guest sees.
fn entry_fpu_ioctls() -> TestResult {
    let mut m = Machine::long(fpu_dump())?;
    fill(&m);
    m.run_sync()?;
    let mut fpu = m.vcpu.fpu()?;
    check_eq!(fpu.fcw, 0x37f, "initial control word");
    for (i, xmm) in fpu.xmm.iter_mut().enumerate() {
        *xmm = [i as u8 + 0x10; 16];
    }
    for (i, fpr) in fpu.fpr.iter_mut().enumerate() {
        fpr[..10].copy_from_slice(&[i as u8 + 1; 10]);
    }
    // MXCSR is not part of what these ioctls carry in KVM.
    (fpu.fcw, fpu.fsw, fpu.ftwx) = (0x27f, 0x1800, 0xff);
    m.vcpu.set_fpu(&fpu)?;
    m.run_sync()?;
    check_eq!(m.mem.get(FIRST) & 0xffff, 0x27f, "FCW");
    check_eq!(m.mem.get(FIRST) >> 16 & 0xffff, 0x1800, "FSW");
    for i in 0..16 {
        let want = 0x0101_0101_0101_0101 * (i + 0x10);
        check_eq!(m.mem.get(FIRST + 160 + i * 16), want, "XMM{i}");
    }
    for i in 0..8 {
        check_eq!(m.mem.get(FIRST + 32 + i * 16), 0x0101_0101_0101_0101 * (i + 1), "ST{i}");
    }
    let after = m.vcpu.fpu()?;
    check_eq!(after.xmm[4], fpu.xmm[4]);
    check_eq!(u64::from_le_bytes(after.xmm[3][..8].try_into().unwrap_or([0; 8])), m.data(0));
    check_eq!((after.fcw, after.ftwx), (0x27f, 0xff));
    Ok(())
}

/// KVM_GET_XSAVE and KVM_SET_XSAVE: same registers as the FPU ioctls, in XSAVE's format.
fn entry_xsave_ioctls() -> TestResult {
    let Some(mut m) = with_xcr0(fpu_dump(), 3)? else {
        return skip("no XSAVE on this processor");
    };
    fill(&m);
    m.run_sync()?;
    m.run_sync()?;
    let mut xsave = m.vcpu.xsave()?;
    let word = |x: &kvm_bindings::kvm_xsave, at: usize| {
        u64::from(x.region[at / 4]) | u64::from(x.region[at / 4 + 1]) << 32
    };
    check_eq!(word(&xsave, 160 + 48), m.data(0), "XMM3 in the XSAVE area");
    check_eq!(word(&xsave, 512) & 2, 2, "XSTATE_BV has SSE");
    xsave.region[(160 + 64) / 4] = 0x7654_3210;
    xsave.region[512 / 4] |= 3;
    m.vcpu.set_xsave(&xsave)?;
    m.run_sync()?;
    check_eq!(m.mem.get32(FIRST + 160 + 64), 0x7654_3210, "XMM4 as set");
    // A feature that does not exist is refused.
    xsave.region[512 / 4 + 1] |= 1 << 20;
    check_errno!(m.vcpu.set_xsave(&xsave), libc::EINVAL);
    // KVM_GET_XSAVE2 needs the size that its capability gives, at least that of KVM_GET_XSAVE.
    let size = m.vm.check(kvm_bindings::KVM_CAP_XSAVE2);
    if size != 0 {
        check!(size >= 4096, "KVM_CAP_XSAVE2 is {size}");
        let mut buffer = vec![0u64; size as usize / 8 + 1];
        let request = crate::kvm::KVM_GET_XSAVE2;
        crate::kvm::ioctl(m.vcpu.fd(), request, buffer.as_mut_ptr() as u64)?;
        check_eq!(buffer[(160 + 48) / 8], m.data(0), "XMM3 by KVM_GET_XSAVE2");
    }
    Ok(())
}
