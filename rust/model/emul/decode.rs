// SPDX-License-Identifier: GPL-2.0-only

//! From bytes to [`Insn`] (SDM vol. 2, ch. 2).

use super::insn::{prefix, Insn, Op, Operand};
use super::modrm::{rex, Decoder, ModRm};
use super::table::{self, Entry, Form};
use super::{vector, Mode};
use crate::model::x86::{Gpr, SegReg};

/// The longest instruction in bytes.
pub const MAX_LEN: usize = 15;

/// Why bytes did not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// More bytes are needed.
    Truncated,
    /// The instruction is longer than [`MAX_LEN`]: #GP(0).
    TooLong,
    /// The architecture says #UD.
    Invalid,
    /// Not in the tables: refused.
    Unsupported,
}

/// Decodes the instruction at the start of `bytes`, of which at most [`MAX_LEN`] count.
///
/// The length of the result never exceeds that of `bytes`.
///
/// ```
/// use vireo_model::model::emul::{decode, DecodeError, Mode, Op, Operand};
///
/// // mov [rdi + 0x80], eax
/// let insn = decode(&[0x89, 0x87, 0x80, 0, 0, 0], Mode::Long).unwrap();
/// assert_eq!((insn.op, insn.op_size, insn.len), (Op::Mov, 4, 6));
/// assert_eq!((insn.dst, insn.src), (Operand::Mem, Operand::Reg(0)));
/// assert_eq!((insn.mem.base, insn.mem.disp), (7, 0x80));
///
/// assert_eq!(decode(&[0x89, 0x87], Mode::Long), Err(DecodeError::Truncated));
/// ```
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Insn, DecodeError> {
    let mut d = Decoder::new(bytes, mode);
    d.decode()?;
    d.insn.len = d.len();
    Ok(d.insn)
}

