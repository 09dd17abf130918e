// SPDX-License-Identifier: GPL-2.0-only

//! Rules of the I/O APIC, by section of the 82093AA data sheet.

use super::*;
use crate::model::msi::{DeliveryMode, DestMode, Trigger};

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

fn ioapic() -> Ioapic {
    Ioapic::new(VERSION_82093AA)
}

fn read(ioapic: &mut Ioapic, register: u8) -> u32 {
    let _ = ioapic.mmio_write(0x00, 4, u64::from(register));
    ioapic.mmio_read(0x10, 4) as u32
}

fn write(ioapic: &mut Ioapic, register: u8, value: u32) -> Effect {
    let _ = ioapic.mmio_write(0x00, 4, u64::from(register));
    ioapic.mmio_write(0x10, 4, u64::from(value))
}

fn low(pin: u8) -> u8 {
    0x10 + 2 * pin
}

fn delivered(line: Line) -> u8 {
    match line {
        Line::Deliver(message) => message.vector,
        other => panic!("{other:?}"),
    }
}

fn eoi(ioapic: &mut Ioapic, vector: u8) -> Vec<u8> {
    let mut pins = Vec::new();
    ioapic.eoi(vector, |pin, message| {
        assert_eq!(message.vector, vector);
        pins.push(pin);
        true
    });
    pins
}

/// "IOAPIC Identification", "Version" and "Arbitration" registers, and reset values.
#[test]
fn registers_after_reset() {
    let mut ioapic = ioapic();
    assert_eq!(ioapic.base_address(), 0xfec0_0000);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0011);
    assert_eq!(write(&mut ioapic, 1, u32::MAX), Effect::None);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0011);
    assert_eq!(write(&mut ioapic, 0, u32::MAX), Effect::None);
    assert_eq!(
        (read(&mut ioapic, 0), read(&mut ioapic, 2)),
        (0x0f00_0000, 0x0f00_0000)
    );
    for pin in 0..24 {
        assert_eq!(
            (read(&mut ioapic, low(pin)), read(&mut ioapic, low(pin) + 1)),
            (MASKED, 0)
        );
    }
    for register in [3, 0x0f, 0x40, 0xff] {
        assert_eq!(read(&mut ioapic, register), u32::MAX);
        assert_eq!(write(&mut ioapic, register, 0), Effect::None);
    }
}

/// "I/O Register Select" and "I/O Window": sizes and aliases.
#[test]
fn window_accesses() {
    let mut ioapic = ioapic();
    let _ = ioapic.mmio_write(0x100, 8, 0xffff_ff01);
    assert_eq!(ioapic.mmio_read(0x00, 4), 1);
    assert_eq!(ioapic.mmio_read(0x10, 8), 0x0017_0011);
    assert_eq!(ioapic.mmio_read(0x10, 2), 0x0011);
    assert_eq!(ioapic.mmio_read(0x110, 1), 0x11);
    assert_eq!(ioapic.mmio_read(0x20, 4), 0);
    assert_eq!(ioapic.mmio_write(0x40, 4, 0x31), Effect::None);
    let mut newer = Ioapic::new(VERSION_WITH_EOI);
    assert_eq!(newer.mmio_write(0x40, 4, 0x31), Effect::Eoi(0x31));
    assert_eq!(read(&mut newer, 1), 0x0017_0020);
}

/// "I/O Redirection Table Registers": writable bits and what is sent.
#[test]
fn entry_fields() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(5), u32::MAX);
    let _ = write(&mut ioapic, low(5) + 1, u32::MAX);
    assert_eq!(read(&mut ioapic, low(5)), 0x1_afff);
    assert_eq!(read(&mut ioapic, low(5) + 1), 0xff00_0000);
    let _ = write(&mut ioapic, low(5), 0x0000_8931);
    let _ = write(&mut ioapic, low(5) + 1, 0x1200_0000);
    let message = Message {
        vector: 0x31,
        dest: 0x12,
        dest_mode: DestMode::Logical,
        delivery: DeliveryMode::LowestPriority,
        trigger: Trigger::Level,
        redirect_hint: false,
    };
    assert_eq!(ioapic.message(5), Some(message));
    assert_eq!(ioapic.set_irq(5, 0, true), Line::Deliver(message));
    assert_eq!(ioapic.message(24), None);
}

