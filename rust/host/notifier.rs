// SPDX-License-Identifier: GPL-2.0-only

//! The MMU notifier: the host tells which of the VMM's pages it is about to change.

use kernel::{
    bindings,
    ffi,
    mm::{
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::aref::ARef,
    types::Opaque, //
};

use crate::model::addr::Hva;

/// What follows changes of the VMM's memory. Each method may be called at any time, on any CPU, in a
/// context that may not allocate.
pub(crate) trait MemoryWatcher: Sync {
    /// The range is about to change: nothing may be mapped from it until [`MemoryWatcher::changed`], and
    /// no TLB may hold a translation to it when this returns.
    fn changing(&self, start: Hva, end: Hva);

    /// The change is complete.
    fn changed(&self, start: Hva, end: Hva);

    /// Whether the range has been used since the last time; forgets it if `clear`.
    fn used(&self, start: Hva, end: Hva, clear: bool) -> bool;

    /// The process is going away with all its memory.
    fn released(&self);
}

/// A watcher of the memory of one process.
///
/// # Invariants
///
/// `notifier` is registered with `mm` once [`Watched::register`] has succeeded, until drop.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Watched<T: MemoryWatcher> {
    #[pin]
    notifier: Opaque<bindings::mmu_notifier>,
    mm: ARef<Mm>,
    registered: bool,
    #[pin]
    watcher: T,
}

// SAFETY: The notifier is the kernel's to synchronise; `T` is `Sync`.
unsafe impl<T: MemoryWatcher + Send> Send for Watched<T> {}
// SAFETY: As above.
unsafe impl<T: MemoryWatcher + Send> Sync for Watched<T> {}

impl<T: MemoryWatcher> core::ops::Deref for Watched<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.watcher
    }
}

impl<T: MemoryWatcher> Watched<T> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        clear_flush_young: Some(Self::clear_young),
        clear_young: Some(Self::clear_young),
        test_young: Some(Self::test_young),
        invalidate_range_start: Some(Self::invalidate_start),
        invalidate_range_end: Some(Self::invalidate_end),
        ..pin_init::zeroed()
    };

    /// Makes a watcher of the current process' memory.
    pub(crate) fn new<E>(watcher: impl PinInit<T, E>) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        try_pin_init!(Self {
            notifier <- Opaque::ffi_init(|slot: *mut bindings::mmu_notifier| {
                let ops: &'static bindings::mmu_notifier_ops = &Self::OPS;
                // SAFETY: `slot` is valid for writing.
                unsafe {
                    slot.write(pin_init::zeroed());
                    (*slot).ops = ops;
                }
            }),
            mm: current_mm()?,
            registered: false,
            watcher <- watcher,
        })
        .pin_chain(|this: Pin<&mut Self>| this.register())
    }

    fn register(self: Pin<&mut Self>) -> Result {
        // SAFETY: The value stays pinned; nothing is moved.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: The notifier is pinned, its table static, and the mm that of the current process.
        kernel::error::to_result(unsafe {
            bindings::mmu_notifier_register(this.notifier.get(), this.mm.as_raw())
        })?;
        this.registered = true;
        Ok(())
    }

    /// Whether the current process is the one that is watched.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        kernel::current!()
            .mm()
            .is_some_and(|mm| core::ptr::eq(mm.as_raw(), self.mm.as_raw()))
    }

    /// # Safety
    ///
    /// `notifier` must be that of a registered `Self`.
    unsafe fn watcher<'a>(notifier: *mut bindings::mmu_notifier) -> &'a T {
        // SAFETY: The notifier is the first field; the kernel waits for callbacks before the
        // unregistering that comes first in `drop` returns.
        unsafe { &(*notifier.cast::<Self>()).watcher }
    }

    unsafe extern "C" fn release(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
    ) {
        // SAFETY: Called by the kernel for a registered notifier.
        unsafe { Self::watcher(notifier) }.released();
    }

    unsafe extern "C" fn clear_young(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        start: ffi::c_ulong,
        end: ffi::c_ulong,
    ) -> bool {
        // SAFETY: As `release`.
        let watcher = unsafe { Self::watcher(notifier) };
        watcher.used(Hva::new(start as u64), Hva::new(end as u64), true)
    }

    unsafe extern "C" fn test_young(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        address: ffi::c_ulong,
    ) -> bool {
        let start = address as u64;
        // SAFETY: As `release`.
        let watcher = unsafe { Self::watcher(notifier) };
        watcher.used(Hva::new(start), Hva::new(start.saturating_add(1)), false)
    }

    unsafe extern "C" fn invalidate_start(
        notifier: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> ffi::c_int {
        // SAFETY: As `release`; the range is valid for the call.
        let (watcher, range) = unsafe { (Self::watcher(notifier), &*range) };
        watcher.changing(Hva::new(range.start as u64), Hva::new(range.end as u64));
        0
    }

    unsafe extern "C" fn invalidate_end(
        notifier: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) {
        // SAFETY: As `invalidate_start`.
        let (watcher, range) = unsafe { (Self::watcher(notifier), &*range) };
        watcher.changed(Hva::new(range.start as u64), Hva::new(range.end as u64));
    }
}

#[pinned_drop]
impl<T: MemoryWatcher> PinnedDrop for Watched<T> {
    fn drop(self: Pin<&mut Self>) {
        if self.registered {
            // SAFETY: By the invariant the notifier is registered with this mm, which is alive.
            unsafe {
                bindings::mmu_notifier_unregister(self.notifier.get(), self.mm.as_raw());
            }
        }
    }
}

/// Returns the current process' memory, kept from being freed but not in use.
pub(crate) fn current_mm() -> Result<ARef<Mm>> {
    let task = kernel::current!();
    let mm: &MmWithUser = task.mm().ok_or(EINVAL)?;
    Ok(ARef::from(&**mm))
}
