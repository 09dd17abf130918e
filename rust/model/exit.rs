// SPDX-License-Identifier: GPL-2.0-only

//! Why a guest stopped running, in terms that VT-x and AMD-V share.
//!
//! Each backend decodes its own exit information into [`Exit`], and one `match` in the run loop takes
//! it from there. Operands that sit in general registers (the MSR index, the leaf of CPUID, …) are
//! not part of an exit: the handler reads them where they are.

use super::addr::Gpa;
use super::addr::Gva;
use super::svm::exit::NeedsInstruction;
use super::x86::Exception;
use super::x86::Gpr;
use super::x86::SegReg;

/// A reason to leave the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An interrupt for the host. Whether it has been acknowledged is the backend's choice.
    ExternalInterrupt,
    /// An NMI for the host.
    Nmi,
    /// An exception that is intercepted.
    Exception(TrappedException),
    /// The guest shut down.
    TripleFault,
    /// An INIT signal for the host.
    Init,
    /// A start-up IPI for a guest that waits for one, with its vector.
    Sipi(u8),
    /// A system-management interrupt for the host.
    Smi,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// The guest tried to switch tasks.
    TaskSwitch(TaskSwitch),
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// INVLPG of a linear address.
    Invlpg(Gva),
    /// INVPCID.
    Invpcid,
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDRAND.
    Rdrand,
    /// RDSEED.
    Rdseed,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// An instruction of the virtualisation extension that the guest does not have.
    Virtualization,
    /// An access of a control register.
    CrAccess(CrAccess),
    /// An access of a debug register.
    DrAccess(DrAccess),
    /// An I/O instruction.
    Io(IoAccess),
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// XSETBV.
    Xsetbv,
    /// XSAVES with components that are intercepted.
    Xsaves,
    /// XRSTORS with components that are intercepted.
    Xrstors,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// UMWAIT or TPAUSE.
    UserWait,
    /// PAUSE, or a loop of them.
    Pause,
    /// ENCLS or ENCLV.
    Enclave,
    /// LGDT, LIDT, LLDT, LTR, SGDT, SIDT, SLDT or STR.
    DescriptorTable,
    /// One instruction has been executed under the monitor trap flag.
    MonitorTrap,
    /// The preemption timer expired.
    PreemptionTimer,
    /// An access that the nested page tables do not allow.
    NestedFault(NestedFault),
    /// A nested page-table entry that the processor does not understand, met at this address.
    NestedMisconfiguration(Gpa),
    /// The page-modification log is full.
    ModificationLogFull,
    /// An access of the APIC's page that was not virtualised.
    ApicAccess(ApicAccess),
    /// The guest wrote the register at this offset of the virtual-APIC page; the write is done.
    ApicWrite(u16),
    /// The guest ended an interrupt with this vector, and the vector is of interest.
    VirtualizedEoi(u8),
    /// The guest's task priority fell below the threshold.
    TprBelowThreshold,
    /// The guest acquired a bus lock.
    BusLock,
    /// The processor refused the guest's state.
    EntryFailure(EntryFailure),
    /// A machine check happened during entry.
    MachineCheckDuringEntry,
    /// An instruction of which the processor does not tell the operands.
    Undecoded(NeedsInstruction),
    /// A code that this module does not know, in the backend's terms.
    Unknown(u32),
}

impl Exit {
    /// Returns true for an instruction that is carried out by the module, so that RIP moves behind it.
    #[inline]
    pub const fn is_instruction(&self) -> bool {
        match self {
            Self::Cpuid
            | Self::Hlt
            | Self::Invd
            | Self::Wbinvd
            | Self::Invlpg(_)
            | Self::Hypercall
            | Self::CrAccess(_)
            | Self::DrAccess(_)
            | Self::Io(_)
            | Self::Rdmsr
            | Self::Wrmsr
            | Self::Xsetbv
            | Self::Monitor
            | Self::Mwait
            | Self::Pause
            | Self::Undecoded(_) => true,
            Self::Exception(trapped) => trapped.software,
            _ => false,
        }
    }
}

/// An exception of the guest's, or what looks like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrappedException {
    /// The exception. The payload is there for #PF (the linear address; CR2 is not written) and for
    /// #DB (the bits to set in DR6).
    pub exception: Exception,
    /// INT3, INTO or INT1 raised it, so it has an instruction that it follows.
    pub software: bool,
}

/// The exit information of a failed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// The backend's full exit code: what userspace gets as the hardware's reason.
    pub reason: u32,
    /// More about it, in the backend's terms.
    pub qualification: u64,
}

/// Why a task switch was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitchSource {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    Gate,
}

