// SPDX-License-Identifier: GPL-2.0-only

//! The state of `KVM_GET_IRQCHIP` and `KVM_SET_IRQCHIP`.

use super::entry::Entry;
use super::{Ioapic, Line, ID_MASK, PINS};
use crate::model::msi::Message;

/// `struct kvm_ioapic_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoapicState {
    /// Address of the register window.
    pub base_address: u64,
    /// IOREGSEL, 8 bits.
    pub ioregsel: u32,
    /// The ID, 4 bits.
    pub id: u32,
    /// Pins whose line is high, without those in edge mode whose edge was sent.
    pub irr: u32,
    /// Padding, 0.
    pub pad: u32,
    /// The redirection entries.
    pub redirtbl: [u64; PINS],
}

impl Ioapic {
    /// Returns the state.
    pub fn state(&self) -> IoapicState {
        IoapicState {
            base_address: self.base_address,
            ioregsel: u32::from(self.select),
            id: self.id,
            irr: self.high & !self.sent,
            pad: 0,
            redirtbl: self.table.map(Entry::bits),
        }
    }

    /// Takes over `state` and passes the messages of the lines that are high, and wait neither for an
    /// EOI nor for being unmasked, to `deliver`, with their pins. `deliver` says whether a local APIC
    /// took the message, as in [`Ioapic::not_accepted`].
    ///
    /// Reserved bits are ignored. What each source drives is not part of the state and is kept.
    pub fn set_state<F: FnMut(u8, Message) -> bool>(
        &mut self,
        state: &IoapicState,
        mut deliver: F,
    ) {
        self.base_address = state.base_address;
        self.select = state.ioregsel as u8;
        self.id = state.id & ID_MASK;
        self.table = state.redirtbl.map(Entry::from_bits);
        self.high = 0;
        self.sent = 0;
        self.eois = [0; PINS];
        for (pin, _) in (0u8..).zip(0..PINS) {
            if state.irr & Self::bit(pin) != 0 {
                if let Line::Deliver(message) = self.set_line(pin, true) {
                    if !deliver(pin, message) {
                        self.not_accepted(pin);
                    }
                }
            }
        }
    }
}
