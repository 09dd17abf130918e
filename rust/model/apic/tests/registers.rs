// SPDX-License-Identifier: GPL-2.0-only

//! Accesses to the register page and to the x2APIC MSRs.

use super::*;

/// "Local APIC Register Address Map": what a write leaves in each register.
#[test]
fn writable_bits_in_xapic_mode() {
    let expected = [
        (0x20, 0xff00_0000),
        (0x80, 0xff),
        (0xd0, 0xff00_0000),
        (0xe0, 0xffff_ffff),
        (0xf0, 0x3ff),
        (0x310, 0xff00_0000),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x3e0, 0xb),
    ];
    for (offset, value) in expected {
        let mut lapic = xapic();
        let _ = write(&mut lapic, offset, u32::MAX);
        assert_eq!(read(&mut lapic, offset), value, "register {offset:#x}");
    }
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0xe0, 0);
    assert_eq!(read(&mut lapic, 0xe0), 0x0fff_ffff);
    let _ = write(&mut lapic, 0x380, 0xffff_ffff);
    assert_eq!(read(&mut lapic, 0x380), 0xffff_ffff);
}

/// Without TSC-deadline mode in CPUID its bit is reserved.
#[test]
fn timer_mode_bits_follow_cpuid() {
    let mut lapic = Lapic::new(Config {
        tsc_deadline: false,
        ..Config::new(0, true)
    });
    let _ = write(&mut lapic, 0x320, u32::MAX);
    assert_eq!(read(&mut lapic, 0x320), 0x3_00ff);
}

/// "Local APIC Register Address Map": reads of narrow and odd sizes.
#[test]
fn read_sizes() {
    let mut lapic = xapic();
    assert_eq!(lapic.mmio_read(0x30, 1, &T0), 0x14);
    assert_eq!(lapic.mmio_read(0x32, 1, &T0), 0x05);
    assert_eq!(lapic.mmio_read(0x32, 2, &T0), 0x05);
    assert_eq!(lapic.mmio_read(0x30, 8, &T0), 0x5_0014);
    assert_eq!(lapic.mmio_read(0x34, 4, &T0), 0);
    assert_eq!(lapic.mmio_read(0x30, 0, &T0), 0);
    assert_eq!(lapic.mmio_read(0x33, 4, &T0), 0);
}

/// "Local APIC Register Address Map": writes of other sizes are undefined, and ignored here.
#[test]
fn write_sizes() {
    let mut lapic = xapic();
    for (offset, len) in [(0x80, 1), (0x80, 2), (0x80, 8), (0x84, 4), (0x81, 4)] {
        assert_eq!(lapic.mmio_write(offset, len, 0x55, &T0), Effect::None);
        assert_eq!(lapic.tpr(), 0);
    }
}

/// "Error Handling": an access to a reserved register sets ESR bit 7, shown after a write to ESR.
#[test]
fn reserved_registers_are_recorded() {
    for offset in [
        0x00, 0x10, 0x40, 0x70, 0x290, 0x2f0, 0x3a0, 0x3f0, 0x400, 0xff0,
    ] {
        let mut lapic = xapic();
        assert_eq!(read(&mut lapic, offset), 0);
        assert_eq!(read(&mut lapic, 0x280), 0);
        let _ = write(&mut lapic, 0x280, 0x1234);
        assert_eq!(read(&mut lapic, 0x280), 1 << 7, "read of {offset:#x}");
        let _ = write(&mut lapic, 0x280, 0);
        assert_eq!(read(&mut lapic, 0x280), 0);
        let _ = write(&mut lapic, offset, 1);
        let _ = write(&mut lapic, 0x280, 0);
        assert_eq!(read(&mut lapic, 0x280), 1 << 7, "write of {offset:#x}");
    }
}

/// Read-only registers keep their value, and EOI reads as 0; neither is an error.
#[test]
fn read_only_registers() {
    let mut lapic = xapic();
    assert_eq!(read(&mut lapic, 0xb0), 0);
    for offset in [0x30, 0x90, 0xa0, 0x100, 0x1f0, 0x270, 0x390] {
        let before = read(&mut lapic, offset);
        let _ = write(&mut lapic, offset, u32::MAX);
        assert_eq!(read(&mut lapic, offset), before);
    }
    let _ = write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), 0);
}

