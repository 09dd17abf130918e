// SPDX-License-Identifier: GPL-2.0-only

//! A processor that delivers the interrupts by itself, beside an APIC that does it in the model: the two must
//! agree whenever the first one's interrupts are taken back. SDM vol. 3, "Evaluation and Delivery of Virtual
//! Interrupts".

use super::*;
use crate::model::apic::vectors::VectorSet;

/// The virtual-APIC page and the guest interrupt status, and what a processor does with them.
struct Processor {
    page: [u32; 256],
    rvi: u8,
    svi: u8,
    exits: [u64; 4],
}

const TPR: u32 = 0x80;
const ISR: u32 = 0x100;
const IRR: u32 = 0x200;

impl Processor {
    fn new() -> Self {
        Self {
            page: [0; 256],
            rvi: 0,
            svi: 0,
            exits: [0; 4],
        }
    }

    fn bank(&self, first: u32) -> VectorSet {
        let mut set = VectorSet::new();
        set.adopt(|index| self.page[first as usize / 4 + index * 4]);
        set
    }

    fn change(&mut self, first: u32, f: impl FnOnce(&mut VectorSet)) -> u8 {
        let mut set = self.bank(first);
        f(&mut set);
        for index in 0..8 {
            self.page[first as usize / 4 + index * 4] = set.register(index);
        }
        set.highest()
    }

    /// Takes the interrupts over from the model, as an entry does.
    fn take(&mut self, lapic: &mut Lapic) {
        self.exits = core::array::from_fn(|word| lapic.level_vectors(word));
        lapic.mirror(|offset, value| self.page[offset as usize / 4] = value);
        self.page[TPR as usize / 4] = lapic.tpr().into();
        let status = lapic.interrupt_status();
        (self.rvi, self.svi) = (status as u8, (status >> 8) as u8);
    }

    fn give_back(&self, lapic: &mut Lapic) {
        lapic.adopt(|offset| self.page[offset as usize / 4]);
        lapic.set_tpr(self.page[TPR as usize / 4] as u8);
        assert_eq!(
            lapic.interrupt_status(),
            u16::from(self.svi) << 8 | u16::from(self.rvi)
        );
    }

    fn ppr(&self) -> u8 {
        let tpr = self.page[TPR as usize / 4] as u8;
        if tpr >> 4 >= self.svi >> 4 {
            tpr
        } else {
            self.svi & 0xf0
        }
    }

    fn deliver(&mut self) -> Option<u8> {
        let vector = self.rvi;
        if vector >> 4 <= self.ppr() >> 4 {
            return None;
        }
        self.svi = self.change(ISR, |set| {
            set.insert(vector);
        });
        self.rvi = self.change(IRR, |set| {
            set.remove(vector);
        });
        Some(vector)
    }

    /// Returns the vector if its completion exits.
    fn eoi(&mut self) -> Option<u8> {
        let vector = self.svi;
        self.svi = self.change(ISR, |set| {
            set.remove(vector);
        });
        let word = self.exits[usize::from(vector >> 6)];
        (word >> (vector & 63) & 1 != 0).then_some(vector)
    }

    fn self_ipi(&mut self, vector: u8) {
        self.page[0x300 / 4] = 0x4_0000 | u32::from(vector);
        self.rvi = self.change(IRR, |set| {
            set.insert(vector);
        });
    }
}

/// Runs `steps` steps that follow from `seed`.
fn run(mut seed: u64, steps: u32) {
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut here, mut there) = (xapic(), xapic());
    let mut processor = Processor::new();
    let mut away = false;
    for _ in 0..steps {
        let choice = random();
        let vector = 16 + (random() % 240) as u8;
        if !away {
            processor.take(&mut there);
            away = true;
        }
        match choice % 8 {
            0 | 1 => {
                let trigger = Trigger::from_bit(choice & 64 != 0 && vector & 1 == 0);
                processor.give_back(&mut there);
                away = false;
                assert_eq!(
                    there.accept_fixed(vector, trigger),
                    here.accept_fixed(vector, trigger)
                );
            }
            2 | 3 => assert_eq!(processor.deliver(), here.acknowledge()),
            4 | 5 if processor.svi != 0 => {
                let exit = processor.eoi();
                let done = here.eoi();
                let heard = done.filter(|eoi| eoi.trigger.is_level());
                assert_eq!(exit, heard.map(|eoi| eoi.vector));
                if let Some(vector) = exit {
                    processor.give_back(&mut there);
                    away = false;
                    assert_eq!(Some(there.completed(vector)), done);
                }
            }
            6 => {
                // The processor knows nothing of TMR: what the guest sends to itself has vectors of its own.
                let vector = vector | 1;
                processor.self_ipi(vector);
                let effect = here.mmio_write(0x300, 4, 0x4_0000 | u64::from(vector), &T0);
                assert_eq!(effect, Effect::None);
            }
            _ => {
                processor.page[TPR as usize / 4] = u32::from(choice as u8 & 0x7f);
                here.set_tpr(choice as u8 & 0x7f);
            }
        }
        if random() % 4 == 0 && away {
            processor.give_back(&mut there);
            away = false;
        }
        if !away {
            for index in 0..4 {
                assert_eq!(there.irr.word(index), here.irr.word(index));
                assert_eq!(there.isr.word(index), here.isr.word(index));
                assert_eq!(there.level_vectors(index), here.level_vectors(index));
            }
            assert_eq!(there.ppr(), here.ppr());
            assert_eq!(there.pending_interrupt(), here.pending_interrupt());
            for offset in [0x300, 0x310] {
                assert_eq!(
                    there.mmio_read(offset, 4, &T0),
                    here.mmio_read(offset, 4, &T0)
                );
            }
        }
    }
}

#[test]
fn processor_and_model_agree() {
    for seed in 1..200 {
        run(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15), 400);
    }
}

#[test]
fn what_the_processor_changed_is_not_written_back() {
    let mut lapic = xapic();
    let mut processor = Processor::new();
    processor.take(&mut lapic);
    processor.self_ipi(0x51);
    processor.give_back(&mut lapic);
    assert_eq!(lapic.highest_irr(), Some(0x51));
    let mut stored = Vec::new();
    lapic.mirror(|offset, _| stored.push(offset));
    stored.retain(|offset| (ISR..IRR + 0x80).contains(offset));
    assert!(stored.is_empty(), "{stored:x?}");
}
