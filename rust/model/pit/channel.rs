// SPDX-License-Identifier: GPL-2.0-only

//! One counter of the 8254.

use super::units::{ns_of, ticks_in};

/// The largest count; it is written as 0.
pub(super) const MAX_COUNT: u32 = 0x1_0000;

/// Shift of the access in control word and status.
const ACCESS_SHIFT: u8 = 4;
/// Shift of the mode in control word and status.
const MODE_SHIFT: u8 = 1;
/// Mode bits.
const MODE_MASK: u8 = 7;
/// Bit 0 of control word and status: BCD.
const BCD: u8 = 1 << 0;
/// Status bit 6: the count that was written last is not in the counter yet.
const STATUS_NULL_COUNT: u8 = 1 << 6;
/// Status bit 7: the output.
const STATUS_OUT: u8 = 1 << 7;

/// Which bytes of a count the next accesses move; the numbers are those of `kvm_pit_channel_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// None: no control word was written, or nothing is latched.
    None,
    /// The low byte.
    Low,
    /// The high byte.
    High,
    /// Both; the low byte is next.
    Both,
    /// Both; the high byte is next.
    BothHigh,
}

impl Access {
    /// Decodes the low bits of a state's or a control word's field.
    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Low,
            2 => Self::High,
            3 => Self::Both,
            4 => Self::BothHigh,
            _ => Self::None,
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Low => 1,
            Self::High => 2,
            Self::Both => 3,
            Self::BothHigh => 4,
        }
    }
}

/// "Mode Definitions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// No control word was written.
    None,
    /// 0: interrupt on terminal count.
    TerminalCount,
    /// 1: hardware retriggerable one-shot.
    OneShot,
    /// 2: rate generator.
    Rate,
    /// 3: square wave.
    Square,
    /// 4: software triggered strobe.
    SoftStrobe,
    /// 5: hardware triggered strobe.
    HardStrobe,
}

impl Mode {
    /// Decodes a three-bit field, in which the upper bit of modes 2 and 3 is not looked at.
    const fn from_bits(bits: u8) -> Self {
        match bits & MODE_MASK {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::Rate,
            3 | 7 => Self::Square,
            4 => Self::SoftStrobe,
            _ => Self::HardStrobe,
        }
    }

    /// Decodes the number of a state; others than 0 to 5 are none.
    pub(super) const fn from_number(number: u8) -> Self {
        if number < 6 {
            Self::from_bits(number)
        } else {
            Self::None
        }
    }

    /// Returns the mode's number, 0xff for none.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::None => 0xff,
            Self::TerminalCount => 0,
            Self::OneShot => 1,
            Self::Rate => 2,
            Self::Square => 3,
            Self::SoftStrobe => 4,
            Self::HardStrobe => 5,
        }
    }

    /// Returns whether a rising gate, and nothing else, starts the count.
    const fn waits_for_gate(self) -> bool {
        matches!(self, Self::OneShot | Self::HardStrobe)
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::Rate | Self::Square)
    }
}

/// Where the counting stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Waits for a count or for a trigger.
    Stopped,
    /// Since this time, in ns.
    Since(u64),
    /// The gate holds it after this many ticks.
    Held(u64),
}

/// One counter.
///
/// # Invariants
///
/// `count` is 1 to [`MAX_COUNT`].
#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) count: u32,
    pub(super) latched_count: u16,
    pub(super) count_latched: Access,
    pub(super) latched_status: Option<u8>,
    pub(super) read_next: Access,
    pub(super) write_next: Access,
    pub(super) write_latch: u8,
    pub(super) access: Access,
    pub(super) mode: Mode,
    pub(super) bcd: bool,
    pub(super) gate: bool,
    run: Run,
    /// A control word has come and no count since.
    null_count: bool,
}

