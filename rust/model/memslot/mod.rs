// SPDX-License-Identifier: GPL-2.0-only

//! Memory slots: which guest-physical pages are which pages of the VMM's memory
//! (`KVM_SET_USER_MEMORY_REGION`).
//!
//! A table is a slice of [`Slot`]s of one address space, sorted by [`Slot::base_gfn`], no two of which
//! overlap. [`plan`] says what a request changes; the owner of the table carries it out with
//! [`insert_position`].

mod find;
mod plan;

pub use find::{find, find_hinted, find_id, hva_ranges, insert_position, overlapping};
pub use plan::{plan, plan_known, Change, Limits, Request};

use crate::model::addr::{Gfn, Hva, PAGE_SHIFT};

/// Slot numbers that userspace may use: 0 up to, but not including, this.
pub const USER_SLOTS: u32 = 32764;

/// The most pages in a slot, so that a dirty bitmap's indices fit 32 bits.
pub const MAX_PAGES: u64 = (1 << 31) - 1;

/// `KVM_MEM_*` flags of a slot.
pub mod flag {
    /// `KVM_MEM_LOG_DIRTY_PAGES`: record which pages the guest writes.
    pub const LOG_DIRTY_PAGES: u32 = 1 << 0;
    /// `KVM_MEM_READONLY`: guest writes are MMIO.
    pub const READONLY: u32 = 1 << 1;
}

/// A range of guest frames, `start` up to, but not including, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GfnRange {
    /// The first frame.
    pub start: Gfn,
    /// The frame after the last one.
    pub end: Gfn,
}

impl GfnRange {
    /// Returns the number of frames, 0 for an inverted range.
    pub const fn len(&self) -> u64 {
        self.end.raw().saturating_sub(self.start.raw())
    }

    /// Returns true when the range has no frames.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the frames that both ranges have, if any.
    pub fn intersect(&self, other: &GfnRange) -> Option<GfnRange> {
        let both = GfnRange {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        if both.is_empty() {
            None
        } else {
            Some(both)
        }
    }
}

/// A memory slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The slot's number; bits 31 to 16 name the address space.
    pub id: u32,
    /// The first guest frame.
    pub base_gfn: Gfn,
    /// Size in pages, 1 to [`MAX_PAGES`].
    pub npages: u64,
    /// The first page in the VMM's address space.
    pub hva: Hva,
    /// Bits of [`flag`].
    pub flags: u32,
}

impl Slot {
    /// Returns the frame after the slot's last one.
    pub const fn end_gfn(&self) -> Gfn {
        Gfn::new(self.base_gfn.raw().saturating_add(self.npages))
    }

    /// Returns the slot's frames.
    pub const fn gfns(&self) -> GfnRange {
        GfnRange {
            start: self.base_gfn,
            end: self.end_gfn(),
        }
    }

    /// Says whether the slot holds `gfn`.
    #[inline]
    pub const fn contains(&self, gfn: Gfn) -> bool {
        // A frame below the slot wraps around to a large number.
        gfn.raw().wrapping_sub(self.base_gfn.raw()) < self.npages
    }

    /// Returns the address of the page that backs `gfn`, or `None` outside the slot.
    #[inline]
    pub const fn hva_of(&self, gfn: Gfn) -> Option<Hva> {
        if !self.contains(gfn) {
            return None;
        }
        let page = gfn.raw().wrapping_sub(self.base_gfn.raw());
        self.hva.checked_add(page << PAGE_SHIFT)
    }

    /// Returns the frames that the host range `start` to `end` (excluded) backs, whole pages that it
    /// touches, or `None` when it touches none of the slot.
    pub fn gfns_of(&self, start: Hva, end: Hva) -> Option<GfnRange> {
        let base = self.hva.raw();
        let limit = base.saturating_add(self.npages.checked_mul(1 << PAGE_SHIFT)?);
        let first = start.raw().max(base);
        let last = end.raw().min(limit);
        if first >= last {
            return None;
        }
        let pages_before = (first - base) >> PAGE_SHIFT;
        let pages_through = (last - base).div_ceil(1 << PAGE_SHIFT);
        Some(GfnRange {
            start: self.base_gfn.checked_add(pages_before)?,
            end: self.base_gfn.checked_add(pages_through)?,
        })
    }

    /// Says whether the guest may write the slot directly.
    pub const fn is_writable(&self) -> bool {
        self.flags & flag::READONLY == 0
    }

    /// Says whether writes are recorded.
    pub const fn logs_dirty(&self) -> bool {
        self.flags & flag::LOG_DIRTY_PAGES != 0
    }

    /// Returns the size of the slot's dirty bitmap in bytes, a multiple of 8.
    pub const fn dirty_bitmap_bytes(&self) -> u64 {
        self.npages.div_ceil(64).saturating_mul(8)
    }
}