/// "Trigger Mode": each rising edge is one message.
#[test]
fn edges() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(4), 0x31);
    for _ in 0..3 {
        assert_eq!(delivered(ioapic.set_irq(4, 0, true)), 0x31);
        assert_eq!(ioapic.set_irq(4, 0, true), Line::Coalesced);
        assert_eq!(ioapic.set_irq(4, 0, false), Line::Low);
    }
    assert_eq!(eoi(&mut ioapic, 0x31), []);
}

/// "Remote IRR": one message until the EOI, and again if the line is still high.
#[test]
fn levels() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
    assert_eq!(read(&mut ioapic, low(9)), LEVEL | REMOTE_IRR | 0x31);
    assert_eq!(ioapic.set_irq(9, 0, true), Line::Ignored);
    assert_eq!(eoi(&mut ioapic, 0x32), []);
    assert_eq!(eoi(&mut ioapic, 0x31), [9]);
    assert_eq!(ioapic.set_irq(9, 0, false), Line::Low);
    assert_eq!(read(&mut ioapic, low(9)), LEVEL | REMOTE_IRR | 0x31);
    // Raised again before the EOI: sent by the EOI.
    assert_eq!(ioapic.set_irq(9, 0, true), Line::Ignored);
    assert_eq!(eoi(&mut ioapic, 0x31), [9]);
    assert_eq!(ioapic.set_irq(9, 0, false), Line::Low);
    assert_eq!(eoi(&mut ioapic, 0x31), []);
    assert_eq!(read(&mut ioapic, low(9)), LEVEL | 0x31);
}

/// "Interrupt Mask": an edge is lost, a level waits.
#[test]
fn masks() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(4), MASKED | 0x31);
    let _ = write(&mut ioapic, low(9), MASKED | LEVEL | 0x32);
    assert_eq!(ioapic.set_irq(4, 0, true), Line::Ignored);
    assert_eq!(ioapic.set_irq(9, 0, true), Line::Ignored);
    let unmask = |pin, deliver| {
        Effect::Entry(EntryWrite {
            pin,
            mask: Some(false),
            route: false,
            deliver,
        })
    };
    assert_eq!(write(&mut ioapic, low(4), 0x31), unmask(4, None));
    let message = ioapic.message(9);
    assert_eq!(write(&mut ioapic, low(9), LEVEL | 0x32), unmask(9, message));
    // Masked between message and EOI, the level waits for the unmasking.
    let _ = write(&mut ioapic, low(9), MASKED | LEVEL | 0x32);
    assert_eq!(eoi(&mut ioapic, 0x32), []);
    assert_eq!(write(&mut ioapic, low(9), LEVEL | 0x32), unmask(9, message));
    // Unmasking while the EOI is outstanding sends nothing.
    let _ = write(&mut ioapic, low(9), MASKED | LEVEL | 0x32);
    assert_eq!(write(&mut ioapic, low(9), LEVEL | 0x32), unmask(9, None));
}

/// Changing a level entry to edge and back ends the interrupt without an EOI.
#[test]
fn edge_mode_clears_remote_irr() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
    assert_eq!(ioapic.set_irq(9, 0, false), Line::Low);
    let _ = write(&mut ioapic, low(9), MASKED | 0x31);
    assert_eq!(read(&mut ioapic, low(9)), MASKED | 0x31);
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
}

