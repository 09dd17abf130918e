// SPDX-License-Identifier: GPL-2.0-only

//! IA32_APIC_BASE, mode transitions and resets.

use super::*;
use crate::model::addr::Gpa;

/// "Local APIC Status and Location" and "Local APIC State After Power-Up or Reset".
#[test]
fn power_up() {
    let mut lapic = Lapic::new(Config::new(3, true));
    assert_eq!((lapic.base(), lapic.mode()), (BASE_XAPIC, Mode::Xapic));
    let expected = [
        (0x20, 3 << 24),
        (0x30, 0x5_0014),
        (0x80, 0),
        (0xa0, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x700),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(read(&mut lapic, offset), value, "register {offset:#x}");
    }
    assert!(lapic.accepts_extint());
    let mut ap = Lapic::new(Config::new(4, false));
    assert_eq!(ap.base(), 0xfee0_0800);
    assert_eq!(read(&mut ap, 0x350), 0x1_0000);
    assert!(!ap.accepts_extint());
}

/// "Local APIC Version Register": the number of entries and the directed-EOI bit.
#[test]
fn version_follows_the_configuration() {
    let mut lapic = Lapic::new(Config::new(0, true));
    lapic.set_config(Config {
        cmci: true,
        directed_eoi: true,
        ..Config::new(0, true)
    });
    assert_eq!(read(&mut lapic, 0x30), 0x0106_0014);
    assert_eq!(read(&mut lapic, 0x2f0), 0x1_0000);
    let _ = write(&mut lapic, 0xf0, 0x11ff);
    assert_eq!(read(&mut lapic, 0xf0), 0x11ff);
    lapic.set_config(Config::new(0, true));
    let _ = write(&mut lapic, 0xf0, 0x11ff);
    assert_eq!(read(&mut lapic, 0xf0), 0x1ff);
}

/// "x2APIC State Transitions": every pair of states.
#[test]
fn transitions_of_the_guest() {
    let steps = [BASE_DISABLED, BASE_XAPIC, BASE_X2APIC, 0xfee0_0500];
    let allowed = [
        [true, true, false, false],
        [true, true, true, false],
        [true, false, true, false],
    ];
    for (from, row) in allowed.iter().enumerate() {
        for (to, &ok) in row.iter().enumerate() {
            let mut lapic = Lapic::new(Config::new(3, true));
            let _ = lapic.write_base(steps[from], Initiator::Host).unwrap();
            let result = lapic.write_base(steps[to], Initiator::Guest);
            assert_eq!(result.is_ok(), ok, "{from} to {to}");
            assert_eq!(lapic.base(), if ok { steps[to] } else { steps[from] });
        }
    }
}

/// The VMM may restore any valid state over any other.
#[test]
fn transitions_of_the_host() {
    let mut lapic = xapic();
    for base in [BASE_X2APIC, BASE_XAPIC, BASE_DISABLED, BASE_X2APIC] {
        assert!(lapic.write_base(base, Initiator::Host).unwrap().mode);
    }
    assert_eq!(lapic.write_base(0xfee0_0500, Initiator::Host), Err(Gp));
    assert!(lapic.software_enabled());
}

/// "Local APIC Status and Location": reserved bits, and bits above the physical-address width.
#[test]
fn reserved_bits_fault() {
    let mut lapic = Lapic::new(Config {
        x2apic: false,
        ..Config::new(0, true)
    });
    for bit in (0..8).chain([9, 10, 36, 51, 52, 63]) {
        assert_eq!(
            lapic.write_base(BASE_XAPIC | 1 << bit, Initiator::Guest),
            Err(Gp),
            "{bit}"
        );
    }
    let moved = lapic.write_base(0x8_1234_5800, Initiator::Guest).unwrap();
    assert_eq!(
        moved,
        BaseChange {
            mode: false,
            address: true,
            stop_timer: false
        }
    );
    assert_eq!(lapic.address(), Gpa::new(0x8_1234_5000));
    lapic.set_config(Config {
        phys_bits: 255,
        ..Config::new(0, true)
    });
    assert!(lapic
        .write_base(BASE_XAPIC | 1 << 51, Initiator::Guest)
        .is_ok());
    assert_eq!(
        lapic.write_base(BASE_XAPIC | 1 << 52, Initiator::Guest),
        Err(Gp)
    );
}

