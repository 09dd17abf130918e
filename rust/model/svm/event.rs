// SPDX-License-Identifier: GPL-2.0-only

//! EVENTINJ and EXITINTINFO: the events that VMRUN injects, and those whose delivery an exit cut short
//! (APM vol. 2, sections 15.7.2 and 15.20).
//!
//! # Events that instructions raise
//!
//! INT n has a type of its own; INT3 and INTO are exceptions 3 and 4, which nothing else raises, and INT1 is
//! exception 1. When an exit cuts their delivery short, RIP still points at the instruction, and its length is
//! not reported: #VMEXITs during delivery clear nRIP (section 15.7.1). So such an event is not injected again.
//! The guest is entered without one, and the instruction raises it anew; nothing of the first try is visible
//! to the guest. [`Delivery::new`] says [`Delivery::Reexecute`] for it, by its length of 0.
//!
//! With a length (userspace or a debugger has the guest take a software event), the event is injected, and the
//! handler must return behind the instruction. With NRIP-save the processor takes that address from nRIP; without,
//! RIP is moved there first, and if the delivery is cut short it is moved back ([`Moved::restore`]).

use crate::model::emul::Mode;
use crate::model::exit::{Event, EventKind};
use crate::model::x86::{cr0, vector};

/// Bits 7:0: the vector.
const VECTOR: u64 = 0xff;
/// Bits 10:8: the type.
const TYPE_SHIFT: u32 = 8;
const TYPE_MASK: u64 = 7;
/// Bit 11 (EV): an error code is pushed.
const ERROR_CODE_VALID: u64 = 1 << 11;
/// Bit 31 (V): there is an event.
const VALID: u64 = 1 << 31;
/// Bits 63:32: the error code.
const ERROR_CODE_SHIFT: u32 = 32;

/// The types of events (section 15.20).
const TYPE_INTERRUPT: u64 = 0;
const TYPE_NMI: u64 = 2;
const TYPE_EXCEPTION: u64 = 3;
const TYPE_SOFTWARE_INTERRUPT: u64 = 4;

/// Returns the event that EXITINTINFO describes, if any. It has not been delivered, and must be injected
/// again unless the exit's handler replaces it. Its instruction's length is not known: 0.
#[inline]
pub const fn vectored_event(exitintinfo: u64) -> Option<Event> {
    if exitintinfo & VALID == 0 {
        return None;
    }
    let vector = (exitintinfo & VECTOR) as u8;
    let kind = match exitintinfo >> TYPE_SHIFT & TYPE_MASK {
        TYPE_INTERRUPT => EventKind::Interrupt,
        TYPE_NMI => EventKind::Nmi,
        TYPE_EXCEPTION if is_software_exception(vector) => EventKind::SoftwareException,
        TYPE_EXCEPTION => EventKind::HardwareException,
        TYPE_SOFTWARE_INTERRUPT => EventKind::SoftwareInterrupt,
        _ => return None,
    };
    let error_code = if exitintinfo & ERROR_CODE_VALID != 0 {
        Some((exitintinfo >> ERROR_CODE_SHIFT) as u32)
    } else {
        None
    };
    Some(Event {
        kind,
        vector,
        error_code,
        instruction_length: 0,
    })
}

/// Exceptions that only INT3 and INTO raise; the processor treats an injected one as theirs
/// (section 15.20).
const fn is_software_exception(vector: u8) -> bool {
    matches!(vector, vector::BP | vector::OF)
}

/// What delivery depends on in the guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// RIP.
    pub rip: u64,
    /// CR0.
    pub cr0: u64,
    /// How code is executed: RIP wraps at 4 GiB outside 64-bit mode.
    pub mode: Mode,
}

/// Where the handler of an injected event returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// RIP, as the VMCB has it.
    Rip,
    /// The nRIP field, which is to be set to this.
    NextRip(u64),
    /// RIP, which is to be moved. After the exit, [`Moved::restore`] says whether it goes back.
    MoveRip(Moved),
}

/// RIP has been moved for an injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The instruction that raises the event.
    pub from: u64,
    /// The one after it.
    pub to: u64,
}

