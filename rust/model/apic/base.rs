// SPDX-License-Identifier: GPL-2.0-only

//! IA32_APIC_BASE and the modes it selects. SDM vol. 3, "Local APIC Status and Location" and "x2APIC
//! State Transitions".

use super::regs::Reg;
use super::{Gp, Lapic};
use crate::model::addr::{Gpa, PAGE_SIZE};

/// Address of the register page after reset.
const DEFAULT_ADDRESS: u64 = 0xfee0_0000;
/// Bit 8: the bootstrap processor.
const BASE_BSP: u64 = 1 << 8;
/// Bit 10: x2APIC mode.
const BASE_EXTD: u64 = 1 << 10;
/// Bit 11: the APIC is enabled.
const BASE_ENABLE: u64 = 1 << 11;
/// Flags that are not reserved.
const BASE_FLAGS: u64 = BASE_BSP | BASE_EXTD | BASE_ENABLE;
/// The widest physical address of the architecture, in bits.
const MAX_PHYS_BITS: u8 = 52;

/// How the guest reaches the APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: bits 11 and 10 clear.
    Disabled,
    /// By the register page: bit 11 set.
    Xapic,
    /// By MSRs: bits 11 and 10 set.
    X2apic,
}

impl Mode {
    /// Decodes IA32_APIC_BASE; `None` for the invalid state (EXTD without EN).
    const fn from_base(base: u64) -> Option<Self> {
        match (base & BASE_ENABLE != 0, base & BASE_EXTD != 0) {
            (false, false) => Some(Self::Disabled),
            (true, false) => Some(Self::Xapic),
            (true, true) => Some(Self::X2apic),
            (false, true) => None,
        }
    }
}

/// Who writes IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// WRMSR in the guest: only the architecture's transitions.
    Guest,
    /// The VMM restores a state: any valid mode follows any other, and registers are kept, because
    /// it may have set them before.
    Host,
}

/// What a write to IA32_APIC_BASE changed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChange {
    /// The mode, and with it the identity, CPUID.1:EDX.APIC and the intercepts.
    pub mode: bool,
    /// The address of the register page.
    pub address: bool,
    /// The APIC's state is gone: cancel the host timer.
    pub stop_timer: bool,
}

impl Lapic {
    /// Returns IA32_APIC_BASE.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Returns the mode.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the address of the register page, whether or not it is active.
    pub const fn address(&self) -> Gpa {
        Gpa::new(self.base & !(PAGE_SIZE - 1))
    }

    /// Returns the offset of `gpa` in the register page if the page is active and holds it.
    pub fn mmio_offset(&self, gpa: Gpa) -> Option<u32> {
        if self.mode == Mode::Xapic && gpa.gfn() == self.address().gfn() {
            Some(gpa.page_offset() as u32)
        } else {
            None
        }
    }

    /// Sets IA32_APIC_BASE and the mode as power-up does.
    pub(super) fn reset_base(&mut self) {
        let bsp = if self.config.bsp { BASE_BSP } else { 0 };
        self.base = DEFAULT_ADDRESS | BASE_ENABLE | bsp;
        self.mode = Mode::Xapic;
    }

    /// Writes IA32_APIC_BASE.
    ///
    /// When the guest disables the APIC all registers lose their contents; the x2APIC ID stays.
    ///
    /// # Errors
    ///
    /// [`Gp`] for reserved bits, for x2APIC mode that CPUID doesn't offer, for the invalid state, and
    /// for a guest's step from x2APIC to xAPIC or from disabled to x2APIC.
    pub fn write_base(&mut self, value: u64, initiator: Initiator) -> Result<BaseChange, Gp> {
        let unchanged = BaseChange {
            mode: false,
            address: false,
            stop_timer: false,
        };
        if value == self.base {
            return Ok(unchanged);
        }
        let phys_bits = u32::from(self.config.phys_bits.min(MAX_PHYS_BITS));
        let address_bits = (1u64 << phys_bits).wrapping_sub(1) & !(PAGE_SIZE - 1);
        if value & !(address_bits | BASE_FLAGS) != 0 {
            return Err(Gp);
        }
        let new = Mode::from_base(value).ok_or(Gp)?;
        if new == Mode::X2apic && !self.config.x2apic {
            return Err(Gp);
        }
        let old = self.mode;
        let illegal = matches!(
            (old, new),
            (Mode::X2apic, Mode::Xapic) | (Mode::Disabled, Mode::X2apic)
        );
        if illegal && initiator == Initiator::Guest {
            return Err(Gp);
        }
        let moved = (value ^ self.base) & address_bits != 0;
        self.base = value;
        self.mode = new;
        let lost = new == Mode::Disabled && old != new && initiator == Initiator::Guest;
        if lost {
            self.clear_registers();
        } else if old != new {
            self.set_id_for_mode();
            // The destination's place differs between the modes.
            self.regs.set(Reg::ICR_HIGH, 0);
            self.update_tops();
        }
        Ok(BaseChange {
            mode: old != new,
            address: moved,
            stop_timer: lost,
        })
    }
}
