// SPDX-License-Identifier: GPL-2.0-only

//! Guest memory: the slots, and the nested page tables that cache what they and the host's page tables say.
//!
//! # Locking
//!
//! One spinlock covers slots and tables. It is never held while memory is faulted in: a fault looks the
//! slot up, drops the lock, takes a reference to the host's page (which may sleep), and maps the page under
//! the lock only if no invalidation has begun or ended and no slot has changed since the lookup. The host
//! calls the MMU notifier with locks of its own, so nothing here waits for those with the spinlock held.
//!
//! # Stale translations
//!
//! Whoever takes something out of the tables raises `generation` and waits until each vCPU that was in the
//! guest has left it. A vCPU compares the generation with interrupts off right before each entry, after it
//! has said that it is entering, so it either sees the new one or is waited for.

use kernel::{
    mm::Mm,
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        rcu::synchronize_rcu,
        Arc,
        Mutex,
        SpinLock, //
    }, //
};

use crate::{
    host::{
        atomic,
        notifier::{
            current_mm,
            MemoryWatcher, //
        },
        page::HostPage,
        sched,
        user::{
            self,
            PinnedPage, //
        }, //
    },
    model::{
        addr::{
            Gfn,
            Gpa,
            Hpa,
            Hva,
            PAGE_SHIFT, //
        },
        memslot::{
            self,
            Change,
            GfnRange,
            Limits,
            Request,
            Slot, //
        },
        pt::{
            self,
            nested::Nested,
            Caching,
            Debt,
            Debts,
            Flush,
            MapError,
            Mapping,
            PageSize,
            PageTable,
            Progress,
            Range,
            Rights, //
        }, //
    },
    vcpu::table::VcpuTable, //
};

mod tables;

pub(crate) use tables::Spare;
use tables::{
    Garbage,
    HostTables, //
};

/// Table entries that are visited with the lock held before others get it.
const BUDGET: usize = 4096;

/// The end of userspace: the lower half of the address space.
const USER_END: u64 = 1 << 47;

/// How often a fault starts again because memory changed under it before the guest is simply let run
/// into it once more, so that signals and rescheduling get their turn.
const FAULT_TRIES: usize = 8;

struct Inner {
    slots: KVVec<Slot>,
    /// A slot that has just been removed and is still being unmapped: the host may not believe that its
    /// pages are free before that is done.
    leaving: Option<Slot>,
    /// Counts changes of slots.
    slots_version: u64,
    /// Changes that the host has announced and not ended.
    changing: usize,
    /// Counts ends of such changes and changes of slots.
    sequence: u64,
    table: Option<PageTable<Nested>>,
    garbage: Garbage,
    /// Flushes under way: whoever finds a page gone must wait for the one that made it so.
    debts: Debts,
}

/// A VM's memory.
#[pin_data(PinnedDrop)]
pub(crate) struct Memory {
    #[pin]
    inner: SpinLock<Inner>,
    /// Held by those who change slots.
    #[pin]
    slots_lock: Mutex<()>,
    generation: Atomic<u64>,
    /// How often the slots have changed.
    slots_changes: Atomic<u64>,
    /// The vCPUs that may have translations in their CPU's TLB.
    pub(crate) vcpus: Arc<VcpuTable>,
    root: Hpa,
    /// What is mapped at the local APICs' address while the processor virtualises accesses to it: nothing
    /// ever gets there.
    apic_page: HostPage,
    /// A vCPU's local APIC has left its address, so that the page must not be mapped.
    apic_moved: Atomic<u32>,
    /// The largest page that the processor can map.
    largest: PageSize,
    mm: ARef<Mm>,
}

/// Why the guest could not access a page.
pub(crate) enum Fault {
    /// No slot, or a write to a read-only one: a device's.
    Mmio,
    /// The host must fetch the page from somewhere, which the caller does not want to wait for.
    Away,
    /// The host's error.
    Host(Error),
}

impl Memory {
    /// Makes an empty memory for the current process.
    pub(crate) fn new(
        format: Nested,
        largest: PageSize,
        vcpus: Arc<VcpuTable>,
    ) -> Result<impl PinInit<Self, Error>> {
        let mut spare = Spare::default();
        spare.fill()?;
        let mut garbage = Garbage::new();
        let table = PageTable::new(
            format,
            &mut HostTables {
                spare: Some(&mut spare),
                garbage: &mut garbage,
            },
        )
        .ok_or(ENOMEM)?;
        let root = table.root();
        let mm = current_mm()?;
        Ok(try_pin_init!(Self {
            inner <- new_spinlock!(Inner {
                slots: KVVec::new(),
                leaving: None,
                slots_version: 0,
                changing: 0,
                sequence: 0,
                table: Some(table),
                garbage,
                debts: Debts::new(),
            }),
            slots_lock <- new_mutex!(()),
            generation: Atomic::new(1),
            slots_changes: Atomic::new(0),
            vcpus,
            root,
            apic_page: HostPage::new()?,
            apic_moved: Atomic::new(0),
            largest,
            mm,
        }? Error))
    }

