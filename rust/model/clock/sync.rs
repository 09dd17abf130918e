// SPDX-License-Identifier: GPL-2.0-only

//! Keeping the time-stamp counters of a VM's vCPUs together.
//!
//! A VMM restores each vCPU's counter with a write of its own, a little later each time, and means them to
//! be equal. So a write that is within a second of where the last one's counter has got to by now is taken
//! for the same value: that vCPU gets the same offset. The rule is that of `KVM_SET_MSRS` with IA32_TSC, as
//! [KVM's documentation of `KVM_VCPU_TSC_OFFSET`] tells it.
//!
//! [KVM's documentation of `KVM_VCPU_TSC_OFFSET`]: https://docs.kernel.org/virt/kvm/devices/vcpu.html

use super::scale::Ratio;

/// Nanoseconds in a millisecond: a frequency in kHz is ticks in this time.
const NS_PER_MS: u64 = 1_000_000;

/// A moment of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time in nanoseconds.
    pub ns: u64,
    /// The time-stamp counter, the same on all CPUs.
    pub tsc: u64,
}

/// A counter of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its frequency in kHz.
    pub khz: u32,
    /// Its ratio to the host's.
    pub ratio: Ratio,
    /// It falls behind while the guest runs, so that it never agrees with another one.
    pub lags: bool,
}

/// Which offset the VM's counters have in common.
#[derive(Clone, Debug, Default)]
pub struct TscSync {
    /// The last write: its time in ns and its value.
    last: Option<(u64, u64)>,
    khz: u32,
    offset: u64,
    /// Counts the offsets that have been in use; a vCPU remembers which one it has.
    generation: u64,
    /// vCPUs that have the current one.
    matched: usize,
    /// The VMM has written a counter.
    user: bool,
}

/// Which of the VM's offsets a vCPU has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

/// Why a counter is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The vCPU is made: it joins the others.
    Creation,
    /// The VMM writes this value; 0 joins the others, too.
    User(u64),
}

impl TscSync {
    /// Returns the state of a VM without vCPUs.
    pub const fn new() -> Self {
        Self {
            last: None,
            khz: 0,
            offset: 0,
            generation: 0,
            matched: 0,
            user: false,
        }
    }

    /// Sets a vCPU's counter; `vcpu` is what it remembers. Returns the offset that it gets.
    pub fn write(
        &mut self,
        write: Write,
        vcpu: &mut Generation,
        counter: Counter,
        now: Now,
    ) -> u64 {
        let value = match write {
            Write::Creation => 0,
            Write::User(value) => value,
        };
        let joins = self.khz == counter.khz && self.joins(write, value, counter.khz, now.ns);
        if !joins {
            self.offset = counter.ratio.offset(value, now.tsc);
            self.generation = self.generation.wrapping_add(1);
            self.matched = 0;
        }
        self.join(vcpu, counter);
        self.last = Some((now.ns, value));
        self.khz = counter.khz;
        self.user |= write != Write::Creation;
        self.offset
    }

    /// Sets a vCPU's offset itself (`KVM_VCPU_TSC_OFFSET`): exact, with no guess at what is meant.
    pub fn write_offset(&mut self, offset: u64, vcpu: &mut Generation, counter: Counter, now: Now) {
        let same = self.last.is_some() && self.offset == offset && self.khz == counter.khz;
        if !same {
            self.offset = offset;
            self.generation = self.generation.wrapping_add(1);
            self.matched = 0;
        }
        self.join(vcpu, counter);
        self.last = Some((now.ns, counter.ratio.guest(now.tsc, offset)));
        self.khz = counter.khz;
        self.user = true;
    }

    /// Takes note that a vCPU has the current offset.
    fn join(&mut self, vcpu: &mut Generation, counter: Counter) {
        if counter.lags {
            self.leave(vcpu);
        } else if vcpu.0 != self.generation {
            vcpu.0 = self.generation;
            self.matched = self.matched.saturating_add(1);
        }
    }

    /// Takes note that a vCPU's counter no longer agrees with the others.
    pub fn leave(&mut self, vcpu: &mut Generation) {
        if vcpu.0 == self.generation && vcpu.0 != 0 {
            self.matched = self.matched.saturating_sub(1);
        }
        vcpu.0 = 0;
    }

    fn joins(&self, write: Write, value: u64, khz: u32, now_ns: u64) -> bool {
        let Some((last_ns, last_value)) = self.last else {
            return false;
        };
        if value == 0 {
            return true;
        }
        // The first value that the VMM writes is not compared with those of the vCPUs' making.
        if write == Write::Creation || !self.user {
            return false;
        }
        let expected = last_value.wrapping_add(ticks(now_ns.saturating_sub(last_ns), khz));
        let ahead = value.wrapping_sub(expected) as i64;
        let second = u64::from(khz).saturating_mul(1000);
        ahead.unsigned_abs() < second
    }

    /// Returns whether all of `vcpus` vCPUs have the same counter: what the master clock needs of them.
    pub const fn all_match(&self, vcpus: usize) -> bool {
        self.matched == vcpus
    }
}

