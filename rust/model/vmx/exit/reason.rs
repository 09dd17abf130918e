// SPDX-License-Identifier: GPL-2.0-only

//! Basic exit reasons (SDM vol. 3, app. C).

/// Exception or NMI.
pub const EXCEPTION_OR_NMI: u32 = 0;
/// External interrupt.
pub const EXTERNAL_INTERRUPT: u32 = 1;
/// Triple fault.
pub const TRIPLE_FAULT: u32 = 2;
/// INIT signal.
pub const INIT: u32 = 3;
/// Start-up IPI.
pub const SIPI: u32 = 4;
/// I/O system-management interrupt.
pub const IO_SMI: u32 = 5;
/// Other system-management interrupt.
pub const OTHER_SMI: u32 = 6;
/// Interrupt window.
pub const INTERRUPT_WINDOW: u32 = 7;
/// NMI window.
pub const NMI_WINDOW: u32 = 8;
/// Task switch.
pub const TASK_SWITCH: u32 = 9;
/// CPUID.
pub const CPUID: u32 = 10;
/// GETSEC.
pub const GETSEC: u32 = 11;
/// HLT.
pub const HLT: u32 = 12;
/// INVD.
pub const INVD: u32 = 13;
/// INVLPG.
pub const INVLPG: u32 = 14;
/// RDPMC.
pub const RDPMC: u32 = 15;
/// RDTSC.
pub const RDTSC: u32 = 16;
/// RSM.
pub const RSM: u32 = 17;
/// VMCALL.
pub const VMCALL: u32 = 18;
/// VMCLEAR, the first of nine VMX instructions.
pub const VMCLEAR: u32 = 19;
/// VMXON, the last of nine VMX instructions.
pub const VMXON: u32 = 27;
/// Control-register access.
pub const CR_ACCESS: u32 = 28;
/// MOV DR.
pub const DR_ACCESS: u32 = 29;
/// I/O instruction.
pub const IO_INSTRUCTION: u32 = 30;
/// RDMSR.
pub const RDMSR: u32 = 31;
/// WRMSR.
pub const WRMSR: u32 = 32;
/// Entry failure by invalid guest state.
pub const INVALID_GUEST_STATE: u32 = 33;
/// Entry failure by MSR loading.
pub const MSR_LOADING: u32 = 34;
/// MWAIT.
pub const MWAIT: u32 = 36;
/// Monitor trap flag.
pub const MONITOR_TRAP_FLAG: u32 = 37;
/// MONITOR.
pub const MONITOR: u32 = 39;
/// PAUSE.
pub const PAUSE: u32 = 40;
/// Entry failure by a machine-check event.
pub const MACHINE_CHECK: u32 = 41;
/// TPR below threshold.
pub const TPR_BELOW_THRESHOLD: u32 = 43;
/// APIC access.
pub const APIC_ACCESS: u32 = 44;
/// Virtualised EOI.
pub const VIRTUALIZED_EOI: u32 = 45;
/// LGDT, LIDT, SGDT or SIDT.
pub const GDTR_IDTR_ACCESS: u32 = 46;
/// LLDT, LTR, SLDT or STR.
pub const LDTR_TR_ACCESS: u32 = 47;
/// EPT violation.
pub const EPT_VIOLATION: u32 = 48;
/// EPT misconfiguration.
pub const EPT_MISCONFIGURATION: u32 = 49;
/// INVEPT.
pub const INVEPT: u32 = 50;
/// RDTSCP.
pub const RDTSCP: u32 = 51;
/// VMX-preemption timer expired.
pub const PREEMPTION_TIMER: u32 = 52;
/// INVVPID.
pub const INVVPID: u32 = 53;
/// WBINVD or WBNOINVD.
pub const WBINVD: u32 = 54;
/// XSETBV.
pub const XSETBV: u32 = 55;
/// APIC write.
pub const APIC_WRITE: u32 = 56;
/// RDRAND.
pub const RDRAND: u32 = 57;
/// INVPCID.
pub const INVPCID: u32 = 58;
/// VMFUNC.
pub const VMFUNC: u32 = 59;
/// ENCLS.
pub const ENCLS: u32 = 60;
/// RDSEED.
pub const RDSEED: u32 = 61;
/// Page-modification log full.
pub const PML_FULL: u32 = 62;
/// XSAVES.
pub const XSAVES: u32 = 63;
/// XRSTORS.
pub const XRSTORS: u32 = 64;
/// UMWAIT.
pub const UMWAIT: u32 = 67;
/// TPAUSE.
pub const TPAUSE: u32 = 68;
/// ENCLV.
pub const ENCLV: u32 = 70;
/// Bus lock.
pub const BUS_LOCK: u32 = 74;
