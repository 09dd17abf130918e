// SPDX-License-Identifier: GPL-2.0-only

//! Decoding of system instructions and of the VEX prefix.

use super::decode::DecodeError;
use super::insn::{prefix, Op, Operand};
use super::modrm::{rex, Decoder};
use super::table::{self, Entry, Form};
use super::{vector, Mode};

impl Decoder<'_> {
    /// MOV to or from control and debug registers: r/m is a register whatever its mod field says.
    #[cold]
    pub(super) fn control(&mut self, entry: Entry) -> Result<(), DecodeError> {
        let byte = self.u8()?;
        let number = byte >> 3 & 7 | (self.rex & rex::R) << 1;
        let gpr = Operand::Reg(byte & 7 | (self.rex & rex::B) << 3);
        let other = match (entry.op, number) {
            (Op::MovCr, 0 | 2 | 3 | 4 | 8) => Operand::Cr(number),
            (Op::MovDr, 0..=7) => Operand::Dr(number),
            _ => return Err(DecodeError::Invalid),
        };
        let size = if self.is_long() { 8 } else { 4 };
        (self.insn.op_size, self.insn.src_size) = (size, size);
        (self.insn.dst, self.insn.src) = match entry.form {
            Form::FromCr => (gpr, other),
            _ => (other, gpr),
        };
        Ok(())
    }

    /// 0F 01: memory forms by the reg field, register forms by the whole byte.
    #[cold]
    pub(super) fn group7(&mut self, _: Entry) -> Result<(), DecodeError> {
        let byte = self.peek()?;
        let rep = self.insn.has(prefix::REPE | prefix::REPNE);
        let plain = !self.opsize && !rep;
        let op = match (byte >> 6, byte >> 3 & 7) {
            (_, 4) => Op::Smsw,
            (_, 6) => Op::Lmsw,
            (0..=2, 0) => Op::Sgdt,
            (0..=2, 1) => Op::Sidt,
            (0..=2, 2) => Op::Lgdt,
            (0..=2, 3) => Op::Lidt,
            (0..=2, 7) => Op::Invlpg,
            _ => match byte {
                0xc1 if plain => Op::Vmcall,
                0xc8 if plain => Op::Monitor,
                0xc9 if plain => Op::Mwait,
                0xd0 if plain => Op::Xgetbv,
                0xd1 if plain => Op::Xsetbv,
                0xd9 if plain => Op::Vmmcall,
                0xf9 if plain => Op::Rdtscp,
                _ => return Err(DecodeError::Unsupported),
            },
        };
        // Shadow-stack instructions share the memory forms' bytes with F3.
        if rep {
            return Err(DecodeError::Unsupported);
        }
        let m = self.modrm()?;
        self.insn.op = op;
        match op {
            Op::Lmsw => {
                self.insn.op_size = 2;
                self.insn.src = self.rm(m, 2);
            }
            Op::Smsw | Op::Sgdt | Op::Sidt | Op::Lgdt | Op::Lidt | Op::Invlpg => {
                if op == Op::Smsw && m.is_mem {
                    self.insn.op_size = 2;
                }
                self.insn.dst = self.rm(m, self.insn.op_size);
            }
            _ => {}
        }
        self.insn.src_size = self.insn.op_size;
        Ok(())
    }

    /// Whether C4 or C5 is VEX: outside 64-bit mode it is LES or LDS unless the next byte says register
    /// form.
    #[cold]
    pub(super) fn is_vex(&self) -> Result<bool, DecodeError> {
        Ok(self.peek()? & 0xc0 == 0xc0 || self.is_long())
    }

    /// The rest of a VEX instruction.
    #[cold]
    pub(super) fn vex(&mut self, first: u8) -> Result<(), DecodeError> {
        let no_vex = matches!(self.insn.mode, Mode::Real | Mode::Virtual8086);
        if no_vex || self.insn.prefix != 0 || self.opsize || self.rex != 0 {
            return Err(DecodeError::Invalid);
        }
        let second = self.u8()?;
        // REX bits are stored inverted; the last byte has W, vvvv, L and pp.
        let (map, last) = if first == 0xc5 {
            self.rex = !second >> 5 & rex::R;
            (1, second & 0x7f)
        } else {
            let last = self.u8()?;
            self.rex = !second >> 5 | last >> 4 & rex::W;
            (second & 0x1f, last)
        };
        if !self.is_long() {
            self.rex &= rex::W;
        }
        self.insn.prefix = prefix::VEX;
        match last & 3 {
            1 => self.opsize = true,
            2 => self.insn.prefix |= prefix::REPE,
            3 => self.insn.prefix |= prefix::REPNE,
            _ => {}
        }
        let opcode = self.u8()?;
        let known = match map {
            1 => table::TWO_BYTE[usize::from(opcode)].form == Form::Vector,
            2 => opcode == vector::MOVNTDQA,
            _ => false,
        };
        // vvvv of all ones: no further operand.
        if !known || last & 0x78 != 0x78 {
            return Err(DecodeError::Unsupported);
        }
        self.in_0f38 = map == 2;
        self.sizes(table::TWO_BYTE[usize::from(opcode)]);
        vector::decode(self, opcode, last & 4 != 0)
    }
}
