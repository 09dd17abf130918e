// SPDX-License-Identifier: GPL-2.0-only

//! Ticks that a guest has not taken: guests that count interrupts to know the time must get each of them.

/// The policy of `KVM_REINJECT_CONTROL` and its state.
#[derive(Clone, Debug)]
pub(super) struct Reinject {
    on: bool,
    /// Ticks that have not been acknowledged, the one under way included.
    pending: u32,
    /// The last interrupt has been acknowledged, or none was raised yet.
    acked: bool,
}

impl Reinject {
    pub(super) const fn new() -> Self {
        Self {
            on: true,
            pending: 0,
            acked: true,
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn set(&mut self, on: bool) {
        if on != self.on {
            self.on = on;
            self.reset();
        }
    }

    /// Forgets what is pending.
    pub(super) fn reset(&mut self) {
        self.pending = 0;
        self.acked = true;
    }

    /// `count` ticks have passed. Returns whether to raise an interrupt.
    pub(super) fn ticks(&mut self, count: u32) -> bool {
        if !self.on {
            return true;
        }
        self.pending = self.pending.saturating_add(count);
        core::mem::take(&mut self.acked)
    }

    /// An interrupt has been acknowledged. Returns whether to raise another one.
    pub(super) fn acked(&mut self) -> bool {
        if !self.on {
            return false;
        }
        self.pending = self.pending.saturating_sub(1);
        self.acked = self.pending == 0;
        !self.acked
    }
}
