// SPDX-License-Identifier: GPL-2.0-only

//! What `KVM_SET_SREGS` and `KVM_SET_REGS` may bring.

use super::{cr0_legal, cr3_legal, Control};
use crate::model::cpuid::{Caps, Guest};
use crate::model::errno::Errno;
use crate::model::x86::{cr0, cr4, efer, rflags as flag};

/// Bits 2:1 and 8:5 of a PDPTE are reserved.
const PDPTE_RESERVED: u64 = 0x1e6;

/// A PDPTE that is present.
const PDPTE_PRESENT: u64 = 1;

/// Checks the control registers of a whole state that userspace sets.
///
/// In long mode (EFER.LME and CR0.PG) CR4.PAE and EFER.LMA must be set, and CR3 be within the guest's
/// physical addresses; else neither LMA nor CS.L may be set. Each register's reserved bits must be 0.
///
/// # Errors
///
/// [`Errno::Invalid`] when they are not a state that the guest's processor could be in.
pub fn check_control(state: &Control, guest: &Guest, caps: &Caps) -> Result<(), Errno> {
    let consistent = if state.efer & efer::LME != 0 && state.cr0 & cr0::PG != 0 {
        state.cr4 & cr4::PAE != 0 && state.is_long_mode() && cr3_legal(state.cr3, guest)
    } else {
        !state.is_long_mode() && !state.cs_l
    };
    let efer_allowed = guest.efer_allowed() & caps.efer_allowed();
    let legal = cr0_legal(state.cr0)
        && state.cr4 & guest.cr4_reserved() == 0
        && state.efer & !efer_allowed == 0;
    if consistent && legal {
        Ok(())
    } else {
        Err(Errno::Invalid)
    }
}

/// Says whether page-directory-pointer-table entries may be loaded: those that are present have no
/// reserved bits set (SDM vol. 3 section 4.4.1).
pub fn pdptes_valid(entries: &[u64; 4], guest: &Guest) -> bool {
    let reserved = PDPTE_RESERVED | guest.reserved_gpa_bits();
    entries
        .iter()
        .all(|entry| entry & PDPTE_PRESENT == 0 || entry & reserved == 0)
}

/// Returns the RFLAGS to run with when userspace sets `value`: VM entry insists on the fixed bits (SDM
/// vol. 3 section 27.3.1.4), so undefined ones are dropped.
pub const fn rflags(value: u64) -> u64 {
    value & flag::ALL | flag::FIXED
}
