// SPDX-License-Identifier: GPL-2.0-only

//! What a vCPU shares with a guest that knows its host: clock, steal time, hypercalls.

use kernel::prelude::*;

use super::{
    table::news,
    State, //
};
use crate::{
    backend::{
        BackendVcpu,
        Hidden,
        Reg, //
    },
    clock,
    host::cpu,
    irqchip::deliver,
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
            hypercall::{
                self,
                Call,
                Registers, //
            },
            steal,
            Area,
            Gp, //
        },
        x86::{
            ar,
            efer,
            msr,
            Gpr,
            SegReg, //
        }, //
    },
    vm::Vm, //
};

/// What must be done to the guest's clock before it runs on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ClockState {
    /// Nothing.
    #[default]
    Fresh,
    /// Its page must be written.
    Stale,
    /// The counter and the page must be brought up to date at each entry.
    Lagging,
}

/// What a vCPU shares with its guest.
#[derive(Default)]
pub(crate) struct Paravirt {
    /// `MSR_KVM_SYSTEM_TIME`.
    system_time: u64,
    /// What must be done to the guest's clock before it runs on.
    clock: ClockState,
    /// The guest must be told that it was stopped.
    stopped: bool,
    /// The clock is this vCPU's alone, so that its page must be written on each CPU anew.
    own_clock: bool,
    /// The CPU on which the guest ran last.
    cpu: i32,
    /// `MSR_KVM_STEAL_TIME`, and where that is.
    steal_time: u64,
    steal_area: Option<Gpa>,
    steal: steal::Account,
    /// The thread's run delay that has been charged.
    charged: u64,
    /// Which of the VM's counters this vCPU has.
    pub(super) generation: Generation,
    /// Another vCPU has ended this one's HLT, which may be still to come.
    kicked: bool,
}

impl Paravirt {
    /// Makes the state of the next vCPU of `vm`, with its time-stamp counter. vCPUs are made one after
    /// another.
    pub(crate) fn new(vm: &Vm) -> (GuestTsc, Self) {
        let mut new = Self::default();
        let vcpus = vm.memory().vcpus.len().saturating_add(1);
        let mut tsc =
            clock::guest_tsc(vm.tsc_khz()).unwrap_or_else(|| GuestTsc::host(cpu::tsc_khz()));
        let time = vm.time();
        let generation = &mut new.generation;
        let (offset, renew) = time.write_tsc(Write::Creation, &tsc, generation, vcpus);
        tsc.set_offset(offset);
        if renew {
            vm.renew_clocks();
        }
        if tsc.lags() {
            new.set_lagging(true);
        }
        (tsc, new)
    }

    /// Has the clock's page written before the guest runs on.
    pub(super) fn renew_clock(&mut self) {
        if self.system_time != 0 {
            self.clock = ClockState::Stale;
        }
    }

    /// The counter falls behind while the guest runs, or does not any more.
    pub(super) fn set_lagging(&mut self, lags: bool) {
        self.clock = if lags {
            ClockState::Lagging
        } else {
            ClockState::Stale
        };
    }

    /// The guest is about to run on `cpu`. Returns whether its clock must be written first.
    #[inline]
    pub(super) fn runs_on(&mut self, cpu: i32) -> bool {
        let moved = self.cpu != cpu;
        self.cpu = cpu;
        if moved && self.own_clock {
            self.renew_clock();
        }
        self.clock == ClockState::Stale
    }

    /// Takes the end of a HLT that another vCPU has sent.
    pub(super) fn take_kick(&mut self) -> bool {
        core::mem::take(&mut self.kicked)
    }
}

/// Returns the address if `length` bytes there lie in one page.
fn in_page(address: u64, length: usize) -> Option<Gpa> {
    let gpa = Gpa::new(address);
    (gpa.page_offset() + length as u64 <= PAGE_SIZE).then_some(gpa)
}

impl State {
    /// Takes note of what others have sent.
    pub(super) fn take_paravirt_news(&mut self, bits: u32) {
        if bits & news::CLOCK != 0 {
            self.paravirt.renew_clock();
        }
        if bits & news::KICK != 0 {
            self.paravirt.kicked = true;
        }
    }

    /// The VMM runs the vCPU.
    pub(super) fn paravirt_enters(&mut self) {
        if self.paravirt.own_clock {
            self.paravirt.renew_clock();
        }
    }

