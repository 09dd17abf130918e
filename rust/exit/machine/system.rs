// SPDX-License-Identifier: GPL-2.0-only

//! What system instructions act on. MSRs, CPUID and HLT are not among it: their exits need no decoding.

use super::VcpuMachine;
use crate::{
    backend::{
        BackendVcpu,
        Hidden, //
    },
    model::{
        emul::{
            Interrupt,
            Shadow,
            Stop,
            System,
            SystemReg,
            Table,
            TableReg, //
        },
        exit::{
            ControlRegister,
            Event,
            EventKind, //
        },
        sregs::{
            self,
            DebugReg, //
        },
        walk::{
            AccessKind,
            Request, //
        },
        x86::{
            vector,
            Exception,
            SegReg,
            Segment, //
        }, //
    }, //
};

/// The backend's name of a system segment register.
const fn hidden(reg: SystemReg) -> Hidden {
    match reg {
        SystemReg::Ldtr => Hidden::Ldtr,
        SystemReg::Tr => Hidden::Tr,
    }
}

/// The backend's name of a descriptor-table register.
const fn hidden_table(reg: TableReg) -> Hidden {
    match reg {
        TableReg::Gdtr => Hidden::Gdtr,
        TableReg::Idtr => Hidden::Idtr,
    }
}

impl VcpuMachine<'_> {
    /// The debug register that `n` means, if it may be accessed.
    fn debug_register(&self, n: u8) -> Result<DebugReg, Stop> {
        sregs::check_access(n, self.cr4, self.state.debug.dr7, self.cpl).map_err(Stop::Fault)
    }
}

impl System for VcpuMachine<'_> {
    fn efer(&self) -> u64 {
        self.efer
    }

    fn control(&mut self, n: u8) -> Result<u64, Stop> {
        Ok(match ControlRegister::from_number(n) {
            Some(ControlRegister::Cr0) => self.cr0,
            Some(ControlRegister::Cr2) => self.state.regs.cr2,
            Some(ControlRegister::Cr3) => self.cr3,
            Some(ControlRegister::Cr4) => self.cr4,
            Some(ControlRegister::Cr8) => self.state.cr8(),
            None => return Err(Stop::Fault(Exception::ud())),
        })
    }

    fn set_control(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        match ControlRegister::from_number(n) {
            Some(ControlRegister::Cr2) => {
                self.state.regs.cr2 = value;
                Ok(())
            }
            // The VMM may have to be told of it, which the exit's own handler does.
            Some(ControlRegister::Cr8) => Err(Stop::Unhandled),
            Some(cr) => self.state.write_control(cr, value).map_err(Stop::Fault),
            None => Err(Stop::Fault(Exception::ud())),
        }
    }

    fn debug(&mut self, n: u8) -> Result<u64, Stop> {
        let debug = &self.state.debug;
        Ok(match self.debug_register(n)? {
            DebugReg::Address(n) => debug.address[usize::from(n & 3)],
            DebugReg::Status => debug.dr6,
            DebugReg::Control => debug.dr7,
        })
    }

    fn set_debug(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        match self.debug_register(n)? {
            DebugReg::Address(n) => self.state.debug.address[usize::from(n & 3)] = value,
            DebugReg::Status => {
                let written = sregs::dr6_written(value, &self.state.guest);
                self.state.debug.dr6 = written.map_err(Stop::Fault)?;
            }
            DebugReg::Control => {
                let written = sregs::dr7_written(value);
                self.state.set_dr7(written.map_err(Stop::Fault)?);
            }
        }
        Ok(())
    }

    fn table(&mut self, reg: TableReg) -> Result<Table, Stop> {
        let segment = self.state.backend.segment(hidden_table(reg));
        Ok(Table {
            base: segment.base,
            limit: segment.limit as u16,
        })
    }

    fn set_table(&mut self, reg: TableReg, table: Table) -> Result<(), Stop> {
        let segment = Segment {
            base: table.base,
            limit: table.limit.into(),
            ..Segment::default()
        };
        self.state.backend.set_segment(hidden_table(reg), &segment);
        Ok(())
    }

    fn system_segment(&mut self, reg: SystemReg) -> Result<Segment, Stop> {
        Ok(self.state.backend.segment(hidden(reg)))
    }

    fn set_system_segment(&mut self, reg: SystemReg, segment: Segment) -> Result<(), Stop> {
        self.state.backend.set_segment(hidden(reg), &segment);
        Ok(())
    }

    fn set_segment(&mut self, reg: SegReg, segment: Segment) -> Result<(), Stop> {
        self.state.backend.set_segment(Hidden::Seg(reg), &segment);
        Ok(())
    }

    fn read_implicit(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        for (n, byte) in (0u64..).zip(buf) {
            let at = linear.wrapping_add(n);
            let gpa = self.walk(at, Request::implicit(AccessKind::Read))?;
            self.read_physical(gpa, core::slice::from_mut(byte))?;
        }
        Ok(())
    }

    fn cmpxchg_implicit(&mut self, linear: u64, old: u8, new: u8) -> Result<bool, Stop> {
        let gpa = self.walk(linear, Request::implicit(AccessKind::Write))?;
        let hva = self.hva(gpa, true).ok_or(Stop::Unhandled)?;
        crate::host::user::cmpxchg(hva, old.into(), new.into(), 1).map_err(|_| Stop::Unhandled)
    }

    fn invalidate_page(&mut self, _linear: u64) -> Result<(), Stop> {
        self.state.flush_guest = true;
        Ok(())
    }

    fn flush_caches(&mut self) -> Result<(), Stop> {
        // The guest's caches are the host's, and stay coherent.
        Ok(())
    }

    fn interrupt(&mut self, interrupt: Interrupt, next_rip: u64) -> Result<(), Stop> {
        let (kind, vector) = match interrupt {
            Interrupt::Int(vector) => (EventKind::SoftwareInterrupt, vector),
            Interrupt::Int3 => (EventKind::SoftwareException, vector::BP),
            Interrupt::Into => (EventKind::SoftwareException, vector::OF),
        };
        self.state.requeue(&Event {
            kind,
            vector,
            error_code: None,
            instruction_length: next_rip.wrapping_sub(self.rip) as u8,
        });
        Ok(())
    }

    fn set_shadow(&mut self, shadow: Shadow) -> Result<(), Stop> {
        self.shadow = Some(shadow);
        Ok(())
    }

    fn end_nmi(&mut self) -> Result<(), Stop> {
        self.ends_nmi = true;
        Ok(())
    }
}
