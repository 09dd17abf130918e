// SPDX-License-Identifier: GPL-2.0-only

//! TLB flushes that changes of a tree ask for.

/// Whether cached translations must be dropped, on every processor that may have used the tree, before
/// the lock's next owner relies on the change and before unlinked tables are freed.
#[must_use = "stale translations stay in use until the TLBs are flushed"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Nothing that may be cached has changed.
    NotNeeded,
    /// Something may be cached that is no longer in the tree.
    Needed,
}

impl Flush {
    /// Returns `Needed` if either is.
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::NotNeeded, Self::NotNeeded) => Self::NotNeeded,
            _ => Self::Needed,
        }
    }

    /// Returns true if it is needed.
    pub const fn is_needed(self) -> bool {
        matches!(self, Self::Needed)
    }
}

/// A claim to a flush that must be complete before the change is relied on.
#[must_use = "the change must not be relied on before the flush is complete"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debt(u64);

/// The flushes of a tree that have been asked for and not been completed. Kept under the tree's lock.
///
/// A flush is often done after the lock has been dropped. Between the two, a second thread that unmaps
/// the same page finds it gone, yet translations may still be cached: it must not give the page up
/// before they are dropped. So every operation incurs its debt here, and flushes if it gets one:
///
/// ```
/// use vireo_model::model::pt::{Debts, Flush};
///
/// let mut debts = Debts::new();
/// let first = debts.incur(Flush::Needed).expect("a flush is needed");
/// // Another thread has changed nothing itself, but must flush or wait, too.
/// let second = debts.incur(Flush::NotNeeded).expect("a flush is under way");
/// debts.settle(second);
/// assert!(debts.incur(Flush::NotNeeded).is_none());
/// debts.settle(first);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debts {
    incurred: u64,
    settled: u64,
}

impl Debts {
    /// Makes a book without debts.
    pub const fn new() -> Self {
        Self {
            incurred: 0,
            settled: 0,
        }
    }

    /// Notes what an operation asked for, in the same hold of the lock. Returns what must be settled by
    /// a flush that begins from now on, if any.
    pub fn incur(&mut self, flush: Flush) -> Option<Debt> {
        if flush.is_needed() {
            self.incurred = self.incurred.wrapping_add(1);
        }
        (self.incurred != self.settled).then_some(Debt(self.incurred))
    }

    /// Notes that a flush is complete which began after `debt` had been incurred. Debts that were
    /// incurred before are settled with it.
    pub fn settle(&mut self, debt: Debt) {
        // Compared by distance, so that wrapping around does not matter.
        let owed = self.incurred.wrapping_sub(self.settled);
        let left = self.incurred.wrapping_sub(debt.0);
        if left < owed {
            self.settled = debt.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_debts_settle_earlier_ones() {
        let mut debts = Debts::new();
        assert_eq!(debts.incur(Flush::NotNeeded), None);
        let first = debts.incur(Flush::Needed).unwrap();
        let second = debts.incur(Flush::Needed).unwrap();
        assert_ne!(first, second);
        debts.settle(first);
        assert_eq!(debts.incur(Flush::NotNeeded), Some(second));
        debts.settle(second);
        assert_eq!(debts.incur(Flush::NotNeeded), None);
        // The slower thread's flush ends last and settles nothing more.
        debts.settle(first);
        assert_eq!(debts.incur(Flush::NotNeeded), None);
        let third = debts.incur(Flush::Needed).unwrap();
        debts.settle(second);
        assert_eq!(debts.incur(Flush::NotNeeded), Some(third));
    }

    #[test]
    fn counters_may_wrap() {
        let mut debts = Debts {
            incurred: u64::MAX,
            settled: u64::MAX,
        };
        let debt = debts.incur(Flush::Needed).unwrap();
        assert_eq!(debt, Debt(0));
        debts.settle(debt);
        assert_eq!(debts.incur(Flush::NotNeeded), None);
    }
}
