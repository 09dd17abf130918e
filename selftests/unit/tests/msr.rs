// SPDX-License-Identifier: GPL-2.0-only

//! MSR policy: who may read and write what, and properties over arbitrary accesses.

use proptest::prelude::*;
use vireo_model::model::cpuid::{
    Caps, CpuidEntry, Feature, Guest, HostCpuid, Provides, Regs, Vendor, MAX_ENTRIES,
};
use vireo_model::model::errno::Errno;
use vireo_model::model::msr::{
    arch_capabilities, feature_index_list, feature_value, index_list, is_immutable_feature, Config,
    Ctx, Effect, FeatureMsrs, MsrError, MsrFile, Origin, Place, Read, Reset, MCE_BANKS, MCE_CAP,
};
use vireo_model::model::x86::{efer, misc_enable, msr};

use Origin::{Guest as G, Host as H};

/// A processor that has everything, with 40 address bits.
struct Rich(&'static [u8; 12]);

impl HostCpuid for Rich {
    fn cpuid(&self, function: u32, index: u32) -> Regs {
        let name = |at: usize| u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap());
        let vendor = Regs {
            eax: 0x1f,
            ebx: name(0),
            edx: name(4),
            ecx: name(8),
        };
        let all = Regs {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        };
        match (function, index) {
            (0, _) => vendor,
            (0x8000_0000, _) => Regs {
                eax: 0x8000_0021,
                ..vendor
            },
            (0x8000_0008, _) => Regs { eax: 0x3028, ..all },
            (4 | 0x8000_001d, _) => Regs::default(),
            (7, 0) => Regs { eax: 2, ..all },
            (0xd, 0) => Regs {
                eax: 7,
                ebx: 832,
                ecx: 832,
                edx: 0,
            },
            (0xd, 1) => Regs {
                eax: 0xf,
                ebx: 0,
                ecx: 0x1800,
                edx: 0,
            },
            (0xd, 2) => Regs {
                eax: 256,
                ebx: 576,
                ecx: 0,
                edx: 0,
            },
            (0xd, 11) => Regs {
                eax: 16,
                ebx: 0,
                ecx: 1,
                edx: 0,
            },
            (0xd, 12) => Regs {
                eax: 24,
                ebx: 0,
                ecx: 1,
                edx: 0,
            },
            (0xd, _) => Regs::default(),
            _ => all,
        }
    }
}

const INTEL: Rich = Rich(b"GenuineIntel");
const AMD: Rich = Rich(b"AuthenticAMD");

struct World {
    caps: Caps,
    guest: Guest,
    file: MsrFile,
    efer: u64,
    paging: bool,
}

const FEATURES: FeatureMsrs = FeatureMsrs {
    microcode: 0x1234_0000_0000,
    arch_capabilities: 0x21,
    platform_info: FeatureMsrs::CPUID_FAULTING,
    de_cfg: FeatureMsrs::LFENCE_SERIALIZES,
};

fn provides() -> Provides {
    Provides {
        xcr0: 7,
        xss: 0x1800,
        invpcid: true,
        rdtscp: true,
        xsaves: true,
        waitpkg: true,
        spec_ctrl: true,
        flush_cmd: true,
        arch_capabilities: true,
        guest_phys_bits: 48,
        paravirt: 1 << 3 | 1,
        ..Provides::default()
    }
}

fn world_of(host: &Rich, provides: &Provides, keep: impl Fn(&CpuidEntry) -> bool) -> World {
    let caps = Caps::new(host, provides);
    let mut entries = vec![CpuidEntry::default(); MAX_ENTRIES];
    let len = vireo_model::model::cpuid::supported(host, &caps, &mut entries).unwrap();
    entries.truncate(len);
    entries.retain(keep);
    let guest = Guest::new(&entries, &caps).unwrap();
    let file = MsrFile::new(Config::default(), &FEATURES, guest.vendor);
    World {
        caps,
        guest,
        file,
        efer: 0,
        paging: false,
    }
}

