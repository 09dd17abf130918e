// SPDX-License-Identifier: GPL-2.0-only

//! The tables that `KVM_GET_SUPPORTED_CPUID` and `KVM_GET_EMULATED_CPUID` return.

use super::{leaf, Caps, CpuidEntry, Feature, HostCpuid, Regs, Word};
use crate::model::errno::Errno;
use crate::model::xstate::{component_bit, COMPONENTS};

/// The highest basic leaf that is listed.
const MAX_BASIC: u32 = leaf::TOPOLOGY_V2;

/// The highest extended leaf that is listed.
const MAX_EXTENDED: u32 = leaf::AMD_FEATURES_2;

/// The highest subleaf of leaf 7 that is listed.
const MAX_EXTENDED_FEATURES: u32 = 2;

/// The most cache subleaves that are read from the host.
const MAX_CACHES: u32 = 16;

/// Cache type field of a cache subleaf's EAX: 0 ends the list.
const CACHE_TYPE: u32 = 0x1f;

/// Leaf 6 EAX: the local APIC's timer keeps running in every C-state.
const ARAT: u32 = 1 << 2;

/// Leaf 1 EBX: the initial APIC id and the number of logical processors, which userspace fills in.
const LEAF1_TOPOLOGY: u32 = 0xffff_0000;

/// Leaf 0x80000001 EBX: reserved, between the brand id and the package type.
const AMD_FEATURES_RESERVED: u32 = 0x0fff_0000;

/// Leaf 0x80000006 EDX: reserved, between the size and the associativity of the third-level cache.
const AMD_L2_RESERVED: u32 = 0x0003_0000;

/// "KVMKVMKVM\0\0\0", as EBX, ECX and EDX of the hypervisor leaf.
pub(super) const SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];

struct Sink<'a> {
    out: &'a mut [CpuidEntry],
    len: usize,
}

