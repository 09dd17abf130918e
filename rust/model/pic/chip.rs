// SPDX-License-Identifier: GPL-2.0-only

//! One 8259A.

use super::{Effect, Line, CASCADE, SPURIOUS};

/// Command port, bit 4: this is ICW1.
const ICW1: u8 = 1 << 4;
/// ICW1 bit 0: ICW4 will follow.
const ICW1_IC4: u8 = 1 << 0;
/// ICW2 bits 7:3: the vector's upper bits.
const ICW2_BASE: u8 = 0xf8;
/// ICW4 bit 1: automatic end of interrupt.
const ICW4_AEOI: u8 = 1 << 1;
/// ICW4 bit 4: special fully nested mode.
const ICW4_SFNM: u8 = 1 << 4;

/// Command port, bit 3 (without bit 4): this is OCW3, otherwise OCW2.
const OCW3: u8 = 1 << 3;
/// OCW3 bit 2: poll command.
const OCW3_POLL: u8 = 1 << 2;
/// OCW3 bit 1: bit 0 chooses what reads of the command port return.
const OCW3_RR: u8 = 1 << 1;
/// OCW3 bit 0: ISR, otherwise IRR.
const OCW3_RIS: u8 = 1 << 0;
/// OCW3 bit 6: bit 5 sets or clears the special mask mode.
const OCW3_ESMM: u8 = 1 << 6;
/// OCW3 bit 5.
const OCW3_SMM: u8 = 1 << 5;

/// OCW2 bit 7: rotate.
const OCW2_ROTATE: u8 = 1 << 7;
/// OCW2 bit 6: the level in bits 2:0 counts.
const OCW2_SPECIFIC: u8 = 1 << 6;
/// OCW2 bit 5: end of interrupt.
const OCW2_EOI: u8 = 1 << 5;
/// OCW2 bits 2:0.
const OCW2_LEVEL: u8 = 7;

/// A polled byte's bit 7: there is an interrupt, whose level is in bits 2:0.
const POLL_INTERRUPT: u8 = 1 << 7;

/// Input numbers wrap at 8.
const PIN_MASK: u8 = 7;

/// Which initialisation word comes next at the data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Init {
    /// None: the port is the mask register.
    Done,
    /// ICW2.
    Icw2,
    /// ICW3, whose wiring is fixed here.
    Icw3,
    /// ICW4.
    Icw4,
}

/// One chip.
///
/// # Invariants
///
/// `first` is 0 to 7; `base` has bits 2:0 clear; `elcr` has only bits of `elcr_mask`.
#[derive(Clone, Debug)]
pub(super) struct Pic {
    /// Lines that were high when last told, for finding edges.
    pub(super) last: u8,
    pub(super) irr: u8,
    pub(super) imr: u8,
    pub(super) isr: u8,
    /// The input with the highest priority.
    pub(super) first: u8,
    pub(super) base: u8,
    pub(super) read_isr: bool,
    pub(super) poll: bool,
    pub(super) special_mask: bool,
    pub(super) init: Init,
    pub(super) auto_eoi: bool,
    pub(super) rotate_on_auto_eoi: bool,
    pub(super) special_fully_nested: bool,
    /// ICW1 said that ICW4 follows.
    pub(super) icw4_follows: bool,
    pub(super) elcr: u8,
    pub(super) elcr_mask: u8,
}

impl Pic {
    /// Returns a chip after power-up whose inputs in `elcr_mask` may be level triggered.
    pub(super) const fn new(elcr_mask: u8) -> Self {
        Self {
            last: 0,
            irr: 0,
            imr: 0,
            isr: 0,
            first: 0,
            base: 0,
            read_isr: false,
            poll: false,
            special_mask: false,
            init: Init::Done,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            icw4_follows: false,
            elcr: 0,
            elcr_mask,
        }
    }

    const fn bit(pin: u8) -> u8 {
        1 << (pin & PIN_MASK)
    }

    /// Sets the level of input `pin`, 0 to 7.
    pub(super) fn set_line(&mut self, pin: u8, high: bool) -> Line {
        let bit = Self::bit(pin);
        let was_requested = self.irr & bit != 0;
        let rises = high && self.last & bit == 0;
        let level = self.elcr & bit != 0;
        if high {
            self.last |= bit;
            if level || rises {
                self.irr |= bit;
            }
        } else {
            self.last &= !bit;
            if level {
                self.irr &= !bit;
            }
        }
        if self.imr & bit != 0 {
            Line::Masked
        } else if high && (level || rises) && was_requested {
            Line::Coalesced
        } else {
            Line::Taken
        }
    }

    /// Forgets the request of an edge-triggered input.
    pub(super) fn withdraw(&mut self, pin: u8) {
        self.irr &= !Self::bit(pin);
    }

    /// Returns the member of `pins` that comes first from the input with the highest priority on, and its
    /// distance from that. "Fully Nested Mode", "Automatic Rotation".
    fn highest(&self, pins: u8) -> Option<(u8, u8)> {
        if pins == 0 {
            return None;
        }
        let distance = pins.rotate_right(self.first.into()).trailing_zeros() as u8;
        Some(((distance + self.first) & PIN_MASK, distance))
    }

