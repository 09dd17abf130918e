// SPDX-License-Identifier: GPL-2.0-only

//! The error status register. SDM vol. 3, "Error Handling".

use super::lvt::Lvt;
use super::regs::{Reg, ESR_RECEIVE_ILLEGAL_VECTOR, FIRST_VECTOR, LVT_MASKED, VECTOR_MASK};
use super::Lapic;
use crate::model::msi::Trigger;

impl Lapic {
    /// Records `error` (an ESR bit) for the next latching write and raises the error interrupt.
    ///
    /// The interrupt comes once: a write to ESR arms it again.
    pub(super) fn report_error(&mut self, error: u32) {
        let armed = self.errors == 0;
        self.errors |= error;
        let entry = self.regs.get(Lvt::Error.reg());
        if !armed || !self.software_enabled() || entry & LVT_MASKED != 0 {
            return;
        }
        let vector = (entry & VECTOR_MASK) as u8;
        if vector < FIRST_VECTOR {
            self.errors |= ESR_RECEIVE_ILLEGAL_VECTOR;
        } else {
            self.request(vector, Trigger::Edge);
        }
    }

    /// Shows the errors since the last write in ESR and forgets them.
    pub(super) fn latch_errors(&mut self) {
        self.regs.set(Reg::ESR, self.errors);
        self.errors = 0;
    }
}
