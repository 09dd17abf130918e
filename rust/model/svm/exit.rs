// SPDX-License-Identifier: GPL-2.0-only

//! #VMEXITs, decoded (APM vol. 2, sections 15.7 to 15.14 and 15.25.6, app. C).
//!
//! SVM says less than VMX does. Without decode assists (section 15.8) it does not tell which general register a MOV CR or
//! MOV DR names, and never tells the operand of LMSW and SMSW: [`Decoded::NeedsInstruction`] asks the caller
//! for the decoded instruction, and [`NeedsInstruction::complete`] makes an exit of it.

use super::avic::{self, IncompleteIpi};
use super::caps::Features;
use super::vmcb::Vmcb;
use crate::model::addr::{Gpa, Gva};
use crate::model::exit::{
    ControlRegister, CrAccess, Direction, DrAccess, EntryFailure, Exit, IoAccess, NestedFault,
    StringIo, TaskSwitch, TaskSwitchSource, TrappedException,
};
use crate::model::x86::{dr6, vector, Exception, Gpr, SegReg};

pub mod code;
mod instruction;

pub use instruction::{Completed, NeedsInstruction};

/// The fields of a VMCB that describe an exit.
pub trait ExitInfo {
    /// EXITINFO1.
    fn exitinfo1(&self) -> u64;
    /// EXITINFO2.
    fn exitinfo2(&self) -> u64;
    /// EXITINTINFO.
    fn exitintinfo(&self) -> u64;
    /// nRIP.
    fn nrip(&self) -> u64;
    /// DR6 in the state-save area. It must have been [`dr6::INIT`] at the entry, for what an intercepted #DB
    /// has added to show.
    fn dr6(&self) -> u64;
}

impl ExitInfo for Vmcb {
    #[inline(always)]
    fn exitinfo1(&self) -> u64 {
        self.control.exitinfo1
    }

    #[inline(always)]
    fn exitinfo2(&self) -> u64 {
        self.control.exitinfo2
    }

    #[inline(always)]
    fn exitintinfo(&self) -> u64 {
        self.control.exitintinfo
    }

    #[inline(always)]
    fn nrip(&self) -> u64 {
        self.control.nrip
    }

    #[inline(always)]
    fn dr6(&self) -> u64 {
        self.save.dr6
    }
}

/// What an exit turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// One that the shared code handles.
    Exit(Exit),
    /// The guest is about to execute IRET, and with it to unblock NMIs. Without virtual NMIs this is how the
    /// backend learns of that: it is to let the IRET run (without this intercept) and look again after it.
    Iret,
    /// One whose operands only the instruction tells.
    NeedsInstruction(NeedsInstruction),
}

/// Decodes the exit with this code.
#[inline]
pub fn decode(code: u64, features: &Features, info: &impl ExitInfo) -> Decoded {
    Decoded::Exit(match code {
        code::NPF => nested_page_fault(info),
        code::IOIO => return io(features, info),
        code::INTR => Exit::ExternalInterrupt,
        code::MSR if info.exitinfo1() & MSR_WRITE != 0 => Exit::Wrmsr,
        code::MSR => Exit::Rdmsr,
        code::VINTR => Exit::InterruptWindow,
        code::HLT | code::IDLE_HLT => Exit::Hlt,
        code::CPUID => Exit::Cpuid,
        code::CR_READ..=code::CR_WRITE_LAST => return cr_access(code, features, info),
        code::CR0_SEL_WRITE => return cr_access(code::CR_WRITE, features, info),
        code::DR_READ..=code::DR_WRITE_LAST => return dr_access(code, features, info),
        code::EXCEPTION..=code::EXCEPTION_LAST => exception(code, info),
        code::NMI => Exit::Nmi,
        code::SMI => Exit::Smi,
        code::INIT => Exit::Init,
        code::IDTR_READ..=code::TR_WRITE => Exit::DescriptorTable,
        code::RDTSC => Exit::Rdtsc,
        code::RDPMC => Exit::Rdpmc,
        code::IRET => return Decoded::Iret,
        code::INVD => Exit::Invd,
        code::PAUSE => Exit::Pause,
        code::INVLPG if features.decode_assists => Exit::Invlpg(Gva::new(info.exitinfo1())),
        code::INVLPG => return Decoded::NeedsInstruction(NeedsInstruction::Invlpg),
        code::TASK_SWITCH => Exit::TaskSwitch(task_switch(info)),
        code::SHUTDOWN => Exit::TripleFault,
        code::VMMCALL => Exit::Hypercall,
        // These, too, are instructions that no guest has: #UD is the answer to all of them.
        code::RDPRU
        | code::RSM
        | code::MCOMMIT
        | code::INVLPGB
        | code::INVLPGB_ILLEGAL
        | code::TLBSYNC => Exit::Virtualization,
        code::VMRUN | code::VMLOAD..=code::SKINIT | code::INVLPGA => Exit::Virtualization,
        code::RDTSCP => Exit::Rdtscp,
        code::ICEBP => Exit::Exception(TrappedException {
            exception: Exception::db(0),
            software: true,
        }),
        code::WBINVD => Exit::Wbinvd,
        code::MONITOR => Exit::Monitor,
        code::MWAIT | code::MWAIT_CONDITIONAL => Exit::Mwait,
        code::XSETBV => Exit::Xsetbv,
        code::INVPCID => Exit::Invpcid,
        code::BUS_LOCK => Exit::BusLock,
        code::AVIC_NOACCEL => avic::no_acceleration(info.exitinfo1()),
        code::AVIC_INCOMPLETE_IPI => incomplete_ipi(info),
        _ if code::is_entry_failure(code) => Exit::EntryFailure(EntryFailure {
            reason: code as u32,
            qualification: info.exitinfo1(),
        }),
        _ => Exit::Unknown(code as u32),
    })
}

