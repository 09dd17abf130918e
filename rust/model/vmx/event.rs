// SPDX-License-Identifier: GPL-2.0-only

//! Interruption information: the events that exits report, and those that entries inject
//! (SDM vol. 3, sections 25.8.3, 25.9.2 and 25.9.3).

use crate::model::exit::Event;
use crate::model::exit::EventKind;
use crate::model::x86::cr0;

/// Bits 7:0: the vector.
const VECTOR: u32 = 0xff;
/// Bits 10:8: the type.
const TYPE_SHIFT: u32 = 8;
const TYPE_MASK: u32 = 7;
/// Bit 11: an error code is, or is to be, delivered.
const ERROR_CODE: u32 = 1 << 11;
/// Bit 12 of the VM-exit interruption information: IRET had unblocked NMIs when the exception came.
const NMI_UNBLOCKED_BY_IRET: u32 = 1 << 12;
/// Bit 31: the field is valid.
const VALID: u32 = 1 << 31;

/// The types of events.
const TYPE_INTERRUPT: u32 = 0;
const TYPE_NMI: u32 = 2;
const TYPE_HARDWARE_EXCEPTION: u32 = 3;
const TYPE_SOFTWARE_INTERRUPT: u32 = 4;
const TYPE_PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;
const TYPE_SOFTWARE_EXCEPTION: u32 = 6;

/// Bits of an error code that may be injected (section 27.2.1.3).
const INJECTABLE_ERROR_CODE: u32 = 0xffff;

/// Interruption information as an exit reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptionInfo(u32);

impl InterruptionInfo {
    /// Wraps the field's value.
    #[inline]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// Returns true if the field describes an event.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Returns the vector.
    #[inline]
    pub const fn vector(self) -> u8 {
        (self.0 & VECTOR) as u8
    }

    /// Returns true if the error-code field is valid too.
    #[inline]
    pub const fn has_error_code(self) -> bool {
        self.0 & ERROR_CODE != 0
    }

    /// Returns true if the event is an NMI.
    #[inline]
    pub const fn is_nmi(self) -> bool {
        self.0 & (VALID | TYPE_MASK << TYPE_SHIFT) == VALID | TYPE_NMI << TYPE_SHIFT
    }

    /// Returns the vector of the external interrupt that an exit has acknowledged (section 28.2.2).
    #[inline]
    pub const fn external_interrupt(self) -> Option<u8> {
        if self.0 & (VALID | TYPE_MASK << TYPE_SHIFT) == VALID | TYPE_INTERRUPT << TYPE_SHIFT {
            Some(self.vector())
        } else {
            None
        }
    }

    /// Returns the kind of event, or `None` for the types that are not events.
    #[inline]
    pub const fn kind(self) -> Option<EventKind> {
        match self.0 >> TYPE_SHIFT & TYPE_MASK {
            TYPE_INTERRUPT => Some(EventKind::Interrupt),
            TYPE_NMI => Some(EventKind::Nmi),
            TYPE_HARDWARE_EXCEPTION => Some(EventKind::HardwareException),
            TYPE_SOFTWARE_INTERRUPT => Some(EventKind::SoftwareInterrupt),
            TYPE_PRIVILEGED_SOFTWARE_EXCEPTION => Some(EventKind::PrivilegedSoftwareException),
            TYPE_SOFTWARE_EXCEPTION => Some(EventKind::SoftwareException),
            _ => None,
        }
    }

    /// Returns true if this exception hit an IRET that had already unblocked NMIs, so that blocking
    /// by NMI must be put back before the IRET is run again (section 28.2.3). Not defined for a double
    /// fault, or if the exit also reports an event that was being delivered.
    #[inline]
    pub const fn nmi_unblocked_by_iret(self) -> bool {
        self.0 & (VALID | NMI_UNBLOCKED_BY_IRET) == VALID | NMI_UNBLOCKED_BY_IRET
    }
}

/// The VM-entry fields that inject an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// VM-entry interruption-information field.
    pub info: u32,
    /// VM-entry exception error code, to be written if there is one.
    pub error_code: Option<u32>,
    /// VM-entry instruction length, to be written if there is one.
    pub instruction_length: Option<u32>,
}

impl Injection {
    /// Makes the fields for `event`, given the guest's CR0.
    ///
    /// In real mode no error code is delivered, and the processor refuses one.
    #[inline]
    pub const fn new(event: &Event, guest_cr0: u64) -> Self {
        let kind = match event.kind {
            EventKind::Interrupt => TYPE_INTERRUPT,
            EventKind::Nmi => TYPE_NMI,
            EventKind::HardwareException => TYPE_HARDWARE_EXCEPTION,
            EventKind::SoftwareInterrupt => TYPE_SOFTWARE_INTERRUPT,
            EventKind::PrivilegedSoftwareException => TYPE_PRIVILEGED_SOFTWARE_EXCEPTION,
            EventKind::SoftwareException => TYPE_SOFTWARE_EXCEPTION,
        };
        let info = VALID | kind << TYPE_SHIFT | event.vector as u32;
        let instruction_length = if event.kind.has_instruction() {
            Some(event.instruction_length as u32)
        } else {
            None
        };
        match event.error_code {
            Some(code) if guest_cr0 & cr0::PE != 0 => Self {
                info: info | ERROR_CODE,
                error_code: Some(code & INJECTABLE_ERROR_CODE),
                instruction_length,
            },
            _ => Self {
                info,
                error_code: None,
                instruction_length,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::x86::Exception;

    #[test]
    fn injects_interrupt() {
        let injection = Injection::new(&Event::interrupt(0x30), cr0::PE);
        assert_eq!(injection.info, 0x8000_0030);
        assert_eq!(injection.error_code, None);
        assert_eq!(injection.instruction_length, None);
    }

    #[test]
    fn injects_error_code_only_in_protected_mode() {
        let event = Event::exception(&Exception::gp(0x1_0010));
        let injection = Injection::new(&event, cr0::PE);
        assert_eq!(injection.info, 0x8000_0b0d);
        assert_eq!(injection.error_code, Some(0x10));
        let injection = Injection::new(&event, 0);
        assert_eq!((injection.info, injection.error_code), (0x8000_030d, None));
    }

    #[test]
    fn injects_software_interrupt_with_length() {
        let event = Event {
            kind: EventKind::SoftwareInterrupt,
            vector: 0x80,
            error_code: None,
            instruction_length: 2,
        };
        let injection = Injection::new(&event, cr0::PE);
        assert_eq!(injection.info, 0x8000_0480);
        assert_eq!(injection.instruction_length, Some(2));
    }

    #[test]
    fn reads_what_it_writes() {
        for event in [
            Event::nmi(),
            Event::interrupt(0xff),
            Event::exception(&Exception::ud()),
            Event::exception(&Exception::gp(0)),
        ] {
            let info = InterruptionInfo::new(Injection::new(&event, cr0::PE).info);
            assert!(info.is_valid());
            assert_eq!(info.kind(), Some(event.kind));
            assert_eq!(info.vector(), event.vector);
            assert_eq!(info.has_error_code(), event.error_code.is_some());
            assert_eq!(info.is_nmi(), event == Event::nmi());
        }
        assert!(!InterruptionInfo::new(0x202).is_nmi());
    }
}
