// SPDX-License-Identifier: GPL-2.0-only

//! What the module can offer to guests on this host: allow-lists, met with the host's CPUID.

use super::{leaf, Feature, HostCpuid, Word, WORDS};
use crate::model::xstate::{bit, xcr0_valid, Layout};

/// What the module provides beyond plain execution on the host processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provides {
    /// XCR0 components that the world switch covers and the host has enabled.
    pub xcr0: u64,
    /// IA32_XSS components that the world switch covers.
    pub xss: u64,
    /// INVPCID can be enabled for the guest.
    pub invpcid: bool,
    /// RDTSCP and RDPID can be enabled, and IA32_TSC_AUX is switched.
    pub rdtscp: bool,
    /// XSAVES can be enabled, and IA32_XSS is switched.
    pub xsaves: bool,
    /// UMWAIT and TPAUSE can be enabled.
    pub waitpkg: bool,
    /// IA32_SPEC_CTRL is switched and IA32_PRED_CMD works.
    pub spec_ctrl: bool,
    /// IA32_FLUSH_CMD works.
    pub flush_cmd: bool,
    /// IA32_ARCH_CAPABILITIES is reported.
    pub arch_capabilities: bool,
    /// 57-bit linear addresses: the guest page walker knows 5-level paging.
    pub la57: bool,
    /// The instruction emulator completes MOVBE where the host lacks it.
    pub movbe_emulation: bool,
    /// The instruction emulator completes RDPID where the host lacks it.
    pub rdpid_emulation: bool,
    /// Width of the guest-physical addresses that the second-level tables reach, in bits.
    pub guest_phys_bits: u8,
    /// Feature bits of the paravirtual leaf, 0x40000001 EAX.
    pub paravirt: u32,
}

