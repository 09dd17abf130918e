// SPDX-License-Identifier: GPL-2.0-only

//! Polling at HLT: a halted vCPU that is soon woken is faster when its thread does not sleep first.
//!
//! Each vCPU has a window, in nanoseconds, that its thread polls for before it sleeps. The window grows
//! when a wake-up came shortly after it, and goes to nothing when wake-ups are too far away for polling or
//! when the polling is for nothing.

/// The knobs, as KVM's module parameters of like names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest window in ns; 0 never polls (`KVM_CAP_HALT_POLL`, `halt_poll_ns`).
    pub max_ns: u32,
    /// By what the window is multiplied when it grows; 0 and 1 never let it grow.
    pub grow: u32,
    /// The shortest window that is not 0, in ns.
    pub grow_start_ns: u32,
    /// By what the window is divided when it shrinks; 0 makes it 0 at once.
    pub shrink: u32,
}

impl Policy {
    /// KVM's defaults on x86.
    pub const DEFAULT: Self = Self {
        max_ns: 200_000,
        grow: 2,
        grow_start_ns: 10_000,
        shrink: 2,
    };
}

/// How a halt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There was something for the vCPU.
    ForGuest,
    /// The thread had to go on for another reason.
    Other,
}

/// A vCPU's window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    ns: u32,
}

impl Window {
    /// Returns for how many nanoseconds to poll.
    pub fn ns(self, policy: &Policy) -> u32 {
        self.ns.min(policy.max_ns)
    }

    /// Learns from a halt that lasted `halted_ns`, its polling included.
    pub fn learn(&mut self, policy: &Policy, halted_ns: u64, wake: Wake) {
        let max = u64::from(policy.max_ns);
        let window = u64::from(self.ns(policy));
        if wake == Wake::Other {
            self.shrink(policy);
        } else if policy.max_ns == 0 {
            self.ns = 0;
        } else if halted_ns <= window {
            // Polling was long enough.
        } else if window != 0 && halted_ns > max {
            self.shrink(policy);
        } else if window < max && halted_ns < max {
            self.grow(policy);
        }
    }

    fn grow(&mut self, policy: &Policy) {
        if policy.grow > 1 {
            let grown = self.ns.saturating_mul(policy.grow);
            self.ns = grown.max(policy.grow_start_ns).min(policy.max_ns);
        }
    }

    fn shrink(&mut self, policy: &Policy) {
        let shrunk = self.ns.checked_div(policy.shrink).unwrap_or(0);
        self.ns = if shrunk < policy.grow_start_ns {
            0
        } else {
            shrunk
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Policy = Policy::DEFAULT;

    fn after(halts: &[u64]) -> u32 {
        let mut window = Window::default();
        for &ns in halts {
            window.learn(&P, ns, Wake::ForGuest);
        }
        window.ns(&P)
    }

    #[test]
    fn grows_to_the_halts_length() {
        assert_eq!(after(&[]), 0);
        assert_eq!(after(&[50_000]), 10_000);
        assert_eq!(after(&[50_000; 2]), 20_000);
        assert_eq!(after(&[50_000; 4]), 80_000);
        assert_eq!(after(&[50_000; 100]), 80_000);
        assert_eq!(after(&[190_000; 100]), 200_000);
    }

    #[test]
    fn shrinks_when_polling_is_for_nothing() {
        assert_eq!(after(&[1_000_000; 5]), 0);
        let short = [50_000u64; 4];
        let mut halts = short.to_vec();
        for expected in [40_000, 20_000, 10_000, 0, 0] {
            halts.push(1_000_000);
            assert_eq!(after(&halts), expected);
        }
        let mut window = Window { ns: 80_000 };
        window.learn(&P, 10, Wake::Other);
        assert_eq!(window.ns(&P), 40_000);
    }

    #[test]
    fn knobs() {
        let never = Policy { max_ns: 0, ..P };
        let mut window = Window { ns: 80_000 };
        assert_eq!(window.ns(&never), 0);
        window.learn(&never, 50, Wake::ForGuest);
        assert_eq!(window, Window::default());
        let no_growth = Policy { grow: 0, ..P };
        window.learn(&no_growth, 50_000, Wake::ForGuest);
        assert_eq!(window.ns(&no_growth), 0);
        let at_once = Policy { shrink: 0, ..P };
        let mut window = Window { ns: 80_000 };
        window.learn(&at_once, u64::MAX, Wake::ForGuest);
        assert_eq!(window.ns(&at_once), 0);
        let mut window = Window { ns: u32::MAX };
        window.learn(&P, 100, Wake::ForGuest);
        assert_eq!(window.ns(&P), 200_000);
    }
}
