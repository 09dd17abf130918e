// SPDX-License-Identifier: GPL-2.0-only

//! Nested page tables: from guest-physical to host-physical addresses.
//!
//! One walker serves all formats; [`ept`] is Intel's (SDM vol. 3, section 29.3), [`npt`] AMD's (APM vol. 2,
//! section 15.25), and [`nested`] either.
//!
//! # Locking protocol
//!
//! One lock covers a whole tree. It is held around every call of [`PageTable`], for reading and for
//! writing, so the tree has one software owner at a time. The only concurrent party is the processor:
//! it walks the tree at any moment and, with accessed and dirty flags, sets those two bits. Therefore
//!
//! - an entry that the processor may see is changed by one atomic operation ([`Tables::exchange`] or
//!   [`Tables::clear`]), never by a read and a write;
//! - a new table is complete before the entry that points to it is stored;
//! - a table that has been unlinked goes to [`Tables::defer_free`]: translations and paging-structure
//!   caches may still use it until the TLBs have been flushed, so it is freed only after that, and its
//!   contents are left alone.
//!
//! Whoever finds nothing to unmap may still have to flush: another thread may have unmapped the page
//! and not have flushed yet. [`Debts`] keeps count of that.
//!
//! Operations that can be long take a budget and stop when it is used up, so that the caller can drop
//! the lock and let others run.
//!
//! # Allocation
//!
//! Nothing here waits for memory. An operation that finds [`Tables::alloc`] empty-handed returns
//! [`MapError::NeedTable`]; the caller drops the lock, allocates, and tries again. What was linked up
//! to then stays and is used by the next try.

use super::addr::Gfn;
use super::addr::Hpa;
use super::addr::Pfn;

pub mod cursor;
pub mod ept;
mod flush;
mod map;
pub mod nested;
pub mod npt;
mod range;

pub use flush::Debt;
pub use flush::Debts;
pub use flush::Flush;
pub use map::MapError;
pub use map::Mapped;
pub use map::Mapping;
pub use map::MAX_TABLES;
pub use range::Age;
pub use range::Progress;
pub use range::Range;

/// Entries of a table.
pub const ENTRIES: usize = 512;

/// Bits of a frame number that one level translates.
const LEVEL_BITS: u32 = 9;

/// A level of the tree, named by what one entry of a table at that level maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 4 KiB: the lowest level.
    K4,
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
    /// 512 GiB: the root of a tree of four levels.
    G512,
}

impl Level {
    /// The level of the root table.
    pub const ROOT: Self = Self::G512;

    /// Levels of the tree.
    pub const COUNT: usize = 4;

    /// Returns 0 for the lowest level, 3 for the root.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns how many 4-KiB frames one entry maps.
    #[inline]
    pub const fn frames(self) -> u64 {
        1 << (self as u32 * LEVEL_BITS)
    }

    /// Returns the next level towards the leaves.
    #[inline]
    pub const fn down(self) -> Option<Self> {
        match self {
            Self::K4 => None,
            Self::M2 => Some(Self::K4),
            Self::G1 => Some(Self::M2),
            Self::G512 => Some(Self::G1),
        }
    }

    /// Returns the next level towards the root.
    #[inline]
    pub const fn up(self) -> Option<Self> {
        match self {
            Self::K4 => Some(Self::M2),
            Self::M2 => Some(Self::G1),
            Self::G1 => Some(Self::G512),
            Self::G512 => None,
        }
    }

    /// Returns the index of the entry for `gfn` in a table at this level.
    #[inline]
    pub const fn entry_index(self, gfn: Gfn) -> usize {
        (gfn.raw() >> (self as u32 * LEVEL_BITS)) as usize % ENTRIES
    }
}

/// The frame after the last one that a tree of four levels maps: 48-bit addresses.
pub const END: Gfn = Gfn::new(1 << (Level::COUNT as u32 * LEVEL_BITS));

/// The size of a page: a level that may hold leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

impl PageSize {
    /// Returns the level that holds leaves of this size.
    #[inline]
    pub const fn level(self) -> Level {
        match self {
            Self::K4 => Level::K4,
            Self::M2 => Level::M2,
            Self::G1 => Level::G1,
        }
    }

