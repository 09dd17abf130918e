// SPDX-License-Identifier: Apache-2.0

//! The battery-backed clock of a PC (MC146818) and its CMOS memory.
//!
//! The clock gives the host's time in UTC. Writes to the time registers are remembered as
//! plain memory only: the guest cannot set the host's clock. There are no alarms and no
//! periodic interrupts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::bus::Device;
use crate::layout::{KIB, MIB, MMIO_HOLE_START};

/// Time registers.
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
/// Register A: update in progress, divider, rate.
const REG_A: u8 = 0x0a;
/// Register B: formats and interrupt enables.
const REG_B: u8 = 0x0b;
/// Register C: interrupt flags.
const REG_C: u8 = 0x0c;
/// Register D: valid RAM and time.
const REG_D: u8 = 0x0d;
/// The century, where ACPI's FADT points.
pub const CENTURY: u8 = 0x32;
/// Register A: a 32,768 Hz time base, 1,024 Hz periodic rate.
const REG_A_DEFAULT: u8 = 0x26;
/// Register B: binary instead of BCD.
const REG_B_BINARY: u8 = 1 << 2;
/// Register B: 24-hour instead of 12-hour.
const REG_B_24_HOURS: u8 = 1 << 1;
/// Register D: RAM and time are valid.
const REG_D_VALID: u8 = 1 << 7;
/// In 12-hour format, the hour's bit for the afternoon.
const HOURS_PM: u8 = 1 << 7;
/// The index port's bit that masks NMIs; it does not select a register.
const INDEX_MASK: u8 = 0x7f;
/// Number of registers.
const REGISTERS: usize = 128;
/// How long one reading of the clock stays consistent with itself.
const SNAPSHOT_LIFE: Duration = Duration::from_millis(500);

