// SPDX-License-Identifier: GPL-2.0-only

//! Branches: near ones, and those between code segments without gates and tasks (SDM vol. 3, 5.8).

use super::addr::truncate;
use super::alu;
use super::exec::Exec;
use super::insn::{Op, Operand};
use super::privileged::Interrupt;
use super::segment::{selector, selector_fault, Descriptor, Loaded};
use super::stack::{Stack, SELECTOR};
use super::{Access, Done, Machine, Mode, Stop};
use crate::model::x86::{ar, is_canonical, rflags, vector, Exception, Gpr, SegReg, Segment};

/// The type of a call gate of IA-32e mode, and of a 32-bit one elsewhere.
const CALL_GATE: u32 = 12;

/// Where the selector is in the immediate of a far branch.
const SELECTOR_SHIFT: u32 = 32;

/// Flags that IRET writes at any privilege level.
const IRET_FREE: u64 =
    rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::RF | rflags::AC | rflags::ID;

/// Values that a far return takes off the stack, without the stack pointer; and where IRET has RFLAGS.
const RET_FRAME: u8 = 2;
const IRET_FRAME: u8 = 3;
const FLAGS_SLOT: u8 = 2;

/// Where a far transfer goes.
struct Target {
    rip: u64,
    cs: Loaded,
}