impl Sink<'_> {
    fn push(&mut self, function: u32, index: u32, regs: Regs) -> Result<(), Errno> {
        let slot = self.out.get_mut(self.len).ok_or(Errno::TooBig)?;
        *slot = CpuidEntry::new(function, index, regs);
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

/// Fills `out` with everything a guest may be offered, and returns how many entries that is.
///
/// # Errors
///
/// [`Errno::TooBig`] when `out` is too short.
pub fn supported(
    host: &impl HostCpuid,
    caps: &Caps,
    out: &mut [CpuidEntry],
) -> Result<usize, Errno> {
    let mut sink = Sink { out, len: 0 };
    let max = host.cpuid(leaf::VENDOR, 0).eax.min(MAX_BASIC);
    for function in 0..=max {
        basic(host, caps, function, max, &mut sink)?;
    }
    let [ebx, ecx, edx] = SIGNATURE;
    sink.push(
        leaf::HYPERVISOR,
        0,
        Regs {
            eax: leaf::PARAVIRT,
            ebx,
            ecx,
            edx,
        },
    )?;
    sink.push(
        leaf::PARAVIRT,
        0,
        Regs {
            eax: caps.paravirt,
            ..Regs::default()
        },
    )?;

    let max = host
        .cpuid(leaf::EXTENDED, 0)
        .eax
        .clamp(leaf::EXTENDED, MAX_EXTENDED);
    for function in leaf::EXTENDED..=max {
        extended(host, caps, function, max, &mut sink)?;
    }
    Ok(sink.len)
}

fn basic(
    host: &impl HostCpuid,
    caps: &Caps,
    function: u32,
    max: u32,
    sink: &mut Sink<'_>,
) -> Result<(), Errno> {
    let raw = host.cpuid(function, 0);
    match function {
        leaf::VENDOR => sink.push(function, 0, Regs { eax: max, ..raw }),
        leaf::FEATURES => {
            let regs = Regs {
                eax: raw.eax,
                ebx: raw.ebx & !LEAF1_TOPOLOGY,
                ecx: caps.word(Word::L1Ecx),
                edx: caps.word(Word::L1Edx),
            };
            sink.push(function, 0, regs)
        }
        leaf::CACHE_DESCRIPTORS => sink.push(function, 0, raw),
        leaf::CACHES => caches(host, function, sink),
        leaf::THERMAL => sink.push(
            function,
            0,
            Regs {
                eax: ARAT,
                ..Regs::default()
            },
        ),
        leaf::EXTENDED_FEATURES => extended_features(caps, raw.eax, sink),
        leaf::XSTATE => xstate(caps, sink),
        leaf::TILES | leaf::TMUL if caps.has(Feature::AMX_TILE) => tiles(host, function, sink),
        // The monitor, performance, topology, SGX, trace and clock leaves: nothing is offered, and
        // topology and clock are userspace's to fill in. (A guest that reads a crystal clock in leaf
        // 0x15 takes it for the local APIC timer's clock too, so the host's would be wrong.)
        _ => sink.push(function, 0, Regs::default()),
    }
}

/// The host's caches, one subleaf each, and the subleaf that ends the list.
fn caches(host: &impl HostCpuid, function: u32, sink: &mut Sink<'_>) -> Result<(), Errno> {
    for index in 0..MAX_CACHES {
        let regs = host.cpuid(function, index);
        sink.push(function, index, regs)?;
        if regs.eax & CACHE_TYPE == 0 {
            break;
        }
    }
    Ok(())
}

fn extended_features(caps: &Caps, host_max: u32, sink: &mut Sink<'_>) -> Result<(), Errno> {
    let max = host_max.min(MAX_EXTENDED_FEATURES);
    let regs = Regs {
        eax: max,
        ebx: caps.word(Word::L7Ebx),
        ecx: caps.word(Word::L7Ecx),
        edx: caps.word(Word::L7Edx),
    };
    sink.push(leaf::EXTENDED_FEATURES, 0, regs)?;
    if max >= 1 {
        let regs = Regs {
            eax: caps.word(Word::L7s1Eax),
            edx: caps.word(Word::L7s1Edx),
            ..Regs::default()
        };
        sink.push(leaf::EXTENDED_FEATURES, 1, regs)?;
    }
    if max >= 2 {
        let regs = Regs {
            edx: caps.word(Word::L7s2Edx),
            ..Regs::default()
        };
        sink.push(leaf::EXTENDED_FEATURES, 2, regs)?;
    }
    Ok(())
}

/// Leaf 0xD: masks and sizes for what the guest may use, never what the host has (SDM vol. 1 section 13.2).
fn xstate(caps: &Caps, sink: &mut Sink<'_>) -> Result<(), Errno> {
    if caps.xcr0 == 0 {
        return sink.push(leaf::XSTATE, 0, Regs::default());
    }
    let size = caps.layout.standard_size(caps.xcr0);
    let (eax, edx) = halves(caps.xcr0);
    sink.push(
        leaf::XSTATE,
        0,
        Regs {
            eax,
            ebx: size,
            ecx: size,
            edx,
        },
    )?;

    let eax = caps.word(Word::Ds1Eax);
    let compacts = eax & (Feature::XSAVEC.mask() | Feature::XSAVES.mask()) != 0;
    let ebx = if compacts {
        caps.layout.compacted_size(caps.xcr0 | caps.xss)
    } else {
        0
    };
    let (ecx, edx) = halves(caps.xss);
    sink.push(leaf::XSTATE, 1, Regs { eax, ebx, ecx, edx })?;

    for number in 2..COMPONENTS {
        let Some(part) = caps.layout.component(number) else {
            break;
        };
        if (caps.xcr0 | caps.xss) & component_bit(number) == 0 {
            continue;
        }
        let regs = Regs {
            eax: part.size,
            ebx: part.offset,
            ecx: part.flags & 3,
            edx: 0,
        };
        sink.push(leaf::XSTATE, number as u32, regs)?;
    }
    Ok(())
}

/// The AMX leaves: subleaf 0 tells the number of the last one.
fn tiles(host: &impl HostCpuid, function: u32, sink: &mut Sink<'_>) -> Result<(), Errno> {
    let first = host.cpuid(function, 0);
    sink.push(
        function,
        0,
        Regs {
            eax: first.eax.min(1),
            ..first
        },
    )?;
    if first.eax >= 1 && function == leaf::TILES {
        sink.push(function, 1, host.cpuid(function, 1))?;
    }
    Ok(())
}

fn extended(
    host: &impl HostCpuid,
    caps: &Caps,
    function: u32,
    max: u32,
    sink: &mut Sink<'_>,
) -> Result<(), Errno> {
    let raw = host.cpuid(function, 0);
    match function {
        leaf::EXTENDED => sink.push(function, 0, Regs { eax: max, ..raw }),
        leaf::AMD_FEATURES => {
            let regs = Regs {
                eax: raw.eax,
                ebx: raw.ebx & !AMD_FEATURES_RESERVED,
                ecx: caps.word(Word::E1Ecx),
                edx: caps.word(Word::E1Edx),
            };
            sink.push(function, 0, regs)
        }
        leaf::BRAND_FIRST..=leaf::AMD_CACHE_L1 => sink.push(function, 0, raw),
        leaf::AMD_CACHE_L2 => sink.push(
            function,
            0,
            Regs {
                edx: raw.edx & !AMD_L2_RESERVED,
                ..raw
            },
        ),
        leaf::POWER => {
            let regs = Regs {
                edx: caps.word(Word::E7Edx),
                ..Regs::default()
            };
            sink.push(function, 0, regs)
        }
        leaf::ADDRESS_SIZES => {
            let regs = Regs {
                eax: address_sizes(raw.eax, caps.guest_phys_bits),
                ebx: caps.word(Word::E8Ebx),
                ..Regs::default()
            };
            sink.push(function, 0, regs)
        }
        leaf::AMD_TLB_1G => sink.push(
            function,
            0,
            Regs {
                ecx: 0,
                edx: 0,
                ..raw
            },
        ),
        leaf::AMD_HINTS => sink.push(
            function,
            0,
            Regs {
                eax: raw.eax & 7,
                ..Regs::default()
            },
        ),
        leaf::AMD_CACHES => caches(host, function, sink),
        leaf::AMD_FEATURES_2 => {
            let regs = Regs {
                eax: caps.word(Word::E21Eax),
                ..Regs::default()
            };
            sink.push(function, 0, regs)
        }
        _ => sink.push(function, 0, Regs::default()),
    }
}

/// Leaf 0x80000008 EAX: the host's address widths, at least 48 linear bits, and in bits 23 to 16 the
/// width that second-level tables reach, which a guest may not exceed.
fn address_sizes(host: u32, guest_phys_bits: u8) -> u32 {
    let physical = host & 0xff;
    let linear = (host >> 8 & 0xff).max(48);
    physical | linear << 8 | physical.min(u32::from(guest_phys_bits)) << 16
}

/// Fills `out` with the features that are emulated though the host may lack them.
///
/// # Errors
///
/// [`Errno::TooBig`] when `out` is too short.
pub fn emulated(caps: &Caps, out: &mut [CpuidEntry]) -> Result<usize, Errno> {
    let mut sink = Sink { out, len: 0 };
    let highest = Regs {
        eax: leaf::EXTENDED_FEATURES,
        ..Regs::default()
    };
    let emulates = |feature: Feature, yes: bool| Regs {
        ecx: if yes { feature.mask() } else { 0 },
        ..Regs::default()
    };
    let movbe = emulates(Feature::MOVBE, caps.movbe_emulation);
    let rdpid = emulates(Feature::RDPID, caps.rdpid_emulation);
    sink.push(leaf::VENDOR, 0, highest)?;
    sink.push(leaf::FEATURES, 0, movbe)?;
    sink.push(leaf::EXTENDED_FEATURES, 0, rdpid)?;
    Ok(sink.len)
}

const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
