// SPDX-License-Identifier: GPL-2.0-only

//! Acceptance, priorities and completion of interrupts. SDM vol. 3, "Handling Interrupts".

use super::regs::{
    Reg, CLASS_MASK, CLASS_SHIFT, ESR_RECEIVE_ILLEGAL_VECTOR, FIRST_VECTOR, SVR_ENABLE,
    SVR_SUPPRESS_BROADCAST,
};
use super::{vectors, Accepted, Eoi, Lapic, Mode};
use crate::model::msi::Trigger;

/// Vectors 0 to 15 in the first word of a [`super::VectorSet`].
const ILLEGAL_VECTORS: u64 = (1 << FIRST_VECTOR) - 1;

impl Lapic {
    /// Returns whether the guest has enabled the APIC in SVR (and IA32_APIC_BASE).
    pub fn software_enabled(&self) -> bool {
        self.mode != Mode::Disabled && self.regs.get(Reg::SVR) & SVR_ENABLE != 0
    }

    /// Makes `vector` pending.
    ///
    /// Refused while the APIC is disabled. A vector below 16 is refused too and recorded in ESR.
    /// SDM vol. 3, "Interrupt Acceptance for Fixed Interrupts".
    pub fn accept_fixed(&mut self, vector: u8, trigger: Trigger) -> Accepted {
        if !self.software_enabled() {
            return Accepted::Refused;
        }
        if vector < FIRST_VECTOR {
            self.report_error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return Accepted::Refused;
        }
        self.request(vector, trigger)
    }

    /// Sets `vector`, which is legal, in IRR and its trigger mode in TMR.
    pub(super) fn request(&mut self, vector: u8, trigger: Trigger) -> Accepted {
        if trigger.is_level() {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
        if !self.irr.insert(vector) {
            return Accepted::Merged;
        }
        // INVARIANT: `irr_top` stays the highest member.
        self.irr_top = self.irr_top.max(vector);
        Accepted::New
    }

    /// Makes 64 vectors pending at once: bit `n` of `bits` is vector `64 * word + n`, level triggered
    /// if the same bit of `level` is set.
    ///
    /// The rules are those of [`Lapic::accept_fixed`]; `word` is 0 to 3.
    pub fn accept_word(&mut self, word: usize, bits: u64, level: u64) {
        if bits == 0 || word >= vectors::WORDS || !self.software_enabled() {
            return;
        }
        let illegal = if word == 0 { bits & ILLEGAL_VECTORS } else { 0 };
        if illegal != 0 {
            self.report_error(ESR_RECEIVE_ILLEGAL_VECTOR);
        }
        let legal = bits & !illegal;
        if legal == 0 {
            return;
        }
        self.tmr
            .set_word(word, (self.tmr.word(word) & !legal) | (level & legal));
        self.irr.set_word(word, self.irr.word(word) | legal);
        // INVARIANT: `irr_top` stays the highest member; `word` is at most 3.
        let top = ((word as u8) << 6) | (63 - legal.leading_zeros() as u8);
        self.irr_top = self.irr_top.max(top);
    }

    /// Returns the highest requested vector, whether or not the PPR lets it through.
    #[inline]
    pub fn highest_irr(&self) -> Option<u8> {
        if self.irr_top != 0 {
            Some(self.irr_top)
        } else {
            None
        }
    }

    /// Returns the vector that the processor would take now, if it accepts interrupts.
    ///
    /// A software-disabled APIC still delivers what was pending: SDM vol. 3, "Local APIC State After It
    /// Has Been Software Disabled".
    #[inline]
    pub fn pending_interrupt(&self) -> Option<u8> {
        if self.irr_top & CLASS_MASK > self.ppr & CLASS_MASK {
            Some(self.irr_top)
        } else {
            None
        }
    }

    /// Moves [`Lapic::pending_interrupt`] from IRR to ISR and returns it, for the caller to inject.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending_interrupt()?;
        self.irr.remove(vector);
        self.irr_top = self.irr.highest();
        self.isr.insert(vector);
        // INVARIANT: `vector` is in a higher class than all of ISR, or it would not be pending.
        self.isr_top = vector;
        self.ppr = vector & CLASS_MASK;
        Some(vector)
    }

