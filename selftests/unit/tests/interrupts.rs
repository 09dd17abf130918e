// SPDX-License-Identifier: GPL-2.0-only

//! Four processors, an I/O APIC and routes together: over random histories each interrupt is taken exactly
//! as often as a plain model of sets says, by whom it says.

use proptest::prelude::*;
use std::collections::BTreeSet;
use vireo_model::model::apic::{arbitrate, Candidate, Clock, Config, Effect, Ipi, Lapic, Sender};
use vireo_model::model::ioapic::{Effect as IoapicEffect, Ioapic, Line, VERSION_82093AA};
use vireo_model::model::msi::{self, DeliveryMode, Message, Trigger};
use vireo_model::model::route::{self, Route, Target};

const CPUS: usize = 4;
const SVR: u32 = 0xf0;
const EOI: u32 = 0xb0;
const TPR: u32 = 0x80;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;

struct Still;

impl Clock for Still {
    fn now_ns(&self) -> u64 {
        0
    }

    fn guest_tsc(&self) -> u64 {
        0
    }
}

/// The machine under test.
struct Machine {
    cpus: Vec<Lapic>,
    ioapic: Ioapic,
    routes: Vec<Route>,
}

impl Machine {
    fn new() -> Self {
        let cpus = (0..CPUS as u32).map(|id| {
            let mut lapic = Lapic::new(Config::new(id, id == 0));
            let _ = lapic.mmio_write(SVR, 4, 0x1ff, &Still);
            let _ = lapic.mmio_write(0xd0, 4, 1 << (24 + id), &Still);
            lapic
        });
        Self {
            cpus: cpus.collect(),
            ioapic: Ioapic::new(VERSION_82093AA),
            routes: (0..).map_while(Route::default_at).collect(),
        }
    }

    fn post(&mut self, cpu: usize, delivery: DeliveryMode, vector: u8, trigger: Trigger) {
        if delivery.uses_vector() {
            self.cpus[cpu].accept_fixed(vector, trigger);
        }
    }

    fn deliver(&mut self, message: &Message) -> bool {
        let mut takers: Vec<usize> = (0..CPUS)
            .filter(|&i| self.cpus[i].identity().takes(message, Sender::Device))
            .collect();
        if message.to_one() {
            let candidates = takers.iter().map(|&index| Candidate { index, ppr: 0 });
            takers = arbitrate(message.vector, candidates).into_iter().collect();
        }
        for &cpu in &takers {
            self.post(cpu, message.delivery, message.vector, message.trigger);
        }
        !takers.is_empty()
    }

    fn send(&mut self, sender: usize, ipi: &Ipi) {
        for cpu in 0..CPUS {
            if ipi.reaches(&self.cpus[cpu].identity(), cpu == sender) {
                self.post(cpu, ipi.delivery, ipi.vector, Trigger::Edge);
            }
        }
    }

    fn line(&mut self, gsi: u32, level: bool) {
        let targets: Vec<Target> = route::lookup(&self.routes, gsi)
            .iter()
            .map(|route| route.target)
            .collect();
        for target in targets {
            if let Target::Ioapic(pin) = target {
                if let Line::Deliver(message) = self.ioapic.set_irq(pin, 0, level) {
                    if !self.deliver(&message) {
                        self.ioapic.not_accepted(pin);
                    }
                }
            }
        }
    }

    fn entry(&mut self, pin: u8, low: u32, dest: u8) {
        let _ = self.ioapic.mmio_write(0, 4, u64::from(0x11 + 2 * pin));
        let _ = self.ioapic.mmio_write(0x10, 4, u64::from(dest) << 24);
        let _ = self.ioapic.mmio_write(0, 4, u64::from(0x10 + 2 * pin));
        if let IoapicEffect::Entry(write) = self.ioapic.mmio_write(0x10, 4, u64::from(low)) {
            if let Some(message) = write.deliver {
                if !self.deliver(&message) {
                    self.ioapic.not_accepted(write.pin);
                }
            }
        }
    }

