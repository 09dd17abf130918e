// SPDX-License-Identifier: GPL-2.0-only

//! What guests may be offered on this host, found once when the module loads.

use kernel::sync::SetOnce;

use crate::{
    backend::Hardware,
    host::{
        cpu,
        recording, //
    },
    model::{
        cpuid::{
            Caps,
            HostCpuid,
            Provides,
            Regs,
            Vendor, //
        },
        msr::FeatureMsrs,
        pv::feature,
        x86::{
            msr,
            xcr0, //
        }, //
    }, //
};

/// XCR0 components that a guest may have: those whose state the kernel's FPU code switches and that need
/// nothing else (PKRU and AMX do).
const XCR0_OFFERED: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512;

/// What guests and this host do for each other. Writes to port 0x80 for a delay are a waste, so Linux leaves
/// them out.
const PARAVIRT: u32 = feature::CLOCKSOURCE
    | feature::NOP_IO_DELAY
    | feature::CLOCKSOURCE2
    | feature::ASYNC_PF
    | feature::STEAL_TIME
    | feature::PV_EOI
    | feature::PV_UNHALT
    | feature::PV_TLB_FLUSH
    | feature::PV_SEND_IPI
    | feature::POLL_CONTROL
    | feature::PV_SCHED_YIELD
    | feature::ASYNC_PF_INT
    | feature::CLOCKSOURCE_STABLE;

/// This machine's processor.
pub(crate) struct Host;

impl HostCpuid for Host {
    fn cpuid(&self, function: u32, index: u32) -> Regs {
        let [eax, ebx, ecx, edx] = cpu::cpuid(function, index);
        Regs { eax, ebx, ecx, edx }
    }
}

/// What guests may be offered.
pub(crate) struct GuestCpu {
    /// The host's CPUID.
    pub(crate) host: Host,
    /// Whose processor it is.
    pub(crate) vendor: Vendor,
    /// The features.
    pub(crate) caps: Caps,
    /// The feature MSRs.
    pub(crate) feature_msrs: FeatureMsrs,
    /// XCR0 and IA32_XSS as the host keeps them.
    pub(crate) host_xcr0: u64,
    /// IA32_XSS as the host keeps it.
    pub(crate) host_xss: u64,
    /// The host may have the processor store precise samples.
    pub(crate) host_precise_samples: bool,
}

static GUEST_CPU: SetOnce<GuestCpu> = SetOnce::new();

impl GuestCpu {
    /// Returns it, once [`GuestCpu::probe`] has been called.
    #[inline(always)]
    pub(crate) fn get() -> Option<&'static Self> {
        GUEST_CPU.as_ref()
    }

    /// Computes it.
    pub(crate) fn probe(hardware: &Hardware) {
        let (host_xcr0, host_xss) = cpu::host_xstate();
        let hardware = hardware.provides();
        let provides = Provides {
            xcr0: host_xcr0 & XCR0_OFFERED & hardware.xcr0,
            xss: 0,
            paravirt: PARAVIRT,
            ..hardware
        };
        GUEST_CPU.populate(Self {
            host: Host,
            vendor: Vendor::of(&Host),
            caps: Caps::new(&Host, &provides),
            feature_msrs: FeatureMsrs {
                microcode: cpu::rdmsr_safe(msr::IA32_BIOS_SIGN_ID).unwrap_or(0),
                platform_info: FeatureMsrs::CPUID_FAULTING,
                ..FeatureMsrs::default()
            },
            host_xcr0,
            host_xss,
            host_precise_samples: recording::has_precise_samples(),
        });
    }
}