/// Features that need nothing but the state that every world switch covers.
const fn allowed(word: Word) -> u32 {
    match word {
        Word::L1Ecx => bits(&[
            Feature::SSE3,
            Feature::PCLMULQDQ,
            Feature::SSSE3,
            Feature::FMA,
            Feature::CX16,
            Feature::PCID,
            Feature::SSE4_1,
            Feature::SSE4_2,
            Feature::MOVBE,
            Feature::POPCNT,
            Feature::AES,
            Feature::XSAVE,
            Feature::AVX,
            Feature::F16C,
            Feature::RDRAND,
        ]),
        Word::L1Edx => {
            LEAF1_AND_AMD_EDX
                | bits(&[
                    Feature::SEP,
                    Feature::CLFLUSH,
                    Feature::SSE,
                    Feature::SSE2,
                    Feature::SS,
                ])
        }
        Word::L7Ebx => bits(&[
            Feature::FSGSBASE,
            Feature::BMI1,
            Feature::HLE,
            Feature::AVX2,
            Feature::FDP_EXCPTN_ONLY,
            Feature::SMEP,
            Feature::BMI2,
            Feature::ERMS,
            Feature::INVPCID,
            Feature::RTM,
            Feature::ZERO_FCS_FDS,
            Feature::AVX512F,
            Feature::AVX512DQ,
            Feature::RDSEED,
            Feature::ADX,
            Feature::SMAP,
            Feature::AVX512IFMA,
            Feature::CLFLUSHOPT,
            Feature::CLWB,
            Feature::AVX512PF,
            Feature::AVX512ER,
            Feature::AVX512CD,
            Feature::SHA,
            Feature::AVX512BW,
            Feature::AVX512VL,
        ]),
        Word::L7Ecx => bits(&[
            Feature::AVX512VBMI,
            Feature::UMIP,
            Feature::PKU,
            Feature::WAITPKG,
            Feature::AVX512VBMI2,
            Feature::GFNI,
            Feature::VAES,
            Feature::VPCLMULQDQ,
            Feature::AVX512VNNI,
            Feature::AVX512BITALG,
            Feature::AVX512VPOPCNTDQ,
            Feature::LA57,
            Feature::RDPID,
            Feature::CLDEMOTE,
            Feature::MOVDIRI,
            Feature::MOVDIR64B,
        ]),
        Word::L7Edx => bits(&[
            Feature::AVX5124VNNIW,
            Feature::AVX5124FMAPS,
            Feature::FSRM,
            Feature::AVX512VP2INTERSECT,
            Feature::MD_CLEAR,
            Feature::SERIALIZE,
            Feature::TSXLDTRK,
            Feature::AMX_BF16,
            Feature::AVX512FP16,
            Feature::AMX_TILE,
            Feature::AMX_INT8,
            Feature::SPEC_CTRL,
            Feature::STIBP,
            Feature::FLUSH_L1D,
            Feature::SSBD,
        ]),
        Word::L7s1Eax => bits(&[
            Feature::SHA512,
            Feature::SM3,
            Feature::SM4,
            Feature::AVX_VNNI,
            Feature::AVX512BF16,
            Feature::CMPCCXADD,
            Feature::FZRM,
            Feature::FSRS,
            Feature::FSRC,
            Feature::AMX_FP16,
            Feature::AVX_IFMA,
        ]),
        Word::L7s1Edx => bits(&[
            Feature::AVX_VNNI_INT8,
            Feature::AVX_NE_CONVERT,
            Feature::AMX_COMPLEX,
            Feature::AVX_VNNI_INT16,
            Feature::PREFETCHITI,
        ]),
        Word::L7s2Edx => bits(&[Feature::PSFD, Feature::MCDT_NO]),
        Word::Ds1Eax => bits(&[
            Feature::XSAVEOPT,
            Feature::XSAVEC,
            Feature::XGETBV1,
            Feature::XSAVES,
        ]),
        Word::E1Ecx => bits(&[
            Feature::LAHF_LM,
            Feature::CMP_LEGACY,
            Feature::CR8_LEGACY,
            Feature::ABM,
            Feature::SSE4A,
            Feature::MISALIGNSSE,
            Feature::PREFETCHW,
            Feature::OSVW,
            Feature::XOP,
            Feature::FMA4,
            Feature::TBM,
            Feature::TOPOEXT,
        ]),
        Word::E1Edx => {
            LEAF1_AND_AMD_EDX
                | bits(&[
                    Feature::SYSCALL,
                    Feature::NX,
                    Feature::MMXEXT,
                    Feature::FXSR_OPT,
                    Feature::GBPAGES,
                    Feature::RDTSCP,
                    Feature::LM,
                    Feature::EXT_3DNOW,
                    Feature::BASE_3DNOW,
                ])
        }
        Word::E7Edx => Feature::INVARIANT_TSC.mask(),
        Word::E8Ebx => bits(&[
            Feature::CLZERO,
            Feature::XSAVEERPTR,
            Feature::WBNOINVD,
            Feature::AMD_IBPB,
            Feature::AMD_IBRS,
            Feature::AMD_STIBP,
            Feature::AMD_SSBD,
            Feature::AMD_SSB_NO,
            Feature::AMD_PSFD,
        ]),
        Word::E21Eax => bits(&[
            Feature::NO_NESTED_DATA_BP,
            Feature::WRMSR_XX_BASE_NS,
            Feature::LFENCE_RDTSC,
            Feature::NULL_SEL_CLR_BASE,
        ]),
    }
}

/// Features of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE,
/// CX8, APIC, MTRR, PGE, MCA, CMOV, PAT, PSE36, MMX, FXSR (APM vol. 3 appendix E.4.2).
const LEAF1_AND_AMD_EDX: u32 = 0x0183_f3ff;

/// Features that the module emulates whatever the host has.
const fn emulated(word: Word) -> u32 {
    match word {
        Word::L1Ecx => bits(&[Feature::X2APIC, Feature::TSC_DEADLINE, Feature::HYPERVISOR]),
        Word::L7Ebx => Feature::TSC_ADJUST.mask(),
        Word::E21Eax => Feature::NO_SMM_CTL_MSR.mask(),
        _ => 0,
    }
}

