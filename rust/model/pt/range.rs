// SPDX-License-Identifier: GPL-2.0-only

//! Operations on a range of frames, in bounded steps.
//!
//! A page that reaches beyond the range is treated as a whole. That is always safe: the tree is a cache
//! of what the memory slots and the host's page tables say, and what it lacks is faulted in again.

use super::cursor::Cursor;
use super::EntryFormat;
use super::Flush;
use super::Level;
use super::PageTable;
use super::Pte;
use super::Tables;
use super::END;
use super::ENTRIES;
use crate::model::addr::Gfn;
use crate::model::addr::Hpa;

/// The least budget of a call: it reaches the lowest level from the root and handles an entry there.
const MIN_BUDGET: usize = Level::COUNT + 1;

/// A range of frames, and how far the operation on it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    start: Gfn,
    end: Gfn,
    next: Gfn,
}

impl Range {
    /// Makes the range of frames from `start` up to, and without, `end`.
    pub fn new(start: Gfn, end: Gfn) -> Self {
        Self {
            start,
            end: end.min(END),
            next: start,
        }
    }

    /// Makes the range of all frames.
    pub fn all() -> Self {
        Self::new(Gfn::new(0), END)
    }

    /// Returns true if the operation is complete.
    pub fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// Returns true if all that the cursor's entry maps is in the range.
    fn covers(&self, cursor: &Cursor) -> bool {
        cursor.gfn() >= self.start && cursor.end() <= self.end
    }
}

/// Whether a step completed the operation on a range.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The whole range has been handled.
    Done,
    /// The budget was used up: call again with the same range.
    More,
}

/// What aging a range found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// A page of the range has been used since the last time.
    pub young: bool,
    /// Whether translations must be dropped.
    pub flush: Flush,
}

impl<F: EntryFormat> PageTable<F> {
    /// Unmaps the pages of a range and unlinks the tables that it covers, visiting about `budget`
    /// entries.
    ///
    /// The flush must be done before the lock is dropped, or before what was unmapped is given up.
    pub fn unmap(
        &self,
        tables: &mut impl Tables,
        range: &mut Range,
        budget: usize,
    ) -> (Progress, Flush) {
        let mut flush = Flush::NotNeeded;
        let progress = self.visit(tables, range, budget, |tables, cursor, visit| {
            match visit {
                Visit::Leaf => {
                    let _old = tables.exchange(cursor.table(), cursor.index(), 0);
                    flush = Flush::Needed;
                }
                // The lowest tables go without a look at their entries. Higher ones may have been
                // filled again behind an earlier step, so they go only when they are empty.
                Visit::Entering { child, covered } => {
                    if covered && cursor.level() == Level::M2 {
                        self.unlink(tables, cursor, child);
                        flush = Flush::Needed;
                        return Next::Skip;
                    }
                }
                Visit::Leaving { child, covered } => {
                    if covered && self.is_empty(tables, child) {
                        self.unlink(tables, cursor, child);
                        flush = Flush::Needed;
                    }
                }
            }
            Next::Enter
        });
        (progress, flush)
    }

    /// Takes the right to write from the pages of a range, visiting about `budget` entries.
    pub fn write_protect(
        &self,
        tables: &mut impl Tables,
        range: &mut Range,
        budget: usize,
    ) -> (Progress, Flush) {
        let writable = self.format.writable();
        let mut flush = Flush::NotNeeded;
        let progress = self.visit(tables, range, budget, |tables, cursor, visit| {
            if let Visit::Leaf = visit {
                if cursor.read(tables) & writable != 0 {
                    let _old = tables.clear(cursor.table(), cursor.index(), writable);
                    flush = Flush::Needed;
                }
            }
            Next::Enter
        });
        (progress, flush)
    }

