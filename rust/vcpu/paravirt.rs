// SPDX-License-Identifier: GPL-2.0-only

//! What a vCPU shares with a guest that knows its host: the clock here, the rest in the files of the folder.

use kernel::prelude::*;

use super::{
    table::news,
    State, //
};
use crate::{
    clock,
    host::cpu,
    model::{
        addr::{
            Gpa,
            PAGE_SIZE, //
        },
        clock::{
            guest::GuestTsc,
            pvclock::{
                self,
                Page, //
            },
            sync::{
                Generation,
                Write, //
            }, //
        },
        pv::{
            self,
            poll,
            Gp, //
        },
        x86::msr, //
    },
    vm::Vm, //
};

mod async_pf;
mod calls;
mod eoi;
mod steal;

pub(crate) use async_pf::start_fetchers;

/// What the guest finds in its memory and must be brought up to date before it runs on, one bit each.
mod stale {
    /// The clock.
    pub(super) const CLOCK: u8 = 1 << 0;
    /// Steal time, and the byte beside it that says whether the vCPU runs.
    pub(super) const STEAL: u8 = 1 << 1;
    /// The time-stamp counter, which falls behind while the guest runs, and with it the clock: at each entry.
    pub(super) const LAG: u8 = 1 << 2;
}

/// What a vCPU shares with its guest.
pub(crate) struct Paravirt {
    /// Bits of [`stale`].
    stale: u8,
    /// The guest has only the services that its CPUID names (`KVM_CAP_ENFORCE_PV_FEATURE_CPUID`).
    enforced: bool,
    /// `MSR_KVM_SYSTEM_TIME`.
    system_time: u64,
    /// The guest must be told that it was stopped.
    stopped: bool,
    /// The clock is this vCPU's alone, so that its page must be written on each CPU anew.
    own_clock: bool,
    /// The CPU on which the guest ran last.
    cpu: i32,
    steal: steal::Steal,
    pub(super) eoi: eoi::Eoi,
    async_pf: async_pf::AsyncPf,
    /// `MSR_KVM_POLL_CONTROL`.
    poll: u64,
    /// Which of the VM's counters this vCPU has.
    pub(super) generation: Generation,
    /// Another vCPU has ended this one's HLT, which may be still to come.
    kicked: bool,
}

impl Paravirt {
    /// Makes the state of the next vCPU of `vm`, with its time-stamp counter. vCPUs are made one after
    /// another.
    pub(crate) fn new(vm: &Vm) -> (GuestTsc, Self) {
        let mut new = Self {
            stale: 0,
            enforced: false,
            system_time: 0,
            stopped: false,
            own_clock: false,
            cpu: 0,
            steal: steal::Steal::default(),
            eoi: eoi::Eoi::default(),
            async_pf: async_pf::AsyncPf::new(),
            poll: poll::RESET,
            generation: Generation::default(),
            kicked: false,
        };
        let vcpus = vm.memory().vcpus.len().saturating_add(1);
        let mut tsc =
            clock::guest_tsc(vm.tsc_khz()).unwrap_or_else(|| GuestTsc::host(cpu::tsc_khz()));
        let (time, generation) = (vm.time(), &mut new.generation);
        let (offset, renew) = time.write_tsc(Write::Creation, &tsc, generation, vcpus);
        tsc.set_offset(offset);
        if renew {
            vm.renew_clocks();
        }
        new.set_lagging(tsc.lags());
        (tsc, new)
    }

    /// The counter falls behind while the guest runs, or does not any more.
    pub(super) fn set_lagging(&mut self, lags: bool) {
        self.stale &= !stale::LAG;
        if lags {
            self.stale |= stale::LAG;
        }
    }

    /// Has the clock's page written before the guest runs on.
    pub(super) fn renew_clock(&mut self) {
        if self.system_time != 0 {
            self.stale |= stale::CLOCK;
        }
    }

