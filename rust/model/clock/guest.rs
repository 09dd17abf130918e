// SPDX-License-Identifier: GPL-2.0-only

//! The time-stamp counter of a guest: the host's, scaled and then moved.
//!
//! Where the processor can scale, the guest reads exactly this. Where it cannot, a guest may still have a
//! counter that is faster than the host's, which runs at the host's rate while the guest runs and is brought
//! up to date at each entry. A slower one is not possible there: it would have to go back. The rules are those
//! of `KVM_SET_TSC_KHZ` (Documentation/virt/kvm/api.rst).

use super::{
    pvclock::Rate,
    scale::{Format, Ratio},
};

/// How far a guest's frequency may be from the host's without being scaled, in millionths.
const TOLERANCE_PPM: u64 = 250;
/// A million.
const MILLION: u64 = 1_000_000;
/// Frequencies are below this, so that they fit a signed integer.
const LIMIT_KHZ: u32 = i32::MAX as u32;

/// Who makes the guest's counter run at its frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It has the host's.
    None,
    /// The processor.
    Hardware,
    /// The host, which moves it forward at each entry.
    CatchUp,
}

/// A guest's time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTsc {
    khz: u32,
    way: Way,
    ratio: Ratio,
    offset: u64,
    /// What the processor added to the host's counter at the last entry, where the guest's lags.
    entry_offset: u64,
    rate: Rate,
}

impl GuestTsc {
    /// Returns a counter of the host's frequency that is equal to the host's.
    pub fn host(host_khz: u32) -> Self {
        Self {
            khz: host_khz,
            way: Way::None,
            ratio: Format::VMX.one(),
            offset: 0,
            entry_offset: 0,
            rate: Rate::of(host_khz),
        }
    }

    /// Returns a counter of `khz`, 0 meaning the host's frequency, that is equal to the host's at 0; `format` is
    /// that of the processor's scaling, if it has any.
    ///
    /// `None` when there can't be one.
    pub fn new(khz: u32, host_khz: u32, format: Option<Format>) -> Option<Self> {
        let khz = if khz == 0 { host_khz } else { khz };
        let host = Self {
            khz,
            ..Self::host(host_khz)
        };
        if khz == 0 || (format.is_some() && khz >= LIMIT_KHZ) {
            return None;
        }
        if is_near(khz, host_khz) {
            return Some(host);
        }
        let Some(format) = format else {
            if khz < host_khz {
                return None;
            }
            return Some(Self {
                way: Way::CatchUp,
                ratio: Format::VMX.ratio(khz, host_khz)?,
                ..host
            });
        };
        let ratio = format.ratio(khz, host_khz)?;
        let scaled_khz = ratio.scale(host_khz.into());
        Some(Self {
            way: Way::Hardware,
            ratio,
            rate: Rate::of(u32::try_from(scaled_khz).unwrap_or(u32::MAX)),
            ..host
        })
    }

    /// Returns the frequency in kHz.
    pub const fn khz(&self) -> u32 {
        self.khz
    }

    /// Returns the ratio to the host's counter.
    pub const fn ratio(&self) -> Ratio {
        self.ratio
    }

    /// Returns what is added to the scaled counter of the host's.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Sets it.
    pub fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Returns the offset with which the guest reads `value` when the host reads `host`.
    pub const fn offset_for(&self, value: u64, host: u64) -> u64 {
        self.ratio.offset(value, host)
    }

    /// Returns what the guest's counter is when the host reads `host`.
    #[inline]
    pub const fn read(&self, host: u64) -> u64 {
        self.ratio.guest(host, self.offset)
    }

    /// Returns in how many ticks of the host's counter, which is at `host`, the guest's has got to `deadline`,
    /// at most `max`; 0 when it has passed. `max` is below 2^63.
    #[inline]
    pub fn ticks_until(&self, deadline: u64, host: u64, max: u64) -> u64 {
        let ticks = deadline.wrapping_sub(self.read(host));
        if ticks as i64 <= 0 {
            0
        } else {
            self.ratio.unscale(ticks.min(max)).min(max)
        }
    }

    /// Returns the multiplier for the processor, where it scales.
    pub fn multiplier(&self, format: Format) -> u64 {
        match self.way {
            Way::Hardware => self.ratio.multiplier(),
            Way::None | Way::CatchUp => format.one().multiplier(),
        }
    }

    /// Brings a counter that lags up to date when the host's is at `host`. Returns the offset for the
    /// processor.
    pub fn catch_up(&mut self, host: u64) -> u64 {
        self.entry_offset = match self.way {
            Way::None | Way::Hardware => self.offset,
            Way::CatchUp => self.read(host).wrapping_sub(host),
        };
        self.entry_offset
    }

    /// Returns what the guest itself reads when the host reads `host`, since the last
    /// [`GuestTsc::catch_up`].
    pub const fn seen(&self, host: u64) -> u64 {
        match self.way {
            Way::None | Way::Hardware => self.read(host),
            Way::CatchUp => host.wrapping_add(self.entry_offset),
        }
    }

    /// Returns whether the counter falls behind while the guest runs, and must be set anew at each entry.
    pub const fn lags(&self) -> bool {
        matches!(self.way, Way::CatchUp)
    }

