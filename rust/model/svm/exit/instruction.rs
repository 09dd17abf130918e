// SPDX-License-Identifier: GPL-2.0-only

//! Exits that only the instruction tells all about.

use super::mov_cr;
use crate::model::emul::{Insn, Op, Operand};
use crate::model::exit::{
    ControlRegister, CrAccess, Direction, DrAccess, Exit, IoAccess, StringIo,
};
use crate::model::x86::{Gpr, SegReg};

/// What an exit tells about an instruction whose operands it does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedsInstruction {
    /// An access of a control register: MOV, and for CR0 also CLTS, LMSW ([`Direction::Out`]) and SMSW.
    Cr {
        /// The register.
        cr: ControlRegister,
        /// [`Direction::Out`] for a write.
        direction: Direction,
    },
    /// MOV from or to a debug register.
    Dr {
        /// The register's number, 0 to 7.
        number: u8,
        /// [`Direction::Out`] for a write.
        direction: Direction,
    },
    /// INS or OUTS; [`IoAccess::string`] is yet to be filled in.
    StringIo(IoAccess),
    /// INVLPG.
    Invlpg,
}

/// An exit whose instruction is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The exit.
    Exit(Exit),
    /// LMSW, SMSW or INVLPG whose operand is in memory, or SMSW to a 16-bit register: the caller gets or
    /// writes the operand itself.
    Operand(Insn),
}

impl NeedsInstruction {
    /// Completes the exit by the instruction at the guest's RIP; `gpr` reads a general register.
    ///
    /// Returns `None` if the instruction is none that could have led to this exit: another CPU has
    /// overwritten it since. Then the guest is to be entered again, as if nothing had happened.
    pub fn complete(&self, insn: &Insn, gpr: impl Fn(Gpr) -> u64) -> Option<Completed> {
        match *self {
            Self::Cr { cr, direction } => control_register(cr, direction, insn, gpr),
            Self::Dr { number, direction } => debug_register(number, direction, insn),
            Self::StringIo(access) => string_io(access, insn),
            Self::Invlpg if insn.op == Op::Invlpg => Some(Completed::Operand(*insn)),
            Self::Invlpg => None,
        }
    }
}

fn control_register(
    cr: ControlRegister,
    direction: Direction,
    insn: &Insn,
    gpr: impl Fn(Gpr) -> u64,
) -> Option<Completed> {
    let is_cr0 = cr == ControlRegister::Cr0;
    let access = match (insn.op, direction) {
        (Op::MovCr, _) => {
            let (number, gpr) = match (direction, insn.dst, insn.src) {
                (Direction::Out, Operand::Cr(number), Operand::Reg(gpr))
                | (Direction::In, Operand::Reg(gpr), Operand::Cr(number)) => (number, gpr),
                _ => return None,
            };
            if ControlRegister::from_number(number) != Some(cr) {
                return None;
            }
            mov_cr(cr, direction, Gpr::from_low4(gpr))
        }
        (Op::Clts, Direction::Out) if is_cr0 => CrAccess::Clts,
        (Op::Lmsw, Direction::Out) if is_cr0 => match insn.src {
            Operand::Reg(number) => CrAccess::Lmsw(gpr(Gpr::from_low4(number)) as u16),
            _ => return Some(Completed::Operand(*insn)),
        },
        (Op::Smsw, Direction::In) if is_cr0 => match insn.dst {
            // The upper half of CR0 is 0, so the whole register is what a 32-bit destination gets, too.
            Operand::Reg(number) if insn.op_size >= 4 => {
                mov_cr(cr, direction, Gpr::from_low4(number))
            }
            _ => return Some(Completed::Operand(*insn)),
        },
        _ => return None,
    };
    Some(Completed::Exit(Exit::CrAccess(access)))
}

fn debug_register(number: u8, direction: Direction, insn: &Insn) -> Option<Completed> {
    let gpr = match (insn.op, direction, insn.dst, insn.src) {
        (Op::MovDr, Direction::Out, Operand::Dr(n), Operand::Reg(gpr))
        | (Op::MovDr, Direction::In, Operand::Reg(gpr), Operand::Dr(n))
            if n == number =>
        {
            Gpr::from_low4(gpr)
        }
        _ => return None,
    };
    Some(Completed::Exit(Exit::DrAccess(DrAccess {
        number,
        direction,
        gpr,
    })))
}

fn string_io(access: IoAccess, insn: &Insn) -> Option<Completed> {
    let segment = match (insn.op, access.direction) {
        (Op::Ins, Direction::In) => SegReg::Es,
        (Op::Outs, Direction::Out) => insn.mem.seg,
        _ => return None,
    };
    Some(Completed::Exit(Exit::Io(IoAccess {
        string: Some(StringIo {
            address_size: insn.addr_size,
            segment,
        }),
        ..access
    })))
}
