// SPDX-License-Identifier: GPL-2.0-only

//! Coalesced I/O: writes of the guest's that are collected in a page of the VMM's.

use core::sync::atomic::{
    compiler_fence,
    Ordering, //
};

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    }, //
};

use crate::{
    host::page::HostPage,
    model::{
        coalesced::{
            self,
            Zone,
            FIRST_OFFSET,
            LAST_OFFSET,
            MAX_DATA, //
        },
        ioevent::Bus, //
    },
    uapi, //
};

/// Zones in a VM, at most.
const MAX_ZONES: usize = 1000;

/// The zones of a VM and its ring.
#[pin_data]
pub(crate) struct Coalesced {
    /// Held while the ring is written to, too.
    #[pin]
    zones: SpinLock<KVVec<Zone>>,
    count: Atomic<usize>,
    ring: HostPage,
}

impl Coalesced {
    /// Makes an empty ring without zones.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let ring = HostPage::new()?;
        Arc::pin_init(
            pin_init!(Self {
                zones <- new_spinlock!(KVVec::new()),
                count: Atomic::new(0),
                ring,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the ring's page, which vCPUs' mappings show the VMM.
    pub(crate) fn ring(&self) -> &HostPage {
        &self.ring
    }

    /// `KVM_REGISTER_COALESCED_MMIO`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for bad arguments, `ENOSPC` when there are too many zones.
    pub(crate) fn add(&self, zone: &uapi::kvm_coalesced_mmio_zone) -> Result {
        let zone = zone_of(zone)?;
        loop {
            let room = self.count.load(Relaxed).saturating_add(1);
            let mut new = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
            let mut zones = self.zones.lock();
            if zones.len() >= MAX_ZONES {
                return Err(ENOSPC);
            }
            if zones.len() >= room {
                continue;
            }
            for zone in Iterator::chain(zones.iter(), &[zone]) {
                new.push_within_capacity(*zone).map_err(|_| ENOMEM)?;
            }
            self.count.store(new.len(), Relaxed);
            core::mem::swap(&mut *zones, &mut new);
            // The old table's memory is given back without the lock.
            drop(zones);
            return Ok(());
        }
    }

    /// `KVM_UNREGISTER_COALESCED_MMIO`: takes back all zones that have all of these addresses.
    ///
    /// # Errors
    ///
    /// `EINVAL` for bad arguments.
    pub(crate) fn remove(&self, zone: &uapi::kvm_coalesced_mmio_zone) -> Result {
        let gone = zone_of(zone)?;
        let mut zones = self.zones.lock();
        zones.retain(|zone| !zone.contains(&gone));
        self.count.store(zones.len(), Relaxed);
        Ok(())
    }

    /// Puts a write into the ring, if it belongs there and there is room. Returns whether it is done.
    #[inline]
    pub(crate) fn write(&self, bus: Bus, address: u64, data: &[u8]) -> bool {
        self.count.load(Relaxed) != 0 && self.find_and_write(bus, address, data)
    }

    fn find_and_write(&self, bus: Bus, address: u64, data: &[u8]) -> bool {
        if data.len() > MAX_DATA {
            return false;
        }
        let zones = self.zones.lock();
        let length = data.len() as u64;
        if !zones.iter().any(|zone| zone.covers(bus, address, length)) {
            return false;
        }
        let at = |offset: usize| self.ring.as_ptr().wrapping_add(offset);
        let index = |offset: usize| at(offset).cast::<u32>();
        // SAFETY: Both are aligned words of the page, which `self` owns. The VMM may write to it meanwhile:
        // any value will do, and it is read once.
        let (first, last) = unsafe {
            (
                index(FIRST_OFFSET).read_volatile(),
                index(LAST_OFFSET).read_volatile(),
            )
        };
        let Some(slot) = coalesced::free_slot(first, last) else {
            return false;
        };
        let entry = coalesced::entry(bus, address, data);
        // SAFETY: The slot lies in the page, and the lock keeps other vCPUs out. What the VMM does to it
        // meanwhile garbles its own data only.
        unsafe { core::ptr::copy(entry.as_ptr(), at(slot.offset), entry.len()) };
        // This processor's stores are seen in order; the compiler must keep the order.
        compiler_fence(Ordering::Release);
        // SAFETY: As for reading.
        unsafe { index(LAST_OFFSET).write_volatile(slot.next) };
        true
    }
}

fn zone_of(zone: &uapi::kvm_coalesced_mmio_zone) -> Result<Zone> {
    // SAFETY: Both members of the union are the same integer.
    let pio = unsafe { zone.__bindgen_anon_1.pio };
    Ok(Zone::new(zone.addr, zone.size, pio)?)
}
