// SPDX-License-Identifier: GPL-2.0-only

//! Control, flag and debug registers: what a guest may write, what userspace may set, and what follows.

mod control;
mod debug;
mod userspace;

pub use control::{clts, lmsw, write_cr0, write_cr3, write_cr4, write_cr8, Flush, Written};
pub use debug::{
    check_access, dr6_after, dr6_written, dr7_written, DebugReg, DebugRegs, DR6_VOLATILE,
};
pub use userspace::{check_control, pdptes_valid, rflags};

use crate::model::cpuid::{Feature, Guest};
use crate::model::x86::{cr0, cr3, cr4, efer};

/// The registers that decide the guest's mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// CS.L: with EFER.LMA, 64-bit mode.
    pub cs_l: bool,
}

impl Control {
    /// Returns true when paging is on.
    pub const fn is_paging(&self) -> bool {
        self.cr0 & cr0::PG != 0
    }

    /// Returns true in long mode, 64-bit or compatibility.
    pub const fn is_long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Returns true when the page-directory-pointer-table entries are registers of the processor: with
    /// 32-bit PAE paging (SDM vol. 3 section 4.4.1).
    pub const fn has_pdptes(&self) -> bool {
        self.is_paging() && self.cr4 & cr4::PAE != 0 && !self.is_long_mode()
    }
}

/// Says whether `value` may be in CR3: no bits beyond the guest's address width but those of
/// linear-address masking.
fn cr3_legal(value: u64, guest: &Guest) -> bool {
    let mut reserved = guest.reserved_gpa_bits();
    if guest.has(Feature::LAM) {
        reserved &= !(cr3::LAM_U48 | cr3::LAM_U57);
    }
    value & reserved == 0
}

/// Says whether CR0 may hold `value`, whatever the other registers (SDM vol. 3 section 2.5).
const fn cr0_legal(value: u64) -> bool {
    value >> 32 == 0
        && (value & cr0::NW == 0 || value & cr0::CD != 0)
        && (value & cr0::PG == 0 || value & cr0::PE != 0)
}
