// SPDX-License-Identifier: GPL-2.0-only

//! Which values XCR0 may hold, and XSETBV (SDM vol. 1 section 13.3, vol. 2 XSETBV).

use super::bit;

/// XSETBV, or the value it writes, is not allowed: the guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsetbvFault;

/// Says whether XCR0 may hold `value` on a processor that offers the components `supported`.
///
/// x87 state is always on; AVX needs SSE; MPX, AVX-512 and AMX are on or off as groups, and AVX-512 needs
/// AVX.
///
/// ```
/// use vireo_model::model::xstate::{bit, xcr0_valid};
///
/// let offered = bit::LEGACY | bit::AVX;
/// assert!(xcr0_valid(bit::X87, offered));
/// assert!(!xcr0_valid(bit::X87 | bit::AVX, offered), "AVX needs SSE");
/// ```
pub const fn xcr0_valid(value: u64, supported: u64) -> bool {
    if value & bit::X87 == 0 || value & !(supported | bit::X87) != 0 {
        return false;
    }
    if value & bit::AVX != 0 && value & bit::SSE == 0 {
        return false;
    }
    if !whole_group(value, bit::MPX) || !whole_group(value, bit::XTILE) {
        return false;
    }
    whole_group(value, bit::AVX512) && (value & bit::AVX512 == 0 || value & bit::AVX != 0)
}

const fn whole_group(value: u64, group: u64) -> bool {
    value & group == 0 || value & group == group
}

/// Checks XSETBV of `value` to extended control register `index` at privilege level `cpl`, and returns the
/// new XCR0.
///
/// CR4.OSXSAVE is the caller's to check first, because its absence is #UD.
///
/// # Errors
///
/// [`XsetbvFault`] when the guest gets #GP(0).
pub const fn xsetbv(index: u32, value: u64, cpl: u8, supported: u64) -> Result<u64, XsetbvFault> {
    if cpl != 0 || index != 0 || !xcr0_valid(value, supported) {
        return Err(XsetbvFault);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = bit::LEGACY | bit::AVX | bit::MPX | bit::AVX512 | bit::PKRU | bit::XTILE;

    #[test]
    fn groups_and_dependencies() {
        assert!(xcr0_valid(bit::X87, ALL));
        assert!(xcr0_valid(bit::LEGACY, ALL));
        assert!(!xcr0_valid(bit::SSE, ALL), "x87 is always on");
        assert!(!xcr0_valid(bit::X87 | bit::AVX, ALL), "AVX without SSE");
        assert!(xcr0_valid(bit::LEGACY | bit::AVX, ALL));
        assert!(xcr0_valid(ALL, ALL));
        assert!(!xcr0_valid(ALL & !bit::BNDCSR, ALL));
        assert!(!xcr0_valid(ALL & !bit::TILECFG, ALL));
        assert!(!xcr0_valid(ALL & !bit::OPMASK, ALL));
        assert!(
            !xcr0_valid(bit::LEGACY | bit::AVX512, ALL),
            "AVX-512 without AVX"
        );
        assert!(
            !xcr0_valid(bit::LEGACY | bit::PT, ALL),
            "supervisor state is not XCR0's"
        );
        assert!(!xcr0_valid(1 << 63, ALL));
    }

    #[test]
    fn only_what_is_offered() {
        assert!(!xcr0_valid(bit::LEGACY | bit::AVX, bit::LEGACY));
        assert!(xcr0_valid(bit::LEGACY, bit::LEGACY));
        assert!(
            xcr0_valid(bit::X87, 0),
            "XCR0 is 1 at reset, whatever the CPUID model says"
        );
    }

    #[test]
    fn xsetbv_faults() {
        assert_eq!(xsetbv(0, bit::LEGACY, 0, ALL), Ok(bit::LEGACY));
        assert_eq!(xsetbv(0, bit::LEGACY, 3, ALL), Err(XsetbvFault));
        assert_eq!(xsetbv(1, bit::LEGACY, 0, ALL), Err(XsetbvFault));
        assert_eq!(xsetbv(0, 0, 0, ALL), Err(XsetbvFault));
    }

    #[test]
    fn every_combination_agrees_with_the_rules_said_differently() {
        for v in 0..(1u64 << 19) {
            let has = |b: u64| v & b != 0;
            let pair = |b: u64| (v & b).count_ones() == 0 || v & b == b;
            let expect = has(bit::X87)
                && v & !ALL == 0
                && (!has(bit::AVX) || has(bit::SSE))
                && pair(bit::MPX)
                && pair(bit::XTILE)
                && pair(bit::AVX512)
                && (!has(bit::AVX512) || has(bit::AVX));
            assert_eq!(xcr0_valid(v, ALL), expect, "{v:#x}");
        }
    }
}
