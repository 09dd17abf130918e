// SPDX-License-Identifier: GPL-2.0-only

//! The permission maps of SVM: which MSRs and ports exit (APM vol. 2, sections 15.10.1 and 15.11).
//!
//! Which MSRs a guest may access directly is the same policy on both backends:
//! [`msr::direct`](crate::model::msr::direct).

use crate::model::msr::Access;

/// Bytes of an MSR permission map: two pages, physically contiguous.
pub const MSRPM_SIZE: usize = 0x2000;

/// Bytes of an I/O permission map: 12 KiB, physically contiguous, although ports use little more than 8 KiB of
/// them (a 4-byte access of the last port looks at three more bits).
pub const IOPM_SIZE: usize = 0x3000;

/// What each byte of an I/O permission map holds for every port to exit, and of an MSR permission map for
/// every MSR.
pub const INTERCEPT_ALL: u8 = 0xff;

/// MSRs in each of the three ranges.
const RANGE: u32 = 0x2000;

/// The first MSR of each range. The fourth quarter of the map is reserved.
const BASES: [u32; 3] = [0, 0xc000_0000, 0xc001_0000];

/// Bytes of a range: two bits for each MSR.
const RANGE_BYTES: usize = RANGE as usize / MSRS_PER_BYTE as usize;
const MSRS_PER_BYTE: u32 = 4;

/// The lower of an MSR's two bits is for reads, the upper one for writes.
const READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;

/// Lets the guest access `msr` without an exit. MSRs outside the three ranges always exit.
pub fn allow(map: &mut [u8; MSRPM_SIZE], msr: u32, access: Access) {
    if let Some((byte, shift)) = place(msr) {
        if let Some(byte) = map.get_mut(byte) {
            *byte &= !(bits(access) << shift);
        }
    }
}

/// Makes accesses to `msr` exit.
pub fn intercept(map: &mut [u8; MSRPM_SIZE], msr: u32, access: Access) {
    if let Some((byte, shift)) = place(msr) {
        if let Some(byte) = map.get_mut(byte) {
            *byte |= bits(access) << shift;
        }
    }
}

/// Says whether any of the accesses named exits.
pub fn is_intercepted(map: &[u8; MSRPM_SIZE], msr: u32, access: Access) -> bool {
    place(msr)
        .and_then(|(byte, shift)| Some(map.get(byte)? >> shift & bits(access) != 0))
        .unwrap_or(true)
}

const fn bits(access: Access) -> u8 {
    match access {
        Access::Read => READ,
        Access::Write => WRITE,
        Access::ReadWrite => READ | WRITE,
    }
}

/// Returns the byte of an MSR and the place of its two bits in it.
const fn place(msr: u32) -> Option<(usize, u32)> {
    let mut range = 0;
    while range < BASES.len() {
        let number = msr.wrapping_sub(BASES[range]);
        if number < RANGE {
            let byte = range * RANGE_BYTES + (number / MSRS_PER_BYTE) as usize;
            return Some((byte, number % MSRS_PER_BYTE * 2));
        }
        range += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::msr::{direct, Direct};
    use std::vec;
    use std::vec::Vec;

    fn map(fill: u8) -> Vec<u8> {
        vec![fill; MSRPM_SIZE]
    }

    fn array(map: &mut [u8]) -> &mut [u8; MSRPM_SIZE] {
        map.try_into().unwrap()
    }

    /// Section 15.11: ranges at 000h, 800h and 1000h, two bits each, the read bit first.
    #[test]
    fn layout_of_the_manual() {
        let mut map = map(0);
        let m = array(&mut map);
        intercept(m, 0, Access::Read);
        assert_eq!(m[0], 1);
        intercept(m, 3, Access::Write);
        assert_eq!(m[0], 0x81);
        intercept(m, 0x1fff, Access::ReadWrite);
        assert_eq!(m[0x7ff], 0xc0);
        intercept(m, 0xc000_0000, Access::Read);
        assert_eq!(m[0x800], 1);
        intercept(m, 0xc000_0081, Access::Write);
        assert_eq!(m[0x820], 1 << 3);
        intercept(m, 0xc000_1fff, Access::Write);
        assert_eq!(m[0xfff], 0x80);
        intercept(m, 0xc001_0000, Access::Read);
        assert_eq!(m[0x1000], 1);
        intercept(m, 0xc001_1fff, Access::Write);
        assert_eq!(m[0x17ff], 0x80);
        assert_eq!(m.iter().map(|b| b.count_ones()).sum::<u32>(), 9);
    }

    #[test]
    fn allow_and_intercept_are_inverse() {
        let mut map = map(INTERCEPT_ALL);
        let m = array(&mut map);
        let every = Direct {
            syscall: true,
            tsc_aux: true,
            spec_ctrl: true,
            pred_cmd: true,
            flush_cmd: true,
        };
        for (msr, access) in direct(every) {
            assert!(is_intercepted(m, msr, access));
            allow(m, msr, access);
            assert!(!is_intercepted(m, msr, access), "{msr:#x}");
        }
        assert!(is_intercepted(m, 0x10, Access::Write));
        assert!(is_intercepted(m, 0x10, Access::ReadWrite));
        for (msr, access) in direct(every) {
            intercept(m, msr, access);
        }
        assert!(m.iter().all(|&byte| byte == INTERCEPT_ALL));
    }

    #[test]
    fn msrs_outside_the_ranges_exit() {
        let mut map = map(INTERCEPT_ALL);
        let m = array(&mut map);
        for msr in [
            0x2000,
            0x4000_0000,
            0xbfff_ffff,
            0xc000_2000,
            0xc001_2000,
            u32::MAX,
        ] {
            allow(m, msr, Access::ReadWrite);
            assert!(is_intercepted(m, msr, Access::Read), "{msr:#x}");
            assert!(is_intercepted(m, msr, Access::Write), "{msr:#x}");
        }
        assert!(m.iter().all(|&byte| byte == INTERCEPT_ALL));
    }
}
