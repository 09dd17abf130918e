// SPDX-License-Identifier: Apache-2.0

//! The two ways in which a PC's software resets the machine.

use std::convert::Infallible;
use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use super::bus::Device;
use crate::outcome::{Outcome, Stop};

/// Ends the run when a reset is triggered.
struct ResetLine(Arc<Stop>);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.request(Outcome::Reset);
        Ok(())
    }
}

/// The keyboard controller, of which only the reset line exists.
pub struct I8042(I8042Device<ResetLine>);

impl I8042 {
    /// A controller whose reset ends the run through `stop`.
    pub fn new(stop: Arc<Stop>) -> Self {
        I8042(I8042Device::new(ResetLine(stop)))
    }
}

impl Device for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = self.0.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            match self.0.write(offset as u8, *byte) {
                Ok(()) => {}
                Err(never) => match never {},
            }
        }
    }
}

/// Reset control register, bit 2: reset the CPU when it goes from 0 to 1.
const RST_CPU: u8 = 1 << 2;

/// The chipset's reset control register at port 0xCF9.
#[derive(Debug)]
pub struct ResetControl {
    stop: Arc<Stop>,
    value: u8,
}

impl ResetControl {
    /// The value that ACPI's reset register names: a hard reset.
    pub const HARD_RESET: u8 = RST_CPU | 1 << 1;

    /// A register that ends the run through `stop`.
    pub fn new(stop: Arc<Stop>) -> Self {
        ResetControl { stop, value: 0 }
    }
}

impl Device for ResetControl {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.value);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(value) = data.first() {
            if value & !self.value & RST_CPU != 0 {
                self.stop.request(Outcome::Reset);
            }
            self.value = *value & !RST_CPU;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyboard_controller_resets() {
        let stop = Arc::new(Stop::new().unwrap());
        let mut device = I8042::new(stop.clone());
        let mut status = [0xff];
        device.read(4, &mut status);
        assert_eq!(status, [0]);
        device.write(4, &[0xd1]);
        assert!(!stop.is_requested());
        device.write(4, &[0xfe]);
        assert_eq!(stop.outcome(), Some(Outcome::Reset));
    }

    #[test]
    fn reset_control_needs_the_reset_bit() {
        let stop = Arc::new(Stop::new().unwrap());
        let mut device = ResetControl::new(stop.clone());
        device.write(0, &[0x02]);
        let mut data = [0];
        device.read(0, &mut data);
        assert_eq!(data, [0x02]);
        assert!(!stop.is_requested());
        device.write(0, &[ResetControl::HARD_RESET]);
        assert_eq!(stop.outcome(), Some(Outcome::Reset));
    }
}
