// SPDX-License-Identifier: GPL-2.0-only

//! A vCPU that spins: to which of its siblings it had better give its turn.
//!
//! Who waits for a lock in a loop of PAUSEs waits for one who holds it and may have lost its CPU. Nobody but the
//! guest knows who that is, so the siblings get their turns one after another.

/// How often in one exit a yield may fail because there is nothing to be won by it, before the spinner goes on.
pub const MAX_FAILURES: u32 = 3;

/// A vCPU as one that spins sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sibling {
    /// Where its thread is.
    pub place: Place,
    /// Something has been sent to it that it has not taken.
    pub has_news: bool,
    /// It lost its CPU in the guest's user mode.
    pub user_mode: bool,
}

/// Where a vCPU's thread is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On a CPU, or not running the vCPU at all.
    #[default]
    Elsewhere,
    /// It lost its CPU while it ran the vCPU.
    Preempted,
    /// It sleeps until the vCPU has something to do.
    Asleep,
}

impl Sibling {
    /// Returns whether it is ready to run and does not.
    pub const fn is_ready(&self) -> bool {
        match self.place {
            Place::Elsewhere => false,
            Place::Preempted => true,
            Place::Asleep => self.has_news,
        }
    }

    /// Returns whether a turn helps a spinner, which is in the guest's kernel or not.
    ///
    /// The kernel waits for what its own code does elsewhere: that in user mode holds no lock of the kernel's.
    /// One to which something has been sent will be in the kernel when it runs.
    pub const fn helps(&self, spinner_in_kernel: bool) -> bool {
        let in_user_mode =
            matches!(self.place, Place::Preempted) && self.user_mode && !self.has_news;
        self.is_ready() && !(spinner_in_kernel && in_user_mode)
    }
}

/// Returns the numbers of the siblings of vCPU `me` of `count`, in the order in which they get turns: that which
/// got the last one comes last.
pub fn order(count: u32, me: u32, last: u32) -> impl Iterator<Item = u32> {
    (1..=count)
        .map(move |distance| (last % count).wrapping_add(distance) % count)
        .filter(move |&index| index != me)
}

/// Whether a vCPU spins itself: then it is chosen every other time only, as it has less to do with a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spinning(u32);

impl Spinning {
    /// It is about to look for a sibling.
    const IN_LOOP: u32 = 1 << 0;
    /// It has been passed over, so it is chosen the next time.
    const PASSED_OVER: u32 = 1 << 1;

    /// Begins to spin.
    #[must_use]
    pub const fn begin(self) -> Self {
        Self(self.0 | Self::IN_LOOP)
    }

    /// Ends it.
    #[must_use]
    pub const fn end() -> Self {
        Self(0)
    }

    /// Returns whether it may be chosen now, and the state after the question.
    pub const fn ask(self) -> (bool, Self) {
        if self.0 & Self::IN_LOOP == 0 {
            return (true, self);
        }
        (
            self.0 & Self::PASSED_OVER != 0,
            Self(self.0 ^ Self::PASSED_OVER),
        )
    }

    /// Returns the state as a number.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Returns the state that the number stands for.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sibling(place: Place, has_news: bool, user_mode: bool) -> Sibling {
        Sibling {
            place,
            has_news,
            user_mode,
        }
    }

    #[test]
    fn only_who_waits_for_a_cpu_is_ready() {
        for news in [false, true] {
            assert!(!sibling(Place::Elsewhere, news, false).is_ready());
            assert!(sibling(Place::Preempted, news, false).is_ready());
            assert_eq!(sibling(Place::Asleep, news, false).is_ready(), news);
        }
    }

    #[test]
    fn the_kernel_does_not_wait_for_user_mode() {
        let user = sibling(Place::Preempted, false, true);
        assert!(!user.helps(true) && user.helps(false));
        assert!(sibling(Place::Preempted, true, true).helps(true));
        assert!(sibling(Place::Preempted, false, false).helps(true));
        // What a sleeper's mode was does not matter: it wakes for an interrupt.
        assert!(sibling(Place::Asleep, true, true).helps(true));
        assert!(!sibling(Place::Elsewhere, true, false).helps(false));
    }

    #[test]
    fn turns_go_round() {
        let turns = |count, me, last| order(count, me, last).collect::<Vec<_>>();
        assert_eq!(turns(4, 0, 0), [1, 2, 3]);
        assert_eq!(turns(4, 0, 1), [2, 3, 1]);
        assert_eq!(turns(4, 2, 3), [0, 1, 3]);
        assert_eq!(turns(4, 2, 2), [3, 0, 1]);
        // A number from before more vCPUs were made, or of another table.
        assert_eq!(turns(2, 0, u32::MAX), [1]);
        assert_eq!(turns(1, 0, 0), []);
        assert_eq!(turns(0, 0, 0), []);
    }

    #[test]
    fn who_spins_is_chosen_every_other_time() {
        let idle = Spinning::default();
        assert_eq!(idle.ask(), (true, idle));
        let mut state = idle.begin();
        for expected in [false, true, false, true] {
            let (chosen, next) = state.ask();
            assert_eq!(chosen, expected);
            state = Spinning::from_bits(next.bits());
        }
        assert_eq!(Spinning::end(), idle);
    }
}
