// SPDX-License-Identifier: GPL-2.0-only

//! The pure core: what the hypervisor decides, with no `unsafe`, no atomics and no kernel API.
//!
//! The same files are compiled into `vireo.ko` and, by `selftests/unit`, into a host crate where they
//! are tested at native speed. Everything here is single-owner (`&mut`): locks, atomics and hardware
//! belong to the glue around it.
#![forbid(unsafe_code)]

pub mod addr;
pub mod apic;
pub mod clock;
pub mod coalesced;
pub mod cpuid;
pub mod emul;
pub mod errno;
pub mod event;
pub mod exit;
pub mod halt_poll;
pub mod ioapic;
pub mod ioevent;
pub mod memslot;
pub mod msi;
pub mod msr;
pub mod pic;
pub mod pit;
pub mod pt;
pub mod pv;
pub mod route;
pub mod sregs;
pub mod svm;
pub mod vmx;
pub mod walk;
pub mod x86;
pub mod xstate;
