// SPDX-License-Identifier: GPL-2.0-only

//! Data that the whole module uses, from its initialisation to its end.

use core::{
    ptr::{
        null_mut,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::prelude::*;

/// A place for a value that is made when the module loads. Statics are never dropped, so the value's owner
/// ([`GlobalOwner`]) belongs to the module's own data, which are.
///
/// # Invariants
///
/// The pointer is null, or that of a live [`GlobalOwner`].
pub(crate) struct Global<T: 'static>(AtomicPtr<T>);

impl<T: Send + Sync> Global<T> {
    /// Makes an empty place.
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// Puts a value there, which stays as long as the result.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn set(&'static self, value: T) -> Result<GlobalOwner<T>> {
        let value = KBox::into_raw(KBox::new(value, GFP_KERNEL)?);
        self.0.store(value, Ordering::Release);
        // INVARIANT: Only the owner takes it away again.
        Ok(GlobalOwner(self))
    }

    /// Returns the value. The module's code uses it only while a caller keeps the module loaded, so that it
    /// can be taken to live for ever.
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<&'static T> {
        // SAFETY: By the invariant the pointer is valid until the owner is dropped, which is at the end of the
        // module, when no file descriptor, vCPU or hook of it is left to run its code.
        NonNull::new(self.0.load(Ordering::Acquire)).map(|value| unsafe { value.as_ref() })
    }
}

/// Keeps the value of a [`Global`].
pub(crate) struct GlobalOwner<T: 'static>(&'static Global<T>);

impl<T> Drop for GlobalOwner<T> {
    fn drop(&mut self) {
        let value = self.0 .0.swap(null_mut(), Ordering::AcqRel);
        if !value.is_null() {
            // SAFETY: `set` made the pointer from a box, and nobody else takes it out.
            drop(unsafe { KBox::from_raw(value) });
        }
    }
}