fn world() -> World {
    world_of(&INTEL, &provides(), |_| true)
}

/// A guest without CPUID entries on a host that offers all.
fn bare() -> World {
    world_of(&INTEL, &provides(), |_| false)
}

impl World {
    fn read(&self, index: u32, origin: Origin) -> Result<Read, MsrError> {
        let ctx = Ctx {
            guest: &self.guest,
            caps: &self.caps,
            efer: self.efer,
            paging: self.paging,
        };
        self.file.read(index, &ctx, origin)
    }

    fn write(&mut self, index: u32, value: u64, origin: Origin) -> Result<Effect, MsrError> {
        let ctx = Ctx {
            guest: &self.guest,
            caps: &self.caps,
            efer: self.efer,
            paging: self.paging,
        };
        self.file.write(index, value, &ctx, origin)
    }

    fn value(&self, index: u32) -> u64 {
        match self.read(index, G) {
            Ok(Read::Value(value)) => value,
            other => panic!("{index:#x}: {other:?}"),
        }
    }
}

#[test]
fn lists() {
    let w = world();
    let list: Vec<u32> = index_list(&w.caps).collect();
    let mut unique = list.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), list.len(), "no index twice");
    for index in [
        msr::IA32_TIME_STAMP_COUNTER,
        msr::IA32_SYSENTER_EIP,
        msr::IA32_LSTAR,
        msr::IA32_PAT,
        msr::IA32_TSC_AUX,
        msr::IA32_XSS,
        msr::IA32_SPEC_CTRL,
        msr::IA32_TSC_DEADLINE,
        msr::IA32_TSC_ADJUST,
        msr::IA32_MISC_ENABLE,
        msr::IA32_MCG_STATUS,
        msr::MSR_PLATFORM_INFO,
        msr::IA32_ARCH_CAPABILITIES,
        msr::KVM_SYSTEM_TIME_NEW,
    ] {
        assert!(list.contains(&index), "{index:#x}");
    }
    assert!(!list.contains(&msr::KVM_STEAL_TIME), "not offered");
    let features: Vec<u32> = feature_index_list(&w.caps).collect();
    assert_eq!(features[..3], [0x8b, 0xce, 0x10a]);
    for index in features {
        assert!(feature_value(index, &FEATURES, &w.caps).is_ok());
    }
    assert_eq!(
        feature_value(0x10, &FEATURES, &w.caps),
        Err(MsrError::Unknown)
    );

    let poor = Caps::new(&INTEL, &Provides::default());
    let list: Vec<u32> = index_list(&poor).collect();
    for index in [
        msr::IA32_TSC_AUX,
        msr::IA32_XSS,
        msr::IA32_SPEC_CTRL,
        msr::KVM_SYSTEM_TIME,
    ] {
        assert!(!list.contains(&index), "{index:#x}");
    }
    assert!(feature_index_list(&poor).count() >= 2);
    assert!(is_immutable_feature(msr::MSR_PLATFORM_INFO));
    assert!(!is_immutable_feature(msr::IA32_BIOS_SIGN_ID));
}

#[test]
fn everything_listed_can_be_saved_and_restored() {
    for host in [INTEL, AMD] {
        let mut w = world_of(&host, &provides(), |_| true);
        let list: Vec<u32> = index_list(&w.caps).collect();
        for index in list {
            match w.read(index, H) {
                Ok(Read::Value(value)) => {
                    assert!(w.write(index, value, H).is_ok(), "{index:#x} = {value:#x}");
                    assert_eq!(w.read(index, H), Ok(Read::Value(value)));
                }
                Ok(Read::Held(place)) => {
                    assert_eq!(
                        w.write(index, 0, H),
                        Ok(Effect::Hold(place, 0)),
                        "{index:#x}"
                    );
                }
                Err(error) => panic!("{index:#x}: {error:?}"),
            }
        }
    }
}

