// SPDX-License-Identifier: GPL-2.0-only

//! A position in a tree, which steps down towards a frame, sideways to the next entry, or up.

use super::Level;
use super::Tables;
use super::ENTRIES;
use crate::model::addr::Gfn;
use crate::model::addr::Hpa;

/// One entry of one table, and the tables on the way to it.
///
/// # Invariants
///
/// `path` holds the tables from the root down to `level`, and `gfn` is the first frame that the
/// current entry maps.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    path: [Hpa; Level::COUNT],
    level: Level,
    gfn: Gfn,
}

impl Cursor {
    /// Starts at the entry of the root table for `goal`.
    pub fn new(root: Hpa, goal: Gfn) -> Self {
        Self {
            path: [root; Level::COUNT],
            level: Level::ROOT,
            gfn: goal.align_down(Level::ROOT.frames()),
        }
    }

    /// Returns the level of the current table.
    #[inline]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Returns the first frame that the current entry maps.
    #[inline]
    pub const fn gfn(&self) -> Gfn {
        self.gfn
    }

    /// Returns the frame after the last one that the current entry maps.
    #[inline]
    pub const fn end(&self) -> Gfn {
        Gfn::new(self.gfn.raw().saturating_add(self.level.frames()))
    }

    /// Returns the current table.
    #[inline]
    pub fn table(&self) -> Hpa {
        self.path
            .get(self.level.index())
            .copied()
            .unwrap_or_default()
    }

    /// Returns the index of the current entry.
    #[inline]
    pub const fn index(&self) -> usize {
        self.level.entry_index(self.gfn)
    }

    /// Reads the current entry.
    #[inline]
    pub fn read(&self, tables: &impl Tables) -> u64 {
        tables.read(self.table(), self.index())
    }

    /// Steps down to the entry for `goal` in the table `child`, which the current entry points to.
    ///
    /// Returns false at the lowest level, where no entry points to a table.
    #[inline]
    pub fn step_down(&mut self, child: Hpa, goal: Gfn) -> bool {
        let Some(level) = self.level.down() else {
            return false;
        };
        if let Some(table) = self.path.get_mut(level.index()) {
            *table = child;
        }
        self.level = level;
        self.gfn = goal.align_down(level.frames());
        true
    }

    /// Steps to the next entry of the table, or returns false if this was the last.
    #[inline]
    pub fn step_side(&mut self) -> bool {
        if self.index() == ENTRIES - 1 {
            return false;
        }
        self.gfn = self.end();
        true
    }

    /// Steps up to the entry that points to the current table, or returns false at the root.
    #[inline]
    pub fn step_up(&mut self) -> bool {
        let Some(level) = self.level.up() else {
            return false;
        };
        self.level = level;
        self.gfn = self.gfn.align_down(level.frames());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let goal = Gfn::new(0x8_0000_0000 | 511 << 9 | 511);
        let mut cursor = Cursor::new(Hpa::new(0x1000), goal);
        assert_eq!((cursor.level(), cursor.index()), (Level::G512, 256));
        assert!(cursor.step_down(Hpa::new(0x2000), goal));
        assert!(cursor.step_down(Hpa::new(0x3000), goal));
        assert_eq!((cursor.table(), cursor.index()), (Hpa::new(0x3000), 511));
        assert!(!cursor.step_side());
        assert!(cursor.step_down(Hpa::new(0x4000), goal));
        assert_eq!(cursor.gfn(), goal);
        assert!(!cursor.step_down(Hpa::new(0x5000), goal));
        assert!(cursor.step_up() && cursor.step_up());
        assert_eq!((cursor.table(), cursor.index()), (Hpa::new(0x2000), 0));
        assert!(cursor.step_side());
        assert_eq!(cursor.gfn(), Gfn::new(0x8_0004_0000));
        assert!(cursor.step_up());
        assert_eq!(cursor.table(), Hpa::new(0x1000));
        assert!(!cursor.step_up());
    }
}
