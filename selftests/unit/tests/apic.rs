// SPDX-License-Identifier: GPL-2.0-only

//! The local APIC against a model of sets, random histories, and arbitrary input.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use vireo_model::model::addr::Gpa;
use vireo_model::model::apic::{
    Accepted, Clock, Config, Effect, Initiator, Lapic, Lvt, Mode, Reset, Timer, STATE_BYTES,
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
