// SPDX-License-Identifier: GPL-2.0-only

//! Rules of the 8254, by section of its data sheet.

use super::units::ns_of;
use super::*;

const T0: u64 = 1_000_000_000;

/// The time when `ticks` have passed since [`T0`].
fn at(ticks: u64) -> u64 {
    T0 + ns_of(ticks)
}

/// Sets channel `index` to `mode` and `count` at T0 and returns the effect.
fn program(pit: &mut Pit, index: u8, mode: u8, count: u16) -> Effect {
    let _ = pit.write(0x43, index << 6 | 0x30 | mode << 1, T0);
    let [low, high] = count.to_le_bytes();
    let port = 0x40 + u16::from(index);
    assert_eq!(pit.write(port, low, T0), Effect::None);
    pit.write(port, high, T0)
}

fn count(pit: &mut Pit, index: u8, now: u64) -> u16 {
    let port = 0x40 + u16::from(index);
    let _ = pit.write(0x43, index << 6, now);
    u16::from_le_bytes([pit.read(port, now), pit.read(port, now)])
}

/// The output by the read-back command.
fn out(pit: &mut Pit, index: u8, now: u64) -> bool {
    let _ = pit.write(0x43, 0xe0 | 2 << index, now);
    pit.read(0x40 + u16::from(index), now) & 0x80 != 0
}

/// "Mode 0: Interrupt on Terminal Count".
#[test]
fn mode_0() {
    let mut pit = Pit::new();
    assert_eq!(program(&mut pit, 0, 0, 100), Effect::Rearm);
    assert_eq!(pit.next_tick(), Some(at(100)));
    assert_eq!(count(&mut pit, 0, at(30)), 70);
    assert!(!out(&mut pit, 0, at(99)) && out(&mut pit, 0, at(100)));
    assert!(!pit.tick(at(100) - 1));
    assert!(pit.tick(at(100)));
    assert_eq!(pit.next_tick(), None);
    assert!(!pit.tick(at(1000)));
    // It counts on from the top.
    assert_eq!(count(&mut pit, 0, at(101)), 0xffff);
    assert!(out(&mut pit, 0, at(200_000)));
    // "GATE = 0 disables counting".
    assert_eq!(program(&mut pit, 2, 0, 100), Effect::None);
    assert_eq!(count(&mut pit, 2, at(50)), 100);
    let _ = pit.write(0x61, 1, at(50));
    assert_eq!(count(&mut pit, 2, at(90)), 60);
    let _ = pit.write(0x61, 0, at(90));
    assert_eq!(count(&mut pit, 2, at(500)), 60);
    let _ = pit.write(0x61, 1, at(500));
    assert!(!out(&mut pit, 2, at(559)) && out(&mut pit, 2, at(561)));
}

/// "Mode 1: Hardware Retriggerable One-Shot".
#[test]
fn mode_1() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 1, 100);
    assert_eq!(pit.next_tick(), None, "the gate of channel 0 never rises");
    let _ = program(&mut pit, 2, 1, 100);
    assert!(out(&mut pit, 2, at(50)));
    let _ = pit.write(0x61, 1, at(1000));
    assert!(!out(&mut pit, 2, at(1000)) && !out(&mut pit, 2, at(1098)));
    let _ = pit.write(0x61, 0, at(1050));
    assert!(!out(&mut pit, 2, at(1098)), "a falling gate does nothing");
    let _ = pit.write(0x61, 1, at(1090));
    assert!(!out(&mut pit, 2, at(1188)) && out(&mut pit, 2, at(1191)));
}

/// "Mode 2: Rate Generator".
#[test]
fn mode_2() {
    for mode in [2, 6] {
        let mut pit = Pit::new();
        let _ = program(&mut pit, 0, mode, 1000);
        assert_eq!(pit.next_tick(), Some(at(1000)));
        assert_eq!(count(&mut pit, 0, at(0)), 1000);
        assert_eq!(count(&mut pit, 0, at(999)), 1);
        assert_eq!(count(&mut pit, 0, at(1000)), 1000);
        assert!(out(&mut pit, 0, at(998)) && !out(&mut pit, 0, at(999)));
        assert!(out(&mut pit, 0, at(1000)));
        assert!(pit.tick(at(1000)));
        assert_eq!(pit.next_tick(), Some(at(1000) + ns_of(1000)));
    }
    // A gate that is low puts the output high, one that rises begins anew.
    let mut pit = Pit::new();
    let _ = pit.write(0x61, 1, T0);
    let _ = program(&mut pit, 2, 2, 1000);
    let _ = pit.write(0x61, 0, at(999));
    assert!(out(&mut pit, 2, at(999)));
    let _ = pit.write(0x61, 1, at(5000));
    assert_eq!(count(&mut pit, 2, at(5500)), 500);
}

