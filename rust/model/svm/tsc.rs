// SPDX-License-Identifier: GPL-2.0-only

//! The TSC ratio: a guest whose TSC runs at another rate than the host's (APM vol. 2, section 15.30.5).
//!
//! The guest's TSC is the host's times the ratio, plus TSC_OFFSET. The ratio is a fixed-point number of 8
//! integer bits and 32 fractional ones, in the MSR C000_0104. It is the CPU's, not the VMCB's: it is switched
//! with the guest, and must be 1.0 for the host.

/// Fractional bits of a ratio.
const FRACTION_BITS: u32 = 32;

/// Bits of a ratio that exist: 39:0.
const RATIO_BITS: u64 = (1 << 40) - 1;

/// The TSC ratio MSR.
pub const MSR_TSC_RATIO: u32 = 0xc000_0104;

/// A TSC ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscRatio(u64);

impl TscRatio {
    /// The host's own rate, 1.0.
    pub const ONE: Self = Self(1 << FRACTION_BITS);

    /// Returns the ratio of two rates in kHz, rounded down, or `None` if it cannot be expressed: 256 or more, below
    /// 2^-32, or the host's rate is 0.
    pub const fn new(guest_khz: u32, host_khz: u32) -> Option<Self> {
        match ((guest_khz as u64) << FRACTION_BITS).checked_div(host_khz as u64) {
            Some(ratio) if ratio != 0 && ratio <= RATIO_BITS => Some(Self(ratio)),
            _ => None,
        }
    }

    /// Returns the value for the MSR.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Scales a count of the host's TSC, modulo 2^64.
    #[inline]
    pub const fn scale(self, host: u64) -> u64 {
        ((host as u128).wrapping_mul(self.0 as u128) >> FRACTION_BITS) as u64
    }

    /// Returns the TSC_OFFSET with which the guest reads `guest` when the host's TSC is `host`.
    #[inline]
    pub const fn offset(self, guest: u64, host: u64) -> u64 {
        guest.wrapping_sub(self.scale(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_8_32_fixed_point() {
        assert_eq!(TscRatio::new(2_000_000, 2_000_000), Some(TscRatio::ONE));
        assert_eq!(TscRatio::ONE.raw(), 0x1_0000_0000);
        assert_eq!(
            TscRatio::new(3_000_000, 2_000_000).unwrap().raw(),
            0x1_8000_0000
        );
        assert_eq!(TscRatio::new(1, 2).unwrap().raw(), 0x8000_0000);
    }

    #[test]
    fn ratio_has_bounds() {
        assert_eq!(TscRatio::new(1, 0), None);
        assert_eq!(TscRatio::new(0, 1), None);
        assert_eq!(TscRatio::new(256, 1), None);
        assert_eq!(TscRatio::new(255, 1).unwrap().raw(), 255 << 32);
        assert_eq!(
            TscRatio::new(u32::MAX, 1 << 24).unwrap().raw(),
            0xff_ffff_ff00
        );
        assert_eq!(TscRatio::new(1, u32::MAX).unwrap().raw(), 1);
    }

    #[test]
    fn scales_all_64_bits() {
        assert_eq!(TscRatio::ONE.scale(u64::MAX), u64::MAX);
        let half = TscRatio::new(1, 2).unwrap();
        assert_eq!(half.scale(u64::MAX), u64::MAX >> 1);
        let twice = TscRatio::new(2, 1).unwrap();
        assert_eq!(twice.scale(1 << 63), 0);
        let third = TscRatio::new(1_000_000, 3_000_000).unwrap();
        assert_eq!(third.scale(3_000_000_000), 999_999_999);
    }

    #[test]
    fn offset_makes_the_guest_read_what_it_should() {
        let ratio = TscRatio::new(2_100_000, 3_300_000).unwrap();
        for (guest, host) in [(0, 12345), (u64::MAX, 1 << 40), (1 << 50, u64::MAX)] {
            let offset = ratio.offset(guest, host);
            assert_eq!(ratio.scale(host).wrapping_add(offset), guest);
        }
    }
}
