// SPDX-License-Identifier: GPL-2.0-only

//! VM exits, decoded (SDM vol. 3, chapter 28, section 25.9 and app. C).

use super::event::InterruptionInfo;
use crate::model::addr::Gpa;
use crate::model::addr::Gva;
use crate::model::exit::ApicAccess;
use crate::model::exit::ApicAccessKind;
use crate::model::exit::ControlRegister;
use crate::model::exit::CrAccess;
use crate::model::exit::Direction;
use crate::model::exit::DrAccess;
use crate::model::exit::EntryFailure;
use crate::model::exit::Event;
use crate::model::exit::EventKind;
use crate::model::exit::Exit;
use crate::model::exit::IoAccess;
use crate::model::exit::NestedFault;
use crate::model::exit::StringIo;
use crate::model::exit::TaskSwitch;
use crate::model::exit::TaskSwitchSource;
use crate::model::exit::TrappedException;
use crate::model::x86::vector;
use crate::model::x86::Exception;
use crate::model::x86::Gpr;
use crate::model::x86::SegReg;

mod name;
pub mod reason;

pub use name::instruction_error_name;
pub use name::reason_name;

/// Bits 15:0 of the exit reason: the basic reason.
const BASIC_REASON: u32 = 0xffff;

/// Bit 31 of the exit reason: the entry failed.
const ENTRY_FAILED: u32 = 1 << 31;

/// The VM-exit information fields, read when they are needed.
///
/// Each method is one VMREAD, so an exit reads only the fields that describe it.
pub trait ExitInfo {
    /// Exit qualification.
    fn qualification(&self) -> u64;
    /// Guest-physical address.
    fn guest_physical_address(&self) -> u64;
    /// VM-exit interruption information.
    fn interruption_info(&self) -> u32;
    /// VM-exit interruption error code.
    fn interruption_error_code(&self) -> u32;
    /// IDT-vectoring information field.
    fn idt_vectoring_info(&self) -> u32;
    /// IDT-vectoring error code.
    fn idt_vectoring_error_code(&self) -> u32;
    /// VM-exit instruction length in bytes.
    fn instruction_length(&self) -> u32;
    /// VM-exit instruction information.
    fn instruction_info(&self) -> u32;
}

/// Decodes the exit whose exit-reason field is `raw`.
#[inline]
pub fn decode(raw: u32, info: &impl ExitInfo) -> Exit {
    if raw & ENTRY_FAILED != 0 {
        return entry_failure(raw, info);
    }
    match raw & BASIC_REASON {
        reason::EXCEPTION_OR_NMI => exception(raw, info),
        reason::EXTERNAL_INTERRUPT => Exit::ExternalInterrupt,
        reason::TRIPLE_FAULT => Exit::TripleFault,
        reason::INIT => Exit::Init,
        reason::SIPI => Exit::Sipi(info.qualification() as u8),
        reason::IO_SMI | reason::OTHER_SMI => Exit::Smi,
        reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
        reason::NMI_WINDOW => Exit::NmiWindow,
        reason::TASK_SWITCH => Exit::TaskSwitch(task_switch(info.qualification())),
        reason::CPUID => Exit::Cpuid,
        reason::HLT => Exit::Hlt,
        reason::INVD => Exit::Invd,
        reason::INVLPG => Exit::Invlpg(Gva::new(info.qualification())),
        reason::RDPMC => Exit::Rdpmc,
        reason::RDTSC => Exit::Rdtsc,
        reason::VMCALL => Exit::Hypercall,
        reason::GETSEC
        | reason::RSM
        | reason::VMCLEAR..=reason::VMXON
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC => Exit::Virtualization,
        reason::CR_ACCESS => cr_access(raw, info.qualification()),
        reason::DR_ACCESS => Exit::DrAccess(dr_access(info.qualification())),
        reason::IO_INSTRUCTION => Exit::Io(io_access(info)),
        reason::RDMSR => Exit::Rdmsr,
        reason::WRMSR => Exit::Wrmsr,
        reason::MWAIT => Exit::Mwait,
        reason::MONITOR_TRAP_FLAG => Exit::MonitorTrap,
        reason::MONITOR => Exit::Monitor,
        reason::PAUSE => Exit::Pause,
        reason::TPR_BELOW_THRESHOLD => Exit::TprBelowThreshold,
        reason::APIC_ACCESS => apic_access(raw, info.qualification()),
        reason::VIRTUALIZED_EOI => Exit::VirtualizedEoi(info.qualification() as u8),
        reason::GDTR_IDTR_ACCESS | reason::LDTR_TR_ACCESS => Exit::DescriptorTable,
        reason::EPT_VIOLATION => Exit::NestedFault(ept_violation(info)),
        reason::EPT_MISCONFIGURATION => {
            Exit::NestedMisconfiguration(Gpa::new(info.guest_physical_address()))
        }
        reason::RDTSCP => Exit::Rdtscp,
        reason::PREEMPTION_TIMER => Exit::PreemptionTimer,
        reason::WBINVD => Exit::Wbinvd,
        reason::XSETBV => Exit::Xsetbv,
        reason::APIC_WRITE => Exit::ApicWrite((info.qualification() & APIC_OFFSET) as u16),
        reason::RDRAND => Exit::Rdrand,
        reason::INVPCID => Exit::Invpcid,
        reason::ENCLS | reason::ENCLV => Exit::Enclave,
        reason::RDSEED => Exit::Rdseed,
        reason::PML_FULL => Exit::ModificationLogFull,
        reason::XSAVES => Exit::Xsaves,
        reason::XRSTORS => Exit::Xrstors,
        reason::UMWAIT | reason::TPAUSE => Exit::UserWait,
        reason::BUS_LOCK => Exit::BusLock,
        _ => Exit::Unknown(raw),
    }
}