impl Channel {
    /// Returns the counter after power-up with this gate.
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            count: MAX_COUNT,
            latched_count: 0,
            count_latched: Access::None,
            latched_status: None,
            read_next: Access::None,
            write_next: Access::None,
            write_latch: 0,
            access: Access::None,
            mode: Mode::None,
            bcd: false,
            gate,
            run: Run::Stopped,
            null_count: false,
        }
    }

    pub(super) const fn gate(&self) -> bool {
        self.gate
    }

    /// Returns when counting began, in ns, or 0.
    pub(super) const fn since(&self) -> u64 {
        match self.run {
            Run::Since(start) => start,
            _ => 0,
        }
    }

    /// "Gate Pin Operations Summary".
    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        let rises = gate && !self.gate;
        let falls = self.gate && !gate;
        self.gate = gate;
        self.run = match (self.mode, self.run) {
            // A trigger; before the first count it starts nothing.
            (Mode::OneShot | Mode::HardStrobe, _) if rises && !self.null_count => Run::Since(now),
            (Mode::Rate | Mode::Square, Run::Held(_)) if rises => Run::Since(now),
            (Mode::Rate | Mode::Square, Run::Since(_)) if falls => Run::Held(0),
            (Mode::TerminalCount | Mode::SoftStrobe, Run::Held(ticks)) if rises => {
                Run::Since(now.saturating_sub(ns_of(ticks)))
            }
            (Mode::TerminalCount | Mode::SoftStrobe, Run::Since(start)) if falls => {
                Run::Held(ticks_in(now.saturating_sub(start)))
            }
            (_, run) => run,
        };
    }

    /// A control word for this counter, or the latch command. Returns whether it stops the counter.
    pub(super) fn control(&mut self, word: u8, now: u64) -> bool {
        let access = Access::from_number(word >> ACCESS_SHIFT & 3);
        if access == Access::None {
            self.latch_count(now);
            return false;
        }
        self.access = access;
        self.read_next = access;
        self.write_next = access;
        self.mode = Mode::from_bits(word >> MODE_SHIFT);
        self.bcd = word & BCD != 0;
        self.count_latched = Access::None;
        self.latched_status = None;
        self.run = Run::Stopped;
        self.null_count = true;
        true
    }

    /// Writes a byte of the count. Returns whether the count is complete. "Write Operations".
    pub(super) fn write(&mut self, value: u8, now: u64) -> bool {
        let count = match self.write_next {
            Access::None | Access::Low => u32::from(value),
            Access::High => u32::from(value) << 8,
            Access::Both => {
                self.write_latch = value;
                self.write_next = Access::BothHigh;
                return false;
            }
            Access::BothHigh => {
                self.write_next = Access::Both;
                u32::from(value) << 8 | u32::from(self.write_latch)
            }
        };
        self.load(count, now);
        true
    }

    /// Takes over a count, 0 being [`MAX_COUNT`], and starts with it at `now` if the mode does so.
    pub(super) fn load(&mut self, count: u32, now: u64) {
        // INVARIANT: 1 to the largest count.
        self.count = match count {
            0 => MAX_COUNT,
            _ => count.min(MAX_COUNT),
        };
        self.null_count = false;
        self.run = match self.mode {
            Mode::None => Run::Stopped,
            mode if mode.waits_for_gate() => self.run,
            _ if self.gate => Run::Since(now),
            _ => Run::Held(0),
        };
    }

    /// Returns the ticks since the count began; `None` when it waits.
    fn ticks(&self, now: u64) -> Option<u64> {
        match self.run {
            Run::Stopped => None,
            Run::Since(start) => Some(ticks_in(now.saturating_sub(start))),
            Run::Held(ticks) => Some(ticks),
        }
    }

    /// Returns the count. "Mode Definitions".
    pub(super) fn value(&self, now: u64) -> u16 {
        let Some(ticks) = self.ticks(now) else {
            return self.count as u16;
        };
        let count = u64::from(self.count);
        let value = match self.mode {
            Mode::Rate => count.wrapping_sub(self.phase(ticks)),
            Mode::Square => {
                // An odd count starts one lower; each half counts down by two.
                let phase = self.phase(ticks);
                let high = count.div_ceil(2);
                let half = if phase < high { phase } else { phase - high };
                (count & !1).wrapping_sub(half << 1)
            }
            _ => count.wrapping_sub(ticks),
        };
        value as u16
    }

    /// Returns the ticks since the period began.
    fn phase(&self, ticks: u64) -> u64 {
        ticks.checked_rem(self.count.into()).unwrap_or(0)
    }

    /// Returns the output. "Mode Definitions".
    pub(super) fn out(&self, now: u64) -> bool {
        let ticks = match (self.ticks(now), self.mode) {
            (_, Mode::None) => return false,
            (None, mode) => return mode != Mode::TerminalCount,
            // A low gate puts it high at once.
            (Some(_), Mode::Rate | Mode::Square) if !self.gate => return true,
            (Some(ticks), _) => ticks,
        };
        let count = u64::from(self.count);
        match self.mode {
            Mode::Rate => self.phase(ticks) != count.wrapping_sub(1),
            Mode::Square => self.phase(ticks) < count.div_ceil(2),
            Mode::SoftStrobe | Mode::HardStrobe => ticks != count,
            _ => ticks >= count,
        }
    }

    /// Returns the nanoseconds from the loading of the count to the first rising edge of the output, if
    /// the counter runs.
    pub(super) fn first_rise_ns(&self) -> Option<u64> {
        if !matches!(self.run, Run::Since(_)) {
            return None;
        }
        let strobe = u64::from(self.mode == Mode::SoftStrobe);
        Some(ns_of(u64::from(self.count).saturating_add(strobe)))
    }

    /// Returns the nanoseconds between rising edges in the periodic modes.
    pub(super) fn period_ns(&self) -> Option<u64> {
        self.mode.is_periodic().then(|| ns_of(self.count.into()))
    }

    /// "Counter Latch Command": keeps the first of two.
    pub(super) fn latch_count(&mut self, now: u64) {
        if self.count_latched == Access::None {
            self.latched_count = self.value(now);
            self.count_latched = self.access;
        }
    }

    /// "Read-Back Command".
    pub(super) fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            let mut status = (self.access.number() << ACCESS_SHIFT)
                | ((self.mode.number() & MODE_MASK) << MODE_SHIFT);
            if self.bcd {
                status |= BCD;
            }
            if self.null_count {
                status |= STATUS_NULL_COUNT;
            }
            if self.out(now) {
                status |= STATUS_OUT;
            }
            self.latched_status = Some(status);
        }
    }

    /// Reads a byte: a latched status first, then a latched count, then the count itself. "Read
    /// Operations".
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.to_le_bytes();
        match self.count_latched {
            Access::None => {}
            Access::Both => {
                self.count_latched = Access::High;
                return low;
            }
            Access::Low => {
                self.count_latched = Access::None;
                return low;
            }
            Access::High | Access::BothHigh => {
                self.count_latched = Access::None;
                return high;
            }
        }
        let [low, high] = self.value(now).to_le_bytes();
        match self.read_next {
            Access::None | Access::Low => low,
            Access::High => high,
            Access::Both => {
                self.read_next = Access::BothHigh;
                low
            }
            Access::BothHigh => {
                self.read_next = Access::Both;
                high
            }
        }
    }
}
