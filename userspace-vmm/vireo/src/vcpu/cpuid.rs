// SPDX-License-Identifier: Apache-2.0

//! The guest's CPUID: what the hypervisor supports, plus this CPU's place in the machine and
//! the frequencies that an operating system cannot measure without a PIT.

use kvm_bindings::{kvm_cpuid_entry2, CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

use crate::error::{Error, Result};

/// Basic leaf: vendor and highest basic leaf.
const LEAF_VENDOR: u32 = 0;
/// Basic leaf: features.
const LEAF_FEATURES: u32 = 1;
/// Intel's deterministic cache parameters.
const LEAF_CACHES: u32 = 4;
/// Topology, and its successor with more levels.
const TOPOLOGY_LEAVES: [u32; 2] = [0xb, 0x1f];
/// TSC and core crystal clock.
const LEAF_TSC: u32 = 0x15;
/// Processor frequencies.
const LEAF_FREQUENCY: u32 = 0x16;
/// KVM's paravirtual features.
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// AMD: sizes, with the number of CPUs.
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
/// AMD: cache parameters.
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
/// AMD: APIC ID and topology.
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1, ECX: the local APIC timer has TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, EDX: more than one logical CPU in the package.
const HTT: u32 = 1 << 28;
/// Leaf 1, EBX: where the number of logical CPUs and the initial APIC ID start.
const LOGICAL_CPUS_SHIFT: u32 = 16;
const APIC_ID_SHIFT: u32 = 24;
/// KVM's paravirtual clock, in its old and its present form.
const KVM_CLOCKS: u32 = 1 << 0 | 1 << 3;
/// "GenuineIntel" as EBX, EDX, ECX.
const INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];

/// The frequency at which the in-kernel local APIC counts: one tick per nanosecond.
const APIC_BUS_HZ: u32 = 1_000_000_000;
/// Linux multiplies the crystal's kHz and the ratio's numerator in 32 bits.
const NUMERATOR_MAX: u32 = u32::MAX / (APIC_BUS_HZ / 1000);

/// What one virtual CPU's CPUID depends on besides the hypervisor.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// This CPU's number and APIC ID.
    pub cpu: u8,
    /// CPUs in the machine.
    pub cpus: u8,
    /// The guest's TSC frequency in kHz, 0 when the hypervisor does not say.
    pub tsc_khz: u32,
    /// Whether the in-kernel APIC timer has TSC-deadline mode.
    pub tsc_deadline: bool,
}

/// Whether guests with this CPUID get the time from KVM's paravirtual clock.
fn has_kvm_clock(entries: &[kvm_cpuid_entry2]) -> bool {
    entries
        .iter()
        .any(|e| e.function == LEAF_KVM_FEATURES && e.eax & KVM_CLOCKS != 0)
}

/// Kernel parameters that tell Linux what it would otherwise measure wrongly, because the
/// machine has no PIT, no HPET and no PM timer: the TSC's frequency where CPUID has no leaf for
/// it, and that nothing else can be a judge of the TSC. With a paravirtual clock, or without a
/// known frequency (0), there is nothing to say.
pub fn timing_parameters(supported: &CpuId, tsc_khz: u32) -> Vec<String> {
    let entries = supported.as_slice();
    let mut parameters = Vec::new();
    if has_kvm_clock(entries) || tsc_khz == 0 {
        return parameters;
    }
    if !is_intel(entries) {
        parameters.push(format!("tsc_early_khz={tsc_khz}"));
    }
    parameters.push("tsc=reliable".into());
    parameters
}

fn is_intel(entries: &[kvm_cpuid_entry2]) -> bool {
    entries
        .iter()
        .any(|e| e.function == LEAF_VENDOR && [e.ebx, e.edx, e.ecx] == INTEL)
}

