// SPDX-License-Identifier: GPL-2.0-only

//! The VMX capability MSRs (SDM vol. 3, app. A).

use crate::model::x86::msr;

/// Bits and fields of IA32_VMX_BASIC (app. A.1).
pub mod basic {
    /// Bits 30:0: the VMCS revision identifier.
    pub const REVISION_MASK: u64 = 0x7fff_ffff;
    /// Bit 48: VMX structures must lie below 4 GiB.
    pub const ADDRESSES_32_BIT: u64 = 1 << 48;
    /// Bits 53:50: the memory type of VMX structures.
    pub const MEMORY_TYPE_SHIFT: u32 = 50;
    /// Width mask of the memory type.
    pub const MEMORY_TYPE_MASK: u64 = 0xf;
    /// Write-back, as a memory type.
    pub const MEMORY_TYPE_WB: u64 = 6;
    /// Bit 54: exits by INS and OUTS fill the instruction-information field.
    pub const INS_OUTS_INFORMATION: u64 = 1 << 54;
    /// Bit 55: the TRUE control MSRs exist.
    pub const TRUE_CONTROLS: u64 = 1 << 55;
}

/// Bits and fields of IA32_VMX_MISC (app. A.6).
pub mod misc {
    /// Bits 4:0: the preemption timer counts down when this bit of the TSC changes.
    pub const PREEMPTION_TIMER_SHIFT_MASK: u64 = 0x1f;
    /// Bit 5: VM exits store EFER.LMA into the "IA-32e mode guest" entry control.
    pub const EXIT_SAVES_LMA: u64 = 1 << 5;
    /// Bit 6: the HLT activity state may be entered.
    pub const ACTIVITY_HLT: u64 = 1 << 6;
    /// Bit 8: the wait-for-SIPI activity state may be entered.
    pub const ACTIVITY_WAIT_FOR_SIPI: u64 = 1 << 8;
    /// Bits 27:25: N, where an MSR list should have at most 512 * (N + 1) entries.
    pub const MSR_LIST_SHIFT: u32 = 25;
    /// Width mask of N.
    pub const MSR_LIST_MASK: u64 = 7;
    /// Bit 30: software events may be injected with instruction length 0.
    pub const ZERO_LENGTH_INJECTION: u64 = 1 << 30;
}

/// Bits of IA32_VMX_EPT_VPID_CAP (app. A.10).
pub mod ept_vpid {
    /// Execute-only EPT entries.
    pub const EXECUTE_ONLY: u64 = 1 << 0;
    /// A page walk of 4 levels.
    pub const WALK_4: u64 = 1 << 6;
    /// EPT structures in write-back memory.
    pub const WB: u64 = 1 << 14;
    /// EPT leaves of 2 MiB.
    pub const PAGE_2M: u64 = 1 << 16;
    /// EPT leaves of 1 GiB.
    pub const PAGE_1G: u64 = 1 << 17;
    /// INVEPT.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty flags.
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    /// Advanced information about EPT violations: exit-qualification bits 9 to 11.
    pub const ADVANCED_INFORMATION: u64 = 1 << 22;
    /// INVEPT of one EPT pointer.
    pub const INVEPT_SINGLE_CONTEXT: u64 = 1 << 25;
    /// INVEPT of all EPT pointers.
    pub const INVEPT_ALL_CONTEXTS: u64 = 1 << 26;
    /// INVVPID.
    pub const INVVPID: u64 = 1 << 32;
    /// INVVPID of one linear address.
    pub const INVVPID_ADDRESS: u64 = 1 << 40;
    /// INVVPID of one VPID.
    pub const INVVPID_SINGLE_CONTEXT: u64 = 1 << 41;
    /// INVVPID of all VPIDs.
    pub const INVVPID_ALL_CONTEXTS: u64 = 1 << 42;
    /// INVVPID of one VPID, but not of global translations.
    pub const INVVPID_RETAINING_GLOBALS: u64 = 1 << 43;
}

/// What one set of control bits may be, as a VMX_*_CTLS MSR says (app. A.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Bits that must be 1.
    pub allowed0: u32,
    /// Bits that may be 1.
    pub allowed1: u32,
}

impl Capability {
    /// Takes an MSR's value apart.
    pub const fn from_msr(value: u64) -> Self {
        Self {
            allowed0: value as u32,
            allowed1: (value >> 32) as u32,
        }
    }

    /// Returns true if every one of `bits` may be 1.
    pub const fn may_set(self, bits: u32) -> bool {
        self.allowed1 & bits == bits
    }

    /// Returns true if every one of `bits` may be 0.
    pub const fn may_clear(self, bits: u32) -> bool {
        self.allowed0 & bits == 0
    }

    /// Returns those of `bits` that may be 1.
    pub const fn settable(self, bits: u32) -> u32 {
        self.allowed1 & bits
    }