#[cold]
fn entry_failure(raw: u32, info: &impl ExitInfo) -> Exit {
    match raw & BASIC_REASON {
        reason::MACHINE_CHECK => Exit::MachineCheckDuringEntry,
        _ => Exit::EntryFailure(EntryFailure {
            reason: raw,
            qualification: info.qualification(),
        }),
    }
}

/// Decodes an exit by an exception or an NMI (section 25.9.2).
#[inline]
fn exception(raw: u32, info: &impl ExitInfo) -> Exit {
    let interruption = InterruptionInfo::new(info.interruption_info());
    if !interruption.is_valid() {
        return Exit::Unknown(raw);
    }
    let software = match interruption.kind() {
        Some(EventKind::Nmi) => return Exit::Nmi,
        Some(EventKind::HardwareException) => false,
        Some(EventKind::PrivilegedSoftwareException | EventKind::SoftwareException) => true,
        _ => return Exit::Unknown(raw),
    };
    let vector = interruption.vector();
    let error_code = interruption
        .has_error_code()
        .then(|| info.interruption_error_code());
    // The faulting address of #PF, the new DR6 bits of #DB (table 28-1).
    let payload = (vector == vector::PF || vector == vector::DB).then(|| info.qualification());
    Exit::Exception(TrappedException {
        exception: Exception {
            vector,
            error_code,
            payload,
        },
        software,
    })
}

/// Returns the event that was being delivered when the exit happened, if any (section 25.9.3).
///
/// It has not been delivered, and must be injected again unless the exit's handler replaces it.
#[inline]
pub fn vectored_event(info: &impl ExitInfo) -> Option<Event> {
    let vectoring = InterruptionInfo::new(info.idt_vectoring_info());
    if !vectoring.is_valid() {
        return None;
    }
    let kind = vectoring.kind()?;
    Some(Event {
        kind,
        vector: vectoring.vector(),
        error_code: vectoring
            .has_error_code()
            .then(|| info.idt_vectoring_error_code()),
        instruction_length: if kind.has_instruction() {
            info.instruction_length() as u8
        } else {
            0
        },
    })
}

/// Returns the vector of the external interrupt that an exit acknowledged, or `None` if it is still
/// pending.
#[inline]
pub fn acknowledged_vector(info: &impl ExitInfo) -> Option<u8> {
    let interruption = InterruptionInfo::new(info.interruption_info());
    interruption.is_valid().then(|| interruption.vector())
}

/// Exit qualification of a task switch (table 28-2): bits 15:0 and 31:30.
const TASK_SOURCE_SHIFT: u32 = 30;
const TASK_SOURCE_MASK: u64 = 3;

fn task_switch(qualification: u64) -> TaskSwitch {
    TaskSwitch {
        selector: qualification as u16,
        source: match qualification >> TASK_SOURCE_SHIFT & TASK_SOURCE_MASK {
            0 => TaskSwitchSource::Call,
            1 => TaskSwitchSource::Iret,
            2 => TaskSwitchSource::Jmp,
            _ => TaskSwitchSource::Gate,
        },
    }
}

/// Exit qualification of a control-register access (table 28-3): the register's number in bits 3:0,
/// the access type in 5:4, the general register in 11:8, the source of LMSW in 31:16.
const CR_NUMBER_MASK: u64 = 0xf;
const CR_TYPE_SHIFT: u32 = 4;
const CR_TYPE_MASK: u64 = 3;
const CR_TYPE_WRITE: u64 = 0;
const CR_TYPE_READ: u64 = 1;
const CR_TYPE_CLTS: u64 = 2;
const LMSW_SOURCE_SHIFT: u32 = 16;

/// The general register in bits 11:8, of control- and debug-register accesses.
const GPR_SHIFT: u32 = 8;

#[inline]
fn cr_access(raw: u32, qualification: u64) -> Exit {
    let gpr = Gpr::from_low4((qualification >> GPR_SHIFT) as u8);
    let number = (qualification & CR_NUMBER_MASK) as u8;
    Exit::CrAccess(match qualification >> CR_TYPE_SHIFT & CR_TYPE_MASK {
        CR_TYPE_WRITE => match ControlRegister::from_number(number) {
            Some(cr) => CrAccess::Write { cr, source: gpr },
            None => return Exit::Unknown(raw),
        },
        CR_TYPE_READ => match ControlRegister::from_number(number) {
            Some(cr) => CrAccess::Read {
                cr,
                destination: gpr,
            },
            None => return Exit::Unknown(raw),
        },
        CR_TYPE_CLTS => CrAccess::Clts,
        _ => CrAccess::Lmsw((qualification >> LMSW_SOURCE_SHIFT) as u16),
    })
}