/// Features that work only with AVX state.
const NEED_AVX: [Feature; 16] = [
    Feature::AVX,
    Feature::FMA,
    Feature::F16C,
    Feature::AVX2,
    Feature::VAES,
    Feature::VPCLMULQDQ,
    Feature::AVX_VNNI,
    Feature::AVX_IFMA,
    Feature::AVX_VNNI_INT8,
    Feature::AVX_NE_CONVERT,
    Feature::AVX_VNNI_INT16,
    Feature::SHA512,
    Feature::SM3,
    Feature::SM4,
    Feature::XOP,
    Feature::FMA4,
];

/// Features that work only with AVX-512 state.
const NEED_AVX512: [Feature; 18] = [
    Feature::AVX512F,
    Feature::AVX512DQ,
    Feature::AVX512IFMA,
    Feature::AVX512PF,
    Feature::AVX512ER,
    Feature::AVX512CD,
    Feature::AVX512BW,
    Feature::AVX512VL,
    Feature::AVX512VBMI,
    Feature::AVX512VBMI2,
    Feature::AVX512VNNI,
    Feature::AVX512BITALG,
    Feature::AVX512VPOPCNTDQ,
    Feature::AVX5124VNNIW,
    Feature::AVX5124FMAPS,
    Feature::AVX512VP2INTERSECT,
    Feature::AVX512FP16,
    Feature::AVX512BF16,
];

/// Features that work only with AMX state.
const NEED_AMX: [Feature; 5] = [
    Feature::AMX_TILE,
    Feature::AMX_INT8,
    Feature::AMX_BF16,
    Feature::AMX_FP16,
    Feature::AMX_COMPLEX,
];

const fn bits(features: &[Feature]) -> u32 {
    let mut mask = 0;
    let mut rest = features;
    while let [first, tail @ ..] = rest {
        mask |= first.mask();
        rest = tail;
    }
    mask
}

/// What guests may be offered on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    words: [u32; WORDS],
    /// XCR0 bits that a guest may set.
    pub xcr0: u64,
    /// IA32_XSS bits that a guest may set.
    pub xss: u64,
    /// The XSAVE components of `xcr0` and `xss`.
    pub layout: Layout,
    /// Width of the addresses that the second-level tables reach, in bits.
    pub guest_phys_bits: u8,
    /// Feature bits of the paravirtual leaf.
    pub paravirt: u32,
    /// MOVBE is emulated where the host lacks it.
    pub movbe_emulation: bool,
    /// RDPID is emulated where the host lacks it.
    pub rdpid_emulation: bool,
}

impl Caps {
    /// Computes what can be offered.
    pub fn new(host: &impl HostCpuid, provides: &Provides) -> Self {
        let mut caps = Self {
            words: [0; WORDS],
            xcr0: 0,
            xss: 0,
            layout: Layout::default(),
            guest_phys_bits: provides.guest_phys_bits,
            paravirt: provides.paravirt,
            movbe_emulation: provides.movbe_emulation,
            rdpid_emulation: provides.rdpid_emulation && provides.rdtscp,
        };
        let max_basic = host.cpuid(leaf::VENDOR, 0).eax;
        let max_extended = host.cpuid(leaf::EXTENDED, 0).eax;
        for word in Word::ALL {
            let (function, index) = word.leaf();
            let limit = if function & leaf::EXTENDED == 0 {
                max_basic
            } else {
                max_extended
            };
            let raw = if function <= limit && subleaf_exists(host, function, index) {
                word.of(&host.cpuid(function, index))
            } else {
                0
            };
            caps.set_word(
                word,
                raw & host.kernel_mask(word) & allowed(word) | emulated(word),
            );
        }
        caps.apply_provides(provides);
        caps.apply_xstate(host, provides, max_basic);
        caps
    }

    /// Returns the offered bits of a feature word.
    pub fn word(&self, word: Word) -> u32 {
        self.words.get(word as usize).copied().unwrap_or(0)
    }

    /// Says whether a feature is offered.
    pub fn has(&self, feature: Feature) -> bool {
        self.word(feature.word) & feature.mask() != 0
    }