    /// Says whether pages of a range have been used since the last time, and forgets it, visiting about
    /// `budget` entries.
    ///
    /// Cached translations stay, so that a use through one goes unseen; that is good enough for page
    /// reclaim. Where the processor does not set accessed flags, the pages are unmapped instead and
    /// their use is seen as a fault.
    pub fn age(
        &self,
        tables: &mut impl Tables,
        range: &mut Range,
        budget: usize,
    ) -> (Progress, Age) {
        let accessed = self.format.accessed();
        let mut age = Age {
            young: false,
            flush: Flush::NotNeeded,
        };
        let progress = self.visit(tables, range, budget, |tables, cursor, visit| {
            if let Visit::Leaf = visit {
                match accessed {
                    Some(bit) => {
                        if cursor.read(tables) & bit != 0 {
                            let _old = tables.clear(cursor.table(), cursor.index(), bit);
                            age.young = true;
                        }
                    }
                    None => {
                        let _old = tables.exchange(cursor.table(), cursor.index(), 0);
                        age.young = true;
                        age.flush = Flush::Needed;
                    }
                }
            }
            Next::Enter
        });
        (progress, age)
    }

    /// Says whether a page of the range has been used since it was last aged, visiting about `budget`
    /// entries. Where the processor does not set accessed flags, a page that is mapped counts as used.
    pub fn is_young(
        &self,
        tables: &mut impl Tables,
        range: &mut Range,
        budget: usize,
    ) -> (Progress, bool) {
        let accessed = self.format.accessed();
        let mut young = false;
        let progress = self.visit(tables, range, budget, |tables, cursor, visit| {
            if let Visit::Leaf = visit {
                young |= accessed.is_none_or(|bit| cursor.read(tables) & bit != 0);
            }
            Next::Enter
        });
        (progress, young)
    }

    /// Gives back the root table. The tree must have been unmapped with [`Range::all`], and no
    /// processor may use it any more.
    pub fn destroy(self, tables: &mut impl Tables) {
        tables.defer_free(self.root);
    }

    /// Unlinks the table `child` that the cursor's entry points to.
    fn unlink(&self, tables: &mut impl Tables, cursor: &Cursor, child: Hpa) {
        let _old = tables.exchange(cursor.table(), cursor.index(), 0);
        tables.defer_free(child);
    }

    fn is_empty(&self, tables: &impl Tables, table: Hpa) -> bool {
        (0..ENTRIES).all(|index| tables.read(table, index) == 0)
    }

    /// Visits the present entries of a range in order of frames.
    fn visit<T: Tables>(
        &self,
        tables: &mut T,
        range: &mut Range,
        budget: usize,
        mut f: impl FnMut(&mut T, &Cursor, Visit) -> Next,
    ) -> Progress {
        if range.is_done() {
            return Progress::Done;
        }
        let start = range.next;
        let mut cursor = Cursor::new(self.root, start);
        for _ in 0..budget.max(MIN_BUDGET) {
            match self.format.decode(cursor.read(tables), cursor.level()) {
                Pte::Absent => {}
                Pte::Leaf(_) => {
                    f(tables, &cursor, Visit::Leaf);
                }
                Pte::Table(child) => {
                    let covered = range.covers(&cursor);
                    let next = f(tables, &cursor, Visit::Entering { child, covered });
                    let goal = cursor.gfn().max(start);
                    if next == Next::Enter && cursor.step_down(child, goal) {
                        continue;
                    }
                }
            }
            while !cursor.step_side() {
                let child = cursor.table();
                if !cursor.step_up() {
                    range.next = range.end;
                    return Progress::Done;
                }
                let covered = range.covers(&cursor);
                f(tables, &cursor, Visit::Leaving { child, covered });
            }
            range.next = cursor.gfn();
            if range.is_done() {
                return Progress::Done;
            }
        }
        Progress::More
    }
}

/// What a visitor is told about the cursor's entry.
enum Visit {
    /// It maps a page.
    Leaf,
    /// It points to `child`, which is about to be visited.
    Entering {
        /// The table.
        child: Hpa,
        /// All that the entry maps is in the range.
        covered: bool,
    },
    /// It points to `child`, whose last entry has been visited.
    Leaving {
        /// The table.
        child: Hpa,
        /// All that the entry maps is in the range.
        covered: bool,
    },
}

/// Whether to visit a table that was announced by [`Visit::Entering`].
#[derive(PartialEq, Eq)]
enum Next {
    Enter,
    Skip,
}
