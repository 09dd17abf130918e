// SPDX-License-Identifier: GPL-2.0-only

//! Atomics on the way into and out of the guest, where a call for each would be most of their cost.
//!
//! The kernel's `Atomic` calls a function in C for each operation. An access that orders nothing is one instruction,
//! and what `READ_ONCE` and `WRITE_ONCE` are in C, a volatile access is in Rust.

use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

/// Reads without ordering: `Atomic::load` with `Relaxed`.
#[inline(always)]
pub(crate) fn read<T: AtomicType + Copy>(atomic: &Atomic<T>) -> T {
    // SAFETY: The pointer is valid and aligned, and any value that is stored there is a valid `T`. The access is
    // one instruction, as `T` is a machine word at most.
    unsafe { atomic.as_ptr().read_volatile() }
}

/// Writes without ordering: `Atomic::store` with `Relaxed`.
#[inline(always)]
pub(crate) fn write<T: AtomicType + Copy>(atomic: &Atomic<T>, value: T) {
    // SAFETY: As `read`; an `Atomic` may be written through a shared reference.
    unsafe { atomic.as_ptr().write_volatile(value) };
}
