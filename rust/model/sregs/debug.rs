// SPDX-License-Identifier: GPL-2.0-only

//! Debug registers (SDM vol. 3 section 18.2; `KVM_SET_DEBUGREGS`).

use crate::model::cpuid::{Feature, Guest};
use crate::model::errno::Errno;
use crate::model::x86::{cr4, dr6, dr7, Exception};

/// Bits of DR6 that software and events change, before what the processor lacks is taken off.
pub const DR6_VOLATILE: u64 = dr6::B | dr6::BLD | dr6::BD | dr6::BS | dr6::BT | dr6::RTM;

/// Bits of DR6 that read as 1 when nothing has happened.
const DR6_INVERTED: u64 = dr6::BLD | dr6::RTM;

/// In the payload of a #DB, as in VMX's pending debug exceptions: a breakpoint was met. DR6 has no such
/// bit.
const ENABLED_BREAKPOINT: u64 = 1 << 12;

/// Bits of DR7 that software may set.
const DR7_VOLATILE: u64 =
    dr7::ENABLE | dr7::LE | dr7::GE | dr7::RTM | dr7::GD | 0xffff << dr7::CONDITIONS_SHIFT;

/// A debug register that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugReg {
    /// DR0 to DR3, the breakpoints' addresses.
    Address(u8),
    /// DR6, the status.
    Status,
    /// DR7, the control.
    Control,
}

/// Checks an access by MOV DR and says which register is meant. `number` is 0 to 7; DR4 and DR5 are DR6
/// and DR7 unless CR4.DE is set.
///
/// # Errors
///
/// #UD for DR4 and DR5 with CR4.DE, #GP above privilege level 0, #DB when DR7.GD guards the registers.
pub const fn check_access(number: u8, cr4: u64, dr7: u64, cpl: u8) -> Result<DebugReg, Exception> {
    let register = match number & 7 {
        4 | 5 if cr4 & cr4::DE != 0 => return Err(Exception::ud()),
        4 | 6 => DebugReg::Status,
        5 | 7 => DebugReg::Control,
        number => DebugReg::Address(number),
    };
    if cpl != 0 {
        return Err(Exception::gp(0));
    }
    if dr7 & dr7::GD != 0 {
        return Err(Exception::db(dr6::BD));
    }
    Ok(register)
}

/// Returns what DR6 holds after a write of `value`.
///
/// # Errors
///
/// #GP when any of the upper 32 bits is set.
pub fn dr6_written(value: u64, guest: &Guest) -> Result<u64, Exception> {
    if value >> 32 != 0 {
        return Err(Exception::gp(0));
    }
    Ok(value & DR6_VOLATILE | dr6_fixed(guest))
}

/// Returns what DR7 holds after a write of `value`.
///
/// # Errors
///
/// #GP when any of the upper 32 bits is set.
pub const fn dr7_written(value: u64) -> Result<u64, Exception> {
    if value >> 32 != 0 {
        return Err(Exception::gp(0));
    }
    Ok(value & DR7_VOLATILE | dr7::FIXED)
}

/// Returns what DR6 holds after a #DB with `payload`, which has a 1 for each thing that happened, also
/// where DR6 shows it by a 0.
pub const fn dr6_after(old: u64, payload: u64) -> u64 {
    let quiet = old & !dr6::B | dr6::INIT;
    let happened = payload & !ENABLED_BREAKPOINT & DR6_VOLATILE;
    (quiet | happened) ^ happened & DR6_INVERTED
}

/// The bits of DR6 that are 1 on the guest's processor.
fn dr6_fixed(guest: &Guest) -> u64 {
    let mut fixed = dr6::INIT & !DR6_INVERTED;
    if !guest.has(Feature::RTM) {
        fixed |= dr6::RTM;
    }
    if !guest.has(Feature::BUS_LOCK_DETECT) {
        fixed |= dr6::BLD;
    }
    fixed
}

/// The registers as `KVM_SET_DEBUGREGS` brings them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegs {
    /// DR0 to DR3.
    pub address: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
}

impl DebugRegs {
    /// The registers after a reset.
    pub const RESET: Self = Self {
        address: [0; 4],
        dr6: dr6::INIT,
        dr7: dr7::FIXED,
    };

    /// Checks registers that userspace sets.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] when any of the upper 32 bits of DR6 or DR7 is set, or `flags` is not 0.
    pub const fn check(&self, flags: u64) -> Result<(), Errno> {
        if flags != 0 || self.dr6 >> 32 != 0 || self.dr7 >> 32 != 0 {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    /// Returns true when a breakpoint is enabled, so that the registers must be in the processor while
    /// the guest runs.
    pub const fn has_breakpoints(&self) -> bool {
        self.dr7 & dr7::ENABLE != 0
    }
}

impl Default for DebugRegs {
    fn default() -> Self {
        Self::RESET
    }
}
