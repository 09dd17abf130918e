// SPDX-License-Identifier: GPL-2.0-only

//! CPUID policy: which features a guest may be offered, what userspace gave it, and what the
//! instruction returns.
//!
//! [`Caps`] is computed once, from the host's CPUID and what the module provides. [`supported`] lists it
//! for `KVM_GET_SUPPORTED_CPUID`. `KVM_SET_CPUID2` brings entries, from which a [`Guest`] and an [`Index`]
//! are derived. [`refresh`] patches the bits that follow other registers when those change, so that
//! [`lookup`], on the exit path, only finds an entry and copies it.

mod caps;
mod feature;
mod guest;
mod list;
mod lookup;

pub use caps::{Caps, Provides};
pub use feature::{Feature, Word, WORDS};
pub use guest::{check_resend, refresh, Dynamic, Guest, Vendor};
pub use list::{emulated, supported};
pub use lookup::{lookup, Index};

/// The most entries that the CPUID ioctls accept for a vCPU.
pub const MAX_ENTRIES: usize = 256;

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// The host processor's CPUID.
pub trait HostCpuid {
    /// Executes CPUID with EAX = `function` and ECX = `index`.
    fn cpuid(&self, function: u32, index: u32) -> Regs;

    /// Returns the bits of a feature word that the host kernel lets its own code use. A kernel may have
    /// turned features off that CPUID still shows.
    fn kernel_mask(&self, _word: Word) -> u32 {
        u32::MAX
    }
}

/// One line of a CPUID table, in the layout of `struct kvm_cpuid_entry2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuidEntry {
    /// The leaf, EAX of the request.
    pub function: u32,
    /// The subleaf, ECX of the request, where [`SIGNIFICANT_INDEX`](Self::SIGNIFICANT_INDEX) is set.
    pub index: u32,
    /// `KVM_CPUID_FLAG_*` bits.
    pub flags: u32,
    /// EAX of the answer.
    pub eax: u32,
    /// EBX of the answer.
    pub ebx: u32,
    /// ECX of the answer.
    pub ecx: u32,
    /// EDX of the answer.
    pub edx: u32,
    /// Reserved.
    pub padding: [u32; 3],
}

const _: () = assert!(core::mem::size_of::<CpuidEntry>() == 40);

impl CpuidEntry {
    /// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the entry answers for its subleaf only.
    pub const SIGNIFICANT_INDEX: u32 = 1;

    /// Makes an entry; `flags` follow from whether the leaf has subleaves.
    pub const fn new(function: u32, index: u32, regs: Regs) -> Self {
        Self {
            function,
            index,
            flags: if is_indexed(function) {
                Self::SIGNIFICANT_INDEX
            } else {
                0
            },
            eax: regs.eax,
            ebx: regs.ebx,
            ecx: regs.ecx,
            edx: regs.edx,
            padding: [0; 3],
        }
    }

    /// Returns the answer.
    pub const fn regs(&self) -> Regs {
        Regs {
            eax: self.eax,
            ebx: self.ebx,
            ecx: self.ecx,
            edx: self.edx,
        }
    }

    const fn answers(&self, function: u32, index: u32) -> bool {
        self.function == function
            && (self.flags & Self::SIGNIFICANT_INDEX == 0 || self.index == index)
    }
}

/// Leaf numbers, by what they describe (SDM vol. 2 CPUID; APM vol. 3 appendix E).
pub(crate) mod leaf {
    pub const VENDOR: u32 = 0;
    pub const FEATURES: u32 = 1;
    pub const CACHE_DESCRIPTORS: u32 = 2;
    pub const CACHES: u32 = 4;
    pub const THERMAL: u32 = 6;
    pub const EXTENDED_FEATURES: u32 = 7;
    pub const TOPOLOGY: u32 = 0xb;
    pub const XSTATE: u32 = 0xd;
    pub const SGX: u32 = 0x12;
    pub const PT: u32 = 0x14;
    pub const SOC: u32 = 0x17;
    pub const TLB: u32 = 0x18;
    pub const TILES: u32 = 0x1d;
    pub const TMUL: u32 = 0x1e;
    pub const TOPOLOGY_V2: u32 = 0x1f;
    pub const AVX10: u32 = 0x24;
    pub const HYPERVISOR: u32 = 0x4000_0000;
    pub const PARAVIRT: u32 = 0x4000_0001;
    pub const EXTENDED: u32 = 0x8000_0000;
    pub const AMD_FEATURES: u32 = 0x8000_0001;
    pub const BRAND_FIRST: u32 = 0x8000_0002;
    pub const AMD_CACHE_L1: u32 = 0x8000_0005;
    pub const AMD_CACHE_L2: u32 = 0x8000_0006;
    pub const POWER: u32 = 0x8000_0007;
    pub const ADDRESS_SIZES: u32 = 0x8000_0008;
    pub const AMD_TLB_1G: u32 = 0x8000_0019;
    pub const AMD_HINTS: u32 = 0x8000_001a;
    pub const AMD_CACHES: u32 = 0x8000_001d;
    pub const AMD_FEATURES_2: u32 = 0x8000_0021;
}

/// Says whether the answers of leaf `function` depend on the subleaf.
pub const fn is_indexed(function: u32) -> bool {
    matches!(
        function,
        leaf::CACHES
            | leaf::EXTENDED_FEATURES
            | leaf::TOPOLOGY
            | leaf::XSTATE
            | 0xf
            | 0x10
            | leaf::SGX
            | leaf::PT
            | leaf::SOC
            | leaf::TLB
            | leaf::TILES
            | leaf::TMUL
            | leaf::TOPOLOGY_V2
            | 0x23
            | leaf::AVX10
            | leaf::AMD_CACHES
    )
}
