// SPDX-License-Identifier: GPL-2.0-only

//! TSC scaling: a guest's counter that runs faster or slower than the host's. SDM vol. 3, "Time-Stamp
//! Counter Scaling"; APM vol. 2, "TSC Ratio MSR (C000_0104h)".

/// The ratio of two frequencies as a fixed-point number.
///
/// # Invariants
///
/// `fraction_bits` is 1 to 63, and `multiplier` is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    multiplier: u64,
    fraction_bits: u32,
}

/// The fixed-point format that a processor takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits behind the point, 1 to 63.
    pub fraction_bits: u32,
    /// The largest multiplier.
    pub max: u64,
}

impl Format {
    /// The VMCS field "TSC multiplier": 16 bits and 48 behind the point.
    pub const VMX: Self = Self {
        fraction_bits: 48,
        max: u64::MAX,
    };

    /// The TSC ratio MSR: 8 bits and 32 behind the point.
    pub const SVM: Self = Self {
        fraction_bits: 32,
        max: 0xff_ffff_ffff,
    };

    /// Returns the ratio 1.
    pub const fn one(self) -> Ratio {
        // INVARIANT: A format has 1 to 63 bits behind the point.
        Ratio {
            multiplier: 1 << (self.fraction_bits & 63),
            fraction_bits: self.fraction_bits,
        }
    }

    /// Returns the ratio for a guest of `guest_khz` on a host of `host_khz`, rounded down.
    ///
    /// `None` when the format can't hold it, or for a frequency of 0.
    pub fn ratio(self, guest_khz: u32, host_khz: u32) -> Option<Ratio> {
        let (multiplier, _) = divide(guest_khz.into(), host_khz.into(), self.fraction_bits)?;
        // INVARIANT: The multiplier is checked to be neither 0 nor too large.
        (multiplier != 0 && multiplier <= self.max).then_some(Ratio {
            multiplier,
            fraction_bits: self.fraction_bits,
        })
    }
}

/// Returns `value` times 2^`fraction_bits` divided by `divisor`, rounded down, and whether that is exact.
/// `None` when it does not fit or the divisor is 0.
///
/// A long division, a bit at a time: there is no division of 128-bit numbers here.
fn divide(value: u64, divisor: u64, fraction_bits: u32) -> Option<(u64, bool)> {
    let mut quotient = value.checked_div(divisor)?;
    let mut rest = u128::from(value.checked_rem(divisor)?);
    let divisor = u128::from(divisor);
    for _ in 0..fraction_bits {
        quotient = quotient.checked_mul(2)?;
        rest <<= 1;
        if rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
    }
    Some((quotient, rest == 0))
}

impl Ratio {
    /// Returns the number that the processor takes.
    pub const fn multiplier(self) -> u64 {
        self.multiplier
    }

    /// Returns whether the ratio is 1.
    pub const fn is_one(self) -> bool {
        self.multiplier == 1 << (self.fraction_bits & 63)
    }

    /// Scales `value` as the processor does, keeping the low 64 bits.
    pub const fn scale(self, value: u64) -> u64 {
        let product = (value as u128).wrapping_mul(self.multiplier as u128);
        (product >> (self.fraction_bits & 63)) as u64
    }

    /// Returns the fewest ticks of the host in which the scaled counter moves by `ticks`, or `u64::MAX` when
    /// they are more than fit.
    pub fn unscale(self, ticks: u64) -> u64 {
        if self.is_one() {
            return ticks;
        }
        match divide(ticks, self.multiplier, self.fraction_bits) {
            Some((host, exact)) => host.saturating_add((!exact).into()),
            None => u64::MAX,
        }
    }

    /// Returns what must be added to the scaled host counter so that the guest reads `guest` when the host
    /// reads `host`.
    pub const fn offset(self, guest: u64, host: u64) -> u64 {
        guest.wrapping_sub(self.scale(host))
    }

    /// Returns what the guest reads when the host reads `host`.
    pub const fn guest(self, host: u64, offset: u64) -> u64 {
        self.scale(host).wrapping_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SDM vol. 3, "Time-Stamp Counter Scaling": bits 111:48 of the product.
    #[test]
    fn vmx_format() {
        let ratio = Format::VMX.ratio(3_000_000, 2_000_000).unwrap();
        assert_eq!(ratio.multiplier(), 3 << 47);
        assert_eq!(ratio.scale(1 << 63), 3 << 62);
        assert_eq!(ratio.scale(7), 10);
        assert!(Format::VMX.one().is_one());
        assert_eq!(Format::VMX.ratio(5, 5), Some(Format::VMX.one()));
    }

    /// APM vol. 2, "TSC Ratio MSR": 8.32, upper bits reserved.
    #[test]
    fn svm_format() {
        assert_eq!(Format::SVM.one().multiplier(), 1 << 32);
        let ratio = Format::SVM.ratio(1_000_000, 3_000_000).unwrap();
        assert_eq!(ratio.multiplier(), (1 << 32) / 3);
        assert_eq!(Format::SVM.ratio(256, 1), None);
        assert!(Format::SVM.ratio(255, 1).is_some());
    }

    /// APM vol. 2, "TSC Ratio MSR": the integer part has 8 bits.
    #[test]
    fn all_64_bits_are_scaled() {
        let half = Format::SVM.ratio(1, 2).unwrap();
        assert_eq!(half.multiplier(), 0x8000_0000);
        assert_eq!(half.scale(u64::MAX), u64::MAX >> 1);
        assert_eq!(Format::SVM.ratio(2, 1).unwrap().scale(1 << 63), 0);
        let third = Format::SVM.ratio(1_000_000, 3_000_000).unwrap();
        assert_eq!(third.scale(3_000_000_000), 999_999_999);
        assert_eq!(Format::SVM.one().scale(u64::MAX), u64::MAX);
    }

    /// The host's ticks are enough, and one less is not.
    #[test]
    fn unscaled_ticks_are_the_fewest() {
        for format in [Format::VMX, Format::SVM] {
            for (guest, host) in [(1, 3), (3, 1), (2_400_000, 2_400_100), (999_983, 3_000_017)] {
                let ratio = format.ratio(guest, host).unwrap();
                for ticks in [0u64, 1, 2, 1000, 12_345_678_901, 1 << 40] {
                    let host = ratio.unscale(ticks);
                    assert!(ratio.scale(host) >= ticks, "{ratio:?} {ticks}");
                    assert!(
                        host == 0 || ratio.scale(host - 1) < ticks,
                        "{ratio:?} {ticks}"
                    );
                }
            }
        }
        assert_eq!(
            Format::SVM.ratio(1, u32::MAX).unwrap().unscale(1 << 40),
            u64::MAX
        );
        assert_eq!(Format::VMX.one().unscale(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_cannot_be() {
        for format in [Format::VMX, Format::SVM] {
            assert_eq!(format.ratio(0, 1), None);
            assert_eq!(format.ratio(1, 0), None);
        }
        assert_eq!(Format::VMX.ratio(u32::MAX, 1), None);
        assert_eq!(Format::SVM.ratio(1, u32::MAX).unwrap().multiplier(), 1);
    }

    #[test]
    fn offsets() {
        let ratio = Format::VMX.ratio(2_500_000, 2_000_001).unwrap();
        for host in [0, 1, 12_345_678_901_234, u64::MAX] {
            for guest in [0, 5, u64::MAX] {
                let offset = ratio.offset(guest, host);
                assert_eq!(ratio.guest(host, offset), guest);
            }
        }
    }
}
