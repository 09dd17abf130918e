// SPDX-License-Identifier: GPL-2.0-only

//! What SVM needs of each CPU: a place for the host's state, and ASIDs.
//!
//! # Beside KVM
//!
//! VMRUN keeps the host's state in the page that VM_HSAVE_PA names. KVM sets that MSR when it switches SVM on
//! for itself and clears it when it goes. Nothing is kept in the page but during a run of a guest, so whoever
//! comes second leaves the MSR as it is; it is looked at whenever a vCPU is put on a CPU.
//!
//! ASIDs are worse: both modules hand them out without knowing of each other, and translations are tagged with
//! nothing else (a VPID is different, there the EPT root counts too). So where KVM has switched SVM on, a vCPU's
//! ASID is flushed at its first entry after it has been put on the CPU, for what KVM's guests left, and flushed
//! again when the vCPU leaves the CPU, for what KVM's guests must not find. There is no instruction for the
//! latter: a guest is run that is left before it has executed anything.
//!
//! KVM's own first entry on a CPU after it has switched SVM on flushes everything. It switches SVM on and off in
//! threads of the CPU's own, so a vCPU is taken off the CPU and put on it again around that. Only a reboot does
//! it in an interrupt; then VM_HSAVE_PA is 0, which is checked before each entry ([`PerCpu::may_enter`]).

use core::cell::UnsafeCell;

use kernel::prelude::*;

use super::{
    setup::Svm,
    vmcb::VmcbPage, //
};
use crate::{
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        page::HostPage, //
    },
    model::{
        addr::Hpa,
        svm::{
            asid::AsidPool,
            caps::Features, //
        },
        x86::msr, //
    }, //
};

/// The state of one CPU.
pub(super) struct PerCpu {
    /// The page that VM_HSAVE_PA names where KVM has not set it.
    _host_save_area: HostPage,
    host_save_hpa: Hpa,
    /// The ASIDs that this CPU's translations are tagged with.
    pub(super) asids: AsidPool,
    /// KVM has switched SVM on.
    beside_kvm: bool,
    /// A guest that does nothing, on page tables that map nothing.
    flusher: VmcbPage,
    _no_tables: HostPage,
}

impl PerCpu {
    fn new(features: &Features) -> Result<Self> {
        let no_tables = HostPage::new()?;
        let mut flusher = VmcbPage::new(features)?;
        flusher.vmcb_mut().control.n_cr3 = no_tables.hpa().raw();
        let host_save_area = HostPage::new()?;
        Ok(Self {
            host_save_hpa: host_save_area.hpa(),
            _host_save_area: host_save_area,
            asids: AsidPool::new(features.asids, features.flush_by_asid),
            beside_kvm: false,
            flusher,
            _no_tables: no_tables,
        })
    }

    /// To be called when a vCPU is put on the CPU. Returns whether KVM may run guests here.
    pub(super) fn arrive(&mut self, _irq: &IrqOff) -> bool {
        // SAFETY: SVM is on, so the MSR exists.
        let area = unsafe { cpu::rdmsr(msr::AMD64_VM_HSAVE_PA) };
        let own = self.host_save_hpa.raw();
        if area == 0 {
            // SAFETY: The page is ours until `release` has taken it out again.
            unsafe { cpu::wrmsr(msr::AMD64_VM_HSAVE_PA, own) };
        }
        let beside_kvm = area != 0 && area != own;
        if self.beside_kvm != beside_kvm {
            self.beside_kvm = beside_kvm;
            // What KVM's guests may have left goes.
            self.asids.forget();
        }
        beside_kvm
    }

    /// Whether VMRUN has a place for the host's state.
    #[inline(always)]
    pub(super) fn may_enter(&self, _irq: &IrqOff) -> bool {
        // SAFETY: The MSR exists; where SVM has been switched off meanwhile, it still does.
        !self.beside_kvm || unsafe { cpu::rdmsr(msr::AMD64_VM_HSAVE_PA) } != 0
    }

    /// Removes the translations that are tagged with `asid`.
    pub(super) fn flush(&mut self, irq: &IrqOff, svm: &Svm, asid: u32) {
        if !self.may_enter(irq) {
            return;
        }
        let vmcb = self.flusher.vmcb_mut();
        vmcb.control.guest_asid = asid;
        vmcb.control.tlb_control = svm.flush_one().tlb_control();
        // SAFETY: Interrupts are off. The VMCB is valid; its guest can execute nothing, as nothing is mapped
        // for it, and everything that could happen to it exits.
        unsafe { b::vireo_svm_flush(self.flusher.hpa().raw()) };
        cpu::restore_debug_registers(irq);
    }
}

/// The [`PerCpu`] of every CPU that can be there.
pub(super) struct PerCpus(KVVec<UnsafeCell<PerCpu>>);

// SAFETY: Each element is used only on its CPU with interrupts off (`PerCpus::with`).
unsafe impl Sync for PerCpus {}
// SAFETY: Nothing in it has an affinity to a thread.
unsafe impl Send for PerCpus {}

impl PerCpus {
    /// Allocates them.
    pub(super) fn new(features: &Features) -> Result<Self> {
        let count = kernel::cpu::nr_cpu_ids() as usize;
        let mut cpus = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            cpus.push(UnsafeCell::new(PerCpu::new(features)?), GFP_KERNEL)?;
        }
        Ok(Self(cpus))
    }

    /// Gives access to this CPU's.
    #[inline(always)]
    pub(super) fn with<R>(&self, irq: &IrqOff, f: impl FnOnce(&mut PerCpu) -> R) -> Option<R> {
        let number = usize::try_from(cpu::this_cpu(irq)).ok()?;
        let cell = self.0.get(number)?;
        // SAFETY: Interrupts are off, so nothing else runs on this CPU, and nobody else uses its element. `f`
        // does not call this function again: the callers are in `state.rs` and below, all leaves.
        Some(f(unsafe { &mut *cell.get() }))
    }
}

/// To be called on each CPU when the module has no use for it any more.
pub(super) fn release(irq: &IrqOff) {
    let Some(svm) = Svm::get() else { return };
    svm.cpus.with(irq, |this| {
        // SAFETY: SVM is on here until the caller gives it up.
        let area = unsafe { cpu::rdmsr(msr::AMD64_VM_HSAVE_PA) };
        if area == this.host_save_hpa.raw() {
            // SAFETY: No guest of ours runs here any more, and KVM sets the MSR before it runs one.
            unsafe { cpu::wrmsr(msr::AMD64_VM_HSAVE_PA, 0) };
        }
        this.asids.forget();
    });
}
