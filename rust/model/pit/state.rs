// SPDX-License-Identifier: GPL-2.0-only

//! The state of `KVM_GET_PIT2` and `KVM_SET_PIT2`.

use super::channel::{Access, Channel, Mode};
use super::{Effect, Pit, CHANNELS};

/// `KVM_PIT_FLAGS_HPET_LEGACY`.
const FLAG_HPET_LEGACY: u32 = 1 << 0;
/// `KVM_PIT_FLAGS_SPEAKER_DATA_ON`.
const FLAG_SPEAKER_ON: u32 = 1 << 1;

/// `struct kvm_pit_channel_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitChannelState {
    /// The count, 1 to 65536; 0 is 65536.
    pub count: u32,
    /// The count that was latched.
    pub latched_count: u16,
    /// Bytes of it that are still to be read: 0 none, 1 low, 2 high, 3 both.
    pub count_latched: u8,
    /// 1 when a status is latched.
    pub status_latched: u8,
    /// The latched status.
    pub status: u8,
    /// What is read next: 1 low, 2 high, 3 both, 4 the second of both.
    pub read_state: u8,
    /// What is written next, likewise.
    pub write_state: u8,
    /// The first byte of two.
    pub write_latch: u8,
    /// The access of the last control word: 1 to 3.
    pub rw_mode: u8,
    /// The mode, 0 to 5; others are none.
    pub mode: u8,
    /// 1 for BCD.
    pub bcd: u8,
    /// 1 when the gate is high.
    pub gate: u8,
    /// When the count began, in ns of the host's monotonic clock; not taken over.
    pub count_load_time: i64,
}

/// `struct kvm_pit_state2`; its first three members are `struct kvm_pit_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitState2 {
    /// The channels.
    pub channels: [PitChannelState; CHANNELS],
    /// `KVM_PIT_FLAGS_*`.
    pub flags: u32,
    /// Padding, 0.
    pub reserved: [u32; 9],
}

impl Channel {
    fn state(&self) -> PitChannelState {
        PitChannelState {
            count: self.count,
            latched_count: self.latched_count,
            count_latched: self.count_latched.number(),
            status_latched: self.latched_status.is_some().into(),
            status: self.latched_status.unwrap_or(0),
            read_state: self.read_next.number(),
            write_state: self.write_next.number(),
            write_latch: self.write_latch,
            rw_mode: self.access.number(),
            mode: self.mode.number(),
            bcd: self.bcd.into(),
            gate: self.gate.into(),
            count_load_time: self.since() as i64,
        }
    }

    /// Takes over `state` and starts the count anew.
    fn set_state(&mut self, state: &PitChannelState, now: u64) {
        *self = Self::new(state.gate != 0);
        self.latched_count = state.latched_count;
        self.count_latched = Access::from_number(state.count_latched);
        self.latched_status = (state.status_latched != 0).then_some(state.status);
        self.read_next = Access::from_number(state.read_state);
        self.write_next = Access::from_number(state.write_state);
        self.write_latch = state.write_latch;
        self.access = Access::from_number(state.rw_mode);
        self.mode = Mode::from_number(state.mode);
        self.bcd = state.bcd != 0;
        self.load(state.count, now);
    }
}

impl Pit {
    /// Returns the state.
    pub fn state(&self) -> PitState2 {
        let mut state = PitState2::default();
        for (to, from) in state.channels.iter_mut().zip(&self.channels) {
            *to = from.state();
        }
        if self.hpet_legacy {
            state.flags |= FLAG_HPET_LEGACY;
        }
        if self.speaker_on {
            state.flags |= FLAG_SPEAKER_ON;
        }
        state
    }

    /// Takes over `state`; every counter starts anew from its count, since `state` may come from another
    /// host's clock. Unknown flags are dropped.
    pub fn set_state(&mut self, state: &PitState2, now: u64) -> Effect {
        self.hpet_legacy = state.flags & FLAG_HPET_LEGACY != 0;
        self.speaker_on = state.flags & FLAG_SPEAKER_ON != 0;
        self.set_channels(&state.channels, now)
    }

    /// Takes over the channels only (`KVM_SET_PIT`).
    pub fn set_channels(&mut self, channels: &[PitChannelState; CHANNELS], now: u64) -> Effect {
        for (to, from) in self.channels.iter_mut().zip(channels) {
            to.set_state(from, now);
        }
        self.restart(now)
    }
}