#[test]
fn listed_msrs_tolerate_a_guest_without_them() {
    let mut w = bare();
    let list: Vec<u32> = index_list(&w.caps).collect();
    for index in list {
        assert!(w.read(index, H).is_ok(), "{index:#x}");
        assert!(w.write(index, 0, H).is_ok(), "{index:#x}");
    }
    assert_eq!(
        w.write(msr::IA32_ARCH_CAPABILITIES, 1, H),
        Err(MsrError::Unknown)
    );
    assert_eq!(
        w.read(msr::IA32_ARCH_CAPABILITIES, G),
        Err(MsrError::Unknown)
    );
}

#[test]
fn qemu_can_restore_what_it_insists_on() {
    let mut w = world();
    w.file.setup_mce(MCE_CAP | 10).unwrap();
    let mut list = vec![
        (msr::IA32_SYSENTER_CS, 0x10),
        (msr::IA32_SYSENTER_ESP, 0xffff_8000_0000_0000),
        (msr::IA32_SYSENTER_EIP, 0xffff_ffff_8100_0000),
        (msr::IA32_PAT, 0x0007_0406_0007_0406),
        (msr::IA32_CSTAR, 0xffff_ffff_8100_0000),
        (msr::IA32_LSTAR, 0xffff_ffff_8100_0000),
        (msr::IA32_FMASK, 0x257fd5),
        (msr::IA32_KERNEL_GS_BASE, 0x7f00_0000_0000),
        (msr::IA32_TIME_STAMP_COUNTER, 12345),
        (msr::IA32_APIC_BASE, 0xfee0_0900),
        (msr::IA32_MTRR_DEF_TYPE, 0xc06),
        (msr::IA32_MCG_STATUS, 0),
        (msr::IA32_MCG_CTL, u64::MAX),
    ];
    list.extend((0..8).flat_map(|n| [(0x200 + 2 * n, 6), (0x201 + 2 * n, 0xff_c000_0800)]));
    list.extend([0x250, 0x258, 0x259].map(|n| (n, 0x0606_0606_0606_0606)));
    list.extend((0x268..=0x26f).map(|n| (n, 0x0505_0505_0505_0505)));
    list.extend((0x400..0x428).map(|n| (n, if n % 4 == 0 { u64::MAX } else { 0x5a })));
    for (index, value) in list {
        match w.write(index, value, H) {
            Ok(Effect::Hold(_, stored)) => assert_eq!(stored, value, "{index:#x}"),
            Ok(_) => assert_eq!(w.read(index, H), Ok(Read::Value(value)), "{index:#x}"),
            Err(error) => panic!("{index:#x} = {value:#x}: {error:?}"),
        }
    }
}

#[test]
fn unknown_registers() {
    let mut w = world();
    for index in [
        0x7fff_ffff,
        0x3ff_ffff,
        msr::IA32_VMX_BASIC,
        msr::IA32_TSX_CTRL,
        0x4000_0000,
    ] {
        for origin in [G, H] {
            assert_eq!(w.read(index, origin), Err(MsrError::Unknown), "{index:#x}");
            assert_eq!(
                w.write(index, 0, origin),
                Err(MsrError::Unknown),
                "{index:#x}"
            );
        }
    }
}

