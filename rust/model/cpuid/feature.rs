// SPDX-License-Identifier: GPL-2.0-only

//! Feature bits, and the words (a register of a leaf) that hold them.

use super::{leaf, Regs};

/// A register of a CPUID leaf whose bits are features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// Leaf 1 ECX.
    L1Ecx,
    /// Leaf 1 EDX.
    L1Edx,
    /// Leaf 7 subleaf 0 EBX.
    L7Ebx,
    /// Leaf 7 subleaf 0 ECX.
    L7Ecx,
    /// Leaf 7 subleaf 0 EDX.
    L7Edx,
    /// Leaf 7 subleaf 1 EAX.
    L7s1Eax,
    /// Leaf 7 subleaf 1 EDX.
    L7s1Edx,
    /// Leaf 7 subleaf 2 EDX.
    L7s2Edx,
    /// Leaf 0xD subleaf 1 EAX.
    Ds1Eax,
    /// Leaf 0x80000001 ECX.
    E1Ecx,
    /// Leaf 0x80000001 EDX.
    E1Edx,
    /// Leaf 0x80000007 EDX.
    E7Edx,
    /// Leaf 0x80000008 EBX.
    E8Ebx,
    /// Leaf 0x80000021 EAX.
    E21Eax,
}

/// The number of feature words.
pub const WORDS: usize = Word::ALL.len();

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Word {
    /// Every word, in the order of their numbers.
    pub const ALL: [Word; 14] = [
        Word::L1Ecx,
        Word::L1Edx,
        Word::L7Ebx,
        Word::L7Ecx,
        Word::L7Edx,
        Word::L7s1Eax,
        Word::L7s1Edx,
        Word::L7s2Edx,
        Word::Ds1Eax,
        Word::E1Ecx,
        Word::E1Edx,
        Word::E7Edx,
        Word::E8Ebx,
        Word::E21Eax,
    ];

    /// Returns the leaf and subleaf that hold the word.
    pub const fn leaf(self) -> (u32, u32) {
        match self {
            Word::L1Ecx | Word::L1Edx => (leaf::FEATURES, 0),
            Word::L7Ebx | Word::L7Ecx | Word::L7Edx => (leaf::EXTENDED_FEATURES, 0),
            Word::L7s1Eax | Word::L7s1Edx => (leaf::EXTENDED_FEATURES, 1),
            Word::L7s2Edx => (leaf::EXTENDED_FEATURES, 2),
            Word::Ds1Eax => (leaf::XSTATE, 1),
            Word::E1Ecx | Word::E1Edx => (leaf::AMD_FEATURES, 0),
            Word::E7Edx => (leaf::POWER, 0),
            Word::E8Ebx => (leaf::ADDRESS_SIZES, 0),
            Word::E21Eax => (leaf::AMD_FEATURES_2, 0),
        }
    }

    const fn reg(self) -> Reg {
        match self {
            Word::L7s1Eax | Word::Ds1Eax | Word::E21Eax => Reg::Eax,
            Word::L7Ebx | Word::E8Ebx => Reg::Ebx,
            Word::L1Ecx | Word::L7Ecx | Word::E1Ecx => Reg::Ecx,
            Word::L1Edx
            | Word::L7Edx
            | Word::L7s1Edx
            | Word::L7s2Edx
            | Word::E1Edx
            | Word::E7Edx => Reg::Edx,
        }
    }

    /// Picks the word out of its leaf's answer.
    pub const fn of(self, regs: &Regs) -> u32 {
        match self.reg() {
            Reg::Eax => regs.eax,
            Reg::Ebx => regs.ebx,
            Reg::Ecx => regs.ecx,
            Reg::Edx => regs.edx,
        }
    }
}

/// A feature bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The word that holds the bit.
    pub word: Word,
    /// The bit's number, 0 to 31.
    pub bit: u8,
}

impl Feature {
    /// Returns the feature's bit in its word.
    pub const fn mask(self) -> u32 {
        1 << (self.bit & 31)
    }
}