    /// Completes the highest interrupt in service; `None` when there is none.
    ///
    /// This is a write to the EOI register. SDM vol. 3, "Signaling Interrupt Servicing Completion".
    pub fn eoi(&mut self) -> Option<Eoi> {
        let vector = self.isr_top;
        if vector == 0 {
            return None;
        }
        self.isr.remove(vector);
        self.isr_top = self.isr.highest();
        self.update_ppr();
        Some(self.completed(vector))
    }

    /// `vector` has left ISR: by [`Lapic::eoi`], or by the processor's doing where that delivers the
    /// interrupts.
    pub fn completed(&mut self, vector: u8) -> Eoi {
        let trigger = Trigger::from_bit(self.tmr.contains(vector));
        if trigger.is_level() {
            self.clear_remote_irr(vector);
        }
        let suppressed = self.regs.get(Reg::SVR) & SVR_SUPPRESS_BROADCAST != 0;
        let broadcast = trigger.is_level() && !suppressed;
        Eoi {
            vector,
            trigger,
            broadcast,
        }
    }

    /// Returns whether `vector` is requested or in service.
    pub fn is_pending_or_in_service(&self, vector: u8) -> bool {
        self.irr.contains(vector) || self.isr.contains(vector)
    }

    /// Returns whether exactly one interrupt is in service and it was edge triggered.
    pub fn sole_edge_in_service(&self) -> bool {
        let mut count = 0;
        for index in 0..vectors::WORDS {
            count += self.isr.word(index).count_ones();
        }
        count == 1 && !self.tmr.contains(self.isr_top)
    }

    /// Recomputes `irr_top`, `isr_top` and the PPR after IRR, ISR or the mode were replaced.
    pub(super) fn update_tops(&mut self) {
        let reachable = self.mode != Mode::Disabled;
        self.irr_top = if reachable { self.irr.highest() } else { 0 };
        self.isr_top = self.isr.highest();
        self.update_ppr();
    }

    /// Recomputes the PPR. SDM vol. 3, "Task and Processor Priorities".
    pub(super) fn update_ppr(&mut self) {
        let tpr = self.tpr();
        let in_service = self.isr_top & CLASS_MASK;
        self.ppr = if tpr & CLASS_MASK >= in_service {
            tpr
        } else {
            in_service
        };
    }

    /// Returns the processor priority.
    pub const fn ppr(&self) -> u8 {
        self.ppr
    }

    /// Returns the task priority.
    pub const fn tpr(&self) -> u8 {
        self.regs.get(Reg::TPR) as u8
    }

    /// Sets the task priority.
    pub fn set_tpr(&mut self, tpr: u8) {
        self.regs.set(Reg::TPR, u32::from(tpr));
        self.update_ppr();
    }

    /// Returns CR8: the task priority's class, 0 to 15.
    pub const fn cr8(&self) -> u8 {
        self.tpr() >> CLASS_SHIFT
    }

    /// Writes CR8, of which the low four bits are used; the TPR's sub-class becomes 0.
    /// SDM vol. 3, "Interaction of Task Priorities between CR8 and APIC".
    pub fn set_cr8(&mut self, cr8: u8) {
        self.set_tpr(cr8 << CLASS_SHIFT);
    }

    /// Returns the class, 1 to 15, below which a TPR would let a waiting interrupt through, or 0 when
    /// no change of the TPR can.
    ///
    /// This is the VMCS field "TPR threshold"; with SVM, writes to CR8 need intercepting only when it
    /// is not 0.
    #[inline]
    pub fn tpr_threshold(&self) -> u8 {
        let waiting = self.irr_top >> CLASS_SHIFT;
        if waiting > self.cr8() {
            0
        } else {
            waiting
        }
    }
}
