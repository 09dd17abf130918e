// SPDX-License-Identifier: GPL-2.0-only

//! The I/O APIC against a plain model, with a local APIC behind it, and with arbitrary input.

use proptest::prelude::*;
use std::collections::BTreeSet;
use vireo_model::model::apic::{Accepted, Clock, Config, Effect as ApicEffect, Lapic};
use vireo_model::model::ioapic::{Effect, Ioapic, IoapicState, Line, PINS, VERSION_WITH_EOI};

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const IOREGSEL: u32 = 0x00;
const IOWIN: u32 = 0x10;

/// Pins and vectors that the histories use: few, so that they meet.
const USED_PINS: u8 = 4;
const FIRST_VECTOR: u8 = 0x30;

fn write_entry(ioapic: &mut Ioapic, pin: u8, low: u32) -> Effect {
    let _ = ioapic.mmio_write(IOREGSEL, 4, u64::from(0x10 + 2 * pin));
    ioapic.mmio_write(IOWIN, 4, u64::from(low))
}

fn read_entry(ioapic: &mut Ioapic, pin: u8) -> u32 {
    let _ = ioapic.mmio_write(IOREGSEL, 4, u64::from(0x10 + 2 * pin));
    ioapic.mmio_read(IOWIN, 4) as u32
}

/// A pin of the plain model.
#[derive(Clone, Debug, Default)]
struct Pin {
    drivers: BTreeSet<u8>,
    high: bool,
    /// The rising edge went out.
    sent: bool,
    vector: u8,
    level: bool,
    unmasked: bool,
    awaits_eoi: bool,
}

impl Pin {
    /// Takes over the OR of the drivers; returns whether a message goes out.
    fn drive(&mut self) -> bool {
        let was_high = self.high;
        self.high = !self.drivers.is_empty();
        self.sent &= self.high;
        let edge = !self.level && self.high && !was_high && self.unmasked;
        self.sent |= edge;
        edge || self.level_fires()
    }

    /// Returns whether a level that is high goes out now.
    fn level_fires(&mut self) -> bool {
        let fires = self.level && self.high && self.unmasked && !self.awaits_eoi;
        self.awaits_eoi |= fires;
        fires
    }
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8, u8, bool),
    Entry {
        pin: u8,
        vector: u8,
        level: bool,
        masked: bool,
    },
    Eoi(u8),
    NotAccepted(u8),
    Save,
}

fn step() -> impl Strategy<Value = Step> {
    let pin = 0..USED_PINS;
    let vector = FIRST_VECTOR..FIRST_VECTOR + 3;
    prop_oneof![
        8 => (pin.clone(), 0..2u8, any::<bool>()).prop_map(|(p, s, l)| Step::Line(p, s, l)),
        4 => (pin.clone(), vector.clone(), prop::bool::weighted(0.7), prop::bool::weighted(0.3))
            .prop_map(|(pin, vector, level, masked)| Step::Entry { pin, vector, level, masked }),
        5 => vector.prop_map(Step::Eoi),
        1 => pin.prop_map(Step::NotAccepted),
        1 => Just(Step::Save),
    ]
}