/// Returns the ticks of `khz` in `ns`, for times below some days; longer ones wrap.
fn ticks(ns: u64, khz: u32) -> u64 {
    let (ms, rest) = (ns / NS_PER_MS, ns % NS_PER_MS);
    let khz = u64::from(khz);
    // Below 2^20 times below 2^32: fits.
    ms.wrapping_mul(khz).wrapping_add(rest * khz / NS_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::scale::Format;

    const KHZ: u32 = 2_000_000;

    fn counter() -> Counter {
        Counter {
            khz: KHZ,
            ratio: Format::VMX.one(),
            lags: false,
        }
    }

    fn now(ms: u64) -> Now {
        Now {
            ns: ms * NS_PER_MS,
            tsc: 1_000_000 + ms * u64::from(KHZ),
        }
    }

    #[test]
    fn new_vcpus_join() {
        let mut sync = TscSync::new();
        let mut vcpus = [Generation::default(); 3];
        let mut offsets = Vec::new();
        for (i, vcpu) in vcpus.iter_mut().enumerate() {
            offsets.push(sync.write(Write::Creation, vcpu, counter(), now(10 * i as u64)));
        }
        assert_eq!(offsets, [1_000_000u64.wrapping_neg(); 3]);
        assert!(sync.all_match(3) && !sync.all_match(4));
    }

    #[test]
    fn restored_vcpus_join() {
        let mut sync = TscSync::new();
        let mut vcpus = [Generation::default(); 2];
        for vcpu in &mut vcpus {
            let _ = sync.write(Write::Creation, vcpu, counter(), now(0));
        }
        // The first value is taken as it is, however near.
        let value = u64::from(KHZ) * 500;
        let first = sync.write(Write::User(value), &mut vcpus[0], counter(), now(1));
        assert_eq!(counter().ratio.guest(now(1).tsc, first), value);
        assert!(!sync.all_match(2));
        // The next ones within a second are the same.
        let second = sync.write(Write::User(value), &mut vcpus[1], counter(), now(900));
        assert_eq!(second, first);
        assert!(sync.all_match(2));
        // A second write to the same vCPU does not count twice.
        let again = sync.write(Write::User(0), &mut vcpus[1], counter(), now(901));
        assert_eq!(again, first);
        assert!(sync.all_match(2));
        // Further away it is another value.
        let far = sync.write(Write::User(value * 100), &mut vcpus[1], counter(), now(902));
        assert_ne!(far, first);
        assert!(!sync.all_match(2));
    }

    #[test]
    fn the_last_value_moves_on() {
        let mut sync = TscSync::new();
        let mut vcpu = Generation::default();
        let value = 1 << 40;
        let first = sync.write(Write::User(value), &mut vcpu, counter(), now(0));
        let later = value + 5000 * u64::from(KHZ);
        let joined = sync.write(Write::User(later), &mut vcpu, counter(), now(5000));
        assert_eq!(joined, first);
        let jumped = sync.write(Write::User(later), &mut vcpu, counter(), now(7000));
        assert_ne!(jumped, first);
    }

    #[test]
    fn other_frequencies_do_not_join() {
        let mut sync = TscSync::new();
        let mut vcpus = [Generation::default(); 2];
        let _ = sync.write(Write::Creation, &mut vcpus[0], counter(), now(0));
        let other = Counter {
            khz: KHZ / 2,
            ratio: Format::VMX.ratio(KHZ / 2, KHZ).unwrap(),
            lags: false,
        };
        let _ = sync.write(Write::Creation, &mut vcpus[1], other, now(1));
        assert!(!sync.all_match(2));
    }

    #[test]
    fn a_counter_that_lags_agrees_with_none() {
        let mut sync = TscSync::new();
        let mut vcpus = [Generation::default(); 2];
        let slow = Counter {
            lags: true,
            ..counter()
        };
        let first = sync.write(Write::Creation, &mut vcpus[0], counter(), now(0));
        assert!(sync.all_match(1));
        // It has the same offset all the same.
        assert_eq!(
            sync.write(Write::Creation, &mut vcpus[1], slow, now(1)),
            first
        );
        assert!(!sync.all_match(2));
        let _ = sync.write(Write::User(0), &mut vcpus[1], counter(), now(2));
        assert!(sync.all_match(2));
    }

    #[test]
    fn who_leaves_must_join_again() {
        let mut sync = TscSync::new();
        let mut vcpus = [Generation::default(); 2];
        for vcpu in &mut vcpus {
            let _ = sync.write(Write::Creation, vcpu, counter(), now(0));
        }
        sync.leave(&mut vcpus[0]);
        sync.leave(&mut vcpus[0]);
        assert!(!sync.all_match(2) && sync.all_match(1));
        let _ = sync.write(Write::User(0), &mut vcpus[0], counter(), now(1));
        assert!(sync.all_match(2));
    }

    #[test]
    fn offsets_are_exact() {
        let mut sync = TscSync::new();
        let mut vcpus = [Generation::default(); 2];
        sync.write_offset(77, &mut vcpus[0], counter(), now(0));
        sync.write_offset(78, &mut vcpus[1], counter(), now(0));
        assert!(!sync.all_match(2));
        sync.write_offset(78, &mut vcpus[0], counter(), now(0));
        assert!(sync.all_match(2));
    }
}
