// SPDX-License-Identifier: GPL-2.0-only

//! The host kernel: every use of a C interface that `kernel` does not wrap, behind safe types.
//!
//! Together with `vmx/` and `svm/` these are the only files with `unsafe` code.

pub(crate) mod cpu;
pub(crate) mod eventfd;
pub(crate) mod exchange;
pub(crate) mod file;
pub(crate) mod fpu;
pub(crate) mod global;
pub(crate) mod hotplug;
pub(crate) mod notifier;
pub(crate) mod page;
pub(crate) mod sched;
pub(crate) mod timer;
pub(crate) mod user;