fn check(ioapic: &mut Ioapic, pins: &[Pin]) {
    for (number, pin) in (0u8..).zip(pins) {
        let mut expected = u32::from(pin.vector);
        expected |= if pin.level { LEVEL } else { 0 };
        expected |= if pin.unmasked { 0 } else { MASKED };
        expected |= if pin.awaits_eoi { REMOTE_IRR } else { 0 };
        assert_eq!(read_entry(ioapic, number), expected, "pin {number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Each step sends what the plain model sends.
    #[test]
    fn messages_follow_the_plain_model(steps in prop::collection::vec(step(), 0..120)) {
        let mut ioapic = Ioapic::new(VERSION_WITH_EOI);
        let mut pins = vec![Pin::default(); usize::from(USED_PINS)];
        for step in steps {
            match step {
                Step::Line(number, source, level) => {
                    let pin = &mut pins[usize::from(number)];
                    let was_high = pin.high;
                    if level {
                        pin.drivers.insert(source);
                    } else {
                        pin.drivers.remove(&source);
                    }
                    let fires = pin.drive();
                    let line = ioapic.set_irq(number, source, level);
                    match line {
                        Line::Deliver(message) => {
                            prop_assert!(fires);
                            prop_assert_eq!(message.vector, pin.vector);
                            prop_assert_eq!(message.trigger.is_level(), pin.level);
                        }
                        Line::Low => prop_assert!(!pin.high),
                        Line::Coalesced => prop_assert!(!pin.level && was_high && pin.high),
                        Line::Ignored => prop_assert!(pin.high && !fires),
                    }
                }
                Step::Entry { pin: number, vector, level, masked } => {
                    let pin = &mut pins[usize::from(number)];
                    pin.vector = vector;
                    pin.level = level;
                    pin.awaits_eoi &= level;
                    pin.sent &= !level;
                    let mask = (pin.unmasked == masked).then_some(masked);
                    pin.unmasked = !masked;
                    let fires = pin.level_fires();
                    let low = u32::from(vector)
                        | if level { LEVEL } else { 0 }
                        | if masked { MASKED } else { 0 };
                    match write_entry(&mut ioapic, number, low) {
                        Effect::Entry(entry) => {
                            prop_assert_eq!(entry.pin, number);
                            prop_assert_eq!(entry.mask, mask);
                            let sent = entry.deliver.map(|message| message.vector);
                            prop_assert_eq!(sent, fires.then_some(vector));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                Step::Eoi(vector) => {
                    let mut expected = Vec::new();
                    for (number, pin) in (0u8..).zip(&mut pins) {
                        if pin.vector == vector && pin.awaits_eoi {
                            pin.awaits_eoi = false;
                            if pin.level_fires() {
                                expected.push(number);
                            }
                        }
                    }
                    let mut sent = Vec::new();
                    ioapic.eoi(vector, |pin, message| {
                        assert_eq!(message.vector, vector);
                        sent.push(pin);
                        true
                    });
                    prop_assert_eq!(sent, expected);
                }
                Step::NotAccepted(number) => {
                    pins[usize::from(number)].awaits_eoi = false;
                    ioapic.not_accepted(number);
                }
                Step::Save => {
                    // The state forgets a high line whose edge was sent, and restoring raises the
                    // other ones anew.
                    let state = ioapic.state();
                    let mut sent = BTreeSet::new();
                    ioapic.set_state(&state, |pin, _| {
                        sent.insert(pin);
                        true
                    });
                    let mut expected = BTreeSet::new();
                    for (number, pin) in (0u8..).zip(&mut pins) {
                        pin.high &= !pin.sent;
                        pin.sent = pin.high && !pin.level && pin.unmasked;
                        if pin.sent || pin.level_fires() {
                            expected.insert(number);
                        }
                    }
                    prop_assert_eq!(sent, expected);
                }
            }
            check(&mut ioapic, &pins);
        }
    }
}

struct Still;

impl Clock for Still {
    fn now_ns(&self) -> u64 {
        0
    }

    fn guest_tsc(&self) -> u64 {
        0
    }
}

/// A machine of devices, one I/O APIC and one local APIC, with a guest that serves interrupts.
struct Machine {
    ioapic: Ioapic,
    lapic: Lapic,
    /// Work that each device has for the guest: its line is high while there is some.
    work: [u32; USED_PINS as usize],
}

impl Machine {
    fn new() -> Self {
        let mut lapic = Lapic::new(Config::new(0, true));
        let _ = lapic.mmio_write(0xf0, 4, 0x1ff, &Still);
        let mut ioapic = Ioapic::new(VERSION_WITH_EOI);
        for pin in 0..USED_PINS {
            let _ = write_entry(&mut ioapic, pin, LEVEL | u32::from(Self::vector(pin)));
        }
        Self {
            ioapic,
            lapic,
            work: [0; USED_PINS as usize],
        }
    }

    /// Pins 0 and 1 share a vector, and so do 2 and 3.
    fn vector(pin: u8) -> u8 {
        FIRST_VECTOR + pin / 2 * 0x10
    }

    fn line(&mut self, pin: u8) {
        let high = self.work[usize::from(pin)] != 0;
        if let Line::Deliver(message) = self.ioapic.set_irq(pin, 0, high) {
            assert_ne!(
                self.lapic.accept_fixed(message.vector, message.trigger),
                Accepted::Refused
            );
        }
    }

    /// Takes an interrupt, serves one piece of work of each device of the vector, ends the interrupt.
    fn serve(&mut self) -> bool {
        let Some(vector) = self.lapic.acknowledge() else {
            return false;
        };
        for pin in (0..USED_PINS).filter(|&pin| Self::vector(pin) == vector) {
            let work = &mut self.work[usize::from(pin)];
            *work = work.saturating_sub(1);
            self.line(pin);
        }
        match self.lapic.mmio_write(0xb0, 4, 0, &Still) {
            ApicEffect::Eoi(eoi) => {
                assert!(eoi.broadcast && eoi.vector == vector);
                let lapic = &mut self.lapic;
                self.ioapic.eoi(vector, |_, message| {
                    lapic.accept_fixed(message.vector, message.trigger) != Accepted::Refused
                });
            }
            other => panic!("{other:?}"),
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Life {
    Work(u8),
    Serve,
    Mask(u8, bool),
    Tpr(u8),
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        4 => (0..USED_PINS).prop_map(Life::Work),
        4 => Just(Life::Serve),
        2 => (0..USED_PINS, any::<bool>()).prop_map(|(p, m)| Life::Mask(p, m)),
        1 => any::<u8>().prop_map(Life::Tpr),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Once the guest lets interrupts through, all work gets done, and then it is quiet.
    #[test]
    fn level_interrupts_are_never_lost(lives in prop::collection::vec(life(), 0..150)) {
        let mut machine = Machine::new();
        for life in lives {
            match life {
                Life::Work(pin) => {
                    machine.work[usize::from(pin)] += 1;
                    machine.line(pin);
                }
                Life::Serve => {
                    machine.serve();
                }
                Life::Mask(pin, masked) => {
                    let low = LEVEL
                        | u32::from(Machine::vector(pin))
                        | if masked { MASKED } else { 0 };
                    if let Effect::Entry(entry) = write_entry(&mut machine.ioapic, pin, low) {
                        if let Some(message) = entry.deliver {
                            machine.lapic.accept_fixed(message.vector, message.trigger);
                        }
                    }
                }
                Life::Tpr(tpr) => machine.lapic.set_tpr(tpr),
            }
        }
        machine.lapic.set_tpr(0);
        for pin in 0..USED_PINS {
            let low = LEVEL | u32::from(Machine::vector(pin));
            if let Effect::Entry(entry) = write_entry(&mut machine.ioapic, pin, low) {
                if let Some(message) = entry.deliver {
                    machine.lapic.accept_fixed(message.vector, message.trigger);
                }
            }
        }
        let mut rounds = 0;
        while machine.serve() {
            rounds += 1;
            prop_assert!(rounds < 1000, "an interrupt that never ends");
        }
        prop_assert_eq!(machine.work, [0; USED_PINS as usize]);
        for pin in 0..USED_PINS {
            prop_assert_eq!(read_entry(&mut machine.ioapic, pin) & REMOTE_IRR, 0);
        }
    }

    /// No register access and no state panics or lets reserved bits in.
    #[test]
    fn arbitrary_input_is_harmless(
        version: u8,
        accesses in prop::collection::vec(any::<(u8, u32, u32, u64, [u8; 2], bool)>(), 0..100),
        fields: (u64, u32, u32, u32, u32),
        redirtbl: [u64; PINS],
    ) {
        let mut ioapic = Ioapic::new(version);
        let (base_address, ioregsel, id, irr, pad) = fields;
        let state = IoapicState { base_address, ioregsel, id, irr, pad, redirtbl };
        for (kind, offset, len, value, [pin, source], level) in accesses {
            let offset = if kind & 0x80 == 0 { offset & 0x50 } else { offset };
            match kind % 8 {
                0 => {
                    ioapic.mmio_read(offset, len);
                }
                1..=3 => {
                    if let Effect::Eoi(vector) = ioapic.mmio_write(offset, len, value) {
                        let _held = ioapic.eoi(vector, |pin, _| usize::from(pin) < PINS);
                    }
                }
                4 => {
                    let _ = ioapic.set_irq(pin, source, level);
                    ioapic.message(pin);
                }
                5 => ioapic.not_accepted(pin),
                6 => {
                    let _held = ioapic.eoi(pin, |pin, _| usize::from(pin) < PINS);
                }
                _ => ioapic.set_state(&state, |pin, _| usize::from(pin) < PINS),
            }
            let state = ioapic.state();
            prop_assert_eq!((state.pad, state.irr >> PINS, state.id >> 4), (0, 0, 0));
            for entry in state.redirtbl {
                prop_assert_eq!(entry & !0xff00_0000_0001_efff, 0);
                prop_assert!(entry & u64::from(LEVEL) != 0 || entry & u64::from(REMOTE_IRR) == 0);
            }
        }
    }
}
