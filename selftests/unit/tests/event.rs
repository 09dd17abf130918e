// SPDX-License-Identifier: GPL-2.0-only

//! Events: combination, order, windows, and save and restore.

use proptest::prelude::*;
use vireo_model::model::errno::Errno;
use vireo_model::model::event::{
    combine, is_fault, Combined, Events, Inject, MpState, Options, Shown, VcpuEvents, Window,
};
use vireo_model::model::exit::{Event, EventKind};
use vireo_model::model::x86::{vector, Exception};

const OPEN: Window = Window {
    interrupts: true,
    nmis: true,
};
const CLOSED: Window = Window {
    interrupts: false,
    nmis: false,
};

const ALL: Options = Options {
    exception_payload: true,
    triple_fault_event: true,
};

fn hardware(exception: Exception) -> Event {
    Event::exception(&exception)
}

fn soft() -> Event {
    Event {
        kind: EventKind::SoftwareInterrupt,
        vector: 0x80,
        error_code: None,
        instruction_length: 2,
    }
}

/// The manual's table 6-5, with one vector for each class.
#[test]
fn double_fault_table() {
    use Combined::{DoubleFault, Serial, TripleFault};
    let benign = [
        vector::DB,
        vector::BP,
        vector::UD,
        vector::NM,
        vector::MF,
        vector::AC,
        vector::MC,
    ];
    let contributory = [
        vector::DE,
        vector::TS,
        vector::NP,
        vector::SS,
        vector::GP,
        vector::CP,
    ];
    let page = [vector::PF, vector::VE];
    let check = |firsts: &[u8], seconds: &[u8], result: Combined| {
        for first in firsts {
            for second in seconds {
                assert_eq!(combine(*first, *second), result, "{first} then {second}");
            }
        }
    };
    check(&benign, &benign, Serial);
    check(&benign, &contributory, Serial);
    check(&benign, &page, Serial);
    check(&contributory, &benign, Serial);
    check(&contributory, &contributory, DoubleFault);
    check(&contributory, &page, Serial);
    check(&page, &benign, Serial);
    check(&page, &contributory, DoubleFault);
    check(&page, &page, DoubleFault);
    check(&[vector::DF], &contributory, TripleFault);
    check(&[vector::DF], &page, TripleFault);
}

#[test]
fn faults_set_rf() {
    for v in [vector::DE, vector::UD, vector::GP, vector::PF, vector::AC] {
        assert!(is_fault(v));
    }
    for v in [
        vector::DB,
        vector::BP,
        vector::OF,
        vector::NMI,
        vector::DF,
        vector::MC,
        32,
        255,
    ] {
        assert!(!is_fault(v));
    }
}

#[test]
fn idle() {
    let mut e = Events::default();
    assert!(e.is_idle());
    let next = e.next(OPEN, false);
    assert_eq!(
        (next.inject, next.nmi_window, next.interrupt_window),
        (Inject::None, false, false)
    );
    assert!(!e.wakes(OPEN));
}

#[test]
fn a_fault_while_delivering_a_fault() {
    let mut e = Events::default();
    e.requeue(hardware(Exception::page_fault(0x1000, 2)));
    e.raise(Exception::page_fault(0x2000, 0));
    assert_eq!(
        e.next(OPEN, true).inject,
        Inject::Exception(Exception::with_code(vector::DF, 0))
    );
    e.requeue(hardware(Exception::with_code(vector::DF, 0)));
    e.raise(Exception::gp(0));
    assert!(e.has_triple_fault());
    assert!(!e.is_idle());
    e.reset();
    assert!(e.is_idle());
}

#[test]
fn a_page_fault_while_delivering_a_breakpoint() {
    let mut e = Events::default();
    e.requeue(Event {
        kind: EventKind::SoftwareException,
        vector: 3,
        ..soft()
    });
    e.raise(Exception::page_fault(0x2000, 0));
    assert_eq!(
        e.next(OPEN, false).inject,
        Inject::Exception(Exception::page_fault(0x2000, 0))
    );
    assert!(e.is_idle(), "INT3 runs again");
}

#[test]
fn requeue_after_raise_is_the_same_as_before() {
    let first = hardware(Exception::gp(0));
    let second = Exception::gp(8);
    let (mut a, mut b) = (Events::default(), Events::default());
    a.requeue(first);
    a.raise(second);
    b.raise(second);
    b.requeue(first);
    assert_eq!(a, b);
}