/// "Relocating the Local APIC Registers".
#[test]
fn the_page_is_where_the_base_says() {
    let mut lapic = xapic();
    assert_eq!(lapic.mmio_offset(Gpa::new(0xfee0_00b4)), Some(0xb4));
    assert_eq!(lapic.mmio_offset(Gpa::new(0xfee0_1000)), None);
    let _ = lapic.write_base(0x1_0000_0900, Initiator::Guest).unwrap();
    assert_eq!(lapic.mmio_offset(Gpa::new(0xfee0_00b0)), None);
    assert_eq!(lapic.mmio_offset(Gpa::new(0x1_0000_0fff)), Some(0xfff));
    let _ = lapic.write_base(0x1_0000_0d00, Initiator::Guest).unwrap();
    assert_eq!(lapic.mmio_offset(Gpa::new(0x1_0000_00b0)), None);
}

/// "x2APIC State Transitions": ID and LDR in x2APIC mode; ID above 255 in both.
#[test]
fn ids_follow_the_mode() {
    let mut lapic = Lapic::new(Config::new(0x1_2345, false));
    assert_eq!(read(&mut lapic, 0x20), 0x45 << 24);
    let _ = write(&mut lapic, 0x20, 0x7700_0000);
    let _ = lapic.write_base(0xfee0_0c00, Initiator::Guest).unwrap();
    assert_eq!(lapic.x2apic_read(0x802, &T0), Ok(0x1_2345));
    assert_eq!(lapic.x2apic_read(0x80d, &T0), Ok(0x1234_0020));
    let identity = lapic.identity();
    assert_eq!((identity.id, identity.logical_id), (0x1_2345, 0x1234_0020));
    let _ = lapic.write_base(0xfee0_0000, Initiator::Guest).unwrap();
    let _ = lapic.write_base(0xfee0_0800, Initiator::Guest).unwrap();
    assert_eq!(read(&mut lapic, 0x20), 0x45 << 24);
}

/// "x2APIC State Transitions": disabling loses all registers.
#[test]
fn disabling_loses_the_state() {
    let mut lapic = x2apic();
    edge(&mut lapic, 0x41);
    let change = lapic.write_base(BASE_DISABLED, Initiator::Guest).unwrap();
    assert_eq!(
        change,
        BaseChange {
            mode: true,
            address: false,
            stop_timer: true
        }
    );
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(edge(&mut lapic, 0x41), Accepted::Refused);
    assert!(lapic.accepts_extint());
    let _ = lapic.write_base(BASE_XAPIC, Initiator::Guest).unwrap();
    assert_eq!(read(&mut lapic, 0xf0), 0xff);
}

/// "Local APIC State After an INIT Reset": the ID and the mode stay.
#[test]
fn init_keeps_id_and_mode() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x20, 0x5a00_0000);
    let _ = write(&mut lapic, 0xd0, 0x0400_0000);
    edge(&mut lapic, 0x41);
    lapic.acknowledge();
    lapic.reset(Reset::Init);
    assert_eq!(read(&mut lapic, 0x20), 0x5a00_0000);
    assert_eq!((read(&mut lapic, 0xd0), read(&mut lapic, 0xf0)), (0, 0xff));
    assert_eq!((lapic.ppr(), lapic.eoi()), (0, None));
    lapic.reset(Reset::PowerUp);
    assert_eq!(read(&mut lapic, 0x20), 3 << 24);

    let mut lapic = x2apic();
    lapic.reset(Reset::Init);
    assert_eq!(lapic.base(), BASE_X2APIC);
    assert_eq!(lapic.x2apic_read(0x802, &T0), Ok(3));
    assert_eq!(lapic.x2apic_read(0x80d, &T0), Ok(8));
    assert_eq!(lapic.x2apic_read(0x80f, &T0), Ok(0xff));
    lapic.reset(Reset::PowerUp);
    assert_eq!(lapic.base(), BASE_XAPIC);
}

/// What the VMM restored into a disabled APIC waits until the APIC is enabled.
#[test]
fn a_disabled_apic_holds_restored_interrupts_back() {
    let mut lapic = xapic();
    edge(&mut lapic, 0x41);
    let _ = lapic.write_base(BASE_DISABLED, Initiator::Host).unwrap();
    assert_eq!(
        (lapic.pending_interrupt(), lapic.acknowledge()),
        (None, None)
    );
    let _ = lapic.write_base(BASE_XAPIC, Initiator::Host).unwrap();
    assert_eq!(lapic.acknowledge(), Some(0x41));
}