/// Exit qualification of a debug-register access (table 28-4): the number in bits 2:0, the direction
/// in bit 4.
const DR_NUMBER_MASK: u64 = 7;
const DR_READ: u64 = 1 << 4;

#[inline]
fn dr_access(qualification: u64) -> DrAccess {
    DrAccess {
        number: (qualification & DR_NUMBER_MASK) as u8,
        direction: if qualification & DR_READ != 0 {
            Direction::In
        } else {
            Direction::Out
        },
        gpr: Gpr::from_low4((qualification >> GPR_SHIFT) as u8),
    }
}

/// Exit qualification of an I/O instruction (table 28-5): size less one in bits 2:0, then flags, and
/// the port in bits 31:16.
const IO_SIZE_MASK: u64 = 7;
const IO_IN: u64 = 1 << 3;
const IO_STRING: u64 = 1 << 4;
const IO_REP: u64 = 1 << 5;
const IO_PORT_SHIFT: u32 = 16;

/// Instruction information of INS and OUTS (table 28-9): the address size in bits 9:7 as the power of
/// two of 16-bit words, the segment in bits 17:15.
const STRING_ADDRESS_SHIFT: u32 = 7;
const STRING_ADDRESS_MASK: u32 = 7;
const STRING_SEGMENT_SHIFT: u32 = 15;
const STRING_SEGMENT_MASK: u32 = 7;

#[inline]
fn io_access(info: &impl ExitInfo) -> IoAccess {
    let qualification = info.qualification();
    IoAccess {
        port: (qualification >> IO_PORT_SHIFT) as u16,
        size: (qualification & IO_SIZE_MASK) as u8 + 1,
        direction: if qualification & IO_IN != 0 {
            Direction::In
        } else {
            Direction::Out
        },
        string: (qualification & IO_STRING != 0).then(|| string_io(info.instruction_info())),
        rep: qualification & IO_REP != 0,
    }
}

fn string_io(instruction: u32) -> StringIo {
    let segment = (instruction >> STRING_SEGMENT_SHIFT & STRING_SEGMENT_MASK) as u8;
    StringIo {
        address_size: match instruction >> STRING_ADDRESS_SHIFT & STRING_ADDRESS_MASK {
            0 => 2,
            1 => 4,
            _ => 8,
        },
        segment: SegReg::from_number(segment).unwrap_or(SegReg::Ds),
    }
}

/// Exit qualification of an APIC access (table 28-6): the offset in bits 11:0, the type in 15:12.
const APIC_OFFSET: u64 = 0xfff;
const APIC_TYPE_SHIFT: u32 = 12;
const APIC_TYPE_MASK: u64 = 0xf;

fn apic_access(raw: u32, qualification: u64) -> Exit {
    let kind = match qualification >> APIC_TYPE_SHIFT & APIC_TYPE_MASK {
        0 => ApicAccessKind::Read,
        1 => ApicAccessKind::Write,
        2 => ApicAccessKind::Fetch,
        3 | 10 => ApicAccessKind::EventDelivery,
        15 => ApicAccessKind::Physical,
        _ => return Exit::Unknown(raw),
    };
    Exit::ApicAccess(ApicAccess {
        offset: (qualification & APIC_OFFSET) as u16,
        kind,
    })
}

/// Exit qualification of an EPT violation (table 28-7).
const EPT_READ: u64 = 1 << 0;
const EPT_WRITE: u64 = 1 << 1;
const EPT_FETCH: u64 = 1 << 2;
/// Bits 5:3: the rights that the entries together give.
const EPT_RIGHTS: u64 = 7 << 3;
/// Bit 7: the guest-linear address is valid.
const EPT_LINEAR_VALID: u64 = 1 << 7;
/// Bit 8: the access was to the translated linear address, not to a paging-structure entry.
const EPT_FINAL: u64 = 1 << 8;
/// Bit 12: IRET had unblocked NMIs.
const EPT_NMI_UNBLOCKED: u64 = 1 << 12;

#[inline]
fn ept_violation(info: &impl ExitInfo) -> NestedFault {
    let qualification = info.qualification();
    NestedFault {
        gpa: Gpa::new(info.guest_physical_address()),
        read: qualification & EPT_READ != 0,
        write: qualification & EPT_WRITE != 0,
        fetch: qualification & EPT_FETCH != 0,
        present: qualification & EPT_RIGHTS != 0,
        walk: qualification & (EPT_LINEAR_VALID | EPT_FINAL) == EPT_LINEAR_VALID,
    }
}

/// Returns true if an EPT violation or a full page-modification log hit an IRET that had already
/// unblocked NMIs: blocking by NMI must be put back, unless an event was being delivered
/// (section 28.2.3).
#[inline]
pub fn nmi_unblocked_by_iret(qualification: u64) -> bool {
    qualification & EPT_NMI_UNBLOCKED != 0
}

#[cfg(test)]
mod tests;