    /// Returns the process whose memory the guest's is.
    pub(crate) fn mm(&self) -> &ARef<Mm> {
        &self.mm
    }

    /// Returns the address of the root table.
    pub(crate) fn root(&self) -> Hpa {
        self.root
    }

    /// Returns the generation to enter the guest with.
    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        atomic::read(&self.generation)
    }

    /// Carries out a `KVM_SET_USER_MEMORY_REGION`.
    ///
    /// # Errors
    ///
    /// As [`memslot::plan`] says; `ENOMEM`.
    pub(crate) fn set_slot(&self, request: &Request) -> Result {
        let limits = Limits {
            address_spaces: 1,
            readonly: true,
            max_gfn: pt::END,
            user_end: USER_END,
        };
        let _changing = self.slots_lock.lock();
        // Only this thread changes slots now, so the plan stays true while the new table is made.
        let (change, count) = {
            let inner = self.inner.lock();
            (
                memslot::plan(&inner.slots, request, &limits)?,
                inner.slots.len(),
            )
        };
        let mut new = KVVec::with_capacity(count.saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        let mut gone = None;
        {
            let mut inner = self.inner.lock();
            for slot in inner.slots.iter() {
                new.push_within_capacity(*slot).map_err(|_| ENOMEM)?;
            }
            let mut take = |at: usize, new: &mut KVVec<Slot>| -> Result {
                gone = Some(new.remove(at).map_err(|_| EINVAL)?);
                Ok(())
            };
            match change {
                Change::Nothing => return Ok(()),
                Change::Create(slot) => insert(&mut new, slot)?,
                Change::Delete(at) => take(at, &mut new)?,
                Change::Move(at, slot) => {
                    take(at, &mut new)?;
                    insert(&mut new, slot)?;
                }
                Change::Flags(at, flags) => {
                    if let Some(slot) = new.get_mut(at) {
                        slot.flags = flags;
                    }
                }
            }
            core::mem::swap(&mut inner.slots, &mut new);
            inner.leaving = gone;
            inner.slots_version = inner.slots_version.wrapping_add(1);
            self.slots_changes.fetch_add(1, Relaxed);
            inner.sequence = inner.sequence.wrapping_add(1);
        }
        if let Some(slot) = gone {
            self.forget_flags();
            self.unmap(slot.gfns());
            self.inner.lock().leaving = None;
        }
        Ok(())
    }

    /// Keeps vCPUs from writing where a slot has been.
    fn forget_flags(&self) {
        let mut told = false;
        for vcpu in self.vcpus.iter() {
            told |= vcpu.forget_flag();
        }
        if told {
            synchronize_rcu();
        }
    }

    /// Returns a number that changes with the slots.
    pub(crate) fn slots_version(&self) -> u64 {
        atomic::read(&self.slots_changes)
    }

    /// Returns the slot that holds `gfn`.
    pub(crate) fn slot(&self, gfn: Gfn) -> Option<Slot> {
        let inner = self.inner.lock();
        inner.slots.get(memslot::find(&inner.slots, gfn)?).copied()
    }

    /// Returns where the VMM keeps the page `gfn`; `None` without a slot, or for a write without the right.
    pub(crate) fn hva(&self, gfn: Gfn, write: bool) -> Option<Hva> {
        let slot = self.slot(gfn)?;
        if write && !slot.is_writable() {
            return None;
        }
        slot.hva_of(gfn)
    }

    /// Reads guest memory, which must not cross a page.
    pub(crate) fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result {
        let hva = self.hva(gpa.gfn(), false).ok_or(EFAULT)?;
        let hva = hva.checked_add(gpa.page_offset()).ok_or(EFAULT)?;
        user::copy_in(hva, to)
    }

    /// Writes guest memory, which must not cross a page.
    pub(crate) fn write(&self, gpa: Gpa, from: &[u8]) -> Result {
        let hva = self.hva(gpa.gfn(), true).ok_or(EFAULT)?;
        let hva = hva.checked_add(gpa.page_offset()).ok_or(EFAULT)?;
        user::copy_out(hva, from)
    }

    /// Maps the page at `gpa` for an access of the guest's. May sleep; only if it may `wait`, for a page that
    /// the host must fetch.
    pub(crate) fn fault(
        &self,
        spare: &mut Spare,
        gpa: Gpa,
        write: bool,
        wait: bool,
    ) -> Result<(), Fault> {
        let gfn = gpa.gfn();
        for _ in 0..FAULT_TRIES {
            spare.fill().map_err(Fault::Host)?;
            let (slot, sequence) = {
                let inner = self.inner.lock();
                let slot = memslot::find(&inner.slots, gfn)
                    .and_then(|at| inner.slots.get(at))
                    .copied()
                    .ok_or(Fault::Mmio)?;
                (slot, inner.sequence)
            };
            if write && !slot.is_writable() {
                return Err(Fault::Mmio);
            }
            let hva = slot.hva_of(gfn).ok_or(Fault::Mmio)?;
            let page = match PinnedPage::get(hva, write, wait) {
                Ok(page) => page,
                Err(EAGAIN) if !wait => return Err(Fault::Away),
                Err(error) => return Err(Fault::Host(error)),
            };
            let rights = if page.writable && slot.is_writable() {
                Rights::ALL
            } else {
                Rights::READ_ONLY
            };
            let mapping = Mapping {
                gfn,
                pfn: page.pfn(),
                size: self.page_size(&slot, gfn, hva),
                rights,
                caching: Caching::RAM,
            };
            let mut inner = self.inner.lock();
            if inner.changing != 0 || inner.sequence != sequence {
                drop(inner);
                sched::yield_now();
                continue;
            }
            let Inner {
                table,
                garbage,
                debts,
                ..
            } = &mut *inner;
            let Some(table) = table.as_ref() else {
                return Err(Fault::Host(EIO));
            };
            let mut tables = HostTables {
                spare: Some(spare),
                garbage,
            };
            match table.map(&mut tables, &mapping) {
                Ok((_, Flush::NotNeeded)) => return Ok(()),
                Ok((_, Flush::Needed)) => {
                    let debt = debts.incur(Flush::Needed);
                    drop(inner);
                    self.settle(debt);
                    return Ok(());
                }
                Err(MapError::NeedTable) => {}
                Err(MapError::OutOfRange) => return Err(Fault::Mmio),
            }
        }
        Ok(())
    }

    /// Returns the table entries on the way to `gpa`, for the log.
    pub(crate) fn trace(&self, gpa: u64) -> [u64; pt::Level::COUNT] {
        let mut inner = self.inner.lock();
        let Inner { table, garbage, .. } = &mut *inner;
        let tables = HostTables {
            spare: None,
            garbage,
        };
        match table {
            Some(table) => table.trace(&tables, Gpa::new(gpa).gfn()),
            None => [0; pt::Level::COUNT],
        }
    }

    /// Returns the address of the page for the local APICs.
    pub(crate) fn apic_page(&self) -> Hpa {
        self.apic_page.hpa()
    }

    /// Maps the page for the local APICs at `gfn`. Returns whether it is mapped.
    pub(crate) fn map_apic_page(&self, spare: &mut Spare, gfn: Gfn) -> Result<bool> {
        spare.fill()?;
        let mut inner = self.inner.lock();
        if self.apic_moved.load(Relaxed) != 0 || memslot::find(&inner.slots, gfn).is_some() {
            return Ok(false);
        }
        let Inner { table, garbage, .. } = &mut *inner;
        let Some(table) = table.as_ref() else {
            return Ok(false);
        };
        let mapping = Mapping {
            gfn,
            pfn: self.apic_page.hpa().pfn(),
            size: PageSize::K4,
            rights: Rights::ALL,
            caching: Caching::RAM,
        };
        let mut tables = HostTables {
            spare: Some(spare),
            garbage,
        };
        Ok(table.map(&mut tables, &mapping).is_ok())
    }

    /// Keeps the page from ever being mapped again: one vCPU's accesses there are not virtualised any more.
    pub(crate) fn unmap_apic_page(&self, gfn: Gfn) {
        {
            let _inner = self.inner.lock();
            self.apic_moved.store(1, Relaxed);
        }
        self.unmap(GfnRange {
            start: gfn,
            end: Gfn::new(gfn.raw().saturating_add(1)),
        });
    }

    /// Returns the largest page that the slot, the processor and the host's own mapping allow.
    fn page_size(&self, slot: &Slot, gfn: Gfn, hva: Hva) -> PageSize {
        if self.largest == PageSize::K4 {
            return PageSize::K4;
        }
        let fitting = PageSize::fitting(
            gfn,
            hva.raw() >> PAGE_SHIFT,
            slot.base_gfn,
            slot.npages,
            self.largest,
        );
        if fitting == PageSize::K4 {
            return PageSize::K4;
        }
        let order = user::mapping_order(&self.mm, hva);
        match 1u64.checked_shl(order).unwrap_or(1) {
            frames if frames >= PageSize::G1.frames() => fitting,
            frames if frames >= PageSize::M2.frames() => fitting.min(PageSize::M2),
            _ => PageSize::K4,
        }
    }

    /// Takes a range out of the tables and out of every TLB.
    fn unmap(&self, range: GfnRange) {
        let mut range = Range::new(range.start, range.end);
        let mut garbage = Garbage::new();
        let debt = loop {
            let mut inner = self.inner.lock();
            let Some(table) = inner.table.as_ref().copied() else {
                return;
            };
            let mut tables = HostTables {
                spare: None,
                garbage: &mut garbage,
            };
            let (progress, flush) = table.unmap(&mut tables, &mut range, BUDGET);
            let debt = inner.debts.incur(flush);
            drop(inner);
            if progress == Progress::Done {
                break debt;
            }
        };
        self.settle(debt);
        garbage.free();
    }

    /// Flushes, if there is something to settle.
    fn settle(&self, debt: Option<Debt>) {
        if let Some(debt) = debt {
            self.flush();
            self.inner.lock().debts.settle(debt);
        }
    }

    /// Makes every vCPU drop its translations before it runs guest code again.
    fn flush(&self) {
        // Tables that a mapping has replaced go, too: those that are there before the flush begins.
        let mut garbage = core::mem::replace(&mut self.inner.lock().garbage, Garbage::new());
        self.generation.fetch_add(1, Full);
        self.vcpus
            .for_each(|vcpu| vcpu.timer.waiter.wait_until_out());
        garbage.free();
    }

    /// Applies `f` to the parts of the slots that the host range covers, one at a time and without the
    /// lock.
    fn for_each_range(&self, start: Hva, end: Hva, mut f: impl FnMut(GfnRange)) {
        // A slot that appears meanwhile has nothing mapped from before, and one that is going is `leaving`
        // until it is unmapped. So walking by position over a changing table is enough as long as no slot
        // is missed, which the version tells.
        'again: loop {
            let mut at = 0;
            let before = self.inner.lock().slots_version;
            loop {
                let found = {
                    let inner = self.inner.lock();
                    if inner.slots_version != before {
                        continue 'again;
                    }
                    let rest = inner.slots.get(at..).unwrap_or(&[]);
                    let leaving = inner.leaving.filter(|_| at <= inner.slots.len());
                    let last = inner.slots.len();
                    let next = rest
                        .iter()
                        .position(|slot| slot.gfns_of(start, end).is_some())
                        .map(|skip| at.saturating_add(skip));
                    next.and_then(|i| Some((i, inner.slots.get(i)?.gfns_of(start, end)?)))
                        .or_else(|| Some((last, leaving?.gfns_of(start, end)?)))
                };
                let Some((i, range)) = found else { return };
                f(range);
                at = i.saturating_add(1);
            }
        }
    }
}

