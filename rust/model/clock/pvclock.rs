// SPDX-License-Identifier: GPL-2.0-only

//! kvmclock: a page of the guest's by which it computes the time from its time-stamp counter. The layouts
//! are those of the kernel's pvclock-abi.h; the MSRs are told in "KVM-specific MSRs" of its documentation
//! (Documentation/virt/kvm/x86/msr.rst).

/// `MSR_KVM_WALL_CLOCK_NEW` and `MSR_KVM_SYSTEM_TIME_NEW` bit 0: the clock is on.
const ENABLE: u64 = 1 << 0;

/// Nanoseconds in a second.
const NS_PER_SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond: the ratio of 1 GHz to 1 kHz.
const NS_PER_MS: u64 = 1_000_000;
/// The multiplier is a fraction of 2^32.
const MUL_BITS: u32 = 32;

/// Bits of [`TimeInfo::flags`].
pub mod flag {
    /// The clock goes forward in step on all vCPUs.
    pub const TSC_STABLE: u8 = 1 << 0;
    /// The VMM has stopped the guest for a while: its watchdogs may be appeased.
    pub const GUEST_STOPPED: u8 = 1 << 1;
}

/// Bytes of [`TimeInfo`] in the guest's memory.
pub const TIME_INFO_BYTES: usize = 32;

/// `struct pvclock_vcpu_time_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeInfo {
    /// Odd while the host writes.
    pub version: u32,
    /// The guest's counter at `system_time`.
    pub tsc_timestamp: u64,
    /// Nanoseconds since the clock's zero.
    pub system_time: u64,
    /// Turns ticks, shifted by `tsc_shift`, into 2^-32 nanoseconds.
    pub tsc_to_system_mul: u32,
    /// Ticks are shifted left by this, or right by its negative.
    pub tsc_shift: i8,
    /// See [`flag`].
    pub flags: u8,
}

impl TimeInfo {
    /// Returns the bytes for the guest's memory.
    pub fn to_bytes(self) -> [u8; TIME_INFO_BYTES] {
        let mut bytes = [0; TIME_INFO_BYTES];
        let mut put = |at: usize, field: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(field) {
                *to = *from;
            }
        };
        put(0, &self.version.to_le_bytes());
        put(8, &self.tsc_timestamp.to_le_bytes());
        put(16, &self.system_time.to_le_bytes());
        put(24, &self.tsc_to_system_mul.to_le_bytes());
        put(28, &self.tsc_shift.to_le_bytes());
        put(29, &[self.flags]);
        bytes
    }

    /// Returns the time in ns that a guest computes at `tsc`.
    pub fn time_at(&self, tsc: u64) -> u64 {
        let rate = Rate {
            mul: self.tsc_to_system_mul,
            shift: self.tsc_shift,
        };
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        self.system_time.wrapping_add(rate.ns(delta))
    }
}

/// How ticks become nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// See [`TimeInfo::tsc_to_system_mul`].
    pub mul: u32,
    /// See [`TimeInfo::tsc_shift`].
    pub shift: i8,
}

impl Rate {
    /// Returns the rate of a counter of `khz`, with as many bits of the multiplier as there are; one of 0
    /// counts as one of 1.
    pub fn of(khz: u32) -> Self {
        let khz = u64::from(khz.max(1));
        let mut shift = 0i8;
        let (mut ns, mut ticks) = (NS_PER_MS, khz);
        // A tick's nanoseconds are brought into [1/2, 1): each loop ends, as both start below 2^32.
        while ns >= ticks {
            ticks <<= 1;
            shift += 1;
        }
        while ns << 1 < ticks {
            ns <<= 1;
            shift -= 1;
        }
        // `ns` is below 2^32 here, so the fraction's numerator fits.
        let mul = (ns << MUL_BITS).checked_div(ticks).unwrap_or(0);
        Self {
            mul: u32::try_from(mul).unwrap_or(u32::MAX),
            shift,
        }
    }