impl Moved {
    /// Returns what RIP is to be set to after an exit that left it at `rip` and cut short `vectored`.
    ///
    /// While the event is on its way RIP is still at `to`, and it must point at the instruction again. The
    /// event that was cut short need not be the same: an exception on the way takes its place, and
    /// that too returns to the instruction.
    #[inline]
    pub fn restore(&self, rip: u64, vectored: Option<&Event>) -> u64 {
        let software = vectored
            .is_some_and(|event| !matches!(event.kind, EventKind::Interrupt | EventKind::Nmi));
        if software && rip == self.to {
            self.from
        } else {
            rip
        }
    }
}

/// How an event is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The value of EVENTINJ.
    pub eventinj: u64,
    /// Where the handler returns to.
    pub returns: Return,
}

/// How an event gets into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// By injection.
    Inject(Injection),
    /// By the instruction at RIP, which raises it when it is executed again: inject nothing.
    Reexecute,
}

impl Delivery {
    /// Says how `event` gets into the guest. `nrips` tells that the processor has NRIP-save.
    ///
    /// In real mode no error code is pushed.
    #[inline]
    pub fn new(event: &Event, guest: &Guest, nrips: bool) -> Self {
        if event.kind.has_instruction() && event.instruction_length == 0 {
            return Self::Reexecute;
        }
        let kind = match event.kind {
            EventKind::Interrupt => TYPE_INTERRUPT,
            EventKind::Nmi => TYPE_NMI,
            EventKind::SoftwareInterrupt => TYPE_SOFTWARE_INTERRUPT,
            EventKind::HardwareException
            | EventKind::PrivilegedSoftwareException
            | EventKind::SoftwareException => TYPE_EXCEPTION,
        };
        let mut eventinj = VALID | kind << TYPE_SHIFT | u64::from(event.vector);
        if let (Some(code), true) = (event.error_code, guest.cr0 & cr0::PE != 0) {
            eventinj |= ERROR_CODE_VALID | u64::from(code) << ERROR_CODE_SHIFT;
        }
        Self::Inject(Injection {
            eventinj,
            returns: returns(event, guest, nrips),
        })
    }
}

fn returns(event: &Event, guest: &Guest, nrips: bool) -> Return {
    // The processor uses nRIP by type and vector, whoever has raised the event.
    let uses_nrip = match event.kind {
        EventKind::SoftwareInterrupt => true,
        EventKind::Interrupt | EventKind::Nmi => false,
        _ => is_software_exception(event.vector),
    };
    let next = if event.kind.has_instruction() {
        after(guest, event.instruction_length)
    } else {
        guest.rip
    };
    if nrips && uses_nrip {
        Return::NextRip(next)
    } else if next == guest.rip {
        Return::Rip
    } else {
        Return::MoveRip(Moved {
            from: guest.rip,
            to: next,
        })
    }
}

