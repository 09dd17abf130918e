// SPDX-License-Identifier: GPL-2.0-only

//! Events on their way into the guest.

use kernel::prelude::*;

use super::State;
use crate::{
    backend::{
        ApicHelp,
        BackendVcpu,
        Reg, //
    },
    host::cpu::{
        self,
        IrqOff, //
    },
    model::{
        apic::Lapic,
        event::{
            is_fault,
            Inject,
            Window, //
        },
        exit::Event,
        sregs,
        x86::{
            dr7,
            rflags,
            vector,
            Exception, //
        }, //
    },
    uapi, //
};

impl State {
    /// Raises an exception in the guest.
    pub(crate) fn raise(&mut self, exception: Exception) {
        self.events.raise(exception);
    }

    /// Takes back an event whose delivery an exit cut short.
    #[cold]
    pub(crate) fn requeue(&mut self, event: &Event) {
        self.events.requeue(*event);
    }

    /// Whether a string instruction may go on with its next iteration without looking at the world.
    pub(crate) fn may_repeat(&self) -> bool {
        self.events.is_idle()
            && self.shared.inbox().is_empty()
            && !self.shared.posted.is_outstanding()
            && !self.shared.timer.has_fired()
            && self.deadline.is_none_or(|deadline| cpu::rdtsc() < deadline)
            && !crate::host::sched::exit_work_pending()
    }

    /// Whether the local APIC has an interrupt that its priorities let through and that the processor does
    /// not deliver by itself.
    #[inline]
    pub(super) fn waiting_interrupt(&self) -> bool {
        self.apic_help != ApicHelp::Interrupts
            && self
                .lapic
                .as_ref()
                .is_some_and(|lapic| lapic.pending_interrupt().is_some())
    }

    /// Whether the PICs, or the VMM in their place, have an interrupt that this vCPU takes.
    #[inline]
    fn waiting_extint(&mut self) -> bool {
        if !self.extint {
            return false;
        }
        let takes = self.shared.takes_extint();
        self.extint = takes && (self.external.is_some() || self.vm.interrupts().pic_output());
        self.extint
    }

    /// Takes the interrupt that comes next: that of the PICs goes first.
    fn acknowledge(&mut self) -> Option<u8> {
        if self.waiting_extint() {
            let vector = self.external.take();
            let vector = vector.or_else(|| self.vm.interrupts().take_pic());
            // Another vCPU may have taken it.
            if vector.is_some() {
                return vector;
            }
        }
        if self.apic_help == ApicHelp::Interrupts {
            return None;
        }
        self.lapic.as_mut().and_then(|lapic| lapic.acknowledge())
    }

    /// Says what to deliver with the next entry, and asks for windows for what must wait.
    #[inline]
    pub(super) fn next_event(&mut self, irq: &IrqOff) -> Option<Event> {
        let waiting = self.waiting_interrupt() || self.waiting_extint();
        let wants_window = self.user_pic && self.run.wants_interrupt_window();
        if self.events.is_idle() && !waiting && !wants_window {
            self.backend.request_windows(irq, false, false);
            return None;
        }
        self.next_event_slow(irq, waiting, wants_window)
    }

    fn next_event_slow(
        &mut self,
        irq: &IrqOff,
        waiting: bool,
        wants_window: bool,
    ) -> Option<Event> {
        let window = self.window(irq);
        let next = self.events.next(window, waiting);
        let mut interrupt_window = next.interrupt_window || wants_window;
        let event = match next.inject {
            Inject::None => None,
            Inject::Event(event) => Some(event),
            Inject::Exception(exception) => {
                self.deliver_payload(&exception);
                if is_fault(exception.vector) {
                    let flags = self.backend.register(Reg::Rflags);
                    self.backend.set_register(Reg::Rflags, flags | rflags::RF);
                }
                Some(Event::exception(&exception))
            }
            Inject::AckInterrupt => {
                let vector = self.acknowledge();
                self.offer_eoi();
                interrupt_window |= self.waiting_interrupt() || self.waiting_extint();
                vector.map(Event::interrupt)
            }
        };
        self.backend
            .request_windows(irq, interrupt_window, next.nmi_window);
        event
    }

    /// Returns what the guest's state lets through.
    pub(super) fn window(&mut self, irq: &IrqOff) -> Window {
        let blocking = self.backend.blocking(irq);
        Window {
            interrupts: blocking.interrupts_enabled && !blocking.sti && !blocking.mov_ss,
            nmis: !blocking.nmi && !blocking.sti && !blocking.mov_ss,
        }
    }

    /// Puts an exception's payload where the guest looks for it.
    pub(super) fn deliver_payload(&mut self, exception: &Exception) {
        let Some(payload) = exception.payload else {
            return;
        };
        match exception.vector {
            vector::PF => self.regs.cr2 = payload,
            vector::DB => {
                self.debug.dr6 = sregs::dr6_after(self.debug.dr6, payload);
                self.set_dr7(self.debug.dr7 & !dr7::GD);
            }
            _ => {}
        }
    }

    /// Whether a halted vCPU has a reason to run.
    pub(super) fn wakes(&mut self) -> bool {
        if self.paravirt.take_kick() {
            return true;
        }
        let irq = IrqOff::new();
        let window = self.window(&irq);
        drop(irq);
        if self.events.wakes(window) {
            return true;
        }
        let pending = |lapic: &mut Lapic| lapic.pending_interrupt().is_some();
        window.interrupts && (self.lapic_mut().is_some_and(pending) || self.waiting_extint())
    }

    /// Whether the VMM's PICs can bring an interrupt now.
    pub(super) fn takes_user_interrupt(&self, open: bool) -> bool {
        let lapic_lets = self.lapic.is_none() || self.shared.takes_extint();
        open && lapic_lets && self.external.is_none() && self.events.is_idle()
    }

    /// `KVM_INTERRUPT`: holds an external interrupt, where the PICs are the VMM's.
    pub(super) fn queue_interrupt(&mut self, interrupt: &uapi::kvm_interrupt) -> Result {
        let vector = u8::try_from(interrupt.irq).map_err(|_| EINVAL)?;
        if !self.user_pic {
            return Err(ENXIO);
        }
        if self.lapic.is_some() {
            if self.external.is_some() {
                return Err(EEXIST);
            }
            self.external = Some(vector);
            self.extint = true;
            return Ok(());
        }
        if self.events.queued_interrupt().is_some() {
            return Err(EEXIST);
        }
        self.events.queue_interrupt(vector);
        Ok(())
    }
}
