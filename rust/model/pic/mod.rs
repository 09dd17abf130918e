// SPDX-License-Identifier: GPL-2.0-only

//! The pair of 8259A interrupt controllers of a PC. Section names are those of Intel's 8259A data sheet
//! (231468); the ELCR is that of the 82371SB (PIIX3), section "Edge/Level Control Registers".
//!
//! The slave's INT is wired to input 2 of the master. One lock in the glue protects the pair. It is told
//! line changes, port accesses and interrupt acknowledges; whether the processor's INTR is high it keeps
//! ready in [`PicPair::output`].
//!
//! As everywhere in virtual machines, the rising edge of an edge-triggered input is remembered even when
//! the line falls before the acknowledge, so that a source may pulse its line.

mod chip;
mod state;
#[cfg(test)]
mod tests;

pub use state::PicState;

use chip::Pic;

/// Inputs of the pair, the cascade input 2 included.
pub const PINS: usize = 16;
/// Inputs of one chip.
pub const CHIP_PINS: u8 = 8;
/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// Input that a chip names when the request it was asked about is gone ("Interrupt Sequence", step 4).
const SPURIOUS: u8 = 7;

/// The master's ports.
const MASTER: u16 = 0x20;
/// The slave's ports.
const SLAVE: u16 = 0xa0;
/// The edge/level control registers, one byte for each chip.
const ELCR: u16 = 0x4d0;

/// Inputs of the master that may be level triggered: not the timer, the keyboard and the cascade.
const MASTER_ELCR: u8 = 0xf8;
/// Inputs of the slave that may be level triggered: not the clock and the FPU error.
const SLAVE_ELCR: u8 = 0xde;

/// Which of the two chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// IRQ 0 to 7 (`KVM_IRQCHIP_PIC_MASTER`).
    Master,
    /// IRQ 8 to 15 (`KVM_IRQCHIP_PIC_SLAVE`).
    Slave,
}

/// What happened to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It is low, or it made a new request.
    Taken,
    /// It made a request that was there already.
    Coalesced,
    /// The input is masked or does not exist.
    Masked,
}

impl Line {
    /// Returns what `KVM_IRQ_LINE_STATUS` reports: 1, 0 or -1.
    pub const fn status(self) -> i32 {
        match self {
            Self::Taken => 1,
            Self::Coalesced => 0,
            Self::Masked => -1,
        }
    }
}

/// What others may have to hear of after an access; bit n is input n of the pair.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Inputs whose interrupt was completed, or dropped by an initialisation: their resamplers.
    pub acked: u16,
    /// Inputs that were masked and no longer are.
    pub unmasked: u16,
}

/// The two chips.
///
/// # Invariants
///
/// `output` says whether the master has a request for the processor.
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Pic,
    slave: Pic,
    output: bool,
    /// The sources that drive each input.
    sources: [u32; PINS],
}

impl PicPair {
    /// Returns the pair as after power-up.
    pub const fn new() -> Self {
        Self {
            master: Pic::new(MASTER_ELCR),
            slave: Pic::new(SLAVE_ELCR),
            output: false,
            sources: [0; PINS],
        }
    }

    /// Returns whether the pair owns the `len` ports from `port` on.
    pub const fn claims(port: u16, len: usize) -> bool {
        matches!(port & !1, MASTER | SLAVE | ELCR) && (port & 1) as usize + len <= 2
    }

    /// Returns the level of the processor's INTR.
    pub const fn output(&self) -> bool {
        self.output
    }

    /// Sets what `source` (0 to 31) drives onto input `pin` (0 to 15).
    pub fn set_irq(&mut self, pin: u8, source: u8, level: bool) -> Line {
        let Some(sources) = self.sources.get_mut(usize::from(pin)) else {
            return Line::Masked;
        };
        let bit = 1u32.checked_shl(u32::from(source)).unwrap_or(0);
        if level {
            *sources |= bit;
        } else {
            *sources &= !bit;
        }
        let high = *sources != 0;
        let line = if pin < CHIP_PINS {
            self.master.set_line(pin, high)
        } else {
            self.slave.set_line(pin & (CHIP_PINS - 1), high)
        };
        self.update();
        line
    }

    /// Answers the processor's interrupt acknowledge: the vector, and the inputs that automatic EOI
    /// completed. "Interrupt Sequence".
    pub fn acknowledge(&mut self) -> (u8, Effect) {
        let mut effect = Effect::default();
        let master = self.master.request();
        if let Some(pin) = master {
            effect.acked |= self.master.acknowledge(pin);
        }
        let vector = if master == Some(CASCADE) {
            let slave = self.slave.request();
            if let Some(pin) = slave {
                effect.acked |= self.slave.acknowledge(pin) << CHIP_PINS;
            }
            self.slave.vector(slave.unwrap_or(SPURIOUS))
        } else {
            self.master.vector(master.unwrap_or(SPURIOUS))
        };
        self.update();
        (vector, effect)
    }

    /// Writes a byte to `port`; others than [`PicPair::claims`] names do nothing.
    pub fn write(&mut self, port: u16, value: u8) -> Effect {
        let data = port & 1 != 0;
        let mut effect = Effect::default();
        match port & !1 {
            MASTER => effect = self.master.write(data, value),
            SLAVE => {
                let slave = self.slave.write(data, value);
                effect.acked = slave.acked << CHIP_PINS;
                effect.unmasked = slave.unmasked << CHIP_PINS;
            }
            ELCR if data => self.slave.set_elcr(value),
            ELCR => self.master.set_elcr(value),
            _ => {}
        }
        self.update();
        effect
    }

    /// Reads a byte from `port`: after a poll command that is an interrupt acknowledge.
    pub fn read(&mut self, port: u16) -> (u8, Effect) {
        let data = port & 1 != 0;
        let mut effect = Effect::default();
        let value = match port & !1 {
            MASTER if self.master.take_poll() => {
                let (value, acked) = self.master.poll();
                effect.acked = acked;
                value
            }
            SLAVE if self.slave.take_poll() => {
                let (value, acked) = self.slave.poll();
                effect.acked = acked << CHIP_PINS;
                // The request that the slave had made of the master has been answered here.
                self.master.withdraw(CASCADE);
                value
            }
            MASTER => self.master.read(data),
            SLAVE => self.slave.read(data),
            ELCR if data => self.slave.elcr(),
            ELCR => self.master.elcr(),
            _ => u8::MAX,
        };
        self.update();
        (value, effect)
    }

    /// Passes the slave's request on to the master, and the master's to the processor.
    fn update(&mut self) {
        if self.slave.request().is_some() {
            let _cascade = self.master.set_line(CASCADE, true);
            let _cascade = self.master.set_line(CASCADE, false);
        }
        // INVARIANT: This is the master's request.
        self.output = self.master.request().is_some();
    }
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}
