// SPDX-License-Identifier: GPL-2.0-only

//! CR0 and CR4 of a guest: what the hardware holds, what the guest sees, and which accesses exit
//! (APM vol. 2, sections 15.5.1, 15.9 and 15.25.5).
//!
//! SVM has no read shadows: a guest reads what the hardware holds, unless reads exit. The two differ
//! seldom, so reads exit only while they do. With the selective intercept a guest changes CR0.TS and CR0.MP by
//! MOV and CLTS without an exit; every other bit of the two registers changes by an exit only. LMSW always
//! exits by it, CLTS never does.

use crate::model::x86::{cr0, cr4};

/// What a guest changes in CR0 without an exit.
const CR0_SELECTIVE: u64 = cr0::TS | cr0::MP;

/// Returns what the hardware's CR0 must hold for a guest whose CR0 is `guest`.
///
/// CD and NW stay clear: the guest's caching is the host's (and NW without CD is refused by VMRUN).
#[inline]
pub const fn hw_cr0(guest: u64) -> u64 {
    guest & !(cr0::CD | cr0::NW) | cr0::ET
}

/// Returns CR0 as the guest sees it: `shadow` is the value that it wrote last with an exit, `hw` what the
/// VMCB has now.
#[inline]
pub const fn guest_cr0(hw: u64, shadow: u64) -> u64 {
    shadow & !CR0_SELECTIVE | hw & CR0_SELECTIVE
}

/// Returns true if accesses of CR0 must exit, because the guest would read bits that are not its own. Writes
/// must exit then, too: the selective intercept compares with the hardware's value.
#[inline]
pub const fn cr0_differs(hw: u64, shadow: u64) -> bool {
    (hw ^ shadow) & !CR0_SELECTIVE != 0
}

/// Returns what the hardware's CR4 must hold for a guest whose CR4 is `guest`.
///
/// MCE follows the host too: with it clear, a machine check in the guest would shut the machine down instead
/// of exiting.
#[inline]
pub const fn hw_cr4(guest: u64, host: u64) -> u64 {
    guest | host & cr4::MCE
}

/// Returns true if reads of CR4 must exit. Writes always do, so the guest's value is the shadow.
#[inline]
pub const fn cr4_differs(hw: u64, shadow: u64) -> bool {
    hw != shadow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caching_stays_on() {
        assert_eq!(hw_cr0(0x6000_0010), cr0::ET);
        assert_eq!(
            hw_cr0(cr0::PE | cr0::PG | cr0::NW),
            cr0::PE | cr0::PG | cr0::ET
        );
        assert!(cr0_differs(hw_cr0(0x6000_0010), 0x6000_0010));
        assert!(!cr0_differs(hw_cr0(0x8005_0033), 0x8005_0033));
    }

    /// Section 15.9: writes that change only TS or MP do not trigger the selective intercept.
    #[test]
    fn task_switched_and_monitor_are_the_guests() {
        let shadow = 0x8005_0033;
        for bits in [0, cr0::TS, cr0::MP, cr0::TS | cr0::MP] {
            let hw = hw_cr0(shadow) & !(cr0::TS | cr0::MP) | bits;
            assert!(!cr0_differs(hw, shadow));
            assert_eq!(guest_cr0(hw, shadow), hw);
        }
        let shadow = shadow | cr0::CD;
        let hw = hw_cr0(shadow) | cr0::TS;
        assert!(cr0_differs(hw, shadow));
        assert_eq!(guest_cr0(hw, shadow), shadow | cr0::TS);
    }

    #[test]
    fn machine_checks_are_the_hosts() {
        assert_eq!(hw_cr4(cr4::PAE, u64::MAX), cr4::PAE | cr4::MCE);
        assert_eq!(hw_cr4(cr4::PAE, 0), cr4::PAE);
        assert!(cr4_differs(hw_cr4(0, cr4::MCE), 0));
        assert!(!cr4_differs(hw_cr4(cr4::MCE, cr4::MCE), cr4::MCE));
    }
}
