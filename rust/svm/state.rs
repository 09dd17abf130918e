// SPDX-License-Identifier: GPL-2.0-only

//! What an SVM vCPU keeps on the CPU while its thread runs there: its ASID, the host's state that VMLOAD gives
//! back after each exit, and the MSRs that neither VMRUN nor VMLOAD exchanges.

use kernel::error::Result;

use super::{
    insn,
    setup::Svm, //
};
use crate::{
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        exchange::ExchangedMsrs,
        page::HostPage,
        sched::Switch, //
    },
    model::{
        addr::Hpa,
        svm::{
            asid::{
                Asid,
                Flush, //
            },
            tsc::TscRatio, //
        },
        x86::msr, //
    }, //
};

/// The MSRs to exchange; the machine has none, the first or both.
const EXCHANGED: [u32; 2] = [msr::IA32_TSC_AUX, msr::AMD64_TSC_RATIO];

/// The state of a vCPU on its CPU.
pub(super) struct SvmState {
    svm: &'static Svm,
    asid: Asid,
    /// What VMSAVE saves of the host.
    _host: HostPage,
    host_hpa: Hpa,
    pub(super) msrs: ExchangedMsrs<{ EXCHANGED.len() }>,
    /// The CPU that the ASID and the clean bits are right for, or -1.
    cpu: i32,
    /// No entry has been on `cpu` yet.
    moved: bool,
    /// KVM may run guests on `cpu`.
    beside_kvm: bool,
    /// The ASID's translations are not the guest's.
    flush: bool,
}

/// What an entry has to use.
pub(super) struct Prepared {
    /// The ASID.
    pub(super) asid: u32,
    /// The value of TLB_CONTROL.
    pub(super) tlb_control: u8,
    /// The CPU is another one than at the last entry.
    pub(super) moved: bool,
    /// The address of the host's state.
    pub(super) host: Hpa,
}

impl SvmState {
    /// Makes the state of a new vCPU.
    pub(super) fn new(svm: &'static Svm) -> Result<Self> {
        let host = HostPage::new()?;
        let count = match (svm.rdtscp, svm.features.tsc_scaling) {
            (true, true) => 2,
            (true, false) => 1,
            // A processor that can scale the TSC has RDTSCP.
            (false, _) => 0,
        };
        Ok(Self {
            svm,
            asid: Asid::default(),
            host_hpa: host.hpa(),
            _host: host,
            msrs: ExchangedMsrs::new(EXCHANGED, count, [0, TscRatio::ONE.raw()]),
            cpu: -1,
            moved: true,
            beside_kvm: false,
            flush: false,
        })
    }

    /// Says how to enter; `stale` that translations of the guest's must be forgotten. `None` when VMRUN has
    /// been made impossible by a reboot.
    #[inline]
    pub(super) fn prepare(&mut self, irq: &IrqOff, stale: bool) -> Option<Prepared> {
        let Self { svm, asid, .. } = self;
        let stale = stale | self.flush;
        let flush = svm
            .cpus
            .with(irq, |this| {
                this.may_enter(irq).then(|| this.asids.assign(asid, stale))
            })
            .flatten()?;
        let flush = match flush {
            // A number that is new here may be one that KVM has used.
            Flush::None if stale && self.beside_kvm => svm.flush_one(),
            flush => flush,
        };
        self.flush = false;
        Some(Prepared {
            asid: self.asid.number(),
            tlb_control: flush.tlb_control(),
            moved: core::mem::take(&mut self.moved),
            host: self.host_hpa,
        })
    }
}

impl Switch for SvmState {
    fn load(&mut self, irq: &IrqOff) {
        // SAFETY: Interrupts are off; the pointer is only compared with others.
        unsafe { b::vireo_switch_guest(core::ptr::from_ref(self).cast()) };
        // SAFETY: The page is ours, interrupts are off.
        unsafe { insn::vmsave(self.host_hpa) };
        self.msrs.load(irq);
        let cpu = cpu::this_cpu(irq);
        if cpu != self.cpu {
            self.cpu = cpu;
            self.moved = true;
            self.asid.clear();
        }
        let beside_kvm = self.svm.cpus.with(irq, |this| this.arrive(irq));
        self.beside_kvm = beside_kvm.unwrap_or(true);
        self.flush = self.beside_kvm;
    }

    fn put(&mut self, irq: &IrqOff) {
        self.msrs.put(irq);
        // `flush` is still set when there has been no entry.
        if self.beside_kvm && !self.flush {
            let (svm, asid) = (self.svm, self.asid.number());
            let _done = svm.cpus.with(irq, |this| this.flush(irq, svm, asid));
        }
    }
}
