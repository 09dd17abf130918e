// SPDX-License-Identifier: GPL-2.0-only

//! Eventfds, as the VMM gives them to the kernel to be signalled, or to be told of signals.

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::from_err_ptr,
    ffi,
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

/// What happens when an eventfd is signalled.
pub(crate) trait OnEvent: Send + Sync + 'static {
    /// Called for each signal; in any context, with interrupts off.
    fn event(&self);
}

/// Tells a [`OnEvent`] of each signal of an eventfd, which nobody else can read any more.
///
/// # Invariants
///
/// `watch` is valid and calls back with a pointer to `*target`, which does not move.
pub(crate) struct EventWatch<T: OnEvent> {
    watch: NonNull<b::vireo_event_watch>,
    target: KBox<T>,
}

// SAFETY: The watch may be used and ended by any thread, and so may the target.
unsafe impl<T: OnEvent> Send for EventWatch<T> {}
// SAFETY: As above.
unsafe impl<T: OnEvent> Sync for EventWatch<T> {}

impl<T: OnEvent> EventWatch<T> {
    /// Watches the current process' file descriptor `fd`. May sleep.
    ///
    /// # Errors
    ///
    /// `EBADF` and `EINVAL` for what is not an eventfd, `EBUSY` when it is watched already.
    pub(crate) fn new(fd: i32, target: T) -> Result<Self> {
        let target = KBox::new(target, GFP_KERNEL_ACCOUNT)?;
        let arg = core::ptr::from_ref(&*target).cast_mut().cast();
        // SAFETY: The callback fits the argument, which lives until the watch is ended.
        let watch = from_err_ptr(unsafe { b::vireo_event_watch(fd, Some(Self::call), arg) })?;
        // INVARIANT: The call succeeded, and the box keeps its contents in place.
        Ok(Self {
            watch: NonNull::new(watch).ok_or(EINVAL)?,
            target,
        })
    }

    /// Returns who is told.
    pub(crate) fn target(&self) -> &T {
        &self.target
    }

    /// Whether this watches `event`.
    pub(crate) fn is_on(&self, event: &EventFd) -> bool {
        // SAFETY: By the invariant the watch is valid; the context is only compared.
        unsafe { b::vireo_event_watch_is(self.watch.as_ptr(), event.ctx.as_ptr().cast()) }
    }

    /// Whether nobody can signal the eventfd by a descriptor any more.
    pub(crate) fn is_closed(&self) -> bool {
        // SAFETY: By the invariant the watch is valid.
        unsafe { b::vireo_event_watch_closed(self.watch.as_ptr()) }
    }

    unsafe extern "C" fn call(arg: *mut ffi::c_void) {
        // SAFETY: By the invariant `arg` is the target.
        unsafe { &*arg.cast::<T>() }.event();
    }
}

impl<T: OnEvent> Drop for EventWatch<T> {
    fn drop(&mut self) {
        // SAFETY: By the invariant the watch is valid; it is not used again.
        unsafe { b::vireo_event_unwatch(self.watch.as_ptr()) };
    }
}
