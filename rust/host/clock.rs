// SPDX-License-Identifier: GPL-2.0-only

//! The host's clocks, and whether they are computed from the time-stamp counter.

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings as b;

/// One moment of the host, by all its clocks.
pub(crate) use crate::bindings::vireo_moment as Moment;

/// Returns the moment. Not while the host is suspended.
pub(crate) fn moment() -> Moment {
    let mut moment = Moment::default();
    // SAFETY: The pointer is valid for writing.
    unsafe { b::vireo_now(&mut moment) };
    moment
}

/// Returns a number that changes when the clocks leave the time-stamp counter, which the user or the kernel can
/// have them do at any time, and when they come back.
///
/// Such a change is made while no other thread of the machine runs: who has been on its CPU since it last looked
/// has missed none.
#[inline]
pub(crate) fn changes() -> u32 {
    // SAFETY: The variable is always there; it is written as a whole, by C's `WRITE_ONCE`.
    unsafe { (&raw const b::vireo_clock_changes).read_volatile() }
}

/// [`changes`] are counted.
///
/// # Invariants
///
/// The notifier is registered.
pub(crate) struct Watch(());

impl Watch {
    /// Begins to count.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: There is one module, which calls this once; `drop` takes the notifier back.
        to_result(unsafe { b::vireo_clock_watch() })?;
        // INVARIANT: It has been registered.
        Ok(Self(()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: By the invariant it is registered.
        unsafe { b::vireo_clock_unwatch() };
    }
}
