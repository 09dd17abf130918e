// SPDX-License-Identifier: GPL-2.0-only

//! The local APIC against a model of sets, and its timer against a counter.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use vireo_model::model::apic::{
    Accepted, Clock, Config, Effect, Initiator, Lapic, Mode, Timer, STATE_BYTES,
};
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

const T0: At = At { ns: 0, tsc: 0 };

const BASE_X2APIC: u64 = 0xfee0_0d00;
const OFFSET_TPR: u32 = 0x80;
const OFFSET_EOI: u32 = 0xb0;
const OFFSET_SVR: u32 = 0xf0;
const OFFSET_ICR: u32 = 0x300;
const ICR_SELF: u64 = 1 << 18;

/// Returns an APIC that software has enabled.
fn enabled(x2apic: bool) -> Lapic {
    let mut lapic = Lapic::new(Config::new(0, true));
    let _ = lapic.mmio_write(OFFSET_SVR, 4, 0x1ff, &T0);
    if x2apic {
        let _ = lapic.write_base(BASE_X2APIC, Initiator::Guest).unwrap();
    }
    lapic
}

/// Writes a register the way the mode has it.
fn write(lapic: &mut Lapic, offset: u32, value: u64) -> Effect {
    if lapic.mode() == Mode::X2apic {
        lapic
            .x2apic_write(0x800 + (offset >> 4), value, &T0)
            .unwrap()
    } else {
        lapic.mmio_write(offset, 4, value, &T0)
    }
}

fn read(lapic: &mut Lapic, offset: u32) -> u32 {
    if lapic.mode() == Mode::X2apic {
        lapic.x2apic_read(0x800 + (offset >> 4), &T0).unwrap() as u32
    } else {
        lapic.mmio_read(offset, 4, &T0) as u32
    }
}

/// The plain model: sets and the rules as the manual tells them.
#[derive(Default)]
struct Reference {
    irr: BTreeSet<u8>,
    isr: BTreeSet<u8>,
    level: BTreeSet<u8>,
    tpr: u8,
    disabled: bool,
    requested: BTreeMap<u8, u32>,
    taken: BTreeMap<u8, u32>,
}

impl Reference {
    fn accept(&mut self, vector: u8, level: bool) {
        if self.disabled || vector < 16 {
            return;
        }
        if level {
            self.level.insert(vector);
        } else {
            self.level.remove(&vector);
        }
        if self.irr.insert(vector) {
            *self.requested.entry(vector).or_default() += 1;
        }
    }

    fn ppr(&self) -> u8 {
        let in_service = self.isr.last().copied().unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 {
            self.tpr
        } else {
            in_service & 0xf0
        }
    }

    fn pending(&self) -> Option<u8> {
        let top = self.irr.last().copied()?;
        (top >> 4 > self.ppr() >> 4).then_some(top)
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.remove(&vector);
        self.isr.insert(vector);
        *self.taken.entry(vector).or_default() += 1;
        Some(vector)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8, bool),
    Word(usize, u64, u64),
    SelfIpi(u8),
    Acknowledge,
    Eoi,
    Tpr(u8),
    Enable(bool),
    Save,
}

fn step() -> impl Strategy<Value = Step> {
    // Few vectors, so that they meet.
    let vector = prop_oneof![any::<u8>(), 0x30u8..0x38, 0x10u8..0x12];
    prop_oneof![
        6 => (vector.clone(), any::<bool>()).prop_map(|(v, level)| Step::Accept(v, level)),
        1 => (0..5usize, any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(word, a, b, level)| Step::Word(word, a & b & (a >> 7), level)),
        2 => vector.prop_map(Step::SelfIpi),
        6 => Just(Step::Acknowledge),
        5 => Just(Step::Eoi),
        2 => any::<u8>().prop_map(Step::Tpr),
        1 => any::<bool>().prop_map(Step::Enable),
        1 => Just(Step::Save),
    ]
}

