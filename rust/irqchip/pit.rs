// SPDX-License-Identifier: GPL-2.0-only

//! The PIT: the model behind a lock, a timer of the host's, and the line of GSI 0.

use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SpinLockIrq, //
    }, //
};

use super::{
    lines::{
        source,
        Lines, //
    },
    now,
    PIT_GSI, //
};
use crate::{
    host::timer::{
        Alarm,
        OnAlarm, //
    },
    model::pit::{
        Effect,
        Pit,
        PitChannelState,
        PitState2,
        CHANNELS, //
    }, //
};

/// What the timer's callback needs.
#[pin_data]
struct Channel0 {
    #[pin]
    pit: SpinLockIrq<Pit>,
    lines: Arc<Lines>,
}

impl OnAlarm for Channel0 {
    fn alarm(&self, alarm: &Alarm<Self>) {
        let mut pit = self.pit.lock();
        let raise = pit.tick(now());
        alarm.set(pit.next_tick());
        drop(pit);
        if raise {
            self.raise();
        }
    }
}

impl Channel0 {
    /// Raises the line for a tick; for vCPUs that have LINT0 in NMI mode, the tick is an NMI, too.
    fn raise(&self) {
        self.lines.pulse_gsi(PIT_GSI, source::PIT);
        self.lines.tick_watchdogs();
    }
}

/// A VM's PIT.
#[pin_data]
pub(super) struct PitDevice {
    #[pin]
    alarm: Alarm<Channel0>,
    speaker: bool,
}

impl PitDevice {
    /// Makes a PIT in its state after power-up; with `speaker` it has the speaker's port.
    pub(super) fn new(lines: Arc<Lines>, speaker: bool) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                alarm <- Alarm::new(pin_init!(Channel0 {
                    pit <- new_spinlock_irq!(Pit::new()),
                    lines,
                })),
                speaker,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether it has the speaker's port.
    pub(super) fn has_speaker(&self) -> bool {
        self.speaker
    }

    /// Calls `f` with the model and arms the timer as it then must be.
    fn change(&self, f: impl FnOnce(&mut Pit) -> Effect) {
        let mut pit = self.alarm.target.pit.lock();
        if f(&mut pit) == Effect::Rearm {
            self.alarm.set(pit.next_tick());
        }
    }

    /// Writes a port.
    pub(super) fn write(&self, port: u16, value: u8) {
        self.change(|pit| pit.write(port, value, now()));
    }

    /// Reads a port.
    pub(super) fn read(&self, port: u16) -> u8 {
        self.alarm.target.pit.lock().read(port, now())
    }

    /// The guest has handled the interrupt of GSI 0.
    pub(super) fn acked(&self) {
        let raise = self.alarm.target.pit.lock().acked();
        if raise {
            self.alarm.target.raise();
        }
    }

    /// The guest has unmasked GSI 0 at a controller.
    pub(super) fn unmasked(&self) {
        self.alarm.target.pit.lock().unmasked();
    }

    /// Whether handled interrupts must be told.
    pub(super) fn reinjects(&self) -> bool {
        self.alarm.target.pit.lock().reinjects()
    }

    /// `KVM_REINJECT_CONTROL`.
    pub(super) fn set_reinject(&self, on: bool) {
        self.alarm.target.pit.lock().set_reinject(on);
    }

    /// `KVM_GET_PIT2`.
    pub(super) fn state(&self) -> PitState2 {
        self.alarm.target.pit.lock().state()
    }

    /// `KVM_SET_PIT2`.
    pub(super) fn set_state(&self, state: &PitState2) {
        self.change(|pit| pit.set_state(state, now()));
    }

    /// `KVM_SET_PIT`.
    pub(super) fn set_channels(&self, channels: &[PitChannelState; CHANNELS]) {
        self.change(|pit| pit.set_channels(channels, now()));
    }
}
