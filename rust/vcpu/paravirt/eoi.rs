// SPDX-License-Identifier: GPL-2.0-only

//! Ends of interrupts without an exit: the offer is made with the interrupt, and taken back at the next exit.
//!
//! An offer stands for one stay in the guest at most, so whatever looks at the local APIC finds it as if the guest
//! had written the EOI register. A guest that is interrupted before it has ended its interrupt writes that
//! register; those that Linux handles end theirs at once.

use kernel::prelude::*;

use crate::{
    backend::ApicHelp,
    host::user,
    model::{
        addr::{
            Gpa,
            Hva, //
        },
        apic::Effect,
        pv::{
            eoi::{
                self,
                PvEoi, //
            },
            Area,
            Gp, //
        }, //
    },
    vcpu::State, //
};

/// The service of a vCPU.
#[derive(Default)]
pub(crate) struct Eoi {
    /// `MSR_KVM_PV_EOI_EN`, and where that is.
    register: u64,
    area: Option<Gpa>,
    /// Where the VMM keeps the byte, with the slots of this version.
    hva: Option<Hva>,
    slots_version: u64,
    offer: PvEoi,
}

impl Eoi {
    /// Returns the register.
    pub(super) fn register(&self) -> u64 {
        self.register
    }

    /// Whether the guest may have ended its interrupt.
    #[inline(always)]
    pub(crate) fn is_offered(&self) -> bool {
        self.offer.is_offered()
    }
}

impl State {
    /// Writes `MSR_KVM_PV_EOI_EN`.
    pub(super) fn set_pv_eoi(&mut self, value: u64) -> Result<(), Gp> {
        let area = match eoi::area(value)? {
            Area::At(address) => Some(Gpa::new(address)),
            Area::Off => None,
        };
        if area.is_some_and(|area| self.vm.memory().hva(area.gfn(), true).is_none()) {
            return Err(Gp);
        }
        self.paravirt.eoi = Eoi {
            register: value,
            area,
            ..Eoi::default()
        };
        Ok(())
    }

    /// The interrupt that has just been acknowledged is about to be delivered: lets the guest end it without an
    /// exit, if nobody needs to know when that is.
    pub(crate) fn offer_eoi(&mut self) {
        let (Some(area), Some(lapic)) = (self.paravirt.eoi.area, &self.lapic) else {
            return;
        };
        // The processor that delivers interrupts by itself ends them so too.
        if self.apic_help == ApicHelp::Interrupts || !PvEoi::may_offer(lapic) {
            return;
        }
        let Some(hva) = self.eoi_byte(area) else {
            return;
        };
        if user::store_byte_now(hva, eoi::PENDING) {
            self.paravirt.eoi.offer.offered();
        }
    }

    /// Takes the offer back, and ends the interrupt if the guest has.
    #[cold]
    pub(crate) fn take_back_eoi(&mut self) {
        let byte = self
            .paravirt
            .eoi
            .area
            .and_then(|area| self.eoi_byte(area))
            .and_then(|hva| user::take_byte(hva).ok());
        if !self.paravirt.eoi.offer.take_back(byte) {
            return;
        }
        if let Some(done) = self.lapic.as_mut().and_then(|lapic| lapic.eoi()) {
            self.apply_apic(Effect::Eoi(done));
        }
    }

    /// Returns where the VMM keeps the byte.
    fn eoi_byte(&mut self, area: Gpa) -> Option<Hva> {
        let memory = self.vm.memory();
        let version = memory.slots_version();
        let eoi = &mut self.paravirt.eoi;
        if eoi.hva.is_none() || eoi.slots_version != version {
            eoi.slots_version = version;
            let page = memory.hva(area.gfn(), true);
            eoi.hva = page.and_then(|page| page.checked_add(area.page_offset()));
        }
        eoi.hva
    }
}
