// SPDX-License-Identifier: GPL-2.0-only

//! The APIC timer. SDM vol. 3, "APIC Timer" and "TSC-Deadline Mode".
//!
//! Nothing ticks here. The timer is a deadline; the current count is computed from it when the guest
//! reads the register, and the glue is told which one host timer to arm. When that fires, early, late
//! or for nothing, the glue calls [`Lapic::timer_expired`], which decides by the clock alone.
//!
//! A periodic timer skips the periods that passed while its vCPU did not run and keeps its phase: the
//! IRR could hold only one of those interrupts anyway.

use super::lvt::Lvt;
use super::regs::{Reg, LVT_TIMER_PERIODIC, LVT_TIMER_TSC_DEADLINE};
use super::{Lapic, Mode};

/// Nanoseconds in one tick of the timer's input clock: a 1-GHz bus, as KVM has it.
pub const BUS_CYCLE_NS: u32 = 1;

/// The shortest period of a periodic timer, in nanoseconds.
///
/// The host's timer interrupts are not charged to the vCPU and the scheduler can't slow them down, so a
/// guest with a one-tick period would keep a host CPU busy with nothing else. One-shot timers need no
/// limit: the guest has to run for each of them.
pub const MIN_PERIOD_NS: u64 = 200_000;

/// The clocks that the timer runs on; read only when a timer register is touched.
pub trait Clock {
    /// Returns the host's monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
    /// Returns the guest's time-stamp counter.
    fn guest_tsc(&self) -> u64;
}

/// What the host timer should do; replaces whatever it did before.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Nothing.
    Stop,
    /// Fire once, at this monotonic time in nanoseconds.
    OneShotNs(u64),
    /// Fire once, when the guest's time-stamp counter reaches this value.
    TscDeadline(u64),
}

/// How the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// Both mode bits set: the timer stands still.
    Reserved,
}

impl TimerMode {
    const fn from_lvt(entry: u32) -> Self {
        match (
            entry & LVT_TIMER_PERIODIC != 0,
            entry & LVT_TIMER_TSC_DEADLINE != 0,
        ) {
            (false, false) => Self::OneShot,
            (true, false) => Self::Periodic,
            (false, true) => Self::TscDeadline,
            (true, true) => Self::Reserved,
        }
    }

    /// Returns whether the initial-count register starts the timer.
    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// The timer's state besides its registers.
#[derive(Clone, Debug)]
pub(super) struct ApicTimer {
    mode: TimerMode,
    /// Nanoseconds from the initial count to 0, after the limit.
    period_ns: u64,
    /// When the count reaches 0.
    deadline_ns: Option<u64>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    tsc_deadline: u64,
}

impl ApicTimer {
    /// Returns a stopped one-shot timer.
    pub(super) const fn new() -> Self {
        Self {
            mode: TimerMode::OneShot,
            period_ns: 0,
            deadline_ns: None,
            tsc_deadline: 0,
        }
    }

    fn disarm(&mut self) {
        self.deadline_ns = None;
        self.tsc_deadline = 0;
    }

    /// Returns the time of the next expiry after `now`, in phase with the deadline.
    fn next_period(&self, deadline: u64, now: u64) -> Option<u64> {
        let missed = now.saturating_sub(deadline).checked_div(self.period_ns)?;
        let ahead = missed.saturating_add(1).saturating_mul(self.period_ns);
        Some(deadline.saturating_add(ahead))
    }
}

impl Lapic {
    /// Returns the divisor as a shift, 0 to 7. SDM vol. 3, "Divide Configuration Register".
    fn divide_shift(&self) -> u32 {
        let bits = self.regs.get(Reg::TIMER_DIVIDE);
        let value = (bits & 3) | ((bits >> 1) & 4);
        value.wrapping_add(1) & 7
    }

    /// Returns the nanoseconds of one count.
    fn count_ns(&self) -> u64 {
        u64::from(self.config.bus_cycle_ns.max(1)) << self.divide_shift()
    }

    /// Takes over the initial count as the period.
    fn update_period(&mut self) {
        let count = u64::from(self.regs.get(Reg::TIMER_INITIAL));
        self.timer.period_ns = count.saturating_mul(self.count_ns());
        self.limit_period();
    }

    fn limit_period(&mut self) {
        if self.timer.mode == TimerMode::Periodic && self.timer.period_ns != 0 {
            self.timer.period_ns = self.timer.period_ns.max(self.config.min_period_ns);
        }
    }

    /// Returns what the host timer should be doing, for a glue that has lost or moved it.
    pub fn host_timer(&self) -> Timer {
        match (self.timer.mode, self.timer.deadline_ns) {
            (TimerMode::TscDeadline, _) if self.timer.tsc_deadline != 0 => {
                Timer::TscDeadline(self.timer.tsc_deadline)
            }
            (TimerMode::OneShot | TimerMode::Periodic, Some(deadline)) => {
                Timer::OneShotNs(deadline)
            }
            _ => Timer::Stop,
        }
    }