impl Decoder<'_> {
    #[inline]
    fn decode(&mut self) -> Result<(), DecodeError> {
        let mut opcode = self.u8()?;
        let mut entry = table::ONE_BYTE[usize::from(opcode)];
        if entry.form == Form::Prefix || self.is_rex(opcode) {
            (opcode, entry) = self.prefixes(opcode)?;
        }
        if entry.form <= Form::Group {
            if entry.form == Form::Escape {
                (opcode, entry) = self.escape()?;
            }
            match entry.form {
                Form::Group => entry = entry.group(self.peek()? >> 3),
                Form::Vex if self.is_vex()? => return self.vex(opcode),
                Form::Vex => entry = table::LOAD_FAR,
                _ => {}
            }
            if entry.form == Form::Missing {
                return Err(DecodeError::Unsupported);
            }
        }
        if entry.flags & table::RESTRICTED != 0 {
            self.restrictions(entry)?;
        }
        self.insn.op = entry.op;
        self.insn.cond = opcode & 15;
        self.sizes(entry);
        self.operands(entry, opcode)?;
        if entry.flags & table::MEM != 0 || self.insn.has(prefix::LOCK) {
            self.check_memory(entry)?;
        }
        Ok(())
    }

    #[inline]
    const fn is_rex(&self, byte: u8) -> bool {
        byte & 0xf0 == 0x40 && self.is_long()
    }

    /// Takes in `byte` and the prefixes after it, and returns the opcode byte that follows.
    fn prefixes(&mut self, mut byte: u8) -> Result<(u8, Entry), DecodeError> {
        // Each round takes a byte, so there are at most MAX_LEN.
        loop {
            let entry = table::ONE_BYTE[usize::from(byte)];
            if self.is_rex(byte) {
                self.rex = byte;
            } else if entry.form == Form::Prefix {
                // A REX prefix counts only as the last one.
                self.rex = 0;
                self.legacy_prefix(byte);
            } else {
                return Ok((byte, entry));
            }
            byte = self.u8()?;
        }
    }

    fn legacy_prefix(&mut self, byte: u8) {
        let bits = &mut self.insn.prefix;
        let flat = self.insn.mode == Mode::Long;
        match byte {
            0x26 if !flat => self.seg = Some(SegReg::Es),
            0x2e if !flat => self.seg = Some(SegReg::Cs),
            0x36 if !flat => self.seg = Some(SegReg::Ss),
            0x3e if !flat => self.seg = Some(SegReg::Ds),
            0x64 => self.seg = Some(SegReg::Fs),
            0x65 => self.seg = Some(SegReg::Gs),
            0x66 => self.opsize = true,
            0x67 => self.addrsize = true,
            0xf0 => *bits |= prefix::LOCK,
            0xf2 => *bits = *bits & !prefix::REPE | prefix::REPNE,
            0xf3 => *bits = *bits & !prefix::REPNE | prefix::REPE,
            _ => {}
        }
    }

    /// Reads the opcode after 0F.
    #[inline]
    fn escape(&mut self) -> Result<(u8, Entry), DecodeError> {
        let opcode = self.u8()?;
        if opcode != 0x38 {
            return Ok((opcode, table::TWO_BYTE[usize::from(opcode)]));
        }
        let opcode = self.u8()?;
        self.in_0f38 = true;
        match table::after_0f38(opcode) {
            Some(entry) => Ok((opcode, entry)),
            None => Err(DecodeError::Unsupported),
        }
    }

    /// Works out operand and address size (SDM vol. 1, tables 3-3 and 3-4).
    #[inline]
    pub(super) fn sizes(&mut self, entry: Entry) {
        let wide = matches!(self.insn.mode, Mode::Long | Mode::Protected32);
        let size = if entry.flags & table::BYTE != 0 {
            1
        } else if self.rex & rex::W != 0 {
            8
        } else if wide == self.opsize && entry.flags & table::NO_PREFIX == 0 {
            2
        } else if entry.flags & table::D64 != 0 && self.is_long() {
            8
        } else {
            4
        };
        self.insn.op_size = size;
        self.insn.src_size = size;
        self.insn.addr_size = match (self.insn.mode, self.addrsize) {
            (Mode::Long, false) => 8,
            (Mode::Long, true) | (Mode::Protected32, false) => 4,
            (Mode::Protected32, true) | (_, false) => 2,
            (_, true) => 4,
        };
    }

    /// Applies the flags of `entry` that depend on mode and prefixes.
    #[cold]
    fn restrictions(&self, entry: Entry) -> Result<(), DecodeError> {
        if entry.flags & table::NO64 != 0 && self.is_long() {
            return Err(match entry.op {
                // 62 is EVEX there.
                Op::Bound => DecodeError::Unsupported,
                _ => DecodeError::Invalid,
            });
        }
        if entry.flags & table::ONLY64 != 0 && !self.is_long() {
            return Err(DecodeError::Unsupported);
        }
        let rep = self.insn.has(prefix::REPE | prefix::REPNE);
        if entry.flags & table::NO_PREFIX != 0 && (self.opsize || rep) {
            return Err(DecodeError::Unsupported);
        }
        if entry.flags & table::NO_REP != 0 && rep {
            return Err(DecodeError::Unsupported);
        }
        Ok(())
    }

    /// Checks what is only allowed with an operand in memory.
    #[cold]
    fn check_memory(&self, entry: Entry) -> Result<(), DecodeError> {
        let insn = &self.insn;
        let locked = insn.has(prefix::LOCK);
        if entry.flags & table::MEM != 0 && insn.dst != Operand::Mem && insn.src != Operand::Mem {
            return Err(DecodeError::Unsupported);
        }
        if locked && (entry.flags & table::LOCK == 0 || insn.dst != Operand::Mem) {
            // LOCK with MOV CR0 is CR8 on AMD's processors.
            return Err(match insn.op {
                Op::MovCr => DecodeError::Unsupported,
                _ => DecodeError::Invalid,
            });
        }
        Ok(())
    }

    /// Reads the operands that `entry` calls for.
    #[inline]
    fn operands(&mut self, entry: Entry, opcode: u8) -> Result<(), DecodeError> {
        let size = self.insn.op_size;
        // Only MOV to a register has an immediate of 8 bytes.
        let imm_size = if size == 8 { 4 } else { size };
        let m = match entry.form.has_modrm() {
            true => self.modrm_inline()?,
            false => ModRm::default(),
        };
        match entry.form {
            Form::Mr | Form::Mri8 | Form::MrCl => {
                self.insn.dst = self.rm(m, size);
                self.insn.src = self.reg(m.reg, size);
                match entry.form {
                    Form::Mri8 => self.third_byte()?,
                    Form::MrCl => self.insn.third = Operand::Reg(Gpr::Rcx as u8),
                    _ => {}
                }
            }
            Form::Rm | Form::Rmi | Form::Rmi8 => {
                if matches!(entry.op, Op::Movzx | Op::Movsx) {
                    // B6 and BE have a byte as source, B7 and BF a word, 63 a double word.
                    self.insn.src_size = match opcode {
                        0x63 => imm_size,
                        _ => 1 + (opcode & 1),
                    };
                }
                self.insn.dst = self.reg(m.reg, size);
                self.insn.src = self.rm(m, self.insn.src_size);
                if entry.form != Form::Rm {
                    self.insn.third = Operand::Imm;
                    let bytes = if entry.form == Form::Rmi8 {
                        1
                    } else {
                        imm_size
                    };
                    self.insn.imm = self.signed(bytes)?;
                }
            }
            Form::M | Form::Mi | Form::Mi8 | Form::Mu8 | Form::M1 | Form::MCl => {
                self.insn.dst = self.rm(m, size);
                match entry.form {
                    Form::Mi => self.immediate(imm_size)?,
                    Form::Mi8 => self.immediate(1)?,
                    Form::Mu8 => self.immediate_u8()?,
                    Form::M1 => (self.insn.src, self.insn.imm) = (Operand::Imm, 1),
                    Form::MCl => self.insn.src = Operand::Reg(Gpr::Rcx as u8),
                    _ => self.only_operand(entry)?,
                }
            }
            Form::Sm => {
                let seg = SegReg::from_number(m.reg & 7).ok_or(DecodeError::Invalid)?;
                if seg == SegReg::Cs {
                    return Err(DecodeError::Invalid);
                }
                (self.insn.op_size, self.insn.src_size) = (2, 2);
                (self.insn.dst, self.insn.src) = (Operand::Seg(seg), self.rm(m, 2));
            }
            Form::Rsm => self.load_far(m, opcode)?,
            Form::Ms => {
                let seg = SegReg::from_number(m.reg & 7).ok_or(DecodeError::Invalid)?;
                self.insn.dst = self.rm(m, size);
                (self.insn.src, self.insn.src_size) = (Operand::Seg(seg), 2);
            }
            Form::Ai => {
                self.insn.dst = Operand::ACC;
                self.immediate(imm_size)?;
            }
            Form::O | Form::Oi | Form::Ao => self.opcode_register(entry, opcode)?,
            Form::I => self.immediate(imm_size)?,
            Form::I8 => self.immediate(1)?,
            Form::U8 => self.immediate_u8()?,
            Form::U16 => self.immediate_u16()?,
            Form::Near | Form::NearU16 | Form::NearI8 | Form::NearI => self.near(entry)?,
            Form::Far | Form::U16U8 => self.pair_of_immediates(entry)?,
            Form::S => self.opcode_segment(entry, opcode)?,
            Form::Fd | Form::Td => self.absolute(entry)?,
            Form::Zo => {}
            Form::String | Form::Port | Form::PortU8 => {
                if entry.form == Form::PortU8 {
                    self.immediate_u8()?;
                }
                self.insn.mem.seg = self.seg.unwrap_or(SegReg::Ds);
                let port = matches!(entry.op, Op::In | Op::Out | Op::Ins | Op::Outs);
                if port && size == 8 {
                    (self.insn.op_size, self.insn.src_size) = (4, 4);
                }
            }
            Form::FromCr | Form::ToCr => self.control(entry)?,
            Form::Vector => vector::decode(self, opcode, false)?,
            Form::Group7 => self.group7(entry)?,
            Form::Missing | Form::Prefix | Form::Escape | Form::Vex | Form::Group => {
                return Err(DecodeError::Unsupported)
            }
        }
        Ok(())
    }

    /// A sign-extended immediate as source.
    #[inline]
    fn immediate(&mut self, size: u8) -> Result<(), DecodeError> {
        self.insn.src = Operand::Imm;
        self.insn.imm = self.signed(size)?;
        Ok(())
    }

    /// A zero-extended byte as source.
    #[inline]
    fn immediate_u8(&mut self) -> Result<(), DecodeError> {
        self.insn.src = Operand::Imm;
        self.insn.imm = u64::from(self.u8()?);
        Ok(())
    }

    /// A zero-extended word as source.
    fn immediate_u16(&mut self) -> Result<(), DecodeError> {
        self.insn.src = Operand::Imm;
        self.insn.imm = u64::from(u16::from_le_bytes(self.array()?));
        Ok(())
    }

    /// The r/m operand of an instruction that has no other; some only read it.
    fn only_operand(&mut self, entry: Entry) -> Result<(), DecodeError> {
        match entry.op {
            Op::Call | Op::Jmp => self.near_size()?,
            // Intel's processors have a 64-bit offset with REX.W, AMD's ignore it.
            Op::CallFar | Op::JmpFar if self.insn.op_size == 8 => {
                return Err(DecodeError::Unsupported);
            }
            Op::CallFar | Op::JmpFar | Op::Push => {}
            // Selectors have two bytes in memory, whatever the operand size.
            Op::Lldt | Op::Ltr => self.insn.op_size = 2,
            Op::Sldt | Op::Str => {
                if self.insn.dst == Operand::Mem {
                    (self.insn.op_size, self.insn.src_size) = (2, 2);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.insn.src_size = self.insn.op_size;
        (self.insn.dst, self.insn.src) = (Operand::None, self.insn.dst);
        Ok(())
    }

    /// Near branches have 64-bit operands in 64-bit mode; what a prefix of 66 does there depends on the
    /// vendor.
    fn near_size(&mut self) -> Result<(), DecodeError> {
        if self.is_long() {
            if self.opsize {
                return Err(DecodeError::Unsupported);
            }
            (self.insn.op_size, self.insn.src_size) = (8, 8);
        }
        Ok(())
    }

    /// A near branch without ModRM byte.
    fn near(&mut self, entry: Entry) -> Result<(), DecodeError> {
        self.near_size()?;
        match entry.form {
            Form::NearI8 => self.immediate(1),
            Form::NearI => self.immediate(self.insn.op_size.min(4)),
            Form::NearU16 => self.immediate_u16(),
            _ => Ok(()),
        }
    }

    /// Offset and selector, with the selector from bit 32 on; or word and byte, from bit 16 on.
    fn pair_of_immediates(&mut self, entry: Entry) -> Result<(), DecodeError> {
        self.insn.src = Operand::Imm;
        self.insn.imm = if entry.form == Form::U16U8 {
            let word = u64::from(u16::from_le_bytes(self.array()?));
            word | u64::from(self.u8()?) << 16
        } else {
            let offset = match self.insn.op_size {
                2 => u64::from(u16::from_le_bytes(self.array()?)),
                _ => u64::from(u32::from_le_bytes(self.array()?)),
            };
            offset | u64::from(u16::from_le_bytes(self.array()?)) << 32
        };
        Ok(())
    }

    /// Bits 5 to 3 of the opcode name a segment register.
    fn opcode_segment(&mut self, entry: Entry, opcode: u8) -> Result<(), DecodeError> {
        let seg = SegReg::from_number(opcode >> 3 & 7).ok_or(DecodeError::Invalid)?;
        match entry.op {
            Op::Push => self.insn.src = Operand::Seg(seg),
            _ => self.insn.dst = Operand::Seg(seg),
        }
        Ok(())
    }

    /// LES and its kin: a register, and a segment register that the opcode names.
    fn load_far(&mut self, m: ModRm, opcode: u8) -> Result<(), DecodeError> {
        let size = self.insn.op_size;
        // As for far branches.
        if size == 8 {
            return Err(DecodeError::Unsupported);
        }
        let seg = match opcode {
            0xb2 => SegReg::Ss,
            0xb4 => SegReg::Fs,
            0xb5 => SegReg::Gs,
            0xc5 => SegReg::Ds,
            _ => SegReg::Es,
        };
        (self.insn.dst, self.insn.src) = (self.reg(m.reg, size), self.rm(m, size));
        self.insn.third = Operand::Seg(seg);
        Ok(())
    }

    /// A zero-extended byte as third operand.
    fn third_byte(&mut self) -> Result<(), DecodeError> {
        self.insn.third = Operand::Imm;
        self.insn.imm = u64::from(self.u8()?);
        Ok(())
    }

    /// The opcode's low bits name a register.
    fn opcode_register(&mut self, entry: Entry, opcode: u8) -> Result<(), DecodeError> {
        let size = self.insn.op_size;
        let number = opcode & 7 | (self.rex & rex::B) << 3;
        let reg = self.reg(number, size);
        match entry.form {
            Form::Oi => {
                self.insn.dst = reg;
                self.immediate(size)?;
            }
            Form::Ao if opcode == NOP && number == 0 => {
                let pause = self.insn.has(prefix::REPE);
                self.insn.op = if pause { Op::Pause } else { Op::Nop };
            }
            // With REX.B some processors pause and others exchange.
            Form::Ao if opcode == NOP && self.insn.has(prefix::REPE) => {
                return Err(DecodeError::Unsupported);
            }
            Form::Ao => (self.insn.dst, self.insn.src) = (Operand::ACC, reg),
            _ if entry.op == Op::Push => self.insn.src = reg,
            _ => self.insn.dst = reg,
        }
        Ok(())
    }

    /// The accumulator and an absolute address of the address size.
    fn absolute(&mut self, entry: Entry) -> Result<(), DecodeError> {
        self.insn.mem.disp = match self.insn.addr_size {
            2 => u64::from(u16::from_le_bytes(self.array()?)),
            4 => u64::from(u32::from_le_bytes(self.array()?)),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.insn.mem.seg = self.seg.unwrap_or(SegReg::Ds);
        (self.insn.dst, self.insn.src) = match entry.form {
            Form::Fd => (Operand::ACC, Operand::Mem),
            _ => (Operand::Mem, Operand::ACC),
        };
        Ok(())
    }
}

/// The opcode that would exchange RAX with itself.
const NOP: u8 = 0x90;
