// SPDX-License-Identifier: GPL-2.0-only

//! `KVM_RUN`: in and out of the guest.

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use super::{
    run_page::Published,
    Pending,
    State, //
};
use crate::{
    backend::{
        BackendVcpu,
        Entry,
        Left, //
    },
    exit::Next,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        fpu,
        recording::Recording,
        sched::{
            self,
            SignalMask, //
        }, //
    },
    model::{
        event::MpState,
        exit::Exit,
        halt_poll::Wake,
        x86::{
            msr,
            vector, //
        }, //
    },
    uapi, //
};

/// How long before its time a timer's interrupt is made ready: what it takes from there into the guest.
const EARLY_NS: u64 = 2_000;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

impl State {
    /// Runs the guest until something is for the VMM.
    ///
    /// # Errors
    ///
    /// `EINTR` for a signal or when the VMM asked for an immediate exit; otherwise the host's error that
    /// kept the guest from running, such as `EFAULT` for a hole in the VMM's memory.
    pub(super) fn run(&mut self) -> Result {
        let mask = self.signal_mask.as_ref().map(SignalMask::new);
        self.shared.presence.runs_here();
        self.backend.load();
        self.fpu.swap_in();
        let result = self.run_loaded();
        self.fpu.swap_out();
        self.publish();
        self.backend.put();
        drop(mask);
        result
    }

    fn run_loaded(&mut self) -> Result {
        self.has_run = true;
        self.paravirt_enters();
        if self.lapic.is_none() {
            // The VMM's APIC has a task priority, which it sets here.
            let cr8 = self.run.cr8();
            if cr8 > 0xf {
                return Err(EINVAL);
            }
            self.cr8 = cr8;
        }
        if self.complete()? == Next::ToUser {
            return Ok(());
        }
        if self.run.immediate_exit() {
            self.run.set_reason(uapi::KVM_EXIT_INTR);
            return Err(EINTR);
        }
        loop {
            if sched::exit_work_pending() {
                self.make_way()?;
            }
            if let Some(vector) = self.completed.take() {
                self.run.set_ioapic_eoi(vector);
                return Ok(());
            }
            if self.may_have_news() {
                self.collect();
            }
            if self.events.has_triple_fault() {
                self.events.set_triple_fault(false);
                self.run.set_reason(uapi::KVM_EXIT_SHUTDOWN);
                return Ok(());
            }
            if self.mp_state != MpState::Runnable && !self.block()? {
                continue;
            }
            self.share_with_guest();
            let Some(left) = self.enter() else { continue };
            if self.handle(&left)? == Next::ToUser {
                return Ok(());
            }
            if self.user_pic && self.run.wants_interrupt_window() && self.ready_for_interrupt() {
                self.run.set_reason(uapi::KVM_EXIT_IRQ_WINDOW_OPEN);
                return Ok(());
            }
        }
    }

    /// Does what the host has for the thread, which may lose its CPU.
    #[cold]
    fn make_way(&mut self) -> Result {
        let user_mode = self.cpl() != 0;
        let presence = &self.shared.presence;
        presence.set_user_mode(user_mode);
        let done = presence.rest(sched::handle_exit_work);
        done.inspect_err(|_| self.run.set_reason(uapi::KVM_EXIT_INTR))
    }

    /// Whether there may be something to [collect](Self::collect).
    #[inline(always)]
    fn may_have_news(&self) -> bool {
        self.deadline.is_some() || self.shared.timer.has_fired() || !self.shared.inbox().is_empty()
    }

    /// Goes on with what the VMM has been asked for.
    fn complete(&mut self) -> Result<Next> {
        match core::mem::replace(&mut self.pending, Pending::None) {
            Pending::None => {}
            Pending::In(size) => self.complete_in(size),
            Pending::Out => self.end_instruction(),
            Pending::Load(load) => self.complete_load(&load),
            Pending::Emulation => return self.continue_emulation(),
        }
        Ok(Next::Resume)
    }