#[test]
fn efer_rules() {
    let mut w = world();
    let long = efer::LME | efer::SCE | efer::NXE;
    assert_eq!(w.write(msr::IA32_EFER, long, G), Ok(Effect::Efer(long)));
    assert_eq!(
        w.write(msr::IA32_EFER, efer::LMA, G),
        Ok(Effect::Efer(0)),
        "LMA isn't writable"
    );
    for bad in [1 << 1, efer::SVME, efer::LMSLE, 1 << 63] {
        assert_eq!(
            w.write(msr::IA32_EFER, bad, G),
            Err(MsrError::Gp),
            "{bad:#x}"
        );
        assert_eq!(
            w.write(msr::IA32_EFER, bad, H),
            Err(MsrError::Gp),
            "{bad:#x}"
        );
    }
    (w.efer, w.paging) = (long | efer::LMA, true);
    assert_eq!(
        w.write(msr::IA32_EFER, efer::SCE, G),
        Err(MsrError::Gp),
        "LME while paging"
    );
    let without_nx = efer::LME | efer::SCE;
    assert_eq!(
        w.write(msr::IA32_EFER, without_nx, G),
        Ok(Effect::Efer(without_nx | efer::LMA))
    );
    assert!(
        w.write(msr::IA32_EFER, 0, H).is_ok(),
        "userspace restores in any order"
    );
    assert_eq!(w.value(msr::IA32_EFER), long | efer::LMA);
    let mut b = bare();
    assert_eq!(
        b.write(msr::IA32_EFER, efer::NXE, G),
        Err(MsrError::Gp),
        "no NX in CPUID"
    );
    assert!(b.write(msr::IA32_EFER, efer::NXE, H).is_ok());
}

#[test]
fn addresses_must_be_canonical() {
    let mut w = world();
    for index in [
        msr::IA32_FS_BASE,
        msr::IA32_GS_BASE,
        msr::IA32_KERNEL_GS_BASE,
        msr::IA32_LSTAR,
        msr::IA32_CSTAR,
        msr::IA32_SYSENTER_EIP,
        msr::IA32_SYSENTER_ESP,
    ] {
        assert!(w.write(index, 0xffff_8000_0000_0000, G).is_ok());
        assert_eq!(
            w.write(index, 0x0000_8000_0000_0000, G),
            Err(MsrError::Gp),
            "{index:#x}"
        );
    }
    let folded = Effect::Hold(Place::SysenterEip, 0xffff_8000_0000_0000);
    assert_eq!(
        w.write(msr::IA32_SYSENTER_EIP, 0x0000_8000_0000_0000, H),
        Ok(folded)
    );
    let mut amd = world_of(&AMD, &provides(), |_| true);
    assert_eq!(amd.guest.vendor, Vendor::Amd);
    assert_eq!(
        amd.write(msr::IA32_SYSENTER_EIP, 0x0000_8000_0000_0000, G),
        Ok(folded)
    );
}

#[test]
fn upper_halves() {
    let mut w = world();
    assert_eq!(w.write(msr::IA32_TSC_AUX, 1 << 32, G), Err(MsrError::Gp));
    assert_eq!(
        w.write(msr::IA32_TSC_AUX, 7, G),
        Ok(Effect::Hold(Place::TscAux, 7))
    );
    assert_eq!(w.write(msr::IA32_FMASK, 1 << 40, G), Err(MsrError::Gp));
    let mut amd = world_of(&AMD, &provides(), |_| true);
    assert_eq!(
        amd.write(msr::IA32_TSC_AUX, 1 << 32 | 5, G),
        Ok(Effect::Hold(Place::TscAux, 5))
    );
    let mut b = bare();
    assert_eq!(b.read(msr::IA32_TSC_AUX, G), Err(MsrError::Gp));
    assert_eq!(
        b.write(msr::IA32_TSC_AUX, 1, H),
        Ok(Effect::Hold(Place::TscAux, 1))
    );
}

