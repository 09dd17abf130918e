// SPDX-License-Identifier: GPL-2.0-only

//! PV EOI: a bit in the guest's memory that says "the EOI of this interrupt needs no exit". The guest clears
//! the bit instead of writing the register; the host looks at the bit when the guest has exited.
//! Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_PV_EOI_EN`.

use super::{Area, Gp, ENABLE};
use crate::model::apic::Lapic;

/// The bit.
pub const PENDING: u8 = 1 << 0;

/// The word is aligned to 4 bytes; bit 1 is reserved.
const RESERVED: u64 = 1 << 1;

/// Decodes the register.
///
/// # Errors
///
/// [`Gp`] for an address that is not a multiple of 4.
pub const fn area(value: u64) -> Result<Area, Gp> {
    if value & RESERVED != 0 {
        return Err(Gp);
    }
    if value & ENABLE == 0 {
        return Ok(Area::Off);
    }
    Ok(Area::At(value & !ENABLE))
}

/// Whether the guest holds an EOI that it may make without an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PvEoi {
    offered: bool,
}

impl PvEoi {
    /// Returns whether the bit may be set before the guest is entered.
    ///
    /// That needs an interrupt in service that no I/O APIC must hear of, and nothing that waits for its
    /// end: an EOI that comes late would delay that.
    pub fn may_offer(lapic: &Lapic) -> bool {
        lapic.highest_irr().is_none() && lapic.sole_edge_in_service()
    }

    /// Notes that the bit has been set in the guest's memory.
    pub fn offered(&mut self) {
        self.offered = true;
    }

    /// Returns whether the bit must be looked at after an exit.
    pub const fn is_offered(self) -> bool {
        self.offered
    }

    /// Takes the offer back: `byte` is what the guest's memory holds, and the glue has cleared it since.
    /// Returns whether the guest has made the EOI.
    ///
    /// Memory that can't be read counts as an offer that was not taken.
    pub fn take_back(&mut self, byte: Option<u8>) -> bool {
        let offered = core::mem::take(&mut self.offered);
        offered && byte.is_some_and(|byte| byte & PENDING == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::apic::{Clock, Config};
    use crate::model::msi::Trigger;

    struct Still;

    impl Clock for Still {
        fn now_ns(&self) -> u64 {
            0
        }
        fn guest_tsc(&self) -> u64 {
            0
        }
    }

    #[test]
    fn register() {
        assert_eq!(area(0x1000), Ok(Area::Off));
        assert_eq!(area(0x1005), Ok(Area::At(0x1004)));
        assert_eq!(area(0x1003), Err(Gp));
    }

    #[test]
    fn offered_for_one_edge_alone() {
        let mut lapic = Lapic::new(Config::new(0, true));
        let _ = lapic.mmio_write(0xf0, 4, 0x1ff, &Still);
        assert!(!PvEoi::may_offer(&lapic), "nothing in service");
        let _ = lapic.accept_fixed(0x41, Trigger::Edge);
        assert!(!PvEoi::may_offer(&lapic), "requested only");
        assert_eq!(lapic.acknowledge(), Some(0x41));
        assert!(PvEoi::may_offer(&lapic));
        let _ = lapic.accept_fixed(0x31, Trigger::Edge);
        assert!(!PvEoi::may_offer(&lapic), "another one waits");
        let _ = lapic.accept_fixed(0x51, Trigger::Edge);
        assert_eq!(lapic.acknowledge(), Some(0x51));
        assert!(!PvEoi::may_offer(&lapic));
        let _ = (lapic.eoi(), lapic.eoi());
        assert_eq!(lapic.acknowledge(), Some(0x31));
        assert!(PvEoi::may_offer(&lapic));
        let _ = lapic.eoi();
        let _ = lapic.accept_fixed(0x61, Trigger::Level);
        assert_eq!(lapic.acknowledge(), Some(0x61));
        assert!(!PvEoi::may_offer(&lapic), "the I/O APIC must hear of it");
    }

    #[test]
    fn nested_interrupts_are_not_offered() {
        let mut lapic = Lapic::new(Config::new(0, true));
        let _ = lapic.mmio_write(0xf0, 4, 0x1ff, &Still);
        for vector in [0x41, 0x51] {
            let _ = lapic.accept_fixed(vector, Trigger::Edge);
            assert_eq!(lapic.acknowledge(), Some(vector));
        }
        assert!(!PvEoi::may_offer(&lapic));
    }

    #[test]
    fn taken_back() {
        let mut pv = PvEoi::default();
        assert!(!pv.is_offered() && !pv.take_back(Some(0)));
        for (byte, done) in [(Some(0), true), (Some(1), false), (None, false)] {
            pv.offered();
            assert!(pv.is_offered());
            assert_eq!(pv.take_back(byte), done);
            assert!(!pv.is_offered());
        }
    }
}
