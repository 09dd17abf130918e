// SPDX-License-Identifier: GPL-2.0-only

use super::*;
use std::cell::Cell;

/// Exit information that counts how often it is read.
#[derive(Default)]
struct Recorded {
    qualification: u64,
    gpa: u64,
    interruption: u32,
    interruption_error: u32,
    vectoring: u32,
    vectoring_error: u32,
    length: u32,
    instruction: u32,
    reads: Cell<u32>,
}

impl Recorded {
    fn qualified(qualification: u64) -> Self {
        Self {
            qualification,
            ..Self::default()
        }
    }

    fn interrupted(interruption: u32) -> Self {
        Self {
            interruption,
            ..Self::default()
        }
    }

    fn count<T>(&self, value: T) -> T {
        self.reads.set(self.reads.get() + 1);
        value
    }
}

impl ExitInfo for Recorded {
    fn qualification(&self) -> u64 {
        self.count(self.qualification)
    }
    fn guest_physical_address(&self) -> u64 {
        self.count(self.gpa)
    }
    fn interruption_info(&self) -> u32 {
        self.count(self.interruption)
    }
    fn interruption_error_code(&self) -> u32 {
        self.count(self.interruption_error)
    }
    fn idt_vectoring_info(&self) -> u32 {
        self.count(self.vectoring)
    }
    fn idt_vectoring_error_code(&self) -> u32 {
        self.count(self.vectoring_error)
    }
    fn instruction_length(&self) -> u32 {
        self.count(self.length)
    }
    fn instruction_info(&self) -> u32 {
        self.count(self.instruction)
    }
}

#[test]
fn exits_without_operands_read_nothing() {
    for (reason, exit) in [
        (1, Exit::ExternalInterrupt),
        (2, Exit::TripleFault),
        (7, Exit::InterruptWindow),
        (10, Exit::Cpuid),
        (12, Exit::Hlt),
        (18, Exit::Hypercall),
        (19, Exit::Virtualization),
        (27, Exit::Virtualization),
        (31, Exit::Rdmsr),
        (32, Exit::Wrmsr),
        (37, Exit::MonitorTrap),
        (52, Exit::PreemptionTimer),
        (55, Exit::Xsetbv),
        (35, Exit::Unknown(35)),
        (0xffff, Exit::Unknown(0xffff)),
    ] {
        let info = Recorded::default();
        assert_eq!(decode(reason, &info), exit);
        assert_eq!(info.reads.get(), 0, "reason {reason}");
    }
}

#[test]
fn flags_above_the_basic_reason_do_not_matter() {
    // Bit 27: the exit came from enclave mode; bit 26: bus lock asserted.
    assert_eq!(
        decode(1 << 27 | 1 << 26 | 10, &Recorded::default()),
        Exit::Cpuid
    );
}

#[test]
fn entry_failures() {
    let info = Recorded::qualified(4);
    assert_eq!(
        decode(0x8000_0021, &info),
        Exit::EntryFailure(EntryFailure {
            reason: 0x8000_0021,
            qualification: 4
        })
    );
    assert_eq!(decode(0x8000_0029, &info), Exit::MachineCheckDuringEntry);
}

#[test]
fn exceptions() {
    let fault = Recorded {
        interruption: 0x8000_0b0e,
        interruption_error: 6,
        qualification: 0xffff_8000_0000_0123,
        ..Recorded::default()
    };
    assert_eq!(
        decode(0, &fault),
        Exit::Exception(TrappedException {
            exception: Exception::page_fault(0xffff_8000_0000_0123, 6),
            software: false
        })
    );
    assert_eq!(fault.reads.get(), 3);

    let undefined = Recorded::interrupted(0x8000_0306);
    assert_eq!(
        decode(0, &undefined),
        Exit::Exception(TrappedException {
            exception: Exception::ud(),
            software: false
        })
    );
    assert_eq!(undefined.reads.get(), 1);

    let breakpoint = Recorded::interrupted(0x8000_0603);
    assert_eq!(
        decode(0, &breakpoint),
        Exit::Exception(TrappedException {
            exception: Exception::new(vector::BP),
            software: true
        })
    );
    assert_eq!(decode(0, &Recorded::interrupted(0x8000_0202)), Exit::Nmi);
    assert_eq!(
        decode(0, &Recorded::interrupted(0x0000_0306)),
        Exit::Unknown(0)
    );
    assert_eq!(
        decode(0, &Recorded::interrupted(0x8000_0730)),
        Exit::Unknown(0)
    );
}

