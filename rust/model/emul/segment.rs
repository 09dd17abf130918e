// SPDX-License-Identifier: GPL-2.0-only

//! Loading segment registers (SDM vol. 3, 3.4.5 and 5.6 to 5.8).

use super::addr::truncate;
use super::exec::Exec;
use super::insn::Operand;
use super::privileged::{Shadow, SystemReg, TableReg};
use super::{Access, Done, Machine, Mode, Stop};
use crate::model::x86::{ar, efer, is_canonical, vector, Exception, SegReg, Segment};

/// Bits of a selector.
pub(super) mod selector {
    /// The requested privilege level.
    pub const RPL: u16 = 3;
    /// The table is the local one.
    pub const LOCAL: u16 = 1 << 2;
    /// The offset of the descriptor.
    pub const OFFSET: u16 = !7;
}

/// Bytes of a descriptor, and of a system descriptor in IA-32e mode.
const DESCRIPTOR: usize = 8;
const LONG_DESCRIPTOR: usize = 16;

/// Where the type is in a descriptor.
const TYPE_BYTE: u64 = 5;

/// In the type of a TSS: busy.
const BUSY: u8 = 2;

/// The type bits of an available TSS, 16- and 32-bit; the latter is the 64-bit one in IA-32e mode.
const TSS16: u32 = 1;
const TSS32: u32 = 9;

/// A descriptor, where it is, and the selector that named it.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) selector: u16,
    linear: u64,
    raw: u64,
}

impl Descriptor {
    /// The access rights, as a segment register holds them.
    const fn rights(&self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    /// The segment register that it makes.
    pub(super) const fn segment(&self) -> Segment {
        let raw = self.raw;
        let rights = self.rights();
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        Segment {
            selector: self.selector,
            ar: rights,
            base: raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000,
            limit: match rights & ar::G {
                0 => limit,
                _ => limit << 12 | 0xfff,
            },
        }
    }

    /// A fault that names the selector.
    pub(super) const fn fault(&self, vector: u8) -> Stop {
        selector_fault(vector, self.selector)
    }
}

/// A fault that names a selector.
pub(super) const fn selector_fault(vector: u8, selector: u16) -> Stop {
    Stop::Fault(Exception::with_code(
        vector,
        (selector & !selector::RPL) as u32,
    ))
}

/// A segment register about to be loaded, and the descriptor that is to be marked as accessed.
#[derive(Clone, Copy)]
pub(super) struct Loaded {
    pub(super) segment: Segment,
    mark: Option<(u64, u8)>,
}

impl Loaded {
    /// The register without a descriptor.
    const fn plain(segment: Segment) -> Self {
        Self {
            segment,
            mark: None,
        }
    }

    /// A code or data segment, which becomes accessed.
    pub(super) const fn accessed(descriptor: &Descriptor) -> Self {
        let segment = descriptor.segment();
        Self {
            segment: Segment {
                ar: segment.ar | ar::ACCESSED,
                ..segment
            },
            mark: match segment.ar & ar::ACCESSED {
                0 => Some((
                    descriptor.linear.wrapping_add(TYPE_BYTE),
                    (descriptor.raw >> 40) as u8,
                )),
                _ => None,
            },
        }
    }

    /// A null selector, as privilege level `cpl` loads it.
    const fn null(selector: u16, cpl: u8) -> Self {
        Self::plain(Segment {
            selector,
            ar: ar::UNUSABLE | (cpl as u32) << ar::DPL_SHIFT,
            base: 0,
            limit: 0,
        })
    }
}

impl<M: Machine> Exec<'_, M> {
    /// Whether IA-32e mode is active.
    pub(super) fn is_ia32e(&self) -> bool {
        self.m.efer() & efer::LMA != 0
    }

    /// The linear address of the descriptor for `selector`, which must fit in `len` bytes.
    fn descriptor_address(&mut self, selector: u16, len: usize) -> Result<u64, Stop> {
        let offset = u64::from(selector & selector::OFFSET);
        let (base, limit) = if selector & selector::LOCAL != 0 {
            let table = self.m.system_segment(SystemReg::Ldtr)?;
            if table.is_unusable() {
                return Err(selector_fault(vector::GP, selector));
            }
            (table.base, u64::from(table.limit))
        } else {
            let table = self.m.table(TableReg::Gdtr)?;
            (table.base, u64::from(table.limit))
        };
        if offset.wrapping_add(len as u64).wrapping_sub(1) > limit {
            return Err(selector_fault(vector::GP, selector));
        }
        let linear = base.wrapping_add(offset);
        Ok(match self.is_ia32e() {
            true => linear,
            false => linear & 0xffff_ffff,
        })
    }

