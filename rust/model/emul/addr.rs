// SPDX-License-Identifier: GPL-2.0-only

//! From operands to linear addresses: effective addresses, segments, canonical and alignment checks.

use super::decode::MAX_LEN;
use super::exec::Exec;
use super::insn::{Insn, Mem};
use super::{Access, Machine, Mode, Stop};
use crate::model::addr::PAGE_SIZE;
use crate::model::x86::{ar, cr0, is_canonical, rflags, vector, Exception, Gpr, SegReg, Segment};

/// The largest access that is checked for alignment in bytes. For larger ones it is the processor's
/// choice (SDM vol. 3, 6.15, "Interrupt 17"), or they have rules of their own.
const LARGEST_CHECKED: u8 = 8;

/// The privilege level at which alignment is checked.
const USER: u8 = 3;

/// Splits an access of `len` bytes at `linear` into the bytes in its first page and those after.
/// `len` must not exceed a page.
pub const fn split_at_page(linear: u64, len: usize) -> (usize, usize) {
    let room = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
    if len as u64 <= room {
        (len, 0)
    } else {
        (room as usize, len - room as usize)
    }
}

/// `value` cut to `size` bytes, 1 to 8.
pub const fn truncate(value: u64, size: u8) -> u64 {
    value & (u64::MAX >> (64u32.wrapping_sub(size as u32 * 8) & 63))
}

/// A linear address cut to what `mode` has.
pub(super) const fn wrap(linear: u64, mode: Mode) -> u64 {
    match mode {
        Mode::Long => linear,
        _ => truncate(linear, 4),
    }
}

/// A fault of segmentation: real mode pushes no error code.
const fn fault(vector: u8, mode: Mode) -> Exception {
    match mode {
        Mode::Real => Exception::new(vector),
        _ => Exception::with_code(vector, 0),
    }
}

/// #GP(0).
pub(super) const fn gp(mode: Mode) -> Exception {
    fault(vector::GP, mode)
}

/// Whether bytes `offset` to `offset + len - 1` are within the limit (SDM vol. 3, 5.3).
fn within_limit(segment: &Segment, offset: u64, len: u64, mode: Mode) -> bool {
    let last = offset.wrapping_add(len).wrapping_sub(1);
    let limit = u64::from(segment.limit);
    let expands_down = segment.ar & (ar::CODE | ar::EXPAND_DOWN) == ar::EXPAND_DOWN;
    if mode != Mode::Real && expands_down {
        let top = match segment.ar & ar::DB {
            0 => 0xffff,
            _ => 0xffff_ffff,
        };
        return offset > limit && last <= top;
    }
    last <= limit
}

/// Whether the segment's type and presence allow the access (SDM vol. 3, 5.5 and 6.15).
const fn allows(segment: &Segment, access: Access) -> bool {
    if segment.is_unusable() {
        return false;
    }
    let code = segment.ar & ar::CODE != 0;
    match access {
        // The same bit means readable for code and writable for data.
        Access::Read => !code || segment.ar & ar::READABLE != 0,
        Access::Write | Access::Modify => !code && segment.ar & ar::WRITABLE != 0,
    }
}

/// Checks an access of `len` bytes at `seg:offset` and returns its linear address.
#[inline]
pub(super) fn linear<M: Machine>(
    m: &mut M,
    mode: Mode,
    seg: SegReg,
    offset: u64,
    len: u64,
    access: Access,
) -> Result<u64, Stop> {
    let vector = match seg {
        SegReg::Ss => vector::SS,
        _ => vector::GP,
    };
    let address = if mode == Mode::Long {
        let base = match seg {
            SegReg::Fs | SegReg::Gs => m.segment_base(seg),
            _ => 0,
        };
        let first = base.wrapping_add(offset);
        let last = first.wrapping_add(len.wrapping_sub(1));
        let width = m.linear_width();
        if !is_canonical(first, width) || !is_canonical(last, width) {
            return Err(Stop::Fault(fault(vector, mode)));
        }
        first
    } else {
        let segment = m.segment(seg);
        if !within_limit(&segment, offset, len, mode)
            || mode != Mode::Real && !allows(&segment, access)
        {
            return Err(Stop::Fault(fault(vector, mode)));
        }
        wrap(segment.base.wrapping_add(offset), mode)
    };
    Ok(address)
}

