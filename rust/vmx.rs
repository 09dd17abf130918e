// SPDX-License-Identifier: GPL-2.0-only

//! The VMX backend: Intel VT-x (SDM vol. 3, chapters 24 to 28).

use crate::backend::Extension;

mod insn;
mod setup;
mod state;
mod vcpu;
mod vmcs;

pub(crate) use setup::Vmx;
pub(crate) use vcpu::VmxVcpu;

/// VMX operation. No VMCS of ours outlives its thread's time on a CPU (`vmcs.rs`), so there is nothing to
/// do when the CPU leaves it.
pub(crate) const EXTENSION: Extension = Extension {
    svm: false,
    release: |_| {},
};