    fn write(&mut self, cpu: usize, offset: u32, value: u64) {
        match self.cpus[cpu].mmio_write(offset, 4, value, &Still) {
            Effect::Ipi(ipi) => self.send(cpu, &ipi),
            Effect::Eoi(eoi) if eoi.broadcast => {
                let mut ioapic = self.ioapic.clone();
                ioapic.eoi(eoi.vector, |_pin, message| self.deliver(&message));
                self.ioapic = ioapic;
            }
            _ => {}
        }
    }
}

/// What a processor ought to have.
#[derive(Clone, Debug, Default)]
struct Plain {
    requested: BTreeSet<u8>,
    in_service: Vec<u8>,
    tpr: u8,
}

impl Plain {
    fn take(&mut self) -> Option<u8> {
        let top = *self.requested.last()?;
        let serving = self.in_service.last().copied().unwrap_or(0);
        if top >> 4 <= serving >> 4 || top >> 4 <= self.tpr >> 4 {
            return None;
        }
        self.requested.remove(&top);
        self.in_service.push(top);
        Some(top)
    }
}

/// A pin of the plain I/O APIC.
#[derive(Clone, Copy, Debug, Default)]
struct Pin {
    high: bool,
    level: bool,
    unmasked: bool,
    awaits_eoi: bool,
    vector: u8,
    cpu: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8, bool),
    Entry {
        pin: u8,
        cpu: u8,
        level: bool,
        masked: bool,
    },
    Fixed {
        from: u8,
        to: u8,
        vector: u8,
    },
    Logical {
        from: u8,
        mask: u8,
        vector: u8,
    },
    Shorthand {
        from: u8,
        kind: u8,
        vector: u8,
    },
    Msi {
        to: u8,
        vector: u8,
    },
    Tpr(u8, u8),
    Take(u8),
    Eoi(u8),
}

/// Vectors of messages; those of the pins are others, so that a vector names its sender.
fn vector() -> impl Strategy<Value = u8> {
    0x80..0xf0u8
}

fn step() -> impl Strategy<Value = Step> {
    let cpu = 0..CPUS as u8;
    prop_oneof![
        5 => (0..6u8, any::<bool>()).prop_map(|(p, l)| Step::Line(p, l)),
        2 => (0..6u8, cpu.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(pin, cpu, level, masked)| Step::Entry { pin, cpu, level, masked }),
        3 => (cpu.clone(), 0..5u8, vector())
            .prop_map(|(from, to, vector)| Step::Fixed { from, to, vector }),
        2 => (cpu.clone(), 0..16u8, vector())
            .prop_map(|(from, mask, vector)| Step::Logical { from, mask, vector }),
        2 => (cpu.clone(), 1..4u8, vector())
            .prop_map(|(from, kind, vector)| Step::Shorthand { from, kind, vector }),
        2 => (cpu.clone(), vector()).prop_map(|(to, vector)| Step::Msi { to, vector }),
        1 => (cpu.clone(), any::<u8>()).prop_map(|(c, t)| Step::Tpr(c, t)),
        8 => cpu.clone().prop_map(Step::Take),
        6 => cpu.prop_map(Step::Eoi),
    ]
}

