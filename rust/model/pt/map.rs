// SPDX-License-Identifier: GPL-2.0-only

//! Mapping one page.

use super::cursor::Cursor;
use super::EntryFormat;
use super::Flush;
use super::Leaf;
use super::Level;
use super::PageSize;
use super::PageTable;
use super::Pte;
use super::Rights;
use super::Tables;
use super::END;
use super::ENTRIES;
use crate::model::addr::Gfn;
use crate::model::addr::Hpa;
use crate::model::addr::Pfn;
use crate::model::pt::Caching;

/// A page to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Any frame of the page.
    pub gfn: Gfn,
    /// The host's frame behind `gfn`.
    pub pfn: Pfn,
    /// The size of the page; 4 KiB is taken where `gfn` and `pfn` sit at different offsets in it.
    pub size: PageSize,
    /// What to allow.
    pub rights: Rights,
    /// How to cache it.
    pub caching: Caching,
}

/// What mapping a page did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// Nothing: the page was mapped already, with these rights at least. Another processor was faster,
    /// or this one had a stale translation.
    Spurious,
    /// Nothing had been mapped there.
    New,
    /// Something else had been mapped there.
    Replaced,
}

/// Why a page could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is no table at hand: allocate [`MAX_TABLES`] and try again.
    NeedTable,
    /// The frame is beyond what the tree can map.
    OutOfRange,
}

/// The most tables that one call of [`PageTable::map`] takes: one for each level below the root.
pub const MAX_TABLES: usize = Level::COUNT - 1;

impl Leaf {
    /// Returns the leaf for the part of this page, mapped at `base`, that starts with `gfn`.
    fn part(&self, base: Gfn, gfn: Gfn) -> Self {
        let offset = gfn.raw().wrapping_sub(base.raw());
        Self {
            pfn: Pfn::new(self.pfn.raw().wrapping_add(offset)),
            ..*self
        }
    }

    /// Returns true if this leaf does all that `wanted` does.
    fn satisfies(&self, wanted: &Self) -> bool {
        self.pfn == wanted.pfn
            && self.caching == wanted.caching
            && self.rights.contains(wanted.rights)
    }
}

impl<F: EntryFormat> PageTable<F> {
    /// Maps a page.
    ///
    /// A larger page in the way is split, and a table in the way of a larger page is unlinked.
    ///
    /// # Errors
    ///
    /// See [`MapError`]. The tree still translates as before.
    pub fn map(
        &self,
        tables: &mut impl Tables,
        mapping: &Mapping,
    ) -> Result<(Mapped, Flush), MapError> {
        if mapping.gfn >= END {
            return Err(MapError::OutOfRange);
        }
        let misfit = (mapping.gfn.raw() ^ mapping.pfn.raw()) & (mapping.size.frames() - 1) != 0;
        let size = if misfit { PageSize::K4 } else { mapping.size };
        let gfn = mapping.gfn.align_down(size.frames());
        let wanted = Leaf {
            pfn: mapping.pfn.align_down(size.frames()),
            rights: mapping.rights,
            caching: mapping.caching,
        };

        let mut cursor = Cursor::new(self.root, gfn);
        while cursor.level() != size.level() {
            let raw = cursor.read(tables);
            let child = match self.format.decode(raw, cursor.level()) {
                Pte::Table(child) => child,
                Pte::Absent => {
                    let child = tables.alloc().ok_or(MapError::NeedTable)?;
                    tables.write(cursor.table(), cursor.index(), self.format.table(child));
                    child
                }
                Pte::Leaf(large) => {
                    if large.part(cursor.gfn(), gfn).satisfies(&wanted) {
                        return Ok((Mapped::Spurious, Flush::NotNeeded));
                    }
                    self.split(tables, &cursor, &large)?
                }
            };
            if !cursor.step_down(child, gfn) {
                return Err(MapError::OutOfRange);
            }
        }
        Ok(self.install(tables, &cursor, &wanted))
    }

    /// Stores a leaf at the cursor.
    fn install(&self, tables: &mut impl Tables, cursor: &Cursor, wanted: &Leaf) -> (Mapped, Flush) {
        let entry = self.format.leaf(wanted, cursor.level());
        match self.format.decode(cursor.read(tables), cursor.level()) {
            Pte::Absent => {
                tables.write(cursor.table(), cursor.index(), entry);
                (Mapped::New, Flush::NotNeeded)
            }
            Pte::Leaf(old) if old.satisfies(wanted) => (Mapped::Spurious, Flush::NotNeeded),
            Pte::Leaf(old) => {
                let _old = tables.exchange(cursor.table(), cursor.index(), entry);
                // A translation with fewer rights may stay cached: using it faults, and the fault
                // drops it (SDM vol. 3, section 29.4.3.1).
                let flush = if wanted.satisfies(&old) {
                    Flush::NotNeeded
                } else {
                    Flush::Needed
                };
                (Mapped::Replaced, flush)
            }
            Pte::Table(child) => {
                let _old = tables.exchange(cursor.table(), cursor.index(), entry);
                self.free_children(tables, cursor.level(), child);
                tables.defer_free(child);
                (Mapped::Replaced, Flush::Needed)
            }
        }
    }

    /// Frees the tables that an unlinked table, pointed to from an entry at `level`, points to. A leaf
    /// is 1 GiB at most, so they are one level deep at most.
    fn free_children(&self, tables: &mut impl Tables, level: Level, table: Hpa) {
        let Some(level) = level.down() else { return };
        if level == Level::K4 {
            return;
        }
        for index in 0..ENTRIES {
            if let Pte::Table(child) = self.format.decode(tables.read(table, index), level) {
                tables.defer_free(child);
            }
        }
    }

    /// Replaces the large leaf at the cursor by a table of smaller ones that map the same, and returns
    /// the table. What is cached stays true, so that no flush is needed.
    fn split(
        &self,
        tables: &mut impl Tables,
        cursor: &Cursor,
        large: &Leaf,
    ) -> Result<Hpa, MapError> {
        let level = cursor.level().down().ok_or(MapError::OutOfRange)?;
        let child = tables.alloc().ok_or(MapError::NeedTable)?;
        let mut gfn = cursor.gfn();
        for index in 0..ENTRIES {
            let part = large.part(cursor.gfn(), gfn);
            tables.write(child, index, self.format.leaf(&part, level));
            gfn = Gfn::new(gfn.raw().wrapping_add(level.frames()));
        }
        // The new leaves are accessed and dirty, so a flag that the processor sets in the old one until
        // now is not lost.
        let _old = tables.exchange(cursor.table(), cursor.index(), self.format.table(child));
        Ok(child)
    }
}