#[test]
fn pat_and_mtrr_types() {
    let mut w = world();
    assert_eq!(w.value(msr::IA32_PAT), 0x0007_0406_0007_0406);
    for ty in 0u64..=255 {
        let pat = ty * 0x0101_0101_0101_0101;
        let good = matches!(ty, 0 | 1 | 4 | 5 | 6 | 7);
        assert_eq!(
            w.write(msr::IA32_PAT, pat, G),
            if good {
                Ok(Effect::Pat(pat))
            } else {
                Err(MsrError::Gp)
            }
        );
        let good = matches!(ty, 0 | 1 | 4 | 5 | 6);
        for (index, value) in [(0x250, pat), (0x26f, pat), (0x200, ty), (0x2ff, ty | 0xc00)] {
            assert_eq!(
                w.write(index, value, G).is_ok(),
                good,
                "{index:#x} type {ty}"
            );
        }
    }
    assert_eq!(w.value(msr::IA32_MTRRCAP), 0x508);
    assert_eq!(
        w.write(msr::IA32_MTRRCAP, 0x508, G),
        Err(MsrError::Gp),
        "read-only"
    );
    assert_eq!(w.write(0x200, 0x106, G), Err(MsrError::Gp));
    assert_eq!(
        w.write(0x200, 1 << 40, G),
        Err(MsrError::Gp),
        "above MAXPHYADDR"
    );
    assert!(w.write(0x200, (1 << 39) | 6, G).is_ok());
    assert_eq!(w.write(0x201, 0x400, G), Err(MsrError::Gp));
    assert_eq!(w.write(0x2ff, 0x1000, G), Err(MsrError::Gp));
    for hole in [0x210, 0x24f, 0x251, 0x25a, 0x267] {
        assert_eq!(w.read(hole, G), Err(MsrError::Gp), "{hole:#x}");
        assert_eq!(w.write(hole, 0, G), Err(MsrError::Gp), "{hole:#x}");
    }
}

#[test]
fn machine_checks() {
    let mut w = world();
    assert_eq!(w.value(msr::IA32_MCG_CAP), MCE_BANKS as u64);
    assert_eq!(
        w.read(msr::IA32_MCG_CTL, G),
        Err(MsrError::Gp),
        "not in IA32_MCG_CAP"
    );
    for bad in [0, 33, 1 << 10 | 1, 1 << 9 | 1, 1 << 40 | 1] {
        assert_eq!(w.file.setup_mce(bad), Err(Errno::Invalid), "{bad:#x}");
    }
    w.file.setup_mce(MCE_CAP | 2).unwrap();
    assert_eq!(w.value(msr::IA32_MCG_CTL), u64::MAX);
    assert_eq!(w.value(0x400), u64::MAX);
    assert_eq!(w.value(0x401), 0);
    assert_eq!(w.read(0x408, G), Err(MsrError::Gp), "bank 2 of 2");
    for (value, good) in [
        (0, true),
        (u64::MAX, true),
        (!(1 << 10), true),
        (!1, true),
        (5, false),
    ] {
        assert_eq!(w.write(0x404, value, G).is_ok(), good, "{value:#x}");
    }
    assert_eq!(
        w.write(0x405, 1, G),
        Err(MsrError::Gp),
        "STATUS is only cleared"
    );
    assert!(w.write(0x405, 1, H).is_ok());
    assert!(w.write(0x405, 0, G).is_ok());
    assert!(w.write(0x406, 0xdead, G).is_ok());
    assert_eq!(w.value(0x406), 0xdead);
    assert_eq!(w.write(msr::IA32_MCG_CTL, 5, G), Err(MsrError::Gp));
    assert_eq!(w.write(msr::IA32_MCG_CAP, 5, G), Err(MsrError::Gp));
    assert_eq!(
        w.read(0x280, G),
        Err(MsrError::Gp),
        "no corrected-error interrupts"
    );
    assert_eq!((w.value(0), w.value(1)), (0, 0));
    w.file.reset(Reset::PowerOn);
    assert_eq!(w.value(0x406), 0xdead, "banks survive a reset");

    let mut amd = world_of(&AMD, &provides(), |_| true);
    assert_eq!(amd.write(0x405, 1, G), Err(MsrError::Gp));
    assert!(amd.write(msr::K7_HWCR, 1 << 18, G).is_ok());
    assert!(amd.write(0x405, 1, G).is_ok());
}

#[test]
fn tsc_adjust() {
    let mut w = world();
    assert_eq!(
        w.write(msr::IA32_TSC_ADJUST, 100, G),
        Ok(Effect::AdjustTsc(100))
    );
    assert_eq!(
        w.write(msr::IA32_TSC_ADJUST, 40, G),
        Ok(Effect::AdjustTsc(60u64.wrapping_neg()))
    );
    assert_eq!(
        w.write(msr::IA32_TSC_ADJUST, 7, H),
        Ok(Effect::None),
        "a value, not a movement"
    );
    assert_eq!(w.value(msr::IA32_TSC_ADJUST), 7);
    w.file.add_tsc_adjust(u64::MAX);
    assert_eq!(w.value(msr::IA32_TSC_ADJUST), 6);
}