    /// Returns the inputs in service that hold back others: in the special mask mode those that are not
    /// masked.
    fn holding(&self) -> u8 {
        if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        }
    }

    /// Returns the input for which the chip raises INT.
    ///
    /// In the special fully nested mode a slave in service does not hold back its own further requests.
    pub(super) fn request(&self) -> Option<u8> {
        let (pin, distance) = self.highest(self.irr & !self.imr)?;
        let mut holding = self.holding();
        if self.special_fully_nested {
            holding &= !Self::bit(CASCADE);
        }
        match self.highest(holding) {
            Some((_, in_service)) if distance >= in_service => None,
            _ => Some(pin),
        }
    }

    /// Returns the vector of input `pin`.
    pub(super) const fn vector(&self, pin: u8) -> u8 {
        self.base | (pin & PIN_MASK)
    }

    /// Takes the request of `pin` into service. Returns what automatic EOI completed.
    pub(super) fn acknowledge(&mut self, pin: u8) -> u16 {
        let bit = Self::bit(pin);
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        self.isr |= bit;
        if !self.auto_eoi {
            return 0;
        }
        if self.rotate_on_auto_eoi {
            self.first = (pin + 1) & PIN_MASK;
        }
        self.complete(pin)
    }

    /// Ends the service of `pin`; returns it as a mask.
    fn complete(&mut self, pin: u8) -> u16 {
        self.isr &= !Self::bit(pin);
        Self::bit(pin).into()
    }

    /// Writes the command port, or with `data` the data port.
    pub(super) fn write(&mut self, data: bool, value: u8) -> Effect {
        let mut effect = Effect::default();
        if data {
            effect.unmasked = self.write_data(value).into();
        } else if value & ICW1 != 0 {
            effect.acked = self.initialise(value).into();
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            effect.acked = self.write_ocw2(value);
        }
        effect
    }

    /// ICW1. Returns the inputs whose requests or service it drops. "Initialization Command Words 1 and 2".
    fn initialise(&mut self, icw1: u8) -> u8 {
        let edges = self.irr & !self.elcr;
        let dropped = edges | self.isr;
        self.last = 0;
        self.irr &= self.elcr;
        self.imr = 0;
        self.isr = 0;
        self.first = 0;
        self.special_mask = false;
        self.read_isr = false;
        self.poll = false;
        self.icw4_follows = icw1 & ICW1_IC4 != 0;
        if !self.icw4_follows {
            self.auto_eoi = false;
            self.special_fully_nested = false;
        }
        self.init = Init::Icw2;
        dropped
    }

    /// ICW2 to ICW4, or OCW1. Returns the inputs that were masked and are not any more.
    fn write_data(&mut self, value: u8) -> u8 {
        match self.init {
            Init::Done => {
                let unmasked = self.imr & !value;
                self.imr = value;
                return unmasked;
            }
            Init::Icw2 => {
                self.base = value & ICW2_BASE;
                self.init = Init::Icw3;
            }
            Init::Icw3 => {
                self.init = if self.icw4_follows {
                    Init::Icw4
                } else {
                    Init::Done
                };
            }
            Init::Icw4 => {
                self.auto_eoi = value & ICW4_AEOI != 0;
                self.special_fully_nested = value & ICW4_SFNM != 0;
                self.init = Init::Done;
            }
        }
        0
    }

    /// OCW2: ends of interrupts and rotation. Returns the input whose service it ends. "Operation Command
    /// Word 2".
    fn write_ocw2(&mut self, value: u8) -> u16 {
        let rotate = value & OCW2_ROTATE != 0;
        let specific = value & OCW2_SPECIFIC != 0;
        let level = value & OCW2_LEVEL;
        if value & OCW2_EOI == 0 {
            match (rotate, specific) {
                (_, false) => self.rotate_on_auto_eoi = rotate,
                (true, true) => self.first = (level + 1) & PIN_MASK,
                (false, true) => {}
            }
            return 0;
        }
        let ended = if specific {
            Some(level)
        } else {
            // "an IS bit that is masked by an IMR bit will not be cleared by a non-specific EOI if the
            // 8259A is in the Special Mask Mode" ("End of Interrupt").
            self.highest(self.holding()).map(|(pin, _)| pin)
        };
        let Some(pin) = ended else { return 0 };
        if rotate {
            self.first = (pin + 1) & PIN_MASK;
        }
        self.complete(pin)
    }

    /// OCW3. "Operation Command Word 3".
    fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_POLL != 0 {
            self.poll = true;
        }
        if value & OCW3_RR != 0 {
            self.read_isr = value & OCW3_RIS != 0;
        }
        if value & OCW3_ESMM != 0 {
            self.special_mask = value & OCW3_SMM != 0;
        }
    }

    /// Returns whether the next read is a poll, and makes it no longer one.
    pub(super) fn take_poll(&mut self) -> bool {
        core::mem::take(&mut self.poll)
    }

    /// Answers a poll, which takes the request into service. Returns what automatic EOI completed, too.
    /// "Poll Command".
    pub(super) fn poll(&mut self) -> (u8, u16) {
        match self.request() {
            Some(pin) => (POLL_INTERRUPT | pin, self.acknowledge(pin)),
            None => (SPURIOUS, 0),
        }
    }

    /// Reads the command port, or with `data` the mask register. "Reading the 8259A Status".
    pub(super) const fn read(&self, data: bool) -> u8 {
        if data {
            self.imr
        } else if self.read_isr {
            self.isr
        } else {
            self.irr
        }
    }

    /// Returns which inputs are level triggered.
    pub(super) const fn elcr(&self) -> u8 {
        self.elcr
    }

    /// Sets which inputs are level triggered, as far as they can be.
    pub(super) fn set_elcr(&mut self, value: u8) {
        // INVARIANT: Only bits of the mask.
        self.elcr = value & self.elcr_mask;
    }
}