    /// Returns the nanoseconds of `ticks`, as a guest computes them.
    pub fn ns(self, ticks: u64) -> u64 {
        let by = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            ticks.checked_shr(by)
        } else {
            ticks.checked_shl(by)
        };
        let product = u128::from(shifted.unwrap_or(0)).wrapping_mul(u128::from(self.mul));
        (product >> MUL_BITS) as u64
    }
}

/// The value of a clock MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Off.
    Off,
    /// On, at this guest-physical address.
    At(u64),
}

impl Page {
    /// Decodes `MSR_KVM_SYSTEM_TIME(_NEW)`.
    pub const fn from_msr(value: u64) -> Self {
        if value & ENABLE != 0 {
            Self::At(value & !ENABLE)
        } else {
            Self::Off
        }
    }
}

/// The version protocol: odd while the rest is written, and even again, greater, when it is done.
///
/// Returns the numbers for before and after; `old` is what stands in the guest's memory, where junk is
/// possible.
pub const fn versions(old: u32) -> (u32, u32) {
    let odd = (old | 1).wrapping_add(if old & 1 != 0 { 2 } else { 0 });
    (odd, odd.wrapping_add(1))
}

/// `struct pvclock_wall_clock`: the version, seconds and nanoseconds of the clock's zero.
pub fn wall_clock(version: u32, realtime_ns: u64, clock_ns: u64) -> [u32; 3] {
    let zero = realtime_ns.wrapping_sub(clock_ns);
    let seconds = (zero / NS_PER_SECOND) as u32;
    [version, seconds, (zero % NS_PER_SECOND) as u32]
}

/// A VM's clock.
#[derive(Clone, Debug)]
pub struct VmClock {
    /// What must be added to the host's time for the clock's.
    offset: u64,
    /// Where the clock of all vCPUs is anchored, if they have one: the host's time in ns and counter.
    master: Option<(u64, u64)>,
}

impl VmClock {
    /// Returns a clock whose zero is `now_ns`.
    pub const fn new(now_ns: u64) -> Self {
        Self {
            offset: now_ns.wrapping_neg(),
            master: None,
        }
    }

    /// Decides on the master clock: vCPUs whose counters match can share one anchor, and then read the
    /// same time; otherwise each has its own, which is moved whenever it is loaded.
    ///
    /// The host's clock must be computed from its counter (`host_stable`), or both would drift apart.
    pub fn update_master(&mut self, host_stable: bool, matched: bool, now_ns: u64, host_tsc: u64) {
        self.master = (host_stable && matched).then_some((now_ns, host_tsc));
    }

    /// Returns whether the vCPUs share one anchor.
    pub const fn has_master(&self) -> bool {
        self.master.is_some()
    }

    /// Returns the clock at the host's `now_ns` and `host_tsc`, whose rate is `host`.
    ///
    /// With a master clock it is computed from the counter, as the guest computes it.
    pub fn now(&self, now_ns: u64, host_tsc: u64, host: Rate) -> u64 {
        let ns = match self.master {
            Some((ns, tsc)) => ns.wrapping_add(host.ns(host_tsc.wrapping_sub(tsc))),
            None => now_ns,
        };
        ns.wrapping_add(self.offset)
    }

    /// Sets the clock to `clock_ns` at the host's `now_ns` (`KVM_SET_CLOCK`).
    ///
    /// With a master clock the anchor must be renewed first.
    pub fn set(&mut self, clock_ns: u64, now_ns: u64) {
        self.offset = clock_ns.wrapping_sub(now_ns);
    }

    /// Returns the anchor for a vCPU's page: the host's counter and the clock's time there.
    pub fn anchor(&self, now_ns: u64, host_tsc: u64) -> (u64, u64) {
        let (ns, tsc) = self.master.unwrap_or((now_ns, host_tsc));
        (tsc, ns.wrapping_add(self.offset))
    }

