// SPDX-License-Identifier: GPL-2.0-only

//! The host kernel: every use of a C interface that `kernel` does not wrap, behind safe types.
//!
//! Together with `vmx/` and `svm/` these are the only files with `unsafe` code.

pub(crate) mod atomic;
pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod eventfd;
pub(crate) mod exchange;
pub(crate) mod file;
pub(crate) mod fpu;
pub(crate) mod global;
pub(crate) mod hotplug;
pub(crate) mod notifier;
pub(crate) mod page;
pub(crate) mod recording;
pub(crate) mod sched;
pub(crate) mod timer;
pub(crate) mod user;
pub(crate) mod work;

/// For `asm!`: an exception-table entry that goes on behind the instruction at label 2. When a reboot has turned
/// virtualisation off under a running vCPU its instructions raise #UD, which must not bring the machine down on
/// its way out.
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

pub(crate) use ignore_fault;
