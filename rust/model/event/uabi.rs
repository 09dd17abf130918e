// SPDX-License-Identifier: GPL-2.0-only

//! Saving and restoring events: `KVM_GET_VCPU_EVENTS` and `KVM_SET_VCPU_EVENTS`.

use super::{nmi_limit, Events};
use crate::model::errno::Errno;
use crate::model::exit::{Event, EventKind};
use crate::model::x86::{vector, Exception};

/// The exception in [`VcpuEvents`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExceptionEvents {
    /// It is being delivered.
    pub injected: u8,
    /// Its vector.
    pub nr: u8,
    /// It pushes an error code.
    pub has_error_code: u8,
    /// It waits for its delivery.
    pub pending: u8,
    /// The error code.
    pub error_code: u32,
}

/// The interrupt in [`VcpuEvents`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterruptEvents {
    /// It is being delivered.
    pub injected: u8,
    /// Its vector.
    pub nr: u8,
    /// It is a software interrupt. Never reported, because its instruction runs again.
    pub soft: u8,
    /// The interrupt shadow: bit 0 for MOV SS, bit 1 for STI.
    pub shadow: u8,
}

/// The NMIs in [`VcpuEvents`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NmiEvents {
    /// One is being delivered.
    pub injected: u8,
    /// How many wait.
    pub pending: u8,
    /// They are blocked by one that is being handled.
    pub masked: u8,
    /// Unused.
    pub pad: u8,
}

/// System management in [`VcpuEvents`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SmiEvents {
    /// The vCPU is in system-management mode.
    pub smm: u8,
    /// An SMI waits.
    pub pending: u8,
    /// It interrupted an NMI handler.
    pub smm_inside_nmi: u8,
    /// An INIT waits.
    pub latched_init: u8,
}

/// The triple fault in [`VcpuEvents`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TripleFaultEvents {
    /// It waits to be reported.
    pub pending: u8,
}

/// `struct kvm_vcpu_events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VcpuEvents {
    /// The exception.
    pub exception: ExceptionEvents,
    /// The interrupt and the interrupt shadow.
    pub interrupt: InterruptEvents,
    /// NMIs.
    pub nmi: NmiEvents,
    /// The vector of the start-up IPI that waits.
    pub sipi_vector: u32,
    /// Which of the fields below count, `KVM_VCPUEVENT_VALID_*`.
    pub flags: u32,
    /// System management.
    pub smi: SmiEvents,
    /// The triple fault.
    pub triple_fault: TripleFaultEvents,
    /// Unused.
    pub reserved: [u8; 26],
    /// `exception_payload` counts.
    pub exception_has_payload: u8,
    /// What the exception is going to leave in CR2 or DR6.
    pub exception_payload: u64,
}

const _: () = assert!(core::mem::size_of::<VcpuEvents>() == 64);

impl VcpuEvents {
    /// `nmi.pending` counts.
    pub const VALID_NMI_PENDING: u32 = 1 << 0;
    /// `sipi_vector` counts.
    pub const VALID_SIPI_VECTOR: u32 = 1 << 1;
    /// `interrupt.shadow` counts.
    pub const VALID_SHADOW: u32 = 1 << 2;
    /// `smi` counts.
    pub const VALID_SMM: u32 = 1 << 3;
    /// `exception.pending` and the payload count.
    pub const VALID_PAYLOAD: u32 = 1 << 4;
    /// `triple_fault` counts.
    pub const VALID_TRIPLE_FAULT: u32 = 1 << 5;

    const VALID_ALL: u32 = Self::VALID_NMI_PENDING
        | Self::VALID_SIPI_VECTOR
        | Self::VALID_SHADOW
        | Self::VALID_SMM
        | Self::VALID_PAYLOAD
        | Self::VALID_TRIPLE_FAULT;
}

/// Capabilities that the VMM has enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `KVM_CAP_EXCEPTION_PAYLOAD`.
    pub exception_payload: bool,
    /// `KVM_CAP_X86_TRIPLE_FAULT_EVENT`.
    pub triple_fault_event: bool,
}

/// State that is held elsewhere and shown with the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The interrupt shadow, as [`InterruptEvents::shadow`].
    pub shadow: u8,
    /// NMIs are blocked by one that is being handled.
    pub nmi_masked: bool,
    /// An INIT waits at the local APIC.
    pub latched_init: bool,
}

/// What [`Events::restore`] leaves to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Restored {
    /// The new interrupt shadow, as [`InterruptEvents::shadow`].
    pub shadow: Option<u8>,
    /// Whether NMIs are blocked now.
    pub nmi_masked: bool,
    /// The new start-up vector.
    pub sipi_vector: Option<u32>,
    /// Whether an INIT waits now.
    pub latched_init: Option<bool>,
}

