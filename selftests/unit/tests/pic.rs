// SPDX-License-Identifier: GPL-2.0-only

//! The PIC pair against a plain model: who is served when, over random histories.

use proptest::prelude::*;
use vireo_model::model::pic::{Chip, PicPair, PicState};

const PORTS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];

/// One chip, told as the data sheet tells it: a list of inputs from the highest priority to the lowest.
#[derive(Clone, Debug)]
struct Plain {
    order: Vec<u8>,
    requested: [bool; 8],
    in_service: [bool; 8],
    masked: [bool; 8],
    high: [bool; 8],
    level: [bool; 8],
}

impl Plain {
    fn new() -> Self {
        Self {
            order: (0..8).collect(),
            requested: [false; 8],
            in_service: [false; 8],
            masked: [false; 8],
            high: [false; 8],
            level: [false; 8],
        }
    }

    fn line(&mut self, pin: usize, high: bool) {
        let rises = high && !self.high[pin];
        self.high[pin] = high;
        if self.level[pin] {
            self.requested[pin] = high;
        } else if rises {
            self.requested[pin] = true;
        }
    }

    fn request(&self) -> Option<u8> {
        for &pin in &self.order {
            if self.in_service[pin as usize] {
                return None;
            }
            if self.requested[pin as usize] && !self.masked[pin as usize] {
                return Some(pin);
            }
        }
        None
    }

    fn take(&mut self, pin: u8) {
        if !self.level[pin as usize] {
            self.requested[pin as usize] = false;
        }
        self.in_service[pin as usize] = true;
    }

    fn end(&mut self, rotate: bool) -> Option<u8> {
        let pin = self
            .order
            .iter()
            .copied()
            .find(|&p| self.in_service[p as usize])?;
        self.in_service[pin as usize] = false;
        if rotate {
            self.lowest(pin);
        }
        Some(pin)
    }

    fn lowest(&mut self, pin: u8) {
        while self.order[7] != pin {
            self.order.rotate_left(1);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8, bool),
    Mask(bool, u8),
    End { slave: bool, rotate: bool },
    SpecificEnd { slave: bool, pin: u8 },
    Lowest { slave: bool, pin: u8 },
    Acknowledge,
    Save,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..16u8, any::<bool>()).prop_map(|(p, l)| Step::Line(p, l)),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(s, m)| Step::Mask(s, m)),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(slave, rotate)| Step::End { slave, rotate }),
        1 => (any::<bool>(), 0..8u8).prop_map(|(slave, pin)| Step::SpecificEnd { slave, pin }),
        1 => (any::<bool>(), 0..8u8).prop_map(|(slave, pin)| Step::Lowest { slave, pin }),
        6 => Just(Step::Acknowledge),
        1 => Just(Step::Save),
    ]
}

fn bits(mask: u8) -> [bool; 8] {
    core::array::from_fn(|i| mask >> i & 1 != 0)
}

