// SPDX-License-Identifier: GPL-2.0-only

//! The state of `KVM_GET_IRQCHIP` and `KVM_SET_IRQCHIP` for a PIC.

use super::chip::{Init, Pic};
use super::{Chip, PicPair};

/// `struct kvm_pic_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PicState {
    /// Lines that were high, for finding edges.
    pub last_irr: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The input with the highest priority, 0 to 7.
    pub priority_add: u8,
    /// Bits 7:3 of the vectors.
    pub irq_base: u8,
    /// 1 when reads return the ISR.
    pub read_reg_select: u8,
    /// 1 when the next read is a poll.
    pub poll: u8,
    /// 1 in the special mask mode.
    pub special_mask: u8,
    /// The initialisation word that comes next: 0 for none, 1 to 3 for ICW2 to ICW4.
    pub init_state: u8,
    /// 1 with automatic EOI.
    pub auto_eoi: u8,
    /// 1 when automatic EOIs rotate.
    pub rotate_on_auto_eoi: u8,
    /// 1 in the special fully nested mode.
    pub special_fully_nested_mode: u8,
    /// 1 when ICW1 said that ICW4 follows.
    pub init4: u8,
    /// Level-triggered inputs.
    pub elcr: u8,
    /// Inputs that can be level triggered.
    pub elcr_mask: u8,
}

impl Init {
    const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Icw2 => 1,
            Self::Icw3 => 2,
            Self::Icw4 => 3,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Icw2,
            2 => Self::Icw3,
            3 => Self::Icw4,
            _ => Self::Done,
        }
    }
}

impl Pic {
    fn state(&self) -> PicState {
        PicState {
            last_irr: self.last,
            irr: self.irr,
            imr: self.imr,
            isr: self.isr,
            priority_add: self.first,
            irq_base: self.base,
            read_reg_select: self.read_isr.into(),
            poll: self.poll.into(),
            special_mask: self.special_mask.into(),
            init_state: self.init.number(),
            auto_eoi: self.auto_eoi.into(),
            rotate_on_auto_eoi: self.rotate_on_auto_eoi.into(),
            special_fully_nested_mode: self.special_fully_nested.into(),
            init4: self.icw4_follows.into(),
            elcr: self.elcr,
            elcr_mask: self.elcr_mask,
        }
    }

    /// Takes over `state`, but for the wiring of the ELCR.
    fn set_state(&mut self, state: &PicState) {
        // INVARIANT: What can't be is masked off.
        *self = Self {
            last: state.last_irr,
            irr: state.irr,
            imr: state.imr,
            isr: state.isr,
            first: state.priority_add & 7,
            base: state.irq_base & 0xf8,
            read_isr: state.read_reg_select != 0,
            poll: state.poll != 0,
            special_mask: state.special_mask != 0,
            init: Init::from_number(state.init_state),
            auto_eoi: state.auto_eoi != 0,
            rotate_on_auto_eoi: state.rotate_on_auto_eoi != 0,
            special_fully_nested: state.special_fully_nested_mode != 0,
            icw4_follows: state.init4 != 0,
            elcr: state.elcr & self.elcr_mask,
            elcr_mask: self.elcr_mask,
        };
    }
}

impl PicPair {
    /// Returns the state of one chip.
    pub fn state(&self, chip: Chip) -> PicState {
        match chip {
            Chip::Master => self.master.state(),
            Chip::Slave => self.slave.state(),
        }
    }

    /// Takes over the state of one chip. What each source drives is not part of the state and is kept.
    pub fn set_state(&mut self, chip: Chip, state: &PicState) {
        match chip {
            Chip::Master => self.master.set_state(state),
            Chip::Slave => self.slave.set_state(state),
        }
        self.update();
    }
}