/// Returns the address of the instruction after the one that exited, or `None` if only its decoded length
/// tells (section 15.7.1).
///
/// I/O instructions store it on every processor (section 15.10.2), others with NRIP-save. For exits that no
/// instruction caused the field is 0, or of no meaning.
#[inline]
pub fn next_rip(code: u64, features: &Features, info: &impl ExitInfo) -> Option<u64> {
    if code == code::IOIO {
        return Some(info.exitinfo2());
    }
    let next = info.nrip();
    (features.nrips && next != 0).then_some(next)
}

/// An IPI that has been delivered, but not to vCPUs that run, is no exit that the shared code knows: a backend
/// that turns AVIC on looks for it first.
#[cold]
fn incomplete_ipi(info: &impl ExitInfo) -> Exit {
    IncompleteIpi::new(info.exitinfo1(), info.exitinfo2())
        .exit()
        .unwrap_or(Exit::Unknown(code::AVIC_INCOMPLETE_IPI as u32))
}

/// EXITINFO1 of an MSR access (section 15.11).
const MSR_WRITE: u64 = 1 << 0;

/// EXITINFO1 of a nested page fault (section 15.25.6): a page-fault error code, and in the upper half which
/// access it was.
const NPF_PRESENT: u64 = 1 << 0;
const NPF_WRITE: u64 = 1 << 1;
const NPF_RESERVED: u64 = 1 << 3;
const NPF_FETCH: u64 = 1 << 4;
/// Bit 33: the access was a read or write of the guest's own page tables.
const NPF_TABLE: u64 = 1 << 33;

#[inline]
fn nested_page_fault(info: &impl ExitInfo) -> Exit {
    let error = info.exitinfo1();
    let gpa = Gpa::new(info.exitinfo2());
    if error & NPF_RESERVED != 0 {
        return Exit::NestedMisconfiguration(gpa);
    }
    let write = error & NPF_WRITE != 0;
    let fetch = error & NPF_FETCH != 0;
    Exit::NestedFault(NestedFault {
        gpa,
        read: !write && !fetch,
        write,
        fetch,
        present: error & NPF_PRESENT != 0,
        walk: error & NPF_TABLE != 0,
    })
}

/// EXITINFO1 of an intercepted exception is the error code, EXITINFO2 of #PF the address
/// (section 15.12).
#[inline]
fn exception(code: u64, info: &impl ExitInfo) -> Exit {
    let vector = (code - code::EXCEPTION) as u8;
    if vector == vector::NMI {
        return Exit::Unknown(code as u32);
    }
    Exit::Exception(TrappedException {
        exception: Exception {
            vector,
            error_code: vector::has_error_code(vector).then(|| info.exitinfo1() as u32),
            payload: match vector {
                vector::PF => Some(info.exitinfo2()),
                // DR6 has been written by then: what differs from the initial state has just happened.
                vector::DB => Some(info.dr6() ^ dr6::INIT),
                _ => None,
            },
        },
        software: matches!(vector, vector::BP | vector::OF),
    })
}

/// EXITINFO1 of a control- or debug-register access, with decode assists (section 15.8.1): the general register
/// in bits 3:0, and for control registers bit 63 if it was a MOV.
const GPR_MASK: u64 = 0xf;
const IS_MOV: u64 = 1 << 63;

/// The register's number in the exit code.
const NUMBER_MASK: u64 = 0xf;

#[inline]
fn cr_access(code: u64, features: &Features, info: &impl ExitInfo) -> Decoded {
    let number = (code & NUMBER_MASK) as u8;
    let Some(cr) = ControlRegister::from_number(number) else {
        return Decoded::Exit(Exit::Unknown(code as u32));
    };
    let direction = if code >= code::CR_WRITE {
        Direction::Out
    } else {
        Direction::In
    };
    if !features.decode_assists || info.exitinfo1() & IS_MOV == 0 {
        return Decoded::NeedsInstruction(NeedsInstruction::Cr { cr, direction });
    }
    let gpr = Gpr::from_low4((info.exitinfo1() & GPR_MASK) as u8);
    Decoded::Exit(Exit::CrAccess(mov_cr(cr, direction, gpr)))
}

