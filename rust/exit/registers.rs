// SPDX-License-Identifier: GPL-2.0-only

//! Control and debug registers, and XCR0.

use kernel::prelude::*;

use super::Next;
use crate::{
    backend::{
        BackendVcpu,
        Hidden,
        Reg, //
    },
    model::{
        exit::{
            ControlRegister,
            CrAccess,
            Direction,
            DrAccess, //
        },
        sregs::{
            self,
            Control,
            DebugReg,
            Written, //
        },
        x86::{
            ar,
            cr4,
            Exception,
            Gpr,
            SegReg, //
        },
        xstate, //
    },
    uapi,
    vcpu::State, //
};

/// A PDPT is 32 bytes at an address of CR3's bits 31:5.
const PDPT_MASK: u64 = 0xffff_ffe0;

impl State {
    /// Returns the registers that decide the guest's mode.
    pub(crate) fn control(&mut self) -> Control {
        let cs = self.backend.segment(Hidden::Seg(SegReg::Cs));
        Control {
            cr0: self.backend.register(Reg::Cr0),
            cr3: self.backend.register(Reg::Cr3),
            cr4: self.backend.register(Reg::Cr4),
            efer: self.backend.register(Reg::Efer),
            cs_l: cs.ar & ar::L != 0,
        }
    }

    /// Returns the current privilege level.
    pub(crate) fn cpl(&mut self) -> u8 {
        self.backend.register(Reg::Cpl) as u8
    }

    /// MOV to and from control registers, CLTS, LMSW.
    pub(super) fn cr_access(&mut self, access: &CrAccess) -> Result<Next> {
        let result = match *access {
            CrAccess::Write { cr, source } => {
                let value = self.gpr(source);
                match cr {
                    ControlRegister::Cr8 => return self.write_cr8(value),
                    cr => self.write_control(cr, value),
                }
            }
            CrAccess::Read { cr, destination } => {
                let value = match cr {
                    ControlRegister::Cr0 => self.backend.register(Reg::Cr0),
                    ControlRegister::Cr2 => self.regs.cr2,
                    ControlRegister::Cr3 => self.backend.register(Reg::Cr3),
                    ControlRegister::Cr4 => self.backend.register(Reg::Cr4),
                    ControlRegister::Cr8 => self.cr8(),
                };
                self.set_gpr(destination, value);
                Ok(())
            }
            CrAccess::Clts => {
                let state = self.control();
                self.backend.set_register(Reg::Cr0, sregs::clts(&state));
                Ok(())
            }
            CrAccess::Lmsw(source) => {
                let state = self.control();
                sregs::lmsw(&state, source.into())
                    .and_then(|written| self.apply_control(ControlRegister::Cr0, &state, written))
            }
        };
        match result {
            Ok(()) => self.skip(),
            Err(exception) => self.fault(exception),
        }
    }

    pub(super) fn write_control(
        &mut self,
        cr: ControlRegister,
        value: u64,
    ) -> Result<(), Exception> {
        let state = self.control();
        let written = match cr {
            ControlRegister::Cr0 => sregs::write_cr0(&state, value)?,
            ControlRegister::Cr3 => sregs::write_cr3(&state, value, &self.guest)?,
            ControlRegister::Cr4 => sregs::write_cr4(&state, value, &self.guest)?,
            ControlRegister::Cr2 | ControlRegister::Cr8 => return Err(Exception::ud()),
        };
        self.apply_control(cr, &state, written)
    }

    /// Carries out a write that is allowed.
    fn apply_control(
        &mut self,
        cr: ControlRegister,
        old: &Control,
        written: Written,
    ) -> Result<(), Exception> {
        let cr3 = if cr == ControlRegister::Cr3 {
            written.value
        } else {
            old.cr3
        };
        if written.load_pdptes {
            let entries = self.read_pdptes(cr3).ok_or(Exception::gp(0))?;
            if !sregs::pdptes_valid(&entries, &self.guest) {
                return Err(Exception::gp(0));
            }
            self.backend.set_pdptes(entries);
        }
        match cr {
            ControlRegister::Cr0 => self.backend.set_register(Reg::Cr0, written.value),
            ControlRegister::Cr3 => self.backend.set_register(Reg::Cr3, written.value),
            ControlRegister::Cr4 => {
                self.backend.set_register(Reg::Cr4, written.value);
            }
            ControlRegister::Cr2 | ControlRegister::Cr8 => {}
        }
        if let Some(efer) = written.efer {
            self.backend.set_register(Reg::Efer, efer);
        }
        if written.cpuid_changed {
            self.refresh_cpuid();
        }
        Ok(())
    }

