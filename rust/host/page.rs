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

/// 2^`ORDER` zeroed pages of kernel memory in a row, with a known physical address.
///
/// # Invariants
///
/// `addr` is the start of a block of this order that the value owns.
pub(crate) struct HostPages<const ORDER: u32> {
    addr: NonNull<u8>,
}

/// A single page.
pub(crate) type HostPage = HostPages<0>;

// SAFETY: The pages are plain memory, owned by the value; they have no affinity to a thread.
unsafe impl<const ORDER: u32> Send for HostPages<ORDER> {}
// SAFETY: Shared access gives only raw pointers and the address.
unsafe impl<const ORDER: u32> Sync for HostPages<ORDER> {}

impl<const ORDER: u32> HostPages<ORDER> {
    /// Allocates zeroed pages. May sleep; charged to the caller's memory control group.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called in process context.
        let addr = unsafe { b::vireo_alloc_pages(ORDER) };
        let addr = NonNull::new(addr as *mut u8).ok_or(ENOMEM)?;
        // INVARIANT: A fresh block of this order.
        Ok(Self { addr })
    }

    /// Returns the physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: By the invariant this is an address from the page allocator.
        let pfn = unsafe { b::vireo_virt_to_pfn(self.addr.as_ptr().cast()) };
        Pfn::new(pfn as u64).hpa()
    }

    /// Returns a pointer to the first byte; valid as long as the value lives.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// Returns all bytes for exclusive use.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: By the invariant the pages are owned; `&mut self` excludes other Rust users.
        unsafe { core::slice::from_raw_parts_mut(self.addr.as_ptr(), PAGE_SIZE << ORDER) }
    }
}

impl HostPage {
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

impl<const ORDER: u32> Drop for HostPages<ORDER> {
    fn drop(&mut self) {
        // SAFETY: By the invariant the pages are owned and no longer used.
        unsafe { b::vireo_free_pages(self.addr.as_ptr() as usize, ORDER) };
    }
}

/// Returns the address in the kernel's map of all memory.
#[inline(always)]
pub(crate) fn direct_map(hpa: Hpa) -> *mut u8 {
    // SAFETY: Reads a variable that is constant after boot; the shim only adds.
    unsafe { b::vireo_pfn_to_virt(hpa.pfn().raw() as usize).cast() }
}

/// The page in which the processor keeps the registers of a virtualised local APIC.
pub(crate) struct ApicPage(HostPage);

impl ApicPage {
    /// Makes one with every register 0.
    pub(crate) fn new() -> Result<Self> {
        HostPage::new().map(Self)
    }

    /// Returns the page's address.
    pub(crate) fn hpa(&self) -> Hpa {
        self.0.hpa()
    }

    /// Reads the register at `offset`, of which bits 11:4 count.
    #[inline(always)]
    pub(crate) fn read(&self, offset: u16) -> u32 {
        let at = usize::from(offset & 0xff0);
        // SAFETY: The page is ours, and the offset is aligned and within it. The processor may write to the
        // page at any time, hence volatile.
        unsafe { self.0.as_ptr().add(at).cast::<u32>().read_volatile() }
    }

    /// Writes the register at `offset`, of which bits 11:4 count.
    #[inline(always)]
    pub(crate) fn write(&mut self, offset: u16, value: u32) {
        let at = usize::from(offset & 0xff0);
        // SAFETY: As in `read`.
        unsafe { self.0.as_ptr().add(at).cast::<u32>().write_volatile(value) };
    }
}