    /// Waits until a vCPU that is not running has a reason to. Returns whether it is running now.
    fn block(&mut self) -> Result<bool> {
        if self.mp_state == MpState::Halted && self.wakes() {
            self.mp_state = MpState::Runnable;
            return Ok(true);
        }
        if self.mp_state != MpState::Halted {
            self.sleep()?;
            return Ok(false);
        }
        let policy = self.vm.halt_policy();
        let start = cpu::now_ns();
        let window = if self.paravirt.polls() {
            self.halt_window.ns(&policy)
        } else {
            0
        };
        let polled = self.poll(window);
        let woken = if polled { Ok(()) } else { self.sleep() };
        let halted_ns = cpu::now_ns().saturating_sub(start);
        let wake = if woken.is_ok() {
            Wake::ForGuest
        } else {
            Wake::Other
        };
        self.halt_window.learn(&policy, halted_ns, wake);
        woken.map(|()| false)
    }

    /// Looks for a reason to run for `window` ns, as long as nobody else wants the CPU.
    ///
    /// A timer's interrupt is made ready shortly before its time, so that the guest gets it right at its time:
    /// the entry waits for that.
    fn poll(&mut self, window: u32) -> bool {
        if window == 0 {
            return false;
        }
        let khz = u64::from(cpu::tsc_khz());
        let early = khz.saturating_mul(EARLY_NS) / NS_PER_MS;
        let ticks = khz.saturating_mul(window.into()) / NS_PER_MS;
        let end = cpu::rdtsc().saturating_add(ticks);
        let due = self.timer_due();
        loop {
            let now = cpu::rdtsc();
            let passed = self.deadline.is_some_and(|at| now >= at);
            if passed || !self.shared.inbox().is_empty() || self.shared.timer.has_fired() {
                return true;
            }
            if let Some(due) = due {
                if now.saturating_add(early) >= due {
                    self.expire_timer_early(early);
                    self.not_before = due.min(now.saturating_add(early));
                    return true;
                }
            }
            if now >= end || sched::exit_work_pending() || !sched::is_alone() {
                return false;
            }
            core::hint::spin_loop();
        }
    }

    /// Sleeps until something has been sent to the vCPU.
    pub(super) fn sleep(&mut self) -> Result {
        if self.deadline.is_some() {
            self.arm_host_timer();
        }
        let shared = self.shared.clone();
        let ready = || !shared.inbox().is_empty() || shared.timer.has_fired();
        let wait = || shared.timer.waiter.wait(ready);
        let woken = shared.presence.rest(wait);
        if self.deadline.is_some() && !shared.timer.has_fired() {
            shared.timer.cancel();
        }
        woken.inspect_err(|_| self.run.set_reason(uapi::KVM_EXIT_INTR))
    }