    fn set_word(&mut self, word: Word, value: u32) {
        if let Some(slot) = self.words.get_mut(word as usize) {
            *slot = value;
        }
    }

    fn clear(&mut self, features: &[Feature]) {
        for feature in features {
            self.set_word(feature.word, self.word(feature.word) & !feature.mask());
        }
    }

    fn apply_provides(&mut self, provides: &Provides) {
        if !provides.invpcid {
            self.clear(&[Feature::INVPCID]);
        }
        if !provides.rdtscp {
            self.clear(&[Feature::RDTSCP, Feature::RDPID]);
        }
        if !provides.xsaves {
            self.clear(&[Feature::XSAVES]);
        }
        if !provides.waitpkg {
            self.clear(&[Feature::WAITPKG]);
        }
        if !provides.spec_ctrl {
            self.clear(&[
                Feature::SPEC_CTRL,
                Feature::STIBP,
                Feature::SSBD,
                Feature::PSFD,
                Feature::AMD_IBPB,
                Feature::AMD_IBRS,
                Feature::AMD_STIBP,
                Feature::AMD_SSBD,
                Feature::AMD_PSFD,
            ]);
        }
        if !provides.flush_cmd {
            self.clear(&[Feature::FLUSH_L1D]);
        }
        if !provides.la57 {
            self.clear(&[Feature::LA57]);
        }
        if provides.arch_capabilities {
            let word = Feature::ARCH_CAPABILITIES.word;
            self.set_word(word, self.word(word) | Feature::ARCH_CAPABILITIES.mask());
        }
    }

    /// Settles the XSAVE features and components, which must agree: a guest kernel that is offered AVX-512
    /// without its XCR0 bits, or a component of no size, disables XSAVE altogether or crashes.
    fn apply_xstate(&mut self, host: &impl HostCpuid, provides: &Provides, max_basic: u32) {
        if self.has(Feature::XSAVE) && max_basic >= leaf::XSTATE {
            let described = if max_basic >= leaf::TMUL {
                u64::MAX
            } else {
                !bit::XTILE
            };
            self.layout = Layout::read(host, provides.xcr0 | provides.xss);
            let offered = host.cpuid(leaf::XSTATE, 0);
            let offered = u64::from(offered.eax) | u64::from(offered.edx) << 32;
            let mask = provides.xcr0 & offered & described;
            self.xcr0 = whole_groups(self.layout.usable(mask, false));
            let offered = host.cpuid(leaf::XSTATE, 1);
            let offered = u64::from(offered.ecx) | u64::from(offered.edx) << 32;
            if self.has(Feature::XSAVES) {
                self.xss = self.layout.usable(provides.xss & offered, true);
            }
        }
        if self.xcr0 & bit::LEGACY != bit::LEGACY {
            self.xcr0 = 0;
            self.xss = 0;
            self.clear(&[Feature::XSAVE]);
            self.set_word(Word::Ds1Eax, 0);
        }
        if self.xcr0 & bit::AVX == 0 {
            self.clear(&NEED_AVX);
        }
        if self.xcr0 & bit::AVX512 == 0 {
            self.clear(&NEED_AVX512);
        }
        if self.xcr0 & bit::XTILE == 0 {
            self.clear(&NEED_AMX);
        }
        if self.xcr0 & bit::PKRU == 0 {
            self.clear(&[Feature::PKU]);
        }
    }
}

/// Drops the groups of components that are not complete, so that the mask is itself a valid XCR0.
fn whole_groups(mask: u64) -> u64 {
    let mut mask = mask;
    for group in [bit::MPX, bit::XTILE, bit::AVX512] {
        if mask & group != group {
            mask &= !group;
        }
    }
    if mask & bit::AVX == 0 {
        mask &= !bit::AVX512;
    }
    if xcr0_valid(mask, mask) {
        mask
    } else {
        mask & bit::LEGACY
    }
}

/// Says whether the host enumerates subleaf `index` of `function`.
fn subleaf_exists(host: &impl HostCpuid, function: u32, index: u32) -> bool {
    function != leaf::EXTENDED_FEATURES || host.cpuid(function, 0).eax >= index
}