    /// The guest is about to run on `cpu`. Returns whether its memory must be brought up to date first.
    #[inline]
    pub(super) fn runs_on(&mut self, cpu: i32) -> bool {
        let moved = self.cpu != cpu;
        self.cpu = cpu;
        if moved && self.own_clock {
            self.renew_clock();
        }
        self.stale & !stale::LAG != 0
    }

    /// Whether HLT is polled.
    pub(super) fn polls(&self) -> bool {
        poll::is_on(self.poll)
    }

    /// Takes the end of a HLT that another vCPU has sent.
    pub(super) fn take_kick(&mut self) -> bool {
        core::mem::take(&mut self.kicked)
    }
}

/// `MSR_KVM_ASYNC_PF_ACK` bit 0: the guest has taken the token of the page that has come.
const ACKNOWLEDGED: u64 = 1 << 0;

/// Returns the address if `length` bytes there lie in one page.
fn in_page(address: u64, length: usize) -> Option<Gpa> {
    let gpa = Gpa::new(address);
    (gpa.page_offset() + length as u64 <= PAGE_SIZE).then_some(gpa)
}

impl State {
    /// Takes note of what others have sent.
    pub(super) fn take_paravirt_news(&mut self, bits: u32) {
        if bits & news::HOST_CLOCK != 0 {
            self.vm.follow_host_clock();
        }
        if bits & news::CLOCK != 0 {
            self.paravirt.renew_clock();
        }
        if bits & news::KICK != 0 {
            self.paravirt.kicked = true;
        }
        if bits & news::STEAL != 0 {
            self.renew_steal();
        }
        if bits & news::PAGE != 0 {
            self.tell_present();
        }
    }

    /// The services that the guest can use: bits of [`pv::feature`].
    fn services(&self) -> u32 {
        if self.paravirt.enforced {
            self.guest.paravirt
        } else {
            self.cpu.caps.paravirt
        }
    }

    /// Lets the guest have only those that its CPUID names, or all.
    pub(super) fn enforce_paravirt(&mut self, enforced: bool) {
        self.paravirt.enforced = enforced;
    }

    /// Switches everything off, as RESET and INIT do.
    pub(super) fn reset_paravirt(&mut self) {
        self.paravirt.system_time = 0;
        self.paravirt.stale &= stale::LAG;
        self.stop_steal();
        self.paravirt.eoi = eoi::Eoi::default();
        self.paravirt.async_pf = async_pf::AsyncPf::new();
    }

    /// The VMM runs the vCPU.
    pub(super) fn paravirt_enters(&mut self) {
        // Nobody has noted it for a thread that was not in `KVM_RUN`.
        self.vm.follow_host_clock();
        if self.paravirt.own_clock {
            self.paravirt.renew_clock();
        }
        // The thread may have been anywhere.
        self.renew_steal();
        if self.paravirt.async_pf.is_due() {
            self.shared.note(news::PAGE);
        }
    }

    /// Brings up to date what the guest finds in its memory.
    #[inline]
    pub(super) fn share_with_guest(&mut self) {
        if self.paravirt.stale != 0 {
            self.renew_shared();
        }
    }

    #[cold]
    fn renew_shared(&mut self) {
        let stale = self.paravirt.stale;
        self.paravirt.stale &= stale::LAG;
        if stale & stale::LAG != 0 {
            self.apply_tsc();
        }
        if stale & (stale::CLOCK | stale::LAG) != 0 {
            self.write_clock();
        }
        if stale & stale::STEAL != 0 {
            self.write_steal();
        }
    }

    /// Reads an MSR of these services.
    pub(super) fn paravirt_msr(&self, number: u32) -> Option<u64> {
        if !pv::has_register(number, self.services()) {
            return None;
        }
        Some(match number {
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => self.vm.time().wall_clock(),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => self.paravirt.system_time,
            msr::KVM_STEAL_TIME => self.paravirt.steal.register(),
            msr::KVM_PV_EOI_EN => self.paravirt.eoi.register(),
            msr::KVM_POLL_CONTROL => self.paravirt.poll,
            msr::KVM_ASYNC_PF_EN => self.paravirt.async_pf.register(),
            msr::KVM_ASYNC_PF_INT => self.paravirt.async_pf.vector(),
            msr::KVM_ASYNC_PF_ACK => 0,
            _ => return None,
        })
    }