    /// Returns how the ticks that the guest sees between two entries become nanoseconds.
    pub const fn rate(&self) -> Rate {
        self.rate
    }
}

/// Returns whether a frequency is so near to the host's that it needs no scaling.
fn is_near(khz: u32, host_khz: u32) -> bool {
    let (khz, host) = (u64::from(khz), u64::from(host_khz));
    // The products are below 2^52, and the bounds are rounded down.
    let low = host * (MILLION - TOLERANCE_PPM) / MILLION;
    let high = host * (MILLION + TOLERANCE_PPM) / MILLION;
    (low..=high).contains(&khz)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u32 = 2_000_000;
    const FORMATS: [Option<Format>; 3] = [None, Some(Format::VMX), Some(Format::SVM)];

    #[test]
    fn near_the_hosts_frequency_nothing_is_scaled() {
        for format in FORMATS {
            for khz in [0, HOST, HOST - 500, HOST + 500] {
                let tsc = GuestTsc::new(khz, HOST, format).unwrap();
                assert_eq!(tsc.khz(), if khz == 0 { HOST } else { khz });
                assert_eq!(tsc.read(12345), 12345);
                assert_eq!(tsc.rate(), Rate::of(HOST));
                assert!(!tsc.lags());
                assert!(tsc.multiplier(Format::SVM) == 1 << 32);
            }
        }
    }

    #[test]
    fn the_processor_scales() {
        for (format, one) in [(Format::VMX, 1u64 << 48), (Format::SVM, 1 << 32)] {
            let tsc = GuestTsc::new(HOST - 501, HOST, Some(format)).unwrap();
            assert!(tsc.multiplier(format) < one && !tsc.lags());
            let mut tsc = GuestTsc::new(HOST / 2, HOST, Some(format)).unwrap();
            assert_eq!(tsc.multiplier(format), one / 2);
            assert_eq!(tsc.rate(), Rate::of(HOST / 2));
            tsc.set_offset(tsc.offset_for(100, 5000));
            assert_eq!(tsc.read(5000), 100);
            assert_eq!(tsc.read(5000 + 2 * 77), 177);
            assert_eq!(tsc.catch_up(9999), tsc.offset());
            assert_eq!(tsc.seen(5000 + 2 * 77), 177);
        }
    }

    #[test]
    fn without_help_only_faster() {
        assert_eq!(GuestTsc::new(HOST - 501, HOST, None), None);
        let mut tsc = GuestTsc::new(HOST * 3, HOST, None).unwrap();
        assert!(tsc.lags());
        assert_eq!(tsc.rate(), Rate::of(HOST));
        assert_eq!(tsc.multiplier(Format::VMX), 1 << 48);
        tsc.set_offset(tsc.offset_for(0, 1000));
        // At an entry the guest's counter is where it should be.
        let offset = tsc.catch_up(2000);
        assert_eq!(2000u64.wrapping_add(offset), 3000);
        assert_eq!((tsc.read(2000), tsc.seen(2000)), (3000, 3000));
        // Until the next one it goes too slowly, and then not back.
        assert_eq!((tsc.read(2500), tsc.seen(2500)), (4500, 3500));
        let _ = tsc.catch_up(2501);
        assert_eq!(tsc.seen(2501), 4503);
    }

    #[test]
    fn frequencies_that_cannot_be() {
        for format in FORMATS {
            assert_eq!(GuestTsc::new(0, 0, format), None);
        }
        assert_eq!(GuestTsc::new(LIMIT_KHZ, HOST, Some(Format::VMX)), None);
        assert!(GuestTsc::new(LIMIT_KHZ - 1, HOST, Some(Format::VMX)).is_some());
        // The ratio MSR goes up to 256.
        assert_eq!(GuestTsc::new(HOST * 300, HOST, Some(Format::SVM)), None);
        assert_eq!(
            GuestTsc::new(1, HOST, Some(Format::SVM)).map(|tsc| tsc.khz()),
            Some(1)
        );
    }

    #[test]
    fn deadlines_are_never_early() {
        const MAX: u64 = 1 << 40;
        for (khz, format) in [
            (HOST, None),
            (HOST * 5 / 2 + 1, None),
            (HOST / 3, Some(Format::VMX)),
            (HOST * 7 / 3, Some(Format::SVM)),
        ] {
            let mut tsc = GuestTsc::new(khz, HOST, format).unwrap();
            tsc.set_offset(987_654_321);
            for host in [0, 1, 1 << 45, 1 << 63] {
                for ahead in [1, 2, 1000, 123_456_789] {
                    let deadline = tsc.read(host).wrapping_add(ahead);
                    let ticks = tsc.ticks_until(deadline, host, MAX);
                    let reached = tsc.read(host.wrapping_add(ticks)).wrapping_sub(deadline);
                    assert!((reached as i64) >= 0 && reached < 8, "{khz} {host} {ahead}");
                }
                assert_eq!(tsc.ticks_until(tsc.read(host), host, MAX), 0);
                assert_eq!(
                    tsc.ticks_until(tsc.read(host).wrapping_sub(5), host, MAX),
                    0
                );
                let far = tsc.read(host).wrapping_add(1 << 62);
                assert!(tsc.ticks_until(far, host, MAX) <= MAX);
            }
        }
    }
}