/// A moment as calendar fields, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Full year.
    pub year: u32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl DateTime {
    /// The calendar fields of `seconds` since 1970-01-01 00:00:00 UTC.
    pub fn from_unix(seconds: u64) -> Self {
        const DAY_SECONDS: u64 = 86_400;
        /// Days from 0000-03-01 to 1970-01-01 in the proleptic Gregorian calendar.
        const EPOCH_SHIFT: u64 = 719_468;
        const DAYS_PER_ERA: u64 = 146_097;
        let days = seconds / DAY_SECONDS;
        let rest = seconds % DAY_SECONDS;
        // Count years from 1 March, so that the leap day is a year's last day; months then
        // have lengths that (153 m + 2) / 5 adds up.
        let shifted = days + EPOCH_SHIFT;
        let era = shifted / DAYS_PER_ERA;
        let day_of_era = shifted % DAYS_PER_ERA;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        DateTime {
            year: (era * 400 + year_of_era + u64::from(month <= 2)) as u32,
            month: month as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
            // 1970-01-01 was a Thursday, day 5 when Sunday is 1.
            weekday: ((days + 4) % 7 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

/// Where the clock gets the time from: seconds since 1970.
pub type TimeSource = Box<dyn Fn() -> u64 + Send>;

/// The host's time of day.
pub fn host_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// The clock: an index register at offset 0, a data register at offset 1.
pub struct Rtc {
    index: u8,
    ram: [u8; REGISTERS],
    now: TimeSource,
    snapshot: Option<(Instant, DateTime)>,
}

impl Rtc {
    /// Number of ports.
    pub const LEN: u16 = 2;

    /// A clock that shows `now`, with the bytes that describe `memory` bytes of guest memory.
    pub fn new(memory: u64, now: TimeSource) -> Self {
        let mut ram = [0; REGISTERS];
        ram[REG_A as usize] = REG_A_DEFAULT;
        ram[REG_B as usize] = REG_B_24_HOURS;
        ram[REG_D as usize] = REG_D_VALID;
        describe_memory(&mut ram, memory);
        Rtc {
            index: 0,
            ram,
            now,
            snapshot: None,
        }
    }

    fn register(&mut self) -> u8 {
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                let time = self.time();
                self.encode(self.index, time)
            }
            REG_A => {
                // A guest reads this first and, seeing no update in progress, reads the rest:
                // it gets the time of this moment, whole.
                self.snapshot = None;
                self.time();
                self.ram[REG_A as usize]
            }
            REG_C => 0,
            index => self.ram.get(index as usize).copied().unwrap_or(0xff),
        }
    }

    /// The time, the same for a short while, so that its fields fit together.
    fn time(&mut self) -> DateTime {
        match self.snapshot {
            Some((taken, time)) if taken.elapsed() < SNAPSHOT_LIFE => time,
            _ => {
                let time = DateTime::from_unix((self.now)());
                self.snapshot = Some((Instant::now(), time));
                time
            }
        }
    }

    /// One field of `time` in the format that register B selects.
    fn encode(&self, index: u8, time: DateTime) -> u8 {
        let format = self.ram[REG_B as usize];
        let number = |n: u8| {
            if format & REG_B_BINARY != 0 {
                n
            } else {
                ((n / 10) << 4) | (n % 10)
            }
        };
        match index {
            SECONDS => number(time.second),
            MINUTES => number(time.minute),
            HOURS if format & REG_B_24_HOURS != 0 => number(time.hour),
            HOURS => {
                let hour = match time.hour % 12 {
                    0 => 12,
                    hour => hour,
                };
                number(hour) | if time.hour >= 12 { HOURS_PM } else { 0 }
            }
            WEEKDAY => number(time.weekday),
            DAY => number(time.day),
            MONTH => number(time.month),
            YEAR => number((time.year % 100) as u8),
            _ => number((time.year / 100) as u8),
        }
    }
}

/// The sizes that firmware leaves in CMOS memory, in the units that it uses.
fn describe_memory(ram: &mut [u8; REGISTERS], memory: u64) {
    /// Kilobytes below 640 K.
    const BASE: usize = 0x15;
    /// Kilobytes above 1 MiB, at two places.
    const EXTENDED: [usize; 2] = [0x17, 0x30];
    /// 64 KiB units above 16 MiB and below the device hole.
    const ABOVE_16M: usize = 0x34;
    /// 64 KiB units above 4 GiB, three bytes.
    const ABOVE_4G: usize = 0x5b;
    let mut put = |at: usize, value: u64| {
        let value = value.min(0xffff) as u16;
        ram[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    let low = memory.min(MMIO_HOLE_START);
    put(BASE, 640);
    for at in EXTENDED {
        put(at, low.saturating_sub(MIB) / KIB);
    }
    put(ABOVE_16M, low.saturating_sub(16 * MIB) / (64 * KIB));
    let high = (memory.saturating_sub(MMIO_HOLE_START) / (64 * KIB)).min(0xff_ffff);
    ram[ABOVE_4G..ABOVE_4G + 3].copy_from_slice(&(high as u32).to_le_bytes()[..3]);
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = if offset == 0 {
                self.index
            } else {
                self.register()
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            match (offset, self.index) {
                (0, _) => self.index = byte & INDEX_MASK,
                (_, REG_C | REG_D) => {}
                (_, index) => {
                    if let Some(register) = self.ram.get_mut(index as usize) {
                        *register = *byte;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::GIB;

    fn read(rtc: &mut Rtc, index: u8) -> u8 {
        rtc.write(0, &[index]);
        let mut data = [0];
        rtc.read(1, &mut data);
        data[0]
    }

    fn at(seconds: u64) -> Rtc {
        Rtc::new(256 * MIB, Box::new(move || seconds))
    }

    #[test]
    fn calendar() {
        let cases = [
            (0, (1970, 1, 1, 5, 0, 0, 0)),
            (951_782_399, (2000, 2, 28, 2, 23, 59, 59)),
            (951_782_400, (2000, 2, 29, 3, 0, 0, 0)),
            (1_709_208_000, (2024, 2, 29, 5, 12, 0, 0)),
            (4_107_542_399, (2100, 2, 28, 1, 23, 59, 59)),
            (4_107_542_400, (2100, 3, 1, 2, 0, 0, 0)),
        ];
        for (seconds, (year, month, day, weekday, hour, minute, second)) in cases {
            assert_eq!(
                DateTime::from_unix(seconds),
                DateTime {
                    year,
                    month,
                    day,
                    weekday,
                    hour,
                    minute,
                    second
                },
                "{seconds}"
            );
        }
    }

    #[test]
    fn shows_bcd_by_default() {
        // 2021-11-09 21:43:58 UTC
        let mut rtc = at(1_636_494_238);
        let fields = [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY];
        let shown = fields.map(|f| read(&mut rtc, f));
        assert_eq!(shown, [0x58, 0x43, 0x21, 0x09, 0x11, 0x21, 0x20]);
    }

    #[test]
    fn formats_follow_register_b() {
        let mut rtc = at(1_636_494_238);
        rtc.write(0, &[REG_B]);
        rtc.write(1, &[REG_B_BINARY]);
        assert_eq!(read(&mut rtc, SECONDS), 58);
        assert_eq!(read(&mut rtc, HOURS), 9 | HOURS_PM);
        let mut midnight = at(0);
        midnight.write(0, &[REG_B]);
        midnight.write(1, &[0]);
        assert_eq!(read(&mut midnight, HOURS), 0x12);
    }

    #[test]
    fn status_registers() {
        let mut rtc = at(0);
        assert_eq!(read(&mut rtc, REG_A), REG_A_DEFAULT);
        assert_eq!(read(&mut rtc, REG_B), REG_B_24_HOURS);
        assert_eq!(read(&mut rtc, REG_C), 0);
        assert_eq!(read(&mut rtc, REG_D), REG_D_VALID);
    }

    #[test]
    fn cmos_is_memory_and_the_nmi_bit_is_no_index() {
        let mut rtc = at(0);
        rtc.write(0, &[0x80 | 0x40]);
        rtc.write(1, &[0xaa]);
        assert_eq!(read(&mut rtc, 0x40), 0xaa);
    }

    #[test]
    fn memory_sizes() {
        let mut rtc = Rtc::new(5 * GIB, Box::new(|| 0));
        let word = |rtc: &mut Rtc, at| u16::from_le_bytes([read(rtc, at), read(rtc, at + 1)]);
        assert_eq!(word(&mut rtc, 0x15), 640);
        assert_eq!(word(&mut rtc, 0x17), 0xffff);
        assert_eq!(
            u64::from(word(&mut rtc, 0x34)),
            (3 * GIB - 16 * MIB) / (64 * KIB)
        );
        assert_eq!(u64::from(word(&mut rtc, 0x5b)), 2 * GIB / (64 * KIB));
        let mut small = Rtc::new(512 * KIB, Box::new(|| 0));
        assert_eq!(word(&mut small, 0x17), 0);
    }

    #[test]
    fn reading_a_date_is_consistent() {
        use std::sync::atomic::{AtomicU64, Ordering};
        static TIME: AtomicU64 = AtomicU64::new(59);
        let mut rtc = Rtc::new(0, Box::new(|| TIME.fetch_add(1, Ordering::Relaxed)));
        read(&mut rtc, REG_A);
        assert_eq!(
            (read(&mut rtc, MINUTES), read(&mut rtc, SECONDS)),
            (0, 0x59)
        );
        read(&mut rtc, REG_A);
        assert_eq!((read(&mut rtc, MINUTES), read(&mut rtc, SECONDS)), (1, 0));
    }
}
