// SPDX-License-Identifier: GPL-2.0-only

//! The stack: PUSH and POP of everything, ENTER and LEAVE.

use super::addr::{effective, linear, truncate};
use super::exec::Exec;
use super::insn::Operand;
use super::privileged::Shadow;
use super::{Access, Done, Machine, Mode, Stop};
use crate::model::x86::{ar, rflags, Gpr, SegReg};

/// Registers of PUSHA and POPA, in the order in which they are pushed.
const ALL: [Gpr; 8] = [
    Gpr::Rax,
    Gpr::Rcx,
    Gpr::Rdx,
    Gpr::Rbx,
    Gpr::Rsp,
    Gpr::Rbp,
    Gpr::Rsi,
    Gpr::Rdi,
];

/// The nesting levels that ENTER knows.
const LEVELS: u64 = 31;

/// Where the nesting level is in ENTER's immediate.
const LEVEL_SHIFT: u32 = 16;

/// Flags that POPF writes at any privilege level.
const FREE: u64 = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;

/// Bytes of a selector.
pub(super) const SELECTOR: u8 = 2;

/// The stack pointer on the way through an instruction.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    /// RSP, of which `width` bytes count.
    pub(super) sp: u64,
    width: u8,
    /// The mode that says how it is addressed.
    mode: Mode,
}

impl Stack {
    /// Leaves out `slots` values of `size` bytes.
    pub(super) fn skip(&mut self, slots: u8, size: u8) {
        let bytes = u64::from(slots).wrapping_mul(u64::from(size));
        self.sp = self.sp.wrapping_add(bytes);
    }
}

