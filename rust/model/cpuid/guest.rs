// SPDX-License-Identifier: GPL-2.0-only

//! What follows from the CPUID entries that userspace gives a vCPU, and the bits in them that follow
//! from other registers.

use super::{leaf, list::SIGNATURE, Caps, CpuidEntry, Feature, HostCpuid, Index, Word, WORDS};
use crate::model::errno::Errno;
use crate::model::x86::{cr4, efer};
use crate::model::xstate::Layout;

/// MAXPHYADDR of a processor that doesn't tell (SDM vol. 3 section 4.1.4).
const DEFAULT_PHYS_BITS: u8 = 36;

/// Width of linear addresses with 4-level paging.
const LINEAR_4_LEVEL: u8 = 48;

/// Width of linear addresses with 5-level paging.
const LINEAR_5_LEVEL: u8 = 57;

/// CR4 bits that exist on every 64-bit processor.
const CR4_BASE: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT;

/// CR4 bits that a feature brings.
const CR4_BY_FEATURE: [(Feature, u64); 10] = [
    (Feature::XSAVE, cr4::OSXSAVE),
    (Feature::SMEP, cr4::SMEP),
    (Feature::SMAP, cr4::SMAP),
    (Feature::FSGSBASE, cr4::FSGSBASE),
    (Feature::PKU, cr4::PKE),
    (Feature::LA57, cr4::LA57),
    (Feature::UMIP, cr4::UMIP),
    (Feature::VMX, cr4::VMXE),
    (Feature::PCID, cr4::PCIDE),
    (Feature::LAM, cr4::LAM_SUP),
];

/// EFER bits that a feature brings.
const EFER_BY_FEATURE: [(Feature, u64); 5] = [
    (Feature::NX, efer::NXE),
    (Feature::LM, efer::LME | efer::LMA),
    (Feature::SVM, efer::SVME),
    (Feature::FXSR_OPT, efer::FFXSR),
    (Feature::AUTOIBRS, efer::AUTOIBRS),
];

/// Whose rules the guest's processor follows where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// Intel's, and everyone's who is not AMD-compatible.
    #[default]
    Intel,
    /// AMD's and Hygon's.
    Amd,
}

impl Vendor {
    /// Returns whose the host's processor is.
    pub fn of(host: &impl HostCpuid) -> Self {
        let regs = host.cpuid(leaf::VENDOR, 0);
        vendor(regs.ebx, regs.ecx, regs.edx)
    }
}

/// What a vCPU may use, derived from its CPUID entries and from what the module offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    words: [u32; WORDS],
    /// Whose rules apply.
    pub vendor: Vendor,
    /// MAXPHYADDR in bits.
    pub phys_bits: u8,
    /// XCR0 bits that the guest may set.
    pub xcr0: u64,
    /// IA32_XSS bits that the guest may set.
    pub xss: u64,
    /// Feature bits of the paravirtual leaf that userspace passed on.
    pub paravirt: u32,
}

impl Default for Guest {
    /// The model of a vCPU that has no entries yet.
    fn default() -> Self {
        Self {
            words: [0; WORDS],
            vendor: Vendor::Intel,
            phys_bits: DEFAULT_PHYS_BITS,
            xcr0: 0,
            xss: 0,
            paravirt: 0,
        }
    }
}

