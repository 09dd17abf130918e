// SPDX-License-Identifier: GPL-2.0-only

//! IRR, ISR, TMR, priorities and EOI.

use super::*;

/// "Interrupt Acceptance for Fixed Interrupts": IRR, then ISR, then EOI.
#[test]
fn a_vector_goes_from_irr_to_isr_to_nowhere() {
    let mut lapic = xapic();
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(edge(&mut lapic, 0x41), Accepted::New);
    assert_eq!(edge(&mut lapic, 0x41), Accepted::Merged);
    assert_eq!(read(&mut lapic, 0x220), 1 << 1);
    assert_eq!(lapic.pending_interrupt(), Some(0x41));
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert_eq!(lapic.acknowledge(), None);
    assert_eq!(
        (read(&mut lapic, 0x220), read(&mut lapic, 0x120)),
        (0, 1 << 1)
    );
    assert!(lapic.is_pending_or_in_service(0x41));
    let eoi = Eoi {
        vector: 0x41,
        trigger: Trigger::Edge,
        broadcast: false,
    };
    assert_eq!(write(&mut lapic, 0xb0, 0), Effect::Eoi(eoi));
    assert_eq!(write(&mut lapic, 0xb0, 0), Effect::None);
    assert_eq!(read(&mut lapic, 0x120), 0);
}

/// One more of a vector can wait in IRR while one is in service.
#[test]
fn one_in_service_and_one_requested() {
    let mut lapic = xapic();
    edge(&mut lapic, 0x41);
    lapic.acknowledge();
    assert_eq!(edge(&mut lapic, 0x41), Accepted::New);
    assert_eq!(edge(&mut lapic, 0x41), Accepted::Merged);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.eoi().map(|eoi| eoi.vector), Some(0x41));
    assert_eq!(lapic.acknowledge(), Some(0x41));
}

/// "Task and Processor Priorities": only a higher class interrupts, and EOI ends the highest.
#[test]
fn nesting_by_class() {
    let mut lapic = xapic();
    edge(&mut lapic, 0x41);
    lapic.acknowledge();
    edge(&mut lapic, 0x4f);
    assert_eq!(lapic.pending_interrupt(), None);
    edge(&mut lapic, 0x50);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    assert_eq!(lapic.ppr(), 0x50);
    assert_eq!(lapic.eoi().map(|eoi| eoi.vector), Some(0x50));
    assert_eq!(lapic.ppr(), 0x40);
    assert_eq!(lapic.eoi().map(|eoi| eoi.vector), Some(0x41));
    assert_eq!(lapic.acknowledge(), Some(0x4f));
}

/// "Task and Processor Priorities": PPR from TPR and the highest vector in service.
#[test]
fn ppr_is_the_higher_class() {
    let mut lapic = xapic();
    edge(&mut lapic, 0x68);
    lapic.acknowledge();
    for (tpr, ppr) in [
        (0x00, 0x60),
        (0x5f, 0x60),
        (0x60, 0x60),
        (0x63, 0x63),
        (0x71, 0x71),
    ] {
        assert_eq!(write(&mut lapic, 0x80, tpr), Effect::None);
        assert_eq!(read(&mut lapic, 0xa0), ppr);
        assert_eq!(u32::from(lapic.ppr()), ppr);
    }
}

/// "Task and Processor Priorities": TPR class 15 holds everything back, class 0 nothing.
#[test]
fn tpr_holds_back_its_class_and_below() {
    let mut lapic = xapic();
    edge(&mut lapic, 0x5f);
    lapic.set_tpr(0x50);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.highest_irr(), Some(0x5f));
    lapic.set_tpr(0x4f);
    assert_eq!(lapic.pending_interrupt(), Some(0x5f));
    edge(&mut lapic, 0xff);
    lapic.set_tpr(0xf0);
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.set_tpr(0xef);
    assert_eq!(lapic.pending_interrupt(), Some(0xff));
}

