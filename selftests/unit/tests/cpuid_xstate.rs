// SPDX-License-Identifier: GPL-2.0-only

//! XSAVE areas and images: properties over arbitrary processors and bytes.

use proptest::prelude::*;
use vireo_model::model::cpuid::{HostCpuid, Regs};
use vireo_model::model::xstate::{
    bit, check_standard, xcr0_valid, xsetbv, Header, Layout, COMPONENTS, HEADER_OFFSET, MIN_AREA,
};

/// A processor with components of arbitrary sizes, offsets and flags.
#[derive(Clone, Debug)]
struct Parts(Vec<(u32, u32, u32)>);

impl HostCpuid for Parts {
    fn cpuid(&self, _: u32, index: u32) -> Regs {
        let (eax, ebx, ecx) = self.0.get(index as usize).copied().unwrap_or_default();
        Regs {
            eax,
            ebx,
            ecx,
            edx: 0,
        }
    }
}

fn sane() -> impl Strategy<Value = Parts> {
    prop::collection::vec((0u32..9000, 0u32..20000, 0u32..4), COMPONENTS).prop_map(Parts)
}

fn any_parts() -> impl Strategy<Value = Parts> {
    prop::collection::vec(any::<(u32, u32, u32)>(), COMPONENTS).prop_map(Parts)
}

proptest! {
    /// In a compacted area the components follow each other in order, aligned where they must be, and
    /// the area ends where the last one does.
    #[test]
    fn compacted_areas(parts in sane(), mask in 0u64..1 << COMPONENTS) {
        let layout = Layout::read(&parts, u64::MAX);
        let mut end = MIN_AREA;
        for number in 2..COMPONENTS {
            let part = layout.component(number).unwrap();
            let offset = layout.compacted_offset(mask, number);
            prop_assert_eq!(offset.is_some(), mask & 1 << number != 0 && part.size != 0);
            if let Some(offset) = offset {
                prop_assert!(offset >= end && offset < end + 64);
                prop_assert!(!part.is_aligned() || offset % 64 == 0);
                prop_assert!(part.is_aligned() || offset == end);
                end = offset + part.size;
            }
        }
        prop_assert_eq!(layout.compacted_size(mask), end);
        prop_assert_eq!(layout.compacted_size(mask & bit::LEGACY), MIN_AREA);
    }

    #[test]
    fn standard_areas_grow_with_their_mask(parts in sane(), mask: u64, more: u64) {
        let layout = Layout::read(&parts, u64::MAX);
        prop_assert!(layout.standard_size(mask) >= MIN_AREA);
        prop_assert!(layout.standard_size(mask | more) >= layout.standard_size(mask));
    }

    #[test]
    fn usable_components_are_what_was_asked_for(parts in any_parts(), read: u64, mask: u64, supervisor: bool) {
        let layout = Layout::read(&parts, read);
        let usable = layout.usable(mask, supervisor);
        prop_assert_eq!(usable & !mask, 0);
        prop_assert_eq!(usable & !(read | bit::LEGACY), 0);
        let _ = (layout.standard_size(mask), layout.compacted_size(mask));
        for number in 0..70 {
            let _ = layout.compacted_offset(mask, number);
        }
    }

    #[test]
    fn xcr0_never_leaves_what_is_offered(value: u64, low in 0u64..1 << 19, offered: u64, cpl in 0u8..4) {
        for value in [value, low] {
            if xcr0_valid(value, offered) {
                prop_assert_eq!(value & !(offered | 1), 0);
            }
            prop_assert_eq!(xsetbv(0, value, cpl, offered).is_ok(), cpl == 0 && xcr0_valid(value, offered));
        }
    }

    #[test]
    fn images_are_checked_without_panic(
        mut image in prop::collection::vec(any::<u8>(), 0..1200),
        header: Option<[u8; 8]>, xcr0: u64, mask: u32,
    ) {
        if let (Some(bytes), true) = (header, image.len() >= 600) {
            image[HEADER_OFFSET..HEADER_OFFSET + 64].fill(0);
            image[HEADER_OFFSET..HEADER_OFFSET + 8].copy_from_slice(&bytes);
        }
        if let Ok(header) = check_standard(&image, xcr0, mask) {
            prop_assert_eq!(header.xstate_bv & !(xcr0 | bit::LEGACY), 0);
            prop_assert_eq!(header.xcomp_bv, 0);
            prop_assert_eq!(Some(header), Header::parse(&image));
        }
    }
}
