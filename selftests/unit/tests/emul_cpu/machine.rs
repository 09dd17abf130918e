// SPDX-License-Identifier: GPL-2.0-only

//! A machine in ordinary memory for the executor: a 64-bit user program with one data buffer.

use crate::trampoline::{DATA, DATA_LEN};
use vireo_model::model::emul::{Access, Machine, Mode, Stop, System};
use vireo_model::model::x86::{cr0, cr4, efer, pf, rflags, xcr0, Exception, Gpr, SegReg, Segment};

/// The machine.
#[derive(Clone, PartialEq)]
pub struct Soft {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub vector: [[u8; 32]; 16],
    pub data: Vec<u8>,
    pub mode: Mode,
    pub segments: [Segment; 6],
    /// REP stops after every iteration whose turn this says, counting down.
    pub stop_after: u32,
    /// After so many more accesses, they need userspace.
    pub budget: u32,
    /// Writes have been probed: they no longer count.
    pub probed: bool,
}

impl Soft {
    /// A machine with nothing in it.
    pub fn new() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            vector: [[0; 32]; 16],
            data: vec![0; DATA_LEN],
            mode: Mode::Long,
            segments: Self::flat_segments(),
            stop_after: 0,
            budget: u32::MAX,
            probed: false,
        }
    }

    /// The segments of 64-bit mode: selectors without bases.
    pub fn flat_segments() -> [Segment; 6] {
        crate::trampoline::selectors().map(|selector| Segment {
            selector,
            ..Segment::default()
        })
    }

    fn range(&mut self, linear: u64, len: usize, write: bool) -> Result<usize, Stop> {
        if !write || !self.probed {
            self.budget = self.budget.checked_sub(1).ok_or(Stop::NeedUser)?;
        }
        let at = linear.wrapping_sub(DATA) as usize;
        if at < DATA_LEN && at + len <= DATA_LEN {
            return Ok(at);
        }
        let code = if write { pf::W | pf::U } else { pf::U };
        Err(Stop::Fault(Exception::page_fault(linear, code)))
    }
}

impl System for Soft {
    fn efer(&self) -> u64 {
        efer::LMA
    }
}

impl Machine for Soft {
    fn gpr(&self, reg: Gpr) -> u64 {
        self.gpr[reg.index()]
    }

    fn set_gpr(&mut self, reg: Gpr, value: u64) {
        self.gpr[reg.index()] = value;
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn rflags(&self) -> u64 {
        self.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }

    fn retire(&mut self, next_rip: u64) {
        self.rip = next_rip;
        self.rflags &= !rflags::RF;
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn cpl(&self) -> u8 {
        3
    }

    fn segment(&mut self, reg: SegReg) -> Segment {
        self.segments[reg.index()]
    }

    fn cr0(&self) -> u64 {
        cr0::PE | cr0::PG | cr0::AM
    }

    fn cr4(&self) -> u64 {
        cr4::OSFXSR | cr4::OSXSAVE
    }

    fn xcr0(&self) -> u64 {
        xcr0::X87 | xcr0::SSE | xcr0::AVX
    }

    fn fetch(&mut self, _: u64, _: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn read(&mut self, linear: u64, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        let at = self.range(linear, buf.len(), access != Access::Read)?;
        buf.copy_from_slice(&self.data[at..at + buf.len()]);
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        let at = self.range(linear, data.len(), true)?;
        self.data[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn probe_write(&mut self, linear: u64, len: u8) -> Result<(), Stop> {
        self.range(linear, len.into(), true)?;
        self.probed = true;
        Ok(())
    }

    fn cmpxchg(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        let at = self.range(linear, old.len(), true)?;
        let place = &mut self.data[at..at + new.len()];
        assert_eq!(place, old, "nobody else writes");
        place.copy_from_slice(new);
        Ok(true)
    }

    fn port_in(&mut self, _: u16, _: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn port_out(&mut self, _: u16, _: &[u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn vector(&mut self, n: u8, buf: &mut [u8]) -> Result<(), Stop> {
        buf.copy_from_slice(&self.vector[usize::from(n)][..buf.len()]);
        Ok(())
    }

    fn set_vector(&mut self, n: u8, value: &[u8], clear: bool) -> Result<(), Stop> {
        let register = &mut self.vector[usize::from(n)];
        if clear {
            register.fill(0);
        }
        register[..value.len()].copy_from_slice(value);
        Ok(())
    }

    fn next_iteration(&mut self) -> bool {
        self.stop_after = self.stop_after.saturating_sub(1);
        self.stop_after != 0
    }
}
