// SPDX-License-Identifier: GPL-2.0-only

//! MSRs: the guest's RDMSR and WRMSR, and `KVM_GET_MSRS` and `KVM_SET_MSRS`.
//!
//! The model decides; what it does not hold itself is fetched from, and put into, the place that it names.

use kernel::prelude::*;

use super::State;
use crate::{
    backend::{
        BackendVcpu,
        Reg, //
    },
    dev::MAX_MSRS,
    exit::Next,
    host::cpu,
    model::{
        apic::{
            Initiator,
            X2APIC_MSR_FIRST, //
        },
        msr::{
            Ctx,
            Effect,
            MsrError,
            Origin,
            Place,
            Read, //
        },
        x86::{
            cr0,
            msr,
            Exception,
            Gpr, //
        }, //
    },
    uapi, //
};

impl State {
    /// RDMSR.
    pub(crate) fn rdmsr(&mut self) -> Result<Next> {
        let index = self.regs.gpr[Gpr::Rcx.index()] as u32;
        match self.read_msr(index, Origin::Guest) {
            Ok(value) => {
                self.regs.gpr[Gpr::Rax.index()] = value & 0xffff_ffff;
                self.regs.gpr[Gpr::Rdx.index()] = value >> 32;
                self.skip()
            }
            Err(_) => self.fault(Exception::gp(0)),
        }
    }

    /// WRMSR.
    pub(crate) fn wrmsr(&mut self) -> Result<Next> {
        let gpr = &self.regs.gpr;
        let index = gpr[Gpr::Rcx.index()] as u32;
        let low = gpr[Gpr::Rax.index()] & 0xffff_ffff;
        let value = gpr[Gpr::Rdx.index()] << 32 | low;
        match self.write_msr(index, value, Origin::Guest) {
            Ok(()) => self.skip(),
            Err(_) => self.fault(Exception::gp(0)),
        }
    }

    fn read_msr(&mut self, index: u32, origin: Origin) -> Result<u64, MsrError> {
        let paging = self.backend.register(Reg::Cr0) & cr0::PG != 0;
        let ctx = Ctx {
            guest: &self.guest,
            caps: &self.cpu.caps,
            efer: self.backend.register(Reg::Efer),
            paging,
        };
        match self.msrs.read(index, &ctx, origin)? {
            Read::Value(value) => Ok(value),
            Read::Held(place) => self.fetch(place, origin),
        }
    }

    fn fetch(&mut self, place: Place, origin: Origin) -> Result<u64, MsrError> {
        let clock = self.clock();
        let held = match place {
            Place::Tsc => return Ok(cpu::rdtsc().wrapping_add(self.tsc_offset)),
            Place::ApicBase => return Ok(self.apic_base()),
            Place::TscDeadline => {
                return Ok(self.lapic.as_ref().map_or(0, |lapic| lapic.tsc_deadline()));
            }
            Place::Paravirt(number) => {
                return self.paravirt_msr(number).ok_or(MsrError::Unknown);
            }
            Place::X2apic(register) => {
                let lapic = self.lapic_mut().ok_or(MsrError::Gp)?;
                let number = X2APIC_MSR_FIRST + u32::from(register);
                return lapic.x2apic_read(number, &clock).map_err(|_| MsrError::Gp);
            }
            place => match backend_msr(place) {
                Some(number) => number,
                // Not offered: the guest has none, and userspace finds 0.
                None if origin == Origin::Host => return Ok(0),
                None => return Err(MsrError::Gp),
            },
        };
        self.backend.msr(held).ok_or(MsrError::Unknown)
    }

    fn write_msr(&mut self, index: u32, value: u64, origin: Origin) -> Result<(), MsrError> {
        let paging = self.backend.register(Reg::Cr0) & cr0::PG != 0;
        let ctx = Ctx {
            guest: &self.guest,
            caps: &self.cpu.caps,
            efer: self.backend.register(Reg::Efer),
            paging,
        };
        match self.msrs.write(index, value, &ctx, origin)? {
            Effect::None => {}
            Effect::Hold(place, value) => self.hold(place, value, origin)?,
            Effect::Efer(value) => self.backend.set_register(Reg::Efer, value),
            Effect::Pat(value) => {
                self.backend.set_msr(msr::IA32_PAT, value);
            }
            Effect::Xss(_) | Effect::RefreshCpuid => self.refresh_cpuid(),
            Effect::AdjustTsc(delta) => self.set_tsc_offset(self.tsc_offset.wrapping_add(delta)),
            // Neither is offered, so no write of one gets here.
            Effect::PredictionBarrier | Effect::FlushL1d => {}
        }
        Ok(())
    }