/// The linear address of `seg:offset`, which nobody is going to access.
pub(super) fn unchecked<M: Machine>(m: &mut M, mode: Mode, seg: SegReg, offset: u64) -> u64 {
    let base = match (mode, seg) {
        (Mode::Long, SegReg::Es | SegReg::Cs | SegReg::Ss | SegReg::Ds) => 0,
        _ => m.segment_base(seg),
    };
    wrap(base.wrapping_add(offset), mode)
}

/// The linear address of the instruction at RIP, and how many bytes may be fetched, 1 to [`MAX_LEN`].
pub(super) fn code<M: Machine>(m: &mut M, mode: Mode) -> Result<(u64, usize), Stop> {
    let rip = m.rip();
    if mode == Mode::Long {
        return if is_canonical(rip, m.linear_width()) {
            Ok((rip, MAX_LEN))
        } else {
            Err(Stop::Fault(gp(mode)))
        };
    }
    let cs = m.segment(SegReg::Cs);
    let rip = truncate(rip, 4);
    match u64::from(cs.limit).checked_sub(rip) {
        Some(rest) => {
            let allowed = rest.saturating_add(1).min(MAX_LEN as u64) as usize;
            Ok((wrap(cs.base.wrapping_add(rip), mode), allowed))
        }
        None => Err(Stop::Fault(gp(mode))),
    }
}

/// The effective address of the memory operand: the offset within its segment.
#[inline]
pub(super) fn effective<M: Machine>(m: &M, insn: &Insn, next_rip: u64) -> u64 {
    effective_with(insn, next_rip, |reg| m.gpr(reg))
}

/// The effective address, with registers from `gpr`.
#[inline(always)]
pub(super) fn effective_with(insn: &Insn, next_rip: u64, gpr: impl Fn(Gpr) -> u64) -> u64 {
    let mem = &insn.mem;
    let mut offset = mem.disp;
    match mem.base {
        Mem::NONE => {}
        Mem::RIP => offset = offset.wrapping_add(next_rip),
        n => offset = offset.wrapping_add(gpr(Gpr::from_low4(n))),
    }
    if mem.index != Mem::NONE {
        let index = gpr(Gpr::from_low4(mem.index));
        offset = offset.wrapping_add(index << (mem.scale & 3));
    }
    truncate(offset, insn.addr_size)
}

impl<M: Machine> Exec<'_, M> {
    /// #GP(0) in the current mode.
    pub(super) fn gp(&self) -> Exception {
        gp(self.insn.mode)
    }

    /// The linear address of the memory operand, for an access of `len` bytes.
    #[inline]
    pub(super) fn operand_address(&mut self, len: u8, access: Access) -> Result<u64, Stop> {
        let offset = effective(self.m, self.insn, self.next_rip);
        self.data_address(self.insn.mem.seg, offset, len, access)
    }

    /// The linear address of `seg:offset` for an access of `len` bytes.
    #[inline]
    pub(super) fn data_address(
        &mut self,
        seg: SegReg,
        offset: u64,
        len: u8,
        access: Access,
    ) -> Result<u64, Stop> {
        self.aligned_address(seg, offset, len, len, access)
    }

    /// The linear address of `seg:offset` for an access of `len` bytes that may have to be aligned to
    /// `align`, a power of two.
    #[inline]
    pub(super) fn aligned_address(
        &mut self,
        seg: SegReg,
        offset: u64,
        len: u8,
        align: u8,
        access: Access,
    ) -> Result<u64, Stop> {
        let address = linear(self.m, self.insn.mode, seg, offset, u64::from(len), access)?;
        let misaligned = address & u64::from(align).wrapping_sub(1) != 0;
        if misaligned && align <= LARGEST_CHECKED && self.checks_alignment() {
            return Err(Stop::Fault(Exception::ac()));
        }
        Ok(address)
    }

    /// Whether a misaligned access raises #AC.
    fn checks_alignment(&self) -> bool {
        self.m.rflags() & rflags::AC != 0 && self.m.cr0() & cr0::AM != 0 && self.m.cpl() == USER
    }
}
