// SPDX-License-Identifier: GPL-2.0-only

//! What the processor offers, and what of it is used (APM vol. 3, app. E, CPUID 8000_000A; vol. 2, chapter 15).
//!
//! [`compute`] takes the CPUID leaves and the user's options and returns either the features or the first
//! thing that is missing. Nested paging is required: every processor with SVM since 2008 has it. Whether
//! firmware has switched SVM off (VM_CR.SVMDIS) is the caller's to find out.

use core::fmt;

/// CPUID 8000_0001 ECX bit 2: SVM.
const SVM: u32 = 1 << 2;

/// CPUID 8000_0001 EDX bit 26: pages of 1 GiB, in nested page tables too.
const PAGE_1G: u32 = 1 << 26;

/// Bits of CPUID 8000_000A EDX.
mod edx {
    pub const NP: u32 = 1 << 0;
    pub const LBR_VIRT: u32 = 1 << 1;
    pub const NRIPS: u32 = 1 << 3;
    pub const TSC_RATE_MSR: u32 = 1 << 4;
    pub const VMCB_CLEAN: u32 = 1 << 5;
    pub const FLUSH_BY_ASID: u32 = 1 << 6;
    pub const DECODE_ASSISTS: u32 = 1 << 7;
    pub const PAUSE_FILTER: u32 = 1 << 10;
    pub const PAUSE_FILTER_THRESHOLD: u32 = 1 << 12;
    pub const AVIC: u32 = 1 << 13;
    pub const VMSAVE_VIRT: u32 = 1 << 15;
    pub const VGIF: u32 = 1 << 16;
    pub const X2AVIC: u32 = 1 << 18;
    pub const SPEC_CTRL: u32 = 1 << 20;
    pub const VNMI: u32 = 1 << 25;
}

/// The CPUID leaves that describe SVM; 0 stands for a leaf that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SvmCpuid {
    /// CPUID 8000_0001 ECX.
    pub extended_ecx: u32,
    /// CPUID 8000_0001 EDX.
    pub extended_edx: u32,
    /// CPUID 8000_000A EBX: the number of ASIDs.
    pub svm_ebx: u32,
    /// CPUID 8000_000A EDX.
    pub svm_edx: u32,
}

/// Optional features that the user lets the module use; each is used only where the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Map guest memory with 2-MiB leaves.
    pub npt_2m: bool,
    /// Map guest memory with 1-GiB leaves.
    pub npt_1g: bool,
    /// Take the next RIP from the VMCB.
    pub nrips: bool,
    /// Take operands and code bytes from the VMCB.
    pub decode_assists: bool,
    /// Flush the TLB by ASID.
    pub flush_by_asid: bool,
    /// Tell the processor which parts of the VMCB have not changed.
    pub vmcb_clean: bool,
    /// Scale the guest's TSC.
    pub tsc_scaling: bool,
    /// Exit on a loop of PAUSEs.
    pub pause_filter: bool,
    /// Let the processor keep the guest's global interrupt flag.
    pub vgif: bool,
    /// Let the guest execute VMLOAD and VMSAVE.
    pub virtual_vmload: bool,
    /// Let the processor keep the guest's NMIs.
    pub virtual_nmi: bool,
    /// Let the processor switch SPEC_CTRL.
    pub virtual_spec_ctrl: bool,
    /// Let the processor virtualise the local APIC.
    pub avic: bool,
    /// Let AVIC serve x2APIC MSRs; needs AVIC.
    pub x2avic: bool,
}

impl Options {
    /// Nothing optional.
    pub const MINIMAL: Self = Self {
        npt_2m: false,
        npt_1g: false,
        nrips: false,
        decode_assists: false,
        flush_by_asid: false,
        vmcb_clean: false,
        tsc_scaling: false,
        pause_filter: false,
        vgif: false,
        virtual_vmload: false,
        virtual_nmi: false,
        virtual_spec_ctrl: false,
        avic: false,
        x2avic: false,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self {
            npt_2m: true,
            npt_1g: true,
            nrips: true,
            decode_assists: true,
            flush_by_asid: true,
            vmcb_clean: true,
            tsc_scaling: true,
            pause_filter: true,
            vgif: true,
            virtual_vmload: true,
            virtual_nmi: true,
            virtual_spec_ctrl: true,
            ..Self::MINIMAL
        }
    }
}