/// "Error Handling": one interrupt until ESR is written again.
#[test]
fn the_error_interrupt_comes_once() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x370, 0xfe);
    edge(&mut lapic, 5);
    assert_eq!(lapic.acknowledge(), Some(0xfe));
    lapic.eoi();
    edge(&mut lapic, 6);
    assert_eq!(lapic.pending_interrupt(), None);
    let _ = write(&mut lapic, 0x280, 0);
    edge(&mut lapic, 7);
    assert_eq!(lapic.pending_interrupt(), Some(0xfe));
    // An illegal vector in the entry itself is one more error, and no interrupt.
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x370, 0x05);
    let _ = write(&mut lapic, 0x300, 0x4_0005);
    assert_eq!(lapic.pending_interrupt(), None);
    let _ = write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), (1 << 5) | (1 << 6));
}

/// "x2APIC Register Address Space": which MSRs exist, and their direction.
#[test]
fn msrs_that_exist() {
    let readable = [
        0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, 0x28, 0x30, 0x38, 0x39, 0x3e,
    ]
    .into_iter()
    .chain(0x10..0x28)
    .chain(0x32..0x38)
    .collect::<Vec<u32>>();
    let writable = [0x08, 0x0b, 0x0f, 0x28, 0x30, 0x38, 0x3e, 0x3f]
        .into_iter()
        .chain(0x32..0x38)
        .collect::<Vec<u32>>();
    for reg in 0..0x100 {
        let mut lapic = x2apic();
        assert_eq!(
            lapic.x2apic_read(0x800 + reg, &T0).is_ok(),
            readable.contains(&reg),
            "{reg:#x}"
        );
        let write = lapic.x2apic_write(0x800 + reg, 0, &T0);
        assert_eq!(write.is_ok(), writable.contains(&reg), "{reg:#x}");
    }
    let mut lapic = xapic();
    assert_eq!(lapic.x2apic_read(0x803, &T0), Err(Gp));
    assert_eq!(lapic.x2apic_write(0x80b, 0, &T0), Err(Gp));
}

/// "Reserved Bit Checking": every bit of every writable MSR.
#[test]
fn reserved_bits_of_msrs_fault() {
    let allowed: [(u32, u64); 14] = [
        (0x808, 0xff),
        (0x80b, 0),
        (0x80f, 0x3ff),
        (0x828, 0),
        (0x830, 0xffff_ffff_000c_dfff),
        (0x832, 0x7_10ff),
        (0x833, 0x1_17ff),
        (0x834, 0x1_17ff),
        (0x835, 0x1_f7ff),
        (0x836, 0x1_f7ff),
        (0x837, 0x1_10ff),
        (0x838, 0xffff_ffff),
        (0x83e, 0xb),
        (0x83f, 0xff),
    ];
    for (msr, bits) in allowed {
        for bit in 0..64 {
            let result = x2apic().x2apic_write(msr, 1 << bit, &T0);
            assert_eq!(
                result.is_ok(),
                bits & (1 << bit) != 0,
                "MSR {msr:#x} bit {bit}"
            );
        }
    }
}

/// "ICR Operation in x2APIC Mode": one 64-bit register, no delivery status.
#[test]
fn x2apic_icr_is_64_bits_wide() {
    let mut lapic = x2apic();
    let effect = lapic
        .x2apic_write(0x830, 0x1234_5678_0000_18fe, &T0)
        .unwrap();
    let ipi = Ipi {
        vector: 0xfe,
        dest: 0x1234_5678,
        dest_mode: DestMode::Logical,
        delivery: DeliveryMode::Fixed,
        shorthand: Shorthand::None,
    };
    assert_eq!(effect, Effect::Ipi(ipi));
    assert_eq!(lapic.x2apic_read(0x830, &T0), Ok(0x1234_5678_0000_08fe));
}

/// "SELF IPI Register".
#[test]
fn self_ipi_register() {
    let mut lapic = x2apic();
    assert_eq!(lapic.x2apic_write(0x83f, 0x45, &T0), Ok(Effect::None));
    assert_eq!(lapic.pending_interrupt(), Some(0x45));
    assert_eq!(lapic.x2apic_write(0x83f, 0x05, &T0), Ok(Effect::None));
    assert_eq!(lapic.x2apic_write(0x828, 0, &T0), Ok(Effect::None));
    assert_eq!(lapic.x2apic_read(0x828, &T0), Ok(1 << 5));
}

/// What others see of an APIC is announced when it changes, and only then.
#[test]
fn identity_changes_are_announced() {
    let mut lapic = xapic();
    for (offset, value) in [(0x20, 9 << 24), (0xd0, 4 << 24), (0xe0, 0), (0xf0, 0xff)] {
        assert_eq!(write(&mut lapic, offset, value), Effect::Identity);
        assert_eq!(write(&mut lapic, offset, value), Effect::None);
    }
    let identity = lapic.identity();
    assert_eq!(
        (identity.id, identity.logical_id, identity.dfr),
        (9, 4, 0x0fff_ffff)
    );
    assert!(!identity.enabled);
}
