// SPDX-License-Identifier: GPL-2.0-only

//! The clocks of a VM: the offset that its vCPUs' time-stamp counters have in common, and the paravirtual
//! clock.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLock, //
    }, //
};

use crate::{
    backend::Hardware,
    host::{
        clock::{
            self as host,
            Moment, //
        },
        cpu, //
    },
    model::clock::{
        guest::GuestTsc,
        pvclock::{
            self,
            Rate,
            TimeInfo,
            VmClock, //
        },
        sync::{
            Counter,
            Generation,
            Now,
            TscSync,
            Write, //
        }, //
    },
    uapi, //
};

/// `KVM_CLOCK_TSC_STABLE`, `KVM_CLOCK_REALTIME` and `KVM_CLOCK_HOST_TSC`: the flags of `kvm_clock_data`.
const TSC_STABLE: u32 = 1 << 1;
const REALTIME: u32 = 1 << 2;
const HOST_TSC: u32 = 1 << 3;
/// All of them.
pub(crate) const FLAGS: u32 = TSC_STABLE | REALTIME | HOST_TSC;

struct Inner {
    clock: VmClock,
    sync: TscSync,
    /// `MSR_KVM_WALL_CLOCK`.
    wall_clock: u64,
    /// vCPUs at the last change of one of them.
    vcpus: usize,
}

/// The clocks.
#[pin_data]
pub(crate) struct VmTime {
    #[pin]
    inner: SpinLock<Inner>,
    /// The rate of the host's counter.
    rate: Rate,
    /// The [changes](host::changes) of the host's clocks that have been taken note of.
    changes: Atomic<u32>,
}