/// What the processor has and the options allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// ASIDs 0 to this, exclusive, exist; 0 is the host's.
    pub asids: u32,
    /// Leaves of 2 MiB.
    pub npt_2m: bool,
    /// Leaves of 1 GiB.
    pub npt_1g: bool,
    /// Exits by instructions store the next RIP, and software events return to it (section 15.7.1).
    pub nrips: bool,
    /// Exits store operands and code (section 15.8).
    pub decode_assists: bool,
    /// TLB_CONTROL can flush one ASID (section 15.16.1).
    pub flush_by_asid: bool,
    /// The clean bits are looked at (section 15.15).
    pub vmcb_clean: bool,
    /// The TSC ratio MSR exists and must be set (section 15.30.5).
    pub tsc_scaling: bool,
    /// PAUSE filter count: a number of PAUSEs do not exit (section 15.14.4).
    pub pause_filter: bool,
    /// PAUSE filter threshold: a pause in the loop starts the count again.
    pub pause_filter_threshold: bool,
    /// Virtual GIF (section 15.33.2).
    pub vgif: bool,
    /// VMLOAD and VMSAVE of the guest work on guest-physical addresses (section 15.33.1).
    pub virtual_vmload: bool,
    /// Virtual NMIs (section 15.21.10).
    pub virtual_nmi: bool,
    /// The VMCB has SPEC_CTRL.
    pub virtual_spec_ctrl: bool,
    /// The processor virtualises the local APIC (section 15.29).
    pub avic: bool,
    /// It also serves x2APIC MSRs (section 15.29).
    pub x2avic: bool,
    /// The last-branch MSRs are part of the VMCB. They stay off; the bit says that there is a control for
    /// them, which must be 0.
    pub lbr_virtualization: bool,
}

/// The first required feature that the processor lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(
    /// The feature's name, in the manual's words.
    pub &'static str,
);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Chooses the features, or says what is missing.
///
/// # Errors
///
/// The first required feature that CPUID does not report.
pub const fn compute(cpuid: &SvmCpuid, options: &Options) -> Result<Features, Missing> {
    if cpuid.extended_ecx & SVM == 0 {
        return Err(Missing("SVM"));
    }
    if !cpuid.has(edx::NP) {
        return Err(Missing("nested paging"));
    }
    if cpuid.svm_ebx < 2 {
        return Err(Missing("an address-space identifier for guests"));
    }
    let avic = options.avic && cpuid.has(edx::AVIC);
    let pause_filter = options.pause_filter && cpuid.has(edx::PAUSE_FILTER);
    Ok(Features {
        asids: cpuid.svm_ebx,
        npt_2m: options.npt_2m,
        npt_1g: options.npt_2m && options.npt_1g && cpuid.extended_edx & PAGE_1G != 0,
        nrips: options.nrips && cpuid.has(edx::NRIPS),
        decode_assists: options.decode_assists && cpuid.has(edx::DECODE_ASSISTS),
        flush_by_asid: options.flush_by_asid && cpuid.has(edx::FLUSH_BY_ASID),
        vmcb_clean: options.vmcb_clean && cpuid.has(edx::VMCB_CLEAN),
        tsc_scaling: options.tsc_scaling && cpuid.has(edx::TSC_RATE_MSR),
        pause_filter,
        pause_filter_threshold: pause_filter && cpuid.has(edx::PAUSE_FILTER_THRESHOLD),
        vgif: options.vgif && cpuid.has(edx::VGIF),
        virtual_vmload: options.virtual_vmload && cpuid.has(edx::VMSAVE_VIRT),
        // A virtual NMI waits for the virtual GIF.
        virtual_nmi: options.virtual_nmi && options.vgif && cpuid.has(edx::VNMI | edx::VGIF),
        virtual_spec_ctrl: options.virtual_spec_ctrl && cpuid.has(edx::SPEC_CTRL),
        avic,
        x2avic: avic && options.x2avic && cpuid.has(edx::X2AVIC),
        lbr_virtualization: cpuid.has(edx::LBR_VIRT),
    })
}

