// SPDX-License-Identifier: Apache-2.0

//! Power management of a hardware-reduced ACPI machine: sleep registers and the power button.
//!
//! ACPI 6.5, sections 4.8.3.7 (sleep control and status) and 5.6.9 (generic event device).

use std::sync::Arc;

use vm_superio::Trigger;

use super::bus::Device;
use crate::outcome::{Outcome, Stop};

/// SLP_TYP of the soft-off state, as the DSDT's `\_S5` says it.
pub const SLP_TYP_S5: u8 = 5;
/// Sleep control: enter the sleep state in SLP_TYP.
const SLP_EN: u8 = 1 << 5;
/// Sleep control: where SLP_TYP (3 bits) starts.
const SLP_TYP_SHIFT: u8 = 2;
/// Width of SLP_TYP.
const SLP_TYP_MASK: u8 = 0b111;

/// The sleep control register (offset 0) and the sleep status register (offset 1).
#[derive(Debug)]
pub struct SleepRegisters {
    stop: Arc<Stop>,
}

impl SleepRegisters {
    /// Number of ports.
    pub const LEN: u16 = 2;

    /// Registers whose soft-off ends the run through `stop`.
    pub fn new(stop: Arc<Stop>) -> Self {
        SleepRegisters { stop }
    }
}

impl Device for SleepRegisters {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // SLP_EN is write-only, and the machine never wakes, so the wake status is never set.
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = data.first().filter(|_| offset == 0) else {
            return;
        };
        if value & SLP_EN != 0 && (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK == SLP_TYP_S5 {
            self.stop.request(Outcome::PowerOff);
        }
    }
}

/// The button that the VMM presses for the user: an edge on the generic event device's line.
#[derive(Debug)]
pub struct PowerButton<T: Trigger> {
    line: T,
}

impl<T: Trigger> PowerButton<T> {
    /// A button on `line`.
    pub fn new(line: T) -> Self {
        PowerButton { line }
    }

    /// Presses it; the guest decides what to do about it.
    pub fn press(&self) -> Result<(), T::E> {
        self.line.trigger()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_powers_off() {
        let stop = Arc::new(Stop::new().unwrap());
        let mut registers = SleepRegisters::new(stop.clone());
        registers.write(0, &[SLP_TYP_S5 << SLP_TYP_SHIFT]);
        registers.write(0, &[SLP_EN | 1 << SLP_TYP_SHIFT]);
        registers.write(1, &[SLP_EN | SLP_TYP_S5 << SLP_TYP_SHIFT]);
        assert!(!stop.is_requested());
        registers.write(0, &[SLP_EN | SLP_TYP_S5 << SLP_TYP_SHIFT]);
        assert_eq!(stop.outcome(), Some(Outcome::PowerOff));
    }

    #[test]
    fn registers_read_zero() {
        let mut registers = SleepRegisters::new(Arc::new(Stop::new().unwrap()));
        let mut data = [0xff; 2];
        registers.read(0, &mut data);
        assert_eq!(data, [0, 0]);
    }
}