/// Routes: what changed is said.
#[test]
fn entry_writes_say_what_changed() {
    let mut ioapic = ioapic();
    let entry = |mask, route| {
        Effect::Entry(EntryWrite {
            pin: 3,
            mask,
            route,
            deliver: None,
        })
    };
    assert_eq!(write(&mut ioapic, low(3), 0x31), entry(Some(false), true));
    assert_eq!(write(&mut ioapic, low(3), 0x31), entry(None, false));
    assert_eq!(write(&mut ioapic, low(3) + 1, 1 << 24), entry(None, true));
    assert_eq!(
        write(&mut ioapic, low(3), MASKED | 0x31),
        entry(Some(true), false)
    );
}

/// A pin's level is the OR of its sources.
#[test]
fn shared_pins() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
    assert_eq!(ioapic.set_irq(9, 1, true), Line::Ignored);
    assert_eq!(ioapic.set_irq(9, 0, false), Line::Ignored);
    assert_eq!(eoi(&mut ioapic, 0x31), [9]);
    assert_eq!(ioapic.set_irq(9, 1, false), Line::Low);
    assert_eq!(eoi(&mut ioapic, 0x31), []);
    // A source beyond the mask drives nothing.
    assert_eq!(ioapic.set_irq(9, 32, true), Line::Low);
    assert_eq!(ioapic.set_irq(24, 0, true), Line::Ignored);
}

/// Two pins with one vector share its EOI.
#[test]
fn shared_vectors() {
    let mut ioapic = ioapic();
    for pin in [9, 10] {
        let _ = write(&mut ioapic, low(pin), LEVEL | 0x31);
        assert_eq!(delivered(ioapic.set_irq(pin, 0, true)), 0x31);
    }
    assert_eq!(ioapic.pins_with_vector(0x31), (1 << 9) | (1 << 10));
    assert_eq!(eoi(&mut ioapic, 0x31), [9, 10]);
}

/// A message that nobody took leaves the entry ready for the next try.
#[test]
fn not_accepted() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
    ioapic.not_accepted(9);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
    ioapic.not_accepted(24);
    ioapic.eoi(0x31, |_, _| false);
    assert_eq!(read(&mut ioapic, low(9)), LEVEL | 0x31);
    let mut restored = Ioapic::new(VERSION_82093AA);
    restored.set_state(&ioapic.state(), |_, _| false);
    assert_eq!(delivered(restored.set_irq(9, 0, true)), 0x31);
}

/// KVM_IRQ_LINE_STATUS.
#[test]
fn line_status() {
    let message = ioapic().message(0).unwrap();
    let lines = [
        Line::Low,
        Line::Deliver(message),
        Line::Coalesced,
        Line::Ignored,
    ];
    assert_eq!(lines.map(|line| line.status(2)), [1, 2, 0, -1]);
}

/// `struct kvm_ioapic_state` has 216 bytes, its table at 24.
#[test]
fn state_layout() {
    assert_eq!(core::mem::size_of::<IoapicState>(), 216);
    assert_eq!(core::mem::offset_of!(IoapicState, redirtbl), 24);
}

#[test]
fn state_round_trip() {
    let mut source = ioapic();
    let _ = write(&mut source, 0, 5 << 24);
    let _ = write(&mut source, low(4), 0x31);
    let _ = write(&mut source, low(9), LEVEL | 0x32);
    let _ = write(&mut source, low(10), MASKED | LEVEL | 0x33);
    for pin in [4, 9, 10] {
        let _ = source.set_irq(pin, 0, true);
    }
    let state = source.state();
    assert_eq!(state.irr, (1 << 9) | (1 << 10));
    let mut target = ioapic();
    // Sent edges and levels that wait for an EOI or a mask are not sent again.
    target.set_state(&state, |pin, _| panic!("pin {pin}"));
    assert_eq!(target.state(), state);
    assert_eq!(eoi(&mut target, 0x32), [9]);
}

/// Only the last edge counts: one that was sent says nothing of a later one that was masked.
#[test]
fn saved_edges() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(4), 0x31);
    assert_eq!(delivered(ioapic.set_irq(4, 0, true)), 0x31);
    assert_eq!(ioapic.state().irr, 0);
    assert_eq!(ioapic.set_irq(4, 0, false), Line::Low);
    let _ = write(&mut ioapic, low(4), MASKED | 0x31);
    assert_eq!(ioapic.set_irq(4, 0, true), Line::Ignored);
    assert_eq!(ioapic.state().irr, 1 << 4);
}

