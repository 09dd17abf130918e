// SPDX-License-Identifier: GPL-2.0-only

//! CPUID policy against recorded processors, and properties over arbitrary tables.

use proptest::prelude::*;
use std::collections::HashMap;
use vireo_model::model::cpuid::{
    check_resend, emulated, is_indexed, lookup, refresh, supported, Caps, CpuidEntry, Dynamic,
    Feature, Guest, HostCpuid, Index, Provides, Regs, Vendor, MAX_ENTRIES,
};
use vireo_model::model::errno::Errno;
use vireo_model::model::x86::{cr4, efer, xcr0};

/// A processor read from a fixture.
struct Recorded(HashMap<(u32, u32), Regs>);

impl Recorded {
    fn parse(text: &str) -> Self {
        let mut table = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let v: Vec<u32> = line
                .split_whitespace()
                .map(|hex| u32::from_str_radix(hex, 16).unwrap())
                .collect();
            let regs = Regs {
                eax: v[2],
                ebx: v[3],
                ecx: v[4],
                edx: v[5],
            };
            table.insert((v[0], v[1]), regs);
        }
        Self(table)
    }
}

impl HostCpuid for Recorded {
    fn cpuid(&self, function: u32, index: u32) -> Regs {
        let index = if is_indexed(function) { index } else { 0 };
        self.0.get(&(function, index)).copied().unwrap_or_default()
    }
}

fn broadwell() -> Recorded {
    Recorded::parse(include_str!("fixtures/cpuid-broadwell.txt"))
}

fn every_host() -> Vec<Recorded> {
    [
        include_str!("fixtures/cpuid-broadwell.txt"),
        include_str!("fixtures/cpuid-icelake.txt"),
        include_str!("fixtures/cpuid-tigerlake.txt"),
        include_str!("fixtures/cpuid-epyc.txt"),
        include_str!("fixtures/cpuid-emerald-rapids.txt"),
    ]
    .into_iter()
    .map(Recorded::parse)
    .collect()
}

fn everything() -> Provides {
    Provides {
        xcr0: xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512 | xcr0::PKRU,
        xss: 0,
        invpcid: true,
        rdtscp: true,
        xsaves: true,
        guest_phys_bits: 48,
        ..Provides::default()
    }
}

fn list(host: &Recorded, provides: &Provides) -> (Caps, Vec<CpuidEntry>) {
    let caps = Caps::new(host, provides);
    let mut out = vec![CpuidEntry::default(); MAX_ENTRIES];
    let len = supported(host, &caps, &mut out).unwrap();
    out.truncate(len);
    (caps, out)
}

fn ask(entries: &[CpuidEntry], function: u32, index: u32) -> Regs {
    let mut table = Index::EMPTY;
    table.rebuild(entries);
    lookup(entries, &table, function, index)
}

#[test]
fn leaves_that_vmms_insist_on() {
    for host in every_host() {
        let (_, entries) = list(&host, &everything());
        let amd = entries[0].ebx == 0x6874_7541;
        for function in [
            0,
            1,
            6,
            7,
            0x8000_0002,
            0x8000_0003,
            0x8000_0004,
            0x8000_0005,
            0x8000_0006,
        ] {
            assert!(
                entries.iter().any(|e| e.function == function),
                "leaf {function:#x}"
            );
        }
        assert!(amd || entries.iter().any(|e| e.function == 0xa));
        assert!(
            entries.len() <= 100,
            "kvmtool has room for 100: {}",
            entries.len()
        );
        for e in &entries {
            assert_eq!(
                e.flags == CpuidEntry::SIGNIFICANT_INDEX,
                is_indexed(e.function)
            );
            assert_eq!(e.padding, [0; 3]);
        }
    }
}