    /// Reads the four page-directory-pointer entries that `cr3` points to, if they are in memory.
    pub(crate) fn read_pdptes(&self, cr3: u64) -> Option<[u64; 4]> {
        let mut bytes = [0u8; 32];
        let gpa = crate::model::addr::Gpa::new(cr3 & PDPT_MASK);
        self.vm.memory().read(gpa, &mut bytes).ok()?;
        let mut entries = [0; 4];
        for (entry, chunk) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = chunk
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        Some(entries)
    }

    fn write_cr8(&mut self, value: u64) -> Result<Next> {
        let class = match sregs::write_cr8(value) {
            Ok(class) => u64::from(class),
            Err(exception) => return self.fault(exception),
        };
        let lowered = class < self.cr8();
        self.set_cr8(class);
        self.end_instruction();
        if self.lapic.is_none() && lowered {
            return self.to_user(uapi::KVM_EXIT_SET_TPR);
        }
        Ok(Next::Resume)
    }

    /// MOV to and from debug registers.
    pub(super) fn dr_access(&mut self, access: &DrAccess) -> Result<Next> {
        match self.access_debug(access) {
            Ok(()) => self.skip(),
            Err(exception) => self.fault(exception),
        }
    }

    fn access_debug(&mut self, access: &DrAccess) -> Result<(), Exception> {
        let (cr4, cpl) = (self.backend.register(Reg::Cr4), self.cpl());
        let register = sregs::check_access(access.number, cr4, self.debug.dr7, cpl)?;
        if access.direction == Direction::In {
            let value = match register {
                DebugReg::Address(n) => self.debug.address[usize::from(n & 3)],
                DebugReg::Status => self.debug.dr6,
                DebugReg::Control => self.debug.dr7,
            };
            self.set_gpr(access.gpr, value);
            return Ok(());
        }
        let value = self.gpr(access.gpr);
        match register {
            DebugReg::Address(n) => self.debug.address[usize::from(n & 3)] = value,
            DebugReg::Status => self.debug.dr6 = sregs::dr6_written(value, &self.guest)?,
            DebugReg::Control => self.set_dr7(sregs::dr7_written(value)?),
        }
        Ok(())
    }

    /// Sets DR7.
    pub(crate) fn set_dr7(&mut self, value: u64) {
        self.debug.dr7 = value;
        self.backend.set_register(Reg::Dr7, value);
    }

    /// XSETBV.
    pub(super) fn xsetbv(&mut self) -> Result<Next> {
        let gpr = &self.regs.gpr;
        let low = gpr[Gpr::Rax.index()] & 0xffff_ffff;
        let value = gpr[Gpr::Rdx.index()] << 32 | low;
        let index = gpr[Gpr::Rcx.index()] as u32;
        if self.backend.register(Reg::Cr4) & cr4::OSXSAVE == 0 {
            return self.fault(Exception::ud());
        }
        let allowed = self.cpl() == 0 && self.set_xcr(index, value).is_ok();
        if !allowed {
            return self.fault(Exception::gp(0));
        }
        self.skip()
    }

    /// Sets the extended control register `index`.
    pub(crate) fn set_xcr(&mut self, index: u32, value: u64) -> Result {
        if index != 0 || !xstate::xcr0_valid(value, self.guest.xcr0) {
            return Err(EINVAL);
        }
        self.xcr0 = value;
        self.refresh_cpuid();
        Ok(())
    }

    /// Copies vector register `n` of the guest.
    pub(super) fn read_vector(
        &mut self,
        n: u8,
        buf: &mut [u8],
    ) -> Result<(), crate::model::emul::Stop> {
        crate::host::fpu::read_vector(n, buf).ok_or(crate::model::emul::Stop::Unhandled)
    }

    /// Sets vector register `n` of the guest.
    pub(super) fn write_vector(
        &mut self,
        n: u8,
        value: &[u8],
        clear: bool,
    ) -> Result<(), crate::model::emul::Stop> {
        crate::host::fpu::write_vector(n, value, clear).ok_or(crate::model::emul::Stop::Unhandled)
    }
}
