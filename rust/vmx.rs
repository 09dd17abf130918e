// SPDX-License-Identifier: GPL-2.0-only

//! The VMX backend: Intel VT-x (SDM vol. 3, chapters 24 to 28).

pub(crate) mod insn;
pub(crate) mod setup;
pub(crate) mod state;
pub(crate) mod vcpu;
pub(crate) mod vmcs;
