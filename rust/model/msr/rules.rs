// SPDX-License-Identifier: GPL-2.0-only

//! Which values single registers may hold.

use super::{Ctx, MsrError, Origin};
use crate::model::cpuid::{Feature, Vendor};
use crate::model::x86::{efer, is_canonical};

/// Checks a write of `new` to IA32_EFER and returns what the register holds then.
///
/// LMA is not writable: it follows LME and CR0.PG. LME may not change while paging is on (SDM vol. 3
/// section 4.1.2). Userspace may set what the module offers, whatever the guest's CPUID.
pub(super) fn efer(new: u64, ctx: &Ctx<'_>, origin: Origin) -> Result<u64, MsrError> {
    let allowed = match origin {
        Origin::Guest => ctx.guest.efer_allowed(),
        Origin::Host => ctx.caps.efer_allowed(),
    };
    let toggles_lme = (new ^ ctx.efer) & efer::LME != 0;
    if new & !allowed != 0 || origin == Origin::Guest && ctx.paging && toggles_lme {
        return Err(MsrError::Gp);
    }
    Ok(new & !efer::LMA | ctx.efer & efer::LMA)
}

/// Checks an address that must be canonical.
pub(super) fn canonical(value: u64, ctx: &Ctx<'_>) -> Result<u64, MsrError> {
    if is_canonical(value, u32::from(ctx.guest.linear_bits())) {
        Ok(value)
    } else {
        Err(MsrError::Gp)
    }
}

/// Checks an address of SYSENTER: Intel's processors refuse one that is not canonical, AMD's have no
/// 64-bit SYSENTER and ignore the upper half. What is stored is canonical in any case, because VM entry
/// fails otherwise (SDM vol. 3 section 27.3.1.1).
pub(super) fn sysenter(value: u64, ctx: &Ctx<'_>, origin: Origin) -> Result<u64, MsrError> {
    let checked = canonical(value, ctx);
    if origin == Origin::Guest && ctx.guest.vendor == Vendor::Intel {
        return checked;
    }
    Ok(checked.unwrap_or_else(|_| {
        let shift = 64 - u32::from(ctx.guest.linear_bits().clamp(1, 64));
        ((value << shift) as i64 >> shift) as u64
    }))
}

/// Checks a register whose upper half is reserved on Intel's processors and ignored on AMD's.
pub(super) fn low_half(value: u64, ctx: &Ctx<'_>) -> Result<u64, MsrError> {
    match ctx.guest.vendor {
        Vendor::Intel if value >> 32 != 0 => Err(MsrError::Gp),
        _ => Ok(value & 0xffff_ffff),
    }
}

/// IA32_SPEC_CTRL bits and the features that bring them, Intel's and AMD's.
const SPEC_CTRL: [(u64, Feature, Feature); 4] = [
    (1 << 0, Feature::SPEC_CTRL, Feature::AMD_IBRS),
    (1 << 1, Feature::STIBP, Feature::AMD_STIBP),
    (1 << 2, Feature::SSBD, Feature::AMD_SSBD),
    (1 << 7, Feature::PSFD, Feature::AMD_PSFD),
];

/// Returns the IA32_SPEC_CTRL bits that may be set; none means that the register doesn't exist.
pub(super) fn spec_ctrl_valid(ctx: &Ctx<'_>, origin: Origin) -> u64 {
    let has = |feature| match origin {
        Origin::Guest => ctx.guest.has(feature),
        Origin::Host => ctx.caps.has(feature),
    };
    let mut valid = 0;
    for (bit, intel, amd) in SPEC_CTRL {
        if has(intel) || has(amd) {
            valid |= bit;
        }
    }
    valid
}

/// Says whether the guest, or for userspace the module, has the prediction barrier.
pub(super) fn has_ibpb(ctx: &Ctx<'_>, origin: Origin) -> bool {
    match origin {
        Origin::Guest => ctx.guest.has(Feature::SPEC_CTRL) || ctx.guest.has(Feature::AMD_IBPB),
        Origin::Host => ctx.caps.has(Feature::SPEC_CTRL) || ctx.caps.has(Feature::AMD_IBPB),
    }
}

/// IA32_ARCH_CAPABILITIES bits that say what the processor is immune to or mitigates by itself (SDM vol. 4
/// table 2-2), and so hold for guests; the other bits announce registers that guests don't have.
const ARCH_CAPABILITIES: [u32; 19] = [
    0, 1, 2, 3, 4, 5, 6, 8, 13, 14, 15, 17, 19, 20, 24, 26, 27, 28, 62,
];

/// Returns the IA32_ARCH_CAPABILITIES that guests may see on a host with `host`.
pub const fn arch_capabilities(host: u64) -> u64 {
    let mut mask = 0;
    let mut rest: &[u32] = &ARCH_CAPABILITIES;
    while let [bit, tail @ ..] = rest {
        mask |= 1 << *bit;
        rest = tail;
    }
    host & mask
}