#[test]
fn an_interrupt_cut_short_by_an_exception_is_not_lost() {
    let mut e = Events::default();
    e.requeue(Event::interrupt(0x41));
    e.raise(Exception::page_fault(0, 0));
    let next = e.next(OPEN, false);
    assert_eq!(next.inject, Inject::Exception(Exception::page_fault(0, 0)));
    assert!(next.interrupt_window);
    let next = e.next(CLOSED, false);
    assert_eq!(
        (next.inject, next.interrupt_window),
        (Inject::None, true),
        "the handler runs with IF=0"
    );
    let next = e.next(OPEN, false);
    assert_eq!(
        (next.inject, next.interrupt_window),
        (Inject::Event(Event::interrupt(0x41)), false)
    );
}

#[test]
fn an_nmi_cut_short_goes_in_again_whatever_is_blocked() {
    let mut e = Events::default();
    e.requeue(Event::nmi());
    assert_eq!(e.next(CLOSED, true).inject, Inject::Event(Event::nmi()));
    e.requeue(Event::nmi());
    e.raise(Exception::ud());
    assert_eq!(
        e.next(CLOSED, false).inject,
        Inject::Exception(Exception::ud())
    );
    assert_eq!(e.next(CLOSED, false).inject, Inject::Event(Event::nmi()));
    assert!(e.is_idle());
}

#[test]
fn order() {
    let mut e = Events::default();
    e.pend_nmi(false);
    e.queue_interrupt(0x31);
    e.requeue(soft());
    let next = e.next(OPEN, true);
    assert_eq!(
        (next.inject, next.nmi_window, next.interrupt_window),
        (Inject::Event(soft()), true, true)
    );
    let next = e.next(OPEN, true);
    assert_eq!(
        (next.inject, next.nmi_window, next.interrupt_window),
        (Inject::Event(Event::nmi()), false, true)
    );
    let next = e.next(OPEN, true);
    assert_eq!(
        (next.inject, next.interrupt_window),
        (Inject::Event(Event::interrupt(0x31)), true)
    );
    let next = e.next(OPEN, true);
    assert_eq!(
        (next.inject, next.interrupt_window),
        (Inject::AckInterrupt, false)
    );
    let next = e.next(
        Window {
            interrupts: false,
            nmis: true,
        },
        true,
    );
    assert_eq!((next.inject, next.interrupt_window), (Inject::None, true));
}

#[test]
fn nmis_are_limited() {
    let mut e = Events::default();
    for _ in 0..5 {
        e.pend_nmi(false);
    }
    assert_eq!(e.next(OPEN, false).inject, Inject::Event(Event::nmi()));
    let next = e.next(CLOSED, false);
    assert!(next.nmi_window && next.inject == Inject::None);
    e.pend_nmi(true);
    assert_eq!(e.next(OPEN, false).inject, Inject::Event(Event::nmi()));
    assert!(e.is_idle(), "only one is latched while one is in service");
}

#[test]
fn payloads() {
    let mut e = Events::default();
    e.raise(Exception::page_fault(0x1234, 7));
    assert_eq!(e.take_payload(), Some((vector::PF, 0x1234)));
    assert_eq!(e.take_payload(), None);
    assert_eq!(
        e.next(OPEN, false).inject,
        Inject::Exception(Exception::with_code(vector::PF, 7))
    );
    e.raise(Exception::gp(0));
    e.drop_exception();
    assert!(e.is_idle());
}

#[test]
fn waking() {
    let mut e = Events::default();
    e.queue_interrupt(0x20);
    assert!(e.wakes(OPEN) && !e.wakes(CLOSED));
    let mut e = Events::default();
    e.pend_nmi(false);
    assert!(e.wakes(OPEN) && !e.wakes(CLOSED));
    e.raise(Exception::ud());
    assert!(e.wakes(CLOSED));
}

#[test]
fn saved_form() {
    let mut e = Events::default();
    e.raise(Exception::page_fault(0x5000, 6));
    e.queue_interrupt(0x55);
    e.pend_nmi(false);
    let shown = Shown {
        shadow: 2,
        nmi_masked: true,
        latched_init: true,
    };
    let saved = e.save(shown, ALL);
    assert_eq!(saved.flags, 0x3d);
    let x = saved.exception;
    assert_eq!(
        (x.injected, x.pending, x.nr, x.has_error_code, x.error_code),
        (0, 1, 14, 1, 6)
    );
    assert_eq!(
        (saved.exception_has_payload, saved.exception_payload),
        (1, 0x5000)
    );
    assert_eq!(
        (
            saved.interrupt.injected,
            saved.interrupt.nr,
            saved.interrupt.shadow
        ),
        (1, 0x55, 2)
    );
    assert_eq!(
        (saved.nmi.pending, saved.nmi.masked, saved.smi.latched_init),
        (1, 1, 1)
    );
    let old = e.save(shown, Options::default());
    assert_eq!(
        (old.exception.injected, old.exception.pending, old.flags),
        (1, 1, 0xd)
    );
}

