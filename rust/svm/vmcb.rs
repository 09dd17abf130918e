// SPDX-License-Identifier: GPL-2.0-only

//! A VMCB in memory of its own.

use kernel::prelude::*;

use crate::{
    host::page::HostPage,
    model::{
        addr::Hpa,
        svm::{
            caps::Features,
            intercept::{
                GuestMay,
                Intercepts, //
            },
            vmcb::{
                np_enable,
                v_intr,
                Vmcb, //
            }, //
        },
        x86::{
            cr0,
            dr6,
            dr7,
            efer,
            rflags, //
        }, //
    },
};

/// A VMCB.
///
/// # Invariants
///
/// The page holds a [`Vmcb`], which the processor accesses only during a VMRUN, VMLOAD or VMSAVE that names it.
pub(super) struct VmcbPage {
    page: HostPage,
    hpa: Hpa,
}

impl VmcbPage {
    /// Makes a VMCB for a guest of which everything exits that can, with nested paging and no tables yet, in
    /// real mode with every register 0.
    pub(super) fn new(features: &Features) -> Result<Self> {
        let page = HostPage::new()?;
        let hpa = page.hpa();
        // INVARIANT: A page of zeros is a valid `Vmcb`.
        let mut this = Self { page, hpa };
        let vmcb = this.vmcb_mut();
        vmcb.control.intercepts = Intercepts::minimal(features, GuestMay::default()).words();
        vmcb.control.np_enable = np_enable::NP_ENABLE;
        vmcb.control.v_intr = v_intr::V_INTR_MASKING;
        vmcb.save.efer = efer::SVME;
        vmcb.save.cr0 = cr0::ET;
        vmcb.save.rflags = rflags::FIXED;
        vmcb.save.dr6 = dr6::INIT;
        vmcb.save.dr7 = dr7::FIXED;
        Ok(this)
    }

    /// Returns its physical address.
    #[inline(always)]
    pub(super) fn hpa(&self) -> Hpa {
        self.hpa
    }

    /// Gives access to it.
    #[inline(always)]
    pub(super) fn vmcb(&self) -> &Vmcb {
        // SAFETY: By the invariant; each field is an integer, so any value is valid. The processor does not
        // write while the reference lives: VMRUN is behind a call that takes the VMCB's address from
        // `hpa`, when the caller holds no reference.
        unsafe { &*self.page.as_ptr().cast() }
    }

    /// Gives access to it, for changes.
    #[inline(always)]
    pub(super) fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: As in `vmcb`; `&mut self` excludes other references.
        unsafe { &mut *self.page.as_ptr().cast() }
    }
}