/// "Mode 3: Square Wave Mode": even and odd counts.
#[test]
fn mode_3() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 3, 1000);
    assert_eq!(pit.next_tick(), Some(at(1000)));
    assert!(out(&mut pit, 0, at(499)) && !out(&mut pit, 0, at(500)));
    assert!(!out(&mut pit, 0, at(999)) && out(&mut pit, 0, at(1000)));
    let counts = [0, 1, 499, 500, 501, 999].map(|ticks| count(&mut pit, 0, at(ticks)));
    assert_eq!(counts, [1000, 998, 2, 1000, 998, 2]);
    let _ = program(&mut pit, 2, 3, 5);
    let _ = pit.write(0x61, 1, T0);
    let wave = [0, 1, 2, 3, 4, 5]
        .map(|ticks| (out(&mut pit, 2, at(ticks)), count(&mut pit, 2, at(ticks))));
    assert_eq!(
        wave,
        [
            (true, 4),
            (true, 2),
            (true, 0),
            (false, 4),
            (false, 2),
            (true, 4)
        ]
    );
}

/// "Mode 4: Software Triggered Strobe" and "Mode 5: Hardware Triggered Strobe".
#[test]
fn modes_4_and_5() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 4, 100);
    assert_eq!(pit.next_tick(), Some(at(101)));
    assert!(out(&mut pit, 0, at(99)) && !out(&mut pit, 0, at(100)) && out(&mut pit, 0, at(101)));
    assert!(pit.tick(at(101)));
    assert_eq!(pit.next_tick(), None);
    let _ = program(&mut pit, 0, 5, 100);
    assert_eq!(pit.next_tick(), None);
    let _ = program(&mut pit, 2, 5, 100);
    assert!(out(&mut pit, 2, at(100)));
    let _ = pit.write(0x61, 1, at(200));
    assert!(out(&mut pit, 2, at(299)) && !out(&mut pit, 2, at(300) + 2));
}

/// "Write Operations": single bytes and both; 0 is the largest count.
#[test]
fn counts_are_written_in_bytes() {
    let mut pit = Pit::new();
    let _ = pit.write(0x43, 0x14, T0);
    let _ = pit.write(0x40, 0x80, T0);
    assert_eq!(pit.state().channels[0].count, 0x80);
    let _ = pit.write(0x43, 0x24, T0);
    let _ = pit.write(0x40, 0x80, T0);
    assert_eq!(pit.state().channels[0].count, 0x8000);
    assert_eq!(pit.read(0x40, T0), 0x80);
    let _ = program(&mut pit, 0, 2, 0);
    assert_eq!(pit.state().channels[0].count, 0x1_0000);
    assert_eq!(pit.next_tick(), Some(at(65536)));
    assert_eq!(count(&mut pit, 0, T0), 0);
    // Without a latch the bytes alternate.
    assert_eq!((pit.read(0x40, at(1)), pit.read(0x40, at(1))), (0xff, 0xff));
    assert_eq!(
        (pit.read(0x40, at(0x102)), pit.read(0x40, at(0x102))),
        (0xfe, 0xfe)
    );
}

/// "Control Word Format": a control word stops the counter until a count is written.
#[test]
fn control_words_stop() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 1000);
    assert_eq!(pit.write(0x43, 0x30, at(10)), Effect::Rearm);
    assert_eq!(pit.next_tick(), None);
    assert_eq!(pit.read(0x43, T0), 0);
}

/// "Counter Latch Command": the first latch stays until it is read.
#[test]
fn latches() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 1000);
    let _ = pit.write(0x43, 0, at(100));
    let _ = pit.write(0x43, 0, at(200));
    let bytes = [pit.read(0x40, at(300)), pit.read(0x40, at(300))];
    assert_eq!(u16::from_le_bytes(bytes), 900);
}

/// "Read-Back Command": status before count, several counters at once, the null count.
#[test]
fn read_back() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 1000);
    let _ = program(&mut pit, 1, 3, 500);
    let _ = pit.write(0x43, 0b1100_0110, at(10));
    assert_eq!(pit.read(0x40, at(20)), 0xb4);
    assert_eq!(pit.read(0x40, at(20)), (990 & 0xff) as u8);
    assert_eq!(pit.read(0x40, at(20)), (990 >> 8) as u8);
    assert_eq!(pit.read(0x41, at(20)), 0xb6);
    let _ = pit.write(0x43, 0x31, at(30));
    let _ = pit.write(0x43, 0b1110_0010, at(30));
    assert_eq!(pit.read(0x40, at(30)), 0x71, "null count, BCD, mode 0, low");
}