    /// Returns the size in 4-KiB frames.
    #[inline]
    pub const fn frames(self) -> u64 {
        self.level().frames()
    }

    /// Returns the largest size, up to `max`, of a page around `gfn` that keeps within the slot of
    /// `frames` frames from `start`, where `host` is the frame number (host-virtual) behind `gfn`.
    ///
    /// The guest's and the host's frame must sit at the same offset in the page, or no single entry
    /// can map it.
    pub const fn fitting(gfn: Gfn, host: u64, start: Gfn, frames: u64, max: Self) -> Self {
        let end = start.raw().saturating_add(frames);
        let mut size = max;
        loop {
            let n = size.frames();
            let first = gfn.align_down(n).raw();
            let aligned = (gfn.raw() ^ host) & (n - 1) == 0;
            if aligned && first >= start.raw() && first.saturating_add(n) <= end {
                return size;
            }
            size = match size {
                Self::G1 => Self::M2,
                Self::M2 | Self::K4 => return Self::K4,
            };
        }
    }
}

/// What accesses an entry allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Data reads.
    pub const READ: Self = Self(1 << 0);
    /// Data writes.
    pub const WRITE: Self = Self(1 << 1);
    /// Instruction fetches.
    pub const EXECUTE: Self = Self(1 << 2);
    /// Reads and fetches: a read-only slot, or a page that is shared copy-on-write.
    pub const READ_ONLY: Self = Self(1 << 0 | 1 << 2);
    /// Everything: memory.
    pub const ALL: Self = Self(1 << 0 | 1 << 1 | 1 << 2);

    /// Returns true if each of the `other` rights is among these.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns these rights and the `other` ones.
    #[inline]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A memory type, by its encoding in PAT, MTRRs and EPT (SDM vol. 3, table 12-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryType {
    /// Uncacheable.
    Uncacheable = 0,
    /// Write-combining.
    WriteCombining = 1,
    /// Write-through.
    WriteThrough = 4,
    /// Write-protected.
    WriteProtected = 5,
    /// Write-back.
    WriteBack = 6,
}

/// How a page is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caching {
    /// The memory type.
    pub memory_type: MemoryType,
    /// The guest's PAT does not matter.
    pub ignore_pat: bool,
}

impl Caching {
    /// Memory of the host's, which the host caches too: the guest must not disagree.
    pub const RAM: Self = Self {
        memory_type: MemoryType::WriteBack,
        ignore_pat: true,
    };

    /// Device registers.
    pub const DEVICE: Self = Self {
        memory_type: MemoryType::Uncacheable,
        ignore_pat: true,
    };
}

/// An entry that maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first 4-KiB frame of the page.
    pub pfn: Pfn,
    /// What is allowed.
    pub rights: Rights,
    /// How it is cached.
    pub caching: Caching,
}

/// An entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pte {
    /// Nothing is mapped.
    Absent,
    /// The table of the next level.
    Table(Hpa),
    /// A page.
    Leaf(Leaf),
}

/// The layout of entries. An entry of 0 is absent in each format.
pub trait EntryFormat {
    /// Takes an entry apart.
    fn decode(&self, raw: u64, level: Level) -> Pte;

    /// Makes an entry that points to a table and leaves all rights to it.
    fn table(&self, child: Hpa) -> u64;

    /// Makes an entry that maps a page, accessed, and dirty if it is writable: the access that the
    /// page is mapped for is about to be repeated.
    fn leaf(&self, leaf: &Leaf, level: Level) -> u64;

    /// Returns the bit that allows writes.
    fn writable(&self) -> u64;

    /// Returns the bit that the processor sets when it uses a leaf, if it does.
    fn accessed(&self) -> Option<u64>;
}

/// The memory that tables live in.
pub trait Tables {
    /// Reads an entry. `index` is below [`ENTRIES`].
    fn read(&self, table: Hpa, index: usize) -> u64;

    /// Stores an entry in place of an absent one, or into a table that is not linked yet. All stores
    /// before this one must be visible to whoever sees it.
    fn write(&mut self, table: Hpa, index: usize, entry: u64);