fn insert(slots: &mut KVVec<Slot>, slot: Slot) -> Result {
    let at = memslot::insert_position(slots, slot.base_gfn);
    slots.insert_within_capacity(at, slot).map_err(|_| ENOMEM)
}

impl MemoryWatcher for Memory {
    fn changing(&self, start: Hva, end: Hva) {
        {
            let mut inner = self.inner.lock();
            inner.changing = inner.changing.saturating_add(1);
        }
        self.for_each_range(start, end, |range| self.unmap(range));
    }

    fn changed(&self, _start: Hva, _end: Hva) {
        let mut inner = self.inner.lock();
        inner.changing = inner.changing.saturating_sub(1);
        inner.sequence = inner.sequence.wrapping_add(1);
    }

    fn used(&self, start: Hva, end: Hva, clear: bool) -> bool {
        let mut young = false;
        self.for_each_range(start, end, |range| {
            let mut range = Range::new(range.start, range.end);
            let mut debt = None;
            loop {
                let mut inner = self.inner.lock();
                let Inner {
                    table,
                    garbage,
                    debts,
                    ..
                } = &mut *inner;
                let Some(table) = table.as_ref() else { return };
                let mut tables = HostTables {
                    spare: None,
                    garbage,
                };
                let progress = if clear {
                    let (progress, age) = table.age(&mut tables, &mut range, BUDGET);
                    young |= age.young;
                    if age.flush.is_needed() {
                        debt = debts.incur(age.flush);
                    }
                    progress
                } else {
                    let (progress, used) = table.is_young(&mut tables, &mut range, BUDGET);
                    young |= used;
                    progress
                };
                if progress == Progress::Done {
                    break;
                }
            }
            self.settle(debt);
        });
        young
    }

    fn released(&self) {
        self.unmap(GfnRange {
            start: Gfn::new(0),
            end: pt::END,
        });
    }
}

#[pinned_drop]
impl PinnedDrop for Memory {
    fn drop(self: Pin<&mut Self>) {
        // The notifier is unregistered and no vCPU is left.
        self.released();
        let mut inner = self.inner.lock();
        let Inner { table, garbage, .. } = &mut *inner;
        if let Some(table) = table.take() {
            table.destroy(&mut HostTables {
                spare: None,
                garbage,
            });
        }
        garbage.free();
    }
}
