// SPDX-License-Identifier: GPL-2.0-only

//! Searching a table of slots, which is sorted by [`Slot::base_gfn`] and has no overlaps.

use super::{GfnRange, Slot};
use crate::model::addr::{Gfn, Hva};

/// Returns the position of the slot that holds `gfn`.
///
/// ```
/// use vireo_model::model::addr::{Gfn, Hva};
/// use vireo_model::model::memslot::{find, Slot};
///
/// let slots = [Slot { base_gfn: Gfn::new(0x100), npages: 16, hva: Hva::new(0x10000), ..Slot::default() }];
/// assert_eq!(find(&slots, Gfn::new(0x10f)), Some(0));
/// assert_eq!(find(&slots, Gfn::new(0x110)), None);
/// assert_eq!(slots[0].hva_of(Gfn::new(0x101)), Some(Hva::new(0x11000)));
/// ```
pub fn find(slots: &[Slot], gfn: Gfn) -> Option<usize> {
    let position = slots
        .partition_point(|slot| slot.base_gfn <= gfn)
        .checked_sub(1)?;
    slots
        .get(position)
        .filter(|slot| slot.contains(gfn))
        .map(|_| position)
}

/// Like [`find`], but tries the slot at `hint` first and leaves what it found there. Any hint is valid.
#[inline]
pub fn find_hinted(slots: &[Slot], hint: &mut usize, gfn: Gfn) -> Option<usize> {
    if slots.get(*hint).is_some_and(|slot| slot.contains(gfn)) {
        return Some(*hint);
    }
    let position = find(slots, gfn)?;
    *hint = position;
    Some(position)
}

/// Returns the position of the slot with number `id`. This looks at every slot.
pub fn find_id(slots: &[Slot], id: u32) -> Option<usize> {
    slots.iter().position(|slot| slot.id == id)
}

/// Returns where a slot that starts at `base_gfn` goes in the table.
pub fn insert_position(slots: &[Slot], base_gfn: Gfn) -> usize {
    slots.partition_point(|slot| slot.base_gfn < base_gfn)
}

/// Returns the slots that hold frames of `range`, each with those frames, in rising order.
pub fn overlapping(slots: &[Slot], range: GfnRange) -> impl Iterator<Item = (&Slot, GfnRange)> {
    let first = slots.partition_point(|slot| slot.end_gfn() <= range.start);
    slots
        .get(first..)
        .unwrap_or(&[])
        .iter()
        .take_while(move |slot| slot.base_gfn < range.end)
        .filter_map(move |slot| Some((slot, slot.gfns().intersect(&range)?)))
}

/// Returns the guest frames that the host range `start` to `end` (excluded) backs, by slot. The host may
/// back several slots with one page, so frames of one page can come up more than once.
pub fn hva_ranges(slots: &[Slot], start: Hva, end: Hva) -> impl Iterator<Item = (&Slot, GfnRange)> {
    slots
        .iter()
        .filter_map(move |slot| Some((slot, slot.gfns_of(start, end)?)))
}