/// Returns the address `length` bytes behind RIP.
fn after(guest: &Guest, length: u8) -> u64 {
    let next = guest.rip.wrapping_add(u64::from(length));
    match guest.mode {
        Mode::Long => next,
        _ => u64::from(next as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::x86::Exception;

    const GUEST: Guest = Guest {
        rip: 0x1000,
        cr0: cr0::PE,
        mode: Mode::Protected32,
    };

    fn inject(event: &Event, guest: &Guest, nrips: bool) -> Injection {
        match Delivery::new(event, guest, nrips) {
            Delivery::Inject(injection) => injection,
            Delivery::Reexecute => panic!("{event:?} is not injected"),
        }
    }

    fn software(kind: EventKind, vector: u8, length: u8) -> Event {
        Event {
            kind,
            vector,
            error_code: None,
            instruction_length: length,
        }
    }

    /// Section 15.20: V in bit 31, EV in bit 11, types 0, 2, 3 and 4.
    #[test]
    fn layout_of_the_manual() {
        for nrips in [false, true] {
            let interrupt = inject(&Event::interrupt(0x30), &GUEST, nrips);
            assert_eq!(interrupt.eventinj, 0x8000_0030);
            assert_eq!(interrupt.returns, Return::Rip);
            assert_eq!(inject(&Event::nmi(), &GUEST, nrips).eventinj, 0x8000_0202);
            let gp = inject(&Event::exception(&Exception::gp(0x18)), &GUEST, nrips);
            assert_eq!(gp.eventinj, 0x18_8000_0b0d);
            assert_eq!(gp.returns, Return::Rip);
        }
    }

    #[test]
    fn real_mode_pushes_no_error_code() {
        let guest = Guest { cr0: 0, ..GUEST };
        let gp = inject(&Event::exception(&Exception::gp(0x18)), &guest, true);
        assert_eq!(gp.eventinj, 0x8000_030d);
    }

    #[test]
    fn reads_what_it_writes() {
        for event in [
            Event::nmi(),
            Event::interrupt(0xff),
            Event::exception(&Exception::ud()),
            Event::exception(&Exception::gp(0x1_0010)),
        ] {
            let eventinj = inject(&event, &GUEST, false).eventinj;
            assert_eq!(vectored_event(eventinj), Some(event));
        }
        assert_eq!(vectored_event(0x202), None, "V is clear");
        assert_eq!(vectored_event(0x8000_0700), None, "reserved type");
    }

    /// Section 15.7.2: INT3 and INTO are reported as exceptions.
    #[test]
    fn cut_short_software_events_are_executed_again() {
        for (info, kind, vector) in [
            (0x8000_0303, EventKind::SoftwareException, 3),
            (0x8000_0304, EventKind::SoftwareException, 4),
            (0x8000_0480, EventKind::SoftwareInterrupt, 0x80),
            (0x8000_0403, EventKind::SoftwareInterrupt, 3),
        ] {
            let event = vectored_event(info).unwrap();
            assert_eq!(event, software(kind, vector, 0));
            for nrips in [false, true] {
                assert_eq!(Delivery::new(&event, &GUEST, nrips), Delivery::Reexecute);
            }
        }
        let debug = vectored_event(0x8000_0301).unwrap();
        assert_eq!(debug.kind, EventKind::HardwareException);
    }

    #[test]
    fn software_events_return_behind_the_instruction() {
        let event = software(EventKind::SoftwareInterrupt, 0x80, 2);
        let with = inject(&event, &GUEST, true);
        assert_eq!(with.eventinj, 0x8000_0480);
        assert_eq!(with.returns, Return::NextRip(0x1002));
        let moved = Moved {
            from: 0x1000,
            to: 0x1002,
        };
        assert_eq!(
            inject(&event, &GUEST, false).returns,
            Return::MoveRip(moved)
        );

        let int3 = software(EventKind::SoftwareException, 3, 1);
        assert_eq!(inject(&int3, &GUEST, true).eventinj, 0x8000_0303);
        assert_eq!(inject(&int3, &GUEST, true).returns, Return::NextRip(0x1001));

        // The processor knows of INT1 as of any #DB.
        let int1 = software(EventKind::PrivilegedSoftwareException, 1, 1);
        assert_eq!(inject(&int1, &GUEST, true).eventinj, 0x8000_0301);
        assert!(matches!(
            inject(&int1, &GUEST, true).returns,
            Return::MoveRip(Moved { to: 0x1001, .. })
        ));
    }

    /// A #BP that userspace sets has RIP behind INT3 already, but the processor goes by nRIP.
    #[test]
    fn breakpoint_without_instruction_returns_to_rip() {
        let bp = Event::exception(&Exception::new(vector::BP));
        assert_eq!(inject(&bp, &GUEST, true).returns, Return::NextRip(0x1000));
        assert_eq!(inject(&bp, &GUEST, false).returns, Return::Rip);
    }

    #[test]
    fn moved_rip_wraps_with_the_mode() {
        let event = software(EventKind::SoftwareInterrupt, 0x80, 2);
        let guest = Guest {
            rip: 0xffff_ffff,
            ..GUEST
        };
        assert_eq!(inject(&event, &guest, true).returns, Return::NextRip(1));
        let long = Guest {
            mode: Mode::Long,
            ..guest
        };
        let next = Return::NextRip(0x1_0000_0001);
        assert_eq!(inject(&event, &long, true).returns, next);
    }

    #[test]
    fn moved_rip_goes_back_only_while_the_event_is_on_its_way() {
        let moved = Moved {
            from: 0x1000,
            to: 0x1002,
        };
        let cut = vectored_event(0x8000_0480);
        assert_eq!(moved.restore(0x1002, cut.as_ref()), 0x1000);
        assert_eq!(moved.restore(0x5000, cut.as_ref()), 0x5000, "elsewhere");
        assert_eq!(moved.restore(0x1002, None), 0x1002, "delivered");
        let fault_on_the_way = vectored_event(0x8000_0b0b);
        assert_eq!(moved.restore(0x1002, fault_on_the_way.as_ref()), 0x1000);
        let interrupt = vectored_event(0x8000_0030);
        assert_eq!(moved.restore(0x1002, interrupt.as_ref()), 0x1002);
    }
}