    /// Makes the value of a control field: `wanted`, and the bits that must be 1.
    pub const fn adjust(self, wanted: u32) -> u32 {
        (wanted | self.allowed0) & self.allowed1
    }
}

/// The values of the VMX capability MSRs of one processor; 0 stands for an MSR that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityMsrs {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_PINBASED_CTLS.
    pub pinbased: u64,
    /// IA32_VMX_PROCBASED_CTLS.
    pub procbased: u64,
    /// IA32_VMX_EXIT_CTLS.
    pub exit: u64,
    /// IA32_VMX_ENTRY_CTLS.
    pub entry: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1.
    pub cr4_fixed1: u64,
    /// IA32_VMX_PROCBASED_CTLS2.
    pub procbased2: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: u64,
    /// IA32_VMX_TRUE_PINBASED_CTLS.
    pub true_pinbased: u64,
    /// IA32_VMX_TRUE_PROCBASED_CTLS.
    pub true_procbased: u64,
    /// IA32_VMX_TRUE_EXIT_CTLS.
    pub true_exit: u64,
    /// IA32_VMX_TRUE_ENTRY_CTLS.
    pub true_entry: u64,
}

impl CapabilityMsrs {
    /// Reads those MSRs that exist, given that CPUID reports VMX.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        use super::ctls::{primary, secondary};

        let mut msrs = Self {
            basic: rdmsr(msr::IA32_VMX_BASIC),
            pinbased: rdmsr(msr::IA32_VMX_PINBASED_CTLS),
            procbased: rdmsr(msr::IA32_VMX_PROCBASED_CTLS),
            exit: rdmsr(msr::IA32_VMX_EXIT_CTLS),
            entry: rdmsr(msr::IA32_VMX_ENTRY_CTLS),
            misc: rdmsr(msr::IA32_VMX_MISC),
            cr0_fixed0: rdmsr(msr::IA32_VMX_CR0_FIXED0),
            cr0_fixed1: rdmsr(msr::IA32_VMX_CR0_FIXED1),
            cr4_fixed0: rdmsr(msr::IA32_VMX_CR4_FIXED0),
            cr4_fixed1: rdmsr(msr::IA32_VMX_CR4_FIXED1),
            ..Self::default()
        };
        if msrs.basic & basic::TRUE_CONTROLS != 0 {
            msrs.true_pinbased = rdmsr(msr::IA32_VMX_TRUE_PINBASED_CTLS);
            msrs.true_procbased = rdmsr(msr::IA32_VMX_TRUE_PROCBASED_CTLS);
            msrs.true_exit = rdmsr(msr::IA32_VMX_TRUE_EXIT_CTLS);
            msrs.true_entry = rdmsr(msr::IA32_VMX_TRUE_ENTRY_CTLS);
        }
        if Capability::from_msr(msrs.procbased).may_set(primary::SECONDARY_CONTROLS) {
            msrs.procbased2 = rdmsr(msr::IA32_VMX_PROCBASED_CTLS2);
        }
        let paging = secondary::ENABLE_EPT | secondary::ENABLE_VPID;
        if msrs.secondary().settable(paging) != 0 {
            msrs.ept_vpid = rdmsr(msr::IA32_VMX_EPT_VPID_CAP);
        }
        msrs
    }

    /// Picks the MSR that decides: the TRUE variant where there is one.
    const fn decisive(&self, plain: u64, precise: u64) -> Capability {
        Capability::from_msr(if self.basic & basic::TRUE_CONTROLS != 0 {
            precise
        } else {
            plain
        })
    }

    /// Returns what the pin-based controls may be.
    pub const fn pin(&self) -> Capability {
        self.decisive(self.pinbased, self.true_pinbased)
    }

    /// Returns what the primary processor-based controls may be.
    pub const fn primary(&self) -> Capability {
        self.decisive(self.procbased, self.true_procbased)
    }

    /// Returns what the secondary processor-based controls may be.
    pub const fn secondary(&self) -> Capability {
        Capability::from_msr(self.procbased2)
    }

    /// Returns what the VM-exit controls may be.
    pub const fn exit_controls(&self) -> Capability {
        self.decisive(self.exit, self.true_exit)
    }

    /// Returns what the VM-entry controls may be.
    pub const fn entry_controls(&self) -> Capability {
        self.decisive(self.entry, self.true_entry)
    }

    /// Returns the revision identifier that a VMCS region starts with.
    pub const fn revision(&self) -> u32 {
        (self.basic & basic::REVISION_MASK) as u32
    }

    /// Returns true if every one of the `bits` of IA32_VMX_EPT_VPID_CAP is reported.
    pub const fn ept_vpid_has(&self, bits: u64) -> bool {
        self.ept_vpid & bits == bits
    }
}
