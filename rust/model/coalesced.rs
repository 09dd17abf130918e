// SPDX-License-Identifier: GPL-2.0-only

//! Coalesced I/O: writes that are collected in a ring of the VMM's instead of each ending `KVM_RUN`
//! (`KVM_REGISTER_COALESCED_MMIO` in Documentation/virt/kvm/api.rst).
//!
//! The ring is a page that the VMM may write to at any time. It takes entries from `first`, the kernel adds
//! them at `last`; the two are equal when it is empty, so one entry always stays free.

use super::{errno::Errno, ioevent::Bus};

/// Bytes of the ring's page.
pub const RING_BYTES: usize = 4096;
/// Offset of the 32-bit index of the first entry.
pub const FIRST_OFFSET: usize = 0;
/// Offset of the 32-bit index behind the last entry.
pub const LAST_OFFSET: usize = 4;
/// Offset of the entries.
const ENTRIES_OFFSET: usize = 8;
/// Bytes of an entry: address, length, whether it is a port, and the data.
pub const ENTRY_BYTES: usize = 24;
/// Entries in the ring (`KVM_COALESCED_MMIO_MAX`).
pub const ENTRIES: u32 = ((RING_BYTES - ENTRIES_OFFSET) / ENTRY_BYTES) as u32;
/// Bytes of a write, at most.
pub const MAX_DATA: usize = 8;

/// Addresses whose writes are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    bus: Bus,
    address: u64,
    size: u32,
}

impl Zone {
    /// Makes one of the arguments of the ioctls.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] when `pio` is neither 0 nor 1.
    pub const fn new(address: u64, size: u32, pio: u32) -> Result<Self, Errno> {
        let bus = match pio {
            0 => Bus::Memory,
            1 => Bus::Port,
            _ => return Err(Errno::Invalid),
        };
        Ok(Self { bus, address, size })
    }

    /// Returns true if all of `length` bytes at `address` belong to it. A zone that wraps has none.
    pub fn covers(&self, bus: Bus, address: u64, length: u64) -> bool {
        let end = |address: u64, length: u64| address.checked_add(length);
        match (
            end(address, length),
            end(self.address, u64::from(self.size)),
        ) {
            (Some(end), Some(zone_end)) => {
                bus == self.bus && address >= self.address && end <= zone_end
            }
            _ => false,
        }
    }

    /// Returns true if taking `other` back takes this one back, which then has all of its addresses.
    pub fn contains(&self, other: &Self) -> bool {
        self.covers(other.bus, other.address, u64::from(other.size))
    }
}

/// Where the next entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its offset in the page; the whole entry is inside.
    pub offset: usize,
    /// The index behind it.
    pub next: u32,
}

/// Returns the free slot of a ring with these indices, which the VMM may have set to anything: `None` when
/// it is full, or `last` names no entry.
pub const fn free_slot(first: u32, last: u32) -> Option<Slot> {
    if last >= ENTRIES {
        return None;
    }
    // `last` is below `ENTRIES`.
    let next = if last == ENTRIES - 1 { 0 } else { last + 1 };
    if next == first {
        return None;
    }
    Some(Slot {
        offset: ENTRIES_OFFSET + last as usize * ENTRY_BYTES,
        next,
    })
}

/// Returns the entry for a write of `data`, of which there are [`MAX_DATA`] bytes at most.
pub fn entry(bus: Bus, address: u64, data: &[u8]) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    let length = data.len().min(MAX_DATA) as u32;
    let pio = u32::from(bus == Bus::Port);
    let mut put = |at: usize, field: &[u8]| {
        for (to, from) in bytes.iter_mut().skip(at).zip(field) {
            *to = *from;
        }
    };
    put(0, &address.to_le_bytes());
    put(8, &length.to_le_bytes());
    put(12, &pio.to_le_bytes());
    put(16, data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(address: u64, size: u32) -> Zone {
        Zone::new(address, size, 0).unwrap()
    }

    #[test]
    fn arguments() {
        assert_eq!(Zone::new(0, 1, 2), Err(Errno::Invalid));
        assert_eq!(Zone::new(0, 1, u32::MAX), Err(Errno::Invalid));
        assert_eq!(Zone::new(0x80, 1, 1).unwrap().bus, Bus::Port);
    }

    #[test]
    fn a_write_must_lie_inside() {
        let zone = zone(0x1000, 16);
        assert!(zone.covers(Bus::Memory, 0x1000, 8) && zone.covers(Bus::Memory, 0x1008, 8));
        assert!(!zone.covers(Bus::Memory, 0x1009, 8) && !zone.covers(Bus::Memory, 0xfff, 2));
        assert!(!zone.covers(Bus::Port, 0x1000, 1));
        assert!(!zone.covers(Bus::Memory, u64::MAX, 8));
    }

    #[test]
    fn a_zone_that_wraps_is_empty() {
        let zone = zone(u64::MAX - 3, 16);
        assert!(!zone.covers(Bus::Memory, u64::MAX - 3, 1));
        assert!(!zone.covers(Bus::Memory, 0, 1));
    }

    #[test]
    fn zones_are_taken_back_by_part_of_them() {
        let all = zone(0x1000, 0x100);
        assert!(all.contains(&all) && all.contains(&zone(0x1010, 4)));
        assert!(!all.contains(&zone(0x1000, 0x101)) && !all.contains(&zone(0xfff, 1)));
        assert!(!all.contains(&Zone::new(0x1000, 1, 1).unwrap()));
    }

    /// All pairs of indices, those out of range too: a slot is always inside of the page, and the ring holds
    /// one entry less than it has.
    #[test]
    fn slots() {
        assert_eq!(ENTRIES, 170);
        for first in 0..ENTRIES + 3 {
            let mut last = first % ENTRIES;
            let mut count = 0;
            while let Some(slot) = free_slot(first, last) {
                assert!(slot.offset + ENTRY_BYTES <= RING_BYTES && slot.next < ENTRIES);
                last = slot.next;
                count += 1;
                if count == 2 * ENTRIES {
                    break;
                }
            }
            // A first entry that does not exist never stops the ring: the VMM overwrites its own data.
            let expected = if first < ENTRIES {
                ENTRIES - 1
            } else {
                2 * ENTRIES
            };
            assert_eq!(count, expected, "{first}");
        }
        for last in [ENTRIES, ENTRIES + 1, u32::MAX] {
            assert_eq!(free_slot(0, last), None);
        }
        assert_eq!(free_slot(u32::MAX, ENTRIES - 1).unwrap().next, 0);
    }

    #[test]
    fn entries() {
        let bytes = entry(Bus::Port, 0x1122_3344_5566_7788, &[1, 2, 3]);
        assert_eq!(bytes[..8], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(bytes[8..], [3, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0]);
        assert_eq!(entry(Bus::Memory, 0, &[0xff; 9])[8..12], [8, 0, 0, 0]);
    }
}
