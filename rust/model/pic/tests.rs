// SPDX-License-Identifier: GPL-2.0-only

//! Rules of the 8259A, by section of its data sheet.

use super::*;

const M: u16 = 0x20;
const S: u16 = 0xa0;

/// Returns a pair that is set up as PCs do: vectors 0x30 and 0x38, all unmasked.
fn pair() -> PicPair {
    let mut pair = PicPair::new();
    init(&mut pair, M, 0x30, 4, 1);
    init(&mut pair, S, 0x38, 2, 1);
    pair
}

fn init(pair: &mut PicPair, port: u16, base: u8, wiring: u8, icw4: u8) {
    let _ = pair.write(port, 0x11);
    for value in [base, wiring, icw4] {
        let _ = pair.write(port + 1, value);
    }
}

fn pulse(pair: &mut PicPair, pin: u8) {
    let _ = pair.set_irq(pin, 0, true);
    let _ = pair.set_irq(pin, 0, false);
}

fn ack(pair: &mut PicPair) -> u8 {
    let (vector, effect) = pair.acknowledge();
    assert_eq!(effect, Effect::default());
    vector
}

fn command(pair: &mut PicPair, port: u16, value: u8) -> u16 {
    let effect = pair.write(port, value);
    assert_eq!(effect.unmasked, 0);
    effect.acked
}

fn read_isr(pair: &mut PicPair, port: u16) -> u8 {
    assert_eq!(command(pair, port, 0x0b), 0);
    pair.read(port).0
}

fn read_irr(pair: &mut PicPair, port: u16) -> u8 {
    assert_eq!(command(pair, port, 0x0a), 0);
    pair.read(port).0
}

/// "Initialization Command Words 1 and 2 (ICW1, ICW2)".
#[test]
fn icw1_and_icw2() {
    let mut pair = pair();
    let _ = pair.write(M + 1, 0xaa);
    let _ = pair.set_irq(0, 0, true);
    assert_eq!(ack(&mut pair), 0x30);
    let _ = pair.set_irq(4, 0, true);
    assert_eq!(command(&mut pair, M, 0xc3), 0);
    assert_eq!(command(&mut pair, M, 0x6b), 0);
    // What was in service and what was requested is dropped, and that is told.
    assert_eq!(command(&mut pair, M, 0x11), 0x11);
    assert!(!pair.output());
    assert_eq!((pair.read(M + 1).0, pair.read(M).0), (0, 0));
    let _ = pair.write(M + 1, 0x47);
    let _ = pair.write(M + 1, 4);
    let _ = pair.write(M + 1, 1);
    // The edge sense circuit is reset: a line that is high is an edge at its next notice.
    let _ = pair.set_irq(1, 0, true);
    assert_eq!(ack(&mut pair), 0x41);
    assert_eq!(read_isr(&mut pair, M), 2);
    // Without IC4 the functions of ICW4 are off.
    init(&mut pair, M, 0x30, 4, 0x13);
    assert_eq!(pair.state(Chip::Master).auto_eoi, 1);
    assert_eq!(command(&mut pair, M, 0x10), 0);
    assert_eq!(pair.state(Chip::Master).auto_eoi, 0);
    assert_eq!(pair.state(Chip::Master).special_fully_nested_mode, 0);
    let _ = pair.write(M + 1, 0x20);
    let _ = pair.write(M + 1, 4);
    let _ = pair.write(M + 1, 0xf0);
    assert_eq!(pair.read(M + 1).0, 0xf0, "the mask register again");
}

