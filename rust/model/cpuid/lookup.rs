// SPDX-License-Identifier: GPL-2.0-only

//! What the CPUID instruction returns: finding an entry quickly, and the rules for leaves without one.

use super::{guest::vendor_of, leaf, CpuidEntry, Regs, Vendor, MAX_ENTRIES};

/// Buckets of [`Index`]: 32 leaves in each of the four ranges that CPUID uses.
const BUCKETS: usize = 128;

/// The end of a bucket's chain.
const NONE: u16 = u16::MAX;

/// Finds entries by leaf. It belongs to one table and is rebuilt when that changes.
///
/// # Invariants
///
/// Chains only lead to higher positions, so following one ends.
#[derive(Clone, Debug)]
pub struct Index {
    head: [u16; BUCKETS],
    next: [u16; MAX_ENTRIES],
}

impl Default for Index {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Index {
    /// The index of an empty table.
    pub const EMPTY: Self = Self {
        head: [NONE; BUCKETS],
        next: [NONE; MAX_ENTRIES],
    };

    /// Indexes `entries`; entries beyond [`MAX_ENTRIES`] are left out.
    pub fn rebuild(&mut self, entries: &[CpuidEntry]) {
        self.head = [NONE; BUCKETS];
        // Backwards, so that each chain starts with its first entry: of two that answer the same
        // request, the first in the table counts.
        for (position, entry) in entries.iter().enumerate().take(MAX_ENTRIES).rev() {
            let (Some(head), Some(next)) = (
                self.head.get_mut(bucket(entry.function)),
                self.next.get_mut(position),
            ) else {
                continue;
            };
            // INVARIANT: positions are visited in falling order, so the old head lies higher.
            *next = *head;
            *head = position as u16;
        }
    }

    /// Returns the position of the entry that answers for a leaf and subleaf.
    #[inline]
    pub fn position(&self, entries: &[CpuidEntry], function: u32, index: u32) -> Option<usize> {
        let mut at = usize::from(*self.head.get(bucket(function))?);
        while let Some(entry) = entries.get(at) {
            if entry.answers(function, index) {
                return Some(at);
            }
            at = usize::from(*self.next.get(at)?);
        }
        None
    }

    /// Returns the entry that answers for a leaf and subleaf.
    #[inline]
    pub fn find<'a>(
        &self,
        entries: &'a [CpuidEntry],
        function: u32,
        index: u32,
    ) -> Option<&'a CpuidEntry> {
        entries.get(self.position(entries, function, index)?)
    }
}

const fn bucket(function: u32) -> usize {
    ((function & 0x1f) | (function >> 30) << 5) as usize & (BUCKETS - 1)
}

/// Returns what CPUID returns with EAX = `function` and ECX = `subleaf`.
///
/// `index` must be the one of `entries`, and [`refresh`](super::refresh) must have run since a register
/// that the entries follow has changed.
///
/// ```
/// use vireo_model::model::cpuid::{lookup, CpuidEntry, Index, Regs};
///
/// let top = Regs { eax: 1, ..Regs::default() };
/// let leaf1 = Regs { eax: 0x306d4, ..Regs::default() };
/// let entries = [CpuidEntry::new(0, 0, top), CpuidEntry::new(1, 0, leaf1)];
/// let mut index = Index::EMPTY;
/// index.rebuild(&entries);
/// assert_eq!(lookup(&entries, &index, 1, 0), leaf1);
/// assert_eq!(lookup(&entries, &index, 0x1000, 0), leaf1, "above the highest leaf");
/// ```
#[inline]
pub fn lookup(entries: &[CpuidEntry], index: &Index, function: u32, subleaf: u32) -> Regs {
    match index.find(entries, function, subleaf) {
        Some(entry) => entry.regs(),
        None => lookup_missing(entries, index, function, subleaf),
    }
}

/// The answer for a leaf without an entry. Intel processors answer a leaf above the range's maximum with
/// the highest basic leaf (SDM vol. 2 CPUID), AMD's with zeros (APM vol. 3 appendix E).
#[cold]
fn lookup_missing(entries: &[CpuidEntry], index: &Index, function: u32, subleaf: u32) -> Regs {
    let function = match redirect(entries, index, function) {
        Some(highest) => match index.find(entries, highest, subleaf) {
            Some(entry) => return entry.regs(),
            None => highest,
        },
        None => function,
    };
    // Topology leaves pass the subleaf through and tell the x2APIC id even in subleaves that don't
    // exist; they are implemented when subleaf 1 is there.
    if matches!(function, leaf::TOPOLOGY | leaf::TOPOLOGY_V2) {
        if let Some(entry) = index.find(entries, function, 1) {
            return Regs {
                eax: 0,
                ebx: 0,
                ecx: subleaf & 0xff,
                edx: entry.edx,
            };
        }
    }
    Regs::default()
}

/// Returns the highest basic leaf when `function` is above its range's maximum and the vendor's
/// processors redirect such leaves.
fn redirect(entries: &[CpuidEntry], index: &Index, function: u32) -> Option<u32> {
    let basic = index.find(entries, leaf::VENDOR, 0)?;
    if vendor_of(basic) == Vendor::Amd {
        return None;
    }
    // The hypervisor range is divided into classes of 256 leaves, the others are whole.
    let base = match function {
        0x4000_0000..=0x4fff_ffff => function & 0xffff_ff00,
        0xc000_0000.. => 0xc000_0000,
        _ => function & leaf::EXTENDED,
    };
    match index.find(entries, base, 0) {
        Some(class) if function <= class.eax => None,
        _ => Some(basic.eax),
    }
}