const fn mov_cr(cr: ControlRegister, direction: Direction, gpr: Gpr) -> CrAccess {
    match direction {
        Direction::In => CrAccess::Read {
            cr,
            destination: gpr,
        },
        Direction::Out => CrAccess::Write { cr, source: gpr },
    }
}

#[inline]
fn dr_access(code: u64, features: &Features, info: &impl ExitInfo) -> Decoded {
    /// Above, instructions raise #UD before they can exit.
    const LAST: u8 = 7;
    let number = (code & NUMBER_MASK) as u8;
    if number > LAST {
        return Decoded::Exit(Exit::Unknown(code as u32));
    }
    let direction = if code >= code::DR_WRITE {
        Direction::Out
    } else {
        Direction::In
    };
    if !features.decode_assists {
        return Decoded::NeedsInstruction(NeedsInstruction::Dr { number, direction });
    }
    Decoded::Exit(Exit::DrAccess(DrAccess {
        number,
        direction,
        gpr: Gpr::from_low4((info.exitinfo1() & GPR_MASK) as u8),
    }))
}

/// EXITINFO1 of an I/O instruction (section 15.10.2, figure 15-2).
const IO_IN: u64 = 1 << 0;
const IO_STRING: u64 = 1 << 2;
const IO_REP: u64 = 1 << 3;
/// Bits 6:4: the size as a power of two, one bit each for 1, 2 and 4 bytes.
const IO_SIZE_SHIFT: u32 = 4;
const IO_SIZE_MASK: u64 = 7;
/// Bits 9:7: the address size, one bit each for 2, 4 and 8 bytes.
const IO_ADDRESS_16: u64 = 1 << 7;
const IO_ADDRESS_32: u64 = 1 << 8;
const IO_ADDRESS_64: u64 = 1 << 9;
/// Bits 12:10, with decode assists: the segment of OUTS.
const IO_SEGMENT_SHIFT: u32 = 10;
const IO_SEGMENT_MASK: u64 = 7;
/// Bits 31:16: the port.
const IO_PORT_SHIFT: u32 = 16;

#[inline]
fn io(features: &Features, info: &impl ExitInfo) -> Decoded {
    let exitinfo1 = info.exitinfo1();
    let mut access = IoAccess {
        port: (exitinfo1 >> IO_PORT_SHIFT) as u16,
        size: match exitinfo1 >> IO_SIZE_SHIFT & IO_SIZE_MASK {
            1 => 1,
            2 => 2,
            _ => 4,
        },
        direction: if exitinfo1 & IO_IN != 0 {
            Direction::In
        } else {
            Direction::Out
        },
        string: None,
        rep: exitinfo1 & IO_REP != 0,
    };
    if exitinfo1 & IO_STRING != 0 {
        match string_io(features, exitinfo1, access.direction) {
            Some(string) => access.string = Some(string),
            None => {
                return Decoded::NeedsInstruction(NeedsInstruction::StringIo(access));
            }
        }
    }
    Decoded::Exit(Exit::Io(access))
}

/// Returns the memory operand of INS or OUTS, if the processor tells all of it.
fn string_io(features: &Features, exitinfo1: u64, direction: Direction) -> Option<StringIo> {
    let address_size = match exitinfo1 & (IO_ADDRESS_16 | IO_ADDRESS_32 | IO_ADDRESS_64) {
        IO_ADDRESS_16 => 2,
        IO_ADDRESS_32 => 4,
        IO_ADDRESS_64 => 8,
        _ => return None,
    };
    let segment = match direction {
        Direction::In => SegReg::Es,
        Direction::Out if features.decode_assists => {
            SegReg::from_number((exitinfo1 >> IO_SEGMENT_SHIFT & IO_SEGMENT_MASK) as u8)?
        }
        Direction::Out => return None,
    };
    Some(StringIo {
        address_size,
        segment,
    })
}

/// EXITINFO2 of a task switch (section 15.14.1).
const TASK_IRET: u64 = 1 << 36;
const TASK_JMP: u64 = 1 << 38;
/// Bit 31 of EXITINTINFO: an event was being delivered, so it was a task gate.
const EVENT_VALID: u64 = 1 << 31;

fn task_switch(info: &impl ExitInfo) -> TaskSwitch {
    let exitinfo2 = info.exitinfo2();
    TaskSwitch {
        selector: info.exitinfo1() as u16,
        source: if exitinfo2 & TASK_IRET != 0 {
            TaskSwitchSource::Iret
        } else if exitinfo2 & TASK_JMP != 0 {
            TaskSwitchSource::Jmp
        } else if info.exitintinfo() & EVENT_VALID != 0 {
            TaskSwitchSource::Gate
        } else {
            TaskSwitchSource::Call
        },
    }
}

#[cfg(test)]
mod tests;
