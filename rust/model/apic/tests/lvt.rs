// SPDX-License-Identifier: GPL-2.0-only

//! The local vector table.

use super::*;

/// "Local Vector Table": every delivery mode of a pin.
#[test]
fn delivery_modes_of_pins() {
    let cases = [
        (0x041, LvtEvent::Interrupt),
        (0x141, LvtEvent::None),
        (0x241, LvtEvent::Smi),
        (0x341, LvtEvent::None),
        (0x441, LvtEvent::Nmi),
        (0x541, LvtEvent::Init),
        (0x641, LvtEvent::None),
        (0x741, LvtEvent::ExtInt),
    ];
    for (entry, event) in cases {
        for (lvt, offset) in [(Lvt::Lint0, 0x350), (Lvt::Lint1, 0x360)] {
            let mut lapic = xapic();
            let _ = write(&mut lapic, offset, entry);
            assert_eq!(lapic.accept_lvt(lvt), event);
            let vector = (event == LvtEvent::Interrupt).then_some(0x41);
            assert_eq!(lapic.pending_interrupt(), vector);
            let _ = write(&mut lapic, offset, entry | 0x1_0000);
            assert_eq!(lapic.accept_lvt(lvt), LvtEvent::None);
        }
    }
}

/// ExtINT is a mode of the LINT pins only.
#[test]
fn no_extint_from_inside() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x330, 0x700);
    assert_eq!(lapic.accept_lvt(Lvt::Thermal), LvtEvent::None);
}

/// "Local Vector Table": remote IRR of a level-triggered pin.
#[test]
fn level_pins_wait_for_eoi() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x350, 0x8041);
    assert_eq!(lapic.accept_lvt(Lvt::Lint0), LvtEvent::Interrupt);
    assert_eq!(read(&mut lapic, 0x350), 0xc041);
    assert_eq!(lapic.accept_lvt(Lvt::Lint0), LvtEvent::None);
    // Read-only for software.
    let _ = write(&mut lapic, 0x350, 0x8041);
    assert_eq!(read(&mut lapic, 0x350), 0xc041);
    lapic.acknowledge();
    assert!(lapic.eoi().is_some());
    assert_eq!(read(&mut lapic, 0x350), 0x8041);
    assert_eq!(lapic.accept_lvt(Lvt::Lint0), LvtEvent::Interrupt);
    // Edge mode has no such state.
    let _ = write(&mut lapic, 0x350, 0x0041);
    assert_eq!(read(&mut lapic, 0x350), 0x0041);
}

/// "Generating an Interrupt on Overflow": the entry masks itself.
#[test]
fn the_performance_entry_masks_itself() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x340, 0x400);
    assert_eq!(lapic.accept_lvt(Lvt::Perf), LvtEvent::Nmi);
    assert_eq!(read(&mut lapic, 0x340), 0x1_0400);
    assert_eq!(lapic.accept_lvt(Lvt::Perf), LvtEvent::None);
}

/// "Local APIC State After It Has Been Software Disabled": masked, and not to be unmasked.
#[test]
fn software_disabled_masks_every_entry() {
    let mut lapic = xapic();
    for offset in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        let _ = write(&mut lapic, offset, 0x41);
    }
    let _ = write(&mut lapic, 0xf0, 0xff);
    for offset in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        assert_eq!(read(&mut lapic, offset), 0x1_0041);
        let _ = write(&mut lapic, offset, 0x42);
        assert_eq!(read(&mut lapic, offset), 0x1_0042);
    }
    let _ = write(&mut lapic, 0xf0, 0x1ff);
    assert_eq!(read(&mut lapic, 0x360), 0x1_0042);
}

/// "Local APIC Status and Location": with the APIC disabled the pins are INTR and NMI.
#[test]
fn pins_of_a_disabled_apic() {
    let mut lapic = xapic();
    let _ = lapic.write_base(BASE_DISABLED, Initiator::Guest).unwrap();
    assert_eq!(lapic.accept_lvt(Lvt::Lint0), LvtEvent::ExtInt);
    assert_eq!(lapic.accept_lvt(Lvt::Lint1), LvtEvent::Nmi);
    assert_eq!(lapic.accept_lvt(Lvt::Timer), LvtEvent::None);
    assert!(lapic.accepts_extint());
}

/// "LVT CMCI Register" exists only with the feature.
#[test]
fn cmci_entry() {
    let mut lapic = xapic();
    assert_eq!(lapic.accept_lvt(Lvt::Cmci), LvtEvent::None);
    lapic.set_config(Config {
        cmci: true,
        ..*lapic.config()
    });
    assert_eq!(lapic.accept_lvt(Lvt::Cmci), LvtEvent::None);
    let _ = write(&mut lapic, 0x2f0, 0xf9);
    assert_eq!(lapic.accept_lvt(Lvt::Cmci), LvtEvent::Interrupt);
    lapic.set_config(Config {
        cmci: false,
        ..*lapic.config()
    });
    assert_eq!(lapic.accept_lvt(Lvt::Cmci), LvtEvent::None);
}

#[test]
fn extint_needs_an_unmasked_lint0() {
    let mut lapic = xapic();
    // Masked since the APIC is enabled only later than the reset's ExtINT mode.
    for (entry, expected) in [
        (0x700, true),
        (0x1_0700, false),
        (0x041, false),
        (0x400, false),
    ] {
        let _ = write(&mut lapic, 0x350, entry);
        assert_eq!(lapic.accepts_extint(), expected);
    }
}

/// SDM vol. 3, figure "Local Vector Table (LVT)": what LINT0's delivery mode and mask make of it.
#[test]
fn lint0() {
    let mut lapic = xapic();
    for (entry, expected) in [
        (0x700, Lint0::ExtInt),
        (0x400, Lint0::Nmi),
        (0x030, Lint0::Nothing),
        (0x10700, Lint0::Nothing),
        (0x10400, Lint0::Nothing),
    ] {
        let _ = write(&mut lapic, 0x350, entry);
        assert_eq!(lapic.lint0(), expected, "{entry:#x}");
        assert_eq!(lapic.accepts_extint(), expected == Lint0::ExtInt);
    }
    // Software-disabling masks it.
    let _ = write(&mut lapic, 0x350, 0x400);
    let _ = write(&mut lapic, 0xf0, 0xff);
    assert_eq!(lapic.lint0(), Lint0::Nothing);
    // Without an APIC the processor has the pin INTR.
    assert!(lapic.write_base(BASE_DISABLED, Initiator::Guest).is_ok());
    assert_eq!(lapic.lint0(), Lint0::ExtInt);
}
