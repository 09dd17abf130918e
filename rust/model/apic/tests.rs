// SPDX-License-Identifier: GPL-2.0-only

//! Rules of the local APIC, by subject. Section names are those of the SDM, vol. 3, chapter "Advanced
//! Programmable Interrupt Controller (APIC)".

mod base;
mod delivery;
mod ipi;
mod lvt;
mod processor;
mod registers;
mod state;
mod timer;

use super::timer::Clock;
use super::*;
use crate::model::msi::{DeliveryMode, DestMode, Trigger};

/// A clock that stands still: nanoseconds and guest TSC.
#[derive(Clone, Copy)]
struct At(u64, u64);

impl Clock for At {
    fn now_ns(&self) -> u64 {
        self.0
    }

    fn guest_tsc(&self) -> u64 {
        self.1
    }
}

const T0: At = At(1_000_000, 5_000_000);

/// IA32_APIC_BASE of the boot processor in xAPIC mode and in x2APIC mode, and disabled.
const BASE_XAPIC: u64 = 0xfee0_0900;
const BASE_X2APIC: u64 = 0xfee0_0d00;
const BASE_DISABLED: u64 = 0xfee0_0100;

/// Returns an APIC with ID 3, enabled by software.
fn xapic() -> Lapic {
    let mut lapic = Lapic::new(Config::new(3, true));
    assert_eq!(write(&mut lapic, 0xf0, 0x1ff), Effect::Identity);
    lapic
}

/// Returns the same in x2APIC mode.
fn x2apic() -> Lapic {
    let mut lapic = xapic();
    assert!(
        lapic
            .write_base(BASE_X2APIC, Initiator::Guest)
            .unwrap()
            .mode
    );
    lapic
}

fn read(lapic: &mut Lapic, offset: u32) -> u32 {
    lapic.mmio_read(offset, 4, &T0) as u32
}

fn write(lapic: &mut Lapic, offset: u32, value: u32) -> Effect {
    lapic.mmio_write(offset, 4, u64::from(value), &T0)
}

fn edge(lapic: &mut Lapic, vector: u8) -> Accepted {
    lapic.accept_fixed(vector, Trigger::Edge)
}