#[test]
fn misc_enable_rules() {
    let mut w = world();
    let fixed = misc_enable::BTS_UNAVAIL | misc_enable::PEBS_UNAVAIL;
    assert_eq!(w.value(msr::IA32_MISC_ENABLE), fixed);
    assert_eq!(w.write(msr::IA32_MISC_ENABLE, 0, G), Err(MsrError::Gp));
    assert_eq!(
        w.write(msr::IA32_MISC_ENABLE, fixed | misc_enable::EMON | 1, G),
        Ok(Effect::None)
    );
    assert_eq!(
        w.value(msr::IA32_MISC_ENABLE),
        fixed | 1,
        "EMON ignores writes"
    );
    assert_eq!(w.file.mwait(), None);
    w.file.configure(Config {
        misc_enable_no_mwait: false,
        ..Config::default()
    });
    let mwait = fixed | misc_enable::MWAIT;
    assert_eq!(
        w.write(msr::IA32_MISC_ENABLE, mwait, G),
        Ok(Effect::RefreshCpuid)
    );
    assert_eq!(w.file.mwait(), Some(true));
}

#[test]
fn xss() {
    let mut w = world();
    assert_eq!(w.write(msr::IA32_XSS, 0x1800, G), Ok(Effect::Xss(0x1800)));
    assert_eq!(w.write(msr::IA32_XSS, 0x1800, G), Ok(Effect::None));
    assert_eq!(w.write(msr::IA32_XSS, 0x100, G), Err(MsrError::Gp));
    assert_eq!(w.file.xss(), 0x1800);
    w.file.reset(Reset::Init);
    assert_eq!(w.file.xss(), 0x1800);
    w.file.reset(Reset::PowerOn);
    assert_eq!(w.file.xss(), 0);
    assert_eq!(bare().write(msr::IA32_XSS, 0, G), Err(MsrError::Unknown));
}

#[test]
fn speculation_controls() {
    let mut w = world();
    assert_eq!(
        w.write(msr::IA32_SPEC_CTRL, 5, G),
        Ok(Effect::Hold(Place::SpecCtrl, 5))
    );
    assert_eq!(w.write(msr::IA32_SPEC_CTRL, 1 << 8, G), Err(MsrError::Gp));
    assert_eq!(
        w.write(msr::IA32_PRED_CMD, 1, G),
        Ok(Effect::PredictionBarrier)
    );
    assert_eq!(w.write(msr::IA32_PRED_CMD, 0, G), Ok(Effect::None));
    assert_eq!(w.write(msr::IA32_PRED_CMD, 2, G), Err(MsrError::Gp));
    assert_eq!(
        w.read(msr::IA32_PRED_CMD, G),
        Err(MsrError::Gp),
        "write-only"
    );
    assert_eq!(w.write(msr::IA32_FLUSH_CMD, 1, G), Ok(Effect::FlushL1d));
    let mut b = bare();
    assert_eq!(b.write(msr::IA32_SPEC_CTRL, 0, G), Err(MsrError::Gp));
    assert_eq!(b.write(msr::IA32_PRED_CMD, 1, G), Err(MsrError::Gp));
    assert_eq!(b.write(msr::IA32_FLUSH_CMD, 1, G), Err(MsrError::Gp));
    let all = arch_capabilities(u64::MAX);
    assert_eq!(
        all & (1 << 7 | 1 << 18 | 1 << 21 | 1 << 23),
        0,
        "no registers we don't have"
    );
    assert_ne!(all & 1, 0);
}