    /// Enters the guest. `None` when something came up that must be seen to first.
    #[inline]
    fn enter(&mut self) -> Option<Left> {
        let irq = IrqOff::new();
        let waiter = &self.shared.timer.waiter;
        let cpu = cpu::this_cpu(&irq);
        waiter.entering(cpu);
        // From here on whoever wants something sends an interrupt, which ends the guest's run at once.
        if sched::exit_work_pending()
            || !self.shared.inbox().is_empty()
            || self.shared.timer.has_fired()
            || self.paravirt.runs_on(cpu)
        {
            return self.stay_out();
        }
        let tlb_generation = self.vm.memory().generation();
        fpu::sync(&irq);
        let event = self.next_event(&irq);
        let (tpr, tpr_threshold) = self.hand_over_apic(&irq);

        let host_xcr0 = self.cpu.host_xcr0;
        let switch_xcr0 = self.xcr0 != host_xcr0 && host_xcr0 != 0;
        if switch_xcr0 {
            // SAFETY: The value was checked when it was set; the host's is restored below.
            unsafe { cpu::xsetbv(self.xcr0) };
        }
        let host_xss = self.cpu.host_xss;
        if host_xss != 0 {
            // SAFETY: The MSR exists where it is not 0; guests have no supervisor state, and the host's
            // value is restored below.
            unsafe { cpu::wrmsr(msr::IA32_XSS, 0) };
        }
        let recording = Recording::stop(&irq, self.cpu.host_precise_samples);
        let debug = self.debug.has_breakpoints();
        if debug {
            // SAFETY: Interrupts are off; restored below.
            unsafe { cpu::load_debug_registers(&self.debug.address, self.debug.dr6) };
        }

        let left = self.backend.enter(
            &irq,
            &mut self.regs,
            &Entry {
                inject: event.as_ref(),
                flush_guest: core::mem::take(&mut self.flush_guest),
                tlb_generation,
                deadline: self.deadline,
                not_before: core::mem::take(&mut self.not_before),
                tpr,
                tpr_threshold,
            },
        );

        cpu::restore_debug_registers(&irq);
        recording.resume(&irq);
        if host_xss != 0 {
            // SAFETY: The host's own value.
            unsafe { cpu::wrmsr(msr::IA32_XSS, host_xss) };
        }
        if switch_xcr0 {
            // SAFETY: The host's own value.
            unsafe { cpu::xsetbv(host_xcr0) };
        }
        self.shared.timer.waiter.left();
        if let Exit::Exception(trapped) = &left.exit {
            if trapped.exception.vector == vector::MC {
                cpu::machine_check(&irq);
            }
        }
        if let Exit::ExternalInterrupt = left.exit {
            if let Some(vector) = self.backend.acknowledged_interrupt(&irq) {
                cpu::deliver_interrupt(&irq, vector);
            }
        }
        irq.open();
        if let (Some(tpr), Some(lapic)) = (left.tpr, &mut self.lapic) {
            lapic.set_tpr(tpr);
        }
        if self.paravirt.eoi.is_offered() {
            self.take_back_eoi();
        }
        if let (Exit::EntryFailure(_), Some(event)) = (&left.exit, event) {
            self.events.requeue(event);
        }
        Some(left)
    }

    /// There is something to see to before the guest can be entered. The compiler learns here which way is rare.
    #[cold]
    fn stay_out(&self) -> Option<Left> {
        self.shared.timer.waiter.left();
        None
    }

    /// Whether the VMM could inject an interrupt now (without an interrupt controller in the kernel).
    fn ready_for_interrupt(&mut self) -> bool {
        let irq = IrqOff::new();
        let window = self.window(&irq);
        drop(irq);
        self.takes_user_interrupt(window.interrupts)
    }

    /// Tells the VMM about the vCPU in `kvm_run`.
    fn publish(&mut self) {
        let irq = IrqOff::new();
        let blocking = self.backend.blocking(&irq);
        drop(irq);
        let open = blocking.interrupts_enabled && !blocking.sti && !blocking.mov_ss;
        self.run.publish(&Published {
            ready_for_interrupt: !self.user_pic || self.takes_user_interrupt(open),
            if_flag: blocking.interrupts_enabled,
            cr8: self.cr8(),
            apic_base: self.apic_base(),
        });
    }

    /// `KVM_SET_SIGNAL_MASK`: the signals that are blocked while `KVM_RUN` runs.
    pub(super) fn set_signal_mask(&mut self, arg: usize) -> Result {
        const MASK_SIZE: usize = size_of::<kernel::bindings::sigset_t>();
        if arg == 0 {
            self.signal_mask = None;
            return Ok(());
        }
        let length: u32 = uapi::get(arg)?;
        if length as usize != MASK_SIZE {
            return Err(EINVAL);
        }
        let start = arg.checked_add(size_of::<u32>()).ok_or(EFAULT)?;
        let mut bytes = [0; MASK_SIZE];
        UserSlice::new(UserPtr::from_addr(start), MASK_SIZE)
            .reader()
            .read_slice(&mut bytes)?;
        let mut mask = kernel::bindings::sigset_t::default();
        mask.sig[0] = u64::from_le_bytes(bytes) as _;
        self.signal_mask = Some(mask);
        Ok(())
    }
}
