// SPDX-License-Identifier: GPL-2.0-only

//! The SVM instructions that Rust code uses (APM vol. 3). VMRUN and what belongs around it are in `entry.S`
//! and `host/shim.c`.

use core::arch::asm;

use crate::{
    host::ignore_fault,
    model::addr::Hpa, //
};

/// Saves what VMLOAD loads (FS, GS, TR, LDTR and the MSRs of system calls) to the VMCB at `vmcb`.
///
/// # Safety
///
/// `vmcb` is a page of the caller's. Interrupts are off.
pub(crate) unsafe fn vmsave(vmcb: Hpa) {
    // SAFETY: Writes to the page, which the caller owns.
    unsafe { asm!("2: vmsave rax", ignore_fault!(), in("rax") vmcb.raw(), options(nostack)) };
}