macro_rules! features {
    ($($word:ident { $($(#[$doc:meta])* $name:ident = $bit:literal,)* })*) => {
        impl Feature {
            $($($(#[$doc])* pub const $name: Feature = Feature { word: Word::$word, bit: $bit };)*)*
        }
    };
}

features! {
    L1Ecx {
        /// SSE3.
        SSE3 = 0,
        /// PCLMULQDQ.
        PCLMULQDQ = 1,
        /// MONITOR and MWAIT.
        MWAIT = 3,
        /// VMX.
        VMX = 5,
        /// SSSE3.
        SSSE3 = 9,
        /// FMA.
        FMA = 12,
        /// CMPXCHG16B.
        CX16 = 13,
        /// Process-context identifiers.
        PCID = 17,
        /// SSE4.1.
        SSE4_1 = 19,
        /// SSE4.2.
        SSE4_2 = 20,
        /// x2APIC mode.
        X2APIC = 21,
        /// MOVBE.
        MOVBE = 22,
        /// POPCNT.
        POPCNT = 23,
        /// TSC-deadline mode of the local APIC's timer.
        TSC_DEADLINE = 24,
        /// AES instructions.
        AES = 25,
        /// XSAVE and XCR0.
        XSAVE = 26,
        /// CR4.OSXSAVE is set.
        OSXSAVE = 27,
        /// AVX.
        AVX = 28,
        /// F16C.
        F16C = 29,
        /// RDRAND.
        RDRAND = 30,
        /// Running under a hypervisor.
        HYPERVISOR = 31,
    }
    L1Edx {
        /// x87.
        FPU = 0,
        /// Virtual-8086 extensions.
        VME = 1,
        /// Debugging extensions.
        DE = 2,
        /// 4-MiB pages.
        PSE = 3,
        /// RDTSC.
        TSC = 4,
        /// RDMSR and WRMSR.
        MSR = 5,
        /// Physical address extension.
        PAE = 6,
        /// Machine-check exception.
        MCE = 7,
        /// CMPXCHG8B.
        CX8 = 8,
        /// Local APIC, enabled.
        APIC = 9,
        /// SYSENTER.
        SEP = 11,
        /// MTRRs.
        MTRR = 12,
        /// Global pages.
        PGE = 13,
        /// Machine-check architecture.
        MCA = 14,
        /// CMOV.
        CMOV = 15,
        /// Page attribute table.
        PAT = 16,
        /// 36-bit 4-MiB pages.
        PSE36 = 17,
        /// CLFLUSH.
        CLFLUSH = 19,
        /// MMX.
        MMX = 23,
        /// FXSAVE.
        FXSR = 24,
        /// SSE.
        SSE = 25,
        /// SSE2.
        SSE2 = 26,
        /// Self snoop.
        SS = 27,
    }
    L7Ebx {
        /// RDFSBASE and its kin.
        FSGSBASE = 0,
        /// IA32_TSC_ADJUST.
        TSC_ADJUST = 1,
        /// SGX.
        SGX = 2,
        /// BMI1.
        BMI1 = 3,
        /// Hardware lock elision.
        HLE = 4,
        /// AVX2.
        AVX2 = 5,
        /// The x87 data pointer is updated by exceptions only.
        FDP_EXCPTN_ONLY = 6,
        /// Supervisor-mode execution prevention.
        SMEP = 7,
        /// BMI2.
        BMI2 = 8,
        /// Fast REP MOVSB and STOSB.
        ERMS = 9,
        /// INVPCID.
        INVPCID = 10,
        /// Restricted transactional memory.
        RTM = 11,
        /// x87 CS and DS are not saved.
        ZERO_FCS_FDS = 13,
        /// MPX.
        MPX = 14,
        /// AVX-512 foundation.
        AVX512F = 16,
        /// AVX-512 DQ.
        AVX512DQ = 17,
        /// RDSEED.
        RDSEED = 18,
        /// ADX.
        ADX = 19,
        /// Supervisor-mode access prevention.
        SMAP = 20,
        /// AVX-512 IFMA.
        AVX512IFMA = 21,
        /// CLFLUSHOPT.
        CLFLUSHOPT = 23,
        /// CLWB.
        CLWB = 24,
        /// AVX-512 PF.
        AVX512PF = 26,
        /// AVX-512 ER.
        AVX512ER = 27,
        /// AVX-512 CD.
        AVX512CD = 28,
        /// SHA.
        SHA = 29,
        /// AVX-512 BW.
        AVX512BW = 30,
        /// AVX-512 VL.
        AVX512VL = 31,
    }
    L7Ecx {
        /// AVX-512 VBMI.
        AVX512VBMI = 1,
        /// User-mode instruction prevention.
        UMIP = 2,
        /// Protection keys for user pages.
        PKU = 3,
        /// CR4.PKE is set.
        OSPKE = 4,
        /// UMWAIT and TPAUSE.
        WAITPKG = 5,
        /// AVX-512 VBMI2.
        AVX512VBMI2 = 6,
        /// Shadow stacks.
        SHSTK = 7,
        /// GFNI.
        GFNI = 8,
        /// VAES.
        VAES = 9,
        /// VPCLMULQDQ.
        VPCLMULQDQ = 10,
        /// AVX-512 VNNI.
        AVX512VNNI = 11,
        /// AVX-512 BITALG.
        AVX512BITALG = 12,
        /// AVX-512 VPOPCNTDQ.
        AVX512VPOPCNTDQ = 14,
        /// 57-bit linear addresses.
        LA57 = 16,
        /// RDPID.
        RDPID = 22,
        /// Bus-lock detection.
        BUS_LOCK_DETECT = 24,
        /// CLDEMOTE.
        CLDEMOTE = 25,
        /// MOVDIRI.
        MOVDIRI = 27,
        /// MOVDIR64B.
        MOVDIR64B = 28,
    }
    L7Edx {
        /// AVX-512 4VNNIW.
        AVX5124VNNIW = 2,
        /// AVX-512 4FMAPS.
        AVX5124FMAPS = 3,
        /// Fast short REP MOVSB.
        FSRM = 4,
        /// AVX-512 VP2INTERSECT.
        AVX512VP2INTERSECT = 8,
        /// VERW clears buffers.
        MD_CLEAR = 10,
        /// SERIALIZE.
        SERIALIZE = 14,
        /// TSX suspend load tracking.
        TSXLDTRK = 16,
        /// Indirect branch tracking.
        IBT = 20,
        /// AMX bfloat16.
        AMX_BF16 = 22,
        /// AVX-512 FP16.
        AVX512FP16 = 23,
        /// AMX tiles.
        AMX_TILE = 24,
        /// AMX int8.
        AMX_INT8 = 25,
        /// IBRS and IBPB.
        SPEC_CTRL = 26,
        /// Single-thread indirect branch predictors.
        STIBP = 27,
        /// L1 data cache flush command.
        FLUSH_L1D = 28,
        /// IA32_ARCH_CAPABILITIES.
        ARCH_CAPABILITIES = 29,
        /// Speculative store bypass disable.
        SSBD = 31,
    }
    L7s1Eax {
        /// SHA-512.
        SHA512 = 0,
        /// SM3.
        SM3 = 1,
        /// SM4.
        SM4 = 2,
        /// AVX VNNI.
        AVX_VNNI = 4,
        /// AVX-512 bfloat16.
        AVX512BF16 = 5,
        /// CMPccXADD.
        CMPCCXADD = 7,
        /// Fast zero-length REP MOVSB.
        FZRM = 10,
        /// Fast short REP STOSB.
        FSRS = 11,
        /// Fast short REP CMPSB and SCASB.
        FSRC = 12,
        /// AMX FP16.
        AMX_FP16 = 21,
        /// AVX IFMA.
        AVX_IFMA = 23,
        /// Linear-address masking.
        LAM = 26,
    }
    L7s1Edx {
        /// AVX VNNI int8.
        AVX_VNNI_INT8 = 4,
        /// AVX NE convert.
        AVX_NE_CONVERT = 5,
        /// AMX complex.
        AMX_COMPLEX = 8,
        /// AVX VNNI int16.
        AVX_VNNI_INT16 = 10,
        /// PREFETCHIT.
        PREFETCHITI = 14,
    }
    L7s2Edx {
        /// Predictive store forwarding disable.
        PSFD = 0,
        /// IPRED_DIS control.
        IPRED_CTRL = 1,
        /// RRSBA control.
        RRSBA_CTRL = 2,
        /// Data-dependent prefetcher disable.
        DDPD_U = 3,
        /// BHI control.
        BHI_CTRL = 4,
        /// No MXCSR configuration dependent timing.
        MCDT_NO = 5,
    }
    Ds1Eax {
        /// XSAVEOPT.
        XSAVEOPT = 0,
        /// XSAVEC.
        XSAVEC = 1,
        /// XGETBV with ECX = 1.
        XGETBV1 = 2,
        /// XSAVES and IA32_XSS.
        XSAVES = 3,
        /// Extended feature disable.
        XFD = 4,
    }
    E1Ecx {
        /// LAHF in 64-bit mode.
        LAHF_LM = 0,
        /// Legacy multi-core reporting.
        CMP_LEGACY = 1,
        /// SVM.
        SVM = 2,
        /// LOCK MOV CR0 means MOV CR8.
        CR8_LEGACY = 4,
        /// LZCNT.
        ABM = 5,
        /// SSE4A.
        SSE4A = 6,
        /// Misaligned SSE.
        MISALIGNSSE = 7,
        /// PREFETCHW.
        PREFETCHW = 8,
        /// OS-visible workarounds.
        OSVW = 9,
        /// XOP.
        XOP = 11,
        /// FMA4.
        FMA4 = 16,
        /// TBM.
        TBM = 21,
        /// Topology extensions.
        TOPOEXT = 22,
    }
    E1Edx {
        /// SYSCALL.
        SYSCALL = 11,
        /// No-execute pages.
        NX = 20,
        /// AMD's MMX extensions.
        MMXEXT = 22,
        /// Fast FXSAVE.
        FXSR_OPT = 25,
        /// 1-GiB pages.
        GBPAGES = 26,
        /// RDTSCP.
        RDTSCP = 27,
        /// Long mode.
        LM = 29,
        /// Extended 3DNow!.
        EXT_3DNOW = 30,
        /// 3DNow!.
        BASE_3DNOW = 31,
    }
    E7Edx {
        /// The time-stamp counter's rate is constant in all states.
        INVARIANT_TSC = 8,
    }
    E8Ebx {
        /// CLZERO.
        CLZERO = 0,
        /// XSAVE always saves error pointers.
        XSAVEERPTR = 2,
        /// WBNOINVD.
        WBNOINVD = 9,
        /// IBPB.
        AMD_IBPB = 12,
        /// IBRS.
        AMD_IBRS = 14,
        /// STIBP.
        AMD_STIBP = 15,
        /// SSBD in IA32_SPEC_CTRL.
        AMD_SSBD = 24,
        /// Speculative store bypass needs no mitigation.
        AMD_SSB_NO = 26,
        /// Predictive store forwarding disable.
        AMD_PSFD = 28,
    }
    E21Eax {
        /// Nested data breakpoints are ignored.
        NO_NESTED_DATA_BP = 0,
        /// Writes of FS, GS and KernelGS bases don't serialise.
        WRMSR_XX_BASE_NS = 1,
        /// LFENCE serialises.
        LFENCE_RDTSC = 2,
        /// Loading a null selector clears the base.
        NULL_SEL_CLR_BASE = 6,
        /// Automatic IBRS.
        AUTOIBRS = 8,
        /// No SMM_CTL register.
        NO_SMM_CTL_MSR = 9,
    }
}
