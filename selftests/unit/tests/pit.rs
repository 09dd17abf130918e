// SPDX-License-Identifier: GPL-2.0-only

//! The PIT: no tick early, none lost, and no panic.

use proptest::prelude::*;
use vireo_model::model::pit::{Pit, PitChannelState, PitState2, FREQUENCY_HZ, MIN_PERIOD_NS};

const NS: u128 = 1_000_000_000;

/// The time at which `ticks` ticks have passed, rounded up, computed without tricks.
fn ns_of(ticks: u128) -> u128 {
    (ticks * NS).div_ceil(u128::from(FREQUENCY_HZ))
}

fn program(pit: &mut Pit, mode: u8, count: u16, now: u64) {
    let [low, high] = count.to_le_bytes();
    let _ = pit.write(0x43, 0x30 | mode << 1, now);
    let _ = pit.write(0x40, low, now);
    let _ = pit.write(0x40, high, now);
}

proptest! {
    /// With reinjection the guest gets exactly the periods that have passed, none of them early, however
    /// late the host timer and the guest are.
    #[test]
    fn every_period_is_one_interrupt(
        count in any::<u16>(),
        start in 0..1u64 << 50,
        delays in prop::collection::vec((0..5_000_000u64, any::<bool>()), 1..80),
    ) {
        let mut pit = Pit::new();
        program(&mut pit, 2, count, start);
        let ticks = if count == 0 { 65536 } else { u128::from(count) };
        let period = (ns_of(ticks) as u64).max(MIN_PERIOD_NS);
        let (mut raised, mut acked) = (0u64, 0u64);
        let mut now = start;
        for (delay, ack) in delays {
            let due = pit.next_tick().expect("periodic");
            prop_assert!(due > now);
            prop_assert!(!pit.tick(due - 1), "early");
            now = due + delay;
            let waiting = raised != acked;
            let tick = pit.tick(now);
            prop_assert_eq!(tick, !waiting);
            raised += u64::from(tick);
            if ack {
                acked += 1;
                raised += u64::from(pit.acked());
            }
            prop_assert!(raised <= (now - start) / period);
        }
        // The guest catches up.
        while raised != acked {
            acked += 1;
            raised += u64::from(pit.acked());
        }
        prop_assert_eq!(raised, (now - start) / period);
    }

    /// Counters read what the clock says.
    #[test]
    fn counts(count in 1..=u16::MAX, ticks in 0..u64::from(u32::MAX), phase in 0..800u64) {
        let mut pit = Pit::new();
        program(&mut pit, 2, count, 0);
        let now = ns_of(u128::from(ticks)) as u64;
        let low = pit.read(0x40, now);
        let high = pit.read(0x40, now);
        let value = u16::from_le_bytes([low, high]);
        prop_assert_eq!(u64::from(value), u64::from(count) - ticks % u64::from(count));
        program(&mut pit, 0, count, phase);
        let low = pit.read(0x40, phase + now);
        let high = pit.read(0x40, phase + now);
        prop_assert_eq!(u16::from_le_bytes([low, high]), count.wrapping_sub(ticks as u16));
    }

    /// No sequence of accesses and states makes it panic; a host timer is always ahead or absent.
    #[test]
    fn arbitrary_accesses(
        accesses in prop::collection::vec((0..6u8, 0x40..0x44u16, any::<u8>(), any::<u64>()), 0..150),
        junk in any::<[u8; 8]>(),
    ) {
        let mut pit = Pit::new();
        for (kind, port, value, now) in accesses {
            let port = if value == 0x61 { 0x61 } else { port };
            match kind {
                0..=2 => { let _ = pit.write(port, value, now); }
                3 => { let _ = pit.read(port, now); }
                4 => {
                    let _ = (pit.tick(now), pit.acked());
                    pit.set_reinject(value & 1 != 0);
                    let due = pit.next_tick();
                    prop_assert!(due.is_none_or(|due| due > now || due == u64::MAX));
                }
                _ => {
                    let [read_state, write_state, rw_mode, mode, bcd, gate, count_latched, status] = junk;
                    let channel = PitChannelState {
                        count: now as u32, latched_count: now as u16, count_latched,
                        status_latched: value, status, read_state, write_state, write_latch: value,
                        rw_mode, mode, bcd, gate, count_load_time: now as i64,
                    };
                    let state = PitState2 { channels: [channel; 3], flags: value.into(), reserved: [0; 9] };
                    let _ = pit.set_state(&state, now);
                    let kept = pit.state();
                    let _ = pit.set_state(&kept, now);
                    prop_assert_eq!(pit.state(), kept);
                }
            }
        }
    }
}
