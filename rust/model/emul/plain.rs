// SPDX-License-Identifier: GPL-2.0-only

//! Plain moves: MOV, MOVZX and MOVSX between a general register and memory in 64-bit code, which is how nearly
//! all drivers talk to their devices.
//!
//! Such an instruction makes one access and changes nothing but one register or that memory. When the processor
//! has translated and checked the access already, what is left to do needs no machine: its address, to see that
//! it is that access, the value to be written, or what becomes of the register that is read to.

use super::addr::{effective_with, split_at_page, truncate};
use super::alu::sign_extend;
use super::insn::{Insn, Op, Operand};
use super::Mode;
use crate::model::x86::{is_canonical, rflags, Gpr, SegReg};

/// Flags under which more happens than the move: a trap after it, a check of its alignment, or their own end.
pub const UNUSUAL_FLAGS: u64 = rflags::TF | rflags::AC | rflags::RF;

/// A move between a register and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    insn: &'a Insn,
}

/// What becomes of the register that a move from memory goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    register: u8,
    /// Bytes of the operand, in the register and in memory.
    size: u8,
    memory_size: u8,
    signed: bool,
    /// Bytes of the instruction.
    length: u8,
}

/// The value of register operand `n` with `size` bytes, where `full` is the whole register.
#[inline(always)]
pub(super) const fn part(full: u64, n: u8, size: u8) -> u64 {
    if n >= Operand::HIGH_BYTE {
        full >> 8 & 0xff
    } else {
        truncate(full, size)
    }
}

/// The whole register after the low `size` bytes of `value` have been written to operand `n`, where `full` is
/// the register before: 4 bytes clear the upper half, fewer leave the rest.
#[inline(always)]
pub(super) const fn merged(full: u64, n: u8, size: u8, value: u64) -> u64 {
    match size {
        8 => value,
        4 => truncate(value, 4),
        2 => full & !0xffff | value & 0xffff,
        _ if n >= Operand::HIGH_BYTE => full & !0xff00 | (value & 0xff) << 8,
        _ => full & !0xff | value & 0xff,
    }
}

impl Insn {
    /// Whether it is a plain move.
    pub const fn is_plain_move(&self) -> bool {
        let operands = match self.op {
            Op::Mov => matches!(
                (self.dst, self.src),
                (Operand::Mem, Operand::Reg(_) | Operand::Imm) | (Operand::Reg(_), Operand::Mem)
            ),
            Op::Movzx | Op::Movsx => {
                matches!((self.dst, self.src), (Operand::Reg(_), Operand::Mem))
            }
            _ => false,
        };
        operands
            && matches!(self.mode, Mode::Long)
            && self.prefix == 0
            && !matches!(self.mem.seg, SegReg::Fs | SegReg::Gs)
    }
}

impl<'a> Plain<'a> {
    /// Takes an instruction that [is](Insn::is_plain_move) such a move.
    #[inline(always)]
    pub const fn new(insn: &'a Insn) -> Self {
        Self { insn }
    }

    /// Whether it writes memory.
    #[inline(always)]
    pub fn is_store(&self) -> bool {
        matches!(self.insn.dst, Operand::Mem)
    }

    /// Bytes of the access.
    #[inline(always)]
    pub fn size(&self) -> u8 {
        match self.insn.op {
            Op::Mov => self.insn.op_size,
            _ => self.insn.src_size,
        }
    }

    /// Bytes of the instruction.
    #[inline(always)]
    pub fn length(&self) -> u8 {
        self.insn.len
    }

    /// The linear address of the access by the instruction at `rip`, if its bytes are canonical and in one page;
    /// `width` is that of linear addresses.
    #[inline(always)]
    pub fn address(&self, rip: u64, width: u32, gpr: impl Fn(Gpr) -> u64) -> Option<u64> {
        let next = rip.wrapping_add(u64::from(self.insn.len));
        let linear = effective_with(self.insn, next, gpr);
        let (_, second) = split_at_page(linear, usize::from(self.size()));
        (second == 0 && is_canonical(linear, width)).then_some(linear)
    }

    /// The value that is written; what lies above its bytes is 0.
    #[inline(always)]
    pub fn value(&self, gpr: impl Fn(Gpr) -> u64) -> u64 {
        match self.insn.src {
            Operand::Reg(n) => part(gpr(Gpr::from_low4(n)), n, self.insn.op_size),
            _ => truncate(self.insn.imm, self.insn.op_size),
        }
    }

    /// Where the value goes that is read.
    #[inline(always)]
    pub fn load(&self) -> Load {
        Load {
            register: match self.insn.dst {
                Operand::Reg(n) => n,
                _ => 0,
            },
            size: self.insn.op_size,
            memory_size: self.size(),
            signed: self.insn.op == Op::Movsx,
            length: self.insn.len,
        }
    }
}

impl Load {
    /// The register.
    #[inline(always)]
    pub const fn register(&self) -> Gpr {
        Gpr::from_low4(self.register)
    }

    /// Bytes of the instruction.
    #[inline(always)]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The whole register, when it held `old` and memory `value`.
    #[inline(always)]
    pub const fn result(&self, old: u64, value: u64) -> u64 {
        let value = if self.signed {
            sign_extend(value, self.memory_size)
        } else {
            truncate(value, self.memory_size)
        };
        merged(old, self.register, self.size, value)
    }
}
