// SPDX-License-Identifier: GPL-2.0-only

//! Work that kernel threads do for the module.

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*,
    workqueue::Queue, //
};

/// A queue of such work. When it is dropped, everything that was in it is done, and no code of the module's runs
/// on its behalf any more.
///
/// # Invariants
///
/// The pointer is that of a workqueue which the value owns.
pub(crate) struct WorkQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Workqueues may be used from any thread.
unsafe impl Send for WorkQueue {}
// SAFETY: As above.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Makes a queue whose work may sleep for long and is bound to no CPU.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        let flags = bindings::wq_flags_WQ_UNBOUND;
        // SAFETY: The name lives as long as the module and has no conversion in it; 0 is the default number of
        // threads.
        let queue = unsafe { bindings::alloc_workqueue_noprof(name.as_char_ptr(), flags, 0) };
        // INVARIANT: Made just now, and destroyed by `drop` only.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    /// Returns the queue.
    pub(crate) fn queue(&self) -> &Queue {
        // SAFETY: By the invariant the pointer is valid as long as `self` lives.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the invariant the queue is owned; nobody can use it any more.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}
