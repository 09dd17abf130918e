// SPDX-License-Identifier: GPL-2.0-only

//! The ICR, destinations and arbitration.

use super::*;
use crate::model::msi;

fn identity(id: u32, logical_id: u32, dfr: u32, mode: Mode) -> Identity {
    Identity {
        id,
        x2apic_id: id,
        logical_id,
        dfr,
        mode,
        enabled: true,
    }
}

/// "Interrupt Command Register (ICR)": fields, delivery status, destination.
#[test]
fn icr_fields() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x310, 0xab00_0000);
    for (low, delivery) in [
        (0x0040, DeliveryMode::Fixed),
        (0x0140, DeliveryMode::LowestPriority),
        (0x0240, DeliveryMode::Smi),
        (0x0340, DeliveryMode::Reserved),
        (0x0440, DeliveryMode::Nmi),
        (0x0540, DeliveryMode::Init),
        (0x0640, DeliveryMode::StartUp),
    ] {
        let ipi = Ipi {
            vector: 0x40,
            dest: 0xab,
            dest_mode: DestMode::Logical,
            delivery,
            shorthand: Shorthand::AllExcludingSelf,
        };
        assert_eq!(
            write(&mut lapic, 0x300, 0xfff0_5800 | 0xc_0000 | low),
            Effect::Ipi(ipi)
        );
        assert_eq!(read(&mut lapic, 0x300), 0xc_4800 | low);
    }
}

/// "Interrupt Command Register (ICR)": an INIT level de-assert does nothing on later processors.
#[test]
fn init_deassert_is_ignored() {
    let mut lapic = xapic();
    assert_eq!(write(&mut lapic, 0x300, 0x8500), Effect::None);
    assert!(matches!(write(&mut lapic, 0x300, 0xc500), Effect::Ipi(_)));
    assert!(matches!(write(&mut lapic, 0x300, 0x0500), Effect::Ipi(_)));
}

/// "Error Handling": an illegal vector is not sent; NMI, INIT and start-up have no vector to check.
#[test]
fn illegal_vectors_are_not_sent() {
    let mut lapic = xapic();
    assert_eq!(write(&mut lapic, 0x300, 0x000f), Effect::None);
    assert_eq!(write(&mut lapic, 0x300, 0x010f), Effect::None);
    let _ = write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), 1 << 5);
    for low in [0x400, 0x500, 0x608] {
        assert!(matches!(write(&mut lapic, 0x300, low), Effect::Ipi(_)));
    }
}

/// A fixed interrupt to the sender alone needs nobody else, and is edge triggered whatever the ICR says.
#[test]
fn self_shorthand_is_delivered_at_once() {
    let mut lapic = xapic();
    assert_eq!(write(&mut lapic, 0x300, 0x4_8041), Effect::None);
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert_eq!(lapic.eoi().map(|eoi| eoi.broadcast), Some(false));
    assert!(matches!(write(&mut lapic, 0x300, 0x4_0400), Effect::Ipi(_)));
}

/// "Physical Destination Mode".
#[test]
fn physical_destinations() {
    let apic = identity(5, 0, 0xffff_ffff, Mode::Xapic);
    let physical = |dest, sender| apic.matches(dest, DestMode::Physical, sender);
    assert!(physical(5, Sender::Apic) && !physical(4, Sender::Apic));
    assert!(physical(0xff, Sender::Apic) && physical(0xff, Sender::Device));
    assert!(!physical(0xffff_ffff, Sender::Apic));
    let apic = identity(0x105, 0x0010_0020, 0, Mode::X2apic);
    let physical = |dest, sender| apic.matches(dest, DestMode::Physical, sender);
    assert!(physical(0x105, Sender::Apic) && !physical(5, Sender::Apic));
    assert!(physical(0xffff_ffff, Sender::Device) && !physical(0xff, Sender::Apic));
    assert!(physical(0xff, Sender::Device) && !physical(0xff, Sender::WideDevice));
}