    /// Reads the descriptor for `selector`, which is not null.
    pub(super) fn descriptor(&mut self, selector: u16) -> Result<Descriptor, Stop> {
        let linear = self.descriptor_address(selector, DESCRIPTOR)?;
        let mut raw = [0; DESCRIPTOR];
        self.m.read_implicit(linear, &mut raw)?;
        Ok(Descriptor {
            selector,
            linear,
            raw: u64::from_le_bytes(raw),
        })
    }

    /// Checks that `selector` may be loaded into `reg`, which is not CS.
    pub(super) fn check_segment(&mut self, reg: SegReg, selector: u16) -> Result<Loaded, Stop> {
        if self.insn.mode == Mode::Real {
            return Ok(self.real_segment(reg, selector));
        }
        let cpl = self.m.cpl();
        if reg == SegReg::Ss {
            return self.check_stack(selector, cpl, Stop::Fault(self.gp()));
        }
        if selector & !selector::RPL == 0 {
            return Ok(Loaded::null(selector, cpl));
        }
        let descriptor = self.descriptor(selector)?;
        let segment = descriptor.segment();
        let rights = segment.ar;
        let code = rights & ar::CODE != 0;
        let conforming = code && rights & ar::CONFORMING != 0;
        let rpl = (selector & selector::RPL) as u8;
        let refused = rights & ar::S == 0
            || code && rights & ar::READABLE == 0
            || !conforming && (rpl > segment.dpl() || cpl > segment.dpl());
        if refused {
            return Err(descriptor.fault(vector::GP));
        }
        if rights & ar::P == 0 {
            return Err(descriptor.fault(vector::NP));
        }
        Ok(Loaded::accessed(&descriptor))
    }

    /// Checks that `selector` may be loaded into SS at privilege level `cpl`; `null` is the fault of a
    /// null selector.
    pub(super) fn check_stack(
        &mut self,
        selector: u16,
        cpl: u8,
        null: Stop,
    ) -> Result<Loaded, Stop> {
        let rpl = (selector & selector::RPL) as u8;
        if selector & !selector::RPL == 0 {
            // 64-bit code below privilege level 3 runs without a stack segment.
            return match self.insn.mode == Mode::Long && cpl < 3 && rpl == cpl {
                true => Ok(Loaded::null(selector, cpl)),
                false => Err(null),
            };
        }
        let descriptor = self.descriptor(selector)?;
        let segment = descriptor.segment();
        let kind = ar::S | ar::CODE | ar::WRITABLE;
        let data = segment.ar & kind == ar::S | ar::WRITABLE;
        if !data || rpl != cpl || segment.dpl() != cpl {
            return Err(descriptor.fault(vector::GP));
        }
        if segment.ar & ar::P == 0 {
            return Err(descriptor.fault(vector::SS));
        }
        Ok(Loaded::accessed(&descriptor))
    }

    /// Real mode changes selector and base only: limits and rights stay as protected mode left them.
    pub(super) fn real_segment(&mut self, reg: SegReg, selector: u16) -> Loaded {
        Loaded::plain(Segment {
            selector,
            base: u64::from(selector) << 4,
            ..self.m.segment(reg)
        })
    }

    /// Marks the descriptor as accessed.
    pub(super) fn mark_accessed(&mut self, loaded: &Loaded) -> Result<(), Stop> {
        let Some((linear, old)) = loaded.mark else {
            return Ok(());
        };
        match self
            .m
            .cmpxchg_implicit(linear, old, old | ar::ACCESSED as u8)?
        {
            true => Ok(()),
            false => Err(Stop::Retry),
        }
    }

    /// Loads a segment register that was checked.
    pub(super) fn put_segment(&mut self, reg: SegReg, loaded: &Loaded) -> Result<(), Stop> {
        self.mark_accessed(loaded)?;
        self.m.set_segment(reg, loaded.segment)
    }

