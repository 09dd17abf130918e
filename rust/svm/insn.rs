// SPDX-License-Identifier: GPL-2.0-only

//! The SVM instructions that Rust code uses (APM vol. 3). VMRUN and what belongs around it are in `entry.S`
//! and `host/shim.c`.

use core::arch::asm;

use crate::model::addr::Hpa;

/// An exception-table entry that goes on behind the instruction at label 2: when a reboot has turned SVM off
/// the instruction raises #UD, and there is nothing left to save.
macro_rules! ignore_fault {
    () => {
        concat!(
            "3:\n",
            ".pushsection __ex_table, \"a\"\n",
            ".balign 4\n",
            ".long 2b - .\n",
            ".long 3b - .\n",
            ".long 1\n", // EX_TYPE_DEFAULT
            ".popsection"
        )
    };
}

/// Saves what VMLOAD loads (FS, GS, TR, LDTR and the MSRs of system calls) to the VMCB at `vmcb`.
///
/// # Safety
///
/// `vmcb` is a page of the caller's. Interrupts are off.
pub(crate) unsafe fn vmsave(vmcb: Hpa) {
    // SAFETY: Writes to the page, which the caller owns.
    unsafe { asm!("2: vmsave rax", ignore_fault!(), in("rax") vmcb.raw(), options(nostack)) };
}