#[test]
fn control_registers() {
    let access = |qualification| decode(28, &Recorded::qualified(qualification));
    assert_eq!(
        access(0x300),
        Exit::CrAccess(CrAccess::Write {
            cr: ControlRegister::Cr0,
            source: Gpr::Rbx
        })
    );
    assert_eq!(
        access(0xf18),
        Exit::CrAccess(CrAccess::Read {
            cr: ControlRegister::Cr8,
            destination: Gpr::R15
        })
    );
    assert_eq!(access(0x20), Exit::CrAccess(CrAccess::Clts));
    assert_eq!(access(0xabcd_0030), Exit::CrAccess(CrAccess::Lmsw(0xabcd)));
    assert_eq!(access(0x001), Exit::Unknown(28));
}

#[test]
fn debug_registers() {
    assert_eq!(
        decode(29, &Recorded::qualified(0x217)),
        Exit::DrAccess(DrAccess {
            number: 7,
            direction: Direction::In,
            gpr: Gpr::Rdx
        })
    );
}

#[test]
fn port_accesses() {
    let out = Recorded::qualified(0x03f8_0000);
    assert_eq!(
        decode(30, &out),
        Exit::Io(IoAccess {
            port: 0x3f8,
            size: 1,
            direction: Direction::Out,
            string: None,
            rep: false
        })
    );
    assert_eq!(out.reads.get(), 1);

    // REP OUTSD from FS with 32-bit addresses.
    let string = Recorded {
        qualification: 0x0cfc_0033,
        instruction: 1 << 7 | 4 << 15,
        ..Recorded::default()
    };
    assert_eq!(
        decode(30, &string),
        Exit::Io(IoAccess {
            port: 0xcfc,
            size: 4,
            direction: Direction::Out,
            string: Some(StringIo {
                address_size: 4,
                segment: SegReg::Fs
            }),
            rep: true
        })
    );
}

#[test]
fn ept_violations() {
    let info = Recorded {
        // A write to a read-only, executable page.
        qualification: 0x1aa,
        gpa: 0xfee0_0300,
        ..Recorded::default()
    };
    assert_eq!(
        decode(48, &info),
        Exit::NestedFault(NestedFault {
            gpa: Gpa::new(0xfee0_0300),
            read: false,
            write: true,
            fetch: false,
            present: true,
            walk: false
        })
    );
    // The page walk's access, to a page that is not mapped.
    let walk = decode(48, &Recorded::qualified(0x083));
    assert!(matches!(
        walk,
        Exit::NestedFault(NestedFault {
            walk: true,
            present: false,
            ..
        })
    ));
    assert!(nmi_unblocked_by_iret(0x1000));
}

#[test]
fn apic_and_task_exits() {
    assert_eq!(
        decode(44, &Recorded::qualified(0x10b0)),
        Exit::ApicAccess(ApicAccess {
            offset: 0xb0,
            kind: ApicAccessKind::Write
        })
    );
    assert_eq!(decode(44, &Recorded::qualified(0x7000)), Exit::Unknown(44));
    assert_eq!(
        decode(56, &Recorded::qualified(0x300)),
        Exit::ApicWrite(0x300)
    );
    assert_eq!(
        decode(45, &Recorded::qualified(0xec)),
        Exit::VirtualizedEoi(0xec)
    );
    assert_eq!(
        decode(9, &Recorded::qualified(0xc000_0028)),
        Exit::TaskSwitch(TaskSwitch {
            selector: 0x28,
            source: TaskSwitchSource::Gate
        })
    );
}

#[test]
fn events_in_flight() {
    assert_eq!(vectored_event(&Recorded::default()), None);
    let page_fault = Recorded {
        vectoring: 0x8000_0b0e,
        vectoring_error: 2,
        length: 7,
        ..Recorded::default()
    };
    assert_eq!(
        vectored_event(&page_fault),
        Some(Event {
            kind: EventKind::HardwareException,
            vector: 14,
            error_code: Some(2),
            instruction_length: 0
        })
    );
    let int80 = Recorded {
        vectoring: 0x8000_0480,
        length: 2,
        ..Recorded::default()
    };
    assert_eq!(
        vectored_event(&int80),
        Some(Event {
            kind: EventKind::SoftwareInterrupt,
            vector: 0x80,
            error_code: None,
            instruction_length: 2
        })
    );
    assert_eq!(
        acknowledged_vector(&Recorded::interrupted(0x8000_00ec)),
        Some(0xec)
    );
    assert_eq!(acknowledged_vector(&Recorded::interrupted(0xec)), None);
}

#[test]
fn every_reason_decodes_and_every_unknown_says_so() {
    let info = Recorded::interrupted(0x8000_0306);
    for reason in 0..=0xffff {
        let exit = decode(reason, &info);
        if reason_name(reason) == "unknown exit reason" {
            assert_eq!(exit, Exit::Unknown(reason));
        }
    }
}

#[test]
fn names() {
    assert_eq!(reason_name(0x8000_0021), "invalid guest state");
    assert_eq!(
        instruction_error_name(7),
        "entry with invalid control field"
    );
    assert_eq!(instruction_error_name(99), "unknown VM-instruction error");
}
