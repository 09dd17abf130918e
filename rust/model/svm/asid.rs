// SPDX-License-Identifier: GPL-2.0-only

//! Address-space identifiers: whose translations a CPU's TLB holds (APM vol. 2, section 15.16).
//!
//! Each CPU has an [`AsidPool`] and hands out its numbers one after the other. When they are used up it starts
//! over with a new generation: the whole TLB is flushed, and all that was handed out before is void. A vCPU
//! holds an [`Asid`] that is good on the CPU that gave it, in the generation that it names.
//!
//! Unlike a VPID on VMX, an ASID also tags guest-physical translations: whatever makes those stale has to
//! flush the ASID, or change it. Another hypervisor on the same CPU hands out the same numbers without knowing
//! of these, so before this one's first entry after the other could have run, [`AsidPool::forget`] is called.

/// The lowest number that a guest may have; 0 is the host's.
const FIRST: u32 = 1;

/// What VMRUN must flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flush {
    /// Nothing: what the TLB has under this ASID is this vCPU's and valid, or there is nothing.
    None,
    /// Everything under this ASID.
    Asid,
    /// Everything.
    All,
}

impl Flush {
    /// Returns the value of TLB_CONTROL.
    #[inline]
    pub const fn tlb_control(self) -> u8 {
        match self {
            Self::None => super::vmcb::tlb_control::DO_NOTHING,
            Self::Asid => super::vmcb::tlb_control::FLUSH_GUEST,
            Self::All => super::vmcb::tlb_control::FLUSH_ALL,
        }
    }
}

/// The ASID that a vCPU holds. The default one is void on each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asid {
    number: u32,
    generation: u64,
}

impl Asid {
    /// Returns the number for the VMCB. It is 0, which VMRUN refuses, before the first assignment.
    #[inline]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Gives the ASID up: it must be, when the vCPU moves to another CPU. Generations of two CPUs do not
    /// compare.
    #[inline]
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// One CPU's ASIDs.
///
/// # Invariants
///
/// - Of the numbers that were handed out in this generation, all are below `next`, and each was handed out
///   once.
/// - If `next` is `FIRST`, nothing has been handed out, and the first assignment flushes the whole TLB.
#[derive(Clone, Debug)]
pub struct AsidPool {
    generation: u64,
    next: u32,
    end: u32,
    flush_by_asid: bool,
}

impl AsidPool {
    /// Makes the pool of a CPU with ASIDs 0 to `asids`, exclusive; `flush_by_asid` tells that TLB_CONTROL can
    /// flush one. Of fewer than two ASIDs it takes 1 all the same, which VMRUN then refuses.
    pub const fn new(asids: u32, flush_by_asid: bool) -> Self {
        Self {
            generation: 1,
            next: FIRST,
            end: if asids > FIRST { asids } else { FIRST + 1 },
            flush_by_asid,
        }
    }

    /// Makes `held` an ASID of this CPU under which the TLB has nothing but what the holder may use, and says
    /// what the next entry has to flush for that. `stale` tells that the holder's own translations are void.
    #[inline]
    pub fn assign(&mut self, held: &mut Asid, stale: bool) -> Flush {
        if held.generation == self.generation {
            if !stale {
                return Flush::None;
            }
            if self.flush_by_asid {
                return Flush::Asid;
            }
        }
        self.take(held)
    }

    /// Makes every ASID of this CPU void: the next assignment flushes the whole TLB.
    pub fn forget(&mut self) {
        // The count never wraps: at one entry per nanosecond it lasts for 500 years.
        self.generation = self.generation.wrapping_add(1);
        self.next = FIRST;
    }

    #[cold]
    fn take(&mut self, held: &mut Asid) -> Flush {
        if self.next >= self.end {
            self.forget();
        }
        let flush = if self.next == FIRST {
            Flush::All
        } else {
            Flush::None
        };
        *held = Asid {
            number: self.next,
            generation: self.generation,
        };
        self.next = self.next.saturating_add(1);
        flush
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_assignment_flushes_everything() {
        let mut pool = AsidPool::new(4, true);
        let (mut a, mut b) = (Asid::default(), Asid::default());
        assert_eq!(pool.assign(&mut a, false), Flush::All);
        assert_eq!(pool.assign(&mut b, false), Flush::None);
        assert_eq!((a.number(), b.number()), (1, 2));
        assert_eq!(pool.assign(&mut a, false), Flush::None);
        assert_eq!(a.number(), 1);
    }

    #[test]
    fn stale_translations_go_by_flush_or_by_a_new_number() {
        let mut a = Asid::default();
        let mut pool = AsidPool::new(4, true);
        assert_eq!(pool.assign(&mut a, true), Flush::All);
        assert_eq!(pool.assign(&mut a, true), Flush::Asid);
        assert_eq!(a.number(), 1);

        let mut a = Asid::default();
        let mut pool = AsidPool::new(4, false);
        assert_eq!(pool.assign(&mut a, true), Flush::All);
        for number in [2, 3] {
            assert_eq!(pool.assign(&mut a, true), Flush::None);
            assert_eq!(a.number(), number);
        }
        assert_eq!(pool.assign(&mut a, true), Flush::All);
        assert_eq!(a.number(), 1);
    }

    #[test]
    fn new_generation_takes_all_numbers_back() {
        let mut pool = AsidPool::new(3, true);
        let mut held = [Asid::default(); 3];
        assert_eq!(pool.assign(&mut held[0], false), Flush::All);
        assert_eq!(pool.assign(&mut held[1], false), Flush::None);
        assert_eq!(pool.assign(&mut held[2], false), Flush::All);
        assert_eq!(held[2].number(), 1);
        assert_eq!(pool.assign(&mut held[0], false), Flush::None);
        assert_eq!(held[0].number(), 2);
        pool.forget();
        assert_eq!(pool.assign(&mut held[2], false), Flush::All);
    }

    #[test]
    fn one_guest_asid_is_enough() {
        for asids in [0, 1, 2] {
            let mut pool = AsidPool::new(asids, false);
            let (mut a, mut b) = (Asid::default(), Asid::default());
            for _ in 0..3 {
                assert_eq!(pool.assign(&mut a, false), Flush::All);
                assert_eq!(pool.assign(&mut b, false), Flush::All);
                assert_eq!((a.number(), b.number()), (1, 1));
            }
        }
    }

    #[test]
    fn flush_has_the_manuals_codes() {
        assert_eq!(Flush::None.tlb_control(), 0);
        assert_eq!(Flush::All.tlb_control(), 1);
        assert_eq!(Flush::Asid.tlb_control(), 3);
    }
}
