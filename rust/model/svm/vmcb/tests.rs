// SPDX-License-Identifier: GPL-2.0-only

use super::*;

fn control() -> ControlArea {
    ControlArea {
        intercepts: [0; 6],
        _reserved_018: [0; 0x3c - 0x18],
        pause_filter_threshold: 0,
        pause_filter_count: 0,
        iopm_base_pa: 0,
        msrpm_base_pa: 0,
        tsc_offset: 0,
        guest_asid: 0,
        tlb_control: 0,
        _reserved_05d: [0; 3],
        v_intr: 0,
        interrupt_state: 0,
        exitcode: 0,
        exitinfo1: 0,
        exitinfo2: 0,
        exitintinfo: 0,
        np_enable: 0,
        avic_apic_bar: 0,
        ghcb_gpa: 0,
        eventinj: 0,
        n_cr3: 0,
        lbr_virtualization: 0,
        vmcb_clean: 0,
        _reserved_0c4: [0; 4],
        nrip: 0,
        bytes_fetched: 0,
        instruction_bytes: [0; FETCHED_BYTES],
        avic_backing_page: 0,
        _reserved_0e8: [0; 8],
        avic_logical_table: 0,
        avic_physical_table: 0,
        _reserved_100: [0; 8],
        vmsa_pa: 0,
        _reserved_110: [0; 0x3e0 - 0x110],
        host_use: [0; 0x20],
    }
}

/// Section 15.15.1: a group is read again if its bit is clear.
#[test]
fn written_groups_are_dirty() {
    let mut control = control();
    control.mark_clean();
    assert_eq!(control.vmcb_clean, 0x1fff);
    control.mark_dirty(Clean::CR.with(Clean::SEG));
    assert_eq!(control.vmcb_clean, 0x1fff & !(1 << 5 | 1 << 8));
}

/// Table B-1, offsets 060h, 068h, 090h and 0B8h.
#[test]
fn bits_of_the_manual() {
    for (bits, first, last) in [
        (v_intr::V_TPR, 0, 7),
        (v_intr::V_IRQ, 8, 8),
        (v_intr::V_GIF, 9, 9),
        (v_intr::V_NMI, 11, 11),
        (v_intr::V_NMI_MASK, 12, 12),
        (v_intr::V_INTR_PRIO, 16, 19),
        (v_intr::V_IGN_TPR, 20, 20),
        (v_intr::V_INTR_MASKING, 24, 24),
        (v_intr::V_GIF_ENABLE, 25, 25),
        (v_intr::V_NMI_ENABLE, 26, 26),
        (v_intr::X2AVIC_ENABLE, 30, 30),
        (v_intr::AVIC_ENABLE, 31, 31),
        (v_intr::V_INTR_VECTOR, 32, 39),
        (interrupt_state::INTERRUPT_SHADOW, 0, 0),
        (interrupt_state::GUEST_INTERRUPT_MASK, 1, 1),
        (np_enable::NP_ENABLE, 0, 0),
        (lbr_virtualization::LBR_VIRTUALIZATION_ENABLE, 0, 0),
        (lbr_virtualization::VIRTUAL_VMLOAD_VMSAVE, 1, 1),
    ] {
        assert_eq!(bits.trailing_zeros(), first);
        assert_eq!(bits.ilog2(), last);
        assert_eq!(bits.count_ones(), last - first + 1);
    }
}

#[test]
fn interrupt_control_is_dirty_only_if_it_changes() {
    let mut control = control();
    control.mark_clean();
    control.set_v_intr(v_intr::V_TPR, 0);
    assert_eq!(control.vmcb_clean, 0x1fff);
    control.set_v_intr(v_intr::V_TPR, 5);
    assert_eq!((control.v_intr, control.vmcb_clean), (5, 0x1ff7));
    let window = v_intr::V_IRQ | v_intr::V_INTR_PRIO | v_intr::V_INTR_VECTOR;
    control.set_v_intr(window, v_intr::V_IRQ | 0xf << 16 | 0x31 << 32 | 7);
    assert_eq!(control.v_intr, 0x31_000f_0105, "bits outside the mask stay");
}

#[test]
fn fetched_code_is_what_the_count_says() {
    let mut control = control();
    control.instruction_bytes = core::array::from_fn(|i| i as u8);
    assert_eq!(control.fetched(), &[]);
    control.bytes_fetched = 3;
    assert_eq!(control.fetched(), &[0, 1, 2]);
    for count in 0..=u8::MAX {
        control.bytes_fetched = count;
        assert!(control.fetched().len() <= FETCHED_BYTES);
    }
}

/// Section 15.5.1: the attribute bits of the descriptor without the gap of its limit bits.
#[test]
fn code_segment_of_the_manual() {
    let code = Segment::flat(
        0x10,
        ar::P | ar::S | ar::CODE | ar::READABLE | ar::ACCESSED | ar::L | ar::G,
    );
    let vmcb = VmcbSegment::from(&code);
    assert_eq!(vmcb.attrib, 0xa9b);
    assert_eq!((vmcb.selector, vmcb.limit, vmcb.base), (0x10, u32::MAX, 0));
    assert_eq!(Segment::from(&vmcb), code);
}

#[test]
fn unusable_is_not_present() {
    let null = Segment {
        ar: ar::UNUSABLE | ar::P | ar::S | ar::WRITABLE,
        ..Segment::default()
    };
    let vmcb = VmcbSegment::from(&null);
    assert_eq!(vmcb.attrib, 0x12);
    assert!(Segment::from(&vmcb).is_unusable());
    assert!(Segment::from(&VmcbSegment::default()).is_unusable());
}

#[test]
fn loaded_segments_get_what_every_loaded_segment_has() {
    let from = |attrib, limit| {
        Segment::from(&VmcbSegment {
            attrib,
            limit,
            ..VmcbSegment::default()
        })
        .ar
    };
    assert_eq!(from(0x092, 0xffff), 0x93, "data is accessed");
    assert_eq!(
        from(0x893, 0xffff),
        0x93,
        "no granularity for a small limit"
    );
    assert_eq!(
        from(0x093, 0x10_0fff),
        0x8093,
        "granularity for a large one"
    );
    assert_eq!(from(0x089, 0x67), 0x8b, "a task is busy");
    assert_eq!(from(0x081, 0x2b), 0x83, "a 16-bit one too");
    assert_eq!(from(0x08b, 0x67), 0x8b);
    assert_eq!(from(0x082, 0xf), 0x82, "an LDT has no such bit");
}

#[test]
fn stack_segment_has_the_privilege_level() {
    let data = VmcbSegment::from(&Segment::real_mode(0));
    assert_eq!(data.stack_segment(3).dpl(), 3);
    assert_eq!(data.stack_segment(0).dpl(), 0);
    let user = VmcbSegment {
        attrib: 0xf3,
        ..data
    };
    assert_eq!(user.stack_segment(0).dpl(), 0);
}

#[test]
fn usable_segments_survive() {
    for rights in 0..=0xffffu32 {
        let reserved = rights & 0xf00 != 0;
        let granular = rights & ar::G != 0;
        let loaded = rights & ar::S != 0 && rights & ar::ACCESSED != 0;
        if reserved || rights & ar::P == 0 || !loaded {
            continue;
        }
        let segment = Segment {
            selector: rights as u16,
            ar: rights,
            base: 0xffff_8000_0000_0000,
            limit: if granular { u32::MAX } else { 0xf_ffff },
        };
        assert_eq!(Segment::from(&VmcbSegment::from(&segment)), segment);
    }
}
