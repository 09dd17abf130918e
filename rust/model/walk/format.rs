// SPDX-License-Identifier: GPL-2.0-only

//! The formats of paging-structure entries (SDM vol. 3, tables 4-4 to 4-20).

use super::Config;
use crate::model::addr::PAGE_SHIFT;

/// The most levels of any format.
pub(super) const MAX_LEVELS: usize = 5;

/// Bits of an entry.
pub(super) mod entry {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const W: u64 = 1 << 1;
    /// User-mode accesses allowed.
    pub const U: u64 = 1 << 2;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty.
    pub const D: u64 = 1 << 6;
    /// Page size: the entry maps a page.
    pub const PS: u64 = 1 << 7;
    /// No execute.
    pub const NX: u64 = 1 << 63;
    /// The lowest bit of the protection key, four bits.
    pub const KEY_SHIFT: u32 = 59;
}

/// The formats of guest page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// CR0.PG is clear: linear addresses are physical ones.
    Off,
    /// 32-bit entries, two levels.
    TwoLevel,
    /// 64-bit entries for 32-bit addresses.
    Pae,
    /// 48-bit addresses.
    FourLevel,
    /// 57-bit addresses.
    FiveLevel,
}

impl Paging {
    /// How many levels of tables there are; level 1 maps 4-KiB pages.
    pub const fn levels(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::TwoLevel => 2,
            Self::Pae => 3,
            Self::FourLevel => 4,
            Self::FiveLevel => 5,
        }
    }

    /// Address bits that a level translates.
    const fn index_bits(self) -> u32 {
        match self {
            Self::TwoLevel => 10,
            _ => 9,
        }
    }

    /// The lowest address bit that `level`, 1 to 5, translates.
    const fn shift(self, level: u32) -> u32 {
        PAGE_SHIFT.wrapping_add(level.saturating_sub(1).wrapping_mul(self.index_bits()))
    }
}

/// Bits `low` to `high` set, both at most 63; none if `low` exceeds `high`.
pub(super) const fn bits(high: u32, low: u32) -> u64 {
    if low > high {
        return 0;
    }
    (u64::MAX >> (63u32.wrapping_sub(high) & 63)) & (u64::MAX << (low & 63))
}

/// Address bits of 64-bit entries.
pub(super) const ADDRESS: u64 = bits(51, 12);

/// The address of the top table.
pub(super) const fn root(config: &Config) -> u64 {
    config.cr3
        & match config.paging {
            Paging::TwoLevel => bits(31, 12),
            Paging::Pae => bits(31, 5),
            _ => ADDRESS,
        }
}

/// The offset in bytes within the table of `level` of the entry for `gva`.
pub(super) const fn entry_offset(paging: Paging, level: u32, gva: u64) -> u64 {
    let index = gva >> (paging.shift(level) & 63);
    match paging {
        Paging::TwoLevel => (index & 0x3ff) * 4,
        // 32-bit addresses leave two bits for the top level.
        Paging::Pae if level == 3 => (index & 3) * 8,
        _ => (index & 0x1ff) * 8,
    }
}

/// Bytes that an entry of `level` maps.
pub(super) const fn span(paging: Paging, level: u32) -> u64 {
    1 << (paging.shift(level) & 63)
}

/// Whether an entry of `level` maps a page.
pub(super) const fn is_leaf(config: &Config, level: u32, value: u64) -> bool {
    let ps = value & entry::PS != 0;
    match (config.paging, level) {
        (_, 1) => true,
        (Paging::TwoLevel, 2) => ps && config.pse,
        (Paging::Pae, 2) => ps,
        (Paging::FourLevel | Paging::FiveLevel, 2) => ps,
        (Paging::FourLevel | Paging::FiveLevel, 3) => ps && config.pages_1g,
        _ => false,
    }
}

/// Whether an entry of `level` has R/W, U/S and NX: the four top entries of PAE have not.
pub(super) const fn has_rights(paging: Paging, level: u32) -> bool {
    !matches!((paging, level), (Paging::Pae, 3))
}

/// The bits that must be clear in a present entry.
pub(super) const fn reserved(config: &Config, level: u32, leaf: bool) -> u64 {
    let width = config.maxphyaddr as u32;
    if matches!(config.paging, Paging::TwoLevel) {
        // A 4-MiB page has physical-address bits 39 to 32 in bits 20 to 13.
        let above = width.saturating_sub(32).saturating_add(13);
        return match (level, leaf) {
            (2, true) => bits(21, if above < 21 { above } else { 21 }),
            _ => 0,
        };
    }
    let nx = if config.nxe { 0 } else { entry::NX };
    match (config.paging, level) {
        // The four top entries are checked when CR3 is loaded, and not again.
        (Paging::Pae, 3) => bits(63, width),
        (Paging::Pae, 2) if leaf => nx | bits(62, width) | bits(20, 13),
        (Paging::Pae, _) => nx | bits(62, width),
        (_, 3) if leaf => nx | bits(51, width) | bits(29, 13),
        (_, 2) if leaf => nx | bits(51, width) | bits(20, 13),
        // Without 1-GiB pages the page-size bit is reserved in level 3 too.
        (_, 3..=5) => nx | bits(51, width) | entry::PS,
        _ => nx | bits(51, width),
    }
}

/// The address of the table that a non-leaf entry points to.
pub(super) const fn table_address(value: u64) -> u64 {
    value & ADDRESS
}

/// The address of the page that a leaf maps.
pub(super) const fn leaf_address(paging: Paging, level: u32, value: u64) -> u64 {
    match (paging, level) {
        (Paging::TwoLevel, 2) => value & bits(31, 22) | (value & bits(20, 13)) << (32 - 13),
        _ => value & ADDRESS & !(span(paging, level).wrapping_sub(1)),
    }
}

/// The protection key in a leaf, 0 where keys are not in use.
pub(super) const fn key(config: &Config, value: u64) -> u8 {
    match config.pkru {
        Some(_) => (value >> entry::KEY_SHIFT) as u8 & 15,
        None => 0,
    }
}
