// SPDX-License-Identifier: GPL-2.0-only

//! MSR policy: which exist, who may read and write which bits, and what a write changes.
//!
//! [`MsrFile`] stores the registers that nothing but RDMSR, WRMSR and userspace looks at. Registers that
//! live elsewhere (VMCS fields, the local APIC, registers of the processor itself) are checked here and
//! named as a [`Place`]: their value comes from, and goes to, whoever holds it.

mod bitmap;
mod file;
mod list;
mod mce;
mod mtrr;
mod quiet;
mod rules;

pub use bitmap::{
    allow, direct, intercept, is_intercepted, virtual_x2apic, Access, Direct, MSR_BITMAP_SIZE,
};
pub use file::{Config, MsrFile, Reset};
pub use list::{feature_index_list, feature_value, index_list, is_immutable_feature, FeatureMsrs};
pub use mce::{MCE_BANKS, MCE_CAP};
pub use mtrr::VARIABLE_MTRRS;
pub use rules::arch_capabilities;

use crate::model::cpuid;

/// Who accesses an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The guest, with RDMSR or WRMSR.
    Guest,
    /// Userspace, with `KVM_GET_MSRS` or `KVM_SET_MSRS`: it may restore what a guest may not write.
    Host,
}

/// Why an access fails. The guest gets #GP(0); userspace's list of MSRs ends before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrError {
    /// The MSR exists, and the access or the value is not allowed.
    Gp,
    /// There is no such MSR in this guest (`KVM_MSR_EXIT_REASON_UNKNOWN`).
    Unknown,
}

/// A register that is held outside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// IA32_TIME_STAMP_COUNTER, the host's counter and the guest's offset.
    Tsc,
    /// IA32_APIC_BASE, which the local APIC checks.
    ApicBase,
    /// An x2APIC register; the number is the offset of its xAPIC counterpart divided by 16.
    X2apic(u8),
    /// IA32_TSC_DEADLINE.
    TscDeadline,
    /// IA32_FS_BASE.
    FsBase,
    /// IA32_GS_BASE.
    GsBase,
    /// IA32_KERNEL_GS_BASE.
    KernelGsBase,
    /// IA32_SYSENTER_CS, 32 bits.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_CSTAR.
    Cstar,
    /// IA32_FMASK.
    Fmask,
    /// IA32_TSC_AUX, 32 bits.
    TscAux,
    /// IA32_SPEC_CTRL.
    SpecCtrl,
    /// IA32_UMWAIT_CONTROL.
    UmwaitControl,
    /// A paravirtual MSR, by its index.
    Paravirt(u32),
}

/// The answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The register's value.
    Value(u64),
    /// The register's value is held there.
    Held(Place),
}

/// What the owner of the file does after a write that was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Store the value there, which may still refuse it ([`Place::ApicBase`], [`Place::X2apic`] and
    /// [`Place::Paravirt`] check their values themselves).
    Hold(Place, u64),
    /// Make this the guest's IA32_EFER.
    Efer(u64),
    /// Make this the guest's PAT.
    Pat(u64),
    /// Make this the guest's IA32_XSS, and refresh CPUID.
    Xss(u64),
    /// Refresh CPUID: a bit that shows there has changed.
    RefreshCpuid,
    /// Add this, modulo 2^64, to the guest's TSC offset.
    AdjustTsc(u64),
    /// Issue an indirect-branch prediction barrier.
    PredictionBarrier,
    /// Flush the level-1 data cache.
    FlushL1d,
}

/// What an access depends on besides the file.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    /// The guest's CPUID model.
    pub guest: &'a cpuid::Guest,
    /// What the module offers.
    pub caps: &'a cpuid::Caps,
    /// The guest's IA32_EFER.
    pub efer: u64,
    /// CR0.PG is set.
    pub paging: bool,
}
