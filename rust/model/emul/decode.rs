// SPDX-License-Identifier: GPL-2.0-only

//! From bytes to [`Insn`] (SDM vol. 2, ch. 2).

use super::insn::{prefix, Insn, Mem, Op, Operand};
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

/// Prefixes as they were met.
#[derive(Clone, Copy)]
pub(super) struct Prefixes {
    /// Bits of [`prefix`].
    pub(super) bits: u8,
    /// 66 was there.
    pub(super) opsize: bool,
    addrsize: bool,
    seg: Option<SegReg>,
    /// The REX byte, or the same bits of a VEX prefix; 0 if there is none.
    pub(super) rex: u8,
}

pub(super) const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

impl Prefixes {
    fn add(&mut self, byte: u8, mode: Mode) {
        // A REX prefix counts only as the last one.
        self.rex = 0;
        let flat = mode == Mode::Long;
        match byte {
            0x26 if !flat => self.seg = Some(SegReg::Es),
            0x2e if !flat => self.seg = Some(SegReg::Cs),
            0x36 if !flat => self.seg = Some(SegReg::Ss),
            0x3e if !flat => self.seg = Some(SegReg::Ds),
            0x64 => self.seg = Some(SegReg::Fs),
            0x65 => self.seg = Some(SegReg::Gs),
            0x66 => self.opsize = true,
            0x67 => self.addrsize = true,
            0xf0 => self.bits |= prefix::LOCK,
            0xf2 => self.bits = self.bits & !prefix::REPE | prefix::REPNE,
            0xf3 => self.bits = self.bits & !prefix::REPNE | prefix::REPE,
            _ => {}
        }
    }

    pub(super) const fn rep(&self) -> bool {
        self.bits & (prefix::REPE | prefix::REPNE) != 0
    }
}

/// The bytes and the position in them, with what the prefixes said.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    pos: usize,
    mode: Mode,
    pub(super) p: Prefixes,
    /// Whether the opcode came after 0F 38.
    pub(super) in_0f38: bool,
    /// The memory operand, once [`Decoder::modrm`] has met one.
    pub(super) mem: Mem,
}

/// A decoded ModRM byte.
#[derive(Clone, Copy)]
pub(super) struct ModRm {
    /// The reg field with its REX bit.
    pub(super) reg: u8,
    /// The r/m field with its REX bit; only for register forms.
    pub(super) rm: u8,
    /// Whether r/m is in memory.
    pub(super) is_mem: bool,
}

