// SPDX-License-Identifier: GPL-2.0-only

//! What this machine's SVM can do, found once when the module loads.

use kernel::prelude::*;

use super::percpu::PerCpus;
use crate::{
    bindings as b,
    host::{
        cpu,
        global::{
            Global,
            GlobalOwner, //
        },
        page::HostPages, //
    },
    model::{
        cpuid::Provides,
        msr::{
            self as msr_model,
            Direct, //
        },
        pt::{
            nested::Nested,
            npt::Npt,
            PageSize, //
        },
        svm::{
            asid::Flush,
            caps::{
                self,
                Features,
                Options,
                SvmCpuid, //
            },
            permission, //
        },
        x86::msr, //
    },
    module_parameters, //
};

/// Pages of the I/O permission map, rounded up to a power of two, and of the MSR permission map.
const IOPM_ORDER: u32 = 2;
const MSRPM_ORDER: u32 = 1;

/// Width of the guest-physical addresses that NPT tables of four levels translate.
const NPT_BITS: u8 = 48;

/// The machine's SVM, and the structures that all VMCBs share.
pub(crate) struct Svm {
    /// What the processor has and the user lets the module use.
    pub(super) features: Features,
    /// RDTSCP, and with it TSC_AUX, exists.
    pub(super) rdtscp: bool,
    /// MSRs that guests reach directly.
    pub(super) msrpm: HostPages<MSRPM_ORDER>,
    /// No port is reached directly.
    pub(super) iopm: HostPages<IOPM_ORDER>,
    /// What is each CPU's.
    pub(super) cpus: PerCpus,
}

static SVM: Global<Svm> = Global::new();

impl Svm {
    /// Returns the machine's SVM, while [`Svm::probe`]'s result lives.
    #[inline(always)]
    pub(super) fn get() -> Option<&'static Self> {
        SVM.get()
    }

    /// Finds out whether SVM can be used.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, with one line in the kernel log that names what is missing.
    pub(crate) fn probe() -> Result<(&'static Self, GlobalOwner<Self>)> {
        // SAFETY: Reads the boot CPU's feature bits.
        if !unsafe { b::vireo_cpu_has_svm() } {
            pr_err!("cannot load: SVM is disabled by the firmware\n");
            return Err(EOPNOTSUPP);
        }
        let [_, _, extended_ecx, extended_edx] = cpu::cpuid(0x8000_0001, 0);
        let [_, svm_ebx, _, svm_edx] = cpu::cpuid(0x8000_000a, 0);
        let cpuid = SvmCpuid {
            extended_ecx,
            extended_edx,
            svm_ebx,
            svm_edx,
        };
        let features = caps::compute(&cpuid, &options()).map_err(|missing| {
            pr_err!("cannot load: SVM lacks {}\n", missing.0);
            EOPNOTSUPP
        })?;
        let mut msrpm = HostPages::<MSRPM_ORDER>::new()?;
        let map: &mut [u8; permission::MSRPM_SIZE] =
            msrpm.as_mut_slice().try_into().map_err(|_| EINVAL)?;
        map.fill(permission::INTERCEPT_ALL);
        // RDTSC knows of the guest's offset on every processor, RDMSR does not on every emulated one.
        let direct = msr_model::direct(Direct::default());
        for (index, access) in direct.filter(|&(index, _)| index != msr::IA32_TIME_STAMP_COUNTER) {
            permission::allow(map, index, access);
        }
        let mut iopm = HostPages::<IOPM_ORDER>::new()?;
        iopm.as_mut_slice().fill(permission::INTERCEPT_ALL);
        let owner = SVM.set(Self {
            features,
            rdtscp: extended_edx & CPUID_RDTSCP != 0,
            msrpm,
            iopm,
            cpus: PerCpus::new(&features)?,
        })?;
        Ok((Self::get().ok_or(ENODEV)?, owner))
    }

    /// Whether the processor scales guests' time-stamp counters. One that can has RDTSCP, too.
    pub(crate) fn scales_tsc(&self) -> bool {
        self.features.tsc_scaling && self.rdtscp
    }

    /// Returns the least that removes one ASID's translations.
    pub(super) fn flush_one(&self) -> Flush {
        if self.features.flush_by_asid {
            Flush::Asid
        } else {
            Flush::All
        }
    }

    /// Returns the format of nested page tables, and the largest page that they can map.
    pub(crate) fn tables(&self) -> (Nested, PageSize) {
        let largest = match (self.features.npt_2m, self.features.npt_1g) {
            (true, true) => PageSize::G1,
            (true, false) => PageSize::M2,
            _ => PageSize::K4,
        };
        (Nested::Npt(Npt), largest)
    }

    /// Returns what SVM lets guests have: all instructions that need no more than its intercepts off.
    pub(crate) fn provides(&self) -> Provides {
        Provides {
            xcr0: if emulated_by_qemu() { 0 } else { u64::MAX },
            invpcid: true,
            rdtscp: self.rdtscp,
            guest_phys_bits: NPT_BITS,
            ..Provides::default()
        }
    }
}

/// Whether the processor is QEMU's TCG, which lets a guest's XSETBV through to the host's XCR0, whatever the
/// intercepts say (QEMU 7.2).
fn emulated_by_qemu() -> bool {
    /// CPUID.1:ECX bit 31: there is a hypervisor below this host.
    const HYPERVISOR: u32 = 1 << 31;
    let [_, name, ..] = cpu::cpuid(0x4000_0000, 0);
    cpu::cpuid(1, 0)[2] & HYPERVISOR != 0 && name == u32::from_le_bytes(*b"TCGT")
}

/// CPUID 8000_0001 EDX bit 27: RDTSCP and TSC_AUX.
const CPUID_RDTSCP: u32 = 1 << 27;

/// What the user lets the module use.
fn options() -> Options {
    let on = |value: u8| value != 0;
    let large = on(module_parameters::large_pages.value());
    Options {
        npt_2m: large,
        npt_1g: large,
        nrips: on(module_parameters::nrips.value()),
        decode_assists: on(module_parameters::decode_assists.value()),
        flush_by_asid: on(module_parameters::flush_by_asid.value()),
        vmcb_clean: on(module_parameters::vmcb_clean.value()),
        pause_filter: on(module_parameters::pause_filter.value()),
        ..Options::default()
    }
}
