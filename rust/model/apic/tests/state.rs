// SPDX-License-Identifier: GPL-2.0-only

//! `KVM_GET_LAPIC` and `KVM_SET_LAPIC`.

use super::*;
use crate::model::errno::Errno;

fn image_of(lapic: &mut Lapic, clock: &At) -> [u8; STATE_BYTES] {
    let mut image = [0xaa; STATE_BYTES];
    let _ = lapic.get_state(&mut image, clock);
    image
}

fn word(image: &[u8; STATE_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(image[offset..offset + 4].try_into().unwrap())
}

fn set_word(image: &mut [u8; STATE_BYTES], offset: usize, value: u32) {
    image[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn interrupts_survive() {
    let mut source = xapic();
    source.accept_fixed(0x41, Trigger::Level);
    source.acknowledge();
    edge(&mut source, 0x39);
    source.set_tpr(0x23);
    let image = image_of(&mut source, &T0);
    assert_eq!((word(&image, 0xa0), word(&image, 0x120)), (0x40, 1 << 1));
    assert_eq!(
        (word(&image, 0x30), word(&image, 0x20)),
        (0x5_0014, 3 << 24)
    );
    let mut target = Lapic::new(Config::new(3, true));
    assert_eq!(target.set_state(&image, &T0), Ok(Timer::Stop));
    assert_eq!(target.ppr(), 0x40);
    let eoi = Eoi {
        vector: 0x41,
        trigger: Trigger::Level,
        broadcast: true,
    };
    assert_eq!(target.eoi(), Some(eoi));
    assert_eq!(target.acknowledge(), Some(0x39));
    assert!(target.identity().enabled);
}

#[test]
fn running_timers_survive() {
    let mut source = xapic();
    let _ = write(&mut source, 0x320, 0x2_00ec);
    let _ = write(&mut source, 0x3e0, 0xb);
    let _ = source.mmio_write(0x380, 4, 1_000_000, &At(0, 0));
    let image = image_of(&mut source, &At(300_000, 0));
    assert_eq!(word(&image, 0x390), 700_000);
    let mut target = Lapic::new(Config::new(3, true));
    assert_eq!(
        target.set_state(&image, &At(50, 0)),
        Ok(Timer::OneShotNs(700_050))
    );
    assert_eq!(
        target.timer_expired(&At(700_050, 0)),
        Timer::OneShotNs(1_700_050)
    );
}

/// A timer that expires while the state is taken is in the image as its interrupt.
#[test]
fn expired_timers_are_fired_first() {
    let mut source = xapic();
    let _ = write(&mut source, 0x320, 0xec);
    let _ = source.mmio_write(0x380, 4, 10, &At(0, 0));
    let image = image_of(&mut source, &At(5000, 0));
    assert_eq!((word(&image, 0x390), word(&image, 0x270)), (0, 1 << 12));
}

/// A one-shot timer with nothing left fires rather than being lost; a periodic one starts over.
#[test]
fn restored_at_zero() {
    let mut image = image_of(&mut xapic(), &T0);
    set_word(&mut image, 0x320, 0xec);
    set_word(&mut image, 0x380, 1_000_000);
    let mut target = Lapic::new(Config::new(3, true));
    assert_eq!(target.set_state(&image, &T0), Ok(Timer::Stop));
    assert_eq!(target.pending_interrupt(), Some(0xec));
    set_word(&mut image, 0x320, 0x2_00ec);
    let mut target = Lapic::new(Config::new(3, true));
    assert_eq!(
        target.set_state(&image, &At(0, 0)),
        Ok(Timer::OneShotNs(2_000_000))
    );
    // More left than the initial count: start over.
    set_word(&mut image, 0x390, u32::MAX);
    assert_eq!(
        target.set_state(&image, &At(0, 0)),
        Ok(Timer::OneShotNs(2_000_000))
    );
}

/// A counting timer restored over one in TSC-deadline mode isn't lost.
#[test]
fn restored_over_the_other_mode() {
    let mut image = image_of(&mut xapic(), &T0);
    set_word(&mut image, 0x320, 0xec);
    set_word(&mut image, 0x380, 1000);
    set_word(&mut image, 0x390, 1000);
    let mut target = xapic();
    let _ = write(&mut target, 0x320, 0x4_00ec);
    let _ = target.write_tsc_deadline(u64::MAX, &T0);
    assert_eq!(
        target.set_state(&image, &At(0, 0)),
        Ok(Timer::OneShotNs(2000))
    );
    assert_eq!(target.tsc_deadline(), 0);
}

/// The deadline travels as an MSR and is not touched by an image in the same mode.
#[test]
fn tsc_deadline_is_kept() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x320, 0x4_00ec);
    let _ = lapic.write_tsc_deadline(900, &At(0, 500));
    let image = image_of(&mut lapic, &At(0, 600));
    assert_eq!(
        lapic.set_state(&image, &At(0, 600)),
        Ok(Timer::TscDeadline(900))
    );
    assert_eq!(lapic.set_state(&image, &At(0, 900)), Ok(Timer::Stop));
    assert_eq!(lapic.pending_interrupt(), Some(0xec));
}

/// `KVM_X2APIC_API_USE_32BIT_IDS`: the format of the ID, and its check.
#[test]
fn x2apic_id_formats() {
    let mut narrow = x2apic();
    let mut image = image_of(&mut narrow, &T0);
    assert_eq!((word(&image, 0x20), word(&image, 0xd0)), (3 << 24, 8));
    set_word(&mut image, 0x20, 9 << 24);
    set_word(&mut image, 0xd0, 0xffff);
    assert!(narrow.set_state(&image, &T0).is_ok());
    assert_eq!((narrow.identity().id, narrow.identity().logical_id), (3, 8));

    let mut wide = x2apic();
    wide.set_config(Config {
        wide_ids: true,
        ..*wide.config()
    });
    let mut image = image_of(&mut wide, &T0);
    assert_eq!(word(&image, 0x20), 3);
    assert!(wide.set_state(&image, &T0).is_ok());
    set_word(&mut image, 0x20, 4);
    set_word(&mut image, 0x80, 0x55);
    assert_eq!(wide.set_state(&image, &T0), Err(Errno::Invalid));
    assert_eq!(wide.tpr(), 0);
}

/// The ICR is split into its xAPIC halves.
#[test]
fn x2apic_icr_is_split() {
    let mut lapic = x2apic();
    let _ = lapic
        .x2apic_write(0x830, 0x1234_5678_0000_00fe, &T0)
        .unwrap();
    let image = image_of(&mut lapic, &T0);
    assert_eq!(
        (word(&image, 0x300), word(&image, 0x310)),
        (0xfe, 0x1234_5678)
    );
    let mut target = x2apic();
    assert!(target.set_state(&image, &T0).is_ok());
    assert_eq!(target.x2apic_read(0x830, &T0), Ok(0x1234_5678_0000_00fe));
}

/// What the architecture reserves can't come in by an image.
#[test]
fn reserved_parts_of_an_image_are_dropped() {
    let image = [0xff; STATE_BYTES];
    let mut lapic = Lapic::new(Config::new(3, true));
    assert!(lapic.set_state(&image, &T0).is_ok());
    let back = image_of(&mut lapic, &T0);
    assert_eq!(word(&back, 0x30), 0x5_0014);
    assert_eq!(
        (word(&back, 0x100), word(&back, 0x200)),
        (0xffff_0000, 0xffff_0000)
    );
    assert_eq!((word(&back, 0xf0), word(&back, 0x350)), (0x3ff, 0x1_e7ff));
    assert_eq!((word(&back, 0x10), word(&back, 0x3f0)), (0, 0));
    // A round trip of the result changes nothing.
    assert!(lapic.set_state(&back, &T0).is_ok());
    assert_eq!(image_of(&mut lapic, &T0), back);
}

/// LINT0 of the boot processor is in ExtINT mode though the APIC is software disabled after reset.
#[test]
fn a_fresh_image_is_a_fixed_point() {
    let mut lapic = Lapic::new(Config::new(0, true));
    let image = image_of(&mut lapic, &T0);
    assert_eq!(lapic.set_state(&image, &T0), Ok(Timer::Stop));
    assert_eq!(image_of(&mut lapic, &T0), image);
    assert!(lapic.accepts_extint());
}
