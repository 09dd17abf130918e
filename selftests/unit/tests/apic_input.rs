// SPDX-License-Identifier: GPL-2.0-only

//! The local APIC with arbitrary input: nothing panics, and what the entry path relies on holds.

use proptest::prelude::*;
use vireo_model::model::addr::Gpa;
use vireo_model::model::apic::{Clock, Config, Initiator, Lapic, Lvt, Mode, Reset, STATE_BYTES};
use vireo_model::model::msi::Trigger;

#[derive(Clone, Copy, Debug)]
struct At {
    ns: u64,
    tsc: u64,
}

impl Clock for At {
    fn now_ns(&self) -> u64 {
        self.ns
    }

    fn guest_tsc(&self) -> u64 {
        self.tsc
    }
}

const BASE_X2APIC: u64 = 0xfee0_0d00;

#[derive(Clone, Debug)]
enum Access {
    MmioRead(u32, u32),
    MmioWrite(u32, u32, u64),
    MsrRead(u32),
    MsrWrite(u32, u64),
    Base(u64, bool),
    Deadline(u64),
    Expire,
    Lvt(usize),
    Accept(u8, bool),
    Word(usize, u64, u64),
    Acknowledge,
    Cr8(u8),
    Reset(bool),
    Configure(Config),
    Image(Vec<u8>),
}

fn config() -> impl Strategy<Value = Config> {
    (
        any::<[u32; 2]>(),
        any::<[bool; 7]>(),
        any::<u8>(),
        any::<u64>(),
    )
        .prop_map(
            |([apic_id, bus_cycle_ns], flags, phys_bits, min_period_ns)| {
                let [bsp, x2apic, tsc_deadline, cmci, directed_eoi, lint0_extint, wide_ids] = flags;
                Config {
                    apic_id,
                    bsp,
                    x2apic,
                    tsc_deadline,
                    cmci,
                    directed_eoi,
                    suppress_eoi: directed_eoi,
                    phys_bits,
                    lint0_extint,
                    wide_ids,
                    bus_cycle_ns,
                    min_period_ns,
                }
            },
        )
}

fn access() -> impl Strategy<Value = Access> {
    // Values with few bits reach more states than uniform ones.
    let value = prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        (0..64u32, 0..64u32).prop_map(|(a, b)| 1 << a | 1 << b),
        Just(0x1ff),
    ];
    let offset = prop_oneof![(0..0x40u32).prop_map(|reg| reg << 4), 0..0x1100u32];
    let len = prop_oneof![Just(4), 0..10u32];
    let base = prop_oneof![
        Just(0xfee0_0900u64),
        Just(BASE_X2APIC),
        Just(0xfee0_0100),
        any::<u64>()
    ];
    prop_oneof![
        4 => (offset.clone(), len.clone()).prop_map(|(o, l)| Access::MmioRead(o, l)),
        12 => (offset, len, value.clone()).prop_map(|(o, l, v)| Access::MmioWrite(o, l, v)),
        4 => (0x7f0..0x910u32).prop_map(Access::MsrRead),
        8 => (0x800..0x850u32, value.clone()).prop_map(|(m, v)| Access::MsrWrite(m, v)),
        3 => (base, any::<bool>()).prop_map(|(b, host)| Access::Base(b, host)),
        2 => value.prop_map(Access::Deadline),
        3 => Just(Access::Expire),
        3 => (0..7usize).prop_map(Access::Lvt),
        4 => any::<(u8, bool)>().prop_map(|(v, l)| Access::Accept(v, l)),
        1 => any::<(usize, u64, u64)>().prop_map(|(w, b, l)| Access::Word(w % 6, b, l)),
        4 => Just(Access::Acknowledge),
        2 => any::<u8>().prop_map(Access::Cr8),
        1 => any::<bool>().prop_map(Access::Reset),
        1 => config().prop_map(Access::Configure),
        1 => prop::collection::vec(any::<u8>(), STATE_BYTES).prop_map(Access::Image),
    ]
}