    /// MOV to a segment register.
    pub(super) fn mov_segment(&mut self) -> Result<Done, Stop> {
        let Operand::Seg(reg) = self.insn.dst else {
            return Err(Stop::Unhandled);
        };
        let selector = self.load(self.insn.src, 2)? as u16;
        let loaded = self.check_segment(reg, selector)?;
        self.put_segment(reg, &loaded)?;
        self.m.retire(self.next_rip);
        if reg == SegReg::Ss {
            self.m.set_shadow(Shadow::MovSs)?;
        }
        Ok(Done::Retired)
    }

    /// Reads a far pointer in memory: offset and selector, which are accesses of their own.
    pub(super) fn far_pointer(&mut self) -> Result<(u64, u16), Stop> {
        let size = self.insn.op_size;
        let at = super::addr::effective(self.m, self.insn, self.next_rip);
        let seg = self.insn.mem.seg;
        let offset = self.data_address(seg, at, size, Access::Read)?;
        let offset = self.read(offset, size, Access::Read)?;
        let second = truncate(at.wrapping_add(size.into()), self.insn.addr_size);
        let selector = self.data_address(seg, second, 2, Access::Read)?;
        let selector = self.read(selector, 2, Access::Read)?;
        Ok((offset, selector as u16))
    }

    /// LES and its kin.
    pub(super) fn load_far(&mut self) -> Result<Done, Stop> {
        let Operand::Seg(reg) = self.insn.third else {
            return Err(Stop::Unhandled);
        };
        let (offset, selector) = self.far_pointer()?;
        let loaded = self.check_segment(reg, selector)?;
        self.put_segment(reg, &loaded)?;
        self.set_reg(self.insn.dst, self.insn.op_size, offset);
        self.retire()
    }

    /// LLDT and LTR.
    pub(super) fn load_system_segment(&mut self, reg: SystemReg) -> Result<Done, Stop> {
        if self.insn.mode == Mode::Real {
            return Err(Stop::Fault(Exception::ud()));
        }
        self.check_supervisor()?;
        let selector = self.load(self.insn.src, 2)? as u16;
        if selector & !selector::RPL == 0 {
            if reg == SystemReg::Tr {
                return Err(Stop::Fault(self.gp()));
            }
            let none = Loaded::null(selector, 0).segment;
            self.m.set_system_segment(reg, none)?;
            return self.retire();
        }
        if selector & selector::LOCAL != 0 {
            return Err(selector_fault(vector::GP, selector));
        }
        let long = self.is_ia32e();
        let len = if long { LONG_DESCRIPTOR } else { DESCRIPTOR };
        let linear = self.descriptor_address(selector, len)?;
        let mut raw = [0; LONG_DESCRIPTOR];
        let bytes = raw.get_mut(..len).ok_or(Stop::Unhandled)?;
        self.m.read_implicit(linear, bytes)?;
        let both = u128::from_le_bytes(raw);
        let descriptor = Descriptor {
            selector,
            linear,
            raw: both as u64,
        };
        let mut segment = descriptor.segment();
        let kind = segment.ar & (ar::TYPE | ar::S);
        let known = match reg {
            SystemReg::Ldtr => kind == ar::TYPE_LDT,
            SystemReg::Tr => kind == TSS32 || kind == TSS16 && !long,
        };
        // The type field of the upper half must be 0.
        let upper = (both >> 64) as u64;
        segment.base |= upper << 32;
        let legal = upper >> 40 & 0x1f == 0 && is_canonical(segment.base, self.m.linear_width());
        if !known || long && !legal {
            return Err(descriptor.fault(vector::GP));
        }
        if segment.ar & ar::P == 0 {
            return Err(descriptor.fault(vector::NP));
        }
        if reg == SystemReg::Tr {
            let old = (descriptor.raw >> 40) as u8;
            let at = linear.wrapping_add(TYPE_BYTE);
            if !self.m.cmpxchg_implicit(at, old, old | BUSY)? {
                return Err(Stop::Retry);
            }
            segment.ar |= u32::from(BUSY);
        }
        self.m.set_system_segment(reg, segment)?;
        self.retire()
    }
}