#[test]
fn broadwell_is_offered_what_it_has() {
    let (caps, entries) = list(&broadwell(), &everything());
    for feature in [
        Feature::SSE4_2,
        Feature::AVX2,
        Feature::FMA,
        Feature::BMI2,
        Feature::AES,
        Feature::XSAVE,
        Feature::XSAVEOPT,
        Feature::X2APIC,
        Feature::TSC_DEADLINE,
        Feature::TSC_ADJUST,
        Feature::HYPERVISOR,
        Feature::PCID,
        Feature::INVPCID,
        Feature::RDTSCP,
        Feature::FSGSBASE,
        Feature::SMEP,
        Feature::SMAP,
        Feature::NX,
        Feature::LM,
        Feature::GBPAGES,
        Feature::APIC,
        Feature::MTRR,
        Feature::PAT,
        Feature::MCA,
        Feature::INVARIANT_TSC,
    ] {
        assert!(caps.has(feature), "{feature:?}");
    }
    for feature in [
        Feature::VMX,
        Feature::MWAIT,
        Feature::OSXSAVE,
        Feature::SGX,
        Feature::SPEC_CTRL,
        Feature::ARCH_CAPABILITIES,
        Feature::PKU,
        Feature::AVX512F,
        Feature::LA57,
    ] {
        assert!(!caps.has(feature), "{feature:?}");
    }
    assert_eq!(caps.xcr0, 7);
    assert_eq!(
        ask(&entries, 0xa, 0),
        Regs::default(),
        "no performance counters"
    );
    assert_eq!(ask(&entries, 0xb, 0), Regs::default(), "no topology");
    assert_eq!(
        ask(&entries, 0x14, 0),
        Regs::default(),
        "no processor trace"
    );
    assert_eq!(ask(&entries, 6, 0).eax, 4);
    assert_eq!(ask(&entries, 0, 0).eax, 0x14);
    assert_eq!(ask(&entries, 0x8000_0008, 0).eax, 0x0028_3028);
    assert_eq!(
        ask(&entries, 1, 0).ebx & 0xffff_0000,
        0,
        "no APIC id of the host"
    );
}

#[test]
fn leaf_d_adds_up_on_every_host() {
    for host in every_host() {
        for mask in [0, 3, 7, 0xe7, 0x2e7, 0x207, 0x602e7, u64::MAX] {
            let provides = Provides {
                xcr0: mask,
                xss: mask,
                ..everything()
            };
            let (caps, entries) = list(&host, &provides);
            let zero = ask(&entries, 0xd, 0);
            let xcr0 = u64::from(zero.eax) | u64::from(zero.edx) << 32;
            assert_eq!(xcr0, caps.xcr0);
            assert_eq!(caps.has(Feature::XSAVE), xcr0 != 0);
            let mut end = 576;
            for number in 2..63 {
                let part = ask(&entries, 0xd, number);
                if (caps.xcr0 | caps.xss) & (1 << number) == 0 {
                    assert_eq!(part, Regs::default());
                } else {
                    assert_ne!(part.eax, 0, "component {number} has a size");
                }
                if xcr0 & (1 << number) != 0 {
                    end = end.max(part.eax + part.ebx);
                }
            }
            if xcr0 != 0 {
                assert_eq!((zero.ebx, zero.ecx), (end, end));
            }
            assert!(xcr0 & xcr0::AVX != 0 || !caps.has(Feature::AVX2));
            assert!(xcr0 & xcr0::AVX512 != 0 || !caps.has(Feature::AVX512VL));
            assert!(xcr0 & xcr0::PKRU != 0 || !caps.has(Feature::PKU));
            assert!(caps.has(Feature::XSAVES) || caps.xss == 0);
        }
    }
}

#[test]
fn a_component_without_a_subleaf_is_not_offered() {
    let host = Recorded::parse(include_str!("fixtures/cpuid-icelake.txt"));
    let (caps, _) = list(&host, &everything());
    assert_eq!(caps.xcr0, 0xe7, "bit 9 is in XCR0 but has no size");
    assert!(!caps.has(Feature::PKU));
    assert!(caps.has(Feature::AVX512F));
}

#[test]
fn each_provision_gates_its_features() {
    let mut host = Recorded::parse(include_str!("fixtures/cpuid-emerald-rapids.txt"));
    let none = Caps::new(&host, &Provides::default());
    for feature in [
        Feature::XSAVE,
        Feature::INVPCID,
        Feature::RDTSCP,
        Feature::RDPID,
        Feature::XSAVES,
        Feature::WAITPKG,
        Feature::SPEC_CTRL,
        Feature::SSBD,
        Feature::FLUSH_L1D,
        Feature::LA57,
        Feature::AMX_TILE,
        Feature::AVX,
    ] {
        assert!(!none.has(feature), "{feature:?}");
    }
    let all = Provides {
        xcr0: u64::MAX,
        waitpkg: true,
        spec_ctrl: true,
        flush_cmd: true,
        la57: true,
        arch_capabilities: true,
        ..everything()
    };
    assert!(
        !list(&host, &all).0.has(Feature::AMX_TILE),
        "the tile leaves are hidden here"
    );
    host.0.get_mut(&(0, 0)).unwrap().eax = 0x1e;
    host.0.insert(
        (0x1d, 0),
        Regs {
            eax: 1,
            ..Regs::default()
        },
    );
    host.0.insert(
        (0x1d, 1),
        Regs {
            eax: 0x0400_2000,
            ..Regs::default()
        },
    );
    let (caps, entries) = list(&host, &all);
    assert_eq!(caps.xcr0, 0x600e7);
    assert!(caps.has(Feature::AMX_TILE));
    assert!(caps.has(Feature::ARCH_CAPABILITIES));
    assert_ne!(ask(&entries, 0x1d, 1), Regs::default());
}