/// Sends what a level that is high and waits for nothing has to send.
fn fire(pin: &mut Pin, cpus: &mut [Plain]) {
    if pin.level && pin.high && pin.unmasked && !pin.awaits_eoi {
        pin.awaits_eoi = true;
        cpus[pin.cpu].requested.insert(pin.vector);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_is_lost_or_doubled(steps in prop::collection::vec(step(), 0..200)) {
        let mut machine = Machine::new();
        let mut plain = vec![Plain::default(); CPUS];
        let mut pins: Vec<Pin> = (0..6u8)
            .map(|pin| Pin { vector: 0x30 + 8 * pin, ..Pin::default() })
            .collect();
        for step in steps {
            match step {
                Step::Line(number, high) => {
                    machine.line(number.into(), high);
                    let pin = &mut pins[usize::from(number)];
                    let rises = high && !pin.high;
                    pin.high = high;
                    if !pin.level && rises && pin.unmasked {
                        plain[pin.cpu].requested.insert(pin.vector);
                    }
                    fire(pin, &mut plain);
                }
                Step::Entry { pin: number, cpu, level, masked } => {
                    let pin = &mut pins[usize::from(number)];
                    let mut low = u32::from(pin.vector);
                    low |= if level { LEVEL } else { 0 };
                    low |= if masked { MASKED } else { 0 };
                    // The entry is masked while its halves differ.
                    let was_level = if pin.level { LEVEL } else { 0 };
                    machine.entry(number, MASKED | was_level | u32::from(pin.vector), cpu);
                    machine.entry(number, low, cpu);
                    pin.awaits_eoi &= level;
                    pin.level = level;
                    pin.unmasked = !masked;
                    pin.cpu = usize::from(cpu);
                    fire(pin, &mut plain);
                }
                Step::Fixed { from, to, vector } => {
                    machine.write(from.into(), ICR_HIGH, u64::from(to) << 24);
                    machine.write(from.into(), ICR, u64::from(vector));
                    // Nobody has the last ID.
                    if let Some(cpu) = plain.get_mut(usize::from(to)) {
                        cpu.requested.insert(vector);
                    }
                }
                Step::Logical { from, mask, vector } => {
                    machine.write(from.into(), ICR_HIGH, u64::from(mask) << 24);
                    machine.write(from.into(), ICR, u64::from(vector) | 1 << 11);
                    for (i, cpu) in plain.iter_mut().enumerate() {
                        if mask >> i & 1 != 0 {
                            cpu.requested.insert(vector);
                        }
                    }
                }
                Step::Shorthand { from, kind, vector } => {
                    machine.write(from.into(), ICR, u64::from(vector) | u64::from(kind) << 18);
                    for (i, cpu) in plain.iter_mut().enumerate() {
                        let own = i == usize::from(from);
                        if kind == 2 || own == (kind == 1) {
                            cpu.requested.insert(vector);
                        }
                    }
                }
                Step::Msi { to, vector } => {
                    let address = 0xfee0_0000 | u32::from(to) << 12;
                    let message = msi::decode(address, 0, vector.into(), false).unwrap();
                    prop_assert!(machine.deliver(&message));
                    plain[usize::from(to)].requested.insert(vector);
                }
                Step::Tpr(cpu, tpr) => {
                    machine.write(cpu.into(), TPR, tpr.into());
                    plain[usize::from(cpu)].tpr = tpr;
                }
                Step::Take(cpu) => {
                    let taken = machine.cpus[usize::from(cpu)].acknowledge();
                    prop_assert_eq!(taken, plain[usize::from(cpu)].take());
                }
                Step::Eoi(cpu) => {
                    let ended = plain[usize::from(cpu)].in_service.last().copied();
                    machine.write(cpu.into(), EOI, 0);
                    plain[usize::from(cpu)].in_service.pop();
                    for pin in &mut pins {
                        // The trigger mode that counts is that of the message which was taken.
                        if Some(pin.vector) == ended && pin.awaits_eoi {
                            pin.awaits_eoi = false;
                            fire(pin, &mut plain);
                        }
                    }
                }
            }
        }
        // Whatever waits is taken in the end, once.
        for (cpu, plain) in machine.cpus.iter_mut().zip(&mut plain) {
            let _ = cpu.mmio_write(TPR, 4, 0, &Still);
            plain.tpr = 0;
            loop {
                let taken = cpu.acknowledge();
                prop_assert_eq!(taken, plain.take());
                if taken.is_none() && plain.in_service.pop().is_none() {
                    break;
                }
                if taken.is_none() {
                    let _ = cpu.mmio_write(EOI, 4, 0, &Still);
                }
            }
            prop_assert!(plain.requested.is_empty());
            prop_assert!(cpu.highest_irr().is_none());
        }
    }
}
