// SPDX-License-Identifier: GPL-2.0-only

//! CR0 and CR4 of a guest: what the hardware holds, what the guest sees, and which bits exit
//! (SDM vol. 3, sections 24.8 and 25.6.6, app. A.7 and A.8).
//!
//! A bit of the guest/host mask that is 1 is host-owned: the guest reads it from the read shadow, and
//! a write that would change it exits. All other bits are guest-owned: the guest reads and writes the
//! register itself, and its value is taken from the VMCS when it is needed.

use super::caps::CapabilityMsrs;

/// CR0.PE: protection enable.
const CR0_PE: u64 = 1 << 0;
/// CR0.MP: monitor coprocessor.
const CR0_MP: u64 = 1 << 1;
/// CR0.EM: emulation.
const CR0_EM: u64 = 1 << 2;
/// CR0.TS: task switched.
const CR0_TS: u64 = 1 << 3;
/// CR0.WP: write protect.
const CR0_WP: u64 = 1 << 16;
/// CR0.AM: alignment mask.
const CR0_AM: u64 = 1 << 18;
/// CR0.NW: not write-through.
const CR0_NW: u64 = 1 << 29;
/// CR0.CD: cache disable.
const CR0_CD: u64 = 1 << 30;
/// CR0.PG: paging.
const CR0_PG: u64 = 1 << 31;

/// CR4.PVI: protected-mode virtual interrupts.
const CR4_PVI: u64 = 1 << 1;
/// CR4.TSD: time stamp disable.
const CR4_TSD: u64 = 1 << 2;
/// CR4.DE: debugging extensions.
const CR4_DE: u64 = 1 << 3;
/// CR4.MCE: machine-check enable.
const CR4_MCE: u64 = 1 << 6;
/// CR4.PGE: page global enable.
const CR4_PGE: u64 = 1 << 7;
/// CR4.PCE: performance-monitoring counter enable.
const CR4_PCE: u64 = 1 << 8;
/// CR4.OSFXSR.
const CR4_OSFXSR: u64 = 1 << 9;
/// CR4.OSXMMEXCPT.
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// CR4.FSGSBASE.
const CR4_FSGSBASE: u64 = 1 << 16;

/// Bits of CR0 that only the processor looks at.
///
/// PE and PG change what the model knows (paging mode, EFER.LMA). CD and NW must not be the guest's:
/// VM entries and exits leave them alone, so the guest would turn off the host's cache. ET and NE are
/// fixed.
const CR0_GUEST_OWNED: u64 = CR0_MP | CR0_EM | CR0_TS | CR0_WP | CR0_AM;

/// Bits of CR4 that only the processor looks at, where the guest's CPUID offers them.
const CR4_GUEST_OWNED: u64 =
    CR4_PVI | CR4_TSD | CR4_DE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE;

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
            cr0_must_be_1: msrs.cr0_fixed0 & !(CR0_PE | CR0_PG),
            cr0_may_be_1: msrs.cr0_fixed1,
            cr4_must_be_1: msrs.cr4_fixed0,
            cr4_may_be_1: msrs.cr4_fixed1,
        }
    }

    /// Returns what the hardware's CR0 must hold for a guest whose CR0 is `guest`.
    ///
    /// CD and NW stay clear: the guest's caching is the host's.
    pub const fn hw_cr0(&self, guest: u64) -> u64 {
        (guest & !(CR0_CD | CR0_NW) | self.cr0_must_be_1) & self.cr0_may_be_1
    }

    /// Returns what the hardware's CR4 must hold for a guest whose CR4 is `guest`.
    ///
    /// MCE follows the host too: with it clear, a machine check in the guest would shut the machine
    /// down instead of exiting.
    pub const fn hw_cr4(&self, guest: u64, host: u64) -> u64 {
        (guest | host & CR4_MCE | self.cr4_must_be_1) & self.cr4_may_be_1
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

    const NE: u64 = 1 << 5;
    const VMXE: u64 = 1 << 13;
    const PAE: u64 = 1 << 5;

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
        assert_eq!(fixed().hw_cr0(0), NE);
        assert_eq!(fixed().hw_cr0(0x6000_0010), NE | 0x10);
        assert_eq!(fixed().hw_cr0(CR0_PE | CR0_PG), CR0_PE | CR0_PG | NE);
    }

    #[test]
    fn cr4_keeps_vmxe_and_the_hosts_mce() {
        assert_eq!(fixed().hw_cr4(PAE, 0), PAE | VMXE);
        assert_eq!(fixed().hw_cr4(0, u64::MAX), VMXE | CR4_MCE);
        assert_eq!(fixed().hw_cr4(1 << 63, 0), VMXE);
    }

    #[test]
    fn guest_never_owns_what_the_host_needs() {
        let mask = fixed().cr0_guest_host_mask();
        for bit in [CR0_PE, CR0_PG, CR0_CD, CR0_NW, NE] {
            assert_ne!(mask & bit, 0);
        }
        assert_eq!(mask & (CR0_TS | CR0_WP), 0);
        let mask = fixed().cr4_guest_host_mask(u64::MAX);
        assert_ne!(mask & VMXE, 0);
        assert_ne!(mask & CR4_MCE, 0);
        assert_eq!(mask & CR4_PGE, 0);
        assert_ne!(fixed().cr4_guest_host_mask(0) & CR4_PGE, 0);
    }

    #[test]
    fn guest_sees_shadow_and_own_bits() {
        let fixed = fixed();
        let mask = fixed.cr0_guest_host_mask();
        let guest = 0x8005_0033 & !NE | CR0_CD;
        let hw = fixed.hw_cr0(guest);
        assert_eq!(guest_view(hw, guest, mask), guest);
        assert_eq!(guest_view(hw | CR0_TS, guest, mask), guest | CR0_TS);
    }
}
