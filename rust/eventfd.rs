// SPDX-License-Identifier: GPL-2.0-only

//! `KVM_IOEVENTFD`: writes of the guest's that signal an eventfd and are complete with that.

use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex,
        SpinLock, //
    }, //
};

use crate::{
    host::{
        atomic,
        eventfd::EventFd, //
    },
    model::ioevent::{
        self,
        flag,
        Bus,
        Doorbell, //
    },
    uapi, //
};

/// Doorbells in a VM, at most.
const MAX_BELLS: usize = 1000;

struct Entry {
    bell: Doorbell,
    event: EventFd,
}

/// The doorbells of a VM, sorted by address.
#[pin_data]
pub(crate) struct Doorbells {
    #[pin]
    table: SpinLock<KVVec<Entry>>,
    /// Held by those who change the table.
    #[pin]
    changing: Mutex<()>,
    count: Atomic<usize>,
    /// Bits that [`place_bit`] gives for the doorbells: most writes can be seen to ring none without the lock.
    places: Atomic<u64>,
}

/// A bit for an address. Other addresses may have the same one.
#[inline(always)]
const fn place_bit(address: u64) -> u64 {
    // The upper bits of a product with the golden ratio's fraction depend on all of the address.
    1 << (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

impl Doorbells {
    /// Makes an empty table.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_spinlock!(KVVec::new()),
            changing <- new_mutex!(()),
            count: Atomic::new(0),
            places: Atomic::new(0),
        })
    }

    /// Carries out a `KVM_IOEVENTFD`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for bad arguments, `EBADF` for a bad descriptor, `EEXIST` when the same write would signal
    /// two eventfds, `ENOSPC` when there are too many, `ENOENT` when the one to be taken back does not exist.
    pub(crate) fn change(&self, request: &uapi::kvm_ioeventfd) -> Result {
        let bell = Doorbell::new(request.addr, request.len, request.datamatch, request.flags)?;
        let event = EventFd::get(request.fd)?;
        let _changing = self.changing.lock();
        if request.flags & flag::DEASSIGN != 0 {
            return self.remove(&bell, &event);
        }
        let mut new = KVVec::with_capacity(
            self.count.load(Relaxed).saturating_add(1),
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut table = self.table.lock();
        if table.iter().any(|entry| entry.bell.collides(&bell)) {
            return Err(EEXIST);
        }
        if table.len() >= MAX_BELLS {
            return Err(ENOSPC);
        }
        let (_, end) = ioevent::at(&table, bell.bus, bell.address, |entry| &entry.bell);
        let mut event = Some(event);
        for (i, entry) in table.drain_all().enumerate() {
            if i == end {
                if let Some(event) = event.take() {
                    new.push_within_capacity(Entry { bell, event })
                        .map_err(|_| ENOMEM)?;
                }
            }
            new.push_within_capacity(entry).map_err(|_| ENOMEM)?;
        }
        if let Some(event) = event.take() {
            new.push_within_capacity(Entry { bell, event })
                .map_err(|_| ENOMEM)?;
        }
        self.count_bells(&new);
        core::mem::swap(&mut *table, &mut new);
        // The old table's memory is given back without the lock.
        drop(table);
        Ok(())
    }

    fn remove(&self, bell: &Doorbell, event: &EventFd) -> Result {
        let mut table = self.table.lock();
        let same = |entry: &Entry| entry.bell == *bell && entry.event.is_same(event);
        let at = table.iter().position(same).ok_or(ENOENT)?;
        let entry = table.remove(at).map_err(|_| ENOENT)?;
        self.count_bells(&table);
        drop(table);
        drop(entry);
        Ok(())
    }

    /// Brings up to date what is known of the table without its lock, which must be held.
    fn count_bells(&self, table: &[Entry]) {
        let places = table.iter().map(|entry| place_bit(entry.bell.address));
        self.places
            .store(places.fold(0, |all, bit| all | bit), Relaxed);
        self.count.store(table.len(), Relaxed);
    }

    /// Signals the eventfd that a write belongs to. Returns whether there is one.
    #[inline(always)]
    pub(crate) fn ring(&self, bus: Bus, address: u64, data: &[u8]) -> bool {
        atomic::read(&self.places) & place_bit(address) != 0
            && self.find_and_ring(bus, address, data)
    }

    #[inline(never)]
    fn find_and_ring(&self, bus: Bus, address: u64, data: &[u8]) -> bool {
        let table = self.table.lock();
        let (start, end) = ioevent::at(&table, bus, address, |entry| &entry.bell);
        let found = table
            .get(start..end)
            .and_then(|bells| bells.iter().find(|entry| entry.bell.matches(data)));
        if let Some(entry) = found {
            entry.event.signal();
        }
        found.is_some()
    }
}
