// SPDX-License-Identifier: GPL-2.0-only

//! Writes of control registers by the guest (SDM vol. 3 sections 2.5, 4.1 and 4.10.4.1).

use super::{cr0_legal, cr3_legal, Control};
use crate::model::cpuid::Guest;
use crate::model::x86::{cr0, cr3, cr4, efer, Exception};

/// Bits of CR0 whose change reloads the page-directory-pointer-table entries of PAE paging.
const CR0_PDPTE: u64 = cr0::PG | cr0::CD | cr0::NW;

/// Bits of CR4 whose change reloads them.
const CR4_PDPTE: u64 = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP;

/// Bits of CR0 that decide how guest addresses translate.
const CR0_PAGING: u64 = cr0::PG | cr0::WP | cr0::PE;

/// Bits of CR4 that decide it.
const CR4_PAGING: u64 =
    cr4::PSE | cr4::PAE | cr4::LA57 | cr4::SMEP | cr4::SMAP | cr4::PKE | cr4::LAM_SUP | cr4::CET;

/// Bits of CR4 that show in CPUID.
const CR4_CPUID: u64 = cr4::OSXSAVE | cr4::PKE;

/// The priority classes of the task-priority register, which CR8 holds.
const CR8_MAX: u64 = 15;

/// Bits that LMSW loads: PE, MP, EM and TS.
const MSW: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

/// Which of the guest's cached translations are stale after a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// None.
    #[default]
    None,
    /// Those of the current PCID, but not global ones.
    CurrentPcid,
    /// All, of all PCIDs, global ones too.
    All,
}

/// What follows from a write that is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// The register's new value.
    pub value: u64,
    /// The new IA32_EFER, when LMA changes.
    pub efer: Option<u64>,
    /// Translations that must go.
    pub flush: Flush,
    /// Load the page-directory-pointer-table entries first; the write fails with #GP when they are not
    /// [valid](super::pdptes_valid).
    pub load_pdptes: bool,
    /// The way guest addresses translate has changed.
    pub paging_changed: bool,
    /// Bits that show in CPUID have changed.
    pub cpuid_changed: bool,
}

const GP: Exception = Exception::gp(0);

/// MOV to CR0.
///
/// # Errors
///
/// #GP when the value, or the change, is not allowed.
pub const fn write_cr0(state: &Control, value: u64) -> Result<Written, Exception> {
    if !cr0_legal(value) {
        return Err(GP);
    }
    // Writes to reserved bits are ignored, and ET is 1 always.
    let value = value & cr0::ALL | cr0::ET;
    let changed = value ^ state.cr0;
    let paging = value & cr0::PG != 0;
    let mut new_efer = state.efer;
    if changed & cr0::PG != 0 && state.efer & efer::LME != 0 {
        if paging {
            if state.cr4 & cr4::PAE == 0 || state.cs_l {
                return Err(GP);
            }
            new_efer |= efer::LMA;
        } else {
            new_efer &= !efer::LMA;
        }
    }
    let leaves_64_bit = !paging && state.is_long_mode() && state.cs_l;
    if leaves_64_bit || !paging && state.cr4 & cr4::PCIDE != 0 {
        return Err(GP);
    }
    if value & cr0::WP == 0 && state.cr4 & cr4::CET != 0 {
        return Err(GP);
    }
    let pae = paging && state.cr4 & cr4::PAE != 0 && new_efer & efer::LMA == 0;
    Ok(Written {
        value,
        efer: if new_efer == state.efer {
            None
        } else {
            Some(new_efer)
        },
        flush: if changed & cr0::PG != 0 && !paging {
            Flush::All
        } else {
            Flush::None
        },
        load_pdptes: pae && changed & CR0_PDPTE != 0,
        paging_changed: changed & CR0_PAGING != 0,
        cpuid_changed: false,
    })
}

/// LMSW: loads the low four bits of CR0, and cannot clear PE.
///
/// # Errors
///
/// As [`write_cr0`].
pub const fn lmsw(state: &Control, value: u64) -> Result<Written, Exception> {
    write_cr0(state, state.cr0 & !(MSW & !cr0::PE) | value & MSW)
}

/// CLTS: clears CR0.TS, which is always allowed.
pub const fn clts(state: &Control) -> u64 {
    state.cr0 & !cr0::TS
}

/// MOV to CR3.
///
/// # Errors
///
/// #GP when the value has bits beyond the guest's physical addresses.
pub fn write_cr3(state: &Control, value: u64, guest: &Guest) -> Result<Written, Exception> {
    let pcide = state.cr4 & cr4::PCIDE != 0;
    let keep = pcide && value & cr3::NO_FLUSH != 0;
    let value = if pcide { value & !cr3::NO_FLUSH } else { value };
    if !cr3_legal(value, guest) {
        return Err(GP);
    }
    Ok(Written {
        value,
        flush: if keep {
            Flush::None
        } else {
            Flush::CurrentPcid
        },
        load_pdptes: state.has_pdptes(),
        ..Written::default()
    })
}

/// MOV to CR4.
///
/// # Errors
///
/// #GP when the value, or the change, is not allowed.
pub fn write_cr4(state: &Control, value: u64, guest: &Guest) -> Result<Written, Exception> {
    let changed = value ^ state.cr4;
    let set = changed & value;
    let long = state.is_long_mode();
    let wrong_in_long_mode = long && (value & cr4::PAE == 0 || changed & cr4::LA57 != 0);
    let wrong_pcide = set & cr4::PCIDE != 0 && (!long || state.cr3 & cr3::PCID != 0);
    let wrong_cet = value & cr4::CET != 0 && state.cr0 & cr0::WP == 0;
    if value & guest.cr4_reserved() != 0 || wrong_in_long_mode || wrong_pcide || wrong_cet {
        return Err(GP);
    }
    let pae = state.is_paging() && value & cr4::PAE != 0 && !long;
    let pcide_cleared = changed & state.cr4 & cr4::PCIDE != 0;
    let flush = if changed & cr4::PGE != 0 || pcide_cleared {
        Flush::All
    } else if changed & cr4::PAE != 0 || set & cr4::SMEP != 0 {
        Flush::CurrentPcid
    } else {
        Flush::None
    };
    Ok(Written {
        value,
        efer: None,
        flush,
        load_pdptes: pae && changed & CR4_PDPTE != 0,
        paging_changed: changed & CR4_PAGING != 0,
        cpuid_changed: changed & CR4_CPUID != 0,
    })
}

/// MOV to CR8: returns the new task priority class, 0 to 15.
///
/// # Errors
///
/// #GP when reserved bits are set.
pub const fn write_cr8(value: u64) -> Result<u8, Exception> {
    if value > CR8_MAX {
        return Err(GP);
    }
    Ok(value as u8)
}