impl Guest {
    /// Derives the guest's model from `entries`.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] when the width of linear addresses is one that no processor has.
    pub fn new(entries: &[CpuidEntry], caps: &Caps) -> Result<Self, Errno> {
        let sizes = find(entries, leaf::ADDRESS_SIZES, 0);
        let linear = sizes.map_or(0, |entry| entry.eax >> 8 & 0xff);
        if !matches!(linear, 0 | 48 | 57) {
            return Err(Errno::Invalid);
        }
        let mut guest = Self::default();
        for (slot, word) in guest.words.iter_mut().zip(Word::ALL) {
            let (function, index) = word.leaf();
            if let Some(entry) = find(entries, function, index) {
                *slot = word.of(&entry.regs()) & (caps.word(word) | settable(word));
            }
        }
        let reach = find(entries, leaf::EXTENDED, 0).map_or(0, |entry| entry.eax);
        if let (Some(entry), true) = (sizes, reach >= leaf::ADDRESS_SIZES) {
            guest.phys_bits = entry.eax as u8;
        }
        if let Some(entry) = find(entries, leaf::XSTATE, 0) {
            guest.xcr0 = (u64::from(entry.eax) | u64::from(entry.edx) << 32) & caps.xcr0;
        }
        if let Some(entry) = find(entries, leaf::XSTATE, 1) {
            guest.xss = (u64::from(entry.ecx) | u64::from(entry.edx) << 32) & caps.xss;
        }
        guest.vendor = find(entries, leaf::VENDOR, 0).map_or(Vendor::Intel, vendor_of);
        guest.paravirt = paravirt(entries) & caps.paravirt;
        // Second-level paging leaves the guest's own tables to the processor, which takes 1-GiB pages
        // for valid wherever it knows them.
        if caps.has(Feature::GBPAGES) {
            guest.set(Feature::GBPAGES);
        }
        Ok(guest)
    }

    /// Returns the guest's bits of a feature word.
    pub fn word(&self, word: Word) -> u32 {
        self.words.get(word as usize).copied().unwrap_or(0)
    }

    /// Says whether the guest has a feature.
    pub fn has(&self, feature: Feature) -> bool {
        self.word(feature.word) & feature.mask() != 0
    }

    fn set(&mut self, feature: Feature) {
        if let Some(slot) = self.words.get_mut(feature.word as usize) {
            *slot |= feature.mask();
        }
    }

    /// Returns the CR4 bits that the guest may not set.
    pub fn cr4_reserved(&self) -> u64 {
        let mut allowed = CR4_BASE;
        for (feature, bit) in CR4_BY_FEATURE {
            if self.has(feature) {
                allowed |= bit;
            }
        }
        if self.has(Feature::SHSTK) || self.has(Feature::IBT) {
            allowed |= cr4::CET;
        }
        !allowed
    }

    /// Returns the EFER bits that the guest may set.
    pub fn efer_allowed(&self) -> u64 {
        efer_allowed(|feature| self.has(feature))
    }