impl VmTime {
    /// Makes a clock whose zero is now.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(Inner {
                clock: VmClock::new(host::moment().raw_ns),
                sync: TscSync::new(),
                wall_clock: 0,
                vcpus: 0,
            }),
            rate: Rate::of(cpu::tsc_khz()),
            changes: Atomic::new(host::changes()),
        })
    }

    /// Sets the time-stamp counter `tsc` of a vCPU, one of `vcpus`. Returns the offset that it gets,
    /// and whether all vCPUs must renew their guests' pages.
    pub(crate) fn write_tsc(
        &self,
        write: Write,
        tsc: &GuestTsc,
        vcpu: &mut Generation,
        vcpus: usize,
    ) -> (u64, bool) {
        let moment = host::moment();
        let mut inner = self.inner.lock();
        let offset = inner.sync.write(write, vcpu, counter(tsc), now(&moment));
        (offset, inner.anchor(&moment, vcpus))
    }

    /// Sets the offset itself (`KVM_VCPU_TSC_OFFSET`). Returns whether all vCPUs must renew their guests'
    /// pages.
    pub(crate) fn write_tsc_offset(
        &self,
        offset: u64,
        tsc: &GuestTsc,
        vcpu: &mut Generation,
        vcpus: usize,
    ) -> bool {
        let moment = host::moment();
        let mut inner = self.inner.lock();
        inner
            .sync
            .write_offset(offset, vcpu, counter(tsc), now(&moment));
        inner.anchor(&moment, vcpus)
    }

    /// A vCPU's counter has got another frequency. Returns whether all vCPUs must renew their guests' pages.
    pub(crate) fn leave_tsc(&self, vcpu: &mut Generation, vcpus: usize) -> bool {
        let moment = host::moment();
        let mut inner = self.inner.lock();
        inner.sync.leave(vcpu);
        inner.anchor(&moment, vcpus)
    }

    /// Whether the host's clocks have left the time-stamp counter or come back to it since
    /// [`follow_host`](Self::follow_host).
    #[inline]
    pub(crate) fn host_has_changed(&self) -> bool {
        self.changes.load(Relaxed) != host::changes()
    }

    /// Decides anew whether the vCPUs share an anchor: what is computed from a counter that the host does not
    /// use would drift away from its clock, and the host may have found out that the counter is wrong. Returns
    /// whether all vCPUs must renew their guests' pages.
    #[cold]
    pub(crate) fn follow_host(&self) -> bool {
        let mut inner = self.inner.lock();
        // The host cannot change its mind here: it would have to stop this CPU, whose preemption is off.
        self.changes.store(host::changes(), Relaxed);
        let moment = host::moment();
        let had = inner.clock.has_master();
        let matched = inner.vcpus != 0 && inner.sync.all_match(inner.vcpus);
        inner
            .clock
            .update_master(moment.stable, matched, moment.raw_ns, moment.tsc);
        had || inner.clock.has_master()
    }

    /// Whether all vCPUs read the same clock.
    pub(crate) fn has_master(&self) -> bool {
        self.inner.lock().clock.has_master()
    }

    /// Returns what a vCPU with the counter `tsc` shows its guest, the version apart.
    pub(crate) fn time_info(&self, tsc: &GuestTsc, stopped: bool) -> TimeInfo {
        let moment = host::moment();
        let inner = self.inner.lock();
        let (host_tsc, system_time) = inner.clock.anchor(moment.raw_ns, moment.tsc);
        TimeInfo {
            version: 0,
            tsc_timestamp: tsc.seen(host_tsc),
            system_time,
            tsc_to_system_mul: tsc.rate().mul,
            tsc_shift: tsc.rate().shift,
            flags: inner.clock.flags(stopped),
        }
    }

    /// Returns `MSR_KVM_WALL_CLOCK`.
    pub(crate) fn wall_clock(&self) -> u64 {
        self.inner.lock().wall_clock
    }

    /// Sets it. Returns the wall clock that the guest's memory gets with `version`.
    pub(crate) fn set_wall_clock(&self, value: u64, version: u32) -> [u32; 3] {
        let moment = host::moment();
        let mut inner = self.inner.lock();
        inner.wall_clock = value;
        let now = inner.clock.now(moment.raw_ns, moment.tsc, self.rate);
        pvclock::wall_clock(version, moment.real_ns, now)
    }

    /// `KVM_GET_CLOCK`.
    pub(crate) fn get_clock(&self) -> uapi::kvm_clock_data {
        let moment = host::moment();
        let inner = self.inner.lock();
        let mut data = uapi::kvm_clock_data {
            clock: inner.clock.now(moment.raw_ns, moment.tsc, self.rate),
            ..Default::default()
        };
        if inner.clock.has_master() {
            data.flags = TSC_STABLE;
            data.host_tsc = moment.tsc;
            if moment.stable {
                data.flags |= REALTIME | HOST_TSC;
                data.realtime = moment.real_ns;
            }
        }
        data
    }

    /// `KVM_SET_CLOCK`; the vCPUs must renew their guests' pages then.
    pub(crate) fn set_clock(&self, data: &uapi::kvm_clock_data) -> Result {
        if data.flags & !FLAGS != 0 {
            return Err(EINVAL);
        }
        let moment = host::moment();
        let mut clock_ns = data.clock;
        if data.flags & REALTIME != 0 {
            // The time that has passed since the clock was read counts, but it never goes back.
            let passed = moment.real_ns.saturating_sub(data.realtime);
            clock_ns = clock_ns.wrapping_add(passed);
        }
        let mut inner = self.inner.lock();
        let master = inner.clock.has_master();
        inner
            .clock
            .update_master(moment.stable, master, moment.raw_ns, moment.tsc);
        inner.clock.set(clock_ns, moment.raw_ns);
        Ok(())
    }
}

/// Returns a time-stamp counter of `khz` (0: the host's frequency) that this machine can give a guest.
pub(crate) fn guest_tsc(khz: u32) -> Option<GuestTsc> {
    let format = Hardware::get().and_then(|hardware| hardware.tsc_format());
    GuestTsc::new(khz, cpu::tsc_khz(), format)
}

fn counter(tsc: &GuestTsc) -> Counter {
    Counter {
        khz: tsc.khz(),
        ratio: tsc.ratio(),
        lags: tsc.lags(),
    }
}

fn now(moment: &Moment) -> Now {
    Now {
        ns: moment.raw_ns,
        tsc: moment.tsc,
    }
}

impl Inner {
    /// Decides whether the vCPUs share an anchor, after one of them has changed. An anchor that is there
    /// stays: a new one, by however little it differs, would make the clock jump. Returns whether it has
    /// come or gone.
    fn anchor(&mut self, moment: &Moment, vcpus: usize) -> bool {
        self.vcpus = vcpus;
        let (matched, had) = (self.sync.all_match(vcpus), self.clock.has_master());
        if matched != had {
            self.clock
                .update_master(moment.stable, matched, moment.raw_ns, moment.tsc);
        }
        self.clock.has_master() != had
    }
}