    /// Returns the flags of a vCPU's page.
    pub const fn flags(&self, guest_stopped: bool) -> u8 {
        let stable = if self.has_master() {
            flag::TSC_STABLE
        } else {
            0
        };
        let stopped = if guest_stopped {
            flag::GUEST_STOPPED
        } else {
            0
        };
        stable | stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact_to_a_billionth() {
        for khz in [
            1,
            3,
            1000,
            999_999,
            1_000_000,
            1_000_001,
            2_399_997,
            8_000_000,
            u32::MAX,
        ] {
            let rate = Rate::of(khz);
            assert!(rate.mul >= 1 << 31, "{khz}: {rate:?}");
            let seconds = 3;
            let ns = rate.ns(seconds * 1000 * u64::from(khz));
            let exact = seconds * NS_PER_SECOND;
            assert!(ns <= exact, "{khz}: {ns}");
            assert!(
                exact - ns <= exact / 1_000_000_000 + (1 << 2),
                "{khz}: {ns}"
            );
        }
        assert_eq!(Rate::of(0), Rate::of(1));
        assert_eq!(
            Rate::of(1_000_000),
            Rate {
                mul: 1 << 31,
                shift: 1
            }
        );
        assert_eq!(
            Rate::of(2_000_000),
            Rate {
                mul: 1 << 31,
                shift: 0
            }
        );
        assert_eq!(
            Rate::of(4_000_000),
            Rate {
                mul: 1 << 31,
                shift: -1
            }
        );
    }

    #[test]
    fn layout() {
        let info = TimeInfo {
            version: 0x0403_0201,
            tsc_timestamp: 0x0f0e_0d0c_0b0a_0908,
            system_time: 0x1716_1514_1312_1110,
            tsc_to_system_mul: 0x1b1a_1918,
            tsc_shift: 0x1c,
            flags: 0x1d,
        };
        let mut expected: [u8; 32] = core::array::from_fn(|i| i as u8);
        expected[..8].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 0]);
        expected[30..].fill(0);
        assert_eq!(info.to_bytes(), expected);
    }

    #[test]
    fn time_as_the_guest_computes_it() {
        let rate = Rate::of(2_000_000);
        let info = TimeInfo {
            tsc_timestamp: 1000,
            system_time: 500,
            tsc_to_system_mul: rate.mul,
            tsc_shift: rate.shift,
            ..TimeInfo::default()
        };
        assert_eq!(info.time_at(1000), 500);
        assert_eq!(info.time_at(1000 + 2_000_000), 500 + 1_000_000);
    }

    #[test]
    fn version_protocol() {
        assert_eq!(versions(0), (1, 2));
        assert_eq!(versions(2), (3, 4));
        assert_eq!(versions(7), (9, 10));
        assert_eq!(versions(u32::MAX), (1, 2));
        for old in [0, 1, 2, 3, u32::MAX - 1, u32::MAX] {
            let (during, after) = versions(old);
            assert!(during & 1 == 1 && after & 1 == 0 && after != old && during != old);
        }
    }

    #[test]
    fn pages() {
        assert_eq!(Page::from_msr(0x1000), Page::Off);
        assert_eq!(Page::from_msr(0x1001), Page::At(0x1000));
    }

    #[test]
    fn wall_clock_is_the_clocks_zero() {
        let now = 1_700_000_000 * NS_PER_SECOND + 5;
        assert_eq!(wall_clock(2, now, 3 * NS_PER_SECOND), [2, 1_699_999_997, 5]);
    }

    #[test]
    fn master_clock() {
        let rate = Rate::of(1_000_000);
        let mut clock = VmClock::new(1000);
        assert_eq!(clock.now(1500, 7, rate), 500);
        assert_eq!(clock.anchor(1500, 7), (7, 500));
        assert_eq!(clock.flags(true), flag::GUEST_STOPPED);
        clock.update_master(true, false, 1500, 7);
        assert!(!clock.has_master());
        clock.update_master(true, true, 1500, 7);
        assert_eq!(clock.flags(false), flag::TSC_STABLE);
        // Every vCPU gets the same anchor, whenever it asks.
        assert_eq!(clock.anchor(9999, 9999), (7, 500));
        // The counter counts, not the host's own clock.
        assert_eq!(clock.now(12345, 107, rate), 600);
        clock.update_master(true, true, 2000, 500);
        clock.set(1_000_000, 2000);
        assert_eq!(clock.now(0, 500, rate), 1_000_000);
        clock.update_master(false, true, 2000, 500);
        assert!(!clock.has_master());
    }
}