/// A task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// The selector of the new task's TSS.
    pub selector: u16,
    /// What caused it.
    pub source: TaskSwitchSource,
}

/// A control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRegister {
    /// CR0.
    Cr0,
    /// CR2.
    Cr2,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// CR8.
    Cr8,
}

impl ControlRegister {
    /// Returns the register with this number, or `None` if there is none.
    #[inline]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Cr0),
            2 => Some(Self::Cr2),
            3 => Some(Self::Cr3),
            4 => Some(Self::Cr4),
            8 => Some(Self::Cr8),
            _ => None,
        }
    }
}

/// An access of a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to the control register.
    Write {
        /// The register written.
        cr: ControlRegister,
        /// The register that holds the new value.
        source: Gpr,
    },
    /// MOV from the control register.
    Read {
        /// The register read.
        cr: ControlRegister,
        /// The register that receives the value.
        destination: Gpr,
    },
    /// CLTS.
    Clts,
    /// LMSW with this source operand, of which bits 3:0 count.
    Lmsw(u16),
}

/// Which way data moves between a register and memory, a port or another register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the guest: IN, MOV from.
    In,
    /// Out of the guest: OUT, MOV to.
    Out,
}

/// An access of a debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrAccess {
    /// The debug register's number, 0 to 7.
    pub number: u8,
    /// [`Direction::Out`] for MOV to the debug register.
    pub direction: Direction,
    /// The general register.
    pub gpr: Gpr,
}

/// The memory operand of INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// Bytes of the address, and of the count with REP: 2, 4 or 8.
    pub address_size: u8,
    /// The segment of OUTS; INS always uses ES.
    pub segment: SegReg,
}

/// An I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// Bytes of one access: 1, 2 or 4.
    pub size: u8,
    /// [`Direction::In`] for IN and INS.
    pub direction: Direction,
    /// The memory operand of INS or OUTS.
    pub string: Option<StringIo>,
    /// There is a REP prefix.
    pub rep: bool,
}

/// A guest-physical access that the nested page tables do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// The address accessed.
    pub gpa: Gpa,
    /// The access was a read; also set for the read of a read-modify-write.
    pub read: bool,
    /// The access was a write. With accessed and dirty flags, the processor's walk of the guest's page
    /// tables counts as a write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub fetch: bool,
    /// The entries used allow some access: the page is mapped, and a right is missing.
    pub present: bool,
    /// The access was the processor's walk of the guest's page tables, not the instruction's own.
    pub walk: bool,
}

/// The kind of an access of the APIC's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAccessKind {
    /// A data read by an instruction.
    Read,
    /// A data write by an instruction.
    Write,
    /// An instruction fetch.
    Fetch,
    /// An access during the delivery of an event.
    EventDelivery,
    /// An access by guest-physical address only, such as a page walk.
    Physical,
}

/// An access of the APIC's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicAccess {
    /// The offset within the page, 0 to 4095 bytes; valid for the first three kinds.
    pub offset: u16,
    /// What the access was.
    pub kind: ApicAccessKind,
}

/// The kind of an event that is delivered through the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An external interrupt.
    Interrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// An exception raised by the processor.
    HardwareException,
    /// INT n.
    SoftwareInterrupt,
    /// INT1.
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
}

impl EventKind {
    /// Returns true if an instruction raised the event, so that its length is needed to deliver it.
    #[inline]
    pub const fn has_instruction(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt | Self::PrivilegedSoftwareException | Self::SoftwareException
        )
    }
}

/// An event on its way through the guest's IDT: one to be injected, or one whose delivery was cut
/// short by an exit and must be injected again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub kind: EventKind,
    /// The vector.
    pub vector: u8,
    /// The error code, if one is pushed.
    pub error_code: Option<u32>,
    /// Bytes of the instruction that raised it, 0 if none did.
    pub instruction_length: u8,
}

impl Event {
    /// Makes an external interrupt.
    pub const fn interrupt(vector: u8) -> Self {
        Self {
            kind: EventKind::Interrupt,
            vector,
            error_code: None,
            instruction_length: 0,
        }
    }

    /// Makes an NMI.
    pub const fn nmi() -> Self {
        Self {
            kind: EventKind::Nmi,
            vector: super::x86::vector::NMI,
            error_code: None,
            instruction_length: 0,
        }
    }

    /// Makes an exception as if the processor had raised it. The payload is the caller's to place.
    pub const fn exception(exception: &Exception) -> Self {
        Self {
            kind: EventKind::HardwareException,
            vector: exception.vector,
            error_code: exception.error_code,
            instruction_length: 0,
        }
    }
}
