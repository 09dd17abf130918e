// SPDX-License-Identifier: GPL-2.0-only

//! Bits of the control fields (SDM vol. 3, sections 25.6 to 25.8).

/// Pin-based VM-execution controls (table 25-5).
pub mod pin {
    /// An external interrupt causes a VM exit.
    pub const EXTERNAL_INTERRUPT_EXITING: u32 = 1 << 0;
    /// An NMI causes a VM exit.
    pub const NMI_EXITING: u32 = 1 << 3;
    /// The guest's NMI blocking is tracked apart from the host's.
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    /// The VMX-preemption timer counts down in the guest.
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
    /// Posted interrupts are processed.
    pub const POSTED_INTERRUPTS: u32 = 1 << 7;
}

/// Primary processor-based VM-execution controls (table 25-6).
pub mod primary {
    /// Exit as soon as the guest can take an interrupt.
    pub const INTERRUPT_WINDOW_EXITING: u32 = 1 << 2;
    /// The TSC offset is added to what the guest reads.
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    /// HLT exits.
    pub const HLT_EXITING: u32 = 1 << 7;
    /// INVLPG exits.
    pub const INVLPG_EXITING: u32 = 1 << 9;
    /// MWAIT exits.
    pub const MWAIT_EXITING: u32 = 1 << 10;
    /// RDPMC exits.
    pub const RDPMC_EXITING: u32 = 1 << 11;
    /// RDTSC exits.
    pub const RDTSC_EXITING: u32 = 1 << 12;
    /// MOV to CR3 exits.
    pub const CR3_LOAD_EXITING: u32 = 1 << 15;
    /// MOV from CR3 exits.
    pub const CR3_STORE_EXITING: u32 = 1 << 16;
    /// The tertiary controls are used.
    pub const TERTIARY_CONTROLS: u32 = 1 << 17;
    /// MOV to CR8 exits.
    pub const CR8_LOAD_EXITING: u32 = 1 << 19;
    /// MOV from CR8 exits.
    pub const CR8_STORE_EXITING: u32 = 1 << 20;
    /// CR8 is the task priority of the virtual-APIC page.
    pub const TPR_SHADOW: u32 = 1 << 21;
    /// Exit as soon as the guest can take an NMI.
    pub const NMI_WINDOW_EXITING: u32 = 1 << 22;
    /// MOV to and from debug registers exits.
    pub const MOV_DR_EXITING: u32 = 1 << 23;
    /// Every I/O instruction exits, unless the bitmaps are used.
    pub const UNCONDITIONAL_IO_EXITING: u32 = 1 << 24;
    /// The I/O bitmaps decide which ports exit.
    pub const IO_BITMAPS: u32 = 1 << 25;
    /// Exit after one instruction.
    pub const MONITOR_TRAP_FLAG: u32 = 1 << 27;
    /// The MSR bitmaps decide which MSRs exit.
    pub const MSR_BITMAPS: u32 = 1 << 28;
    /// MONITOR exits.
    pub const MONITOR_EXITING: u32 = 1 << 29;
    /// PAUSE exits.
    pub const PAUSE_EXITING: u32 = 1 << 30;
    /// The secondary controls are used.
    pub const SECONDARY_CONTROLS: u32 = 1 << 31;
}

/// Secondary processor-based VM-execution controls (table 25-7).
pub mod secondary {
    /// Accesses of the APIC-access page are virtualised or exit.
    pub const VIRTUALIZE_APIC_ACCESSES: u32 = 1 << 0;
    /// Guest-physical addresses are translated by EPT.
    pub const ENABLE_EPT: u32 = 1 << 1;
    /// LGDT, LIDT, LLDT, LTR, SGDT, SIDT, SLDT and STR exit.
    pub const DESCRIPTOR_TABLE_EXITING: u32 = 1 << 2;
    /// RDTSCP does not raise #UD.
    pub const ENABLE_RDTSCP: u32 = 1 << 3;
    /// x2APIC MSRs are virtualised.
    pub const VIRTUALIZE_X2APIC: u32 = 1 << 4;
    /// Linear translations are tagged with the VPID.
    pub const ENABLE_VPID: u32 = 1 << 5;
    /// WBINVD and WBNOINVD exit.
    pub const WBINVD_EXITING: u32 = 1 << 6;
    /// The guest may run unpaged or in real mode.
    pub const UNRESTRICTED_GUEST: u32 = 1 << 7;
    /// Most reads of APIC registers come from the virtual-APIC page.
    pub const APIC_REGISTER_VIRTUALIZATION: u32 = 1 << 8;
    /// Virtual interrupts are evaluated and delivered.
    pub const VIRTUAL_INTERRUPT_DELIVERY: u32 = 1 << 9;
    /// A loop of PAUSEs at CPL 0 exits.
    pub const PAUSE_LOOP_EXITING: u32 = 1 << 10;
    /// INVPCID does not raise #UD.
    pub const ENABLE_INVPCID: u32 = 1 << 12;
    /// ENCLS exits as the ENCLS-exiting bitmap says.
    pub const ENCLS_EXITING: u32 = 1 << 15;
    /// Guest-physical writes are logged.
    pub const ENABLE_PML: u32 = 1 << 17;
    /// XSAVES and XRSTORS do not raise #UD.
    pub const ENABLE_XSAVES: u32 = 1 << 20;
    /// The guest's TSC is scaled.
    pub const TSC_SCALING: u32 = 1 << 25;
    /// TPAUSE, UMONITOR and UMWAIT do not raise #UD.
    pub const ENABLE_USER_WAIT: u32 = 1 << 26;
}

/// Primary VM-exit controls (table 25-13).
pub mod exit {
    /// DR7 and IA32_DEBUGCTL are saved.
    pub const SAVE_DEBUG_CONTROLS: u32 = 1 << 2;
    /// The host runs in 64-bit mode.
    pub const HOST_ADDRESS_SPACE_SIZE: u32 = 1 << 9;
    /// IA32_PERF_GLOBAL_CTRL is loaded.
    pub const LOAD_PERF_GLOBAL_CTRL: u32 = 1 << 12;
    /// An exit by an external interrupt acknowledges it and reports its vector.
    pub const ACKNOWLEDGE_INTERRUPT: u32 = 1 << 15;
    /// IA32_PAT is saved.
    pub const SAVE_PAT: u32 = 1 << 18;
    /// IA32_PAT is loaded.
    pub const LOAD_PAT: u32 = 1 << 19;
    /// IA32_EFER is saved.
    pub const SAVE_EFER: u32 = 1 << 20;
    /// IA32_EFER is loaded.
    pub const LOAD_EFER: u32 = 1 << 21;
    /// The value of the VMX-preemption timer is saved.
    pub const SAVE_PREEMPTION_TIMER: u32 = 1 << 22;
}

/// VM-entry controls (table 25-15).
pub mod entry {
    /// DR7 and IA32_DEBUGCTL are loaded.
    pub const LOAD_DEBUG_CONTROLS: u32 = 1 << 2;
    /// The guest is in IA-32e mode.
    pub const IA32E_MODE_GUEST: u32 = 1 << 9;
    /// IA32_PERF_GLOBAL_CTRL is loaded.
    pub const LOAD_PERF_GLOBAL_CTRL: u32 = 1 << 13;
    /// IA32_PAT is loaded.
    pub const LOAD_PAT: u32 = 1 << 14;
    /// IA32_EFER is loaded.
    pub const LOAD_EFER: u32 = 1 << 15;
}