/// "Fully Nested Mode": input 0 is the highest; an interrupt holds back those below it.
#[test]
fn fully_nested_mode() {
    let mut pair = pair();
    for pin in [5, 3, 4] {
        pulse(&mut pair, pin);
    }
    assert!(pair.output());
    assert_eq!(ack(&mut pair), 0x33);
    assert!(!pair.output());
    pulse(&mut pair, 1);
    assert_eq!(ack(&mut pair), 0x31);
    assert_eq!(read_isr(&mut pair, M), 0b1010);
    assert_eq!(read_irr(&mut pair, M), 0b11_0000);
    assert_eq!(command(&mut pair, M, 0x20), 1 << 1);
    assert!(!pair.output());
    assert_eq!(command(&mut pair, M, 0x20), 1 << 3);
    assert_eq!(ack(&mut pair), 0x34);
}

/// "Interrupt Sequence": a request that is gone gives input 7, which is not in service.
#[test]
fn spurious_interrupts() {
    let mut pair = pair();
    assert_eq!(ack(&mut pair), 0x37);
    assert_eq!(read_isr(&mut pair, M), 0);
    pulse(&mut pair, 12);
    let _ = pair.write(S + 1, 0xff);
    assert_eq!(ack(&mut pair), 0x3f);
    assert_eq!((read_isr(&mut pair, M), read_isr(&mut pair, S)), (4, 0));
}

/// "Cascade Mode".
#[test]
fn cascade() {
    let mut pair = pair();
    pulse(&mut pair, 9);
    pulse(&mut pair, 14);
    pulse(&mut pair, 3);
    assert_eq!(ack(&mut pair), 0x39);
    assert!(!pair.output(), "3 and 14 are below 9");
    assert_eq!(command(&mut pair, S, 0x20), 1 << 9);
    assert!(!pair.output(), "the master still serves the slave");
    assert_eq!(command(&mut pair, M, 0x20), 1 << 2);
    assert_eq!(ack(&mut pair), 0x3e);
    assert_eq!(command(&mut pair, S, 0x20), 1 << 14);
    assert_eq!(command(&mut pair, M, 0x20), 1 << 2);
    assert_eq!(ack(&mut pair), 0x33);
}

/// "The Special Fully Nested Mode": a slave's higher request interrupts its lower one.
#[test]
fn special_fully_nested_mode() {
    let mut pair = pair();
    init(&mut pair, M, 0x30, 4, 0x11);
    pulse(&mut pair, 12);
    assert_eq!(ack(&mut pair), 0x3c);
    pulse(&mut pair, 8);
    assert_eq!(ack(&mut pair), 0x38);
    pulse(&mut pair, 14);
    assert!(!pair.output());
}

/// "End of Interrupt (EOI)": specific and non-specific; one with nothing in service does nothing.
#[test]
fn end_of_interrupt() {
    let mut pair = pair();
    assert_eq!(command(&mut pair, M, 0x20), 0);
    pulse(&mut pair, 5);
    assert_eq!(ack(&mut pair), 0x35);
    pulse(&mut pair, 2);
    pulse(&mut pair, 4);
    assert_eq!(ack(&mut pair), 0x3f, "input 2 without a slave's request");
    assert_eq!(command(&mut pair, M, 0x65), 1 << 5);
    assert_eq!(read_isr(&mut pair, M), 1 << 2);
    assert_eq!(command(&mut pair, M, 0x62), 1 << 2);
    assert_eq!(ack(&mut pair), 0x34);
    // No operation.
    assert_eq!(command(&mut pair, M, 0x44), 0);
    assert_eq!(read_isr(&mut pair, M), 1 << 4);
}

/// "Automatic End of Interrupt (AEOI) Mode".
#[test]
fn automatic_eoi() {
    let mut pair = pair();
    init(&mut pair, M, 0x30, 4, 3);
    init(&mut pair, S, 0x38, 2, 3);
    pulse(&mut pair, 10);
    let (vector, effect) = pair.acknowledge();
    assert_eq!((vector, effect.acked), (0x3a, 1 << 10 | 1 << 2));
    assert_eq!((read_isr(&mut pair, M), read_isr(&mut pair, S)), (0, 0));
    // "Rotate in Automatic EOI Mode".
    assert_eq!(command(&mut pair, M, 0x80), 0);
    pulse(&mut pair, 3);
    assert_eq!(pair.acknowledge().0, 0x33);
    pulse(&mut pair, 3);
    pulse(&mut pair, 4);
    assert_eq!(pair.acknowledge().0, 0x34, "3 is the lowest now");
    assert_eq!(command(&mut pair, M, 0), 0);
    assert_eq!(pair.acknowledge().0, 0x33);
    assert_eq!(pair.state(Chip::Master).priority_add, 5, "not rotated");
}

