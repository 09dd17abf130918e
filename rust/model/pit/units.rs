// SPDX-License-Identifier: GPL-2.0-only

//! Clock ticks and nanoseconds.

/// The 8254's clock in a PC, in Hz.
pub const FREQUENCY_HZ: u64 = 1_193_182;

/// Nanoseconds in a second.
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Returns how many whole ticks fit `ns`; exact as long as the result fits.
pub(super) const fn ticks_in(ns: u64) -> u64 {
    let (seconds, rest) = (ns / NS_PER_SECOND, ns % NS_PER_SECOND);
    // The product of two numbers below 2^30 and 2^21 fits.
    let part = rest * FREQUENCY_HZ / NS_PER_SECOND;
    seconds.wrapping_mul(FREQUENCY_HZ).wrapping_add(part)
}

/// Returns the nanoseconds after which `ticks` have passed, rounded up.
pub(super) const fn ns_of(ticks: u64) -> u64 {
    let (seconds, rest) = (ticks / FREQUENCY_HZ, ticks % FREQUENCY_HZ);
    let part = (rest * NS_PER_SECOND).div_ceil(FREQUENCY_HZ);
    seconds.saturating_mul(NS_PER_SECOND).saturating_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for ticks in (0..3_000_000).step_by(997).chain([u64::from(u32::MAX)]) {
            assert_eq!(ticks_in(ns_of(ticks)), ticks);
            if ticks != 0 {
                assert_eq!(ticks_in(ns_of(ticks) - 1), ticks - 1);
            }
        }
        assert_eq!(ns_of(65536), 54_925_402);
        let _no_overflow = (ticks_in(u64::MAX), ns_of(u64::MAX));
    }
}
