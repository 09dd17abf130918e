// SPDX-License-Identifier: GPL-2.0-only

//! Polling at HLT, which a guest that polls by itself can switch off. Documentation/virt/kvm/x86/msr.rst,
//! `MSR_KVM_POLL_CONTROL`.

use super::Gp;

/// Bit 0: the host polls.
const POLL: u64 = 1 << 0;

/// What the register holds at first.
pub const RESET: u64 = POLL;

/// Checks a value for the register.
///
/// # Errors
///
/// [`Gp`] for a reserved bit.
pub const fn check(value: u64) -> Result<u64, Gp> {
    if value & !POLL != 0 {
        return Err(Gp);
    }
    Ok(value)
}

/// Returns whether the host polls.
pub const fn is_on(value: u64) -> bool {
    value & POLL != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register() {
        assert_eq!([check(0), check(1)], [Ok(0), Ok(1)]);
        for bit in 1..64 {
            assert_eq!(check(1 << bit), Err(Gp));
        }
        assert!(is_on(RESET) && !is_on(0));
    }
}