fn check(lapic: &mut Lapic, reference: &Reference) {
    assert_eq!(lapic.highest_irr(), reference.irr.last().copied());
    assert_eq!(lapic.pending_interrupt(), reference.pending());
    assert_eq!(lapic.ppr(), reference.ppr());
    assert_eq!(read(lapic, 0xa0), u32::from(reference.ppr()));
    let waiting = reference.irr.last().map_or(0, |v| v >> 4);
    let blocked = waiting <= reference.tpr >> 4;
    assert_eq!(lapic.tpr_threshold(), if blocked { waiting } else { 0 });
}

fn check_sets(lapic: &mut Lapic, reference: &Reference) {
    for (first, set) in [
        (0x100, &reference.isr),
        (0x180, &reference.level),
        (0x200, &reference.irr),
    ] {
        for vector in 16..=255u8 {
            let bits = read(lapic, first + u32::from(vector >> 5 << 4));
            let shown = bits & (1 << (vector & 31)) != 0;
            assert_eq!(shown, set.contains(&vector), "{first:#x} vector {vector}");
        }
    }
}

fn run(steps: &[Step], x2apic: bool) {
    let mut lapic = enabled(x2apic);
    let mut reference = Reference::default();
    for step in steps {
        match *step {
            Step::Accept(vector, level) => {
                let known = reference.irr.contains(&vector);
                let expected = match (reference.disabled || vector < 16, known) {
                    (true, _) => Accepted::Refused,
                    (false, true) => Accepted::Merged,
                    (false, false) => Accepted::New,
                };
                let accepted = lapic.accept_fixed(vector, Trigger::from_bit(level));
                assert_eq!(accepted, expected);
                reference.accept(vector, level);
            }
            Step::Word(word, bits, level) => {
                lapic.accept_word(word, bits, level);
                for bit in (0..64u32).filter(|bit| word < 4 && bits & (1 << bit) != 0) {
                    let vector = (word as u32 * 64 + bit) as u8;
                    reference.accept(vector, level & (1 << bit) != 0);
                }
            }
            Step::SelfIpi(vector) => {
                let effect = write(&mut lapic, OFFSET_ICR, ICR_SELF | u64::from(vector));
                assert_eq!(effect, Effect::None);
                reference.accept(vector, false);
            }
            Step::Acknowledge => assert_eq!(lapic.acknowledge(), reference.acknowledge()),
            Step::Eoi => {
                let vector = reference.isr.pop_last();
                match (write(&mut lapic, OFFSET_EOI, 0), vector) {
                    (Effect::Eoi(eoi), Some(vector)) => {
                        assert_eq!(eoi.vector, vector);
                        assert_eq!(eoi.broadcast, reference.level.contains(&vector));
                    }
                    (Effect::None, None) => {}
                    other => panic!("{other:?}"),
                }
            }
            Step::Tpr(tpr) => {
                assert_eq!(write(&mut lapic, OFFSET_TPR, u64::from(tpr)), Effect::None);
                reference.tpr = tpr;
            }
            Step::Enable(enable) => {
                let _ = write(
                    &mut lapic,
                    OFFSET_SVR,
                    0xff | if enable { 0x100 } else { 0 },
                );
                reference.disabled = !enable;
            }
            Step::Save => {
                check_sets(&mut lapic, &reference);
                let mut image = [0; STATE_BYTES];
                let _ = lapic.get_state(&mut image, &T0);
                let mut restored = Lapic::new(*lapic.config());
                let _ = restored.write_base(lapic.base(), Initiator::Host).unwrap();
                assert_eq!(restored.set_state(&image, &T0), Ok(Timer::Stop));
                lapic = restored;
            }
        }
        check(&mut lapic, &reference);
    }
    // Drain: everything that was requested is taken, once.
    let _ = write(&mut lapic, OFFSET_TPR, 0);
    reference.tpr = 0;
    loop {
        while lapic.eoi().is_some() {
            reference.isr.pop_last();
        }
        let vector = lapic.acknowledge();
        assert_eq!(vector, reference.acknowledge());
        if vector.is_none() {
            break;
        }
    }
    assert_eq!(reference.requested, reference.taken);
    check(&mut lapic, &reference);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// No interrupt is lost, duplicated or taken out of order.
    #[test]
    fn interrupts_follow_the_sets(steps in prop::collection::vec(step(), 0..120), x2apic: bool) {
        run(&steps, x2apic);
    }
}