/// "Interaction of Task Priorities between CR8 and APIC".
#[test]
fn cr8_is_the_class_of_tpr() {
    let mut lapic = xapic();
    lapic.set_tpr(0x57);
    assert_eq!(lapic.cr8(), 5);
    lapic.set_cr8(9);
    assert_eq!(lapic.tpr(), 0x90);
    lapic.set_cr8(0xf7);
    assert_eq!(lapic.tpr(), 0x70);
}

/// SDM vol. 3, "VM Exits Induced by the TPR Shadow": exit when the TPR's class falls below this.
#[test]
fn tpr_threshold_is_the_waiting_class() {
    let mut lapic = xapic();
    lapic.set_cr8(8);
    assert_eq!(lapic.tpr_threshold(), 0);
    edge(&mut lapic, 0x71);
    assert_eq!(lapic.tpr_threshold(), 7);
    edge(&mut lapic, 0x81);
    assert_eq!(lapic.tpr_threshold(), 8);
    edge(&mut lapic, 0x91);
    assert_eq!(lapic.tpr_threshold(), 0);
}

/// "Valid Interrupt Vectors": 0 to 15 are illegal.
#[test]
fn illegal_vectors_are_refused_and_recorded() {
    let mut lapic = xapic();
    for vector in 0..16 {
        assert_eq!(edge(&mut lapic, vector), Accepted::Refused);
    }
    assert_eq!(lapic.highest_irr(), None);
    let _ = write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), 1 << 6);
    assert_eq!(edge(&mut lapic, 16), Accepted::New);
    assert_eq!(lapic.pending_interrupt(), Some(16));
}

/// "Signaling Interrupt Servicing Completion": TMR decides about the broadcast, SVR bit 12 suppresses.
#[test]
fn level_interrupts_are_broadcast_unless_suppressed() {
    let mut lapic = Lapic::new(Config {
        directed_eoi: true,
        suppress_eoi: true,
        ..Config::new(0, true)
    });
    let _ = write(&mut lapic, 0xf0, 0x1ff);
    for (svr, broadcast) in [(0x1ff, true), (0x11ff, false)] {
        let _ = write(&mut lapic, 0xf0, svr);
        lapic.accept_fixed(0x31, Trigger::Level);
        assert_eq!(read(&mut lapic, 0x190), 1 << 17);
        lapic.acknowledge();
        assert_eq!(
            lapic.eoi(),
            Some(Eoi {
                vector: 0x31,
                trigger: Trigger::Level,
                broadcast
            })
        );
    }
    edge(&mut lapic, 0x31);
    assert_eq!(read(&mut lapic, 0x190), 0);
}

/// "Local APIC State After It Has Been Software Disabled": nothing new, but what was pending stays.
#[test]
fn software_disabled_keeps_what_is_pending() {
    let mut lapic = xapic();
    edge(&mut lapic, 0x41);
    assert_eq!(write(&mut lapic, 0xf0, 0xff), Effect::Identity);
    assert_eq!(edge(&mut lapic, 0x51), Accepted::Refused);
    assert_eq!(lapic.acknowledge(), Some(0x41));
}

#[test]
fn words_are_accepted_like_single_vectors() {
    let mut lapic = xapic();
    lapic.accept_word(1, (1 << 1) | (1 << 5), 1 << 5);
    lapic.accept_word(0, 0xffff | (1 << 20), 0);
    lapic.accept_word(2, 0, u64::MAX);
    lapic.accept_word(4, u64::MAX, u64::MAX);
    assert_eq!(lapic.acknowledge(), Some(0x45));
    assert_eq!(lapic.eoi().map(|eoi| eoi.broadcast), Some(true));
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert_eq!(lapic.eoi().map(|eoi| eoi.broadcast), Some(false));
    assert_eq!(lapic.acknowledge(), Some(20));
    assert_eq!(lapic.highest_irr(), None);
    let _ = write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), 1 << 6);
    let _ = write(&mut lapic, 0xf0, 0xff);
    lapic.accept_word(3, u64::MAX, 0);
    assert_eq!(lapic.highest_irr(), None);
}
