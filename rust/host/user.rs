// SPDX-License-Identifier: GPL-2.0-only

//! The VMM's memory: copies, and the page behind an address.

use kernel::{
    mm::Mm,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use crate::{
    bindings as b,
    model::addr::{
        Hva,
        Pfn, //
    }, //
};

/// Copies from the current process' memory; `EFAULT` when part of it is not readable.
pub(crate) fn copy_in(from: Hva, to: &mut [u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(from.raw() as usize), to.len())
        .reader()
        .read_slice(to)
}

/// Copies to the current process' memory; `EFAULT` when part of it is not writable.
pub(crate) fn copy_out(to: Hva, from: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(to.raw() as usize), from.len())
        .writer()
        .write_slice(from)
}

/// Reads 8 bytes at an aligned address of the current process' memory in one access.
#[inline]
pub(crate) fn get_u64(from: Hva) -> Result<u64> {
    let mut value = 0;
    // SAFETY: The function catches faults and refuses kernel addresses; `value` is valid for writing.
    kernel::error::to_result(unsafe { b::vireo_get_user(from.raw() as usize, &mut value) })?;
    Ok(value)
}

/// Eight bytes at an address, and what they should hold.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Expected {
    /// Where.
    pub(crate) hva: u64,
    /// The bits that count.
    pub(crate) mask: u64,
    /// Their value.
    pub(crate) value: u64,
}

const _: () = assert!(size_of::<Expected>() == size_of::<b::vireo_expected>());

/// Whether the current process' memory holds all of `expected`. What cannot be read does not.
#[inline]
pub(crate) fn holds(expected: &[Expected]) -> bool {
    // SAFETY: The list is valid for reading and has the layout of C's; the function catches faults and
    // refuses kernel addresses.
    unsafe { b::vireo_user_holds(expected.as_ptr().cast(), expected.len() as u32) }
}

/// Returns the order of the host's own mapping of `at`: 0, 9 (2 MiB) or 18 (1 GiB). It may have changed when
/// the answer comes.
pub(crate) fn mapping_order(mm: &Mm, at: Hva) -> u32 {
    // SAFETY: The mm is valid; the function tolerates concurrent changes.
    unsafe { b::vireo_host_order(mm.as_raw(), at.raw() as usize) }
}

/// Replaces `old` by `new`, of `size` 1, 2, 4 or 8 bytes, atomically. `false` when another value was there.
///
/// # Errors
///
/// `EFAULT` when the memory is not writable or not aligned, `EINVAL` for another size.
pub(crate) fn cmpxchg(at: Hva, old: u64, new: u64, size: usize) -> Result<bool> {
    let mut expected = old;
    // SAFETY: The function catches faults; `expected` is valid for reading and writing.
    let result =
        unsafe { b::vireo_user_cmpxchg(at.raw() as usize, &mut expected, new, size as u32) };
    match result {
        0 => Ok(true),
        1 => Ok(false),
        error => Err(Error::from_errno(error)),
    }
}

/// Has the page at `hva` in memory when it returns, if it can be had. May sleep for long.
pub(crate) fn fetch(mm: &Mm, hva: Hva, write: bool) {
    // A process that is going away needs its pages no more.
    if let Some(mm) = mm.mmget_not_zero() {
        // SAFETY: The memory is in use; process context, no lock held.
        unsafe { b::vireo_fetch(mm.as_raw(), hva.raw() as usize, write) };
    }
}

/// Replaces a byte of the current process' memory by 0, atomically, and returns what was there. May sleep.
pub(crate) fn take_byte(at: Hva) -> Result<u8> {
    let mut old = 0;
    // SAFETY: The function catches faults and refuses kernel addresses; `old` is valid for writing.
    kernel::error::to_result(unsafe { b::vireo_user_take(at.raw() as usize, &mut old) })?;
    Ok(old)
}

/// Stores a byte in the current process' memory if the page is there. Returns whether it is done. Any context.
pub(crate) fn store_byte_now(at: Hva, value: u8) -> bool {
    // SAFETY: The function catches faults and refuses kernel addresses.
    unsafe { b::vireo_user_store_nofault(at.raw() as usize, value) }
}

/// A reference to the page behind an address of the VMM's, which keeps the page from being reused.
///
/// # Invariants
///
/// The value owns one reference to the page `pfn`.
pub(crate) struct PinnedPage {
    pfn: Pfn,
    /// A guest may write to it.
    pub(crate) writable: bool,
}

impl PinnedPage {
    /// Faults in the page at `hva` of the current process. A read does not break copy-on-write. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` when nothing is mapped there or not with that right, `EHWPOISON` for broken memory, `EAGAIN`
    /// when it must be fetched from somewhere and is not to be waited for.
    pub(crate) fn get(hva: Hva, write: bool, wait: bool) -> Result<Self> {
        let (mut writable, mut pfn) = (false, 0);
        let at = hva.raw() as usize;
        // SAFETY: Process context of the VM's own process; both pointers are valid for writing.
        let err = unsafe { b::vireo_gup(at, write, wait, &mut writable, &mut pfn) };
        kernel::error::to_result(err)?;
        // INVARIANT: The call took a reference.
        Ok(Self {
            pfn: Pfn::new(pfn as u64),
            writable,
        })
    }

    /// Returns the page's frame number.
    pub(crate) fn pfn(&self) -> Pfn {
        self.pfn
    }
}

impl Drop for PinnedPage {
    fn drop(&mut self) {
        // SAFETY: By the invariant the value owns a reference.
        unsafe { b::vireo_release_pfn(self.pfn.raw() as usize) };
    }
}