impl<'a> Decoder<'a> {
    #[inline]
    fn peek(&self) -> Result<u8, DecodeError> {
        match self.bytes.get(self.pos) {
            Some(&b) if self.pos < MAX_LEN => Ok(b),
            _ if self.pos >= MAX_LEN => Err(DecodeError::TooLong),
            _ => Err(DecodeError::Truncated),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let b = self.peek()?;
        self.pos = self.pos.wrapping_add(1);
        Ok(b)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let end = self.pos.wrapping_add(N);
        let found = self.bytes.get(self.pos..end);
        match found.and_then(|s| s.first_chunk::<N>()) {
            Some(a) if end <= MAX_LEN => {
                self.pos = end;
                Ok(*a)
            }
            // Whether the missing bytes exist does not matter when they may not be used.
            _ if end > MAX_LEN => Err(DecodeError::TooLong),
            _ => Err(DecodeError::Truncated),
        }
    }

    /// A sign-extended immediate or displacement of 1, 2, 4 or 8 bytes.
    fn signed(&mut self, size: u8) -> Result<u64, DecodeError> {
        Ok(match size {
            1 => i64::from(self.u8()? as i8) as u64,
            2 => i64::from(i16::from_le_bytes(self.array()?)) as u64,
            4 => i64::from(i32::from_le_bytes(self.array()?)) as u64,
            _ => u64::from_le_bytes(self.array()?),
        })
    }

    pub(super) const fn is_long(&self) -> bool {
        matches!(self.mode, Mode::Long)
    }

    fn addr_size(&self) -> u8 {
        match (self.mode, self.p.addrsize) {
            (Mode::Long, false) => 8,
            (Mode::Long, true) | (Mode::Protected32, false) => 4,
            (Mode::Protected32, true) => 2,
            (_, false) => 2,
            (_, true) => 4,
        }
    }

    fn op_size(&self, flags: u8) -> u8 {
        if flags & table::BYTE != 0 {
            return 1;
        }
        if self.is_long() {
            return match (self.p.rex & REX_W != 0, self.p.opsize) {
                (true, _) => 8,
                (false, true) => 2,
                (false, false) if flags & table::D64 != 0 => 8,
                (false, false) => 4,
            };
        }
        if (self.mode == Mode::Protected32) != self.p.opsize {
            4
        } else {
            2
        }
    }

    /// A general register as operand of `size` bytes.
    pub(super) const fn reg(&self, number: u8, size: u8) -> Operand {
        if size == 1 && self.p.rex == 0 && number >= 4 && number < 8 {
            Operand::Reg(Operand::HIGH_BYTE + (number - 4))
        } else {
            Operand::Reg(number)
        }
    }

    /// The r/m operand of `size` bytes.
    pub(super) const fn rm(&self, m: ModRm, size: u8) -> Operand {
        if m.is_mem {
            Operand::Mem
        } else {
            self.reg(m.rm, size)
        }
    }

    /// Reads the ModRM byte and what belongs to it.
    #[inline]
    pub(super) fn modrm(&mut self) -> Result<ModRm, DecodeError> {
        let byte = self.u8()?;
        let (mode, rm) = (byte >> 6, byte & 7);
        let modrm = ModRm {
            reg: byte >> 3 & 7 | (self.p.rex & REX_R) << 1,
            rm: rm | (self.p.rex & REX_B) << 3,
            is_mem: mode != 3,
        };
        if modrm.is_mem {
            if self.addr_size() == 2 {
                self.memory16(mode, rm)?;
            } else {
                self.memory(mode, rm)?;
            }
            if let Some(seg) = self.p.seg {
                self.mem.seg = seg;
            }
        }
        Ok(modrm)
    }

    /// A memory operand with 16-bit addressing (SDM vol. 2, table 2-1).
    fn memory16(&mut self, mode: u8, rm: u8) -> Result<(), DecodeError> {
        const BX: u8 = Gpr::Rbx as u8;
        const BP: u8 = Gpr::Rbp as u8;
        const SI: u8 = Gpr::Rsi as u8;
        const DI: u8 = Gpr::Rdi as u8;
        (self.mem.base, self.mem.index) = match rm {
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
        self.mem.disp = match mode {
            0 if rm == 6 => self.signed(2)?,
            0 => 0,
            1 => self.signed(1)?,
            _ => self.signed(2)?,
        };
        if self.mem.base == BP {
            self.mem.seg = SegReg::Ss;
        }
        Ok(())
    }

    /// A memory operand with 32- or 64-bit addressing (SDM vol. 2, tables 2-2 and 2-3).
    #[inline]
    fn memory(&mut self, mode: u8, rm: u8) -> Result<(), DecodeError> {
        let mut base = rm;
        if rm == 4 {
            let sib = self.u8()?;
            base = sib & 7;
            let index = sib >> 3 & 7 | (self.p.rex & REX_X) << 2;
            // Number 4 means none; with REX.X it is R12.
            if index != 4 {
                self.mem.index = index;
                self.mem.scale = sib >> 6;
            }
        }
        if mode == 0 && base == 5 {
            if rm == 5 && self.is_long() {
                self.mem.base = Mem::RIP;
            }
            self.mem.disp = self.signed(4)?;
            return Ok(());
        }
        self.mem.base = base | (self.p.rex & REX_B) << 3;
        if self.mem.base == Gpr::Rsp as u8 || self.mem.base == Gpr::Rbp as u8 {
            self.mem.seg = SegReg::Ss;
        }
        match mode {
            0 => {}
            1 => self.mem.disp = self.signed(1)?,
            _ => self.mem.disp = self.signed(4)?,
        }
        Ok(())
    }

    /// An instruction without operands as far as it is known now.
    pub(super) fn insn(&self, op: Op, op_size: u8) -> Insn {
        Insn {
            op,
            mode: self.mode,
            len: self.pos as u8,
            op_size,
            addr_size: self.addr_size(),
            src_size: op_size,
            cond: 0,
            prefix: self.p.bits,
            dst: Operand::None,
            src: Operand::None,
            third: Operand::None,
            mem: self.mem,
            imm: 0,
        }
    }

    /// Reads the operands that `entry` calls for.
    #[inline]
    fn operands(&mut self, entry: Entry, opcode: u8) -> Result<Insn, DecodeError> {
        let size = self.op_size(entry.flags);
        let imm_size = if size == 8 { 4 } else { size };
        let acc = Operand::ACC;
        let (mut dst, mut src, mut third, mut imm) =
            (Operand::None, Operand::None, Operand::None, 0);
        let mut src_size = size;
        match entry.form {
            Form::Zo => {}
            Form::Mr | Form::Mri8 | Form::MrCl => {
                let m = self.modrm()?;
                (dst, src) = (self.rm(m, size), self.reg(m.reg, size));
                match entry.form {
                    Form::Mri8 => (third, imm) = (Operand::Imm, u64::from(self.u8()?)),
                    Form::MrCl => third = Operand::Reg(Gpr::Rcx as u8),
                    _ => {}
                }
            }
            Form::Rm | Form::Rmi | Form::Rmi8 => {
                let m = self.modrm()?;
                match entry.op {
                    // B6 and BE have a byte as source, B7 and BF a word, 63 a double word.
                    Op::Movzx | Op::Movsx => {
                        src_size = match opcode {
                            0x63 => imm_size,
                            _ => 1 + (opcode & 1),
                        }
                    }
                    _ => {}
                }
                (dst, src) = (self.reg(m.reg, size), self.rm(m, src_size));
                match entry.form {
                    Form::Rmi => (third, imm) = (Operand::Imm, self.signed(imm_size)?),
                    Form::Rmi8 => (third, imm) = (Operand::Imm, self.signed(1)?),
                    _ => {}
                }
            }
            Form::M | Form::Mi | Form::Mi8 | Form::Mu8 | Form::M1 | Form::MCl => {
                let m = self.modrm()?;
                dst = self.rm(m, size);
                (src, imm) = match entry.form {
                    Form::M => (Operand::None, 0),
                    Form::Mi => (Operand::Imm, self.signed(imm_size)?),
                    Form::Mi8 => (Operand::Imm, self.signed(1)?),
                    Form::Mu8 => (Operand::Imm, u64::from(self.u8()?)),
                    Form::M1 => (Operand::Imm, 1),
                    _ => (Operand::Reg(Gpr::Rcx as u8), 0),
                };
                if entry.op == Op::Push {
                    (dst, src) = (Operand::None, dst);
                }
            }
            Form::Ms => {
                let m = self.modrm()?;
                let seg = SegReg::from_number(m.reg & 7).ok_or(DecodeError::Invalid)?;
                (dst, src, src_size) = (self.rm(m, size), Operand::Seg(seg), 2);
            }
            Form::Ai => (dst, src, imm) = (acc, Operand::Imm, self.signed(imm_size)?),
            Form::O | Form::Oi | Form::Ao => {
                let number = opcode & 7 | (self.p.rex & REX_B) << 3;
                let reg = self.reg(number, size);
                match entry.form {
                    Form::Oi => (dst, src, imm) = (reg, Operand::Imm, self.signed(size)?),
                    Form::Ao => (dst, src) = (acc, reg),
                    _ if entry.op == Op::Push => src = reg,
                    _ => dst = reg,
                }
            }
            Form::I => (src, imm) = (Operand::Imm, self.signed(imm_size)?),
            Form::I8 => (src, imm) = (Operand::Imm, self.signed(1)?),
            Form::U8 => (src, imm) = (Operand::Imm, u64::from(self.u8()?)),
            Form::Fd | Form::Td => {
                self.mem.disp = match self.addr_size() {
                    2 => u64::from(u16::from_le_bytes(self.array()?)),
                    4 => u64::from(u32::from_le_bytes(self.array()?)),
                    _ => u64::from_le_bytes(self.array()?),
                };
                self.mem.seg = self.p.seg.unwrap_or(SegReg::Ds);
                (dst, src) = match entry.form {
                    Form::Fd => (acc, Operand::Mem),
                    _ => (Operand::Mem, acc),
                };
            }
            Form::FromCr | Form::ToCr => return self.control(entry),
            Form::Vector => return vector::decode(self, opcode, false),
            Form::Group7 => return self.group7(),
            Form::Missing | Form::Prefix | Form::Escape | Form::Vex | Form::Group(_) => {
                return Err(DecodeError::Unsupported)
            }
        }
        let mut insn = self.insn(entry.op, size);
        (insn.dst, insn.src, insn.third) = (dst, src, third);
        (insn.imm, insn.src_size) = (imm, src_size);
        insn.cond = opcode & 15;
        Ok(insn)
    }

    /// MOV to or from control and debug registers: r/m is a register whatever its mod field says.
    fn control(&mut self, entry: Entry) -> Result<Insn, DecodeError> {
        let byte = self.u8()?;
        let number = byte >> 3 & 7 | (self.p.rex & REX_R) << 1;
        let gpr = Operand::Reg(byte & 7 | (self.p.rex & REX_B) << 3);
        let other = match (entry.op, number) {
            (Op::MovCr, 0 | 2 | 3 | 4 | 8) => Operand::Cr(number),
            (Op::MovDr, 0..=7) => Operand::Dr(number),
            _ => return Err(DecodeError::Invalid),
        };
        let mut insn = self.insn(entry.op, if self.is_long() { 8 } else { 4 });
        (insn.dst, insn.src) = match entry.form {
            Form::FromCr => (gpr, other),
            _ => (other, gpr),
        };
        Ok(insn)
    }

    /// 0F 01: memory forms by the reg field, register forms by the whole byte.
    fn group7(&mut self) -> Result<Insn, DecodeError> {
        let byte = self.peek()?;
        let plain = !self.p.opsize && !self.p.rep();
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
        if self.p.rep() {
            return Err(DecodeError::Unsupported);
        }
        let m = self.modrm()?;
        let mut insn = match op {
            Op::Lmsw => self.insn(op, 2),
            Op::Smsw if m.is_mem => self.insn(op, 2),
            _ => self.insn(op, self.op_size(0)),
        };
        match op {
            Op::Lmsw => insn.src = self.rm(m, 2),
            Op::Smsw | Op::Sgdt | Op::Sidt | Op::Lgdt | Op::Lidt | Op::Invlpg => {
                insn.dst = self.rm(m, insn.op_size)
            }
            _ => {}
        }
        Ok(insn)
    }

    /// C4 and C5. Outside 64-bit mode they are LES and LDS unless the next byte says register form.
    fn vex(&mut self, first: u8) -> Result<Insn, DecodeError> {
        let second = self.peek()?;
        if !self.is_long() && second & 0xc0 != 0xc0 {
            return Err(DecodeError::Unsupported);
        }
        if matches!(self.mode, Mode::Real | Mode::Virtual8086)
            || self.p.bits != 0
            || self.p.opsize
            || self.p.rex != 0
        {
            return Err(DecodeError::Invalid);
        }
        let second = self.u8()?;
        // The bits are stored inverted, and last has W, vvvv, L and pp.
        let (map, last) = if first == 0xc5 {
            self.p.rex = !second >> 5 & REX_R;
            (1, second & 0x7f)
        } else {
            let last = self.u8()?;
            self.p.rex = !second >> 5 | last >> 4 & REX_W;
            (second & 0x1f, last)
        };
        if !self.is_long() {
            self.p.rex &= REX_W;
        }
        self.p.bits = prefix::VEX;
        match last & 3 {
            1 => self.p.opsize = true,
            2 => self.p.bits |= prefix::REPE,
            3 => self.p.bits |= prefix::REPNE,
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
        vector::decode(self, opcode, last & 4 != 0)
    }
}

/// Decodes the instruction at the start of `bytes`, of which at most [`MAX_LEN`] count.
///
/// The length of the result never exceeds that of `bytes`.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Insn, DecodeError> {
    let mut d = Decoder {
        bytes,
        pos: 0,
        mode,
        p: Prefixes {
            bits: 0,
            opsize: false,
            addrsize: false,
            seg: None,
            rex: 0,
        },
        in_0f38: false,
        mem: Mem {
            seg: SegReg::Ds,
            base: Mem::NONE,
            index: Mem::NONE,
            scale: 0,
            disp: 0,
        },
    };
    // Each round takes a byte, so there are at most MAX_LEN.
    let mut opcode;
    let mut entry;
    loop {
        opcode = d.u8()?;
        if d.is_long() && opcode & 0xf0 == 0x40 {
            d.p.rex = opcode;
            continue;
        }
        entry = table::ONE_BYTE[usize::from(opcode)];
        if entry.form != Form::Prefix {
            break;
        }
        d.p.add(opcode, mode);
    }
    let mut escaped = false;
    if entry.form == Form::Escape {
        escaped = true;
        opcode = d.u8()?;
        entry = table::TWO_BYTE[usize::from(opcode)];
        if opcode == 0x38 {
            opcode = d.u8()?;
            entry = table::after_0f38(opcode).ok_or(DecodeError::Unsupported)?;
            d.in_0f38 = true;
        }
    }
    if entry.form == Form::Vex {
        return d.vex(opcode);
    }
    if let Form::Group(group) = entry.form {
        let inner = group.entry(d.peek()? >> 3);
        entry = Entry {
            flags: entry.flags | inner.flags,
            ..inner
        };
    }
    if entry.form == Form::Missing {
        return Err(DecodeError::Unsupported);
    }
    if entry.flags & (table::NO64 | table::ONLY64 | table::NO_PREFIX | table::NO_REP) != 0 {
        d.restrictions(entry)?;
    }
    let mut insn = d.operands(entry, opcode)?;
    if entry.flags & table::MEM != 0 && insn.dst != Operand::Mem && insn.src != Operand::Mem {
        return Err(DecodeError::Unsupported);
    }
    if insn.prefix & prefix::LOCK != 0
        && (entry.flags & table::LOCK == 0 || insn.dst != Operand::Mem)
    {
        // LOCK with MOV CR0 is CR8 on AMD's processors.
        return Err(match insn.op {
            Op::MovCr => DecodeError::Unsupported,
            _ => DecodeError::Invalid,
        });
    }
    if !escaped {
        special(&mut insn, opcode, &d)?;
    }
    insn.len = d.pos as u8;
    Ok(insn)
}

impl Decoder<'_> {
    /// Applies the flags of `entry` that depend on mode and prefixes.
    fn restrictions(&self, entry: Entry) -> Result<(), DecodeError> {
        if entry.flags & table::NO64 != 0 && self.is_long() {
            return Err(DecodeError::Invalid);
        }
        if entry.flags & table::ONLY64 != 0 && !self.is_long() {
            return Err(DecodeError::Unsupported);
        }
        if entry.flags & table::NO_PREFIX != 0 && (self.p.opsize || self.p.rep()) {
            return Err(DecodeError::Unsupported);
        }
        if entry.flags & table::NO_REP != 0 && self.p.rep() {
            return Err(DecodeError::Unsupported);
        }
        Ok(())
    }
}

/// One-byte opcodes that other rules change.
fn special(insn: &mut Insn, opcode: u8, d: &Decoder<'_>) -> Result<(), DecodeError> {
    match opcode {
        0x90 if insn.src == Operand::ACC => {
            let pause = insn.has(prefix::REPE);
            insn.op = if pause { Op::Pause } else { Op::Nop };
            (insn.dst, insn.src) = (Operand::None, Operand::None);
        }
        // With REX.B some processors pause and others exchange.
        0x90 if insn.has(prefix::REPE) => return Err(DecodeError::Unsupported),
        // Their ports have at most 32 bits.
        0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef if insn.op_size == 8 => insn.op_size = 4,
        _ => {}
    }
    if matches!(opcode, 0xa4..=0xa7 | 0xac | 0xad | 0x6e | 0x6f) {
        insn.mem.seg = d.p.seg.unwrap_or(SegReg::Ds);
    }
    Ok(())
}
