// SPDX-License-Identifier: GPL-2.0-only

//! CR0 and CR4 of a guest: what the hardware holds, what the guest sees, and which bits exit
//! (SDM vol. 3, sections 24.8 and 25.6.6, app. A.7 and A.8).
//!
//! A bit of the guest/host mask that is 1 is host-owned: the guest reads it from the read shadow, and
//! a write that would change it exits. All other bits are guest-owned: the guest reads and writes the
//! register itself, and its value is taken from the VMCS when it is needed.

use super::caps::CapabilityMsrs;
use crate::model::x86::cr0;
use crate::model::x86::cr4;

/// Bits of CR0 that only the processor looks at.
///
/// PE and PG change what the model knows (paging mode, EFER.LMA). CD and NW must not be the guest's:
/// VM entries and exits leave them alone, so the guest would turn off the host's cache. ET and NE are
/// fixed.
const CR0_GUEST_OWNED: u64 = cr0::MP | cr0::EM | cr0::TS | cr0::WP | cr0::AM;

/// Bits of CR4 that only the processor looks at, where the guest's CPUID offers them.
const CR4_GUEST_OWNED: u64 = cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::FSGSBASE;

/// The bits of CR0 and CR4 that VMX operation fixes for an unrestricted guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedBits {
    cr0_must_be_1: u64,
    cr0_may_be_1: u64,
    cr4_must_be_1: u64,
    cr4_may_be_1: u64,
}

impl FixedBits {
    /// Takes them from the capability MSRs, of a processor with unrestricted guest.
    pub const fn new(msrs: &CapabilityMsrs) -> Self {
        Self {
            // An unrestricted guest may clear PE and PG (section 24.8).
            cr0_must_be_1: msrs.cr0_fixed0 & !(cr0::PE | cr0::PG),
            cr0_may_be_1: msrs.cr0_fixed1,
            cr4_must_be_1: msrs.cr4_fixed0,
            cr4_may_be_1: msrs.cr4_fixed1,
        }
    }

    /// Returns what the hardware's CR0 must hold for a guest whose CR0 is `guest`.
    ///
    /// CD and NW stay clear: the guest's caching is the host's.
    pub const fn hw_cr0(&self, guest: u64) -> u64 {
        (guest & !(cr0::CD | cr0::NW) | self.cr0_must_be_1) & self.cr0_may_be_1
    }

    /// Returns what the hardware's CR4 must hold for a guest whose CR4 is `guest`.
    ///
    /// MCE follows the host too: with it clear, a machine check in the guest would shut the machine
    /// down instead of exiting.
    pub const fn hw_cr4(&self, guest: u64, host: u64) -> u64 {
        (guest | host & cr4::MCE | self.cr4_must_be_1) & self.cr4_may_be_1
    }

    /// Returns the CR0 guest/host mask.
    pub const fn cr0_guest_host_mask(&self) -> u64 {
        !(CR0_GUEST_OWNED & self.cr0_may_be_1 & !self.cr0_must_be_1)
    }

    /// Returns the CR4 guest/host mask for a guest whose CPUID offers the CR4 bits `offered`.
    pub const fn cr4_guest_host_mask(&self, offered: u64) -> u64 {
        !(CR4_GUEST_OWNED & offered & self.cr4_may_be_1 & !self.cr4_must_be_1)
    }
}

/// Returns the register as the guest sees it: host-owned bits from the read shadow, others from the
/// hardware.
#[inline]
pub const fn guest_view(hw: u64, shadow: u64, guest_host_mask: u64) -> u64 {
    hw & !guest_host_mask | shadow & guest_host_mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> FixedBits {
        FixedBits::new(&CapabilityMsrs {
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: 0xffff_ffff,
            cr4_fixed0: 0x2000,
            cr4_fixed1: 0x0037_67ff,
            ..CapabilityMsrs::default()
        })
    }

    #[test]
    fn real_mode_guest_keeps_only_ne() {
        assert_eq!(fixed().hw_cr0(0), cr0::NE);
        assert_eq!(fixed().hw_cr0(0x6000_0010), cr0::NE | 0x10);
        assert_eq!(
            fixed().hw_cr0(cr0::PE | cr0::PG),
            cr0::PE | cr0::PG | cr0::NE
        );
    }

    #[test]
    fn cr4_keeps_vmxe_and_the_hosts_mce() {
        assert_eq!(fixed().hw_cr4(cr4::PAE, 0), cr4::PAE | cr4::VMXE);
        assert_eq!(fixed().hw_cr4(0, u64::MAX), cr4::VMXE | cr4::MCE);
        assert_eq!(fixed().hw_cr4(1 << 63, 0), cr4::VMXE);
    }

    #[test]
    fn guest_never_owns_what_the_host_needs() {
        let mask = fixed().cr0_guest_host_mask();
        for bit in [cr0::PE, cr0::PG, cr0::CD, cr0::NW, cr0::NE] {
            assert_ne!(mask & bit, 0);
        }
        assert_eq!(mask & (cr0::TS | cr0::WP), 0);
        let mask = fixed().cr4_guest_host_mask(u64::MAX);
        assert_ne!(mask & cr4::VMXE, 0);
        assert_ne!(mask & cr4::MCE, 0);
        assert_eq!(mask & cr4::PGE, 0);
        assert_ne!(fixed().cr4_guest_host_mask(0) & cr4::PGE, 0);
    }

    #[test]
    fn guest_sees_shadow_and_own_bits() {
        let fixed = fixed();
        let mask = fixed.cr0_guest_host_mask();
        let guest = 0x8005_0033 & !cr0::NE | cr0::CD;
        let hw = fixed.hw_cr0(guest);
        assert_eq!(guest_view(hw, guest, mask), guest);
        assert_eq!(guest_view(hw | cr0::TS, guest, mask), guest | cr0::TS);
    }
}