#[test]
fn kernel_mask_hides_features() {
    struct NoAvx(Recorded);
    impl HostCpuid for NoAvx {
        fn cpuid(&self, function: u32, index: u32) -> Regs {
            self.0.cpuid(function, index)
        }
        fn kernel_mask(&self, word: vireo_model::model::cpuid::Word) -> u32 {
            if word == Feature::SMAP.word {
                !Feature::SMAP.mask()
            } else {
                u32::MAX
            }
        }
    }
    let caps = Caps::new(&NoAvx(broadwell()), &everything());
    assert!(!caps.has(Feature::SMAP));
    assert!(caps.has(Feature::SMEP));
}

#[test]
fn list_needs_room() {
    let host = broadwell();
    let (caps, entries) = list(&host, &everything());
    for len in 0..entries.len() {
        let mut out = vec![CpuidEntry::default(); len];
        assert_eq!(supported(&host, &caps, &mut out), Err(Errno::TooBig));
    }
    let mut out = vec![CpuidEntry::default(); entries.len()];
    assert_eq!(supported(&host, &caps, &mut out), Ok(entries.len()));
    let mut out = [CpuidEntry::default(); 3];
    assert_eq!(emulated(&caps, &mut out), Ok(3));
    assert_eq!(emulated(&caps, &mut out[..2]), Err(Errno::TooBig));
}

#[test]
fn amd_host() {
    let host = Recorded::parse(include_str!("fixtures/cpuid-epyc.txt"));
    let (caps, entries) = list(&host, &everything());
    let guest = Guest::new(&entries, &caps).unwrap();
    assert_eq!(guest.vendor, Vendor::Amd);
    assert!(!caps.has(Feature::SVM));
    assert_eq!(ask(&entries, 0x8000_001d, 3).eax, 0x163);
    assert_eq!(
        ask(&entries, 0x3fff_ffff, 0),
        Regs::default(),
        "AMD doesn't redirect"
    );
    assert_eq!(ask(&entries, 0x8000_0001, 0).edx & 0x0183_f3ff, 0x0183_f3fd);
}

#[test]
fn guest_summary() {
    let (caps, entries) = list(&broadwell(), &everything());
    let guest = Guest::new(&entries, &caps).unwrap();
    assert_eq!(guest.vendor, Vendor::Intel);
    assert_eq!(guest.phys_bits, 40);
    assert_eq!(guest.linear_bits(), 48);
    assert_eq!(guest.xcr0, 7);
    assert_eq!(guest.reserved_gpa_bits(), !((1 << 40) - 1));
    assert_eq!(
        guest.efer_allowed(),
        efer::SCE | efer::LME | efer::LMA | efer::NXE
    );
    let reserved = guest.cr4_reserved();
    for bit in [
        cr4::OSXSAVE,
        cr4::SMEP,
        cr4::SMAP,
        cr4::FSGSBASE,
        cr4::PCIDE,
        cr4::PAE,
    ] {
        assert_eq!(reserved & bit, 0);
    }
    for bit in [
        cr4::VMXE,
        cr4::LA57,
        cr4::PKE,
        cr4::UMIP,
        cr4::CET,
        1 << 63,
        1 << 15,
    ] {
        assert_ne!(reserved & bit, 0);
    }
    let bare = Guest::new(&[], &caps).unwrap();
    assert_eq!((bare.phys_bits, bare.xcr0), (36, 0));
    assert_eq!(
        Guest::default().reserved_gpa_bits(),
        bare.reserved_gpa_bits()
    );
    assert_ne!(bare.cr4_reserved() & cr4::OSXSAVE, 0);
    assert_eq!(bare.efer_allowed(), efer::SCE);
}

