// SPDX-License-Identifier: GPL-2.0-only

//! Eventfds, as the VMM gives them to the kernel to be signalled.

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

use crate::bindings as b;

/// A reference to an eventfd.
///
/// # Invariants
///
/// `ctx` is valid, and the value owns a reference to it.
pub(crate) struct EventFd {
    ctx: NonNull<bindings::eventfd_ctx>,
}

// SAFETY: An eventfd may be signalled from any thread and context.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Takes a reference to the current process' file descriptor `fd`.
    ///
    /// # Errors
    ///
    /// `EBADF` and `EINVAL` for what is not an eventfd.
    pub(crate) fn get(fd: i32) -> Result<Self> {
        // SAFETY: Process context; any number is allowed.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: The call took a reference.
        Ok(Self {
            ctx: NonNull::new(ctx.cast()).ok_or(EINVAL)?,
        })
    }

    /// Whether both are the same eventfd.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.ctx == other.ctx
    }

    /// Adds one to its counter and wakes who waits for it. Any context.
    pub(crate) fn signal(&self) {
        // SAFETY: By the invariant the eventfd is valid.
        unsafe { b::vireo_eventfd_signal(self.ctx.as_ptr().cast()) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the invariant the value owns a reference.
        unsafe { bindings::eventfd_ctx_put(self.ctx.as_ptr()) };
    }
}
