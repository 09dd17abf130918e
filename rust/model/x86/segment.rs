// SPDX-License-Identifier: GPL-2.0-only

//! Segment registers and their hidden parts.

/// Access rights of a segment in the layout of the VMCS (SDM vol. 3, table 25-2).
pub mod ar {
    /// The type field, four bits.
    pub const TYPE: u32 = 0xf;
    /// In the type of a data or code segment: accessed.
    pub const ACCESSED: u32 = 1 << 0;
    /// In the type of a data segment: writable.
    pub const WRITABLE: u32 = 1 << 1;
    /// In the type of a code segment: readable.
    pub const READABLE: u32 = 1 << 1;
    /// In the type of a data segment: expands down.
    pub const EXPAND_DOWN: u32 = 1 << 2;
    /// In the type of a code segment: conforming.
    pub const CONFORMING: u32 = 1 << 2;
    /// In the type: a code segment.
    pub const CODE: u32 = 1 << 3;
    /// Descriptor type: 1 for code and data, 0 for system.
    pub const S: u32 = 1 << 4;
    /// Descriptor privilege level, two bits.
    pub const DPL: u32 = 3 << DPL_SHIFT;
    /// The lowest bit of [`DPL`].
    pub const DPL_SHIFT: u32 = 5;
    /// Present.
    pub const P: u32 = 1 << 7;
    /// Available to software.
    pub const AVL: u32 = 1 << 12;
    /// 64-bit code segment.
    pub const L: u32 = 1 << 13;
    /// Default operand size (code), stack-pointer size (stack): 32 bits.
    pub const DB: u32 = 1 << 14;
    /// The descriptor's limit counted 4-KiB units.
    pub const G: u32 = 1 << 15;
    /// The register holds a null selector or nothing usable.
    pub const UNUSABLE: u32 = 1 << 16;

    /// Type of a busy 16-bit TSS.
    pub const TYPE_TSS16_BUSY: u32 = 3;
    /// Type of an LDT.
    pub const TYPE_LDT: u32 = 2;
    /// Type of a busy 32-bit or 64-bit TSS.
    pub const TYPE_TSS_BUSY: u32 = 11;
}

/// A segment register, numbered as instructions encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SegReg {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

impl SegReg {
    /// How many there are.
    pub const COUNT: usize = 6;

    /// The register with number `n`, or `None` above 5.
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Es),
            1 => Some(Self::Cs),
            2 => Some(Self::Ss),
            3 => Some(Self::Ds),
            4 => Some(Self::Fs),
            5 => Some(Self::Gs),
            _ => None,
        }
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Access rights, made of the bits in [`ar`].
    pub ar: u32,
    /// The linear address of the segment's first byte.
    pub base: u64,
    /// The last valid offset in bytes (granularity already applied).
    pub limit: u32,
}

impl Segment {
    /// The descriptor's privilege level, 0 to 3.
    pub const fn dpl(&self) -> u8 {
        ((self.ar & ar::DPL) >> ar::DPL_SHIFT) as u8
    }

    /// Whether the register holds nothing usable.
    pub const fn is_unusable(&self) -> bool {
        self.ar & ar::UNUSABLE != 0
    }

    /// A flat 4-GiB segment with the given selector and access rights.
    pub const fn flat(selector: u16, ar: u32) -> Self {
        Self {
            selector,
            ar,
            base: 0,
            limit: u32::MAX,
        }
    }

    /// A descriptor table, of which base and limit are all.
    pub const fn table(base: u64, limit: u16) -> Self {
        Self {
            selector: 0,
            ar: 0,
            base,
            limit: limit as u32,
        }
    }

    /// A segment as a load in real mode makes it from a reset state: base from the selector, 64 KiB,
    /// accessed read-write data (code in CS behaves the same).
    pub const fn real_mode(selector: u16) -> Self {
        Self {
            selector,
            ar: ar::P | ar::S | ar::WRITABLE | ar::ACCESSED,
            base: (selector as u64) << 4,
            limit: 0xffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for n in 0..6u8 {
            assert_eq!(
                SegReg::from_number(n).map(SegReg::index),
                Some(usize::from(n))
            );
        }
        assert_eq!(SegReg::from_number(6), None);
    }

    #[test]
    fn fields() {
        let user = Segment::flat(0x2b, ar::P | ar::S | ar::DPL | ar::WRITABLE);
        assert_eq!(user.dpl(), 3);
        assert!(!user.is_unusable());
        assert_eq!(Segment::real_mode(0xf000).base, 0xf_0000);
    }
}