#[test]
fn guest_cannot_get_more_than_is_offered() {
    let (caps, mut entries) = list(&broadwell(), &everything());
    for e in &mut entries {
        if e.function != 0 && e.function != 0x8000_0000 && e.function != 0x8000_0008 {
            (e.eax, e.ebx, e.ecx, e.edx) = (u32::MAX, u32::MAX, u32::MAX, u32::MAX);
        }
    }
    let guest = Guest::new(&entries, &caps).unwrap();
    assert_eq!(guest.xcr0, 7);
    assert!(!guest.has(Feature::VMX));
    assert!(
        guest.has(Feature::MWAIT),
        "executed as a no-operation when userspace wants it"
    );
}

#[test]
fn odd_linear_widths_are_refused() {
    let (caps, mut entries) = list(&broadwell(), &everything());
    let at = entries
        .iter()
        .position(|e| e.function == 0x8000_0008)
        .unwrap();
    for (width, good) in [
        (0, true),
        (48, true),
        (57, true),
        (47, false),
        (64, false),
        (255, false),
    ] {
        entries[at].eax = 40 | width << 8;
        assert_eq!(Guest::new(&entries, &caps).is_ok(), good, "{width}");
    }
}

#[test]
fn paravirtual_leaf_may_move() {
    let provides = Provides {
        paravirt: 0x3,
        ..everything()
    };
    let (caps, mut entries) = list(&broadwell(), &provides);
    assert_eq!(Guest::new(&entries, &caps).unwrap().paravirt, 3);
    for e in &mut entries {
        if e.function >> 8 == 0x40_0000 {
            e.function += 0x100;
        }
    }
    assert_eq!(Guest::new(&entries, &caps).unwrap().paravirt, 3);
    assert_eq!(&ask(&entries, 0x4000_0100, 0).ebx.to_le_bytes(), b"KVMK");
}

#[test]
fn out_of_range_leaves_on_intel() {
    let (_, entries) = list(&broadwell(), &everything());
    let highest = ask(&entries, 0x14, 0);
    assert_eq!(ask(&entries, 0x15, 0), highest);
    assert_eq!(ask(&entries, 0x3fff_ffff, 0), highest);
    assert_eq!(
        ask(&entries, 0x4000_0002, 0),
        highest,
        "above the hypervisor range's maximum"
    );
    assert_eq!(
        ask(&entries, 0x4000_0100, 0),
        highest,
        "a class that doesn't exist"
    );
    assert_eq!(ask(&entries, 0x8000_0009, 0), highest);
    assert_eq!(ask(&entries, 0xc000_0000, 0), highest);
    assert_eq!(
        ask(&entries, 0xd, 62),
        Regs::default(),
        "in range, no such subleaf"
    );
}

#[test]
fn topology_subleaves_pass_ecx_and_the_id() {
    let (_, mut entries) = list(&broadwell(), &everything());
    let at = entries.iter().position(|e| e.function == 0xb).unwrap();
    entries[at].edx = 5;
    let one = CpuidEntry {
        index: 1,
        edx: 5,
        ..entries[at]
    };
    entries.push(one);
    assert_eq!(
        ask(&entries, 0xb, 0x1234_5677),
        Regs {
            ecx: 0x77,
            edx: 5,
            ..Regs::default()
        }
    );
    entries[0].eax = 0xb;
    assert_eq!(
        ask(&entries, 0x20, 9),
        Regs {
            ecx: 9,
            edx: 5,
            ..Regs::default()
        }
    );
}