/// "Automatic Rotation" and "Specific Rotation".
#[test]
fn rotation() {
    let mut pair = pair();
    pulse(&mut pair, 4);
    assert_eq!(ack(&mut pair), 0x34);
    assert_eq!(command(&mut pair, M, 0xa0), 1 << 4);
    for pin in [4, 5, 3] {
        pulse(&mut pair, pin);
    }
    assert_eq!(ack(&mut pair), 0x35);
    assert_eq!(command(&mut pair, M, 0x20), 1 << 5);
    assert_eq!(ack(&mut pair), 0x33);
    assert_eq!(command(&mut pair, M, 0xe3), 1 << 3);
    assert_eq!(pair.state(Chip::Master).priority_add, 4);
    // Set priority command: 6 becomes the lowest.
    assert_eq!(command(&mut pair, M, 0xc6), 0);
    pulse(&mut pair, 7);
    assert_eq!(ack(&mut pair), 0x37);
}

/// "Interrupt Masks" and what unmasking tells.
#[test]
fn masks() {
    let mut pair = pair();
    assert_eq!(pair.write(M + 1, 0xff), Effect::default());
    assert_eq!(pair.set_irq(3, 0, true).status(), -1);
    assert!(!pair.output());
    assert_eq!(read_irr(&mut pair, M), 8);
    assert_eq!(pair.write(M + 1, 0xf6).unmasked, 0b1001);
    assert_eq!(ack(&mut pair), 0x33);
    let _ = pair.write(S + 1, 0xff);
    assert_eq!(pair.write(S + 1, 0xfe).unmasked, 1 << 8);
}

/// "Special Mask Mode".
#[test]
fn special_mask_mode() {
    let mut pair = pair();
    pulse(&mut pair, 1);
    assert_eq!(ack(&mut pair), 0x31);
    pulse(&mut pair, 4);
    let _ = pair.write(M + 1, 1 << 1);
    assert!(!pair.output());
    assert_eq!(command(&mut pair, M, 0x68), 0);
    assert_eq!(ack(&mut pair), 0x34);
    // A non-specific EOI leaves the masked one in service.
    assert_eq!(command(&mut pair, M, 0x20), 1 << 4);
    assert_eq!(command(&mut pair, M, 0x20), 0);
    assert_eq!(read_isr(&mut pair, M), 2);
    pulse(&mut pair, 5);
    assert!(pair.output());
    assert_eq!(command(&mut pair, M, 0x48), 0);
    assert!(!pair.output());
}

/// "Poll Command": the read is an acknowledge.
#[test]
fn poll() {
    let mut pair = pair();
    assert_eq!(command(&mut pair, M, 0x0c), 0);
    assert_eq!(pair.read(M), (7, Effect::default()));
    assert_eq!(pair.read(M).0, 0, "one read only");
    pulse(&mut pair, 5);
    assert_eq!(command(&mut pair, M, 0x0c), 0);
    assert_eq!(pair.read(M + 1).0, 0x85);
    assert!(!pair.output());
    assert_eq!(read_isr(&mut pair, M), 1 << 5);
    assert_eq!(command(&mut pair, M, 0x20), 1 << 5);
    pulse(&mut pair, 11);
    assert_eq!(command(&mut pair, S, 0x0c), 0);
    assert_eq!(pair.read(S).0, 0x83);
    assert!(!pair.output(), "the slave's request has been answered");
    assert_eq!((read_isr(&mut pair, M), read_isr(&mut pair, S)), (0, 8));
}

