// SPDX-License-Identifier: GPL-2.0-only

//! The 8254 timer of a PC and the speaker port. Section names are those of Intel's 8254 data sheet
//! (231164); the port is that of the 82371SB (PIIX3), "NMI Status and Control Register".
//!
//! Nothing ticks here: time is an argument, in nanoseconds of the host's monotonic clock. Channel 0 drives
//! GSI 0; the glue arms one host timer for [`Pit::next_tick`] and calls [`Pit::tick`] when it has fired.
//! One lock in the glue protects the timer.
//!
//! What is simpler than in the chip: a new count takes effect at once in every mode, and BCD is kept in
//! the status and does not count. Both are as in KVM.

mod channel;
mod reinject;
mod state;
#[cfg(test)]
mod tests;
mod units;

pub use state::{PitChannelState, PitState2};
pub use units::FREQUENCY_HZ;

use channel::Channel;
use reinject::Reinject;

/// Channels.
pub const CHANNELS: usize = 3;

/// The first of the four ports: three counters and the control word.
pub const FIRST_PORT: u16 = 0x40;
/// The last of them.
pub const CONTROL_PORT: u16 = 0x43;
/// The speaker's port ("NMI Status and Control Register").
pub const SPEAKER_PORT: u16 = 0x61;

/// The shortest period of channel 0, in nanoseconds, for the reason that
/// [`crate::model::apic::timer::MIN_PERIOD_NS`] gives.
pub const MIN_PERIOD_NS: u64 = 200_000;

/// Control word bits 7:6: the counter, or the read-back command.
const CONTROL_CHANNEL_SHIFT: u8 = 6;
/// Read-back command, bit 5: do not latch the count.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back command, bit 4: do not latch the status.
const READ_BACK_NO_STATUS: u8 = 1 << 4;
/// Read-back command, bit 1 and those above it: the counters.
const READ_BACK_FIRST: u8 = 1 << 1;

/// Speaker port bit 0: the gate of channel 2.
const SPEAKER_GATE: u8 = 1 << 0;
/// Speaker port bit 1: the speaker is on.
const SPEAKER_DATA: u8 = 1 << 1;
/// Speaker port bit 4: toggles with each refresh of the memory.
const SPEAKER_REFRESH: u8 = 1 << 4;
/// Speaker port bit 5: the output of channel 2.
const SPEAKER_OUT: u8 = 1 << 5;
/// The refresh bit's half period as a power of two in nanoseconds: about 15 microseconds.
const REFRESH_SHIFT: u32 = 14;

/// The channel that the speaker port controls.
const SPEAKER_CHANNEL: usize = 2;

/// What the glue must do after an operation.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Arm the host timer for [`Pit::next_tick`], or stop it if there is none.
    Rearm,
}

/// The timer.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; CHANNELS],
    speaker_on: bool,
    /// An HPET drives GSI 0 instead of channel 0 (`KVM_PIT_FLAGS_HPET_LEGACY`).
    hpet_legacy: bool,
    /// When channel 0 next raises its interrupt.
    next_tick: Option<u64>,
    reinject: Reinject,
}