#[test]
fn restoring_checks() {
    let mut e = Events::default();
    let base = VcpuEvents::default();
    let bad = |f: &dyn Fn(&mut VcpuEvents), options: Options| {
        let mut saved = base;
        f(&mut saved);
        assert_eq!(
            Events::default().restore(&saved, options).err(),
            Some(Errno::Invalid)
        );
    };
    bad(&|s| s.flags = 1 << 6, ALL);
    bad(&|s| s.flags = VcpuEvents::VALID_PAYLOAD, Options::default());
    bad(
        &|s| s.flags = VcpuEvents::VALID_TRIPLE_FAULT,
        Options::default(),
    );
    for nr in [2, 32, 255] {
        bad(&|s| (s.exception.injected, s.exception.nr) = (1, nr), ALL);
        bad(
            &|s| (s.exception.pending, s.exception.nr, s.flags) = (1, nr, 0x10),
            ALL,
        );
    }
    for smi in 0..3 {
        bad(
            &|s| {
                s.flags = VcpuEvents::VALID_SMM;
                *[
                    &mut s.smi.smm,
                    &mut s.smi.pending,
                    &mut s.smi.smm_inside_nmi,
                ][smi] = 1;
            },
            ALL,
        );
    }
    // Without its flag a field doesn't count.
    let mut saved = base;
    (
        saved.smi.smm,
        saved.exception.pending,
        saved.nmi.pending,
        saved.triple_fault.pending,
    ) = (1, 1, 1, 1);
    saved.exception.nr = 77;
    let restored = e.restore(&saved, ALL).unwrap();
    assert!(e.is_idle());
    assert_eq!(
        (restored.shadow, restored.sipi_vector, restored.latched_init),
        (None, None, None)
    );
    saved.flags = VcpuEvents::VALID_NMI_PENDING
        | VcpuEvents::VALID_TRIPLE_FAULT
        | VcpuEvents::VALID_SIPI_VECTOR;
    saved.sipi_vector = 9;
    saved.nmi.masked = 1;
    let restored = e.restore(&saved, ALL).unwrap();
    assert_eq!((restored.sipi_vector, restored.nmi_masked), (Some(9), true));
    assert!(e.has_triple_fault());
}

#[test]
fn error_codes_are_made_to_fit() {
    let mut e = Events::default();
    let mut saved = VcpuEvents::default();
    (saved.exception.injected, saved.exception.nr) = (1, vector::GP);
    let _ = e.restore(&saved, ALL).unwrap();
    assert_eq!(
        e.next(OPEN, false).inject,
        Inject::Event(hardware(Exception::gp(0)))
    );
    (saved.exception.nr, saved.exception.has_error_code) = (vector::UD, 1);
    let _ = e.restore(&saved, ALL).unwrap();
    assert_eq!(
        e.next(OPEN, false).inject,
        Inject::Event(hardware(Exception::ud()))
    );
}

#[test]
fn an_exception_and_an_nmi_at_once_are_both_restored() {
    let mut e = Events::default();
    let mut saved = VcpuEvents::default();
    (
        saved.exception.injected,
        saved.exception.nr,
        saved.nmi.injected,
    ) = (1, vector::UD, 1);
    saved.flags = VcpuEvents::VALID_NMI_PENDING;
    saved.nmi.pending = 9;
    let _ = e.restore(&saved, ALL).unwrap();
    assert_eq!(
        e.next(CLOSED, false).inject,
        Inject::Exception(Exception::ud())
    );
    assert_eq!(e.next(CLOSED, false).inject, Inject::Event(Event::nmi()));
    assert_eq!(e.next(OPEN, false).inject, Inject::Event(Event::nmi()));
    assert!(e.is_idle(), "one of nine is latched");
}

