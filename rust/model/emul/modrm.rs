// SPDX-License-Identifier: GPL-2.0-only

//! Reading an instruction's bytes: immediates, the ModRM byte and the memory operand behind it.

use super::decode::{DecodeError, MAX_LEN};
use super::insn::{Insn, Mem, Operand};
use super::Mode;
use crate::model::x86::{Gpr, SegReg};

/// Bits of a REX prefix.
pub(super) mod rex {
    pub const W: u8 = 8;
    pub const R: u8 = 4;
    pub const X: u8 = 2;
    pub const B: u8 = 1;
}

/// The bytes, the position in them, what the prefixes said, and the instruction as far as it is known.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// The REX byte, or the same bits of a VEX prefix; 0 if there is none.
    pub(super) rex: u8,
    /// 66 was among the prefixes.
    pub(super) opsize: bool,
    /// 67 was among the prefixes.
    pub(super) addrsize: bool,
    /// Whether the opcode came after 0F 38.
    pub(super) in_0f38: bool,
    /// The segment override that counts.
    pub(super) seg: Option<SegReg>,
    pub(super) insn: Insn,
}

/// A decoded ModRM byte.
#[derive(Clone, Copy, Default)]
pub(super) struct ModRm {
    /// The reg field with its REX bit.
    pub(super) reg: u8,
    /// The r/m field with its REX bit; only for register forms.
    pub(super) rm: u8,
    /// Whether r/m is in memory.
    pub(super) is_mem: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8], mode: Mode) -> Self {
        Self {
            bytes: bytes.get(..MAX_LEN).unwrap_or(bytes),
            pos: 0,
            rex: 0,
            opsize: false,
            addrsize: false,
            in_0f38: false,
            seg: None,
            insn: Insn::empty(mode),
        }
    }

    /// Whether the mode is 64-bit mode.
    #[inline]
    pub(super) const fn is_long(&self) -> bool {
        matches!(self.insn.mode, Mode::Long)
    }

    /// How many bytes have been read.
    #[inline]
    pub(super) const fn len(&self) -> u8 {
        self.pos as u8
    }

    /// The error when bytes up to `end` are not there.
    #[cold]
    fn out_of_bytes(end: usize) -> DecodeError {
        if end > MAX_LEN {
            DecodeError::TooLong
        } else {
            DecodeError::Truncated
        }
    }

    #[inline]
    pub(super) fn peek(&self) -> Result<u8, DecodeError> {
        match self.bytes.get(self.pos) {
            Some(&b) => Ok(b),
            None => Err(Self::out_of_bytes(self.pos.wrapping_add(1))),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let b = self.peek()?;
        self.pos = self.pos.wrapping_add(1);
        Ok(b)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let end = self.pos.wrapping_add(N);
        let found = self.bytes.get(self.pos..).and_then(|s| s.first_chunk());
        match found {
            Some(a) => {
                self.pos = end;
                Ok(*a)
            }
            None => Err(Self::out_of_bytes(end)),
        }
    }

    /// A sign-extended immediate or displacement of 1, 2, 4 or 8 bytes.
    pub(super) fn signed(&mut self, size: u8) -> Result<u64, DecodeError> {
        Ok(match size {
            1 => i64::from(self.u8()? as i8) as u64,
            2 => i64::from(i16::from_le_bytes(self.array()?)) as u64,
            4 => i64::from(i32::from_le_bytes(self.array()?)) as u64,
            _ => u64::from_le_bytes(self.array()?),
        })
    }

    /// A general register as operand of `size` bytes.
    #[inline]
    pub(super) const fn reg(&self, number: u8, size: u8) -> Operand {
        if size == 1 && self.rex == 0 && number >= 4 && number < 8 {
            Operand::Reg(Operand::HIGH_BYTE + (number - 4))
        } else {
            Operand::Reg(number)
        }
    }

    /// The r/m operand of `size` bytes.
    #[inline]
    pub(super) const fn rm(&self, m: ModRm, size: u8) -> Operand {
        if m.is_mem {
            Operand::Mem
        } else {
            self.reg(m.rm, size)
        }
    }

    /// Reads the ModRM byte and what belongs to it.
    #[inline(never)]
    pub(super) fn modrm(&mut self) -> Result<ModRm, DecodeError> {
        self.modrm_inline()
    }

    /// [`Decoder::modrm`] for the one place where speed matters.
    #[inline(always)]
    pub(super) fn modrm_inline(&mut self) -> Result<ModRm, DecodeError> {
        let byte = self.u8()?;
        let (mode, rm) = (byte >> 6, byte & 7);
        let modrm = ModRm {
            reg: byte >> 3 & 7 | (self.rex & rex::R) << 1,
            rm: rm | (self.rex & rex::B) << 3,
            is_mem: mode != 3,
        };
        if modrm.is_mem {
            if self.insn.addr_size == 2 {
                self.memory16(mode, rm)?;
            } else {
                self.memory(mode, rm)?;
            }
            if let Some(seg) = self.seg {
                self.insn.mem.seg = seg;
            }
        }
        Ok(modrm)
    }

    /// A memory operand with 16-bit addressing (SDM vol. 2, table 2-1).
    #[inline(never)]
    fn memory16(&mut self, mode: u8, rm: u8) -> Result<(), DecodeError> {
        const BX: u8 = Gpr::Rbx as u8;
        const BP: u8 = Gpr::Rbp as u8;
        const SI: u8 = Gpr::Rsi as u8;
        const DI: u8 = Gpr::Rdi as u8;
        let (base, index) = match rm {
            0 => (BX, SI),
            1 => (BX, DI),
            2 => (BP, SI),
            3 => (BP, DI),
            4 => (SI, Mem::NONE),
            5 => (DI, Mem::NONE),
            6 if mode == 0 => (Mem::NONE, Mem::NONE),
            6 => (BP, Mem::NONE),
            _ => (BX, Mem::NONE),
        };
        let disp = match mode {
            0 if rm == 6 => self.signed(2)?,
            0 => 0,
            1 => self.signed(1)?,
            _ => self.signed(2)?,
        };
        self.insn.mem = Mem {
            seg: if base == BP { SegReg::Ss } else { SegReg::Ds },
            base,
            index,
            scale: 0,
            disp,
        };
        Ok(())
    }

    /// A memory operand with 32- or 64-bit addressing (SDM vol. 2, tables 2-2 and 2-3).
    #[inline]
    fn memory(&mut self, mode: u8, rm: u8) -> Result<(), DecodeError> {
        let mut base = rm;
        if rm == 4 {
            let sib = self.u8()?;
            base = sib & 7;
            let index = sib >> 3 & 7 | (self.rex & rex::X) << 2;
            // Number 4 means none; with REX.X it is R12.
            if index != 4 {
                self.insn.mem.index = index;
                self.insn.mem.scale = sib >> 6;
            }
        }
        if mode == 0 && base == 5 {
            if rm == 5 && self.is_long() {
                self.insn.mem.base = Mem::RIP;
            }
            self.insn.mem.disp = self.signed(4)?;
            return Ok(());
        }
        // RSP and RBP, but not R12 and R13, have SS as their default.
        let full = base | (self.rex & rex::B) << 3;
        self.insn.mem.base = full;
        if full == Gpr::Rsp as u8 || full == Gpr::Rbp as u8 {
            self.insn.mem.seg = SegReg::Ss;
        }
        if mode != 0 {
            self.insn.mem.disp = self.signed(if mode == 1 { 1 } else { 4 })?;
        }
        Ok(())
    }
}
