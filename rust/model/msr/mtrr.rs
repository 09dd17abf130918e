// SPDX-License-Identifier: GPL-2.0-only

//! Memory type range registers (SDM vol. 3 section 12.11) and the PAT's values (section 12.12).
//!
//! The registers are stored and checked, and have no effect: the second-level tables decide the memory
//! type of guest memory.

use super::MsrError;
use crate::model::x86::msr;

/// Pairs of variable-range registers.
pub const VARIABLE_MTRRS: usize = 8;

/// Fixed-range registers.
const FIXED: usize = 11;

/// IA32_MTRRCAP: the number of pairs, fixed ranges (bit 8), write combining (bit 10).
const CAPABILITIES: u64 = 0x500 | VARIABLE_MTRRS as u64;

/// IA32_MTRR_DEF_TYPE: the type, enable of the fixed ranges (bit 10) and of all (bit 11).
const DEF_TYPE_VALID: u64 = 0xcff;

/// Reserved low bits of a base register.
const BASE_RESERVED: u64 = 0xf00;

/// Reserved low bits of a mask register.
const MASK_RESERVED: u64 = 0x7ff;

/// Memory types of MTRRs: UC, WC, WT, WP, WB.
const MTRR_TYPES: u8 = 0b0111_0011;

/// Memory types of the PAT: those and UC-.
const PAT_TYPES: u8 = 0b1111_0011;

/// The registers of one vCPU.
#[derive(Clone, Debug)]
pub(super) struct Mtrrs {
    variable: [u64; 2 * VARIABLE_MTRRS],
    fixed: [u64; FIXED],
    def_type: u64,
}

enum Register {
    Base(usize),
    Mask(usize),
    Fixed(usize),
    DefType,
}

impl Mtrrs {
    pub(super) const RESET: Self = Self {
        variable: [0; 2 * VARIABLE_MTRRS],
        fixed: [0; FIXED],
        def_type: 0,
    };

    /// Says whether `index` is in the range that the MTRRs occupy.
    pub(super) const fn owns(index: u32) -> bool {
        matches!(
            index,
            msr::IA32_MTRRCAP | msr::IA32_MTRR_PHYSBASE0
                ..=msr::IA32_MTRR_FIX4K_F8000 | msr::IA32_MTRR_DEF_TYPE
        )
    }

    pub(super) fn read(&self, index: u32) -> Result<u64, MsrError> {
        if index == msr::IA32_MTRRCAP {
            return Ok(CAPABILITIES);
        }
        let value = match register(index).ok_or(MsrError::Gp)? {
            Register::Base(n) | Register::Mask(n) => self.variable.get(n),
            Register::Fixed(n) => self.fixed.get(n),
            Register::DefType => Some(&self.def_type),
        };
        value.copied().ok_or(MsrError::Gp)
    }

    pub(super) fn write(
        &mut self,
        index: u32,
        value: u64,
        reserved_gpa_bits: u64,
    ) -> Result<(), MsrError> {
        let (slot, valid) = match register(index).ok_or(MsrError::Gp)? {
            Register::Base(n) => (
                self.variable.get_mut(n),
                is_type(value as u8, MTRR_TYPES)
                    && value & (reserved_gpa_bits | BASE_RESERVED) == 0,
            ),
            Register::Mask(n) => (
                self.variable.get_mut(n),
                value & (reserved_gpa_bits | MASK_RESERVED) == 0,
            ),
            Register::Fixed(n) => (self.fixed.get_mut(n), all_types(value, MTRR_TYPES)),
            Register::DefType => (
                Some(&mut self.def_type),
                value & !DEF_TYPE_VALID == 0 && is_type(value as u8, MTRR_TYPES),
            ),
        };
        match slot {
            Some(slot) if valid => {
                *slot = value;
                Ok(())
            }
            _ => Err(MsrError::Gp),
        }
    }
}

/// Says whether every byte of `value` is a memory type that the PAT may hold.
pub(super) fn pat_valid(value: u64) -> bool {
    all_types(value, PAT_TYPES)
}

fn all_types(value: u64, types: u8) -> bool {
    value
        .to_le_bytes()
        .into_iter()
        .all(|byte| is_type(byte, types))
}

const fn is_type(byte: u8, types: u8) -> bool {
    byte < 8 && types & (1 << byte) != 0
}

fn register(index: u32) -> Option<Register> {
    Some(match index {
        msr::IA32_MTRR_DEF_TYPE => Register::DefType,
        msr::IA32_MTRR_FIX64K_00000 => Register::Fixed(0),
        msr::IA32_MTRR_FIX16K_80000..=msr::IA32_MTRR_FIX16K_A0000 => {
            Register::Fixed(1 + (index - msr::IA32_MTRR_FIX16K_80000) as usize)
        }
        msr::IA32_MTRR_FIX4K_C0000..=msr::IA32_MTRR_FIX4K_F8000 => {
            Register::Fixed(3 + (index - msr::IA32_MTRR_FIX4K_C0000) as usize)
        }
        _ => {
            let number = index.checked_sub(msr::IA32_MTRR_PHYSBASE0)? as usize;
            if number >= 2 * VARIABLE_MTRRS {
                return None;
            }
            if number & 1 == 0 {
                Register::Base(number)
            } else {
                Register::Mask(number)
            }
        }
    })
}
