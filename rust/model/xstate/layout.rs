// SPDX-License-Identifier: GPL-2.0-only

//! Where each component lies in an XSAVE area, and how large an area is (SDM vol. 1 section 13.4).

use super::bit;
use crate::model::cpuid::HostCpuid;

/// Bytes of the legacy region (the FXSAVE image).
pub const LEGACY_SIZE: u32 = 512;

/// Bytes of the smallest XSAVE area: the legacy region and the header.
pub const MIN_AREA: u32 = LEGACY_SIZE + 64;

/// State components that the layout tracks; the architecture has defined numbers below this one.
pub const COMPONENTS: usize = 20;

/// The components outside the legacy region.
const EXTENDED: u64 = !bit::LEGACY;

/// The CPUID leaf that describes the components (SDM vol. 1 section 13.2).
const LEAF_XSTATE: u32 = 0xd;

/// A component's alignment in a compacted area, in bytes.
const COMPACT_ALIGN: u32 = 64;

/// One state component, as a subleaf of CPUID leaf 0xD enumerates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// Size in bytes, 0 when the processor has no such component.
    pub size: u32,
    /// Offset in an area of the standard format, in bytes; 0 for supervisor components.
    pub offset: u32,
    /// Subleaf ECX: bit 0 is set for supervisor components, bit 1 for 64-byte alignment when compacted.
    pub flags: u32,
}

impl Component {
    /// Returns true for a component that IA32_XSS enables, false for one of XCR0's.
    pub const fn is_supervisor(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Returns true when a compacted area places the component at a multiple of 64 bytes.
    pub const fn is_aligned(&self) -> bool {
        self.flags & 2 != 0
    }
}

/// The components of this machine's processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    components: [Component; COMPONENTS],
}

impl Layout {
    /// Reads the components in `mask` (XCR0 and IA32_XSS bits) from the host's CPUID.
    pub fn read(host: &impl HostCpuid, mask: u64) -> Self {
        let mut layout = Self::default();
        for (number, slot) in layout.components.iter_mut().enumerate() {
            if mask & EXTENDED & component_bit(number) != 0 {
                let leaf = host.cpuid(LEAF_XSTATE, number as u32);
                *slot = Component {
                    size: leaf.eax,
                    offset: leaf.ebx,
                    flags: leaf.ecx,
                };
            }
        }
        layout
    }

    /// Returns component `number`, or `None` outside what the layout tracks.
    pub fn component(&self, number: usize) -> Option<&Component> {
        self.components.get(number)
    }

    /// Drops from `mask` the components that the processor doesn't enumerate consistently: no size, a
    /// user component at no offset, or the wrong register (XCR0 or IA32_XSS, by `supervisor`).
    pub fn usable(&self, mask: u64, supervisor: bool) -> u64 {
        let mut usable = if supervisor { 0 } else { mask & bit::LEGACY };
        for (number, part) in self.components.iter().enumerate() {
            let placed = supervisor || part.offset >= MIN_AREA;
            if part.size != 0 && placed && part.is_supervisor() == supervisor {
                usable |= mask & component_bit(number);
            }
        }
        usable
    }

    /// Returns the bytes of an area of the standard format that holds the components of `mask`.
    pub fn standard_size(&self, mask: u64) -> u32 {
        let mut size = MIN_AREA;
        for (_, part) in self.selected(mask) {
            size = size.max(part.offset.saturating_add(part.size));
        }
        size
    }

    /// Returns the bytes of a compacted area that holds the components of `mask`.
    pub fn compacted_size(&self, mask: u64) -> u32 {
        let mut size = MIN_AREA;
        for (_, part) in self.selected(mask) {
            size = compact_offset(size, part).saturating_add(part.size);
        }
        size
    }

    /// Returns the offset of component `number` in a compacted area of `mask`, in bytes, or `None` when
    /// the area does not hold it.
    pub fn compacted_offset(&self, mask: u64, number: usize) -> Option<u32> {
        let mut size = MIN_AREA;
        for (this, part) in self.selected(mask) {
            let offset = compact_offset(size, part);
            if this == number {
                return Some(offset);
            }
            size = offset.saturating_add(part.size);
        }
        None
    }

