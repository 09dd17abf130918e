// SPDX-License-Identifier: GPL-2.0-only

//! Exit codes (APM vol. 2, app. C).

/// The first of sixteen: MOV from a control register.
pub const CR_READ: u64 = 0x000;
/// The last of them.
pub const CR_READ_LAST: u64 = 0x00f;
/// The first of sixteen: MOV to a control register.
pub const CR_WRITE: u64 = 0x010;
/// The last of them.
pub const CR_WRITE_LAST: u64 = 0x01f;
/// The first of sixteen: MOV from a debug register.
pub const DR_READ: u64 = 0x020;
/// The last of them.
pub const DR_READ_LAST: u64 = 0x02f;
/// The first of sixteen: MOV to a debug register.
pub const DR_WRITE: u64 = 0x030;
/// The last of them.
pub const DR_WRITE_LAST: u64 = 0x03f;
/// The first of 32: an exception.
pub const EXCEPTION: u64 = 0x040;
/// The last of them.
pub const EXCEPTION_LAST: u64 = 0x05f;
/// A physical interrupt.
pub const INTR: u64 = 0x060;
/// A physical NMI.
pub const NMI: u64 = 0x061;
/// A system-management interrupt.
pub const SMI: u64 = 0x062;
/// INIT signal.
pub const INIT: u64 = 0x063;
/// A virtual interrupt is about to be taken.
pub const VINTR: u64 = 0x064;
/// A write of CR0 that changes more than TS and MP.
pub const CR0_SEL_WRITE: u64 = 0x065;
/// SIDT, the first of eight accesses of descriptor-table registers.
pub const IDTR_READ: u64 = 0x066;
/// LTR, the last of them.
pub const TR_WRITE: u64 = 0x06d;
/// RDTSC.
pub const RDTSC: u64 = 0x06e;
/// RDPMC.
pub const RDPMC: u64 = 0x06f;
/// PUSHF.
pub const PUSHF: u64 = 0x070;
/// POPF.
pub const POPF: u64 = 0x071;
/// CPUID.
pub const CPUID: u64 = 0x072;
/// RSM.
pub const RSM: u64 = 0x073;
/// IRET.
pub const IRET: u64 = 0x074;
/// INT n.
pub const SWINT: u64 = 0x075;
/// INVD.
pub const INVD: u64 = 0x076;
/// PAUSE.
pub const PAUSE: u64 = 0x077;
/// HLT.
pub const HLT: u64 = 0x078;
/// INVLPG.
pub const INVLPG: u64 = 0x079;
/// INVLPGA.
pub const INVLPGA: u64 = 0x07a;
/// An I/O instruction.
pub const IOIO: u64 = 0x07b;
/// RDMSR or WRMSR.
pub const MSR: u64 = 0x07c;
/// Task switch.
pub const TASK_SWITCH: u64 = 0x07d;
/// The processor froze for a legacy floating-point error.
pub const FERR_FREEZE: u64 = 0x07e;
/// The guest shut down.
pub const SHUTDOWN: u64 = 0x07f;
/// VMRUN.
pub const VMRUN: u64 = 0x080;
/// VMMCALL.
pub const VMMCALL: u64 = 0x081;
/// VMLOAD.
pub const VMLOAD: u64 = 0x082;
/// SKINIT.
pub const SKINIT: u64 = 0x086;
/// RDTSCP.
pub const RDTSCP: u64 = 0x087;
/// INT1, also known as ICEBP.
pub const ICEBP: u64 = 0x088;
/// WBINVD or WBNOINVD.
pub const WBINVD: u64 = 0x089;
/// MONITOR or MONITORX.
pub const MONITOR: u64 = 0x08a;
/// MWAIT or MWAITX.
pub const MWAIT: u64 = 0x08b;
/// MWAIT or MWAITX with the monitor armed.
pub const MWAIT_CONDITIONAL: u64 = 0x08c;
/// XSETBV.
pub const XSETBV: u64 = 0x08d;
/// RDPRU.
pub const RDPRU: u64 = 0x08e;
/// INVLPGB.
pub const INVLPGB: u64 = 0x0a0;
/// INVLPGB with operands that are not allowed.
pub const INVLPGB_ILLEGAL: u64 = 0x0a1;
/// INVPCID.
pub const INVPCID: u64 = 0x0a2;
/// MCOMMIT.
pub const MCOMMIT: u64 = 0x0a3;
/// TLBSYNC.
pub const TLBSYNC: u64 = 0x0a4;
/// Bus lock.
pub const BUS_LOCK: u64 = 0x0a5;
/// HLT without a virtual interrupt pending.
pub const IDLE_HLT: u64 = 0x0a6;
/// Nested page fault.
pub const NPF: u64 = 0x400;
/// AVIC could not deliver an interrupt to every target.
pub const AVIC_INCOMPLETE_IPI: u64 = 0x401;
/// AVIC does not serve this access of the local APIC.
pub const AVIC_NOACCEL: u64 = 0x402;
/// The guest's state is not valid: -1. Some emulators store the low half only.
pub const INVALID: u32 = u32::MAX;
/// The VMCB is in use (SEV-SNP): -2.
pub const BUSY: u32 = u32::MAX - 1;

/// Returns true for the codes of a VMRUN that has not run the guest.
#[inline]
pub const fn is_entry_failure(code: u64) -> bool {
    matches!(code as u32, INVALID | BUSY)
}