/// A down-counter, tick by tick.
struct Counter {
    initial: u32,
    current: u32,
    periodic: bool,
    fired: u32,
}

impl Counter {
    fn tick(&mut self) {
        if self.current == 0 {
            return;
        }
        self.current -= 1;
        if self.current == 0 {
            self.fired += 1;
            if self.periodic {
                self.current = self.initial;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum TimerStep {
    Wait(u64),
    Start(u32),
    Periodic(bool),
    Save,
}

fn timer_step() -> impl Strategy<Value = TimerStep> {
    prop_oneof![
        6 => (0..200u64).prop_map(TimerStep::Wait),
        3 => prop_oneof![Just(0), 1..100u32].prop_map(TimerStep::Start),
        1 => any::<bool>().prop_map(TimerStep::Periodic),
        1 => Just(TimerStep::Save),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// The computed timer and a counter that ticks show the same counts and fire equally often.
    #[test]
    fn the_timer_counts_like_a_counter(
        steps in prop::collection::vec(timer_step(), 0..60),
        divide in prop::sample::select(vec![(0xbu32, 0u32), (0, 1), (1, 2)]),
        bus_cycle_ns in 1..4u32,
    ) {
        const VECTOR: u32 = 0xec;
        let (bits, shift) = divide;
        let count_ns = u64::from(bus_cycle_ns) << shift;
        let config = Config { bus_cycle_ns, min_period_ns: 0, ..Config::new(0, true) };
        let mut lapic = Lapic::new(config);
        let mut now = 1_000_000;
        let clock = |ns| At { ns, tsc: 0 };
        let _ = lapic.mmio_write(OFFSET_SVR, 4, 0x1ff, &clock(now));
        let _ = lapic.mmio_write(0x3e0, 4, u64::from(bits), &clock(now));
        let _ = lapic.mmio_write(0x320, 4, u64::from(VECTOR), &clock(now));
        let mut counter = Counter { initial: 0, current: 0, periodic: false, fired: 0 };
        let mut fired = 0;
        let mut host = Timer::Stop;
        for step in steps {
            match step {
                TimerStep::Wait(counts) => {
                    for _ in 0..counts {
                        counter.tick();
                    }
                    let until = now + counts * count_ns;
                    // The host timer, on time.
                    while let Timer::OneShotNs(deadline) = host {
                        if deadline > until {
                            break;
                        }
                        prop_assert!(deadline >= now);
                        host = lapic.timer_expired(&clock(deadline));
                        if let Some(vector) = lapic.acknowledge() {
                            prop_assert_eq!(u32::from(vector), VECTOR);
                            prop_assert!(lapic.eoi().is_some());
                            fired += 1;
                        }
                    }
                    now = until;
                }
                TimerStep::Start(count) => {
                    counter.initial = count;
                    counter.current = count;
                    match lapic.mmio_write(0x380, 4, u64::from(count), &clock(now)) {
                        Effect::Timer(timer) => host = timer,
                        other => panic!("{other:?}"),
                    }
                }
                TimerStep::Periodic(periodic) => {
                    counter.periodic = periodic;
                    let mode = if periodic { 1 << 17 } else { 0 };
                    let effect = lapic.mmio_write(0x320, 4, mode | u64::from(VECTOR), &clock(now));
                    prop_assert_eq!(effect, Effect::None);
                }
                // A one-shot timer at 0 would fire again on purpose.
                TimerStep::Save if counter.current == 0 => {}
                TimerStep::Save => {
                    let mut image = [0; STATE_BYTES];
                    prop_assert_eq!(lapic.get_state(&mut image, &clock(now)), host);
                    let mut restored = Lapic::new(config);
                    host = restored.set_state(&image, &clock(now)).unwrap();
                    lapic = restored;
                }
            }
            prop_assert_eq!(fired, counter.fired);
            prop_assert_eq!(lapic.mmio_read(0x390, 4, &clock(now)) as u32, counter.current);
            prop_assert_eq!(lapic.host_timer(), host);
        }
    }
}