impl<M: Machine> Exec<'_, M> {
    /// The stack as it is.
    pub(super) fn stack(&mut self) -> Stack {
        self.stack_of(self.insn.mode)
    }

    /// The stack as code of another mode has it.
    pub(super) fn stack_of(&mut self, mode: Mode) -> Stack {
        let width = if mode == Mode::Long {
            8
        } else if self.m.segment(SegReg::Ss).ar & ar::DB != 0 {
            4
        } else {
            2
        };
        Stack {
            sp: self.m.gpr(Gpr::Rsp),
            width,
            mode,
        }
    }

    /// Takes `size` bytes off the stack.
    pub(super) fn take(&mut self, stack: &mut Stack, size: u8) -> Result<u64, Stop> {
        let value = self.peek(*stack, 0, size, size)?;
        stack.skip(1, size);
        Ok(value)
    }

    /// Takes a selector off the stack, in a slot of `size` bytes, of which the rest is not read.
    pub(super) fn take_selector(&mut self, stack: &mut Stack, size: u8) -> Result<u16, Stop> {
        let value = self.peek(*stack, 0, size, SELECTOR)?;
        stack.skip(1, size);
        Ok(value as u16)
    }

    /// Reads `len` bytes of the slot that comes after `slot` others, which have `size` bytes each.
    pub(super) fn peek(
        &mut self,
        mut stack: Stack,
        slot: u8,
        size: u8,
        len: u8,
    ) -> Result<u64, Stop> {
        stack.skip(slot, size);
        let offset = truncate(stack.sp, stack.width);
        let linear = self.data_address(SegReg::Ss, offset, len, Access::Read)?;
        self.read(linear, len, Access::Read)
    }

    /// Makes room for `size` bytes, of which `written` will be written, and returns where.
    pub(super) fn room(&mut self, stack: &mut Stack, size: u8, written: u8) -> Result<u64, Stop> {
        stack.sp = stack.sp.wrapping_sub(u64::from(size));
        let offset = truncate(stack.sp, stack.width);
        let at = linear(
            self.m,
            stack.mode,
            SegReg::Ss,
            offset,
            written.into(),
            Access::Write,
        )?;
        self.check_alignment(at, written)?;
        Ok(at)
    }

    /// Sets RSP.
    pub(super) fn set_stack(&mut self, stack: Stack) {
        let sp = Operand::Reg(Gpr::Rsp as u8);
        self.set_reg(sp, stack.width, truncate(stack.sp, stack.width));
    }

    /// Pushes one value of the operand size.
    pub(super) fn push_value(&mut self, value: u64) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let mut stack = self.stack();
        let to = self.room(&mut stack, size, size)?;
        self.write(to, size, value)?;
        self.set_stack(stack);
        Ok(())
    }

    pub(super) fn push(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let value = self.load(self.insn.src, size)?;
        if size == 4 && matches!(self.insn.src, Operand::Seg(_)) {
            // The upper half of the slot is left as it is (SDM vol. 2, "PUSH").
            let mut stack = self.stack();
            let to = self.room(&mut stack, size, 2)?;
            self.write(to, 2, value)?;
            self.set_stack(stack);
        } else {
            self.push_value(value)?;
        }
        self.retire()
    }

    pub(super) fn pop(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let size = insn.op_size;
        let mut stack = self.stack();
        let value = self.take(&mut stack, size)?;
        if insn.dst == Operand::Mem {
            // A destination that RSP addresses is where the new RSP says.
            let mut moved = *insn;
            if insn.mem.base == Gpr::Rsp as u8 {
                moved.mem.disp = moved.mem.disp.wrapping_add(u64::from(size));
            }
            let offset = effective(self.m, &moved, self.next_rip);
            let to = self.data_address(insn.mem.seg, offset, size, Access::Write)?;
            self.write(to, size, value)?;
        }
        self.set_stack(stack);
        // After RSP, so that POP of RSP takes the value.
        self.set_reg(insn.dst, size, value);
        self.retire()
    }

    /// POP of a segment register.
    pub(super) fn pop_segment(&mut self) -> Result<Done, Stop> {
        let Operand::Seg(reg) = self.insn.dst else {
            return Err(Stop::Unhandled);
        };
        let mut stack = self.stack();
        let selector = self.take_selector(&mut stack, self.insn.op_size)?;
        let loaded = self.check_segment(reg, selector)?;
        self.put_segment(reg, &loaded)?;
        // With the width of the old stack segment.
        self.set_stack(stack);
        self.m.retire(self.next_rip);
        if reg == SegReg::Ss {
            self.m.set_shadow(Shadow::MovSs)?;
        }
        Ok(Done::Retired)
    }

    pub(super) fn push_all(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let mut stack = self.stack();
        let mut slots = [0; ALL.len()];
        for slot in &mut slots {
            *slot = self.room(&mut stack, size, size)?;
            self.m.probe_write(*slot, size)?;
        }
        for (slot, reg) in slots.into_iter().zip(ALL) {
            let value = self.m.gpr(reg);
            self.write(slot, size, value)?;
        }
        self.set_stack(stack);
        self.retire()
    }

    /// What was pushed for RSP is skipped.
    pub(super) fn pop_all(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let mut stack = self.stack();
        let mut values = [0; ALL.len()];
        for value in values.iter_mut().rev() {
            *value = self.take(&mut stack, size)?;
        }
        for (value, reg) in values.into_iter().zip(ALL) {
            if reg != Gpr::Rsp {
                self.set_reg(Operand::Reg(reg as u8), size, value);
            }
        }
        self.set_stack(stack);
        self.retire()
    }

    pub(super) fn push_flags(&mut self) -> Result<Done, Stop> {
        let flags = self.m.rflags() & !(rflags::RF | rflags::VM);
        self.push_value(flags)?;
        self.retire()
    }

    pub(super) fn pop_flags(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let mut stack = self.stack();
        let value = self.take(&mut stack, size)?;
        let flags = self.merged_flags(value, FREE);
        self.set_stack(stack);
        self.m.set_rflags(flags);
        self.retire()
    }

    /// RFLAGS after `value` of the operand size was loaded: the bits `free`, IF and IOPL as far as the
    /// privilege level allows, and VIF and VIP cleared with the upper half (SDM vol. 2, "POPF").
    pub(super) fn merged_flags(&self, value: u64, free: u64) -> u64 {
        let old = self.m.rflags();
        let cpl = u64::from(self.m.cpl());
        let mut mask = free;
        if cpl == 0 {
            mask |= rflags::IOPL;
        }
        if cpl <= (old & rflags::IOPL) >> rflags::IOPL_SHIFT {
            mask |= rflags::IF;
        }
        let mut kept = old & !mask;
        if self.insn.op_size == 2 {
            mask &= 0xffff;
            kept = old & !mask;
        } else {
            kept &= !(rflags::VIF | rflags::VIP);
        }
        kept | value & mask | rflags::FIXED
    }

    /// Frames of outer procedures are not copied: their reads could see what was just pushed.
    pub(super) fn enter(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        if self.insn.imm >> LEVEL_SHIFT & LEVELS != 0 {
            return Err(Stop::Unhandled);
        }
        let bytes = self.insn.imm & 0xffff;
        let mut stack = self.stack();
        let frame = self.m.gpr(Gpr::Rbp);
        let to = self.room(&mut stack, size, size)?;
        self.m.probe_write(to, size)?;
        let pushed = stack.sp;
        stack.sp = stack.sp.wrapping_sub(bytes);
        // The new top must be writable (SDM vol. 2, "ENTER").
        let offset = truncate(stack.sp, stack.width);
        let top = self.data_address(SegReg::Ss, offset, size, Access::Write)?;
        self.m.probe_write(top, size)?;
        self.write(to, size, frame)?;
        self.set_reg(Operand::Reg(Gpr::Rbp as u8), size, pushed);
        self.set_stack(stack);
        self.retire()
    }

    pub(super) fn leave(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let mut stack = self.stack();
        stack.sp = self.m.gpr(Gpr::Rbp);
        let frame = self.take(&mut stack, size)?;
        self.set_stack(stack);
        self.set_reg(Operand::Reg(Gpr::Rbp as u8), size, frame);
        self.retire()
    }
}
