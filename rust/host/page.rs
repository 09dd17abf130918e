// SPDX-License-Identifier: GPL-2.0-only

//! Whole pages: those that hardware reads by physical address, and those shared with the VMM.

use core::ptr::NonNull;

use kernel::prelude::*;

use crate::{
    bindings as b,
    model::addr::{
        Hpa,
        Pfn, //
    }, //
};

/// Bytes of a page.
pub(crate) const PAGE_SIZE: usize = 4096;

/// A zeroed page of kernel memory with a known physical address.
///
/// # Invariants
///
/// `addr` is the start of an order-0 page that this value owns.
pub(crate) struct HostPage {
    addr: NonNull<u8>,
}

// SAFETY: The page is plain memory, owned by the value; it has no affinity to a thread.
unsafe impl Send for HostPage {}
// SAFETY: Shared access gives only raw pointers and the address.
unsafe impl Sync for HostPage {}

impl HostPage {
    /// Allocates a zeroed page. May sleep; charged to the caller's memory control group.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called in process context.
        let addr = unsafe { b::vireo_alloc_page() };
        let addr = NonNull::new(addr as *mut u8).ok_or(ENOMEM)?;
        // INVARIANT: A fresh order-0 page.
        Ok(Self { addr })
    }

    /// Returns the physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: By the invariant this is the address of a page from the page allocator.
        let pfn = unsafe { b::vireo_virt_to_pfn(self.addr.as_ptr().cast()) };
        Pfn::new(pfn as u64).hpa()
    }

    /// Returns a pointer to the page's first byte; valid as long as the value lives.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// Returns the page's bytes for exclusive use.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: By the invariant the page is owned; `&mut self` excludes other Rust users.
        unsafe { &mut *self.addr.as_ptr().cast() }
    }

    /// Gives the page up for its physical address: [`HostPage::from_hpa`] takes it back.
    pub(crate) fn into_hpa(self) -> Hpa {
        let hpa = self.hpa();
        core::mem::forget(self);
        hpa
    }

    /// Takes a page back.
    ///
    /// # Safety
    ///
    /// `hpa` must come from [`HostPage::into_hpa`], and be taken back once.
    pub(crate) unsafe fn from_hpa(hpa: Hpa) -> Self {
        // SAFETY: `into_hpa` gave the address of a page of the direct map.
        let addr = unsafe { b::vireo_pfn_to_virt(hpa.pfn().raw() as usize) };
        // SAFETY: The direct map holds no null address.
        let addr = unsafe { NonNull::new_unchecked(addr.cast()) };
        // INVARIANT: The caller hands the ownership over.
        Self { addr }
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        // SAFETY: By the invariant the page is owned and no longer used.
        unsafe { b::vireo_free_page(self.addr.as_ptr() as usize) };
    }
}

/// Returns the address in the kernel's map of all memory.
#[inline(always)]
pub(crate) fn direct_map(hpa: Hpa) -> *mut u8 {
    // SAFETY: Reads a variable that is constant after boot; the shim only adds.
    unsafe { b::vireo_pfn_to_virt(hpa.pfn().raw() as usize).cast() }
}
