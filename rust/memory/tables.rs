// SPDX-License-Identifier: GPL-2.0-only

//! The pages that nested page tables are made of.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed,
        Release, //
    }, //
};

use crate::{
    host::page::{
        direct_map,
        HostPage, //
    },
    model::{
        addr::Hpa,
        pt::Tables, //
    }, //
};

/// Tables at hand, enough for one mapping.
const SPARE: usize = 3;

/// A stock of empty tables, filled while memory may be waited for and used under a spinlock.
#[derive(Default)]
pub(crate) struct Spare {
    pages: [Option<HostPage>; SPARE],
}

impl Spare {
    /// Fills the stock. May sleep.
    pub(crate) fn fill(&mut self) -> Result {
        for slot in &mut self.pages {
            if slot.is_none() {
                *slot = Some(HostPage::new()?);
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<HostPage> {
        self.pages.iter_mut().find_map(Option::take)
    }
}

/// Tables that have been unlinked and are to be freed once no TLB can lead to them.
///
/// They are chained through their first entry: an address of a page has its low 12 bits clear, so the
/// processor takes it for an absent entry.
///
/// # Invariants
///
/// `head` and the links are addresses of owned pages, 0 ends the chain.
pub(crate) struct Garbage {
    head: u64,
}

impl Garbage {
    /// Makes an empty collection.
    pub(crate) const fn new() -> Self {
        Self { head: 0 }
    }

    fn push(&mut self, table: Hpa) {
        // SAFETY: `table` is the page of a table that has been handed over.
        unsafe { entry(table, 0) }.store(self.head, Relaxed);
        self.head = table.raw();
    }

    /// Frees the tables. No TLB may lead to them any more.
    pub(crate) fn free(&mut self) {
        while self.head != 0 {
            let table = Hpa::new(self.head);
            // SAFETY: By the invariant an owned page.
            self.head = unsafe { entry(table, 0) }.load(Relaxed);
            // SAFETY: As above; the chain no longer has it.
            drop(unsafe { HostPage::from_hpa(table) });
        }
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        self.free();
    }
}

/// What an operation on the tables works with.
pub(crate) struct HostTables<'a> {
    /// Where new tables come from.
    pub(crate) spare: Option<&'a mut Spare>,
    /// Where unlinked ones go.
    pub(crate) garbage: &'a mut Garbage,
}

/// Returns an entry of a table.
///
/// # Safety
///
/// `table` is the page of a table and `index` is below 512.
#[inline(always)]
unsafe fn entry<'a>(table: Hpa, index: usize) -> &'a Atomic<u64> {
    // SAFETY: The direct map covers the page, whose entries are accessed atomically only.
    unsafe { Atomic::from_ptr(direct_map(table).cast::<u64>().add(index & 511)) }
}

impl Tables for HostTables<'_> {
    #[inline]
    fn read(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: The model passes tables that it got from `alloc`.
        unsafe { entry(table, index) }.load(Relaxed)
    }

    #[inline]
    fn write(&mut self, table: Hpa, index: usize, value: u64) {
        // SAFETY: As `read`.
        unsafe { entry(table, index) }.store(value, Release);
    }

    fn exchange(&mut self, table: Hpa, index: usize, value: u64) -> u64 {
        // SAFETY: As `read`.
        unsafe { entry(table, index) }.xchg(value, Full)
    }

    fn clear(&mut self, table: Hpa, index: usize, bits: u64) -> u64 {
        // SAFETY: As `read`.
        let entry = unsafe { entry(table, index) };
        let mut old = entry.load(Relaxed);
        // The processor adds two bits at most, so this ends after three rounds.
        while let Err(now) = entry.cmpxchg(old, old & !bits, Full) {
            old = now;
        }
        old
    }

    fn alloc(&mut self) -> Option<Hpa> {
        Some(self.spare.as_mut()?.take()?.into_hpa())
    }

    fn defer_free(&mut self, table: Hpa) {
        self.garbage.push(table);
    }
}