    /// Writes one.
    pub(super) fn set_paravirt_msr(&mut self, number: u32, value: u64) -> Result<(), Gp> {
        if !pv::has_register(number, self.services()) {
            return Err(Gp);
        }
        match number {
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => self.write_wall_clock(value),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => {
                self.paravirt.system_time = value;
                self.paravirt.renew_clock();
            }
            msr::KVM_STEAL_TIME => self.set_steal_time(value)?,
            msr::KVM_PV_EOI_EN => self.set_pv_eoi(value)?,
            msr::KVM_POLL_CONTROL => self.paravirt.poll = poll::check(value)?,
            msr::KVM_ASYNC_PF_EN => self.set_async_pf(value)?,
            msr::KVM_ASYNC_PF_INT => self.set_async_pf_vector(value)?,
            msr::KVM_ASYNC_PF_ACK if value & ACKNOWLEDGED != 0 => self.tell_present(),
            msr::KVM_ASYNC_PF_ACK => {}
            _ => return Err(Gp),
        }
        Ok(())
    }

    /// Reads a 32-bit word of the guest's; 0 where there is none.
    fn guest_word(&self, gpa: Gpa) -> u32 {
        let mut bytes = [0; 4];
        match self.vm.memory().read(gpa, &mut bytes) {
            Ok(()) => u32::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    /// Writes the time where the guest wants it, if there is memory.
    fn write_clock(&mut self) {
        let Page::At(address) = Page::from_msr(self.paravirt.system_time) else {
            return;
        };
        let Some(gpa) = in_page(address, pvclock::TIME_INFO_BYTES) else {
            return;
        };
        self.paravirt.own_clock = !self.vm.time().has_master();
        let stopped = core::mem::take(&mut self.paravirt.stopped);
        let mut info = self.vm.time().time_info(&self.tsc, stopped);
        let (during, after) = pvclock::versions(self.guest_word(gpa));
        info.version = during;
        let memory = self.vm.memory();
        // Whoever reads the rest between the first and the last write sees an odd version.
        let written = memory
            .write(gpa, &during.to_le_bytes())
            .and_then(|()| memory.write(gpa, &info.to_bytes()))
            .and_then(|()| memory.write(gpa, &after.to_le_bytes()));
        if written.is_err() {
            pr_debug!("vireo: no memory for a guest's clock at {address:#x}\n");
        }
    }

    fn write_wall_clock(&mut self, value: u64) {
        let gpa = in_page(value, size_of::<[u32; 3]>()).filter(|_| value != 0);
        let version = gpa.map_or(0, |gpa| self.guest_word(gpa));
        let (during, after) = pvclock::versions(version);
        let [_, seconds, ns] = self.vm.time().set_wall_clock(value, during);
        let Some(gpa) = gpa else { return };
        let memory = self.vm.memory();
        let mut bytes = [0; 8];
        let words = [seconds.to_le_bytes(), ns.to_le_bytes()];
        for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
            *to = *from;
        }
        let written = memory
            .write(gpa, &during.to_le_bytes())
            .and_then(|()| memory.write(Gpa::new(value.wrapping_add(4)), &bytes))
            .and_then(|()| memory.write(gpa, &after.to_le_bytes()));
        if written.is_err() {
            pr_debug!("vireo: no memory for a guest's wall clock at {value:#x}\n");
        }
    }

    /// `KVM_KVMCLOCK_CTRL`: the guest learns with its clock that it was stopped.
    pub(super) fn guest_was_stopped(&mut self) -> Result {
        if Page::from_msr(self.paravirt.system_time) == Page::Off {
            return Err(EINVAL);
        }
        self.paravirt.stopped = true;
        self.paravirt.renew_clock();
        Ok(())
    }
}
