// SPDX-License-Identifier: GPL-2.0-only

//! Nested page tables of AMD-V: the entries of long-mode paging (APM vol. 2, sections 5.3 and 15.25).
//!
//! The processor walks the tables as the host's CR4 and EFER say. Linux always sets EFER.NXE, so entries may
//! forbid fetches. Accesses of a guest are user accesses, so each entry has the U/S bit (section 15.25.5).
//!
//! # Memory types
//!
//! An entry names an index of the host's PAT; the guest's PAT is for the guest's entries. Whatever Linux has
//! done to the PAT, or not, index 0 is write-back and index 3 uncacheable. The processor combines that type with
//! the guest's (section 15.25.8): write-back leaves the choice to the guest, uncacheable overrules it. There is
//! no way to say that the guest's choice does not count, so for memory
//! [`ignore_pat`](super::Caching::ignore_pat) is not obeyed: a guest may access write-back memory of the host's
//! as uncacheable or write-combining. Only a device that bypasses the caches gives it a reason to, and no guest
//! has one.

use super::{Caching, EntryFormat, Leaf, Level, MemoryType, Pte, Rights};
use crate::model::addr::Hpa;

/// An entry of the nested page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct NptPte(u64);

impl NptPte {
    /// Bit 0 (P): the entry is valid.
    pub const PRESENT: u64 = 1 << 0;
    /// Bit 1 (R/W): writes are allowed.
    pub const WRITE: u64 = 1 << 1;
    /// Bit 2 (U/S): user accesses are allowed.
    pub const USER: u64 = 1 << 2;
    /// Bit 3 (PWT): bit 0 of the PAT index.
    pub const PWT: u64 = 1 << 3;
    /// Bit 4 (PCD): bit 1 of the PAT index.
    pub const PCD: u64 = 1 << 4;
    /// Bit 5 (A): the processor used the entry.
    pub const ACCESSED: u64 = 1 << 5;
    /// Bit 6 (D) of a leaf: the processor wrote to the page.
    pub const DIRTY: u64 = 1 << 6;
    /// Bit 7 (PS) of an entry above the lowest level: it maps a page.
    pub const LARGE: u64 = 1 << 7;
    /// Bits 51:12: the address. In a large leaf bit 12 is bit 2 of the PAT index, which is not used.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Bit 63 (NX): fetches are not allowed.
    pub const NO_EXECUTE: u64 = 1 << 63;

    /// The bits that say how a page is cached.
    const CACHING: u64 = Self::PWT | Self::PCD;

    /// Wraps a raw entry.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the raw entry.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns true if the entry is valid; the other bits matter only then.
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
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
        let mut rights = Rights::READ;
        if self.0 & Self::WRITE != 0 {
            rights = rights.with(Rights::WRITE);
        }
        if self.0 & Self::NO_EXECUTE == 0 {
            rights = rights.with(Rights::EXECUTE);
        }
        rights
    }

    /// Returns how the page of a leaf is cached.
    pub const fn caching(self) -> Caching {
        match self.0 & Self::CACHING {
            0 => Caching::RAM,
            _ => Caching::DEVICE,
        }
    }
}

/// The format of NPT entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Npt;

impl EntryFormat for Npt {
    fn decode(&self, raw: u64, level: Level) -> Pte {
        let entry = NptPte::new(raw);
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
        child.raw() & NptPte::ADDRESS
            | NptPte::PRESENT
            | NptPte::WRITE
            | NptPte::USER
            | NptPte::ACCESSED
    }

    fn leaf(&self, leaf: &Leaf, level: Level) -> u64 {
        let mut raw = leaf.pfn.hpa().raw() & NptPte::ADDRESS
            | NptPte::PRESENT
            | NptPte::USER
            | NptPte::ACCESSED;
        if leaf.rights.contains(Rights::WRITE) {
            raw |= NptPte::WRITE | NptPte::DIRTY;
        }
        if !leaf.rights.contains(Rights::EXECUTE) {
            raw |= NptPte::NO_EXECUTE;
        }
        raw |= match leaf.caching.memory_type {
            // PAT index 0, write-back.
            MemoryType::WriteBack => 0,
            // PAT index 3, uncacheable. The other types are not at the same index in every set-up.
            _ => NptPte::CACHING,
        };
        if level != Level::K4 {
            raw |= NptPte::LARGE;
        }
        raw
    }

    fn writable(&self) -> u64 {
        NptPte::WRITE
    }

    fn accessed(&self) -> Option<u64> {
        Some(NptPte::ACCESSED)
    }
}

/// Makes nCR3 of a tree of four levels in write-back memory (section 15.25.3).
pub const fn n_cr3(root: Hpa) -> u64 {
    root.raw() & NptPte::ADDRESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::addr::Pfn;

    #[test]
    fn leaf_of_memory() {
        let leaf = Leaf {
            pfn: Pfn::new(0x12345),
            rights: Rights::ALL,
            caching: Caching::RAM,
        };
        assert_eq!(Npt.leaf(&leaf, Level::K4), 0x1234_5067);
        assert_eq!(Npt.decode(0x1234_5067, Level::K4), Pte::Leaf(leaf));
        let large = Leaf {
            pfn: Pfn::new(0x12200),
            ..leaf
        };
        assert_eq!(Npt.leaf(&large, Level::M2), 0x1220_00e7);
        assert_eq!(Npt.decode(0x1220_00e7, Level::M2), Pte::Leaf(large));
    }

    #[test]
    fn rights_are_the_manuals_bits() {
        let mut leaf = Leaf {
            pfn: Pfn::new(1),
            rights: Rights::READ_ONLY,
            caching: Caching::RAM,
        };
        assert_eq!(Npt.leaf(&leaf, Level::K4), 0x1025);
        leaf.rights = Rights::READ;
        assert_eq!(Npt.leaf(&leaf, Level::K4), 0x8000_0000_0000_1025);
        assert_eq!(
            Npt.decode(0x8000_0000_0000_1025, Level::K4),
            Pte::Leaf(leaf)
        );
        // No entry forbids reads.
        leaf.rights = Rights::WRITE;
        assert_eq!(Npt.leaf(&leaf, Level::K4), 0x8000_0000_0000_1067);
    }

    #[test]
    fn device_memory_is_uncacheable() {
        let leaf = Leaf {
            pfn: Pfn::new(1),
            rights: Rights::ALL,
            caching: Caching::DEVICE,
        };
        assert_eq!(Npt.leaf(&leaf, Level::K4), 0x107f);
        assert_eq!(Npt.decode(0x107f, Level::K4), Pte::Leaf(leaf));
    }

    #[test]
    fn tables_and_absent_entries() {
        assert_eq!(Npt.decode(0, Level::G1), Pte::Absent);
        assert_eq!(Npt.decode(!1, Level::K4), Pte::Absent);
        let raw = Npt.table(Hpa::new(0xabc000));
        assert_eq!(raw, 0xabc027);
        assert_eq!(Npt.decode(raw, Level::M2), Pte::Table(Hpa::new(0xabc000)));
    }

    #[test]
    fn pointer() {
        assert_eq!(n_cr3(Hpa::new(0x7000)), 0x7000);
    }
}