/// A state with a line that is high and not yet sent sends it.
#[test]
fn restored_lines_are_sent() {
    let mut state = ioapic().state();
    state.irr = u32::MAX;
    state.id = u32::MAX;
    state.ioregsel = u32::MAX;
    state.redirtbl = [u64::MAX; PINS];
    state.redirtbl[4] = 0x31;
    state.redirtbl[9] = u64::from(LEVEL | 0x32);
    let mut target = ioapic();
    let mut sent = Vec::new();
    target.set_state(&state, |pin, message| {
        sent.push((pin, message.vector));
        true
    });
    assert_eq!(sent, [(4, 0x31), (9, 0x32)]);
    let back = target.state();
    assert_eq!((back.id, back.ioregsel, back.pad), (0xf, 0xff, 0));
    assert_eq!(back.redirtbl[0], 0xff00_0000_0001_efff);
    target.reset();
    assert_eq!(target.state(), ioapic().state());
}

/// A line that never falls is held back at every [`STORM`]th EOI, and sent again by `resume`.
#[test]
fn a_storm_is_held_back() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    assert_eq!(delivered(ioapic.set_irq(9, 0, true)), 0x31);
    for _ in 0..3 {
        for _ in 1..STORM {
            let mut sent = 0;
            assert!(!ioapic.eoi(0x31, |_, _| {
                sent += 1;
                true
            }));
            assert_eq!(sent, 1);
        }
        assert!(ioapic.eoi(0x31, |_, _| panic!("sent")));
        // Nothing waits for an EOI now.
        assert_eq!(read(&mut ioapic, low(9)), LEVEL | 0x31);
        assert!(!ioapic.eoi(0x31, |_, _| panic!("sent")));
        let mut sent = Vec::new();
        ioapic.resume(|pin, message| {
            sent.push((pin, message.vector));
            true
        });
        assert_eq!(sent, [(9, 0x31)]);
        ioapic.resume(|_, _| panic!("sent twice"));
    }
}

/// A line that has fallen, and one that is masked, begin anew; and `resume` sends neither.
#[test]
fn a_storm_ends() {
    for masked in [false, true] {
        let mut ioapic = ioapic();
        let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
        let _ = ioapic.set_irq(9, 0, true);
        for _ in 1..STORM {
            assert_eq!(eoi(&mut ioapic, 0x31), [9]);
        }
        if masked {
            let _ = write(&mut ioapic, low(9), MASKED | LEVEL | 0x31);
        } else {
            let _ = ioapic.set_irq(9, 0, false);
        }
        assert_eq!(eoi(&mut ioapic, 0x31), []);
        ioapic.resume(|_, _| panic!("sent"));
        let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
        let _ = ioapic.set_irq(9, 0, true);
        for _ in 1..STORM {
            assert_eq!(eoi(&mut ioapic, 0x31), [9]);
        }
    }
}

/// What is held back is sent at once when the guest writes the entry; and restoring a state begins anew.
#[test]
fn held_back_and_rewritten() {
    let mut ioapic = ioapic();
    let _ = write(&mut ioapic, low(9), LEVEL | 0x31);
    let _ = ioapic.set_irq(9, 0, true);
    for _ in 0..STORM {
        let _ = eoi(&mut ioapic, 0x31);
    }
    match write(&mut ioapic, low(9), LEVEL | 0x32) {
        Effect::Entry(write) => assert_eq!(write.deliver.map(|m| m.vector), Some(0x32)),
        other => panic!("{other:?}"),
    }
    ioapic.resume(|_, _| panic!("sent"));
    let _ = eoi(&mut ioapic, 0x32);
    let state = ioapic.state();
    ioapic.set_state(&state, |_, _| true);
    for _ in 1..STORM {
        assert_eq!(eoi(&mut ioapic, 0x32), [9]);
    }
}
