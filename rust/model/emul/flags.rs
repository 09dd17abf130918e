// SPDX-License-Identifier: GPL-2.0-only

//! Instructions on single flags, and decimal arithmetic (SDM vol. 2).

use super::alu;
use super::exec::Exec;
use super::insn::{Op, Operand};
use super::privileged::Shadow;
use super::{Access, Done, Machine, Stop};
use crate::model::x86::rflags::{AF, CF, DF, FIXED, IF, IOPL, IOPL_SHIFT, PF, SF, STATUS, ZF};
use crate::model::x86::{cr4, Exception, Gpr};

/// The flags in AH of LAHF and SAHF.
const LOW: u64 = SF | ZF | AF | PF | CF;

/// AH.
const AH: Operand = Operand::Reg(Operand::HIGH_BYTE);

/// The privilege level of user mode.
const USER: u8 = 3;

impl<M: Machine> Exec<'_, M> {
    pub(super) fn change_flag(&mut self) -> Result<Done, Stop> {
        let flags = self.m.rflags();
        self.m.set_rflags(match self.insn.op {
            Op::Cmc => flags ^ CF,
            Op::Clc => flags & !CF,
            Op::Stc => flags | CF,
            Op::Cld => flags & !DF,
            _ => flags | DF,
        });
        self.retire()
    }

    /// CLI and STI. Virtual interrupts of user mode are refused.
    pub(super) fn change_interrupt_flag(&mut self) -> Result<Done, Stop> {
        let flags = self.m.rflags();
        let cpl = self.m.cpl();
        if u64::from(cpl) > (flags & IOPL) >> IOPL_SHIFT {
            return Err(match cpl == USER && self.m.cr4() & cr4::PVI != 0 {
                true => Stop::Unhandled,
                false => Stop::Fault(self.gp()),
            });
        }
        if self.insn.op == Op::Cli {
            self.m.set_rflags(flags & !IF);
            return self.retire();
        }
        self.m.set_rflags(flags | IF);
        self.m.retire(self.next_rip);
        if flags & IF == 0 {
            self.m.set_shadow(Shadow::Sti)?;
        }
        Ok(Done::Retired)
    }

    pub(super) fn flags_and_ah(&mut self) -> Result<Done, Stop> {
        let flags = self.m.rflags();
        if self.insn.op == Op::Lahf {
            self.set_reg(AH, 1, flags & LOW | FIXED);
        } else {
            let ah = self.m.gpr(Gpr::Rax) >> 8;
            self.m.set_rflags(flags & !LOW | ah & LOW);
        }
        self.retire()
    }

    pub(super) fn salc(&mut self) -> Result<Done, Stop> {
        let carry = self.m.rflags() & CF;
        self.set_reg(Operand::ACC, 1, carry.wrapping_neg());
        self.retire()
    }

    /// XLAT: AL from the table at RBX.
    pub(super) fn translate(&mut self) -> Result<Done, Stop> {
        let (rax, rbx) = (self.m.gpr(Gpr::Rax), self.m.gpr(Gpr::Rbx));
        let offset = rbx.wrapping_add(rax & 0xff);
        let offset = super::addr::truncate(offset, self.insn.addr_size);
        let linear = self.data_address(self.insn.mem.seg, offset, 1, Access::Read)?;
        let value = self.read(linear, 1, Access::Read)?;
        self.set_reg(Operand::ACC, 1, value);
        self.retire()
    }

    /// DAA and DAS. OF is undefined.
    pub(super) fn decimal_adjust(&mut self) -> Result<Done, Stop> {
        let flags = self.m.rflags();
        let al = self.m.gpr(Gpr::Rax) & 0xff;
        let low = al & 0xf > 9 || flags & AF != 0;
        let high = al > 0x99 || flags & CF != 0;
        let step = u64::from(low) * 6 + u64::from(high) * 0x60;
        let add = self.insn.op == Op::Daa;
        let result = match add {
            true => al.wrapping_add(step),
            false => al.wrapping_sub(step),
        };
        // DAS also borrows when the low digit's adjustment does.
        let carry = high || !add && low && al < 6;
        self.set_reg(Operand::ACC, 1, result);
        let shown = alu::logic(result, 1).flags;
        let mut status = flags & STATUS & !(LOW) | shown;
        status |= if low { AF } else { 0 };
        status |= if carry { CF } else { 0 };
        self.retire_with(status)
    }

    /// AAA and AAS. OF, SF, ZF and PF are undefined.
    pub(super) fn ascii_adjust(&mut self) -> Result<Done, Stop> {
        let flags = self.m.rflags();
        let ax = self.m.gpr(Gpr::Rax) & 0xffff;
        let carries = ax & 0xf > 9 || flags & AF != 0;
        let both = AF | CF;
        let result = match (carries, self.insn.op == Op::Aaa) {
            (false, _) => ax,
            (true, true) => ax.wrapping_add(0x106),
            (true, false) => ax.wrapping_sub(0x106),
        };
        self.set_reg(Operand::ACC, 2, result & 0xff0f);
        self.retire_with(flags & !both | if carries { both } else { 0 })
    }

    /// AAM and AAD. OF, AF and CF are undefined.
    pub(super) fn ascii_scale(&mut self) -> Result<Done, Stop> {
        let base = self.insn.imm & 0xff;
        let ax = self.m.gpr(Gpr::Rax);
        let (al, ah) = (ax & 0xff, ax >> 8 & 0xff);
        let result = if self.insn.op == Op::Aam {
            let digits = al.checked_div(base).zip(al.checked_rem(base));
            let (high, low) = digits.ok_or(Stop::Fault(Exception::de()))?;
            high << 8 | low
        } else {
            al.wrapping_add(ah.wrapping_mul(base)) & 0xff
        };
        self.set_reg(Operand::ACC, 2, result);
        let undefined = STATUS & !(SF | ZF | PF);
        let shown = alu::logic(result, 1).flags & !undefined;
        self.retire_with(self.m.rflags() & undefined | shown)
    }

    /// #GP(0) unless the privilege level is 0.
    pub(super) fn check_supervisor(&self) -> Result<(), Stop> {
        match self.m.cpl() {
            0 => Ok(()),
            _ => Err(Stop::Fault(self.gp())),
        }
    }

    /// #GP(0) in user mode with CR4.UMIP.
    pub(super) fn check_umip(&self) -> Result<(), Stop> {
        match self.m.cr4() & cr4::UMIP != 0 {
            true => self.check_supervisor(),
            false => Ok(()),
        }
    }
}
