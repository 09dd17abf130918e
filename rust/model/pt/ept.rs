// SPDX-License-Identifier: GPL-2.0-only

//! Extended page tables: entries and the EPT pointer (SDM vol. 3, sections 25.6.11 and 29.3.2).

use super::Caching;
use super::EntryFormat;
use super::Leaf;
use super::Level;
use super::MemoryType;
use super::Pte;
use super::Rights;
use crate::model::addr::Hpa;

/// An EPT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct EptPte(u64);

impl EptPte {
    /// Bit 0: reads are allowed.
    pub const READ: u64 = 1 << 0;
    /// Bit 1: writes are allowed.
    pub const WRITE: u64 = 1 << 1;
    /// Bit 2: instruction fetches are allowed.
    pub const EXECUTE: u64 = 1 << 2;
    /// Bits 5:3 of a leaf: the memory type.
    pub const MEMORY_TYPE_SHIFT: u32 = 3;
    /// Width mask of the memory type.
    pub const MEMORY_TYPE_MASK: u64 = 7;
    /// Bit 6 of a leaf: the guest's PAT is ignored.
    pub const IGNORE_PAT: u64 = 1 << 6;
    /// Bit 7 of an entry above the lowest level: it maps a page.
    pub const LARGE: u64 = 1 << 7;
    /// Bit 8: the processor used the entry.
    pub const ACCESSED: u64 = 1 << 8;
    /// Bit 9 of a leaf: the processor wrote to the page.
    pub const DIRTY: u64 = 1 << 9;
    /// Bits 51:12: the address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    const RIGHTS: u64 = Self::READ | Self::WRITE | Self::EXECUTE;

    /// Wraps a raw entry.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the raw entry.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns true if any access is allowed; the other bits matter only then.
    pub const fn is_present(self) -> bool {
        self.0 & Self::RIGHTS != 0
    }

    /// Returns true if the entry, of a table at `level`, maps a page.
    pub const fn is_leaf(self, level: Level) -> bool {
        matches!(level, Level::K4) || self.0 & Self::LARGE != 0
    }

    /// Returns the address of the page or table.
    pub const fn address(self) -> Hpa {
        Hpa::new(self.0 & Self::ADDRESS)
    }

    /// Returns what the entry allows.
    pub const fn rights(self) -> Rights {
        let mut rights = Rights(0);
        if self.0 & Self::READ != 0 {
            rights = rights.with(Rights::READ);
        }
        if self.0 & Self::WRITE != 0 {
            rights = rights.with(Rights::WRITE);
        }
        if self.0 & Self::EXECUTE != 0 {
            rights = rights.with(Rights::EXECUTE);
        }
        rights
    }

    /// Returns how the page of a leaf is cached. Types that are reserved count as uncacheable.
    pub const fn caching(self) -> Caching {
        Caching {
            memory_type: match self.0 >> Self::MEMORY_TYPE_SHIFT & Self::MEMORY_TYPE_MASK {
                1 => MemoryType::WriteCombining,
                4 => MemoryType::WriteThrough,
                5 => MemoryType::WriteProtected,
                6 => MemoryType::WriteBack,
                _ => MemoryType::Uncacheable,
            },
            ignore_pat: self.0 & Self::IGNORE_PAT != 0,
        }
    }
}

/// The format of EPT entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ept {
    /// The processor sets accessed and dirty flags.
    pub accessed_dirty: bool,
}

impl EntryFormat for Ept {
    fn decode(&self, raw: u64, level: Level) -> Pte {
        let entry = EptPte::new(raw);
        if !entry.is_present() {
            Pte::Absent
        } else if entry.is_leaf(level) {
            Pte::Leaf(Leaf {
                pfn: entry.address().pfn(),
                rights: entry.rights(),
                caching: entry.caching(),
            })
        } else {
            Pte::Table(entry.address())
        }
    }

    fn table(&self, child: Hpa) -> u64 {
        child.raw() & EptPte::ADDRESS | EptPte::RIGHTS | EptPte::ACCESSED
    }

    fn leaf(&self, leaf: &Leaf, level: Level) -> u64 {
        // Without execute-only and write-only entries, which many processors take for a
        // misconfiguration, every page is readable (section 29.3.3.1).
        let mut raw = leaf.pfn.hpa().raw() & EptPte::ADDRESS | EptPte::READ | EptPte::ACCESSED;
        if leaf.rights.contains(Rights::WRITE) {
            raw |= EptPte::WRITE | EptPte::DIRTY;
        }
        if leaf.rights.contains(Rights::EXECUTE) {
            raw |= EptPte::EXECUTE;
        }
        raw |= (leaf.caching.memory_type as u64) << EptPte::MEMORY_TYPE_SHIFT;
        if leaf.caching.ignore_pat {
            raw |= EptPte::IGNORE_PAT;
        }
        if level != Level::K4 {
            raw |= EptPte::LARGE;
        }
        raw
    }

    fn writable(&self) -> u64 {
        EptPte::WRITE
    }

    fn accessed(&self) -> Option<u64> {
        self.accessed_dirty.then_some(EptPte::ACCESSED)
    }
}

/// EPT pointer, bits 2:0: the memory type of the tables, write-back.
const EPTP_WRITE_BACK: u64 = 6;
/// EPT pointer, bits 5:3: the levels of the tree, less one.
const EPTP_WALK_4: u64 = 3 << 3;
/// EPT pointer, bit 6: accessed and dirty flags are set.
const EPTP_ACCESSED_DIRTY: u64 = 1 << 6;

/// Makes the EPT pointer of a tree of four levels in write-back memory.
pub const fn eptp(root: Hpa, format: Ept) -> u64 {
    let pointer = root.raw() & EptPte::ADDRESS | EPTP_WALK_4 | EPTP_WRITE_BACK;
    if format.accessed_dirty {
        pointer | EPTP_ACCESSED_DIRTY
    } else {
        pointer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::addr::Pfn;

    const EPT: Ept = Ept {
        accessed_dirty: true,
    };

    #[test]
    fn leaf_of_memory() {
        let leaf = Leaf {
            pfn: Pfn::new(0x12345),
            rights: Rights::ALL,
            caching: Caching::RAM,
        };
        assert_eq!(EPT.leaf(&leaf, Level::K4), 0x1234_5377);
        assert_eq!(EPT.leaf(&leaf, Level::M2), 0x1234_53f7);
        assert_eq!(EPT.decode(0x1234_5377, Level::K4), Pte::Leaf(leaf));
        assert_eq!(EPT.decode(0x1234_53f7, Level::M2), Pte::Leaf(leaf));
    }

    #[test]
    fn leaf_is_always_readable() {
        let leaf = Leaf {
            pfn: Pfn::new(1),
            rights: Rights::WRITE,
            caching: Caching::DEVICE,
        };
        assert_eq!(EPT.leaf(&leaf, Level::K4), 0x1343);
    }

    #[test]
    fn tables_and_absent_entries() {
        assert_eq!(EPT.decode(0, Level::G1), Pte::Absent);
        assert_eq!(EPT.decode(!7, Level::K4), Pte::Absent);
        let raw = EPT.table(Hpa::new(0xabc000));
        assert_eq!(raw, 0xabc107);
        assert_eq!(EPT.decode(raw, Level::M2), Pte::Table(Hpa::new(0xabc000)));
    }

    #[test]
    fn pointer() {
        assert_eq!(eptp(Hpa::new(0x7000), EPT), 0x705e);
        let plain = Ept {
            accessed_dirty: false,
        };
        assert_eq!(eptp(Hpa::new(0x7000), plain), 0x701e);
    }
}
