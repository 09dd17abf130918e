// SPDX-License-Identifier: GPL-2.0-only

//! What a vCPU has yet to deliver: exceptions, NMIs, interrupts, and what must be injected again.
//!
//! One vCPU owns its [`Events`]. Exceptions that handlers raise come in by [`Events::raise`], events whose
//! delivery an exit cut short by [`Events::requeue`], and before each entry [`Events::next`] says what to
//! inject and for which windows to ask. The local APIC's interrupts are not kept here: `next` says when one
//! is to be acknowledged.

mod class;
mod mp;
mod uabi;

pub use class::{combine, is_fault, Combined};
pub use mp::MpState;
pub use uabi::{
    ExceptionEvents, InterruptEvents, NmiEvents, Options, Restored, Shown, SmiEvents,
    TripleFaultEvents, VcpuEvents,
};

use crate::model::exit::{Event, EventKind};
use crate::model::x86::{vector, Exception};

/// How many NMIs can wait: the processor latches one while one is `in_service`; else two can, the second
/// of which is latched when the first is taken.
const fn nmi_limit(in_service: bool) -> u8 {
    if in_service {
        1
    } else {
        2
    }
}

/// What is waiting, one bit each, so that one test tells that nothing is.
mod work {
    pub const EXCEPTION: u8 = 1 << 0;
    pub const REINJECT: u8 = 1 << 1;
    pub const NMI: u8 = 1 << 2;
    pub const INTERRUPT: u8 = 1 << 3;
    pub const TRIPLE_FAULT: u8 = 1 << 4;
}

/// What the guest's state lets through at the next entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// External interrupts: RFLAGS.IF is set and nothing blocks them (STI, MOV SS, guest debugging).
    pub interrupts: bool,
    /// NMIs: not blocked by an NMI that is being handled, by MOV SS, or by STI where that blocks them.
    pub nmis: bool,
}

/// What to inject with the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Inject {
    /// Nothing.
    None,
    /// An exception that is delivered for the first time. Its payload goes to CR2 or DR6 now (and a #DB
    /// clears DR7.GD); [`is_fault`] says whether RFLAGS.RF is set in the image that it pushes.
    Exception(Exception),
    /// An event that is delivered again, or for the first time if it has no payload. Before an NMI,
    /// blocking by NMI is cleared: it belongs to this very NMI.
    Event(Event),
    /// The interrupt that the interrupt controller hands out when it is acknowledged, now.
    AckInterrupt,
}

/// What the next entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Next {
    /// The event.
    pub inject: Inject,
    /// Exit as soon as an NMI can be delivered.
    pub nmi_window: bool,
    /// Exit as soon as an interrupt can be delivered. After [`Inject::AckInterrupt`] the caller decides,
    /// because only the interrupt controller knows whether it has another one.
    pub interrupt_window: bool,
}

/// The events of a vCPU.
///
/// # Invariants
///
/// - `work` has the bit of each kind that is waiting, and no other.
/// - `reinject` is never an external interrupt, and never an exception while `exception` is pending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    work: u8,
    exception: Option<Exception>,
    reinject: Option<Event>,
    interrupt: u8,
    nmis: u8,
}

impl Events {
    /// Returns true when there is nothing to inject and nothing to wait for: the entry path's only
    /// question.
    #[inline]
    pub const fn is_idle(&self) -> bool {
        self.work == 0
    }

    /// Raises an exception. If another one is pending or being delivered, the two combine: to a double
    /// fault, to a triple fault, or the new one replaces the old, which comes back when its instruction
    /// runs again (SDM vol. 3 table 6-5).
    pub fn raise(&mut self, exception: Exception) {
        let first = match (&self.exception, &self.reinject) {
            (Some(pending), _) => Some(pending.vector),
            (None, Some(event)) if event.kind == EventKind::HardwareException => Some(event.vector),
            _ => None,
        };
        let next = match first.map(|first| combine(first, exception.vector)) {
            None | Some(Combined::Serial) => exception,
            Some(Combined::DoubleFault) => Exception::with_code(vector::DF, 0),
            Some(Combined::TripleFault) => {
                self.set_triple_fault(true);
                return;
            }
        };
        // An NMI that was being delivered waits for its turn again; INT n, INT3, INTO and INT1 come
        // back by themselves, since the instruction pointer still points to them.
        if self
            .reinject
            .is_some_and(|event| event.kind != EventKind::Nmi)
        {
            self.set_reinject(None);
        }
        self.set_exception(Some(next));
    }

    /// Takes back an event whose delivery an exit cut short, or that was to be injected with an entry
    /// that did not take place. It goes in again with the next entry.
    pub fn requeue(&mut self, event: Event) {
        match event.kind {
            // The guest could take it then, and the cut delivery has had no effect: it waits like one
            // that was acknowledged just now, and an exception that came up on the way goes first.
            EventKind::Interrupt => self.queue_interrupt(event.vector),
            EventKind::Nmi => self.set_reinject(Some(event)),
            _ if self.exception.is_none() => self.set_reinject(Some(event)),
            EventKind::HardwareException => {
                // Raised by the exit's handler before the event was taken back: the order of arrival
                // is the other way round.
                if let Some(second) = self.exception {
                    self.set_exception(None);
                    self.set_reinject(Some(event));
                    self.raise(second);
                }
            }
            _ => {}
        }
    }

