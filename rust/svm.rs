// SPDX-License-Identifier: GPL-2.0-only

//! The SVM backend: AMD-V (APM vol. 2, chapter 15).

use crate::backend::Extension;

mod insn;
mod percpu;
mod setup;
mod state;
mod vcpu;
mod vmcb;

pub(crate) use setup::Svm;
pub(crate) use vcpu::SvmVcpu;

/// SVM, which the core kernel switches on with EFER.SVME.
pub(crate) const EXTENSION: Extension = Extension {
    svm: true,
    release: percpu::release,
};
