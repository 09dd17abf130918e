// SPDX-License-Identifier: GPL-2.0-only

//! Bits of the control, debug and flag registers.

/// CR0 (SDM vol. 3, 2.5).
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// x87 emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type: always 1.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect: supervisor writes obey read-only pages.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;

    /// All defined bits.
    pub const ALL: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR3 (SDM vol. 3, 2.5 and 4.5).
pub mod cr3 {
    /// Page-level write-through.
    pub const PWT: u64 = 1 << 3;
    /// Page-level cache disable.
    pub const PCD: u64 = 1 << 4;
    /// The process-context identifier, with CR4.PCIDE.
    pub const PCID: u64 = 0xfff;
    /// Linear-address masking, 57-bit user addresses.
    pub const LAM_U57: u64 = 1 << 61;
    /// Linear-address masking, 48-bit user addresses.
    pub const LAM_U48: u64 = 1 << 62;
    /// In a MOV to CR3 with CR4.PCIDE: keep the TLB entries of the PCID.
    pub const NO_FLUSH: u64 = 1 << 63;
}

/// CR4 (SDM vol. 3, 2.5).
pub mod cr4 {
    /// Virtual-8086 mode extensions.
    pub const VME: u64 = 1 << 0;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// RDTSC for CPL 0 only.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions: DR4 and DR5 raise #UD.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions: 4-MiB pages in 2-level paging.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Page global enable.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC at any CPL.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE supported by the OS.
    pub const OSFXSR: u64 = 1 << 9;
    /// Unmasked SIMD exceptions supported by the OS.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// 57-bit linear addresses: 5-level paging.
    pub const LA57: u64 = 1 << 12;
    /// VMX enable.
    pub const VMXE: u64 = 1 << 13;
    /// SMX enable.
    pub const SMXE: u64 = 1 << 14;
    /// RDFSBASE and its kin.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE and XCR0 enabled by the OS.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Key Locker.
    pub const KL: u64 = 1 << 19;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
    /// Protection keys for user pages.
    pub const PKE: u64 = 1 << 22;
    /// Control-flow enforcement.
    pub const CET: u64 = 1 << 23;
    /// Protection keys for supervisor pages.
    pub const PKS: u64 = 1 << 24;
    /// User interrupts.
    pub const UINTR: u64 = 1 << 25;
    /// Linear-address masking of supervisor addresses.
    pub const LAM_SUP: u64 = 1 << 28;
}

/// IA32_EFER (SDM vol. 3, 2.2.1; APM vol. 2, 3.1.7).
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// Secure virtual machine enable (AMD).
    pub const SVME: u64 = 1 << 12;
    /// Long mode segment limit enable (AMD).
    pub const LMSLE: u64 = 1 << 13;
    /// Fast FXSAVE (AMD).
    pub const FFXSR: u64 = 1 << 14;
    /// Translation cache extension (AMD).
    pub const TCE: u64 = 1 << 15;
    /// Automatic IBRS (AMD).
    pub const AUTOIBRS: u64 = 1 << 21;
}

/// RFLAGS (SDM vol. 1, 3.4.3).
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Always 1.
    pub const FIXED: u64 = 1 << 1;
    /// Parity of the low byte.
    pub const PF: u64 = 1 << 2;
    /// Carry out of bit 3.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// String instructions count down.
    pub const DF: u64 = 1 << 10;
    /// Signed overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << IOPL_SHIFT;
    /// The lowest bit of [`IOPL`].
    pub const IOPL_SHIFT: u32 = 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume: instruction breakpoints are off for one instruction.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check, and SMAP override.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupt flag.
    pub const VIF: u64 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u64 = 1 << 20;
    /// CPUID may be used.
    pub const ID: u64 = 1 << 21;

    /// The six status flags that arithmetic sets.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
    /// All defined bits but [`FIXED`].
    pub const ALL: u64 = STATUS | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}

/// DR6 (SDM vol. 3, 17.2.3).
pub mod dr6 {
    /// Breakpoint conditions 0 to 3 detected.
    pub const B: u64 = 0xf;
    /// Bus-lock detected: 0 when it was, as only this bit and [`RTM`] are inverted.
    pub const BLD: u64 = 1 << 11;
    /// A debug register was accessed under DR7.GD.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch.
    pub const BT: u64 = 1 << 15;
    /// In a transactional region: 0 when it was.
    pub const RTM: u64 = 1 << 16;
    /// The bits that read as 1 when nothing has happened; also the value after reset.
    pub const INIT: u64 = 0xffff_0ff0;
}