    /// Takes over the mode from the LVT entry; returns whether that disarmed the timer.
    ///
    /// One-shot and periodic may change into each other while counting; every other change disarms.
    pub(super) fn update_timer_mode(&mut self) -> bool {
        let old = self.timer.mode;
        let new = TimerMode::from_lvt(self.regs.get(Reg::LVT_TIMER));
        self.timer.mode = new;
        if old == new {
            return false;
        }
        if old.counts() && new.counts() {
            self.limit_period();
            return false;
        }
        self.regs.set(Reg::TIMER_INITIAL, 0);
        self.timer.period_ns = 0;
        self.timer.disarm();
        true
    }

    /// Writes the initial count, which starts the timer or, when 0, stops it. Ignored in TSC-deadline
    /// mode.
    pub(super) fn write_initial_count<C: Clock>(&mut self, count: u32, clock: &C) -> Option<Timer> {
        if !self.timer.mode.counts() {
            return None;
        }
        self.regs.set(Reg::TIMER_INITIAL, count);
        self.update_period();
        self.timer.deadline_ns = if self.timer.period_ns == 0 {
            None
        } else {
            Some(clock.now_ns().saturating_add(self.timer.period_ns))
        };
        Some(self.host_timer())
    }

    /// Writes the divide configuration; a running count goes on from where it is, at the new speed.
    pub(super) fn write_divide<C: Clock>(&mut self, value: u32, clock: &C) -> Option<Timer> {
        let old_shift = self.divide_shift();
        self.regs.set(Reg::TIMER_DIVIDE, value);
        let new_shift = self.divide_shift();
        if old_shift == new_shift {
            return None;
        }
        self.update_period();
        let deadline = self.timer.deadline_ns?;
        let now = clock.now_ns();
        let counts = deadline.saturating_sub(now) >> old_shift;
        let remaining = counts.saturating_mul(1 << new_shift);
        self.timer.deadline_ns = Some(now.saturating_add(remaining));
        Some(self.host_timer())
    }

    /// Computes the current-count register.
    pub(super) fn current_count<C: Clock>(&self, clock: &C) -> u32 {
        let timer = &self.timer;
        let deadline = match (timer.mode.counts(), timer.deadline_ns) {
            (true, Some(deadline)) => deadline,
            _ => return 0,
        };
        let now = clock.now_ns();
        let target = if timer.mode == TimerMode::Periodic && now >= deadline {
            timer.next_period(deadline, now).unwrap_or(now)
        } else {
            deadline
        };
        let counts = target
            .saturating_sub(now)
            .checked_div(self.count_ns())
            .unwrap_or(0);
        let initial = self.regs.get(Reg::TIMER_INITIAL);
        // A lengthened period would show more than the guest asked for.
        u32::try_from(counts).map_or(initial, |counts| counts.min(initial))
    }

    /// Reads IA32_TSC_DEADLINE: 0 when disarmed or not in TSC-deadline mode.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline
    }

    /// Writes IA32_TSC_DEADLINE: 0 disarms, a deadline that has passed fires at once. Ignored outside
    /// TSC-deadline mode.
    pub fn write_tsc_deadline<C: Clock>(&mut self, deadline: u64, clock: &C) -> Timer {
        if self.timer.mode == TimerMode::TscDeadline && self.mode != Mode::Disabled {
            self.timer.tsc_deadline = deadline;
            return self.timer_expired(clock);
        }
        self.host_timer()
    }

    /// Fires the timer if its time has come, and says what the host timer should do next.
    ///
    /// The glue calls this when the host timer has fired; calls at other times do no harm.
    pub fn timer_expired<C: Clock>(&mut self, clock: &C) -> Timer {
        match self.timer.mode {
            TimerMode::Reserved => return Timer::Stop,
            TimerMode::TscDeadline => {
                let deadline = self.timer.tsc_deadline;
                if deadline == 0 || clock.guest_tsc() < deadline {
                    return self.host_timer();
                }
                self.timer.tsc_deadline = 0;
            }
            TimerMode::OneShot | TimerMode::Periodic => {
                let deadline = match self.timer.deadline_ns {
                    Some(deadline) => deadline,
                    None => return Timer::Stop,
                };
                let now = clock.now_ns();
                if now < deadline {
                    return Timer::OneShotNs(deadline);
                }
                self.timer.deadline_ns = if self.timer.mode == TimerMode::Periodic {
                    self.timer.next_period(deadline, now)
                } else {
                    None
                };
            }
        }
        // A timer entry has no delivery mode, so the event says no more than IRR does.
        self.accept_lvt(Lvt::Timer);
        self.host_timer()
    }

    /// Restarts a counting timer with `current` counts to go, from a restored state.
    ///
    /// A one-shot timer at 0 fires at once: the state may have been taken between its expiry and its
    /// interrupt, and one interrupt too many is better than a guest that waits for ever.
    pub(super) fn restart_at<C: Clock>(&mut self, current: u32, clock: &C) -> Timer {
        if self.timer.mode.counts() {
            self.update_period();
            let left = u64::from(current).saturating_mul(self.count_ns());
            let left = match self.timer.mode {
                TimerMode::Periodic if left == 0 => self.timer.period_ns,
                _ => left.min(self.timer.period_ns),
            };
            self.timer.deadline_ns = if self.timer.period_ns == 0 {
                None
            } else {
                Some(clock.now_ns().saturating_add(left))
            };
        }
        self.timer_expired(clock)
    }
}