impl SvmCpuid {
    /// Returns true if 8000_000A EDX has every one of `bits`.
    const fn has(&self, bits: u32) -> bool {
        self.svm_edx & bits == bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EPYC of the first generation, as Linux sees it.
    const ZEN: SvmCpuid = SvmCpuid {
        extended_ecx: 0x35c2_33ff,
        extended_edx: 0x2fd3_fbff,
        svm_ebx: 0x8000,
        svm_edx: 0x0001_bcff,
    };

    /// What QEMU 7.2's `EPYC,+svm,+npt` has.
    const EMULATED: SvmCpuid = SvmCpuid {
        extended_ecx: 1 << 2,
        extended_edx: 1 << 26,
        svm_ebx: 0x10,
        svm_edx: 1 << 0,
    };

    #[test]
    fn everything_that_the_processor_has_is_used() {
        let features = compute(&ZEN, &Options::default()).unwrap();
        assert_eq!(
            features,
            Features {
                asids: 0x8000,
                npt_2m: true,
                npt_1g: true,
                nrips: true,
                decode_assists: true,
                flush_by_asid: true,
                vmcb_clean: true,
                tsc_scaling: true,
                pause_filter: true,
                pause_filter_threshold: true,
                vgif: true,
                virtual_vmload: true,
                lbr_virtualization: true,
                ..Features::default()
            }
        );
        let apic = Options {
            avic: true,
            x2avic: true,
            ..Options::default()
        };
        let features = compute(&ZEN, &apic).unwrap();
        assert!(features.avic && !features.x2avic);
    }

    /// CPUID 8000_000A EDX: what each bit brings when it is the only one besides nested paging.
    #[test]
    fn bits_of_the_manual() {
        let all = Options {
            avic: true,
            x2avic: true,
            ..Options::default()
        };
        let with = |bits: &[u32]| {
            let cpuid = SvmCpuid {
                svm_edx: bits.iter().fold(1, |edx, bit| edx | 1 << bit),
                ..EMULATED
            };
            compute(&cpuid, &all).unwrap()
        };
        let none = with(&[]);
        let check = |bits: &[u32], set: fn(&mut Features)| {
            let mut expected = none;
            set(&mut expected);
            assert_eq!(with(bits), expected, "{bits:?}");
        };
        check(&[1], |f| f.lbr_virtualization = true);
        check(&[3], |f| f.nrips = true);
        check(&[4], |f| f.tsc_scaling = true);
        check(&[5], |f| f.vmcb_clean = true);
        check(&[6], |f| f.flush_by_asid = true);
        check(&[7], |f| f.decode_assists = true);
        check(&[10], |f| f.pause_filter = true);
        check(&[12], |_| {});
        check(&[10, 12], |f| {
            (f.pause_filter, f.pause_filter_threshold) = (true, true);
        });
        check(&[13], |f| f.avic = true);
        check(&[15], |f| f.virtual_vmload = true);
        check(&[16], |f| f.vgif = true);
        check(&[18], |_| {});
        check(&[13, 18], |f| (f.avic, f.x2avic) = (true, true));
        check(&[20], |f| f.virtual_spec_ctrl = true);
        check(&[25], |_| {});
        check(&[16, 25], |f| (f.vgif, f.virtual_nmi) = (true, true));
        for bit in [
            2, 8, 9, 11, 14, 17, 19, 21, 22, 23, 24, 26, 27, 28, 29, 30, 31,
        ] {
            check(&[bit], |_| {});
        }
    }

    #[test]
    fn options_turn_everything_off() {
        let all = SvmCpuid {
            svm_edx: u32::MAX,
            ..ZEN
        };
        assert_eq!(
            compute(&all, &Options::MINIMAL),
            Ok(Features {
                asids: 0x8000,
                lbr_virtualization: true,
                ..Features::default()
            })
        );
    }

    #[test]
    fn features_that_need_others() {
        let all = SvmCpuid {
            svm_edx: u32::MAX,
            ..ZEN
        };
        let only = |options: Options| compute(&all, &options).unwrap();
        let x2avic = Options {
            x2avic: true,
            ..Options::MINIMAL
        };
        assert!(!only(x2avic).x2avic);
        let nmi = Options {
            virtual_nmi: true,
            ..Options::MINIMAL
        };
        assert!(!only(nmi).virtual_nmi);
        assert!(only(Options { vgif: true, ..nmi }).virtual_nmi);
        let huge = Options {
            npt_1g: true,
            ..Options::MINIMAL
        };
        assert!(!only(huge).npt_1g);
    }

    #[test]
    fn least_processor_is_enough() {
        let features = compute(&EMULATED, &Options::default()).unwrap();
        assert_eq!(
            features,
            Features {
                asids: 16,
                npt_2m: true,
                npt_1g: true,
                ..Features::default()
            }
        );
    }

    #[test]
    fn missing_features_have_names() {
        let missing = |cpuid: SvmCpuid| compute(&cpuid, &Options::default()).unwrap_err().0;
        assert_eq!(missing(SvmCpuid::default()), "SVM");
        let shadow = SvmCpuid {
            svm_edx: !edx::NP,
            ..ZEN
        };
        assert_eq!(missing(shadow), "nested paging");
        let host_only = SvmCpuid { svm_ebx: 1, ..ZEN };
        assert!(missing(host_only).contains("identifier"));
    }
}