/// Checks what holds in every state, from the image alone.
fn check_invariants(lapic: &Lapic, clock: &At) {
    let mut copy = lapic.clone();
    let mut image = [0; STATE_BYTES];
    let _ = copy.get_state(&mut image, clock);
    let word = |offset: usize| u32::from_le_bytes(image[offset..offset + 4].try_into().unwrap());
    let highest = |first: usize| {
        (16..=255u8)
            .rev()
            .find(|&v| word(first + usize::from(v >> 5 << 4)) & (1 << (v & 31)) != 0)
    };
    let in_service = highest(0x100).unwrap_or(0) & 0xf0;
    let tpr = word(0x80) as u8;
    let ppr = if tpr & 0xf0 >= in_service {
        tpr
    } else {
        in_service
    };
    assert_eq!((u32::from(ppr), ppr), (word(0xa0), copy.ppr()));
    let requested = highest(0x200).filter(|_| copy.mode() != Mode::Disabled);
    assert_eq!(copy.highest_irr(), requested);
    let pending = requested.filter(|v| v & 0xf0 > ppr & 0xf0);
    assert_eq!(copy.pending_interrupt(), pending);
    assert!(copy.tpr_threshold() < 16 && copy.cr8() < 16);
    // Restoring drops what the configuration no longer allows; after that an image is a fixed point.
    // A one-shot timer at 0 fires as it is restored, so those are left out.
    let timer = copy.set_state(&image, clock).unwrap();
    assert_eq!(timer, copy.host_timer());
    if word(0x380) == 0 {
        let mut first = [0; STATE_BYTES];
        let mut second = [0; STATE_BYTES];
        let _ = copy.get_state(&mut first, clock);
        let _ = copy.set_state(&first, clock).unwrap();
        let _ = copy.get_state(&mut second, clock);
        assert_eq!(first, second);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// No input panics or breaks what the entry path relies on.
    #[test]
    fn arbitrary_input_is_harmless(
        first in config(),
        accesses in prop::collection::vec((access(), any::<u32>()), 0..80),
    ) {
        let mut lapic = Lapic::new(first);
        let mut clock = At { ns: 0, tsc: 0 };
        for (access, pause) in accesses {
            clock.ns = clock.ns.saturating_add(u64::from(pause) << (pause & 31));
            clock.tsc = clock.tsc.wrapping_add(u64::from(pause));
            match access {
                Access::MmioRead(offset, len) => {
                    lapic.mmio_read(offset, len, &clock);
                }
                Access::MmioWrite(offset, len, value) => {
                    let _ = lapic.mmio_write(offset, len, value, &clock);
                }
                Access::MsrRead(msr) => {
                    let _ = lapic.x2apic_read(msr, &clock);
                }
                Access::MsrWrite(msr, value) => {
                    let _ = lapic.x2apic_write(msr, value, &clock);
                }
                Access::Base(value, host) => {
                    let by = if host { Initiator::Host } else { Initiator::Guest };
                    let _ = lapic.write_base(value, by);
                    lapic.mmio_offset(Gpa::new(value));
                }
                Access::Deadline(deadline) => {
                    let _ = lapic.write_tsc_deadline(deadline, &clock);
                }
                Access::Expire => {
                    let _ = lapic.timer_expired(&clock);
                }
                Access::Lvt(index) => {
                    lapic.accept_lvt(Lvt::ALL[index]);
                }
                Access::Accept(vector, level) => {
                    lapic.accept_fixed(vector, Trigger::from_bit(level));
                }
                Access::Word(word, bits, level) => lapic.accept_word(word, bits, level),
                Access::Acknowledge => {
                    lapic.acknowledge();
                }
                Access::Cr8(cr8) => lapic.set_cr8(cr8),
                Access::Reset(init) => {
                    lapic.reset(if init { Reset::Init } else { Reset::PowerUp });
                }
                Access::Configure(config) => lapic.set_config(config),
                Access::Image(bytes) => {
                    let image: [u8; STATE_BYTES] = bytes.try_into().unwrap();
                    let _ = lapic.set_state(&image, &clock);
                }
            }
            check_invariants(&lapic, &clock);
        }
    }
}
