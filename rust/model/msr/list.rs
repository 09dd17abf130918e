// SPDX-License-Identifier: GPL-2.0-only

//! The lists that `KVM_GET_MSR_INDEX_LIST` and `KVM_GET_MSR_FEATURE_INDEX_LIST` return, and the values of
//! feature MSRs.
//!
//! As with KVM, the first list holds what a VMM saves beyond `KVM_GET_SREGS`, and not the MTRRs and
//! machine-check banks, whose number follows from IA32_MTRRCAP and IA32_MCG_CAP; all can be read and
//! written all the same.

use super::MsrError;
use crate::model::cpuid::{Caps, Feature, Vendor};
use crate::model::pv;
use crate::model::x86::msr;

/// What must be offered for an MSR to be listed.
#[derive(Clone, Copy)]
enum When {
    Always,
    Has(Feature),
    Either(Feature, Feature),
    Paravirt,
    Xss,
}

const SAVED: [(u32, When); 35] = [
    (msr::IA32_SYSENTER_CS, When::Always),
    (msr::IA32_SYSENTER_ESP, When::Always),
    (msr::IA32_SYSENTER_EIP, When::Always),
    (msr::IA32_STAR, When::Always),
    (msr::IA32_CSTAR, When::Always),
    (msr::IA32_KERNEL_GS_BASE, When::Always),
    (msr::IA32_FMASK, When::Always),
    (msr::IA32_LSTAR, When::Always),
    (msr::IA32_TIME_STAMP_COUNTER, When::Always),
    (msr::IA32_PAT, When::Always),
    (msr::IA32_FEATURE_CONTROL, When::Always),
    (
        msr::IA32_TSC_AUX,
        When::Either(Feature::RDTSCP, Feature::RDPID),
    ),
    (
        msr::IA32_SPEC_CTRL,
        When::Either(Feature::SPEC_CTRL, Feature::AMD_IBRS),
    ),
    (msr::IA32_UMWAIT_CONTROL, When::Has(Feature::WAITPKG)),
    (msr::IA32_XSS, When::Xss),
    (msr::IA32_DEBUGCTL, When::Always),
    (msr::KVM_SYSTEM_TIME, When::Paravirt),
    (msr::KVM_WALL_CLOCK, When::Paravirt),
    (msr::KVM_SYSTEM_TIME_NEW, When::Paravirt),
    (msr::KVM_WALL_CLOCK_NEW, When::Paravirt),
    (msr::KVM_ASYNC_PF_EN, When::Paravirt),
    (msr::KVM_STEAL_TIME, When::Paravirt),
    (msr::KVM_PV_EOI_EN, When::Paravirt),
    (msr::KVM_ASYNC_PF_INT, When::Paravirt),
    (msr::KVM_ASYNC_PF_ACK, When::Paravirt),
    (msr::KVM_POLL_CONTROL, When::Paravirt),
    (msr::IA32_TSC_ADJUST, When::Always),
    (msr::IA32_TSC_DEADLINE, When::Always),
    (msr::IA32_MISC_ENABLE, When::Always),
    (msr::IA32_MCG_STATUS, When::Always),
    (msr::IA32_MCG_CTL, When::Always),
    (msr::MSR_SMI_COUNT, When::Always),
    (msr::MSR_MISC_FEATURES_ENABLES, When::Always),
    (msr::MSR_POWER_CTL, When::Always),
    (msr::K7_HWCR, When::Always),
];

const FEATURES: [(u32, When); 4] = [
    (msr::IA32_BIOS_SIGN_ID, When::Always),
    (msr::MSR_PLATFORM_INFO, When::Always),
    (
        msr::IA32_ARCH_CAPABILITIES,
        When::Has(Feature::ARCH_CAPABILITIES),
    ),
    (msr::AMD64_DE_CFG, When::Has(Feature::LFENCE_RDTSC)),
];

fn is_offered(entry: &(u32, When), caps: &Caps) -> bool {
    match entry.1 {
        When::Always => true,
        When::Has(feature) => caps.has(feature),
        When::Either(one, other) => caps.has(one) || caps.has(other),
        When::Paravirt => pv::has_register(entry.0, caps.paravirt),
        When::Xss => caps.xss != 0,
    }
}

/// Returns the MSRs that a VMM saves and restores, feature MSRs last.
pub fn index_list(caps: &Caps) -> impl Iterator<Item = u32> + '_ {
    SAVED
        .iter()
        .chain(FEATURES.iter())
        .filter(move |entry| is_offered(entry, caps))
        .map(|entry| entry.0)
}

/// Returns the MSRs that tell features, whose offered values `KVM_GET_MSRS` on the device reads.
pub fn feature_index_list(caps: &Caps) -> impl Iterator<Item = u32> + '_ {
    FEATURES
        .iter()
        .filter(move |entry| is_offered(entry, caps))
        .map(|entry| entry.0)
}

/// Says whether `index` is listed on any host: userspace may read such an MSR, and write 0 to it, even
/// where it doesn't exist, so that a VMM can restore a list that it saved elsewhere.
pub(super) fn is_listed(index: u32) -> bool {
    SAVED
        .iter()
        .chain(FEATURES.iter())
        .any(|entry| entry.0 == index)
}

/// Says whether `index` is a feature MSR that may not change once the vCPU has run.
pub fn is_immutable_feature(index: u32) -> bool {
    index != msr::IA32_BIOS_SIGN_ID && FEATURES.iter().any(|entry| entry.0 == index)
}

/// The values of feature MSRs that the module offers. A new vCPU starts with those of
/// IA32_ARCH_CAPABILITIES and MSR_PLATFORM_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureMsrs {
    /// The host's microcode revision, as IA32_BIOS_SIGN_ID holds it.
    pub microcode: u64,
    /// IA32_ARCH_CAPABILITIES, from [`arch_capabilities`](super::arch_capabilities).
    pub arch_capabilities: u64,
    /// MSR_PLATFORM_INFO: bit 31 when CPUID faulting is emulated.
    pub platform_info: u64,
    /// AMD64_DE_CFG: bit 1 when LFENCE serialises.
    pub de_cfg: u64,
}

impl FeatureMsrs {
    /// MSR_PLATFORM_INFO: CPUID faulting can be enabled.
    pub const CPUID_FAULTING: u64 = 1 << 31;

    /// AMD64_DE_CFG: LFENCE serialises.
    pub const LFENCE_SERIALIZES: u64 = 1 << 1;

    /// The microcode revision that a guest sees unless userspace sets another: one that no list of
    /// defective revisions holds.
    pub(super) const fn guest_microcode(vendor: Vendor) -> u64 {
        match vendor {
            Vendor::Intel => 1 << 32,
            Vendor::Amd => 0x0100_0065,
        }
    }
}

/// Returns the offered value of a feature MSR.
///
/// # Errors
///
/// [`MsrError::Unknown`] when `index` is not an offered feature MSR.
pub fn feature_value(index: u32, values: &FeatureMsrs, caps: &Caps) -> Result<u64, MsrError> {
    if !feature_index_list(caps).any(|known| known == index) {
        return Err(MsrError::Unknown);
    }
    match index {
        msr::IA32_BIOS_SIGN_ID => Ok(values.microcode),
        msr::MSR_PLATFORM_INFO => Ok(values.platform_info),
        msr::IA32_ARCH_CAPABILITIES => Ok(values.arch_capabilities),
        msr::AMD64_DE_CFG => Ok(values.de_cfg),
        _ => Err(MsrError::Unknown),
    }
}
