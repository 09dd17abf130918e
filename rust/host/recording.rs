// SPDX-License-Identifier: GPL-2.0-only

//! What the host has the processor record while it runs: branches, and samples of its performance events.
//!
//! None of it may go on in a guest. Branch traces and precise samples are stored at linear addresses of the
//! host's (the debug store area, SDM vol. 3 section 19.4.9), which the guest's page tables would translate. VMX
//! clears IA32_DEBUGCTL at each exit; VMRUN leaves it in force.

use super::cpu::{
    self,
    IrqOff, //
};
use crate::model::x86::{
    misc_enable,
    msr, //
};

/// CPUID.1:EDX bit 21: the debug store.
const CPUID_DS: u32 = 1 << 21;

/// Whether the processor has precise samples (PEBS).
pub(crate) fn has_precise_samples() -> bool {
    let unavailable = cpu::rdmsr_safe(msr::IA32_MISC_ENABLE)
        .map_or(true, |enable| enable & misc_enable::PEBS_UNAVAIL != 0);
    cpu::cpuid(1, 0)[3] & CPUID_DS != 0
        && !unavailable
        && cpu::rdmsr_safe(msr::IA32_PEBS_ENABLE).is_some()
}

/// What has been stopped for the time of a guest's run.
pub(crate) struct Recording {
    debugctl: u64,
    samples: u64,
}

impl Recording {
    /// Stops it; `precise_samples` as [`has_precise_samples`] found it. Interrupts of the host's change the
    /// registers at any time before they are off, so they are read at each entry.
    #[inline(always)]
    pub(crate) fn stop(_irq: &IrqOff, precise_samples: bool) -> Self {
        // SAFETY: Every CPU with VMX or SVM has the MSR.
        let debugctl = unsafe { cpu::rdmsr(msr::IA32_DEBUGCTL) };
        if debugctl != 0 {
            // SAFETY: `resume` puts the host's value back.
            unsafe { cpu::wrmsr(msr::IA32_DEBUGCTL, 0) };
        }
        let samples = if precise_samples {
            // SAFETY: The MSR exists, says the caller.
            unsafe { cpu::rdmsr(msr::IA32_PEBS_ENABLE) }
        } else {
            0
        };
        if samples != 0 {
            // SAFETY: As above.
            unsafe { cpu::wrmsr(msr::IA32_PEBS_ENABLE, 0) };
        }
        Self { debugctl, samples }
    }

    /// Lets it go on.
    #[inline(always)]
    pub(crate) fn resume(self, _irq: &IrqOff) {
        if self.samples != 0 {
            // SAFETY: The host's own value.
            unsafe { cpu::wrmsr(msr::IA32_PEBS_ENABLE, self.samples) };
        }
        if self.debugctl != 0 {
            // SAFETY: The host's own value.
            unsafe { cpu::wrmsr(msr::IA32_DEBUGCTL, self.debugctl) };
        }
    }
}
