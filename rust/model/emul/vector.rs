// SPDX-License-Identifier: GPL-2.0-only

//! Moves between memory and vector registers.

use super::decode::DecodeError;
use super::exec::Exec;
use super::insn::{prefix, Op, Operand};
use super::modrm::{rex, Decoder};
use super::{Access, Done, Machine, Stop, MAX_ACCESS};
use crate::model::x86::{cr0, cr4, xcr0, Exception};

/// MOVNTDQA's opcode after 0F 38.
pub(super) const MOVNTDQA: u8 = 0x2a;

/// The mandatory prefix.
#[derive(Clone, Copy, PartialEq)]
enum Mandatory {
    None,
    P66,
    F3,
    F2,
}

/// Decodes a vector move after its opcode. `wide` is VEX.L.
#[cold]
pub(super) fn decode(d: &mut Decoder<'_>, opcode: u8, wide: bool) -> Result<(), DecodeError> {
    use Mandatory::{None as Np, F2, F3, P66};
    let mandatory = match d.insn.prefix & (prefix::REPE | prefix::REPNE) {
        prefix::REPE => F3,
        prefix::REPNE => F2,
        _ if d.opsize => P66,
        _ => Np,
    };
    d.insn.prefix &= prefix::LOCK | prefix::VEX;
    let vex = d.insn.prefix & prefix::VEX != 0;
    let full = if wide { 32 } else { 16 };
    let w = if d.rex & rex::W != 0 && d.is_long() {
        8
    } else {
        4
    };
    let (op, size) = match (d.in_0f38, opcode, mandatory) {
        (true, MOVNTDQA, P66) => (Op::VecLoadAligned, full),
        (true, ..) => return Err(DecodeError::Unsupported),
        (_, 0x10, Np | P66) => (Op::VecLoad, full),
        (_, 0x11, Np | P66) => (Op::VecStore, full),
        (_, 0x10, F3) => (Op::VecLoad, 4),
        (_, 0x11, F3) => (Op::VecStore, 4),
        (_, 0x10, F2) => (Op::VecLoad, 8),
        (_, 0x11, F2) => (Op::VecStore, 8),
        (_, 0x12, Np | P66) if !vex => (Op::VecLoadLow, 8),
        (_, 0x13, Np | P66) if !wide => (Op::VecStore, 8),
        (_, 0x16, Np | P66) if !vex => (Op::VecLoadHigh, 8),
        (_, 0x17, Np | P66) if !wide => (Op::VecStoreHigh, 8),
        (_, 0x28, Np | P66) | (_, 0x6f, P66) => (Op::VecLoadAligned, full),
        (_, 0x29 | 0x2b, Np | P66) | (_, 0x7f | 0xe7, P66) => (Op::VecStoreAligned, full),
        (_, 0x6f, F3) => (Op::VecLoad, full),
        (_, 0x7f, F3) => (Op::VecStore, full),
        (_, 0x6e, P66) if !wide => (Op::VecLoad, w),
        (_, 0x7e, P66) if !wide => (Op::VecStore, w),
        (_, 0x7e, F3) if !wide => (Op::VecLoad, 8),
        (_, 0xd6, P66) if !wide => (Op::VecStore, 8),
        _ => return Err(DecodeError::Unsupported),
    };
    let m = d.modrm()?;
    if !m.is_mem {
        return Err(DecodeError::Unsupported);
    }
    (d.insn.op, d.insn.op_size, d.insn.src_size) = (op, size, size);
    let load = matches!(
        op,
        Op::VecLoad | Op::VecLoadAligned | Op::VecLoadLow | Op::VecLoadHigh
    );
    (d.insn.dst, d.insn.src) = if load {
        (Operand::Vec(m.reg), Operand::Mem)
    } else {
        (Operand::Mem, Operand::Vec(m.reg))
    };
    Ok(())
}

/// Bytes of an XMM register.
const XMM: usize = 16;

/// Bytes of half of it.
const HALF: usize = 8;

impl<M: Machine> Exec<'_, M> {
    /// Whether vector instructions may be used at all (SDM vol. 1, 13.1 and tables 2-19 ff. of vol. 2).
    fn check_vector_enabled(&mut self) -> Result<(), Stop> {
        let (c0, c4) = (self.m.cr0(), self.m.cr4());
        let enabled = if self.insn.has(prefix::VEX) {
            let avx = xcr0::SSE | xcr0::AVX;
            c4 & cr4::OSXSAVE != 0 && self.m.xcr0() & avx == avx
        } else {
            c0 & cr0::EM == 0 && c4 & cr4::OSFXSR != 0
        };
        if !enabled {
            return Err(Stop::Fault(Exception::ud()));
        }
        if c0 & cr0::TS != 0 {
            return Err(Stop::Fault(Exception::nm()));
        }
        Ok(())
    }

    /// Executes a vector move.
    pub(super) fn vector(&mut self) -> Result<Done, Stop> {
        self.check_vector_enabled()?;
        let insn = self.insn;
        let size = usize::from(insn.op_size);
        let aligned = matches!(insn.op, Op::VecLoadAligned | Op::VecStoreAligned);
        let mut buf = [0; MAX_ACCESS];
        match (insn.dst, insn.src) {
            (Operand::Vec(reg), Operand::Mem) => {
                let linear = self.vector_address(aligned, Access::Read)?;
                let merge = match insn.op {
                    Op::VecLoadLow => Some(0..HALF),
                    Op::VecLoadHigh => Some(HALF..XMM),
                    _ => None,
                };
                if let Some(part) = merge {
                    self.m
                        .vector(reg, buf.get_mut(..XMM).ok_or(Stop::Unhandled)?)?;
                    let half = buf.get_mut(part).ok_or(Stop::Unhandled)?;
                    self.m.read(linear, half, Access::Read)?;
                } else {
                    let low = buf.get_mut(..size).ok_or(Stop::Unhandled)?;
                    self.m.read(linear, low, Access::Read)?;
                }
                let value = buf.get(..size.max(XMM)).ok_or(Stop::Unhandled)?;
                self.m.set_vector(reg, value, insn.has(prefix::VEX))?;
            }
            (Operand::Mem, Operand::Vec(reg)) => {
                let linear = self.vector_address(aligned, Access::Write)?;
                let value = buf.get_mut(..size.max(XMM)).ok_or(Stop::Unhandled)?;
                self.m.vector(reg, value)?;
                let part = match insn.op {
                    Op::VecStoreHigh => HALF..XMM,
                    _ => 0..size,
                };
                self.m
                    .write(linear, buf.get(part).ok_or(Stop::Unhandled)?)?;
            }
            _ => return Err(Stop::Unhandled),
        }
        self.retire()
    }

    /// The linear address of the memory operand; #GP(0) when it must be aligned and is not.
    fn vector_address(&mut self, aligned: bool, access: Access) -> Result<u64, Stop> {
        let size = self.insn.op_size;
        let linear = self.operand_address(size, access)?;
        if aligned && linear & u64::from(size).wrapping_sub(1) != 0 {
            return Err(Stop::Fault(self.gp()));
        }
        Ok(linear)
    }
}
