// SPDX-License-Identifier: GPL-2.0-only

//! What a `KVM_SET_USER_MEMORY_REGION` request changes, or why it is refused.

use super::{find_id, flag, overlapping, GfnRange, Slot, MAX_PAGES, USER_SLOTS};
use crate::model::addr::{Gfn, Hva, PAGE_SHIFT, PAGE_SIZE};
use crate::model::errno::Errno;

/// The arguments of the request, as in `struct kvm_userspace_memory_region`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Slot number; bits 31 to 16 name the address space.
    pub slot: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Where the slot starts in guest-physical memory, in bytes.
    pub guest_phys_addr: u64,
    /// Size in bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// Where the memory starts in the VMM's address space, in bytes.
    pub userspace_addr: u64,
}

impl Request {
    /// Returns the number of the address space that the request is about.
    pub const fn address_space(&self) -> u32 {
        self.slot >> 16
    }
}

/// What the machine and the host allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Address spaces of the VM: 1, or 2 with system-management mode.
    pub address_spaces: u32,
    /// Read-only slots are supported.
    pub readonly: bool,
    /// The highest frame that second-level tables reach.
    pub max_gfn: Gfn,
    /// The first address above the VMM's, which is where user space ends.
    pub user_end: u64,
}

/// What a request changes. Positions are those in the table that it was planned with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a slot.
    Create(Slot),
    /// Remove the slot at a position.
    Delete(usize),
    /// Remove the slot at a position and add its successor, which starts at another frame.
    Move(usize, Slot),
    /// Replace the flags of the slot at a position.
    Flags(usize, u32),
    /// The slot is already what the request asks for.
    Nothing,
}

/// Plans `request` against the address space's `slots`.
///
/// # Errors
///
/// [`Errno::Invalid`] when an argument is malformed or out of range, a slot to be deleted does not exist,
/// or a change is one that is not allowed (size, host address, read-only). [`Errno::Exist`] when the new
/// place overlaps another slot.
pub fn plan(slots: &[Slot], request: &Request, limits: &Limits) -> Result<Change, Errno> {
    plan_known(slots, find_id(slots, request.slot), request, limits)
}

/// Like [`plan`], for a caller that knows the position `old` of the slot with the request's number, or
/// that there is none.
///
/// # Errors
///
/// As [`plan`].
pub fn plan_known(
    slots: &[Slot],
    old: Option<usize>,
    request: &Request,
    limits: &Limits,
) -> Result<Change, Errno> {
    check(request, limits)?;
    let old = old.and_then(|position| Some((position, slots.get(position)?)));
    if request.memory_size == 0 {
        return old
            .map(|(position, _)| Change::Delete(position))
            .ok_or(Errno::Invalid);
    }
    // The sum of all slots' pages needs no check: slots don't overlap and end at `max_gfn`.
    let new = Slot {
        id: request.slot,
        base_gfn: Gfn::new(request.guest_phys_addr >> PAGE_SHIFT),
        npages: request.memory_size >> PAGE_SHIFT,
        hva: Hva::new(request.userspace_addr),
        flags: request.flags,
    };
    let change = match old {
        None => Change::Create(new),
        Some((position, old)) => {
            let fixed = old.hva != new.hva || old.npages != new.npages;
            if fixed || (old.flags ^ new.flags) & flag::READONLY != 0 {
                return Err(Errno::Invalid);
            }
            if old.base_gfn == new.base_gfn {
                return Ok(if old.flags == new.flags {
                    Change::Nothing
                } else {
                    Change::Flags(position, new.flags)
                });
            }
            Change::Move(position, new)
        }
    };
    if overlapping(slots, new.gfns()).any(|(slot, _)| slot.id != new.id) {
        return Err(Errno::Exist);
    }
    match last_gfn(new.gfns()) {
        Some(last) if last <= limits.max_gfn => Ok(change),
        _ => Err(Errno::Invalid),
    }
}

fn check(request: &Request, limits: &Limits) -> Result<(), Errno> {
    let mut allowed = flag::LOG_DIRTY_PAGES;
    if limits.readonly {
        allowed |= flag::READONLY;
    }
    let page_mask = PAGE_SIZE - 1;
    let unaligned = request.memory_size | request.guest_phys_addr | request.userspace_addr;
    let user_end = request.userspace_addr.checked_add(request.memory_size);
    let good = request.flags & !allowed == 0
        && unaligned & page_mask == 0
        && user_end.is_some_and(|end| end <= limits.user_end)
        && request.address_space() < limits.address_spaces
        && request.slot & 0xffff < USER_SLOTS
        && request
            .guest_phys_addr
            .checked_add(request.memory_size)
            .is_some()
        && request.memory_size >> PAGE_SHIFT <= MAX_PAGES;
    if good {
        Ok(())
    } else {
        Err(Errno::Invalid)
    }
}

fn last_gfn(range: GfnRange) -> Option<Gfn> {
    range.end.raw().checked_sub(1).map(Gfn::new)
}