/// The CPUID for the CPU at `place`.
pub fn build(supported: &CpuId, place: Place) -> Result<CpuId> {
    let mut entries = supported.as_slice().to_vec();
    let intel = is_intel(&entries);
    // Bits that the APIC ID of the last CPU needs.
    let id_bits = u32::from(place.cpus).next_power_of_two().trailing_zeros();
    let others = u32::from(place.cpus.saturating_sub(1));
    let max_leaf = entries
        .iter()
        .find(|e| e.function == LEAF_VENDOR)
        .map_or(0, |e| e.eax);

    let is_ours = |leaf: &u32| {
        TOPOLOGY_LEAVES.contains(leaf) || (intel && [LEAF_TSC, LEAF_FREQUENCY].contains(leaf))
    };
    entries.retain(|e| !is_ours(&e.function));
    for entry in &mut entries {
        match entry.function {
            LEAF_FEATURES => features(entry, place),
            // EAX: highest ID among CPUs that share the cache, highest core ID in the package.
            LEAF_CACHES if entry.eax & CACHE_TYPE != 0 => {
                let sharing = if cache_level(entry.eax) >= SHARED_LEVEL {
                    others
                } else {
                    0
                };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | others.min(0x3f) << 26;
            }
            LEAF_AMD_CACHES if entry.eax & CACHE_TYPE != 0 => {
                let sharing = if cache_level(entry.eax) >= SHARED_LEVEL {
                    others
                } else {
                    0
                };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
            }
            LEAF_AMD_SIZES => entry.ecx = entry.ecx & !0xf0ff | id_bits << 12 | others,
            LEAF_AMD_TOPOLOGY => {
                entry.eax = u32::from(place.cpu);
                // One thread per core; all in node 0.
                entry.ebx = u32::from(place.cpu);
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    for leaf in TOPOLOGY_LEAVES {
        if leaf <= max_leaf {
            entries.extend(topology(leaf, place, id_bits));
        }
    }
    if intel && place.tsc_khz != 0 {
        let (numerator, denominator) = ratio(place.tsc_khz, APIC_BUS_HZ / 1000, NUMERATOR_MAX);
        let mhz = place.tsc_khz / 1000;
        entries.push(leaf(LEAF_TSC, [denominator, numerator, APIC_BUS_HZ, 0]));
        entries.push(leaf(LEAF_FREQUENCY, [mhz, mhz, 100, 0]));
        for entry in entries.iter_mut().filter(|e| e.function == LEAF_VENDOR) {
            entry.eax = entry.eax.max(LEAF_FREQUENCY);
        }
    }
    CpuId::from_entries(&entries).map_err(|e| Error::Setup(format!("CPUID: {e:?}")))
}

/// Leaves 4 and 0x8000001D, EAX: the cache's type, 0 for none.
const CACHE_TYPE: u32 = 0x1f;
/// The first cache level that cores share here.
const SHARED_LEVEL: u32 = 3;

/// Leaves 4 and 0x8000001D: the cache's level.
fn cache_level(eax: u32) -> u32 {
    eax >> 5 & 0b111
}

fn features(entry: &mut kvm_cpuid_entry2, place: Place) {
    entry.ebx &= 0xffff;
    entry.ebx |= u32::from(place.cpus) << LOGICAL_CPUS_SHIFT;
    entry.ebx |= u32::from(place.cpu) << APIC_ID_SHIFT;
    entry.edx = if place.cpus > 1 {
        entry.edx | HTT
    } else {
        entry.edx & !HTT
    };
    entry.ecx = if place.tsc_deadline {
        entry.ecx | TSC_DEADLINE
    } else {
        entry.ecx & !TSC_DEADLINE
    };
}

/// The sub-leaves of a topology leaf: threads (one per core), then cores.
fn topology(function: u32, place: Place, id_bits: u32) -> [kvm_cpuid_entry2; 3] {
    /// ECX: level types.
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let id = u32::from(place.cpu);
    let level = |index: u32, shift: u32, cpus: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: cpus,
        ecx: index | kind,
        edx: id,
        ..Default::default()
    };
    [
        level(0, 0, 1, THREADS),
        level(1, id_bits, u32::from(place.cpus), CORES),
        level(2, 0, 0, 0),
    ]
}

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// The fraction nearest to `a / b` with a numerator of at most `max`, by continued fractions.
fn ratio(a: u32, b: u32, max: u32) -> (u32, u32) {
    let (mut num, mut den) = (u64::from(a), u64::from(b));
    let (mut last, mut this) = ((0u64, 1u64), (1u64, 0u64));
    while den != 0 {
        let whole = num / den;
        let next = (whole * this.0 + last.0, whole * this.1 + last.1);
        if next.0 > u64::from(max) || next.1 > u64::from(u32::MAX) {
            break;
        }
        (last, this) = (this, next);
        (num, den) = (den, num % den);
    }
    if this.1 == 0 {
        return (max, 1);
    }
    (this.0 as u32, this.1 as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "AuthenticAMD" as EBX, EDX, ECX.
    const AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];

    fn supported(vendor: [u32; 3], max: u32) -> CpuId {
        let indexed = |function, index, eax| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, [max, vendor[0], vendor[2], vendor[1]]),
            leaf(1, [0x306d4, 0xff10_0800, 1 << 31, HTT]),
            indexed(4, 0, 0xfc01_c121),
            indexed(4, 3, 0xfc03_c163),
            indexed(0xb, 0, 1),
            indexed(0xb, 1, 4),
            leaf(0x8000_0008, [0x3028, 0, 0x700f, 0]),
            leaf(0x8000_001e, [77, 77, 77, 0]),
        ])
        .unwrap()
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .copied()
    }

    fn place(cpu: u8, cpus: u8) -> Place {
        Place {
            cpu,
            cpus,
            tsc_khz: 2_893_202,
            tsc_deadline: true,
        }
    }

    #[test]
    fn places_the_cpu() {
        let cpuid = build(&supported(INTEL, 0xd), place(2, 4)).unwrap();
        let features = find(&cpuid, 1, 0).unwrap();
        assert_eq!(features.ebx, 0x0204_0800);
        assert_eq!(features.ecx, 1 << 31 | TSC_DEADLINE);
        assert_ne!(features.edx & HTT, 0);
        let cores = find(&cpuid, 0xb, 1).unwrap();
        assert_eq!(
            (cores.eax, cores.ebx, cores.ecx, cores.edx),
            (2, 4, 0x201, 2)
        );
        assert_eq!(
            cpuid
                .as_slice()
                .iter()
                .filter(|e| e.function == 0xb)
                .count(),
            3
        );
        assert!(find(&cpuid, 0x1f, 0).is_none());
        assert_eq!(find(&cpuid, 4, 0).unwrap().eax, 0x0c00_0121);
        assert_eq!(find(&cpuid, 4, 3).unwrap().eax, 0x0c00_c163);
        assert_eq!(find(&cpuid, 0x8000_0008, 0).unwrap().ecx, 0x2003);
        assert_eq!(find(&cpuid, 0x8000_001e, 0).unwrap().eax, 2);
    }

    #[test]
    fn one_cpu_is_not_hyperthreaded() {
        let mut one = place(0, 1);
        one.tsc_deadline = false;
        let cpuid = build(&supported(INTEL, 0xd), one).unwrap();
        let features = find(&cpuid, 1, 0).unwrap();
        assert_eq!((features.edx & HTT, features.ecx & TSC_DEADLINE), (0, 0));
    }

    #[test]
    fn intel_guests_learn_the_frequencies() {
        let cpuid = build(&supported(INTEL, 0xd), place(0, 1)).unwrap();
        assert_eq!(find(&cpuid, 0, 0).unwrap().eax, 0x16);
        let tsc = find(&cpuid, 0x15, 0).unwrap();
        // As Linux computes it.
        let khz = (tsc.ecx / 1000).checked_mul(tsc.ebx).unwrap() / tsc.eax;
        assert!(khz.abs_diff(2_893_202) <= 1, "{khz}");
        assert_eq!(find(&cpuid, 0x16, 0).unwrap().eax, 2893);
    }

    #[test]
    fn others_need_it_on_the_command_line() {
        let cpuid = build(&supported(AMD, 0xd), place(0, 1)).unwrap();
        assert!(find(&cpuid, 0x15, 0).is_none());
        assert_eq!(find(&cpuid, 0, 0).unwrap().eax, 0xd);
    }

    #[test]
    fn parameters_replace_what_cannot_be_measured() {
        let (intel, amd) = (supported(INTEL, 0xd), supported(AMD, 0xd));
        assert_eq!(timing_parameters(&intel, 5), ["tsc=reliable"]);
        assert_eq!(
            timing_parameters(&amd, 5),
            ["tsc_early_khz=5", "tsc=reliable"]
        );
        assert!(timing_parameters(&amd, 0).is_empty());
        let mut entries = amd.as_slice().to_vec();
        entries.push(leaf(LEAF_KVM_FEATURES, [1 << 3, 0, 0, 0]));
        let with_clock = CpuId::from_entries(&entries).unwrap();
        assert!(timing_parameters(&with_clock, 5).is_empty());
    }

    #[test]
    fn ratios_are_close() {
        assert_eq!(ratio(2_000_000, 1_000_000, NUMERATOR_MAX), (2, 1));
        assert_eq!(ratio(20_000, 1_000_000, NUMERATOR_MAX), (1, 50));
        for khz in [
            1, 999, 19_999, 1_000_001, 2_299_998, 2_893_202, 3_999_999, 5_123_457,
        ] {
            let (num, den) = ratio(khz, 1_000_000, NUMERATOR_MAX);
            assert!(num <= NUMERATOR_MAX);
            let got = u64::from(num) * 1_000_000 / u64::from(den.max(1));
            assert!(
                got.abs_diff(u64::from(khz)) <= 2,
                "{khz}: {num}/{den} = {got}"
            );
        }
        ratio(u32::MAX, 1_000_000, NUMERATOR_MAX);
        ratio(0, 1, 1);
    }

    #[test]
    fn nothing_supported_gives_nothing() {
        let none = CpuId::from_entries(&[]).unwrap();
        assert!(build(&none, place(0, 1)).unwrap().as_slice().is_empty());
    }
}