impl Events {
    /// Saves the events. Without `KVM_CAP_EXCEPTION_PAYLOAD` the caller has put a pending exception's
    /// payload into place before ([`Events::take_payload`]).
    pub fn save(&self, shown: Shown, options: Options) -> VcpuEvents {
        let mut saved = VcpuEvents {
            flags: VcpuEvents::VALID_NMI_PENDING | VcpuEvents::VALID_SHADOW | VcpuEvents::VALID_SMM,
            ..VcpuEvents::default()
        };
        match (&self.exception, &self.reinject) {
            (Some(exception), _) => {
                saved.exception = shown_exception(exception.vector, exception.error_code);
                saved.exception.pending = 1;
                if !options.exception_payload {
                    // Userspace that doesn't know pending exceptions keeps them as injected ones.
                    saved.exception.injected = 1;
                }
                if let Some(payload) = exception.payload {
                    saved.exception_has_payload = 1;
                    saved.exception_payload = payload;
                }
            }
            (None, Some(event)) if event.kind == EventKind::HardwareException => {
                saved.exception = shown_exception(event.vector, event.error_code);
                saved.exception.injected = 1;
            }
            _ => {}
        }
        if let Some(vector) = self.queued_interrupt() {
            saved.interrupt.injected = 1;
            saved.interrupt.nr = vector;
        }
        saved.interrupt.shadow = shown.shadow;
        saved.nmi.injected = self
            .reinject
            .is_some_and(|event| event.kind == EventKind::Nmi)
            .into();
        saved.nmi.pending = self.nmis;
        saved.nmi.masked = shown.nmi_masked.into();
        saved.smi.latched_init = shown.latched_init.into();
        if options.exception_payload {
            saved.flags |= VcpuEvents::VALID_PAYLOAD;
        }
        if options.triple_fault_event {
            saved.flags |= VcpuEvents::VALID_TRIPLE_FAULT;
            saved.triple_fault.pending = self.has_triple_fault().into();
        }
        saved
    }

    /// Replaces the events by saved ones.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`], with nothing changed, for unknown flags, for those whose capability is not
    /// enabled, for a vector that is not an exception's, and for system-management mode.
    pub fn restore(&mut self, saved: &VcpuEvents, options: Options) -> Result<Restored, Errno> {
        let flags = saved.flags;
        let has = |flag: u32| flags & flag != 0;
        if flags & !VcpuEvents::VALID_ALL != 0
            || has(VcpuEvents::VALID_PAYLOAD) && !options.exception_payload
            || has(VcpuEvents::VALID_TRIPLE_FAULT) && !options.triple_fault_event
        {
            return Err(Errno::Invalid);
        }
        let smm = saved.smi.smm | saved.smi.pending | saved.smi.smm_inside_nmi;
        if has(VcpuEvents::VALID_SMM) && smm != 0 {
            return Err(Errno::Invalid);
        }
        let pending = has(VcpuEvents::VALID_PAYLOAD) && saved.exception.pending != 0;
        let injected = !pending && saved.exception.injected != 0;
        let number = saved.exception.nr;
        if (pending || injected) && (number >= vector::FIRST_INTERRUPT || number == vector::NMI) {
            return Err(Errno::Invalid);
        }

        let error_code = error_code(&saved.exception);
        let nmi_injected = saved.nmi.injected != 0;
        let payload =
            (pending && saved.exception_has_payload != 0).then_some(saved.exception_payload);
        // One event can be delivered again at a time. Where userspace has two, the exception goes first
        // in either form.
        let first_time = pending || injected && nmi_injected;
        self.set_exception(first_time.then_some(Exception {
            vector: number,
            error_code,
            payload,
        }));
        self.set_reinject(if nmi_injected {
            Some(Event::nmi())
        } else if injected {
            Some(Event {
                kind: EventKind::HardwareException,
                vector: number,
                error_code,
                instruction_length: 0,
            })
        } else {
            None
        });
        self.mark(super::work::INTERRUPT, false);
        // A software interrupt comes back by itself.
        if saved.interrupt.injected != 0 && saved.interrupt.soft == 0 {
            self.queue_interrupt(saved.interrupt.nr);
        }
        if has(VcpuEvents::VALID_NMI_PENDING) {
            self.set_nmis(
                saved
                    .nmi
                    .pending
                    .min(nmi_limit(nmi_injected || saved.nmi.masked != 0)),
            );
        }
        if has(VcpuEvents::VALID_TRIPLE_FAULT) {
            self.set_triple_fault(saved.triple_fault.pending != 0);
        }
        Ok(Restored {
            shadow: has(VcpuEvents::VALID_SHADOW).then_some(saved.interrupt.shadow),
            nmi_masked: saved.nmi.masked != 0,
            sipi_vector: has(VcpuEvents::VALID_SIPI_VECTOR).then_some(saved.sipi_vector),
            latched_init: has(VcpuEvents::VALID_SMM).then_some(saved.smi.latched_init != 0),
        })
    }
}

fn shown_exception(vector: u8, error_code: Option<u32>) -> ExceptionEvents {
    ExceptionEvents {
        nr: vector,
        has_error_code: error_code.is_some().into(),
        error_code: error_code.unwrap_or(0),
        ..ExceptionEvents::default()
    }
}

/// The exceptions that push an error code on every processor: VM entry insists on one (SDM vol. 3 section
/// 27.2.1.3), and on none for those that push none anywhere.
const ALWAYS_WITH_ERROR_CODE: u32 = 1 << vector::DF
    | 1 << vector::TS
    | 1 << vector::NP
    | 1 << vector::SS
    | 1 << vector::GP
    | 1 << vector::PF
    | 1 << vector::AC;

fn error_code(saved: &ExceptionEvents) -> Option<u32> {
    let always = ALWAYS_WITH_ERROR_CODE & (1 << (saved.nr & 31)) != 0;
    let sometimes = vector::has_error_code(saved.nr) && saved.has_error_code != 0;
    (always || sometimes).then_some(saved.error_code)
}