#[test]
fn mp_states() {
    for raw in 0..20 {
        let known = matches!(raw, 0..=4 | 9);
        assert_eq!(MpState::from_raw(raw, true).is_ok(), known, "{raw}");
        assert_eq!(MpState::from_raw(raw, false).is_ok(), raw == 0);
        if let Ok(state) = MpState::from_raw(raw, true) {
            assert_eq!(state.raw(), raw);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Raise(Exception),
    Requeue(Event),
    Interrupt(u8),
    Nmi(bool),
    Next(Window, bool),
    Payload,
}

fn exception() -> impl Strategy<Value = Exception> {
    (0u8..32, any::<Option<u32>>(), any::<Option<u64>>()).prop_map(|(vector, code, payload)| {
        let vector = if vector == 2 { 0 } else { vector };
        Exception {
            vector,
            error_code: vector::has_error_code(vector).then_some(code.unwrap_or(0)),
            payload,
        }
    })
}

fn window() -> impl Strategy<Value = Window> {
    any::<(bool, bool)>().prop_map(|(interrupts, nmis)| Window { interrupts, nmis })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        exception().prop_map(Step::Raise),
        exception().prop_map(|x| Step::Requeue(Event::exception(&x))),
        Just(Step::Requeue(Event::nmi())),
        Just(Step::Requeue(soft())),
        any::<u8>().prop_map(|v| Step::Requeue(Event::interrupt(v))),
        any::<u8>().prop_map(Step::Interrupt),
        any::<bool>().prop_map(Step::Nmi),
        (window(), any::<bool>()).prop_map(|(w, a)| Step::Next(w, a)),
        Just(Step::Payload),
    ]
}

fn run(e: &mut Events, steps: &[Step]) {
    for step in steps {
        match step.clone() {
            Step::Raise(x) => e.raise(x),
            Step::Requeue(x) => e.requeue(x),
            Step::Interrupt(v) => e.queue_interrupt(v),
            Step::Nmi(masked) => e.pend_nmi(masked),
            Step::Next(w, a) => {
                let _ = e.next(w, a);
            }
            Step::Payload => {
                let _ = e.take_payload();
            }
        }
    }
}

proptest! {
    #[test]
    fn everything_is_delivered_in_the_end(steps in prop::collection::vec(step(), 0..40)) {
        let mut e = Events::default();
        run(&mut e, &steps);
        e.set_triple_fault(false);
        let mut rounds = 0;
        while !e.is_idle() {
            let next = e.next(OPEN, false);
            prop_assert_ne!(next.inject, Inject::None);
            rounds += 1;
            prop_assert!(rounds <= 6);
        }
    }

    #[test]
    fn nothing_goes_in_through_a_closed_window(
        steps in prop::collection::vec(step(), 0..40), w in window(), waiting: bool,
    ) {
        let mut e = Events::default();
        run(&mut e, &steps);
        let pending = e.pending_exception().copied();
        let next = e.next(w, waiting);
        match next.inject {
            Inject::Exception(x) => prop_assert_eq!(Some(x), pending),
            Inject::AckInterrupt => prop_assert!(w.interrupts && waiting),
            Inject::Event(x) if x.kind == EventKind::Interrupt => prop_assert!(w.interrupts),
            _ => {}
        }
    }

    #[test]
    fn save_and_restore_is_the_identity(steps in prop::collection::vec(step(), 0..40), shadow in 0u8..4, masked: bool, init: bool) {
        let mut e = Events::default();
        run(&mut e, &steps);
        // A software interrupt is not saved, because its instruction runs again; and one of two that
        // are cut short at once is not, either, as in KVM's structure.
        let shown = Shown { shadow, nmi_masked: masked, latched_init: init };
        let mut saved = e.save(shown, ALL);
        if masked || saved.nmi.injected != 0 {
            saved.nmi.pending = saved.nmi.pending.min(1);
        }
        let mut copy = Events::default();
        let restored = copy.restore(&saved, ALL).unwrap();
        prop_assert_eq!(restored.shadow, Some(shadow));
        prop_assert_eq!(restored.nmi_masked, masked);
        prop_assert_eq!(restored.latched_init, Some(init));
        prop_assert_eq!(copy.save(shown, ALL), saved);
    }

    #[test]
    fn arbitrary_images_never_panic(image: [u8; 24], flags in 0u32..128, payload: u64, w in window()) {
        let mut saved = VcpuEvents { flags, exception_payload: payload, ..VcpuEvents::default() };
        let x = &mut saved.exception;
        [x.injected, x.nr, x.has_error_code, x.pending] = image[..4].try_into().unwrap();
        let i = &mut saved.interrupt;
        [i.injected, i.nr, i.soft, i.shadow] = image[4..8].try_into().unwrap();
        let n = &mut saved.nmi;
        [n.injected, n.pending, n.masked, n.pad] = image[8..12].try_into().unwrap();
        let s = &mut saved.smi;
        [s.smm, s.pending, s.smm_inside_nmi, s.latched_init] = [0, 0, 0, image[12]];
        saved.exception_has_payload = image[13];
        let mut e = Events::default();
        let before = e.clone();
        match e.restore(&saved, ALL) {
            Ok(_) => {
                let _ = e.next(w, true);
            }
            Err(_) => prop_assert_eq!(e, before),
        }
    }
}