impl Pit {
    /// Returns the timer as after power-up: no channel has a mode, and the gates of channels 0 and 1 are
    /// high.
    pub const fn new() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            speaker_on: false,
            hpet_legacy: false,
            next_tick: None,
            reinject: Reinject::new(),
        }
    }

    /// Returns whether the timer owns the `len` ports from `port` on; the speaker's only with `speaker`
    /// (`KVM_PIT_SPEAKER_DUMMY`), and whatever the length.
    pub const fn claims(port: u16, len: usize, speaker: bool) -> bool {
        (port >= FIRST_PORT && port as usize + len <= CONTROL_PORT as usize + 1)
            || (speaker && port == SPEAKER_PORT)
    }

    /// Writes a byte to one of the ports at `now` ns.
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> Effect {
        match port {
            CONTROL_PORT => self.write_control(value, now),
            SPEAKER_PORT => {
                self.speaker_on = value & SPEAKER_DATA != 0;
                if let Some(channel) = self.channels.get_mut(SPEAKER_CHANNEL) {
                    channel.set_gate(value & SPEAKER_GATE != 0, now);
                }
                Effect::None
            }
            _ => self.write_count(usize::from(port & 3), value, now),
        }
    }

    /// Reads a byte from one of the ports at `now` ns. The control word reads as 0.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            CONTROL_PORT => 0,
            SPEAKER_PORT => self.read_speaker(now),
            _ => self
                .channels
                .get_mut(usize::from(port & 3))
                .map_or(0, |channel| channel.read(now)),
        }
    }

    fn read_speaker(&self, now: u64) -> u8 {
        let mut value = 0;
        if let Some(channel) = self.channels.get(SPEAKER_CHANNEL) {
            if channel.gate() {
                value |= SPEAKER_GATE;
            }
            if channel.out(now) {
                value |= SPEAKER_OUT;
            }
        }
        if self.speaker_on {
            value |= SPEAKER_DATA;
        }
        if now >> REFRESH_SHIFT & 1 != 0 {
            value |= SPEAKER_REFRESH;
        }
        value
    }

    /// "Control Word Format", "Counter Latch Command", "Read-Back Command".
    fn write_control(&mut self, value: u8, now: u64) -> Effect {
        let index = usize::from(value >> CONTROL_CHANNEL_SHIFT);
        if let Some(channel) = self.channels.get_mut(index) {
            let stopped = channel.control(value, now);
            if stopped && index == 0 {
                return self.restart(now);
            }
            return Effect::None;
        }
        let mut select = READ_BACK_FIRST;
        for channel in &mut self.channels {
            if value & select != 0 {
                if value & READ_BACK_NO_COUNT == 0 {
                    channel.latch_count(now);
                }
                if value & READ_BACK_NO_STATUS == 0 {
                    channel.latch_status(now);
                }
            }
            select <<= 1;
        }
        Effect::None
    }

    fn write_count(&mut self, index: usize, value: u8, now: u64) -> Effect {
        let loaded = self
            .channels
            .get_mut(index)
            .is_some_and(|channel| channel.write(value, now));
        if loaded && index == 0 {
            self.restart(now)
        } else {
            Effect::None
        }
    }

    /// Channel 0 has a new mode or count.
    fn restart(&mut self, now: u64) -> Effect {
        self.reinject.reset();
        self.next_tick = self.first_tick(now);
        Effect::Rearm
    }

    fn first_tick(&self, now: u64) -> Option<u64> {
        let [channel, ..] = &self.channels;
        if self.hpet_legacy {
            return None;
        }
        let wait = channel.first_rise_ns()?;
        let wait = match channel.period_ns() {
            Some(period) => wait.max(period.max(MIN_PERIOD_NS)),
            None => wait,
        };
        Some(now.saturating_add(wait))
    }

    /// Returns when the host timer must fire, in ns.
    pub const fn next_tick(&self) -> Option<u64> {
        self.next_tick
    }

    /// Looks at the clock after the host timer has fired; early calls do no harm. Returns whether an
    /// interrupt must be raised now: an edge on GSI 0.
    ///
    /// Periods that passed unseen are counted for reinjection.
    pub fn tick(&mut self, now: u64) -> bool {
        let due = match self.next_tick {
            Some(due) if now >= due => due,
            _ => return false,
        };
        let [channel, ..] = &self.channels;
        let mut ticks = 1;
        self.next_tick = channel.period_ns().map(|period| {
            let period = period.max(MIN_PERIOD_NS);
            let missed = now.saturating_sub(due).checked_div(period).unwrap_or(0);
            ticks = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
            due.saturating_add(missed.saturating_add(1).saturating_mul(period))
        });
        self.reinject.ticks(ticks)
    }

    /// The guest has completed the interrupt of GSI 0. Returns whether another one that was held back must
    /// be raised now.
    pub fn acked(&mut self) -> bool {
        self.reinject.acked()
    }

    /// The guest has unmasked the interrupt of GSI 0 at a controller: one that was lost while it was masked
    /// will not be acknowledged any more.
    pub fn unmasked(&mut self) {
        self.reinject.reset();
    }

    /// Sets whether interrupts that come before the last was acknowledged are held back and raised later
    /// (`KVM_REINJECT_CONTROL`); it is so after power-up.
    pub fn set_reinject(&mut self, on: bool) {
        self.reinject.set(on);
    }

    /// Returns whether it is so: then the glue must tell of acknowledges and unmasking.
    pub const fn reinjects(&self) -> bool {
        self.reinject.is_on()
    }
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}
