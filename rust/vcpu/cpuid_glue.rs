// SPDX-License-Identifier: GPL-2.0-only

//! CPUID: the instruction, and the ioctls that set and show its table.

use kernel::prelude::*;

use super::State;
use crate::{
    backend::{
        BackendVcpu,
        Reg, //
    },
    dev::MAX_CPUID_ENTRIES,
    exit::Next,
    model::{
        apic,
        cpuid::{
            self,
            CpuidEntry,
            Dynamic,
            Feature, //
        },
        x86::{
            apic_base,
            cr4,
            Exception,
            Gpr, //
        }, //
    },
    uapi, //
};

impl State {
    /// CPUID.
    #[inline]
    pub(crate) fn cpuid(&mut self) -> Result<Next> {
        if self.msrs.cpuid_faults() && self.cpl() != 0 {
            return self.fault(Exception::gp(0));
        }
        let gpr = &mut self.regs.gpr;
        let (leaf, subleaf) = (gpr[Gpr::Rax.index()] as u32, gpr[Gpr::Rcx.index()] as u32);
        let regs = cpuid::lookup(&self.cpuid, &self.cpuid_index, leaf, subleaf);
        gpr[Gpr::Rax.index()] = regs.eax.into();
        gpr[Gpr::Rbx.index()] = regs.ebx.into();
        gpr[Gpr::Rcx.index()] = regs.ecx.into();
        gpr[Gpr::Rdx.index()] = regs.edx.into();
        self.skip()
    }

    /// Brings the bits of the table that follow other registers up to date.
    pub(crate) fn refresh_cpuid(&mut self) {
        let cr4 = self.backend.register(Reg::Cr4);
        let state = Dynamic {
            osxsave: cr4 & cr4::OSXSAVE != 0,
            pke: cr4 & cr4::PKE != 0,
            apic: self.apic_base() & apic_base::EN != 0,
            mwait: self.msrs.mwait(),
            xcr0: self.xcr0,
            xss: self.msrs.xss(),
        };
        cpuid::refresh(
            &mut self.cpuid,
            &self.cpuid_index,
            &self.cpu.caps.layout,
            &state,
        );
    }

    /// `KVM_SET_CPUID2`.
    pub(super) fn set_cpuid(&mut self, arg: usize) -> Result {
        let count = uapi::get::<u32>(arg)? as usize;
        if count > MAX_CPUID_ENTRIES {
            return Err(E2BIG);
        }
        let header = size_of::<uapi::kvm_cpuid2>();
        let mut new: KVVec<CpuidEntry> = uapi::get_entries(arg, header, count)?;
        let guest = cpuid::Guest::new(&new, &self.cpu.caps)?;
        if self.has_run {
            // The dynamic bits of the new table are those of the present state.
            core::mem::swap(&mut self.cpuid, &mut new);
            self.cpuid_index.rebuild(&self.cpuid);
            self.refresh_cpuid();
            core::mem::swap(&mut self.cpuid, &mut new);
            self.cpuid_index.rebuild(&self.cpuid);
            return Ok(cpuid::check_resend(&self.cpuid, &new)?);
        }
        self.cpuid = new;
        self.cpuid_index.rebuild(&self.cpuid);
        self.guest = guest;
        self.refresh_cpuid();
        self.backend.set_cpuid(&self.guest);
        if let Some(lapic) = &mut self.lapic {
            let x2apic = self.guest.has(Feature::X2APIC);
            let (directed_eoi, suppress_eoi) = self.vm.interrupts().lines().eoi_suppression();
            let config = apic::Config {
                x2apic,
                directed_eoi: directed_eoi && x2apic,
                suppress_eoi,
                tsc_deadline: self.guest.has(Feature::TSC_DEADLINE),
                phys_bits: self.guest.phys_bits,
                ..*lapic.config()
            };
            lapic.set_config(config);
        }
        Ok(())
    }

    /// `KVM_GET_CPUID2`.
    pub(super) fn get_cpuid(&mut self, arg: usize) -> Result {
        let room = uapi::get::<u32>(arg)? as usize;
        uapi::put(arg, &(self.cpuid.len() as u32))?;
        if room < self.cpuid.len() {
            return Err(E2BIG);
        }
        uapi::put_entries(arg, size_of::<uapi::kvm_cpuid2>(), &self.cpuid)
    }
}
