// SPDX-License-Identifier: GPL-2.0-only

//! MSR indices that Linux guests touch (SDM vol. 4; APM vol. 2, appendix A; the KVM paravirtual range).
//!
//! Names are the manuals'; the KVM range keeps the names of its documentation.

/// Machine-check address of the Pentium.
pub const IA32_P5_MC_ADDR: u32 = 0x0;
/// Machine-check type of the Pentium.
pub const IA32_P5_MC_TYPE: u32 = 0x1;
/// Time-stamp counter.
pub const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
/// Paravirtual wall clock, first form.
pub const KVM_WALL_CLOCK: u32 = 0x11;
/// Paravirtual system time, first form.
pub const KVM_SYSTEM_TIME: u32 = 0x12;
/// Platform identifier.
pub const IA32_PLATFORM_ID: u32 = 0x17;
/// APIC base and mode.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// Power-on configuration.
pub const MSR_EBL_CR_POWERON: u32 = 0x2a;
/// Processor frequency of NetBurst.
pub const MSR_EBC_FREQUENCY_ID: u32 = 0x2c;
/// Test control: split-lock detection.
pub const MSR_TEST_CTRL: u32 = 0x33;
/// System-management interrupts since reset.
pub const MSR_SMI_COUNT: u32 = 0x34;
/// Feature control: VMX and SMX lock bits.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// Adjustment of the time-stamp counter.
pub const IA32_TSC_ADJUST: u32 = 0x3b;
/// Speculation control.
pub const IA32_SPEC_CTRL: u32 = 0x48;
/// Prediction commands: IBPB.
pub const IA32_PRED_CMD: u32 = 0x49;
/// Protected processor inventory number control.
pub const MSR_PPIN_CTL: u32 = 0x4e;
/// Microcode update trigger.
pub const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
/// Microcode revision.
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// SMM monitor control.
pub const IA32_SMM_MONITOR_CTL: u32 = 0x9b;
/// Base of system-management RAM.
pub const IA32_SMBASE: u32 = 0x9e;
/// First general performance counter.
pub const IA32_PMC0: u32 = 0xc1;
/// Scalable bus speed.
pub const MSR_FSB_FREQ: u32 = 0xcd;
/// Platform information: ratios, CPUID faulting.
pub const MSR_PLATFORM_INFO: u32 = 0xce;
/// Core capabilities: split-lock exception.
pub const IA32_CORE_CAPABILITIES: u32 = 0xcf;
/// Limits of UMWAIT and TPAUSE.
pub const IA32_UMWAIT_CONTROL: u32 = 0xe1;
/// C-state configuration.
pub const MSR_PKG_CST_CONFIG_CONTROL: u32 = 0xe2;
/// Maximum-frequency clock count.
pub const IA32_MPERF: u32 = 0xe7;
/// Actual-frequency clock count.
pub const IA32_APERF: u32 = 0xe8;
/// MTRR capabilities.
pub const IA32_MTRRCAP: u32 = 0xfe;
/// Vulnerabilities that this CPU does not have.
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// Flush commands: L1D.
pub const IA32_FLUSH_CMD: u32 = 0x10b;
/// Cache control of old models.
pub const MSR_BBL_CR_CTL3: u32 = 0x11e;
/// Transactional memory control.
pub const IA32_TSX_CTRL: u32 = 0x122;
/// Microcode mitigation control.
pub const IA32_MCU_OPT_CTRL: u32 = 0x123;
/// CPUID faulting enable.
pub const MSR_MISC_FEATURES_ENABLES: u32 = 0x140;
/// CS of SYSENTER.
pub const IA32_SYSENTER_CS: u32 = 0x174;
/// ESP of SYSENTER.
pub const IA32_SYSENTER_ESP: u32 = 0x175;
/// EIP of SYSENTER.
pub const IA32_SYSENTER_EIP: u32 = 0x176;
/// Machine-check capabilities.
pub const IA32_MCG_CAP: u32 = 0x179;
/// Machine-check status.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// Machine-check control.
pub const IA32_MCG_CTL: u32 = 0x17b;
/// First performance event select.
pub const IA32_PERFEVTSEL0: u32 = 0x186;
/// Current performance state.
pub const IA32_PERF_STATUS: u32 = 0x198;
/// Requested performance state.
pub const IA32_PERF_CTL: u32 = 0x199;
/// Clock modulation.
pub const IA32_CLOCK_MODULATION: u32 = 0x19a;
/// Thermal interrupt control.
pub const IA32_THERM_INTERRUPT: u32 = 0x19b;
/// Thermal status.
pub const IA32_THERM_STATUS: u32 = 0x19c;
/// Miscellaneous features.
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
/// Temperature target.
pub const MSR_TEMPERATURE_TARGET: u32 = 0x1a2;
/// Prefetcher control.
pub const MSR_MISC_FEATURE_CONTROL: u32 = 0x1a4;
/// Off-core response event 0.
pub const MSR_OFFCORE_RSP_0: u32 = 0x1a6;
/// Off-core response event 1.
pub const MSR_OFFCORE_RSP_1: u32 = 0x1a7;
/// Turbo ratios.
pub const MSR_TURBO_RATIO_LIMIT: u32 = 0x1ad;
/// Energy and performance bias.
pub const IA32_ENERGY_PERF_BIAS: u32 = 0x1b0;
/// Package thermal status.
pub const IA32_PACKAGE_THERM_STATUS: u32 = 0x1b1;
/// Package thermal interrupt control.
pub const IA32_PACKAGE_THERM_INTERRUPT: u32 = 0x1b2;
/// Extended feature disable.
pub const IA32_XFD: u32 = 0x1c4;
/// Extended feature disable error.
pub const IA32_XFD_ERR: u32 = 0x1c5;
/// Last-branch filter.
pub const MSR_LBR_SELECT: u32 = 0x1c8;
/// Last-branch top of stack.
pub const MSR_LASTBRANCH_TOS: u32 = 0x1c9;
/// Debug control.
pub const IA32_DEBUGCTL: u32 = 0x1d9;
/// Source of the last branch.
pub const MSR_LASTBRANCHFROMIP: u32 = 0x1db;
/// Target of the last branch.
pub const MSR_LASTBRANCHTOIP: u32 = 0x1dc;
/// Source of the last branch before an exception.
pub const MSR_LASTINTFROMIP: u32 = 0x1dd;
/// Target of the last branch before an exception.
pub const MSR_LASTINTTOIP: u32 = 0x1de;
/// Power control.
pub const MSR_POWER_CTL: u32 = 0x1fc;
/// Base of the first variable MTRR; base and mask alternate.
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// Mask of the first variable MTRR.
pub const IA32_MTRR_PHYSMASK0: u32 = 0x201;
/// Fixed MTRR, 0 to 512 KiB.
pub const IA32_MTRR_FIX64K_00000: u32 = 0x250;
/// Fixed MTRR, from 512 KiB.
pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
/// Fixed MTRR, from 640 KiB.
pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
/// First of eight fixed MTRRs with 4-KiB ranges.
pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
/// Last of eight fixed MTRRs with 4-KiB ranges.
pub const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;
/// Page attribute table.
pub const IA32_PAT: u32 = 0x277;
/// Default memory type.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// First fixed performance counter.
pub const IA32_FIXED_CTR0: u32 = 0x309;
/// Performance-monitoring capabilities.
pub const IA32_PERF_CAPABILITIES: u32 = 0x345;
/// Fixed-counter control.
pub const IA32_FIXED_CTR_CTRL: u32 = 0x38d;
/// Performance counter overflow.
pub const IA32_PERF_GLOBAL_STATUS: u32 = 0x38e;
/// Performance counter enable.
pub const IA32_PERF_GLOBAL_CTRL: u32 = 0x38f;
/// Performance counter overflow reset.
pub const IA32_PERF_GLOBAL_OVF_CTRL: u32 = 0x390;
/// Precise event sampling enable.
pub const IA32_PEBS_ENABLE: u32 = 0x3f1;
/// Control of machine-check bank 0; CTL, STATUS, ADDR and MISC repeat.
pub const IA32_MC0_CTL: u32 = 0x400;
/// Status of machine-check bank 0.
pub const IA32_MC0_STATUS: u32 = 0x401;
/// Address of machine-check bank 0.
pub const IA32_MC0_ADDR: u32 = 0x402;
/// Miscellaneous of machine-check bank 0.
pub const IA32_MC0_MISC: u32 = 0x403;
/// Basic VMX information.
pub const IA32_VMX_BASIC: u32 = 0x480;
/// Allowed pin-based controls.
pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
/// Allowed primary processor-based controls.
pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
/// Allowed exit controls.
pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
/// Allowed entry controls.
pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
/// Miscellaneous VMX data.
pub const IA32_VMX_MISC: u32 = 0x485;
/// CR0 bits that must be 1 in VMX operation.
pub const IA32_VMX_CR0_FIXED0: u32 = 0x486;
/// CR0 bits that may be 1 in VMX operation.
pub const IA32_VMX_CR0_FIXED1: u32 = 0x487;
/// CR4 bits that must be 1 in VMX operation.
pub const IA32_VMX_CR4_FIXED0: u32 = 0x488;
/// CR4 bits that may be 1 in VMX operation.
pub const IA32_VMX_CR4_FIXED1: u32 = 0x489;
/// Highest VMCS field index.
pub const IA32_VMX_VMCS_ENUM: u32 = 0x48a;
/// Allowed secondary processor-based controls.
pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
/// EPT and VPID capabilities.
pub const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
/// Allowed pin-based controls, default1 cleared.
pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
/// Allowed primary controls, default1 cleared.
pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
/// Allowed exit controls, default1 cleared.
pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
/// Allowed entry controls, default1 cleared.
pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
/// Allowed VM functions.
pub const IA32_VMX_VMFUNC: u32 = 0x491;
/// Allowed tertiary controls.
pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;
/// First full-width performance counter.
pub const IA32_A_PMC0: u32 = 0x4c1;
/// Local machine-check control.
pub const IA32_MCG_EXT_CTL: u32 = 0x4d0;
/// Processor-trace output base.
pub const IA32_RTIT_OUTPUT_BASE: u32 = 0x560;
/// Processor-trace output mask.
pub const IA32_RTIT_OUTPUT_MASK_PTRS: u32 = 0x561;
/// Processor-trace control.
pub const IA32_RTIT_CTL: u32 = 0x570;
/// Processor-trace status.
pub const IA32_RTIT_STATUS: u32 = 0x571;
/// Processor-trace CR3 filter.
pub const IA32_RTIT_CR3_MATCH: u32 = 0x572;
/// Debug-store area.
pub const IA32_DS_AREA: u32 = 0x600;
/// Units of the energy counters.
pub const MSR_RAPL_POWER_UNIT: u32 = 0x606;
/// Package power limit.
pub const MSR_PKG_POWER_LIMIT: u32 = 0x610;
/// Package energy counter.
pub const MSR_PKG_ENERGY_STATUS: u32 = 0x611;
/// Memory energy counter.
pub const MSR_DRAM_ENERGY_STATUS: u32 = 0x619;
/// Core energy counter.
pub const MSR_PP0_ENERGY_STATUS: u32 = 0x639;
/// Graphics energy counter.
pub const MSR_PP1_ENERGY_STATUS: u32 = 0x641;
/// Platform energy counter.
pub const MSR_PLATFORM_ENERGY_COUNTER: u32 = 0x64d;
/// User-mode CET configuration.
pub const IA32_U_CET: u32 = 0x6a0;
/// Supervisor CET configuration.
pub const IA32_S_CET: u32 = 0x6a2;
/// Shadow-stack pointer of ring 0.
pub const IA32_PL0_SSP: u32 = 0x6a4;
/// Shadow-stack pointer of ring 3.
pub const IA32_PL3_SSP: u32 = 0x6a7;
/// Interrupt shadow-stack table.
pub const IA32_INTERRUPT_SSP_TABLE_ADDR: u32 = 0x6a8;
/// TSC deadline of the local APIC timer.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// Hardware P-states enable.
pub const IA32_PM_ENABLE: u32 = 0x770;
/// Hardware P-state range.
pub const IA32_HWP_CAPABILITIES: u32 = 0x771;
/// Hardware P-state request.
pub const IA32_HWP_REQUEST: u32 = 0x774;
/// First of the x2APIC registers: index plus MMIO offset / 16.
pub const IA32_X2APIC_APICID: u32 = 0x800;
/// x2APIC task priority.
pub const IA32_X2APIC_TPR: u32 = 0x808;
/// x2APIC end of interrupt.
pub const IA32_X2APIC_EOI: u32 = 0x80b;
/// x2APIC interrupt command.
pub const IA32_X2APIC_ICR: u32 = 0x830;
/// x2APIC self-IPI.
pub const IA32_X2APIC_SELF_IPI: u32 = 0x83f;
/// Last index reserved for the x2APIC.
pub const IA32_X2APIC_LAST: u32 = 0x8ff;
/// First cache allocation mask.
pub const IA32_L3_QOS_MASK_0: u32 = 0xc90;
/// Supervisor state components of XSAVES.
pub const IA32_XSS: u32 = 0xda0;
/// Architectural last-branch control.
pub const MSR_ARCH_LBR_CTL: u32 = 0x14ce;
/// Architectural last-branch depth.
pub const MSR_ARCH_LBR_DEPTH: u32 = 0x14cf;
/// Paravirtual wall clock.
pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
/// Paravirtual system time.
pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// Paravirtual asynchronous page faults.
pub const KVM_ASYNC_PF_EN: u32 = 0x4b56_4d02;
/// Paravirtual steal time.
pub const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
/// Paravirtual end of interrupt.
pub const KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
/// Paravirtual halt polling control.
pub const KVM_POLL_CONTROL: u32 = 0x4b56_4d05;
/// Vector of paravirtual asynchronous page faults.
pub const KVM_ASYNC_PF_INT: u32 = 0x4b56_4d06;
/// Acknowledge of paravirtual asynchronous page faults.
pub const KVM_ASYNC_PF_ACK: u32 = 0x4b56_4d07;
/// Paravirtual migration control.
pub const KVM_MIGRATION_CONTROL: u32 = 0x4b56_4d08;
/// Extended features.
pub const IA32_EFER: u32 = 0xc000_0080;
/// SYSCALL segments and legacy target.
pub const IA32_STAR: u32 = 0xc000_0081;
/// SYSCALL target in 64-bit mode.
pub const IA32_LSTAR: u32 = 0xc000_0082;
/// SYSCALL target in compatibility mode.
pub const IA32_CSTAR: u32 = 0xc000_0083;
/// RFLAGS bits that SYSCALL clears.
pub const IA32_FMASK: u32 = 0xc000_0084;
/// FS base.
pub const IA32_FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const IA32_GS_BASE: u32 = 0xc000_0101;
/// The base that SWAPGS exchanges.
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP and RDPID return.
pub const IA32_TSC_AUX: u32 = 0xc000_0103;
/// TSC scaling ratio (AMD).
pub const AMD64_TSC_RATIO: u32 = 0xc000_0104;
/// Performance counter overflow (AMD).
pub const AMD64_PERF_CNTR_GLOBAL_STATUS: u32 = 0xc000_0300;
/// Performance counter enable (AMD).
pub const AMD64_PERF_CNTR_GLOBAL_CTL: u32 = 0xc000_0301;
/// Performance counter overflow reset (AMD).
pub const AMD64_PERF_CNTR_GLOBAL_STATUS_CLR: u32 = 0xc000_0302;
/// First of four event selects (AMD).
pub const K7_EVNTSEL0: u32 = 0xc001_0000;
/// First of four performance counters (AMD).
pub const K7_PERFCTR0: u32 = 0xc001_0004;
/// System configuration (AMD).
pub const AMD64_SYSCFG: u32 = 0xc001_0010;
/// Hardware configuration (AMD).
pub const K7_HWCR: u32 = 0xc001_0015;
/// Top of memory below 4 GiB (AMD).
pub const K8_TOP_MEM1: u32 = 0xc001_001a;
/// Top of memory above 4 GiB (AMD).
pub const K8_TOP_MEM2: u32 = 0xc001_001d;
/// Northbridge configuration (AMD).
pub const AMD64_NB_CFG: u32 = 0xc001_001f;
/// Microcode update trigger (AMD).
pub const AMD64_PATCH_LOADER: u32 = 0xc001_0020;
/// Interrupt-pending message (AMD).
pub const K8_INT_PENDING_MSG: u32 = 0xc001_0055;
/// Base of memory-mapped configuration space (AMD).
pub const FAM10H_MMIO_CONF_BASE: u32 = 0xc001_0058;
/// P-state limits (AMD).
pub const AMD64_PSTATE_CUR_LIMIT: u32 = 0xc001_0061;
/// P-state control (AMD).
pub const AMD64_PERF_CTL: u32 = 0xc001_0062;
/// P-state status (AMD).
pub const AMD64_PERF_STATUS: u32 = 0xc001_0063;
/// First P-state definition (AMD).
pub const AMD64_PSTATE_DEF_BASE: u32 = 0xc001_0064;
/// Base of system-management RAM (AMD).
pub const AMD64_SMM_BASE: u32 = 0xc001_0111;
/// System-management RAM range (AMD).
pub const AMD64_SMM_ADDR: u32 = 0xc001_0112;
/// SVM control (AMD).
pub const AMD64_VM_CR: u32 = 0xc001_0114;
/// IGNNE control (AMD).
pub const AMD64_IGNNE: u32 = 0xc001_0115;
/// Host save area (AMD).
pub const AMD64_VM_HSAVE_PA: u32 = 0xc001_0117;
/// Virtualised speculation control (AMD).
pub const AMD64_VIRT_SPEC_CTRL: u32 = 0xc001_011f;
/// OS-visible workarounds, number (AMD).
pub const AMD64_OSVW_ID_LENGTH: u32 = 0xc001_0140;
/// OS-visible workarounds, bits (AMD).
pub const AMD64_OSVW_STATUS: u32 = 0xc001_0141;
/// First of six event selects; select and counter alternate (AMD).
pub const F15H_PERF_CTL0: u32 = 0xc001_0200;
/// First of six performance counters (AMD).
pub const F15H_PERF_CTR0: u32 = 0xc001_0201;
/// Last of six performance counters (AMD).
pub const F15H_PERF_CTR5: u32 = 0xc001_020b;
/// Feature bits of CPUID leaf 1 (AMD).
pub const AMD64_CPUID_FN_1: u32 = 0xc001_1004;
/// Load-store configuration (AMD).
pub const AMD64_LS_CFG: u32 = 0xc001_1020;
/// Data-cache configuration (AMD).
pub const AMD64_DC_CFG: u32 = 0xc001_1022;
/// Table-walker configuration (AMD).
pub const AMD64_TW_CFG: u32 = 0xc001_1023;
/// Decode configuration: serialising LFENCE (AMD).
pub const AMD64_DE_CFG: u32 = 0xc001_1029;
/// Bus-unit configuration 2 (AMD).
pub const AMD64_BU_CFG2: u32 = 0xc001_102a;
/// Execution configuration (AMD).
pub const AMD64_EX_CFG: u32 = 0xc001_102c;
/// Instruction-based sampling, fetch control (AMD).
pub const AMD64_IBSFETCHCTL: u32 = 0xc001_1030;
