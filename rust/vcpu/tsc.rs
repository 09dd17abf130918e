// SPDX-License-Identifier: GPL-2.0-only

//! The time-stamp counter of a vCPU: its frequency and its offset.

use kernel::prelude::*;

use super::State;
use crate::{
    backend::{
        BackendVcpu,
        Reg, //
    },
    clock,
    host::cpu,
    model::clock::sync::Write,
    uapi, //
};

impl State {
    /// Returns the guest's counter.
    pub(super) fn guest_tsc(&self) -> u64 {
        self.tsc.read(cpu::rdtsc())
    }

    /// Gives the processor the counter's scale and offset.
    pub(super) fn apply_tsc(&mut self) {
        if let Some(format) = self.hardware.tsc_format() {
            let multiplier = self.tsc.multiplier(format);
            self.backend.set_register(Reg::TscMultiplier, multiplier);
        }
        let offset = self.tsc.catch_up(cpu::rdtsc());
        self.backend.set_register(Reg::TscOffset, offset);
    }

    /// Sets what the guest's counter is ahead of the host's, scaled.
    pub(super) fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc.set_offset(offset);
        self.tsc_changed();
    }

    fn tsc_changed(&mut self) {
        self.apply_tsc();
        self.paravirt.renew_clock();
        // A deadline in TSC ticks is at another time now.
        if let Some(lapic) = &self.lapic {
            if lapic.tsc_deadline() != 0 {
                let timer = lapic.host_timer();
                self.arm(timer);
            }
        }
    }

    /// Sets the counter to the VMM's value, or to the other vCPUs' if that is what is meant.
    pub(super) fn set_joint_tsc(&mut self, value: u64) {
        let vcpus = self.vm.memory().vcpus.len();
        let generation = &mut self.paravirt.generation;
        let time = self.vm.time();
        let (offset, renew) = time.write_tsc(Write::User(value), &self.tsc, generation, vcpus);
        self.set_tsc_offset(offset);
        if renew {
            self.vm.renew_clocks();
        }
    }

    /// `KVM_SET_TSC_KHZ`: as with KVM, the offset stays, so that the VMM must set the counter next.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a frequency that the guest can't have on this machine.
    pub(super) fn set_tsc_khz(&mut self, khz: u32) -> Result {
        let mut tsc = clock::guest_tsc(khz).ok_or(EINVAL)?;
        tsc.set_offset(self.tsc.offset());
        if tsc == self.tsc {
            return Ok(());
        }
        self.tsc = tsc;
        let vcpus = self.vm.memory().vcpus.len();
        let generation = &mut self.paravirt.generation;
        let renew = self.vm.time().leave_tsc(generation, vcpus);
        self.paravirt.set_lagging(tsc.lags());
        self.tsc_changed();
        if renew {
            self.vm.renew_clocks();
        }
        Ok(())
    }

    /// `KVM_HAS_DEVICE_ATTR`, `KVM_GET_DEVICE_ATTR` and `KVM_SET_DEVICE_ATTR`: the offset is the one
    /// attribute.
    ///
    /// # Errors
    ///
    /// `ENXIO` for an attribute that does not exist.
    pub(super) fn device_attr(&mut self, cmd: u32, attr: &uapi::kvm_device_attr) -> Result {
        if attr.group != uapi::KVM_VCPU_TSC_CTRL
            || attr.attr != u64::from(uapi::KVM_VCPU_TSC_OFFSET)
        {
            return Err(ENXIO);
        }
        let address = attr.addr as usize;
        match cmd {
            uapi::GET_DEVICE_ATTR => uapi::put(address, &self.tsc.offset())?,
            uapi::SET_DEVICE_ATTR => {
                let offset: u64 = uapi::get(address)?;
                let vcpus = self.vm.memory().vcpus.len();
                let generation = &mut self.paravirt.generation;
                let time = self.vm.time();
                let renew = time.write_tsc_offset(offset, &self.tsc, generation, vcpus);
                self.set_tsc_offset(offset);
                if renew {
                    self.vm.renew_clocks();
                }
            }
            _ => {}
        }
        Ok(())
    }
}