    /// Holds an interrupt that its controller has handed out: it is delivered as soon as the guest takes
    /// interrupts. A second one replaces the first (`KVM_INTERRUPT` is only allowed when none waits).
    pub fn queue_interrupt(&mut self, vector: u8) {
        self.interrupt = vector;
        self.work |= work::INTERRUPT;
    }

    /// Returns the vector of the interrupt that is held.
    pub const fn queued_interrupt(&self) -> Option<u8> {
        if self.work & work::INTERRUPT != 0 {
            Some(self.interrupt)
        } else {
            None
        }
    }

    /// Adds an NMI, unless as many as the processor remembers wait already. `in_service` tells that one
    /// is being handled.
    pub fn pend_nmi(&mut self, in_service: bool) {
        let delivering = self
            .reinject
            .is_some_and(|event| event.kind == EventKind::Nmi);
        let limit = nmi_limit(in_service || delivering);
        self.set_nmis(self.nmis.saturating_add(1).min(limit));
    }

    /// Returns the exception that is pending.
    pub const fn pending_exception(&self) -> Option<&Exception> {
        self.exception.as_ref()
    }

    /// Returns the pending exception's payload and takes it away, for userspace that wants it in CR2 and
    /// DR6 (`KVM_CAP_EXCEPTION_PAYLOAD` is off).
    pub fn take_payload(&mut self) -> Option<(u8, u64)> {
        let exception = self.exception.as_mut()?;
        Some((exception.vector, exception.payload.take()?))
    }

    /// Drops the pending exception (`KVM_SET_REGS` puts the guest elsewhere).
    pub fn drop_exception(&mut self) {
        self.set_exception(None);
    }

    /// Forgets everything, as a reset does.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Returns true when the guest has shut down: the vCPU leaves with `KVM_EXIT_SHUTDOWN`.
    pub const fn has_triple_fault(&self) -> bool {
        self.work & work::TRIPLE_FAULT != 0
    }

    /// Sets or clears the triple fault.
    pub fn set_triple_fault(&mut self, on: bool) {
        self.mark(work::TRIPLE_FAULT, on);
    }

    /// Returns true when a halted vCPU has a reason to run besides the local APIC's interrupts.
    pub const fn wakes(&self, window: Window) -> bool {
        let nmi = self.work & work::NMI != 0 && window.nmis;
        let interrupt = self.work & work::INTERRUPT != 0 && window.interrupts;
        let rest = work::EXCEPTION | work::REINJECT | work::TRIPLE_FAULT;
        self.work & rest != 0 || nmi || interrupt
    }

    /// Says what the next entry injects, and takes it from the queue.
    ///
    /// `waiting` tells that the interrupt controller has an interrupt that the guest's priorities let
    /// through. A triple fault is the caller's to look for first. When the entry does not take place, the
    /// event goes back by [`requeue`](Self::requeue).
    pub fn next(&mut self, window: Window, waiting: bool) -> Next {
        let inject = self.pick(window, waiting);
        let waits = match inject {
            Inject::AckInterrupt => self.work & work::INTERRUPT != 0,
            _ => waiting || self.work & work::INTERRUPT != 0,
        };
        Next {
            inject,
            nmi_window: self.nmis != 0,
            interrupt_window: waits,
        }
    }

    fn pick(&mut self, window: Window, waiting: bool) -> Inject {
        // A pending exception belongs to the instruction before whatever else may come in.
        if let Some(exception) = self.exception {
            self.set_exception(None);
            return Inject::Exception(exception);
        }
        if let Some(event) = self.reinject {
            self.set_reinject(None);
            return Inject::Event(event);
        }
        if self.nmis != 0 && window.nmis {
            self.set_nmis(self.nmis.saturating_sub(1));
            return Inject::Event(Event::nmi());
        }
        if window.interrupts {
            if let Some(vector) = self.queued_interrupt() {
                self.mark(work::INTERRUPT, false);
                return Inject::Event(Event::interrupt(vector));
            }
            if waiting {
                return Inject::AckInterrupt;
            }
        }
        Inject::None
    }

    fn set_exception(&mut self, exception: Option<Exception>) {
        self.exception = exception;
        self.mark(work::EXCEPTION, exception.is_some());
    }

    fn set_reinject(&mut self, event: Option<Event>) {
        self.reinject = event;
        self.mark(work::REINJECT, event.is_some());
    }

    fn set_nmis(&mut self, count: u8) {
        self.nmis = count;
        self.mark(work::NMI, count != 0);
    }

    fn mark(&mut self, bit: u8, on: bool) {
        if on {
            self.work |= bit;
        } else {
            self.work &= !bit;
        }
    }
}