#[test]
fn dynamic_bits() {
    let (caps, mut entries) = list(&broadwell(), &everything());
    let mut index = Index::EMPTY;
    index.rebuild(&entries);
    let state = Dynamic {
        osxsave: true,
        apic: false,
        xcr0: 3,
        ..Dynamic::default()
    };
    refresh(&mut entries, &index, &caps.layout, &state);
    let leaf1 = lookup(&entries, &index, 1, 0);
    assert_ne!(leaf1.ecx & Feature::OSXSAVE.mask(), 0);
    assert_eq!(leaf1.edx & Feature::APIC.mask(), 0);
    assert_eq!(lookup(&entries, &index, 0xd, 0).ebx, 576);
    assert_eq!(lookup(&entries, &index, 0xd, 0).ecx, 832);
    let state = Dynamic {
        apic: true,
        xcr0: 7,
        mwait: Some(true),
        ..Dynamic::default()
    };
    refresh(&mut entries, &index, &caps.layout, &state);
    let leaf1 = lookup(&entries, &index, 1, 0);
    assert_eq!(leaf1.ecx & Feature::OSXSAVE.mask(), 0);
    assert_ne!(leaf1.ecx & Feature::MWAIT.mask(), 0);
    assert_ne!(leaf1.edx & Feature::APIC.mask(), 0);
    assert_eq!(lookup(&entries, &index, 0xd, 0).ebx, 832);
    assert_eq!(
        lookup(&entries, &index, 0xd, 1).ebx,
        0,
        "no compacted format on this processor"
    );
}

#[test]
fn resending_the_same_table() {
    let (_, entries) = list(&broadwell(), &everything());
    assert_eq!(check_resend(&entries, &entries), Ok(()));
    assert_eq!(check_resend(&entries, &entries[1..]), Err(Errno::Invalid));
    let mut other = entries.clone();
    other[3].padding = [1, 2, 3];
    assert_eq!(check_resend(&entries, &other), Ok(()));
    other[3].edx ^= 1;
    assert_eq!(check_resend(&entries, &other), Err(Errno::Invalid));
}

fn entry() -> impl Strategy<Value = CpuidEntry> {
    let function = prop_oneof![
        0u32..0x22,
        0x4000_0000u32..0x4000_0003,
        0x8000_0000u32..0x8000_0022,
        any::<u32>()
    ];
    (function, 0u32..5, 0u32..2, any::<[u32; 4]>()).prop_map(|(function, index, flags, r)| {
        CpuidEntry {
            function,
            index,
            flags,
            eax: r[0],
            ebx: r[1],
            ecx: r[2],
            edx: r[3],
            padding: [0; 3],
        }
    })
}

proptest! {
    #[test]
    fn index_agrees_with_a_linear_search(
        entries in prop::collection::vec(entry(), 0..300),
        function in prop_oneof![0u32..0x22, 0x8000_0000u32..0x8000_0022, any::<u32>()],
        subleaf in 0u32..6,
    ) {
        let mut index = Index::EMPTY;
        index.rebuild(&entries);
        let naive = entries.iter().take(MAX_ENTRIES).find(|e| {
            e.function == function && (e.flags & 1 == 0 || e.index == subleaf)
        });
        prop_assert_eq!(index.find(&entries, function, subleaf), naive);
        let _ = lookup(&entries, &index, function, subleaf);
    }

    #[test]
    fn arbitrary_tables_never_panic(
        mut entries in prop::collection::vec(entry(), 0..300),
        xcr0: u64, xss: u64, osxsave: bool,
    ) {
        let caps = Caps::new(&broadwell(), &everything());
        let mut index = Index::EMPTY;
        index.rebuild(&entries);
        if let Ok(guest) = Guest::new(&entries, &caps) {
            prop_assert_eq!(guest.xcr0 & !caps.xcr0, 0);
            let _ = (guest.cr4_reserved(), guest.efer_allowed(), guest.reserved_gpa_bits());
        }
        refresh(&mut entries, &index, &caps.layout, &Dynamic { osxsave, xcr0, xss, ..Dynamic::default() });
    }

    #[test]
    fn arbitrary_hosts_never_panic(seed: u32, xcr0: u64, xss: u64) {
        struct Noise(u32);
        impl HostCpuid for Noise {
            fn cpuid(&self, function: u32, index: u32) -> Regs {
                let mut x = self.0 ^ function.wrapping_mul(0x9e37_79b9) ^ index.wrapping_mul(0x85eb_ca6b);
                let mut next = || {
                    x ^= x << 13;
                    x ^= x >> 17;
                    x ^= x << 5;
                    x
                };
                Regs { eax: next(), ebx: next(), ecx: next(), edx: next() }
            }
        }
        let host = Noise(seed);
        let caps = Caps::new(&host, &Provides { xcr0, xss, ..everything() });
        let mut out = vec![CpuidEntry::default(); MAX_ENTRIES];
        if let Ok(len) = supported(&host, &caps, &mut out) {
            let _ = Guest::new(&out[..len], &caps);
        }
    }
}