#[test]
fn feature_registers() {
    let mut w = world();
    assert_eq!(w.value(msr::IA32_BIOS_SIGN_ID), 1 << 32);
    assert!(w.write(msr::IA32_BIOS_SIGN_ID, 0, G).is_ok());
    assert_eq!(
        w.value(msr::IA32_BIOS_SIGN_ID),
        1 << 32,
        "a guest's write is ignored"
    );
    assert!(w.write(msr::IA32_BIOS_SIGN_ID, 7 << 32, H).is_ok());
    assert_eq!(w.value(msr::IA32_BIOS_SIGN_ID), 7 << 32);
    assert_eq!(w.write(msr::MSR_PLATFORM_INFO, 0, G), Err(MsrError::Gp));
    assert_eq!(w.value(msr::MSR_PLATFORM_INFO), 1 << 31);
    assert!(w.write(msr::MSR_MISC_FEATURES_ENABLES, 1, G).is_ok());
    assert!(w.file.cpuid_faults());
    assert_eq!(
        w.write(msr::MSR_MISC_FEATURES_ENABLES, 2, G),
        Err(MsrError::Gp)
    );
    assert!(w.write(msr::MSR_PLATFORM_INFO, 0, H).is_ok());
    assert_eq!(
        w.write(msr::MSR_MISC_FEATURES_ENABLES, 1, G),
        Err(MsrError::Gp)
    );
    w.file.configure(Config {
        platform_info_readable: false,
        ..Config::default()
    });
    assert_eq!(w.read(msr::MSR_PLATFORM_INFO, G), Err(MsrError::Gp));
    assert!(w.read(msr::MSR_PLATFORM_INFO, H).is_ok());
    assert_eq!(
        w.write(msr::IA32_ARCH_CAPABILITIES, 0, G),
        Err(MsrError::Unknown)
    );
    assert!(w.write(msr::IA32_ARCH_CAPABILITIES, 3, H).is_ok());
    assert_eq!(w.value(msr::IA32_ARCH_CAPABILITIES), 3);
    assert!(w.write(msr::IA32_FEATURE_CONTROL, 1, G).is_ok());
    assert_eq!(
        w.write(msr::IA32_FEATURE_CONTROL, 1, G),
        Err(MsrError::Gp),
        "locked"
    );
    assert!(w.write(msr::IA32_FEATURE_CONTROL, 0, H).is_ok());
    assert_eq!(
        w.write(msr::IA32_FEATURE_CONTROL, 5, H),
        Err(MsrError::Gp),
        "no VMX to enable"
    );
}

#[test]
fn feature_registers_may_start_empty() {
    let mut w = world();
    assert_eq!(w.value(msr::IA32_ARCH_CAPABILITIES), 0x21);
    w.file.clear_features();
    for index in [
        msr::IA32_BIOS_SIGN_ID,
        msr::IA32_ARCH_CAPABILITIES,
        msr::MSR_PLATFORM_INFO,
    ] {
        assert_eq!(w.value(index), 0, "{index:#x}");
    }
}

#[test]
fn quiet_registers() {
    let mut w = world();
    for index in [
        0x17, 0x2a, 0x606, 0x611, 0x619, 0x639, 0x641, 0x198, 0x199, 0xcd, 0x2c, 0x1db,
    ] {
        assert!(w.read(index, G).is_ok(), "{index:#x}");
        assert_eq!(w.write(index, 1, G), Err(MsrError::Gp), "{index:#x}");
    }
    for index in [
        0x79,
        0xc1,
        0xc2,
        0x186,
        0x187,
        0x11e,
        0xc001_0000,
        0xc001_0007,
        0xc001_1022,
    ] {
        assert!(w.write(index, u64::MAX, G).is_ok(), "{index:#x}");
    }
    assert!(w.write(msr::IA32_DEBUGCTL, 3, G).is_ok());
    assert_eq!(w.value(msr::IA32_DEBUGCTL), 0);
    assert_eq!(w.write(msr::IA32_DEBUGCTL, 1 << 6, G), Err(MsrError::Gp));
    assert_eq!(w.write(msr::MSR_SMI_COUNT, 1, G), Err(MsrError::Gp));
    assert!(w.write(msr::MSR_SMI_COUNT, 1, H).is_ok());
    assert_eq!(w.write(msr::K7_HWCR, 1 << 6 | 1 << 24, G), Ok(Effect::None));
    assert_eq!(w.value(msr::K7_HWCR), 1 << 24);
    assert_eq!(w.write(msr::K7_HWCR, 1, G), Err(MsrError::Gp));
}