    /// Brings up to date what the guest finds in its memory.
    #[inline]
    pub(super) fn share_with_guest(&mut self) {
        if self.paravirt.clock != ClockState::Fresh {
            self.renew();
        }
        if let Some(area) = self.paravirt.steal_area {
            let delay = cpu::run_delay_ns();
            if delay != self.paravirt.charged {
                self.charge(area, delay);
            }
        }
    }

    /// Brings the guest's clock up to date.
    fn renew(&mut self) {
        self.paravirt.clock = ClockState::Fresh;
        if self.tsc.lags() {
            self.paravirt.clock = ClockState::Lagging;
            self.apply_tsc();
        }
        self.write_clock();
    }

    /// Reads an MSR of these services.
    pub(super) fn paravirt_msr(&self, number: u32) -> Option<u64> {
        Some(match number {
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => self.vm.time().wall_clock(),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => self.paravirt.system_time,
            msr::KVM_STEAL_TIME => self.paravirt.steal_time,
            _ => return None,
        })
    }

    /// Writes one.
    pub(super) fn set_paravirt_msr(&mut self, number: u32, value: u64) -> Result<(), Gp> {
        match number {
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => self.write_wall_clock(value),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => {
                self.paravirt.system_time = value;
                self.paravirt.renew_clock();
            }
            msr::KVM_STEAL_TIME => {
                let area = steal::area(value)?;
                self.paravirt.steal_time = value;
                self.paravirt.steal_area = match area {
                    Area::At(address) => Some(Gpa::new(address)),
                    Area::Off => None,
                };
                // The guest finds an area that has been written when it goes on.
                self.paravirt.charged = u64::MAX;
            }
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

    /// Charges what the thread has waited to the guest's area.
    fn charge(&mut self, area: Gpa, delay: u64) {
        self.paravirt.charged = delay;
        let at = |offset: u64| Gpa::new(area.raw().wrapping_add(offset));
        let memory = self.vm.memory();
        let mut steal = [0; 8];
        if memory.read(at(steal::STEAL_OFFSET), &mut steal).is_err() {
            return;
        }
        let (during, after) = steal::versions(self.guest_word(at(steal::VERSION_OFFSET)));
        let account = &mut self.paravirt.steal;
        let stolen = account.charge(u64::from_le_bytes(steal), delay);
        let memory = self.vm.memory();
        let version = at(steal::VERSION_OFFSET);
        let written = memory
            .write(version, &during.to_le_bytes())
            .and_then(|()| memory.write(at(steal::STEAL_OFFSET), &stolen.to_le_bytes()))
            .and_then(|()| memory.write(version, &after.to_le_bytes()));
        if written.is_err() {
            pr_debug!("vireo: no memory for a guest's steal time\n");
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

    /// Carries out a hypercall and returns what the guest finds in RAX.
    pub(crate) fn guest_call(&mut self) -> u64 {
        let code = self.backend.segment(Hidden::Seg(SegReg::Cs));
        let long_mode = self.backend.register(Reg::Efer) & efer::LMA != 0 && code.ar & ar::L != 0;
        let gpr = |gpr: Gpr| self.regs.gpr[gpr.index()];
        let registers = Registers {
            number: gpr(Gpr::Rax),
            args: [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi].map(gpr),
            long_mode,
            cpl: self.cpl(),
        };
        let result = match hypercall::decode(&registers, self.cpu.caps.paravirt) {
            Ok(call) => self.carry_out(call),
            Err(failure) => failure.code(),
        };
        if long_mode {
            result as u64
        } else {
            result as u32 as u64
        }
    }

    fn carry_out(&mut self, call: Call) -> i64 {
        let vcpus = &self.vm.memory().vcpus;
        match call {
            // Nobody is offered the directed yield.
            Call::Poll | Call::Yield(_) => 0,
            Call::Kick(id) => {
                if let Some(vcpu) = vcpus.iter().find(|vcpu| vcpu.identity().id == id) {
                    vcpu.tell(news::KICK);
                }
                0
            }
            Call::SendIpi(ipi) => {
                let mut count = 0;
                for vcpu in vcpus.iter() {
                    let identity = vcpu.identity();
                    let message = ipi.message(identity.id);
                    if ipi.reaches(identity.id) && identity.accepts(message.delivery) {
                        deliver::post(vcpu, message.delivery, message.vector, message.trigger);
                        count += 1;
                    }
                }
                count
            }
        }
    }
}