    fn hold(&mut self, place: Place, value: u64, origin: Origin) -> Result<(), MsrError> {
        let clock = self.clock();
        let held = match place {
            Place::Tsc => {
                let offset = match origin {
                    Origin::Guest => {
                        let offset = value.wrapping_sub(cpu::rdtsc());
                        let delta = offset.wrapping_sub(self.tsc_offset);
                        self.msrs.add_tsc_adjust(delta);
                        offset
                    }
                    Origin::Host => self.joint_tsc_offset(value),
                };
                self.set_tsc_offset(offset);
                return Ok(());
            }
            Place::ApicBase => {
                let initiator = match origin {
                    Origin::Guest => Initiator::Guest,
                    Origin::Host => Initiator::Host,
                };
                return self
                    .set_apic_base(value, initiator)
                    .map_err(|_| MsrError::Gp);
            }
            Place::TscDeadline => {
                if let Some(lapic) = &mut self.lapic {
                    let timer = lapic.write_tsc_deadline(value, &clock);
                    self.arm(timer);
                }
                return Ok(());
            }
            Place::Paravirt(number) => {
                return self
                    .set_paravirt_msr(number, value)
                    .map_err(|_| MsrError::Gp);
            }
            Place::X2apic(register) => {
                let lapic = self.lapic_mut().ok_or(MsrError::Gp)?;
                let number = X2APIC_MSR_FIRST + u32::from(register);
                let effect = lapic
                    .x2apic_write(number, value, &clock)
                    .map_err(|_| MsrError::Gp)?;
                self.apply_apic(effect);
                return Ok(());
            }
            place => match backend_msr(place) {
                Some(number) => number,
                None if origin == Origin::Host && value == 0 => return Ok(()),
                None => return Err(MsrError::Gp),
            },
        };
        if self.backend.set_msr(held, value) {
            Ok(())
        } else {
            Err(MsrError::Unknown)
        }
    }

    /// Sets what the guest's TSC is ahead of the host's.
    pub(super) fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
        self.paravirt.renew_clock();
        self.backend.set_register(Reg::TscOffset, offset);
        // A deadline in TSC ticks is at another time now.
        if let Some(lapic) = &self.lapic {
            if lapic.tsc_deadline() != 0 {
                let timer = lapic.host_timer();
                self.arm(timer);
            }
        }
    }

    /// `KVM_GET_MSRS`: returns how many were read.
    pub(super) fn get_msrs(&mut self, arg: usize) -> Result<isize> {
        let header = size_of::<uapi::kvm_msrs>();
        let mut entries = msr_entries(arg)?;
        let mut done = 0;
        for entry in entries.iter_mut() {
            let Ok(value) = self.read_msr(entry.index, Origin::Host) else {
                break;
            };
            entry.data = value;
            done += 1;
        }
        uapi::put_entries(arg, header, &entries)?;
        Ok(done)
    }

    /// `KVM_SET_MSRS`: returns how many were written.
    pub(super) fn set_msrs(&mut self, arg: usize) -> Result<isize> {
        let mut done = 0;
        for entry in msr_entries(arg)?.iter() {
            if self
                .write_msr(entry.index, entry.data, Origin::Host)
                .is_err()
            {
                break;
            }
            done += 1;
        }
        Ok(done)
    }
}

/// Returns the MSR that the backend holds for `place`; `None` for what is not offered to guests.
fn backend_msr(place: Place) -> Option<u32> {
    Some(match place {
        Place::FsBase => msr::IA32_FS_BASE,
        Place::GsBase => msr::IA32_GS_BASE,
        Place::KernelGsBase => msr::IA32_KERNEL_GS_BASE,
        Place::SysenterCs => msr::IA32_SYSENTER_CS,
        Place::SysenterEsp => msr::IA32_SYSENTER_ESP,
        Place::SysenterEip => msr::IA32_SYSENTER_EIP,
        Place::Star => msr::IA32_STAR,
        Place::Lstar => msr::IA32_LSTAR,
        Place::Cstar => msr::IA32_CSTAR,
        Place::Fmask => msr::IA32_FMASK,
        Place::TscAux => msr::IA32_TSC_AUX,
        _ => return None,
    })
}

fn msr_entries(arg: usize) -> Result<KVVec<uapi::kvm_msr_entry>> {
    let count = uapi::get::<u32>(arg)? as usize;
    if count >= MAX_MSRS {
        return Err(E2BIG);
    }
    uapi::get_entries(arg, size_of::<uapi::kvm_msrs>(), count)
}