    fn selected(&self, mask: u64) -> impl Iterator<Item = (usize, &Component)> {
        (0..COMPONENTS)
            .zip(&self.components)
            .filter(move |(number, part)| mask & component_bit(*number) != 0 && part.size != 0)
    }
}

/// The bit of component `number`, which is below 64, in XCR0 or IA32_XSS.
pub(crate) const fn component_bit(number: usize) -> u64 {
    1u64.wrapping_shl(number as u32)
}

fn compact_offset(end: u32, part: &Component) -> u32 {
    if part.is_aligned() {
        end.checked_next_multiple_of(COMPACT_ALIGN).unwrap_or(end)
    } else {
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cpuid::Regs;

    /// A Sapphire-Rapids-like enumeration.
    struct Host;

    impl HostCpuid for Host {
        fn cpuid(&self, function: u32, index: u32) -> Regs {
            assert_eq!(function, 0xd);
            let (eax, ebx, ecx) = match index {
                2 => (256, 576, 0),
                5 => (64, 1088, 0),
                6 => (512, 1152, 0),
                7 => (1024, 1664, 0),
                8 => (128, 0, 1),
                9 => (8, 2688, 0),
                11 => (16, 0, 1),
                12 => (24, 0, 1),
                17 => (64, 2752, 2),
                18 => (8192, 2816, 6),
                _ => (0, 0, 0),
            };
            Regs {
                eax,
                ebx,
                ecx,
                edx: 0,
            }
        }
    }

    #[test]
    fn standard_sizes_match_hardware() {
        let l = Layout::read(&Host, u64::MAX);
        assert_eq!(l.standard_size(0), 576);
        assert_eq!(l.standard_size(bit::LEGACY), 576);
        assert_eq!(l.standard_size(bit::LEGACY | bit::AVX), 832);
        assert_eq!(l.standard_size(bit::LEGACY | bit::AVX | bit::AVX512), 2688);
        assert_eq!(
            l.standard_size(bit::LEGACY | bit::AVX | bit::AVX512 | bit::PKRU),
            2696
        );
        assert_eq!(l.standard_size(0x602e7), 11008);
    }

    #[test]
    fn compacted_sizes_and_offsets() {
        let l = Layout::read(&Host, u64::MAX);
        assert_eq!(l.compacted_size(bit::LEGACY | bit::AVX), 832);
        assert_eq!(l.compacted_size(bit::LEGACY | bit::AVX | bit::PKRU), 840);
        assert_eq!(
            l.compacted_offset(bit::LEGACY | bit::AVX | bit::PKRU, 9),
            Some(832)
        );
        let tile = bit::LEGACY | bit::PKRU | bit::XTILE;
        assert_eq!(
            l.compacted_offset(tile, 17),
            Some(640),
            "aligned up from 584"
        );
        assert_eq!(l.compacted_size(tile), 640 + 64 + 8192);
        assert_eq!(l.compacted_offset(tile, 2), None);
        assert_eq!(l.compacted_offset(tile, 63), None);
    }

    #[test]
    fn unusable_components_are_dropped() {
        let l = Layout::read(&Host, u64::MAX);
        assert_eq!(
            l.usable(bit::LEGACY | bit::AVX | bit::MPX, false),
            bit::LEGACY | bit::AVX
        );
        assert_eq!(l.usable(bit::CET | bit::AVX, true), bit::CET);
        assert_eq!(l.usable(bit::PT | bit::AVX, false), bit::AVX);
        let none = Layout::read(&Host, 0);
        assert_eq!(none.usable(u64::MAX, false), bit::LEGACY);
        assert_eq!(none.usable(u64::MAX, true), 0);
    }

    #[test]
    fn absurd_sizes_saturate() {
        struct Absurd;
        impl HostCpuid for Absurd {
            fn cpuid(&self, _: u32, _: u32) -> Regs {
                Regs {
                    eax: u32::MAX,
                    ebx: u32::MAX,
                    ecx: 2,
                    edx: 0,
                }
            }
        }
        let l = Layout::read(&Absurd, u64::MAX);
        assert_eq!(l.standard_size(u64::MAX), u32::MAX);
        assert_eq!(l.compacted_size(u64::MAX), u32::MAX);
        let _ = l.compacted_offset(u64::MAX, 19);
    }
}
