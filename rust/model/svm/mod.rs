// SPDX-License-Identifier: GPL-2.0-only

//! AMD-V as data: the VMCB, intercepts, what the processor offers, and exit decoding (AMD64 Architecture
//! Programmer's Manual, "APM", vol. 2, chapter 15 and app. B and C).

pub mod asid;
pub mod avic;
pub mod caps;
pub mod clean;
pub mod cr;
pub mod event;
pub mod exit;
pub mod intercept;
pub mod permission;
pub mod vmcb;