/// A vCPU above 255 is found by its ID before it is in x2APIC mode; one that renamed itself isn't.
#[test]
fn wide_ids_of_xapics() {
    let hotplugged = Identity {
        x2apic_id: 0x105,
        ..identity(5, 0, 0, Mode::Xapic)
    };
    assert!(hotplugged.matches(0x105, DestMode::Physical, Sender::Apic));
    let renamed = Identity {
        x2apic_id: 7,
        ..identity(5, 0, 0, Mode::Xapic)
    };
    assert!(!renamed.matches(7, DestMode::Physical, Sender::Apic));
}

/// "Logical Destination Mode": flat, cluster, any other DFR, x2APIC.
#[test]
fn logical_destinations() {
    let flat = identity(0, 0b0100, 0xffff_ffff, Mode::Xapic);
    let cluster = identity(0, 0x24, 0x0fff_ffff, Mode::Xapic);
    let neither = identity(0, 0x24, 0x1fff_ffff, Mode::Xapic);
    let x2apic = identity(0x22, 0x0002_0004, 0, Mode::X2apic);
    let cases = [
        (flat, 0b0110, true),
        (flat, 0b1011, false),
        (cluster, 0x26, true),
        (cluster, 0x16, false),
        (cluster, 0x2b, false),
        (neither, 0x24, false),
        (x2apic, 0x0002_000c, true),
        (x2apic, 0x0002_0008, false),
        (x2apic, 0x0001_0004, false),
    ];
    for (apic, dest, expected) in cases {
        assert_eq!(
            apic.matches(dest, DestMode::Logical, Sender::Apic),
            expected,
            "{apic:?} {dest:#x}"
        );
    }
    for apic in [flat, cluster, neither] {
        assert!(apic.matches(0xff, DestMode::Logical, Sender::Apic));
    }
    assert!(x2apic.matches(0xffff_ffff, DestMode::Logical, Sender::Apic));
}

/// "Destination Shorthand".
#[test]
fn shorthands() {
    let apic = identity(5, 1, 0xffff_ffff, Mode::Xapic);
    let cases = [
        (Shorthand::None, false, false),
        (Shorthand::SelfOnly, true, false),
        (Shorthand::AllIncludingSelf, true, true),
        (Shorthand::AllExcludingSelf, false, true),
    ];
    for (shorthand, to_sender, to_other) in cases {
        let ipi = Ipi {
            vector: 0x40,
            dest: 9,
            dest_mode: DestMode::Physical,
            delivery: DeliveryMode::Fixed,
            shorthand,
        };
        assert_eq!(ipi.reaches(&apic, true), to_sender);
        assert_eq!(ipi.reaches(&apic, false), to_other);
    }
}

/// "Local APIC State After It Has Been Software Disabled": NMI, SMI, INIT and start-up still work.
#[test]
fn disabled_destinations() {
    let off = Identity {
        enabled: false,
        ..identity(5, 0, 0xffff_ffff, Mode::Xapic)
    };
    let gone = identity(5, 0, 0xffff_ffff, Mode::Disabled);
    for bits in 0..8 {
        let delivery = DeliveryMode::from_bits(bits);
        assert_eq!(off.accepts(delivery), bits > 1);
        assert!(!gone.accepts(delivery));
    }
    let message = msi::decode(0xfee0_5000, 0, 0x41, false).unwrap();
    assert!(!off.takes(&message, Sender::Device));
    assert!(Identity {
        enabled: true,
        ..off
    }
    .takes(&message, Sender::Device));
    assert!(!gone.takes(&message, Sender::Device));
}

/// "Lowest Priority Delivery Mode".
#[test]
fn arbitration() {
    let list = |pprs: &[u8]| {
        let candidates = pprs
            .iter()
            .enumerate()
            .map(|(index, &ppr)| Candidate { index, ppr });
        candidates.collect::<Vec<_>>().into_iter()
    };
    assert_eq!(arbitrate(0x41, list(&[])), None);
    assert_eq!(arbitrate(0x41, list(&[0x50, 0x3f, 0x40])), Some(1));
    let equals = |vector| arbitrate(vector, list(&[0x50, 0x31, 0x3f, 0x30]));
    assert_eq!(
        [equals(0x30), equals(0x31), equals(0x32)],
        [Some(1), Some(2), Some(3)]
    );
}
