// SPDX-License-Identifier: GPL-2.0-only

//! String instructions and REP (SDM vol. 2, "REP/REPE/REPZ/REPNE/REPNZ").

use super::addr::truncate;
use super::alu;
use super::exec::Exec;
use super::insn::{prefix, Op, Operand};
use super::{Access, Done, Machine, Stop};
use crate::model::x86::{rflags, Gpr, SegReg};

/// The most iterations of a REP instruction in one call. The machine can end it earlier.
pub const MAX_ITERATIONS: u32 = 4096;

impl<M: Machine> Exec<'_, M> {
    /// Executes a string instruction, as many iterations of it as are allowed.
    pub(super) fn string(&mut self) -> Result<Done, Stop> {
        if !self.insn.has(prefix::REPE | prefix::REPNE) {
            return match self.iteration()? {
                None => self.retire(),
                Some(status) => self.retire_with(status),
            };
        }
        let size = self.insn.addr_size;
        let mut left = truncate(self.m.gpr(Gpr::Rcx), size);
        if left == 0 {
            return self.retire();
        }
        // A single step traps after each iteration.
        let stepping = self.m.rflags() & rflags::TF != 0;
        let rounds = if stepping { 1 } else { MAX_ITERATIONS };
        let mut status = self.m.rflags();
        for _ in 0..rounds {
            let goes_on = match self.iteration()? {
                None => true,
                Some(flags) => {
                    status = flags;
                    self.goes_on(flags)
                }
            };
            left = left.wrapping_sub(1);
            self.set_address_register(Gpr::Rcx, left);
            if left == 0 || !goes_on {
                return self.retire_with(status);
            }
            if !self.m.next_iteration() {
                break;
            }
        }
        // The same instruction goes on: its flags are not due yet, not even where a single step shows them.
        Ok(Done::Repeat)
    }

    /// Whether REPE or REPNE goes on after a comparison.
    fn goes_on(&self, status: u64) -> bool {
        let equal = status & rflags::ZF != 0;
        equal == self.insn.has(prefix::REPE)
    }

    /// Writes a register with the address size.
    fn set_address_register(&mut self, reg: Gpr, value: u64) {
        self.set_reg(Operand::Reg(reg as u8), self.insn.addr_size, value);
    }

    /// The linear address of the string element that `reg` points to.
    fn element(&mut self, reg: Gpr, access: Access) -> Result<u64, Stop> {
        let offset = truncate(self.m.gpr(reg), self.insn.addr_size);
        let seg = match reg {
            Gpr::Rdi => SegReg::Es,
            _ => self.insn.mem.seg,
        };
        self.data_address(seg, offset, self.insn.op_size, access)
    }

    /// Moves RSI or RDI to the next element.
    fn advance(&mut self, reg: Gpr) {
        let step = u64::from(self.insn.op_size);
        let step = match self.m.rflags() & rflags::DF {
            0 => step,
            _ => step.wrapping_neg(),
        };
        let value = self.m.gpr(reg).wrapping_add(step);
        self.set_address_register(reg, truncate(value, self.insn.addr_size));
    }

    /// Executes and commits one iteration. Returns the status flags if it was a comparison: they are
    /// set at the end, since a fault on the way leaves those of before the instruction.
    fn iteration(&mut self) -> Result<Option<u64>, Stop> {
        let size = self.insn.op_size;
        let (source, target) = (Gpr::Rsi, Gpr::Rdi);
        match self.insn.op {
            Op::Movs => {
                let from = self.element(source, Access::Read)?;
                let value = self.read(from, size, Access::Read)?;
                let to = self.element(target, Access::Write)?;
                self.write(to, size, value)?;
                self.advance(source);
                self.advance(target);
            }
            Op::Stos => {
                let to = self.element(target, Access::Write)?;
                self.write(to, size, self.m.gpr(Gpr::Rax))?;
                self.advance(target);
            }
            Op::Lods => {
                let from = self.element(source, Access::Read)?;
                let value = self.read(from, size, Access::Read)?;
                self.set_reg(Operand::ACC, size, value);
                self.advance(source);
            }
            Op::Cmps => {
                // The second operand first, as the order of their faults shows.
                let second = self.element(target, Access::Read)?;
                let b = self.read(second, size, Access::Read)?;
                let first = self.element(source, Access::Read)?;
                let a = self.read(first, size, Access::Read)?;
                self.advance(source);
                self.advance(target);
                return Ok(Some(alu::sub(a, b, false, size).flags));
            }
            Op::Scas => {
                let at = self.element(target, Access::Read)?;
                let b = self.read(at, size, Access::Read)?;
                self.advance(target);
                let a = self.m.gpr(Gpr::Rax);
                return Ok(Some(alu::sub(a, b, false, size).flags));
            }
            Op::Ins => {
                // What a device gives it gives once, so the target is tried first.
                let to = self.element(target, Access::Write)?;
                self.m.probe_write(to, size)?;
                let value = self.port_in(self.m.gpr(Gpr::Rdx) as u16, size)?;
                self.write(to, size, value)?;
                self.advance(target);
            }
            Op::Outs => {
                let from = self.element(source, Access::Read)?;
                let value = self.read(from, size, Access::Read)?;
                self.port_out(self.m.gpr(Gpr::Rdx) as u16, size, value)?;
                self.advance(source);
            }
            _ => return Err(Stop::Unhandled),
        }
        Ok(None)
    }
}