    /// Stores an entry and returns the old one, atomically.
    fn exchange(&mut self, table: Hpa, index: usize, entry: u64) -> u64;

    /// Clears `bits` of an entry, atomically, and returns the entry as it was.
    fn clear(&mut self, table: Hpa, index: usize, bits: u64) -> u64;

    /// Takes a table of zeros that is at hand, or `None`.
    fn alloc(&mut self) -> Option<Hpa>;

    /// Takes back a table that has been unlinked, to be freed after the next TLB flush.
    fn defer_free(&mut self, table: Hpa);
}

/// A tree of tables in the format `F`. The tables themselves are in a [`Tables`] that the caller passes
/// to each operation, always the same one.
#[derive(Clone, Copy, Debug)]
pub struct PageTable<F> {
    root: Hpa,
    format: F,
}

impl<F: EntryFormat> PageTable<F> {
    /// Makes an empty tree, or returns `None` if there is no table for the root.
    pub fn new(format: F, tables: &mut impl Tables) -> Option<Self> {
        let root = tables.alloc()?;
        Some(Self { root, format })
    }

    /// Returns the address of the root table.
    pub const fn root(&self) -> Hpa {
        self.root
    }

    /// Returns the format.
    pub const fn format(&self) -> &F {
        &self.format
    }

    /// Returns the leaf that maps `gfn`, with its level.
    pub fn lookup(&self, tables: &impl Tables, gfn: Gfn) -> Option<(Leaf, Level)> {
        if gfn >= END {
            return None;
        }
        let mut cursor = cursor::Cursor::new(self.root, gfn);
        loop {
            match self.format.decode(cursor.read(tables), cursor.level()) {
                Pte::Absent => return None,
                Pte::Leaf(leaf) => return Some((leaf, cursor.level())),
                Pte::Table(child) => {
                    if !cursor.step_down(child, gfn) {
                        return None;
                    }
                }
            }
        }
    }

    /// Returns the raw entries on the way to `gfn`, by level, for the log. Levels below the last entry
    /// are 0.
    pub fn trace(&self, tables: &impl Tables, gfn: Gfn) -> [u64; Level::COUNT] {
        let mut entries = [0; Level::COUNT];
        if gfn >= END {
            return entries;
        }
        let mut cursor = cursor::Cursor::new(self.root, gfn);
        loop {
            let raw = cursor.read(tables);
            if let Some(entry) = entries.get_mut(cursor.level().index()) {
                *entry = raw;
            }
            match self.format.decode(raw, cursor.level()) {
                Pte::Table(child) if cursor.step_down(child, gfn) => {}
                _ => return entries,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        assert_eq!(Level::K4.frames(), 1);
        assert_eq!(Level::G512.frames(), 1 << 27);
        assert_eq!(Level::M2.entry_index(Gfn::new(0x3ff << 9)), 0x1ff);
        assert_eq!(Level::ROOT.entry_index(Gfn::new(END.raw() - 1)), 511);
        assert_eq!(Level::M2.up().and_then(Level::down), Some(Level::M2));
    }

    #[test]
    fn page_size_keeps_within_the_slot() {
        let fit = |gfn, host, start, frames, max| {
            PageSize::fitting(Gfn::new(gfn), host, Gfn::new(start), frames, max)
        };
        assert_eq!(fit(0x205, 0x7205, 0x200, 0x200, PageSize::G1), PageSize::M2);
        assert_eq!(fit(0x205, 0x7205, 0x200, 0x1ff, PageSize::G1), PageSize::K4);
        assert_eq!(fit(0x205, 0x7205, 0x201, 0x400, PageSize::G1), PageSize::K4);
        assert_eq!(fit(0x205, 0x7204, 0x200, 0x200, PageSize::G1), PageSize::K4);
        assert_eq!(fit(0x205, 0x7205, 0x200, 0x200, PageSize::K4), PageSize::K4);
        assert_eq!(fit(5, 0x40005, 0, 0x40000, PageSize::G1), PageSize::G1);
        assert_eq!(fit(5, 0x40005, 0, u64::MAX, PageSize::M2), PageSize::M2);
    }
}