#[test]
fn registers_held_elsewhere() {
    let mut w = world();
    assert_eq!(w.read(0x808, G), Ok(Read::Held(Place::X2apic(8))));
    assert_eq!(
        w.write(0x80b, 0, G),
        Ok(Effect::Hold(Place::X2apic(0xb), 0))
    );
    assert_eq!(
        w.read(msr::IA32_APIC_BASE, G),
        Ok(Read::Held(Place::ApicBase))
    );
    assert_eq!(
        w.write(msr::KVM_SYSTEM_TIME_NEW, 1, G),
        Ok(Effect::Hold(Place::Paravirt(0x4b56_4d01), 1))
    );
    assert_eq!(w.write(msr::KVM_STEAL_TIME, 1, G), Err(MsrError::Unknown));
    assert_eq!(w.write(msr::IA32_UMWAIT_CONTROL, 2, G), Err(MsrError::Gp));
    assert_eq!(
        w.write(msr::IA32_UMWAIT_CONTROL, 1, G),
        Ok(Effect::Hold(Place::UmwaitControl, 1))
    );
    assert_eq!(
        w.write(msr::IA32_SYSENTER_CS, 1 << 32 | 8, G),
        Ok(Effect::Hold(Place::SysenterCs, 8))
    );
}

#[test]
fn amd_registers() {
    let mut amd = world_of(&AMD, &provides(), |_| true);
    assert_eq!(amd.value(msr::AMD64_DE_CFG), 0);
    assert!(amd.write(msr::AMD64_DE_CFG, 2, G).is_ok());
    assert_eq!(amd.write(msr::AMD64_DE_CFG, 1, G), Err(MsrError::Gp));
    assert!(amd.write(msr::AMD64_OSVW_ID_LENGTH, 4, G).is_ok());
    assert_eq!(amd.value(msr::AMD64_OSVW_ID_LENGTH), 4);
    assert_eq!(amd.value(msr::IA32_BIOS_SIGN_ID), 0x0100_0065);
    assert_eq!(world().read(msr::AMD64_DE_CFG, G), Err(MsrError::Unknown));
}

#[test]
fn the_file_is_not_offered_more_than_it_has() {
    assert!(!world().caps.has(Feature::VMX));
    assert!(std::mem::size_of::<MsrFile>() < 2048);
}

fn index() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0u32..0x1000,
        0xc000_0000u32..0xc000_0400,
        0xc001_0000u32..0xc001_2000,
        0x4b56_4d00u32..0x4b56_4d10
    ]
}

proptest! {
    /// No access panics; a refused write changes nothing; an accepted one is what is read back, or
    /// was one that is ignored.
    #[test]
    fn arbitrary_accesses(
        accesses in prop::collection::vec((index(), any::<u64>(), any::<bool>(), any::<bool>()), 1..100),
        amd: bool, nothing: bool,
    ) {
        let host = if amd { AMD } else { INTEL };
        let mut w = world_of(&host, &provides(), |_| !nothing);
        for (index, value, host_side, narrow) in accesses {
            let origin = if host_side { H } else { G };
            let value = if narrow { value & 0xff } else { value };
            let before = w.read(index, origin);
            match w.write(index, value, origin) {
                Err(_) => prop_assert_eq!(w.read(index, origin), before),
                Ok(Effect::Hold(place, _)) => prop_assert_eq!(before, Ok(Read::Held(place))),
                Ok(_) => {}
            }
        }
    }
}