fn start(elcr: u16) -> (PicPair, [Plain; 2]) {
    let mut pair = PicPair::new();
    for (port, base) in [(0x20, 0x30), (0xa0, 0x38)] {
        let _ = pair.write(port, 0x11);
        for value in [base, 4, 1] {
            let _ = pair.write(port + 1, value);
        }
    }
    let _ = pair.write(0x4d0, elcr as u8);
    let _ = pair.write(0x4d1, (elcr >> 8) as u8);
    let mut plain = [Plain::new(), Plain::new()];
    plain[0].level = bits(elcr as u8 & 0xf8);
    plain[1].level = bits((elcr >> 8) as u8 & 0xde);
    (pair, plain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Vectors, ends and INTR are those of the plain model, whatever happens; states can be saved and
    /// restored in between.
    #[test]
    fn as_the_data_sheet_has_it(elcr in any::<u16>(), steps in prop::collection::vec(step(), 0..120)) {
        let (mut pair, mut plain) = start(elcr);
        for step in steps {
            let command = |slave: bool| if slave { 0xa0 } else { 0x20 };
            match step {
                // The cascade has no line.
                Step::Line(2, _) => {}
                Step::Line(pin, high) => {
                    let _ = pair.set_irq(pin, 0, high);
                    plain[usize::from(pin >> 3)].line(usize::from(pin & 7), high);
                }
                Step::Mask(slave, mask) => {
                    let before = plain[usize::from(slave)].masked;
                    let effect = pair.write(command(slave) + 1, mask);
                    plain[usize::from(slave)].masked = bits(mask);
                    let unmasked: u16 = (0..8)
                        .filter(|&i| before[i] && mask >> i & 1 == 0)
                        .map(|i| 1 << i)
                        .sum();
                    prop_assert_eq!(effect.unmasked, unmasked << if slave { 8 } else { 0 });
                }
                Step::End { slave, rotate } => {
                    let effect = pair.write(command(slave), if rotate { 0xa0 } else { 0x20 });
                    let ended = plain[usize::from(slave)].end(rotate);
                    let shift = if slave { 8 } else { 0 };
                    prop_assert_eq!(effect.acked, ended.map_or(0, |pin| 1u16 << (pin + shift)));
                }
                Step::SpecificEnd { slave, pin } => {
                    let _ = pair.write(command(slave), 0x60 | pin);
                    plain[usize::from(slave)].in_service[usize::from(pin)] = false;
                }
                Step::Lowest { slave, pin } => {
                    let _ = pair.write(command(slave), 0xc0 | pin);
                    plain[usize::from(slave)].lowest(pin);
                }
                Step::Acknowledge => {
                    let (vector, effect) = pair.acknowledge();
                    prop_assert_eq!(effect.acked, 0);
                    let expected = match plain[0].request() {
                        None => 0x37,
                        Some(2) => {
                            plain[0].take(2);
                            match plain[1].request() {
                                None => 0x3f,
                                Some(pin) => {
                                    plain[1].take(pin);
                                    0x38 + pin
                                }
                            }
                        }
                        Some(pin) => {
                            plain[0].take(pin);
                            0x30 + pin
                        }
                    };
                    prop_assert_eq!(vector, expected);
                }
                Step::Save => {
                    for chip in [Chip::Master, Chip::Slave] {
                        let state = pair.state(chip);
                        pair.set_state(chip, &state);
                        prop_assert_eq!(pair.state(chip), state);
                    }
                }
            }
            if plain[1].request().is_some() {
                plain[0].requested[2] = true;
            }
            prop_assert_eq!(pair.output(), plain[0].request().is_some());
            for (plain, chip) in plain.iter().zip([Chip::Master, Chip::Slave]) {
                let state = pair.state(chip);
                prop_assert_eq!(bits(state.irr), plain.requested);
                prop_assert_eq!(bits(state.isr), plain.in_service);
            }
        }
    }

    /// No input, whatever it is, makes it panic or leaves INTR wrong.
    #[test]
    fn arbitrary_accesses(accesses in prop::collection::vec(
        (any::<bool>(), prop::sample::select(PORTS.to_vec()), any::<u8>(), any::<[u8; 16]>()), 0..200)
    ) {
        let mut pair = PicPair::new();
        for (write, port, value, state) in accesses {
            if write {
                let _ = pair.write(port, value);
            } else {
                let _ = pair.read(port);
            }
            let _ = pair.set_irq(value & 31, value >> 5, write);
            if value == 0 {
                let [last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll,
                    special_mask, init_state, auto_eoi, rotate_on_auto_eoi,
                    special_fully_nested_mode, init4, elcr, elcr_mask] = state;
                pair.set_state(Chip::Slave, &PicState {
                    last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll,
                    special_mask, init_state, auto_eoi, rotate_on_auto_eoi,
                    special_fully_nested_mode, init4, elcr, elcr_mask,
                });
            }
            let output = pair.output();
            let before = pair.state(Chip::Master).isr;
            let (_, effect) = pair.acknowledge();
            let after = pair.state(Chip::Master).isr;
            // Without INTR an acknowledge takes nothing into service.
            prop_assert!(output || (before == after && effect.acked & 0xff == 0));
        }
    }
}