    /// Returns the bits of a guest-physical address that are reserved.
    pub const fn reserved_gpa_bits(&self) -> u64 {
        match u64::MAX.checked_shl(self.phys_bits as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// Returns the width of the widest linear addresses the guest may use, in bits. MSRs are checked
    /// against it whatever CR4.LA57 says.
    pub fn linear_bits(&self) -> u8 {
        if self.has(Feature::LA57) {
            LINEAR_5_LEVEL
        } else {
            LINEAR_4_LEVEL
        }
    }
}

impl Caps {
    /// Returns the EFER bits that userspace may set, whatever the guest's CPUID says.
    pub fn efer_allowed(&self) -> u64 {
        efer_allowed(|feature| self.has(feature))
    }
}

fn efer_allowed(has: impl Fn(Feature) -> bool) -> u64 {
    let mut allowed = efer::SCE;
    for (feature, bits) in EFER_BY_FEATURE {
        if has(feature) {
            allowed |= bits;
        }
    }
    allowed
}

/// Features that are never offered but that userspace may give a guest all the same: MONITOR and MWAIT
/// are executed as no-operations.
const fn settable(word: Word) -> u32 {
    match word {
        Word::L1Ecx => Feature::MWAIT.mask(),
        _ => 0,
    }
}

/// Registers that show through in CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// CR4.PKE.
    pub pke: bool,
    /// The local APIC is enabled in IA32_APIC_BASE.
    pub apic: bool,
    /// IA32_MISC_ENABLE allows MONITOR, or `None` to leave the entry as userspace set it
    /// (`KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT`).
    pub mwait: Option<bool>,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
}

/// Patches the bits and sizes in `entries` that follow from other registers.
pub fn refresh(entries: &mut [CpuidEntry], index: &Index, layout: &Layout, state: &Dynamic) {
    if let Some(entry) = find_mut(entries, index, leaf::FEATURES, 0) {
        put(&mut entry.ecx, Feature::OSXSAVE, state.osxsave);
        put(&mut entry.edx, Feature::APIC, state.apic);
        if let Some(mwait) = state.mwait {
            put(&mut entry.ecx, Feature::MWAIT, mwait);
        }
    }
    if let Some(entry) = find_mut(entries, index, leaf::EXTENDED_FEATURES, 0) {
        put(&mut entry.ecx, Feature::OSPKE, state.pke);
    }
    if let Some(entry) = find_mut(entries, index, leaf::XSTATE, 0) {
        entry.ebx = layout.standard_size(state.xcr0);
    }
    if let Some(entry) = find_mut(entries, index, leaf::XSTATE, 1) {
        if entry.eax & (Feature::XSAVES.mask() | Feature::XSAVEC.mask()) != 0 {
            entry.ebx = layout.compacted_size(state.xcr0 | state.xss);
        }
    }
}

/// Checks entries that arrive after the vCPU has run: they may only repeat what is set. Both tables must
/// have been refreshed.
///
/// # Errors
///
/// [`Errno::Invalid`] when they differ.
pub fn check_resend(current: &[CpuidEntry], incoming: &[CpuidEntry]) -> Result<(), Errno> {
    let same = current.len() == incoming.len()
        && current.iter().zip(incoming).all(|(a, b)| {
            (a.function, a.index, a.flags, a.regs()) == (b.function, b.index, b.flags, b.regs())
        });
    if same {
        Ok(())
    } else {
        Err(Errno::Invalid)
    }
}

/// Reads the vendor from leaf 0.
pub(super) fn vendor_of(entry: &CpuidEntry) -> Vendor {
    vendor(entry.ebx, entry.ecx, entry.edx)
}

fn vendor(ebx: u32, ecx: u32, edx: u32) -> Vendor {
    /// "AuthenticAMD" as EBX, EDX and ECX.
    const AMD: (u32, u32, u32) = (0x6874_7541, 0x6974_6e65, 0x444d_4163);
    /// "HygonGenuine".
    const HYGON: (u32, u32, u32) = (0x6f67_7948, 0x6e65_476e, 0x656e_6975);
    match (ebx, edx, ecx) {
        AMD | HYGON => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

/// Finds the paravirtual features: the leaf after the one with our signature, which userspace may have
/// moved to another multiple of 256 to make room for a second interface.
fn paravirt(entries: &[CpuidEntry]) -> u32 {
    let signed = |entry: &&CpuidEntry| {
        entry.function & 0xffff_00ff == leaf::HYPERVISOR
            && [entry.ebx, entry.ecx, entry.edx] == SIGNATURE
    };
    let base = entries
        .iter()
        .filter(signed)
        .map(|entry| entry.function)
        .min();
    base.and_then(|base| find(entries, base | 1, 0))
        .map_or(0, |entry| entry.eax)
}

fn find(entries: &[CpuidEntry], function: u32, index: u32) -> Option<&CpuidEntry> {
    entries.iter().find(|entry| entry.answers(function, index))
}

fn find_mut<'a>(
    entries: &'a mut [CpuidEntry],
    index: &Index,
    function: u32,
    subleaf: u32,
) -> Option<&'a mut CpuidEntry> {
    let position = index.position(entries, function, subleaf)?;
    entries.get_mut(position)
}

fn put(register: &mut u32, feature: Feature, on: bool) {
    if on {
        *register |= feature.mask();
    } else {
        *register &= !feature.mask();
    }
}
