// SPDX-License-Identifier: Apache-2.0

//! A port that ends the run with an exit status of the guest's choice.
//!
//! It answers as QEMU's isa-debug-exit does: a write of `value` ends the process with status
//! `(value << 1) | 1`, reads give zero.

use std::sync::Arc;

use super::bus::Device;
use crate::outcome::{Outcome, Stop};

/// The debug-exit device.
#[derive(Debug)]
pub struct DebugExit {
    stop: Arc<Stop>,
}

impl DebugExit {
    /// A device that ends the run through `stop`.
    pub fn new(stop: Arc<Stop>) -> Self {
        DebugExit { stop }
    }
}

impl Device for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        self.stop
            .request(Outcome::DebugExit(u32::from_le_bytes(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_value_on() {
        for (data, value) in [(&[0x10u8][..], 0x10), (&[1, 2, 0, 0][..], 0x201)] {
            let stop = Arc::new(Stop::new().unwrap());
            DebugExit::new(stop.clone()).write(0, data);
            assert_eq!(stop.outcome(), Some(Outcome::DebugExit(value)));
        }
    }
}