/// DR7 (SDM vol. 3, 17.2.4).
pub mod dr7 {
    /// Enable bits, local and global in turn, of breakpoints 0 to 3.
    pub const ENABLE: u64 = 0xff;
    /// Local exact.
    pub const LE: u64 = 1 << 8;
    /// Global exact.
    pub const GE: u64 = 1 << 9;
    /// Always 1; also the value after reset.
    pub const FIXED: u64 = 1 << 10;
    /// Restricted transactional memory debugging.
    pub const RTM: u64 = 1 << 11;
    /// General detect: access to a debug register raises #DB.
    pub const GD: u64 = 1 << 13;
    /// The lowest bit of the condition fields: four bits for each breakpoint, R/W then LEN.
    pub const CONDITIONS_SHIFT: u32 = 16;
}

/// The error code of a page fault (SDM vol. 3, 4.7).
pub mod pf {
    /// The page was present: a protection violation.
    pub const P: u32 = 1 << 0;
    /// The access was a write.
    pub const W: u32 = 1 << 1;
    /// The access was a user-mode one.
    pub const U: u32 = 1 << 2;
    /// A reserved bit was set in a paging-structure entry.
    pub const RSVD: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const I: u32 = 1 << 4;
    /// The protection key denied the access.
    pub const PK: u32 = 1 << 5;
    /// A shadow-stack access.
    pub const SS: u32 = 1 << 6;
}

/// XCR0 and the state components of XSAVE (SDM vol. 1, 13.1).
pub mod xcr0 {
    /// x87 state: always 1.
    pub const X87: u64 = 1 << 0;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of the YMM registers.
    pub const AVX: u64 = 1 << 2;
    /// MPX bound registers.
    pub const BNDREGS: u64 = 1 << 3;
    /// MPX configuration.
    pub const BNDCSR: u64 = 1 << 4;
    /// AVX-512 mask registers.
    pub const OPMASK: u64 = 1 << 5;
    /// Upper halves of ZMM0 to ZMM15.
    pub const ZMM_HI256: u64 = 1 << 6;
    /// ZMM16 to ZMM31.
    pub const HI16_ZMM: u64 = 1 << 7;
    /// Processor trace (IA32_XSS).
    pub const PT: u64 = 1 << 8;
    /// Protection keys (PKRU).
    pub const PKRU: u64 = 1 << 9;
    /// CET user state (IA32_XSS).
    pub const CET_U: u64 = 1 << 11;
    /// CET supervisor state (IA32_XSS).
    pub const CET_S: u64 = 1 << 12;
    /// AMX tile configuration.
    pub const TILECFG: u64 = 1 << 17;
    /// AMX tile data.
    pub const TILEDATA: u64 = 1 << 18;
    /// The three AVX-512 components, which are enabled together.
    pub const AVX512: u64 = OPMASK | ZMM_HI256 | HI16_ZMM;
}

/// IA32_APIC_BASE (SDM vol. 3, 11.4.4 and 11.12.1).
pub mod apic_base {
    /// This CPU is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode enabled.
    pub const EXTD: u64 = 1 << 10;
    /// APIC enabled.
    pub const EN: u64 = 1 << 11;
    /// The address of the register page after reset.
    pub const DEFAULT_ADDR: u64 = 0xfee0_0000;
}

/// IA32_MISC_ENABLE (SDM vol. 4, table 2-2).
pub mod misc_enable {
    /// Fast strings enabled.
    pub const FAST_STRING: u64 = 1 << 0;
    /// Performance monitoring available (read only).
    pub const EMON: u64 = 1 << 7;
    /// Branch-trace storage unavailable (read only).
    pub const BTS_UNAVAIL: u64 = 1 << 11;
    /// Precise event-based sampling unavailable (read only).
    pub const PEBS_UNAVAIL: u64 = 1 << 12;
    /// Enhanced SpeedStep enabled.
    pub const ENHANCED_SPEEDSTEP: u64 = 1 << 16;
    /// MONITOR and MWAIT enabled.
    pub const MWAIT: u64 = 1 << 18;
    /// CPUID reports at most leaf 2.
    pub const LIMIT_CPUID: u64 = 1 << 22;
    /// Execute-disable turned off.
    pub const XD_DISABLE: u64 = 1 << 34;
}