/// "NMI Status and Control Register" of the PIIX3.
#[test]
fn speaker_port() {
    let mut pit = Pit::new();
    assert!(Pit::claims(0x61, 4, true) && !Pit::claims(0x61, 1, false));
    assert!((0..=u16::MAX).all(|port| Pit::claims(port, 1, false) == (0x40..=0x43).contains(&port)));
    assert!(Pit::claims(0x40, 4, false) && !Pit::claims(0x41, 4, false));
    assert_eq!(pit.read(0x61, 0), 0);
    assert_eq!(pit.write(0x61, 0xff, 0), Effect::None);
    assert_eq!(pit.read(0x61, 0), 3);
    assert_eq!(pit.read(0x61, 1 << 14), 0x13);
    let _ = program(&mut pit, 2, 0, 10);
    assert_eq!(pit.read(0x61, at(9)) & 0x20, 0);
    assert_eq!(pit.read(0x61, at(10)) & 0x20, 0x20);
}

/// Very short periods are lengthened for the interrupt.
#[test]
fn short_periods() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 10);
    assert_eq!(pit.next_tick(), Some(T0 + MIN_PERIOD_NS));
    assert!(pit.tick(T0 + MIN_PERIOD_NS));
    assert_eq!(pit.next_tick(), Some(T0 + 2 * MIN_PERIOD_NS));
    assert_eq!(count(&mut pit, 0, at(3)), 7);
}

/// `KVM_REINJECT_CONTROL`: every tick becomes an interrupt, one after the other.
#[test]
fn reinjection() {
    let mut pit = Pit::new();
    assert!(pit.reinjects());
    let _ = program(&mut pit, 0, 2, 1000);
    assert!(pit.tick(at(1000)));
    // Three periods pass, and the guest has not acknowledged the first.
    assert!(!pit.tick(at(4001)));
    assert!(pit.acked() && pit.acked() && pit.acked());
    assert!(!pit.acked());
    assert!(pit.tick(at(5001)));
    assert!(!pit.acked());
    assert!(pit.tick(at(6001)));
    // What was lost while masked is not waited for.
    pit.unmasked();
    assert!(pit.tick(at(7001)));
    pit.set_reinject(false);
    for ticks in [8001, 9001, 10001] {
        assert!(pit.tick(at(ticks)));
        assert!(!pit.acked());
    }
    pit.set_reinject(true);
    assert!(pit.tick(at(11001)));
    assert!(!pit.tick(at(12001)));
    // A new count forgets what was held back.
    let _ = program(&mut pit, 0, 2, 1000);
    assert!(pit.tick(at(1000)));
    assert!(!pit.acked());
}

/// `struct kvm_pit_state2` has 112 bytes.
#[test]
fn state() {
    assert_eq!(core::mem::size_of::<PitChannelState>(), 24);
    assert_eq!(core::mem::size_of::<PitState2>(), 112);
    let fresh = Pit::new().state();
    assert_eq!(fresh.channels.map(|c| c.mode), [0xff; 3]);
    assert_eq!(fresh.channels.map(|c| c.gate), [1, 1, 0]);
    assert_eq!(fresh.channels.map(|c| c.count), [0x1_0000; 3]);
    let mut source = Pit::new();
    let _ = program(&mut source, 0, 2, 1000);
    let _ = program(&mut source, 2, 3, 500);
    let _ = source.write(0x61, 3, T0);
    let _ = source.write(0x43, 0xc2, at(10));
    let _ = source.read(0x40, at(10));
    let mut state = source.state();
    let mut target = Pit::new();
    assert_eq!(target.set_state(&state, T0 + 5), Effect::Rearm);
    assert_eq!(target.next_tick(), Some(T0 + 5 + ns_of(1000)));
    state.channels[0].count_load_time += 5;
    state.channels[1].count_load_time = 0;
    state.channels[2].count_load_time = T0 as i64 + 5;
    assert_eq!(target.state(), state);
    state.flags |= 1;
    assert_eq!(target.set_state(&state, T0), Effect::Rearm);
    assert_eq!((target.next_tick(), target.state().flags), (None, 3));
    // Nonsense is cut to what can be.
    for channel in &mut state.channels {
        *channel = PitChannelState {
            count: u32::MAX,
            mode: 77,
            rw_mode: 99,
            read_state: 99,
            write_state: 99,
            count_latched: 99,
            ..*channel
        };
    }
    state.flags = u32::MAX;
    let _ = target.set_state(&state, T0);
    assert_eq!(target.state().flags, 3);
    assert_eq!(target.state().channels[0].count, 0x1_0000);
    assert_eq!(target.state().channels[0].mode, 0xff);
}

/// A restored one-shot that had expired would fire again: KVM's does, too.
#[test]
fn channels_alone() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 0, 100);
    let channels = pit.state().channels;
    let _ = pit.write(0x61, 2, T0);
    assert_eq!(pit.set_channels(&channels, T0), Effect::Rearm);
    assert_eq!(pit.state().flags, 2);
    assert_eq!(pit.next_tick(), Some(at(100)));
}