/// "Edge and Level Triggered Modes", with the PIIX3's register for each input.
#[test]
fn edges_and_levels() {
    let mut pair = pair();
    assert_eq!(pair.set_irq(3, 0, true).status(), 1);
    assert_eq!(pair.set_irq(3, 0, true).status(), 1, "no new edge");
    assert_eq!(ack(&mut pair), 0x33);
    assert_eq!(command(&mut pair, M, 0x20), 8);
    assert!(!pair.output());
    pulse(&mut pair, 4);
    assert_eq!(pair.set_irq(4, 0, true).status(), 0);

    let _ = pair.write(0x4d0, 0xff);
    let _ = pair.write(0x4d1, 0xff);
    assert_eq!((pair.read(0x4d0).0, pair.read(0x4d1).0), (0xf8, 0xde));
    let mut pair = {
        init(&mut pair, M, 0x30, 4, 1);
        pair
    };
    let _ = pair.set_irq(4, 0, false);
    let _ = pair.set_irq(3, 0, false);
    assert_eq!(pair.set_irq(5, 0, true).status(), 1);
    assert_eq!(pair.set_irq(5, 0, true).status(), 0);
    assert_eq!(ack(&mut pair), 0x35);
    assert_eq!(command(&mut pair, M, 0x20), 1 << 5);
    assert!(pair.output(), "still high");
    let _ = pair.set_irq(5, 0, false);
    assert!(!pair.output());
    // Sources share an input.
    let _ = pair.set_irq(11, 0, true);
    let _ = pair.set_irq(11, 1, true);
    let _ = pair.set_irq(11, 0, false);
    assert_eq!(ack(&mut pair), 0x3b);
    let _ = pair.set_irq(11, 1, false);
    assert_eq!(pair.set_irq(16, 0, true).status(), -1);
}

#[test]
fn ports() {
    for port in 0..=u16::MAX {
        let ours = matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1);
        assert_eq!(PicPair::claims(port, 1), ours);
        assert_eq!(PicPair::claims(port, 2), ours && port & 1 == 0);
        assert!(!PicPair::claims(port, 4));
    }
    let mut pair = pair();
    assert_eq!(pair.read(0x22), (0xff, Effect::default()));
    assert_eq!(pair.write(0x22, 0), Effect::default());
}

/// `struct kvm_pic_state` has 16 bytes.
#[test]
fn state() {
    assert_eq!(core::mem::size_of::<PicState>(), 16);
    let mut source = pair();
    let _ = source.write(0x4d1, 0x08);
    for pin in [0, 3, 9, 11] {
        let _ = source.set_irq(pin, 0, true);
    }
    assert_eq!(ack(&mut source), 0x30);
    let _ = source.write(S + 1, 0x02);
    let _ = source.write(M, 0x6b);
    let _ = source.write(S, 0xc1);
    let mut target = PicPair::new();
    for chip in [Chip::Master, Chip::Slave] {
        target.set_state(chip, &source.state(chip));
        assert_eq!(target.state(chip), source.state(chip));
    }
    let _ = source.write(M, 0x20);
    let _ = target.write(M, 0x20);
    assert!(target.output());
    assert_eq!(ack(&mut target), ack(&mut source));
    // Nonsense is cut to what can be.
    let mut bytes = target.state(Chip::Slave);
    bytes.priority_add = 0xff;
    bytes.irq_base = 0xff;
    bytes.init_state = 9;
    bytes.elcr = 0xff;
    bytes.elcr_mask = 0xff;
    target.set_state(Chip::Slave, &bytes);
    let cut = target.state(Chip::Slave);
    assert_eq!(
        (
            cut.priority_add,
            cut.irq_base,
            cut.init_state,
            cut.elcr,
            cut.elcr_mask
        ),
        (7, 0xf8, 0, 0xde, 0xde)
    );
}