impl<M: Machine> Exec<'_, M> {
    /// Checks that `rip` may be executed next in `cs`; the fault's error code is 0.
    fn check_rip(&self, rip: u64, cs: &Segment, long: bool) -> Result<u64, Stop> {
        let good = match long {
            true => is_canonical(rip, self.m.linear_width()),
            false => rip <= u64::from(cs.limit),
        };
        match good {
            true => Ok(rip),
            false => Err(Stop::Fault(self.gp())),
        }
    }

    /// Checks the target of a near branch.
    fn near_target(&mut self, rip: u64) -> Result<u64, Stop> {
        let long = self.insn.mode == Mode::Long;
        let rip = truncate(rip, self.insn.op_size);
        if long {
            return self.check_rip(rip, &Segment::default(), true);
        }
        let cs = self.m.segment(SegReg::Cs);
        self.check_rip(rip, &cs, false)
    }

    /// The target of Jcc, LOOP, JMP and CALL, unchecked.
    fn branch_operand(&mut self) -> Result<u64, Stop> {
        match self.insn.src {
            Operand::Imm => Ok(self.next_rip.wrapping_add(self.insn.imm)),
            operand => self.load(operand, self.insn.op_size),
        }
    }

    /// The target of Jcc, LOOP and JMP.
    fn branch_target(&mut self) -> Result<u64, Stop> {
        let rip = self.branch_operand()?;
        self.near_target(rip)
    }

    /// Ends the instruction elsewhere.
    fn retire_at(&mut self, rip: u64) -> Result<Done, Stop> {
        self.m.retire(rip);
        Ok(Done::Retired)
    }

    pub(super) fn jump_if(&mut self) -> Result<Done, Stop> {
        if !alu::condition(self.insn.cond, self.m.rflags()) {
            return self.retire();
        }
        let rip = self.branch_target()?;
        self.retire_at(rip)
    }

    pub(super) fn jump(&mut self) -> Result<Done, Stop> {
        let rip = self.branch_target()?;
        self.retire_at(rip)
    }

    /// LOOP and its kin count in the register of the address size; JCXZ only looks at it.
    pub(super) fn count_and_jump(&mut self) -> Result<Done, Stop> {
        let size = self.insn.addr_size;
        let old = truncate(self.m.gpr(Gpr::Rcx), size);
        let left = truncate(old.wrapping_sub(1), size);
        let zero = self.m.rflags() & rflags::ZF != 0;
        let (jumps, counts) = match self.insn.cond & 3 {
            0 => (left != 0 && !zero, true),
            1 => (left != 0 && zero, true),
            2 => (left != 0, true),
            _ => (old == 0, false),
        };
        let rip = match jumps {
            true => self.branch_target()?,
            false => self.next_rip,
        };
        if counts {
            self.set_reg(Operand::Reg(Gpr::Rcx as u8), size, left);
        }
        self.retire_at(rip)
    }

    pub(super) fn call(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let rip = self.branch_operand()?;
        let mut stack = self.stack();
        let to = self.room(&mut stack, size, size)?;
        let rip = match self.near_target(rip) {
            Ok(rip) => rip,
            Err(fault) => {
                // A fault of the stack comes first.
                self.m.probe_write(to, size)?;
                return Err(fault);
            }
        };
        self.write(to, size, self.next_rip)?;
        self.set_stack(stack);
        self.retire_at(rip)
    }

    /// The immediate of RET says how many more bytes leave the stack.
    pub(super) fn ret(&mut self) -> Result<Done, Stop> {
        let mut stack = self.stack();
        let rip = self.take(&mut stack, self.insn.op_size)?;
        let rip = self.near_target(rip)?;
        stack.sp = stack.sp.wrapping_add(self.insn.imm);
        self.set_stack(stack);
        self.retire_at(rip)
    }

    /// The operand of JMP and CALL to another segment.
    fn far_operand(&mut self) -> Result<(u64, u16), Stop> {
        match self.insn.src {
            Operand::Imm => Ok((
                truncate(self.insn.imm, 4),
                (self.insn.imm >> SELECTOR_SHIFT) as u16,
            )),
            _ => self.far_pointer(),
        }
    }

    /// The code segment that `selector` names. System descriptors, which are gates and tasks, are
    /// refused.
    fn code_descriptor(&mut self, selector: u16) -> Result<Descriptor, Stop> {
        if selector & !selector::RPL == 0 {
            return Err(Stop::Fault(self.gp()));
        }
        let descriptor = self.descriptor(selector)?;
        let rights = descriptor.segment().ar;
        let long = self.is_ia32e();
        if rights & ar::S == 0 {
            // In IA-32e mode there is no other system descriptor that a branch may name.
            let gate = rights & ar::TYPE == CALL_GATE;
            return Err(match long && !gate {
                true => descriptor.fault(vector::GP),
                false => Stop::Unhandled,
            });
        }
        let wide = rights & ar::L != 0 && rights & ar::DB != 0;
        if rights & ar::CODE == 0 || long && wide {
            return Err(descriptor.fault(vector::GP));
        }
        Ok(descriptor)
    }

    /// The rest of the checks of a code segment that is to run at privilege level `cpl`.
    fn finish_code(&mut self, descriptor: &Descriptor, cpl: u8) -> Result<Loaded, Stop> {
        if descriptor.segment().ar & ar::P == 0 {
            return Err(descriptor.fault(vector::NP));
        }
        let mut cs = Loaded::accessed(descriptor);
        cs.segment.selector = descriptor.selector & !selector::RPL | u16::from(cpl);
        Ok(cs)
    }

    /// Checks that `rip` may be executed next in `cs`, which was checked. Only 64-bit code has more than 32 bits
    /// of it.
    fn enter_code(&mut self, cs: Loaded, rip: u64) -> Result<Target, Stop> {
        let long = self.is_ia32e() && cs.segment.ar & ar::L != 0;
        let rip = if long { rip } else { truncate(rip, 4) };
        let rip = self.check_rip(rip, &cs.segment, long)?;
        Ok(Target { rip, cs })
    }

    /// The target of JMP and CALL to another segment; the offset is not checked yet.
    fn far_target(&mut self) -> Result<(Loaded, u64), Stop> {
        let (rip, selector) = self.far_operand()?;
        if self.insn.mode == Mode::Real {
            return Ok((self.real_segment(SegReg::Cs, selector), rip));
        }
        let cpl = self.m.cpl();
        let descriptor = self.code_descriptor(selector)?;
        let segment = descriptor.segment();
        let rpl = (selector & selector::RPL) as u8;
        let allowed = match segment.ar & ar::CONFORMING {
            0 => rpl <= cpl && segment.dpl() == cpl,
            _ => segment.dpl() <= cpl,
        };
        if !allowed {
            return Err(descriptor.fault(vector::GP));
        }
        Ok((self.finish_code(&descriptor, cpl)?, rip))
    }

    /// The mode that the code segment `cs` makes.
    fn mode_in(&self, cs: &Segment) -> Mode {
        Mode::new(self.m.cr0(), self.m.efer(), self.m.rflags(), cs.ar)
    }

    /// Goes to another segment of the same privilege level, which has been marked as accessed.
    fn go(&mut self, target: &Target) -> Result<Done, Stop> {
        self.m.set_segment(SegReg::Cs, target.cs.segment)?;
        self.retire_at(target.rip)
    }

    pub(super) fn jump_far(&mut self) -> Result<Done, Stop> {
        let (cs, rip) = self.far_target()?;
        let target = self.enter_code(cs, rip)?;
        self.mark_accessed(&target.cs)?;
        self.go(&target)
    }

    /// The new code segment is in force when the old one is pushed: its mode says how the stack is
    /// addressed. The offset is checked last.
    pub(super) fn call_far(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let (cs, rip) = self.far_target()?;
        let mut stack = self.stack_of(self.mode_in(&cs.segment));
        let first = self.room(&mut stack, size, size)?;
        let second = self.room(&mut stack, size, size)?;
        self.m.probe_write(first, size)?;
        self.m.probe_write(second, size)?;
        let target = self.enter_code(cs, rip)?;
        self.mark_accessed(&target.cs)?;
        let old = u64::from(self.m.segment(SegReg::Cs).selector);
        self.write(first, size, old)?;
        self.write(second, size, self.next_rip)?;
        self.m.set_segment(SegReg::Cs, target.cs.segment)?;
        self.set_stack(stack);
        self.retire_at(target.rip)
    }

    /// What a far return finds on the stack: RIP and CS. Of CS only the selector is read, and first.
    fn far_frame(&mut self, stack: Stack) -> Result<(u64, u16), Stop> {
        let size = self.insn.op_size;
        let cs = self.peek(stack, 1, size, SELECTOR)?;
        let rip = self.peek(stack, 0, size, size)?;
        Ok((rip, cs as u16))
    }

    /// RET to another segment.
    pub(super) fn ret_far(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let bytes = self.insn.imm;
        let mut stack = self.stack();
        let (rip, cs) = self.far_frame(stack)?;
        stack.skip(RET_FRAME, size);
        stack.sp = stack.sp.wrapping_add(bytes);
        if self.insn.mode == Mode::Real {
            let cs = self.real_segment(SegReg::Cs, cs);
            let rip = self.check_rip(rip, &cs.segment, false)?;
            self.set_stack(stack);
            return self.go(&Target { rip, cs });
        }
        let cs = self.return_target(cs)?;
        let cpl = (cs.segment.selector & selector::RPL) as u8;
        if cpl == self.m.cpl() {
            let target = self.enter_code(cs, rip)?;
            self.mark_accessed(&target.cs)?;
            // The code segment is in force by now, and says how much of the stack pointer counts.
            let mut after = self.stack_of(self.mode_in(&cs.segment));
            after.sp = stack.sp;
            self.set_stack(after);
            return self.go(&target);
        }
        let sp = self.take(&mut stack, size)?;
        let ss = self.take(&mut stack, size)? as u16;
        let ss = self.returned_stack(ss, cpl, &cs.segment)?;
        let target = self.enter_code(cs, rip)?;
        self.mark_accessed(&target.cs)?;
        self.mark_accessed(&ss)?;
        self.leave_privilege(cpl, &target, &ss, sp.wrapping_add(bytes))
    }

    /// The code segment to which a return leads.
    fn return_target(&mut self, selector: u16) -> Result<Loaded, Stop> {
        let rpl = (selector & selector::RPL) as u8;
        let descriptor = match self.code_descriptor(selector) {
            // No gate can be returned to.
            Err(Stop::Unhandled) => return Err(selector_fault(vector::GP, selector)),
            result => result?,
        };
        let segment = descriptor.segment();
        let allowed = match segment.ar & ar::CONFORMING {
            0 => segment.dpl() == rpl,
            _ => segment.dpl() <= rpl,
        };
        if rpl < self.m.cpl() || !allowed {
            return Err(descriptor.fault(vector::GP));
        }
        self.finish_code(&descriptor, rpl)
    }

    /// The stack segment that a return to privilege level `cpl` brings.
    fn returned_stack(&mut self, ss: u16, cpl: u8, cs: &Segment) -> Result<Loaded, Stop> {
        let long = cs.ar & ar::L != 0 && self.is_ia32e();
        let null = ss & !selector::RPL == 0;
        if null && (!long || cpl == 3) {
            return Err(Stop::Fault(self.gp()));
        }
        self.check_stack(ss, cpl, Stop::Fault(self.gp()))
    }

    /// Completes a return that loads the stack.
    fn leave_privilege(
        &mut self,
        cpl: u8,
        target: &Target,
        ss: &Loaded,
        sp: u64,
    ) -> Result<Done, Stop> {
        let outer = cpl != self.m.cpl();
        self.m.set_segment(SegReg::Cs, target.cs.segment)?;
        self.m.set_segment(SegReg::Ss, ss.segment)?;
        let width = if target.cs.segment.ar & ar::L != 0 && self.is_ia32e() {
            8
        } else if ss.segment.ar & ar::DB != 0 {
            4
        } else {
            2
        };
        self.set_reg(Operand::Reg(Gpr::Rsp as u8), width, sp);
        if outer {
            for reg in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
                let segment = self.m.segment(reg);
                let code = segment.ar & ar::CODE != 0;
                let conforming = code && segment.ar & ar::CONFORMING != 0;
                // What the new privilege level must not see is taken away (SDM vol. 3, 5.8.6), and null
                // selectors lose their RPL.
                if segment.is_unusable() || !conforming && segment.dpl() < cpl {
                    let none = Segment {
                        selector: 0,
                        ar: segment.ar | ar::UNUSABLE,
                        ..segment
                    };
                    self.m.set_segment(reg, none)?;
                }
            }
        }
        self.retire_at(target.rip)
    }

    /// IRET. Returns to another task, and to virtual-8086 mode, are refused.
    pub(super) fn iret(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let mode = self.insn.mode;
        if mode != Mode::Real && self.m.rflags() & rflags::NT != 0 {
            return Err(match self.is_ia32e() {
                true => Stop::Fault(self.gp()),
                false => Stop::Unhandled,
            });
        }
        let mut stack = self.stack();
        let flags = self.peek(stack, FLAGS_SLOT, size, size)?;
        let (rip, cs) = self.far_frame(stack)?;
        stack.skip(IRET_FRAME, size);
        let flags_after = self.returned_flags(flags);
        if mode == Mode::Real {
            let cs = self.real_segment(SegReg::Cs, cs);
            let rip = self.check_rip(rip, &cs.segment, false)?;
            self.m.end_nmi()?;
            self.set_stack(stack);
            self.go(&Target { rip, cs })?;
            self.m.set_rflags(flags_after);
            return Ok(Done::Retired);
        }
        if !self.is_ia32e() && size == 4 && flags & rflags::VM != 0 && self.m.cpl() == 0 {
            return Err(Stop::Unhandled);
        }
        let cs = self.return_target(cs)?;
        let cpl = (cs.segment.selector & selector::RPL) as u8;
        // 64-bit code always takes the stack pointer too.
        let pair = match mode == Mode::Long || cpl != self.m.cpl() {
            true => Some(self.stack_pointer(&mut stack)?),
            false => None,
        };
        if let Some((sp, ss)) = pair {
            let ss = self.returned_stack(ss, cpl, &cs.segment)?;
            let target = self.enter_code(cs, rip)?;
            self.mark_accessed(&target.cs)?;
            self.mark_accessed(&ss)?;
            self.m.end_nmi()?;
            self.leave_privilege(cpl, &target, &ss, sp)?;
        } else {
            let target = self.enter_code(cs, rip)?;
            self.mark_accessed(&target.cs)?;
            self.m.end_nmi()?;
            self.set_stack(stack);
            self.go(&target)?;
        }
        // After the end of the instruction, which clears RF.
        self.m.set_rflags(flags_after);
        Ok(Done::Retired)
    }

    /// Takes RSP and SS off the stack.
    fn stack_pointer(&mut self, stack: &mut Stack) -> Result<(u64, u16), Stop> {
        let size = self.insn.op_size;
        let sp = self.take(stack, size)?;
        let ss = self.take(stack, size)? as u16;
        Ok((sp, ss))
    }

    /// RFLAGS after IRET: at privilege level 0, VIF and VIP come from the stack as well.
    fn returned_flags(&self, flags: u64) -> u64 {
        let virtual_flags = rflags::VIF | rflags::VIP;
        let old = self.m.rflags();
        let merged = self.merged_flags(flags, IRET_FREE);
        if self.insn.op_size == 2 {
            return merged & !rflags::RF;
        }
        let source = match self.m.cpl() {
            0 if self.insn.mode != Mode::Real => flags,
            _ => old,
        };
        merged & !virtual_flags | source & virtual_flags
    }

    /// INT n, INT3 and INTO: the machine delivers it.
    pub(super) fn interrupt(&mut self) -> Result<Done, Stop> {
        let interrupt = match self.insn.op {
            Op::Int => Interrupt::Int(self.insn.imm as u8),
            Op::Int3 => Interrupt::Int3,
            _ if self.m.rflags() & rflags::OF == 0 => return self.retire(),
            _ => Interrupt::Into,
        };
        self.m.interrupt(interrupt, self.next_rip)?;
        Ok(Done::Retired)
    }

    /// BOUND: the index must not be outside of the two limits in memory.
    pub(super) fn bound(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let offset = super::addr::effective(self.m, self.insn, self.next_rip);
        let seg = self.insn.mem.seg;
        let signed = |value| alu::sign_extend(value, size) as i64;
        let index = signed(self.load(self.insn.dst, size)?);
        let low = self.data_address(seg, offset, size, Access::Read)?;
        if index < signed(self.read(low, size, Access::Read)?) {
            return Err(Stop::Fault(Exception::new(vector::BR)));
        }
        let next = truncate(offset.wrapping_add(u64::from(size)), self.insn.addr_size);
        let high = self.data_address(seg, next, size, Access::Read)?;
        if index > signed(self.read(high, size, Access::Read)?) {
            return Err(Stop::Fault(Exception::new(vector::BR)));
        }
        self.retire()
    }
}
