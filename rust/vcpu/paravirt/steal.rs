// SPDX-License-Identifier: GPL-2.0-only

//! Steal time, and TLB flushes that are left to the vCPU's next entry.
//!
//! While the vCPU's thread has no CPU, a byte in the guest's memory says so (`vcpu/presence.rs` writes it when the
//! scheduler takes the CPU away). Another vCPU that would interrupt this one only to have its TLB flushed adds its
//! wish to the byte. Before the guest runs again the byte is taken back, and the wish granted.

use kernel::{
    prelude::*,
    sync::atomic::Full, //
};

use super::stale;
use crate::{
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        user, //
    },
    model::{
        addr::{
            Gpa,
            Hva, //
        },
        pv::{
            feature,
            steal,
            Area,
            Gp, //
        }, //
    },
    vcpu::State, //
};

/// Steal time of a vCPU.
#[derive(Default)]
pub(super) struct Steal {
    /// `MSR_KVM_STEAL_TIME`, and where that is.
    register: u64,
    area: Option<Gpa>,
    account: steal::Account,
    /// The thread's run delay that has been charged.
    charged: u64,
}

impl Steal {
    /// Returns the register.
    pub(super) fn register(&self) -> u64 {
        self.register
    }
}

impl State {
    /// Writes `MSR_KVM_STEAL_TIME`.
    pub(super) fn set_steal_time(&mut self, value: u64) -> Result<(), Gp> {
        let area = steal::area(value)?;
        self.stop_steal();
        let steal = &mut self.paravirt.steal;
        steal.register = value;
        steal.area = match area {
            Area::At(address) => Some(Gpa::new(address)),
            Area::Off => None,
        };
        // The guest finds an area that has been written when it goes on.
        steal.charged = u64::MAX;
        self.renew_steal();
        Ok(())
    }

    /// Switches the service off.
    pub(super) fn stop_steal(&mut self) {
        let irq = IrqOff::new();
        self.shared.presence.tell_by(None, &irq);
        drop(irq);
        self.paravirt.steal.register = 0;
        self.paravirt.steal.area = None;
    }

    /// Has the area written before the guest runs on.
    pub(super) fn renew_steal(&mut self) {
        if self.paravirt.steal.area.is_some() {
            self.paravirt.stale |= stale::STEAL;
        }
    }

    /// Brings the area up to date.
    pub(super) fn write_steal(&mut self) {
        let Some(area) = self.paravirt.steal.area else {
            return;
        };
        self.take_flag(area);
        let delay = cpu::run_delay_ns();
        if delay != self.paravirt.steal.charged {
            self.charge(area, delay);
        }
    }

    /// Takes the flag byte back: the vCPU runs.
    fn take_flag(&mut self, area: Gpa) {
        let memory = self.vm.memory();
        let version = memory.slots_version();
        let hva = memory
            .hva(area.gfn(), true)
            .and_then(|page| page.checked_add(area.page_offset() + steal::PREEMPTED_OFFSET));
        let taken = hva.and_then(|hva| Some((hva, user::take_byte(hva).ok()?)));
        let wishes = self.services() & feature::PV_TLB_FLUSH != 0;
        if wishes && taken.is_some_and(|(_, flags)| steal::wants_flush(flags)) {
            self.flush_guest = true;
        }
        self.follow(taken.map(|(hva, _)| hva), version);
    }

    /// Has the byte at `flag` written when the thread loses its CPU, as long as the slots are those of `version`.
    fn follow(&self, flag: Option<Hva>, version: u64) {
        let presence = &self.shared.presence;
        let irq = IrqOff::new();
        presence.tell_by(flag, &irq);
        // Who changes the slots changes the version first, then takes the address from all vCPUs, and waits for
        // those who have interrupts off.
        kernel::sync::barrier::smp_mb(Full);
        if self.vm.memory().slots_version() != version {
            presence.tell_by(None, &irq);
        }
    }

    /// Charges what the thread has waited to the guest's area.
    fn charge(&mut self, area: Gpa, delay: u64) {
        self.paravirt.steal.charged = delay;
        let at = |offset: u64| Gpa::new(area.raw().wrapping_add(offset));
        let memory = self.vm.memory();
        let mut steal = [0; 8];
        if memory.read(at(steal::STEAL_OFFSET), &mut steal).is_err() {
            return;
        }
        let (during, after) = steal::versions(self.guest_word(at(steal::VERSION_OFFSET)));
        let account = &mut self.paravirt.steal.account;
        let stolen = account.charge(u64::from_le_bytes(steal), delay);
        let memory = self.vm.memory();
        let version = at(steal::VERSION_OFFSET);
        let written = memory
            .write(version, &during.to_le_bytes())
            .and_then(|()| memory.write(at(steal::STEAL_OFFSET), &stolen.to_le_bytes()))
            .and_then(|()| memory.write(version, &after.to_le_bytes()));
        if written.is_err() {
            pr_debug!("vireo: no memory for a guest's steal time\n");
        }
    }
}
