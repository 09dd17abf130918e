// SPDX-License-Identifier: GPL-2.0-only

//! Steal time: how long a vCPU was ready to run and did not, told to the guest in an area of 64 bytes.
//! Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_STEAL_TIME`.

use super::{Area, Gp, ENABLE};

/// Bytes of the area.
pub const BYTES: usize = 64;
/// Offset of the stolen time, 8 bytes, in ns.
pub const STEAL_OFFSET: u64 = 0;
/// Offset of the version, 4 bytes.
pub const VERSION_OFFSET: u64 = 8;
/// Offset of the flag byte by which guest and host tell each other of preemption.
pub const PREEMPTED_OFFSET: u64 = 16;

/// [`PREEMPTED_OFFSET`] bit 0: the vCPU is not running.
pub const PREEMPTED: u8 = 1 << 0;
/// [`PREEMPTED_OFFSET`] bit 1, set by the guest while bit 0 is: flush the TLB before the vCPU runs.
pub const FLUSH_TLB: u8 = 1 << 1;

/// Bits of the register that must be 0: the area is aligned to its size.
const RESERVED: u64 = BYTES as u64 - 1 - ENABLE;

/// Decodes the register.
///
/// # Errors
///
/// [`Gp`] for an address that is not a multiple of 64.
pub const fn area(value: u64) -> Result<Area, Gp> {
    if value & RESERVED != 0 {
        return Err(Gp);
    }
    if value & ENABLE == 0 {
        return Ok(Area::Off);
    }
    Ok(Area::At(value & !ENABLE))
}

/// What the host has charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    last_delay_ns: u64,
}

impl Account {
    /// Charges the growth of the thread's run delay, `delay_ns`, to the area's `steal` ns; returns the new
    /// value.
    ///
    /// The first charge takes over what the thread has waited since its birth, as in KVM.
    pub fn charge(&mut self, steal: u64, delay_ns: u64) -> u64 {
        let stolen = delay_ns.wrapping_sub(self.last_delay_ns);
        self.last_delay_ns = delay_ns;
        steal.wrapping_add(stolen)
    }
}

/// The version protocol: returns the versions for before and after the write; a junk odd one is made even
/// first.
pub const fn versions(old: u32) -> (u32, u32) {
    crate::model::clock::pvclock::versions(old)
}

/// What the guest asked for while the vCPU was away, from the flag byte that is taken back.
pub const fn wants_flush(flags: u8) -> bool {
    flags & FLUSH_TLB != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register() {
        assert_eq!(area(0), Ok(Area::Off));
        assert_eq!(area(0x1000), Ok(Area::Off));
        assert_eq!(area(0x1041), Ok(Area::At(0x1040)));
        for bit in 1..6 {
            assert_eq!(area(0x1001 | 1 << bit), Err(Gp));
        }
    }

    #[test]
    fn charges_are_differences() {
        let mut account = Account::default();
        assert_eq!(account.charge(0, 100), 100);
        assert_eq!(account.charge(100, 130), 130);
        // The guest may have set the area to anything.
        assert_eq!(account.charge(5, 140), 15);
        assert_eq!(account.charge(u64::MAX, 150), 9);
    }

    #[test]
    fn flags() {
        assert!(wants_flush(PREEMPTED | FLUSH_TLB));
        assert!(!wants_flush(PREEMPTED));
        assert_eq!(versions(4), (5, 6));
    }
}
